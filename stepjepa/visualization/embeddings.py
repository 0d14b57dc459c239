"""Records of embeddings (`projections.py`) → figures: maps of views, similarity of steps, spectra.

Colour tells what is asked for (step, view, operation, correctness), the marker always tells the view.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle
from matplotlib.ticker import NullFormatter

from stepjepa.visualization.style import (
    BLUE,
    CONTINUOUS,
    CYCLE,
    GREEN,
    ORANGE,
    PURPLE,
    SIGNED,
    VERMILION,
    new_figure,
    styled,
)

MARKERS = {"context": "o", "target": "^", "state": "s"}
VIEW_COLOURS = {"context": ORANGE, "target": GREEN, "state": PURPLE}
VIEW_NAMES = {"context": "context view", "target": "target view", "state": "step end in context"}
AXIS_NAMES = {"context": "context view, just before the step"}
COLOURS = ("step", "view", "operation", "correct")
UNKNOWN = "#BBBBBB"
MOST_NUMBERS = 8
"""Largest heat map whose cells carry their numbers."""


@styled
def embedding_map(*records: Mapping[str, Any], color: str = "step", connect: Sequence[int] = ()) -> Figure:
    """PCA and t-SNE maps, a row of panels for each record.

    The first panel is the uncentred PCA of the unit vectors inside the unit circle, one scale for all rows, with the
    share of each view's energy that lies in its mean direction; t-SNE follows, once for each seed.

    Args:
        records: of `projections.map_record`.
        color: "step" (of a context view, the step it has to predict), "view", "operation" or "correct".
        connect: problems whose consecutive steps are joined by a line, by their place in the file.

    Raises:
        ValueError: another `color`.
    """
    if color not in COLOURS:
        raise ValueError(f"Unknown color {color!r}; choose one of {', '.join(COLOURS)}.")
    columns = 1 + max(len(record["seeds"]) for record in records)
    figure = new_figure(height=len(records) * (0.98 / columns + 0.08) + 0.07)
    grid = figure.subplots(len(records), columns, squeeze=False)
    palette = _palette(records, color)
    area = (mpl.rcParams["font.size"] * 0.33) ** 2
    for axes_row, record in zip(grid, records, strict=True):
        for view in record["views"]:
            key = [view["view"]] * len(view["step"]) if color == "view" else view[color]
            shades = [palette.get(value, (UNKNOWN, ""))[0] for value in key]
            for axes, points in zip(axes_row, [view["pca"], *view["tsne"]], strict=False):
                axes.scatter(
                    points["x"], points["y"], c=shades, marker=MARKERS[view["view"]], s=area, alpha=0.75, linewidths=0
                )
                _connect(axes, view, points, connect)
        _frame_pca(axes_row[0], record)
        for axes, seed in zip(axes_row[1:], record["seeds"], strict=False):
            axes.set(xlim=(-1.08, 1.08), ylim=(-1.08, 1.08))
            axes.set_title(f"t-SNE, seed {seed},\nperplexity {record['perplexity']:g}", fontsize="small")
        for axes in axes_row:
            axes.set(xticks=[], yticks=[], aspect="equal")
            axes.spines[:].set_visible(True)
            axes.spines[:].set_color("#CCCCCC")
        for axes in axes_row[1 + len(record["seeds"]) :]:
            axes.set_visible(False)
    figure.legend(
        handles=_handles(records, palette, color),
        loc="outside lower center",
        ncols=6,
        handletextpad=0.2,
        columnspacing=1.2,
    )
    return figure


def _palette(records: Sequence[Mapping[str, Any]], color: str) -> dict[Any, tuple[Any, str]]:
    """Label value → colour and name; what is not in it is drawn as unknown."""
    views = [view for record in records for view in record["views"]]
    if color == "view":
        return {name: (VIEW_COLOURS[name], VIEW_NAMES[name]) for name in dict.fromkeys(v["view"] for v in views)}
    if color == "correct":
        return {1: (BLUE, "answered correctly"), 0: (VERMILION, "answered wrongly")}
    if color == "operation":
        return {i: (CYCLE[i % len(CYCLE)], name) for i, name in enumerate(records[0]["operations"])}
    steps = sorted({step for view in views for step in view["step"]})
    shades = mpl.colormaps[CONTINUOUS](np.linspace(0, 0.95, len(steps)))
    return {
        step: (shade, "whole answer" if step < 0 else f"step {step + 1}")
        for step, shade in zip(steps, shades, strict=True)
    }


def _handles(records: Sequence[Mapping[str, Any]], palette: Mapping[Any, tuple[Any, str]], color: str) -> list[Line2D]:
    names = list(dict.fromkeys(view["view"] for record in records for view in record["views"]))
    size = mpl.rcParams["font.size"] * 0.5

    def handle(marker: str, colour: Any, label: str) -> Line2D:
        return Line2D([], [], marker=marker, color=colour, linestyle="none", markersize=size, label=label)

    if color == "view":
        return [handle(MARKERS[name], *palette[name]) for name in names]
    used = [value for view in (v for r in records for v in r["views"]) for value in view[color]]
    rest = "none or not known" if color == "operation" else "not known"
    unknown = [handle("D", UNKNOWN, rest)] if set(used) - set(palette) else []
    shown = [handle("D", *entry) for value, entry in palette.items() if value in used]
    return [*(handle(MARKERS[name], "#333333", VIEW_NAMES[name]) for name in names), *shown, *unknown]


def _connect(axes: Axes, view: Mapping[str, Any], points: Mapping[str, Any], examples: Sequence[int]) -> None:
    """A line through the steps of each chosen problem, dashed for context views."""
    for example in examples:
        rows = sorted((i for i, e in enumerate(view["example"]) if e == example), key=lambda i: view["step"][i])
        axes.plot(
            [points["x"][i] for i in rows],
            [points["y"][i] for i in rows],
            color="#222222",
            linewidth=0.8,
            zorder=3,
            linestyle="--" if view["view"] == "context" else "-",
        )


def _frame_pca(axes: Axes, record: Mapping[str, Any]) -> None:
    first, second = record["explained"]
    axes.add_patch(Circle((0, 0), 1, fill=False, color="#999999", linewidth=0.7))
    axes.axhline(0, color="#DDDDDD", linewidth=0.6, zorder=0)
    axes.axvline(0, color="#DDDDDD", linewidth=0.6, zorder=0)
    axes.set(xlim=(-1.08, 1.08), ylim=(-1.08, 1.08))
    axes.set_title(f"PCA, uncentred:\n{first:.0%} + {second:.0%} of energy", fontsize="small")
    axes.set_ylabel(record["label"])
    means = ", ".join(f"{view} {energy:.0%}" for view, energy in record["mean_energy"].items())
    axes.set_xlabel(f"in the mean direction:\n{means}", fontsize="x-small")


@styled
def similarity_map(record: Mapping[str, Any]) -> Figure:
    """Cosines between steps, as they are and after the mean is removed, with a line between problems.

    Args:
        record: of `projections.similarity_record`.
    """
    height, width = len(record["row_steps"]), len(record["column_steps"])
    several = len(_problems(record["column_steps"])) > 1
    figure = new_figure(height=min(0.42 * height / width + (0.19 if several else 0.13), 1.2))
    panels = figure.subplots(1, 2, sharey=True)
    image = None
    for axes, name, title in zip(panels, ("raw", "centered"), ("cosine", "cosine, mean removed"), strict=True):
        values = np.array(record[name])
        image = axes.imshow(values, cmap=SIGNED, vmin=-1, vmax=1, aspect="equal")
        axes.set_title(title)
        axes.set_xticks(range(width), _labels(record["column_steps"]), rotation=90)
        axes.set_yticks(range(height), _labels(record["row_steps"]))
        axes.set_xlabel(AXIS_NAMES.get(record["columns"], VIEW_NAMES[record["columns"]]))
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        if several:
            above = axes.secondary_xaxis("top")
            places = _problems(record["column_steps"])
            above.set_xticks(list(places.values()), [f"problem {example}" for example in places])
            above.tick_params(length=0)
            above.spines[:].set_visible(False)
        for at in _boundaries(record["column_steps"]):
            axes.axvline(at, color="black", linewidth=0.8)
        for at in _boundaries(record["row_steps"]):
            axes.axhline(at, color="black", linewidth=0.8)
        if max(height, width) <= MOST_NUMBERS:
            for (row, column), value in np.ndenumerate(values):
                shade = "white" if abs(value) > 0.6 else "black"
                axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=shade, fontsize="x-small")
    panels[0].set_ylabel(AXIS_NAMES.get(record["rows"], VIEW_NAMES[record["rows"]]))
    assert image is not None
    figure.colorbar(image, ax=panels, shrink=0.7, aspect=25, pad=0.02, ticks=[-1, 0, 1])
    return figure


def _labels(steps: Sequence[Sequence[int]]) -> list[str]:
    return ["answer" if step < 0 else f"step {step + 1}" for _, step in steps]


def _problems(steps: Sequence[Sequence[int]]) -> dict[int, float]:
    """Each problem and the middle of its steps."""
    places: dict[int, list[int]] = {}
    for place, (example, _) in enumerate(steps):
        places.setdefault(example, []).append(place)
    return {example: sum(own) / len(own) for example, own in places.items()}


def _boundaries(steps: Sequence[Sequence[int]]) -> list[float]:
    return [i - 0.5 for i in range(1, len(steps)) if steps[i][0] != steps[i - 1][0]]


@styled
def spectrum(*records: Mapping[str, Any]) -> Figure:
    """Singular values of every view on a logarithmic scale, a line for each record, with effective ranks.

    Args:
        records: of `projections.spectrum_record`, all of the same views.
    """
    views = list(records[0]["views"])
    figure = new_figure(height=0.35 + 0.035 * len(records))
    panels = figure.subplots(1, len(views), sharey=True, squeeze=False)[0]
    styles = ("-", "--", "-.", ":")
    for axes, name in zip(panels, views, strict=True):
        for i, record in enumerate(records):
            entry = record["views"][name]
            axes.plot(
                range(1, len(entry["values"]) + 1),
                entry["values"],
                color=CYCLE[i % len(CYCLE)],
                linestyle=styles[i % len(styles)],
                label=f"{record['label']}: {entry['rank']:.1f}",
            )
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_title(VIEW_NAMES[name])
        axes.set_xlabel("singular value")
        axes.legend(
            title=f"effective rank (of {records[0]['views'][name]['most']})",
            title_fontsize="small",
            loc="upper center",
            bbox_to_anchor=(0.5, -0.2),
        )
    lowest = min(min(entry["values"]) for record in records for entry in record["views"].values())
    panels[0].set_ylim(bottom=max(0.7 * lowest, 1e-7))  # below that is the rounding of float32
    panels[0].set_ylabel("share of the largest")
    return figure
