"""A `Trainer` whose checkpoints are complete or absent: staged, flushed, renamed (see `checkpoints`).

The stock trainer writes into `checkpoint-N` file by file and resumes from the newest folder of that name, even when
a kill has left it truncated.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from torch import nn
from transformers import Trainer
from transformers.trainer_utils import rotate_checkpoints
from transformers.utils import logging

from stepjepa.training.checkpoints import STAGING, NoCheckpointError, damage, newest_complete, publish

logger = logging.get_logger(__name__)


class CompleteCheckpoints(Trainer):
    """`transformers.Trainer`; only saving a checkpoint and resuming from one differ."""

    _staging: Path | None = None

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As the parent's; `resume_from_checkpoint=True` takes the newest *complete* checkpoint."""
        if resume_from_checkpoint is True:
            path, skipped = newest_complete(str(self.args.output_dir))
            for line in skipped:
                logger.warning(f"Skipped an incomplete checkpoint: {line}")
            logger.warning(f"Resuming from {path}")
            resume_from_checkpoint = str(path)
        elif resume_from_checkpoint and (wrong := damage(Path(resume_from_checkpoint))):
            raise NoCheckpointError(f"Cannot resume from {resume_from_checkpoint}: {wrong}.")
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _get_output_dir(self, trial: Any) -> str:
        return super()._get_output_dir(trial) if self._staging is None else str(self._staging)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """As the parent's, but written under a temporary name and renamed when complete."""
        run = Path(super()._get_output_dir(trial))
        staging = run / f"{STAGING}-{self.state.global_step}"
        if self.args.should_save and staging.exists():  # left by a run that was killed while saving
            shutil.rmtree(staging)
        self.accelerator.wait_for_everyone()
        self._staging = staging
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._staging = None
        best = self.state.best_global_step
        if best is not None and self.args.should_save:
            path = run / f"checkpoint-{best}"
            if best == self.state.global_step or path.exists():
                self.state.best_model_checkpoint = str(path)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            name = f"checkpoint-{self.state.global_step}"
            self.state.save_to_json(os.path.join(staging, name, "trainer_state.json"))
            publish(staging / name, run / name)
            staging.rmdir()
            rotate_checkpoints(str(run), self.args.save_total_limit, self.state.best_model_checkpoint, use_mtime=True)
        self.accelerator.wait_for_everyone()
