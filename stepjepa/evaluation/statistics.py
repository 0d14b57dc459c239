"""Accuracies of several training seeds on the same questions: intervals, paired tests, what could have been seen.

Correctness is an array `[S, Q]`, seeds × questions. Both are samples, of the runs that might have been made and of
the questions that might have been asked, and they are crossed: every seed answers every question. Counting the S·Q
answers as independent would make the intervals too narrow by up to √S. With one seed nothing can be said about other
seeds, and intervals cover the choice of questions alone.

How honest the 95% intervals of a difference are was simulated: 200 questions whose difficulty spreads by 2 on the logit
scale, no true difference, 2,000 repeats for each of three kinds of arms (mean accuracy 15% or 55%, questions that suit
one arm or not), S seeds an arm. Share of intervals that hold the truth, lowest to highest of the three, in per cent:

| spread of accuracy over seeds | `difference`, S = 2 | 3     | 5     | `crossed_bootstrap`, S = 2 | 3     | 5     |
|-------------------------------|---------------------|-------|-------|----------------------------|-------|-------|
| none                          | 98–99               | 98–99 | 98–99 | 98–99                      | 98–99 | 99–100 |
| 4 points                      | 92–96               | 95–96 | 97–98 | 91–95                      | 95–96 | 96–98 |
| 14 points                     | 87–89               | 93–94 | 95–97 | 69–73                      | 80–84 | 88–90 |

`difference` is cautious where seeds do not matter and about right where they do, from three on; the bootstrap draws
from too few seeds to know how far they spread. The p-value of `difference` is that of the same t: its rate of false
alarms at α = 0.05 is one minus the coverage, 1–7% with three seeds, 1–5% with five. To take one seed's McNemar test for
a statement about methods gives 16–25% false alarms at 4 points of spread and 56–68% at 14. One seed, no spread: 96% of
the intervals hold the truth, exact McNemar gives 3–4% false alarms.

What a library has is taken from it (statsmodels, scipy); for crossed seeds and questions, for the power of the exact
McNemar test and for pass@k neither has a function.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np
from numpy.typing import NDArray
from scipy import stats

ALPHA, POWER = 0.05, 0.8
MARGIN = 0.01
"""Accuracy that an objective may cost and still count as not worse than plain fine-tuning."""
_BLOCK = 1 << 22  # weights held at once by the bootstrap: 32 MiB

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95% interval, and what a test or a power calculation needs."""

    value: float
    low: float
    high: float
    standard_error: float
    df: float
    p: float
    """Two-sided, that the mean is 0."""


def wilson(right: int, total: int) -> tuple[float, float]:
    """95% interval of a proportion (Wilson 1927), inside 0 to 1 and of positive width also at 0 and at `total`."""
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(right, total, alpha=ALPHA, method="wilson")
    return float(low), float(high)


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """p-value of the exact test that two models `[Q]` are as likely to be the only one to solve a question.

    Source: McNemar (1947).
    """
    from statsmodels.stats.contingency_tables import mcnemar as exact

    table = [[int((a & b).sum()) for b in (second, ~second)] for a in (first, ~first)]
    return float(exact(table, exact=True).pvalue)


def accuracy(correct: NDArray[np.bool_]) -> Estimate:
    """Mean accuracy of `[S, Q]`, with four further questions, two solved and two not, inside the interval.

    The four questions are Agresti & Coull's (1998): without them an accuracy of 0 has an interval of width 0.
    For one seed `wilson` is better still.
    """
    return _crossed_mean(correct.astype(float), (1, 1, 0, 0), bounds=(0, 1))


def difference(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Estimate:
    """Mean of `first − second`, both `[S, Q]` (or `[1, Q]`), seeds and questions in the same order.

    Two further questions, one solved by `first` only and one by `second` only, are counted in the interval and the
    p-value, so that two models that agree everywhere are not declared equal for certain. With one seed the interval
    is that of Bonett & Price (2012, eq. 6); its p-value is only approximate, `mcnemar` is exact.
    """
    return _crossed_mean(first.astype(float) - second.astype(float), (1, -1), bounds=(-1, 1))


def _crossed_mean(values: Array, further: Sequence[float], bounds: tuple[float, float]) -> Estimate:
    """Mean of `[S, Q]` over random seeds and random questions.

    variance = s²(seed means) / S + s²(question means) / Q

    with the degrees of freedom of Welch and Satterthwaite: two-way clustering (Cameron, Gelbach & Miller 2011)
    without the subtracted third term, so that what neither seed nor question explains counts twice. It is the
    cautious choice where few seeds leave that term unknown. With one seed the first variance is missing.
    """
    padded = np.concatenate([values, np.broadcast_to(further, (len(values), len(further)))], axis=1)
    parts = [(padded.mean(axis=1 - axis).var(ddof=1), count) for axis, count in enumerate(padded.shape) if count > 1]
    variance = sum(part / count for part, count in parts)
    df = variance**2 / sum((part / count) ** 2 / (count - 1) for part, count in parts)
    error = float(np.sqrt(variance))
    centre = float(padded.mean())
    margin = float(stats.t.isf(ALPHA / 2, df)) * error
    low, high = np.clip([centre - margin, centre + margin], *bounds)
    p = 2 * stats.t.sf(abs(centre) / error, df)
    return Estimate(float(values.mean()), float(low), float(high), error, float(df), float(p))


def crossed_bootstrap(values: Array, draws: int, seed: int) -> Array:
    """Bootstrap means `[A, draws]` of A arms' values `[A, S, Q]`: seeds and questions are each drawn with replacement.

    All arms see the same draws. How often each question is drawn is a vector of multinomial weights, so a draw is a
    product of matrices. Source: Owen (2007), "The pigeonhole bootstrap".
    """
    arms, seeds, questions = values.shape
    random = np.random.default_rng(seed)
    of_seeds = random.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws) / seeds  # [draws, S]
    flat = values.reshape(arms * seeds, questions).T  # [Q, A·S]
    result = np.empty((arms, draws))
    block = max(1, _BLOCK // questions)
    for start in range(0, draws, block):
        rows = of_seeds[start : start + block]
        drawn = random.integers(questions, size=(len(rows), questions)) + questions * np.arange(len(rows))[:, None]
        weights = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape) / questions
        means = (weights @ flat).reshape(len(rows), arms, seeds)
        result[:, start : start + block] = np.einsum("das,ds->ad", means, rows)
    return result


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979): rejecting those below α errs at all in at most a share α."""
    from statsmodels.stats.multitest import multipletests

    return [float(p) for p in multipletests(p_values, method="holm")[1]] if p_values else []


def detectable_difference(estimate: Estimate, power: float = POWER) -> float:
    """Smallest true mean that the t-test of `estimate` would have found with this power, given its standard error.

    (t_{1−α/2} + t_{power}) · standard error (Bloom 1995); 2.8 standard errors where there are many degrees of freedom.
    In the simulation above, true differences of its mean size were found in 81% of repeats with one seed, 79–83% with
    three and 81–88% with five. A single value is as uncertain as the standard error: with three seeds and 4 points of
    spread its mean was 18 points and four in five lay between 8 and 30.
    """
    return float(stats.t.isf(ALPHA / 2, estimate.df) + stats.t.ppf(power, estimate.df)) * estimate.standard_error


def non_inferiority(difference: float, standard_error: float, df: float, margin: float = MARGIN) -> float:
    """p-value of the one-sided test that the true difference is `margin` or more below 0.

    Below 2.5% what is tested is shown to be not worse by the margin, which is to be stated before the data are seen;
    that is the lower end of the 95% interval lying above −margin, but for its two further questions. A difference that
    is not shown says nothing of the kind. Source: Blackwelder (1982), CONSORT (Piaggio et al. 2012).
    """
    return float(stats.t.sf((difference + margin) / standard_error, df))


def mcnemar_power(gained: float, lost: float, questions: int) -> float:
    """Chance that the exact McNemar test finds a difference at α = 0.05.

    Args:
        gained, lost: chance that a question is solved by the first model only, by the second only.
        questions: how many are asked.
    """
    discordant = np.arange(questions + 1)
    critical = stats.binom.ppf(ALPHA / 2, discordant, 0.5)  # first count whose lower tail reaches α/2
    critical -= stats.binom.cdf(critical, discordant, 0.5) > ALPHA / 2  # last count that still rejects; −1: none does
    share = gained / (gained + lost)
    rejects = stats.binom.cdf(critical, discordant, share) + stats.binom.cdf(critical, discordant, 1 - share)
    return float(stats.binom.pmf(discordant, questions, gained + lost) @ rejects)


def detectable_mcnemar(discordant: float, questions: int, power: float = POWER) -> float:
    """Smallest true difference of two accuracies that the exact McNemar test would have found with this power.

    Args:
        discordant: share of questions that exactly one of the two models solves; it is held fixed, and only raised to
            the difference itself where that is larger.
        questions: how many are asked.

    Returns:
        A share, found to 1e-6; NaN if no difference would do (five questions or fewer).
    """
    from scipy.optimize import brentq

    def excess(delta: float) -> float:
        lost = max(0.0, (discordant - delta) / 2)
        return mcnemar_power(min(lost + delta, 1.0 - lost), lost, questions) - power

    if excess(1.0) < 0:
        return float("nan")
    return float(brentq(excess, 1e-9, 1.0, xtol=1e-6))


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Unbiased estimate of the chance that at least one of k samples is right (Chen et al. 2021, arXiv 2107.03374).

    1 − C(n − c, k) / C(n, k), the share of the subsets of k among the n samples that hold one of the c right ones.

    Raises:
        ValueError: unless 0 ≤ correct ≤ samples and 1 ≤ k ≤ samples.
    """
    if not (0 <= correct <= samples and 1 <= k <= samples):
        raise ValueError(f"pass@{k} of {correct} right among {samples} samples is not defined")
    return 1 - comb(samples - correct, k) / comb(samples, k)
