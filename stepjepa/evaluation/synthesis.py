"""Teacher data: questions with answers → sampled solutions of a model, of which the right ones are written.

The teacher is a model loaded here or one behind an OpenAI-compatible server. Every sample goes into a file beside the
output when it comes (`journal.py`) and stays there: a run that was stopped asks only for what it lacks, and so does one
that asks for more samples a question; another choice among the samples asks for nothing. The output and its account
follow from that file and the options.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from stepjepa.data.examples import DEFAULT_SYSTEM_PROMPT
from stepjepa.data.thoughts import opened_thought
from stepjepa.evaluation.generation import Generation, Sampling, context_length, generate
from stepjepa.evaluation.journal import Partial, differences, digest, read_partial
from stepjepa.evaluation.options import SynthesizeOptions
from stepjepa.evaluation.questions import QuestionSet, read_questions, shown_path
from stepjepa.evaluation.results import question_ids, summary_path
from stepjepa.evaluation.scoring import encode_prompts, response_text, system_prompt
from stepjepa.evaluation.servers import Server
from stepjepa.evaluation.solutions import solutions_of
from stepjepa.jepa.architectures import base_model
from stepjepa.models.checkpoint import locate_model
from stepjepa.models.loading import choose_device, load_tokenizer, load_weights
from stepjepa.records import UserError, environment, file_digest, one_writer, text_table, write_json, write_jsonl

GIVE_UP = 10
"""So many requests in a row without an answer, and at least one of each that are under way, stop the run."""

Wanted = list[tuple[int, int]]
"""Question and sample of each that is to be asked for."""
Take = Callable[[list[dict[str, Any]]], object]
"""Puts samples that have come on disk."""


def samples_path(path: str | os.PathLike[str]) -> Path:
    """`teacher.jsonl` → `teacher.samples.jsonl`, all samples that the teacher has given."""
    return Path(path).with_suffix(".samples.jsonl")


def synthesize(options: SynthesizeOptions, say: Callable[[str], object] = lambda _line: None) -> dict[str, Any]:
    """Sample, keep what is right, and write it with its account, which is returned.

    Raises:
        UserError: options, questions, model or server cannot be used, nothing was right, or other files lie there.
    """
    output = Path(options.output_file)
    if output.suffix != ".jsonl":
        raise UserError(f"--output_file {output}: rows are written as .jsonl, as in {output}.jsonl")
    written = (output, samples_path(output), summary_path(output))
    for source in options.source:
        if any(path.exists() and Path(source).exists() and os.path.samefile(path, source) for path in written):
            raise UserError(f"--output_file {output} would overwrite the source {source}")
    with one_writer(*written):
        return _synthesize(options, output, say)


def _synthesize(options: SynthesizeOptions, output: Path, say: Callable[[str], object]) -> dict[str, Any]:
    data = read_questions(
        options.source,
        split=options.split,
        hub_config=options.hub_config,
        problems=options.problems,
        problem_seed=options.problem_seed,
    )
    _without_earlier_turns(data)
    began_with = environment()
    sampling = Sampling(options.max_new_tokens, options.samples, options.temperature, options.top_p, options.seed)
    teacher = _Local(options, data, sampling) if options.base_url is None else _Remote(options, data, sampling)
    identity = {"questions": digest(question_ids(data.questions)), **teacher.identity}
    identity |= {name: getattr(sampling, name) for name in ("max_new_tokens", "temperature", "top_p", "seed")}
    journal = _earlier(output, options.overwrite, identity)

    count = len(data.questions) * options.samples
    samples = {(row["index"], row["sample"]): row for row in journal.rows}
    wanted = [
        (index, sample)
        for sample in range(options.samples)  # a first one of every question, then a second one
        for index in range(len(data.questions))
        if (index, sample) not in samples
    ]
    say(f"{len(data.questions):,} questions, {options.samples:,} samples each; teacher: {options.model_name}")
    if len(wanted) < count:
        say(f"going on: {count - len(wanted):,} of {count:,} samples are there already")
    refused: Counter[str] = Counter()
    if wanted:
        with tqdm(total=count, initial=count - len(wanted), desc="sampling", unit="sample") as bar:
            began = time.perf_counter()

            def take(rows: list[dict[str, Any]]) -> None:
                nonlocal began
                now = time.perf_counter()
                journal.append(rows, now - began)
                began = now
                samples.update({(row["index"], row["sample"]): row for row in rows})
                bar.update(len(rows))

            refused = teacher.sample(wanted, take)
    # What an earlier run asked for beyond this one's samples stays in the file and is not looked at.
    looked_at = [row for row in samples.values() if row["sample"] < options.samples]
    rows, figures = solutions_of(
        data.questions,
        question_ids(data.questions),
        looked_at,
        options.choose,
        options.keep,
        {"teacher": teacher.identity["model"]},
    )
    left_out = ("model_name", "output_file", "overwrite")
    configuration = {name: value for name, value in asdict(options).items() if name not in left_out}
    summary = {
        **figures,
        "not_answered": dict(refused.most_common()),
        "configuration": configuration | {"source": [shown_path(source) for source in options.source]},
        "sources": data.files,
        "unreadable": data.unreadable,
        "model": teacher.description(looked_at),
        "system_prompt": teacher.system,
        "environment": began_with,
        "identity": identity,
        "seconds": round(journal.seconds, 3),
    }
    if not rows:
        raise UserError(f"none of the solutions is right, and nothing was written\n{table(summary)}")
    write_jsonl(rows, output)
    write_json({**summary, "output_sha256": file_digest(output)}, summary_path(output))
    return summary


def _without_earlier_turns(data: QuestionSet) -> None:
    """A teacher row has one question; what belongs to a conversation of several turns is listed and left out."""
    several = [sum(turn["role"] == "user" for turn in question["messages"]) > 1 for question in data.questions]
    for question, is_several in zip(data.questions, several, strict=True):
        if is_several:
            place = shown_path(question["place"])
            data.unreadable.append({"place": place, "reason": "a question of several turns"})
    data.questions = [one for one, is_several in zip(data.questions, several, strict=True) if not is_several]
    if not data.questions:
        raise UserError("no question of one turn in the source")


def _earlier(output: Path, overwrite: bool, identity: Mapping[str, Any]) -> Partial:
    """The samples of an earlier run of the same teacher and questions, or none.

    Raises:
        UserError: something else lies there, and is not to be overwritten.
    """
    path = samples_path(output)
    try:
        journal = read_partial(path)
    except UserError:
        if not overwrite:
            raise
        journal = None
    differing = differences(journal.identity, identity) if journal is not None else ""
    way_out = "; give another --output_file, or --overwrite to begin anew"
    if journal is None and output.exists() and not overwrite:
        raise UserError(f"{output} is there already, without the samples it was made of{way_out}")
    if differing and not overwrite:
        raise UserError(f"{path} holds the samples of another run; different: {differing}{way_out}")
    return Partial(path, identity) if journal is None or differing else journal


# -------- the two kinds of teachers --------


class _Local:
    """A model that is loaded here."""

    def __init__(self, options: SynthesizeOptions, data: QuestionSet, sampling: Sampling) -> None:
        self.options, self.sampling = options, sampling
        self.model = locate_model(options.model_name, options.revision)
        self.tokenizer = load_tokenizer(self.model, options.trust_remote_code, options.pad_token)
        own, _ = system_prompt("train", self.model)
        self.system = {None: own, "none": None}.get(options.system_prompt, options.system_prompt)
        self.prompts = encode_prompts(data.questions, "train", self.system, self.tokenizer)
        self.identity = {
            "model": self.model.name,
            "model weights": self.model.identity(),
            "prompts": digest([prompt.text for prompt in self.prompts]),
            "dtype": options.dtype,
        }

    def sample(self, wanted: Wanted, take: Take) -> Counter[str]:
        """Draw the samples; of every (question, sample) the same in whatever batch it is drawn."""
        options = self.options
        weights = load_weights(
            self.model,
            self.tokenizer,
            dtype=options.dtype,
            attn_implementation=options.attn_implementation,
            device=choose_device(options.device),
            trust_remote_code=options.trust_remote_code,
        )
        ids = [prompt.ids for prompt in self.prompts]
        state = Generation(ids, self.sampling, options.batch_size, context_length(base_model(weights)))
        asked = {index * options.samples + sample for index, sample in wanted}
        for request, answer in enumerate(state.answers):
            if request not in asked:
                answer.end = "stopped"  # it is on disk
        if without_room := sorted(request for request in asked if state.answers[request].end == "truncated"):
            take([self._row(request, state) for request in without_room])
        for batch in generate(weights, self.tokenizer, state):
            if done := [request for request in batch if state.answers[request].end != "unfinished"]:
                take([self._row(request, state) for request in done])
        return Counter()

    def _row(self, request: int, state: Generation) -> dict[str, Any]:
        answer = state.answers[request]
        index, sample = divmod(request, self.options.samples)
        text = opened_thought(self.prompts[index].text) + response_text(answer.tokens, self.tokenizer)
        return {
            "index": index,
            "sample": sample,
            "response": text.strip(),
            "end": answer.end,
            "tokens": len(answer.tokens),
        }

    def description(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return self.model.description() | {"training": self.model.training()}


class _Remote:
    """A model behind a server."""

    def __init__(self, options: SynthesizeOptions, data: QuestionSet, sampling: Sampling) -> None:
        assert options.base_url is not None
        self.options, self.sampling = options, sampling
        self.server = Server(
            options.base_url,
            options.model_name,
            _key(options.key_variable),
            concurrency=options.concurrency,
            requests_per_minute=options.requests_per_minute,
            timeout=options.timeout,
            retries=options.retries,
            fields=_fields(options.request),
        )
        given = {None: DEFAULT_SYSTEM_PROMPT, "none": None}
        self.system = given.get(options.system_prompt, options.system_prompt)
        head = [{"role": "system", "content": self.system}] if self.system is not None else []
        self.messages = [[*head, {"role": "user", "content": one["question"]}] for one in data.questions]
        self.ids = question_ids(data.questions)
        self.identity = {
            "model": options.model_name,
            "model weights": None,
            "prompts": digest(self.messages),
            "request": self.server.fields,
        }

    def sample(self, wanted: Wanted, take: Take) -> Counter[str]:
        """Ask for the samples; returns why some have none, which the next run asks for again.

        Raises:
            UserError: the server answers nothing any more.
        """
        missing: Counter[str] = Counter()
        in_a_row = 0
        for number, reply in self.server.ask_all([self._request(*each) for each in wanted]):
            index, sample = wanted[number]
            if not reply.is_answer:
                missing[reply.text] += 1
                in_a_row += 1
                if in_a_row >= max(GIVE_UP, self.options.concurrency):
                    raise UserError(
                        f"{self.server.base_url} has given no answer to {in_a_row} requests in a row, "
                        f"the last time: {reply.text}. The same command goes on where it stopped"
                    )
                continue
            in_a_row = 0
            row = {"index": index, "sample": sample, "response": reply.text.strip(), "end": reply.end}
            row |= {"tokens": reply.tokens, "thoughts": reply.thoughts, "model": reply.model}
            take([row | {"seed": self._seed(index, sample)}])
        return missing

    def _request(self, index: int, sample: int) -> dict[str, Any]:
        return {
            "messages": self.messages[index],
            "max_tokens": self.sampling.max_new_tokens,
            "temperature": self.sampling.temperature,
            "top_p": self.sampling.top_p,
            "seed": self._seed(index, sample),
        }

    def _seed(self, index: int, sample: int) -> int:
        """A seed in 31 bits, another for each sample: with one for all, a server that obeys gives equal samples."""
        text = json.dumps([self.sampling.seed, self.ids[index], sample])
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1

    def description(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        told = sorted({sample["model"] for sample in samples if sample.get("model")})
        return {
            "name": self.options.model_name,
            "base_url": self.server.base_url,
            "told": told,
            "asked_again": self.server.asked_again,
        }


def _key(variable: str | None) -> str | None:
    """The key in an environment variable; none is sent unasked, as it might be another server's."""
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        # What is given is not shown: it might be the key itself.
        raise UserError("--key_variable: the name of an environment variable with a key in it is needed")
    return key


def _fields(request: str | None) -> dict[str, Any]:
    try:
        fields = json.loads(request or "{}")
    except ValueError as error:
        raise UserError(f"--request is not JSON: {error}") from error
    if not isinstance(fields, dict) or {"messages", "n", "stream"} & set(fields):
        raise UserError("--request has to be a JSON object without messages, n and stream")
    return fields


# -------- what the command ends with --------


def table(summary: Mapping[str, Any]) -> str:
    """The account of a run as lines of text."""
    answered = summary["samples"]

    def line(name: str, count: int) -> list[str]:
        return [name, f"{count:,}", f"{count / answered:.1%}" if answered else "–"]

    rows = [["samples", f"{answered:,}", ""], line("written", summary["solutions"])]
    rows += [line(f"  {reason}", count) for reason, count in summary["dropped"].items()]
    lines = text_table(rows)
    lines.append(f"questions with a right solution: {summary['questions_solved']:,} of {summary['questions']:,}")
    if missing := summary["not_answered"]:
        lines.append(f"NOT ANSWERED: {sum(missing.values()):,} samples; the same command asks for them again")
        lines += [f"  {count:,}: {reason}" for reason, count in list(missing.items())[:5]]
    return "\n".join(lines)
