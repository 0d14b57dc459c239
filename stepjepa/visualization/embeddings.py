"""Records of embeddings (`projections.py`) → figures: maps of views, similarity of steps, spectra.

Colour tells what is asked for (step, view, operation, correctness), the marker always tells the view.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle
from matplotlib.ticker import NullFormatter, NullLocator

from stepjepa.visualization.style import (
    BLUE,
    CONTINUOUS,
    CYCLE,
    GREEN,
    ORANGE,
    PURPLE,
    SIGNED,
    VERMILION,
    across,
    legend_columns,
    new_figure,
    small,
    styled,
    text_width,
)
from stepjepa.visualization.words import in_legend, in_words

MARKERS = {"context": "o", "target": "^", "state": "s"}
VIEW_COLOURS = {"context": ORANGE, "target": GREEN, "state": PURPLE}
VIEW_NAMES = {"context": "context view", "target": "target view", "state": "step end in context"}
AXIS_NAMES = {"context": "context view, just before the step"}
COLOURS = ("step", "view", "operation", "correct")
UNKNOWN = "#BBBBBB"
TURNS = 8
"""Layers in which each view is drawn."""
MOST_NUMBERS = 8
"""Largest heat map whose cells carry their numbers."""
LEAST_DISTANCE = 1e-4
"""1 − cosine below which all is one colour."""
COSINES = (0.9999, 0.999, 0.99, 0.97, 0.9, 0.7, 0, -1)
"""Marks of the scale of cosines."""


@styled
def embedding_map(*records: Mapping[str, Any], color: str = "step", connect: Sequence[int] = ()) -> Figure:
    """PCA and t-SNE maps, a row of panels for each record.

    The first panel is the uncentred PCA of the unit vectors inside the unit circle, one scale for all rows, with the
    share of each view's energy that lies in its mean direction; t-SNE follows, once for each seed that has a place.
    Views are drawn in turns, and context views as rings, so that neither hides the other.

    Args:
        records: of `projections.map_record`.
        color: "step" (of a context view, the step it has to predict), "view", "operation" or "correct".
        connect: problems whose consecutive steps are joined by a line, by their place in the file.

    Raises:
        ValueError: another `color`.
    """
    if color not in COLOURS:
        raise ValueError(f"Unknown color {color!r}; choose one of {', '.join(COLOURS)}.")
    columns = across(1 + max(len(record["seeds"]) for record in records), 10)
    figure = new_figure(
        height=len(records) * (0.98 / columns + 5.5 * small() / text_width()) + 3 * small() / text_width()
    )
    grid = figure.subplots(len(records), columns, squeeze=False)
    palette = _palette(records, color)
    area = (mpl.rcParams["font.size"] * 0.33) ** 2
    for axes_row, record in zip(grid, records, strict=True):
        for view in record["views"]:
            shades = [palette.get(value, (UNKNOWN, ""))[0] for value in _values(record, view, color)]
            for axes, points in zip(axes_row, [view["pca"], *view["tsne"]], strict=False):
                _scatter(axes, points, shades, view["view"], area)
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
        ncols=legend_columns(6, 14),
        handletextpad=0.2,
        columnspacing=1.2,
    )
    return figure


def _scatter(axes: Axes, points: Mapping[str, Any], shades: Sequence[Any], view: str, area: float) -> None:
    """The points of a view in `TURNS` layers, between which those of the other views come."""
    ring = view == "context"
    for turn in range(TURNS):
        colours = shades[turn::TURNS]
        axes.scatter(
            points["x"][turn::TURNS],
            points["y"][turn::TURNS],
            facecolors="none" if ring else colours,
            edgecolors=colours if ring else "none",
            marker=MARKERS[view],
            s=1.5 * area if ring else 0.8 * area,
            linewidths=0.75 if ring else 0,
            alpha=0.85,
            zorder=1 + turn / TURNS,
        )


def _values(record: Mapping[str, Any], view: Mapping[str, Any], color: str) -> list[Any]:
    """What each point of a view is coloured by; operations by name, as every file numbers its own."""
    if color == "view":
        return [view["view"]] * len(view["step"])
    if color == "operation":
        return [record["operations"][number] if number >= 0 else None for number in view["operation"]]
    return list(view[color])


def _palette(records: Sequence[Mapping[str, Any]], color: str) -> dict[Any, tuple[Any, str]]:
    """Label value → colour and name; what is not in it is drawn as unknown."""
    views = [view for record in records for view in record["views"]]
    if color == "view":
        return {name: (VIEW_COLOURS[name], VIEW_NAMES[name]) for name in dict.fromkeys(v["view"] for v in views)}
    if color == "correct":
        return {1: (BLUE, "answered correctly"), 0: (VERMILION, "answered wrongly")}
    if color == "operation":
        names = dict.fromkeys(name for record in records for name in record["operations"])
        return {name: (CYCLE[i % len(CYCLE)], name) for i, name in enumerate(names)}
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
        hollow: dict[str, Any] = {"markerfacecolor": "none"} if marker == MARKERS["context"] else {}
        return Line2D([], [], marker=marker, color=colour, linestyle="none", markersize=size, label=label, **hollow)

    if color == "view":
        return [handle(MARKERS[name], *palette[name]) for name in names]
    used = [value for record in records for view in record["views"] for value in _values(record, view, color)]
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
    axes.set_ylabel(in_words(record["label"]))
    means = ", ".join(f"{view} {energy:.0%}" for view, energy in record["mean_energy"].items())
    axes.set_xlabel(f"in the mean direction:\n{means}", fontsize=small())


@styled
def similarity_map(record: Mapping[str, Any]) -> Figure:
    """Cosines between steps, as they are and after the mean is removed, with a line between problems.

    Cosines as they are have a logarithmic scale of their distance from 1, from the least to the largest, since those
    of one step and all others are often near 1.

    Args:
        record: of `projections.similarity_record`.
    """
    height, width = len(record["row_steps"]), len(record["column_steps"])
    several = len(_problems(record["column_steps"])) > 1
    beside = across(2, 20)
    lines = (11 if several else 8) * mpl.rcParams["font.size"] / text_width()
    figure = new_figure(height=2 / beside * (0.75 / beside * height / width + lines))
    panels = figure.subplots(2 // beside, beside, sharey=True).ravel()
    for axes, name, title in zip(panels, ("raw", "centered"), ("cosine", "cosine, mean removed"), strict=True):
        values = np.array(record[name])
        if name == "raw":
            distances = np.clip(1 - values, LEAST_DISTANCE, 2)
            least, most = float(distances.min()), max(float(distances.max()), 1.01 * float(distances.min()))
            image = axes.imshow(distances, cmap=f"{CONTINUOUS}_r", norm=LogNorm(least, most), aspect="equal")
            ticks = [cosine for cosine in COSINES if least <= 1 - cosine <= most]
            bar = figure.colorbar(image, ax=axes, shrink=0.7, aspect=25, pad=0.02)
            bar.set_ticks([1 - cosine for cosine in ticks], labels=[f"{cosine:g}" for cosine in ticks], minor=False)
            bar.ax.yaxis.set_minor_locator(NullLocator())
            bar.ax.invert_yaxis()
        else:
            image = axes.imshow(values, cmap=SIGNED, vmin=-1, vmax=1, aspect="equal")
            figure.colorbar(image, ax=axes, shrink=0.7, aspect=25, pad=0.02, ticks=[-1, 0, 1])
        axes.set_title(title)
        axes.set_xticks(range(width), _labels(record["column_steps"]), rotation=90)
        axes.set_yticks(range(height), _labels(record["row_steps"]))
        axes.set_xlabel(AXIS_NAMES.get(record["columns"], VIEW_NAMES[record["columns"]]))
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        if several:
            above = axes.secondary_xaxis("top")
            places = _problems(record["column_steps"])
            above.set_xticks(list(places.values()), [f"problem {example + 1}" for example in places])
            above.tick_params(length=0)
            above.spines[:].set_visible(False)
        for at in _boundaries(record["column_steps"]):
            axes.axvline(at, color="black", linewidth=0.8)
        for at in _boundaries(record["row_steps"]):
            axes.axhline(at, color="black", linewidth=0.8)
        if max(height, width) <= MOST_NUMBERS:
            for (row, column), value in np.ndenumerate(values):
                red, green, blue, _ = image.cmap(image.norm(1 - value if name == "raw" else value))
                shade = "black" if 0.3 * red + 0.6 * green + 0.1 * blue > 0.5 else "white"
                axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=shade, fontsize=small())
    for axes in panels[::beside]:
        axes.set_ylabel(AXIS_NAMES.get(record["rows"], VIEW_NAMES[record["rows"]]))
    if "label" in record:
        figure.suptitle(in_words(record["label"]))
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
    beside = across(len(views), 15)
    lines = (9 + 1.3 * len(records)) * mpl.rcParams["font.size"] / text_width()
    rows = -(-len(views) // beside)
    figure = new_figure(height=rows * (max(0.24, 0.4 / beside) + lines))
    grid = figure.subplots(rows, beside, sharey=True, squeeze=False)
    panels = grid.ravel()[: len(views)]
    for axes in grid.ravel()[len(views) :]:
        axes.set_visible(False)
    styles = ("-", "--", "-.", ":")
    for axes, name in zip(panels, views, strict=True):
        for i, record in enumerate(records):
            entry = record["views"][name]
            axes.plot(
                range(1, len(entry["values"]) + 1),
                entry["values"],
                color=CYCLE[i % len(CYCLE)],
                linestyle=styles[i % len(styles)],
                label=in_legend(f"{in_words(record['label'])}: {entry['rank']:.1f}"),
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
            bbox_to_anchor=(0.5, -0.24),
        )
    lowest = min(min(entry["values"]) for record in records for entry in record["views"].values())
    panels[0].set_ylim(bottom=max(0.7 * lowest, 1e-7))  # below that is the rounding of float32
    for axes in grid[:, 0]:
        axes.set_ylabel("share of the largest")
    return figure
