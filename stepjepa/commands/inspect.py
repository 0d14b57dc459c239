"""`stepjepa inspect`: embedding files → their metrics side by side, as a table, a record, plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepjepa.commands.options import Parser, parse
from stepjepa.commands.output import Progress, say, say_next
from stepjepa.environment import environment
from stepjepa.records import UserError, as_json, option, write_json

if TYPE_CHECKING:
    from stepjepa.analysis.embeddings import Embeddings


@dataclass(kw_only=True)
class InspectOptions:
    """Which embedding files are looked at, and what is written of it."""

    files: list[str] = option(
        help="files of `stepjepa embed`; those with --random_weights are controls", positional=True, metavar="FILE"
    )
    layer: int | None = option(None, "look at this layer, stored with `stepjepa embed --layers`; the last by default")
    examples: int = option(1000, "at most so many examples, evenly spaced over the data", metavar="N", least=1)
    seed: int = option(0, "of resampling, folds and control tasks", least=0)
    details: bool = option(False, "print every figure, not only those that the verdict follows from")
    output_file: str | None = option(None, "write every figure as JSON", aliases=["--json"], metavar="FILE")
    output_dir: str | None = option(
        None, "draw maps, similarities and spectra into this folder", aliases=["--plots"], metavar="FOLDER"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """`stepjepa inspect`; returns the exit status."""
    parser = Parser("inspect", "Aligned or collapsed? Metrics of embedding files with intervals.")
    options: InspectOptions = parse(parser, argv, InspectOptions)
    from stepjepa.analysis.embeddings import evenly_spaced, load
    from stepjepa.analysis.measurements import DRAWS
    from stepjepa.analysis.report import check_same_steps, inspect
    from stepjepa.analysis.report_text import report_text, verdict_text
    from stepjepa.data.origins import check_not_read

    started_with = environment()
    check_not_read([options.output_file], options.files)
    labels = labels_of(options.files)
    if len(set(labels)) < len(labels):
        raise UserError(f"a file is named twice: {', '.join(options.files)}")
    files = {label: load(path) for label, path in zip(labels, options.files, strict=True)}
    check_same_steps(files)  # before anything is left out
    for label, embeddings in files.items():
        chosen = embeddings if options.layer is None else embeddings.at_layer(options.layer)
        files[label] = chosen.take(evenly_spaced(len(chosen.questions), options.examples))
    progress = Progress()
    report = as_json(inspect(files, options.seed, progress))
    progress.end()
    say(report_text(report) if options.details else verdict_text(report))
    if options.output_file is not None:
        settings = {"layer": options.layer, "examples": options.examples, "seed": options.seed, "draws": DRAWS}
        record = {"command": "inspect", "configuration": settings, **report, "environment": started_with}
        write_json(record, options.output_file)
        say(f"written: {options.output_file}")
    if options.output_dir is not None:
        for path in write_plots(files, Path(options.output_dir)):
            say(f"written: {path}")
    if not options.details:
        say_next("inspect", *options.files, "--details", note="every figure, with similarity, order and probes")
    return 0


def labels_of(paths: Sequence[str]) -> list[str]:
    """Column titles: file names without ending, or paths as given where those repeat."""
    stems = [Path(path).stem for path in paths]
    return stems if len(set(stems)) == len(stems) else list(paths)


def write_plots(files: Mapping[str, Embeddings], folder: Path) -> list[Path]:
    """Maps, similarities and spectra into a folder, each figure beside the record that it is drawn from."""
    import numpy as np

    from stepjepa.analysis.projections import map_record, similarity_record, spectrum_record
    from stepjepa.visualization.embeddings import embedding_map, similarity_map, spectrum
    from stepjepa.visualization.style import save_figure

    maps = [map_record(embeddings, label) for label, embeddings in files.items()]
    spectra = [spectrum_record(embeddings, label) for label, embeddings in files.items()]
    written, about = [], environment()

    def write(name: str, record: Mapping[str, Any], figures: Mapping[str, Any]) -> None:
        write_json({**record, "environment": about}, folder / f"{name}.json")
        written.append(folder / f"{name}.json")
        for suffix, figure in figures.items():
            written.append(folder / f"{name}{suffix}.png")
            save_figure(figure, written[-1])

    colors = ["step", "view"]
    colors += ["operation"] * any(embeddings.operation_names for embeddings in files.values())
    colors += ["correct"] * any((embeddings.correct >= 0).any() for embeddings in files.values())
    write("map", {"records": maps}, {f"_{color}": embedding_map(*maps, color=color) for color in colors})
    write("spectrum", {"records": spectra}, {"": spectrum(*spectra)})
    for number, (label, embeddings) in enumerate(files.items(), start=1):
        shown = np.unique(embeddings.pair_example)[:3].tolist()
        record = {"label": label, **similarity_record(embeddings, shown, "context", "target")}
        write(f"similarity_{number}", record, {"": similarity_map(record)})
    return written
