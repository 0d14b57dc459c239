"""Geometry, retrieval and coherence against naive formulas and on constructed sets.

(`retrieval_hits` and `spread`, the training monitors, are tested with the losses.)
"""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.special import ive

from stepjepa.analysis.similarity import coherence, linear_cka
from stepjepa.jepa.metrics import (
    alignment,
    centered_margin,
    centered_unit_rows,
    chance_recall,
    chance_reciprocal_rank,
    dimension_spread,
    effective_rank,
    mean_direction_energy,
    recall_at,
    reciprocal_rank,
    retrieval_hits,
    retrieval_ranks,
    singular_values,
    spread,
    uniformity,
    unit_rows,
)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(size, seed=0):
    return torch.linalg.qr(normal(size, size, seed=seed)).Q


X, Y = normal(9, 5) + 0.5, normal(9, 5, seed=1) - 0.3
CONSTANT = (torch.rand(7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 1 / 3).repeat(300, 1)
JITTER = 1 + 1e-7 * torch.rand(300, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
PAIRS = list(itertools.permutations(range(9), 2))


def unit(rows):
    return [row / math.sqrt(sum(v * v for v in row)) for row in rows.numpy()]


# -------- geometry of a set --------


def test_alignment_is_the_distance_of_unit_vectors():
    for alpha in (1, 2, 3):
        expected = [np.linalg.norm(a - b) ** alpha for a, b in zip(unit(X), unit(Y), strict=True)]
        np.testing.assert_allclose(alignment(X, Y, alpha), expected, rtol=1e-12)
    cosine = torch.nn.functional.cosine_similarity(X, Y)
    torch.testing.assert_close(alignment(X, Y), 2 - 2 * cosine)
    assert alignment(X, 3 * X).max() < 1e-30
    assert alignment(X, -X).mean().item() == pytest.approx(4)


def test_alignment_of_unrelated_directions_is_two():
    assert alignment(normal(4000, 64), normal(4000, 64, seed=1)).mean().item() == pytest.approx(2, abs=0.02)


def test_uniformity_is_the_gaussian_potential_of_different_pairs():
    for t in (2, 0.5):
        u = unit(X)
        expected = np.log(np.mean([np.exp(-t * np.sum((u[i] - u[j]) ** 2)) for i, j in PAIRS]))
        assert uniformity(X, t).item() == pytest.approx(expected, rel=1e-12)


def test_uniformity_of_even_directions_is_the_bessel_integral():
    d, t = 16, 2
    # E exp(2t cos) for a uniform direction: Γ(d/2) (1/t)^(d/2−1) I_(d/2−1)(2t); ive is I times exp(−2t).
    expected = math.lgamma(d / 2) - (d / 2 - 1) * math.log(t) + math.log(ive(d / 2 - 1, 2 * t))
    assert expected == pytest.approx(-2 * t + 2 * t**2 / d, abs=0.05)  # the approximation in the docstring
    assert uniformity(normal(3000, d), t).item() == pytest.approx(expected, abs=0.01)


def test_effective_rank_is_the_exponential_of_the_spectrum_entropy():
    for center in (False, True):
        rows = X.numpy() - X.numpy().mean(0) * center
        values = np.linalg.svd(rows, compute_uv=False)
        np.testing.assert_allclose(singular_values(X, center), values, rtol=1e-10, atol=1e-12)
        shares = values / values.sum()
        assert effective_rank(X, center).item() == pytest.approx(math.exp(-sum(shares * np.log(shares))))


def test_effective_rank_counts_equal_directions():
    for rank in (1, 3, 8):
        rows = torch.zeros(20, 8, dtype=torch.float64)
        rows[torch.arange(rank), torch.arange(rank)] = 5.0
        assert effective_rank(rows).item() == pytest.approx(rank)
    assert effective_rank(normal(20_000, 24)).item() == pytest.approx(24, rel=0.002)  # N ≫ D
    assert effective_rank(normal(10, 500)).item() < 10  # bounded by the number of rows
    assert math.isnan(effective_rank(torch.zeros(4, 3)))


def test_a_shared_direction_lowers_the_uncentred_rank_only():
    shifted = normal(2000, 24) + 50
    assert effective_rank(shifted).item() < 5
    assert effective_rank(shifted, center=True).item() == pytest.approx(24, rel=0.02)


def test_dimension_spread_is_the_sample_deviation_of_each_dimension():
    np.testing.assert_allclose(dimension_spread(X), X.numpy().std(axis=0, ddof=1))
    directions = unit_rows(normal(5000, 50))
    torch.testing.assert_close(
        dimension_spread(directions), torch.full((50,), 50**-0.5, dtype=torch.float64), rtol=0.05, atol=0
    )
    assert torch.isnan(dimension_spread(X[:1])).all()


def test_mean_direction_energy_is_the_mean_cosine_of_all_ordered_pairs():
    u = unit(X)
    expected = np.mean([u[i] @ u[j] for i in range(9) for j in range(9)])
    assert mean_direction_energy(X).item() == pytest.approx(expected)
    assert spread(X).item() == pytest.approx((1 - expected) * 9 / 8, rel=1e-5)
    assert mean_direction_energy(normal(4000, 64)).item() == pytest.approx(1 / 4000, rel=0.5)


def test_centered_margin_is_own_minus_others():
    a, b = unit(X - X.mean(0)), unit(Y - Y.mean(0))
    expected = [a[i] @ b[i] - np.mean([a[i] @ b[j] for j in range(9) if j != i]) for i in range(9)]
    np.testing.assert_allclose(centered_margin(X, Y), expected, rtol=1e-10)


def test_centered_margin_pays_nothing_for_a_shared_direction():
    context, target = normal(500, 32), normal(500, 32, seed=1)
    assert torch.nn.functional.cosine_similarity(context + 100, target + 100).min() > 0.99
    for shift in (0, 100):
        assert abs(centered_margin(context + shift, target + shift).mean().item()) < 0.02
        perfect = centered_margin(context + shift, context - shift).mean().item()
        assert perfect == pytest.approx(1, abs=0.01)
        assert perfect <= 500 / 499 + 1e-9
    assert torch.isnan(centered_margin(X[:1], Y[:1])).tolist() == [True]
    assert centered_margin(X[:0], Y[:0]).shape == (0,)


@pytest.mark.parametrize("collapsed", [CONSTANT, (CONSTANT * JITTER).float()], ids=["exact", "rounded"])
def test_total_collapse_reads_as_collapse_everywhere(collapsed):
    """One vector in every row, where the centred rows are nothing but rounding."""
    assert (collapsed.double() - collapsed.double().mean(0)).abs().max() > 0
    assert alignment(collapsed, collapsed).max() < 1e-12  # the loss is perfect
    assert uniformity(collapsed).item() == pytest.approx(0, abs=1e-9)
    assert effective_rank(collapsed).item() == pytest.approx(1, abs=1e-4)
    assert dimension_spread(collapsed).max() < 1e-6
    assert mean_direction_energy(collapsed).item() == pytest.approx(1)
    assert spread(collapsed).item() == pytest.approx(0, abs=1e-5)
    assert centered_margin(collapsed, collapsed).tolist() == [0.0] * 300
    assert centered_unit_rows(collapsed).abs().max() == 0
    result = coherence(collapsed, torch.arange(300) // 3, torch.arange(300) % 3)
    for values in (result.consecutive, result.distant, result.across):
        assert values.tolist() == [0.0] * 100


def test_nothing_is_retrieved_from_a_collapsed_set():
    ranks = retrieval_ranks(CONSTANT, CONSTANT, torch.arange(300))
    assert ranks.tolist() == [300] * 300  # every tie counts against the model
    assert recall_at(ranks, 10).mean() == 0


def test_one_collapsed_set_is_enough_for_no_margin():
    assert centered_margin(normal(300, 7), CONSTANT).abs().max() == 0
    nearly = CONSTANT + 1e-4 * normal(300, 7)  # small, but no rounding: it counts in full
    assert centered_margin(nearly, nearly).mean() > 0.9


@pytest.mark.parametrize("transform", ["rotate", "scale"])
def test_rotating_or_scaling_everything_changes_nothing(transform):
    x, y = normal(30, 6) + 1, normal(30, 6, seed=1)
    turn = rotation(6) if transform == "rotate" else 7.0 * torch.eye(6, dtype=torch.float64)
    example, step, index = torch.arange(30) // 5, torch.arange(30) % 5, torch.arange(30)
    for metric in (
        lambda a, b: alignment(a, b),
        lambda a, b: uniformity(a),
        lambda a, b: effective_rank(a),
        lambda a, b: mean_direction_energy(a),
        lambda a, b: centered_margin(a, b),
        lambda a, b: retrieval_ranks(a, b, index),
        lambda a, b: coherence(a, example, step).consecutive,
        lambda a, b: linear_cka(a, b),
    ):
        torch.testing.assert_close(metric(x @ turn, y @ turn), metric(x, y))


def test_a_few_rows_are_too_few():
    assert math.isnan(uniformity(X[:1]))
    assert math.isnan(linear_cka(X[:3], Y[:3]))


# -------- similarity of two sets --------


def naive_hsic(k, m):
    """Song et al. 2012, equation 5, with Gram matrices whose diagonals are zero."""
    n = len(k)
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    one = np.ones(n)
    first, second = np.trace(k @ m), (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
    return (first + second - 2 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3))


@pytest.mark.parametrize(("rows", "d1", "d2"), [(40, 5, 9), (12, 30, 6), (12, 30, 50)])
def test_cka_against_the_gram_matrix_formulas(rows, d1, d2):
    x, y = normal(rows, d1) + 2, normal(rows, d2, seed=1)
    y[:, 0] += x[:, 0]
    k, m = (x @ x.T).numpy(), (y @ y.T).numpy()
    unbiased = naive_hsic(k, m) / math.sqrt(naive_hsic(k, k) * naive_hsic(m, m))
    assert linear_cka(x, y).item() == pytest.approx(unbiased, rel=1e-9)
    h = np.eye(rows) - 1 / rows
    hsic = lambda a, b: np.trace(a @ h @ b @ h)  # noqa: E731
    biased = hsic(k, m) / math.sqrt(hsic(k, k) * hsic(m, m))
    assert linear_cka(x, y, debiased=False).item() == pytest.approx(biased, rel=1e-9)


def test_cka_is_one_up_to_rotation_scale_and_shift():
    x = normal(50, 6)
    for debiased in (True, False):
        assert linear_cka(x, 3 * x @ rotation(6) + 5, debiased).item() == pytest.approx(1)
    assert linear_cka(x, x @ normal(6, 6, seed=3)).item() < 0.99  # not up to any linear map
    assert math.isnan(linear_cka(x, torch.ones_like(x)))


def test_the_plain_cka_of_unrelated_sets_is_far_from_zero_and_the_debiased_one_is_not():
    count, d1, d2 = 200, 150, 300
    sets = [(normal(count, d1, seed=s), normal(count, d2, seed=1000 + s)) for s in range(20)]
    expected = math.sqrt(d1 * d2 / ((count + d1) * (count + d2)))
    assert expected > 0.5
    assert np.mean([linear_cka(x, y, debiased=False) for x, y in sets]) == pytest.approx(expected, rel=0.02)
    assert np.mean([linear_cka(x, y) for x, y in sets]) == pytest.approx(0, abs=0.01)


# -------- retrieval --------


def naive_ranks(context, candidates, true_index, allowed):
    ranks = []
    for i, c in enumerate(unit(context)):
        similarity = [c @ u for u in unit(candidates)]
        ranks.append(
            1
            + sum(
                similarity[j] >= similarity[true_index[i]]
                for j in range(len(similarity))
                if j != true_index[i] and allowed[i, j]
            )
        )
    return ranks


def test_ranks_against_a_double_loop(monkeypatch):
    monkeypatch.setattr("stepjepa.jepa.metrics.BLOCK", 4)  # several blocks
    candidates = normal(14, 5, seed=2)
    true_index = torch.tensor([3, 0, 13, 5, 5, 7, 1, 2, 9])
    allowed = normal(9, 14, seed=3) > 0
    allowed[torch.arange(9), true_index] = True
    everything = torch.ones_like(allowed)
    assert retrieval_ranks(X, candidates, true_index).tolist() == naive_ranks(X, candidates, true_index, everything)
    among = retrieval_ranks(X, candidates, true_index, allowed)
    assert among.tolist() == naive_ranks(X, candidates, true_index, allowed)
    assert (among <= allowed.sum(dim=1)).all()


def test_rank_one_is_a_hit_and_perfect_alignment_retrieves_all():
    x, y = normal(60, 4).float(), normal(60, 4, seed=1).float()
    y = x + 0.5 * y
    ranks = retrieval_ranks(x, y, torch.arange(60))
    assert ((ranks == 1) == retrieval_hits(x, y)).all()
    assert 0 < recall_at(ranks).mean().item() < 1
    assert retrieval_ranks(x, 2 * x, torch.arange(60)).tolist() == [1] * 60


def test_ties_count_against_the_model_unless_left_out():
    candidates = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])  # the first two point the same way
    context = torch.tensor([[1.0, 0.1]])
    assert retrieval_ranks(context, candidates, torch.tensor([0])).tolist() == [2]
    allowed = torch.tensor([[True, False, True]])
    assert retrieval_ranks(context, candidates, torch.tensor([0]), allowed).tolist() == [1]


def test_recall_and_reciprocal_rank():
    ranks = torch.tensor([1, 2, 4, 10])
    assert recall_at(ranks).mean().item() == 0.25
    assert recall_at(ranks, 4).mean().item() == 0.75
    assert reciprocal_rank(ranks).mean().item() == pytest.approx((1 + 1 / 2 + 1 / 4 + 1 / 10) / 4)
    assert math.isnan(recall_at(ranks[:0]).mean())
    assert math.isnan(reciprocal_rank(ranks[:0]).mean())


def test_chance_levels_are_the_mean_over_all_orders():
    sizes = torch.tensor([1, 3, 4, 8])
    for k in (1, 3, 5):
        expected = np.mean([np.mean([rank <= k for rank in range(1, n + 1)]) for n in sizes])
        assert chance_recall(sizes, k).item() == pytest.approx(expected)
    expected = np.mean([np.mean([1 / rank for rank in range(1, n + 1)]) for n in sizes])
    assert chance_reciprocal_rank(sizes).item() == pytest.approx(expected)


def test_random_views_are_at_chance_in_both_settings():
    context, target = normal(1200, 16), normal(1200, 16, seed=1)
    index = torch.arange(1200)
    owner = index // 4
    same = owner[:, None] == owner[None, :]
    within = retrieval_ranks(context, target, index, same)
    assert recall_at(within).mean().item() == pytest.approx(chance_recall(same.sum(1)).item(), abs=0.04)  # 0.25, 3 SE
    assert reciprocal_rank(within).mean().item() == pytest.approx(chance_reciprocal_rank(same.sum(1)).item(), abs=0.03)
    ranks = retrieval_ranks(context, target, index)
    everyone = torch.full((1200,), 1200)
    assert recall_at(ranks, 120).mean().item() == pytest.approx(chance_recall(everyone, 120).item(), abs=0.03)


def test_ranks_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match="not among the allowed"):
        retrieval_ranks(X, Y, torch.arange(9), ~torch.eye(9, dtype=torch.bool))
    with pytest.raises(ValueError, match="allowed has shape"):
        retrieval_ranks(X, Y, torch.arange(9), torch.ones(9, 8, dtype=torch.bool))
    with pytest.raises(ValueError, match="true_index has shape"):
        retrieval_ranks(X, Y, torch.arange(8))
    assert retrieval_ranks(X[:0], Y, torch.arange(0)).tolist() == []


# -------- coherence --------

EXAMPLE = torch.tensor([7, 7, 7, 7, 2, 2, 9, 5, 5, 5])
STEP = torch.tensor([0, 1, 2, 4, 0, 1, 0, 2, 1, 0])  # a gap in 7, a single step in 9, 5 out of order


def naive_coherence(states):
    u = unit(states - states.mean(0))
    table = {(int(e), int(s)): u[i] for i, (e, s) in enumerate(zip(EXAMPLE, STEP, strict=True))}
    out = []
    for example in (2, 5, 7, 9):
        mine = sorted(s for e, s in table if e == example)
        near = [(s, s + 1) for s in mine if s + 1 in mine]
        far = [(a, b) for a, b in itertools.combinations(mine, 2) if b - a > 1]
        across = []
        for s, following in near:
            others = [table[e, k] for e, k in table if k == following and e != example]
            if others:
                across.append(np.mean([table[example, s] @ other for other in others]))
        out.append(
            [
                np.mean([table[example, a] @ table[example, b] for a, b in near]) if near else np.nan,
                np.mean([table[example, a] @ table[example, b] for a, b in far]) if far else np.nan,
                np.mean(across) if across else np.nan,
            ]
        )
    return np.array(out).T


def test_coherence_against_loops():
    states = normal(10, 6, seed=4) + 3
    result = coherence(states, EXAMPLE, STEP)
    assert result.example.tolist() == [2, 5, 7, 9]
    found = torch.stack([result.consecutive, result.distant, result.across])
    expected = naive_coherence(states)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert np.isnan(expected[:, 3]).all()  # a single step has no pair
    assert np.isnan(expected[1, 0])  # two steps have no distant pair
    shuffled = torch.tensor([3, 9, 0, 5, 7, 1, 8, 2, 6, 4])
    again = coherence(states[shuffled], EXAMPLE[shuffled], STEP[shuffled])
    torch.testing.assert_close(again.consecutive, result.consecutive, equal_nan=True)


def test_coherence_tells_a_walk_from_independent_steps_and_from_a_part_of_speech():
    example, step = torch.arange(800) // 8, torch.arange(800) % 8
    noise = normal(800, 32)
    independent = coherence(noise, example, step)
    for values in (independent.consecutive, independent.distant, independent.across):
        assert abs(values.mean().item()) < 0.03
    walk = coherence(noise.view(100, 8, 32).cumsum(dim=1).view(800, 32), example, step)
    assert walk.consecutive.mean() > walk.distant.mean() + 0.2
    assert abs(walk.across.mean().item()) < 0.03
    # What depends on the step number alone is as alike across solutions as within them.
    curve = 3 * normal(8, 32, seed=1).cumsum(dim=0)
    role = coherence(curve[step] + noise, example, step)
    assert role.consecutive.mean() > role.distant.mean() + 0.2
    assert role.across.mean().item() == pytest.approx(role.consecutive.mean().item(), abs=0.02)


def test_coherence_refuses_a_step_twice_and_lengths_that_differ():
    with pytest.raises(ValueError, match="same step of the same example"):
        coherence(X[:3], torch.tensor([1, 1, 1]), torch.tensor([0, 1, 0]))
    with pytest.raises(ValueError, match="as many"):
        coherence(X[:3], torch.tensor([1, 1]), torch.tensor([0, 1, 2]))
