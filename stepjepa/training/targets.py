"""A trainer that knows what its contexts predict: from which layers targets are read, and how they are scaled."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from stepjepa.jepa.architectures import base_model, evaluating
from stepjepa.jepa.layout import IGNORE
from stepjepa.jepa.views import Views, encode_views
from stepjepa.records import UserError
from stepjepa.training.config import StepJEPAConfig
from stepjepa.training.objective import TrainedObjective

MEASURED = 1024
"""Training examples whose targets give the mean and deviation of each dimension."""
ROWS = 32


class TrainedTargets(TrainedObjective):
    """`TrainedObjective` with the views that its options ask for."""

    args: StepJEPAConfig
    eval_collator: Any

    def views(self, model: Any, inputs: dict[str, Tensor], **options: Any) -> Views:
        """`encode_views` with the targets of this run."""
        return encode_views(
            model, inputs, target_layer=self.args.target_layer, target_top=self.args.target_top, **options
        )

    def compared(self, views: Views) -> Views:
        """Views as the objective compares them: what its head predicts, and the targets as it scales them."""
        with torch.no_grad(), torch.autocast(self.args.device.type, enabled=False):
            context, target = self.objective.predict(views.context), self.objective.scaled(views.target)
        return dataclasses.replace(views, context=context, target=target)

    def compared_views(self, model: nn.Module, inputs: dict[str, Tensor], **options: Any) -> Views:
        """`views` as the objective compares them; what a model that was trained so is measured by."""
        self.measure_targets()
        self.objective.eval()
        return self.compared(self.views(model, inputs, **options))

    def vocabulary(self, states: Tensor) -> Tensor:
        """The language model's head, without a gradient for its weights, `[P, D] → [P, V]`.

        Soft-capping and scaling of logits, which some architectures add, are left out.
        """
        head = base_model(self.model).get_output_embeddings()
        bias = None if head.bias is None else head.bias.detach().to(states)
        return nn.functional.linear(states, head.weight.detach().to(states), bias)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As the parent's, after `measure_targets`."""
        self.measure_targets()
        return super().train(resume_from_checkpoint, *args, **kwargs)

    @torch.no_grad()
    def measure_targets(self) -> None:
        """Before anything is trained or evaluated: mean and deviation of the training data's targets, for z-scores.

        Of the first examples of the training data, by the model as it is; every process does the same.

        Raises:
            UserError: there are no training data to measure, or fewer than two view pairs in them.
        """
        scale = getattr(self.objective, "scale", None)
        if scale is None or scale.kind != "zscore" or not bool(scale.mean.isnan().any()):
            return
        rows: Any = self.train_dataset
        if not hasattr(rows, "__len__"):
            raise UserError("target_scale=zscore needs training data with a length: its targets are measured first.")
        targets = []
        for start in range(0, min(len(rows), MEASURED), ROWS):
            chosen = [rows[i] for i in range(start, min(start + ROWS, len(rows), MEASURED))]
            batch = self.eval_collator([{**row, "labels": [IGNORE] * len(row["labels"])} for row in chosen])
            with evaluating(self.model):
                targets.append(self.views(self.model, batch).target)
        if sum(map(len, targets)) < 2:
            raise UserError("target_scale=zscore: the training data have fewer than two view pairs to measure.")
        scale.measure(torch.cat(targets))
