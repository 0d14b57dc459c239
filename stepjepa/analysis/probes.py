"""What a linear reader finds in step embeddings: the operation, the running value, the order of the steps.

A probe that scores well may have learned the task itself or merely recognise surface forms, so every probe stands
beside its control: random labels fixed per surface form (Hewitt & Liang 2019, arXiv 1909.03368), values exchanged
among problems, step order shuffled within each chain. Problems are never split between training and testing, and
per-row or per-chain scores come back, so that problems can be resampled (`intervals.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import spearmanr
from torch import Tensor

from stepjepa.analysis.cross_validation import cross_ridge, group_folds
from stepjepa.analysis.intervals import clusters

Column = Sequence[Any] | np.ndarray
"""A label of each row."""


@dataclass(frozen=True)
class LinearProbe:
    """Held-out results of `linear_probe` over P rows."""

    accuracy: float
    """Share of rows classified right by the fold that did not train on their problem."""
    chance: float
    """The same for always answering the most frequent class of the training problems."""
    lookup: float
    """The same for always answering the class most frequent with the row's surface form in the training problems
    (the most frequent class overall for a form not seen): what the surface gives away without any embedding."""
    control: float
    """The same for the probe on the control task, mean over its random label assignments."""
    seen: float
    """Share of rows whose surface form occurs in the training problems. Only those can be answered by
    remembering: near 0 the control is at chance by construction, and selectivity shows nothing."""
    correct: np.ndarray
    """`[P]`, 0 or 1, whose mean is `accuracy`."""
    control_correct: np.ndarray
    """`[P]`, between 0 and 1, whose mean is `control`."""

    @property
    def selectivity(self) -> float:
        """accuracy − control: near 0 for a probe that only remembers surface forms."""
        return self.accuracy - self.control


def linear_probe(
    x: Tensor, labels: Column, groups: Column, surface: Column, folds: int = 5, controls: int = 3, seed: int = 0
) -> LinearProbe:
    """Can a linear classifier read a label, such as the operation of a step, from an embedding?

    Multinomial logistic regression (L2, scikit-learn's C = 1) on standardised dimensions, cross-validated over
    problems. In the control task every surface form gets a random label, drawn from the labels' own distribution
    and always the same for that form, as Hewitt & Liang do with word types.

    Args:
        x: `[P, D]` embeddings.
        labels: `[P]` classes.
        groups: `[P]` the problem of each row.
        surface: `[P]` the surface form of each row: something that recurs across problems and that an encoder
            could merely remember, such as the step's last word or its text with the numbers masked. Whole step
            texts hardly recur (see `seen`).
        folds: parts that the problems are dealt into.
        controls: random label assignments to average over.

    Raises:
        ValueError: fewer problems than folds, fewer than two classes, or lengths that differ.
    """
    rows, owner = _rows(x, groups, labels=labels, surface=surface)
    names, classes = np.unique(np.asarray(labels), return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"a classification needs at least two classes, not {len(names)}")
    forms = np.unique(np.asarray(surface), return_inverse=True)[1]
    generator = np.random.default_rng(seed)
    drawn = [generator.choice(classes, size=forms.max() + 1)[forms] for _ in range(controls)]
    tasks = np.stack([classes, *drawn])  # [1 + controls, P]
    correct = np.zeros(tasks.shape)
    majority, lookup, seen = (np.zeros(len(rows)) for _ in range(3))
    for train, test in group_folds(owner, folds, seed):
        for task, hits in zip(tasks, correct, strict=True):
            hits[test] = _classify(rows[train], task[train], rows[test]) == task[test]
        counts = np.zeros((forms.max() + 1, len(names)))
        np.add.at(counts, (forms[train], classes[train]), 1)
        most = counts.sum(axis=0).argmax()
        seen[test] = counts.sum(axis=1)[forms[test]] > 0
        majority[test] = classes[test] == most
        lookup[test] = classes[test] == np.where(seen[test] > 0, counts.argmax(axis=1)[forms[test]], most)
    control = correct[1:].mean(axis=0)
    return LinearProbe(
        accuracy=float(correct[0].mean()),
        chance=float(majority.mean()),
        lookup=float(lookup.mean()),
        control=float(control.mean()),
        seen=float(seen.mean()),
        correct=correct[0],
        control_correct=control,
    )


def _classify(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(np.unique(labels)) == 1:  # a control can give all its few forms one label
        return np.full(len(test), labels[0])
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return np.asarray(classifier.fit(train, labels).predict(test))


@dataclass(frozen=True)
class ValueProbe:
    """Held-out results of `value_probe` over P rows, in the scale sign(v) · log(1 + |v|)."""

    r2: float
    """1 − squared error / squared error of the training problems' mean: 0 is no better than that mean."""
    spearman: float
    """Rank correlation of predicted and actual values."""
    control_r2: float
    """`r2` when values are exchanged among problems at the same step number, mean over exchanges: what is left
    is what the step number alone tells."""
    control_spearman: float
    """`spearman`, likewise."""
    predicted: np.ndarray
    """`[P]` predictions."""
    actual: np.ndarray
    """`[P]` transformed values."""
    baseline: np.ndarray
    """`[P]` mean of the training problems."""


def value_probe(
    x: Tensor, values: Column, groups: Column, step: Column, folds: int = 5, controls: int = 3, seed: int = 0
) -> ValueProbe:
    """Can a linear map read the running value of a step from an embedding?

    Ridge regression of sign(v) · log(1 + |v|) on standardised dimensions, cross-validated over problems; the
    penalty is chosen on the training problems.

    Args:
        x: `[P, D]` embeddings.
        values: `[P]` running values, finite.
        groups: `[P]` the problem of each row.
        step: `[P]` its step number.
        folds: parts that the problems are dealt into.
        controls: random exchanges of values to average over.

    Raises:
        ValueError: fewer problems than folds, a value that is not finite, or lengths that differ.
    """
    rows, owner = _rows(x, groups, values=values, step=step)
    raw = np.asarray(values, dtype=float)
    if not np.isfinite(raw).all():
        raise ValueError(f"{(~np.isfinite(raw)).sum()} of {len(raw)} values are not finite; leave those rows out")
    actual = np.sign(raw) * np.log1p(np.abs(raw))
    generator = np.random.default_rng(seed)
    targets = np.stack([actual] * (1 + controls), axis=1)  # [P, 1 + controls]
    for column in targets.T[1:]:
        for number in np.unique(np.asarray(step)):
            at = np.flatnonzero(np.asarray(step) == number)
            column[at] = actual[generator.permutation(at)]
    predicted, baseline = cross_ridge(rows, targets, owner, folds, seed)
    r2 = 1 - np.square(targets - predicted).sum(axis=0) / np.square(targets - baseline).sum(axis=0)
    ranks = [float(spearmanr(*columns).statistic) for columns in zip(predicted.T, targets.T, strict=True)]
    return ValueProbe(
        r2=float(r2[0]),
        spearman=ranks[0],
        control_r2=float(r2[1:].mean()),
        control_spearman=float(np.mean(ranks[1:])),
        predicted=predicted[:, 0],
        actual=actual,
        baseline=baseline[:, 0],
    )


@dataclass(frozen=True)
class OrderProbe:
    """Held-out results of `order_probe` over the E chains of at least two steps."""

    accuracy: float
    """Mean over chains of the share of step pairs put in the right order: 0.5 is chance; Kendall's τ is
    2 · accuracy − 1."""
    null: np.ndarray
    """`[shuffles]`: the same after shuffling the step numbers within each chain and fitting again."""
    p_value: float
    """(1 + number of null values ≥ accuracy) / (1 + shuffles), Phipson & Smyth 2010; one-sided."""
    example: np.ndarray
    """`[E]`: ids of the chains, ascending."""
    scores: np.ndarray
    """`[E]`: each chain's share, whose mean is `accuracy`."""


def order_probe(
    states: Tensor,
    example: Column,
    step: Column,
    folds: int = 5,
    shuffles: int = 200,
    seed: int = 0,
    groups: Column | None = None,
) -> OrderProbe:
    """Is there one direction along which the steps of every chain lie in order?

    Ridge regression of the relative position (0 first … 1 last) on the states, both with the chain's own mean
    removed, so what tells one problem from another cannot help; cross-validated over problems. The null repeats all
    of it with the step numbers shuffled within every chain.

    What it can and cannot show: in-context states may know their position in the text, and first and last steps
    have wordings of their own (`The answer is …`), so an order found there need not be an order of reasoning.
    A target view sees its own step only; with rotary positions (Llama, Qwen, …) a shift of all positions changes
    no attention weight, so it knows no position, while learned positions (GPT-2) are seen by copies too. Leave
    the closing step out to see what its wording contributes.

    Args:
        states: `[S, D]`, one row a step.
        example: `[S]`, the chain of each row.
        step: `[S]`, its number; only the order counts.
        folds: parts that the problems are dealt into.
        shuffles: how many times the null is drawn; the smallest p-value is 1 / (1 + shuffles).
        groups: `[S]`, the problem of each row, where several chains may be of one; each its own by default.

    Raises:
        ValueError: too few problems with a chain of at least two steps for the folds, a step number twice in a chain,
            or lengths that differ.
    """
    rows, owner = _rows(states, example, step=step)
    problems = _rows(states, example if groups is None else groups)[1]
    chains = [chain[np.argsort(np.asarray(step)[chain])] for chain in clusters(owner)]
    if any((np.diff(np.asarray(step)[chain]) == 0).any() for chain in chains):
        raise ValueError("a step number occurs twice in one example")
    chains = [chain for chain in chains if len(chain) > 1]
    if not chains:
        raise ValueError("no chain has two steps, so there is no order to read")
    generator = np.random.default_rng(seed)
    # Column 0 is the true order, the others are shuffled; ranks within the chain, 0 … n − 1.
    ranks = [
        np.stack([np.arange(len(chain)), *(generator.permutation(len(chain)) for _ in range(shuffles))], axis=1)
        for chain in chains
    ]
    inputs = np.concatenate([rows[chain] - rows[chain].mean(axis=0) for chain in chains])
    targets = np.concatenate([rank / (len(rank) - 1) - 0.5 for rank in ranks])
    owner = np.repeat(np.arange(len(chains)), [len(chain) for chain in chains])
    predicted, _ = cross_ridge(inputs, targets, problems[np.concatenate(chains)], folds, seed)
    scores = np.stack([_order_share(predicted[span], targets[span]) for span in clusters(owner)])  # [E, 1 + shuffles]
    accuracy, null = scores[:, 0].mean(), scores[:, 1:].mean(axis=0)
    return OrderProbe(
        accuracy=float(accuracy),
        null=null,
        p_value=float((1 + (null >= accuracy).sum()) / (1 + shuffles)),
        example=np.asarray(example)[[chain[0] for chain in chains]],
        scores=scores[:, 0],
    )


def _order_share(predicted: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Share of the pairs of a chain that each column puts in order, `[n, T], [n, T] → [T]`; a tie counts half."""
    first, second = np.triu_indices(len(order), k=1)
    agree = np.sign(predicted[second] - predicted[first]) * np.sign(order[second] - order[first])
    return np.asarray((1 + agree.mean(axis=0)) / 2)


def _rows(x: Tensor, groups: Column, **columns: Column) -> tuple[np.ndarray, np.ndarray]:
    """The embeddings and each row's problem 0 … G − 1 as arrays, after checking that everything fits."""
    rows = x.detach().double().cpu().numpy()
    for name, column in {"groups": groups, **columns}.items():
        if len(column) != len(rows):
            raise ValueError(f"{len(rows)} embeddings but {len(column)} {name}")
    return rows, np.unique(np.asarray(groups), return_inverse=True)[1]
