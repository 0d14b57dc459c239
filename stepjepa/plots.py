"""Records and arrays → matplotlib figures. Nothing here trains or reads global state.

Colours are those of Okabe & Ito (2008), which colour-blind readers can tell apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

BLUE, ORANGE, GREEN, VERMILION, PURPLE, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#777777"


ROLES = {"trunk": "#B9CBD9", "predictor": ORANGE, "copy": GREEN, "isolated": GREEN}


def mask_panels(record: Mapping[str, Any]) -> Figure:
    """Who may attend to whom in the two-pass form and in the single pass, side by side.

    Args:
        record: `panels`, each with `title`, `tokens` (labels), `roles` (a key of `ROLES` for each token) and
            `rows` (a string of 0 and 1 for each query).
    """
    panels = record["panels"]
    sizes = [len(panel["tokens"]) for panel in panels]
    figure = Figure(figsize=(0.33 * sum(sizes) + 2.6, 0.33 * max(sizes) + 1.5), layout="constrained")
    axes_list = figure.subplots(1, len(panels), width_ratios=sizes)
    for axes, panel in zip(axes_list, panels, strict=True):
        count = len(panel["tokens"])
        for q, row in enumerate(panel["rows"]):
            for k, seen in enumerate(row):
                colour = ROLES[panel["roles"][q]] if seen == "1" else "#F4F4F4"
                axes.add_patch(Rectangle((k, q), 0.92, 0.92, color=colour, linewidth=0))
        axes.set(xlim=(0, count), ylim=(count, 0), aspect="equal")
        axes.set_anchor("N")
        axes.set_title(panel["title"], fontsize=10)
        ticks = [i + 0.46 for i in range(count)]
        axes.set_xticks(ticks, panel["tokens"], rotation=90, fontsize=8, family="monospace")
        axes.set_yticks(ticks, panel["tokens"], fontsize=8, family="monospace")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_xlabel("key: may be attended to", fontsize=8)
        axes.set_ylabel("query", fontsize=8)
    handles = [
        Patch(color=ROLES["trunk"], label="the ordinary sequence"),
        Patch(color=ROLES["predictor"], label="predictor token: context view"),
        Patch(color=ROLES["copy"], label="step 2 on its own: target view"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def price_bars(*results: Mapping[str, Any]) -> Figure:
    """Time and peak memory of each arm of `stepjepa bench`, as multiples of plain fine-tuning.

    Args:
        results: as `stepjepa bench --json` writes them; each gets a panel for time and one for memory.
    """
    arms = list(results[0]["arms"])
    colours = [GREY if arm.startswith("plain") else ORANGE if arm.startswith("single") else BLUE for arm in arms]
    rows = range(len(arms))
    figure = Figure(figsize=(3.1 * 2 * len(results), 0.3 * len(arms) + 1.1), layout="constrained")
    panels = figure.subplots(1, 2 * len(results), sharey=True)
    for i, result in enumerate(results):
        size = f"{result['model']['vocabulary_rows']:,} rows of vocabulary"
        ratios = [result["arms"][arm]["ratio_to_plain"] for arm in arms]
        medians = [ratio["median"] for ratio in ratios]
        spans = [[r["median"] - r["q1"] for r in ratios], [r["q3"] - r["median"] for r in ratios]]
        growth = [result["arms"][arm]["memory"]["growth_bytes"] for arm in arms]
        memory = [value / growth[arms.index("plain")] for value in growth]
        for axes, values, title, errors in (
            (panels[2 * i], medians, f"time, {size}", spans),
            (panels[2 * i + 1], memory, f"peak memory, {size}", None),
        ):
            axes.barh(rows, values, color=colours, xerr=errors, error_kw={"linewidth": 1})
            for row, value in zip(rows, values, strict=True):
                axes.text(0.06, row, f"{value:.2f}", va="center", fontsize=8, color="white", fontweight="bold")
            axes.axvline(1, color="black", linewidth=0.8, linestyle=":")
            axes.set_title(title, fontsize=8)
            axes.set_xlabel("× plain fine-tuning", fontsize=8)
            axes.tick_params(labelsize=8)
            axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(rows, [arm.replace("_", " ") for arm in arms])
    panels[0].invert_yaxis()
    return figure


def loss_curves(log_history: Sequence[Mapping[str, Any]], title: str = "") -> Figure:
    """Both losses over optimizer steps, and beside them whether the JEPA loss means anything.

    Args:
        log_history: `trainer.state.log_history`, or the same list from a record.
        title: over the figure.

    Returns:
        Three panels: language-modelling loss, JEPA loss, and retrieval against chance with target spread. Dots
        are evaluations.
    """
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    train = [entry for entry in log_history if "lm_loss" in entry]
    evaluation = [entry for entry in log_history if "eval_lm_loss" in entry]

    for axes, name, colour, label in (
        (left, "lm_loss", BLUE, "language-modelling loss (nats)"),
        (middle, "jepa_loss", ORANGE, "JEPA loss"),
    ):
        _line(axes, train, name, colour, "training")
        _line(axes, evaluation, f"eval_{name}", colour, "evaluation", marker="o", linestyle="none")
        _finish(axes, label)
        axes.set_ylim(bottom=0)
    _line(right, train, "retrieval", GREEN, "retrieval of the true next step")
    _line(right, train, "retrieval_chance", GREY, "chance", linestyle="--")
    _line(right, train, "target_spread", PURPLE, "target spread")
    _finish(right, "share, cosine distance")
    right.set_ylim(0, None)
    if not any("jepa_loss" in entry for entry in train):
        middle.text(0.5, 0.5, "no JEPA term in training (λ = 0)", ha="center", transform=middle.transAxes, color=GREY)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def _line(axes: Axes, entries: Sequence[Mapping[str, Any]], name: str, colour: str, label: str, **style: Any) -> None:
    points = [(entry["step"], entry[name]) for entry in entries if name in entry]
    if points:
        axes.plot(*zip(*points, strict=True), color=colour, label=label, linewidth=1.5, **style)


def _finish(axes: Axes, label: str) -> None:
    axes.set_xlabel("optimizer step")
    axes.set_ylabel(label)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8)
