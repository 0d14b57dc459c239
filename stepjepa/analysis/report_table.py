"""The report of `stepjepa inspect` as text: one column a file, sections of figures, verdicts with their rule."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

LABEL, COLUMN, WIDTH = 24, 24, 120
PER_TABLE = (WIDTH - LABEL) // COLUMN

Row = tuple[str, str]
_VIEW_ROWS = (
    ("effective rank", "effective_rank"),
    ("mean-direction energy", "mean_energy"),
    ("spread", "spread"),
    ("per-dimension spread", "dimension_spread"),
    ("uniformity", "uniformity"),
)
_COHERENCE = (
    ("consecutive steps", "consecutive"),
    ("non-consecutive steps", "distant"),
    ("other problems' steps", "across"),
    ("correct − wrong", "consecutive_correct_minus_wrong"),
    ("… less non-consecutive", "coherence_correct_minus_wrong"),
)
SECTIONS: tuple[tuple[str, tuple[Row, ...]], ...] = (
    (
        "view pairs: does the context view find its target view?",
        (
            ("alignment (0: perfect)", "alignment"),
            ("centred cosine margin", "centered_margin"),
            ("R@1, all steps", "recall_all"),
            ("MRR, all steps", "reciprocal_rank_all"),
            ("R@1, same problem", "recall_own"),
            ("MRR, same problem", "reciprocal_rank_own"),
        ),
    ),
    *(
        (title, tuple((label, f"{name}_{view}") for label, name in _VIEW_ROWS))
        for title, view in (("context views", "context"), ("target views", "target"), ("step ends in context", "state"))
    ),
    *(
        (
            f"coherence of {title}: centred cosine with (correct − wrong: among solutions of equal length)",
            tuple((label, f"{name}_{view}") for label, name in _COHERENCE),
        )
        for title, view in (("step ends in context", "state"), ("target views", "target"))
    ),
    (
        "order of the steps: share of step pairs in the right order",
        (
            ("step ends in context", "order_state"),
            ("… without last step", "order_state_without_last"),
            ("target views", "order_target"),
        ),
    ),
    (
        "operation of the step: accuracy of a linear probe",
        (
            ("context → next step", "operation_context"),
            ("target view", "operation_target"),
            ("step end in context", "operation_state"),
        ),
    ),
    (
        "running value after the step: R² of a linear probe",
        (
            ("context → next step", "value_context"),
            ("target view", "value_target"),
            ("step end in context", "value_state"),
        ),
    ),
)
_BELOW = {
    "chance": "by chance",
    "control": "control task",
    "lookup": "by the wording alone",
    "null_high": "shuffled, 97.5%",
}


def report_text(report: Mapping[str, Any]) -> str:
    """The whole report, at most 120 characters wide; more than four files take several tables."""
    files = report["files"]
    lines: list[str] = [f"{report['data']}; 95% intervals over problems in brackets"]
    for start in range(0, len(files), PER_TABLE):
        lines += ["", *_table(files[start : start + PER_TABLE])]
    if report["cka"]:
        lines += ["", *_cka(report["cka"])]
    lines.append("")
    for file in files:
        lines += textwrap.wrap(f"{file['label']}: {file['verdict']['text']}", WIDTH, subsequent_indent="  ")
    return "\n".join([*lines, "", *textwrap.wrap(report["rule"], WIDTH)])


def _table(files: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield " " * LABEL + "".join(f"{file['label'][: COLUMN - 1]:>{COLUMN}}" for file in files)
    if any(file["control"] for file in files):
        yield " " * LABEL + "".join(f"{'random weights' if file['control'] else '':>{COLUMN}}" for file in files)
    measures = [file["measures"] for file in files]
    for title, rows in SECTIONS:
        known = [(label, name) for label, name in rows if any(name in each for each in measures)]
        if not known:
            continue
        yield title
        for i, (label, name) in enumerate(known):
            entries = [each.get(name) for each in measures]
            yield _line(f"  {label}", [_interval(entry) for entry in entries])
            following = _column(measures, known[i + 1][1], "chance") if i + 1 < len(known) else []
            for key, text in _BELOW.items():
                values = _column(measures, name, key)
                told_later = key == "chance" and values == following
                if set(values) - {0.0, None} and not told_later:
                    yield _line(f"    {text}", [_number(value) for value in values])


def _column(measures: Sequence[Mapping[str, Any]], name: str, key: str) -> list[float | None]:
    """The chance level, or another figure beside the estimate, of every file."""
    entries = [each.get(name, {}) for each in measures]
    return [entry.get("chance") if key == "chance" else (entry.get("extra") or {}).get(key) for entry in entries]


def _line(label: str, cells: Sequence[str]) -> str:
    return f"{label:{LABEL}}" + "".join(f"{cell:>{COLUMN}}" for cell in cells)


def _interval(entry: Mapping[str, Any] | None) -> str:
    if entry is None or entry["estimate"] is None:
        return "–"
    places = _places(entry["estimate"])
    if entry["low"] is None:
        return f"{entry['estimate']:.{places}f}"
    return f"{entry['estimate']:.{places}f} [{entry['low']:.{places}f}, {entry['high']:.{places}f}]"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.{_places(value)}f}"


def _places(value: float) -> int:
    return 3 if abs(value) < 1 else max(0, 2 - math.floor(math.log10(abs(value))))


def _cka(entries: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield f"{'linear CKA (1: same up to rotation)':48}" + "".join(
        f"{name:>{COLUMN}}" for name in ("context views", "target views", "step ends in context")
    )
    for entry in entries:
        pair = " – ".join(label[:22] for label in entry["files"])
        yield f"  {pair:46}" + "".join(f"{_interval(entry[view]):>{COLUMN}}" for view in ("context", "target", "state"))
