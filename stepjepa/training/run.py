"""One configuration → one trained model and one result record.

`run_training` is what `stepjepa train` calls: data, model, accuracy before, training, accuracy after, files.
"""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, cast

from accelerate import PartialState
from accelerate.utils import gather_object
from transformers.trainer_callback import ProgressCallback, TrainerCallback

from stepjepa.environment import environment
from stepjepa.evaluation.results import share
from stepjepa.evaluation.scoring import accuracy, generate_answers
from stepjepa.evaluation.statistics import wilson
from stepjepa.models.checkpoint import locate_model
from stepjepa.models.loading import load_model
from stepjepa.models.speed import keep_freed_memory
from stepjepa.records import UserError, as_json, write_json, write_jsonl
from stepjepa.training.checkpoints import by_first_process, flush, staging
from stepjepa.training.config import StepJEPAConfig, plain_arguments, settings
from stepjepa.training.folder import Claim, claim_folder
from stepjepa.training.identity import content
from stepjepa.training.options import RunOptions
from stepjepa.training.splits import RunData, read_data
from stepjepa.training.summary import LastFigure, QuietProgress, describe_row
from stepjepa.training.targets import FROZEN_FILE
from stepjepa.training.trainer import StepJEPATrainer

HELD_OUT = "held_out.jsonl"
"""In the output folder: the training data that were kept for evaluation, for `stepjepa evaluate --test_file`."""

Say = Callable[[str], None]


def run_training(
    options: RunOptions,
    args: StepJEPAConfig,
    resume: str | bool | None = None,
    show_first: bool = False,
    say: Say = lambda _text: None,
) -> dict[str, Any]:
    """Train one model as configured and write model and record into `args.output_dir`.

    It is the last thing a distributed process does: the process group is closed at the end.

    Args:
        options, args: the run; `args.output_dir` None takes a new numbered folder under `runs/`, and is set to it.
        resume: True (the newest complete checkpoint in `args.output_dir`) or the path of a checkpoint.
        show_first: say how the first training example was cut into steps and tokens.
        say: called in the main process with what a user wants to know meanwhile.

    Returns:
        The record, as written to `record.json`.

    Raises:
        UserError: see `claim_folder`; or whatever data, model or trainer refuse: a folder that was made for this run
            goes again; or training diverged.
    """
    state = PartialState()  # the process group is up: args have set the device
    claim = _claim(state, args.output_dir, resume)
    args.output_dir = str(claim.folder)
    try:
        return _run(options, args, claim, show_first, say if state.is_main_process else lambda _text: None)
    finally:
        claim.release()


def _claim(state: PartialState, wanted: str | None, resume: str | bool | None) -> Claim:
    """The output folder, claimed by the first process for all of them."""
    mine: list[Claim] = []

    def claim() -> Claim:
        mine.append(claim_folder(wanted, resume))
        return replace(mine[0], lock=None)  # a lock is its process's own

    told = by_first_process(claim)
    return mine[0] if state.is_main_process else told


def _run(options: RunOptions, args: StepJEPAConfig, claim: Claim, show_first: bool, say: Say) -> dict[str, Any]:
    began = time.perf_counter()
    started_with = environment()  # now: the files on disk may change while a long run goes on
    state, folder = PartialState(), claim.folder
    say(f"output folder: {folder}")
    for line in claim.skipped:
        say(f"passed over, damaged: {line}")
    if claim.checkpoint is not None:
        say(f"going on from {claim.checkpoint}")
    try:
        trainer, tokenizer, data = _set_up(options, args, say)
        if claim.checkpoint is not None:
            trainer.check_goes_on(claim.checkpoint)
    except (ValueError, TypeError, RuntimeError, ImportError, OSError) as error:
        # Nothing has run yet: what is wrong is a file, an option or a model, and its message says which.
        raise UserError(str(error)) from error

    if args.device.type == "cpu":
        keep_freed_memory()
    if show_first:
        rows: Any = trainer.train_dataset
        say(describe_row(rows[0], tokenizer))

    before = _measure(trainer, tokenizer, data.problems, options, "before", say)
    trained = trainer.train(None if claim.checkpoint is None else str(claim.checkpoint))
    after = _measure(trainer, tokenizer, data.problems, options, "after", say)
    if not math.isfinite(after.get("eval_loss", 0.0)):
        raise UserError(
            f"the evaluation loss after training is {after['eval_loss']}: training diverged, and no model is written; "
            "lower --learning_rate"
        )
    _save(trainer, tokenizer, folder, options.merge_lora)

    start = {name: value for name, value in before.items() if name.startswith("eval_")}
    history = [*([{"step": 0, **start}] if start else []), *trainer.state.log_history]
    record: dict[str, Any] = as_json(
        {
            "configuration": {"run": asdict(options), "training": plain_arguments(args)},
            "settings": settings(options, args),
            "environment": started_with,
            "processes": state.num_processes,
            "system_prompt": usual_system_prompt(data.train),
            "digests": content(trainer),
            "data": {name: asdict(report) for name, report in trainer.token_reports.items()} | data.description(),
            "before": before,
            "after": after,
            "optimizer_steps": trained.global_step,
            "train_seconds": trained.metrics.get("train_runtime"),
            "wall_seconds": round(time.perf_counter() - began, 1),
            "log_history": history,
        }
    )
    if state.is_main_process:
        if data.held_out:
            write_jsonl(data.evaluation, folder / HELD_OUT)
        write_json(record, folder / "record.json")
    trainer.push(folder, stays=(HELD_OUT, FROZEN_FILE))  # they hold data
    state.wait_for_everyone()
    state.destroy_process_group()  # left open, its threads may abort the process on the way out
    return record


def _save(trainer: StepJEPATrainer, tokenizer: Any, folder: Path, merge: bool) -> None:
    """Write the model, and a merged one, into the output folder: each file whole or not at all."""
    mine, model = trainer.args.should_save, cast("Any", trainer.model)
    with staging(folder, "model", mine, trainer.accelerator.wait_for_everyone) as staged:
        trainer.save_model(str(staged / "whole"), _internal_call=True)  # else it would push what is staged
        if merge and mine:
            model.merge_and_unload().save_pretrained(staged / "whole" / "merged")
            tokenizer.save_pretrained(staged / "whole" / "merged")
        trainer.accelerator.wait_for_everyone()
        if mine:
            flush(staged)
            for path in sorted((staged / "whole").rglob("*")):
                final = folder / path.relative_to(staged / "whole")
                if path.is_dir():
                    final.mkdir(exist_ok=True)
                else:
                    os.replace(path, final)


def _set_up(options: RunOptions, args: StepJEPAConfig, say: Say) -> tuple[StepJEPATrainer, Any, RunData]:
    """Trainer, tokenizer and data."""
    data = read_data(options, say)
    model, tokenizer = load_run_model(options, args)
    if options.merge_lora and not hasattr(model, "merge_and_unload"):
        raise ValueError("--merge_lora has nothing to merge: there is no LoRA adapter; add --lora.")
    trainer = run_trainer(model, tokenizer, options, args, data.train, data.evaluation or None)
    trainer.add_callback(LastFigure)
    if trainer.pop_callback(ProgressCallback) is not None:
        trainer.add_callback(QuietProgress)
    for name, report in trainer.token_reports.items():
        say(f"{name}: {report}")
    return trainer, tokenizer, data


def run_trainer(
    model: Any,
    tokenizer: Any,
    options: RunOptions,
    args: StepJEPAConfig,
    train: Sequence[Mapping[str, Any]],
    evaluation: Sequence[Mapping[str, Any]] | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> StepJEPATrainer:
    """The trainer of a run, whose checkpoints are gone on with by the same options and model alone."""
    trainer = StepJEPATrainer(
        model=model,
        args=args,
        train_dataset=train,
        eval_dataset=evaluation,
        processing_class=tokenizer,
        callbacks=list(callbacks),
    )
    trainer.about_run = {
        part.name: getattr(options, part.name)
        for part in fields(options)
        if not {"measures", "runner"} & {*part.metadata}
    } | {"model weights": locate_model(options.model_name, options.revision).identity()}
    return trainer


def load_run_model(options: RunOptions, args: StepJEPAConfig) -> tuple[Any, Any]:
    """Model and tokenizer of a run; see `load_model`."""
    return load_model(
        options.model_name,
        predictors=args.predictors,
        lora=options.lora,
        lora_rank=options.lora_rank,
        lora_alpha=options.lora_alpha,
        lora_dropout=options.lora_dropout,
        lora_target_modules=options.lora_target_modules,
        dtype=options.dtype,
        attn_implementation=options.attn_implementation,
        revision=options.revision,
        trust_remote_code=options.trust_remote_code,
        seed=args.seed,
    )


def usual_system_prompt(examples: Sequence[Mapping[str, Any]]) -> str | None:
    """The most frequent system message of the examples; evaluation asks with the same one by default."""
    first = (example["messages"][0] for example in examples)
    return Counter(m["content"] if m["role"] == "system" else None for m in first).most_common(1)[0][0]


def _measure(
    trainer: StepJEPATrainer,
    tokenizer: Any,
    problems: Sequence[Mapping[str, Any]],
    options: RunOptions,
    when: str,
    say: Say,
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
            trainer.model, tokenizer, mine, max_new_tokens=options.max_new_tokens, progress=state.is_main_process
        )
        everyone = gather_object(
            [
                {"correct": r["correct"], "truncated": r["truncated"], "source": problem["source"]}
                for r, problem in zip(results, mine, strict=True)
            ]
        )
        measured["accuracy"] = accuracy(everyone)
        right = sum(r["correct"] for r in everyone)
        low, high = wilson(right, len(everyone))
        measured["accuracy_interval"] = [low, high]  # 95%, over questions
        measured["accuracy_problems"] = len(everyone)
        measured["truncated"] = sum(r["truncated"] for r in everyone) / len(everyone)
        say(
            f"accuracy {when} training: {right} of {len(everyone)} held-out problems, {measured['accuracy']:.1%} "
            f"(95% interval {low:.1%} to {high:.1%})"
        )
        by_source = {
            source: share(r["correct"] for r in everyone if r["source"] == source)
            for source in sorted({r["source"] for r in everyone})
        }
        if len(by_source) > 1:
            measured["accuracy_by_source"] = by_source
            for source, part in by_source.items():
                low, high = part["interval"]
                say(f"  {source}: {part['correct']} of {part['n']}, {part['accuracy']:.1%} ({low:.1%} to {high:.1%})")
    return measured
