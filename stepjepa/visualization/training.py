"""Curves of a training run: drawn from the log, and growing in a notebook while a model trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from transformers import PrinterCallback, TrainerCallback
from transformers.trainer_callback import ProgressCallback

from stepjepa.visualization.style import BLUE, GREEN, GREY, ORANGE, PURPLE, new_figure, styled


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
