"""Result rows → the figures of a summary, and the table that `stepjepa evaluate` ends with."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from stepjepa.evaluation.scoring import pass_at_k, powers_of_two
from stepjepa.evaluation.statistics import wilson
from stepjepa.records import text_table

READERS = {"ours": "correct", "strict": "strict_correct", "flexible": "flexible_correct"}
GROUPS = ("source", "level", "type")
NEAR_ZERO = 0.05
"""A model whose interval ends below this solves practically nothing."""


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
    found: dict[str, Any] = {
        "n": len(rows),
        "accuracy": {reader: share(row[name] for row in rows) for reader, name in READERS.items()},
        "truncated": _rate(response["truncated"] for response in responses),
        "no_stop": _rate(not response["stopped"] for response in responses),
        "tokens": {"mean": statistics.fmean(lengths), "median": statistics.median(lengths), "max": max(lengths)},
    }
    if "samples" in rows[0]:
        found["sampled"] = _sampled(rows)
    for name in GROUPS:
        values = sorted({row[name] for row in rows if name in row}, key=str)
        found[f"by_{name}"] = {
            str(value): share(row["correct"] for row in rows if row.get(name) == value) for value in values
        }
    return found


def _rate(flags: Iterable[bool]) -> dict[str, Any]:
    counted = list(flags)
    return {"count": sum(counted), "share": sum(counted) / len(counted)}


def _sampled(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    samples = len(rows[0]["samples"])
    right = [sum(sample["correct"] for sample in row["samples"]) for row in rows]
    estimates = {}
    for k in powers_of_two(samples):
        values = [pass_at_k(samples, count, k) for count in right]
        error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
        estimates[str(k)] = {"estimate": statistics.fmean(values), "standard_error": error}
    return {"samples": samples, "pass_at": estimates}


def table(summary: Mapping[str, Any]) -> str:
    """A summary as lines of text."""
    sampled = summary.get("sampled")
    ours = f"majority of {sampled['samples']}" if sampled else "accuracy"
    lines = [("", "right", "of", "share", "95% interval")]
    lines += [
        _line(name, summary["accuracy"][reader])
        for reader, name in (
            ("ours", ours),
            ("flexible", "  lm-eval flexible"),
            ("strict", "  lm-eval strict (#### only)"),
        )
    ]
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
    if summary["unreadable"]:
        places = ", ".join(each["place"] for each in summary["unreadable"][:5])
        reasons = Counter(each["reason"] for each in summary["unreadable"])
        shown.append(
            f"NOT COUNTED: {len(summary['unreadable']):,} rows hold no question ({', '.join(reasons)}): {places}"
            + ("; all are in the summary" if len(summary["unreadable"]) > 5 else "")
        )
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
