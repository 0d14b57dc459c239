"""The report of `stepjepa ablate` → figures: accuracy and representations of every arm, seed by seed.

Accuracies and their differences are those of the test split, representations those of the validation split. Every
figure says above it which cells have no finished record, so that a gap is never taken for a finding.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from stepjepa.jepa.metrics import METRICS, NARROW
from stepjepa.visualization.comparison import (
    SHADE,
    SMALL_SEED,
    difference_marks,
    figure_of_lines,
    grid_lines,
    interval,
    legend_mark,
    marker_size,
    marks,
    rows_of_arms,
    seed_dots,
    statistics_legend,
)
from stepjepa.visualization.grid_reports import (
    PAIRS,
    VIEWS,
    Curve,
    Report,
    all_arms,
    axis_values,
    measured,
    metric_panels,
    missing_cells,
    on_axis,
    recorded,
)
from stepjepa.visualization.style import (
    BLUE,
    CYCLE,
    GREY,
    VERMILION,
    across,
    legend_columns,
    new_figure,
    small,
    styled,
    text_width,
    wrapped,
)
from stepjepa.visualization.words import arm_in_words

MEAN = 0.8
"""Size of the dot of a mean over seeds, a share of the house's own."""
SIDE_BY_SIDE = 0.1
"""Between figures of one λ, a share of the distance between two decades."""
LINEAR = 0.6
"""Place between 0 and the least λ, likewise."""
MARKERS = "sD^"
"""Of differences to the first, second, third baseline."""


@styled
def lambda_accuracy(report: Report) -> Figure:
    """Accuracy over λ, and the paired differences to the baseline, with single seeds and 95% intervals.

    A grey bar around zero spans the true differences that such a test finds less than four times in five.

    Args:
        report: of `experiments.report.report`, of a grid with the axis `lbd`.

    Raises:
        ValueError: the grid has no such axis.
    """
    places = on_axis(report, "lbd")
    figure, left, right = _two_panels()
    for axes in (left, right):
        _lambda_axis(axes, places.values(), across(2, 20))
    aside = 0.16 * min(value for value in places.values() if value > 0)
    for arm, place in places.items():
        if arm in report["arms"]:
            interval(left, place, report["arms"][arm]["test"], "accuracy", BLUE, beside=max(1.16 * place, aside))
    comparisons = [entry for entry in report["comparisons"] if entry["arm"] in places]
    for entry in comparisons:
        place = places[entry["arm"]]
        difference_marks(right, place, entry, beside=max(1.16 * place, aside))
    _difference_axis(right, _to_baselines(comparisons, "lbd"))
    left.set_ylabel("test accuracy (%)")
    _finish(figure, report, _statistics(report, comparisons))
    return figure


@styled
def lambda_representations(report: Report) -> Figure:
    """What λ does to the model: LM loss, retrieval against chance, margin, rank, energy in the mean direction.

    Curves join means over seeds, dots are seeds, bars their range. Views are those of the first pair of each problem;
    retrieval and margin also those of all consecutive pairs.

    Args:
        report: of `experiments.report.report`, of a grid with the axis `lbd`.

    Raises:
        ValueError: the grid has no such axis.
    """
    places = on_axis(report, "lbd")
    splits = [(places[arm], report["arms"][arm]["validation"]) for arm in recorded(report, places)]
    panels = metric_panels()
    beside = across(3, 14)
    rows = math.ceil(len(panels) / beside)
    figure = new_figure(height=1.08 * rows / beside)
    all_axes = figure.subplots(rows, beside, squeeze=False).ravel()
    for axes in all_axes[len(panels) :]:
        axes.remove()
    for axes, (title, curves) in zip(all_axes, panels.items(), strict=False):
        for number, (name, colour) in enumerate(curves):
            summaries = [(place, summary) for place, split in splits if (summary := measured(split, name))]
            shift = SIDE_BY_SIDE * (number - (len(curves) - 1) / 2)
            shifted = [(_aside(place, places.values(), shift), summary) for place, summary in summaries]
            _curve(axes, [(place, summary["mean"]) for place, summary in shifted], color=colour)
            for place, summary in shifted:
                _spread(axes, place, summary, colour)
            chance = [(place, level["mean"]) for place, split in splits if (level := measured(split, f"{name}_chance"))]
            _curve(axes, chance, color=colour, linestyle="--", zorder=1)
        axes.set_title(wrapped(title, 0.66 * text_width() / beside))
        _lambda_axis(axes, places.values(), beside)
        _reading_lines(axes.axhline, title)
    _finish(figure, report, _representations_legend())
    return figure


@styled
def low_data(report: Report, option: str = "problems", by: str = "lbd") -> Figure:
    """Accuracy over the amount of training data, a curve for each λ, and the paired difference at every amount.

    Args:
        report: of `experiments.report.report`, of a grid with the axes `option` and `by`.
        option: drawn across, on a logarithmic scale.
        by: has a curve for each value; differences are those to its value in the grid's baseline.

    Raises:
        ValueError: the grid lacks one of the axes.
    """
    places, levels = on_axis(report, option), on_axis(report, by)
    figure, left, right = _two_panels()
    name = "λ" if by == "lbd" else by
    handles = []
    for number, level in enumerate(sorted(set(levels.values()))):
        colour = GREY if level == 0 else CYCLE[number % len(CYCLE)]
        shift = 1.16**number  # side by side, or intervals would hide one another
        means = []
        for arm in recorded(report, places):
            if levels[arm] == level:
                place, split = places[arm] * shift, report["arms"][arm]["test"]
                interval(left, place, split, "accuracy", colour, beside=place * 1.05)
                means.append((place, 100 * split["accuracy"]))
        _curve(left, means, color=colour, linewidth=0.8, zorder=1)
        handles.append(Line2D([], [], color=colour, marker="o", label=f"{name} = {level:g}"))
    comparisons = [entry for entry in report["comparisons"] if entry["arm"] in places]
    for entry in comparisons:
        place = places[entry["arm"]]
        difference_marks(right, place, entry, beside=place * 1.06)
    ticks = sorted(set(places.values()))
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xlim(ticks[0] / 1.5, ticks[-1] * 1.6)
        axes.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel(f"training {option}")
        grid_lines(axes, "y")
    _difference_axis(right, _to_baselines(comparisons, by))
    left.set_ylabel("test accuracy (%)")
    _finish(figure, report, [*handles, *_statistics(report, comparisons)])
    return figure


def _to_baselines(comparisons: Sequence[Mapping[str, Any]], option: str) -> str:
    """What differences are to, by an option of the baselines: "to λ = 0"."""
    bases = {axis_values(entry["baseline"]).get(option) for entry in comparisons}
    return f"to {'λ' if option == 'lbd' else option} = {' or '.join(sorted(filter(None, bases)))}"


@styled
def arms_forest(report: Report) -> Figure:
    """Every arm in a row: accuracy, paired differences to each baseline, LM loss, and three figures of representations.

    Args:
        report: of `experiments.report.report`, of any grid.
    """
    rows = {arm: row for row, arm in enumerate(all_arms(report))}
    bases = list(dict.fromkeys(entry["baseline"] for entry in report["comparisons"]))
    titles = ["LM loss (nats)", "MRR among all steps", "centred margin", "energy in mean direction"]
    curves = metric_panels()
    beside = across(3, 14.5)
    below = 6 // beside
    figure = figure_of_lines(below * (3.5 + (2 if beside == 3 else 2.4) * len(rows)) + (5 if beside == 3 else 9))
    panels = figure.subplots(below, beside, sharey=True).ravel()
    for arm, splits in report["arms"].items():
        row = rows[arm]
        interval(panels[0], row, splits["test"], "accuracy", BLUE, beside=row + 0.26, across=True)
        for axes, title in zip(panels[2:], titles, strict=True):
            _in_row(axes, row, splits["validation"], curves[title])
    for entry in report["comparisons"]:
        number = bases.index(entry["baseline"])
        place = rows[entry["arm"]] + 0.3 * (number - (len(bases) - 1) / 2)
        marker = MARKERS[number % len(MARKERS)]
        difference_marks(panels[1], place, entry, marker, across=True, width=0.5 / len(bases))
    for arm in (arm for arm in rows if arm not in report["arms"]):
        style: dict[str, Any] = {"color": VERMILION, "ha": "center", "va": "center", "fontsize": small()}
        panels[0].text(0.5, rows[arm], "no record", transform=panels[0].get_yaxis_transform(), **style)
    names = [arm_in_words(base) for base in bases]
    panels[1].axvline(0, color="black", linewidth=0.8, zorder=1)
    to = f"difference to {names[0]} (points)" if len(bases) == 1 else "difference (points)"
    for axes, title in zip(panels, ["test accuracy (%)", to, *titles], strict=True):
        axes.set_title(wrapped(title, 0.72 * text_width() / beside), fontsize=small())
        _reading_lines(axes.axvline, title)
    labels = [wrapped(arm_in_words(arm), (0.2 if beside == 3 else 0.3) * text_width()) for arm in rows]
    rows_of_arms(panels, labels, ticks=3, steps=[1, 2, 3, 5, 10])
    several = [legend_mark(f"difference to {name}", SHADE, MARKERS[i % len(MARKERS)]) for i, name in enumerate(names)]
    handles = [*_statistics(report, report["comparisons"]), *(several if len(bases) > 1 else ())]
    _finish(figure, report, [*handles, *_representations_legend(chance="|")])
    return figure


# -------- parts of the figures --------


def _two_panels() -> tuple[Figure, Axes, Axes]:
    """Accuracy and difference, side by side or one below the other."""
    beside = across(2, 20)
    figure = new_figure(height=0.42 if beside == 2 else 1.6)
    left, right = figure.subplots(2 // beside, beside).ravel()
    return figure, left, right


def _aside(place: float, places: Iterable[float], share: float) -> float:
    """A place on the λ axis moved by a share of the distance between two decades."""
    least = min(value for value in places if value > 0)
    return place * 10**share if place > 0 else share * least / LINEAR


def _lambda_axis(axes: Axes, values: Any, beside: int) -> None:
    """λ on a logarithmic axis that has a place for 0, with a tick at every value.

    Where as many panels stand `beside` each other that labels would touch, every second one is left out.
    """
    ticks = sorted(set(values))
    least = min(value for value in ticks if value > 0)
    axes.set_xscale("symlog", linthresh=least, linscale=LINEAR)
    labels = [f"{tick:g}" for tick in ticks]
    if text_width() / beside < 3.4 * small() * len(ticks):
        labels[2::2] = [""] * len(labels[2::2])
    axes.set_xticks(ticks, labels)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(-0.35 * least, 1.8 * ticks[-1])
    axes.set_xlabel("λ")
    grid_lines(axes, "y")


def _difference_axis(axes: Axes, base: str) -> None:
    """Names the axis of differences and draws its zero."""
    axes.axhline(0, color="black", linewidth=0.8, zorder=1)
    axes.set_ylabel(f"difference {base} (points)")


def _reading_lines(line: Any, title: str) -> None:
    """What a figure is to be read against."""
    levels = [
        metric.chance for metric in METRICS.values() if metric.panel == title and isinstance(metric.chance, float)
    ]
    for level in levels:
        line(level, color="black", linewidth=0.8, zorder=1)
    if title == METRICS["mean_energy"].panel:
        line(NARROW, color=GREY, linestyle=":", linewidth=1, zorder=1)


def _curve(axes: Axes, points: Sequence[tuple[float, float]], **style: Any) -> None:
    """A thin line through points, which may be none."""
    axes.plot([x for x, _ in points], [y for _, y in points], **{"linewidth": 1, **style})


def _spread(axes: Axes, place: float, summary: Mapping[str, Any], colour: str, across: bool = False) -> None:
    """Mean and range over seeds of a figure, and the seeds, where the report keeps their values."""
    marks(axes, [place] * 2, [summary["low"], summary["high"]], across, color=colour, linewidth=1)
    seeds = [value for value in summary.get("by_seed", ()) if value is not None]
    seed_dots(axes, place, seeds, across, colour, marker_size(SMALL_SEED))
    marks(axes, [place], [summary["mean"]], across, marker="o", markersize=marker_size(MEAN), color=colour)


def _in_row(axes: Axes, row: int, split: Mapping[str, Any], curves: Sequence[Curve]) -> None:
    """The figures of an arm that share a panel, one below the other, with their levels of chance."""
    for number, (name, colour) in enumerate(curves):
        if summary := measured(split, name):
            _spread(axes, row + 0.22 * number - 0.11 * (len(curves) - 1), summary, colour, across=True)
        if chance := measured(split, f"{name}_chance"):
            axes.plot([chance["mean"]] * 2, [row - 0.3, row + 0.3], color=SHADE, linewidth=0.8, zorder=1)


def _statistics(report: Report, comparisons: Iterable[Mapping[str, Any]]) -> list[Any]:
    seeds = [len(arm["seeds"]) for arm in report["arms"].values()]
    return statistics_legend(seeds, comparisons, marker_size(SMALL_SEED))


def _representations_legend(chance: str = "--") -> list[Any]:
    """What the colours of the representations' figures mean."""
    dot: dict[str, Any] = {"marker": "o", "markersize": marker_size(SMALL_SEED)}
    colours = [Line2D([], [], color=colour, label=label, **dot) for colour, label in (*PAIRS.values(), *VIEWS.values())]
    line = Line2D([], [], color=SHADE, linestyle="--", label="chance")
    level = legend_mark("chance", SHADE, "|", marker_size(2)) if chance == "|" else line
    return [*colours, level, Line2D([], [], color=GREY, linestyle=":", label=f"{NARROW:.0%}: narrow from here")]


def _finish(figure: Figure, report: Report, handles: Sequence[Any]) -> None:
    """Legend below; above, what is missing."""
    figure.legend(
        handles=list(handles), loc="outside lower center", ncols=legend_columns(4), handletextpad=0.5, columnspacing=1.6
    )
    missing = missing_cells(report)
    warnings = ["MISSING: " + ". ".join(missing)] if missing else []
    if max(len(arm["seeds"]) for arm in report["arms"].values()) == 1:
        warnings.append("ONE SEED an arm: intervals and p-values are about these models, not about other seeds")
    if warnings:
        text = "\n".join(map(wrapped, warnings))
        figure.suptitle(text, color=VERMILION, fontsize=small())
