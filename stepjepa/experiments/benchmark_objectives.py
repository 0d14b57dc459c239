"""What an optimizer step costs under each objective, beside one of plain fine-tuning: `stepjepa bench --objectives`.

Each objective has a trainer and a model of its own. In every round each of them takes one optimizer step of the same
microbatches, in an order that rotates, so that a busy machine slows them alike. What is timed is the trainer's step as
it is: passes, backward, what the objective adds (a queue, a running mean), the optimizer. Plain fine-tuning is the same
trainer at λ = 0, with the head on labelled positions only. What comes before the first step, such as the file of frozen
targets, is not timed.
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers.trainer_callback import PrinterCallback, TrainerCallback

from stepjepa.environment import environment
from stepjepa.experiments.benchmark import use_device
from stepjepa.experiments.benchmark_report import spread
from stepjepa.experiments.benchmark_workload import Workload, make_workload
from stepjepa.experiments.options import BenchOptions, cost_of
from stepjepa.jepa.architectures import check_trainable
from stepjepa.models.speed import keep_freed_memory
from stepjepa.models.vocabulary import add_predictor_tokens, initialise_rows
from stepjepa.records import UserError, text_table
from stepjepa.training.config import StepJEPAConfig
from stepjepa.training.trainer import StepJEPATrainer

MICROBATCHES = 2
"""Of an optimizer step, so that what sees the whole step sees more than one."""
HORIZONS = 3
PLAIN = "plain"
FIRST_PASS, FROM_FILE = "recomputed", "from its file"
"""In the first pass over the data each target of a frozen model is computed once; later it is read."""
INFONCE = {"jepa_loss_type": "infonce", "pooling": "mean"}
FROZEN = INFONCE | {"pairs": "consecutive", "target_model": "frozen", "target_scale": "zscore", "head": "linear"}
"""The named configuration."""
WITH_PAIRS: dict[str, dict[str, Any]] = {
    "cosine": {},
    "InfoNCE": INFONCE,
    "InfoNCE, queue of 512": INFONCE | {"queue": 512},
    "InfoNCE, whole step": INFONCE | {"whole_step": True},
    f"frozen target, {FIRST_PASS}": {"target_model": "frozen"},
    f"frozen target, {FROM_FILE}": {"target_model": "frozen"},
    "target of the running mean": {"target_model": "ema"},
    "VICReg": {"regularisers": ["variance=1", "covariance=0.04"]},
    "SIGReg": {"regularisers": ["sigreg=0.05"]},
    "smooth L1 + KL": {"jepa_loss_type": "smooth_l1", "target_gradient": False, "kl": 1.0},
    "linear head": {"head": "linear"},
    "MLP head": {"head": "mlp"},
}
"""Objectives that are timed on first and on all consecutive pairs; "cosine" on first pairs is `classic`."""
WITH_THEIR_OWN: dict[str, dict[str, Any]] = {
    "horizons 1 to 3": INFONCE | {"pairs": "horizons", "horizon": HORIZONS, "predictors": HORIZONS},
    "hierarchy": INFONCE | {"pairs": "hierarchy"},
    f"configuration frozen, {FIRST_PASS}": FROZEN,
    f"configuration frozen, {FROM_FILE}": FROZEN,
    "llm-jepa": {"pairs": "question_answer"},
    "nextlat": {"jepa_loss_type": "nextlat"},
    "mtp": {"jepa_loss_type": "mtp"},
    "stp": {"jepa_loss_type": "stp"},
    "ssp": {"jepa_loss_type": "ssp"},
}
LINES: dict[str, dict[str, Any]] = (
    {PLAIN: {"lbd": 0.0}}
    | {
        f"{name}; {words}": options | {"pairs": pairs}
        for name, options in WITH_PAIRS.items()
        for pairs, words in (("first", "first pairs"), ("consecutive", "all pairs"))
    }
    | WITH_THEIR_OWN
)
"""Name → options of a run; what stands behind ";" says which pairs."""


class Timer(TrainerCallback):
    """Seconds from the first microbatch of an optimizer step to the end of the step."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.began, self.seconds = device, 0.0, 0.0

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """The microbatches are there."""
        self.began = self._now()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Weights and running means have moved."""
        self.seconds = self._now() - self.began

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


class Line:
    """A trainer of one objective, with a model of its own."""

    def __init__(
        self, name: str, asked: Mapping[str, Any], workload: Workload, options: BenchOptions, folder: Path
    ) -> None:
        self.name = name
        args = StepJEPAConfig(
            output_dir=str(folder / str(len(list(folder.iterdir())))),
            per_device_train_batch_size=options.batch_size,
            gradient_accumulation_steps=MICROBATCHES,
            max_steps=1,
            use_cpu=options.device == "cpu",
            bf16=options.bf16,
            learning_rate=1e-4,
            lr_scheduler_type="constant",
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            **{"lbd": options.lbd, **asked},
        )
        Path(str(args.output_dir)).mkdir()
        self.rows = [row for batch in workload.microbatches for row in batch]
        model = copy.deepcopy(workload.model).to(options.device)
        tokenizer = workload.tokenizer
        self.trainer = StepJEPATrainer(model, args, train_dataset=self.rows, processing_class=tokenizer)
        self.trainer.remove_callback(PrinterCallback)
        self.timer = Timer(args.device)
        self.trainer.add_callback(self.timer)
        self.trainer.measure_targets()
        if FIRST_PASS in name:
            self.trainer._known = None

    def step(self, number: int) -> float:
        """Seconds of an optimizer step on the microbatches of round `number`."""
        size = MICROBATCHES * self.trainer.args.per_device_train_batch_size
        start = number * size % (len(self.rows) - size + 1)
        self.trainer.train_dataset = self.rows[start : start + size]
        self.trainer.train()
        return self.timer.seconds


def bench_objectives(options: BenchOptions, names: Sequence[str] = ()) -> dict[str, Any]:
    """Run the race.

    Args:
        names: of `LINES`, as they are or without what stands behind ";"; all by default. "plain" always runs.

    Returns:
        A record of JSON values: `configuration`, `environment`, `data`, `arms` (name → `options`, `cost` (see
        `cost_of`; "later passes" of what reads its targets), `seconds` and `ratio` to plain, within rounds, as median
        and quartiles), `seconds`, `wall_seconds`.

    Raises:
        UserError: an unknown name, or as `bench`.
    """
    began = time.perf_counter()
    lines = {name: asked for name, asked in LINES.items() if not names or {name, name.partition(";")[0]} & {*names}}
    if unknown := {*names} - {*LINES, *(name.partition(";")[0] for name in LINES)}:
        raise UserError(f"--lines {sorted(unknown)[0]!r}: the objectives are {', '.join(WITH_PAIRS | WITH_THEIR_OWN)}")
    lines = {PLAIN: LINES[PLAIN]} | lines
    if options.predictors != 1:
        raise UserError("--predictors: with --objectives each line has those that its own options ask for")
    threads = torch.get_num_threads()
    use_device(options)
    try:
        rounds = options.warmup + options.rounds
        workload = make_workload(replace(options, rounds=MICROBATCHES * rounds, memory_batches=0))
        rows = sum(map(len, workload.microbatches))
        if rows < (needed := MICROBATCHES * options.batch_size):
            raise UserError(f"a step takes {needed} rows, and there are {rows}: more data, or a smaller --batch_size")
        check_trainable(workload.model)
        added = add_predictor_tokens(workload.tokenizer, HORIZONS)
        initialise_rows(workload.model, workload.tokenizer, added, options.seed)
        if options.device == "cpu":
            keep_freed_memory()
        seconds: dict[str, list[float]] = {name: [] for name in lines}
        with tempfile.TemporaryDirectory(prefix="stepjepa-bench-") as folder:
            race = [Line(name, asked, workload, options, Path(folder)) for name, asked in lines.items()]
            for number in tqdm(range(rounds), desc="rounds", unit="round"):
                turn = number % len(race)
                for line in race[turn:] + race[:turn]:
                    seconds[line.name].append(line.step(number))
    finally:
        torch.set_num_threads(threads)
    counted = {name: own[options.warmup :] for name, own in seconds.items()}
    return {
        "kind": "bench of objectives",
        "configuration": options.public() | {"microbatches": MICROBATCHES},
        "environment": environment(),
        "data": {key: value for key, value in workload.data.items() if key != "trunk_tokens"},
        "arms": {
            name: {
                "options": asked,
                "cost": _cost(name, asked),
                "seconds": spread(counted[name]),
                "ratio": spread([own / plain for own, plain in zip(counted[name], counted[PLAIN], strict=True)]),
            }
            for name, asked in lines.items()
        },
        "seconds": counted,
        "wall_seconds": round(time.perf_counter() - began, 1),
    }


def _cost(name: str, asked: Mapping[str, Any]) -> str:
    if FROM_FILE in name:
        return "later passes"
    return cost_of({option: value for option, value in asked.items() if value != "first"})


def objectives_text(record: Mapping[str, Any]) -> str:
    """The record as lines of text."""
    rows = [["objective", "ms", "× plain", "[quartiles]"]]
    for name, arm in record["arms"].items():
        ratio = arm["ratio"]
        shown = f"[{ratio['q1']:.2f}–{ratio['q3']:.2f}]"
        rows.append([name, f"{1000 * arm['seconds']['median']:.0f}", f"{ratio['median']:.2f}", shown])
    options = record["configuration"]
    rounds = f"{options['rounds']} rounds; medians"
    head = f"optimizer steps of {options['microbatches']} × {options['batch_size']} rows, {rounds}"
    return "\n".join([head, *text_table(rows)])
