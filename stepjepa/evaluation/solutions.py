"""Samples of a teacher → the solutions worth training on, and an account of every other sample.

A sample is kept if the model ended it, its answer is right by our own reading, and it can be cut into steps; of a
question's kept ones some are chosen. Rows have the form of a teacher response (`question`, `deepseek_response`,
`ground_truth`), which `prepare` and `train` read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from stepjepa.data.converters import RowOptions
from stepjepa.data.fields import RowError
from stepjepa.data.files import json_fault
from stepjepa.data.formats import convert_row
from stepjepa.data.thoughts import split_thoughts
from stepjepa.evaluation.answers import answers_match, extract_answer

Sample = Mapping[str, Any]
"""`index` (of its question), `sample`, `response`, `end` (as `servers.End`); `thoughts`, `tokens`, `model` if told."""
NOT_ENDED = {"truncated": "cut off at the length limit", "filtered": "cut off by a filter"}
WORDS = 3  # that follow each other, by which solutions are compared


def solutions_of(
    questions: Sequence[Mapping[str, Any]],
    ids: Sequence[str],
    samples: Iterable[Sample],
    choose: str,
    keep: int,
    about: Mapping[str, Any],
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rows to write, in the order of the questions, and what became of all samples.

    Args:
        questions, ids: see `questions.py`, `results.question_ids`.
        samples: of these questions, in any order.
        choose, keep: see `chosen`.
        about: fields of every row.

    Returns:
        Rows; and `samples` (answered), `distinct` (different ones of a question), `right`, `questions`,
        `questions_solved`, `solutions` (written), `dropped` (reason → samples; with `solutions` they are all),
        `tokens` (of all samples that name theirs).
    """
    by_question: dict[int, list[Sample]] = {}
    for sample in sorted(samples, key=lambda sample: (sample["index"], sample["sample"])):
        by_question.setdefault(sample["index"], []).append(sample)
    rows: list[dict[str, Any]] = []
    dropped: Counter[str] = Counter()
    solved = right = 0
    for index, own in by_question.items():
        kept: list[dict[str, Any]] = []
        seen = set()
        for sample in own:
            row = _row(questions[index], sample) | {"id": ids[index], **about}
            reason = _fault(row, sample)
            right += reason is None
            if reason is None and row["deepseek_response"] in seen:
                reason = "the same as another"
            if reason is None:
                seen.add(row["deepseek_response"])
                kept.append(row)
            else:
                dropped[reason] += 1
        taken = chosen([split_thoughts(row["deepseek_response"])[1] for row in kept], choose, keep)
        dropped["right, not chosen"] += len(kept) - len(taken)
        rows += [kept[number] for number in taken]
        solved += bool(kept)
    figures = {
        "samples": sum(map(len, by_question.values())),
        "distinct": sum(len({sample["response"] for sample in own}) for own in by_question.values()),
        "right": right,
        "questions": len(questions),
        "questions_solved": solved,
        "solutions": len(rows),
        "dropped": dict((+dropped).most_common()),
        "tokens": sum(sample.get("tokens") or 0 for own in by_question.values() for sample in own),
    }
    return rows, figures


def _row(question: Mapping[str, Any], sample: Sample) -> dict[str, Any]:
    row = {
        "question": question["question"],
        "deepseek_response": sample["response"],
        "ground_truth": question["answer"],
        "question_source": question["source"],
        **{name: question[name] for name in ("level", "type") if name in question},
        "sample": sample["sample"],
    }
    row |= {name: sample[name] for name in ("seed", "tokens", "model") if sample.get(name) is not None}
    return row | ({"reasoning_content": sample["thoughts"]} if sample.get("thoughts") else {})


def _fault(row: Mapping[str, Any], sample: Sample) -> str | None:
    """Why a sample is not kept, None if it is."""
    if sample["end"] in NOT_ENDED:
        return NOT_ENDED[sample["end"]]
    answer = extract_answer(sample["response"])
    if not answer:
        return "no answer"
    if not answers_match(answer, row["ground_truth"]):
        return "another answer"
    try:
        fault = json_fault(convert_row(row, "", "teacher", RowOptions(system_prompt=None)))
    except RowError as error:
        fault = error
    return f"cannot be prepared: {fault}" if fault else None


def chosen(solutions: Sequence[str], how: str, keep: int) -> list[int]:
    """Which of a question's right solutions are written, as indices in the order of choice.

    Args:
        solutions: without thoughts.
        how: `first` by the order given; `shortest` by characters; `diverse` begins with the first and goes on with
            the one whose nearest chosen solution is farthest (Gonzalez 1985, farthest-point), by `distance`.
        keep: at most so many.
    """
    if how == "shortest":
        return sorted(range(len(solutions)), key=lambda number: (len(solutions[number]), number))[:keep]
    if how == "first":
        return list(range(len(solutions)))[:keep]
    taken: list[int] = [0] if solutions else []
    while len(taken) < min(keep, len(solutions)):
        rest = (number for number in range(len(solutions)) if number not in taken)
        taken.append(max(rest, key=lambda new: min(distance(solutions[new], solutions[old]) for old in taken)))
    return taken


def distance(one: str, other: str) -> float:
    """How unlike two texts are, 0 to 1: one minus the shared part (Jaccard 1912) of their runs of three words.

    >>> distance("a b c d", "a b c e")
    0.6666666666666667
    """
    runs = [set(zip(*(text.split()[start:] for start in range(WORDS)), strict=False)) for text in (one, other)]
    every = runs[0] | runs[1]
    return 1 - len(runs[0] & runs[1]) / len(every) if every else float(one != other)
