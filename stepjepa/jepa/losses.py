"""JEPA losses, distances between a context view and a target view; and objectives, the terms that a trainer adds up.

Each loss is its formula, computed in float32 or wider whatever the model's dtype. Losses give a number per view pair,
so that the caller decides what to average over (the trainer: all pairs of the optimizer step). An `Objective` may add
terms over the set of views, and have weights and state of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def at_least_float32(x: Tensor) -> Tensor:
    """`x` in float32, or unchanged if it is float32 or float64 already."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def cosine(context: Tensor, target: Tensor) -> Tensor:
    """1 − cos(context, target), `[P, D], [P, D] → [P]`, in [0, 2]."""
    return 1 - F.cosine_similarity(context, target, dim=-1)


def l2(context: Tensor, target: Tensor) -> Tensor:
    """Euclidean distance ‖context − target‖₂ (not squared), `[P, D], [P, D] → [P]`.

    Its gradient has the same length however near the pair is; the published ablation of LLM-JEPA
    (arXiv 2509.14252) found it far behind cosine.
    """
    return torch.linalg.vector_norm(context - target, dim=-1)


def mse(context: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference over the D dimensions, `[P, D], [P, D] → [P]`."""
    return (context - target).square().mean(dim=-1)


def smooth_l1(context: Tensor, target: Tensor) -> Tensor:
    """Huber-like loss with β = 1, mean over the D dimensions, `[P, D], [P, D] → [P]` (Girshick 2015)."""
    return F.smooth_l1_loss(context, target, reduction="none").mean(dim=-1)


def infonce(context: Tensor, target: Tensor, temperature: float = 0.07) -> Tensor:
    """InfoNCE with in-batch negatives, `[P, D], [P, D] → [P]` (van den Oord et al. 2018).

    −log softmax over all P targets of cos(context, target) / temperature, at the true target. With one pair
    there is no negative and the loss is 0.
    """
    similarity = F.normalize(context, dim=-1) @ F.normalize(target, dim=-1).T / temperature  # [P, P]
    truth = torch.arange(len(context), device=context.device)
    return F.cross_entropy(similarity, truth, reduction="none")


LOSSES = {"cosine": cosine, "l2": l2, "mse": mse, "smooth_l1": smooth_l1, "infonce": infonce}


def jepa_losses(
    context: Tensor, target: Tensor, kind: str = "cosine", target_gradient: bool = True, temperature: float = 0.07
) -> Tensor:
    """Per-pair JEPA losses `[P]`, in float32 or wider.

    Args:
        context: context views `[P, D]`.
        target: target views `[P, D]`.
        kind: one of `LOSSES`: cosine, l2, mse, smooth_l1, infonce.
        target_gradient: let the gradient flow into the target view too, as in the original; False stops it.
        temperature: of InfoNCE; the others ignore it.

    Raises:
        ValueError: for an unknown `kind`.
    """
    if kind not in LOSSES:
        raise ValueError(f"Unknown JEPA loss {kind!r}; choose one of {', '.join(LOSSES)}.")
    context, target = at_least_float32(context), at_least_float32(target)
    if not target_gradient:
        target = target.detach()
    if kind == "infonce":
        return infonce(context, target, temperature)
    return LOSSES[kind](context, target)


class Objective(nn.Module):
    """What the JEPA term is made of: views → named terms, which the trainer adds up, weights by λ and logs.

    `forward(context, target, example)` takes context views `[P, D]`, target views `[P, D]` and the example of each pair
    `[P]` (P may be 0 or 1) and returns terms by name, each in float32 or wider and in the graph of the views:

    - `[P]`, a number per view pair: the trainer takes its mean over the pairs of the optimizer step;
    - `[]`, a number for the set of views of a microbatch: the trainer takes its mean over the microbatches with a pair.

    Both means are over all processes. Parameters are trained by the model's optimizer (their gradient is not part of
    the norm that is clipped); they and the buffers are saved in every checkpoint, and resumed from it.
    """

    few_pairs: str | None = None
    """What to warn of, once, when a microbatch has a single view pair; None where that does no harm."""


class PairObjective(Objective):
    """One of `LOSSES`, a single term of that name.

    Args:
        kind, target_gradient, temperature: of `jepa_losses`.
    """

    def __init__(self, kind: str, *, target_gradient: bool = True, temperature: float = 0.07) -> None:
        super().__init__()
        self.kind, self.target_gradient, self.temperature = kind, target_gradient, temperature
        if kind == "infonce":
            self.few_pairs = (
                "InfoNCE takes its negatives from the microbatch, and a microbatch had a single view pair: its "
                "loss is 0 there. Raise the batch size or use more view pairs (pairs=consecutive)."
            )

    @classmethod
    def of(cls, kind: str, options: Any, hidden_size: int) -> PairObjective:
        """As a run asks for it."""
        return cls(kind, target_gradient=options.target_gradient, temperature=options.temperature)

    def forward(self, context: Tensor, target: Tensor, example: Tensor) -> dict[str, Tensor]:
        """`{kind: losses [P]}`."""
        return {self.kind: jepa_losses(context, target, self.kind, self.target_gradient, self.temperature)}


OBJECTIVES: dict[str, Callable[[Any, int], Objective]] = {kind: partial(PairObjective.of, kind) for kind in LOSSES}
"""Objectives by name, each made from the options of a run (`training/options.py`) and the model's hidden size D."""
