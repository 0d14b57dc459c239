"""Times and counts of a benchmark → medians, quartiles, ratios within rounds, and a table to read."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from stepjepa.experiments.bench_arms import BASELINES, SINGLE_PASS, Arm, Counts
from stepjepa.records import text_table

COMPARED = (
    ("two_pass_first", "single_pass_first"),
    ("two_pass_all", "single_pass_all"),
    ("doubled_batch", "single_pass_first"),
)


class Times:
    """What the counted rounds gave: seconds per arm, seconds for layout and masks, counts per arm."""

    def __init__(self, arms: Sequence[Arm]) -> None:
        self.arms: dict[str, list[float]] = {arm.name: [] for arm in arms}
        self.layout: dict[str, list[float]] = {name: [] for name in SINGLE_PASS}
        self.masks: dict[str, list[float]] = {name: [] for name in SINGLE_PASS}
        self.counts: dict[str, list[Counts]] = {arm.name: [] for arm in arms}
        self.trunk_tokens: list[int] = []


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles."""
    if len(values) == 1:
        return dict.fromkeys(("median", "q1", "q3"), values[0])
    q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "q1": q1, "q3": q3}


def _ratio(above: Sequence[float], below: Sequence[float]) -> dict[str, float]:
    return spread([a / b for a, b in zip(above, below, strict=True)])


def summarise(arms: Sequence[Arm], times: Times, memory: dict[str, dict]) -> dict[str, Any]:
    """`arms`, `layout`, `comparisons` and `seconds` of the record; ratios are taken within rounds."""
    seconds = times.arms
    figures: dict[str, dict[str, Any]] = {}
    for arm in arms:
        name, counts = arm.name, times.counts[arm.name]
        figures[name] = {
            "says": arm.says,
            "seconds": spread(seconds[name]),
            **{f"ratio_to_{base}": _ratio(seconds[name], seconds[base]) for base in BASELINES},
            "tokens_per_second": spread([n / s for n, s in zip(times.trunk_tokens, seconds[name], strict=True)]),
            "decoder_tokens": statistics.fmean(count.decoder_tokens for count in counts),
            "head_rows": statistics.fmean(count.head_rows for count in counts),
        }
        if memory:
            figures[name]["memory"] = {key: value for key, value in memory[name].items() if key != "arm"}
    layout = {}
    for name in SINGLE_PASS:
        layout[name] = {
            "layout_seconds": spread(times.layout[name]),
            "mask_seconds": spread(times.masks[name]),
            "share": spread(
                [
                    (made + mask) / (made + step)
                    for made, mask, step in zip(times.layout[name], times.masks[name], seconds[name], strict=True)
                ]
            ),
        }
    comparisons: dict[str, Any] = {}
    for above, below in COMPARED:
        if above not in seconds:
            continue
        compared: dict[str, Any] = {"seconds": _ratio(seconds[above], seconds[below])}
        if memory:
            compared["memory_growth"] = memory[above]["growth_bytes"] / memory[below]["growth_bytes"]
        comparisons[f"{above} / {below}"] = compared
    return {"arms": figures, "layout": layout, "comparisons": comparisons, "seconds": seconds}


def format_table(result: dict[str, Any]) -> str:
    """The record of `bench` as lines of text."""
    options, model, data = result["configuration"], result["model"], result["data"]
    hardware = result["environment"]["hardware"]
    where = ", ".join(hardware["gpus"]) if options["device"] == "cuda" else hardware["processor"]
    lines = [
        f"{options['model_name'] or 'random weights'}: {model['architecture']}, {model['parameters']:,} parameters, "
        f"{model['vocabulary_rows']:,} vocabulary rows, {options['dtype']}, {options['attn_implementation']}",
        f"{', '.join(options['train_file'])}: {data['microbatches']} microbatches of {options['batch_size']} rows, "
        f"{data['tokens_per_row']:.0f} tokens a row ({data['labelled_per_row']:.0f} labelled), "
        f"{data['steps_per_row']:.1f} steps",
        f"{where}, {hardware['threads']} threads; {options['rounds']} rounds of forward and backward; "
        "medians [quartiles]",
        "",
    ]
    heads = ["arm", "ms", "[quartiles]", "/ plain", "/ plain_labels", "tokens/s", "decoder tokens", "head rows"]
    with_memory = any("memory" in arm for arm in result["arms"].values())
    rows = [heads + ["peak growth"] * with_memory]
    for name, arm in result["arms"].items():
        seconds = arm["seconds"]
        row = [
            name,
            f"{seconds['median'] * 1e3:.1f}",
            f"[{seconds['q1'] * 1e3:.1f}–{seconds['q3'] * 1e3:.1f}]",
            f"{arm['ratio_to_plain']['median']:.2f}",
            f"{arm['ratio_to_plain_labels']['median']:.2f}",
            f"{arm['tokens_per_second']['median']:,.0f}",
            f"{arm['decoder_tokens']:,.0f}",
            f"{arm['head_rows']:,.0f}",
        ]
        rows.append(row + ([f"{arm['memory']['growth_bytes'] / 2**20:,.0f} MiB"] if with_memory else []))
    lines += text_table(rows)
    lines.append("")
    for name, compared in result["comparisons"].items():
        memory = f", peak memory growth {compared['memory_growth']:.2f}" if "memory_growth" in compared else ""
        lines.append(f"{name}: time {compared['seconds']['median']:.2f}{memory}")
    for name, layout in result["layout"].items():
        lines.append(
            f"{name}: layout {layout['layout_seconds']['median'] * 1e3:.2f} ms, masks "
            f"{layout['mask_seconds']['median'] * 1e3:.2f} ms, {layout['share']['median']:.2%} of a step"
        )
    agreement = result["agreement"]
    lines.append(
        f"equal results: LM loss within {agreement['lm_relative_difference']:.1e} (relative), JEPA loss within "
        f"{agreement['jepa_difference']:.1e}"
    )
    return "\n".join(lines)
