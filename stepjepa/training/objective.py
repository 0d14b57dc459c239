"""A trainer that trains the weights of its objective, and saves and resumes them with its checkpoints.

The stock trainer knows one model. The weights of an `Objective` are none of it: a model saved beside them loads and
generates without. They get a group of the optimizer, gradients as data parallelism would give, and a file of their own.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from stepjepa.jepa.objectives import Objective
from stepjepa.records import UserError
from stepjepa.training.checkpoints import OBJECTIVE_FILE
from stepjepa.training.resuming import CompleteCheckpoints


class TrainedObjective(CompleteCheckpoints):
    """`CompleteCheckpoints` with an `objective`, an `nn.Module` on the device."""

    objective: Objective

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """As the parent's, with the weights of the objective in a group of their own, also in an optimizer given.

        Raises:
            ValueError: a learning-rate schedule was given with an optimizer that lacks them.
        """
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(*args, **kwargs)
        trained = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
        weights = [weight for weight in self.objective.parameters() if id(weight) not in trained]
        if weights and self.lr_scheduler is not None:
            raise ValueError(
                "optimizers=(optimizer, schedule): the objective has weights of its own, which the optimizer lacks, "
                "and a schedule takes no group added later. Give (optimizer, None), or an objective=… whose "
                "parameters are in the optimizer."
            )
        if weights:
            own = {"weight_decay": self.args.weight_decay} if is_new else {}
            optimizer.add_param_group({"params": weights, **own})
        if not any(isinstance(callback, AfterMicrobatches) for callback in self.callback_handler.callbacks):
            self.add_callback(AfterMicrobatches(self.objective, self.accelerator))
        return optimizer

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict=state_dict)
        if self.args.should_save and self.objective.state_dict():
            save_file(self.objective.state_dict(), Path(output_dir or str(self.args.output_dir)) / OBJECTIVE_FILE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self._load_objective(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        self._load_objective(str(self.state.best_model_checkpoint))

    def _load_objective(self, checkpoint: str) -> None:
        if self.objective.state_dict():
            path = Path(checkpoint) / OBJECTIVE_FILE
            if not path.is_file():
                raise UserError(f"{path} is missing: the checkpoint is of a run with another objective.")
            self.objective.load_state_dict(load_file(path, device=str(self.args.device)))


class AfterMicrobatches(TrainerCallback):
    """What a trainer does to the gradients of its model, done to those of the objective; and its queue moves on."""

    def __init__(self, objective: Objective, accelerator: Any) -> None:
        self.objective, self.accelerator = objective, accelerator

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Average over processes; one without a view pair has no gradient, and counts as 0."""
        for weight in self.objective.parameters():
            gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad
            weight.grad = self.accelerator.reduce(gradient, reduction="mean")

    def on_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """The parent resets the gradients of the model only."""
        self.objective.zero_grad()
        self.objective.end_step(partial(gather_rows, self.accelerator))


def gather_rows(accelerator: Accelerator, rows: torch.Tensor) -> torch.Tensor:
    """The rows `[N, …]` of all processes, process by process; N may differ between them."""
    if accelerator.num_processes == 1:
        return rows
    counts = accelerator.gather(torch.tensor([len(rows)], device=rows.device)).tolist()
    if not any(counts):
        return rows
    padding = rows.new_zeros(max(counts) - len(rows), *rows.shape[1:])
    everyone = accelerator.gather(torch.cat([rows, padding]))
    return torch.cat([part[:count] for part, count in zip(everyone.split(max(counts)), counts, strict=True)])
