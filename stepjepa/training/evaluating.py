"""Evaluation in a trainer: sums of each example, so that losses do not depend on batch size and processes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers.trainer_utils import EvalPrediction

from stepjepa.jepa.rivals import TokenObjective
from stepjepa.jepa.targets import pair_keys_of, pair_shares
from stepjepa.records import UserError
from stepjepa.training.monitor import example_sums, summarise
from stepjepa.training.terms import ObjectiveTerms


class EvaluatedWhole(ObjectiveTerms):
    """`ObjectiveTerms` that evaluates over whole sets."""

    sources: list[str]
    _make_rows: Any

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """As the parent's, with view pairs also when λ = 0, and without packing."""
        if eval_dataset is not None and not isinstance(eval_dataset, str):
            eval_dataset = self._make_rows(eval_dataset, "eval")
        with self._evaluating():
            return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        """As `get_eval_dataloader`, for `predict`."""
        with self._evaluating():
            return super().get_test_dataloader(self._make_rows(test_dataset, "test"))

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Loaders made inside use the evaluation collator."""
        training, self.data_collator = self.data_collator, self.eval_collator
        try:
            yield
        finally:
            self.data_collator = training

    @torch.no_grad()
    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Tensor], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The sums of each example as "predictions": the parent gathers them and drops duplicated examples."""
        inputs = self._prepare_inputs(inputs)
        views = self.views(model, inputs)
        rows = len(inputs["input_ids"])
        self.objective.eval()
        if isinstance(self.objective, TokenObjective):
            values, example = self.token_terms(views, inputs)
            losses = torch.stack(list(values.values())).sum(dim=0)
            shares = torch.ones_like(losses)
        else:
            terms = self.terms(views, (views.target, pair_keys_of(inputs))).values()
            losses = torch.stack([term.expand(len(views.context)) for term in terms]).sum(dim=0)
            shares, example = pair_shares(inputs, self.args.pair_weights), views.example
        sums = example_sums(self.compared(views), losses, rows, shares, example)
        sources = inputs.get("source_id", torch.full((rows,), -1, device=sums.device))
        return sums[:, 0].sum() / sums[:, 1].sum().clamp(min=1), sums, sources

    def _eval_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """Losses over the whole set, then of each source where there are several."""
        sums, sources = (torch.as_tensor(prediction.predictions), torch.as_tensor(prediction.label_ids).flatten())
        metrics = self._summary(sums)
        present = [number for number in sources.unique().tolist() if number >= 0]
        if len(present) > 1:
            for number in present:
                part = self._summary(sums[sources == number])
                metrics |= {f"{self.sources[number]}_{name}": value for name, value in part.items()}
        return metrics

    def _summary(self, sums: Any) -> dict[str, float]:
        return summarise(torch.as_tensor(sums), self.args.gamma, self.args.lbd)

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """As the parent's; `eval_loss` is γ · LM + λ · JEPA over the whole set, not a mean of batch means."""
        kwargs["prediction_loss_only"] = False
        self.measure_targets()
        prefix = kwargs.get("metric_key_prefix", "eval")
        output = super().evaluation_loop(*args, **kwargs)
        loss = self._summary(output.predictions)["loss"]
        if self.is_in_train and not math.isfinite(loss):
            raise UserError(
                f"{prefix}_loss is {loss} at optimizer step {self.state.global_step}: training diverged; lower "
                "--learning_rate"
            )
        metrics = {**(output.metrics or {}), f"{prefix}_loss": loss}
        return output._replace(metrics=metrics)
