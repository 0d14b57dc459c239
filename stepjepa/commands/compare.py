"""`stepjepa compare`: result files of several arms and seeds → paired differences, as a table, a record, a plot."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from stepjepa.evaluation.arms import METRICS, split_word
from stepjepa.evaluation.compare import compare, format_report
from stepjepa.evaluation.results import summary_path
from stepjepa.records import UserError, write_json


def parser() -> argparse.ArgumentParser:
    """Options of `stepjepa compare`."""
    command = argparse.ArgumentParser(
        prog="stepjepa compare",
        description="Paired comparison of result files of several arms and seeds over the same questions.",
    )
    add = command.add_argument
    add(
        "files",
        nargs="+",
        metavar="[NAME=]FILE",
        help="result files of `stepjepa evaluate`; the same NAME several times: seeds of one arm. Without NAME the arm "
        "has the name of the file",
    )
    add(
        "--baseline",
        metavar="NAME",
        help="arm that the others are set against (default: the only one with λ = 0, else the first)",
    )
    add("--metric", choices=METRICS, default="correct", help="which reading of the answers (default: correct)")
    add("--json", metavar="FILE", help="write everything as JSON")
    add("--plot", metavar="FILE", help="draw a forest plot, .png, .pdf or .svg")
    add("--size", choices=("notebook", "paper"), default="notebook", help="of the plot (default: notebook)")
    add("--draws", type=int, default=10_000, help="of the bootstrap (default: 10000)")
    add("--seed", type=int, default=0, help="of the bootstrap (default: 0)")
    return command


def main(argv: list[str] | None = None) -> int:
    """`stepjepa compare`; returns the exit status."""
    options = parser().parse_args(argv)
    if options.draws < 100:
        raise UserError(f"--draws {options.draws}: at least 100, for an interval that leaves out 2.5% on each side")
    if options.seed < 0:
        raise UserError(f"--seed {options.seed}: at least 0")
    record = compare(options.files, options.baseline, options.metric, options.draws, options.seed)
    _spare_inputs(options.files, (options.json, options.plot))
    print(format_report(record))
    if options.plot:
        from stepjepa.visualization.comparison import forest
        from stepjepa.visualization.style import save_figure

        print(f"\nplot: {save_figure(forest(record, size=options.size), options.plot)}")
    if options.json:
        write_json(record, options.json)
        print(f"record: {options.json}")
    return 0


def _spare_inputs(files: Sequence[str], outputs: Sequence[str | None]) -> None:
    """Refuse to write over a result file or its summary."""
    results = [split_word(word)[1] for word in files]
    inputs = [*results, *map(summary_path, results)]
    for output in outputs:
        if output and any(os.path.realpath(output) == os.path.realpath(each) for each in inputs):
            raise UserError(f"{output}: this would overwrite a result file")
