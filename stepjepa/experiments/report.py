"""Records of a grid → arms: accuracies, paired differences and representations, each with what is still missing.

Accuracies claimed are those of the test split; the arm chosen is the best on the validation split. Differences are
paired over seeds and questions, with the statistics of `stepjepa compare` (see `statistics.py`). A failed cell enters
no mean, and neither it nor a cell not yet run is left unsaid.
"""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepjepa.environment import environment
from stepjepa.evaluation import statistics
from stepjepa.evaluation.compare import WIDTH, accuracy_cell, accuracy_interval, difference_cells, paired_difference
from stepjepa.experiments.grid import Grid
from stepjepa.experiments.report_warnings import Records, environments, warnings_of
from stepjepa.experiments.store import FAILED, FINISHED, GridFolder
from stepjepa.jepa.metrics import METRICS
from stepjepa.records import UserError, text_table

DRAWS, SEED = 10_000, 0
SPLITS = ("validation", "test")
PAIRS = ("first", "consecutive")
LEAST_SEEDS = 5
"""For a claim that an arm is not worse than its baseline."""


def report(grid: Grid, folder: GridFolder, draws: int = DRAWS) -> dict[str, Any]:
    """Everything that the finished records of a grid say.

    Returns:
        `arms` (by name: `seeds`, `addresses`, `options`, and for each split accuracy with its 95% interval and the
        mean and range over seeds of every other figure; `detection` where planted mistakes were looked for),
        `comparisons` (on the test split; `not_worse` is the test of non-inferiority, from five seeds on), `chosen` (the
        best arm on the validation split), `unfinished` and `failed` cells, `environments` of the records, `warnings`.
        Shares, not points.

    Raises:
        UserError: no cell has finished, or records were measured on different questions.
    """
    arms: dict[str, Records] = {}
    unfinished, failed = [], []
    for name in grid.arms:
        arms[name] = {}
        for seed in grid.seeds:
            cell = grid.cell(name, seed)
            state = folder.state(cell)
            record = folder.record(cell) or {}
            about = {"arm": name, "seed": seed, "address": cell.address, "state": state}
            if state == FINISHED:
                arms[name][seed] = record
            elif state == FAILED:
                failed.append(about | record["error"])
            else:
                unfinished.append(about)
    finished = {name: records for name, records in arms.items() if records}
    if not finished:
        raise UserError(f"{folder.path}: no cell of {grid.name} has finished; the command without --report runs it")
    _check_questions(finished)
    described = {name: _arm(grid, name, records) for name, records in finished.items()}
    return {
        "kind": "ablation report",
        "grid": grid.name,
        "question": grid.question,
        "note": grid.note,
        "seeds": grid.seeds,
        "arms": described,
        "comparisons": _comparisons(grid.comparisons(), finished, draws),
        "chosen": max(described, key=lambda name: described[name]["validation"]["accuracy"]),
        "unfinished": unfinished,
        "failed": failed,
        "environments": environments(finished),
        "warnings": warnings_of(grid, finished, unfinished, failed),
        "environment": environment(),
    }


def to_plain(said: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Of a report, each arm's comparison with plain fine-tuning: with the first baseline that has no JEPA term."""
    pairs: dict[str, Mapping[str, Any]] = {}
    for pair in said["comparisons"]:
        if said["arms"][pair["baseline"]]["options"].get("lbd") == 0:
            pairs.setdefault(pair["arm"], pair)
    return pairs


def has_finished(grid: Grid, folder: GridFolder) -> bool:
    """Whether any cell of a grid has a record to report."""
    return any((folder.record(cell) or {}).get("status") == FINISHED for cell in grid.cells)


def correctness(own: Sequence[Mapping[str, Any]]) -> NDArray[np.bool_]:
    """Which questions of a split were answered correctly, `[S, Q]`, from its measures, one a seed."""
    return np.array([[mark == "1" for mark in one_seed["correct"]] for one_seed in own])


def _check_questions(arms: Mapping[str, Records]) -> None:
    for split in SPLITS:
        digests = {record[split]["questions"] for records in arms.values() for record in records.values()}
        if len(digests) > 1:
            raise UserError(
                f"the cells were measured on different {split} questions ({', '.join(sorted(digests))}): give all arms "
                "the same eval_file, eval_problems, test_file and accuracy_problems; or these files have changed since"
            )


def _arm(grid: Grid, name: str, records: Records) -> dict[str, Any]:
    seeds = sorted(records)
    attempts = [record["attempt"] for record in records.values()]
    splits = {split: _split([records[seed][split] for seed in seeds]) for split in SPLITS}
    test = [records[seed]["test"] for seed in seeds]
    by_source = {source: _split(_of_source(test, source)) for source in test[0].get("by_source", {})}
    return {
        "seeds": seeds,
        "addresses": [records[seed]["address"] for seed in seeds],
        "options": {key: value for key, value in grid.cell(name, seeds[0]).options.items() if "seed" not in key},
        "train_seconds": _over_seeds([own["train_seconds"] for own in attempts if not own["resumed_at_step"]]),
        "detection": _detection([records[seed].get("detection") for seed in seeds]),
        **splits,
        **({"by_source": by_source} if by_source else {}),
    }


def _of_source(own: Sequence[Mapping[str, Any]], source: str) -> list[Mapping[str, Any]]:
    return [one_seed["by_source"][source] for one_seed in own]


def _split(own: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the measures of a split, one a seed, say together."""
    correct = correctness(own)
    figures = {name: [one_seed[name] for one_seed in own] for name in ("lm_loss", "jepa_loss", "truncated")}
    for pairs in PAIRS:
        views = [one_seed["representations"][pairs] for one_seed in own]
        for name in dict.fromkeys(itertools.chain(*views)):
            figures[f"{pairs}_{name}"] = [one_seed.get(name) for one_seed in views]
    return {
        "questions": int(correct.shape[1]),
        **accuracy_interval(correct),
        "by_seed": correct.mean(axis=1).tolist(),
        **{name: _over_seeds(values) for name, values in figures.items()},
    }


def _detection(found: Sequence[Mapping[str, Any] | None]) -> dict[str, dict[str, Any]]:
    """Score → kind of mistake, or "mean" → the area over the seeds that looked for planted mistakes."""
    kinds = [own["kinds"] for own in found if own and own["kinds"]]
    if not kinds:
        return {}
    return {
        score: {
            kind: _over_seeds([own[kind][score]["estimate"] for own in kinds if score in own[kind]])
            for kind in kinds[0]
        }
        for score in kinds[0]["mean"]
    }


def _over_seeds(values: Sequence[float | None]) -> dict[str, Any]:
    """Mean and range over the seeds where the figure is finite, and how many these are."""
    known = [value for value in values if value is not None]
    if not known:
        return {"mean": None, "low": None, "high": None, "seeds": 0}
    return {"mean": float(np.mean(known)), "low": min(known), "high": max(known), "seeds": len(known)}


def _comparisons(pairs: Sequence[tuple[str, str]], arms: Mapping[str, Records], draws: int) -> list[dict[str, Any]]:
    """Each pair's difference on the test split, over the seeds that both arms have; Holm over all pairs."""
    comparisons = []
    for arm, base in pairs:
        seeds = sorted(arms.get(arm, {}).keys() & arms.get(base, {}).keys())
        if seeds:
            own, other = ([arms[name][seed]["test"] for seed in seeds] for name in (arm, base))
            by_source = {
                source: _difference(_of_source(own, source), _of_source(other, source), draws)
                for source in own[0].get("by_source", {})
            }
            whole = {"arm": arm, "baseline": base, **_difference(own, other, draws), "seeds": seeds}
            comparisons.append(whole | ({"by_source": by_source} if by_source else {}))
    corrected = statistics.holm([comparison["p"] for comparison in comparisons])
    return [comparison | {"p_holm": p} for comparison, p in zip(comparisons, corrected, strict=True)]


def _difference(arm: Sequence[Mapping[str, Any]], baseline: Sequence[Mapping[str, Any]], draws: int) -> dict[str, Any]:
    first, second = correctness(arm), correctness(baseline)
    means = statistics.crossed_bootstrap(first[None].astype(float) - second[None], draws, SEED)[0]
    low, high = np.percentile(means, (2.5, 97.5)).tolist()
    by_seed = (first.mean(axis=1) - second.mean(axis=1)).tolist()
    paired = paired_difference(first, second)
    not_worse = None
    if len(first) >= LEAST_SEEDS:
        p = statistics.non_inferiority(paired["value"], paired["standard_error"], paired["df"])
        not_worse = {"margin": statistics.MARGIN, "p": p, "shown": p < statistics.ALPHA / 2}
    return {**paired, "bootstrap": {"low": low, "high": high}, "by_seed": by_seed, "not_worse": not_worse}


# -------- as text --------


def report_columns() -> list[tuple[str, str, str]]:
    """Heading, figure and format of the columns beside the accuracies: those of `METRICS`, of first pairs first."""
    columns = [("LM loss", "lm_loss", ".3f")]
    columns += [(head, name, metric.form) for metric in METRICS.values() for head, name in metric.columns.items()]
    return sorted(columns, key=lambda column: column[1].startswith("consecutive"))


def format_report(record: Mapping[str, Any]) -> str:
    """The report as lines of text; accuracies in per cent, differences in points of per cent."""
    lines = [f"{record['grid']}: {record['question']}".rstrip(": ")]
    lines += textwrap.wrap(record["note"], WIDTH)
    lines += [
        "",
        *text_table(
            [
                ["arm", "seeds", "validation", "test (95%)", *(head for head, _, _ in report_columns())],
                *(_arm_row(name, arm) for name, arm in record["arms"].items()),
            ]
        ),
    ]
    questions = next(iter(record["arms"].values()))["test"]["questions"]
    lines += _by_source(record["arms"])
    lines += [
        "",
        f"accuracy on {questions} test questions; the rest on the validation split, mean over seeds: isolated targets "
        "of the first pair of each problem, and ' of all consecutive pairs",
        f"best on validation: {record['chosen']}",
    ]
    if record["comparisons"]:
        heads = ["test split", "seeds", "difference (95%)", "bootstrap", "+/−", "p", "Holm", "detectable"]
        rows = [
            [f"{own['arm']} − {own['baseline']}", str(len(own["seeds"])), *difference_cells(own)]
            for own in record["comparisons"]
        ]
        lines += ["", *text_table([heads, *rows])]
        lines += [
            "",
            f"Holm: p corrected for these {len(record['comparisons'])} comparisons; detectable: the smallest "
            "true difference that a test at 5% finds with 80% power",
        ]
        lines += [
            f"{own['arm']}: worse than {own['baseline']} by {100 * test['margin']:g} point or more is "
            f"{'ruled out' if test['shown'] else 'not ruled out'} (one-sided p = {test['p']:.3f}, below 0.025 it is)"
            for own in record["comparisons"]
            if (test := own["not_worse"])
        ]
    lines += [""] + [
        line
        for warning in record["warnings"]
        for line in textwrap.wrap(f"warning: {warning}", WIDTH, subsequent_indent="  ", break_on_hyphens=False)
    ]
    cells = [*record["failed"], *record["unfinished"]]
    for cell in {cell["address"]: cell for cell in reversed(cells)}.values():
        why = f": {cell['type']}: {cell['message']}" if "type" in cell else ""
        arms = " = ".join(other["arm"] for other in cells if other["address"] == cell["address"])
        lines.append(f"{cell['state']}: {cell['address']}  {arms}, seed {cell['seed']}{why}")
    return "\n".join(lines).rstrip()


def _by_source(arms: Mapping[str, Any]) -> list[str]:
    """Accuracy, LM loss and retrieval of every arm on every source of the test split; nothing if it has one."""
    sources = list(next(iter(arms.values())).get("by_source", {}))
    heads = ["test (95%)", "test LM loss", "test MRR'"]
    rows = [["arm", *(f"{source}: {head}" for source in sources for head in heads)]]
    for name, arm in arms.items():
        cells = [name]
        for source in sources:
            own = arm["by_source"][source]
            found = (own["lm_loss"]["mean"], own.get("consecutive_reciprocal_rank_all", {}).get("mean"))
            cells += [accuracy_cell(own), *("–" if one is None else f"{one:.3f}" for one in found)]
        rows.append(cells)
    return ["", *text_table(rows)] if sources else []


def _arm_row(name: str, arm: Mapping[str, Any]) -> list[str]:
    test, validation = arm["test"], arm["validation"]
    figures = [
        "–" if validation.get(key, {}).get("mean") is None else format(validation[key]["mean"], form)
        for _, key, form in report_columns()
    ]
    return [name, str(len(arm["seeds"])), f"{100 * validation['accuracy']:.1f}", accuracy_cell(test), *figures]
