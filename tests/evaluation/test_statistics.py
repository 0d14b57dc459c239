"""Intervals and tests against scipy and statsmodels, against every possible draw of tiny cases, and in simulation."""

import itertools
from collections import Counter

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar

from stepjepa.evaluation import statistics


def answers(random, seeds, spread, repeats, questions=200, better=0.0):
    """Correctness `[repeats, 2, S, Q]` of two arms, some 55% right: difficulty of spread 2, seeds of `spread`.

    The first arm is `better` by so much on the logit scale.
    """
    difficulty = random.normal(0, 2, (repeats, 1, 1, questions))
    seed_effect = random.normal(0, spread, (repeats, 2, seeds, 1))
    ability = np.array([0.4 + better, 0.4])[:, None, None]
    chance = expit(ability + difficulty + seed_effect + random.normal(0, 1, (repeats, 2, seeds, questions)))
    return random.random(chance.shape) < chance


# ---- one seed ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("right", "total"), [(0, 200), (200, 200), (7, 20), (131, 1319)])
def test_wilson_is_that_of_scipy(right, total):
    expected = stats.binomtest(right, total).proportion_ci(method="wilson")
    assert statistics.wilson(right, total) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_mcnemar_is_the_binomial_test_of_discordant_questions():
    first = np.array([1, 1, 1, 1, 1, 1, 1, 0, 1, 0, 1], dtype=bool)
    second = np.array([0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 1], dtype=bool)
    p = statistics.mcnemar(first, second)
    assert p == pytest.approx(stats.binomtest(1, 8).pvalue)
    assert p == pytest.approx(2 * (1 + 8) / 2**8)
    assert statistics.mcnemar(first, first) == 1.0


def test_one_seed_gives_the_interval_of_bonett_and_price():
    first, second = np.zeros((1, 100), dtype=bool), np.zeros((1, 100), dtype=bool)
    first[0, :30], second[0, 20:45] = True, True  # 20 gained, 15 lost
    found = statistics.difference(first, second)
    gained, lost, n = 21 / 102, 16 / 102, 102
    variance = (gained + lost - (gained - lost) ** 2) / n * n / (n - 1)  # the sample variance divides by n − 1
    margin = stats.t.ppf(0.975, n - 1) * np.sqrt(variance)
    assert found.value == pytest.approx(0.05)
    assert (found.low, found.high) == pytest.approx((gained - lost - margin, gained - lost + margin))


def test_models_that_agree_everywhere_are_not_equal_for_certain():
    for seeds in (1, 3):
        same = np.zeros((seeds, 200), dtype=bool)
        found = statistics.difference(same, same)
        assert found.value == 0
        assert found.p == 1
        assert found.low == pytest.approx(-found.high)
        assert 0.005 < found.high < 0.03
        assert statistics.accuracy(same).high > 0.01


def test_power_of_mcnemar_is_that_of_every_possible_outcome():
    gained, lost, questions = 0.5, 0.1, 9
    expected = 0.0
    for outcome in itertools.product((1, 0, -1), repeat=questions):
        up, down = outcome.count(1), outcome.count(-1)
        if statsmodels_mcnemar([[0, up], [down, 0]], exact=True).pvalue <= 0.05:
            expected += gained**up * lost**down * (1 - gained - lost) ** outcome.count(0)
    assert statistics.mcnemar_power(gained, lost, questions) == pytest.approx(expected, abs=1e-12)


def test_detectable_difference_of_one_seed_is_found_in_four_cases_of_five():
    discordant, questions, repeats = 0.25, 200, 4000
    delta = statistics.detectable_mcnemar(discordant, questions)
    random = np.random.default_rng(0)
    counts = random.multinomial(
        questions, [(discordant + delta) / 2, (discordant - delta) / 2, 1 - discordant], size=repeats
    )
    p = {pair: stats.binomtest(pair[0], sum(pair)).pvalue for pair in {(int(up), int(down)) for up, down, _ in counts}}
    found = np.mean([p[int(up), int(down)] < 0.05 for up, down, _ in counts])
    assert found == pytest.approx(0.8, abs=4 * np.sqrt(0.16 / repeats))


def test_detectable_difference_without_discordant_questions():
    """All discordant questions lie on one side, and six of them are needed for p < 0.05."""
    delta = statistics.detectable_mcnemar(0, 200)
    assert stats.binom.sf(5, 200, delta) == pytest.approx(0.8, abs=1e-4)
    assert np.isnan(statistics.detectable_mcnemar(1.0, 5))  # 2 / 2⁵ > 0.05: nothing rejects


# ---- several seeds -------------------------------------------------------------------------------------------


def test_crossed_interval_is_welchs_over_seed_means_and_question_means():
    random = np.random.default_rng(1)
    first, second = answers(random, seeds=4, spread=0.5, repeats=1, questions=30)[0]
    found = statistics.difference(first, second)
    padded = np.array([[*(a.astype(int) - b), 1, -1] for a, b in zip(first, second, strict=True)])
    by_seed, by_question = padded.mean(axis=1), padded.mean(axis=0)
    welch = stats.ttest_ind(by_seed, -by_question, equal_var=False)  # its error and degrees of freedom are ours
    error = np.sqrt(by_seed.var(ddof=1) / 4 + by_question.var(ddof=1) / 32)
    assert found.value == pytest.approx(first.mean() - second.mean())
    assert found.standard_error == pytest.approx(error)
    assert found.df == pytest.approx(welch.df)
    assert found.p == pytest.approx(2 * stats.t.sf(abs(padded.mean()) / error, welch.df))
    assert (found.p < 0.05) == (found.low > 0 or found.high < 0)


def test_bootstrap_draws_every_outcome_as_often_as_it_should():
    """2² choices of seeds × 3³ of questions = 108 equally likely draws."""
    values = np.array([[1.0, 0.0, -1.0], [4.0, 2.0, 8.0]])
    exact = Counter(
        round(float(values[np.ix_(rows, columns)].mean()), 9)
        for rows in itertools.product(range(2), repeat=2)
        for columns in itertools.product(range(3), repeat=3)
    )
    draws = 20_000
    drawn = Counter(np.round(statistics.crossed_bootstrap(values[None], draws, seed=0)[0], 9).tolist())
    assert set(drawn) == set(exact)
    outcomes = sorted(exact)
    expected = np.array([exact[each] / 108 * draws for each in outcomes])
    assert stats.chisquare([drawn[each] for each in outcomes], expected).pvalue > 0.001


def test_bootstrap_gives_all_arms_the_same_draws(monkeypatch):
    random = np.random.default_rng(2)
    values = random.random((3, 4, 25))
    values[2] = 2 * values[0] - values[1]
    means = statistics.crossed_bootstrap(values, 300, seed=5)
    np.testing.assert_allclose(means[2], 2 * means[0] - means[1], atol=1e-12)
    np.testing.assert_array_equal(means, statistics.crossed_bootstrap(values, 300, seed=5))
    assert not np.array_equal(means, statistics.crossed_bootstrap(values, 300, seed=6))
    np.testing.assert_allclose(statistics.crossed_bootstrap(values[:1], 300, seed=5)[0], means[0])  # arms do not matter
    monkeypatch.setattr(statistics, "_BLOCK", 60)  # two draws at a time
    np.testing.assert_allclose(statistics.crossed_bootstrap(values, 300, seed=5), means, atol=1e-12)


def test_bootstrap_of_one_seed_spreads_as_a_mean_of_questions():
    values = np.random.default_rng(3).random((1, 1, 150))
    spread = statistics.crossed_bootstrap(values, 20_000, seed=0)[0].std()
    assert spread == pytest.approx(values.std() / np.sqrt(150), rel=0.03)


def test_holm_by_hand():
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm([]) == []


@pytest.mark.parametrize(
    ("seeds", "spread", "lowest", "highest"),
    [
        (1, 0.0, 0.94, 0.98),
        (3, 0.0, 0.97, 1),
        (3, 0.3, 0.935, 0.98),
        (3, 1.0, 0.90, 0.96),
        (5, 0.3, 0.95, 0.99),
        (5, 1.0, 0.93, 0.97),
        (2, 1.0, 0.83, 0.91),
    ],
)
def test_coverage_is_as_documented(seeds, spread, lowest, highest):
    found = [statistics.difference(*arms) for arms in answers(np.random.default_rng(4), seeds, spread, repeats=1000)]
    covered = np.mean([each.low <= 0 <= each.high for each in found])
    assert lowest <= covered <= highest
    assert np.mean([each.p < 0.05 for each in found]) == pytest.approx(1 - covered)


def test_false_alarms_of_exact_mcnemar():
    pairs = answers(np.random.default_rng(5), seeds=1, spread=0.0, repeats=1500)[:, :, 0]
    alarms = np.mean([statistics.mcnemar(*pair) < 0.05 for pair in pairs])
    assert 0.015 < alarms <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 1500)


@pytest.mark.parametrize(
    ("seeds", "spread", "lowest", "highest"),
    [(1, 0.0, 0.77, 0.85), (3, 0.0, 0.77, 0.88), (3, 0.3, 0.73, 0.86), (5, 0.0, 0.80, 0.90), (5, 0.3, 0.76, 0.87)],
)
def test_a_detectable_difference_is_found_about_as_often_as_documented(seeds, spread, lowest, highest):
    random = np.random.default_rng(6)
    alike = [statistics.difference(*arms) for arms in answers(random, seeds, spread, repeats=400)]
    detectable = np.mean([statistics.detectable_difference(each) for each in alike])
    steps = np.linspace(0, 2, 9)
    truth = [np.subtract(*answers(random, 1, spread, 200_000, 1, step).mean(axis=(0, 2, 3))) for step in steps]
    better = np.interp(detectable, truth, steps)
    trials = answers(random, seeds, spread, repeats=800, better=better)
    assert lowest < np.mean([statistics.difference(*arms).p < 0.05 for arms in trials]) < highest


# ---- samples -------------------------------------------------------------------------------------------------


def test_pass_at_k_is_the_share_of_the_subsets_with_a_right_one():
    for samples in range(1, 8):
        for correct in range(samples + 1):
            for k in range(1, samples + 1):
                subsets = list(itertools.combinations([True] * correct + [False] * (samples - correct), k))
                assert statistics.pass_at_k(samples, correct, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))
    with pytest.raises(ValueError, match="not defined"):
        statistics.pass_at_k(3, 1, 4)


def test_non_inferiority_is_the_t_test_against_the_margin():
    """The one-sided test of scipy on the same differences; 2.5% is where the 95% interval begins above the margin."""
    values = np.random.default_rng(3).normal(0.002, 0.01, 30)
    error = values.std(ddof=1) / np.sqrt(30)
    expected = stats.ttest_1samp(values, -0.01, alternative="greater").pvalue
    assert statistics.non_inferiority(values.mean(), error, 29) == pytest.approx(expected, rel=1e-9)
    edge = -0.01 + stats.t.isf(0.025, 29) * error
    assert statistics.non_inferiority(edge, error, 29) == pytest.approx(0.025)
