"""What a step of Step-JEPA costs, beside plain fine-tuning and the usual alternatives.

All arms run once in every round on the same microbatch, so that a busy machine slows them alike; ratios are taken
within rounds and their median is quoted. Peak memory is measured with each arm in a fresh process of its own.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from stepjepa.experiments.bench_arms import ARMS, SINGLE_PASS, Arm, ArmLosses, Batch, collate, counting
from stepjepa.experiments.bench_memory import peak_memory
from stepjepa.experiments.bench_report import Times, summarise
from stepjepa.experiments.bench_setup import BenchError, BenchOptions, Workload, make_workload, save_workload
from stepjepa.jepa.architectures import check_architecture
from stepjepa.jepa.masks import attention_masks
from stepjepa.records import environment


def bench(options: BenchOptions) -> dict[str, Any]:
    """Run a benchmark.

    Returns:
        A record of JSON values: `configuration`, `environment`, `data`, `model`, `agreement` (the arms' losses on
        the first microbatch), `arms` (per arm: seconds, ratios, tokens per second, counts, peak memory), `layout`
        (the price of layout and masks), `comparisons` (other pairs of arms), `seconds` (every single time),
        `load_average`, `wall_seconds`. Times are in seconds, memory in bytes; spreads are median and quartiles.

    Raises:
        BenchError: if CUDA is asked for and absent, or too few examples have two steps.
        UserError, ModelLoadError, UnsupportedArchitectureError: if data or model cannot be used.
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
        agreement = _agreement(arms, workload, options)
        model.train()
        times = _race(arms, workload, options)
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
            **summarise(arms, times, memory),
            "load_average": {"before": load, "after": _load_average()},
        }
    finally:
        torch.set_num_threads(threads)
    return {**record, "wall_seconds": round(time.perf_counter() - began, 1)}


def use_device(options: BenchOptions) -> None:
    """Set the threads asked for; raise `BenchError` if CUDA is asked for and absent."""
    if options.device == "cuda" and not torch.cuda.is_available():
        raise BenchError("CUDA is not available: this machine or this build of PyTorch has none. Use --device cpu.")
    if options.threads is not None:
        torch.set_num_threads(options.threads)


def _load_average() -> list[float] | None:
    return [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None


# -------- the race --------


def _race(arms: Sequence[Arm], workload: Workload, options: BenchOptions) -> Times:
    """Every arm once a round; the order rotates, and is reversed every other round."""
    times, model, device = Times(arms), workload.model, options.device
    for number in tqdm(range(-options.warmup, options.rounds), desc="rounds", leave=False):
        counted = number >= 0
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
            if not counted:
                continue
            times.arms[arm.name].append(seconds)
            times.counts[arm.name].append(counts)
            if arm.name in SINGLE_PASS:
                times.layout[arm.name].append(layout)
                times.masks[arm.name].append(_time_masks(model, batch, device))
        if counted:
            times.trunk_tokens.append(sum(len(row["input_ids"]) for row in rows))
    return times


def _time_step(arm: Arm, model: Any, batch: Batch, options: BenchOptions) -> float:
    """Seconds of one forward and backward, masks included; collation and optimizer are not."""
    model.zero_grad(set_to_none=True)
    _synchronise(options.device)
    start = time.perf_counter()
    arm.step(model, batch).total(options.lbd).backward()
    _synchronise(options.device)
    return time.perf_counter() - start


def _time_masks(model: Any, batch: Batch, device: str) -> float:
    _synchronise(device)
    start = time.perf_counter()
    attention_masks(model.config, batch, model.dtype)
    _synchronise(device)
    return time.perf_counter() - start


def _synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


@torch.no_grad()
def _agreement(arms: Sequence[Arm], workload: Workload, options: BenchOptions) -> dict[str, Any]:
    """Each arm's losses on the first microbatch, without dropout: the race is between equal results."""
    model = workload.model.eval()
    losses: dict[str, ArmLosses] = {}
    for arm in arms:
        batch = collate(arm.collation, workload.tokenizer, workload.microbatches[0], options.predictors)
        losses[arm.name] = arm.step(model, {name: tensor.to(options.device) for name, tensor in batch.items()})
    lm = {name: float(each.lm) for name, each in losses.items()}
    jepa = {name: float(each.jepa) for name, each in losses.items() if each.jepa is not None}
    first = [value for name, value in jepa.items() if not name.endswith("_all")]
    every = [value for name, value in jepa.items() if name.endswith("_all")]
    return {
        "lm_loss": lm,
        "jepa_loss": jepa,
        "lm_relative_difference": max(abs(value / lm["plain"] - 1) for value in lm.values()),
        "jepa_difference": max(max(values) - min(values) for values in (first, every)),
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
        raise BenchError(f"Measuring the memory of {arm} failed (exit {done.returncode}):\n{done.stderr[-2000:]}")
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
            arm.step(model, batch).total(options.lbd).backward()

    return {"arm": name, **peak_memory(work, options.device)}
