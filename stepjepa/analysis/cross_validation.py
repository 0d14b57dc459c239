"""Predictions of rows by models that never saw the row's problem: folds of whole problems, and ridge regression.

Rows of one problem share names and numbers. Split between training and testing they would let a probe score by
recognising the problem, and split inside the training part they would choose too weak a penalty, so both the
outer folds and the inner ones that choose the penalty deal out whole groups.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.linalg import svd

PENALTIES = np.logspace(0, 6, 7)
"""Ridge penalties to choose from, for standardised dimensions."""
INNER_FOLDS = 4


def group_folds(groups: np.ndarray, folds: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Train and test rows of each fold; all rows of a group on the same side.

    Raises:
        ValueError: fewer groups than folds.
    """
    from sklearn.model_selection import GroupKFold

    count = len(np.unique(groups))
    if count < folds:
        raise ValueError(f"{folds} folds need at least as many problems, not {count}")
    yield from GroupKFold(folds, shuffle=True, random_state=seed).split(groups, groups=groups)


def cross_ridge(
    rows: np.ndarray, targets: np.ndarray, groups: np.ndarray, folds: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Held-out ridge predictions of many targets at once, and the training mean each competes with.

    Every target gets the penalty of `PENALTIES` that does best on groups held out of its own training part, so a
    target of shuffled numbers is treated exactly as the true one.

    Args:
        rows: `[P, D]`, standardised here on each training part.
        targets: `[P, T]`.
        groups: `[P]`.
        folds: parts that the groups are dealt into.

    Returns:
        Predictions and baselines, `[P, T]` each.

    Raises:
        ValueError: too few groups for the folds, or for those inside a training part.
    """
    predicted, baseline = np.zeros(targets.shape), np.zeros(targets.shape)
    for train, test in group_folds(groups, folds, seed):
        errors = np.zeros((len(PENALTIES), targets.shape[1]))
        for fit, check in group_folds(groups[train], INNER_FOLDS, seed):
            path = _ridge_path(rows[train[fit]], targets[train[fit]], rows[train[check]])
            errors += np.square(path - targets[train[check]]).sum(axis=1)
        path = _ridge_path(rows[train], targets[train], rows[test])  # [penalties, tests, T]
        predicted[test] = np.take_along_axis(path, errors.argmin(axis=0)[None, None], axis=0)[0]
        baseline[test] = targets[train].mean(axis=0)
    return predicted, baseline


def _ridge_path(train: np.ndarray, targets: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Ridge predictions at every penalty, `[penalties, tests, T]`, from one singular value decomposition."""
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(train)
    mean = targets.mean(axis=0)
    # Not LAPACK's faster gesdd: it has failed to converge on the views of a collapsed model.
    u, s, vt = svd(scaler.transform(train), full_matrices=False, lapack_driver="gesvd")
    inner, outer = u.T @ (targets - mean), scaler.transform(test) @ vt.T
    return np.stack([mean + outer @ (inner * (s / (s**2 + penalty))[:, None]) for penalty in PENALTIES])
