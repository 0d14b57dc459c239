"""Intervals against a slow formula, and their coverage by simulation."""

import numpy as np
import pytest
import torch
from scipy import stats

from stepjepa.analysis.intervals import Measure, bootstrap_mean, cluster_bootstrap, cluster_jackknife, clusters
from stepjepa.jepa.metrics import effective_rank, recall_at, retrieval_ranks

RNG = np.random.default_rng(0)
GROUPS = np.repeat(RNG.permutation(30), RNG.integers(1, 6, size=30))
VALUES = RNG.normal(size=len(GROUPS)) + GROUPS / 10


def test_clusters_are_the_rows_of_each_group():
    assert [rows.tolist() for rows in clusters(["b", "a", "b", "c"])] == [[1], [0, 2], [3]]
    assert [rows.tolist() for rows in clusters(torch.tensor([5, 3, 5]))] == [[1], [0, 2]]
    assert clusters([]) == []


def test_whole_problems_are_drawn():
    seen = []

    def statistic(rows):
        seen.append(rows)
        return 0.0

    cluster_bootstrap(statistic, GROUPS, draws=20)
    sizes = np.bincount(GROUPS)
    *drawn, everything = seen
    assert sorted(everything) == list(range(len(GROUPS)))
    for rows in drawn:
        times = np.bincount(GROUPS[rows], minlength=30) / sizes
        assert (times == times.astype(int)).all()  # every row of a problem, as often as the problem was drawn
        assert times.sum() == 30
    assert any((np.bincount(rows) > 1).any() for rows in drawn)


def test_the_fast_mean_is_the_same_bootstrap():
    slow = cluster_bootstrap(lambda rows: VALUES[rows].mean(), GROUPS, draws=200, seed=3)
    fast = bootstrap_mean(VALUES, GROUPS, draws=200, seed=3)
    assert fast.estimate == pytest.approx(VALUES.mean())
    assert (fast.estimate, fast.low, fast.high) == pytest.approx((slow.estimate, slow.low, slow.high))
    assert fast == bootstrap_mean(VALUES, GROUPS, draws=200, seed=3)
    assert fast != bootstrap_mean(VALUES, GROUPS, draws=200, seed=4)
    wide = bootstrap_mean(VALUES, GROUPS, draws=200, seed=3, level=0.99)
    assert wide.low < fast.low < fast.high < wide.high


def test_the_bootstrap_error_of_a_mean_is_that_of_cluster_means():
    """With problems of one size the mean is a mean of problem means, whose standard error has a formula."""
    groups = np.repeat(np.arange(60), 4)
    values = RNG.normal(size=60)[groups] + 0.5 * RNG.normal(size=240)
    means = values.reshape(60, 4).mean(axis=1)
    error = means.std() / np.sqrt(60)
    interval = bootstrap_mean(values, groups, draws=20_000)
    assert (interval.high - interval.low) / 2 == pytest.approx(1.96 * error, rel=0.03)
    assert (interval.high - interval.low) / 2 > 1.5 * 1.96 * values.std() / np.sqrt(240)  # rows are not independent


def test_leaving_single_problems_out_gives_the_textbook_error():
    groups = np.repeat(np.arange(40), 3)
    values = RNG.normal(size=40)[groups] + RNG.normal(size=120)
    means = values.reshape(40, 3).mean(axis=1)
    interval = cluster_jackknife(lambda rows: values[rows].mean(), groups, blocks=40)
    reach = stats.t.ppf(0.975, 39) * means.std(ddof=1) / np.sqrt(40)
    assert interval.estimate == pytest.approx(values.mean())
    assert (interval.low, interval.high) == pytest.approx((values.mean() - reach, values.mean() + reach))


def test_blocks_leave_every_problem_out_once_and_double_none():
    left_out = []

    def statistic(rows):
        assert len(np.unique(rows)) == len(rows)
        left_out.append(np.setdiff1d(np.arange(len(GROUPS)), rows))
        return 0.0

    cluster_jackknife(statistic, GROUPS, blocks=7, seed=1)
    *blocks, nothing = left_out
    assert len(blocks) == 7
    assert len(nothing) == 0
    assert sorted(np.concatenate(blocks)) == list(range(len(GROUPS)))
    for block in blocks:
        assert set(GROUPS[block]).isdisjoint(np.delete(GROUPS, block))
        assert len(set(GROUPS[block])) in (4, 5)


def covered(interval, truth):
    return interval.low <= truth <= interval.high


def test_coverage_of_a_mean():
    """About 95 in 100; resampling rows as if they were independent would reach about 70."""
    hits, naive, jack = [], [], []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        groups = np.repeat(np.arange(50), rng.integers(2, 6, size=50))
        values = rng.normal(size=50)[groups] + 0.7 * rng.normal(size=len(groups))
        hits.append(covered(bootstrap_mean(values, groups, draws=300, seed=seed), 0))
        naive.append(covered(bootstrap_mean(values, np.arange(len(values)), draws=300, seed=seed), 0))
        jack.append(covered(cluster_jackknife(lambda rows, v=values: v[rows].mean(), groups, blocks=10), 0))
    assert 0.91 <= np.mean(hits) <= 0.98
    assert 0.91 <= np.mean(jack) <= 0.99
    assert np.mean(naive) < 0.85


def simulated(seed):
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(60), rng.integers(2, 5, size=60))
    context = rng.normal(size=(60, 8))[groups] + rng.normal(size=(len(groups), 8))
    target = context + rng.normal(size=context.shape)
    return groups, torch.tensor(context), torch.tensor(target)


@pytest.mark.parametrize("name", ["rank", "recall"])
def test_copies_spoil_the_bootstrap_of_set_statistics_but_not_the_jackknife(name):
    def statistic(context, target, rows):
        if name == "rank":
            return effective_rank(context[rows]).item()
        return recall_at(retrieval_ranks(context[rows], target[rows], torch.arange(len(rows)))).mean().item()

    truth = np.mean([statistic(c, t, range(len(g))) for g, c, t in (simulated(1000 + s) for s in range(200))])
    doubled, left_out = [], []
    for seed in range(60):
        groups, context, target = simulated(seed)
        one = lambda rows, c=context, t=target: statistic(c, t, rows)  # noqa: E731
        doubled.append(covered(cluster_bootstrap(one, groups, draws=60, seed=seed), truth))
        left_out.append(covered(cluster_jackknife(one, groups, blocks=15, seed=seed), truth))
    assert np.mean(left_out) >= 0.88
    assert np.mean(doubled) <= 0.75


def test_bad_input():
    with pytest.raises(ValueError, match="at least two problems, not 1"):
        bootstrap_mean([1.0, 2.0], [0, 0])
    with pytest.raises(ValueError, match="at least two problems, not 0"):
        cluster_jackknife(len, [])
    with pytest.raises(ValueError, match="1 of 3 values are not finite"):
        bootstrap_mean([1.0, np.nan, 2.0], [0, 1, 2])
    with pytest.raises(ValueError, match="2 values for 3 rows"):
        bootstrap_mean([1.0, 2.0], [0, 1, 2])
    assert bootstrap_mean([2.0, 2.0], [0, 1]) == Measure(2.0, 2.0, 2.0)
