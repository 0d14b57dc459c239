"""Teachers: a model that is loaded here, or one behind a server; questions → samples, as `solutions.py` reads them.

Both have an `identity` (what their samples follow from), a `system` message, `sample`, and a `description` for records.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from stepjepa.data.examples import DEFAULT_SYSTEM_PROMPT
from stepjepa.data.thoughts import opened_thought
from stepjepa.evaluation.generation import Generation, Sampling, context_length, generate
from stepjepa.evaluation.journal import digest
from stepjepa.evaluation.options import SynthesizeOptions
from stepjepa.evaluation.questions import QuestionSet
from stepjepa.evaluation.results import question_ids
from stepjepa.evaluation.scoring import encode_prompts, response_text, system_prompt
from stepjepa.evaluation.servers import Server
from stepjepa.jepa.architectures import base_model
from stepjepa.models.checkpoint import locate_model, published_name
from stepjepa.models.loading import choose_device, load_tokenizer, load_weights
from stepjepa.records import UserError

GIVE_UP = 10
"""So many requests in a row without an answer, and at least one of each that are under way, stop the run. Questions
that a server refuses, which has answered others, are none of them."""

Wanted = list[tuple[int, int]]
"""Question and sample of each that is to be asked for."""
Take = Callable[[list[dict[str, Any]]], object]
"""Puts samples that have come on disk."""


class LocalTeacher:
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


class RemoteTeacher:
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
            "model": published_name(options.model_name),
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
        has_answered = len(wanted) < len(self.messages) * self.options.samples
        for number, reply in self.server.ask_all([self._request(*each) for each in wanted]):
            index, sample = wanted[number]
            if not reply.is_answer:
                missing[reply.text] += 1
                if reply.end == "refused" and has_answered:
                    continue  # it is this question that the server does not take
                in_a_row += 1
                if in_a_row >= max(GIVE_UP, self.options.concurrency):
                    raise UserError(
                        f"{self.server.base_url} has given no answer to {in_a_row} requests in a row, "
                        f"the last time: {reply.text}. The same command goes on where it stopped"
                    )
                continue
            in_a_row, has_answered = 0, True
            row = {"index": index, "sample": sample, "response": reply.text.strip(), "end": reply.end}
            row |= {
                "tokens": reply.tokens,
                "thoughts": reply.thoughts,
                "model": reply.model and published_name(reply.model),
            }
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
            "name": self.identity["model"],
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
