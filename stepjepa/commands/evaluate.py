"""`stepjepa evaluate`: answer test problems with a model, check the answers, say how sure the accuracy is."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from stepjepa.commands.options import Parser, parse
from stepjepa.commands.output import say, say_next
from stepjepa.evaluation.options import EvaluateOptions


def main(argv: Sequence[str] | None = None) -> int:
    """`stepjepa evaluate`."""
    parser = Parser(
        "evaluate",
        "Answer test problems and check the answers: one result row a question, a summary beside them. An interrupted "
        "run goes on where it stopped if started again in the same way.",
    )
    options: EvaluateOptions = parse(parser, argv, EvaluateOptions)
    from transformers.utils import logging

    from stepjepa.evaluation.results import summary_path, table
    from stepjepa.evaluation.run import evaluate

    logging.disable_progress_bar()  # of loading files
    try:
        summary = evaluate(options, say=say)
    except KeyboardInterrupt:
        say("\nstopped; the same command goes on after the last complete batch", file=sys.stderr)
        raise
    say(table(summary))
    say(f"written: {options.output_file}, {summary_path(options.output_file)}")
    say_next("compare", options.output_file, "OTHER_RESULTS.jsonl", note="with those of another model")
    return 0
