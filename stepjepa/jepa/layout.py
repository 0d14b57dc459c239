"""The single-pass branch layout: an ordinary sequence (the trunk), then one branch per view pair.

    trunk   : [system question S1 S2 … Sn]      plain causal, as in ordinary fine-tuning
    branch i: [predictor tokens]                see the trunk up to the end of the context step
              [copy of the target step]         sees only itself, at the positions it would have after them

Trunk tokens never see a branch, so the language-modelling loss is that of plain fine-tuning, and the branch
states are those of a second forward pass with the predictor inserted (`reference.py` is that second pass).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stepjepa.jepa.pairs import FIRST, BranchLayout, ViewPair

IGNORE = -100


class _Row:
    """One row under construction: per-token vectors and, per view pair, where its views are read."""

    def __init__(self) -> None:
        self.tokens: dict[str, list[np.ndarray]] = {}
        self.pairs: list[dict[str, int]] = []
        self.length = 0
        self.segments = 0

    def append(self, count: int, **vectors: Any) -> int:
        """Add `count` tokens as a new segment; returns the index of the first."""
        start = self.length
        for name, value in vectors.items():
            self.tokens.setdefault(name, []).append(np.broadcast_to(np.asarray(value, dtype=np.int64), (count,)))
        self.tokens.setdefault("segment_ids", []).append(np.full(count, self.segments))
        self.length += count
        self.segments += 1
        return start

    def add_example(self, row: dict[str, Any], layout: BranchLayout, predictor_ids: Sequence[int], number: int) -> None:
        """Add the trunk of one example and its branches."""
        isolation = layout.isolation
        ids = np.asarray(row["input_ids"])
        labels = np.array(row["labels"])
        labels[:1] = IGNORE  # nothing comes before the first token, so nothing can predict it
        trunk_segment = self.segments
        offset = self.append(
            len(ids),
            input_ids=ids,
            labels=labels,
            step_ids=row["step_ids"],
            position_ids=np.arange(len(ids)),
            example_ids=number,
            prefix_segment=-1,
            prefix_end=-1,
        )
        branch = {"labels": IGNORE, "step_ids": -1, "example_ids": -1}
        extra = len(predictor_ids)
        contexts: dict[int, int] = {}  # of pairs that share a context or a target, each is there once
        copies: dict[tuple[int, int], int] = {}
        for pair in layout.view_pairs(row["step_ids"], row.get("part_ids")):
            if pair.context_end not in contexts:
                contexts[pair.context_end] = self.append(
                    extra,
                    input_ids=predictor_ids,
                    position_ids=pair.context_end + np.arange(extra),
                    prefix_segment=trunk_segment,
                    prefix_end=offset + pair.context_end - 1,
                    **branch,
                )
            span = pair.target_start, pair.target_end
            if isolation != "none" and span not in copies:
                size = pair.target_end - pair.target_start
                sink = isolation == "sink"
                copies[span] = self.append(
                    size,
                    input_ids=ids[pair.target_start : pair.target_end],
                    position_ids=pair.target_start + extra + np.arange(size),
                    prefix_segment=trunk_segment if sink else -1,
                    prefix_end=offset if sink else -1,
                    **branch,
                )
            start = copies.get(span, offset + pair.target_start)
            first, last = read_tokens(row, pair, layout.pooling)
            self.pairs.append(
                {
                    "context_index": contexts[pair.context_end] + layout.reader(pair.level),
                    "target_first": start + first,
                    "target_index": start + last,
                    "context_end": offset + pair.context_end,
                    "target_start": offset + pair.target_start,
                    "target_end": offset + pair.target_end,
                    "context_step": pair.context_step,
                    "target_step": pair.target_step,
                    "level": pair.level,
                }
            )


def read_tokens(row: dict[str, Any], pair: ViewPair, pooling: str) -> tuple[int, int]:
    """First and last of the target's tokens whose states are averaged into its view, counted from its start.

    Raises:
        ValueError: content is asked for, of a row that does not say which tokens are separators.
    """
    last = pair.target_end - pair.target_start - 1
    if pooling == "mean":
        return 0, last
    if pooling == "content":
        if "separator" not in row:
            raise ValueError("pooling=content needs rows with a `separator` column, as tokenize_example makes them.")
        content = np.flatnonzero(np.asarray(row["separator"][pair.target_start : pair.target_end]) == 0)
        last = int(content[-1]) if len(content) else last
    return last, last


TOKEN_PADDING = {
    "input_ids": 0,
    "labels": IGNORE,
    "step_ids": -1,
    "position_ids": 0,
    "example_ids": -1,
    "segment_ids": -1,
    "prefix_segment": -1,
    "prefix_end": -1,
}
PAIR_FIELDS = (
    "context_index",
    "target_first",
    "target_index",
    "context_end",
    "target_start",
    "target_end",
    "context_step",
    "target_step",
    "level",
)

FLEX_BLOCK = 128
"""Side of a block of FlexAttention's masks, in tokens."""


def whole_blocks(config: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """A batch as a model's attention wants it: under FlexAttention, padded on the right to whole blocks.

    The kernel for the CPU (PyTorch 2.13) reads past shorter rows, and whatever lies there, NaN too, gets into the
    result; on a GPU rows of few lengths save compilations.

    Args:
        config: the model's configuration.
        batch: of the collator, or some of its `[B, L]` vectors.
    """
    if config._attn_implementation != "flex_attention":
        return batch
    more = -batch["input_ids"].shape[1] % FLEX_BLOCK
    return {
        name: F.pad(tensor, (0, more), value=TOKEN_PADDING[name]) if name in TOKEN_PADDING else tensor
        for name, tensor in batch.items()
    }


@dataclass
class StepJEPACollator:
    """Rows of `tokenize_example` → one batch in branch layout; every tensor is batch-first.

    Args:
        tokenizer: holds the pad token and the predictor tokens (`stepjepa.load_model` adds them).
        layout: view pairs, predictor tokens, isolation; rows have been cut to its `max_length` when they were
            tokenized.
        pad_to_multiple_of: round the row length up.
        packing_length: put several examples into one row as long as its *trunks and branches* fit into this
            many tokens; None keeps one example a row.

    Returns of a call, with B rows, L tokens, M = the largest number of pairs in a row:
        `[B, L]`: `input_ids`, `labels` (−100: no target), `position_ids`, `segment_ids`, `prefix_segment`,
        `prefix_end` (see `masks.allowed`), `step_ids`, `example_ids` (which example of the batch a trunk token
        belongs to; −1 in branches and padding);
        `[B, M]`, padded with −1: `context_index` (where the context view is read), `target_first`, `target_index` (the
        target view is the mean over these tokens, from the first to the last), `context_end`, `target_start`,
        `target_end` (the pair in the trunk), `context_step`, `target_step`, `level`;
        `attention_mask` `[B, L]`, present only when no row has a branch and nothing is packed: the batch is then
        an ordinary causal one.
        Integer columns of the rows named in `passthrough` come back as `[B]` (not with packing).

    >>> batch = StepJEPACollator(tokenizer)([tokenize_example(e, tokenizer) for e in examples])  # doctest: +SKIP
    """

    tokenizer: Any
    layout: BranchLayout = FIRST
    pad_to_multiple_of: int | None = None
    packing_length: int | None = None
    passthrough: tuple[str, ...] = ("source_id",)

    def __post_init__(self) -> None:
        if self.tokenizer.pad_token_id is None:
            raise ValueError("The tokenizer has no pad token; stepjepa.load_model gives it one.")
        none = self.layout.pairs == "none"
        self.predictor_ids = [] if none else predictor_token_ids(self.tokenizer, self.layout.predictors)

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        if not rows:
            raise ValueError("There are no rows to collate.")
        packed: list[_Row] = []
        for number, row in enumerate(rows):
            pairs = self.layout.view_pairs(row["step_ids"], row.get("part_ids"))
            if not packed or not self._fits(packed[-1], row, pairs):
                packed.append(_Row())
            packed[-1].add_example(row, self.layout, self.predictor_ids, number)

        length = max(row.length for row in packed)
        if self.pad_to_multiple_of:
            length += -length % self.pad_to_multiple_of
        batch = self._pad(packed, length)
        if not any(row.pairs for row in packed) and len(packed) == len(rows):
            batch["attention_mask"] = (batch["segment_ids"] >= 0).long()
        if len(packed) == len(rows):
            for name in self.passthrough:
                if name in rows[0]:
                    batch[name] = torch.tensor([row[name] for row in rows])
        return batch

    def _fits(self, into: _Row, row: dict[str, Any], pairs: list[ViewPair]) -> bool:
        if self.packing_length is None:
            return False
        targets = {(pair.target_start, pair.target_end) for pair in pairs} if self.layout.isolation != "none" else ()
        predictors = len({pair.context_end for pair in pairs}) * len(self.predictor_ids)
        needed = len(row["input_ids"]) + predictors + sum(end - start for start, end in targets)
        return into.length + needed <= self.packing_length

    def _pad(self, packed: list[_Row], length: int) -> dict[str, Tensor]:
        most = max(len(row.pairs) for row in packed)
        padding = {**TOKEN_PADDING, "input_ids": self.tokenizer.pad_token_id}
        tokens = {name: np.full((len(packed), length), value) for name, value in padding.items()}
        fields = {name: np.full((len(packed), most), -1) for name in PAIR_FIELDS}
        for b, row in enumerate(packed):
            for name, parts in row.tokens.items():
                tokens[name][b, : row.length] = np.concatenate(parts)
            for m, pair in enumerate(row.pairs):
                for name in PAIR_FIELDS:
                    fields[name][b, m] = pair[name]
        return {name: torch.from_numpy(array) for name, array in (tokens | fields).items()}


def predictor_tokens(count: int) -> list[str]:
    """The K predictor tokens: `<|predictor|>`, or `<|predictor_1|>` … `<|predictor_K|>` for K > 1."""
    if count < 1:
        raise ValueError(f"predictors must be at least 1, not {count}.")
    return ["<|predictor|>"] if count == 1 else [f"<|predictor_{i}|>" for i in range(1, count + 1)]


def predictor_token_ids(tokenizer: Any, count: int) -> list[int]:
    """Ids of the K predictor tokens.

    Raises:
        ValueError: if the tokenizer lacks one of them.
    """
    vocabulary = tokenizer.get_added_vocab()
    missing = [token for token in predictor_tokens(count) if token not in vocabulary]
    if missing:
        raise ValueError(
            f"The tokenizer lacks {', '.join(missing)}. Load model and tokenizer with "
            f"stepjepa.load_model(..., predictors={count}), which adds them to both."
        )
    return [vocabulary[token] for token in predictor_tokens(count)]


def without_branches(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The trunks of an unpacked batch alone: what plain fine-tuning would be given.

    Trunk tokens move to the front of their row (order kept) and the row is cut to the longest trunk.

    Raises:
        ValueError: for a packed batch, whose examples a plain causal mask would mix.
    """
    if int(batch["example_ids"].max()) >= len(batch["example_ids"]):
        raise ValueError("A packed batch cannot go without its branch layout: its examples would see each other.")
    trunk = batch["example_ids"] >= 0
    order = (~trunk).long().argsort(dim=1, stable=True)[:, : int(trunk.sum(dim=1).max())]
    kept = trunk.gather(1, order)
    plain = {
        name: torch.where(kept, batch[name].gather(1, order), padding)
        for name, padding in TOKEN_PADDING.items()
        if name not in ("prefix_segment", "prefix_end")
    }
    none = torch.full_like(plain["segment_ids"], -1)
    empty = {name: batch[name][:, :0] for name in PAIR_FIELDS}
    other = {k: v for k, v in batch.items() if k not in TOKEN_PADDING and k not in PAIR_FIELDS}
    return {**other, **plain, **empty, "prefix_segment": none, "prefix_end": none, "attention_mask": kept.long()}
