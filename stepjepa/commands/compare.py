"""`stepjepa compare`: result files of several arms and seeds → paired differences, as a table, a record, a plot."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from stepjepa.commands.options import SIZES, Parser, parse
from stepjepa.commands.output import say, say_next
from stepjepa.records import UserError, option, write_json


@dataclass(kw_only=True)
class CompareOptions:
    """Which result files are compared, and what is written of it."""

    files: list[str] = option(
        help="result files of `stepjepa evaluate`; the same NAME several times: seeds of one arm. Without NAME "
        "the arm has the name of the file",
        positional=True,
        metavar="[NAME=]FILE",
    )
    baseline: str | None = option(
        None, "arm that the others are set against (default: the only one with λ = 0, else the first)", metavar="NAME"
    )
    metric: str = option("correct", "which reading of the answers", choices="evaluation.arms.METRICS")
    output_file: str | None = option(None, "write the record as JSON", aliases=["--json"], metavar="FILE")
    plot_file: str | None = option(None, "draw a forest plot, .png, .pdf or .svg", aliases=["--plot"], metavar="FILE")
    size: str = option("notebook", "of the plot", choices=SIZES)
    draws: int = option(10_000, "of the bootstrap")
    seed: int = option(0, "of the bootstrap")

    def __post_init__(self) -> None:
        if self.draws < 100:
            raise UserError(f"--draws {self.draws}: at least 100, for an interval that leaves out 2.5% on each side")
        if self.seed < 0:
            raise UserError(f"--seed {self.seed}: at least 0")


def main(argv: Sequence[str] | None = None) -> int:
    """`stepjepa compare`; returns the exit status."""
    parser = Parser("compare", "Paired comparison of result files of several arms and seeds over the same questions.")
    options: CompareOptions = parse(parser, argv, CompareOptions)
    from stepjepa.evaluation.compare import compare, format_report

    record = compare(options.files, options.baseline, options.metric, options.draws, options.seed)
    spare_inputs(options.files, (options.output_file, options.plot_file))
    say(format_report(record))
    if options.plot_file:
        from stepjepa.visualization.comparison import forest
        from stepjepa.visualization.style import save_figure

        say(f"\nplot: {save_figure(forest(record, size=options.size), options.plot_file)}")
    if options.output_file:
        write_json(record, options.output_file)
        say(f"record: {options.output_file}")
    elif not options.plot_file:
        say_next("compare", *options.files, "--output_file", "compare.json", "--plot_file", "compare.png")
    return 0


def spare_inputs(files: Sequence[str], outputs: Sequence[str | None]) -> None:
    """Refuse to write over a result file or its summary.

    Raises:
        UserError: names the output.
    """
    from stepjepa.evaluation.arms import split_word
    from stepjepa.evaluation.results import summary_path

    results = [split_word(word)[1] for word in files]
    inputs = {os.path.realpath(path) for path in (*results, *map(summary_path, results))}
    for output in outputs:
        if output and os.path.realpath(output) in inputs:
            raise UserError(f"{output}: this would overwrite a result file")
