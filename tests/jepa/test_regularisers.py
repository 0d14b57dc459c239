"""Regularisers against closed forms and an independent formula."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from stepjepa.jepa.regularisers import DIRECTIONS, REGULARISERS, covariance, sigreg, variance, weights_of

X = torch.from_numpy(np.random.default_rng(0).normal(size=(9, 5)))


def test_variance_is_the_hinge_of_the_deviation():
    assert variance(torch.zeros(4, 3)).item() == pytest.approx(1 - 1e-2)  # √ε
    wide = torch.tensor([[2.0, 0.0], [-2.0, 0.0]])  # deviations √8 and 0
    assert variance(wide).item() == pytest.approx((0 + 1 - 1e-2) / 2)
    expected = np.maximum(0, 1 - np.sqrt(X.numpy().var(axis=0, ddof=1) + 1e-4)).mean()
    assert variance(X).item() == pytest.approx(expected, rel=1e-10)


def test_covariance_is_what_dimensions_share():
    matrix = np.cov(X.numpy().T)
    expected = sum(matrix[i, j] ** 2 for i in range(5) for j in range(5) if i != j) / 5
    assert covariance(X).item() == pytest.approx(expected, rel=1e-10)
    apart = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    assert covariance(apart).item() == pytest.approx(0.0)


def test_sigreg_of_a_point_is_the_closed_form():
    """All rows 0: φ = 1, so P ∫ (1 − exp(−t²/2))² exp(−t²) dt, whatever the directions."""
    exact = quad(lambda t: (1 - math.exp(-t * t / 2)) ** 2 * math.exp(-t * t), -5, 5)[0]
    assert sigreg(torch.zeros(7, 3, dtype=torch.float64)).item() == pytest.approx(7 * exact, rel=1e-3)


def test_sigreg_is_the_pairwise_form_of_epps_and_pulley():
    """Of one dimension every direction is ±1: the integrals of the products in closed form, on all of the line.

    ∫ cos(t d) exp(−a t²) dt = √(π/a) exp(−d² / 4a).
    """
    x = X[:, :1]

    def integral(d, a):
        return math.sqrt(math.pi / a) * math.exp(-d * d / (4 * a))

    n, values = len(x), x[:, 0].tolist()
    pairs = sum(integral(a - b, 1.0) for a in values for b in values) / n**2
    cross = sum(integral(a, 1.5) for a in values) / n
    expected = n * (pairs - 2 * cross + integral(0, 2.0))
    assert sigreg(x).item() == pytest.approx(expected, rel=1e-3)


def test_sigreg_falls_towards_a_normal_cloud_and_its_directions_follow_the_moment():
    generator = torch.Generator().manual_seed(0)
    cloud = torch.randn(400, 6, generator=generator)
    narrow = cloud * torch.tensor([1.0, 1, 1, 0.1, 0.1, 0.1])
    assert sigreg(cloud) < sigreg(narrow) < sigreg(0.1 * cloud)
    assert sigreg(narrow, moment=3) == sigreg(narrow, moment=3) != sigreg(narrow, moment=4)
    assert DIRECTIONS > 1


@pytest.mark.parametrize("name", REGULARISERS)
def test_collapse_costs_and_has_a_gradient_near_it(name):
    x = (1 + 0.01 * X.float()).requires_grad_()
    REGULARISERS[name](x).backward()
    assert x.grad.abs().sum() > 0


def test_weights_are_read_and_mistakes_named():
    assert weights_of(["variance=25", "sigreg"]) == {"variance": 25.0, "sigreg": 1.0}
    for text, message in (("spread=1", "'spread' is unknown"), ("variance=x", "'x' is not"), ("variance=-1", "≥ 0")):
        with pytest.raises(ValueError, match=message):
            weights_of([text])
