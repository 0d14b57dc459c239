"""A training run in figures: tokens by step, lengths, and curves, which also grow in a notebook as a model trains."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator, NullFormatter, PercentFormatter
from transformers import PrinterCallback, TrainerCallback
from transformers.trainer_callback import ProgressCallback

from stepjepa.visualization.style import (
    BLUE,
    CYCLE,
    GREEN,
    GREY,
    PURPLE,
    VERMILION,
    across,
    legend_columns,
    new_figure,
    small,
    styled,
    wrapped,
)

NO_STEP = "#D9D9D9"


@styled
def token_strip(tokens: Sequence[str], step_ids: Sequence[int], labels: Sequence[int], columns: int = 12) -> Figure:
    """The tokens of one example in reading order, a box each, coloured by step; untrained ones are pale.

    Args:
        tokens: their texts, `[L]`; line ends are drawn as ↵, a lone space as ␣.
        step_ids: `[L]`, −1 outside the steps.
        labels: `[L]`, −100 where the token is not trained.
        columns: boxes in a row.
    """
    rows = -(-len(tokens) // columns)
    figure = new_figure(0.034 * rows + 0.05)
    axes = figure.subplots()
    letters = 0.75 * mpl.rcParams["font.size"]
    for i, (token, step, label) in enumerate(zip(tokens, step_ids, labels, strict=True)):
        x, y = i % columns, i // columns
        colour = CYCLE[step % len(CYCLE)] if step >= 0 else NO_STEP
        axes.add_patch(Rectangle((x, y), 0.94, 0.86, facecolor=colour, alpha=0.55 if label != -100 else 0.3))
        text = _short(token)
        axes.text(
            x + 0.47, y + 0.45, text, ha="center", va="center", fontsize=letters, family="monospace", clip_on=True
        )
    axes.set(xlim=(0, columns), ylim=(rows, 0))
    axes.set_axis_off()
    shown = sorted(set(step_ids))
    handles = [
        Patch(
            color=CYCLE[step % len(CYCLE)] if step >= 0 else NO_STEP,
            alpha=0.55,
            label=f"step {step + 1}" if step >= 0 else "no step",
        )
        for step in shown
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), legend_columns(8, 8)))
    return figure


def _short(token: str) -> str:
    text = token.removeprefix("<|").removesuffix("|>") or token
    text = "␣" if text == " " else text.strip(" ").replace("\n", "↵")
    return text if len(text) <= 9 else text[:8] + "…"


@styled
def data_histograms(examples: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> Figure:
    """How many steps a solution has, and how many tokens an example and its steps have.

    Args:
        examples: prepared examples.
        rows: the same, tokenized.
    """
    beside = across(3, 14)
    figure = new_figure(0.84 / beside if beside > 1 else 1.8)
    left, middle, right = figure.subplots(3 // beside, beside).ravel()
    counts = Counter(example["total_steps"] for example in examples)
    left.bar(list(counts), list(counts.values()), color=BLUE)
    left.set(xlabel="steps in a solution", ylabel="examples")
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    middle.hist([len(row["input_ids"]) for row in rows], bins=30, color=BLUE)
    middle.set(xlabel="tokens in an example", ylabel="examples")
    lengths = [count for row in rows for step, count in Counter(row["step_ids"]).items() if step >= 0]
    right.hist(lengths, bins=range(0, max(lengths) + 2, max(1, max(lengths) // 30)), color=GREEN)
    right.set(xlabel="tokens in a step", ylabel="steps")
    return figure


@styled
def loss_curves(log_history: Sequence[Mapping[str, Any]], title: str = "") -> Figure:
    """Both losses over optimizer steps, and beside them whether the JEPA loss means anything.

    Args:
        log_history: `trainer.state.log_history`, or the same list from a record.
        title: over the figure.

    Returns:
        Four panels: language-modelling loss, JEPA loss (on a logarithmic axis), retrieval of the true next step
        against chance, and target spread. Dots are evaluations.
    """
    beside = across(4, 14)
    figure = new_figure(height=1.1 / beside * 4 / beside)
    panels = figure.subplots(4 // beside, beside, sharex=True).ravel()
    losses, jepa, retrieval, spread = panels
    train = [entry for entry in log_history if "lm_loss" in entry]
    evaluation = [entry for entry in log_history if "eval_lm_loss" in entry]

    for axes, name, colour, label in (
        (losses, "lm_loss", BLUE, "LM loss"),
        (jepa, "jepa_loss", VERMILION, "JEPA loss"),
    ):
        _line(axes, train, name, colour, "training")
        _line(axes, evaluation, f"eval_{name}", colour, "evaluation", marker="o", linestyle="none")
        axes.set_title(label)
    _line(retrieval, train, "retrieval", GREEN, "training")
    _line(retrieval, train, "retrieval_chance", GREY, "chance", linestyle="--")
    retrieval.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    retrieval.set_title("retrieval")
    _line(spread, train, "target_spread", PURPLE, "training")
    spread.set_title("target spread")
    for axes, unit in ((losses, "nats"), (retrieval, "share found"), (spread, "cosine distance")):
        axes.set_ylabel(unit, fontsize=small())
    values = [entry[name] for entry in log_history for name in ("jepa_loss", "eval_jepa_loss") if name in entry]
    if values and min(values) > 0:
        jepa.set_yscale("log")
        jepa.yaxis.set_major_formatter("{x:g}")
        jepa.yaxis.set_minor_formatter(NullFormatter())
    for axes in panels:
        if axes is not jepa or axes.get_yscale() != "log":
            axes.set_ylim(bottom=min(0, axes.get_ylim()[0]) if axes is jepa else 0)
        if axes.get_legend_handles_labels()[0] and axes in (losses, retrieval):
            axes.legend()
    for axes in panels[-beside:]:
        axes.set_xlabel("optimizer step")
    if not any("jepa_loss" in entry for entry in train):
        text = {"ha": "center", "va": "center", "color": GREY}
        jepa.text(0.5, 0.5, "no JEPA term\nin training (λ = 0)", transform=jepa.transAxes, **text)
    if title:
        figure.suptitle(wrapped(title))
    return figure


def _line(axes: Axes, entries: Sequence[Mapping[str, Any]], name: str, colour: str, label: str, **style: Any) -> None:
    points = [(entry["step"], entry[name]) for entry in entries if name in entry]
    if points:
        axes.plot(*zip(*points, strict=True), color=colour, label=label, **style)


class LiveCurves(TrainerCallback):
    """Draws `loss_curves` of the trainer's log again at every log and evaluation, in one place."""

    def __init__(self) -> None:
        self.handle: Any = None

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Draw what has been logged so far."""
        from IPython.display import display  # here, since a run outside notebooks draws its curves without IPython

        if not state.is_world_process_zero:
            return
        title = f"optimizer step {state.global_step} of {state.max_steps}"
        figure = loss_curves(state.log_history, title=title)
        if self.handle is None:
            self.handle = display(figure, display_id=True)
        else:
            self.handle.update(figure)


def watch(trainer: Any) -> LiveCurves:
    """Show the trainer's losses as growing curves instead of a progress bar and printed logs."""
    from transformers.utils.notebook import NotebookProgressCallback  # here, since it needs IPython

    for callback in (ProgressCallback, NotebookProgressCallback, PrinterCallback):
        trainer.remove_callback(callback)
    curves = LiveCurves()
    trainer.add_callback(curves)
    return curves
