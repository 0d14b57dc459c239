"""Parts of the ablation figures: what is missing, intervals, spreads over seeds, axes and legends."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import NullLocator

from stepjepa.evaluation.statistics import ALPHA
from stepjepa.jepa.metrics import METRICS, NARROW
from stepjepa.visualization.style import BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILION, small

Report = Mapping[str, Any]
Curve = tuple[str, str]
"""Name of a figure in the report, and its colour."""
UNSEEN, SHADE, GRID = "#E4E4E4", "#444444", "#E6E6E6"
PAIRS = {"first": (BLUE, "first pair of a problem"), "consecutive": (PURPLE, "all consecutive pairs")}
VIEWS = {"context": (ORANGE, "context view"), "target": (GREEN, "target view")}
SEED, MEAN = 0.6, 0.8
"""Sizes of dots, of the house's own."""
MARKERS = "sD^"
"""Of differences to the first, second, third baseline."""


# ---- what is there -------------------------------------------------------------------------------------------


def metric_panels() -> dict[str, list[Curve]]:
    """Title of each panel about a model and the figures in it: the LM loss, and the metrics that have a panel.

    Retrieval and pairs are shown of first and of all consecutive pairs, both views of first pairs only.
    """
    drawn: dict[str, list[Curve]] = {"LM loss (nats)": [("lm_loss", SHADE)]}
    for name, metric in METRICS.items():
        if not metric.panel:
            continue
        if metric.of == "view":
            drawn[metric.panel] = [(f"first_{name}_{view}", colour) for view, (colour, _) in VIEWS.items()]
            continue
        places = {"_all": " among all steps", "_own": " within the problem"} if metric.of == "ranks" else {"": ""}
        for where, words in places.items():
            curves = [(f"{pairs}_{name}{where}", colour) for pairs, (colour, _) in PAIRS.items()]
            drawn[metric.panel + words] = curves
    return drawn


def axis_values(arm: str) -> dict[str, str]:
    """What the name of an arm of a grid's axes says: `"problems=64, lbd=0"` → `{"problems": "64", "lbd": "0"}`."""
    return dict(part.split("=", 1) for part in arm.split(", ") if "=" in part)


def missing_cells(report: Report) -> list[str]:
    """What the figures of a report lack, in words: cells not run or failed, and runs that diverged."""
    lines = []
    for what, cells in (("not run to the end", report["unfinished"]), ("failed", report["failed"])):
        seeds: dict[str, list[int]] = {}
        for cell in cells:
            seeds.setdefault(cell["arm"], []).append(cell["seed"])
        alike: dict[tuple[int, ...], list[str]] = {}
        for arm, own in seeds.items():
            alike.setdefault(tuple(own), []).append(arm)
        for numbers, arms in alike.items():
            where = "; ".join(arms) if len(arms) < len(all_arms(report)) else "every arm"
            lines.append(f"{what}: seed{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))} of {where}")
    for arm, found in report["arms"].items():
        diverged = len(found["seeds"]) - found["validation"]["lm_loss"]["seeds"]
        if diverged:
            lines.append(f"diverged, only accuracy is known: {diverged} of {len(found['seeds'])} seeds of {arm}")
    return lines


def all_arms(report: Report) -> list[str]:
    """The arms of the grid; those without a finished record come last."""
    return list(dict.fromkeys([*report["arms"], *(cell["arm"] for cell in (*report["failed"], *report["unfinished"]))]))


def on_axis(report: Report, option: str) -> dict[str, float]:
    """Arms of the axis `option`, recorded or not, and their values on it.

    Raises:
        ValueError: the grid has no such axis.
    """
    values = {arm: axis_values(arm) for arm in all_arms(report)}
    found = {arm: float(own[option]) for arm, own in values.items() if option in own}
    if not found:
        raise ValueError(f"{option!r} is no axis of the grid {report['grid']}; its arms are {'; '.join(values)}.")
    return found


def measured(own: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """A figure of a split over the seeds; None where no seed has it, as after divergence."""
    found = own.get(name)
    return None if found is None or found["mean"] is None else found


# ---- parts of the figures ------------------------------------------------------------------------------------


def lambda_axis(axes: Axes, values: Any) -> None:
    """λ on a logarithmic axis that has a place for 0, with a tick at every value."""
    ticks = sorted(set(values))
    least = min(value for value in ticks if value > 0)
    axes.set_xscale("symlog", linthresh=least, linscale=0.6)
    axes.set_xticks(ticks, [f"{tick:g}".replace("0.", ".") for tick in ticks])  # short: panels may be narrow
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(-0.35 * least, 1.8 * ticks[-1])
    axes.set_xlabel("λ")
    grid_lines(axes, "y")


def difference_axis(axes: Axes, direction: str, base: str) -> None:
    """Names the axis of differences and draws its zero; `direction` is "y" or "x"."""
    line, label = (axes.axhline, axes.set_ylabel) if direction == "y" else (axes.axvline, axes.set_xlabel)
    line(0, color="black", linewidth=0.8, zorder=1)
    text = f"difference {base}".rstrip() + " (points)"
    label(textwrap.fill(text, 15) if direction == "x" else text)


def reading_lines(line: Any, title: str) -> None:
    """What a figure is to be read against."""
    levels = [
        metric.chance for metric in METRICS.values() if metric.panel == title and isinstance(metric.chance, float)
    ]
    for level in levels:
        line(level, color="black", linewidth=0.8, zorder=1)
    if title == METRICS["mean_energy"].panel:
        line(NARROW, color=GREY, linestyle=":", linewidth=1, zorder=1)


def grid_lines(axes: Axes, direction: Any) -> None:
    """Pale lines behind everything."""
    axes.grid(axis=direction, color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)


def columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Points as two lists, for `plot`."""
    return [x for x, _ in points], [y for _, y in points]


def interval(
    axes: Axes,
    places: tuple[float, float],
    found: Mapping[str, Any],
    mean: str,
    colour: str,
    marker: str,
    across: bool = False,
) -> None:
    """Mean and 95% interval of shares, in per cent, at the first place; single seeds, if several, at the second.

    With `across` the values lie on the horizontal axis.
    """
    seeds = [100 * share for share in found["by_seed"]] if len(found["by_seed"]) > 1 else []
    _marks(axes, [places[0]] * 2, [100 * found["low"], 100 * found["high"]], across, color=colour)
    _dots(axes, [places[1]] * len(seeds), seeds, across, colour)
    _marks(axes, [places[0]], [100 * found[mean]], across, marker=marker, color=colour)


def spread(axes: Axes, place: float, figure: Mapping[str, Any], colour: str, across: bool = False) -> None:
    """Mean and range over seeds of a figure, and the seeds, where the report keeps their values."""
    seeds = [value for value in figure.get("by_seed", ()) if value is not None]
    _marks(axes, [place] * 2, [figure["low"], figure["high"]], across, color=colour, linewidth=1)
    _dots(axes, [place] * len(seeds), seeds, across, colour)
    _marks(axes, [place], [figure["mean"]], across, marker="o", markersize=_size(MEAN), color=colour)


def _marks(axes: Axes, places: Sequence[float], values: Sequence[float], across: bool, **style: Any) -> None:
    axes.plot(*((values, places) if across else (places, values)), solid_capstyle="butt", **style)


def _dots(axes: Axes, places: Sequence[float], values: Sequence[float], across: bool, colour: str) -> None:
    """Single seeds."""
    _marks(
        axes,
        places,
        values,
        across,
        color=colour,
        marker="o",
        markersize=_size(SEED),
        linestyle="none",
        alpha=0.55,
        markeredgewidth=0,
    )


def _size(share: float) -> float:
    return share * float(mpl.rcParams["lines.markersize"])


def detectable(axes: Axes, place: float, found: Mapping[str, Any], across: bool = False, width: float = 0.5) -> None:
    """What a test like this one would miss too often."""
    if found["detectable"] is None:
        return
    span = 100 * found["detectable"]
    if across:
        axes.barh(place, 2 * span, left=-span, height=width, color=UNSEEN, zorder=0.6)
    else:
        axes.plot([place] * 2, [-span, span], color=UNSEEN, linewidth=9, solid_capstyle="butt", zorder=0.6)


def verdict_colour(found: Mapping[str, Any]) -> str:
    """Colour of a difference: whether its p-value, corrected for all comparisons, is below 0.05."""
    return VERMILION if found["p_holm"] < ALPHA else BLUE


def statistics_legend(arms: Any, compared: Sequence[Mapping[str, Any]]) -> list[Any]:
    """What the marks of accuracies and differences mean; only those that occur."""
    shown = [each["p_holm"] < ALPHA for each in compared]
    entries = [
        (True, Line2D([], [], color=SHADE, marker="o", label="mean, 95% interval")),
        (any(len(arm["seeds"]) > 1 for arm in arms), mark("one seed", SHADE, "o", SEED)),
        (
            any(each["detectable"] is not None for each in compared),
            Patch(color=UNSEEN, label="found in < 80% of cases"),
        ),
        (any(shown), mark("p < 0.05, corrected", VERMILION, "s")),
        (bool(shown) and not all(shown), mark("no difference shown", BLUE, "s")),
    ]
    return [handle for occurs, handle in entries if occurs]


def representations_legend(chance: str = "--") -> list[Any]:
    """What the colours of the representations' figures mean."""
    colours = [
        Line2D([], [], color=colour, marker="o", markersize=_size(SEED), label=label)
        for colour, label in (*PAIRS.values(), *VIEWS.values())
    ]
    level = (
        mark("chance", SHADE, "|", 2) if chance == "|" else Line2D([], [], color=SHADE, linestyle="--", label="chance")
    )
    narrow = Line2D([], [], color=GREY, linestyle=":", label=f"{NARROW:.0%}: narrow from here")
    return [*colours, level, narrow]


def mark(label: str, colour: str, marker: str, size: float = 1) -> Line2D:
    """A mark without a line, for a legend; the size is a share of the house's own."""
    return Line2D([], [], color=colour, marker=marker, markersize=_size(size), linestyle="none", label=label)


def finish(figure: Figure, report: Report, handles: Sequence[Any]) -> None:
    """Legend below; above, what is missing."""
    figure.legend(handles=list(handles), loc="outside lower center", ncols=4, handletextpad=0.5, columnspacing=1.6)
    missing = missing_cells(report)
    said = ["MISSING: " + ". ".join(missing)] if missing else []
    if max(len(arm["seeds"]) for arm in report["arms"].values()) == 1:
        said.append("ONE SEED an arm: intervals and p-values are about these models, not about other seeds")
    if said:
        figure.suptitle("\n".join(textwrap.fill(text, 105) for text in said), color=VERMILION, fontsize=small())
