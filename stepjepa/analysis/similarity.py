"""Similarity of two models' embeddings of the same steps (linear CKA), and of the steps of a solution (coherence).

Coherence: are the consecutive steps of a solution closer to each other than its other steps are? Similarity is cosine
after the mean of all steps is removed. Steps of one solution are alike because they share names and numbers, and steps
with the same number are alike because they play the same part, so each solution carries two baselines: its own
non-consecutive steps, and the same step numbers taken across solutions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from stepjepa.jepa.metrics import centered_unit_rows


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


class Coherence(NamedTuple):
    """Mean centred cosine similarities of E solutions, each `[E]`, NaN where a solution has no such pair."""

    example: Tensor
    """The solutions' ids, ascending."""
    consecutive: Tensor
    """Step k with step k + 1 of the same solution."""
    distant: Tensor
    """Two steps of the same solution, at least two apart."""
    across: Tensor
    """Step k with step k + 1 of every *other* solution, over the k that `consecutive` averages over."""

    def numpy(self) -> list[np.ndarray]:
        """The four arrays."""
        return [values.numpy() for values in self]


def coherence(states: Tensor, example: Tensor, step: Tensor) -> Coherence:
    """Similarity of consecutive, distant and foreign steps for every solution.

    Compare `consecutive − distant` between correct and wrong solutions (resample solutions), with `across` as the
    level that steps of unrelated problems reach. Collapse gives 0 throughout. Values depend on the whole set
    through its mean: embed the solutions to be compared in one set.

    Args:
        states: `[S, D]`, one row a step: target views, or in-context states.
        example: `[S]`, the solution of each row.
        step: `[S]`, its step number. A missing number is a gap: its neighbours are not consecutive.

    Raises:
        ValueError: two rows for the same step of the same solution, or shapes that do not fit.
    """
    if example.shape != (len(states),) or step.shape != (len(states),):
        raise ValueError(f"{len(states)} states need as many example ids and step numbers.")
    examples, owner = example.unique(return_inverse=True)
    order = step.argsort(stable=True)
    order = order[owner[order].argsort(stable=True)]
    owner, step = owner[order], step[order]
    unit = centered_unit_rows(states)[order]
    same = owner[1:] == owner[:-1]
    if bool((same & (step[1:] == step[:-1])).any()):
        raise ValueError("Two states belong to the same step of the same example.")
    first = (same & (step[1:] == step[:-1] + 1)).nonzero().squeeze(1)
    zeros = unit.new_zeros(len(examples))

    def per_example(rows: Tensor, values: Tensor) -> Tensor:
        return zeros.index_add(0, owner[rows], values)

    next_to = (unit[first] * unit[first + 1]).sum(dim=1)
    pairs = per_example(first, torch.ones_like(next_to))
    consecutive = per_example(first, next_to)

    # All pairs of a solution at once: ‖sum of its rows‖² is every ordered pair, each row with itself included.
    everything = torch.arange(len(unit), device=unit.device)
    count = per_example(everything, torch.ones_like(unit[:, 0]))
    total = unit.new_zeros(len(examples), unit.shape[1]).index_add(0, owner, unit).square().sum(dim=1)
    within = (total - per_example(everything, unit.square().sum(dim=1))) / 2 - consecutive
    apart = count * (count - 1) / 2 - pairs

    # Step k with all k + 1 elsewhere: the sum over the whole set of step k + 1, less the solution's own.
    numbers, position = step.unique(return_inverse=True)
    sums = unit.new_zeros(len(numbers), unit.shape[1]).index_add(0, position, unit)
    elsewhere = position.bincount(minlength=len(numbers))[position[first + 1]] - 1
    foreign = ((unit[first] * sums[position[first + 1]]).sum(dim=1) - next_to) / elsewhere
    known = elsewhere > 0
    across = per_example(first[known], foreign[known]) / per_example(first[known], torch.ones_like(foreign[known]))
    return Coherence(
        example=examples,
        consecutive=consecutive / pairs,
        distant=torch.where(apart > 0, within / apart, torch.nan),
        across=across,
    )
