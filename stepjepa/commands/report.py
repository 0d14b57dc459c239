"""`stepjepa report`: training runs as one HTML page that needs no network."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stepjepa.commands.options import Parser, parse
from stepjepa.commands.output import say
from stepjepa.records import UserError, option, written_whole


@dataclass(kw_only=True)
class ReportOptions:
    """Which runs, measured on what, written where."""

    runs: list[str] = option(help="folders of `stepjepa train`; several are compared", positional=True, metavar="RUN")
    output_file: str = option(help="the page, .html", aliases=["--output"], metavar="FILE")
    results: list[str] = option(
        [], "results of `stepjepa evaluate`, one for each run; without them the questions are answered", metavar="FILE"
    )
    embeddings: list[str] = option(
        [], "files of `stepjepa embed`, likewise; without them views are read, beside random weights", metavar="FILE"
    )
    test_file: list[str] = option(
        [], "questions with solutions; by default those that the first run held out, else built-in ones", metavar="FILE"
    )
    problems: int = option(100, "how many built-in problems of each kind", least=1)
    problem_seed: int = option(1, "which built-in problems are drawn")
    examples: int = option(5, "so many right and so many wrong answers are shown", least=0)
    batch_size: int = option(64, "questions answered together", least=1)
    device: str = option("auto", "auto (CUDA if there is one), cpu, cuda, cuda:1, …")
    trust_remote_code: bool = option(False, "run Python code that comes with the model")


def main(argv: Sequence[str] | None = None) -> int:
    """`stepjepa report`; returns the exit status."""
    parser = Parser("report", "Training runs as one HTML page: what was run, what it did to answers and views.")
    options: ReportOptions = parse(parser, argv, ReportOptions)
    if Path(options.output_file).suffix != ".html":
        raise UserError(f"--output_file {options.output_file}: a page ends in .html")
    from transformers.utils import logging

    from stepjepa.experiments.run_report import gather
    from stepjepa.visualization.run_page import run_page

    logging.disable_progress_bar()
    gathered = gather(
        options.runs,
        test_file=options.test_file,
        problems=options.problems,
        problem_seed=options.problem_seed,
        results=options.results,
        embeddings=options.embeddings,
        batch_size=options.batch_size,
        device=options.device,
        trust_remote_code=options.trust_remote_code,
        say=lambda line: say(line, sys.stderr),
    )
    text = run_page(gathered, options.examples)
    with written_whole(options.output_file) as temporary:
        temporary.write_text(text, encoding="utf-8")
    say(f"written: {options.output_file} ({len(text.encode()) / 1e6:.1f} MB)")
    return 0
