"""The report of `stepjepa inspect` as text: verdicts with their rule, one column a file, sections of figures."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stepjepa.jepa.metrics import metrics_of

LABEL, COLUMN, WIDTH = 24, 24, 120
PER_TABLE = (WIDTH - LABEL) // COLUMN

Rows = dict[str, str]
"""Label → name of a figure."""
VIEW_TITLES = {"context": "context views", "target": "target views", "state": "step ends in context"}
COHERENCE: Rows = {
    "consecutive steps": "consecutive",
    "non-consecutive steps": "distant",
    "other problems' steps": "across",
    "correct − wrong": "consecutive_correct_minus_wrong",
    "… less non-consecutive": "coherence_correct_minus_wrong",
}
PROBED: Rows = {"context → next step": "context", "target view": "target", "step end in context": "state"}


def sections() -> dict[str, Rows]:
    """Title of each section of the report and its rows."""
    pairs = {metric.label: name for name, metric in metrics_of("pairs", "inspect").items()}
    for where, words in (("all", "all steps"), ("own", "same problem")):
        pairs |= {f"{m.label}, {words}": f"{name}_{where}" for name, m in metrics_of("ranks", "inspect").items()}
    views = {metric.label: name for name, metric in metrics_of("view", "inspect").items()}
    coherence = "centred cosine with (correct − wrong: among solutions of equal length)"
    return {
        "view pairs: does the context view find its target view?": pairs,
        **{title: _of_view(views, view) for view, title in VIEW_TITLES.items()},
        f"coherence of {VIEW_TITLES['state']}: {coherence}": _of_view(COHERENCE, "state"),
        f"coherence of {VIEW_TITLES['target']}: {coherence}": _of_view(COHERENCE, "target"),
        "order of the steps: share of step pairs in the right order": {
            "step ends in context": "order_state",
            "… without last step": "order_state_without_last",
            "target views": "order_target",
        },
        "operation of the step: accuracy of a linear probe": {k: f"operation_{view}" for k, view in PROBED.items()},
        "running value after the step: R² of a linear probe": {k: f"value_{view}" for k, view in PROBED.items()},
    }


def _of_view(rows: Rows, view: str) -> Rows:
    return {label: f"{name}_{view}" for label, name in rows.items()}


_BELOW = {
    "chance": "by chance",
    "control": "control task",
    "lookup": "by the wording alone",
    "null_high": "shuffled, 97.5%",
}


DECIDING: Rows = {
    "MRR among all steps": "reciprocal_rank_all",
    "centred margin": "centered_margin",
    "energy, context views": "mean_energy_context",
    "energy, target views": "mean_energy_target",
}
"""What the verdict follows from."""
READ_DIFFERENTLY = "Not read alike, so that no difference between them is the models' alone"


def verdict_text(report: Mapping[str, Any]) -> str:
    """The verdicts and the figures that they follow from, at most 120 characters wide."""
    lines = [*_verdicts(report), "", *_tables(report, {"what the verdict follows from": DECIDING})]
    return "\n".join([*lines, "", *textwrap.wrap(report["rule"], WIDTH)])


def report_text(report: Mapping[str, Any]) -> str:
    """The whole report, verdicts first, at most 120 characters wide; more than four files take several tables."""
    lines = [*_verdicts(report), "", *_tables(report, sections())]
    if report["cka"]:
        lines += ["", *_cka(report["cka"])]
    return "\n".join([*lines, "", *textwrap.wrap(report["rule"], WIDTH)])


def _verdicts(report: Mapping[str, Any]) -> Iterator[str]:
    for file in report["files"]:
        yield from textwrap.wrap(f"{file['label']}: {file['verdict']['text']}", WIDTH, subsequent_indent="  ")
    yield f"({report['data']}; 95% intervals over problems in brackets)"
    for line in report["read_differently"]:
        yield from textwrap.wrap(f"{READ_DIFFERENTLY}: {line}", WIDTH, subsequent_indent="  ")


def _tables(report: Mapping[str, Any], shown: Mapping[str, Rows]) -> Iterator[str]:
    files = report["files"]
    for start in range(0, len(files), PER_TABLE):
        yield from ([""] if start else [])
        yield from _table(files[start : start + PER_TABLE], shown)


def _table(files: Sequence[Mapping[str, Any]], shown: Mapping[str, Rows]) -> Iterator[str]:
    yield " " * LABEL + "".join(f"{file['label'][: COLUMN - 1]:>{COLUMN}}" for file in files)
    if any(file["control"] for file in files):
        yield " " * LABEL + "".join(f"{'random weights' if file['control'] else '':>{COLUMN}}" for file in files)
    measures = [file["measures"] for file in files]
    for title, rows in shown.items():
        known = [(label, name) for label, name in rows.items() if any(name in file for file in measures)]
        if not known:
            continue
        yield title
        for i, (label, name) in enumerate(known):
            entries = [file.get(name) for file in measures]
            yield _line(f"  {label}", [interval_text(entry) for entry in entries])
            following = _column(measures, known[i + 1][1], "chance") if i + 1 < len(known) else []
            for key, text in _BELOW.items():
                values = _column(measures, name, key)
                same_below = key == "chance" and values == following  # one line of chance serves both figures
                if set(values) - {0.0, None} and not same_below:
                    yield _line(f"    {text}", [_number(value) for value in values])


def _column(measures: Sequence[Mapping[str, Any]], name: str, key: str) -> list[float | None]:
    """The chance level, or another figure beside the estimate, of every file."""
    entries = [file.get(name, {}) for file in measures]
    return [entry.get("chance") if key == "chance" else (entry.get("extra") or {}).get(key) for entry in entries]


def _line(label: str, cells: Sequence[str]) -> str:
    return f"{label:{LABEL}}" + "".join(f"{cell:>{COLUMN}}" for cell in cells)


def interval_text(entry: Mapping[str, Any] | None) -> str:
    """A figure with its interval, as many places as say something; "–" where there is none."""
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
        f"{title:>{COLUMN}}" for title in VIEW_TITLES.values()
    )
    for entry in entries:
        pair = " – ".join(label[:22] for label in entry["files"])
        yield f"  {pair:46}" + "".join(f"{interval_text(entry[view]):>{COLUMN}}" for view in VIEW_TITLES)
