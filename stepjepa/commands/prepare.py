"""`stepjepa prepare`: solutions of any source → chat JSONL with steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

from stepjepa.commands.options import Parser, parse
from stepjepa.commands.output import say, say_next
from stepjepa.data.converters import WrongSteps
from stepjepa.data.examples import DEFAULT_SYSTEM_PROMPT
from stepjepa.data.files import FILES
from stepjepa.data.formats import FORMATS
from stepjepa.data.origins import ORIGINS
from stepjepa.data.steps import Splitter, Think
from stepjepa.records import UserError, one_writer, option


@dataclass(kw_only=True)
class PrepareOptions:
    """What to prepare, and how steps are found in it."""

    source: list[str] = option(
        help="built-in problems, files, folders, patterns, Hub data set ids; below are all kinds",
        aliases=["--train_file", "--eval_file", "--test_file"],
    )
    output_file: str = option(help="JSONL to write, one example a line")
    format: str | None = option(
        None, "the kind of the rows; recognised by their fields if absent", choices=tuple(FORMATS)
    )
    splitter: str | None = option(
        None,
        "how steps are found; 'line' for GSM8K rows, 'auto' otherwise; 'learned' by a --boundary_model",
        choices=(*get_args(Splitter), "learned"),
    )
    boundary_model: str | None = option(
        None, "what `stepjepa boundaries` has learned, for solutions without separators", metavar="FILE"
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
    wrong_steps: WrongSteps = option(
        "skip",
        "solutions with a step that is labelled as wrong: skip them, or keep them with their labels (not to train on)",
        choices=get_args(WrongSteps),
    )
    only_correct: bool = option(
        False, "drop rows whose solution boxes another answer than the reference, or none (what is open is kept)"
    )
    strict: bool = option(False, "make the first bad line an error")
    hub_config: str | None = option(None, "configuration of a Hub data set")
    split: str = option("train", "split of a Hub data set or of the built-in problems")
    problems: int = option(2000, "how many built-in problems of each kind", least=1)
    problem_seed: int = option(0, "which built-in problems are drawn", aliases=["--seed"])
    mistake: str | None = option(
        None,
        "plant one wrong step of this kind in each built-in story that allows it; its rows say where",
        choices="data.mistakes.MISTAKES",
    )

    def __post_init__(self) -> None:
        if (self.splitter == "learned") != (self.boundary_model is not None):
            raise UserError("--splitter learned goes by a --boundary_model FILE: give both, or neither")


def kinds() -> str:
    """All that is read, a line each."""
    lines = ["sources:", *(f"  {what}: {how}" for what, how in ORIGINS.items())]
    lines += ["files, told by how they begin:", *(f"  {what}: {how}" for what, how in FILES.items())]
    lines += ["rows (--format), told by their fields in this order:"]
    lines += [f"  {name}: {kind.about}; {kind.fields}" for name, kind in FORMATS.items()]
    return "\n".join(lines).replace("`", "")


def main(argv: Sequence[str] | None = None) -> int:
    """`stepjepa prepare`."""
    parser = Parser("prepare", "Turn solutions of any source into chat JSONL with steps.", kinds())
    options: PrepareOptions = parse(parser, argv, PrepareOptions)
    from stepjepa.data.sources import prepare

    splitter: Any = options.splitter
    if options.boundary_model is not None:
        from stepjepa.analysis.cuts import load_splitter

        splitter = load_splitter(options.boundary_model)
    try:
        with one_writer(options.output_file):
            report = prepare(
                options.source,
                options.output_file,
                config=options.hub_config,
                split=options.split,
                row_format=options.format,
                splitter=splitter,
                think=options.think,
                short="drop" if options.drop_short else "merge",
                min_chars=options.min_chars,
                system_prompt={None: "auto", "none": None}.get(options.system_prompt, options.system_prompt),
                source_name=options.source_name,
                wrong_steps=options.wrong_steps,
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
