"""What a set of embeddings looks like: alignment of pairs, collapse, spectrum, similarity of two sets.

A falling cosine loss says nothing by itself: it is lowest when every embedding is the same vector. Rank alone is
no better as an alarm, so margin, spread and the energy of the mean direction stand beside it. Each function is as
small as its formula. Those that are a mean over independent rows return the rows (`[P]`), which a bootstrap can
resample; those that belong to the set as a whole return a scalar. `retrieval.py` ranks, `coherence.py` looks along
a solution, `probes.py` asks what a linear reader finds.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def retrieval_hits(context: Tensor, target: Tensor) -> Tensor:
    """Whether each context is strictly nearer (cosine) to its own target than to any other, `[P]` booleans.

    Strictly: if all targets coincide nothing is retrieved. Chance level among P pairs is 1/P.
    """
    similarity = F.normalize(context.float(), dim=-1) @ F.normalize(target.float(), dim=-1).T  # [P, P]
    true = similarity.diagonal()
    others = similarity.masked_fill(torch.eye(len(true), dtype=torch.bool, device=true.device), -torch.inf)
    return true > others.amax(dim=-1) if len(true) else true > 0


def spread(embeddings: Tensor) -> Tensor:
    """Mean cosine distance between two different rows of `[P, D]`, a scalar; 0 when all rows are alike.

    Equal to (1 − ‖mean of the unit vectors‖²) · P / (P − 1): one minus the energy of the mean direction, made
    independent of P. About 1 for random directions. NaN for fewer than two rows.
    """
    unit = F.normalize(embeddings.float(), dim=-1)
    count = len(unit)
    return (1 - unit.mean(dim=0).square().sum()) * count / (count - 1) if count > 1 else unit.new_tensor(torch.nan)


def unit_rows(x: Tensor) -> Tensor:
    """Rows of `[P, D]` scaled to length 1, in float64; a zero row stays zero."""
    return F.normalize(x.double(), dim=-1)


def centered_unit_rows(x: Tensor) -> Tensor:
    """Rows of `[P, D]` minus their mean, scaled to length 1, in float64; what is only rounding becomes zero.

    Without that last rule a collapsed set would be judged by the directions of its rounding errors: a row counts
    as equal to the mean when it differs by less than 4 rounding units of `x.dtype` (5e-7 in float32, 3% in
    bfloat16) of the longest row's length.
    """
    centered = x.double() - x.double().mean(dim=0)
    norm = centered.norm(dim=-1, keepdim=True)
    longest = x.double().norm(dim=-1).amax() if len(x) else norm.sum()
    return torch.where(norm > 4 * torch.finfo(x.dtype).eps * longest, centered / norm, 0.0)


def alignment(x: Tensor, y: Tensor, alpha: float = 2) -> Tensor:
    """‖x − y‖^alpha between the unit vectors of each pair, `[P, D], [P, D] → [P]`; its mean is the metric.

    0 is perfect. For alpha 2 it is 2 − 2 cos, so 2 for unrelated directions. Wang & Isola 2020
    (arXiv 2005.10242), ℓ_align.
    """
    return (unit_rows(x) - unit_rows(y)).norm(dim=-1) ** alpha


def uniformity(x: Tensor, t: float = 2) -> Tensor:
    """log mean exp(−t ‖u − v‖²) over pairs of different unit rows of `[P, D]`, a scalar; lower is more even.

    0 at collapse; for independent directions about −2t + 2t²/D. NaN for fewer than two rows. Wang & Isola 2020
    (arXiv 2005.10242), ℓ_uniform.
    """
    unit = unit_rows(x)
    if len(unit) < 2:
        return unit.new_tensor(torch.nan)
    return _off_diagonal(2 * t * (unit @ unit.T - 1)).logsumexp(dim=0) - _log_pairs(len(unit))


def _off_diagonal(square: Tensor) -> Tensor:
    return square[~torch.eye(len(square), dtype=torch.bool, device=square.device)]


def _log_pairs(count: int) -> float:
    return float(torch.tensor(count * (count - 1), dtype=torch.float64).log())


def singular_values(x: Tensor, center: bool = False) -> Tensor:
    """Singular values of `[P, D]`, largest first, `[min(P, D)]`, float64; of the centred rows with `center`."""
    x = x.double()
    return torch.linalg.svdvals(x - x.mean(dim=0) if center else x)


def effective_rank(x: Tensor, center: bool = False) -> Tensor:
    """exp of the entropy of the singular values of `[P, D]` as shares of their sum: 1 … min(P, D), a scalar.

    Uncentred, as RankMe (Garrido et al. 2022, arXiv 2210.02885) has it, without its ε = 1e-7; defined by Roy &
    Vetterli 2007. A shared direction therefore counts, and lowers it; `center` takes it out. It grows with P, so
    compare only sets of the same size. NaN for a zero matrix.
    """
    values = singular_values(x, center)
    shares = values / values.sum()
    return torch.special.entr(shares).sum().exp()


def dimension_spread(x: Tensor) -> Tensor:
    """Standard deviation of each dimension of `[P, D]` → `[D]`, in the embedding's own units; NaN for P < 2.

    The quantity that VICReg (Bardes et al. 2021, arXiv 2105.04906, eq. 1, without its ε) keeps above 1. Scale
    counts: give `unit_rows(x)` to compare with 1/√D, the value for directions spread evenly.
    """
    if len(x) < 2:
        return x.new_full(x.shape[1:], torch.nan, dtype=torch.float64)
    return x.double().std(dim=0)


def mean_direction_energy(x: Tensor) -> Tensor:
    """‖mean of the unit rows‖² of `[P, D]`: the share of their energy that lies in the mean vector, a scalar.

    1 at collapse, about 1/P for random directions. Cosines can be high merely because all vectors share a
    direction: the mean cosine of all P² ordered pairs, each row with itself included, *is* this number, and
    `spread` = (1 − it) · P / (P − 1). NaN for no rows.
    """
    return unit_rows(x).mean(dim=0).square().sum()


def centered_margin(context: Tensor, target: Tensor) -> Tensor:
    """Centred cosine with the own target minus the mean centred cosine with the others', `[P]`; the mean counts.

    Each set has its own mean removed first, so a shared direction earns nothing. 0 for unrelated sets and at
    collapse (also when only one of the two collapsed), at most P / (P − 1). NaN for fewer than two pairs. Every
    value depends on the whole set through the means and the other targets, which resampling `[P]` holds fixed.
    """
    a, b = centered_unit_rows(context), centered_unit_rows(target)
    if len(a) < 2:
        return a.new_full((len(a),), torch.nan)
    true = (a * b).sum(dim=-1)
    others = (a @ b.sum(dim=0) - true) / (len(a) - 1)
    return true - others


def linear_cka(x: Tensor, y: Tensor, debiased: bool = True) -> Tensor:
    """Linear centred kernel alignment of two embeddings of the same rows, `[P, D1], [P, D2] → ` scalar.

    1 for sets equal up to rotation and scale. Kornblith et al. 2019 (arXiv 1905.00414). The plain estimate
    (`debiased=False`) is far from 0 for unrelated sets unless P ≫ D: with independent Gaussian rows about
    √(D1 D2 / ((P + D1) (P + D2))), so 0.67 for P = 1,000 and D = 2,048. The default replaces HSIC by its
    unbiased estimate (Song et al. 2012, eq. 5; feature form in Kornblith's published code), which is 0 on
    average there and may be slightly negative. Both take rows for independent; steps of one problem are not.
    NaN for fewer than four rows or a set without variance.
    """
    if len(x) < 4:
        return x.new_tensor(torch.nan, dtype=torch.float64)
    x, y = x.double() - x.double().mean(dim=0), y.double() - y.double().mean(dim=0)
    hsic = _unbiased_hsic if debiased else _dot
    own = hsic(x, x) * hsic(y, y)
    return hsic(x, y) / own.sqrt()


def _dot(x: Tensor, y: Tensor) -> Tensor:
    """‖xᵀy‖² = sum of the products of the two Gram matrices, by whichever of the two is smaller."""
    if max(x.shape[1], y.shape[1]) <= len(x):
        return (x.T @ y).square().sum()
    return ((x @ x.T) * (y @ y.T)).sum()


def _unbiased_hsic(x: Tensor, y: Tensor) -> Tensor:
    """Proportional to the unbiased HSIC of centred rows: the diagonals of the Gram matrices taken out."""
    count = len(x)
    a, b = x.square().sum(dim=1), y.square().sum(dim=1)
    return _dot(x, y) - count / (count - 2) * (a @ b) + a.sum() * b.sum() / ((count - 1) * (count - 2))
