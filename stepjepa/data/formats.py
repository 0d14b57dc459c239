r"""One row of any supported data set → one example, in the form that the rest of the package reads.

A row's kind is recognised by the names of its fields (`FIELDS`, in any case of letters): chat messages, a question with
its worked solution or its steps, GSM8K, MATH, teacher responses, or an example that is already prepared. Whatever is
wrong with a row is a :class:`RowError` with a reason short enough to be counted by, so that a reader can skip the row
and say why.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from stepjepa.data.boxes import last_boxed
from stepjepa.data.endings import without_ends
from stepjepa.data.fields import (
    FIELDS,
    UNKNOWN_FIELDS,
    RowError,
    field_name,
    lower_names,
    optional_text,
    question_of,
    read_messages,
    text_of,
    with_thoughts,
)
from stepjepa.data.golds import hash_mark, named_answer
from stepjepa.data.readings import same_answer
from stepjepa.data.steps import Short, Splitter, Think, close_up, split_steps
from stepjepa.data.thoughts import split_thoughts

RowFormat = Literal["prepared", "chat", "teacher", "gsm8k", "math", "solution", "steps"]
ROW_FORMATS: tuple[str, ...] = get_args(RowFormat)

DEFAULT_SYSTEM_PROMPT = (
    "Please solve the problem step by step (separate steps with double newlines), but keep it short and put "
    "your final answer (do not include any other text or units) within \\boxed{}."
)

_CALCULATOR_MARK = re.compile(r"<<[^<>]*>>")  # `<<48/2=24>>`

Example = dict[str, Any]


@dataclass(frozen=True)
class RowOptions:
    """How rows become steps. ``splitter=None`` takes ``line`` for GSM8K and ``auto`` for everything else."""

    splitter: Splitter | None = None
    think: Think = "remove"
    short: Short = "merge"
    min_chars: int = 20
    system_prompt: str | None = DEFAULT_SYSTEM_PROMPT
    changes: Counter[str] = field(default_factory=Counter, compare=False)
    """Counts what was merged into another step or dropped, by name."""

    def split(self, text: str, default: Splitter = "auto") -> list[str]:
        steps = split_steps(
            text,
            self.splitter or default,
            think=self.think,
            short=self.short,
            min_chars=self.min_chars,
            changes=self.changes,
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


def recognise_format(row: Mapping[str, Any]) -> RowFormat:
    """Name the kind of ``row`` from its fields (an empty one counts as absent)."""
    row = lower_names(row)
    question, solution, answer = field_name(row, "question"), field_name(row, "solution"), row.get("answer")
    if field_name(row, "messages") or isinstance(row.get(question or ""), list):
        return "prepared" if row.get("messages") and row.get("steps") else "chat"
    if question == "question" and solution == "deepseek_response":
        return "teacher"
    if question == "problem" and solution == "solution":
        return "math"
    if question and answer is not None and (solution is None or (isinstance(answer, str) and hash_mark(answer))):
        return "gsm8k"
    if question and solution:
        return "solution"
    if question and field_name(row, "steps"):
        return "steps"
    found = ", ".join(repr(name[:30]) for name, value in list(row.items())[:8] if value is not None)
    raise RowError(f"{UNKNOWN_FIELDS}: {found or 'none'}")


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
    given = lower_names(row)
    row = without_ends(given)
    kind = row_format or recognise_format(row)
    if kind not in _CONVERTERS:
        raise ValueError(f"row_format={kind!r} is unknown; choose one of {', '.join(ROW_FORMATS)}")
    options = options or RowOptions()
    options.changes["solutions had an end-of-turn string taken off"] += row is not given
    return _CONVERTERS[kind](row, source, options)


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
    """Whether two final answers are the same number, list or text up to notation; mathematics is not asked."""
    return same_answer(given, expected, lambda *_: False)


# -------- one converter a format --------


def _worked(
    row: Mapping[str, Any], solution: str, options: RowOptions, default: Splitter = "auto"
) -> tuple[list[str], str | None]:
    """The steps of a solution, and the answer: the row's reference, or else the one that the solution states."""
    thoughts, text = split_thoughts(solution)
    answer = named_answer(row)
    mark = None if last_boxed(text) else hash_mark(text)
    if mark:
        start, end, marked = mark
        # Replaced where it stands, on a line of its own: text after the mark, should there be any, stays after it.
        before = text[:start].rstrip(" \t")
        line_end = "\n" if before and not before.endswith("\n") else ""
        text = before + line_end + final_answer_step(marked) + text[end:]
        answer = answer or marked
    answer = answer or last_boxed(text) or (last_boxed(thoughts) if options.think == "steps" else None)
    steps = options.split(f"<think>{thoughts}</think>{text}" if thoughts else text, default)
    if options.think == "steps" and answer is not None and not last_boxed("\n\n".join(steps)):
        steps.append(final_answer_step(answer))  # thoughts rarely box the answer that the solution did
    return steps, answer


def _system(row: Mapping[str, Any], options: RowOptions) -> str | None:
    return optional_text(row, "system") or options.system_prompt


def _solution(row: Mapping[str, Any], source: str, options: RowOptions) -> Example:
    name = field_name(row, "solution") or "solution"
    question, solution = question_of(row), strip_calculator_marks(text_of(row, name))
    if name not in FIELDS["thoughts"]:
        solution = with_thoughts(row, solution)
    steps, answer = _worked(row, solution, options)
    extra = {key: row[key] for key in ("level", "type") if isinstance(row.get(key), str | int)}
    return make_example(question, steps, answer, source, _system(row, options), **extra)


def _gsm8k(row: Mapping[str, Any], source: str, options: RowOptions) -> Example:
    question, solution = question_of(row), text_of(row, "answer")
    stated = named_answer({"answer": solution}) or named_answer(row)
    if stated is None or stated == solution:
        raise RowError("no '####' answer line")
    solution = with_thoughts(row, strip_calculator_marks(solution))
    steps, _ = _worked({"answer": stated}, solution, options, "line" if hash_mark(solution) else "auto")
    return make_example(question, steps, stated, source, _system(row, options))


def _math(row: Mapping[str, Any], source: str, options: RowOptions) -> Example:
    text_of(row, "problem"), text_of(row, "solution")
    example = _solution(row, source, options)
    if example["answer"] is None and not row.get("answer"):  # a proof says so there
        raise RowError(r"no \boxed{} answer")
    return example


def _teacher(row: Mapping[str, Any], source: str, options: RowOptions) -> Example:
    text_of(row, "question"), text_of(row, "deepseek_response")
    example = _solution(row, source, options)
    if example["answer"] is None and not (row.get("ground_truth") or row.get("answer")):
        raise RowError(r"no ground truth and no \boxed{} answer")
    return example


def _steps(row: Mapping[str, Any], source: str, options: RowOptions) -> Example:
    """Steps as they are given: neither cut nor merged."""
    question, given = question_of(row), row.get(field_name(row, "steps") or "steps")
    if not isinstance(given, list) or not all(isinstance(step, str) for step in given):
        raise RowError("the steps are not a list of texts")
    labels = row.get("labels")
    if isinstance(labels, list) and False in labels:
        raise RowError("a step is labelled as wrong")
    steps = [close_up(step.replace("\r\n", "\n")).strip() for step in given]
    answer = named_answer(row) or last_boxed("\n\n".join(steps))
    return make_example(question, steps, answer, source, _system(row, options))


def _chat(row: Mapping[str, Any], source: str, options: RowOptions) -> Example:
    """The last assistant message is the solution; the turns before it stay as context, untrained."""
    raw = row.get(field_name(row, "messages") or "messages")
    if raw is None:  # a conversation in two parts, such as `prompt` and `completion`
        raw, last = (row.get(field_name(row, kind) or kind) for kind in ("question", "solution"))
        raw = raw + last if isinstance(raw, list) and isinstance(last, list) else raw
    messages = read_messages(raw)
    steps, answer = _worked(row, messages[-1]["content"], options)
    messages[-1]["content"] = "\n\n".join(steps)
    system = _system(row, options)
    if messages[0]["role"] != "system" and system is not None:
        messages.insert(0, {"role": "system", "content": system})
    return _assemble(messages[-2]["content"].strip(), messages, steps, answer, source, {})


def _prepared(row: Mapping[str, Any], source: str, options: RowOptions) -> Example:
    """An example as :func:`make_example` builds it, checked and otherwise left alone."""
    messages = read_messages(row.get("messages"))
    steps: Any = row.get("steps")
    check_steps(steps, messages[-1]["content"])
    if row.get("total_steps") not in (None, len(steps)):
        raise RowError("total_steps is not the number of steps")
    question = row.get("question")
    question = messages[-2]["content"].strip() if question is None else text_of(row, "question")
    answer = row.get("answer")
    if answer is not None and not isinstance(answer, str):
        raise RowError("'answer' is not text")
    own = row.get("source")
    return _assemble(question, messages, steps, answer, own if isinstance(own, str) and own else source, row)


_CONVERTERS = {
    "prepared": _prepared,
    "chat": _chat,
    "teacher": _teacher,
    "gsm8k": _gsm8k,
    "math": _math,
    "solution": _solution,
    "steps": _steps,
}
