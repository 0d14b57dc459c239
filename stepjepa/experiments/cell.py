"""One cell of a grid → one record: train, measure on the validation and on the test split.

Measured alike for every arm, whatever it was trained with: language-modelling loss, greedy answers, and the views of
all consecutive pairs with isolated targets, as the arm's objective compares them (its head, layer, pooling and scale).
A split of several sources is measured as a whole and source by source, each among its own steps alone. A choice looks
at the validation split only; the test split is for claims. Where a grid asks for it, wrong steps planted in built-in
problems are looked for, as `stepjepa score --detect` does.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.trainer_callback import PrinterCallback, ProgressCallback, TrainerCallback

from stepjepa.analysis.detection import detect_compact, right_and_wrong
from stepjepa.analysis.embeddings import Embeddings
from stepjepa.analysis.encode import encode_examples, with_system_prompt
from stepjepa.analysis.energies import Candidate, StepViews, ZScore, encode_candidates, own_steps
from stepjepa.analysis.measurements import Ranks, pair_views, true_ranks
from stepjepa.analysis.trained import AS_IT_IS, Reading, predicts_at_predictor
from stepjepa.data.origins import is_builtin
from stepjepa.data.sources import read_examples
from stepjepa.data.stories import generate_stories
from stepjepa.evaluation.results import question_ids
from stepjepa.evaluation.scoring import generate_answers
from stepjepa.experiments.grid import Cell, CellOptions, set_by_runner
from stepjepa.experiments.store import FINISHED, KIND
from stepjepa.jepa.metrics import metrics_of
from stepjepa.records import as_json
from stepjepa.training.checkpoints import NoCheckpointError, newest_complete
from stepjepa.training.config import StepJEPAConfig, plain_arguments
from stepjepa.training.identity import content
from stepjepa.training.run import load_run_model, run_trainer, usual_system_prompt
from stepjepa.training.splits import TEST_SEED, drawn_kinds, mixed, one_in_turn, read_training
from stepjepa.training.trainer import StepJEPATrainer

LOGGING_STEPS = 8
SCALE_PROBLEMS = 100
CURVES = (
    "step",
    "loss",
    "lm_loss",
    "jepa_loss",
    "grad_norm",
    "learning_rate",
    "retrieval",
    "target_spread",
    "without_pair",
)

Split = list[dict[str, Any]]


def run_cell(
    cell: Cell,
    folder: Path,
    environment: Mapping[str, Any],
    keep_questions: Callable[[Sequence[str]], str],
    save_steps: int,
    callbacks: Sequence[TrainerCallback] = (),
) -> dict[str, Any]:
    """Train and measure a cell, going on from the newest complete checkpoint in `folder`.

    Args:
        folder: for checkpoints.
        environment: of this process when it started.
        keep_questions: stores the names of a split's questions and returns their digest.
        save_steps: optimizer steps between checkpoints, a multiple of `LOGGING_STEPS`: the means of an interval would
            not survive a resume within it.
        callbacks: of the trainer.

    Returns:
        The record. Everything but `attempt`, which has the times, is the same however often the cell was interrupted.
    """
    began, started = time.perf_counter(), time.time()
    options, args = cell.configure(
        output_dir=str(folder),
        logging_steps=LOGGING_STEPS,
        save_strategy="steps",
        save_steps=save_steps,
        save_total_limit=1,
        report_to="none",
        disable_tqdm=True,
    )
    train, validation, test = cell_data(options)
    model, tokenizer = load_run_model(options, args)
    trainer = run_trainer(model, tokenizer, options, args, train, callbacks=callbacks)
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    checkpoint = _newest(folder)
    trained = trainer.train(resume_from_checkpoint=checkpoint)
    ready = time.perf_counter()
    measured = {
        name: measure_split(trainer, tokenizer, examples, options, keep_questions)
        for name, examples in (("validation", validation), ("test", test))
    }
    if options.detect_problems:
        prompt = usual_system_prompt(train)
        measured["detection"] = measure_detection(trainer, tokenizer, options.detect_problems, prompt)
    ended = time.perf_counter()
    return {
        "kind": KIND,
        "status": FINISHED,
        "address": cell.address,
        "cell": cell.options,
        "seed": cell.seed,
        "configuration": configuration(options, args),
        "environment": dict(environment),
        "digests": content(trainer),
        "data": {name: asdict(report) for name, report in trainer.token_reports.items() if name == "train"},
        "optimizer_steps": trained.global_step,
        "train": curves(trainer.state.log_history),
        **measured,
        "attempt": {
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
            "resumed_at_step": 0 if checkpoint is None else int(Path(checkpoint).name.rpartition("-")[2]),
            "train_seconds": round(ready - began, 2),
            "measure_seconds": round(ended - ready, 2),
            "wall_seconds": round(ended - began, 2),
        },
    }


def cell_data(options: CellOptions) -> tuple[Split, Split, Split]:
    """Training examples, validation and test split.

    Raises:
        UserError: a source cannot be read.
        ValueError: fewer training examples than asked for, or a split without answers.
    """
    groups = read_training(options, lambda _text: None)
    train, _ = mixed(groups, [example for group in groups for example in group], options)
    if options.train_examples is not None:
        if len(train) < options.train_examples:
            raise ValueError(f"train_examples={options.train_examples}: the training data has {len(train)}")
        random.Random(f"training examples {options.problem_seed}").shuffle(train)
        train = train[: options.train_examples]
    splits = []
    for split, files, count, seed in (
        ("validation", options.eval_file, options.eval_problems, 0),
        ("test", options.test_file, options.accuracy_problems, TEST_SEED),
    ):
        # `split` is that of the built-in problems and of Hub data sets; a file is what it is.
        sources = files or drawn_kinds(options)
        examples, _ = read_examples(sources, count=count, split=split, seed=seed, splitter=options.splitter)
        answered = one_in_turn([example for example in examples if example.get("answer")])
        answered = answered[: count * max(1, sum(map(is_builtin, sources)))]
        if not answered:
            raise ValueError(f"the {split} split has no example with an answer")
        splits.append(answered)
    return train, splits[0], splits[1]


def _newest(folder: Path) -> str | None:
    try:
        return str(newest_complete(folder)[0])
    except NoCheckpointError:
        return None


def measure_split(
    trainer: StepJEPATrainer,
    tokenizer: Any,
    examples: Split,
    options: CellOptions,
    keep_questions: Callable[[Sequence[str]], str],
) -> dict[str, Any]:
    """Everything that a record says about one split, and in `by_source` the same about each of several sources."""
    losses = trainer.evaluate(examples, metric_key_prefix="split")  # type: ignore[arg-type]
    answers = generate_answers(
        trainer.model, tokenizer, examples, max_new_tokens=options.max_new_tokens, progress=False
    )
    layout, ids = trainer.args.layout, question_ids(examples)
    embeddings = encode_examples(
        trainer.model,
        tokenizer,
        examples,
        ids=ids,
        layout=replace(layout.consecutive(), isolation="step"),
        progress=False,
        encode=trainer.compared_views,
    )

    place = {name: number for number, name in enumerate(embeddings.ids)}  # without those of which no step fits

    def measured(prefix: str, own: np.ndarray) -> dict[str, Any]:
        correct = "".join(str(int(answers[number]["correct"])) for number in own)
        embedded = [place[ids[number]] for number in own if ids[number] in place]
        if not embedded:
            raise ValueError(f"no step of any example of {prefix} fits into max_length")
        return {
            "questions": keep_questions(question_ids([examples[number] for number in own])),
            "correct": correct,
            "accuracy": correct.count("1") / len(correct),
            "truncated": sum(answers[number]["truncated"] for number in own) / len(own),
            "lm_loss": _number(losses[f"{prefix}_lm_loss"]),
            "jepa_loss": _number(losses.get(f"{prefix}_jepa_loss")),
            "representations": representations(embeddings.take(np.array(embedded))),
        }

    whole = measured("split", np.arange(len(examples)))
    sources = np.array([example["source"] for example in examples])
    if len(names := sorted(set(sources))) < 2:
        return whole
    by_source = {name: measured(f"split_{name}", np.flatnonzero(sources == name)) for name in names}
    return whole | {"by_source": by_source}


def representations(embeddings: Embeddings) -> dict[str, dict[str, float | None]]:
    """Are views aligned, or all alike? Of all `consecutive` pairs of a set, and of the `first` of each problem.

    The figures are those of `METRICS`. `_all` is retrieval of the true next step among the targets of all steps, `_own`
    among those of the same problem, with the levels of chance; steps with the same text do not compete, and the
    candidates of a first pair are all targets too. A diverged model, whose views are not finite, has none of these
    figures.
    """
    first = embeddings.context_step == 0
    if not (np.isfinite(embeddings.context).all() and np.isfinite(embeddings.target).all()):
        return {"consecutive": {"pairs": len(first)}, "first": {"pairs": int(first.sum())}}
    ranks = true_ranks(embeddings)
    return {
        "consecutive": _representations(embeddings, ranks, np.ones_like(first)),
        "first": _representations(embeddings, ranks, first),
    }


def _representations(embeddings: Embeddings, ranks: Mapping[str, Ranks], chosen: np.ndarray) -> dict[str, float | None]:
    """The figures of the chosen pairs, `chosen` `[P]` booleans."""
    figures: dict[str, Any] = {"pairs": chosen.sum()}
    for where, among in ranks.items():
        rows = torch.from_numpy(chosen[among.rows])
        for name, metric in metrics_of("ranks", "ablate").items():
            figures[f"{name}_{where}"] = metric.value(among.ranks[rows])
            figures[f"{name}_{where}_chance"] = metric.by_chance(among.sizes[rows])
    context, target = (view[torch.from_numpy(chosen)] for view in pair_views(embeddings))
    for name, metric in metrics_of("pairs", "ablate").items():
        figures[name] = metric.value(context, target)
    for view, vectors in (("context", context), ("target", target)):
        for name, metric in metrics_of("view", "ablate").items():
            figures[f"{name}_{view}"] = metric.value(vectors)
    return {name: _number(value) for name, value in figures.items()}


def measure_detection(
    trainer: StepJEPATrainer, tokenizer: Any, problems: int, system_prompt: str | None
) -> dict[str, Any]:
    """How well energy and log-probability find wrong steps planted in built-in test problems; see `detect_compact`.

    The energies are those of `stepjepa score` for this run: its distance, head, layers and scale, its own target views,
    context views at predictor tokens where they were trained, each dimension z-scored on validation problems.
    """
    args = trainer.args
    at_predictor = predicts_at_predictor(vars(args))
    reading = AS_IT_IS
    if at_predictor:
        elsewhere = None if args.target_model == "own" else trainer.other_model
        objective = trainer.objective.eval()
        reading = Reading(objective, args.target_layer, args.target_top, elsewhere, args.target_model)
    drawn = generate_stories(problems, TEST_SEED, "test")
    examples, others = (
        with_system_prompt(read_examples("builtin", split=split, count=count, seed=TEST_SEED)[0], system_prompt)
        for split, count in (("test", problems), ("validation", SCALE_PROBLEMS))
    )

    def views(examples: Split, candidates: Sequence[Candidate], likelihood: bool) -> StepViews:
        return encode_candidates(
            trainer.model,
            tokenizer,
            examples,
            candidates,
            layout=replace(args.layout, max_length=None),
            reading=reading,
            at_step_end=not at_predictor,
            likelihood=likelihood,
            progress=False,
        )

    steps = right_and_wrong(drawn)
    scale = ZScore.fit(views(others, own_steps(others, first=1), likelihood=False))
    found = detect_compact(views(examples, steps.candidates, likelihood=True), scale, steps, reading.distance)
    return {
        "problems": problems,
        "distance": reading.distance,
        "context": "predictor" if at_predictor else "step_end",
        "kinds": as_json(found),
    }


def _number(value: Any) -> float | None:
    """A finite number, or None: JSON has no NaN."""
    return float(value) if value is not None and math.isfinite(value) else None


def configuration(options: CellOptions, args: StepJEPAConfig) -> dict[str, Any]:
    """The full configuration, without what the runner sets: no folder of a machine, no logging."""
    left_out = set_by_runner() - {"seed"}
    training = {name: value for name, value in plain_arguments(args).items() if name not in left_out}
    return {"run": asdict(options), "training": training}


def curves(history: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Training log as columns, of the entries that have a training loss; None where an entry lacks a figure."""
    logs = [entry for entry in history if "loss" in entry]
    present = [name for name in CURVES if any(name in entry for entry in logs)]
    return {name: [_number(entry.get(name)) for entry in logs] for name in present}
