r"""One row of any supported data set → one example, in the form that the rest of the package reads.

`FORMATS` says all kinds of rows, how each is recognised (by the names of its fields, `FIELDS`, in any case of letters)
and how it is read; documents and `--help` are made from it. Whatever is wrong with a row is a :class:`RowError` with a
reason short enough to be counted by, so that a reader can skip the row and say why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from stepjepa.data.converters import (
    Converter,
    RowOptions,
    convert_chat,
    convert_gsm8k,
    convert_labelled,
    convert_math,
    convert_prepared,
    convert_solution,
    convert_teacher,
)
from stepjepa.data.endings import without_ends
from stepjepa.data.examples import Example
from stepjepa.data.fields import FIELDS, RowError, field_name, lower_names, near_miss
from stepjepa.data.golds import hash_mark
from stepjepa.data.labelled import (
    is_marked_conversation,
    read_math_shepherd,
    read_prm800k,
    read_processbench,
    read_steps,
)


def _named(*kinds: str) -> str:
    return " and ".join(" or ".join(f"`{name}`" for name in FIELDS[kind]) for kind in kinds)


def _is_conversation(row: Mapping[str, Any]) -> bool:
    return bool(field_name(row, "messages")) or isinstance(row.get(field_name(row, "question") or ""), list)


def _is_answered(row: Mapping[str, Any]) -> bool:
    """Whether `answer` holds the solution: there are no other and no steps, or it ends as GSM8K's do."""
    answer = row.get("answer")
    if answer is None or not field_name(row, "question"):
        return False
    others = field_name(row, "solution") or isinstance(row.get(field_name(row, "steps") or ""), list)
    return not others or (isinstance(answer, str) and hash_mark(answer) is not None)


def _has(question: str, solution: str) -> Callable[[Mapping[str, Any]], bool]:
    """Whether these are the fields that count as question and solution."""
    return lambda row: (field_name(row, "question"), field_name(row, "solution")) == (question, solution)


@dataclass(frozen=True)
class Format:
    """A kind of row: what it is, the fields by which it is known, whether a row is one, and how it is read."""

    about: str
    fields: str
    is_kind: Callable[[Mapping[str, Any]], bool]
    convert: Converter


FORMATS = {
    "prepared": Format(
        "what `prepare` has written",
        "`messages` and `steps`",
        lambda row: bool(row.get("messages") and row.get("steps")),
        convert_prepared,
    ),
    "prm800k": Format(
        "PRM800K, as published: the labelled trajectory",
        "`question.problem` and `label.steps`",
        lambda row: isinstance(row.get("question"), Mapping) and isinstance(row.get("label"), Mapping),
        convert_labelled(read_prm800k),
    ),
    "math_shepherd": Format(
        "Math-Shepherd, and conversations in which the assistant marks steps with + or -",
        "`input` and `label`, with `Step 1: … +`; or a conversation",
        lambda row: (
            (isinstance(row.get("input"), str) and "Step 1:" in str(row.get("label")))
            or is_marked_conversation(row.get(field_name(row, "messages") or ""))
        ),
        convert_labelled(read_math_shepherd),
    ),
    "processbench": Format(
        "ProcessBench: the index of the first wrong step, or −1",
        "`problem`, `steps` and `label`",
        lambda row: bool(row.get("problem") and row.get("steps")) and type(row.get("label")) is int,
        convert_labelled(read_processbench),
    ),
    "chat": Format(
        "conversations (messages, ShareGPT); the assistant's last message is the solution, earlier ones are context",
        f"{_named('messages')}; or question and solution as lists of messages",
        _is_conversation,
        convert_chat,
    ),
    "teacher": Format(
        "responses of a teacher, as `synthesize` writes them",
        "`question` and `deepseek_response`",
        _has("question", "deepseek_response"),
        convert_teacher,
    ),
    "math": Format(
        "MATH: a solution with a boxed answer", "`problem` and `solution`", _has("problem", "solution"), convert_math
    ),
    "gsm8k": Format(
        "GSM8K: a solution that ends with `#### answer`; or any that stands in `answer`",
        f"a question ({_named('question')}) and `answer`",
        _is_answered,
        convert_gsm8k,
    ),
    "solution": Format(
        "a question with its worked solution: Alpaca, prompt and completion, query and response, …",
        f"a question and {_named('solution')}",
        lambda row: bool(field_name(row, "question") and field_name(row, "solution")),
        convert_solution,
    ),
    "steps": Format(
        "a question with its steps, labelled (`labels`) or not",
        f"a question and {_named('steps')}",
        lambda row: bool(field_name(row, "question") and field_name(row, "steps")),
        convert_labelled(read_steps),
    ),
}
"""All kinds of rows, in the order in which a row is tried for them."""


def recognise_format(row: Mapping[str, Any]) -> str:
    """Name the kind of ``row``, one of `FORMATS`, from its fields (an empty one counts as absent).

    Raises:
        RowError: it is of none; the message says what is missing.
    """
    row = lower_names(row)
    for name, kind in FORMATS.items():
        if kind.is_kind(row):
            return name
    raise near_miss(row)


def convert_row(row: object, source: str, row_format: str | None = None, options: RowOptions | None = None) -> Example:
    """Turn one row into an example.

    Args:
        row: a mapping as read from JSON or a data set.
        source: the example's ``source`` (a prepared row keeps its own).
        row_format: the row's kind, one of `FORMATS`; ``None`` recognises it by its fields.
        options: how to split and which system prompt to use; a prepared row is taken as it is.

    Raises:
        RowError: if the row is malformed, with the reason.
    """
    if not isinstance(row, Mapping):
        raise RowError("not a JSON object")
    given = lower_names(row)
    row = without_ends(given)
    kind = row_format or recognise_format(row)
    if kind not in FORMATS:
        raise ValueError(f"row_format={kind!r} is unknown; choose one of {', '.join(FORMATS)}")
    options = options or RowOptions()
    options.changes["solutions had an end-of-turn string taken off"] += row is not given
    return FORMATS[kind].convert(row, source, options)
