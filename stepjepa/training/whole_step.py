"""Objectives over the view pairs of a whole optimizer step on all processes, however they are spread.

What compares pairs with each other, as InfoNCE and regularisers do, is not a sum over microbatches. But its gradient
passes through the views, and those are few: first all microbatches of the step give their views without a graph, the
objective is computed once over the views of all processes and differentiated by them, and then each microbatch runs
again with the graph, where the inner product of its views with these derivatives has the exact gradient (GradCache,
Gao et al. 2021, arXiv 2101.06983). The price is the first pass; a step that is a single microbatch needs none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers.utils import logging

from stepjepa.jepa.controls import pair_keys, random_like, shuffled_order
from stepjepa.jepa.objectives import Objective
from stepjepa.jepa.targets import PairKeys, pair_keys_of, pair_shares
from stepjepa.training.objective import gather_rows
from stepjepa.training.targets import TrainedTargets

logger = logging.get_logger(__name__)
ALONE = (
    "target=shuffled takes another pair's target from the microbatch (with whole_step, from the optimizer step), and "
    "there was a single view pair: its loss is 0 there. Raise the batch size or use more view pairs "
    "(pairs=consecutive)."
)
"""What is warned of where a control target is missing."""


@dataclass
class WholeStep:
    """The terms of one optimizer step, and their derivatives by the views of this process's microbatches."""

    means: dict[str, Tensor]
    """Terms by name, scalars: means over all pairs of the step, on all processes."""
    by_context: Sequence[Tensor]
    by_target: Sequence[Tensor]
    """`[P, D]` of each microbatch."""
    alone: bool
    """Whether a single pair should have changed places with another: its loss is 0."""

    def of_microbatch(self, number: int, context: Tensor, target: Tensor) -> Tensor:
        """A scalar with the gradient of all terms by the views `[P, D]` of a microbatch; its value says nothing."""
        both = ((self.by_context[number], context), (self.by_target[number], target))
        return torch.stack([(by * views.to(by)).sum() for by, views in both]).sum()


def whole_step(
    objective: Objective,
    parts: Sequence[tuple[Tensor, ...]],
    order: Callable[[int], Tensor] | None,
    weight: float,
    accelerator: Any,
) -> WholeStep:
    """The objective over all view pairs of an optimizer step; the gradient of its own weights is added to them.

    Args:
        objective: in training mode.
        parts: of each microbatch of this process: context views, target views `[P, D]`, and of the pairs weights and
            both keys, `[P]` each.
        order: how many pairs → the target that each gets, for shuffled targets; None leaves them in place.
        weight: λ, which the gradient of the objective's own weights is scaled by.
        accelerator: of the trainer.
    """
    sizes = [len(part[0]) for part in parts]
    mine = [torch.cat(column) for column in zip(*parts, strict=True)]
    context, target, share, *keys = (gather_rows(accelerator, column) for column in mine)
    context, target = context.detach().requires_grad_(), target.detach().requires_grad_()
    given, alone = target, order is not None and len(target) == 1
    if order is not None and len(target) > 1:
        places = order(len(target)).to(target.device)
        given, keys = target[places], [key[places] for key in keys]
    with torch.enable_grad(), torch.autocast(context.device.type, enabled=False):
        terms = {"jepa": context.sum() * 0} if alone else objective(context, given, PairKeys(*keys))
        total = share.sum().clamp(min=1e-12)
        means = {name: (term * share).sum() / total if term.ndim else term for name, term in terms.items()}
        jepa = torch.stack(list(means.values())).sum()
        if jepa.requires_grad:
            (weight * jepa).backward()
    before = gather_rows(accelerator, torch.tensor([sum(sizes)], device=context.device))[: accelerator.process_index]
    start = int(before.sum())
    own = slice(start, start + sum(sizes))
    if fresh := getattr(objective, "fresh", None):  # a queue gathers by itself
        fresh[-1] = tuple(column[own] for column in fresh[-1])

    def derivatives(views: Tensor) -> Sequence[Tensor]:
        by = torch.zeros_like(views) if views.grad is None else views.grad
        return by[own].split(sizes)

    values = {name: mean.detach() for name, mean in means.items()}
    return WholeStep(values, derivatives(context), derivatives(target), alone)


class WholeSteps(TrainedTargets):
    """`TrainedTargets` that knows the microbatches of its optimizer step."""

    _batches: list[dict[str, Tensor]]
    _warned: set[str]
    _whole: WholeStep | None = None

    @property
    def shares(self) -> int:
        """Into how many parts, of microbatches and processes, what belongs to the whole step is divided for sums."""
        return len(self._batches) * self.accelerator.num_processes

    @property
    def in_two_passes(self) -> bool:
        """Whether `whole_step` needs its first pass: of a single microbatch the objective has all pairs at once.

        Shuffled targets are drawn alike however a step is divided, so they take it always.
        """
        return self.args.whole_step and (self.shares > 1 or self.args.target == "shuffled")

    @torch.no_grad()
    def over_whole_step(self, model: Any, weight: float) -> WholeStep:
        """The objective over all microbatches of the step; dropout is that of the passes that follow."""
        args, parts = self.args, []
        device = [self.args.device] if self.args.device.type == "cuda" else []
        with torch.random.fork_rng(devices=device):
            for batch in self._batches:
                inputs = self._prepare_inputs(batch)
                views = self.views(model, inputs)
                target = views.target
                if args.target == "random":
                    target = random_like(target, pair_keys(inputs, args.seed), self.objective)
                parts.append((views.context, target, pair_shares(inputs, args.pair_weights), *pair_keys_of(inputs)))
        order = None
        if args.target == "shuffled":
            order = partial(shuffled_order, key=f"shuffled-{args.seed}-{self.state.global_step}")
        self.objective.train()
        step = whole_step(self.objective, parts, order, weight, self.accelerator)
        if step.alone:
            self.warn_once(ALONE)
        return step

    def warn_once(self, message: str) -> None:
        """Log a warning, unless one that begins alike was logged before."""
        if message[:40] not in self._warned:
            self._warned.add(message[:40])
            logger.warning(message)
