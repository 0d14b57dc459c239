r"""Examples → tokens with ``labels`` and ``step_ids``, by character offsets and nothing else.

A BPE tokenizer merges ``.`` and the blank line after it into one token, and a chat header has blank lines of
its own, so no search for the token of ``\n\n`` finds the steps: it misses more than half of the boundaries of
GSM8K and finds some that are none. Offsets need a fast tokenizer.

A token belongs to the step in which its first character lies (leading whitespace, which metaspace tokenizers
glue to the word, does not count); a separator belongs to the step that it ends; the end of the turn is
labelled and belongs to no step.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from transformers import PreTrainedTokenizerBase

from stepjepa.data.chat import Message
from stepjepa.data.encoding import ChatEncoder, Encoded, chat_encoder
from stepjepa.data.examples import check_steps
from stepjepa.data.fields import RowError
from stepjepa.jepa.layout import IGNORE
from stepjepa.jepa.pairs import FIRST, BranchLayout, step_spans

_BATCH = 512
PART_ENDS = re.compile(r"(?<=[.!?;])\s+(?=\S)|\n\s*(?=\S)|\s+(?==)")
"""What ends a part of a step: ``Tom has 3.| He buys 4|\nand has 3 + 4| = 7``; ``3.5`` and a last full stop do not."""


class TooLongError(ValueError):
    """Not even the first step fits into ``max_length``."""


@dataclass
class TokenReport:
    """What tokenizing a data set gave; printed, it is two lines.

    ``examples`` were given; ``skipped`` of them were too long to keep a single step; ``cut`` lost steps or
    their end of turn to the length limit; ``without_pair`` keep too few steps for a view pair, so they
    train the LM term only; ``ended`` held the string that ends a turn at their own end, which was taken off, as the
    template writes it. ``tokens`` and ``labelled`` are totals over the rows that were kept.
    """

    examples: int = 0
    kept: int = 0
    skipped: int = 0
    cut: int = 0
    without_pair: int = 0
    ended: int = 0
    tokens: int = 0
    labelled: int = 0
    skipped_indices: list[int] = field(default_factory=list)

    def __str__(self) -> str:
        mean = self.tokens / self.kept if self.kept else 0.0
        return (
            f"{self.kept:,} of {self.examples:,} examples, {self.tokens:,} tokens ({mean:.0f} each), "
            f"{self.labelled:,} labelled\n"
            f"cut at a step to fit: {self.cut:,}; skipped, no step fits: {self.skipped:,}; "
            f"without a view pair: {self.without_pair:,}"
            + (f"; end-of-turn string taken off the end: {self.ended:,}" if self.ended else "")
        )


def tokenize_example(
    example: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, max_length: int | None = None
) -> dict[str, list[int]]:
    r"""Tokenize one example.

    Args:
        example: ``messages`` ending with the assistant's answer, and ``steps`` with
            ``"\n\n".join(steps)`` equal to it, as :func:`stepjepa.data.sources.read_examples` gives them.
        tokenizer: a fast tokenizer; its chat template is used, or ``chat.PLAIN_TEMPLATE`` if it has none.
        max_length: the most tokens to keep. A longer example keeps its whole steps that fit and loses the
            rest, the end of turn too: after a cut it would teach the model to stop early.

    Returns:
        Five lists of one length: ``input_ids``; ``labels``, −100 outside the answer and its end of turn;
        ``step_ids``, the step from 0 on, −1 outside the steps; ``separator``, 1 for a token of a step that holds
        something of the separator that ends it, else 0; ``part_ids``, the part of its step (a sentence, a line, a side
        of an equation) that a token is in, from 0 on, −1 outside the steps.

    Raises:
        TooLongError: if not even the first step fits.
        ValueError: if the example is malformed (its question is named), or the tokenizer has no offsets.
    """
    encoder = chat_encoder(tokenizer)
    name = _name(example)
    steps, messages = _prepare(example, encoder, name)
    (encoded,) = encoder.encode([messages], [name])
    return _cut(_align(encoded, steps), max_length)


def tokenize_dataset(
    examples: Iterable[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase, layout: BranchLayout = FIRST
) -> tuple[list[dict[str, Any]], TokenReport]:
    """Tokenize many examples: rows of :func:`tokenize_example`, with ``source`` where the example has one.

    Examples of which no step fits into the layout's ``max_length`` are left out and counted in the report, as are those
    that keep no view pair of its kind.

    Raises:
        ValueError: if an example is malformed (its index and question are named), or there are no offsets.
    """
    encoder = chat_encoder(tokenizer)
    report = TokenReport()
    rows: list[dict[str, Any]] = []
    stream = iter(examples)
    while batch := list(islice(stream, _BATCH)):
        first = report.examples
        names = [f"example {first + i} ({_name(example)})" for i, example in enumerate(batch)]
        prepared = [_prepare(example, encoder, name) for example, name in zip(batch, names, strict=True)]
        encodings = encoder.encode([messages for _, messages in prepared], names)
        for i, ((steps, messages), encoded) in enumerate(zip(prepared, encodings, strict=True)):
            report.examples += 1
            report.ended += messages is not batch[i]["messages"]
            whole = _align(encoded, steps)
            try:
                row: dict[str, Any] = dict(_cut(whole, layout.max_length))
            except TooLongError:
                report.skipped += 1
                report.skipped_indices.append(first + i)
                continue
            report.kept += 1
            report.cut += len(row["input_ids"]) < len(whole["input_ids"])
            report.without_pair += not layout.view_pairs(row["step_ids"], row["part_ids"])
            report.tokens += len(row["input_ids"])
            report.labelled += len(row["labels"]) - row["labels"].count(IGNORE)
            if batch[i].get("source") is not None:
                row["source"] = batch[i]["source"]
            rows.append(row)
    return rows, report


def encode_examples(
    examples: Sequence[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase
) -> list[tuple[list[str], Encoded]]:
    """The steps of each example and the text and tokens that its row is made of, before any cut.

    Raises:
        ValueError: as :func:`tokenize_example`.
    """
    encoder = chat_encoder(tokenizer)
    names = [_name(example) for example in examples]
    prepared = [_prepare(example, encoder, name) for example, name in zip(examples, names, strict=True)]
    encodings = encoder.encode([messages for _, messages in prepared], names)
    return [(steps, encoded) for (steps, _), encoded in zip(prepared, encodings, strict=True)]


# -------- from the example to its messages --------


def _name(example: Mapping[str, Any]) -> str:
    question = example.get("question") or next(
        (m.get("content") for m in example.get("messages") or [] if m.get("role") == "user"), ""
    )
    return f"«{str(question)[:60]}»"


def _prepare(example: Mapping[str, Any], encoder: ChatEncoder, name: str) -> tuple[list[str], Sequence[Message]]:
    """Steps and messages of one example, without an end of turn at its own end; errors name the example."""
    try:
        steps: Any = example.get("steps")
        messages = example.get("messages")
        if not messages or messages[-1].get("role") != "assistant":
            raise RowError("messages do not end with the assistant's answer")
        check_steps(steps, messages[-1]["content"])
        kept = encoder.without_end(messages[-1]["content"])
        if kept == messages[-1]["content"]:
            return list(steps), messages
        if not kept:
            raise RowError("the answer is nothing but the end of a turn")
        # Steps hold no blank lines inside, nor is one empty: those that remain are what is left of the text.
        steps = _first_of(steps, len(kept))
        return steps, [*messages[:-1], {**messages[-1], "content": kept}]
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _first_of(steps: Sequence[str], length: int) -> list[str]:
    """The steps that the first `length` characters of their text hold, the last of them cut there."""
    kept: list[str] = []
    for step in steps:
        if length <= 0:
            break
        kept.append(step[:length])
        length -= len(step) + 2
    return kept


# -------- from the text to its tokens --------


def _align(encoded: Encoded, steps: Sequence[str]) -> dict[str, list[int]]:
    """The row of one example, before any cut."""
    ids, rendering = encoded.ids, encoded.rendering
    bounds, ends, position = [], [], rendering.start
    for step in steps:
        bounds.append(_first_token(encoded, position))
        ends.append(position + len(step))
        position += len(step) + 2
    bounds.append(_first_token(encoded, rendering.end))

    step_ids, separator, part_ids = [-1] * bounds[0], [0] * bounds[0], [-1] * bounds[0]
    for step_index, (step, end) in enumerate(zip(steps, ends, strict=True)):
        tokens = range(bounds[step_index], bounds[step_index + 1])
        step_ids += [step_index] * len(tokens)
        separator += [int(encoded.offsets[token][1] > end) for token in tokens]
        firsts = [_first_token(encoded, end - len(step) + part.end()) for part in PART_ENDS.finditer(step)]
        part_ids += [bisect_right(firsts, token) for token in tokens]
    rest = len(ids) - bounds[-1]
    step_ids, separator, part_ids = step_ids + [-1] * rest, separator + [0] * rest, part_ids + [-1] * rest

    first, last = encoded.prompt_length, bisect_left(encoded.starts, rendering.turn_end)
    labels = [IGNORE] * first + ids[first:last] + [IGNORE] * (len(ids) - last)
    row = {"input_ids": ids, "labels": labels, "step_ids": step_ids}
    return {**row, "separator": separator, "part_ids": part_ids}


def _first_token(encoded: Encoded, position: int) -> int:
    """Index of the first token of what begins at character ``position`` (not whitespace, or a whole part)."""
    starts = encoded.starts
    index = bisect_left(starts, position)
    # Metaspace tokenizers glue the space before a word to it: `▁Natalia` begins one character earlier.
    if index and starts[index - 1] < position < encoded.offsets[index - 1][1]:
        glued = not encoded.rendering.text[starts[index - 1] : position].strip()
        return index - 1 if glued else index
    return index


def _cut(row: dict[str, list[int]], max_length: int | None) -> dict[str, list[int]]:
    length = len(row["input_ids"])
    if max_length is not None and length > max_length:
        ends = [end for _, _, end in step_spans(row["step_ids"])]
        length = max((end for end in ends if end <= max_length), default=0)
        if length == 0:
            raise TooLongError(
                f"the first step ends at token {ends[0]:,}, beyond max_length={max_length:,}: nothing to keep"
            )
    return {name: values[:length] for name, values in row.items()}
