"""The report of `stepjepa ablate` → figures: accuracy and representations of every arm, seed by seed.

Accuracies and their differences are those of the test split, representations those of the validation split. Every
figure says above it which cells have no finished record, so that a gap is never taken for a finding.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator

from stepjepa.visualization.marks import (
    MARKERS,
    SHADE,
    Curve,
    Report,
    all_arms,
    axis_values,
    columns,
    detectable,
    difference_axis,
    finish,
    grid_lines,
    interval,
    lambda_axis,
    mark,
    measured,
    metric_panels,
    on_axis,
    reading_lines,
    representations_legend,
    spread,
    statistics_legend,
    verdict_colour,
)
from stepjepa.visualization.style import BLUE, CYCLE, GREY, VERMILION, new_figure, small, styled


@styled
def lambda_accuracy(report: Report) -> Figure:
    """Accuracy over λ, and the paired differences to λ = 0, with single seeds and 95% intervals.

    A grey bar around zero spans the true differences that such a test finds less than four times in five.

    Args:
        report: of `ablation_report.report`, of a grid with the axis `lbd`.

    Raises:
        ValueError: the grid has no such axis.
    """
    places = on_axis(report, "lbd")
    figure = new_figure(height=0.42)
    left, right = figure.subplots(1, 2)
    compared = [each for each in report["comparisons"] if each["arm"] in places]
    for axes in (left, right):
        lambda_axis(axes, places.values())
    aside = 0.16 * min(value for value in places.values() if value > 0)
    for arm, place in places.items():
        if arm in report["arms"]:
            beside = max(1.16 * place, aside)
            interval(left, (place, beside), report["arms"][arm]["test"], "accuracy", BLUE, "o")
    for each in compared:
        place = places[each["arm"]]
        detectable(right, place, each)
        interval(right, (place, max(1.16 * place, aside)), each, "value", verdict_colour(each), "s")
    difference_axis(right, "y", "to λ = 0")
    left.set_ylabel("test accuracy (%)")
    finish(figure, report, statistics_legend(report["arms"].values(), compared))
    return figure


@styled
def lambda_representations(report: Report) -> Figure:
    """What λ does to the model: LM loss, retrieval against chance, margin, rank, energy in the mean direction.

    Curves join means over seeds, dots are seeds, bars their range. Views are those of the first pair of each problem;
    retrieval and margin also those of all consecutive pairs.

    Args:
        report: of `ablation_report.report`, of a grid with the axis `lbd`.

    Raises:
        ValueError: the grid has no such axis.
    """
    places = on_axis(report, "lbd")
    recorded = sorted((arm for arm in places if arm in report["arms"]), key=places.__getitem__)
    own = [(places[arm], report["arms"][arm]["validation"]) for arm in recorded]
    drawn = metric_panels()
    rows = math.ceil(len(drawn) / 3)
    figure = new_figure(height=0.36 * rows)
    every = figure.subplots(rows, 3, squeeze=False).flat
    for axes in every[len(drawn) :]:
        axes.remove()
    for axes, (title, curves) in zip(every, drawn.items(), strict=False):
        for name, colour in curves:
            known = [(place, found) for place, each in own if (found := measured(each, name))]
            axes.plot(*columns([(place, found["mean"]) for place, found in known]), color=colour, linewidth=1)
            for place, found in known:
                spread(axes, place, found, colour)
            levels = [(place, chance["mean"]) for place, each in own if (chance := measured(each, f"{name}_chance"))]
            axes.plot(*columns(levels), color=colour, linestyle="--", linewidth=1, zorder=1)
        axes.set_title(title)
        lambda_axis(axes, places.values())
        reading_lines(axes.axhline, title)
    finish(figure, report, representations_legend())
    return figure


@styled
def low_data(report: Report, option: str = "problems", by: str = "lbd") -> Figure:
    """Accuracy over the amount of training data, a curve for each λ, and the paired difference at every amount.

    Args:
        report: of `ablation_report.report`, of a grid with the axes `option` and `by`.
        option: drawn across, on a logarithmic scale.
        by: has a curve for each value; differences are those to its value in the grid's baseline.

    Raises:
        ValueError: the grid lacks one of the axes.
    """
    places, levels = on_axis(report, option), on_axis(report, by)
    figure = new_figure(height=0.42)
    left, right = figure.subplots(1, 2)
    name = "λ" if by == "lbd" else by
    handles = []
    for number, level in enumerate(sorted(set(levels.values()))):
        colour = GREY if level == 0 else CYCLE[number % len(CYCLE)]
        shift = 1.09**number  # side by side, or intervals would hide one another
        arms = sorted((arm for arm in places if levels[arm] == level and arm in report["arms"]), key=places.__getitem__)
        for arm in arms:
            at = places[arm] * shift
            interval(left, (at, at * 1.04), report["arms"][arm]["test"], "accuracy", colour, "o")
        means = [(places[arm] * shift, 100 * report["arms"][arm]["test"]["accuracy"]) for arm in arms]
        left.plot(*columns(means), color=colour, linewidth=0.8, zorder=1)
        handles.append(Line2D([], [], color=colour, marker="o", label=f"{name} = {level:g}"))
    compared = [each for each in report["comparisons"] if each["arm"] in places]
    for each in compared:
        place = places[each["arm"]]
        detectable(right, place, each)
        interval(right, (place, place * 1.06), each, "value", verdict_colour(each), "s")
    ticks = sorted(set(places.values()))
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xlim(ticks[0] / 1.5, ticks[-1] * 1.6)
        axes.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel(f"training {option}")
        grid_lines(axes, "y")
    bases = {axis_values(each["baseline"]).get(by) for each in compared}
    difference_axis(right, "y", f"to {name} = {' or '.join(sorted(filter(None, bases)))}")
    left.set_ylabel("test accuracy (%)")
    finish(figure, report, [*handles, *statistics_legend(report["arms"].values(), compared)])
    return figure


@styled
def arms_forest(report: Report) -> Figure:
    """Every arm in a row: accuracy, paired differences to each baseline, and four figures of its representations.

    Args:
        report: of `ablation_report.report`, of any grid.
    """
    arms = all_arms(report)
    rows = {arm: row for row, arm in enumerate(arms)}
    bases = list(dict.fromkeys(each["baseline"] for each in report["comparisons"]))
    shown = ["MRR among all steps", "centred margin", "energy in mean direction", "LM loss (nats)"]
    figure = new_figure(height=1.0)
    figure.set_figheight((11 + 2.6 * len(arms)) * mpl.rcParams["font.size"] / 72)
    panels = figure.subplots(1, 2 + len(shown), sharey=True, width_ratios=[1.2, 1.6] + [1] * len(shown))
    for arm, own in report["arms"].items():
        row = rows[arm]
        interval(panels[0], (row, row + 0.26), own["test"], "accuracy", BLUE, "o", across=True)
        for axes, title in zip(panels[2:], shown, strict=True):
            _in_row(axes, row, own["validation"], metric_panels()[title])
    for each in report["comparisons"]:
        place = bases.index(each["baseline"])
        at = rows[each["arm"]] + 0.3 * (place - (len(bases) - 1) / 2)
        detectable(panels[1], at, each, across=True, width=0.5 / len(bases))
        marker = MARKERS[place % len(MARKERS)]
        interval(panels[1], (at, at), {**each, "by_seed": ()}, "value", verdict_colour(each), marker, across=True)
    for arm in arms:
        if arm not in report["arms"]:
            panels[0].text(
                0.5,
                rows[arm],
                "no record",
                transform=panels[0].get_yaxis_transform(),
                color=VERMILION,
                ha="center",
                va="center",
                fontsize=small(),
            )
    difference_axis(panels[1], "x", f"to {bases[0]}" if len(bases) == 1 else "")
    for axes, title in zip(panels, ["test accuracy (%)", "", *shown], strict=True):
        if title:
            axes.set_xlabel(textwrap.fill(title, 10))
        axes.xaxis.label.set_size(small())
        reading_lines(axes.axvline, title)
        axes.xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 3, 5, 10]))
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        grid_lines(axes, "x")
    panels[0].set_yticks(range(len(arms)), [textwrap.fill(arm, 26) for arm in arms])
    panels[0].set_ylim(len(arms) - 0.4, -0.6)
    several = [mark(f"difference to {base}", SHADE, MARKERS[i % len(MARKERS)]) for i, base in enumerate(bases)]
    handles = [*statistics_legend(report["arms"].values(), report["comparisons"]), *(several if len(bases) > 1 else ())]
    finish(figure, report, [*handles, *representations_legend(chance="|")])
    return figure


def _in_row(axes: Axes, row: int, own: Mapping[str, Any], curves: Sequence[Curve]) -> None:
    """The figures of an arm that share a panel, one below the other, with their levels of chance."""
    for number, (name, colour) in enumerate(curves):
        if found := measured(own, name):
            spread(axes, row + 0.22 * number - 0.11 * (len(curves) - 1), found, colour, across=True)
        if chance := measured(own, f"{name}_chance"):
            axes.plot([chance["mean"]] * 2, [row - 0.3, row + 0.3], color=SHADE, linewidth=0.8, zorder=1)
