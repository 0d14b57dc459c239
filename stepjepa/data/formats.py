r"""One row of any supported data set → one example, in the form that the rest of the package reads.

A row's kind is recognised by its fields: GSM8K, MATH, teacher responses, chat messages, or an example that is
already prepared. Its reference answer stands after ``####``, in a box, or is a whole field; a sentence or a whole
solution is none: taken for one, every right response to it would count as wrong. Whatever is wrong with a row is a
:class:`RowError` with a reason short enough to be counted by, so that a reader can skip the row and say why.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from stepjepa.data.boxes import last_boxed
from stepjepa.data.golds import hash_mark, named_answer
from stepjepa.data.steps import Short, Splitter, Think, split_steps

RowFormat = Literal["prepared", "chat", "teacher", "gsm8k", "math"]
ROW_FORMATS: tuple[str, ...] = get_args(RowFormat)

DEFAULT_SYSTEM_PROMPT = (
    "Please solve the problem step by step (separate steps with double newlines), but keep it short and put "
    "your final answer (do not include any other text or units) within \\boxed{}."
)

_CALCULATOR_MARK = re.compile(r"<<[^<>]*>>")  # `<<48/2=24>>`
_DECORATION = re.compile(r"\\?\$|,|\s")  # `$`, `\$`, `,` and whitespace: what `\$1, 072` has and `1072` has not

Example = dict[str, Any]


class RowError(ValueError):
    """A row that cannot become an example; the message is the reason, without the row's own text."""


@dataclass(frozen=True)
class RowOptions:
    """How rows become steps. ``splitter=None`` takes ``line`` for GSM8K and ``auto`` for everything else."""

    splitter: Splitter | None = None
    think: Think = "remove"
    short: Short = "merge"
    min_chars: int = 20
    system_prompt: str | None = DEFAULT_SYSTEM_PROMPT

    def split(self, text: str, default: Splitter = "auto") -> list[str]:
        steps = split_steps(
            text, self.splitter or default, think=self.think, short=self.short, min_chars=self.min_chars
        )
        if not steps:
            raise RowError("no step in the solution")
        return steps


def make_example(
    question: str,
    steps: Sequence[str],
    answer: str | None,
    source: str,
    system_prompt: str | None = DEFAULT_SYSTEM_PROMPT,
    **extra: Any,
) -> Example:
    r"""Build one example; ``"\n\n".join(steps)`` is the assistant's message.

    Args:
        question: what the user asks.
        steps: the reasoning steps, see :func:`stepjepa.data.steps.split_steps`.
        answer: the final answer, or ``None`` if the data names none.
        source: name under which losses and accuracies of this data are reported.
        system_prompt: the system message; ``None`` for none.
        extra: further keys of the example, such as ``level`` or ``latents``.

    Raises:
        RowError: if a step is empty, not stripped or not text.
    """
    check_steps(steps)
    messages = [{"role": "system", "content": system_prompt}] if system_prompt is not None else []
    messages += [{"role": "user", "content": question}, {"role": "assistant", "content": "\n\n".join(steps)}]
    return _assemble(question, messages, steps, answer, source, extra)


def _assemble(
    question: str,
    messages: list[dict[str, str]],
    steps: Sequence[str],
    answer: str | None,
    source: str,
    extra: Mapping[str, Any],
) -> Example:
    example: Example = {
        "question": question,
        "messages": messages,
        "steps": list(steps),
        "total_steps": len(steps),
        "answer": answer,
        "source": source,
    }
    return example | {key: value for key, value in extra.items() if key not in example}


def check_steps(steps: object, message: str | None = None) -> None:
    """Raise :class:`RowError` unless ``steps`` is a non-empty sequence of stripped, non-empty strings.

    With ``message``, the assistant's, also unless the steps joined by blank lines are that message.
    """
    if isinstance(steps, str) or not isinstance(steps, Sequence) or not steps:
        raise RowError("steps is not a non-empty list")
    for step in steps:
        if not isinstance(step, str) or not step or step != step.strip():
            raise RowError("a step is empty, not stripped or not text")
    if message is not None and "\n\n".join(steps) != message:
        raise RowError("the steps joined by blank lines are not the assistant's message")


def lower_names(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with its field names in small letters; where two differ in case only, the one in small letters counts."""
    return {str(name).lower(): value for name, value in row.items()} | dict(row)


def recognise_format(row: Mapping[str, Any]) -> RowFormat:
    """Name the kind of ``row`` from its fields (a field that is ``None`` counts as absent)."""
    fields = {key for key, value in row.items() if value is not None}
    if "messages" in fields:
        return "prepared" if "steps" in fields else "chat"
    if {"question", "deepseek_response"} <= fields:
        return "teacher"
    if {"question", "answer"} <= fields:
        return "gsm8k"
    if {"problem", "solution"} <= fields:
        return "math"
    raise RowError("fields of no known format")


def convert_row(
    row: object, source: str, row_format: RowFormat | None = None, options: RowOptions | None = None
) -> Example:
    """Turn one row into an example.

    Args:
        row: a mapping as read from JSON or a data set.
        source: the example's ``source`` (a prepared row keeps its own).
        row_format: the row's kind; ``None`` recognises it by its fields.
        options: how to split and which system prompt to use; a prepared row is taken as it is.

    Raises:
        RowError: if the row is malformed, with the reason.
    """
    if not isinstance(row, Mapping):
        raise RowError("not a JSON object")
    row = lower_names(row)
    kind = row_format or recognise_format(row)
    if kind not in _CONVERTERS:
        raise ValueError(f"row_format={kind!r} is unknown; choose one of {', '.join(ROW_FORMATS)}")
    return _CONVERTERS[kind](row, source, options or RowOptions())


# -------- answers --------


def final_answer_step(answer: str) -> str:
    r"""The closing step that states ``answer``: ``"72"`` → ``"The answer is \boxed{72}."``.

    A whole sentence, because a bare ``\boxed{7}`` is shorter than the default ``min_chars`` and would be
    merged into the step before it.
    """
    return rf"The answer is \boxed{{{answer.strip()}}}."


def strip_calculator_marks(text: str) -> str:
    """Remove GSM8K's calculator marks: ``"48/2 = <<48/2=24>>24"`` → ``"48/2 = 24"``."""
    return _CALCULATOR_MARK.sub("", text)


def answers_agree(given: str, expected: str) -> bool:
    """Compare two final answers as text, ignoring ``$``, ``\\``-escapes of it, commas, spaces, final dots."""
    given, expected = (_DECORATION.sub("", answer).rstrip(".") for answer in (given, expected))
    return given == expected


# -------- one converter a format --------


def _text(row: Mapping[str, Any], field: str) -> str:
    value = row.get(field)
    if value is None:
        raise RowError(f"no field '{field}'")
    if not isinstance(value, str):
        raise RowError(f"'{field}' is not text")
    if not value.strip():
        raise RowError(f"'{field}' is empty")
    return value.strip()


def _gsm8k(row: Mapping[str, Any], source: str, options: RowOptions) -> Example:
    question, solution = _text(row, "question"), strip_calculator_marks(_text(row, "answer"))
    mark = hash_mark(solution)
    if mark is None:
        raise RowError("no '####' answer line")
    start, end, answer = mark
    # Replaced where it stands, on a line of its own: text after the mark, should there be any, stays after it.
    before = solution[:start].rstrip(" \t")
    line_end = "\n" if before and not before.endswith("\n") else ""
    solution = before + line_end + final_answer_step(answer) + solution[end:]
    return make_example(question, options.split(solution, "line"), answer, source, options.system_prompt)


def _math(row: Mapping[str, Any], source: str, options: RowOptions) -> Example:
    question, solution = _text(row, "problem"), _text(row, "solution")
    answer = named_answer(row) or last_boxed(solution)
    if answer is None and not row.get("answer"):  # a proof says so there
        raise RowError(r"no \boxed{} answer")
    extra = {key: row[key] for key in ("level", "type") if isinstance(row.get(key), str | int)}
    return make_example(question, options.split(solution), answer, source, options.system_prompt, **extra)


def _solution_steps(text: str, answer: str | None, options: RowOptions) -> list[str]:
    steps = options.split(text)
    if options.think == "steps" and answer is not None and last_boxed("\n\n".join(steps)) is None:
        steps.append(final_answer_step(answer))  # thoughts rarely box the answer that the solution did
    return steps


def _teacher(row: Mapping[str, Any], source: str, options: RowOptions) -> Example:
    question, response = _text(row, "question"), _text(row, "deepseek_response")
    answer = named_answer(row) or last_boxed(response)
    if answer is None and not (row.get("ground_truth") or row.get("answer")):
        raise RowError(r"no ground truth and no \boxed{} answer")
    steps = _solution_steps(response, answer, options)
    return make_example(question, steps, answer, source, options.system_prompt)


def _checked_messages(row: Mapping[str, Any]) -> list[dict[str, str]]:
    raw = row.get("messages")
    if isinstance(raw, str) or not isinstance(raw, Sequence) or not raw:
        raise RowError("messages is not a non-empty list")
    messages = []
    for message in raw:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise RowError("a message has no role")
        if not isinstance(message.get("content"), str) or not message["content"].strip():
            raise RowError("a message has no text")
        messages.append({"role": message["role"], "content": message["content"]})
    roles = [message["role"] for message in messages]
    turns = roles[1:] if roles[0] == "system" else roles
    if not turns or len(turns) % 2 or turns != ["user", "assistant"] * (len(turns) // 2):
        raise RowError("messages are not [system,] user, assistant, … ending with the assistant")
    return messages


def _chat(row: Mapping[str, Any], source: str, options: RowOptions) -> Example:
    """The last assistant message is the solution; the turns before it stay as context, untrained."""
    messages = _checked_messages(row)
    solution = messages[-1]["content"]
    answer = named_answer(row) or last_boxed(solution)
    steps = _solution_steps(solution, answer, options)
    check_steps(steps)
    messages[-1]["content"] = "\n\n".join(steps)
    if messages[0]["role"] != "system" and options.system_prompt is not None:
        messages.insert(0, {"role": "system", "content": options.system_prompt})
    return _assemble(messages[-2]["content"].strip(), messages, steps, answer, source, {})


def _prepared(row: Mapping[str, Any], source: str, options: RowOptions) -> Example:
    """An example as :func:`make_example` builds it, checked and otherwise left alone."""
    messages = _checked_messages(row)
    steps: Any = row.get("steps")
    check_steps(steps, messages[-1]["content"])
    if row.get("total_steps") not in (None, len(steps)):
        raise RowError("total_steps is not the number of steps")
    question = row.get("question")
    question = messages[-2]["content"].strip() if question is None else _text(row, "question")
    answer = row.get("answer")
    if answer is not None and not isinstance(answer, str):
        raise RowError("'answer' is not text")
    own = row.get("source")
    return _assemble(question, messages, steps, answer, own if isinstance(own, str) and own else source, row)


_CONVERTERS = {"prepared": _prepared, "chat": _chat, "teacher": _teacher, "gsm8k": _gsm8k, "math": _math}
