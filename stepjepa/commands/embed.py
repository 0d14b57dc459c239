"""`stepjepa embed`: context views, target views and step-end states of a data set → one embedding file.

Each step keeps its labels: example, step index, operation and running value where the data knows them, and whether
the question was answered correctly where a result file says so. The control is the same with random weights.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stepjepa.analysis.options import EmbedOptions, ShownLayout
from stepjepa.commands.options import Parser, parse
from stepjepa.commands.output import say, say_next
from stepjepa.environment import environment
from stepjepa.records import UserError, one_writer

if TYPE_CHECKING:
    from stepjepa.jepa.pairs import BranchLayout


def main(argv: Sequence[str] | None = None) -> int:
    """`stepjepa embed`; returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    options, layout = read_options(words, ShownLayout)
    from stepjepa.analysis.embeddings import check_suffix
    from stepjepa.analysis.trained import shown_layout
    from stepjepa.models.checkpoint import locate_model

    if options.as_trained:
        options, layout = read_options(words, shown_layout(locate_model(options.model_name, options.revision)))
    with one_writer(check_suffix(options.output_file)):
        return embed(options, layout, words)


def read_options(words: Sequence[str], layout: Any) -> tuple[EmbedOptions, BranchLayout]:
    """The command line; `layout` gives the defaults of the branches."""
    parser = Parser("embed", "Context views, target views and step states of a data set → one file.")
    options, found = parse(parser, words, EmbedOptions, layout)
    return options, found


def embed(options: EmbedOptions, layout: BranchLayout, words: Sequence[str]) -> int:
    """Encode and write; returns the exit status.

    Args:
        words: of the command line, for the next one.
    """
    from stepjepa.analysis.embeddings import check_finite, check_suffix, save
    from stepjepa.analysis.encode import check_prompts, encode_examples, joined, with_responses, with_system_prompt
    from stepjepa.analysis.subject import described, load
    from stepjepa.analysis.trained import AS_IT_IS, predicts_at_predictor, trained_reading
    from stepjepa.data.sources import read_examples
    from stepjepa.evaluation.questions import shown_path
    from stepjepa.evaluation.results import question_ids, read_results
    from stepjepa.evaluation.scoring import system_prompt
    from stepjepa.jepa.architectures import base_model
    from stepjepa.models.checkpoint import locate_model
    from stepjepa.models.loading import bfloat16_products

    output = check_suffix(options.output_file)
    started_with = environment()
    located = locate_model(options.model_name, options.revision)
    system, origin = system_prompt(options.system_prompt, located)
    examples, report = read_examples(
        options.test_file,
        split=options.split,
        count=options.problems,
        seed=options.problem_seed,
        splitter=options.splitter,
        wrong_steps="keep",
        system_prompt=None,
    )
    say(report)
    say(f"system prompt: {origin}" + (f": «{system}»" if system is not None else ""))
    if options.system_prompt != "file":
        examples = with_system_prompt(examples, system)
    ids = question_ids(examples)
    results = read_results(options.results) if options.results else None
    correct = joined(ids, results) if results is not None else {}
    asked = len(examples)
    if results is not None and options.use_responses:
        examples, ids = with_responses(examples, ids, results, options.splitter or "auto")
    model, tokenizer, has_predictor = load(options, layout.predictors)
    training = located.training()
    if results is not None and options.use_responses:
        check_prompts(tokenizer, examples, ids, results)
    random = options.random_weights is not None
    reading = trained_reading(located, model, random) if options.as_trained else AS_IT_IS
    say(f"{reading.words()}; pooling: {layout.pooling}, isolation: {layout.isolation}")
    with bfloat16_products(base_model(model).device, options.bf16):
        embeddings = encode_examples(
            model,
            tokenizer,
            examples,
            ids=ids,
            correct=correct,
            layers=named_layers(options.layers, model),
            layout=layout,
            batch_size=options.batch_size,
            encode=reading,
        )
    counts = embeddings.info["counts"]
    counts |= {"no_step": asked - len(examples), "correctness_known": int((embeddings.correct >= 0).sum())}
    embeddings.info |= {
        "model": {
            **located.description(),
            "training": training,
            **described(model),
            "dtype": options.dtype,
            "bf16": options.bf16,
            "random_weights": options.random_weights,
            "as_trained": options.as_trained,
            "targets": reading.targets,
            "predictor_in_checkpoint": has_predictor,
        },
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
    save(check_finite(embeddings, f"--model_name {options.model_name}"), output)
    trained_predictor = has_predictor and (training is None or predicts_at_predictor(training))
    say(account(counts, trained_predictor, options.random_weights))
    say(f"written: {output}")
    if options.random_weights is None:
        control = output.with_name(f"{output.stem}-random{output.suffix}")
        say_next("embed", *words, "--output_file", str(control), "--random_weights", "0", note="a control")
        say_next("inspect", str(output), str(control))
    else:
        say_next("inspect", str(output))
    return 0


def named_layers(words: Sequence[str], model: Any) -> list[int]:
    """`["all"]`, or numbers → layers.

    Raises:
        UserError: something else.
    """
    from stepjepa.jepa.architectures import base_model

    if list(words) == ["all"]:
        return list(range(base_model(model).config.get_text_config().num_hidden_layers + 1))
    if not all(word.isdigit() for word in words):
        raise UserError(f"--layers {' '.join(words)}: numbers from 0 (embedding output) on, or 'all'")
    return sorted({int(word) for word in words})


def account(counts: Mapping[str, int], trained_predictor: bool, random_seed: int | None) -> str:
    """What was embedded and what was not, as lines of text."""
    lines = [
        f"{counts['embedded']:,} of {counts['examples'] + counts['no_step']:,} examples: {counts['pairs']:,} view "
        f"pairs, {counts['steps']:,} steps; without a pair: {counts['without_pair']:,}"
    ]
    for name, what in (
        ("too_long", "skipped, no step fits into --max_length or the model"),
        ("cut", "cut at a step to fit --max_length or the model"),
        ("no_step", "skipped, a response without any step"),
    ):
        if counts[name]:
            lines.append(f"{what}: {counts[name]:,}")
    if counts["correctness_known"]:
        lines.append(f"correctness known: {counts['correctness_known']:,}")
    if random_seed is not None:
        lines.append(f"control: weights drawn from seed {random_seed}")
    elif not trained_predictor:
        lines.append(
            "note: no predictor token was trained in this model, so context views are read at an untrained one"
        )
    return "\n".join(lines)
