"""Arms: accuracies alone or against a baseline (the record of `stepjepa compare`), and what they cost (`bench`).

The marks (mean with its interval, single seeds, the bar of what a test would miss) are also those of grids' figures.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from stepjepa.evaluation.statistics import ALPHA
from stepjepa.visualization.style import (
    BLUE,
    GREY,
    ORANGE,
    VERMILION,
    across,
    legend_columns,
    new_figure,
    small,
    styled,
    text_width,
    wrapped,
)
from stepjepa.visualization.words import arm_in_words, in_words

UNSEEN, SHADE = "#E4E4E4", "#444444"
SEED = 3.0
"""Size of the dot of a seed in the forest plot, in points."""
SMALL_SEED = 0.6
"""The same in the figures of grids, a share of the house's own size of marks."""


@styled
def forest(record: Mapping[str, Any]) -> Figure:
    """Every arm's accuracy (large dot, 95% interval; small dots are seeds) and its difference to the baseline.

    A grey bar around zero spans the true differences that such a test finds less than four times in five.

    Args:
        record: as `stepjepa compare --json` writes it.
    """
    arms = record["arms"]
    figure = figure_of_lines(7.8 + 3.1 * len(arms))
    left, right = figure.subplots(1, 2, sharey=True)
    narrow = across(2, 20) == 1
    for row, arm in enumerate(arms):
        difference, seeds = arm["difference"], [100 * run["accuracy"] for run in arm["runs"]]
        colour = BLUE if difference else GREY
        interval(left, row, arm, "accuracy", colour, across=True)
        if len(seeds) > 1:
            seed_dots(left, row + 0.24, seeds, True, colour, SEED)
        if difference:
            difference_marks(right, row, difference, across=True, width=0.44)
        else:
            right.text(0, row, "  baseline", color=GREY, va="center", fontsize=small())
    left.set_xlabel("accuracy (%)")
    right.set_xlabel("difference (points)" if narrow else "difference to the baseline (points)")
    right.axvline(0, color="black", linewidth=0.8, zorder=1)
    rows_of_arms((left, right), [_label(arm) for arm in arms], ticks=3 if narrow else 6, steps=[1, 2, 5, 10])
    figure.set_layout_engine("constrained", wspace=0.06)
    handles = statistics_legend([len(arm["runs"]) for arm in arms], [arm["difference"] for arm in arms], SEED)
    figure.legend(handles=handles, loc="outside lower center", ncols=legend_columns(3), columnspacing=1.6)
    return figure


def _label(arm: Mapping[str, Any]) -> str:
    seeds = len(arm["runs"])
    name = wrapped(in_words(arm["name"]), 0.3 * text_width())
    return name if arm["fixed"] else f"{name}\n{seeds} seed{'s' if seeds > 1 else ''}"


@styled
def accuracies(arms: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Accuracies one below the other, each with its 95% interval and in figures; nothing is compared.

    Args:
        arms: by name, each with `accuracy`, `low` and `high`, shares from 0 to 1.
    """
    figure = figure_of_lines(4 + 1.9 * len(arms))
    axes = figure.subplots()
    for row, arm in enumerate(arms.values()):
        interval(axes, row, arm, "accuracy", BLUE, across=True)
        number, end = f"{arm['accuracy']:.1%}", (100 * arm["high"], row)
        axes.annotate(number, end, (8, 0), textcoords="offset points", va="center", fontsize=small())
    axes.set(xlim=(0, 100), xlabel="right answers (%), 95% interval")
    rows_of_arms([axes], [in_words(name) for name in arms], ticks=6, steps=[1, 2, 5, 10])
    return figure


@styled
def price_bars(*results: Mapping[str, Any]) -> Figure:
    """Time and peak memory of each arm of `stepjepa bench`, as multiples of plain fine-tuning.

    Args:
        results: as `stepjepa bench --json` writes them; each gets a row with a panel for time and one for memory.
    """
    arms = list(results[0]["arms"])
    colours = [GREY if arm.startswith("plain") else ORANGE if arm.startswith("single") else BLUE for arm in arms]
    rows = range(len(arms))
    beside = across(2, 20)
    figure = figure_of_lines(2 / beside * len(results) * ((2 if beside == 2 else 1.6) * len(arms) + 4.6))
    grid = figure.subplots(2 * len(results) // beside, beside, sharey=True, squeeze=False)
    for panels, result in zip(grid.reshape(-1, 2), results, strict=True):
        size = f"{result['model']['vocabulary_rows']:,} rows" + (" of vocabulary" if beside == 2 else "")
        ratios = [result["arms"][arm]["ratio_to_plain"] for arm in arms]
        medians = [ratio["median"] for ratio in ratios]
        spans = [[r["median"] - r["q1"] for r in ratios], [r["q3"] - r["median"] for r in ratios]]
        growth = [result["arms"][arm]["memory"]["growth_bytes"] for arm in arms]
        memory = [value / growth[arms.index("plain")] for value in growth]
        for axes, values, title, errors in (
            (panels[0], medians, f"time, {size}", spans),
            (panels[1], memory, f"peak memory, {size}", None),
        ):
            axes.barh(rows, values, color=colours, xerr=errors, error_kw={"linewidth": 1})
            for row, value in enumerate(values):
                inside = {"va": "center", "color": "white", "fontweight": "bold", "fontsize": small()}
                axes.annotate(f"{value:.2f}", (0, row), (3, 0), textcoords="offset points", **inside)
            axes.axvline(1, color="black", linewidth=0.8, linestyle=":")
            axes.set_title(title)
            axes.set_xlabel("× plain fine-tuning")
    grid[0, 0].set_yticks(rows, [wrapped(arm_in_words(arm), 15 * mpl.rcParams["font.size"]) for arm in arms])
    grid[0, 0].invert_yaxis()
    return figure


# -------- marks --------


def figure_of_lines(lines: float) -> Figure:
    """An empty figure of the full text width, so many lines of type high."""
    figure = new_figure(height=1.0)
    figure.set_figheight(lines * mpl.rcParams["font.size"] / 72)
    return figure


def rows_of_arms(panels: Sequence[Axes], labels: Sequence[str], ticks: int, steps: Sequence[float]) -> None:
    """A row for each arm from top to bottom, named on the left, with lines at the values."""
    for axes in panels:
        axes.xaxis.set_major_locator(MaxNLocator(ticks, steps=steps))
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        grid_lines(axes, "x")
    panels[0].set_yticks(range(len(labels)), labels)
    panels[0].set_ylim(len(labels) - 0.4, -0.6)


def grid_lines(axes: Axes, direction: Literal["x", "y"]) -> None:
    """Pale lines behind everything."""
    axes.grid(axis=direction, color="#E6E6E6", linewidth=0.6)
    axes.set_axisbelow(True)


def interval(
    axes: Axes,
    place: float,
    shares: Mapping[str, Any],
    mean: str,
    colour: str,
    marker: str = "o",
    beside: float | None = None,
    across: bool = False,
) -> None:
    """Mean and 95% interval of shares, in per cent; single seeds, if several, at the place `beside`.

    With `across` the values lie on the horizontal axis.
    """
    marks(axes, [place] * 2, [100 * shares["low"], 100 * shares["high"]], across, color=colour)
    if beside is not None and len(shares["by_seed"]) > 1:
        seed_dots(axes, beside, [100 * share for share in shares["by_seed"]], across, colour, marker_size(SMALL_SEED))
    marks(axes, [place], [100 * shares[mean]], across, marker=marker, color=colour)


def marks(axes: Axes, places: Sequence[float], values: Sequence[float], across: bool, **style: Any) -> None:
    """A line or a mark, upright or `across`."""
    axes.plot(*((values, places) if across else (places, values)), solid_capstyle="butt", **style)


def seed_dots(axes: Axes, place: float, values: Sequence[float], across: bool, colour: str, size: float) -> None:
    """Single seeds, small and pale."""
    look: dict[str, Any] = {"marker": "o", "linestyle": "none", "alpha": 0.55, "markeredgewidth": 0}
    marks(axes, [place] * len(values), values, across, color=colour, markersize=size, **look)


def difference_marks(
    axes: Axes,
    place: float,
    difference: Mapping[str, Any],
    marker: str = "s",
    beside: float | None = None,
    across: bool = False,
    width: float = 0.5,
) -> None:
    """A paired difference as `interval` draws it, in colour where the p-value, corrected for all comparisons, is below
    0.05; under it the bar of what such a test would miss too often."""
    if difference["detectable"] is not None:
        span = 100 * difference["detectable"]
        if across:
            axes.barh(place, 2 * span, left=-span, height=width, color=UNSEEN, zorder=0.6)
        else:
            axes.plot([place] * 2, [-span, span], color=UNSEEN, linewidth=9, solid_capstyle="butt", zorder=0.6)
    colour = VERMILION if difference["p_holm"] < ALPHA else BLUE
    interval(axes, place, difference, "value", colour, marker, beside, across)


def statistics_legend(
    seeds: Iterable[int], differences: Iterable[Mapping[str, Any] | None], seed_size: float
) -> list[Any]:
    """What the marks of accuracies and differences mean; only those that occur.

    Args:
        seeds: how many each arm has.
        differences: of the arms; None for a baseline.
        seed_size: size of the dot of a seed, in points.
    """
    compared = [difference for difference in differences if difference]
    shown = [difference["p_holm"] < ALPHA for difference in compared]
    missable = any(difference["detectable"] is not None for difference in compared)
    entries = [
        (True, Line2D([], [], color=SHADE, marker="o", label="mean, 95% interval")),
        (max(seeds) > 1, legend_mark("one seed", SHADE, "o", seed_size)),
        (missable, Patch(color=UNSEEN, label="found in < 80% of cases")),
        (any(shown), legend_mark("p < 0.05, corrected", VERMILION, "s")),
        (not all(shown), legend_mark("no difference shown", BLUE, "s")),
    ]
    return [handle for occurs, handle in entries if occurs]


def legend_mark(label: str, colour: str, marker: str, size: float | None = None) -> Line2D:
    """A mark without a line, for a legend; the size in points, by default the house's own."""
    return Line2D([], [], color=colour, marker=marker, markersize=size, linestyle="none", label=label)


def marker_size(share: float) -> float:
    """A share of the house's own size, in points."""
    return share * float(mpl.rcParams["lines.markersize"])
