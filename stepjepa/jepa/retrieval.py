"""Step retrieval: where does the true next step stand when all candidate steps are ranked by cosine similarity?

Asked in two settings: among all steps of the set (which problem is this?) and, with `allowed`, among the steps of
the same problem (which step of it comes next?). The two can differ widely: surface content alone, such as names
and numbers, finds the problem without knowing the step. Chance levels are exact and stand beside each result.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stepjepa.jepa.metrics import unit_rows

TIE = 1e-12
"""Cosines closer than this are equal: identical candidates differ by rounding in a matrix product."""
BLOCK = 1024
"""Rows ranked at a time, which bounds the memory at `BLOCK` × C cosines."""


def retrieval_ranks(context: Tensor, candidates: Tensor, true_index: Tensor, allowed: Tensor | None = None) -> Tensor:
    """Rank of each context's true candidate by cosine similarity, `[P]`, 1 is best.

    Ties count against the model: a candidate just as similar as the true one stands before it, so nothing is
    retrieved from a collapsed set. Steps with the same text have the same target view up to rounding (`The answer is
    …`): leave such twins out with `allowed`, or no model can reach rank 1 on them. A direction that all contexts
    share draws them to the same few candidates; subtract each set's mean first to see the ranking without it.

    Args:
        context: `[P, D]`.
        candidates: `[C, D]`; with `true_index = arange(P)` simply the P targets.
        true_index: `[P]`, the row of `candidates` that is right.
        allowed: `[P, C]` booleans, the candidates that compete; all of them if None.

    Raises:
        ValueError: a true candidate is not among the allowed ones, or shapes do not fit.
    """
    rows = torch.arange(len(context), device=context.device)
    if true_index.shape != (len(context),):
        raise ValueError(f"true_index has shape {tuple(true_index.shape)} for {len(context)} contexts.")
    if allowed is not None:
        if allowed.shape != (len(context), len(candidates)):
            raise ValueError(f"allowed has shape {tuple(allowed.shape)}, not ({len(context)}, {len(candidates)}).")
        if not bool(allowed[rows, true_index].all()):
            raise ValueError("A true candidate is not among the allowed ones.")
    a, b = unit_rows(context), unit_rows(candidates)
    ranks = []
    for block in rows.split(BLOCK):
        similarity = a[block] @ b.T  # [BLOCK, C]
        true = similarity.gather(1, true_index[block, None])
        ahead = similarity >= true - TIE  # the true candidate itself included, which makes the best rank 1
        if allowed is not None:
            ahead &= allowed[block]
        ranks.append(ahead.sum(dim=1))
    return torch.cat(ranks) if ranks else rows


def recall_at(ranks: Tensor, k: int = 1) -> Tensor:
    """Share of ranks `[P]` that are k or better (R@k), a scalar; NaN for no ranks."""
    return (ranks <= k).double().mean()


def mean_reciprocal_rank(ranks: Tensor) -> Tensor:
    """Mean of 1/rank over `[P]` (MRR), a scalar in (0, 1]; NaN for no ranks."""
    return ranks.double().reciprocal().mean()


def chance_recall(sizes: Tensor, k: int = 1) -> Tensor:
    """Expected R@k of a random order, for `sizes` `[P]` competing candidates each: mean of min(k, n) / n."""
    return (sizes.clamp(max=k) / sizes.double()).mean()


def chance_reciprocal_rank(sizes: Tensor) -> Tensor:
    """Expected MRR of a random order, for `sizes` `[P]` competing candidates each: mean of H(n) / n.

    H(n) = 1 + 1/2 + … + 1/n, the harmonic number.
    """
    harmonic = torch.special.digamma(sizes.double() + 1) - torch.special.digamma(torch.ones((), dtype=torch.float64))
    return (harmonic / sizes).mean()
