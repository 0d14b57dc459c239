"""Result files: what a model answered, one JSON object a question, and a summary beside them.

`stepjepa evaluate` writes them, `stepjepa compare` and `stepjepa embed --results` read them. A row holds
`id` (see `question_ids`), `index`, `question`, `source` and whatever of `level` and `type` the data names; `prompt`,
`response`, `extracted`, `gold`, `correct`; `strict`, `strict_correct`, `flexible`, `flexible_correct` (as
lm-evaluation-harness reads GSM8K); `tokens`, `stopped`, `truncated`; and with several samples a question `samples`, a
list of such answers, the row's own being the majority's.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepjepa.records import UserError, write_json, write_jsonl

REQUIRED = ("id", "index", "question", "response", "extracted", "gold", "correct")


class ResultsError(UserError):
    """A result file cannot be used; the message names file and line."""


@dataclass
class Results:
    """A result file: its rows in the order of the test data, and its summary."""

    path: Path
    rows: list[dict[str, Any]]
    summary: dict[str, Any]


def summary_path(path: str | os.PathLike[str]) -> Path:
    """`results.jsonl` → `results.summary.json`."""
    return Path(path).with_suffix(".summary.json")


def partial_path(path: str | os.PathLike[str]) -> Path:
    """`results.jsonl` → `results.partial.jsonl`, the journal of an unfinished evaluation."""
    return Path(path).with_suffix(".partial.jsonl")


def question_ids(examples: Iterable[Mapping[str, Any]]) -> list[str]:
    """A stable name for each question: 16 hex digits of question and gold answer, `-2`, `-3`, … for repeats."""
    seen: Counter[str] = Counter()
    names = []
    for example in examples:
        text = json.dumps([example["question"], example["answer"]], ensure_ascii=False)
        name = hashlib.sha256(text.encode()).hexdigest()[:16]
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return names


def read_rows(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The rows of a result file.

    Raises:
        ResultsError: no such file, no rows, a line that is no result row, or a question twice.
    """
    path = Path(path)
    if not path.is_file():
        if partial_path(path).is_file():
            raise ResultsError(f"{path}: unfinished; the same `stepjepa evaluate` command goes on where it stopped")
        raise ResultsError(f"{path}: no such result file; `stepjepa evaluate --output_file {path}` writes one")
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(_lines(path), start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ResultsError(f"{path}:{number}: not JSON: {error}") from error
        missing = [name for name in REQUIRED if name not in row] if isinstance(row, dict) else list(REQUIRED)
        if missing:
            raise ResultsError(f"{path}:{number}: not a result row: no {', '.join(missing)}")
        rows.append(row)
    if not rows:
        raise ResultsError(f"{path}: an empty result file")
    twice = [name for name, count in Counter(row["id"] for row in rows).items() if count > 1]
    if twice:
        raise ResultsError(f"{path}: question {twice[0]} has more than one row")
    return sorted(rows, key=lambda row: row["index"])


def _lines(path: Path) -> list[str]:
    # Not splitlines: it also breaks at U+2028 and its like, which JSON leaves unescaped in a response.
    return path.read_text(encoding="utf-8").removesuffix("\n").split("\n") if path.stat().st_size else []


def read_results(path: str | os.PathLike[str]) -> Results:
    """A finished result file and its summary.

    Raises:
        ResultsError: as `read_rows`, or the summary is missing, unreadable, says that the file is unfinished, or is
            that of other rows.
    """
    rows = read_rows(path)
    beside = summary_path(path)
    try:
        summary = json.loads(beside.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ResultsError(f"{path}: its summary {beside.name} is missing; evaluate again") from error
    except json.JSONDecodeError as error:
        raise ResultsError(f"{beside}: not JSON: {error}") from error
    if not summary.get("complete"):
        raise ResultsError(f"{path}: unfinished; the same `stepjepa evaluate` command goes on where it stopped")
    if summary.get("results_sha256") not in (None, _digest(path)):
        raise ResultsError(
            f"{path}: its rows are not those of its summary {beside.name}: changed, or the writing was interrupted; "
            "evaluate again"
        )
    return Results(Path(path), rows, summary)


def write_results(
    rows: Iterable[Mapping[str, Any]], summary: Mapping[str, Any], path: str | os.PathLike[str]
) -> dict[str, Any]:
    """Write a finished result file and its summary, each whole or not at all; returns the summary as written.

    The summary holds the digest of the rows, so that rows beside the summary of an earlier run are not taken for its.
    """
    write_jsonl((dict(row) for row in rows), path)
    finished = {"complete": True, **summary, "results_sha256": _digest(path)}
    write_json(finished, summary_path(path))
    return finished


def _digest(path: str | os.PathLike[str]) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
