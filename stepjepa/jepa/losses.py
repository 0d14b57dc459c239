"""JEPA losses: distances between a context view and a target view, a number per view pair.

Each loss is its formula, computed in float32 or wider whatever the model's dtype, so that the caller decides what to
average over (the trainer: all pairs of the optimizer step). `objectives.py` makes of them what is trained.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def wide(dtype: torch.dtype) -> torch.dtype:
    """What losses are computed in where a model computes in `dtype`: float32, of float64 that."""
    return torch.promote_types(dtype, torch.float32)


def at_least_float32(x: Tensor) -> Tensor:
    """`x` in float32, or unchanged if it is float32 or float64 already."""
    return x.to(wide(x.dtype))


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


def l1_std(context: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference over the D dimensions / standard deviation of the target, `[P, D], [P, D] → [P]`.

    As CODI (Shen et al. 2025, arXiv 2502.21074) scales its distillation loss, so that targets of any layer weigh alike.
    There the deviation is that of a batch of targets; here it is that of a target's own D numbers, less their mean, so
    that what else is in the batch does not matter. No gradient flows through it.
    """
    return (context - target).abs().mean(dim=-1) / target.detach().std(dim=-1, correction=0).clamp(min=1e-6)


def infonce(
    context: Tensor,
    target: Tensor,
    temperature: float = 0.07,
    negatives: Tensor | None = None,
    excluded: Tensor | None = None,
) -> Tensor:
    """InfoNCE with in-batch negatives, `[P, D], [P, D] → [P]` (van den Oord et al. 2018).

    −log softmax over all candidates of cos(context, candidate) / temperature, at the true target. With one pair and
    no further negatives the loss is 0.

    Args:
        context, target: `[P, D]`; the candidates are the P targets.
        temperature: of the softmax.
        negatives: further candidates `[N, D]`.
        excluded: `[P, P + N]` booleans: candidates that do not compete. The true target always does.
    """
    candidates = target if negatives is None else torch.cat([target, negatives.to(target)])
    similarity = F.normalize(context, dim=-1) @ F.normalize(candidates, dim=-1).T / temperature  # [P, P + N]
    truth = torch.arange(len(context), device=context.device)
    if excluded is not None:
        others = excluded & (truth[:, None] != torch.arange(len(candidates), device=context.device))
        similarity = similarity.masked_fill(others, -torch.inf)
    return F.cross_entropy(similarity, truth, reduction="none")


LOSSES = {"cosine": cosine, "l2": l2, "mse": mse, "smooth_l1": smooth_l1, "l1_std": l1_std, "infonce": infonce}


def jepa_losses(
    context: Tensor, target: Tensor, kind: str = "cosine", target_gradient: bool = True, temperature: float = 0.07
) -> Tensor:
    """Per-pair JEPA losses `[P]`, in float32 or wider.

    Args:
        context: context views `[P, D]`.
        target: target views `[P, D]`.
        kind: one of `LOSSES`: cosine, l2, mse, smooth_l1, l1_std, infonce.
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
