"""`stepjepa synthesize`: sample solutions from a teacher, keep those that are right, write them for `prepare`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from stepjepa.commands.options import Parser, parse
from stepjepa.commands.output import say, say_next
from stepjepa.evaluation.options import SynthesizeOptions


def main(argv: Sequence[str] | None = None) -> int:
    """`stepjepa synthesize`."""
    parser = Parser(
        "synthesize",
        "Sample solutions of questions with known answers from a model or a server, keep those whose answer is right, "
        "and write them for `prepare`. A run that was stopped goes on if started again in the same way, and nothing "
        "that was answered is asked for twice.",
    )
    options: SynthesizeOptions = parse(parser, argv, SynthesizeOptions)
    from transformers.utils import logging

    from stepjepa.evaluation.results import summary_path
    from stepjepa.evaluation.synthesis import samples_path, synthesize, table

    logging.disable_progress_bar()  # of loading files
    try:
        summary = synthesize(options, say=say)
    except KeyboardInterrupt:
        say(f"\nstopped; the same command goes on after what is in {samples_path(options.output_file)}", sys.stderr)
        raise
    say(table(summary))
    written = (options.output_file, samples_path(options.output_file), summary_path(options.output_file))
    say(f"written: {', '.join(map(str, written))}")
    say_next("prepare", "--source", options.output_file, "--output_file", "prepared.jsonl")
    return 0
