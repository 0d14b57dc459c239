"""Records and arrays → matplotlib figures. Nothing here trains or reads global state.

Every function takes `size="notebook"` or `"paper"` as well; colours, type and widths are those of `style.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stepjepa.visualization.style import BLUE, GREEN, GREY, ORANGE, PURPLE, new_figure, small, styled


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


@styled
def loss_curves(log_history: Sequence[Mapping[str, Any]], title: str = "") -> Figure:
    """Both losses over optimizer steps, and beside them whether the JEPA loss means anything.

    Args:
        log_history: `trainer.state.log_history`, or the same list from a record.
        title: over the figure.

    Returns:
        Three panels: language-modelling loss, JEPA loss, and retrieval of the true next step against chance with
        target spread. Dots are evaluations.
    """
    figure = new_figure(height=0.36)
    left, middle, right = figure.subplots(1, 3)
    train = [entry for entry in log_history if "lm_loss" in entry]
    evaluation = [entry for entry in log_history if "eval_lm_loss" in entry]

    for axes, name, colour, label in (
        (left, "lm_loss", BLUE, "LM loss (nats)"),
        (middle, "jepa_loss", ORANGE, "JEPA loss"),
    ):
        _line(axes, train, name, colour, "training")
        _line(axes, evaluation, f"eval_{name}", colour, "evaluation", marker="o", linestyle="none")
        _finish(axes, label)
        axes.set_ylim(bottom=0)
    _line(right, train, "retrieval", GREEN, "retrieval")
    _line(right, train, "retrieval_chance", GREY, "chance", linestyle="--")
    _line(right, train, "target_spread", PURPLE, "target spread")
    _finish(right, "share, cosine distance")
    right.set_ylim(0, None)
    if not any("jepa_loss" in entry for entry in train):
        middle.text(0.5, 0.5, "no JEPA term in training (λ = 0)", ha="center", transform=middle.transAxes, color=GREY)
    if title:
        figure.suptitle(title)
    return figure


def _line(axes: Axes, entries: Sequence[Mapping[str, Any]], name: str, colour: str, label: str, **style: Any) -> None:
    points = [(entry["step"], entry[name]) for entry in entries if name in entry]
    if points:
        axes.plot(*zip(*points, strict=True), color=colour, label=label, **style)


def _finish(axes: Axes, label: str) -> None:
    axes.set_xlabel("optimizer step")
    axes.set_ylabel(label)
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
