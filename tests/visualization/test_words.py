"""Names in figures: what options spell out is said in words, what users call their arms stays as it is."""

import pytest

from stepjepa.experiments.grid_file import read_grid
from stepjepa.visualization.words import arm_in_words, in_words


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lbd0.1", "λ = 0.1"),
        ("lbd=0", "λ = 0"),
        ("lambda_3e-2", "λ = 0.03"),
        ("gamma=2.0", "γ = 2"),
        ("problems=64, lbd=0", "64 problems, λ = 0"),
        ("jepa_loss_type=l2, target_gradient=false", "L2, target fixed"),
        ("jepa_loss_type=cosine, target_gradient=true", "cosine"),
        ("weight_decay=0.1, lbd=1", "weight decay = 0.1, λ = 1"),
        ("plain", "plain"),
        ("none", "none"),
        ("λ = 0", "λ = 0"),
        ("lbd0.1 again", "lbd0.1 again"),
        ("$x=1$, b", "$x=1$, b"),
        ("", ""),
    ],
)
def test_names_in_words(name, words):
    assert in_words(name) == words


def test_arms_of_the_shipped_grids_have_words_of_their_own():
    for grid in ("isolation", "losses", "pairs", "lambda", "lowdata"):
        arms = read_grid(grid).arms
        words = [arm_in_words(arm) for arm in arms]
        assert len(set(words)) == len(arms)
        assert not any("_" in word or "lbd" in word for word in words)
