"""Each JEPA loss against an independent NumPy formula, and the monitors on constructed cases."""

import numpy as np
import pytest
import torch

from stepjepa.jepa.losses import LOSSES, jepa_losses
from stepjepa.jepa.metrics import retrieval_hits, spread

RNG = np.random.default_rng(0)
C, T = RNG.normal(size=(5, 7)), RNG.normal(size=(5, 7))


def cos(a, b):
    return (a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1))


def infonce(c, t, temperature):
    out = []
    for i in range(len(c)):
        scores = np.array([cos(c[i], t[j]) / temperature for j in range(len(t))])
        out.append(-np.log(np.exp(scores[i]) / np.exp(scores).sum()))
    return np.array(out)


def huber(d):
    return np.where(np.abs(d) < 1, 0.5 * d**2, np.abs(d) - 0.5)


EXPECTED = {
    "cosine": 1 - cos(C, T),
    "l2": np.sqrt(((C - T) ** 2).sum(-1)),
    "mse": ((C - T) ** 2).sum(-1) / 7,
    "smooth_l1": huber(C - T).mean(-1),
    "l1_std": np.abs(C - T).mean(-1) / np.sqrt(((T - T.mean(-1, keepdims=True)) ** 2).mean(-1)),
    "infonce": infonce(C, T, 0.2),
}


@pytest.mark.parametrize("kind", LOSSES)
def test_formula(kind):
    got = jepa_losses(torch.tensor(C), torch.tensor(T), kind, temperature=0.2)
    np.testing.assert_allclose(got.numpy(), EXPECTED[kind], rtol=1e-10)


def test_known_values():
    c, t = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    assert jepa_losses(c, t, "cosine").item() == pytest.approx(1.0)
    assert jepa_losses(c, t, "l2").item() == pytest.approx(5.0)
    assert jepa_losses(c, t, "mse").item() == pytest.approx(12.5)
    assert jepa_losses(c, t, "infonce").item() == 0.0  # one pair: no negative


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("target_gradient", [True, False])
def test_gradient_into_the_target_is_on_or_stopped(kind, target_gradient):
    c, t = torch.tensor(C, requires_grad=True), torch.tensor(T, requires_grad=True)
    jepa_losses(c, t, kind, target_gradient).sum().backward()
    assert c.grad.abs().sum() > 0
    assert (t.grad is not None and t.grad.abs().sum() > 0) == target_gradient


@pytest.mark.parametrize("kind", LOSSES)
def test_half_precision_is_computed_in_float32_and_no_pair_is_no_loss(kind):
    half = jepa_losses(torch.tensor(C).bfloat16(), torch.tensor(T).bfloat16(), kind)
    assert half.dtype == torch.float32
    assert jepa_losses(torch.zeros(0, 7), torch.zeros(0, 7), kind).shape == (0,)


def test_unknown_loss_is_named():
    with pytest.raises(ValueError, match="'cosinus'"):
        jepa_losses(torch.zeros(1, 2), torch.zeros(1, 2), "cosinus")


def test_monitors_tell_alignment_from_collapse():
    aligned = torch.eye(4)
    assert retrieval_hits(aligned, aligned).tolist() == [True] * 4
    assert spread(aligned).item() == pytest.approx(1.0)  # orthogonal: every distance is 1
    collapsed = torch.ones(4, 3)
    assert jepa_losses(collapsed, collapsed).abs().max().item() < 1e-6  # the loss looks perfect
    assert retrieval_hits(collapsed, collapsed).tolist() == [False] * 4
    assert spread(collapsed).item() == pytest.approx(0.0, abs=1e-6)
    assert torch.isnan(spread(torch.ones(1, 3)))
    assert retrieval_hits(torch.zeros(0, 3), torch.zeros(0, 3)).shape == (0,)


def test_spread_is_the_mean_distance_between_different_rows():
    x = torch.tensor(C)
    unit = C / np.linalg.norm(C, axis=1, keepdims=True)
    distances = [1 - unit[i] @ unit[j] for i in range(5) for j in range(5) if i != j]
    assert spread(x).item() == pytest.approx(np.mean(distances), rel=1e-5)
