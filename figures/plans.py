"""Hold plans against runs, and write the record: `python figures/plans.py --gsm8k FILE [--smollm2 FOLDER]`.

For each setting `stepjepa plan` plans a short run, then the run is made, each in a process of its own on one thread:
processor seconds of its optimizer steps, and the most memory while it trains. Then it is made once more with an
allocator that gives back each freed tensor at once, so that memory is what tensors take: what a plan for another device
traces from shapes. What the record holds is not run again (but with `--again`), and several processes may share the
work (`--models`). The settings with and without activation checkpointing say what that costs. The random Llama is made
on the spot.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stepjepa.environment import environment
from stepjepa.experiments.plan_memory import traced_growth
from stepjepa.records import Lock, read_json, write_json

ROWS = {"SmolLM2-135M": 16, "builtin": 48, "random": 16}
RUN = "--num_train_epochs 1 --eval_file none --save_strategy no --report_to none --disable_tqdm true --seed 0".split()
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""For glibc's allocator: each tensor has pages of its own, which go when it goes."""
SIZE = "--per_device_train_batch_size 4 --gradient_accumulation_steps 2".split()
SETTINGS: dict[str, dict[str, str]] = {
    "SmolLM2-135M": {
        "all weights": "",
        "LoRA": "--lora",
        "all weights, checkpointing": "--activation_checkpointing",
        "all weights, bf16": "--bf16",
    },
    "random": {
        "all weights": "",
        "all weights, checkpointing": "--activation_checkpointing",
        "LoRA, bf16, all pairs": "--lora --bf16 --pairs consecutive",
    },
    "builtin": {"all weights": "", "all weights, bf16": "--bf16"},
}


def measure(words: Sequence[str]) -> dict[str, Any]:
    """Make the run in this process: processor seconds of its optimizer steps, and peak memory."""
    from transformers import TrainerCallback

    from stepjepa.commands.train import parse_train
    from stepjepa.experiments.benchmark_arms import peak_memory
    from stepjepa.models.speed import keep_freed_memory
    from stepjepa.training.run import load_run_model
    from stepjepa.training.splits import read_data
    from stepjepa.training.trainer import StepJEPATrainer

    clocks: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_args: Any, **_options: Any) -> None:
            clocks.append(time.process_time())

        def on_step_end(self, *_args: Any, **_options: Any) -> None:
            clocks.append(time.process_time())

    options, args, *_ = parse_train(words)
    data = read_data(options, lambda _line: None)
    model, tokenizer = load_run_model(options, args)
    trainer = StepJEPATrainer(
        model=model, args=args, train_dataset=data.train, processing_class=tokenizer, callbacks=[Clock()]
    )
    if not GIVE_BACK.items() <= os.environ.items():
        keep_freed_memory()  # as `stepjepa train` does
    memory = peak_memory(lambda: trainer.train(), "cpu")
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {"seconds": clocks[-1] - clocks[0], "optimizer_steps": len(clocks) // 2, "losses": losses, **memory}


def random_llama(folder: Path, file: Path) -> None:
    """A Llama of 26 million parameters with a tokenizer of 8,192 tokens trained on the file's text."""
    from stepjepa.data.sources import read_examples
    from stepjepa.experiments.benchmark_workload import random_llama as make
    from stepjepa.experiments.benchmark_workload import train_tokenizer
    from stepjepa.experiments.options import BenchOptions

    examples, _ = read_examples([str(file)])
    options = BenchOptions(hidden_size=512, layers=6, heads=8, vocab_size=8192)
    tokenizer = train_tokenizer((m["content"] for e in examples for m in e["messages"]), options.vocab_size, 1)
    make(options, tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def run(*words: str, **variables: str) -> str:
    """The last line that this script prints in a fresh process of one thread, with variables in its environment."""
    done = subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}:\n{done.stderr[-3000:]}")
    return done.stdout.strip().splitlines()[-1]


def main() -> None:
    """Run all settings and write the record after each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gsm8k", type=Path, required=True, help="GSM8K's training file")
    parser.add_argument("--smollm2", type=Path, help="folder of SmolLM2-135M-Instruct; left out without it")
    parser.add_argument("--models", nargs="+", choices=SETTINGS, default=[*SETTINGS])
    parser.add_argument("--output_file", type=Path, default=Path(__file__).parent / "data" / "plans.json")
    parser.add_argument("--again", action="store_true", help="run also what the record holds")
    parser.add_argument("--measure", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure is not None:
        print(json.dumps(measure(given.measure)))
        return
    with tempfile.TemporaryDirectory(prefix="stepjepa-plans-") as name:
        folder = Path(name)
        if "random" in given.models:
            random_llama(folder / "random", given.gsm8k)
        lines = given.gsm8k.read_text(encoding="utf-8").splitlines(keepends=True)
        models = {"builtin": "builtin", "random": str(folder / "random"), "SmolLM2-135M": str(given.smollm2)}
        for model in given.models:
            if model == "SmolLM2-135M" and given.smollm2 is None:
                continue
            file = folder / f"{ROWS[model]}.jsonl"
            file.write_text("".join(lines[: ROWS[model]]), encoding="utf-8")
            for setting, options in SETTINGS[model].items():
                if not given.again and find(model, setting, given.output_file):
                    continue
                words = ["--model_name", models[model], "--train_file", str(file), *RUN, *SIZE, *options.split()]
                words += ["--output_dir", str(folder / "out")]
                run("-m", "stepjepa", "plan", *words, "--output_file", str(folder / "plan.json"))
                planned = read_json(folder / "plan.json")
                words = [__file__, "--gsm8k", str(given.gsm8k), "--measure", *words]
                measured, tensors = json.loads(run(*words)), json.loads(run(*words, **GIVE_BACK))
                entry = {
                    "model": model,
                    "setting": setting,
                    "options": options,
                    "plan": {part: planned[part] for part in ("parameters", "memory", "data", "time")},
                    "run": measured,
                    "tensors": {name: size for name, size in tensors.items() if name.endswith("_bytes")},
                    "environment": environment(),
                }
                add(entry, given.output_file)
                print(model, setting, *(f"{ratio:.2f}" for ratio in ratios(entry)), flush=True)


def finished(path: Path) -> list[dict[str, Any]]:
    """The settings in the record."""
    found: list[dict[str, Any]] = read_json(path)["settings"] if path.exists() else []
    return found


def find(model: str, setting: str, path: Path) -> list[dict[str, Any]]:
    """What the record holds of a setting."""
    return [one for one in finished(path) if (one["model"], one["setting"]) == (model, setting)]


def add(entry: dict[str, Any], path: Path) -> None:
    """Write a setting into the record, beside those of other processes and in the place of its own earlier one."""
    lock = Lock(path.with_name(f".{path.name}.lock"), path)
    while not lock.take():
        time.sleep(0.1)
    try:
        others = [one for one in finished(path) if one not in find(entry["model"], entry["setting"], path)]
        write_json({"kind": "plans", "size": SIZE, "rows": ROWS, "settings": [*others, entry]}, path)
    finally:
        lock.free()


def ratios(entry: dict[str, Any]) -> tuple[float, float, float]:
    """Planned time, planned memory, and what tensors grow by as traced from shapes, relative to what was measured."""
    planned, measured = entry["plan"], entry["run"]
    memory = planned["memory"]
    return (
        planned["time"]["seconds"] / measured["seconds"],
        memory["peak"] / measured["peak_bytes"],
        traced_growth(memory) / entry["tensors"]["growth_bytes"],
    )


if __name__ == "__main__":
    main()
