"""Regularisers: what keeps a set of views from becoming all alike, a number for the set.

They take views `[P, D]` of at least two pairs and compare dimensions or directions over the P rows, so they say
something only about sets of many: see `whole_step` of the trainer.
"""

from __future__ import annotations

import torch
from torch import Tensor

KNOTS = 17
REACH = 5.0
DIRECTIONS = 256


def variance(x: Tensor, moment: int = 0) -> Tensor:
    """Mean over dimensions of max(0, 1 − standard deviation), `[P, D] → []`.

    VICReg (Bardes et al. 2021, arXiv 2105.04906, eq. 1 and 2), with its γ = 1 and ε = 1e-4.
    """
    return (1 - (x.var(dim=0) + 1e-4).sqrt()).relu().mean()


def covariance(x: Tensor, moment: int = 0) -> Tensor:
    """Sum of the squared covariances of different dimensions / D, `[P, D] → []` (VICReg, eq. 3 and 4)."""
    matrix = x.T.cov()
    return (matrix.square().sum() - matrix.diagonal().square().sum()) / x.shape[1]


def sigreg(x: Tensor, moment: int = 0) -> Tensor:
    """How far projections of the rows on random directions are from a standard normal distribution, `[P, D] → []`.

    Sketched isotropic Gaussian regularization (Balestriero & LeCun 2025, arXiv 2511.08544): the mean over directions of
    the Epps–Pulley statistic, P ∫ |φ(t) − exp(−t²/2)|² exp(−t²) dt, where φ is the empirical characteristic function
    of the projections, by the trapezoidal rule at 17 points of [−5, 5].

    Args:
        x: `[P, D]`.
        moment: what the 256 directions are drawn from; the optimizer step, so that they change with it, and are the
            same in all its microbatches and processes.
    """
    generator = torch.Generator().manual_seed(moment)
    directions = torch.randn(x.shape[1], DIRECTIONS, generator=generator, dtype=torch.float64)
    directions = (directions / directions.norm(dim=0)).to(x)
    t = torch.linspace(-REACH, REACH, KNOTS, dtype=x.dtype, device=x.device)
    angles = (x @ directions)[..., None] * t  # [P, directions, knots]
    normal = (-t.square() / 2).exp()
    distance = (angles.cos().mean(dim=0) - normal).square() + angles.sin().mean(dim=0).square()
    return len(x) * torch.trapezoid(distance * normal.square(), t, dim=-1).mean()


REGULARISERS = {"variance": variance, "covariance": covariance, "sigreg": sigreg}


def weights_of(regularisers: list[str]) -> dict[str, float]:
    """`["variance=25", "covariance"]` → `{"variance": 25.0, "covariance": 1.0}`.

    Raises:
        ValueError: an unknown name, or a weight that is no number ≥ 0.
    """
    weights = {}
    for text in regularisers:
        name, _, weight = text.partition("=")
        if name not in REGULARISERS:
            raise ValueError(f"regularisers: {name!r} is unknown; choose among {', '.join(REGULARISERS)}.")
        try:
            weights[name] = float(weight or 1)
        except ValueError as error:
            raise ValueError(f"regularisers: {text!r}: {weight!r} is not a number; write {name}=0.1.") from error
        if not 0 <= weights[name] < float("inf"):
            raise ValueError(f"regularisers: {text!r}: a weight must be a finite number ≥ 0.")
    return weights
