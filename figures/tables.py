"""Write the generated parts of the Markdown files again: `python figures/tables.py`.

A part stands between `<!-- begin: NAME -->` and `<!-- end: NAME -->` and is a function of the records in `data/`, or of
the docstrings and tables of the package. Nothing is trained or measured here; a test compares the files with this one.
"""

from __future__ import annotations

import ast
import functools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stepjepa.analysis.cuts import METHODS
from stepjepa.analysis.detection import SCORES
from stepjepa.data.files import FILES
from stepjepa.data.formats import FORMATS
from stepjepa.data.origins import ORIGINS
from stepjepa.experiments.grid import read_grid, shipped_grids
from stepjepa.experiments.options import cost_of
from stepjepa.experiments.plan_memory import traced_growth
from stepjepa.experiments.report import has_finished, report
from stepjepa.experiments.store import GridFolder
from stepjepa.records import points, read_json, written_whole
from stepjepa.visualization.words import arm_in_words, in_words

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "figures" / "data"
PACKAGE = ROOT / "stepjepa"

ROOMS = ("records.py", *"jepa data models evaluation training analysis experiments visualization commands".split())
"""The entries at the top of the package, in the order of the floors."""

record = functools.cache(lambda name: read_json(DATA / f"{name}.json"))


@functools.cache
def grid(name: str) -> dict[str, Any]:
    """What the records of a grid's cells say. The intervals shown are those of the t-test; bootstraps are not."""
    return report(read_grid(name), GridFolder(DATA / "ablation"), draws=10)


# -------- numbers and tables --------


def table(*rows: Sequence[str]) -> list[str]:
    """A Markdown table of which the first row is the head."""
    head, *body = (f"| {' | '.join(row)} |".replace("|  |", "| |").replace("|  |", "| |") for row in rows)
    return [head, "|" + "---|" * len(rows[0]), *body]


def percent(share: float, low: float, high: float) -> str:
    return f"{share:.1%} ({low:.1%}–{high:.1%})"


def between(entry: Mapping[str, float]) -> str:
    return f"{points(entry['low'])} to {points(entry['high'])}"


def difference(entry: Mapping[str, float]) -> str:
    """A paired difference with its interval, for a column in points."""
    return f"{points(entry['value'])} ({between(entry)})"


def in_points(entry: Mapping[str, float]) -> str:
    """A paired difference with its interval, for a sentence."""
    return f"{points(entry['value'])} points ({between(entry)})"


def measure(entry: Mapping[str, float]) -> str:
    """An estimate with its interval, in as many places as it deserves."""
    size = abs(entry["estimate"])
    places = 3 if size < 1 else 2 if size < 10 else 1
    value, low, high = (f"{entry[name]:.{places}f}".replace("-", "−") for name in ("estimate", "low", "high"))
    return f"{value} [{low}, {high}]"


def quartiles(entry: Mapping[str, float]) -> str:
    return f"{entry['median']:.2f} ({entry['q1']:.2f}–{entry['q3']:.2f})"


# -------- tables of results --------


def train() -> list[str]:
    """The main job and its plain arm."""
    rows = [["run", "LM loss", "JEPA loss", "retrieval (chance 12.5%)", "held-out accuracy (95% interval)"]]
    for name, command in (
        ("train-builtin", "`stepjepa train` (λ = 0.1)"),
        ("train-builtin-plain", "`stepjepa train --lbd 0`"),
    ):
        moments = record(name)["before"], record(name)["after"]
        row = [command]
        for key, form in (("lm_loss", ".3f"), ("jepa_loss", ".3f"), ("retrieval", ".1%")):
            row.append(" → ".join(format(moment[f"eval_{key}"], form) for moment in moments))
        row.append(" → ".join(percent(moment["accuracy"], *moment["accuracy_interval"]) for moment in moments))
        rows.append(row)
    return table(*rows)


def compare() -> list[str]:
    """Three models on 1,000 problems."""
    head = ["model", "accuracy (95% interval)", "difference to λ = 0, points", "exact McNemar", "smallest detectable"]
    rows = [head]
    for arm in record("compare-builtin")["arms"]:
        paired = arm.get("difference")
        rest = ["", "", ""]
        if paired:
            p = "p < 0.001" if paired["p"] < 0.001 else f"p = {paired['p']:.2f}"
            rest = [difference(paired), p, f"{100 * paired['detectable']:.1f}"]
        rows.append([in_words(arm["name"]), percent(arm["accuracy"], arm["low"], arm["high"]), *rest])
    return table(*rows)


REPRESENTATIONS = {
    "reciprocal_rank_all": "MRR of the true next step among all (chance {:.3f})",
    "recall_own": "R@1 among the same problem's steps (chance {:.3f})",
    "centered_margin": "centred cosine margin",
    "mean_energy_context": "energy in the mean direction, context views",
    "effective_rank_context": "effective rank of 160, context views",
    "effective_rank_target": "effective rank of 160, target views",
    "operation_context": "operation of the next step, read from context views",
}


def representations() -> list[str]:
    """What `stepjepa inspect` says of four models."""
    names = {"random": "random weights", "untrained": "untrained", "lbd0": "λ = 0", "lbd0.1": "λ = 0.1"}
    files = {file["label"]: file for file in record("representations")["files"]}
    rows = [["", *names.values()]]
    for key, label in REPRESENTATIONS.items():
        entries = [files[name]["measures"][key] for name in names]
        rows.append([label.format(entries[0]["chance"] or 0), *map(measure, entries)])
    words = [files[name]["verdict"]["word"] for name in names]
    rows.append(["verdict", *("the control" if word == "control" else word for word in words)])
    return table(*rows)


def gsm8k() -> list[str]:
    """The built-in model on GSM8K."""
    run = record("train-gsm8k")
    log = [entry for entry in run["log_history"] if "lm_loss" in entry]
    training, tested = (log[0], log[-1]), (run["before"], run["after"])

    def losses(entry: Mapping[str, float], prefix: str = "") -> str:
        return f"{entry[f'{prefix}lm_loss']:.3f}, {entry[f'{prefix}jepa_loss']:.3f}"

    def accuracy(entry: Mapping[str, Any]) -> str:
        low, high = entry["accuracy_interval"]
        return f"{entry['accuracy']:.0%} ({low:.1%}–{high:.1%})"

    return table(
        ["", "first", "last"],
        ["training: LM loss, JEPA loss", *map(losses, training)],
        [
            f"training: retrieval in the microbatch (chance {log[-1]['retrieval_chance']:.0%})",
            *(f"{entry['retrieval']:.1%}" for entry in training),
        ],
        ["200 test problems: LM loss, JEPA loss", *(losses(entry, "eval_") for entry in tested)],
        [
            f"200 test problems: retrieval (chance {tested[1]['eval_retrieval_chance']:.1%})",
            *(f"{entry['eval_retrieval']:.1%}" for entry in tested),
        ],
        [f"accuracy on {tested[1]['accuracy_problems']} test problems (95% interval)", *map(accuracy, tested)],
    )


GRID_COLUMNS = {
    "LM loss": ("lm_loss", ".3f"),
    "MRR, all steps": ("first_reciprocal_rank_all", ".3f"),
    "R@1, own steps": ("first_recall_own", ".0%"),
    "target rank": ("first_effective_rank_target", ".1f"),
    "target energy": ("first_mean_energy_target", ".3f"),
}


def grid_table(name: str, baseline: str = "") -> list[str]:
    """Accuracy, paired differences and representations of every arm; `baseline` names what the last two are to."""
    said = grid(name)
    pairs = said["comparisons"]
    single = len({pair["arm"] for pair in pairs}) == len(pairs)  # each to a baseline of its own: one column does
    bases = [None] if single else list(dict.fromkeys(pair["baseline"] for pair in pairs))
    heads = [f"to {arm_in_words(base or baseline or pairs[0]['baseline'])}, points (95%)" for base in bases]
    rows = [["arm", "seeds", "test accuracy (95%)", *heads, *GRID_COLUMNS]]
    for arm, entry in said["arms"].items():
        if not entry["seeds"]:
            continue
        test, validation = entry["test"], entry["validation"]
        cells = [arm_in_words(arm), str(len(entry["seeds"])), percent(test["accuracy"], test["low"], test["high"])]
        for base in bases:
            own = [pair for pair in pairs if pair["arm"] == arm and base in (None, pair["baseline"])]
            cells += [difference(pair) for pair in own] or [""]
        for key, form in GRID_COLUMNS.values():
            mean = validation.get(key, {}).get("mean")
            cells.append("–" if mean is None else format(mean, form))
        rows.append(cells)
    lines = table(*rows)
    return lines + still_to_run(said)


def still_to_run(said: Mapping[str, Any]) -> list[str]:
    """How many cells of a grid are open, by its report; nothing if none is."""
    open_cells = len(said["unfinished"])
    cells = open_cells + len(said["failed"]) + sum(len(arm["seeds"]) for arm in said["arms"].values())
    return ["", f"Cells still to run: {open_cells} of {cells}."] if open_cells else []


def streaming() -> list[str]:
    """Memory and time of runs on rows on disk and in memory."""
    rows = [["rows", "held", "peak memory, MB", "files, MB", "processor time, s"]]
    for run in record("streaming")["runs"]:
        cells = [f"{run['rows']:,}", run["held"], f"{run['peak_anonymous_bytes'] / 1e6:,.0f}"]
        rows.append([*cells, f"{run['file_bytes'] / 1e6:,.0f}", f"{run['processor_seconds']:,.0f}"])
    return table(*rows)


def transfer() -> list[str]:
    """Every arm on every kind of problem: accuracy with its difference to plain, LM loss, and the true next step."""
    said = grid("transfer")
    paired = {pair["arm"]: pair["by_source"] for pair in said["comparisons"]}
    kinds = {"builtin": "stories", "programs": "programs", "logic": "logic"}
    heads = [f"{kind}: {head}" for kind in kinds.values() for head in ("right (95%)", "to plain, points (95%)")]
    right = [["trained on, objective", *heads]]
    heads = [f"{kind}: {head}" for kind in kinds.values() for head in ("LM loss", "MRR (chance)")]
    found = [["trained on, objective", *heads]]
    for arm, entry in said["arms"].items():
        right.append([arm])
        found.append([arm])
        for source in kinds:
            own = entry["by_source"][source]
            to_plain = difference(paired[arm][source]) if arm in paired else ""
            right[-1] += [percent(own["accuracy"], own["low"], own["high"]), to_plain]
            rank, chance = (own[f"consecutive_reciprocal_rank_all{end}"]["mean"] for end in ("", "_chance"))
            found[-1] += [f"{own['lm_loss']['mean']:.3f}", f"{rank:.3f} ({chance:.3f})"]
    return [*table(*right), "", *table(*found), *still_to_run(said)]


OBJECTIVE_GRIDS = ("objectives-screen", "rivals-screen", "objectives", "pretrained")
"""Screenings of one seed, what is replicated with several, and what somebody else's model does."""


def known(name: str) -> bool:
    """Whether a shipped grid of that name has a finished cell."""
    return name in shipped_grids() and has_finished(read_grid(name), GridFolder(DATA / "ablation"))


def objectives_table(name: str) -> list[str]:
    """Objectives side by side: what they align, what they cost, what they find. One line while nothing has been run.

    Of one seed the validation split and no test of accuracy, as it is there to choose by; of several the test split.
    """
    if not known(name):
        return [f"Not measured yet: `stepjepa ablate {name}`."]
    return objective_rows(grid(name), record_or_none("bench-objectives"))


def record_or_none(name: str) -> dict[str, Any] | None:
    return record(name) if (DATA / f"{name}.json").exists() else None


def objective_rows(said: Mapping[str, Any], bench: Mapping[str, Any] | None) -> list[str]:
    """The table of `objectives_table`, from the report of a grid and the record of `stepjepa bench --objectives`."""
    screening = max(len(entry["seeds"]) for entry in said["arms"].values()) == 1
    split = "validation" if screening else "test"
    pairs = {pair["arm"]: pair for pair in said["comparisons"]}
    compared = ["seeds", "accuracy (95%)", "to plain, points (95%)", "detectable", "not worse by 1 point"]
    heads = ["objective", *(["accuracy"] if screening else compared)]
    figures = [
        *("LM loss", "R@1, all steps", "MRR, all steps", "R@1, own steps"),
        *("rank: context, target", "energy in the mean direction: context, target"),
    ]
    detects = any(entry["detection"] for entry in said["arms"].values())
    rows = [[*heads, *figures, *(["AUC: energy, −log-probability"] if detects else []), "time, × plain"]]
    for arm, entry in said["arms"].items():
        own = entry[split]
        cells = [arm_in_words(arm)]
        if screening:
            cells.append(f"{own['accuracy']:.1%}")
        else:
            cells += [str(len(entry["seeds"])), percent(own["accuracy"], own["low"], own["high"]), "", "", ""]
            if pair := pairs.get(arm):
                detectable, shown = pair["detectable"], pair["not_worse"]
                cells[-3:] = [difference(pair), "–" if detectable is None else f"{100 * detectable:.1f}", "–"]
                if shown:
                    cells[-1] = f"{'yes' if shown['shown'] else 'not shown'}, p = {shown['p']:.3f}"
        cells.append(mean_of(own, "lm_loss", ".4f"))
        for figure, form in (("recall_all", ".1%"), ("reciprocal_rank_all", ".3f"), ("recall_own", ".0%")):
            cells.append(mean_of(own, f"consecutive_{figure}", form))
        for figure, form in (("effective_rank", ".0f"), ("mean_energy", ".2f")):
            views = (mean_of(own, f"consecutive_{figure}_{view}", form) for view in ("context", "target"))
            cells.append(", ".join(views))
        if detects:
            found = entry["detection"]
            areas = (mean_of(found.get(score, {}), "mean", ".2f") for score in ("energy", "log_probability"))
            cells.append(", ".join(areas))
        rows.append([*cells, cost(said, arm, bench)])
    first = next(iter(said["arms"].values()))[split]
    steps = mean_of(first, "consecutive_pairs", ",.0f")
    chance = mean_of(first, "consecutive_recall_all_chance", ".2%")
    return [
        *table(*rows),
        "",
        f"The {split} split; all steps: the {steps} consecutive pairs held out, R@1 by chance {chance}."
        + (" One seed: accuracies within several points of each other are alike." if screening else ""),
        *still_to_run(said),
    ]


def mean_of(entry: Mapping[str, Any], key: str, form: str) -> str:
    """The mean over seeds of a figure."""
    mean = entry.get(key, {}).get("mean")
    return "–" if mean is None else format(mean, form)


def cost(said: Mapping[str, Any], arm: str, bench: Mapping[str, Any] | None) -> str:
    """What an arm's training takes, as a multiple of plain fine-tuning's: time of a step by the bench × steps."""
    options = {name: said["arms"][name]["options"] for name in said["arms"]}
    plain = next((own for own in options.values() if own.get("lbd") == 0), {})
    timed = {} if bench is None else {entry["cost"]: entry["ratio"]["median"] for entry in bench["arms"].values()}
    ratio = 1.0 if options[arm].get("lbd") == 0 else timed.get(cost_of(options[arm]))
    if ratio is None:
        return "–"
    return f"{ratio * options[arm].get('max_steps', 1) / plain.get('max_steps', 1):.2f}"


def price_objectives() -> list[str]:
    """Time of an optimizer step under each objective, as a multiple of that of plain fine-tuning."""
    bench = record_or_none("bench-objectives")
    if bench is None:
        return ["Not measured yet: `stepjepa bench --objectives`."]
    rows = [["objective", "first pairs: × plain", "all pairs: × plain"]]
    by_name: dict[str, dict[str, str]] = {}
    for name, entry in bench["arms"].items():
        line, _, pairs = name.partition("; ")
        by_name.setdefault(line, {})[pairs or "its own pairs"] = quartiles(entry["ratio"])
    for line, cells in by_name.items():
        own = cells.get("its own pairs", "")
        rows.append([line, cells.get("first pairs", ""), cells.get("all pairs", own)])
    return table(*rows)


def other_tests() -> list[str]:
    """GSM8K, MATH and OCW courses."""
    names = {"gsm8k_test": "GSM8K test", "math_test": "MATH test", "ocw_test": "OCW courses (Minerva)"}
    sources = record("evaluate-real")["by_source"]
    rows = [["file", "right"]]
    for source, name in names.items():
        entry = sources[source]
        rows.append([name, f"{entry['correct']} of {entry['n']:,}, {percent(entry['accuracy'], *entry['interval'])}"])
    levels = record("evaluate-real")["by_level"].items()
    by_level = "; ".join(f"{level.lower()}: {entry['accuracy']:.1%}" for level, entry in levels)
    return [*table(*rows), "", f"MATH by level: {by_level}."]


ARMS = {
    "plain": "plain fine-tuning, head on every position",
    "plain_labels": "plain fine-tuning, head on labelled positions",
    "single_pass_first": "**single pass**, first pair",
    "single_pass_all": "**single pass**, all pairs",
    "two_pass_first": "two passes, first pair",
    "two_pass_all": "two passes, all pairs",
    "doubled_batch": "doubled batch with dense masks, first pair",
}


def price() -> list[str]:
    """Time and memory of each way to compute the losses."""
    head = ["arm", "4,096 rows: × plain", "× labels", "peak", "32,000 rows: × plain", "× labels", "peak"]
    rows = [head]
    for arm, name in ARMS.items():
        cells = [name]
        for bench in ("bench-4k", "bench-32k"):
            entry = record(bench)["arms"][arm]
            peak = entry["memory"]["growth_bytes"] / 2**20
            labels = entry["ratio_to_plain_labels"]["median"]
            cells += [quartiles(entry["ratio_to_plain"]), f"{labels:.2f}", f"{peak:,.0f} MiB"]
        rows.append(cells)
    return table(*rows)


REAL = {"bench-real-fp32": "float32", "bench-real-bf16": "bfloat16"}


def price_real() -> list[str]:
    """Time of each arm on a pretrained model in both precisions, and where it goes; one line while not yet measured."""
    missing = [name for name in REAL if not (DATA / f"{name}.json").exists()]
    if missing:
        return [f"Not measured yet: {', '.join(f'`data/{name}.json`' for name in missing)}."]
    columns = ("× plain", "× labels", "tokens/s", "of products")
    rows = [["arm", *(f"{words}: {column}" for words in REAL.values() for column in columns)]]
    parts = [["arm", *record("bench-real-bf16")["arms"]["plain"]["parts"]]]
    for arm, name in ARMS.items():
        cells = [name]
        for bench in REAL:
            entry = record(bench)["arms"][arm]
            labels = entry["ratio_to_plain_labels"]["median"]
            speed, share = entry["tokens_per_second"]["median"], entry["flops"]["share"]
            cells += [quartiles(entry["ratio_to_plain"]), f"{labels:.2f}", f"{speed:,.0f}", f"{share:.0%}"]
        rows.append(cells)
        seconds = record("bench-real-bf16")["arms"][arm]["parts"]
        parts.append([name, *(f"{seconds[part]:.2f}" for part in parts[0][1:])])
    parts[0] = [parts[0][0], *(f"{part.replace('_', '-')}, s" for part in parts[0][1:])]
    alone = (f"{record(name)['products']['flops_per_second'] / 1e9:,.0f} GFLOP/s in {REAL[name]}" for name in REAL)
    return [
        *table(*rows),
        "",
        f"Matrix products alone: {', '.join(alone)}. One step in bfloat16 by part:",
        "",
        *table(*parts),
    ]


DETECTIONS = ("detect-untrained", "detect-infonce", "detect-smollm2")


def detections() -> list[str]:
    """AUC of wrong against right steps of equal length and position, and what a reader must see beside it."""
    kinds = list(record(DETECTIONS[0])["kinds"])
    rows = [["model", "score", *kinds, "mean of the four"]]
    for name in DETECTIONS:
        entries = record(name)["kinds"]
        for score, words in SCORES.items():
            if score in ("raw", "length", "position"):
                continue
            areas = [entries[kind]["scores"][score]["controlled"] for kind in kinds]
            cells = [f"{a['estimate']:.2f} ({a['low']:.2f}–{a['high']:.2f})" for a in areas]
            mean = sum(a["estimate"] for a in areas) / len(areas)
            shown = f"**{words}**" if score == "energy" else words
            rows.append([record(name)["label"] if score == "energy" else "", shown, *cells, f"{mean:.2f}"])
    entries = record(DETECTIONS[0])["kinds"]
    for score in ("length", "position"):
        areas = [entries[kind]["scores"][score]["pooled"] for kind in kinds]
        cells = [f"{a['estimate']:.2f} ({a['low']:.2f}–{a['high']:.2f})" for a in areas]
        rows.append(["built-in", f"{score}, not controlled", *cells, ""])
    return table(*rows)


SEGMENTATIONS = {"boundaries-builtin": "built-in", "boundaries-smollm2": "SmolLM2-135M-Instruct"}
SOURCES = {"builtin": "built-in", "gsm8k": "GSM8K", "math": "MATH"}


def segmentation() -> list[str]:
    """How well boundaries are found without separators, fitted to the same source, and F1 fitted to each other one."""
    heads = ["F1", "F1, ±1 token", "P_k", "WindowDiff"]
    rows = [["model", "tested on", "cut by", *heads, "F1, fitted to another source"]]
    for name in SEGMENTATIONS:
        for source, methods in record(name)["results"].items():
            for method, fitted in methods.items():
                own = fitted.get(source) or fitted["none"]
                cells = [
                    f"{v:.2f} ({a:.2f}–{b:.2f})" for v, a, b in map(own.get, ("f1", "near_f1", "p_k", "window_diff"))
                ]
                others = [
                    f"{SOURCES[of]} {m['f1'][0]:.2f}" for of, m in fitted.items() if of in SOURCES and of != source
                ]
                shown = [SEGMENTATIONS[name], SOURCES[source]] if method == "sentence" else ["", ""]
                rows.append([*shown, METHODS.get(method, f"splitter `{method}`"), *cells, ", ".join(others)])
    return table(*rows)


def detected_steps() -> list[str]:
    """Training on detected steps and on uniform cuts: what stays of the true steps, and the grid."""
    said = []
    for name, words in (("detected", "Detected steps"), ("uniform", "Uniform cuts")):
        kept = record("detected-steps")["arms"][name]
        said.append(
            f"{words} are all the true ones in {kept['same_solutions'] / kept['solutions']:.0%} of the solutions; "
            f"{kept['same_pairs'] / kept['pairs']:.0%} of the true pairs of consecutive steps are among theirs."
        )
    return [*grid_table(str(DATA / "detected-steps.yaml")), "", " ".join(said)]


def next_steps() -> list[str]:
    """R@1 of the true next step among the right steps of the problems that detection is measured on."""
    rows = [["model", "z-scored", "raw states", "random weights, z-scored", "random weights, raw", "chance"]]
    for name in DETECTIONS:
        found = record(name)["retrieval"]
        cells = [percent(*(max(found[of][key], 0) for key in ("estimate", "low", "high"))) for of in found]
        rows.append([record(name)["label"], *cells, f"{found['raw']['chance']:.2%}"])
    return table(*rows)


def best_of() -> list[str]:
    """What is chosen among eight samples, by energy and otherwise."""
    names = {
        "energy": "lowest energy",
        "greedy": "greedy answer, no sample",
        "first": "first sample",
        "majority": "majority",
        "log_probability": "highest mean log-probability",
        "any": "some sample is right: the bound",
    }
    rows = [["chosen", "accuracy (95% interval)", "energy − it, points", "exact McNemar, Holm", "smallest detectable"]]
    for name, arm in record("best-of-8")["arms"].items():
        cells = ["", "", ""]
        if pair := record("best-of-8")["differences"].get(name):
            least = "–" if pair["detectable"] is None else f"{100 * pair['detectable']:.1f}"
            cells = [difference(pair), f"p = {pair['p_holm']:.3f}", least]
        rows.append([names[name], percent(arm["accuracy"], arm["low"], arm["high"]), *cells])
    return table(*rows)


def growth() -> list[str]:
    """How the time of each text function grows, over its worst units."""
    sizes = record("growth")["sizes"]
    doublings = math.log2(sizes[-1] / sizes[0])
    rows = [["function", "units", f"{sizes[-1]:,} characters: s", "× per doubling, at most", "slowest unit"]]
    for name, measured in record("growth")["seconds"].items():
        slowest = max(measured["long"], key=lambda unit: measured["long"][unit][-1])
        # A thousandth of a second is no time whose ratio means anything.
        ratio = max((times[-1] / max(times[0], 1e-3)) ** (1 / doublings) for times in measured["long"].values())
        shown = slowest.encode("unicode_escape").decode("ascii").replace("|", "\\|")
        longest = f"{measured['long'][slowest][-1]:.2f}"
        rows.append([name, f"{len(measured['scanned'])}", longest, f"{ratio:.2f}", f"`{shown}`"])
    return table(*rows)


def plans() -> list[str]:
    """Time and memory of runs as planned and as they were, and what activation checkpointing changes."""
    settings = record("plans")["settings"]
    rows = [["model, run", "time: run, s", "planned", "memory: run, GB", "planned", "tensors: run, GB", "traced"]]
    for one in settings:
        time, memory, ran = one["plan"]["time"]["seconds"], one["plan"]["memory"], one["run"]
        cells = [f"{ran['seconds']:.1f}", f"{time / ran['seconds']:.2f} ×", f"{ran['peak_bytes'] / 1e9:.2f}"]
        cells.append(f"{memory['peak'] / ran['peak_bytes']:.2f} ×")
        traced = traced_growth(memory)
        grown = one.get("tensors", {}).get("growth_bytes")
        cells += [f"{grown / 1e9:.2f}", f"{traced / grown:.2f} ×"] if grown else ["", ""]
        rows.append([f"{one['model']}, {one['setting']}", *cells])
    lines = table(*rows)
    runs = {(one["model"], one["setting"]): one["run"] for one in settings}
    for model, setting in runs:
        if (checkpointed := runs.get((model, f"{setting}, checkpointing"))) is None:
            continue
        kept = runs[model, setting]
        lines += [
            "",
            f"Activation checkpointing, {model}: {checkpointed['seconds'] / kept['seconds']:.2f} times the time, the "
            f"memory grown in training {kept['growth_bytes'] / 1e9:.2f} → {checkpointed['growth_bytes'] / 1e9:.2f} GB, "
            + ("equal losses." if checkpointed["losses"] == kept["losses"] else "losses that differ."),
        ]
    return lines


# -------- sentences --------


def findings() -> list[str]:
    """What was found, for the README: six sentences, each a claim that is checked and numbers that are read.

    Raises:
        ValueError: the records no longer say what a sentence says.
    """
    arms, weights = validation("lambda"), grid("lambda")["comparisons"]
    values = [pair["value"] for pair in weights]
    detectable = [100 * pair["detectable"] for pair in weights]
    widest = max(weights, key=lambda pair: pair["high"] - pair["low"])
    mrr = {name: arm["first_reciprocal_rank_all"]["mean"] for name, arm in arms.items()}
    plain, others = mrr["lbd=0"], [value for name, value in mrr.items() if name != "lbd=0"]
    energy = {name: arm["first_mean_energy_target"]["mean"] for name, arm in arms.items()}
    chance = arms["lbd=0"]["first_reciprocal_rank_all_chance"]["mean"]

    controls = [pair for pair in grid("isolation")["comparisons"] if pair["baseline"] == "plain"]
    largest = max(controls, key=lambda pair: abs(pair["value"]))
    wrong = validation("isolation")["shuffled target"]["first_reciprocal_rank_all"]["mean"]
    few = {pair["arm"]: pair for pair in grid("lowdata")["comparisons"]}
    models = next(arm for arm in record("compare-builtin")["arms"] if arm["name"] == "lbd0.1")["difference"]
    price = {name: arm["ratio_to_plain"] for name, arm in record("bench-4k")["arms"].items()}
    to_labels = record("bench-4k")["arms"]["single_pass_first"]["ratio_to_plain_labels"]["median"]

    shown = [pair for name in ("lambda", "isolation", "pairs", "lowdata") for pair in grid(name)["comparisons"]]
    for claim, holds in {
        "no difference in accuracy is shown": all(pair["low"] <= 0 <= pair["high"] for pair in [*shown, models]),
        "the true next step is found better with the term": min(others) > plain > chance,
        "the targets narrow": energy["lbd=0"] == min(energy.values()),
        "the largest difference is that of longer training": largest["arm"] == "plain, equal compute",
        "a wrong target finds no next step": abs(wrong - plain) < 0.1 * (max(others) - plain),
    }.items():
        if not holds:
            raise ValueError(f"the records no longer say that {claim}: write the findings anew")
    sentences = (
        f"No effect of λ on accuracy is shown: over {len(arms)} values with {len(weights[0]['seeds'])} seeds each, "
        f"differences to λ = 0 lie between {points(min(values))} and {points(max(values))} points and every interval "
        f"holds 0 (the widest: {between(widest)}); true differences of {min(detectable):.1f} to {max(detectable):.1f} "
        "points would have been found four times out of five, smaller ones remain possible "
        "([table](figures/README.md#how-much-of-it)).",
        f"The representations change: the true next step is found {min(others) / plain:.0f} to "
        f"{max(others) / plain:.0f} times as well (MRR {min(others):.3f} to {max(others):.3f}; without the term "
        f"{plain:.3f}, by chance {chance:.3f}), and the targets narrow from {min(energy.values()):.0%} to "
        f"{max(energy.values()):.1%} of their energy in one direction ([table](figures/README.md#how-much-of-it)).",
        "No control arm differs from plain fine-tuning in accuracy; the largest difference is for spending the time on "
        f"longer plain training, {in_points(largest)}, and a wrong target finds the next step no better than none "
        f"does (MRR {wrong:.3f}) ([table](figures/README.md#is-it-the-isolated-next-step-that-matters)).",
        f"No gain is shown where data are few: {in_points(few['problems=64, lbd=0.1'])} with 64 problems, "
        f"{in_points(few['problems=256, lbd=0.1'])} with 256 ([table](figures/README.md#few-data)).",
        f"Two models of one seed, on 1,000 questions, differ by {in_points(models)}, p = {models['p']:.2f}: a "
        "statement about two models, not about the method ([table](figures/README.md#did-it-help)).",
        f"One pass takes {quartiles(price['single_pass_first'])} times as long as plain fine-tuning for the first pair "
        f"and {quartiles(price['single_pass_all'])} times for all, two passes {quartiles(price['two_pass_first'])} and "
        f"{quartiles(price['two_pass_all'])} (medians and quartiles); against plain fine-tuning with the head on "
        f"labelled positions only, the first pair takes {to_labels:.2f} times ([table](figures/README.md#the-price)).",
    )
    return [f"{number}. {sentence}" for number, sentence in enumerate(sentences, 1)]


def validation(name: str) -> dict[str, Mapping[str, Any]]:
    """Figures on the validation split of every arm of a grid."""
    return {arm: entry["validation"] for arm, entry in grid(name)["arms"].items()}


# -------- the package --------


def first_line(path: Path) -> str:
    """The first paragraph of a module's docstring on one line, without its full stop."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(docstring.split("\n\n")[0].split()).rstrip(".")


def rooms() -> list[str]:
    """The entries of the package with what each is for."""
    rows = []
    for room in ROOMS:
        path = PACKAGE / room
        name = room if path.is_file() else f"{room}/"
        rows.append([f"[`{name}`](stepjepa/{name})", first_line(path if path.is_file() else path / "__init__.py")])
    return table(["entry", "holds"], *rows)


def files() -> list[str]:
    """Every module of the package with its first line, room by room."""
    lines = []
    for room in ROOMS:
        path = PACKAGE / room
        if path.is_file():
            lines += [*item(path), ""]
        else:
            lines += [f"**{room}/**: {first_line(path / '__init__.py')}", ""]
            lines += [line for module in in_reading_order(path) for line in item(module)]
            lines += [""]
    return lines[:-1]


def formats() -> list[str]:
    """Everything that `prepare` reads."""
    return [
        *table(["a source is", "named as"], *([what, how] for what, how in ORIGINS.items())),
        "",
        *table(["a file is", "named as"], *([what, how] for what, how in FILES.items())),
        "",
        *table(
            ["`--format`", "rows", "known by"],
            *([f"`{name}`", kind.about, kind.fields] for name, kind in FORMATS.items()),
        ),
    ]


def named_modules(room: Path) -> list[str]:
    """The modules that the docstring of a room's `__init__` names, in its order."""
    docstring = ast.get_docstring(ast.parse((room / "__init__.py").read_text(encoding="utf-8"))) or ""
    # `masks.py` at the beginning of a line or in a sentence; not `jepa/metrics.py`
    return list(dict.fromkeys(re.findall(r"(?<![\w/])\w+\.py", docstring)))


def in_reading_order(room: Path) -> list[Path]:
    """The modules of a room as its docstring names them, then those that it does not name."""
    order = {name: number for number, name in enumerate(named_modules(room))}
    modules = sorted(path for path in room.glob("*.py") if path.name != "__init__.py")
    return sorted(modules, key=lambda path: order.get(path.name, len(order)))


def item(path: Path) -> list[str]:
    name = path.relative_to(PACKAGE).as_posix()
    return [f"- [`{name}`]({name}): {first_line(path)}"]


# -------- writing --------

FAULTS = {
    "kill_train": "`train` killed once or twice",
    "kill_while_saving": "`train` killed while it saves",
    "kill_evaluate": "`evaluate` killed one to three times",
    "kill_ablate": "`ablate` killed",
    "two_train": "two `train` into one folder",
    "two_evaluate": "two `evaluate` into one file",
    "other_options": "resumed with another option",
    "flipped_byte": "a bit flipped in one or two checkpoints",
    "full_disk": "no room for a file in `train`, `evaluate` or `embed`",
}


def drills() -> list[str]:
    """Rounds of each kind of fault, and how they ended."""
    rows = [["fault", "rounds", "wrong", "how they ended"]]
    for kind, fault in FAULTS.items():
        rounds = [entry for entry in record("drills")["rounds"] if entry["kind"] == kind]
        ends = Counter(entry["outcome"] for entry in rounds)
        wrong = sum(entry["wrong"] is not None for entry in rounds)
        rows.append([fault, str(len(rounds)), str(wrong), "; ".join(f"{n} × {end}" for end, n in ends.most_common())])
    return table(*rows)


BLOCKS: dict[str, dict[str, Callable[[], Iterable[str]]]] = {
    "README.md": {"findings": findings, "rooms": rooms},
    "stepjepa/README.md": {"files": files},
    "notebooks/README.md": {"formats": formats},
    "figures/README.md": {
        "train": train,
        "compare": compare,
        "representations": representations,
        "gsm8k": gsm8k,
        "lambda": functools.partial(grid_table, "lambda", "λ = 0"),
        "isolation": functools.partial(grid_table, "isolation"),
        "pairs": functools.partial(grid_table, "pairs"),
        "lowdata": functools.partial(grid_table, "lowdata", "λ = 0"),
        "losses": functools.partial(grid_table, "losses"),
        "transfer": transfer,
        **{name: functools.partial(objectives_table, name) for name in OBJECTIVE_GRIDS},
        "price-objectives": price_objectives,
        "streaming": streaming,
        "detections": detections,
        "next-steps": next_steps,
        "segmentation": segmentation,
        "detected-steps": detected_steps,
        "best-of": best_of,
        "other-tests": other_tests,
        "price": price,
        "price-real": price_real,
        "drills": drills,
        "growth": growth,
        "plans": plans,
    },
}
"""File → name of a block → its lines."""


def current(file: str) -> str:
    """The text of a file with each of its blocks as it should be.

    Raises:
        ValueError: a block has no place in the file, or more than one.
    """
    text = (ROOT / file).read_text(encoding="utf-8")
    for name, lines in BLOCKS[file].items():
        begin, end = f"<!-- begin: {name} -->", f"<!-- end: {name} -->"
        block = "\n".join([begin, *lines(), end])
        # `<!-- begin: train -->…<!-- end: train -->`, whatever stands between
        text, count = re.subn(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: block, text, flags=re.S)  # noqa: B023
        if count != 1:
            raise ValueError(f"{file} has {count} blocks {name}, not one")
    return text


def main() -> None:
    """Rewrite the blocks of all files, and print the files that changed."""
    for file in BLOCKS:
        text = current(file)
        if text != (ROOT / file).read_text(encoding="utf-8"):
            with written_whole(ROOT / file) as temporary:
                temporary.write_text(text, encoding="utf-8")
            print(file)


if __name__ == "__main__":
    main()
