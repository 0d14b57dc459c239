"""Intervals for statistics over steps, by resampling problems: the steps of one problem are not independent.

Drawing problems with replacement suits means and smooth functions of them. It does **not** suit statistics that
compare a row with the other rows of its set: a problem drawn twice puts exact copies into the set, which lower the
effective rank and tie with the true step. For those the delete-a-group jackknife leaves blocks of problems out and
never doubles one. Coverage of nominal 95% intervals over 200 simulated sets of 100 problems, bootstrap against
jackknife: a mean 94% and 97%, effective rank 55% and 95%, uniformity 48% and 92%, linear CKA 86% and 98%, retrieval
among all steps 0% and 99%.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import stats

Statistic = Callable[[np.ndarray], float]


@dataclass(frozen=True)
class Measure:
    """An estimate, its two-sided confidence interval over problems (None where there is none), and what to compare."""

    estimate: float
    low: float | None = None
    high: float | None = None
    chance: float | None = None
    """What chance gives."""
    extra: dict[str, float] | None = None
    """Controls and other figures beside it, by name."""

    def beside(self, chance: float | None = None, **extra: float) -> Measure:
        """The same with what it is to be compared with."""
        return replace(self, chance=chance, extra=extra or None)


def cluster_bootstrap(
    statistic: Statistic, groups: Any, draws: int = 1000, seed: int = 0, level: float = 0.95
) -> Measure:
    """Percentile interval of a statistic when whole problems are drawn with replacement.

    For means, differences and ratios of means, correlations. Not for statistics that copies of a row distort, see
    `cluster_jackknife`. Efron & Tibshirani 1993, §13.3; with clusters: Field & Welsh 2007.

    Args:
        statistic: row indices (`[n]` integers, with repetitions) → number.
        groups: `[P]`, the problem of each row.
        draws: bootstrap samples.
        level: coverage aimed at.

    Raises:
        ValueError: fewer than two problems.
    """
    members = _problems(groups)

    def of_problems(drawn: np.ndarray) -> float:
        return statistic(np.concatenate([members[i] for i in drawn]))

    problems = np.arange(len(members))
    values = _drawn((problems,), of_problems, draws, seed, vectorized=False)
    return _percentile(of_problems(problems), values, level)


def bootstrap_mean(values: Any, groups: Any, draws: int = 1000, seed: int = 0, level: float = 0.95) -> Measure:
    """`cluster_bootstrap` of the mean of per-row values `[P]`, with the same draws, without visiting rows.

    A mean needs only each problem's sum and count.

    Raises:
        ValueError: fewer than two problems, lengths that differ, or a value that is not finite (leave such rows
            out, and say so).
    """
    values = np.asarray(values, dtype=float)
    if len(values) != len(groups):
        raise ValueError(f"{len(values)} values for {len(groups)} rows")
    if not np.isfinite(values).all():
        raise ValueError(f"{(~np.isfinite(values)).sum()} of {len(values)} values are not finite; leave them out")
    members = _problems(groups)
    sums = np.array([values[rows].sum() for rows in members])
    counts = np.array([len(rows) for rows in members])
    return replace(bootstrap_ratio(sums, counts, draws, seed, level), estimate=float(values.mean()))


def bootstrap_ratio(top: Any, bottom: Any, draws: int = 1000, seed: int = 0, level: float = 0.95) -> Measure:
    """`cluster_bootstrap` of Σ `top` / Σ `bottom`, both `[N]` with a number for each problem; of nothing it is 0.

    Raises:
        ValueError: fewer than two problems.
    """
    top, bottom = (np.asarray(each, dtype=float) for each in (top, bottom))
    _problems(np.arange(len(top)))

    def ratio(top: np.ndarray, bottom: np.ndarray, axis: int) -> np.ndarray:
        above, below = top.sum(axis), bottom.sum(axis)
        return np.divide(above, below, out=np.zeros_like(above), where=below != 0)

    return _percentile(float(ratio(top, bottom, 0)), _drawn((top, bottom), ratio, draws, seed, vectorized=True), level)


def cluster_jackknife(
    statistic: Statistic, groups: Any, blocks: int = 25, seed: int = 0, level: float = 0.95
) -> Measure:
    """Interval of a statistic from leaving blocks of problems out in turn, for statistics that copies distort.

    Problems are dealt at random into `blocks` blocks (fewer if there are fewer problems). Every evaluation lacks
    one block and holds each remaining row once, so the set size, on which effective rank and retrieval depend,
    hardly changes. estimate ± t · standard error, the error being √((B − 1)/B · Σ(θ₋ᵢ − mean)²) with B − 1
    degrees of freedom. Kott 2001; Shao & Tu 1995, §2.3. scipy has no jackknife, of rows or of groups.

    Args:
        statistic: row indices (`[n]` integers, ascending, no repetitions) → number.

    Raises:
        ValueError: fewer than two problems.
    """
    members = _problems(groups)
    order = np.random.default_rng(seed).permutation(len(members))
    parts = np.array_split(order, min(blocks, len(members)))
    keep = np.ones(len(np.asarray(groups)), dtype=bool)
    values = []
    for part in parts:
        left_out = np.concatenate([members[i] for i in part])
        keep[left_out] = False
        values.append(statistic(np.flatnonzero(keep)))
        keep[left_out] = True
    count = len(parts)
    error = np.sqrt((count - 1) * np.var(values))
    reach = float(stats.t.ppf((1 + level) / 2, count - 1) * error)
    estimate = float(statistic(np.arange(len(keep))))
    return Measure(estimate, estimate - reach, estimate + reach)


def clusters(groups: Any) -> list[np.ndarray]:
    """Row indices of each group, ascending, in ascending order of the groups."""
    _, owner, counts = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    return np.split(np.argsort(owner, kind="stable"), np.cumsum(counts)[:-1]) if len(counts) else []


def _problems(groups: Any) -> list[np.ndarray]:
    members = clusters(groups)
    if len(members) < 2:
        raise ValueError(f"an interval needs at least two problems, not {len(members)}")
    return members


def _drawn(
    data: tuple[np.ndarray, ...], statistic: Callable[..., Any], draws: int, seed: int, vectorized: bool
) -> np.ndarray:
    """The statistic of each bootstrap sample of problems, `[draws]`."""
    options: dict[str, Any] = {"paired": True, "vectorized": vectorized, "method": "percentile"}
    result = stats.bootstrap(data, statistic, n_resamples=draws, rng=np.random.default_rng(seed), **options)
    return np.asarray(result.bootstrap_distribution, dtype=float)


def _percentile(estimate: float, values: np.ndarray, level: float) -> Measure:
    # scipy's own interval differs from these quantiles, which the committed records hold, in the last digit
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Measure(float(estimate), float(low), float(high))
