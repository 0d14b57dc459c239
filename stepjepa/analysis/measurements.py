"""All figures about one set of embeddings, each with a 95% interval over problems and its chance level.

Examples with the same question are solutions of one problem: they are resampled together, and never on both sides of
a probe. A pair's "own" steps and a chain are of one example. Means over pairs or chains are resampled by problem;
statistics of the set as a whole, which copies of a row would distort, leave blocks of problems out instead
(`intervals.py`). What the figures mean stands with the functions that compute them: those of `METRICS` in
`jepa/metrics.py`, and in `similarity.py` and `probes.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from stepjepa.analysis.embeddings import Embeddings
from stepjepa.analysis.intervals import Measure, bootstrap_mean, cluster_bootstrap, cluster_jackknife, clusters
from stepjepa.analysis.probes import linear_probe, order_probe, value_probe
from stepjepa.analysis.projections import VIEWS, ViewRows, view_rows
from stepjepa.analysis.similarity import coherence
from stepjepa.jepa.metrics import Metric, metrics_of, retrieval_ranks
from stepjepa.records import UserError

DRAWS, BLOCKS, FOLDS = 1000, 20, 5
LEAST = 2 * FOLDS
"""Problems that figures with intervals and cross-validated probes need at least."""


class Ranks(NamedTuple):
    """Where the true target of each of R pairs stands among the targets; steps with the same text do not compete."""

    ranks: Tensor
    """`[R]`"""
    sizes: Tensor
    """`[R]`: how many competed."""
    rows: np.ndarray
    """`[R]`: which pairs."""


def target_texts(embeddings: Embeddings) -> list[str]:
    """The text that each target view encodes, `[P]`."""
    return [
        embeddings.steps[example][step] if step >= 0 else "\n\n".join(embeddings.steps[example])
        for example, step in zip(embeddings.pair_example, embeddings.target_step, strict=True)
    ]


def pair_views(embeddings: Embeddings) -> tuple[Tensor, Tensor]:
    """Context and target views of the pairs, `[P, D]` each."""
    return torch.from_numpy(embeddings.context), torch.from_numpy(embeddings.target)


def true_ranks(embeddings: Embeddings) -> dict[str, Ranks]:
    """Ranks of the true targets among "all" targets, and among those of their "own" example, of pairs with rivals."""
    context, target = pair_views(embeddings)
    example = torch.from_numpy(embeddings.pair_example)
    text = torch.from_numpy(np.unique(target_texts(embeddings), return_inverse=True)[1])
    true = torch.arange(len(context))
    allowed = text[:, None] != text[None]
    allowed[true, true] = True
    same = allowed & (example[:, None] == example[None])
    sizes = same.sum(dim=1)
    rows = (sizes > 1).nonzero().squeeze(1)
    return {
        "all": Ranks(retrieval_ranks(context, target, true, allowed), allowed.sum(dim=1), true.numpy()),
        "own": Ranks(retrieval_ranks(context[rows], target, rows, same[rows]), sizes[rows], rows.numpy()),
    }


def measure(
    embeddings: Embeddings, progress: Callable[[str], None] = lambda _name: None, seed: int = 0
) -> dict[str, Measure]:
    """Every figure that the labels of the embeddings allow, by name.

    Args:
        embeddings: of at least 10 problems with a view pair.
        progress: called with what comes next.
        seed: of resampling, folds and controls.

    Raises:
        UserError: fewer problems.
    """
    problems = len(np.unique(embeddings.problem[embeddings.pair_example]))
    if problems < LEAST:
        raise UserError(f"intervals need at least {LEAST} problems with a view pair, and there are {problems}")
    figures: dict[str, Measure] = {}
    for name, part in (
        ("pairs", _pairs),
        ("views", _views),
        ("coherence", _coherence),
        ("order", _order),
        ("operation", _operation),
        ("value", _value),
    ):
        progress(name)
        figures |= dict(part(embeddings, seed))
    return figures


Named = Iterator[tuple[str, Measure]]


def _figure(
    metric: Metric, rows: Sequence[Tensor], groups: np.ndarray, seed: int, sizes: Tensor | None = None
) -> Measure:
    """A metric of rows, which belong to the problems `groups`, with its interval and chance."""
    if metric.per_row:
        interval = bootstrap_mean(metric.function(*rows).numpy(), groups, DRAWS, seed)
    else:

        def of_rows(at: np.ndarray) -> float:
            return metric.value(*(part[torch.from_numpy(at)] for part in rows))

        interval = cluster_jackknife(of_rows, groups, BLOCKS, seed)
    extra = {} if metric.most is None else {"most": metric.most(*rows)}
    return interval.beside(metric.by_chance(sizes), **extra)


def _pairs(embeddings: Embeddings, seed: int) -> Named:
    for name, metric in metrics_of("pairs", "inspect").items():
        yield name, _figure(metric, pair_views(embeddings), embeddings.problem[embeddings.pair_example], seed)
    for where, (ranks, sizes, rows) in true_ranks(embeddings).items():
        groups = embeddings.problem[embeddings.pair_example[rows]]
        if len(np.unique(groups)) < 2:
            continue  # one pair a problem: nothing competes with it there
        for name, metric in metrics_of("ranks", "inspect").items():
            yield f"{name}_{where}", _figure(metric, [ranks], groups, seed, sizes)


def _views(embeddings: Embeddings, seed: int) -> Named:
    for view in VIEWS:
        rows = view_rows(embeddings, view)
        for name, metric in metrics_of("view", "inspect").items():
            yield f"{name}_{view}", _figure(metric, [rows.vectors], embeddings.problem[rows.example], seed)


def _coherence(embeddings: Embeddings, seed: int) -> Named:
    for view in ("state", "target"):
        rows = view_rows(embeddings, view)
        if (rows.step < 0).any():
            continue  # a whole answer has no neighbours
        example, *similar = coherence(rows.vectors, torch.from_numpy(rows.example), torch.from_numpy(rows.step)).numpy()
        for name, values in zip(("consecutive", "distant", "across"), similar, strict=True):
            known = np.isfinite(values)
            if known.sum() > 1:
                yield f"{name}_{view}", bootstrap_mean(values[known], embeddings.problem[example[known]], DRAWS, seed)
        consecutive, distant, _ = similar
        correct, problems = embeddings.correct[example], embeddings.problem[example]
        lengths = np.array([len(embeddings.steps[i]) for i in example])
        for name, values in (("coherence", consecutive - distant), ("consecutive", consecutive)):
            difference = correct_minus_wrong(values, correct, lengths, problems)
            if difference is not None:
                yield f"{name}_correct_minus_wrong_{view}", difference


def correct_minus_wrong(
    values: np.ndarray, correct: np.ndarray, lengths: np.ndarray, problems: np.ndarray
) -> Measure | None:
    """Mean difference between correct and wrong solutions *with equally many steps*; all arrays are `[E]`.

    Short problems are answered correctly more often and have other similarities whatever the model makes of them, so
    the plain difference (in `extra`) says more about lengths than about correctness. This is the coefficient of
    correctness in a least-squares fit with an intercept for each length: differences at each length weighted by their
    precision, n₁n₀ / (n₁ + n₀). Its interval holds where solutions of one problem are alike (Cameron & Miller 2015,
    "A practitioner's guide to cluster-robust inference", CR1 with G − 1 degrees of freedom).

    Args:
        values: nan where there is none.
        correct: 1, 0, or −1 where it is not known.
        lengths: steps of the solution.
        problems: which problem it solves.

    Returns:
        The difference, or None where no length has two solutions of either kind, or all are of one problem.
    """
    known = np.isfinite(values) & (correct >= 0)
    kept = np.zeros(len(values), dtype=bool)
    side, left = np.zeros(len(values)), np.zeros(len(values))  # less the means at the same length
    for length in np.unique(lengths[known]):
        at = known & (lengths == length)
        if min((correct[at] == 1).sum(), (correct[at] == 0).sum()) >= 2:
            kept |= at
            side[at], left[at] = correct[at] - correct[at].mean(), values[at] - values[at].mean()
    if len(np.unique(problems[kept])) < 2:
        return None
    spread = (side**2).sum()
    estimate = (side * left).sum() / spread
    scores = side * (left - estimate * side)
    by_problem = np.array([scores[kept][rows].sum() for rows in clusters(problems[kept])])
    count = len(by_problem)
    reach = stats.t.ppf(0.975, count - 1) * np.sqrt(count / (count - 1) * (by_problem**2).sum()) / spread
    difference = Measure(float(estimate), float(estimate - reach), float(estimate + reach))
    plain = values[known & (correct == 1)].mean() - values[known & (correct == 0)].mean()
    counts = {name: float((correct[kept] == which).sum()) for name, which in (("correct", 1), ("wrong", 0))}
    return difference.beside(chance=0.0, **counts, at_any_length=float(plain))


def _order(embeddings: Embeddings, seed: int) -> Named:
    last = np.array([len(embeddings.steps[example]) - 1 for example in embeddings.state_example])
    state, target = view_rows(embeddings, "state"), view_rows(embeddings, "target")
    for name, rows in (
        ("state", state),
        ("state_without_last", state.take(state.step != last)),
        ("target", target.take(target.step >= 0)),
    ):
        chains, sizes = np.unique(rows.example, return_counts=True)
        if len(np.unique(embeddings.problem[chains[sizes > 1]])) < LEAST:
            continue
        problems = embeddings.problem[rows.example]
        probe = order_probe(rows.vectors, rows.example, rows.step, FOLDS, seed=seed, groups=problems)
        null_high = float(np.quantile(probe.null, 0.975))
        interval = bootstrap_mean(probe.scores, embeddings.problem[probe.example], DRAWS, seed)
        yield f"order_{name}", interval.beside(chance=0.5, null_high=null_high, p_value=probe.p_value)


def _labelled(embeddings: Embeddings, known: np.ndarray) -> Iterator[tuple[str, ViewRows, np.ndarray]]:
    """Each view's rows whose step has a label, and the places of those steps among the states."""
    for view in VIEWS:
        rows = view_rows(embeddings, view)
        places = embeddings.state_rows(rows.example, rows.step)
        kept = (places >= 0) & known[places]
        if len(np.unique(embeddings.problem[rows.example[kept]])) >= LEAST:
            yield view, rows.take(kept), places[kept]


def _operation(embeddings: Embeddings, seed: int) -> Named:
    for view, rows, places in _labelled(embeddings, embeddings.operation >= 0):
        labels = embeddings.operation[places]
        if len(np.unique(labels)) < 2:
            continue
        problems = embeddings.problem[rows.example]
        probe = linear_probe(rows.vectors, labels, problems, _surface(embeddings, places), FOLDS, seed=seed)
        compared = {name: getattr(probe, name) for name in ("chance", "control", "lookup", "seen")}
        yield f"operation_{view}", bootstrap_mean(probe.correct, problems, DRAWS, seed).beside(**compared)


def _surface(embeddings: Embeddings, places: np.ndarray) -> list[str]:
    """The step's text with its numbers masked, a form that recurs across problems."""
    # "She buys 12 pens." → "She buys # pens."; a decimal point stays: "1.50" → "#.#"
    return [
        re.sub(r"\d+", "#", embeddings.steps[example][step])
        for example, step in zip(embeddings.state_example[places], embeddings.state_step[places], strict=True)
    ]


def _value(embeddings: Embeddings, seed: int) -> Named:
    for view, rows, places in _labelled(embeddings, np.isfinite(embeddings.value)):
        problems = embeddings.problem[rows.example]
        probe = value_probe(rows.vectors, embeddings.value[places], problems, rows.step, FOLDS, seed=seed)
        error, total = np.square(probe.actual - probe.predicted), np.square(probe.actual - probe.baseline)

        def r2(at: np.ndarray, error: np.ndarray = error, total: np.ndarray = total) -> float:
            return float(1 - error[at].sum() / total[at].sum())

        yield (
            f"value_{view}",
            cluster_bootstrap(r2, problems, DRAWS, seed).beside(
                chance=0.0, control=probe.control_r2, spearman=probe.spearman, control_spearman=probe.control_spearman
            ),
        )
