"""A few microbatches of a planned run, timed: its rows as they are collated, and a model with drawn weights.

With one thread on a CPU time is that of the processor, so that what else runs there does not count.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import Trainer

from stepjepa.experiments.plan_memory import checkpointed
from stepjepa.jepa.layout import IGNORE, StepJEPACollator
from stepjepa.jepa.losses import jepa_losses
from stepjepa.jepa.views import encode_views, next_labels
from stepjepa.models.loading import bfloat16_products, checkpoint_activations
from stepjepa.models.speed import keep_freed_memory
from stepjepa.training.config import StepJEPAConfig
from stepjepa.training.dataset import TrainingRows

FEWEST, MOST, SECONDS = 3, 12, 10.0
"""So many microbatches are timed, and no more than `FEWEST` once so many seconds have gone."""


@dataclass(frozen=True)
class Shape:
    """One microbatch of one device."""

    rows: int
    length: int
    labelled: int
    trunk: int
    branches: int
    """Tokens, like the three before."""

    @property
    def padding(self) -> int:
        """Tokens that fill the rows up."""
        return self.rows * self.length - self.trunk - self.branches


class Rows:
    """The training rows of a run and the microbatches of an epoch; the order is drawn, as the run draws another."""

    def __init__(self, examples: Sequence[Any], tokenizer: Any, args: StepJEPAConfig, positions: int | None) -> None:
        self.rows = TrainingRows(tokenizer, args.layout, positions)(list(examples), "train")
        self.collate = StepJEPACollator(tokenizer, args.trained_layout, packing_length=args.packing_length)
        order = torch.randperm(len(self.rows), generator=torch.Generator().manual_seed(args.seed)).tolist()
        size = args.per_device_train_batch_size
        self.microbatches = [order[start : start + size] for start in range(0, len(order), size)]
        self.shapes = [self._shape(chosen) for chosen in self.microbatches]

    def batch(self, number: int) -> dict[str, torch.Tensor]:
        """The tensors of a microbatch."""
        return self.collate([self.rows[row] for row in self.microbatches[number]])

    def _shape(self, chosen: list[int]) -> Shape:
        batch = self.collate([self.rows[row] for row in chosen])
        trunk = int((batch["example_ids"] >= 0).sum())
        count, length = batch["input_ids"].shape
        return Shape(
            rows=count,
            length=length,
            labelled=int((next_labels(batch["labels"]) != IGNORE).sum()),
            trunk=trunk,
            branches=int((batch["segment_ids"] >= 0).sum()) - trunk,
        )


class Trial:
    """A few microbatches and optimizer steps with drawn weights, the largest microbatch first, which takes most memory.

    Attributes:
        timed: work and seconds of each microbatch.
        update: seconds of an optimizer step.
    """

    def __init__(
        self, make: Callable[[], Any], rows: Rows, work: Sequence[float], args: StepJEPAConfig, device: torch.device
    ) -> None:
        self.make, self.rows, self.work, self.args, self.device = make, rows, work, args, device
        self.timed: list[dict[str, float]] = []
        self.update = math.nan

    @property
    def speed(self) -> float:
        """Floating-point operations a second."""
        return sum(one["flops"] for one in self.timed) / sum(one["seconds"] for one in self.timed)

    def run(self) -> None:
        """Make the model and time it."""
        if self.device.type == "cpu":
            keep_freed_memory()  # as the run does, which raises its peak
        with torch.device(self.device), torch.random.fork_rng():
            model = self.make().train()
        if checkpointed(self.args):
            checkpoint_activations(model)
        weights = [p for p in model.parameters() if p.requires_grad]
        kind, given = Trainer.get_optimizer_cls_and_kwargs(self.args)
        optimizer = kind(weights, **given)
        order = sorted(range(len(self.work)), key=lambda number: self.work[number], reverse=True)
        shares = (0, 0.5, 0.8, *torch.linspace(0.1, 1, MOST - 3).tolist())
        chosen = [order[round(share * (len(order) - 1))] for share in shares]
        self._microbatch(model, chosen[0])  # to warm up
        for _ in range(2):  # the first makes the state
            began = _clock(self.device)
            torch.nn.utils.clip_grad_norm_(weights, self.args.max_grad_norm or math.inf)
            optimizer.step()
            self.update = _clock(self.device) - began
        for number in chosen:
            if len(self.timed) >= FEWEST and sum(one["seconds"] for one in self.timed) > SECONDS:
                break
            if self.args.gradient_accumulation_steps == 1:
                optimizer.zero_grad()
            self.timed.append({"flops": self.work[number], "seconds": self._microbatch(model, number)})

    def _microbatch(self, model: Any, number: int) -> float:
        """Seconds of forward and backward."""
        batch = self.rows.batch(number)
        began = _clock(self.device)
        with bfloat16_products(self.device, self.args.bf16):
            views = encode_views(model, batch)
        loss = views.lm_loss
        if len(views.context):
            loss = loss + jepa_losses(views.context, views.target).mean()
        loss.backward()
        return _clock(self.device) - began


def _clock(device: torch.device) -> float:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.process_time() if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter()
