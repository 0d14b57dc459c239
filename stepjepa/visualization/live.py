"""Loss curves that grow in a notebook while a model trains."""

from __future__ import annotations

from typing import Any

from IPython.display import DisplayHandle, display
from transformers import PrinterCallback, TrainerCallback
from transformers.trainer_callback import ProgressCallback
from transformers.utils.notebook import NotebookProgressCallback

from stepjepa.visualization.plots import loss_curves


class LiveCurves(TrainerCallback):
    """Draws `loss_curves` of the trainer's log again at every log and evaluation, in one place."""

    def __init__(self) -> None:
        self.handle: DisplayHandle | None = None

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Draw what has been logged so far."""
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
    for callback in (ProgressCallback, NotebookProgressCallback, PrinterCallback):
        trainer.remove_callback(callback)
    curves = LiveCurves()
    trainer.add_callback(curves)
    return curves
