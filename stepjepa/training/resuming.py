"""A `Trainer` that writes complete checkpoints, goes on from the newest one, and only where the run is the same."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn
from transformers.trainer_utils import rotate_checkpoints
from transformers.utils import logging

from stepjepa.environment import environment
from stepjepa.models.loading import check_finite
from stepjepa.records import read_json
from stepjepa.training.checkpoints import (
    MANIFEST,
    OtherRunError,
    by_first_process,
    check_complete,
    newest_complete,
    publish,
    staging,
    write_manifest,
)
from stepjepa.training.hub import PushedWhole
from stepjepa.training.identity import differences, identity
from stepjepa.training.order import seeded, tell_epoch

logger = logging.get_logger(__name__)


class CompleteCheckpoints(PushedWhole):
    """`transformers.Trainer`; only saving and resuming differ.

    Attributes:
        about_run: settings of the run that no argument of the trainer holds, such as the model's name and digest;
            a checkpoint keeps them, and a resume compares them (see `identity`).
    """

    about_run: Mapping[str, Any] = {}
    _staging: Path | None = None
    _progress: Mapping[str, Any] | None = None

    # ---- resuming ----

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As the parent's; `resume_from_checkpoint=True` takes the newest *complete* checkpoint.

        Raises:
            NoCheckpointError: the checkpoint, or every one, is damaged or incomplete.
            OtherRunError: the checkpoint is of a run with other settings or data; see `identity`.
        """
        if resume_from_checkpoint is True:
            path, skipped = by_first_process(lambda: newest_complete(str(self.args.output_dir)))
            for line in skipped:
                logger.warning(f"Skipped an incomplete checkpoint: {line}")
            logger.warning(f"Resuming from {path}")
            resume_from_checkpoint = str(path)
        elif resume_from_checkpoint:
            named = resume_from_checkpoint
            resume_from_checkpoint = str(by_first_process(lambda: check_complete(named)))
        if resume_from_checkpoint:
            self.check_goes_on(resume_from_checkpoint)
            self._progress = read_json(Path(resume_from_checkpoint) / MANIFEST)["progress"]
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def check_goes_on(self, checkpoint: str | Path) -> None:
        """Compare the run that a checkpoint is of with this one.

        Raises:
            OtherRunError: what differs.
        """
        manifest = read_json(Path(checkpoint) / MANIFEST)
        if differing := differences(manifest["run"], identity(self)):
            raise OtherRunError(
                f"{checkpoint} is of a run with other settings or data; different: {differing}. Give what that run "
                "had to go on with it, or another --output_dir to start a run of its own."
            )
        packages = differences(manifest["packages"], environment()["packages"])
        if packages:
            logger.warning(f"{checkpoint} was saved with other packages, so bits may differ: {packages}")

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """As the parent's, in an order that a resumed run finds again."""
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return seeded(super()._get_train_sampler(train_dataset), seed)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        if self._progress is not None:  # the parent has just set its sums to zero
            self.restore(self._progress)
            self._progress = None
        tell_epoch(kwargs["train_dataloader"], kwargs["epoch"])
        super()._run_epoch(*args, **kwargs)

    def progress(self) -> dict[str, Any]:
        """Sums that figures of the log are made from, over all processes; the parent forgets them when it is killed."""
        interval = self.accelerator.reduce(self._tr_loss.detach().clone(), reduction="mean")
        return {
            "loss_before": self._total_loss_scalar,
            "loss_since": interval.item(),
            "logged_at": self._globalstep_last_logged,
        }

    def restore(self, progress: Mapping[str, Any]) -> None:
        """Take up what `progress` has kept."""
        self._total_loss_scalar = progress["loss_before"]
        self._tr_loss.fill_(progress["loss_since"])
        self._globalstep_last_logged = progress["logged_at"]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As the parent's; the `train_loss` at the end is the mean over all optimizer steps of the run."""
        if "train_loss" in logs:  # the parent divides by the steps since the resume
            logs["train_loss"] = self._total_loss_scalar / max(self.state.global_step, 1)
        super().log(logs, start_time)

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        output = super()._finalize_training(*args, **kwargs)
        return output._replace(training_loss=output.metrics["train_loss"])

    def _load_best_model(self) -> None:
        best = str(self.state.best_model_checkpoint)
        by_first_process(lambda: check_complete(best))
        super()._load_best_model()

    # ---- saving ----

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As the parent's.

        Raises:
            UserError: a weight is not a finite number; nothing is written.
        """
        check_finite(self.model, f"after optimizer step {self.state.global_step} the model has")
        super().save_model(output_dir, _internal_call)

    def _get_output_dir(self, trial: Any) -> str:
        return super()._get_output_dir(trial) if self._staging is None else str(self._staging)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """As the parent's, but written under a temporary name and renamed when complete."""
        run, name = Path(super()._get_output_dir(trial)), f"checkpoint-{self.state.global_step}"
        mine, wait = self.args.should_save, self.accelerator.wait_for_everyone
        content = {"run": identity(self), "packages": environment()["packages"], "progress": self.progress()}
        with staging(run, name, mine, wait) as folder:
            self._staging = folder
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self._staging = None
            best = self.state.best_global_step
            if best is not None and mine:
                path = run / f"checkpoint-{best}"
                if best == self.state.global_step or path.exists():
                    self.state.best_model_checkpoint = str(path)
            wait()
            if mine:
                self.state.save_to_json(os.path.join(folder, name, "trainer_state.json"))
                write_manifest(folder / name, **content)
                publish(folder / name, run / name)
        if mine:
            rotate_checkpoints(str(run), self.args.save_total_limit, self.state.best_model_checkpoint, use_mtime=True)
        wait()
