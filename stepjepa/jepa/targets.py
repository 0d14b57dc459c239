"""Target views on their own: whose they are, and the steps of a batch as a batch without trunk and context.

Where the target is not that of the model in training (an average of its weights, or the model before training), the
single pass makes no copies, and the steps run through the other model by themselves: `isolated_steps`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

TARGET_MODELS = ("own", "ema", "frozen")


class PairKeys(NamedTuple):
    """Numbers `[P]` int64 that say which pairs of any batch, process and epoch belong to the same."""

    problem: Tensor
    """Equal where the tokens before the first step are."""
    step: Tensor
    """Equal where the tokens of the target are."""


def pair_keys_of(batch: dict[str, Tensor]) -> PairKeys:
    """The numbers of the view pairs of a batch, in the order of `Views`."""
    row, pair = (batch["context_index"] >= 0).nonzero(as_tuple=True)
    start, end = batch["target_start"][row, pair], batch["target_end"][row, pair]
    column = start[:, None] + torch.arange(int((end - start).max()) if len(row) else 0, device=row.device)
    inside = column < end[:, None]
    tokens = batch["input_ids"][row[:, None], torch.where(inside, column, start[:, None])] + 1
    weight = _powers(column.shape[1]).to(row.device)
    problems = problem_keys(batch)
    example = batch["example_ids"][row, batch["context_end"][row, pair] - 1]
    return PairKeys(problems[example], (tokens * weight * inside).sum(dim=1))


def pair_shares(batch: dict[str, Tensor], weights: Sequence[float]) -> Tensor:
    """The weight of each view pair of a batch, `[P]` float32, in the order of `Views`: that of its level, or 1."""
    level = batch["level"][batch["context_index"] >= 0]
    return torch.tensor(weights, device=level.device)[level] if weights else torch.ones_like(level, dtype=torch.float32)


def _powers(count: int) -> Tensor:
    """Powers of an odd number modulo 2⁶⁴, as int64 wraps, `[count]`."""
    return torch.full((count,), 6364136223846793005).cumprod(0)


def problem_keys(batch: dict[str, Tensor]) -> Tensor:
    """A number for the problem of each example of a batch, `[E]` int64, from the tokens before its first step alone.

    The same problem has the same number in any batch, process and epoch; different ones differ but for a chance of
    about 2⁻⁶³ a pair.
    """
    examples, steps, positions = batch["example_ids"], batch["step_ids"], batch["position_ids"]
    count = int(examples.max()) + 1 if examples.numel() else 0
    in_step, trunk = (examples >= 0) & (steps >= 0), examples >= 0
    first = torch.full((count,), torch.iinfo(torch.long).max, device=examples.device)
    first = first.scatter_reduce(0, examples[in_step], positions[in_step], "amin")
    prompt = trunk.clone()
    prompt[trunk] = positions[trunk] < first[examples[trunk]]
    weight = _powers(int(positions.max()) + 1 if positions.numel() else 1).to(examples.device)[positions[prompt]]
    keys = torch.zeros(count, dtype=torch.long, device=examples.device)
    return keys.index_add(0, examples[prompt], (batch["input_ids"][prompt] + 1) * weight)


def isolation_of(batch: dict[str, Tensor]) -> str | None:
    """What the targets of a batch see besides themselves; None where it has no copies, and does not say."""
    row, pair = (batch["context_index"] >= 0).nonzero(as_tuple=True)
    target = batch["target_index"][row[:1], pair[:1]]
    if not len(row) or int(batch["example_ids"][row[0], target]) >= 0:
        return None
    return "step" if int(batch["prefix_end"][row[0], target]) < 0 else "sink"


def tokens_read(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """First and last of the tokens that each target view of a batch is read from, `[P]`, from 0 at the target's start.

    They are the same with copies and without.
    """
    row, pair = (batch["context_index"] >= 0).nonzero(as_tuple=True)
    start, first, last = (batch[name][row, pair] for name in ("target_start", "target_first", "target_index"))
    segment = batch["segment_ids"][row]
    copy = (segment == segment.gather(1, last[:, None])).int().argmax(dim=1)  # where the segment of the target begins
    begin = torch.where(batch["example_ids"][row, last] >= 0, start, copy)
    return first - begin, last - begin


def isolated_steps(batch: dict[str, Tensor], predictors: int, isolation: str) -> dict[str, Tensor]:
    """The target steps of a batch by themselves: a row for each view pair, which has the copy that a branch would have.

    Args:
        batch: of the collator, with copies or without (isolation "none").
        predictors: K; the steps stand where copies behind so many predictor tokens would.
        isolation: "step", or "sink": the first token of the trunk stands before each step.

    Returns:
        `[P, W]`: `input_ids`, `position_ids`, `segment_ids`, `prefix_segment`, `prefix_end`; `[P]`: `target_first`,
        `target_index`.
    """
    row, pair = (batch["context_index"] >= 0).nonzero(as_tuple=True)
    start, end = (batch[name][row, pair] for name in ("target_start", "target_end"))
    first, last = tokens_read(batch)
    lead = int(isolation == "sink")
    width = int((end - start).max()) + lead if len(row) else lead
    column = start[:, None] - lead + torch.arange(width, device=row.device)
    if lead:
        example = batch["example_ids"][row]
        column[:, 0] = (example == example.gather(1, start[:, None])).int().argmax(dim=1)
    inside = column < end[:, None]
    column = torch.where(inside, column, start[:, None])
    positions = batch["position_ids"][row[:, None], column] + predictors
    if lead:
        positions[:, 0] -= predictors
    none = torch.full_like(column, -1)
    return {
        "input_ids": batch["input_ids"][row[:, None], column],
        "position_ids": positions,
        "segment_ids": torch.where(inside, 0, none),
        "prefix_segment": none,
        "prefix_end": none,
        "target_first": first + lead,
        "target_index": last + lead,
    }
