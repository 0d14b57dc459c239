"""What a step of Step-JEPA costs, beside plain fine-tuning and the usual alternatives.

All arms run once in every round on the same microbatch, so that a busy machine slows them alike; ratios are taken
within rounds and their median is quoted. Peak memory is measured with each arm in a fresh process of its own.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from stepjepa.environment import environment
from stepjepa.experiments.benchmark_arms import ARMS, SINGLE_PASS, Arm, ArmLosses, Batch, collate, counting, peak_memory
from stepjepa.experiments.benchmark_parts import PARTS, matrix_flops, product_rate, timing_parts
from stepjepa.experiments.benchmark_report import Measurement, summarise
from stepjepa.experiments.benchmark_workload import Workload, make_workload, save_workload
from stepjepa.experiments.options import BenchOptions
from stepjepa.jepa.architectures import check_architecture
from stepjepa.jepa.masks import attention_masks
from stepjepa.models.loading import bfloat16_products, choose_device
from stepjepa.models.speed import keep_freed_memory
from stepjepa.records import UserError


def bench(options: BenchOptions) -> dict[str, Any]:
    """Run a benchmark.

    Returns:
        A record of JSON values: `configuration`, `environment`, `data`, `model`, `agreement` (the arms' losses on
        the first microbatch), `arms` (per arm: seconds, ratios, tokens per second, counts, `flops` (floating-point
        operations a second in products with weights, and their share of what such products reach alone), `parts`
        (seconds of one more step by part), peak memory), `products` (what they reach alone), `layout` (the price of
        layout and masks), `comparisons` (other pairs of arms), `seconds` (every single time),
        `load_average`, `wall_seconds`. Times are in seconds, memory in bytes; spreads are median and quartiles.

    Raises:
        UserError: CUDA is asked for and absent, too few examples have two steps, or data or model cannot be used.
        UnsupportedArchitectureError: the model has layers that the single pass cannot mask.
    """
    began, load = time.perf_counter(), _load_average()
    threads = torch.get_num_threads()
    use_device(options)
    try:
        workload = make_workload(options)
        check_architecture(workload.model)
        arms = [arm for arm in ARMS.values() if not (arm.dense and options.attn_implementation == "flex_attention")]
        memory = _memory_of_all(arms, workload, options) if options.memory_batches else {}
        model = workload.model.to(options.device)
        if options.device == "cpu":
            keep_freed_memory()  # as in training; peaks are measured without it, as it would hide what is taken again
        agreement = _agreement(arms, workload, options)
        model.train()
        measured = _race(arms, workload, options)
        summary = summarise(arms, measured, memory)
        summary["products"] = _flops(summary["arms"], workload, options)
        for arm in arms:
            summary["arms"][arm.name]["parts"] = _parts(arm, workload, options)
        record = {
            "kind": "bench",
            "configuration": options.public(),
            "environment": environment(),
            "data": workload.data,
            "model": {
                "architecture": type(model).__name__,
                "parameters": sum(p.numel() for p in model.parameters()),
                "vocabulary_rows": model.get_input_embeddings().weight.shape[0],
                "tokenizer_tokens": len(workload.tokenizer),
            },
            "agreement": agreement,
            **summary,
            "load_average": {"before": load, "after": _load_average()},
        }
    finally:
        torch.set_num_threads(threads)
    return {**record, "wall_seconds": round(time.perf_counter() - began, 1)}


def use_device(options: BenchOptions) -> None:
    """Settle the device and set the threads asked for.

    Raises:
        UserError: there is no such device.
    """
    options.device = str(choose_device(options.device))
    if options.threads is not None:
        torch.set_num_threads(options.threads)


def _load_average() -> list[float] | None:
    return [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None


# -------- the race --------


def _race(arms: Sequence[Arm], workload: Workload, options: BenchOptions) -> dict[str, list[Measurement]]:
    """Every arm once a round; the order rotates, and is reversed every other round."""
    model, device = workload.model, options.device
    measured: dict[str, list[Measurement]] = {arm.name: [] for arm in arms}
    for number in tqdm(range(-options.warmup, options.rounds), desc="rounds", leave=False):
        rows = workload.microbatches[number % len(workload.microbatches)]
        first = number % len(arms)
        order = [*arms[first:], *arms[:first]][:: -1 if number % 2 else 1]
        gc.collect()
        for arm in order:
            start = time.perf_counter()
            batch = collate(arm.collation, workload.tokenizer, rows, options.predictors)
            layout = time.perf_counter() - start
            batch = {name: tensor.to(device) for name, tensor in batch.items()}
            with counting(model) as counts:
                seconds = _time_step(arm, model, batch, options)
            if number >= 0:  # rounds before are the warm-up
                masks = _time_masks(model, batch, device) if arm.name in SINGLE_PASS else 0.0
                tokens = sum(len(row["input_ids"]) for row in rows)
                measured[arm.name].append(Measurement(seconds, layout, masks, counts, tokens))
    return measured


def _time_step(arm: Arm, model: Any, batch: Batch, options: BenchOptions) -> float:
    """Seconds of one forward and backward, masks included; collation and optimizer are not."""
    model.zero_grad(set_to_none=True)
    _synchronise(options.device)
    start = time.perf_counter()
    with _precision(options):
        loss = arm.step(model, batch).total(options.lbd)
    loss.backward()
    _synchronise(options.device)
    return time.perf_counter() - start


def _precision(options: BenchOptions) -> torch.autocast:
    """What `--bf16` computes in; nothing without it."""
    return bfloat16_products(torch.device(options.device), options.bf16)


def _parts(arm: Arm, workload: Workload, options: BenchOptions) -> dict[str, float]:
    """Seconds of one step by part, on the first microbatch; `masks` is 0 where an arm has none of the package's."""
    batch = collate(arm.collation, workload.tokenizer, workload.microbatches[0], options.predictors)
    batch = {name: tensor.to(options.device) for name, tensor in batch.items()}
    with timing_parts(workload.model, lambda: _synchronise(options.device)) as seconds:
        total = _time_step(arm, workload.model, batch, options)
    masks = _time_masks(workload.model, batch, options.device) if arm.name in SINGLE_PASS else 0.0
    known = {**{part: seconds[part] for part in PARTS}, "masks": masks}
    return {**known, "rest": total - sum(known.values())}


def _flops(figures: dict[str, dict[str, Any]], workload: Workload, options: BenchOptions) -> dict[str, Any]:
    """What matrix products reach alone, and for every arm what it reaches in them and the share of that."""
    dtype = torch.bfloat16 if options.bf16 else workload.model.dtype
    tokens = round(statistics.fmean(workload.data["trunk_tokens"]))
    alone = product_rate(workload.model, tokens, dtype, lambda: _synchronise(options.device))
    for figure in figures.values():
        reached = (
            matrix_flops(workload.model, figure["decoder_tokens"], figure["head_rows"]) / (figure["seconds"]["median"])
        )
        figure["flops"] = {"per_second": reached, "share": reached / alone}
    return {"dtype": str(dtype).removeprefix("torch."), "flops_per_second": alone}


def _time_masks(model: Any, batch: Batch, device: str) -> float:
    _synchronise(device)
    start = time.perf_counter()
    attention_masks(model.config, batch, model.dtype)
    _synchronise(device)
    return time.perf_counter() - start


def _synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


@torch.no_grad()
def _agreement(arms: Sequence[Arm], workload: Workload, options: BenchOptions) -> dict[str, Any]:
    """Each arm's losses on the first microbatch, without dropout: the race is between equal results."""
    model = workload.model.eval()
    losses: dict[str, ArmLosses] = {}
    for arm in arms:
        batch = collate(arm.collation, workload.tokenizer, workload.microbatches[0], options.predictors)
        batch = {name: tensor.to(options.device) for name, tensor in batch.items()}
        with _precision(options):
            losses[arm.name] = arm.step(model, batch)
    lm = {name: float(own.lm) for name, own in losses.items()}
    jepa = {name: float(own.jepa) for name, own in losses.items() if own.jepa is not None}
    first_pair = [value for name, value in jepa.items() if not name.endswith("_all")]
    all_pairs = [value for name, value in jepa.items() if name.endswith("_all")]
    return {
        "lm_loss": lm,
        "jepa_loss": jepa,
        "lm_relative_difference": max(abs(value / lm["plain"] - 1) for value in lm.values()),
        "jepa_difference": max(max(values) - min(values) for values in (first_pair, all_pairs)),
    }


# -------- peak memory --------


def _memory_of_all(arms: Sequence[Arm], workload: Workload, options: BenchOptions) -> dict[str, dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="stepjepa-bench-") as folder:
        save_workload(workload, options, Path(folder))
        progress = tqdm(arms, desc="memory, arm by arm", leave=False)
        return {arm.name: _memory_in_own_process(arm.name, folder) for arm in progress}


def _memory_in_own_process(arm: str, folder: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "stepjepa", "bench", "--arm", arm, "--prepared", folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UserError(f"Measuring the memory of {arm} failed (exit {done.returncode}):\n{done.stderr[-2000:]}")
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def arm_memory(name: str, workload: Workload, options: BenchOptions) -> dict[str, Any]:
    """Peak memory of one arm in this process, see `peak_memory`; run it in a fresh one."""
    model, arm = workload.model.to(options.device).train(), ARMS[name]

    def work() -> None:
        for rows in workload.microbatches[: options.memory_batches]:
            model.zero_grad(set_to_none=True)
            batch = collate(arm.collation, workload.tokenizer, rows, options.predictors)
            batch = {key: tensor.to(options.device) for key, tensor in batch.items()}
            with _precision(options):
                loss = arm.step(model, batch).total(options.lbd)
            loss.backward()

    return {"arm": name, **peak_memory(work, options.device)}
