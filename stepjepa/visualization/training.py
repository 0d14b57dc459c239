"""A training run in figures: tokens by step, lengths, and curves, which also grow in a notebook as a model trains."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator
from transformers import PrinterCallback, TrainerCallback
from transformers.trainer_callback import ProgressCallback

from stepjepa.visualization.style import BLUE, CYCLE, GREEN, GREY, ORANGE, PURPLE, new_figure, styled

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
    small = 0.75 * mpl.rcParams["font.size"]
    for i, (token, step, label) in enumerate(zip(tokens, step_ids, labels, strict=True)):
        x, y = i % columns, i // columns
        colour = CYCLE[step % len(CYCLE)] if step >= 0 else NO_STEP
        axes.add_patch(Rectangle((x, y), 0.94, 0.86, facecolor=colour, alpha=0.55 if label != -100 else 0.3))
        text = _short(token)
        axes.text(x + 0.47, y + 0.45, text, ha="center", va="center", fontsize=small, family="monospace", clip_on=True)
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
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 8))
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
    figure = new_figure(0.28)
    left, middle, right = figure.subplots(1, 3)
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
