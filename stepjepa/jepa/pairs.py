"""View pairs: which step's end has to predict which step, in trunk coordinates; and `BranchLayout`, which says it all.

The classic form pairs step 1 with step 2; the general form takes all consecutive steps, a horizon, or the question
and the whole answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from stepjepa.records import option

PAIR_SETS = ("first", "consecutive", "horizon", "horizons", "hierarchy", "question_answer", "none")
ONE_LEVEL = tuple(name for name in PAIR_SETS if name not in ("horizons", "hierarchy"))
"""Sets whose pairs are all of one kind."""
ISOLATIONS = ("step", "sink", "none")
POOLINGS = ("last", "content", "mean")


class StepSpan(NamedTuple):
    """Tokens `start … end − 1` of the sequence are reasoning step `step`."""

    step: int
    start: int
    end: int


class ViewPair(NamedTuple):
    """One context view and one target view, in trunk coordinates.

    The context ends before token `context_end`; the target is tokens `target_start … target_end − 1`. The step
    numbers are those of the example; −1 stands for the question (context) and for the whole answer (target).

    `level` tells kinds of pairs apart, each of which has its weight: for "horizons" how many steps ahead, less 1; for
    "hierarchy" 0 question → whole answer, 1 step → step, 2 part of a step → its next part.
    """

    context_step: int
    target_step: int
    context_end: int
    target_start: int
    target_end: int
    level: int = 0


def step_spans(step_ids: Sequence[int]) -> list[StepSpan]:
    """The runs of equal, non-negative `step_ids`, in order.

    >>> step_spans([-1, 0, 0, 1, -1])
    [StepSpan(step=0, start=1, end=3), StepSpan(step=1, start=3, end=4)]
    """
    ids = np.asarray(step_ids)
    if not len(ids):
        return []
    edges = np.flatnonzero(np.diff(ids)) + 1
    starts, ends = np.r_[0, edges], np.r_[edges, len(ids)]
    return [StepSpan(int(ids[s]), int(s), int(e)) for s, e in zip(starts, ends, strict=True) if ids[s] >= 0]


def view_pairs(
    step_ids: Sequence[int], pairs: str = "first", horizon: int = 1, part_ids: Sequence[int] | None = None
) -> list[ViewPair]:
    """The view pairs of one example.

    Args:
        step_ids: per-token step index, −1 outside the solution.
        pairs: "first" (step 1 → step 2, the classic form), "consecutive" (every step → the next), "horizon"
            (every step k → step k + `horizon`), "horizons" (every step k → each of the steps k + 1 … k + `horizon`),
            "question_answer" (question → whole answer, as in LLM-JEPA, arXiv 2509.14252; of an example cut by the
            length limit, what is left of its answer), "hierarchy" (question → whole answer, every step → the next,
            every part of a step → the next part of it), "none".
        horizon: how many steps ahead, for "horizon" and "horizons".
        part_ids: per-token index of the part of its step, for "hierarchy".

    Returns:
        Pairs in order; empty where the example has too few steps.

    Raises:
        ValueError: for an unknown `pairs`, a horizon below 1, or a hierarchy without parts.
    """
    if pairs not in PAIR_SETS:
        raise ValueError(f"Unknown pair set {pairs!r}; choose one of {', '.join(PAIR_SETS)}.")
    if horizon < 1:
        raise ValueError(f"horizon must be at least 1, not {horizon}.")
    spans = step_spans(step_ids)
    if pairs == "none" or not spans:
        return []
    start, end = spans[0].start, spans[-1].end
    whole = [ViewPair(-1, -1, start, start, end)] if start else []
    if pairs == "question_answer":
        return whole
    if pairs == "horizons":
        return [
            ViewPair(c.step, t.step, c.end, t.start, t.end, ahead)
            for number, c in enumerate(spans)
            for ahead, t in enumerate(spans[number + 1 : number + 1 + horizon])
        ]
    if pairs == "hierarchy":
        if part_ids is None:
            raise ValueError("pairs=hierarchy needs rows with a `part_ids` column, as tokenize_example makes them.")
        steps = [ViewPair(c.step, t.step, c.end, t.start, t.end, 1) for c, t in pairwise(spans)]
        return [*whole, *steps, *(pair for span in spans for pair in part_pairs(span, part_ids))]
    ahead = horizon if pairs == "horizon" else 1
    pairs_of = list(zip(spans, spans[ahead:], strict=False))
    if pairs == "first":
        pairs_of = pairs_of[:1]
    return [ViewPair(c.step, t.step, c.end, t.start, t.end) for c, t in pairs_of]


def part_pairs(span: StepSpan, part_ids: Sequence[int]) -> list[ViewPair]:
    """Every part of a step → the next part of the same step.

    >>> part_pairs(StepSpan(3, 1, 5), [0, 0, 0, 1, 1])
    [ViewPair(context_step=3, target_step=3, context_end=3, target_start=3, target_end=5, level=2)]
    """
    parts = step_spans(part_ids[span.start : span.end])
    moved = [(span.start + part.start, span.start + part.end) for part in parts]
    return [ViewPair(span.step, span.step, end, start, stop, 2) for (_, end), (start, stop) in pairwise(moved)]


@dataclass(frozen=True)
class BranchLayout:
    """What branches hang off a trunk: one value, passed whole from the options to the collator.

    Args:
        pairs, horizon: which view pairs, see `view_pairs`.
        predictors: K, the number of predictor tokens before each context view is read; for "horizons" it is 1, the
            same view for all, or at least the horizon: what is h steps ahead is then predicted by the h-th token.
        isolation: "step" (a target sees only itself), "sink" (also the first token of its trunk), "none" (no
            copy: the target is the trunk's own state at the end of the step; the control arm).
        max_length: longest trunk in tokens; a longer one is cut at a step boundary. None: no limit of its own.
        pooling: how the states of a target's tokens become one vector: that of its "last" token, as in the original;
            that of the last token of its "content", none of whose characters are the separator's; or their "mean".

    Raises:
        ValueError: for an unknown choice or a number below 1.
    """

    pairs: str = option("first", "which view pairs", choices=PAIR_SETS)
    horizon: int = option(1, "steps ahead, for --pairs horizon")
    predictors: int = option(1, "predictor tokens before a context view is read")
    isolation: str = option("step", "what a target view sees besides itself", choices=ISOLATIONS)
    max_length: int | None = option(None, "longest example in tokens; a longer one loses whole steps")
    pooling: str = option(
        "last",
        "the target view: state of a step's last token, of the last before its separator, or mean of all",
        choices=POOLINGS,
    )

    def __post_init__(self) -> None:
        for name, choices in (("pairs", PAIR_SETS), ("isolation", ISOLATIONS), ("pooling", POOLINGS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"Unknown {name} {getattr(self, name)!r}; choose one of {', '.join(choices)}.")
        for name in ("horizon", "predictors", "max_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}.")

        if self.pairs == "horizons" and 1 < self.predictors < self.horizon:
            raise ValueError(f"predictors must be 1, or at least the horizon, {self.horizon}, for pairs=horizons.")

    def view_pairs(self, step_ids: Sequence[int], part_ids: Sequence[int] | None = None) -> list[ViewPair]:
        """The view pairs of one example, see the function of this name."""
        return view_pairs(step_ids, self.pairs, self.horizon, part_ids)

    def consecutive(self) -> BranchLayout:
        """The same for every step and the next; with a predictor token for each horizon, at that of the first one."""
        return replace(self, pairs="horizons" if self.pairs == "horizons" else "consecutive", horizon=1)

    def reader(self, level: int) -> int:
        """Which of the K predictor tokens, from 0, the context view of a pair of a level is read at."""
        return min(level, self.predictors - 1) if self.pairs == "horizons" else self.predictors - 1


FIRST = BranchLayout()
"""The classic form: step 1 → step 2."""
CONSECUTIVE = BranchLayout("consecutive")
"""Every step → the next, which is what is measured and drawn."""
