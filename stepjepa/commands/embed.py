"""`stepjepa embed`: context views, target views and step-end states of a data set → one embedding file.

Each step keeps its labels: example, step index, operation and running value where the data knows them, and whether
the question was answered correctly where a result file says so. The control is the same with random weights.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from stepjepa.analysis.embeddings import check_suffix, save
from stepjepa.analysis.encode import (
    check_predictors,
    check_prompts,
    encode_examples,
    joined,
    random_weights,
    with_responses,
    with_system_prompt,
)
from stepjepa.data.sources import read_examples
from stepjepa.data.steps import Splitter
from stepjepa.evaluation.questions import shown_path
from stepjepa.evaluation.results import question_ids, read_results
from stepjepa.evaluation.scoring import SYSTEM_PROMPTS, system_prompt
from stepjepa.jepa.architectures import base_model
from stepjepa.jepa.pairs import ISOLATIONS, PAIR_SETS, BranchLayout
from stepjepa.models.checkpoint import BUILTIN, BUILTIN_PATH, DTYPES, Checkpoint, locate_model
from stepjepa.models.loading import choose_device, load_model
from stepjepa.records import UserError, environment

EMBED_PAIRS = tuple(name for name in PAIR_SETS if name != "none")


def parser() -> argparse.ArgumentParser:
    """Options of `stepjepa embed`."""
    command = argparse.ArgumentParser(
        prog="stepjepa embed", description="Context views, target views and step states of a data set → one file."
    )
    add = command.add_argument
    add("--model_path", default=BUILTIN, help="'builtin' (default), a folder (full model or LoRA adapter), or a Hub id")
    add(
        "--test_file",
        nargs="+",
        default=["builtin"],
        help="'builtin' (default), JSONL files (any form that prepare reads), or Hub data set ids",
    )
    add("--output_file", required=True, help="the file to write, .safetensors or .npz")
    add("--layers", nargs="+", default=[], help="also keep these layers: numbers from 0 (embedding output), or 'all'")
    add("--pairs", choices=EMBED_PAIRS, default="consecutive", help="which view pairs (default: consecutive)")
    add("--horizon", type=int, default=1, help="steps ahead, for --pairs horizon")
    add("--isolation", choices=ISOLATIONS, default="step", help="what a target view sees besides itself")
    add("--predictors", type=int, default=1, help="predictor tokens before a context view, as in training")
    add("--results", metavar="R", help="a result file of `stepjepa evaluate`: which questions were answered correctly")
    add("--use_responses", action="store_true", help="embed the responses in --results instead of the gold solutions")
    add(
        "--random_weights",
        type=int,
        metavar="SEED",
        help="control: the same architecture and tokenizer with weights drawn from this seed",
    )
    add("--problems", type=int, default=200, help="how many built-in problems (default: 200)")
    add("--split", default="test", help="split of the built-in problems or of a Hub data set (default: test)")
    add("--problem_seed", type=int, default=1, help="which built-in problems (default: 1)")
    add(
        "--system_prompt",
        choices=SYSTEM_PROMPTS,
        default="train",
        help="the system message: that of the model's training (default), that of each row, or none",
    )
    add("--splitter", choices=get_args(Splitter), help="how to find steps in unprepared data and in responses")
    add("--batch_size", type=int, default=32, help="examples encoded together (default: 32)")
    add("--max_length", type=int, help="longest example in tokens; longer ones keep the steps that fit")
    add("--dtype", choices=DTYPES, default="float32", help="dtype of the weights (default: float32)")
    add("--device", default="auto", help="auto (CUDA if there is one), cpu, cuda:1, …")
    add("--revision", help="branch, tag or commit of a Hub model")
    add("--trust_remote_code", action="store_true", help="run Python code that comes with the model")
    return command


def main(argv: list[str] | None = None) -> int:
    """`stepjepa embed`; returns the exit status."""
    options = parser().parse_args(argv)
    output = check_suffix(options.output_file)
    if options.use_responses and not options.results:
        raise UserError("--use_responses needs the responses: give a result file with --results")
    for name in ("horizon", "predictors", "batch_size", "problems"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name} {getattr(options, name)}: at least 1")
    started_with = environment()
    located = locate_model(options.model_path, options.revision)
    system, origin = system_prompt(options.system_prompt, located)
    examples, report = read_examples(
        options.test_file,
        split=options.split,
        count=options.problems,
        seed=options.problem_seed,
        splitter=options.splitter,
        system_prompt=None,
    )
    print(report)
    print(f"system prompt: {origin}" + (f": «{system}»" if system is not None else ""))
    if options.system_prompt != "file":
        examples = with_system_prompt(examples, system)
    ids = question_ids(examples)
    results = read_results(options.results) if options.results else None
    correct = joined(ids, results) if results is not None else {}
    asked = len(examples)
    if results is not None and options.use_responses:
        examples, ids = with_responses(examples, ids, results, options.splitter or "auto")
    model, tokenizer, trained_predictor = _load(options)
    if results is not None and options.use_responses:
        check_prompts(tokenizer, examples, ids, results)

    layout = BranchLayout(options.pairs, options.horizon, options.predictors, options.isolation, options.max_length)
    embeddings = encode_examples(
        model,
        tokenizer,
        examples,
        ids=ids,
        correct=correct,
        layers=_layers(options.layers, model),
        layout=layout,
        batch_size=options.batch_size,
    )
    counts = embeddings.info["counts"]
    counts |= {"no_step": asked - len(examples), "correctness_known": int((embeddings.correct >= 0).sum())}
    embeddings.info |= {
        "model": _model_info(model, located, options, trained_predictor),
        "data": {
            "files": [shown_path(name) for name in options.test_file],
            "split": options.split,
            "problems": options.problems,
            "problem_seed": options.problem_seed,
            "splitter": options.splitter,
            "system_prompt": system,
            "system_prompt_origin": origin,
            "results": shown_path(options.results) if options.results else None,
            "solutions": "responses" if options.use_responses else "gold",
        },
        "environment": started_with,
    }
    save(embeddings, output)
    print(_account(counts, trained_predictor, options.random_weights))
    print(f"written: {output}")
    return 0


def _load(options: argparse.Namespace) -> tuple[Any, PreTrainedTokenizerBase, bool]:
    """Model, tokenizer, and whether the checkpoint brought its predictor tokens."""
    remote = {"revision": options.revision, "trust_remote_code": options.trust_remote_code}
    try:
        model, tokenizer = load_model(options.model_path, predictors=options.predictors, dtype=options.dtype, **remote)
    except UserError:
        raise
    except ValueError as error:  # an adapter trained with other predictor tokens, a tokenizer without an end of turn
        raise UserError(f"--model_path {options.model_path}: {error}") from error
    path = str(BUILTIN_PATH) if options.model_path == BUILTIN else options.model_path
    trained = check_predictors(AutoTokenizer.from_pretrained(path, **remote), options.predictors)
    model.to(choose_device(options.device))
    if options.random_weights is not None:
        model = random_weights(model, options.random_weights)
    return model, tokenizer, trained


def _layers(words: Sequence[str], model: Any) -> list[int]:
    if list(words) == ["all"]:
        return list(range(base_model(model).config.get_text_config().num_hidden_layers + 1))
    if not all(word.isdigit() for word in words):
        raise UserError(f"--layers {' '.join(words)}: numbers from 0 (embedding output) on, or 'all'")
    return sorted({int(word) for word in words})


def _model_info(
    model: Any, located: Checkpoint, options: argparse.Namespace, trained_predictor: bool
) -> dict[str, Any]:
    config = base_model(model).config.get_text_config()
    return located.description() | {
        "training": located.training(),
        "architecture": type(base_model(model)).__name__,
        "layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "dtype": options.dtype,
        "random_weights": options.random_weights,
        "predictor_in_checkpoint": trained_predictor,
    }


def _account(counts: Mapping[str, int], trained_predictor: bool, random_seed: int | None) -> str:
    """What was embedded and what was not, as lines of text."""
    lines = [
        f"{counts['embedded']:,} of {counts['examples'] + counts['no_step']:,} examples: {counts['pairs']:,} view "
        f"pairs, {counts['steps']:,} steps; without a pair: {counts['without_pair']:,}"
    ]
    for name, what in (
        ("too_long", "skipped, no step fits into --max_length"),
        ("cut", "cut at a step to fit --max_length"),
        ("no_step", "skipped, a response without any step"),
    ):
        if counts[name]:
            lines.append(f"{what}: {counts[name]:,}")
    if counts["correctness_known"]:
        lines.append(f"correctness known: {counts['correctness_known']:,}")
    if random_seed is not None:
        lines.append(f"control: weights drawn from seed {random_seed}")
    elif not trained_predictor:
        lines.append("note: the checkpoint has no predictor token, so context views are read at an untrained one")
    return "\n".join(lines)
