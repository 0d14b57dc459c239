"""One model on test files → one result file with a row a question, and its summary.

Finished rows are kept in a partial file beside it while the run goes on. A run that was stopped is started again in the
same way: it answers the questions that the partial file lacks, the batch that was in work among them, and in float32
writes the result file that it would have written, greedy or sampled (`generation.py`); in half precision an answer may
depend on the batch it is generated in. A finished file is never answered again. What belongs to another evaluation is
never touched unasked: two evaluations are the same if everything that their answers follow from is the same (weights,
questions, prompts and the settings of generation: their `identity`, a flat mapping).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from stepjepa.data.origins import is_part_of
from stepjepa.environment import environment
from stepjepa.evaluation.generation import Generation, Sampling, context_length, end_ids, generate
from stepjepa.evaluation.journal import Partial, differences, digest, partial_path, read_partial
from stepjepa.evaluation.options import SYSTEM_PROMPTS, EvaluateOptions
from stepjepa.evaluation.questions import Question, QuestionSet, read_questions, shown_path
from stepjepa.evaluation.results import figures, question_ids, read_results, summary_path, write_results
from stepjepa.evaluation.scoring import accuracy, encode_prompts, system_prompt, verdict, vote
from stepjepa.jepa.architectures import base_model
from stepjepa.models.checkpoint import Checkpoint, locate_model
from stepjepa.models.loading import bfloat16_products, choose_device, load_tokenizer, load_weights
from stepjepa.models.speed import keep_freed_memory
from stepjepa.records import UserError, one_writer

Say = Callable[[str], object]
"""Takes the lines that report how a run goes on."""


def sampling_of(options: EvaluateOptions) -> Sampling:
    """How answers are drawn.

    Raises:
        UserError: by name, for values out of range.
    """
    return Sampling(options.max_new_tokens, options.samples, options.temperature or 0.0, options.top_p, options.seed)


def evaluate(options: EvaluateOptions, say: Say = lambda _line: None, progress: bool = True) -> dict[str, Any]:
    """Evaluate as configured and write result file and summary; a finished file of the same evaluation is just read.

    Args:
        say: Takes each line of text about the run, such as `print`; by default nothing is said.

    Returns:
        The summary.

    Raises:
        UserError: options, test data, model or output cannot be used, or another process is writing the output;
            earlier results are left as they were.
    """
    _check_options(options)
    with one_writer(options.output_file, summary_path(options.output_file)):
        return _evaluate(options, say, progress)


def _evaluate(options: EvaluateOptions, say: Say, progress: bool) -> dict[str, Any]:
    data = read_questions(
        options.test_file,
        split=options.split,
        hub_config=options.hub_config,
        problems=options.problems,
        problem_seed=options.problem_seed,
    )
    model = locate_model(options.model_name, options.revision)
    tokenizer = load_tokenizer(model, options.trust_remote_code, options.pad_token)
    system, origin = system_prompt(options.system_prompt, model)
    encoded = encode_prompts(data.questions, options.system_prompt, system, tokenizer)
    prompts = [prompt.text for prompt in encoded]
    device = choose_device(options.device)
    identity = _identity(options, model, data, prompts, device)
    say(f"{len(prompts):,} questions from {', '.join(file['name'] for file in data.files)}; model {model.name}")
    say(f"system prompt: {origin}" + (f": «{system}»" if system is not None else ""))

    finished, partial = _earlier(options.output_file, options.overwrite, identity)
    if finished is not None:
        say(f"{options.output_file} is finished already: the same model, questions and settings; nothing was done")
        return finished
    began_with = environment()  # now: the files on disk may change while a long run goes on
    weights = load_weights(
        model,
        tokenizer,
        dtype=options.dtype,
        attn_implementation=options.attn_implementation,
        device=device,
        trust_remote_code=options.trust_remote_code,
    )
    if device.type == "cpu":
        keep_freed_memory()
    context = context_length(weights)
    answered = {row["index"] for row in partial.rows}
    state = Generation(
        [prompt.ids for prompt in encoded], sampling_of(options), options.batch_size, context, finished=answered
    )
    with bfloat16_products(device, options.bf16):
        rows = _answer(weights, tokenizer, state, data.questions, prompts, partial, say, progress)
    tokens = sum(response["tokens"] for row in rows for response in row.get("samples", [row]))
    left_out = ("model_name", "output_file", "overwrite")
    configuration = {name: value for name, value in asdict(options).items() if name not in left_out}
    summary = {
        **figures(rows),
        "unreadable": data.unreadable,
        "configuration": {"model_path": model.name}
        | configuration
        | {
            "test_file": [shown_path(source) for source in options.test_file],
            "device": str(device),
            "attn_implementation": base_model(weights).config._attn_implementation,
        },
        "test_files": data.files,
        "model": model.description()
        | {
            "architecture": type(base_model(weights)).__name__,
            "dtype": str(weights.dtype).removeprefix("torch."),
            "parameters": sum(parameter.numel() for parameter in weights.parameters()),
        },
        "generation": {
            "system_prompt": system,
            "system_prompt_origin": origin,
            "context": context,
            "end_tokens": tokenizer.convert_ids_to_tokens(sorted(end_ids(weights, tokenizer))),
            "pad_token": tokenizer.pad_token,
            "prompts_without_room": sum(context is not None and len(ids) >= context for ids in state.prompts),
        },
        "training": model.training(),
        "environment": began_with,
        "identity": identity,
        "seconds": round(partial.seconds, 3),
        "tokens_per_second": round(tokens / partial.seconds, 1) if partial.seconds else None,
    }
    written = write_results(rows, summary, options.output_file)
    partial.path.unlink(missing_ok=True)  # there is none if no question could be asked
    return written


def _check_options(options: EvaluateOptions) -> None:
    _ = sampling_of(options)  # raises by name
    if options.batch_size < 1:
        raise UserError(f"--batch_size {options.batch_size} has to be at least 1")
    if options.system_prompt not in SYSTEM_PROMPTS:
        raise UserError(f"--system_prompt {options.system_prompt}: choose one of {', '.join(SYSTEM_PROMPTS)}")
    _check_output(Path(options.output_file), options.test_file)


# ---- what lies there already ---------------------------------------------------------------------------------


def _check_output(output: Path, test_files: Iterable[str]) -> None:
    """Refuse an output file that is a folder, a test file, or no `.jsonl`: two files might share one summary."""
    if output.is_dir():
        raise UserError(f"--output_file {output} is a folder; name a file, such as {output / 'results.jsonl'}")
    if output.suffix != ".jsonl":
        raise UserError(f"--output_file {output}: a result file ends in .jsonl, as {output}.jsonl does")
    for written in (output, summary_path(output), partial_path(output)):
        for source in test_files:
            if is_part_of(written, source):
                raise UserError(f"--output_file {output} would overwrite the test file {source}")


def _identity(
    options: EvaluateOptions, model: Checkpoint, data: QuestionSet, prompts: Sequence[str], device: torch.device
) -> dict[str, Any]:
    """What the answers follow from.

    In single precision a greedy answer does not depend on how it was computed; a sampled one might, where rounding
    carries a probability past its random number.
    """
    greedy = options.temperature == 0
    identity: dict[str, Any] = {
        "model weights": model.identity(),
        "questions": digest(question_ids(data.questions)),
        "prompts": digest(prompts),
        "max_new_tokens": options.max_new_tokens,
        "dtype": options.dtype,
        "samples": options.samples,
        "temperature": options.temperature,
    }
    if not greedy:
        identity |= {"top_p": options.top_p, "seed": options.seed}
    if options.bf16:
        identity |= {"bf16": True}
    if not greedy or options.dtype != "float32" or options.bf16:
        identity |= {"batch_size": options.batch_size, "device": device.type, "attention": options.attn_implementation}
    return identity


def _earlier(output_file: str, overwrite: bool, identity: Mapping[str, Any]) -> tuple[dict[str, Any] | None, Partial]:
    """The summary of a finished file if nothing is to be done, and what an unfinished run has left.

    Raises:
        UserError: there is something else under this name, and it is not to be overwritten.
    """
    output, path = Path(output_file), partial_path(output_file)
    way_out = "; give another --output_file, or --overwrite to replace it"
    try:
        partial = read_partial(path)
    except UserError:
        if not overwrite:
            raise
        partial = None
    same = partial is not None and partial.identity == identity
    if output.exists() and not overwrite:
        try:
            summary = read_results(output).summary
        except UserError as error:
            if not same:  # else it was stopped while it wrote its last files
                raise UserError(f"{error}{way_out}") from error
        else:
            if differing := differences(summary.get("identity", {}), identity):
                raise UserError(f"{output} holds another evaluation; different: {differing}{way_out}")
            return summary, Partial(path, identity)
    if partial is None or (overwrite and not same):
        return None, Partial(path, identity)
    if not same:
        differing = differences(partial.identity, identity)
        raise UserError(f"{path} is another evaluation, unfinished; different: {differing}{way_out}")
    return None, partial


# ---- answering -----------------------------------------------------------------------------------------------


def _answer(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    state: Generation,
    questions: Sequence[Question],
    prompts: Sequence[str],
    partial: Partial,
    say: Say,
    progress: bool,
) -> list[dict[str, Any]]:
    """Result rows in the order of the questions, answering what the partial file does not hold yet."""
    samples = state.sampling.samples
    ids = question_ids(questions)
    rows = {row["index"]: row for row in partial.rows}

    def finish(indices: Iterable[int]) -> list[dict[str, Any]]:
        """Take in the rows of those questions whose answers have ended, and return them."""
        new = []
        for index in indices:
            question, answers = questions[index], state.answers[index * samples : (index + 1) * samples]
            if index in rows or any(answer.end == "unfinished" for answer in answers):
                continue
            verdicts = [verdict(answer, question["answer"], tokenizer, prompts[index]) for answer in answers]
            rows[index] = {
                "id": ids[index],
                "index": index,
                "question": question["question"],
                "source": question["source"],
                **{name: question[name] for name in ("level", "type") if name in question},
                "prompt": prompts[index],
                "gold": question["answer"],
                **(vote(verdicts) if samples > 1 else verdicts[0]),
            }
            new.append(rows[index])
        return new

    finish(range(len(questions)))
    if partial.rows:
        say(f"going on: {len(rows):,} of {len(questions):,} questions are answered already")
    elif rows:
        say(f"{len(rows):,} prompts leave no room in the context of {state.context:,} tokens; they count as wrong")
    with tqdm(total=len(questions), initial=len(rows), desc="answering", unit="question", disable=not progress) as bar:
        began = time.perf_counter()
        for batch in generate(model, tokenizer, state):
            seconds = time.perf_counter() - began
            new = finish(sorted({request // samples for request in batch}))
            partial.append(new, seconds)
            bar.update(len(new))
            if rows:
                bar.set_postfix(accuracy=f"{accuracy(list(rows.values())):.1%}")
            began = time.perf_counter()
    return [rows[index] for index in range(len(questions))]
