"""Best of n by energy: which of several sampled solutions is chosen, and is it the right one more often?

The rivals choose among the very same samples: the majority's answer, the highest mean log-probability, the first
sample; beside them the greedy answer, and the share of questions that some sample solves, which no choice can exceed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from stepjepa.analysis.encode import with_responses
from stepjepa.analysis.energies import Candidate, StepViews, energies
from stepjepa.data.steps import Splitter
from stepjepa.evaluation.answers import answers_match
from stepjepa.evaluation.compare import accuracy_interval, paired_difference
from stepjepa.evaluation.results import Results
from stepjepa.evaluation.scoring import majority
from stepjepa.evaluation.statistics import holm
from stepjepa.records import UserError

RIVALS = ("greedy", "first", "majority", "log_probability")
BOUND = "any"


def sampled_solutions(
    examples: Sequence[Mapping[str, Any]], ids: Sequence[str], results: Results, splitter: Splitter = "auto"
) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Each different response to a question as an example with its steps, and which one every sample is.

    Returns:
        Examples, and for each question and sample the index of its example, `[Q, N]`; −1 for a response without a step.

    Raises:
        UserError: the results have no samples, or lack a question.
    """
    samples = {len(row.get("samples", ())) for row in results.rows}
    if len(samples) != 1 or samples == {0}:
        raise UserError(
            f"{results.path}: no samples to choose among; `stepjepa evaluate --samples 8` draws several a question"
        )
    (count,) = samples
    solutions: list[dict[str, Any]] = []
    place = {name: number for number, name in enumerate(ids)}
    known: dict[tuple[str, str], int] = {}
    index = np.full((len(ids), count), -1)
    for sample in range(count):
        rows = [{"id": row["id"], "response": row["samples"][sample]["response"]} for row in results.rows]
        kept, names = with_responses(examples, ids, replace(results, rows=rows), splitter)
        for name, solution in zip(names, kept, strict=True):
            key = name, solution["messages"][-1]["content"]
            if key not in known:
                known[key] = len(solutions)
                solutions.append(solution)
            index[place[name], sample] = known[key]
    return solutions, index


def sample_scores(
    candidates: Sequence[Candidate], views: StepViews, scaled: StepViews, index: np.ndarray, distance: str = "cosine"
) -> tuple[np.ndarray, np.ndarray]:
    """Energy and mean log-probability of every sample, `[Q, N]` each.

    The energy is the mean over the steps from the second on, because the first follows no step; the log-probability the
    mean over the tokens of all steps. NaN for a response without such a step, or with one that was cut off.

    Args:
        candidates: `own_steps` of the solutions.
        views, scaled: of the candidates, as they are and as energies are read.
        index: of `sampled_solutions`.
    """
    owner = np.array([candidate.example for candidate in candidates])
    later = np.array([candidate.step > 0 for candidate in candidates])
    count = int(index.max()) + 1

    def total(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
        return np.bincount(owner[rows], weights=values[rows], minlength=count)

    every = np.ones(len(owner), dtype=bool)
    tokens = np.where(views.tokens.numpy() > 0, views.tokens.numpy(), np.nan)
    with np.errstate(invalid="ignore"):  # 0 / 0 where there is no such step
        energy = total(energies(scaled, distance).double().numpy(), later) / total(every.astype(float), later)
        likely = total(views.log_probability.double().numpy(), every) / total(tokens, every)
    return tuple(np.where(index >= 0, values[index], np.nan) for values in (energy, likely))  # type: ignore[return-value]


def choose(
    results: Results, ids: Sequence[str], energy: np.ndarray, log_probability: np.ndarray, greedy: Results | None = None
) -> dict[str, Any]:
    """Accuracy of each way to choose, and the paired differences of the energy to its rivals.

    Args:
        results: with N samples for each of Q questions.
        ids: names of the questions, in the order of the two arrays.
        energy, log_probability: `[Q, N]` of each sample; NaN is chosen last. The first of equals is chosen.
        greedy: answers to the same questions.

    Returns:
        `questions`, `samples`; `arms`: name → accuracy with its 95% interval; `differences`: rival → the energy's
        accuracy minus the rival's, as `evaluation.compare.paired_difference` gives it, with `p_holm`.

    Raises:
        UserError: the greedy answers are to other questions.
    """
    rows = {row["id"]: row for row in results.rows}
    right = np.array([[bool(sample["correct"]) for sample in rows[name]["samples"]] for name in ids])
    answers = [[sample["extracted"] for sample in rows[name]["samples"]] for name in ids]
    question = np.arange(len(ids))
    chosen = {
        "energy": np.where(np.isnan(energy), np.inf, energy).argmin(axis=1),
        "first": np.zeros(len(ids), dtype=int),
        "majority": np.array([majority(own, answers_match) or 0 for own in answers]),
        "log_probability": np.where(np.isnan(log_probability), -np.inf, log_probability).argmax(axis=1),
    }
    correct = {name: right[question, sample] for name, sample in chosen.items()}
    correct[BOUND] = right.any(axis=1)
    if greedy is not None:
        verdicts = {row["id"]: bool(row["correct"]) for row in greedy.rows}
        if missing := [name for name in ids if name not in verdicts]:
            raise UserError(f"{greedy.path}: no answer to {len(missing):,} of the questions; the first: {missing[0]}")
        correct["greedy"] = np.array([verdicts[name] for name in ids])
    rivals = [name for name in RIVALS if name in correct]
    differences = {name: paired_difference(correct["energy"][None], correct[name][None]) for name in rivals}
    for entry, p in zip(differences.values(), holm([e["p"] for e in differences.values()]), strict=True):
        entry["p_holm"] = p
    return {
        "questions": len(ids),
        "samples": right.shape[1],
        "arms": {name: accuracy_interval(correct[name][None]) for name in ("energy", *rivals, BOUND)},
        "differences": differences,
    }
