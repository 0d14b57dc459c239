"""`stepjepa inspect`: embedding files → their metrics side by side, as a table, a record, plots."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stepjepa.analysis.embeddings import Embeddings, evenly_spaced, load
from stepjepa.analysis.measurements import DRAWS
from stepjepa.analysis.projections import map_record, similarity_record, spectrum_record
from stepjepa.analysis.report import as_json, check_same_steps, inspect, report_text
from stepjepa.records import UserError, environment, write_json


def write_plots(files: Mapping[str, Embeddings], folder: Path) -> list[Path]:
    """Maps, similarities and spectra into a folder, each figure beside the record that it is drawn from."""
    from stepjepa.visualization.embeddings import embedding_map, similarity_map, spectrum
    from stepjepa.visualization.style import save_figure

    maps = [map_record(each, label) for label, each in files.items()]
    spectra = [spectrum_record(each, label) for label, each in files.items()]
    written, about = [], environment()

    def write(name: str, record: Mapping[str, Any], figures: Mapping[str, Any]) -> None:
        write_json({**record, "environment": about}, folder / f"{name}.json")
        written.append(folder / f"{name}.json")
        for suffix, figure in figures.items():
            written.append(folder / f"{name}{suffix}.png")
            save_figure(figure, written[-1])

    colors = ["step", "view"]
    colors += ["operation"] * any(each.operation_names for each in files.values())
    colors += ["correct"] * any((each.correct >= 0).any() for each in files.values())
    write("map", {"records": maps}, {f"_{color}": embedding_map(*maps, color=color) for color in colors})
    write("spectrum", {"records": spectra}, {"": spectrum(*spectra)})
    for number, (label, each) in enumerate(files.items(), start=1):
        shown = np.unique(each.pair_example)[:3].tolist()
        record = {"label": label, **similarity_record(each, shown, "context", "target")}
        write(f"similarity_{number}", record, {"": similarity_map(record)})
    return written


def labels_of(paths: Sequence[str]) -> list[str]:
    """Column titles: file names without ending, or paths as given where those repeat."""
    stems = [Path(path).stem for path in paths]
    return stems if len(set(stems)) == len(stems) else list(paths)


def parser() -> argparse.ArgumentParser:
    """Options of `stepjepa inspect`."""
    command = argparse.ArgumentParser(
        prog="stepjepa inspect", description="Aligned or collapsed? Metrics of embedding files with intervals."
    )
    add = command.add_argument
    add("files", nargs="+", metavar="E", help="files of `stepjepa embed`; those with --random_weights are controls")
    add("--layer", type=int, help="look at this layer, stored with `stepjepa embed --layers`; the last by default")
    add(
        "--examples",
        type=int,
        default=1000,
        metavar="N",
        help="at most so many examples, evenly spaced over the data (default: 1000)",
    )
    add("--seed", type=int, default=0, help="of resampling, folds and control tasks (default: 0)")
    add("--json", metavar="FILE", help="write every figure to this file as well")
    add("--plots", metavar="FOLDER", help="draw maps, similarities and spectra into this folder")
    return command


def main(argv: list[str] | None = None) -> int:
    """`stepjepa inspect`; returns the exit status."""
    options = parser().parse_args(argv)
    started_with = environment()
    labels = labels_of(options.files)
    if len(set(labels)) < len(labels):
        raise UserError(f"a file is named twice: {', '.join(options.files)}")
    files = {label: load(path) for label, path in zip(labels, options.files, strict=True)}
    check_same_steps(files)  # before anything is left out
    for label, each in files.items():
        chosen = each if options.layer is None else each.at_layer(options.layer)
        files[label] = chosen.take(evenly_spaced(len(each.questions), options.examples))
    terminal = sys.stderr.isatty()

    def progress(text: str) -> None:
        if terminal:
            print(f"\r\033[K{text} …", end="", file=sys.stderr, flush=True)

    report = as_json(inspect(files, options.seed, progress))
    progress("writing")
    if terminal:
        print("\r\033[K", end="", file=sys.stderr, flush=True)
    print(report_text(report))
    if options.json is not None:
        settings = {"layer": options.layer, "examples": options.examples, "seed": options.seed, "draws": DRAWS}
        write_json(
            {"command": "inspect", "configuration": settings, **report, "environment": started_with}, options.json
        )
        print(f"written: {options.json}")
    if options.plots is not None:
        for path in write_plots(files, Path(options.plots)):
            print(f"written: {path}")
    return 0
