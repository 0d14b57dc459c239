"""Test data: any source that `prepare` reads → questions with gold answers, and an account of every other row.

A question needs its text and its gold answer; the worked solution may be missing or cut into odd steps. A row without
a gold answer stops the evaluation, because leaving it out would change the denominator unseen; a row that holds no
question at all (not JSON, no known field) is listed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stepjepa.data.converters import RowOptions
from stepjepa.data.endings import without_ends
from stepjepa.data.fields import ROLES, RowError, field_name, lower_names, question_of, read_messages
from stepjepa.data.files import Row
from stepjepa.data.formats import convert_row
from stepjepa.data.golds import named_answer, stated_answer
from stepjepa.data.origins import is_builtin, locate
from stepjepa.data.sources import read_examples
from stepjepa.data.thoughts import split_thoughts
from stepjepa.records import UserError, file_digest

PLACES = 5  # named in a message


Question = dict[str, Any]
"""`question`, `answer` (gold), `source`, `messages` up to the last user message, `place`; `level`, `type` if named."""


class NoGoldError(RowError):
    """The row asks a question and names no answer."""


@dataclass
class QuestionSet:
    """The questions in their order, where they came from, and what could not be read."""

    questions: list[Question] = field(default_factory=list)
    files: list[dict[str, Any]] = field(default_factory=list)
    """Per source: `name` (no folders of this machine), `sha256`, `count`."""
    unreadable: list[dict[str, str]] = field(default_factory=list)
    """`place` and `reason` of each row that is no question."""


def read_questions(
    sources: Iterable[str | os.PathLike[str]],
    *,
    split: str = "test",
    hub_config: str | None = None,
    problems: int = 1000,
    problem_seed: int = 1,
) -> QuestionSet:
    """Read test data.

    Args:
        sources: as those of `read_examples`.
        split: of a Hub data set or of the built-in problems.
        hub_config: configuration of a Hub data set.
        problems, problem_seed: how many built-in problems of each kind, and which.

    Raises:
        UserError: a source cannot be read or holds no question, or a question has no gold answer; the message
            names the lines.
    """
    data = QuestionSet()
    goldless: list[str] = []
    for source in sources:
        before = len(data.questions)
        if is_builtin(source):
            examples, _ = read_examples(source, split=split, count=problems, seed=problem_seed)
            for number, example in enumerate(examples, start=1):
                data.questions.append(_from_example(example, {}) | {"place": f"{source}[{split}]:{number}"})
            name, digest = str(source), None
        else:
            located = locate(source, hub_config, split)
            for row in located.rows():
                _take(row, located.name, data, goldless)
            # Of several files it is their questions' digest.
            name, digest = shown_path(source), file_digest(located.files[0]) if len(located.files) == 1 else None
        new = data.questions[before:]
        if not new and not goldless:
            raise UserError(f"{source}: no question in it{_listed(data.unreadable)}")
        data.files.append({"name": name, "sha256": digest or _digest(new), "count": len(new)})
    if goldless:
        more = f", … ({len(goldless) - PLACES:,} more)" if len(goldless) > PLACES else ""
        raise UserError(
            f"{len(goldless):,} questions have no gold answer: {', '.join(goldless[:PLACES])}{more}. Give each a field "
            "'answer' with the bare answer, or a solution with '#### answer' or \\boxed{answer}; leaving them out "
            "would change what the accuracy is a share of"
        )
    return data


def shown_path(path: str | os.PathLike[str]) -> str:
    """A path as it may be published: relative ones and ids as they are, of absolute ones the last part."""
    expanded = Path(path).expanduser()
    return expanded.name if expanded.is_absolute() else str(path)


def _take(row: Row, source: str, data: QuestionSet, goldless: list[str]) -> None:
    try:
        if isinstance(row.value, RowError):
            raise row.value
        data.questions.append(read_question(row.value, source) | {"place": row.place})
    except NoGoldError:
        goldless.append(row.place)
    except RowError as error:
        data.unreadable.append({"place": shown_path(row.place), "reason": str(error)})


def read_question(row: object, source: str) -> Question:
    """One row as a question.

    Raises:
        RowError: it is no question.
        NoGoldError: it is one without a gold answer.
    """
    if not isinstance(row, Mapping):
        raise RowError("not a JSON object")
    row = without_ends(lower_names(row))
    try:
        example = convert_row(row, source, options=RowOptions(system_prompt=None, wrong_steps="keep"))
    except RowError:  # its solution may be no solution; question and gold answer are all that is needed here
        return _bare(row, source)
    return _from_example(example, row) if example["answer"] else _bare(row, source)


def _from_example(example: Mapping[str, Any], row: Mapping[str, Any]) -> Question:
    kept = {name: example[name] for name in ("question", "answer", "source")}
    return kept | {"messages": example["messages"][:-1]} | _labels(row)


def _labels(row: Mapping[str, Any]) -> dict[str, Any]:
    """Level and type of a problem; MATH-500 calls the type its subject."""
    labels = {"level": row.get("level"), "type": row.get("subject") if row.get("type") is None else row["type"]}
    return {name: value for name, value in labels.items() if isinstance(value, str | int)}


def _bare(row: Mapping[str, Any], source: str) -> Question:
    """A question whose row holds no solution that could be cut into steps."""
    messages = _turns(row)
    try:
        question = messages[-1]["content"].strip() if messages else question_of(row)
    except RowError as error:
        raise RowError(f"no question: {error}") from error
    gold = _gold(row)
    if gold is None:
        raise NoGoldError("no gold answer")
    own = row.get("source")
    return {
        "question": question,
        "answer": gold,
        "source": own if _is_text(own) and "messages" in row else source,
        "messages": messages or [{"role": "user", "content": question}],
        **_labels(row),
    }


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _turns(row: Mapping[str, Any]) -> list[dict[str, str]]:
    """The conversation up to its last user message; empty if it is none."""
    raw = row.get(field_name(row, "messages") or field_name(row, "question") or "messages")
    if not isinstance(raw, Sequence) or isinstance(raw, str):
        return []
    turns = list(raw)
    while turns and not _is_users(turns[-1]):
        turns.pop()
    try:
        return read_messages([*turns, {"role": "assistant", "content": "…"}])[:-1]
    except RowError:
        return []


def _is_users(message: object) -> bool:
    role = message.get("role", message.get("from")) if isinstance(message, Mapping) else None
    return ROLES.get(str(role).lower(), role) == "user"


def _gold(row: Mapping[str, Any]) -> str | None:
    solution = row.get(field_name(row, "solution") or "solution")
    return named_answer(row) or (stated_answer(split_thoughts(solution)[1]) if isinstance(solution, str) else None)


def _listed(unreadable: Sequence[Mapping[str, str]]) -> str:
    if not unreadable:
        return " (it is empty)"
    return "; " + "; ".join(f"{row['place']}: {row['reason']}" for row in unreadable[:PLACES])


def _digest(questions: Iterable[Question]) -> str:
    texts = [[question["question"], question["answer"]] for question in questions]
    return hashlib.sha256(json.dumps(texts, ensure_ascii=False).encode()).hexdigest()
