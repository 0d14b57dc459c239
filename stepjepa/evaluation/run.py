"""One model on test files → one result file with a row a question, and its summary.

A run that stopped goes on where it stopped, and writes the file that it would have written. A finished file is never
answered again, and never replaced unasked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jinja2.exceptions import TemplateError
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from stepjepa.data.chat import ChatRenderer
from stepjepa.data.formats import DEFAULT_SYSTEM_PROMPT
from stepjepa.evaluation.earlier import EvaluateError, check_output, digest, earlier, replay
from stepjepa.evaluation.generation import MAX_NEW_TOKENS, Generation, Sampling, context_length, end_ids, generate
from stepjepa.evaluation.journal import Journal
from stepjepa.evaluation.questions import Question, QuestionSet, read_questions, shown_path
from stepjepa.evaluation.results import figures, partial_path, question_ids, write_results
from stepjepa.evaluation.scoring import token_ids, verdict, vote
from stepjepa.jepa.architectures import base_model
from stepjepa.models.checkpoint import BUILTIN, Checkpoint, locate_model
from stepjepa.models.loading import choose_device, load_tokenizer, load_weights
from stepjepa.records import environment

SYSTEM_PROMPTS = ("train", "file", "none")
PROBLEMS, PROBLEM_SEED = 1000, 1  # the test problems of seed 0 were looked at when settings were chosen


@dataclass(frozen=True)
class EvaluateOptions:
    """Everything that decides the answers, as given to `stepjepa evaluate`."""

    model_path: str
    test_file: Sequence[str]
    output_file: str
    system_prompt: str = "train"
    max_new_tokens: int = MAX_NEW_TOKENS
    batch_size: int = 64
    samples: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    split: str = "test"
    hub_config: str | None = None
    problems: int = PROBLEMS
    problem_seed: int = PROBLEM_SEED
    dtype: str = "float32"
    device: str = "auto"
    attn_implementation: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    pad_token: str | None = None
    overwrite: bool = False

    @property
    def sampling(self) -> Sampling:
        """How answers are drawn."""
        return Sampling(self.max_new_tokens, self.samples, self.temperature, self.top_p, self.seed)


def evaluate(
    options: EvaluateOptions, say: Callable[[str], None] = lambda _text: None, progress: bool = True
) -> dict[str, Any]:
    """Evaluate as configured and write result file and summary; a finished file of the same evaluation is just read.

    Returns:
        The summary.

    Raises:
        UserError: options, test data, model or output cannot be used; earlier results are left as they were.
    """
    _check_options(options)
    data = read_questions(
        options.test_file,
        split=options.split,
        hub_config=options.hub_config,
        problems=options.problems,
        problem_seed=options.problem_seed,
    )
    model = locate_model(options.model_path, options.revision)
    tokenizer = load_tokenizer(model, options.trust_remote_code, options.pad_token)
    system, origin = system_prompt(options.system_prompt, model)
    prompts = _prompts(data.questions, options.system_prompt, system, tokenizer)
    device = choose_device(options.device)
    identity = _identity(options, model, data, prompts, device)
    say(f"{len(prompts):,} questions from {', '.join(each['name'] for each in data.files)}; model {model.name}")
    say(f"system prompt: {origin}" + (f": «{system}»" if system is not None else ""))

    finished, kept = earlier(options.output_file, options.overwrite, identity)
    if finished is not None:
        say(f"{options.output_file} is finished already: the same model, questions and settings; nothing was done")
        return finished
    began_with = environment()  # now: the files on disk may change while a long run goes on
    journal = Journal(partial_path(options.output_file), kept, identity)
    try:
        weights = load_weights(
            model,
            tokenizer,
            dtype=options.dtype,
            attn_implementation=options.attn_implementation,
            device=device,
            trust_remote_code=options.trust_remote_code,
        )
        context = context_length(weights)
        state = Generation(token_ids(prompts, tokenizer), options.sampling, options.batch_size, context)
        replay(kept, state, journal.path)
        rows = _answer(weights, tokenizer, state, data.questions, prompts, journal, say, progress)
    finally:
        journal.close()
    tokens = sum(len(answer.tokens) for answer in state.answers)
    configuration = {name: value for name, value in asdict(options).items() if name not in ("output_file", "overwrite")}
    summary = {
        **figures(rows),
        "unreadable": data.unreadable,
        "configuration": configuration
        | {
            "model_path": model.name,
            "test_file": [shown_path(each) for each in options.test_file],
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
        "seconds": round(journal.seconds, 3),
        "tokens_per_second": round(tokens / journal.seconds, 1) if journal.seconds else None,
    }
    written = write_results(rows, summary, options.output_file)
    journal.path.unlink(missing_ok=True)  # there is none if no question could be asked
    return written


def system_prompt(mode: str, model: Checkpoint) -> tuple[str | None, str]:
    """The system message for every question, None for none or for the rows' own, and where it comes from."""
    if mode == "none":
        return None, "none"
    if mode == "file":
        return None, "that of each test row, if it has one"
    if model.name == BUILTIN:
        return None, "none, as in the training of the built-in model"
    if model.record is not None and "system_prompt" in model.record:
        prompt = model.record["system_prompt"]
        return prompt, "none, as in its training" if prompt is None else "that of its training"
    return DEFAULT_SYSTEM_PROMPT, "no training record beside the model names one; the package's default"


def _prompts(
    questions: Sequence[Question], mode: str, system: str | None, tokenizer: PreTrainedTokenizerBase
) -> list[str]:
    try:
        renderer = ChatRenderer(tokenizer)
    except ValueError as error:
        raise EvaluateError(str(error)) from error
    prompts = []
    for question in questions:
        turns = question["messages"]
        if mode != "file":
            turns = [turn for turn in turns if turn["role"] != "system"]
            turns = turns if system is None else [{"role": "system", "content": system}, *turns]
        try:
            prompts.append(renderer.prompt(turns))
        except (TemplateError, ValueError) as error:
            raise EvaluateError(f"{question['place']}: the chat template refuses this conversation: {error}") from error
    return prompts


def _check_options(options: EvaluateOptions) -> None:
    _ = options.sampling  # raises by name
    if options.batch_size < 1:
        raise EvaluateError(f"--batch_size {options.batch_size} has to be at least 1")
    if options.system_prompt not in SYSTEM_PROMPTS:
        raise EvaluateError(f"--system_prompt {options.system_prompt}: choose one of {', '.join(SYSTEM_PROMPTS)}")
    check_output(options.output_file, options.test_file)


def _identity(
    options: EvaluateOptions, model: Checkpoint, data: QuestionSet, prompts: Sequence[str], device: torch.device
) -> dict[str, Any]:
    """What the answers follow from. In single precision a greedy answer does not depend on how it was computed."""
    greedy = options.temperature == 0
    told: dict[str, Any] = {
        "model weights": model.identity(),
        "questions": digest(question_ids(data.questions)),
        "prompts": digest(prompts),
        "max_new_tokens": options.max_new_tokens,
        "dtype": options.dtype,
        "samples": options.samples,
        "temperature": options.temperature,
    }
    if not greedy:
        told |= {"top_p": options.top_p, "seed": options.seed}
    if not greedy or options.dtype != "float32":
        told |= {"batch_size": options.batch_size, "device": device.type, "attention": options.attn_implementation}
    return told


# ---- answering -----------------------------------------------------------------------------------------------


def _answer(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    state: Generation,
    questions: Sequence[Question],
    prompts: Sequence[str],
    journal: Journal,
    say: Any,
    progress: bool,
) -> list[dict[str, Any]]:
    """Result rows in the order of the questions, answering what the journal does not hold yet."""
    samples = state.sampling.samples
    names = question_ids(questions)
    rows: dict[int, dict[str, Any]] = {}

    def finish(index: int) -> None:
        answers = state.answers[index * samples : (index + 1) * samples]
        if index in rows or any(answer.end == "unfinished" for answer in answers):
            return
        question = questions[index]
        verdicts = [verdict(answer, question["answer"], tokenizer) for answer in answers]
        said = vote(verdicts) if samples > 1 else verdicts[0]
        labels: dict[str, Any] = {name: question[name] for name in ("level", "type") if name in question}
        rows[index] = {
            "id": names[index],
            "index": index,
            "question": question["question"],
            "source": question["source"],
            **labels,
            "prompt": prompts[index],
            "gold": question["answer"],
            **said,
        }

    for index in range(len(questions)):
        finish(index)
    if state.batches:
        say(f"going on: {len(rows):,} of {len(questions):,} questions are answered already")
    elif rows:
        say(f"{len(rows):,} prompts leave no room in the context of {state.context:,} tokens; they count as wrong")
    right = sum(row["correct"] for row in rows.values())
    with tqdm(total=len(questions), initial=len(rows), desc="answering", unit="question", disable=not progress) as bar:
        began = time.perf_counter()
        for outcome in generate(model, tokenizer, state):
            journal.append(outcome, time.perf_counter() - began)
            before = len(rows)
            for index in sorted({request // samples for request, _, _ in outcome.rows}):
                finish(index)
                right += index in rows and rows[index]["correct"]
            bar.update(len(rows) - before)
            if rows:
                bar.set_postfix(accuracy=f"{right / len(rows):.1%}")
            began = time.perf_counter()
    return [rows[index] for index in range(len(questions))]
