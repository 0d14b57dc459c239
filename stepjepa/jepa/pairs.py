"""View pairs: which step's end has to predict which step, in trunk coordinates; and `BranchLayout`, which says it all.

The classic form pairs step 1 with step 2; the general form takes all consecutive steps, a horizon, or the question
and the whole answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from stepjepa.records import option

PAIR_SETS = ("first", "consecutive", "horizon", "question_answer", "none")
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
    """

    context_step: int
    target_step: int
    context_end: int
    target_start: int
    target_end: int


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


def view_pairs(step_ids: Sequence[int], pairs: str = "first", horizon: int = 1) -> list[ViewPair]:
    """The view pairs of one example.

    Args:
        step_ids: per-token step index, −1 outside the solution.
        pairs: "first" (step 1 → step 2, the classic form), "consecutive" (every step → the next), "horizon"
            (every step k → step k + `horizon`), "question_answer" (question → whole answer, as in LLM-JEPA,
            arXiv 2509.14252; of an example cut by the length limit, what is left of its answer), "none".
        horizon: how many steps ahead, for "horizon".

    Returns:
        Pairs in order; empty where the example has too few steps.

    Raises:
        ValueError: for an unknown `pairs` or a horizon below 1.
    """
    if pairs not in PAIR_SETS:
        raise ValueError(f"Unknown pair set {pairs!r}; choose one of {', '.join(PAIR_SETS)}.")
    if horizon < 1:
        raise ValueError(f"horizon must be at least 1, not {horizon}.")
    spans = step_spans(step_ids)
    if pairs == "none" or not spans:
        return []
    if pairs == "question_answer":
        start, end = spans[0].start, spans[-1].end
        return [ViewPair(-1, -1, start, start, end)] if start else []
    ahead = horizon if pairs == "horizon" else 1
    both = list(zip(spans, spans[ahead:], strict=False))
    if pairs == "first":
        both = both[:1]
    return [ViewPair(c.step, t.step, c.end, t.start, t.end) for c, t in both]


@dataclass(frozen=True)
class BranchLayout:
    """What branches hang off a trunk: one value, passed whole from the options to the collator.

    Args:
        pairs, horizon: which view pairs, see `view_pairs`.
        predictors: K, the number of predictor tokens before each context view is read.
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

    def view_pairs(self, step_ids: Sequence[int]) -> list[ViewPair]:
        """The view pairs of one example, see the function of this name."""
        return view_pairs(step_ids, self.pairs, self.horizon)


FIRST = BranchLayout()
"""The classic form: step 1 → step 2."""
CONSECUTIVE = BranchLayout("consecutive")
"""Every step → the next, which is what is measured and drawn."""
