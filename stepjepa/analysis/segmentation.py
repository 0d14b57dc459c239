"""How well are the steps of a solution found once its separators are gone? Cuts against known boundaries.

Solutions whose steps are known are joined by single spaces, cut by each method and split as `stepjepa prepare` splits,
short fragments merged; boundaries are compared token by token. Precision, recall and F1 count every boundary of all
solutions; P_k (Beeferman et al. 1999) and WindowDiff (Pevzner & Hearst 2002) are errors, 0 for the same cuts, and
forgive near misses. Intervals resample solutions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from stepjepa.analysis.cuts import METHODS, Cutter, fit
from stepjepa.analysis.intervals import bootstrap_ratio
from stepjepa.analysis.reader import Reader, Reading
from stepjepa.data.examples import question_key
from stepjepa.data.steps import Splitter, split_steps
from stepjepa.records import UserError

EVERY = "all"
"""What all sources together are called, to which methods are fitted as well."""
SPLITTER: Splitter = "sentence"  # the one that finds anything in a text of one line
MEASURES = {
    "precision": ("hits", "found"),
    "recall": ("hits", "known"),
    "f1": ("hits", "both"),
    "near_precision": ("near", "found"),
    "near_recall": ("near", "known"),
    "near_f1": ("near", "both"),
    "p_k": ("p_k", "one"),
    "window_diff": ("window_diff", "one"),
}
"""Measures as ratios of sums over solutions: exact, within one token (`near`), and the two window errors."""


def joined(steps: Sequence[str]) -> tuple[str, list[int]]:
    """Steps without their separators: one line of text, a space between any two words, and where each step begins."""
    lines = [" ".join(step.split()) for step in steps]
    return " ".join(lines), [sum(len(line) + 1 for line in lines[:k]) for k in range(len(lines))]


def begins(text: str, steps: Sequence[str]) -> list[int]:
    """Where each step of a text begins that splitting it has given."""
    found, position = [], 0
    for step in steps:
        found.append(text.index(step, position))
        position = found[-1] + len(step)
    return found


def near_hits(known: np.ndarray, found: np.ndarray, within: int = 1) -> int:
    """How many cuts lie within so many tokens of a boundary, each boundary matched once.

    From left to right each cut takes the first boundary in its reach that is left, which matches as many as possible.
    """
    boundaries = list(np.flatnonzero(known))
    hits = 0
    for cut in np.flatnonzero(found):
        while boundaries and boundaries[0] < cut - within:
            boundaries.pop(0)
        if boundaries and boundaries[0] <= cut + within:
            boundaries.pop(0)
            hits += 1
    return hits


def window_errors(known: np.ndarray, found: np.ndarray) -> tuple[float, float]:
    """P_k and WindowDiff of one solution: the share of windows of k tokens in which known and found cuts differ.

    P_k asks whether there is a cut in the window, WindowDiff how many; k is half the mean length of the known steps.

    Args:
        known, found: `[T]` booleans, the tokens that begin a step; the first begins none.
    """
    k = max(1, round(len(known) / (known.sum() + 1) / 2))

    def inside(marked: np.ndarray) -> np.ndarray:
        """How many cuts lie between token i and token i + k, for each i."""
        below = np.cumsum(marked)
        return below[k:] - below[:-k]

    one, other = inside(known), inside(found)
    if not len(one):
        return 0.0, 0.0
    return float(((one > 0) != (other > 0)).mean()), float((one != other).mean())


@dataclass(frozen=True)
class Solution:
    """A solution without separators, read by a language model, with its known boundaries."""

    text: str
    reading: Reading
    known: np.ndarray
    """`[T]` booleans: the tokens that begin a step."""


def read_solutions(reader: Reader, examples: Sequence[Mapping[str, Any]], progress: bool = True) -> list[Solution]:
    """Examples of several steps, in their order, with their separators removed and read."""
    solutions = []
    for example in tqdm(examples, desc="reading", unit="solution", disable=not progress):
        text, offsets = joined(example["steps"])
        reading = reader(text)
        solutions.append(Solution(text, reading, reading.boundaries(offsets)))
    return solutions


def found_steps(solution: Solution, method: Cutter | Splitter) -> list[str]:
    """The steps that `stepjepa prepare` makes of a solution by a cutter or a splitter."""
    if isinstance(method, Cutter):
        return split_steps(solution.text, lambda _: method.offsets(solution.reading))
    return split_steps(solution.text, method)


def found_boundaries(solution: Solution, method: Cutter | Splitter) -> np.ndarray:
    """`[T]` booleans: where those steps begin."""
    return solution.reading.boundaries(begins(solution.text, found_steps(solution, method)))


def counted(known: np.ndarray, found: np.ndarray) -> dict[str, float]:
    """What `MEASURES` sums for one solution."""
    p_k, window_diff = window_errors(known, found)
    return {
        "hits": int((known & found).sum()),
        "near": near_hits(known, found),
        "found": int(found.sum()),
        "known": int(known.sum()),
        "both": (int(found.sum()) + int(known.sum())) / 2,
        "p_k": p_k,
        "window_diff": window_diff,
        "one": 1,
    }


def measured(
    solutions: Sequence[Solution], method: Cutter | Splitter, draws: int = 1000, seed: int = 0
) -> dict[str, tuple[float, ...]]:
    """Each of `MEASURES` as estimate, lower and upper end of its 95% interval over solutions."""
    rows = [counted(solution.known, found_boundaries(solution, method)) for solution in solutions]
    sums = {name: np.array([row[name] for row in rows], dtype=float) for name in rows[0]}
    found = {name: bootstrap_ratio(sums[top], sums[bottom], draws, seed) for name, (top, bottom) in MEASURES.items()}
    return {name: (one.estimate, one.low or 0.0, one.high or 0.0) for name, one in found.items()}


def compare(
    training: Mapping[str, Sequence[Solution]],
    test: Mapping[str, Sequence[Solution]],
    *,
    methods: Sequence[str] = tuple(METHODS),
    draws: int = 1000,
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[dict[str, Any], dict[str, dict[str, Cutter]]]:
    """Every method fitted to the solutions of each source, and to all of them, measured on those of each source.

    Args:
        training, test: solutions of each source, by its name; no solution in both.
        methods: of `METHODS`.

    Returns:
        `{test source: {method: {training source or "all": measures}}}`, with the splitter "sentence", which is fitted
        to "none", and the cutters `{training source or "all": {method: cutter}}`.
    """
    sources = dict(training)
    if len(training) > 1:
        sources[EVERY] = [solution for solutions in training.values() for solution in solutions]
    cutters: dict[str, dict[str, Cutter]] = {}
    for source, solutions in sources.items():
        progress(f"fitting to {source}: {len(solutions):,} solutions")
        readings, known = [s.reading for s in solutions], [s.known for s in solutions]
        cutters[source] = {method: fit(method, readings, known, seed=seed) for method in methods}
    results: dict[str, Any] = {}
    for name, solutions in test.items():
        progress(f"measuring on {name}: {len(solutions):,} solutions")
        results[name] = {SPLITTER: {"none": measured(solutions, SPLITTER, draws, seed)}}
        for method in methods:
            results[name][method] = {
                source: measured(solutions, own[method], draws, seed) for source, own in cutters.items()
            }
    return results, cutters


Dealt = tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]


def dealt(
    sources: Mapping[str, Sequence[Mapping[str, Any]]], training: int, test: int, seed: int = 0
) -> dict[str, Dealt]:
    """Solutions of several steps of each source at random, to train and to test on.

    No question is tested on that any source trains on: a method fitted to one of them, or to all, has not seen it.

    Raises:
        UserError: there are not as many in a source.
    """
    orders = {}
    for name, examples in sources.items():
        kept = list({question_key(example): example for example in examples if len(example["steps"]) > 1}.values())
        orders[name] = [kept[i] for i in np.random.default_rng(seed).permutation(len(kept))]
    tests = {name: order[training : training + test] for name, order in orders.items()}
    tested = {question_key(example) for part in tests.values() for example in part}
    parts = {}
    for name, order in orders.items():
        own = [example for example in order if question_key(example) not in tested]
        if len(tests[name]) < test or len(own) < training:
            raise UserError(
                f"{name}: {len(order):,} questions whose solution has several steps, {len(own):,} of them in no "
                f"source's test part; {training:,} to train and {test:,} to test on are asked for"
            )
        parts[name] = own[:training], tests[name]
    return parts
