"""One encoded context, many candidate steps: the branch layout in which a context view serves several isolated steps.

    trunk     : [system question S1 … Sk]     encoded once
    branch i  : [predictor tokens]            after a step of the trunk, once for all candidates of that place
                [candidate] [candidate] …     each isolated as the layout says; none sees another
                [in context] …                if asked for: each candidate after the trunk's tokens up to its place,
                                              labelled, so that its log-probability comes from the same pass

A candidate's isolated copy and its context view are those that the ordinary layout gives in a row in which the
candidate is the next step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from stepjepa.jepa.layout import IGNORE, StepJEPACollator, _Row, read_tokens
from stepjepa.jepa.pairs import ViewPair


@dataclass(frozen=True)
class Place:
    """Where candidates stand: after the trunk's tokens before `context_end`, as step `step` (from 0)."""

    step: int
    context_end: int
    candidates: Sequence[Mapping[str, Sequence[int]]]
    """`input_ids` of each, and `separator` as a row has it, which pooling=content needs."""


@dataclass
class CandidateCollator(StepJEPACollator):
    """Rows with `places` → one batch in branch layout, a view pair for each candidate.

    Pairs come in the order of rows, places, candidates. The layout's predictors (of horizons, the one
    that reads one step ahead), isolation and pooling are used; under
    isolation "none" the target is read in the candidate's context.

    Args:
        likelihood: append the candidates in context, with labels; `example_ids` at the positions that predict them is
            the number of the pair.
        at_step_end: read the context view at the trunk's last token before the place, without any predictor token: for
            a model that never saw one. Copies then stand where the predictor tokens would.

    A row is `input_ids` of the trunk and `places`, a list of `Place`. Returns of a call: as `StepJEPACollator`; trunks
    have no labels.
    """

    likelihood: bool = False
    at_step_end: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.at_step_end:
            self.predictor_ids = []

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        packed: list[_Row] = []
        pairs = 0
        for number, row in enumerate(rows):
            packed.append(_Row())
            pairs = self._add(packed[-1], row, number, pairs)
        return self._pad(packed, max(row.length for row in packed))

    def _add(self, line: _Row, row: dict[str, Any], number: int, pairs: int) -> int:
        """Append trunk and branches of one row; returns the number of the next pair."""
        ids = np.asarray(row["input_ids"])
        trunk, extra = line.segments, len(self.predictor_ids)
        unseen = {"prefix_segment": -1, "prefix_end": -1}
        outside = {"labels": IGNORE, "step_ids": -1, "example_ids": -1}
        line.append(
            len(ids), **(outside | unseen | {"input_ids": ids, "position_ids": range(len(ids)), "example_ids": number})
        )
        for place in row["places"]:
            end = place.context_end
            sees = {"prefix_segment": trunk, "prefix_end": end - 1}
            positions = end + np.arange(extra)
            context = end - 1  # the trunk is the first of its row
            if extra:
                tokens = line.append(extra, input_ids=self.predictor_ids, position_ids=positions, **sees, **outside)
                context = tokens + self.layout.reader(0)
            for candidate in place.candidates:
                own = candidate["input_ids"]
                size = len(own)
                if self.likelihood or self.layout.isolation == "none":
                    # The token before it comes along: its state predicts the first of the candidate.
                    last = line.append(
                        1 + size,
                        input_ids=[ids[end - 1], *own],
                        labels=[IGNORE, *(own if self.likelihood else [IGNORE] * size)],
                        position_ids=end - 1 + np.arange(1 + size),
                        prefix_segment=trunk,
                        prefix_end=end - 2,
                        step_ids=-1,
                        example_ids=pairs,
                    )
                    start = last + 1
                if self.layout.isolation != "none":
                    sink = {"prefix_segment": trunk, "prefix_end": 0} if self.layout.isolation == "sink" else unseen
                    positions = end + extra + np.arange(size)
                    start = line.append(size, input_ids=own, position_ids=positions, **sink, **outside)
                pair = ViewPair(place.step - 1, place.step, end, 0, size)
                first, final = read_tokens(dict(candidate), pair, self.layout.pooling)
                line.pairs.append(
                    {
                        "context_index": context,
                        "target_first": start + first,
                        "target_index": start + final,
                        "context_end": end,
                        "target_start": end,
                        "target_end": end + size,
                        "context_step": place.step - 1,
                        "target_step": place.step,
                        "level": 0,
                    }
                )
                pairs += 1
        return pairs
