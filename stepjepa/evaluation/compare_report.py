"""The record of `stepjepa compare` → a table, a sentence for every arm, and what to know before believing them."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from stepjepa.evaluation.statistics import ALPHA
from stepjepa.records import points, text_table

WIDTH = 120


def format_report(record: Mapping[str, Any]) -> str:
    """The record as lines of text; accuracies in per cent, differences in points of per cent."""
    lines = [
        f"{record['questions']:,} questions, {record['metric']}; baseline: {record['baseline']} "
        f"({record['baseline_because']}); {record['pairing']}",
        "",
    ]
    heads = ["arm", "seeds", "accuracy (95%)", "difference (95%)", "bootstrap", "+/−", "p", "Holm", "detectable"]
    rows = [heads, *([*_accuracy(arm), *_difference(arm["difference"])] for arm in record["arms"])]
    lines += text_table(rows)
    lines += [
        "",
        "difference, bootstrap, detectable: in points; +/−: answers right here only / in the baseline only;",
        "detectable: the smallest true difference that a test at 5% finds with 80% power, before correction",
    ]
    if record["by_source"]:
        lines += ["", *text_table(_source_rows(record))]
    lines.append("")
    said = [sentence(arm, record["baseline"], len(record["arms"]) - 1) for arm in record["arms"] if arm["difference"]]
    for text in (*said, *(f"warning: {warning}" for warning in record["warnings"])):
        lines += textwrap.wrap(text, WIDTH, subsequent_indent="  ")
    return "\n".join(lines)


def sentence(arm: Mapping[str, Any], baseline: str, arms: int) -> str:
    """What can be read from one arm's difference, in plain words."""
    found = arm["difference"]
    size = f"{100 * abs(found['value']):.1f} points ({_span(found)})"
    if found["p_holm"] < ALPHA:
        side = "better" if found["value"] > 0 else "worse"
        corrected = f", corrected for {arms} arms p {_is(found['p_holm'])}" if arms > 1 else ""
        return f"{arm['name']}: {side} than {baseline} by {size}; p {_is(found['p'])}{corrected}."
    blind = (
        "with so few questions no difference could have been found"
        if found["detectable"] is None
        else f"a true difference under {100 * found['detectable']:.1f} points is missed more than one time in five"
    )
    if found["p"] < ALPHA:
        return (
            f"{arm['name']}: no difference to {baseline} is shown ({_span(found)} points): p {_is(found['p'])} by "
            f"itself, {_p(found['p_holm'])} corrected for {arms} arms; {blind}."
        )
    return (
        f"{arm['name']}: no difference to {baseline} can be read from these data (p {_is(found['p'])}, {_span(found)} "
        f"points); {blind}."
    )


def _accuracy(arm: Mapping[str, Any]) -> list[str]:
    return [arm["name"], "–" if arm["fixed"] else str(len(arm["runs"])), _percent(arm)]


def _percent(entry: Mapping[str, Any]) -> str:
    return f"{100 * entry['accuracy']:.1f} ({100 * entry['low']:.1f}–{100 * entry['high']:.1f})"


def _difference(found: Mapping[str, Any] | None) -> list[str]:
    if found is None:
        return ["baseline", *[""] * 5]
    detectable = "–" if found["detectable"] is None else f"{100 * found['detectable']:.1f}"
    return [
        f"{points(found['value'])} ({_span(found)})",
        _span(found["bootstrap"]),
        f"{found['gained']}/{found['lost']}",
        _p(found["p"]),
        _p(found["p_holm"]),
        detectable,
    ]


def _source_rows(record: Mapping[str, Any]) -> list[list[str]]:
    rows = [["by source (no tests)", "questions", "arm", "accuracy (95%)", "difference (95%)"]]
    for source, part in record["by_source"].items():
        for arm, entry in part["arms"].items():
            found = entry.get("difference")
            shown = f"{points(found['value'])} ({_span(found)})" if found else "baseline"
            rows.append([source, f"{part['questions']:,}", arm, _percent(entry), shown])
    return rows


def _span(found: Mapping[str, Any]) -> str:
    return f"{points(found['low'])} to {points(found['high'])}"


def _is(p: float) -> str:
    return _p(p) if p < 0.001 else f"= {_p(p)}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
