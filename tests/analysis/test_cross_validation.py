"""Folds of whole problems, and ridge regression with its penalty chosen inside them, against scikit-learn."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from stepjepa.analysis.cross_validation import INNER_FOLDS, PENALTIES, cross_ridge, group_folds

STEPS = 4
GROUPS = np.repeat(np.arange(100), STEPS)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_a_problem_is_never_on_both_sides():
    tested = []
    for train, test in group_folds(GROUPS, 5, seed=1):
        assert set(GROUPS[train]).isdisjoint(GROUPS[test])
        tested.extend(test)
    assert sorted(tested) == list(range(len(GROUPS)))
    other = [test.tolist() for _, test in group_folds(GROUPS, 5, seed=2)]
    assert other != [test.tolist() for _, test in group_folds(GROUPS, 5, seed=1)]


@pytest.mark.parametrize("size", [6, 90])  # fewer and more dimensions than training rows
def test_ridge_is_scikit_learns_with_a_grouped_search_of_the_penalty(size):
    groups = np.repeat(np.arange(20), STEPS)  # 5 × 4 problems, so that all folds have one size
    x = rng().normal(size=(80, size)) * np.arange(1, size + 1) + 3
    targets = np.stack([x @ rng(1).normal(size=size) / size + rng(2).normal(size=80), rng(3).normal(size=80)], axis=1)
    predicted, baseline = cross_ridge(x, targets, groups, folds=5, seed=0)
    for train, test in GroupKFold(5, shuffle=True, random_state=0).split(x, groups=groups):
        inner = GroupKFold(INNER_FOLDS, shuffle=True, random_state=0)
        for column in range(2):
            search = GridSearchCV(
                make_pipeline(StandardScaler(), Ridge()),
                {"ridge__alpha": PENALTIES},
                scoring="neg_mean_squared_error",
                cv=inner,
            )
            # The standardisation belongs to the fit, so the search repeats it on every inner part.
            search.fit(x[train], targets[train, column], groups=groups[train])
            np.testing.assert_allclose(predicted[test, column], search.predict(x[test]), rtol=1e-6, atol=1e-9)
            assert baseline[test, column] == pytest.approx(targets[train, column].mean())
