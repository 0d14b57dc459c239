"""What an objective is put together from, each part against its formula."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stepjepa.jepa.heads import HEADS, Scale, make_head
from stepjepa.jepa.objectives import StepObjective, divergence
from stepjepa.jepa.regularisers import covariance, variance
from stepjepa.jepa.targets import PairKeys

RNG = np.random.default_rng(1)
C, T = (torch.from_numpy(RNG.normal(size=(6, 8))).float() for _ in range(2))
PROBLEM = torch.tensor([1, 1, 2, 3, 3, 3])
KEYS = PairKeys(PROBLEM, torch.arange(6))


def contrast(predicted, target, allowed, extra=None, temperature=0.07):
    """InfoNCE pair by pair, over the candidates that `allowed(i, j)` names."""
    candidates = target if extra is None else np.concatenate([target, extra])
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (predicted, candidates)]
    scores = unit[0] @ unit[1].T / temperature
    return [
        -scores[i, i] + np.log(sum(np.exp(scores[i, j]) for j in range(len(candidates)) if j == i or allowed(i, j)))
        for i in range(len(predicted))
    ]


@pytest.mark.parametrize("kind", HEADS)
def test_a_head_begins_as_the_identity_and_learns(kind):
    head = make_head(kind, 8, seed=3)
    assert torch.equal(head(C), C)
    again = make_head(kind, 8, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(head.parameters(), again.parameters(), strict=True))
    optimizer = torch.optim.SGD([*head.parameters(), torch.zeros(1, requires_grad=True)], 0.5)
    first = F.mse_loss(head(C), T).item()
    for _ in range(50):
        optimizer.zero_grad()
        loss = F.mse_loss(head(C), T)
        if loss.requires_grad:
            loss.backward()
        optimizer.step()
    assert (F.mse_loss(head(C), T).item() < 0.8 * first) == (kind != "none")


def test_scales_are_those_of_numpy():
    assert torch.equal(Scale("none", 8)(T), T)
    rows = T.numpy()
    layer = (rows - rows.mean(1, keepdims=True)) / np.sqrt(rows.var(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(Scale("layer", 8)(T).numpy(), layer, rtol=1e-5, atol=1e-6)
    scale = Scale("zscore", 8)
    scale.measure(torch.cat([C, T]))
    both = np.concatenate([C.numpy(), rows])
    np.testing.assert_allclose(scale(T).numpy(), (rows - both.mean(0)) / both.std(0), rtol=1e-4, atol=1e-5)
    assert set(scale.state_dict()) == {"mean", "deviation"}  # saved with a checkpoint


def test_the_default_is_the_loss_alone_and_keeps_nothing():
    objective = StepObjective("cosine")
    assert not objective.state_dict()
    terms = objective(C, T, KEYS)
    assert list(terms) == ["cosine"]
    torch.testing.assert_close(terms["cosine"], 1 - F.cosine_similarity(C, T))


def test_divergence_is_that_of_the_distributions():
    true, predicted = C.double(), T.double().requires_grad_()
    p, q = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (true.numpy(), predicted.detach().numpy()))
    got = divergence(predicted, true.requires_grad_())
    np.testing.assert_allclose(got.detach().numpy(), (p * np.log(p / q)).sum(1), rtol=1e-10)
    got.sum().backward()
    assert true.grad is None or not true.grad.any()
    assert predicted.grad.abs().sum() > 0


def test_terms_are_named_and_weighted():
    objective = StepObjective(
        "smooth_l1", size=8, head="linear", kl=0.5, regularisers={"variance": 2.0, "covariance": 0.1}
    )
    weight = torch.from_numpy(RNG.normal(size=(11, 8))).float()
    objective.vocabulary = lambda states: states @ weight.T
    terms = objective(C, T, KEYS)
    assert list(terms) == ["smooth_l1", "kl", "variance", "covariance"]
    torch.testing.assert_close(terms["kl"], 0.5 * divergence(C @ weight.T, T @ weight.T))
    torch.testing.assert_close(terms["variance"], 2 * (variance(C) + variance(T)))
    stopped = StepObjective("mse", target_gradient=False, regularisers={"covariance": 0.1})(C, T, KEYS)
    torch.testing.assert_close(stopped["covariance"], 0.1 * covariance(C))


def test_steps_of_the_own_problem_need_not_compete():
    every = StepObjective("infonce")(C, T, KEYS)["infonce"]
    np.testing.assert_allclose(every, contrast(C.numpy(), T.numpy(), lambda i, j: True), rtol=1e-5)
    twins = StepObjective("infonce")(C, T, PairKeys(PROBLEM, torch.tensor([1, 2, 1, 3, 4, 5])))["infonce"]
    np.testing.assert_allclose(twins, contrast(C.numpy(), T.numpy(), lambda i, j: {i, j} != {0, 2}), rtol=1e-5)
    others = StepObjective("infonce", own_negatives=False)(C, T, KEYS)["infonce"]
    expected = contrast(C.numpy(), T.numpy(), lambda i, j: PROBLEM[i] != PROBLEM[j])
    np.testing.assert_allclose(others, expected, rtol=1e-5)


def test_the_queue_holds_the_newest_targets_of_other_problems():
    objective = StepObjective("infonce", size=8, queue=8)
    first = objective(C, T, KEYS)["infonce"]
    np.testing.assert_allclose(first, contrast(C.numpy(), T.numpy(), lambda i, j: True), rtol=1e-5)  # empty yet
    objective.end_step(lambda rows: rows)
    more, problem = torch.flip(T, (0,)) + 1, torch.tensor([3, 4, 5, 6, 7, 8])
    second = objective(C, more, PairKeys(problem, torch.arange(10, 16)))["infonce"]
    queued = PROBLEM.tolist()
    expected = contrast(C.numpy(), more.numpy(), lambda i, j: j < 6 or queued[j - 6] != problem[i], extra=T.numpy())
    np.testing.assert_allclose(second, expected, rtol=1e-5)
    objective.end_step(lambda rows: rows)  # 12 targets have been put into 8 places
    kept = {tuple(row) for row in objective.queue.tolist()}
    assert kept == {tuple(row) for row in [*T[4:].tolist(), *more.tolist()]}
    objective.eval()
    np.testing.assert_allclose(objective(C, T, KEYS)["infonce"], first, rtol=1e-6)  # evaluation does not use it
