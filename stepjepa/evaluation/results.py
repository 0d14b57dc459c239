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
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepjepa.evaluation.journal import partial_path
from stepjepa.evaluation.statistics import pass_at_k, wilson
from stepjepa.records import UserError, file_digest, on_disk, read_json, text_table, write_json, write_jsonl

REQUIRED = ("id", "index", "question", "response", "extracted", "gold", "correct")
READERS = {"ours": "correct", "strict": "strict_correct", "flexible": "flexible_correct"}
GROUPS = ("source", "level", "type")
NEAR_ZERO = 0.05
"""A model whose interval ends below this solves practically nothing."""


@dataclass
class Results:
    """A result file: its rows in the order of the test data, and its summary."""

    path: Path
    rows: list[dict[str, Any]]
    summary: dict[str, Any]


def summary_path(path: str | os.PathLike[str]) -> Path:
    """`results.jsonl` → `results.summary.json`."""
    return Path(path).with_suffix(".summary.json")


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
        UserError: no such file, no rows, a line that is no result row, or a question twice.
    """
    path = Path(path)
    if not path.is_file():
        if partial_path(path).is_file():
            raise UserError(f"{path}: unfinished; the same `stepjepa evaluate` command goes on where it stopped")
        raise UserError(f"{path}: no such result file; `stepjepa evaluate --output_file {path}` writes one")
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(_lines(path), start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}:{number}: not JSON: {error}") from error
        missing = [name for name in REQUIRED if name not in row] if isinstance(row, dict) else list(REQUIRED)
        if missing:
            raise UserError(f"{path}:{number}: not a result row: no {', '.join(missing)}")
        if type(row["index"]) is not int or not isinstance(row["id"], str):
            raise UserError(f"{path}:{number}: not a result row: its index is no number, or its id no text")
        rows.append(row)
    if not rows:
        raise UserError(f"{path}: an empty result file")
    twice = [name for name, count in Counter(row["id"] for row in rows).items() if count > 1]
    if twice:
        raise UserError(f"{path}: question {twice[0]} has more than one row")
    return sorted(rows, key=lambda row: row["index"])


def _lines(path: Path) -> list[str]:
    # Not splitlines: it also breaks at U+2028 and its like, which JSON leaves unescaped in a response.
    with on_disk(path, "read"):
        content = path.read_bytes()
    try:
        return content.decode().removesuffix("\n").split("\n") if content else []
    except UnicodeDecodeError as error:
        raise UserError(f"{path} cannot be read: not UTF-8, or damaged ({error})") from error


def read_results(path: str | os.PathLike[str]) -> Results:
    """A finished result file and its summary.

    Raises:
        UserError: as `read_rows`, or the summary is missing, unreadable, says that the file is unfinished, or is
            that of other rows.
    """
    rows = read_rows(path)
    beside = summary_path(path)
    if not beside.exists():
        raise UserError(f"{path}: its summary {beside.name} is missing; evaluate again")
    summary = read_json(beside)
    if not summary.get("complete"):
        raise UserError(f"{path}: unfinished; the same `stepjepa evaluate` command goes on where it stopped")
    if summary.get("results_sha256") not in (None, file_digest(path)):
        raise UserError(
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
    finished = {"complete": True, **summary, "results_sha256": file_digest(path)}
    write_json(finished, summary_path(path))
    return finished


# -------- figures of a summary, and the table that `stepjepa evaluate` ends with --------


def share(verdicts: Iterable[bool]) -> dict[str, Any]:
    """How many of how many, as accuracy with its 95% interval (Wilson 1927) over questions."""
    counted = [bool(verdict) for verdict in verdicts]
    right, total = sum(counted), len(counted)
    return {"n": total, "correct": right, "accuracy": right / total, "interval": list(wilson(right, total))}


def figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of finished result rows (see `results`).

    Returns:
        `n`; `accuracy` by reader (`ours`, `strict`, `flexible`), each as `share`; with several samples a question
        `sampled` (`samples`, `pass_at`: estimate and standard error over questions for k = 1, 2, 4, …); `truncated`
        and `no_stop` (responses, and their share of all responses); `tokens` (mean, median, max of all responses);
        `by_source`, `by_level`, `by_type`: value → `share` by our reader, for the rows that name one.
    """
    responses = [sample for row in rows for sample in row.get("samples", [row])]
    lengths = [response["tokens"] for response in responses]
    summary: dict[str, Any] = {
        "n": len(rows),
        "accuracy": {reader: share(row[name] for row in rows) for reader, name in READERS.items()},
        "truncated": _rate(response["truncated"] for response in responses),
        "no_stop": _rate(not response["stopped"] for response in responses),
        "tokens": {"mean": statistics.fmean(lengths), "median": statistics.median(lengths), "max": max(lengths)},
    }
    if "samples" in rows[0]:
        summary["sampled"] = _sampled(rows)
    for name in GROUPS:
        values = sorted({str(row[name]) for row in rows if name in row})
        summary[f"by_{name}"] = {
            value: share(row["correct"] for row in rows if name in row and str(row[name]) == value) for value in values
        }
    return summary


def _rate(flags: Iterable[bool]) -> dict[str, Any]:
    counted = list(flags)
    return {"count": sum(counted), "share": sum(counted) / len(counted)}


def _sampled(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    samples = len(rows[0]["samples"])
    right = [sum(sample["correct"] for sample in row["samples"]) for row in rows]
    estimates = {}
    for k in (1 << power for power in range(samples.bit_length())):  # 1, 2, 4, …
        values = [pass_at_k(samples, count, k) for count in right]
        error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
        estimates[str(k)] = {"estimate": statistics.fmean(values), "standard_error": error}
    return {"samples": samples, "pass_at": estimates}


def table(summary: Mapping[str, Any]) -> str:
    """A summary as lines of text."""
    sampled = summary.get("sampled")
    ours = f"majority of {sampled['samples']}" if sampled else "accuracy"
    names = {"ours": ours, "flexible": "  lm-eval flexible", "strict": "  lm-eval strict (#### only)"}
    lines = [("", "right", "of", "share", "95% interval")]
    lines += [_line(name, summary["accuracy"][reader]) for reader, name in names.items()]
    for name in GROUPS:
        groups = summary[f"by_{name}"]
        # One source for all is the whole; levels and types may be named by a part of the rows only.
        if len(groups) > 1 or (groups and name != "source"):
            lines.append((f"by {name}", "", "", "", ""))
            lines += [_line(f"  {value}", figure) for value, figure in groups.items()]
    shown = text_table(lines)
    tokens, truncated, endless = summary["tokens"], summary["truncated"], summary["no_stop"]
    if sampled:
        estimates = ", ".join(f"@{k} {value['estimate']:.1%}" for k, value in sampled["pass_at"].items())
        shown.append(f"pass{estimates} (unbiased estimates from {sampled['samples']} samples a question)")
    shown.append(
        f"response length: mean {tokens['mean']:.0f}, median {tokens['median']:.0f}, longest {tokens['max']:,} tokens; "
        f"truncated {truncated['count']:,} ({truncated['share']:.1%}), without end of turn {endless['count']:,} "
        f"({endless['share']:.1%})"
    )
    shown += not_counted(summary["unreadable"])
    high = summary["accuracy"]["ours"]["interval"][1]
    if high < NEAR_ZERO:
        shown.append(
            f"The model solves practically none of these questions: {summary['accuracy']['ours']['correct']:,} of "
            f"{summary['n']:,}, at most {high:.1%} at 95% confidence."
        )
    return "\n".join(shown)


def _line(name: str, figure: Mapping[str, Any]) -> tuple[str, str, str, str, str]:
    low, high = figure["interval"]
    return name, f"{figure['correct']:,}", f"{figure['n']:,}", f"{figure['accuracy']:.1%}", f"{low:.1%} – {high:.1%}"


def not_counted(unreadable: Sequence[Mapping[str, str]]) -> list[str]:
    """Rows without a question, as a line of text; nothing if there are none."""
    if not unreadable:
        return []
    places = ", ".join(row["place"] for row in unreadable[:5])
    reasons = ", ".join(dict.fromkeys(row["reason"] for row in unreadable))
    more = "; all are in the summary" if len(unreadable) > 5 else ""
    return [f"NOT COUNTED: {len(unreadable):,} rows hold no question ({reasons}): {places}{more}"]
