"""Training runs → all that a page about them shows: answers to test questions, views, a verdict, paired differences.

What is not given as a file of `stepjepa evaluate` or `stepjepa embed` is measured here, on the same questions for all
runs; nothing is trained.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from stepjepa.analysis.embeddings import Embeddings, load
from stepjepa.analysis.encode import encode_examples, joined, random_weights, with_system_prompt
from stepjepa.analysis.measurements import LEAST
from stepjepa.analysis.report import inspect
from stepjepa.analysis.trained import trained_reading
from stepjepa.data.examples import question_key
from stepjepa.data.origins import is_builtin
from stepjepa.data.sources import read_examples
from stepjepa.environment import environment
from stepjepa.evaluation.compare import compare
from stepjepa.evaluation.options import EvaluateOptions
from stepjepa.evaluation.results import Results, question_ids, read_results
from stepjepa.evaluation.run import evaluate
from stepjepa.evaluation.scoring import system_prompt
from stepjepa.jepa.architectures import base_model
from stepjepa.jepa.pairs import BranchLayout
from stepjepa.models.checkpoint import Checkpoint, locate_model
from stepjepa.models.loading import choose_device, load_model
from stepjepa.records import UserError, as_json
from stepjepa.training.options import RunOptions
from stepjepa.training.run import HELD_OUT
from stepjepa.training.splits import drawn_kinds

CONTROL = "random weights"


@dataclass
class RunFacts:
    """One run: its record, its answers, its views, and an example as it is trained on."""

    name: str
    record: Mapping[str, Any]
    results: Results
    embeddings: Embeddings
    tokenizer: PreTrainedTokenizerBase
    layout: BranchLayout
    """As the run was trained with."""
    example: Mapping[str, Any]


@dataclass
class Gathered:
    """What a page about some runs shows."""

    runs: list[RunFacts]
    report: Mapping[str, Any]
    """Of `analysis.report.inspect`, with a random-weights control unless files of embeddings were given."""
    comparison: Mapping[str, Any] | None
    """Of `evaluation.compare.compare`; None for a single run."""
    test_file: list[str]
    environment: Mapping[str, Any]


def gather(
    folders: Sequence[str],
    *,
    test_file: Sequence[str] = (),
    problems: int = 100,
    problem_seed: int = 1,
    results: Sequence[str] = (),
    embeddings: Sequence[str] = (),
    batch_size: int = 64,
    device: str = "auto",
    trust_remote_code: bool = False,
    say: Callable[[str], None] = lambda _line: None,
) -> Gathered:
    """Measure runs, or read what has been measured.

    Args:
        folders: of `stepjepa train`.
        test_file: questions with solutions; by default those that the first run held out, else built-in test problems.
        problems, problem_seed: how many built-in problems, and which.
        results, embeddings: files, one for each run in the same order; none: it is measured.
        batch_size: questions answered together.
        say: told what comes next.

    Raises:
        UserError: a folder is no run, files do not belong together, or a model cannot be loaded.
    """
    for name, given in (("results", results), ("embeddings", embeddings)):
        if given and len(given) != len(folders):
            raise UserError(f"--{name}: {len(given)} files for {len(folders)} runs; give one for each, in their order")
    located = [_run(folder) for folder in folders]
    names = _names(folders)
    files = list(test_file) or _test_file(located[0])
    examples, _ = read_examples(files, split="test", count=problems, seed=problem_seed, system_prompt=None)
    asked = len({question_key(example) for example in examples})
    if asked < LEAST:
        more = "--problems" if all(map(is_builtin, files)) else "--test_file"
        raise UserError(
            f"{', '.join(files)}: {asked} questions, and intervals over problems need at least {LEAST}; give more, by "
            f"{more}"
        )
    began = environment()
    runs: list[RunFacts] = []
    control: dict[str, Embeddings] = {}
    with tempfile.TemporaryDirectory() as work:
        answered = list(results)
        for number, (name, model) in enumerate(zip(names, located, strict=True)):
            if not results:
                say(f"{name}: answering")
                answered.append(str(Path(work, f"{number}.jsonl")))
                evaluation = EvaluateOptions(
                    model_name=model.given,
                    test_file=files,
                    output_file=answered[-1],
                    problems=problems,
                    problem_seed=problem_seed,
                    batch_size=batch_size,
                    device=device,
                    trust_remote_code=trust_remote_code,
                )
                evaluate(evaluation, progress=False)
            answers = read_results(answered[number])
            if results:
                _check_is_of(model, answered[number], answers.summary.get("model"))
            system, _origin = system_prompt("train", model)
            shown = with_system_prompt(examples, system)
            training = model.training() or {}
            own = {one.name: training[one.name] for one in fields(BranchLayout) if one.name in training}
            layout = BranchLayout(**own)
            weights, tokenizer = load_model(
                model.given, predictors=layout.predictors, trust_remote_code=trust_remote_code
            )
            if embeddings:
                views = load(embeddings[number])
                _check_is_of(model, embeddings[number], views.info.get("model"))
            else:
                say(f"{name}: reading views")
                weights.to(choose_device(device))
                views = _views(model, weights, tokenizer, shown, answers, layout, system)
                if not runs:
                    random = random_weights(weights, 0)
                    control[CONTROL] = _views(model, random, tokenizer, shown, answers, layout, system, seed=0)
            runs.append(RunFacts(name, model.record or {}, answers, views, tokenizer, layout, shown[0]))
        say("comparing")
        report = inspect({run.name: run.embeddings for run in runs} | control)
        words = [f"{run.name}={path}" for run, path in zip(runs, answered, strict=True)]
        comparison = compare(words) if len(runs) > 1 else None
    return Gathered(runs, as_json(report), comparison and as_json(comparison), files, began)


def _run(folder: str) -> Checkpoint:
    model = locate_model(folder)
    if model.record is None:
        raise UserError(f"{folder}: no record.json of `stepjepa train` in it; a report is about training runs")
    return model


def _check_is_of(model: Checkpoint, file: str, said: Mapping[str, Any] | None) -> None:
    """Files are given in the order of the runs; one of another run is told by the weights that made it."""
    if said and said.get("weights") not in (None, model.weights()):
        raise UserError(
            f"{file} was made by other weights than those in {model.given} (by {said.get('name')}); give the files in "
            "the order of the runs, and anew if a run was trained again"
        )


def _names(folders: Sequence[str]) -> list[str]:
    """Names of the folders, where those repeat with the folder that each lies in."""
    paths = [Path(folder).resolve() for folder in folders]
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        names = [f"{path.name} ({path.parent.name})" for path in paths]
    if len(set(names)) < len(names):
        raise UserError(f"a run is named twice: {', '.join(folders)}")
    if CONTROL in names:
        raise UserError(f"a run cannot be called «{CONTROL}», which is what the control is called")
    return names


def _test_file(model: Checkpoint) -> list[str]:
    """The questions that a run held out, or built-in ones."""
    held_out = model.folder / HELD_OUT
    if held_out.is_file():
        return [str(held_out)]
    trained_on = model.record["settings"].get("train_file") if model.record else None
    sources = [trained_on] if isinstance(trained_on, str) else list(trained_on or [])
    if sources and (kinds := drawn_kinds(RunOptions(train_file=sources))):
        return kinds
    raise UserError(f"{model.given} has no {HELD_OUT}: name the questions with --test_file")


def _views(
    run: Checkpoint,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Mapping[str, Any]],
    answers: Results,
    layout: BranchLayout,
    system: str | None = None,
    seed: int | None = None,
) -> Embeddings:
    """Views of all consecutive pairs, as `stepjepa embed` reads them with the predictor tokens of the run.

    Args:
        system: the system message that they have.
        seed: of random weights, if the model has those.
    """
    every = layout.consecutive()
    ids = question_ids(examples)
    reading = trained_reading(run, model, random=seed is not None)
    found = encode_examples(
        model, tokenizer, examples, ids=ids, correct=joined(ids, answers), layout=every, progress=False, encode=reading
    )
    config = base_model(model).config.get_text_config()
    kind = {"architecture": type(base_model(model)).__name__, "layers": config.num_hidden_layers}
    found.info = {
        "layout": asdict(every),
        "data": {"system_prompt": system},
        "model": kind
        | {
            "hidden_size": config.hidden_size,
            "random_weights": seed,
            "as_trained": True,
            "targets": reading.targets,
            "training": run.training(),
        },
    }
    return found
