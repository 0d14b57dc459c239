"""The report of a grid of objectives → one map of them: is the true next step found, and is anything lost by it?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from stepjepa.evaluation.statistics import MARGIN
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
TOKENS = ("nextlat", "mtp", "stp", "ssp")


@styled
def objectives_map(report: Mapping[str, Any]) -> Figure:
    """Every objective as a point: R@1 of the true next step among all held-out ones, against accuracy and LM loss.

    Accuracy as its difference to the first baseline with the 95% interval, on the test split. Green: the corner that is
    sought, 92% found and at most one point lost. Of one seed retrieval and LM loss are those of the validation split.

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
    differences: dict[str, Mapping[str, Any]] = {}
    for pair in report["comparisons"]:
        differences.setdefault(pair["arm"], pair)
    baselines = {pair["baseline"] for pair in report["comparisons"]}
    beside = across(2, 30)
    columns = legend_columns(3, 40)
    lines = -(-len(order) // columns) + 4
    figure = new_figure(height=(0.45 if beside == 2 else 1.4) + 0.022 * lines * small() / 8)
    left, right = figure.subplots(2 // beside, beside).ravel()
    handles = []
    for number, arm in enumerate(order, 1):
        own, colour = report["arms"][arm][split], FAMILIES[family(report["arms"][arm]["options"])]
        place = 100 * own["consecutive_recall_all"]["mean"]
        if pair := differences.get(arm):
            left.plot([place] * 2, [100 * pair["low"], 100 * pair["high"]], color=colour, linewidth=0.8, alpha=0.6)
        if pair or arm in baselines:
            _point(left, place, 100 * pair["value"] if pair else 0.0, number, colour)
        if (loss := own["lm_loss"]["mean"]) is not None:
            _point(right, place, loss, number, colour)
        handles.append(Line2D([], [], linestyle="none", label=f"{number} {wrapped(arm_in_words(arm), 190)}"))
    left.axhline(0, color="black", linewidth=0.8, zorder=1)
    left.fill_between([100 * FOUND, 100], -100 * MARGIN, 100, color=GREEN, alpha=0.15, linewidth=0, zorder=0)
    values = [100 * pair[end] for pair in differences.values() for end in ("low", "high")] or [0]
    left.set_ylim(min([*values, -2]) - 1, max([*values, 2]) + 1)
    baseline = next(iter(differences.values()))["baseline"] if differences else "the baseline"
    left.set_ylabel(f"accuracy, points to {arm_in_words(baseline)}", fontsize=small())
    right.set_ylabel("LM loss (nats)")
    for axes in (left, right):
        axes.set_xlim(-3, 103)
        axes.set_xlabel("R@1 of the true next step among all (%)")
        grid_lines(axes, "y")
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
    if loss in TOKENS:
        return "over tokens"
    kind = "InfoNCE" if loss == "infonce" else "a distance"
    own = options.get("target_model", "own") == "own"
    return f"{kind}, its own target" if own else f"{kind}, another model's target"


def _point(axes: Axes, x: float, y: float, number: int, colour: str) -> None:
    axes.plot([x], [y], "o", color=colour)
    axes.annotate(str(number), (x, y), xytext=(3, 3), textcoords="offset points", fontsize=small(), color=colour)
