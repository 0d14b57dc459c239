"""One converter for each kind of row: a row → an example, or a :class:`RowError`; `formats.py` says which is whose."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from stepjepa.data.boxes import last_boxed
from stepjepa.data.examples import (
    DEFAULT_SYSTEM_PROMPT,
    Example,
    assemble,
    check_steps,
    final_answer_step,
    make_example,
)
from stepjepa.data.fields import (
    FIELDS,
    RowError,
    field_name,
    optional_text,
    question_of,
    read_messages,
    text_of,
    with_thoughts,
)
from stepjepa.data.golds import hash_mark, named_answer
from stepjepa.data.labelled import Labelled
from stepjepa.data.steps import Cuts, Short, Splitter, Think, split_steps
from stepjepa.data.thoughts import split_thoughts

WrongSteps = Literal["skip", "keep"]

_CALCULATOR_MARK = re.compile(r"<<[^<>]*>>")  # `<<48/2=24>>`


@dataclass(frozen=True)
class RowOptions:
    """How rows become steps. ``splitter=None`` takes ``line`` for GSM8K and ``auto`` for everything else."""

    splitter: Splitter | Cuts | None = None
    think: Think = "remove"
    short: Short = "merge"
    min_chars: int = 20
    wrong_steps: WrongSteps = "skip"
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
        if not steps and self.think == "remove" and split_thoughts(text)[0]:
            raise RowError("nothing but a thought, cut off or without an answer after it; think=steps takes its steps")
        if not steps:
            raise RowError("no step in the solution")
        return steps


Converter = Callable[[Mapping[str, Any], str, RowOptions], Example]
"""A row, the name of its source and options → an example, or a RowError."""


def strip_calculator_marks(text: str) -> str:
    """Remove GSM8K's calculator marks: ``"48/2 = <<48/2=24>>24"`` → ``"48/2 = 24"``."""
    return _CALCULATOR_MARK.sub("", text)


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


def convert_solution(row: Mapping[str, Any], source: str, options: RowOptions) -> Example:
    name = field_name(row, "solution") or "solution"
    question, solution = question_of(row), strip_calculator_marks(text_of(row, name))
    if name not in FIELDS["thoughts"]:
        solution = with_thoughts(row, solution)
    steps, answer = _worked(row, solution, options)
    extra = {key: row[key] for key in ("level", "type") if isinstance(row.get(key), str | int)}
    return make_example(question, steps, answer, source, _system(row, options), **extra)


def convert_gsm8k(row: Mapping[str, Any], source: str, options: RowOptions) -> Example:
    question, solution = question_of(row), text_of(row, "answer")
    stated = named_answer({"answer": solution}) or named_answer(row)
    if stated is None or stated == solution:
        raise RowError("no '####' answer line")
    solution = with_thoughts(row, strip_calculator_marks(solution))
    steps, _ = _worked({"answer": stated}, solution, options, "line" if hash_mark(solution) else "auto")
    return make_example(question, steps, stated, source, _system(row, options))


def convert_math(row: Mapping[str, Any], source: str, options: RowOptions) -> Example:
    text_of(row, "problem"), text_of(row, "solution")
    example = convert_solution(row, source, options)
    if example["answer"] is None and not row.get("answer"):  # a proof says so there
        raise RowError(r"no \boxed{} answer")
    return example


def convert_teacher(row: Mapping[str, Any], source: str, options: RowOptions) -> Example:
    text_of(row, "question"), text_of(row, "deepseek_response")
    example = convert_solution(row, source, options)
    if example["answer"] is None and not (row.get("ground_truth") or row.get("answer")):
        raise RowError(r"no ground truth and no \boxed{} answer")
    return example


def convert_labelled(read: Callable[[Mapping[str, Any]], Labelled]) -> Converter:
    """Steps as they are given, neither cut nor merged, with `step_labels` and, if one is wrong, `wrong_step`."""

    def convert(row: Mapping[str, Any], source: str, options: RowOptions) -> Example:
        found = read(row)
        if found.wrong_step is not None and options.wrong_steps == "skip":
            raise RowError("a step is labelled as wrong")
        extra: dict[str, Any] = {} if found.labels is None else {"step_labels": found.labels}
        extra |= {} if found.wrong_step is None else {"wrong_step": found.wrong_step}
        return make_example(found.question, found.steps, found.answer, source, _system(row, options), **extra)

    return convert


def convert_chat(row: Mapping[str, Any], source: str, options: RowOptions) -> Example:
    """The last assistant message is the solution; the turns before it stay as context, untrained."""
    raw = row.get(field_name(row, "messages") or "messages")
    if raw is None:  # a conversation in two parts, such as `prompt` and `completion`
        raw, last = (row.get(field_name(row, kind) or kind) for kind in ("question", "solution"))
        raw = raw + last if isinstance(raw, list) and isinstance(last, list) else raw
    messages = read_messages(raw)
    steps, answer = _worked(row, messages[-1]["content"], options)
    messages[-1]["content"] = "\n\n".join(steps)
    earlier = sum(message["role"] == "assistant" for message in messages[:-1])
    options.changes["answers of earlier turns kept as context, not trained on"] += earlier
    system = _system(row, options)
    if messages[0]["role"] != "system" and system is not None:
        messages.insert(0, {"role": "system", "content": system})
    return assemble(messages[-2]["content"].strip(), messages, steps, answer, source, {})


def convert_prepared(row: Mapping[str, Any], source: str, options: RowOptions) -> Example:
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
    labels = row.get("step_labels")
    if labels is not None and (not isinstance(labels, list) or len(labels) != len(steps)):
        raise RowError("'step_labels' is not a list of one label for each step")
    own = row.get("source")
    return assemble(question, messages, steps, answer, own if isinstance(own, str) and own else source, row)
