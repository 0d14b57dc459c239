"""What a race of `stepjepa bench` says: single measurements → medians, quartiles and ratios → text."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from stepjepa.experiments.benchmark_arms import BASELINES, SINGLE_PASS, Arm, Counts
from stepjepa.records import text_table

COMPARED = (
    ("two_pass_first", "single_pass_first"),
    ("two_pass_all", "single_pass_all"),
    ("doubled_batch", "single_pass_first"),
)


class Measurement(NamedTuple):
    """One arm in one round."""

    seconds: float
    """Of forward and backward."""
    layout_seconds: float
    mask_seconds: float
    """Of a single pass; 0 for other arms."""
    counts: Counts
    trunk_tokens: int


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles."""
    if len(values) == 1:
        return dict.fromkeys(("median", "q1", "q3"), values[0])
    q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "q1": q1, "q3": q3}


def _ratio(above: Sequence[float], below: Sequence[float]) -> dict[str, float]:
    return spread([a / b for a, b in zip(above, below, strict=True)])


def summarise(
    arms: Sequence[Arm], measured: Mapping[str, Sequence[Measurement]], memory: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """`arms`, `layout`, `comparisons` and `seconds` of the record; ratios are taken within rounds."""
    seconds = {name: [one.seconds for one in rounds] for name, rounds in measured.items()}
    figures: dict[str, dict[str, Any]] = {}
    for arm in arms:
        name, rounds = arm.name, measured[arm.name]
        figures[name] = {
            "says": arm.label,
            "seconds": spread(seconds[name]),
            **{f"ratio_to_{base}": _ratio(seconds[name], seconds[base]) for base in BASELINES},
            "tokens_per_second": spread([one.trunk_tokens / one.seconds for one in rounds]),
            "decoder_tokens": statistics.fmean(one.counts.decoder_tokens for one in rounds),
            "head_rows": statistics.fmean(one.counts.head_rows for one in rounds),
        }
        if memory:
            figures[name]["memory"] = {key: value for key, value in memory[name].items() if key != "arm"}
    layout = {}
    for name in SINGLE_PASS:
        made = [(one.layout_seconds + one.mask_seconds, one.layout_seconds + one.seconds) for one in measured[name]]
        layout[name] = {
            "layout_seconds": spread([one.layout_seconds for one in measured[name]]),
            "mask_seconds": spread([one.mask_seconds for one in measured[name]]),
            "share": spread([part / whole for part, whole in made]),
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


# -------- as text --------


def format_table(result: dict[str, Any]) -> str:
    """The record of `bench` as lines of text."""
    options, model, data = result["configuration"], result["model"], result["data"]
    hardware = result["environment"]["hardware"]
    precision = options["dtype"] + ", --bf16" * options["bf16"]
    where = ", ".join(hardware["gpus"]) if options["device"].startswith("cuda") else hardware["processor"]
    lines = [
        f"{options['model_name'] or 'random weights'}: {model['architecture']}, {model['parameters']:,} parameters, "
        f"{model['vocabulary_rows']:,} vocabulary rows, {precision}, {options['attn_implementation']}",
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
    products = result["products"]
    names = list(result["arms"]["plain"]["parts"])
    rows = [["one step by part, ms", *(name.replace("_", "-") for name in names), "GFLOP/s", "of products alone"]]
    for name, arm in result["arms"].items():
        cells = [f"{arm['parts'][part] * 1e3:.1f}" for part in names]
        rows.append([name, *cells, f"{arm['flops']['per_second'] / 1e9:,.0f}", f"{arm['flops']['share']:.0%}"])
    lines += text_table(rows)
    lines.append(
        f"matrix products alone: {products['flops_per_second'] / 1e9:,.0f} GFLOP/s in {products['dtype']} "
        f"({hardware['threads']} threads)"
    )
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
