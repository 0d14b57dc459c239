"""`stepjepa inspect`: what happened to the representations? Metrics of embedding files, side by side.

Files are compared only if they embed the same steps, so every difference is the model's. A file made with
`stepjepa embed --random_weights` is the control: what an untrained network of the same architecture makes of the same
text. A verdict needs more than one figure, because a low alignment loss, or a high rank, alone says neither
"aligned" nor "collapsed".
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stepjepa.analysis.bootstrap import bootstrap_mean, cluster_jackknife
from stepjepa.analysis.embeddings import Embeddings, evenly_spaced, load
from stepjepa.analysis.measurements import BLOCKS, DRAWS, Measure, measure, pair_scores
from stepjepa.analysis.projections import VIEWS, map_record, similarity_record, spectrum_record, view_rows
from stepjepa.analysis.report_table import report_text
from stepjepa.jepa.metrics import linear_cka
from stepjepa.records import UserError, environment, write_json

NARROW = 0.9
RULE = (
    "Rule: FOUND when the interval of MRR among all steps lies above chance and that of the centred margin above 0. "
    f"NARROW when at least {NARROW:.0%} of the energy of context or target views lies in their mean direction. "
    "Collapsed: narrow and not found. Narrow: narrow, yet found in the little that is left. Aligned: found, not narrow "
    "and, where a control of the same architecture is given, beyond it in both figures (intervals of the paired "
    "differences above 0). Not aligned: anything else."
)


def inspect(
    files: Mapping[str, Embeddings], seed: int = 0, progress: Callable[[str], None] = lambda _text: None
) -> dict[str, Any]:
    """The report on one or several sets of embeddings.

    Args:
        files: label → embeddings, all of the same steps; those with random weights are controls.
        seed: of resampling, folds and control tasks.
        progress: called with what comes next.

    Returns:
        `files` (controls last), each with `label`, `control`, `info`, `measures`, `against_control` and `verdict`;
        `cka` for each two of them; `data` and `rule` as text.

    Raises:
        UserError: files of other questions, solutions or pairs, or too few problems.
    """
    check_same_steps(files)
    ordered = sorted(files, key=lambda label: is_control(files[label]))
    controls = [label for label in ordered if is_control(files[label])]
    reported = []
    for label in ordered:
        embeddings = files[label]
        measures = measure(embeddings, lambda part, label=label: progress(f"{label}: {part}"), seed)  # type: ignore[misc]
        control = next((c for c in controls if c != label and _same_architecture(files[c], embeddings)), None)
        against = None
        if control is not None and label not in controls:
            against = against_control(embeddings, files[control], seed)
        reported.append(
            {
                "label": label,
                "control": label in controls,
                "info": embeddings.info,
                "measures": measures,
                "control_label": control if against else None,
                "against_control": against,
                "verdict": verdict(measures, against, label in controls),
            }
        )
    cka = []
    for one, other in itertools.combinations(ordered, 2):
        progress(f"linear CKA: {one} – {other}")
        cka.append({"files": [one, other], **similarity_of(files[one], files[other], seed)})
    first = files[ordered[0]]
    layout = first.info.get("layout", {})
    kinds = ", ".join(f"{name} {layout[name]}" for name in ("pairs", "isolation") if name in layout)
    return {
        "files": reported,
        "cka": cka,
        "rule": RULE,
        "data": f"{len(first.questions):,} problems, {len(first.context):,} view pairs ({kinds}), "
        f"{len(first.states):,} steps",
    }


def is_control(embeddings: Embeddings) -> bool:
    """Whether the embeddings come from random weights."""
    return embeddings.info.get("model", {}).get("random_weights") is not None


def _same_architecture(one: Embeddings, other: Embeddings) -> bool:
    models = [each.info.get("model", {}) for each in (one, other)]
    return all(models[0].get(name) == models[1].get(name) for name in ("architecture", "layers", "hidden_size"))


def check_same_steps(files: Mapping[str, Embeddings]) -> None:
    """Raise `UserError` unless all files embed the same questions, solutions and view pairs."""
    (first, base), *others = files.items()
    for label, each in others:
        for what, same in (
            ("questions", each.ids == base.ids),
            ("solutions", each.steps == base.steps),
            (
                "view pairs",
                all(
                    np.array_equal(getattr(each, name), getattr(base, name))
                    for name in ("pair_example", "context_step", "target_step")
                ),
            ),
            (
                "steps",
                np.array_equal(each.state_example, base.state_example)
                and np.array_equal(each.state_step, base.state_step),
            ),
        ):
            if not same:
                raise UserError(
                    f"{label}: other {what} than {first}, so no figure would be the model's alone; embed the same data "
                    "with the same options, or inspect each file by itself"
                )


def against_control(embeddings: Embeddings, control: Embeddings, seed: int = 0) -> dict[str, Measure]:
    """Differences to the control over the same pairs: centred margin and reciprocal rank among all steps."""
    own, other = pair_scores(embeddings), pair_scores(control)
    differences = {
        "centered_margin": own.margin - other.margin,
        "reciprocal_rank_all": (1 / own.all_ranks.double() - 1 / other.all_ranks.double()).numpy(),
    }
    found = {}
    for name, values in differences.items():
        interval = bootstrap_mean(values, embeddings.pair_example, DRAWS, seed)
        found[name] = Measure(interval.estimate, interval.low, interval.high, chance=0.0)
    return found


def similarity_of(one: Embeddings, other: Embeddings, seed: int = 0) -> dict[str, Measure]:
    """Linear CKA of each view of two models."""
    found = {}
    for view in VIEWS:
        x, y = view_rows(one, view), view_rows(other, view)

        def cka(at: np.ndarray, x: Any = x.vectors, y: Any = y.vectors) -> float:
            rows = torch.from_numpy(at)
            return float(linear_cka(x[rows], y[rows]))

        interval = cluster_jackknife(cka, x.example, BLOCKS, seed)
        found[view] = Measure(interval.estimate, interval.low, interval.high)
    return found


def verdict(
    measures: Mapping[str, Measure], against: Mapping[str, Measure] | None, control: bool = False
) -> dict[str, Any]:
    """A word and a sentence by `RULE`, from several figures at once."""
    margin, rank = measures["centered_margin"], measures["reciprocal_rank_all"]
    energy = {view: measures[f"mean_energy_{view}"].estimate for view in ("context", "target")}
    beyond_chance = above(margin, 0) and above(rank, rank.chance or 0)
    beyond_control = None if against is None else all(above(each, 0) for each in against.values())
    narrow = max(energy.values()) >= NARROW
    if narrow:
        word = "narrow" if beyond_chance else "collapsed"
    else:
        word = "aligned" if beyond_chance and beyond_control is not False else "not aligned"
    if not beyond_chance:
        said = "Context views do not find their target views beyond chance"
    elif beyond_control is None:
        said = "Context views find their target views beyond chance (no random-weights control to compare with)"
    elif beyond_control:
        said = "Context views find their target views beyond chance and beyond random weights"
    else:
        said = "Context views find their target views beyond chance, but not beyond random weights"
    start = "the control, what random weights make of the text" if control else f"{word}. {said}"
    shares = ", ".join(f"{view} {share:.0%}" for view, share in energy.items())
    text = (
        f"{start}: MRR {rank.estimate:.3f} (chance {rank.chance or 0:.3f}), centred margin {margin.estimate:.3f}. "
        f"Energy in the mean direction: {shares}."
    )
    own = measures.get("reciprocal_rank_own")
    if own is not None and not above(own, own.chance or 0):
        text += " Within a problem the next step is not told from its other steps."
    return {
        "word": "control" if control else word,
        "found": beyond_chance,
        "beyond_control": beyond_control,
        "narrow": narrow,
        "text": text,
    }


def above(figure: Measure, level: float) -> bool:
    """Whether the whole interval lies above a level; never for figures that are not finite."""
    return figure.low is not None and math.isfinite(figure.low) and figure.low > level


def as_json(value: Any) -> Any:
    """A report as JSON values; figures that are not finite become null."""
    if isinstance(value, Measure):
        return as_json(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): as_json(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


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
