"""One configuration → one trained model and one result record.

`run_training` is what `stepjepa train` calls: data, model, accuracy before, training, accuracy after, files.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from scipy.stats import binomtest
from transformers.trainer_callback import ProgressCallback

from stepjepa.checkpoints import NoCheckpointError
from stepjepa.config import StepJEPAConfig
from stepjepa.evaluate import accuracy, generate_answers
from stepjepa.layout import IGNORE
from stepjepa.modeling import BUILTIN, load_model
from stepjepa.pairs import step_spans
from stepjepa.records import environment, write_json
from stepjepa.run_folder import Claim, OutputFolderError, claim_folder
from stepjepa.sources import format_report, read_examples
from stepjepa.steps import Splitter
from stepjepa.trainer import StepJEPATrainer

TEST_SEED = 1  # the test problems of seed 0 were looked at when the built-in learning rate was chosen


@dataclass
class RunOptions:
    """What a training run needs besides `StepJEPAConfig`: model, LoRA, data, accuracy."""

    model_name: str = field(default=BUILTIN, metadata={"help": "'builtin', a folder, or a Hub id."})
    train_file: list[str] = field(
        default_factory=lambda: ["builtin"],
        metadata={"help": "Training data: 'builtin', JSONL files (any form that prepare reads), or Hub data set ids."},
    )
    eval_file: list[str] = field(
        default_factory=list, metadata={"help": "Evaluation data, likewise; built-in problems have their own."}
    )
    lora: bool = field(default=False, metadata={"help": "Train LoRA adapters instead of all weights."})
    lora_rank: int = field(default=16, metadata={"help": "Rank of the LoRA adapters."})
    lora_alpha: int | None = field(default=None, metadata={"help": "LoRA alpha; twice the rank by default."})
    lora_dropout: float = field(default=0.05, metadata={"help": "Dropout inside the LoRA adapters."})
    dtype: str = field(default="float32", metadata={"help": "dtype of the weights: float32, bfloat16, float16, auto."})
    attn_implementation: str | None = field(
        default=None, metadata={"help": "sdpa, eager or flex_attention; the library's choice by default."}
    )
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a Hub model."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run Python code that comes with the model."})
    splitter: Splitter | None = field(
        default=None, metadata={"help": "How to find steps in unprepared data; see `stepjepa prepare --help`."}
    )
    problems: int = field(default=2000, metadata={"help": "How many built-in problems to train on."})
    problem_seed: int = field(default=0, metadata={"help": "Which built-in problems are drawn."})
    eval_problems: int = field(default=200, metadata={"help": "How many built-in problems to evaluate losses on."})
    accuracy_problems: int = field(
        default=200,
        metadata={"help": "Held-out problems to answer before and after training; needs evaluation data. 0: none."},
    )
    max_new_tokens: int = field(default=512, metadata={"help": "Longest response when measuring accuracy."})
    merge_lora: bool = field(default=False, metadata={"help": "Save a merged full model besides the adapter."})


class SetupError(ValueError):
    """A run could not be set up as asked; the message is that of whatever refused."""


def run_training(
    options: RunOptions, args: StepJEPAConfig, resume: str | bool | None = None, show_first: bool = False
) -> dict[str, Any]:
    """Train one model as configured and write model, record and loss curve into `args.output_dir`.

    It is the last thing a distributed process does: the process group is closed at the end.

    Args:
        options, args: the run; `args.output_dir` None takes a new numbered folder under `runs/`.
        resume: True (the newest complete checkpoint in `args.output_dir`) or the path of a checkpoint.
        show_first: print how the first training example was cut into steps and tokens.

    Returns:
        The record, as written to `record.json`.

    Raises:
        OutputFolderError, NoCheckpointError: see `claim_folder`.
        SetupError: whatever data, model or trainer refuse; the folder is given back if it was made for this run.
    """
    began = time.perf_counter()
    started_with = environment()  # now: the files on disk may change while a long run goes on
    state = PartialState()  # the process group is up: args have set the device
    claim = _claim(state, args.output_dir, resume)
    folder = claim.folder
    args.output_dir = str(folder)
    say = state.print
    say(f"output folder: {folder}")
    try:
        trainer, tokenizer, problems = _set_up(options, args, say)
    except (ValueError, TypeError, RuntimeError, ImportError, OSError) as error:
        # Nothing has run yet: what is wrong is a file, an option or a model, and its message says which.
        if state.is_main_process:
            claim.give_back()
        raise SetupError(str(error)) from error
    model: Any = trainer.model

    if show_first:
        rows: Any = trainer.train_dataset
        say(describe_row(rows[0], tokenizer))

    before = _measure(trainer, tokenizer, problems, options, "before")
    trained = trainer.train(resume_from_checkpoint=resume)
    after = _measure(trainer, tokenizer, problems, options, "after")
    trainer.save_model()
    if options.merge_lora and state.is_main_process:
        model.merge_and_unload().save_pretrained(folder / "merged")
        tokenizer.save_pretrained(folder / "merged")

    start = {name: value for name, value in before.items() if name.startswith("eval_")}
    history = [*([{"step": 0, **start}] if start else []), *trainer.state.log_history]
    record = {
        "configuration": {"run": asdict(options), "training": _plain(args)},
        "environment": started_with,
        "processes": state.num_processes,
        "data": {name: asdict(report) for name, report in trainer.token_reports.items()},
        "before": before,
        "after": after,
        "optimizer_steps": trained.global_step,
        "train_seconds": trained.metrics.get("train_runtime"),
        "wall_seconds": round(time.perf_counter() - began, 1),
        "log_history": history,
    }
    if state.is_main_process:
        from stepjepa.plots import loss_curves

        write_json(record, folder / "record.json")
        loss_curves(history, title=_title(options, args)).savefig(folder / "loss.png", dpi=150)
        say(summary_table(record, folder))
    state.wait_for_everyone()
    state.destroy_process_group()  # left open, its threads may abort the process on the way out
    return record


def _claim(state: PartialState, wanted: str | None, resume: str | bool | None) -> Claim:
    """The output folder, claimed by the first process for all of them."""
    claim: list[Any] = [None]
    if state.is_main_process:
        try:
            claim = [claim_folder(wanted, resume)]
        except (OutputFolderError, NoCheckpointError) as error:
            claim = [error]
    result = broadcast_object_list(claim)[0]
    if isinstance(result, Exception):
        raise result
    return result


def _set_up(options: RunOptions, args: StepJEPAConfig, say: Any) -> tuple[StepJEPATrainer, Any, list[dict]]:
    """Trainer, tokenizer, and held-out problems."""
    train, evaluation, problems = _data(options, say)
    model, tokenizer = load_model(
        options.model_name, predictors=args.predictors, lora=options.lora, lora_rank=options.lora_rank,
        lora_alpha=options.lora_alpha, lora_dropout=options.lora_dropout, dtype=options.dtype,
        attn_implementation=options.attn_implementation, revision=options.revision,
        trust_remote_code=options.trust_remote_code, seed=args.seed,
    )  # fmt: skip
    if options.merge_lora and not hasattr(model, "merge_and_unload"):
        raise ValueError("--merge_lora has nothing to merge: there is no LoRA adapter; add --lora.")
    trainer = StepJEPATrainer(
        model=model, args=args, train_dataset=train, eval_dataset=evaluation or None, processing_class=tokenizer
    )
    if trainer.pop_callback(ProgressCallback) is not None:
        trainer.add_callback(QuietProgress)
    for name, report in trainer.token_reports.items():
        say(f"{name}: {report}")
    return trainer, tokenizer, problems


def _data(options: RunOptions, say: Any) -> tuple[list[dict], list[dict], list[dict]]:
    """Training examples, evaluation examples, and held-out problems to answer."""
    train, report = read_examples(
        options.train_file, count=options.problems, seed=options.problem_seed, splitter=options.splitter
    )
    say(format_report(report))
    evaluation: list[dict] = []
    problems: list[dict] = []
    if options.eval_file:
        evaluation, report = read_examples(options.eval_file, count=options.eval_problems, splitter=options.splitter)
        say(format_report(report))
        problems = [example for example in evaluation if example.get("answer")]
    elif options.train_file == ["builtin"]:
        if options.eval_problems:
            evaluation, _ = read_examples("builtin", split="validation", count=options.eval_problems)
        if options.accuracy_problems:
            problems, _ = read_examples("builtin", split="test", count=options.accuracy_problems, seed=TEST_SEED)
    return train, evaluation, problems[: options.accuracy_problems]


def _measure(
    trainer: StepJEPATrainer, tokenizer: Any, problems: Sequence[Mapping[str, Any]], options: RunOptions, when: str
) -> dict[str, Any]:
    """Evaluation losses and accuracy; every process answers its share of the problems."""
    measured: dict[str, Any] = {}
    if trainer.eval_dataset is not None:
        kept = ("loss", "lm_loss", "jepa_loss", "retrieval", "retrieval_chance", "without_pair")
        metrics = trainer.evaluate()
        measured |= {name: value for name, value in metrics.items() if name.endswith(kept)}
    if problems:
        state = PartialState()
        mine = problems[state.process_index :: state.num_processes]
        results = generate_answers(
            trainer.model, tokenizer, mine, max_new_tokens=options.max_new_tokens,
            progress=state.is_main_process,
        )  # fmt: skip
        everyone = gather_object([{"correct": r["correct"], "truncated": r["truncated"]} for r in results])
        measured["accuracy"] = accuracy(everyone)
        right = sum(r["correct"] for r in everyone)
        interval = binomtest(right, len(everyone)).proportion_ci(method="wilson")
        measured["accuracy_interval"] = [interval.low, interval.high]  # 95%, over questions
        measured["accuracy_problems"] = len(everyone)
        measured["truncated"] = sum(r["truncated"] for r in everyone) / len(everyone)
        state.print(
            f"accuracy {when} training: {right} of {len(everyone)} held-out problems, {measured['accuracy']:.1%} "
            f"(95% interval {interval.low:.1%} to {interval.high:.1%})"
        )
    return measured


def describe_row(row: Mapping[str, Any], tokenizer: Any) -> str:
    """The steps of a tokenized row and the tokens they cover, a line each."""
    lines = [f"first example: {len(row['input_ids'])} tokens, {sum(x != IGNORE for x in row['labels'])} labelled"]
    for step, start, end in step_spans(row["step_ids"]):
        lines.append(f"  step {step + 1}: tokens {start}–{end - 1}: {tokenizer.decode(row['input_ids'][start:end])!r}")
    return "\n".join(lines)


def _plain(args: StepJEPAConfig) -> dict[str, Any]:
    """The training configuration as JSON values, without secrets."""
    return {name: value for name, value in args.to_dict().items() if "token" not in name or name.endswith("tokens")}


def _title(options: RunOptions, args: StepJEPAConfig) -> str:
    return (
        f"{Path(options.model_name).name}, λ = {args.lbd:g}, γ = {args.gamma:g}, {args.jepa_loss_type}, "
        f"{args.pairs} pairs, isolation {args.isolation}, seed {args.seed}"
    )


def summary_table(record: Mapping[str, Any], folder: Path) -> str:
    """First and last figures of a run as a small text table."""
    logs = [entry for entry in record["log_history"] if "lm_loss" in entry]
    rows: list[tuple[str, str, str]] = []

    def add(label: str, first: Any, last: Any, form: str = "{:.4f}") -> None:
        if first is not None or last is not None:
            shown = ["–" if value is None else form.format(value) for value in (first, last)]
            rows.append((label, shown[0], shown[1]))

    for name, label in (
        ("lm_loss", "lm_loss"), ("jepa_loss", "jepa_loss"), ("retrieval", "retrieval in the microbatch"),
        ("retrieval_chance", "  by chance"), ("target_spread", "target spread (0: collapse)"),
    ):  # fmt: skip
        values = [entry[name] for entry in logs if name in entry]
        if values:
            add(f"train {label}", values[0], values[-1])
    for name in ("lm_loss", "jepa_loss", "retrieval", "retrieval_chance"):
        add(f"eval {name}", record["before"].get(f"eval_{name}"), record["after"].get(f"eval_{name}"))
    count = record["after"].get("accuracy_problems")
    label = f"accuracy on {count} held-out problems"
    add(label, record["before"].get("accuracy"), record["after"].get("accuracy"), "{:.1%}")
    ends = [record[when].get("accuracy_interval", [None, None]) for when in ("before", "after")]
    for side, name in enumerate(("from", "to")):
        add(f"  95% interval, {name}", ends[0][side], ends[1][side], "{:.1%}")
    width = max(len(label) for label, _, _ in rows)
    lines = [f"{'':{width}}  {'first':>9}  {'last':>9}"]
    lines += [f"{label:{width}}  {first:>9}  {last:>9}" for label, first, last in rows]
    lines.append(
        f"{record['optimizer_steps']} optimizer steps, {record['wall_seconds']:.0f} s in all; model, record.json and "
        f"loss.png are in {folder}"
    )
    return "\n".join(["", *lines])


class QuietProgress(ProgressCallback):
    """The parent's progress bar, with the latest figures in it instead of a printed line per log."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Show the losses beside the bar."""
        if state.is_world_process_zero and self.training_bar is not None and logs:
            shown = {k: f"{logs[k]:.3f}" for k in ("lm_loss", "jepa_loss", "retrieval") if k in logs}
            if shown:
                self.training_bar.set_postfix(shown)
