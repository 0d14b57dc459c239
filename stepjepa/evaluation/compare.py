"""Did it help? Accuracies of several arms and seeds on the same questions, as paired differences.

Every arm is set against one baseline. One seed an arm: exact McNemar test, intervals over questions. Several seeds: a
t-test and intervals over seeds and questions, which are crossed (see `statistics.py`). p-values are corrected for the
number of arms (Holm), and beside each difference stands the smallest one that could have been found.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepjepa.environment import environment
from stepjepa.evaluation import statistics
from stepjepa.evaluation.arms import (
    Arm,
    arm_settings,
    check_questions,
    group,
    mixed_arms,
    pair_seeds,
    read_run,
    unlike_evaluations,
)
from stepjepa.records import UserError, points, text_table

WIDTH = 120  # of the report, in characters

Correct = NDArray[np.bool_]


def compare(
    files: Sequence[str], baseline: str | None = None, metric: str = "correct", draws: int = 10_000, seed: int = 0
) -> dict[str, Any]:
    """Compare result files; nothing is trained or generated.

    Args:
        files: `FILE` or `NAME=FILE`; the same name several times are seeds of one arm.
        baseline: name of the arm that the others are set against; by default the one with λ = 0 if there is exactly
            one, else the first.
        metric: one of `METRICS`.
        draws, seed: of the bootstrap.

    Returns:
        The record: `arms`, each with `runs`, accuracy and interval, and `difference` to the baseline (None for the
        baseline itself); `by_source` where there are several; `warnings`; `configuration`; `environment`. Shares, not
        points.

    Raises:
        UserError: a file that is missing, broken or unfinished, or files that cannot be compared (see `arms.py`).
    """
    runs = [read_run(word) for word in files]
    ids = check_questions(runs)
    arms = group(runs)
    pairing = pair_seeds(arms)
    base, why = _baseline(arms, baseline)
    correct = {arm.name: arm.correct(metric, ids) for arm in arms}
    others = [arm.name for arm in arms if arm is not base]
    differences = {name: paired_difference(correct[name], correct[base.name]) for name in others}
    p_holm = statistics.holm([difference["p"] for difference in differences.values()])
    draws_of_means = _bootstrap(correct, others, base.name, draws, seed)
    for difference, p, means in zip(differences.values(), p_holm, draws_of_means, strict=True):
        low, high = np.percentile(means, (2.5, 97.5)).tolist()
        difference |= {"p_holm": p, "bootstrap": {"low": low, "high": high}}
    settings = arm_settings(arms)
    return {
        "metric": metric,
        "questions": len(ids),
        "baseline": base.name,
        "baseline_because": why,
        "pairing": pairing,
        "arms": [
            _arm(arm, correct[arm.name]) | {"settings": settings[arm.name], "difference": differences.get(arm.name)}
            for arm in arms
        ],
        "by_source": _by_source(correct, base.name, [row.get("source") for row in runs[0].results.rows]),
        "warnings": _warnings(arms),
        "configuration": {"baseline": baseline, "metric": metric, "draws": draws, "seed": seed},
        "environment": environment(),
    }


def _baseline(arms: Sequence[Arm], wanted: str | None) -> tuple[Arm, str]:
    names = [arm.name for arm in arms]
    if wanted is not None:
        if wanted not in names:
            raise UserError(f"--baseline {wanted}: the arms are {', '.join(names)}")
        return arms[names.index(wanted)], "as asked"
    plain = [arm for arm in arms if all(run.settings.get("lbd") == 0 for run in arm.runs)]
    return (plain[0], "the only arm with λ = 0") if len(plain) == 1 else (arms[0], "the first arm")


def accuracy_interval(correct: Correct) -> dict[str, float]:
    """Accuracy of `[S, Q]` with its 95% interval."""
    if len(correct) == 1:
        low, high = statistics.wilson(int(correct.sum()), correct.size)
    else:
        estimate = statistics.accuracy(correct)
        low, high = estimate.low, estimate.high
    return {"accuracy": float(correct.mean()), "low": low, "high": high}


def _arm(arm: Arm, correct: Correct) -> dict[str, Any]:
    """The arm by itself; files by name only, with the digest of their content."""
    runs = [
        {"file": run.path.name, "sha256": run.digest, "seed": run.seed, "accuracy": float(row.mean())}
        for run, row in zip(arm.runs, correct, strict=True)
    ]
    return {"name": arm.name, "fixed": arm.fixed, "runs": runs, **accuracy_interval(correct)}


def paired_difference(first: Correct, second: Correct) -> dict[str, Any]:
    """Everything about one arm `[S, Q]` against the baseline but the bootstrap and Holm's correction."""
    estimate = statistics.difference(first, second)
    gained, lost = int((first & ~second).sum()), int((~first & second).sum())
    seeds = max(len(first), len(second))
    if seeds == 1:
        p = statistics.mcnemar(first[0], second[0])
        detectable = statistics.detectable_mcnemar((gained + lost) / first.size, first.size)
    else:
        p, detectable = estimate.p, statistics.detectable_difference(estimate)
    return {
        "value": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "standard_error": estimate.standard_error,
        "df": estimate.df,
        "seeds": seeds,
        "gained": gained,
        "lost": lost,
        "p": p,
        "test": "exact McNemar" if seeds == 1 else "t over seeds and questions",
        "detectable": detectable if math.isfinite(detectable) and detectable <= 1 else None,
    }


def _bootstrap(
    correct: Mapping[str, Correct], others: Sequence[str], base: str, draws: int, seed: int
) -> NDArray[np.float64]:
    """Bootstrap means `[A, draws]` of the differences; a model without seed stands beside every seed."""
    seeds = max(map(len, correct.values()))
    full = {name: np.broadcast_to(own, (seeds, own.shape[1])).astype(float) for name, own in correct.items()}
    return statistics.crossed_bootstrap(np.stack([full[name] - full[base] for name in others]), draws, seed)


def _by_source(correct: Mapping[str, Correct], base: str, sources: Sequence[str | None]) -> dict[str, Any]:
    """Accuracy and difference within each source of the questions, without tests; empty for a single source."""
    names = list(dict.fromkeys(sources))
    if len(names) == 1:
        return {}
    parts: dict[str, Any] = {}
    for name in names:
        chosen = np.array([source == name for source in sources])
        part: dict[str, Any] = {"questions": int(chosen.sum()), "arms": {}}
        for arm, table in correct.items():
            entry: dict[str, Any] = accuracy_interval(table[:, chosen])
            if arm != base:
                estimate = statistics.difference(table[:, chosen], correct[base][:, chosen])
                entry["difference"] = {"value": estimate.value, "low": estimate.low, "high": estimate.high}
            part["arms"][arm] = entry
        parts[name or "no source"] = part
    return parts


def _warnings(arms: Sequence[Arm]) -> list[str]:
    """What a reader must know before believing the figures."""
    warnings = [*unlike_evaluations(arms), *mixed_arms(arms)]
    most = max(len(arm.runs) for arm in arms)
    for arm in arms:
        if arm.fixed and most > 1:
            warnings.append(f"{arm.name} is one model without training seed: the same answers stand beside every seed")
    if most == 1 and not all(arm.fixed for arm in arms):
        warnings.append(
            "one training run an arm: intervals and p-values cover the choice of questions, not the training seed; "
            "they are about these models, not about the methods that made them"
        )
    if most == 2:
        warnings.append(
            "two seeds say little about seeds: where seeds matter much, such 95% intervals hold in about 87% of cases"
        )
    return warnings


# -------- the report: a table, a sentence for every arm, and what to know before believing them --------


def format_report(record: Mapping[str, Any]) -> str:
    """The record as lines of text; accuracies in per cent, differences in points of per cent."""
    lines = [
        f"{record['questions']:,} questions, {record['metric']}; baseline: {record['baseline']} "
        f"({record['baseline_because']}); {record['pairing']}",
        "",
    ]
    heads = ["arm", "seeds", "accuracy (95%)", "difference (95%)", "bootstrap", "+/−", "p", "Holm", "detectable"]
    rows = [heads, *([*_accuracy(arm), *difference_cells(arm["difference"])] for arm in record["arms"])]
    lines += text_table(rows)
    lines += [
        "",
        "difference, bootstrap, detectable: in points; +/−: answers right here only / in the baseline only;",
        "detectable: the smallest true difference that a test at 5% finds with 80% power, before correction",
    ]
    if record["by_source"]:
        lines += ["", *text_table(_source_rows(record))]
    lines.append("")
    others = [arm for arm in record["arms"] if arm["difference"]]
    sentences = [sentence(arm, record["baseline"], len(others)) for arm in others]
    for text in (*sentences, *(f"warning: {warning}" for warning in record["warnings"])):
        lines += textwrap.wrap(text, WIDTH, subsequent_indent="  ")
    return "\n".join(lines)


def sentence(arm: Mapping[str, Any], baseline: str, arms: int) -> str:
    """What can be read from one arm's difference, in plain words."""
    name, difference = arm["name"], arm["difference"]
    p, p_holm, span = difference["p"], difference["p_holm"], _span(difference)
    if p_holm < statistics.ALPHA:
        side = "better" if difference["value"] > 0 else "worse"
        size = f"{100 * abs(difference['value']):.1f} points ({span})"
        corrected = f", corrected for {arms} arms p {_is(p_holm)}" if arms > 1 else ""
        return f"{name}: {side} than {baseline} by {size}; p {_is(p)}{corrected}."
    blind = (
        "with so few questions no difference could have been found"
        if difference["detectable"] is None
        else f"a true difference under {100 * difference['detectable']:.1f} points is missed more than one time in five"
    )
    if p < statistics.ALPHA:
        return (
            f"{name}: no difference to {baseline} is shown ({span} points): p {_is(p)} by itself, {_p(p_holm)} "
            f"corrected for {arms} arms; {blind}."
        )
    return f"{name}: no difference to {baseline} can be read from these data (p {_is(p)}, {span} points); {blind}."


def _accuracy(arm: Mapping[str, Any]) -> list[str]:
    return [arm["name"], "–" if arm["fixed"] else str(len(arm["runs"])), accuracy_cell(arm)]


def accuracy_cell(entry: Mapping[str, Any]) -> str:
    """An accuracy and its interval, in per cent."""
    return f"{100 * entry['accuracy']:.1f} ({100 * entry['low']:.1f}–{100 * entry['high']:.1f})"


def difference_cells(difference: Mapping[str, Any] | None) -> list[str]:
    """Difference and bootstrap with intervals, gained and lost, p, p after Holm, and what could have been found."""
    if difference is None:
        return ["baseline", *[""] * 5]
    detectable = "–" if difference["detectable"] is None else f"{100 * difference['detectable']:.1f}"
    return [
        f"{points(difference['value'])} ({_span(difference)})",
        _span(difference["bootstrap"]),
        f"{difference['gained']}/{difference['lost']}",
        _p(difference["p"]),
        _p(difference["p_holm"]),
        detectable,
    ]


def _source_rows(record: Mapping[str, Any]) -> list[list[str]]:
    rows = [["by source (no tests)", "questions", "arm", "accuracy (95%)", "difference (95%)"]]
    for source, part in record["by_source"].items():
        for arm, entry in part["arms"].items():
            difference = entry.get("difference")
            shown = f"{points(difference['value'])} ({_span(difference)})" if difference else "baseline"
            rows.append([source, f"{part['questions']:,}", arm, accuracy_cell(entry), shown])
    return rows


def _span(difference: Mapping[str, Any]) -> str:
    return f"{points(difference['low'])} to {points(difference['high'])}"


def _is(p: float) -> str:
    return _p(p) if p < 0.001 else f"= {_p(p)}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
