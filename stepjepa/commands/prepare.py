"""`stepjepa prepare`: its options, handed to `sources.prepare`."""

from __future__ import annotations

import argparse
from typing import get_args

from stepjepa.data.formats import DEFAULT_SYSTEM_PROMPT, ROW_FORMATS
from stepjepa.data.sources import prepare as write_examples
from stepjepa.data.steps import Splitter
from stepjepa.records import UserError


def parser() -> argparse.ArgumentParser:
    """Options of `stepjepa prepare`."""
    command = argparse.ArgumentParser(
        prog="stepjepa prepare", description="Turn solutions of any source into chat JSONL with steps."
    )
    add = command.add_argument
    add("--source", nargs="+", required=True, help="'builtin', JSONL files, or Hub data set ids")
    add("--output_file", required=True, help="JSONL to write, one example a line")
    add(
        "--format",
        dest="row_format",
        choices=ROW_FORMATS,
        help="the kind of the rows; recognised by their fields if absent",
    )
    add("--splitter", choices=get_args(Splitter), help="how steps are found; 'line' for GSM8K rows, 'auto' otherwise")
    add("--think", choices=("remove", "steps"), default="remove", help="drop <think> blocks, or use them as the steps")
    add("--min_chars", type=int, default=20, help="fragments shorter than this are merged into a neighbour")
    add("--drop_short", action="store_true", help="drop short fragments instead, as the original did (loses content)")
    add(
        "--system_prompt", help=f"system message; 'none' for none. Default: «{DEFAULT_SYSTEM_PROMPT}»; none for builtin"
    )
    add("--source_name", help="name in the examples' 'source' field; the file's or data set's by default")
    add("--only_correct", action="store_true", help="drop rows whose solution boxes another answer than the reference")
    add("--strict", action="store_true", help="make the first bad line an error")
    add("--hub_config", help="configuration of a Hub data set")
    add("--split", default="train", help="split of a Hub data set or of the built-in problems")
    add("--problems", type=int, default=2000, help="how many built-in problems")
    add("--seed", type=int, default=0, help="which built-in problems")
    return command


def main(argv: list[str]) -> int:
    """`stepjepa prepare`."""
    options = parser().parse_args(argv)
    prompt = {None: "auto", "none": None}.get(options.system_prompt, options.system_prompt)
    try:
        report = write_examples(
            options.source,
            options.output_file,
            config=options.hub_config,
            split=options.split,
            row_format=options.row_format,
            splitter=options.splitter,
            think=options.think,
            short="drop" if options.drop_short else "merge",
            min_chars=options.min_chars,
            system_prompt=prompt,
            source_name=options.source_name,
            only_correct=options.only_correct,
            strict=options.strict,
            count=options.problems,
            seed=options.seed,
        )
    except (ValueError, OSError) as error:  # an option or file that cannot be used, by name
        raise UserError(str(error)) from error
    print(report)
    print(f"written: {options.output_file}")
    return 0
