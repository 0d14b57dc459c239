"""Checkpoints that are complete or absent, and a `Trainer` that writes and resumes from such.

The stock trainer writes into `checkpoint-N` file by file and resumes from the newest folder of that name, even when a
kill has left it truncated. Here a checkpoint is written into a staging folder, flushed to disk and renamed; a run
killed at any moment leaves either a whole `checkpoint-N` or none. On resuming, the newest checkpoint that can really
be read is taken and any newer, damaged one is named.
"""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import Trainer
from transformers.trainer_utils import rotate_checkpoints
from transformers.utils import logging

from stepjepa.models.checkpoint import NAME
from stepjepa.records import UserError

logger = logging.get_logger(__name__)

OBJECTIVE_FILE = "objective.safetensors"
"""Weights and state of the objective, beside those of the model."""
STAGING = ".staging-checkpoint"
REPLACED = "replaced-"


class NoCheckpointError(UserError):
    """There is no complete checkpoint to resume from."""


def publish(staged: Path, final: Path) -> None:
    """Flush a staged checkpoint to disk and give it its name in one step.

    A checkpoint of the same name, as left by a run resumed from an earlier one, is replaced.
    """
    for path in [*staged.rglob("*"), staged]:
        _flush(path)
    if final.exists():
        replaced = staged.parent / f"{REPLACED}{final.name}"
        os.rename(final, replaced)
        os.rename(staged, final)
        shutil.rmtree(replaced)
    else:
        os.rename(staged, final)
    _flush(final.parent)


def finish_interrupted(folder: Path) -> None:
    """Complete a `publish` that was killed between moving the old checkpoint away and the new one in.

    Both are complete then; the new one takes its name.
    """
    for replaced in folder.glob(f"{STAGING}-*/{REPLACED}*"):
        final = folder / replaced.name.removeprefix(REPLACED)
        staged = replaced.parent / final.name
        if not final.exists():
            os.rename(staged if staged.exists() else replaced, final)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint folder, or None if everything a resume needs can be read.

    Weights are checked by their headers and sizes, not value by value.
    """
    state = checkpoint / "trainer_state.json"
    try:
        json.loads(state.read_text())
    except (OSError, ValueError) as error:
        return f"trainer_state.json cannot be read ({error})"
    tensors = sorted(checkpoint.glob("*.safetensors"))
    weights = [path for path in tensors if path.name != OBJECTIVE_FILE]
    if not weights and not any(checkpoint.glob("pytorch_model_fsdp*")):
        return "it has no model weights"
    index = checkpoint / "model.safetensors.index.json"
    if index.exists():
        try:
            named = set(json.loads(index.read_text())["weight_map"].values())
        except (OSError, ValueError, KeyError) as error:
            return f"{index.name} cannot be read ({error})"
        missing = named - {path.name for path in weights}
        if missing:
            return f"{', '.join(sorted(missing))} is missing"
    for path in tensors:
        try:
            with safe_open(path, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            return f"{path.name} cannot be read ({error})"
    optimizer = [path for path in checkpoint.glob("optimizer*") if path.name.startswith("optimizer")]
    if not optimizer:
        return "it has no optimizer state (saved with save_only_model?)"
    if not (checkpoint / "scheduler.pt").exists():
        return "it has no learning-rate schedule"
    if not list(checkpoint.glob("rng_state*.pth")):
        return "it has no random-number state"
    for path in [*checkpoint.glob("*.pt"), *checkpoint.glob("*.pth"), *checkpoint.glob("*.bin")]:
        if not zipfile.is_zipfile(path):
            return f"{path.name} is truncated"
    return None


def checkpoints(folder: Path) -> list[Path]:
    """The `checkpoint-N` folders, newest (largest N) first; looked at by name only."""
    named = [
        (int(match[1]), path) for path in folder.iterdir() if path.is_dir() and (match := NAME.fullmatch(path.name))
    ]
    return [path for _, path in sorted(named, reverse=True)]


def newest_complete(folder: str | Path) -> tuple[Path, list[str]]:
    """The newest complete checkpoint of a run, and one line for each newer one that was passed over.

    Raises:
        NoCheckpointError: if the folder has none; the message lists what was found.
    """
    folder = Path(folder)
    skipped: list[str] = []
    if folder.is_dir():
        finish_interrupted(folder)
    for path in checkpoints(folder) if folder.is_dir() else []:
        wrong = damage(path)
        if wrong is None:
            return path, skipped
        skipped.append(f"{path.name}: {wrong}")
    found = "; ".join(skipped) if skipped else "no checkpoint-N folder"
    raise NoCheckpointError(f"No complete checkpoint in {folder}: {found}.")


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
