"""Arms against a baseline: the record of `stepjepa compare` → a forest plot, those of `stepjepa bench` → bars."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from stepjepa.evaluation.statistics import ALPHA
from stepjepa.visualization.style import BLUE, GREY, ORANGE, VERMILION, new_figure, small, styled

ROW, MARGINS = 3.1, 7.8  # heights in lines of type: of an arm, and of axis and legend together
UNSEEN, SHADE = "#E4E4E4", "#444444"


@styled
def forest(record: Mapping[str, Any]) -> Figure:
    """Every arm's accuracy (large dot, 95% interval; small dots are seeds) and its difference to the baseline.

    A grey bar around zero spans the true differences that such a test finds less than four times in five.

    Args:
        record: as `stepjepa compare --json` writes it.
    """
    arms = record["arms"]
    figure = new_figure(height=1.0)
    figure.set_figheight((MARGINS + ROW * len(arms)) * mpl.rcParams["font.size"] / 72)
    left, right = figure.subplots(1, 2, sharey=True)
    for row, arm in enumerate(arms):
        if arm["difference"] is None:
            _accuracy(left, row, arm, GREY)
            right.text(0, row, "  baseline", color=GREY, va="center", fontsize=small())
        else:
            _accuracy(left, row, arm, BLUE)
            _difference(right, row, arm["difference"])
    left.set_yticks(range(len(arms)), [_label(arm) for arm in arms])
    left.set_ylim(len(arms) - 0.4, -0.6)
    left.set_xlabel("accuracy (%)")
    right.set_xlabel("difference to the baseline (points)")
    right.axvline(0, color="black", linewidth=0.8, zorder=1)
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x", color="#E6E6E6", linewidth=0.6)
        axes.set_axisbelow(True)
    figure.set_layout_engine("constrained", wspace=0.06)
    figure.legend(handles=_legend(arms), loc="outside lower center", ncols=3, handletextpad=0.5, columnspacing=1.6)
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
    figure = new_figure(height=len(results) * (0.032 * len(arms) + 0.09))
    grid = figure.subplots(len(results), 2, sharey=True, squeeze=False)
    for panels, result in zip(grid, results, strict=True):
        size = f"{result['model']['vocabulary_rows']:,} rows of vocabulary"
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
    grid[0, 0].set_yticks(rows, [arm.replace("_", " ") for arm in arms])
    grid[0, 0].invert_yaxis()
    return figure


def _accuracy(axes: Axes, row: int, arm: Mapping[str, Any], colour: str) -> None:
    """One arm in the left panel; several seeds stand a little below the mean."""
    mean, low, high = (100 * arm[name] for name in ("accuracy", "low", "high"))
    axes.plot([low, high], [row, row], color=colour, solid_capstyle="butt")
    axes.plot(mean, row, "o", color=colour)
    seeds = [100 * run["accuracy"] for run in arm["runs"]]
    if len(seeds) > 1:
        below = np.full(len(seeds), row + 0.24)
        axes.plot(seeds, below, "o", color=colour, alpha=0.55, markersize=3, markeredgewidth=0)


def _difference(axes: Axes, row: int, found: Mapping[str, Any]) -> None:
    """One arm in the right panel, in colour where the corrected p-value is below 0.05."""
    value, low, high = (100 * found[name] for name in ("value", "low", "high"))
    if found["detectable"] is not None:
        span = 100 * found["detectable"]
        axes.barh(row, 2 * span, left=-span, height=0.44, color=UNSEEN, zorder=0.6)
    colour = VERMILION if found["p_holm"] < ALPHA else BLUE
    axes.plot([low, high], [row, row], color=colour, solid_capstyle="butt")
    axes.plot(value, row, "s", color=colour)


def _label(arm: Mapping[str, Any]) -> str:
    seeds = len(arm["runs"])
    return arm["name"] if arm["fixed"] else f"{arm['name']}\n{seeds} seed{'s' if seeds > 1 else ''}"


def _legend(arms: Any) -> list[Any]:
    """What the marks mean; only those that occur."""
    found = [arm["difference"] for arm in arms if arm["difference"]]
    shown = [each["p_holm"] < ALPHA for each in found]
    entries = [
        (True, Line2D([], [], color=SHADE, marker="o", label="mean, 95% interval")),
        (any(len(arm["runs"]) > 1 for arm in arms), _dot("one seed", SHADE, "o", 3)),
        (any(each["detectable"] is not None for each in found), Patch(color=UNSEEN, label="found in < 80% of cases")),
        (any(shown), _dot("p < 0.05, corrected", VERMILION, "s")),
        (not all(shown), _dot("no difference shown", BLUE, "s")),
    ]
    return [handle for occurs, handle in entries if occurs]


def _dot(label: str, colour: str, marker: str, size: float | None = None) -> Line2D:
    return Line2D([], [], color=colour, marker=marker, markersize=size, linestyle="none", label=label)
