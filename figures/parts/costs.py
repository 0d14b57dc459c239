"""What things cost and what runs survive: time, memory, plans against runs, growth, faults made on purpose."""

from __future__ import annotations

import math
from collections import Counter

from parts.cells import DATA, quartiles, record, record_or_none, table

from stepjepa.experiments.plan_memory import traced_growth


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


def streaming() -> list[str]:
    """Memory and time of runs on rows on disk and in memory."""
    rows = [["rows", "held", "peak memory, MB", "files, MB", "processor time, s"]]
    for run in record("streaming")["runs"]:
        cells = [f"{run['rows']:,}", run["held"], f"{run['peak_anonymous_bytes'] / 1e6:,.0f}"]
        rows.append([*cells, f"{run['file_bytes'] / 1e6:,.0f}", f"{run['processor_seconds']:,.0f}"])
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
