"""Step-labelled sets: solutions whose steps are judged one by one. Steps are kept as they are given, with their labels.

A label is True for a right step, False for a wrong one, None where the data do not say (PRM800K's neutral steps, those
behind the first error of ProcessBench), or the number between 0 and 1 that the data give, of which 0 is wrong.

References: Lightman et al. 2023 (PRM800K, arXiv 2305.20050); Wang et al. 2023 (Math-Shepherd, arXiv 2312.08935);
Zheng et al. 2024 (ProcessBench, arXiv 2412.06559).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stepjepa.data.boxes import last_boxed
from stepjepa.data.fields import RowError, field_name, question_of, text_of
from stepjepa.data.golds import named_answer
from stepjepa.data.steps import close_up

Label = bool | float | None

# `Step 1:` at the beginning of a step
_STEP = re.compile(r"(?<!\S)Step \d+\s*:")
# `The answer is: 18`, with which Math-Shepherd's solutions end
_ANSWER = re.compile(r"The answer is:?\s*(\S.*)$")


@dataclass(frozen=True)
class Labelled:
    """A solution in steps; `labels` is one for each, or None if there are none; `answer` a right one, or None."""

    question: str
    steps: list[str]
    labels: list[Label] | None = None
    answer: str | None = None

    @property
    def wrong_step(self) -> int | None:
        """Index of the first step that is wrong."""
        wrong = (index for index, label in enumerate(self.labels or []) if label is not None and label <= 0)
        return next(wrong, None)


def _texts(steps: object) -> list[str]:
    if not isinstance(steps, list) or not all(isinstance(step, str) for step in steps):
        raise RowError("the steps are not a list of texts")
    return [close_up(step.replace("\r\n", "\n")).strip() for step in steps]


def read_steps(row: Mapping[str, Any]) -> Labelled:
    """A question and its steps, with `labels` or without: ``{"prompt": …, "completions": […], "labels": [true, …]}``.

    Numbers are read as −1, 0 and 1 (wrong, neutral, right) where there is a negative one.
    """
    steps = _texts(row.get(field_name(row, "steps") or "steps"))
    labels = row.get("labels")
    if labels is not None:
        if not isinstance(labels, list) or len(labels) != len(steps):
            raise RowError("'labels' is not a list of one label for each step")
        if not all(label is None or isinstance(label, bool | int | float) for label in labels):
            raise RowError("a label is neither true, false, null nor a number")
        numbers = [label for label in labels if label is not None]
        if any(abs(label) > 1 for label in numbers):
            raise RowError("a label is beyond −1 to 1")
        if any(label < 0 for label in numbers):
            labels = [_rating(label) for label in labels]
        elif all(label in (0, 1) for label in numbers):
            labels = [None if label is None else bool(label) for label in labels]
    found = Labelled(question_of(row), steps, labels)
    stated = last_boxed("\n\n".join(steps)) if found.wrong_step is None else None
    return Labelled(found.question, steps, labels, named_answer(row) or stated)


def _rating(rating: object) -> Label:
    """Of −1, 0, 1 or null."""
    if rating is not None and (isinstance(rating, bool) or rating not in (-1, 0, 1)):
        raise RowError("a rating is not −1, 0 or 1")
    return None if rating in (None, 0) else rating == 1


def read_prm800k(row: Mapping[str, Any]) -> Labelled:
    """The labelled trajectory of a row of PRM800K; where the labeller stopped at an error, that step is the last."""
    question, label = row.get("question"), row.get("label")
    if not isinstance(question, Mapping) or not isinstance(label, Mapping):
        raise RowError("'question' and 'label' are not those of PRM800K")
    if label.get("finish_reason") in ("give_up", "bad_problem"):
        raise RowError(f"the labeller did not finish: {label['finish_reason']}")
    texts, labels = [], []
    steps = label.get("steps")
    for step in steps if isinstance(steps, list) else []:
        taken = _taken(step) if isinstance(step, Mapping) else None
        if not isinstance(taken, Mapping):
            raise RowError("a step has no completion")
        texts.append(taken.get("text"))
        # What a labeller wrote in the place of wrong completions has no rating: it is right.
        labels.append(True if taken is step.get("human_completion") else _rating(taken.get("rating")))
    answer = named_answer(question, "ground_truth_answer")
    return Labelled(text_of(question, "problem"), _texts(texts), labels, answer)


def _taken(step: Mapping[str, Any]) -> object:
    """The completion that the trajectory goes on with, or the first where it ends with an error."""
    chosen, completions = step.get("chosen_completion"), step.get("completions")
    if chosen is None and step.get("human_completion") is not None:
        return step["human_completion"]
    number = 0 if chosen is None else chosen
    is_list = isinstance(completions, list) and isinstance(number, int) and 0 <= number < len(completions)
    return completions[number] if is_list else None  # type: ignore[index]


def read_math_shepherd(row: Mapping[str, Any]) -> Labelled:
    """``{"input": "Q Step 1: … ки\\nStep 2: … ки", "label": "Q Step 1: … +\\nStep 2: … -"}``, or RLHFlow's
    conversation of the same, in which the user gives the steps and the assistant says ``+`` or ``-``."""
    if isinstance(row.get("label"), str):
        text = text_of(row, "label")
    else:
        turns: Any = row.get(field_name(row, "messages") or "messages")
        if not isinstance(turns, list):
            raise RowError("neither 'label' nor messages")
        texts = [turn.get("content", turn.get("value")) for turn in turns if isinstance(turn, Mapping)]
        if not all(isinstance(content, str) for content in texts):
            raise RowError("a message holds something other than text")
        text = "\n".join(f"{step} {mark}" for step, mark in zip(texts[::2], texts[1::2], strict=False))
    starts = [match.start() for match in _STEP.finditer(text)]
    if not starts:
        raise RowError("no 'Step 1:' in 'label'")
    parts = [text[start:end].strip() for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]
    if any(part[-1] not in "+-" for part in parts):
        raise RowError("a step does not end with + or -")
    labels: list[Label] = [part[-1] == "+" for part in parts]
    steps = _texts([part[:-1] for part in parts])
    stated = _ANSWER.search(steps[-1])
    question = text[: starts[0]].strip()
    if not question:
        raise RowError("no question before 'Step 1:'")
    return Labelled(question, steps, labels, stated[1].strip() if stated and all(labels) else None)


def is_marked_conversation(messages: object) -> bool:
    """Whether what the assistant says is nothing but ``+`` and ``-``."""
    if not isinstance(messages, list) or len(messages) < 2:
        return False
    said = [turn.get("content", turn.get("value")) for turn in messages[1::2] if isinstance(turn, Mapping)]
    return bool(said) and all(text in ("+", "-") for text in said)


def read_processbench(row: Mapping[str, Any]) -> Labelled:
    """``{"problem": …, "steps": […], "label": 3, "final_answer_correct": false}``: the first wrong step, or −1."""
    steps, first = _texts(row.get("steps")), row.get("label")
    if isinstance(first, bool) or not isinstance(first, int) or not -1 <= first < len(steps):
        raise RowError("'label' is neither −1 nor the index of a step")
    labels: list[Label] = [True] * (len(steps) if first < 0 else first)
    labels += [False] * (first >= 0)
    labels += [None] * (len(steps) - len(labels))
    is_right = row.get("final_answer_correct") is True
    stated = last_boxed("\n\n".join(steps)) if is_right else None
    return Labelled(text_of(row, "problem"), steps, labels, named_answer(row) or stated)
