"""`stepjepa verify`: the checks that matter on your model and data, as a table and a record."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from stepjepa.analysis.options import ShownLayout
from stepjepa.commands.options import Parser, parse
from stepjepa.commands.output import Progress, say, say_next
from stepjepa.experiments.options import VerifyOptions
from stepjepa.models.checkpoint import BUILTIN
from stepjepa.records import option, write_json


@dataclass(kw_only=True)
class VerifyOutput:
    """Where the record goes."""

    output_file: str | None = option(
        None, "write options, versions and figures as JSON", aliases=["--json"], metavar="FILE"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """`stepjepa verify`; returns the exit status: 0 if every check passed, 1 otherwise."""
    parser = Parser(
        "verify",
        "Check your model and data: boundaries, labels, losses, isolation, gradients. Exit status 0 only if every "
        "check passed.",
    )
    trained = ShownLayout(pairs="first", max_length=2048)  # as `stepjepa train` does by default
    options, layout, output = parse(parser, argv, VerifyOptions, trained, VerifyOutput)
    from transformers.utils import logging

    from stepjepa.experiments.verify import format_table, record, verify

    logging.disable_progress_bar()
    progress = Progress()
    checks = verify(options, layout, progress)
    progress.end()
    say(format_table(checks, min(max(shutil.get_terminal_size((110, 24)).columns, 60), 120)))
    if output.output_file is not None:
        write_json(record(options, layout, checks), output.output_file)
        say(f"written: {output.output_file}")
    if not all(check.passed for check in checks):
        return 1
    words = ["--train_file", *options.train_file] if list(options.train_file) != [BUILTIN] else []
    words = ["--model_name", options.model_name, *words] if options.model_name != BUILTIN else words
    say_next("train", *words, *["--lora"] * options.lora, *["--bf16"] * options.bf16)
    return 0
