"""A batch in branch layout → labelled masks (plain causal, two-pass, single-pass, difference), every row in words.

The masks are those that are trained with (`layout.py`, `masks.py`) and those of the executable specification
(`reference.py`); nothing here decides who may attend to whom. The words name exactly the columns of the token's row in
the mask: they are read off it, never made from rules.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

import numpy as np
from torch import Tensor

from stepjepa.jepa.layout import without_branches
from stepjepa.jepa.masks import allowed
from stepjepa.jepa.reference import SecondPass

VIEWS = ("plain causal", "two-pass", "single-pass", "difference")
AGAIN, BRANCH, LEFT_OUT = "again", "branch", "left out"
ONE_PASS = {
    AGAIN: "It repeats a row of the first pass; one pass computes that once, in the trunk.",
    BRANCH: "One pass computes this row in the branch.",
    LEFT_OUT: "No view depends on it; one pass leaves it out.",
}
"""What one pass makes of a row of the second pass."""

_CAUSAL = "attention is causal: a token sees itself and everything before it"
_TRUNK = "the trunk is plain causal and never sees a branch"
_BEFORE = "the second pass is plain causal before its predictor"
_AFTER = "it stands after the predictor and is not isolated, so it stays causal"
_HIDDEN = "isolation is none: the predictor is hidden from later rows, which are those of the first pass"
_PADDING = "padding sees only itself, so that no row of the softmax is empty"


@dataclass(frozen=True)
class Token:
    """One token of a picture: `number` counts from 1 within its `part`, which has `size` tokens.

    `group` is the stretch of text it stands for, whichever copy of it this is: "prompt", "S1" …, "end of turn",
    "predictor" or "padding".
    """

    text: str
    part: str
    group: str
    number: int
    size: int

    @property
    def name(self) -> str:
        """Its part and number; the number is left out where the part has no other token."""
        return self.part if self.size == 1 else f"{self.part} token {self.number}"


@dataclass(frozen=True)
class MaskPicture:
    """One mask with its labels, for L tokens.

    `mask` is `[L, L]` (rows are queries), `why[t]` the reason for row t; `reads` names the view that is read at a
    row; `summary` is a line on the whole; `one_pass` is a key of `ONE_PASS` for each row, or empty. `views` tells of
    the rows of predictor tokens and of targets which view pair and which of its views they are about.
    """

    tokens: tuple[Token, ...]
    mask: np.ndarray
    why: tuple[str, ...]
    reads: dict[int, str]
    summary: str
    one_pass: tuple[str, ...] = ()
    views: dict[int, tuple[int, str]] = field(default_factory=dict)

    def sentence(self, t: int) -> str:
        """What token t sees and why: «S2 token 3 sees: S2 tokens 1–3, because its step is read in isolation.»"""
        words = f"{self.tokens[t].name} sees: {listing(self.tokens, self.mask[t])}, because {self.why[t]}."
        if t in self.reads:
            words += f" The {self.reads[t]} is read here."
        return words + (f" {ONE_PASS[self.one_pass[t]]}" if self.one_pass else "")


def listing(tokens: tuple[Token, ...], seen: np.ndarray) -> str:
    """The seen tokens by part: `prompt tokens 1–9, S1 tokens 1–4, predictor S1→S2`.

    Args:
        tokens: of length L.
        seen: `[L]` booleans.
    """
    phrases = []
    for part, group in groupby(np.flatnonzero(seen).tolist(), key=lambda k: tokens[k].part):
        keys = list(group)
        if tokens[keys[0]].size == 1:
            phrases.append(part)
            continue
        numbers = np.array([tokens[k].number for k in keys])
        runs = np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1)
        spans = " and ".join(f"{run[0]}–{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)
        phrases.append(f"{part} {'token' if len(numbers) == 1 else 'tokens'} {spans}")
    return ", ".join(phrases)


class MaskStory:
    """The four pictures of one row of a batch.

    Args:
        batch: from `StepJEPACollator`, not packed.
        decode: token id → its text.
        row: which row of the batch.

    Raises:
        ValueError: for a packed batch.
    """

    def __init__(self, batch: dict[str, Tensor], decode: Callable[[int], str], row: int = 0) -> None:
        self._batch, self._decode, self._row = batch, decode, row
        self._trunks = without_branches(batch)
        self._masks = {name: _mask(own, row) for name, own in (("one pass", batch), ("first pass", self._trunks))}
        self._vector = {name: tensor[row].numpy() for name, tensor in batch.items() if tensor.ndim == 2}
        self._trunk = np.flatnonzero(self._vector["example_ids"] >= 0)
        self._groups = _groups(self._vector["step_ids"][self._trunk])
        count = int((self._vector["context_index"] >= 0).sum())
        self.pairs = tuple(_pair_name(self._vector, pair) for pair in range(count))
        """Names of the view pairs, in order."""
        self.steps = [
            (int(self._vector["context_step"][pair]), int(self._vector["target_step"][pair])) for pair in range(count)
        ]
        """Of each view pair the step after which the context view is read, and the target step; see `Embeddings`."""

    def picture(self, view: str, pair: int = 0) -> MaskPicture:
        """One of `VIEWS`; `pair` chooses the second pass, as there is one for each view pair.

        Without a view pair there is no second pass: "two-pass" and "difference" then give the first pass, and its
        summary says so.

        Raises:
            ValueError: for an unknown view.
        """
        if view not in VIEWS:
            raise ValueError(f"Unknown view {view!r}; choose one of {', '.join(VIEWS)}.")
        if view == "single-pass":
            return self._single_pass()
        if view == "plain causal" or not self.pairs:
            return self._plain("Plain causal" if view == "plain causal" else "No view pair, so the first pass only")
        return self._second_pass(pair) if view == "two-pass" else self._difference(pair)

    # -------- the pictures --------

    def _plain(self, title: str) -> MaskPicture:
        mask, length = self._masks["first pass"], len(self._trunk)
        padding = len(mask) - length
        tokens = self._tokens(self._trunks["input_ids"][self._row], [*self._groups, *["padding"] * padding])
        why = (_CAUSAL,) * length + (_PADDING,) * padding
        return MaskPicture(tokens, mask, why, {}, f"{title}: {_size(mask[:length])}.")

    def _single_pass(self) -> MaskPicture:
        mask, real = self._masks["one pass"], self._vector["segment_ids"] >= 0
        groups, why = ["padding"] * len(mask), [_PADDING] * len(mask)
        for column, group in zip(self._trunk, self._groups, strict=True):
            groups[column], why[column] = group, _TRUNK
        parts = list(groups)
        reads: dict[int, str] = {}
        views: dict[int, tuple[int, str]] = {}
        for pair, name in enumerate(self.pairs):
            predictor, copy = self._branch(pair)
            for column in predictor:
                groups[column], parts[column], why[column] = "predictor", f"predictor {name}", _predicting(name)
            start = int(self._vector["target_start"][pair] - self._trunk[0])
            for column, group in zip(copy, self._groups[start : start + len(copy)], strict=True):
                groups[column], parts[column], why[column] = group, f"{_target(name)} copy", self._isolated(pair)
            for view, columns in (("context", predictor), ("target", copy)):
                read = int(self._vector[f"{view}_index"][pair])
                reads[read] = f"{view} view of {name}"
                views |= {int(column): (pair, view) for column in (*columns, read)}
        trunk = len(self._trunk)
        summary = f"One pass, {trunk:,} tokens of trunk and {real.sum() - trunk:,} of branches: {_size(mask[real])}."
        tokens = self._tokens(self._vector["input_ids"], groups, parts)
        return MaskPicture(tokens, mask, tuple(why), reads, summary, views=views)

    def _second_pass(self, pair: int) -> MaskPicture:
        second, name = self._second(pair), self.pairs[pair]
        inserted, isolated = self._inserted(pair)
        predictor = "predictor"
        groups = [*self._groups[: inserted.start], *[predictor] * len(inserted), *self._groups[inserted.start :]]
        parts = [f"predictor {name}" if group == predictor else group for group in groups]
        after = _AFTER if isolated else _HIDDEN
        why = [_BEFORE if q < inserted.start else after for q in range(len(groups))]
        why[inserted.start : inserted.stop] = [_predicting(name)] * len(inserted)
        why[isolated.start : isolated.stop] = [self._isolated(pair)] * len(isolated)
        mask = second.mask.numpy()
        reads = {second.context_index: f"context view of {name}", second.target_index: f"target view of {name}"}
        summary = f"Second pass for {name}: {_size(mask)}."
        views = dict.fromkeys(inserted, (pair, "context"))
        views |= dict.fromkeys((*isolated, second.target_index), (pair, "target"))
        return MaskPicture(self._tokens(second.tokens, groups, parts), mask, tuple(why), reads, summary, views=views)

    def _difference(self, pair: int) -> MaskPicture:
        """The second pass again, with what one pass makes of each row.

        A row is "again" or "branch" if the trunk or a branch of the single pass holds the very same row: the same
        token at the same position that sees the same tokens. Otherwise it is "left out".
        """
        second, picture, single = self._second(pair), self._second_pass(pair), self._masks["one pass"]
        inserted, isolated = self._inserted(pair)
        predictor, copy = self._branch(pair)
        place = np.insert(self._trunk, inserted.start, predictor)  # column of the second pass → of the single pass
        place[isolated.start : isolated.stop] = copy
        same = (
            (self._vector["input_ids"][place] == second.tokens)
            & (self._vector["position_ids"][place] == second.positions.numpy())
            & (single[np.ix_(place, place)] == picture.mask).all(axis=1)
            & (single[place].sum(axis=1) == picture.mask.sum(axis=1))
        )
        one_pass = np.where(~same, LEFT_OUT, np.where(np.isin(place, self._trunk), AGAIN, BRANCH))
        counts = self._counts(picture.mask, one_pass, pair)
        return replace(picture, summary=counts, one_pass=tuple(one_pass.tolist()))

    def _counts(self, mask: np.ndarray, one_pass: np.ndarray, pair: int) -> str:
        cells = {kind: int(mask[one_pass == kind].sum()) for kind in ONE_PASS}
        single = self._masks["one pass"][self._vector["segment_ids"] >= 0]
        passes = [self._masks["first pass"][: len(self._trunk)]]
        passes += [self._second(number).mask.numpy() for number in range(len(self.pairs))]
        return (
            f"Of the {int(mask.sum()):,} cells of the second pass for {self.pairs[pair]}, {cells[AGAIN]:,} "
            f"repeat the first pass, {cells[BRANCH]:,} are the branch, and no view depends on the other "
            f"{cells[LEFT_OUT]:,}. With {len(self.pairs)} view pair{'s' * (len(self.pairs) > 1)}, the two-pass form "
            f"computes {sum(map(len, passes)):,} rows and {sum(int(mask.sum()) for mask in passes):,} cells; "
            f"one pass computes {len(single):,} rows and {int(single.sum()):,} cells."
        )

    # -------- where things stand --------

    def _second(self, pair: int) -> SecondPass:
        trunk = self._vector["input_ids"][self._trunk].tolist()
        return SecondPass.of(self._batch, self._row, pair, trunk, int(self._trunk[0]), self._row)

    def _branch(self, pair: int) -> tuple[np.ndarray, np.ndarray]:
        """Columns of the predictor tokens and of the copy of a branch; no copy for isolation "none"."""
        segments = self._vector["segment_ids"]
        predictor, target = (
            np.flatnonzero(segments == segments[self._vector[f"{view}_index"][pair]]) for view in ("context", "target")
        )
        return predictor, target[~np.isin(target, self._trunk)]

    def _inserted(self, pair: int) -> tuple[range, range]:
        """Rows of the predictor tokens and of the isolated step in the second pass."""
        predictor, copy = self._branch(pair)
        cut, start = (int(self._vector[n][pair] - self._trunk[0]) for n in ("context_end", "target_start"))
        start += len(predictor)
        return range(cut, cut + len(predictor)), range(start, start + len(copy))

    def _isolated(self, pair: int) -> str:
        what = "the answer" if self.pairs[pair].endswith("answer") else "its step"
        sink = self._vector["prefix_end"][self._vector["target_index"][pair]] >= 0
        exception = ", but for the first token of the sequence, the attention sink" if sink else ""
        return f"{what} is read in isolation{exception}"

    def _tokens(self, ids: Any, groups: Sequence[str], parts: Sequence[str] | None = None) -> tuple[Token, ...]:
        parts = parts or groups
        sizes, numbers = Counter(parts), Counter[str]()
        tokens = []
        for token_id, group, part in zip(ids, groups, parts, strict=True):
            numbers[part] += 1
            tokens.append(Token(self._decode(int(token_id)), part, group, numbers[part], sizes[part]))
        return tuple(tokens)


def on_one_line(tokenizer: Any) -> Callable[[int], str]:
    """Token id → its text on one line, without the space before a word; a space alone is a dot."""

    def text(token_id: int) -> str:
        decoded = str(tokenizer.decode([token_id]))
        return (decoded.strip(" ") or "·").replace("\n", "\\n").replace("\t", "\\t")

    return text


def _groups(step_ids: np.ndarray) -> list[str]:
    """For each token of a trunk: prompt, S1 … or end of turn."""
    steps = np.flatnonzero(step_ids >= 0)
    start = steps[0] if len(steps) else len(step_ids)
    return [
        f"S{step + 1}" if step >= 0 else "prompt" if t < start else "end of turn"
        for t, step in enumerate(step_ids.tolist())
    ]


def _pair_name(vector: dict[str, np.ndarray], pair: int) -> str:
    context, target = int(vector["context_step"][pair]), int(vector["target_step"][pair])
    return "question→answer" if target < 0 else f"S{context + 1}→S{target + 1}"


def _target(pair: str) -> str:
    return pair.split("→")[1]


def _predicting(pair: str) -> str:
    context = pair.split("→")[0].replace("question", "the question")
    return f"a predictor token sees the sequence up to the end of {context}, and predictor tokens up to itself"


def _mask(batch: dict[str, Tensor], row: int) -> np.ndarray:
    vectors = (batch[name][row : row + 1] for name in ("segment_ids", "prefix_segment", "prefix_end"))
    return allowed(*vectors)[0].numpy()


def _size(mask: np.ndarray) -> str:
    return f"{len(mask):,} rows, {int(mask.sum()):,} cells that may be attended to"
