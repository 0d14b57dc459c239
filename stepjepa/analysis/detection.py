"""Does the energy find a wrong step? Built-in solutions with planted mistakes, and the controls beside each number.

A score separates wrong from right steps also where it has only noticed that wrong ones are longer, come later, or look
odd by themselves. So every score is compared three ways (`AUCS`), and beside the energy stand scores that know nothing
of the step's fit: its length, its position, the state before it, the step after *another* problem's steps, random
weights; and the log-probability, which any language model gives for the same price.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from stepjepa.analysis.cross_validation import group_folds
from stepjepa.analysis.energies import Candidate, StepViews, ZScore, energies, own_steps
from stepjepa.analysis.intervals import Measure, cluster_jackknife
from stepjepa.data.mistakes import MISTAKES, plant_mistakes
from stepjepa.jepa.controls import shuffled_order
from stepjepa.jepa.metrics import recall_at, retrieval_ranks
from stepjepa.records import UserError

RIGHT = "right"
AUCS = ("controlled", "pooled", "same_place")
SCORES = {
    "energy": "energy, z-scored",
    "raw": "energy, raw states",
    "log_probability": "−log-probability a token",
    "shuffled": "energy after another problem",
    "random": "energy, random weights",
    "before": "probe of the state before",
    "length": "length",
    "position": "position",
}
"""Scores of a step, high for wrong, and what they are called: three that may find it, then the controls."""
COMPACT = ("energy", "log_probability", "shuffled")
"""Of them those that need neither another model nor a probe, and are no control of the text alone."""
FOLDS = 5


@dataclass(frozen=True)
class Steps:
    """Right and wrong steps of N problems, R rows; each was encoded after the right steps before it."""

    candidates: list[Candidate]
    kind: np.ndarray
    """`[R]`: "right", or the kind of mistake."""
    problem: np.ndarray
    """`[R]`: 0 … N − 1."""
    step: np.ndarray
    """`[R]`: the place, 1 or later."""


def right_and_wrong(problems: Sequence[Mapping[str, Any]], seed: int = 0) -> Steps:
    """The worked steps of each problem from the second on, and at most one wrong step of each kind a problem.

    The first step follows no step, and the closing one states the answer in a form of its own: both are left out.

    Args:
        problems: of `generate_stories`; they are the examples of the candidates, in this order.
        seed: of `plant_mistakes`.
    """
    numbers = {problem["question"]: n for n, problem in enumerate(problems)}
    last = [len(problem["latents"]) for problem in problems]
    rows = [(c, RIGHT) for c in own_steps(problems, first=1) if c.step < last[c.example]]
    for kind in MISTAKES:
        for row in plant_mistakes(problems, kind, seed):
            place = row["wrong_step"]
            rows.append((Candidate(numbers[row["question"]], place, row["steps"][place]), kind))
    candidates = [candidate for candidate, _ in rows]
    return Steps(
        candidates,
        np.array([kind for _, kind in rows]),
        np.array([candidate.example for candidate in candidates]),
        np.array([candidate.step for candidate in candidates]),
    )


def areas(
    score: np.ndarray,
    wrong: np.ndarray,
    right: np.ndarray,
    problem: np.ndarray,
    stratum: np.ndarray,
    draws: int = 1000,
    seed: int = 0,
) -> tuple[np.ndarray, float]:
    """Areas under the ROC curve within strata `[1 + draws]`, of all problems and of problems drawn anew.

    For each wrong step, the share of the right steps of its own stratum that score lower (ties count half); the mean
    over the wrong steps. With one stratum for all this is the ordinary AUC, the chance that a wrong step scores higher
    than a right one. With strata of a covariate it is the covariate-adjusted AUC of Janes & Pepe (2009, Biometrika
    96:371): what is left when wrong and right steps are alike in it. A wrong step without a right one in its stratum
    takes no part.

    The draws are a bootstrap over problems, of which a draw takes all rows or none: the same ones for the same seed and
    number of problems, so that means of several areas can be drawn too. One in which nothing is compared is NaN.

    Args:
        score: `[R]`, high for wrong.
        wrong, right: which rows, as indices.
        problem: `[R]`, of 0 … N − 1.
        stratum: `[R]` integers.
        draws, seed: of the bootstrap.

    Returns:
        The areas, and the share of the wrong steps that take part.
    """
    low, high = score[right][None], score[wrong][:, None]
    alike = (stratum[wrong][:, None] == stratum[right][None]).astype(np.float64)  # [W, R]
    ahead = ((low < high) + 0.5 * (low == high)) * alike
    count = int(problem.max()) + 1
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws)
    weights = np.vstack([np.ones(count), weights]).astype(np.float64)  # the first is the data as they are
    of_right, of_wrong = weights[:, problem[right]], weights[:, problem[wrong]]
    compared = of_right @ alike.T  # [draws, W]
    shares = np.divide(of_right @ ahead.T, compared, out=np.zeros_like(compared), where=compared > 0)
    taking_part = of_wrong * (compared > 0)
    sizes = taking_part.sum(axis=1)
    sums = (taking_part * shares).sum(axis=1)
    return np.divide(sums, sizes, out=np.full_like(sums, np.nan), where=sizes > 0), float((compared[0] > 0).mean())


def with_interval(values: np.ndarray) -> Measure:
    """The first of `areas`, with the 95% percentile interval of the others."""
    low, high = np.nanquantile(values[1:], [0.025, 0.975])
    return Measure(float(values[0]), float(low), float(high), chance=0.5)


def area(*args: Any, **options: Any) -> Measure:
    """The area of all problems with its interval, see `areas`; `extra["compared"]` is the share that takes part.

    Raises:
        ValueError: no wrong step has a right one to be compared with.
    """
    values, compared = areas(*args, **options)
    if not compared:
        raise ValueError("no wrong step has a right one of its own stratum")
    return with_interval(values).beside(chance=0.5, compared=compared)


def strata(steps: Steps, tokens: np.ndarray) -> dict[str, np.ndarray]:
    """The strata of each of `AUCS`, `[R]` integers.

    "pooled": all steps are one. "controlled": equal number of tokens and equal position, so that neither tells wrong
    from right. "same_place": the same problem and position, so each wrong step meets the very step that it replaced,
    after the same steps, and only the step itself differs (in length too).
    """
    return {
        "pooled": np.zeros_like(steps.step),
        "controlled": steps.step + 1000 * tokens,
        "same_place": steps.step + 1000 * steps.problem,
    }


def scores(views: StepViews, scale: ZScore, steps: Steps, distance: str, seed: int = 0) -> dict[str, np.ndarray]:
    """The scores of every step, `[R]` each, but those of `SCORES` that need other weights or a probe.

    "shuffled" takes the context view at the same position of another problem, drawn in one cycle through the problems
    that have one, so that what is left is what the step tells by itself.
    """
    scaled = scale(views)
    other = np.arange(len(steps.step))
    for place in np.unique(steps.step):
        here = np.flatnonzero((steps.step == place) & (steps.kind == RIGHT))
        if len(here) < 2:
            raise UserError(f"only one of the problems has {place + 1} worked steps; take more with --problems")
        exchanged = dict(
            zip(steps.problem[here], here[shuffled_order(len(here), f"energies-{seed}-{place}").numpy()], strict=True)
        )
        rows = np.flatnonzero(steps.step == place)
        other[rows] = [exchanged[problem] for problem in steps.problem[rows]]
    shuffled = StepViews(scaled.context[other], scaled.target, scaled.log_probability, scaled.tokens)
    tokens = views.tokens.double()
    return {
        "energy": energies(scaled, distance).double().numpy(),
        "raw": energies(views, distance).double().numpy(),
        "log_probability": (-views.log_probability / tokens).numpy(),
        "shuffled": energies(shuffled, distance).double().numpy(),
        "length": tokens.numpy(),
        "position": steps.step.astype(np.float64),
    }


def probe_before(
    context: np.ndarray, wrong: np.ndarray, right: np.ndarray, problem: np.ndarray, seed: int = 0
) -> np.ndarray:
    """Whether a logistic regression tells from the context view alone that a wrong step follows: its decision `[R]`.

    Each row is judged by the fold that never saw its problem; rows neither wrong nor right stay 0.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows = np.concatenate([wrong, right])
    labels = np.arange(len(rows)) < len(wrong)
    decision = np.zeros(len(context))
    for train, test in group_folds(problem[rows], FOLDS, seed):
        classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, class_weight="balanced"))
        decision[rows[test]] = classifier.fit(context[rows[train]], labels[train]).decision_function(
            context[rows[test]]
        )
    return decision


def detect(
    views: StepViews,
    scale: ZScore,
    steps: Steps,
    *,
    distance: str = "cosine",
    random: np.ndarray | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Areas of every score for every kind of mistake.

    Args:
        views: of `steps.candidates`.
        scale: fitted on other problems.
        distance: of the energies.
        random: `[R]`, the z-scored energies under random weights, the control.
        draws, seed: of the bootstrap, the shuffled contexts and the folds.

    Returns:
        `kinds`: for each of `MISTAKES` `steps` (how many wrong ones) and `scores`: name → one of `AUCS` → `Measure`;
        `right_steps`; `by_position`: how many right and wrong steps stand at each place.
    """
    values = scores(views, scale, steps, distance, seed)
    if random is not None:
        values["random"] = random
    split = strata(steps, views.tokens.numpy())
    right = np.flatnonzero(steps.kind == RIGHT)
    context = views.context.numpy()
    kinds = {}
    for kind in MISTAKES:
        wrong = np.flatnonzero(steps.kind == kind)
        own = values | {"before": probe_before(context, wrong, right, steps.problem, seed)}
        kinds[kind] = {
            "steps": len(wrong),
            "scores": {
                name: {of: area(own[name], wrong, right, steps.problem, split[of], draws, seed) for of in AUCS}
                for name in SCORES
                if name in own
            },
        }
    counts = Counter(zip((RIGHT if kind == RIGHT else "wrong" for kind in steps.kind), steps.step, strict=True))
    return {
        "kinds": kinds,
        "right_steps": len(right),
        "by_position": {
            str(place): {of: counts[of, place] for of in (RIGHT, "wrong")} for place in np.unique(steps.step)
        },
    }


def detect_compact(
    views: StepViews, scale: ZScore, steps: Steps, distance: str = "cosine", draws: int = 1000, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """The areas of `COMPACT` at equal length and position, by kind of mistake, and "mean": over the kinds.

    The figures are those of `detect`; their mean is drawn over the same problems. A kind without a wrong step that can
    be compared has none, and is in no mean; views that are not finite, of a diverged model, give none at all.

    Returns:
        Kind → `steps` (how many wrong ones) and score → `Measure`; "mean" → score → `Measure`.
    """
    if not all(bool(torch.isfinite(each).all()) for each in (views.context, views.target, views.log_probability)):
        return {}
    values = scores(views, scale, steps, distance, seed)
    stratum = strata(steps, views.tokens.numpy())["controlled"]
    right = np.flatnonzero(steps.kind == RIGHT)
    found: dict[str, dict[str, Any]] = {}
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in COMPACT}
    for kind in MISTAKES:
        wrong = np.flatnonzero(steps.kind == kind)
        found[kind] = {"steps": len(wrong)}
        for name in COMPACT:
            each, compared = areas(values[name], wrong, right, steps.problem, stratum, draws, seed)
            if compared:
                found[kind][name] = with_interval(each)
                drawn[name].append(each)
    found["mean"] = {name: with_interval(np.mean(each, axis=0)) for name, each in drawn.items() if each}
    return found


def retrieval(views: StepViews, steps: Steps, texts: Sequence[str]) -> Measure:
    """R@1 of the true next step among the right steps of all problems, by cosine; equal texts do not compete.

    The interval is a jackknife over problems.

    Args:
        views: of `steps.candidates`, scaled or not.
        texts: of each row.
    """
    rows = np.flatnonzero(steps.kind == RIGHT)
    text = torch.from_numpy(np.unique([texts[row] for row in rows.tolist()], return_inverse=True)[1])
    context, target, problem = views.context[rows], views.target[rows], steps.problem[rows]

    def recall(chosen: np.ndarray) -> float:
        true = torch.arange(len(chosen))
        allowed = text[chosen][:, None] != text[chosen][None]
        allowed[true, true] = True
        return float(recall_at(retrieval_ranks(context[chosen], target[chosen], true, allowed)).mean())

    return cluster_jackknife(recall, problem).beside(chance=1 / len(rows))
