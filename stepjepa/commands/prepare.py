"""`stepjepa prepare`: solutions of any source → chat JSONL with steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from stepjepa.commands.options import Parser, parse
from stepjepa.commands.output import say, say_next
from stepjepa.data.formats import DEFAULT_SYSTEM_PROMPT, ROW_FORMATS, RowFormat
from stepjepa.data.steps import Splitter, Think
from stepjepa.records import UserError, one_writer, option


@dataclass(kw_only=True)
class PrepareOptions:
    """What to prepare, and how steps are found in it."""

    source: list[str] = option(
        help="'builtin', files (JSON lines or array, CSV, Parquet; gzip), or Hub data set ids",
        aliases=["--train_file", "--eval_file", "--test_file"],
    )
    output_file: str = option(help="JSONL to write, one example a line")
    format: RowFormat | None = option(
        None, "the kind of the rows; recognised by their fields if absent", choices=ROW_FORMATS
    )
    splitter: Splitter | None = option(
        None, "how steps are found; 'line' for GSM8K rows, 'auto' otherwise", choices=get_args(Splitter)
    )
    think: Think = option(
        "remove", "drop thoughts (<think> and its like), or use them as the steps", choices=get_args(Think)
    )
    min_chars: int = option(20, "fragments shorter than this are merged into a neighbour", least=0)
    drop_short: bool = option(False, "drop short fragments instead, as the original did (loses content)")
    system_prompt: str | None = option(
        None, f"system message; 'none' for none. Default: «{DEFAULT_SYSTEM_PROMPT}»; none for builtin"
    )
    source_name: str | None = option(None, "name in the examples' 'source' field; the file's or data set's by default")
    only_correct: bool = option(False, "drop rows whose solution boxes another answer than the reference")
    strict: bool = option(False, "make the first bad line an error")
    hub_config: str | None = option(None, "configuration of a Hub data set")
    split: str = option("train", "split of a Hub data set or of the built-in problems")
    problems: int = option(2000, "how many built-in problems", least=1)
    problem_seed: int = option(0, "which built-in problems are drawn", aliases=["--seed"])
    mistake: str | None = option(
        None,
        "plant one wrong step of this kind in each built-in solution that allows it; its rows say where",
        choices="data.mistakes.MISTAKES",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """`stepjepa prepare`."""
    parser = Parser("prepare", "Turn solutions of any source into chat JSONL with steps.")
    options: PrepareOptions = parse(parser, argv, PrepareOptions)
    from stepjepa.data.sources import prepare

    try:
        with one_writer(options.output_file):
            report = prepare(
                options.source,
                options.output_file,
                config=options.hub_config,
                split=options.split,
                row_format=options.format,
                splitter=options.splitter,
                think=options.think,
                short="drop" if options.drop_short else "merge",
                min_chars=options.min_chars,
                system_prompt={None: "auto", "none": None}.get(options.system_prompt, options.system_prompt),
                source_name=options.source_name,
                only_correct=options.only_correct,
                strict=options.strict,
                count=options.problems,
                seed=options.problem_seed,
                mistake=options.mistake,
            )
    except (ValueError, OSError) as error:  # an option or file that cannot be used, by name
        raise UserError(str(error)) from error
    say(report)
    say(report.steps_shown())
    say(f"written: {options.output_file}")
    say_next("verify", "--train_file", options.output_file)
    return 0
