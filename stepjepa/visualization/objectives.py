"""The report of a grid of objectives → one map of them: is the true next step found, and is anything lost by it?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from stepjepa.evaluation.statistics import MARGIN
from stepjepa.experiments.report import to_plain
from stepjepa.training.options import OVER_TOKENS
from stepjepa.visualization.comparison import grid_lines
from stepjepa.visualization.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
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

FOUND = 0.92
"""R@1 among all held-out steps that an objective is to reach."""
FAMILIES = {
    "no JEPA term": GREY,
    "a distance, its own target": ORANGE,
    "a distance, another model's target": PURPLE,
    "InfoNCE, its own target": BLUE,
    "InfoNCE, another model's target": GREEN,
    "over tokens": VERMILION,
}
LEAST = 0.2  # per cent: what is found less often stands there
FEW = 8  # points, of which none is called far from the others
AROUND = [
    *((1, 0.4), (1, -0.4), (-1, 0.4), (-1, -0.4)),
    *((0.7, 0.8), (0.7, -0.8), (-0.7, 0.8), (-0.7, -0.8)),
    *((0, 1), (0, -1)),
]
AWAY = (10.5, 14, 18, 24)
"""How many points a number is put away from its point; from the third on a line joins them."""
MARK, NUMBER, VALUE = np.array([4, 4]), np.array([6, 5]), np.array([22, 5])
"""Half of the width and of the height, in points, of a mark, of a number and of the value behind it."""


@styled
def objectives_map(report: Mapping[str, Any]) -> Figure:
    """Every objective as a point: R@1 of the true next step among all held-out ones, against accuracy and LM loss.

    Accuracy as its difference to plain fine-tuning with the 95% interval, on the test split. Green: the corner that is
    sought, 92% found and at most one point lost; dotted: chance. Of one seed retrieval and LM loss are those of the
    validation split. What lies far from all else is a triangle at the edge, with its value.

    Args:
        report: of `experiments.report.report`, of a grid with a baseline.
    """
    screening = max(len(entry["seeds"]) for entry in report["arms"].values()) == 1
    split = "validation" if screening else "test"
    placed = [
        (entry[split]["consecutive_recall_all"]["mean"], arm)
        for arm, entry in report["arms"].items()
        if entry[split].get("consecutive_recall_all", {}).get("mean") is not None
    ]
    order = [arm for _, arm in sorted(placed, reverse=True)]
    differences = to_plain(report)
    baselines = {pair["baseline"] for pair in differences.values()}
    beside = across(2, 30)
    columns = legend_columns(3, 40)
    labels = [f"{number} {wrapped(arm_in_words(arm), 190)}" for number, arm in enumerate(order, 1)]
    lines = (sum(1 + label.count("\n") for label in labels) + len(FAMILIES)) / columns + 1
    figure = new_figure(height=(0.5 if beside == 2 else 1.6) + 1.4 * lines * small() / text_width())
    left, right = figure.subplots(2 // beside, beside).ravel()
    handles, accuracies, losses = [], [], []
    for number, arm in enumerate(order, 1):
        own, colour = report["arms"][arm][split], FAMILIES[family(report["arms"][arm]["options"])]
        place = max(100 * own["consecutive_recall_all"]["mean"], LEAST)
        if pair := differences.get(arm):
            left.plot([place] * 2, [100 * pair["low"], 100 * pair["high"]], color=colour, linewidth=0.8, alpha=0.5)
        if pair or arm in baselines:
            value, low, high = (100 * pair[end] if pair else 0.0 for end in ("value", "low", "high"))
            accuracies.append(Point(place, value, low, high, number, colour))
        if (loss := own["lm_loss"]["mean"]) is not None:
            losses.append(Point(place, loss, loss, loss, number, colour))
        handles.append(Line2D([], [], linestyle="none", label=labels[number - 1]))
    left.axhline(0, color="black", linewidth=0.8, zorder=1)
    left.fill_between([100 * FOUND, 100], -100 * MARGIN, 100, color=GREEN, alpha=0.3, linewidth=0, zorder=0)
    baseline = next(iter(differences.values()))["baseline"] if differences else "the baseline"
    left.set_ylabel(f"accuracy, points to {arm_in_words(baseline)}", fontsize=small())
    right.set_ylabel("LM loss (nats)")
    chance = report["arms"][order[0]][split].get("consecutive_recall_all_chance", {}).get("mean") if order else None
    for axes, points, form in ((left, accuracies, "+.0f"), (right, losses, ".2f")):
        axes.set_xscale("log")
        axes.set_xlim(LEAST * 0.6, 115)
        axes.set_xticks([1, 10, 100], ["1", "10", "100"])
        axes.set_xlabel("R@1 of the true next step among all (%)")
        if chance:
            axes.axvline(100 * chance, color=GREY, linestyle=":", linewidth=0.8, zorder=0)
        grid_lines(axes, "y")
        _place(axes, points, form)
    colours = {family(report["arms"][arm]["options"]) for arm in order}
    kinds = [Line2D([], [], color=FAMILIES[name], marker="o", linestyle="none", label=name) for name in FAMILIES]
    shown = [handle for handle in kinds if handle.get_label() in colours]
    figure.legend(
        handles=[*handles, *shown], loc="outside lower center", ncols=columns, handlelength=0.8, fontsize=small()
    )
    if screening:
        figure.suptitle("ONE SEED an arm: differences of a few points say nothing", color=VERMILION, fontsize=small())
    return figure


def family(options: Mapping[str, Any]) -> str:
    """One of `FAMILIES`, by the options of an arm that differ from the defaults."""
    loss = options.get("jepa_loss_type", "cosine")
    if options.get("lbd") == 0:
        return "no JEPA term"
    if loss in OVER_TOKENS:
        return "over tokens"
    kind = "InfoNCE" if loss == "infonce" else "a distance"
    own = options.get("target_model", "own") == "own"
    return f"{kind}, its own target" if own else f"{kind}, another model's target"


class Point(NamedTuple):
    """Where an objective stands, with its interval, and as what."""

    x: float
    y: float
    low: float
    high: float
    number: int
    colour: str


def _place(axes: Axes, points: Sequence[Point], form: str) -> None:
    """Draw numbered points; `form` is that of the value of one that lies far from the others, at the edge."""
    if not points:
        return
    values = [value for point in points for value in (point.y, point.low, point.high)]
    low, high = _most(values) if len(points) >= FEW else _room(min(values), max(values))
    axes.set_ylim(low, high)
    far = ["v" if point.y <= low else "^" if point.y >= high else "" for point in points]
    pixels = axes.figure.dpi / 72  # in a point, which offsets are in
    taken: list[tuple[np.ndarray, np.ndarray]] = []  # middle and half the size of what is there, in points
    for point, marker in zip(points, far, strict=True):
        y = {"": point.y, "v": low + 0.02 * (high - low), "^": high - 0.02 * (high - low)}[marker]
        axes.plot([point.x], [y], marker or "o", color=point.colour)
        taken.append((axes.transData.transform((point.x, y)) / pixels, MARK))
    marks = [middle for middle, _ in taken]
    for number in sorted(range(len(points)), key=lambda number: not far[number]):
        point, at, said = points[number], marks[number], str(points[number].number)
        if far[number]:
            inwards = (7 + VALUE[0]) * (1 if point.x < 10 else -1)
            beside = _free_place(at, taken, [(inwards, 0), (-inwards, 0)], VALUE)
            said = f"{point.number} ({point.y:{form}})".replace("-", "−")
        else:
            beside = _free_place(at, taken, [(radius * x, radius * y) for radius in AWAY for x, y in AROUND], NUMBER)
        taken.append((at + beside, VALUE if far[number] else NUMBER))
        axes.annotate(
            said,
            tuple(axes.transData.inverted().transform(at * pixels)),
            xytext=tuple(beside),
            textcoords="offset points",
            fontsize=small(),
            color=point.colour,
            ha="center",
            va="center",
            arrowprops={"arrowstyle": "-", "color": point.colour, "linewidth": 0.5, "shrinkA": 2, "shrinkB": 0}
            if not far[number] and np.abs(beside).max() >= 0.8 * AWAY[2]
            else None,
        )


def _free_place(
    at: np.ndarray,
    taken: Sequence[tuple[np.ndarray, np.ndarray]],
    places: Sequence[tuple[float, float]],
    half: np.ndarray,
) -> np.ndarray:
    """Where a text of half that size goes, seen from its point: the first free place, or the least taken one."""
    room = [min((np.abs(at + place - middle) - size - half).max() for middle, size in taken) for place in places]
    return np.asarray(places[int(np.argmax(np.minimum(room, 0)))])


def _most(values: Sequence[float]) -> tuple[float, float]:
    """Limits of an axis that hold all values but those more than four interquartile ranges from the middle half."""
    kept = np.asarray(values)
    first, third = np.quantile(kept, (0.25, 0.75))
    kept = kept[np.abs(kept - np.clip(kept, first, third)) <= 4 * (third - first)]
    return _room(float(kept.min()), float(kept.max()))


def _room(low: float, high: float) -> tuple[float, float]:
    """Limits with some room around the values."""
    room = max(0.1 * (high - low), 1e-3 * abs(high), 1e-6)
    return low - room, high + room
