"""Probes find what is planted, stay at chance where nothing is, and their controls name what is only memory."""

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau, spearmanr
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from stepjepa.analysis.probes import _order_share, linear_probe, order_probe, value_probe

STEPS = 4
GROUPS = np.repeat(np.arange(100), STEPS)
STEP = np.tile(np.arange(STEPS), 100)
OPERATIONS = np.array(["add", "subtract", "multiply"])


def rng(seed=0):
    return np.random.default_rng(seed)


def rows(*shape, seed=0):
    return torch.tensor(rng(seed).normal(size=shape))


# -------- classification --------


def planted(seed=0, noise=1.0):
    """Labels that differ from step to step, written into the embeddings; surfaces that say nothing."""
    labels = rng(seed).integers(3, size=400)
    x = 3 * rng(7).normal(size=(3, 20))[labels] + noise * rng(seed + 1).normal(size=(400, 20))
    surface = [f"word {n}" for n in rng(seed + 2).integers(30, size=400)]
    return torch.tensor(x), OPERATIONS[labels], surface


def test_a_planted_label_is_found_and_is_not_memory():
    x, labels, surface = planted()
    probe = linear_probe(x, labels, GROUPS, surface)
    assert probe.accuracy > 0.97
    assert probe.seen > 0.95
    assert probe.control < probe.chance + 0.1  # the embedding does not know the surface
    assert probe.lookup < probe.chance + 0.1
    assert probe.selectivity > 0.5
    assert probe.correct.mean() == pytest.approx(probe.accuracy)
    assert probe.control_correct.mean() == pytest.approx(probe.control)


def test_accuracy_is_that_of_scikit_learn():
    x, labels, surface = planted(noise=6.0)
    probe = linear_probe(x, labels, GROUPS, surface, folds=4, seed=5)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    folds = GroupKFold(4, shuffle=True, random_state=5)
    predicted = cross_val_predict(classifier, x.numpy(), labels, groups=GROUPS, cv=folds)
    assert 0.5 < probe.accuracy < 0.95
    assert (probe.correct == (predicted == labels)).all()


def test_a_memorised_surface_has_no_selectivity():
    """The embedding is nothing but a code of the surface form, and the label is a function of that form."""
    forms = rng().integers(40, size=400)
    label_of_form = rng(1).integers(3, size=40)
    x = torch.tensor(rng(2).normal(size=(40, 64))[forms] + 0.05 * rng(3).normal(size=(400, 64)))
    probe = linear_probe(x, OPERATIONS[label_of_form[forms]], GROUPS, [f"form {n}" for n in forms])
    assert probe.accuracy > 0.97
    assert probe.lookup > 0.97
    assert abs(probe.selectivity) < 0.03


def test_noise_is_at_chance():
    labels = OPERATIONS[rng(1).choice(3, p=[0.5, 0.3, 0.2], size=400)]
    probe = linear_probe(rows(400, 4), labels, GROUPS, [str(n) for n in rng(2).integers(20, size=400)])
    assert probe.chance == pytest.approx(np.mean(labels == "add"), abs=1e-9)
    assert probe.accuracy == pytest.approx(probe.chance, abs=0.05)


def test_recognising_the_problem_does_not_help():
    of_problem = rng(1).integers(2, size=100)[GROUPS]  # one label for all steps of a problem
    x = torch.tensor(rng(2).normal(size=(100, 200))[GROUPS])
    probe = linear_probe(x, of_problem, GROUPS, ["same"] * 400)
    assert probe.accuracy == pytest.approx(0.5, abs=0.15)
    shuffled = linear_probe(x, of_problem, np.arange(400), ["same"] * 400)
    assert shuffled.accuracy > 0.95  # what splitting problems would have reported


def test_surfaces_that_do_not_recur_are_reported():
    x, labels, _ = planted()
    texts = [f"step {n}" for n in range(400)]
    probe = linear_probe(x, labels, GROUPS, texts)
    assert probe.seen == 0
    assert probe.lookup == probe.chance
    assert probe.control < 0.45


def test_one_surface_form_gives_the_control_one_label():
    x, labels, _ = planted()
    assert linear_probe(x, labels, GROUPS, [""] * 400).control == 1


# -------- running value --------


def test_a_planted_value_is_found_up_to_sign():
    values = np.round(rng().normal(size=400) * 60)
    scaled = np.sign(values) * np.log1p(np.abs(values))
    x = torch.tensor(np.outer(scaled, rng(1).normal(size=12)) + rng(2).normal(size=(400, 12)))
    probe = value_probe(x, values, GROUPS, STEP)
    assert probe.r2 > 0.9
    assert probe.spearman > 0.9
    assert abs(probe.control_r2) < 0.05
    assert abs(probe.control_spearman) < 0.2
    np.testing.assert_allclose(probe.actual, scaled)
    assert probe.spearman == pytest.approx(spearmanr(probe.predicted, scaled).statistic)
    left, total = (scaled - probe.predicted) ** 2, (scaled - probe.baseline) ** 2
    assert probe.r2 == pytest.approx(1 - left.sum() / total.sum())


def test_a_value_known_from_the_step_number_alone_is_no_better_than_its_control():
    values = np.exp(STEP + rng().normal(size=400) * 0.3)
    x = torch.tensor(np.eye(STEPS)[STEP] + 0.1 * rng(1).normal(size=(400, STEPS)))
    probe = value_probe(x, values, GROUPS, STEP)
    assert probe.r2 > 0.8
    assert probe.control_r2 == pytest.approx(probe.r2, abs=0.05)


def test_values_of_noise_and_of_the_problem_are_not_predicted():
    values = 20 + 10 * rng().normal(size=100)[GROUPS]
    for x in (rows(400, 300, seed=1), rows(100, 300, seed=2)[GROUPS]):
        probe = value_probe(x, values, GROUPS, STEP)
        assert probe.r2 < 0.05
        assert abs(probe.spearman) < 0.3


# -------- order --------


def test_a_planted_direction_orders_held_out_chains():
    direction = rng(1).normal(size=24)
    offsets = 30 * rng(2).normal(size=(100, 24))[GROUPS]  # what tells problems apart is much larger
    x = torch.tensor(np.outer(STEP, direction) + offsets + rng(3).normal(size=(400, 24)))
    probe = order_probe(x, GROUPS, STEP, shuffles=99)
    assert probe.accuracy > 0.97
    assert probe.p_value == 0.01
    assert probe.null.shape == (99,)
    assert probe.null.mean() == pytest.approx(0.5, abs=0.02)
    assert probe.scores.mean() == pytest.approx(probe.accuracy)
    assert probe.example.tolist() == list(range(100))
    mixed = rng(4).permutation(400)
    again = order_probe(x[torch.tensor(mixed)], GROUPS[mixed], STEP[mixed] * 3 + 1, shuffles=99)
    np.testing.assert_array_equal(again.scores, probe.scores)  # row order and gaps in the numbers do not count


def test_what_tells_problems_apart_does_not_count():
    x = torch.tensor(np.outer(STEP, rng(1).normal(size=24)) * 0.2 + rng(3).normal(size=(400, 24)))
    offsets = torch.tensor(30 * rng(2).normal(size=(100, 24))[GROUPS])
    plain, moved = (order_probe(states, GROUPS, STEP, shuffles=3) for states in (x, x + offsets))
    assert 0.6 < plain.accuracy < 0.9
    np.testing.assert_array_equal(moved.scores, plain.scores)


def test_p_values_of_noise_are_spread_evenly():
    """Under the null a fifth of them lies below 0.2; 50 repetitions give 10 ± 3."""
    groups, step = np.repeat(np.arange(20), 4), np.tile(np.arange(4), 20)
    p = np.array(
        [order_probe(rows(80, 6, seed=seed), groups, step, shuffles=19, seed=seed).p_value for seed in range(50)]
    )
    assert 3 <= (p <= 0.2).sum() <= 18
    assert 3 <= (p > 0.8).sum() <= 18
    assert p.mean() == pytest.approx(0.5, abs=0.13)


def test_the_share_of_ordered_pairs_is_kendalls_tau():
    predicted, order = rng().normal(size=(7, 3)), np.stack([rng(s).permutation(7) for s in range(3)], axis=1)
    expected = [(kendalltau(p, o).statistic + 1) / 2 for p, o in zip(predicted.T, order.T, strict=True)]
    np.testing.assert_allclose(_order_share(predicted, order), expected)
    assert _order_share(np.zeros((7, 1)), order[:, :1]).tolist() == [0.5]  # ties: nothing is known


def test_collapsed_states_have_no_order():
    probe = order_probe(torch.ones(400, 5), GROUPS, STEP, shuffles=9)
    assert probe.accuracy == 0.5
    assert probe.p_value == 1


def test_chains_of_one_step_are_left_out():
    example = np.concatenate([GROUPS, [500, 501]])
    x = torch.cat([rows(400, 3), torch.full((2, 3), 1e6, dtype=torch.float64)])
    probe = order_probe(x, example, np.concatenate([STEP, [0, 0]]), shuffles=3)
    assert probe.example.tolist() == list(range(100))
    np.testing.assert_array_equal(probe.scores, order_probe(x[:400], GROUPS, STEP, shuffles=3).scores)


# -------- all of them --------


def test_the_seed_decides_everything():
    x, labels, surface = planted(noise=4.0)
    same = [linear_probe(x, labels, GROUPS, surface, seed=seed) for seed in (0, 0, 1)]
    assert (same[0].control_correct == same[1].control_correct).all()
    assert (same[0].control_correct != same[2].control_correct).any()
    values = [value_probe(x, STEP * 1.5, GROUPS, STEP, seed=seed).predicted for seed in (0, 0, 1)]
    assert (values[0] == values[1]).all()
    assert (values[0] != values[2]).any()
    null = [order_probe(x, GROUPS, STEP, shuffles=5, seed=seed).null for seed in (0, 0, 1)]
    assert (null[0] == null[1]).all()
    assert (null[0] != null[2]).any()


def test_bad_input():
    x, labels, surface = planted()
    with pytest.raises(ValueError, match="at least two classes, not 1"):
        linear_probe(x, ["add"] * 400, GROUPS, surface)
    with pytest.raises(ValueError, match="400 embeddings but 399 surface"):
        linear_probe(x, labels, GROUPS, surface[1:])
    with pytest.raises(ValueError, match="5 folds need at least as many problems, not 3"):
        linear_probe(x[:12], labels[:12], GROUPS[:12], surface[:12])
    with pytest.raises(ValueError, match="1 of 400 values are not finite"):
        value_probe(x, [np.nan, *range(399)], GROUPS, STEP)
    with pytest.raises(ValueError, match="occurs twice"):
        order_probe(x, GROUPS, np.zeros(400, dtype=int))
    with pytest.raises(ValueError, match="no chain has two steps"):
        order_probe(x, np.arange(400), STEP)
