"""Objectives: views → named terms, which the trainer adds up; with weights and state of their own where they have any.

`StepObjective` puts together, each by one option: a head that predicts from the context view, the scale of the target
view, a loss of `LOSSES`, the distance of both as the language model's head reads them, and `REGULARISERS` of the set
of views. `registry.py` has it once for each loss.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stepjepa.jepa.heads import Scale, make_head
from stepjepa.jepa.losses import at_least_float32, infonce, jepa_losses
from stepjepa.jepa.regularisers import REGULARISERS, weights_of
from stepjepa.jepa.targets import PairKeys


class Objective(nn.Module):
    """What the JEPA term is made of: views → named terms, which the trainer adds up, weights by λ and logs.

    `forward(context, target, keys)` takes context views `[P, D]`, target views `[P, D]` and the `PairKeys` of the
    targets, which say which belong to the same problem (P may be 0 or 1), and returns terms by name, each in float32
    or wider and in the graph of the views:

    - `[P]`, a number per view pair: the trainer takes its mean over the pairs of the optimizer step;
    - `[]`, a number for the set of views: the trainer takes its mean over the microbatches with a pair, or, with
      `whole_step`, gives it the views of the whole optimizer step.

    Both means are over all processes. Parameters are trained by the model's optimizer (their gradient is not part of
    the norm that is clipped); they and the buffers are saved in every checkpoint, and resumed from it.
    """

    few_pairs: str | None = None
    """What to warn of, once, when a microbatch has a single view pair; None where that does no harm."""
    of_the_microbatch: str | None = None
    """What compares the pairs of a microbatch with each other, so that it depends on how examples are spread over
    microbatches and processes; None where nothing does."""
    unsound: str | None = None
    """What to warn of, once, in training: options that are known to fail together."""
    moment: int = 0
    """The optimizer step; the trainer keeps it up to date."""
    vocabulary: Callable[[Tensor], Tensor] | None = None
    """The language model's head, `[P, D] → [P, V]`, whose weights get no gradient; set by the trainer."""

    def predict(self, context: Tensor) -> Tensor:
        """What is compared with the target: the context views `[P, D]` themselves, or what a head makes of them."""
        return context

    def scaled(self, target: Tensor) -> Tensor:
        """Target views `[P, D]` as they are compared."""
        return target

    def unscaled(self, scaled: Tensor) -> Tensor:
        """Target views `[P, D]` that are compared as these, `[P, D]`."""
        return scaled

    def end_step(self, gather: Callable[[Tensor], Tensor]) -> None:
        """Called after each optimizer step.

        Args:
            gather: rows `[N, …]` of this process → those of all, in the same order in each.
        """


class StepObjective(Objective):
    """One of `LOSSES`, and what may go with it.

    Args:
        kind, target_gradient, temperature: of `jepa_losses`.
        size: D; only heads, z-scores and a queue need it.
        head: of `HEADS`.
        target_scale: of `SCALES`.
        kl: weight of the divergence KL(target ‖ prediction) of what the language model's head makes of both.
        regularisers: weights by name, of `REGULARISERS`; they act on the predictions, and on the targets where those
            have a gradient.
        own_negatives: whether the other steps of a pair's own problem are negatives of InfoNCE.
        queue: how many targets of earlier optimizer steps are further negatives of InfoNCE (MoCo, He et al. 2019,
            arXiv 1911.05722), without those of the pair's own problem.
        seed: of the head.
    """

    queue: Tensor
    queue_keys: Tensor
    queued: Tensor

    def __init__(
        self,
        kind: str,
        *,
        target_gradient: bool = True,
        temperature: float = 0.07,
        size: int = 0,
        head: str = "none",
        target_scale: str = "none",
        kl: float = 0.0,
        regularisers: dict[str, float] | None = None,
        own_negatives: bool = True,
        queue: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.kind, self.target_gradient, self.temperature = kind, target_gradient, temperature
        self.kl, self.regularisers, self.own_negatives = kl, regularisers or {}, own_negatives
        self.head = make_head(head, size, seed)
        self.scale = Scale(target_scale, size)
        self.fresh: list[tuple[Tensor, ...]] = []
        if queue and kind == "infonce":
            self.register_buffer("queue", torch.zeros(queue, size))
            self.register_buffer("queue_keys", torch.zeros(queue, 2, dtype=torch.long))
            self.register_buffer("queued", torch.zeros((), dtype=torch.long))
        self.has_queue = bool(queue) and kind == "infonce"
        sets = [*(["InfoNCE"] if kind == "infonce" else []), *self.regularisers]
        if sets:
            self.of_the_microbatch = ", ".join(sets)
            self.few_pairs = (
                f"{self.of_the_microbatch} compares the view pairs of a microbatch with each other, and a microbatch "
                "had a single one: its loss is 0 there. Raise the batch size, use more view pairs (pairs=consecutive), "
                "or compare those of the whole optimizer step (whole_step=true)."
            )

    @classmethod
    def of(cls, kind: str, options: Any, size: int) -> StepObjective:
        """As a run asks for it; `options` are those of `training/options.py`."""
        objective = cls(
            kind,
            target_gradient=options.target_gradient and options.target_model == "own",
            temperature=options.temperature,
            size=size,
            head=options.head,
            target_scale=options.target_scale,
            kl=options.kl,
            regularisers=weights_of(options.regularisers),
            own_negatives=options.own_negatives,
            queue=options.queue,
            seed=options.seed,
        )
        if objective.has_queue and options.target_model == "own":
            objective.unsound = (
                "queue: targets of the model in training age within a few optimizer steps, and all views can leave "
                "them behind together instead of being told apart (they collapsed so on the built-in problems). Take "
                "targets that change slowly (target_model=ema) or not at all (frozen)."
            )
        return objective

    def predict(self, context: Tensor) -> Tensor:
        """`[P, D] → [P, D]`, in float32 or wider."""
        return self.head(at_least_float32(context))

    def scaled(self, target: Tensor) -> Tensor:
        """`[P, D] → [P, D]`, in float32 or wider."""
        return self.scale(target)

    def unscaled(self, scaled: Tensor) -> Tensor:
        """`[P, D] → [P, D]`, in float32 or wider."""
        return self.scale.back(scaled)

    def forward(self, context: Tensor, target: Tensor, keys: PairKeys) -> dict[str, Tensor]:
        """`{kind: losses [P]}`, with `kl` `[P]` and each regulariser `[]` where they are asked for."""
        if not self.target_gradient:
            target = target.detach()
        predicted, scaled = self.predict(context), self.scaled(target)
        if self.kind == "infonce":
            terms = {self.kind: self._contrast(predicted, scaled, keys)}
        else:
            terms = {self.kind: jepa_losses(predicted, scaled, self.kind)}
        if self.kl:
            assert self.vocabulary is not None
            terms["kl"] = self.kl * divergence(self.vocabulary(predicted), self.vocabulary(scaled))
        sets = [predicted, scaled] if self.target_gradient else [predicted]
        for name, weight in self.regularisers.items():
            each = [REGULARISERS[name](x, self.moment) if len(x) > 1 else x.sum() * 0 for x in sets]
            terms[name] = weight * torch.stack(each).sum()
        return terms

    def _contrast(self, predicted: Tensor, scaled: Tensor, keys: PairKeys) -> Tensor:
        """InfoNCE `[P]`; a step with the very tokens of the true one is no negative."""
        negatives, excluded = None, keys.step[:, None] == keys.step
        if not self.own_negatives:
            excluded |= keys.problem[:, None] == keys.problem
        if self.training and self.has_queue:
            self.fresh.append((scaled.detach(), torch.stack(keys, dim=1)))
            filled = int(self.queued.clamp(max=len(self.queue)))
            negatives, old = self.queue[:filled], PairKeys(*self.queue_keys[:filled].unbind(dim=1))
            same = (keys.problem[:, None] == old.problem) | (keys.step[:, None] == old.step)
            excluded = torch.cat([excluded, same], dim=1)
        return infonce(predicted, scaled, self.temperature, negatives, excluded)

    def end_step(self, gather: Callable[[Tensor], Tensor]) -> None:
        """Put the targets of the optimizer step into the queue, in the place of the oldest."""
        if not self.has_queue:
            return
        fresh = [(self.queue[:0], self.queue_keys[:0]), *self.fresh]
        targets, keys = (gather(torch.cat(part)) for part in zip(*fresh, strict=True))
        self.fresh.clear()
        size = len(self.queue)
        targets, keys = targets[-size:], keys[-size:]
        place = (torch.arange(len(targets), device=targets.device) + self.queued) % size
        self.queue[place], self.queue_keys[place] = targets.to(self.queue), keys
        self.queued += len(targets)


def divergence(predicted: Tensor, true: Tensor) -> Tensor:
    """KL(true ‖ predicted) of logits `[P, V], [P, V] → [P]`, in nats, in float32 or wider; true ones get no gradient.

    As NextLat (Teoh et al. 2025, arXiv 2511.05963) asks of predicted states that they give the same tokens.
    """
    log_true, log_predicted = (at_least_float32(x).log_softmax(dim=-1) for x in (true.detach(), predicted))
    return F.kl_div(log_predicted, log_true, reduction="none", log_target=True).sum(dim=-1)
