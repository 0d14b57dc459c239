"""`stepjepa plan`: memory, tokens and time of a run, before it runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from stepjepa.commands.options import Parser, fill
from stepjepa.commands.output import say
from stepjepa.commands.train import read_options, run_of
from stepjepa.experiments.options import PlanOptions
from stepjepa.records import UserError, write_json


def main(argv: Sequence[str] | None = None) -> int:
    """`stepjepa plan`; returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = Parser("plan", "What `stepjepa train` with the same options will need: memory, tokens, time.")
    given = read_options(words, parser, PlanOptions)
    wanted = fill(PlanOptions, given)
    options, args = run_of(given)
    from transformers.utils import logging

    from stepjepa.experiments.plan import format_plan, plan

    logging.disable_progress_bar()
    try:
        record = plan(options, args, wanted, say)
    except (ValueError, ImportError) as error:  # data, options or a model that cannot be used; the message says which
        raise UserError(str(error)) from error
    say(format_plan(record))
    if wanted.output_file is not None:
        write_json(record, wanted.output_file)
        say(f"written: {wanted.output_file}")
    return 0
