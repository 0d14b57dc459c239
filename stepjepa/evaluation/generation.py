"""Answers to many prompts: batches of similar length, padded on the left, with a key-value cache.

Generation stops at the end of the turn only, never at a blank line, which would end a solution after its first step.
When seven in eight rows of a batch have ended, the others get half as long again; then they go on together with other
stragglers, from their prompt and what they have said so far, so that an endless row does not hold up all others.

The loop and the cache are our own, around `model.generate`: with the built-in model and batches of 64 they answer 12.9
times as many problems a second as `generate` with the library's cache, one prompt at a time, and the same to the token
(`stepjepa bench --generation`, `figures/data/bench-generation.json`).

An answer follows from its prompt and, where it is sampled, from random numbers of its own: which prompts share a batch
decides nothing but the rounding of sums. In float32 a run that answers only what an earlier one has not finished
therefore gives the answers that one run over all prompts gives.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from stepjepa.evaluation.cache import growing_cache
from stepjepa.evaluation.options import MAX_NEW_TOKENS
from stepjepa.jepa.architectures import base_model, evaluating
from stepjepa.records import UserError

STRAGGLERS = 8  # one row in so many, when all others have ended,
PATIENCE = 1.5  # is left behind unless it ends within this multiple of the others' time

End = Literal["stopped", "truncated", "unfinished"]


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn: greedily, or `samples` times at a temperature."""

    max_new_tokens: int = MAX_NEW_TOKENS
    samples: int = 1
    temperature: float = 0.0  # 0 is greedy
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.samples < 1 or self.max_new_tokens < 1:
            raise UserError("samples and max_new_tokens have to be at least 1")
        if self.temperature < 0 or not 0 < self.top_p <= 1:
            raise UserError("the temperature has to be at least 0 and top_p in (0, 1]")
        if self.seed < 0:
            raise UserError(f"the seed has to be at least 0, not {self.seed}")
        if self.samples > 1 and self.temperature == 0:
            raise UserError("several greedy samples are all the same; give a temperature above 0")


@dataclass
class Answer:
    """What the model said to one prompt: token ids without the end-of-turn token, and how it ended."""

    tokens: list[int] = field(default_factory=list)
    end: End = "unfinished"


class Generation:
    """Where the answering of `prompts` stands. Request `i * samples + j` is sample j of prompt i.

    Args:
        prompts: token ids of each prompt.
        context: how many tokens the model can hold, None for any number. A response is cut off where it is full;
            a prompt that leaves no room is answered by nothing, truncated.
        finished: prompts, by index, that are answered already and not asked again; their `answers` stay empty.
    """

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        batch_size: int,
        context: int | None = None,
        finished: Collection[int] = (),
    ) -> None:
        self.prompts, self.sampling, self.batch_size, self.context = prompts, sampling, batch_size, context
        self.answers = [Answer() for _ in range(len(prompts) * sampling.samples)]
        for request, answer in enumerate(self.answers):
            if self.budget(request) == 0:
                answer.end = "truncated"
        asked = [request for request in range(len(self.answers)) if request // sampling.samples not in finished]
        # The longest first: a batch too large for the memory fails at once and not after an hour.
        self._order = sorted(asked, key=lambda request: -len(self.prompt(request)))

    def prompt(self, request: int) -> Sequence[int]:
        """Token ids of a request's prompt."""
        return self.prompts[request // self.sampling.samples]

    def room(self, request: int) -> int | None:
        """Tokens that the model's context still holds after the prompt and what has been said."""
        if self.context is None:
            return None
        return max(0, self.context - len(self.prompt(request)) - len(self.answers[request].tokens))

    def budget(self, request: int) -> int:
        """Tokens that a request may still add."""
        left = self.sampling.max_new_tokens - len(self.answers[request].tokens)
        room = self.room(request)
        return left if room is None else min(left, room)

    def waiting(self) -> list[int]:
        """The requests whose answer has not ended, the longest prompts first."""
        return [request for request in self._order if self.answers[request].end == "unfinished"]

    def next_batch(self) -> list[int]:
        """The requests that come next, of similar length; empty when all is answered."""
        waiting = self.waiting()
        fresh = [request for request in waiting if not self.answers[request].tokens]
        stragglers = [request for request in waiting if self.answers[request].tokens]
        if len(stragglers) >= self.batch_size or not fresh:
            stragglers.sort(key=lambda r: (-len(self.prompt(r)) - len(self.answers[r].tokens), r))
            return stragglers[: self.batch_size]
        return fresh[: self.batch_size]

    def is_last(self) -> bool:
        """Whether nothing would be left to join the stragglers of the next batch."""
        return len(self.waiting()) <= self.batch_size

    def random_numbers(self, request: int, count: int) -> NDArray[np.float64]:
        """Uniform numbers in [0, 1) for the next `count` tokens of a sample, the same in whatever batch it is drawn."""
        generator = np.random.default_rng([self.sampling.seed, *divmod(request, self.sampling.samples)])
        return generator.random(len(self.answers[request].tokens) + count)[-count:]


class _Leave(StoppingCriteria):
    """Stop the batch when at most `few` rows have been going on for too long after the others."""

    def __init__(self, budgets: torch.Tensor, ends: torch.Tensor, few: int, prompt_length: int) -> None:
        self.budgets, self.ends, self.few, self.prompt_length = budgets, ends, few, prompt_length
        self.done = torch.zeros_like(budgets, dtype=torch.bool)
        self.leave_at: float | None = None

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        steps = input_ids.shape[1] - self.prompt_length
        self.done |= torch.isin(input_ids[:, -1], self.ends)
        self.done |= self.budgets <= steps
        if self.leave_at is None and int((~self.done).sum()) <= self.few:
            self.leave_at = PATIENCE * steps
        return self.done | (self.leave_at is not None and steps >= self.leave_at)


class _Watch(StoppingCriteria):
    """Stops nothing: tells what the first row of the batch has said so far, without the token that ends its turn."""

    def __init__(
        self, told: Callable[[list[int]], object], ends: Sequence[int], before: list[int], length: int
    ) -> None:
        self.told, self.ends, self.before, self.prompt_length = told, ends, before, length

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        row = input_ids[0, self.prompt_length :].tolist()
        if row[-1] not in self.ends:
            self.told([*self.before, *row])
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


class _Draw(LogitsProcessor):
    """Sampling with given uniform numbers `[B, T]`: of the scores `[B, V]` all but the drawn token's become −∞.

    The token is the one at which the cumulative probability passes the row's number (inversion). The library's own
    sampling draws one stream of numbers for the batch, so that a row's tokens depend on the rows beside it.
    """

    def __init__(self, numbers: torch.Tensor, prompt_length: int) -> None:
        self.numbers, self.prompt_length = numbers, prompt_length

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        cumulative = scores.softmax(dim=-1, dtype=torch.float64).cumsum(dim=-1)
        number = self.numbers[:, input_ids.shape[1] - self.prompt_length, None]
        # Right: a token of probability 0 is never drawn, not even by the number 0.
        drawn = torch.searchsorted(cumulative, number * cumulative[:, -1:], right=True)
        return torch.full_like(scores, -torch.inf).scatter(1, drawn, 0.0)


@torch.no_grad()
def generate(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    state: Generation,
    watch: Callable[[list[int]], object] | None = None,
) -> Iterator[list[int]]:
    """Answer what `state` still has to answer; the requests of each batch are yielded when their answers have grown.

    The checkpoint's own generation settings (penalties, top-k, …) are set aside: what is measured is the model.

    Args:
        model: A causal language model with `generate` (a PEFT model too), on any device; its training mode and the
            global random state are left as they were.
        tokenizer: Its tokenizer, with a pad token; it is not changed.
        watch: told the tokens of the answer after each of them; for a single prompt.

    Raises:
        UserError: the tokenizer has no pad token, or nothing ends a turn.
    """
    ends = sorted(end_ids(model, tokenizer))
    pad = tokenizer.pad_token_id
    if pad is None:
        raise UserError("the tokenizer has no pad token, which batched generation needs")
    while batch := state.next_batch():
        with _as_it_is(model):  # not across the yield: the caller may use the model between two batches
            _answer_batch(model, state, batch, ends, pad, watch)
        yield batch


def _answer_batch(
    model: Any,
    state: Generation,
    batch: list[int],
    ends: list[int],
    pad: int,
    watch: Callable[[list[int]], object] | None,
) -> None:
    sampling, device = state.sampling, model.device
    budgets = [state.budget(request) for request in batch]
    # No row may pass the end of the context, not even one that is finished: learned positions end there.
    rooms = [room for request in batch if (room := state.room(request)) is not None]
    new_tokens = min([max(budgets), *rooms])
    ids, mask = left_pad([[*state.prompt(request), *state.answers[request].tokens] for request in batch], pad)
    length = ids.shape[1]
    few = 0 if state.is_last() else len(batch) // STRAGGLERS
    stopping: list[StoppingCriteria] = [
        _Leave(torch.tensor(budgets, device=device), torch.tensor(ends, device=device), few, length)
    ]
    if watch is not None:
        stopping.append(_Watch(watch, ends, state.answers[batch[0]].tokens, length))
    draw = LogitsProcessorList()
    if sampling.temperature > 0:
        numbers = np.stack([state.random_numbers(request, new_tokens) for request in batch])
        draw.append(TemperatureLogitsWarper(sampling.temperature))
        if sampling.top_p < 1:
            draw.append(TopPLogitsWarper(sampling.top_p))
        draw.append(_Draw(torch.tensor(numbers, device=device), length))
    output = model.generate(
        input_ids=ids.to(device),
        attention_mask=mask.to(device),
        generation_config=GenerationConfig(
            max_new_tokens=new_tokens, eos_token_id=ends, pad_token_id=pad, use_cache=True, num_beams=1, do_sample=False
        ),
        logits_processor=draw,
        stopping_criteria=StoppingCriteriaList(stopping),
        past_key_values=growing_cache(base_model(model).config),
    )
    for request, budget, row in zip(batch, budgets, output[:, length:].tolist(), strict=True):
        answer = state.answers[request]
        end = next((place for place, token in enumerate(row[:budget]) if token in ends), None)
        answer.tokens += row[: budget if end is None else end]
        if end is not None:
            answer.end = "stopped"
        elif len(row) >= budget:
            answer.end = "truncated"


def left_pad(rows: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, both `[B, L]`, of prompts that end in the same column."""
    length = max(map(len, rows))
    ids = torch.tensor([[pad] * (length - len(row)) + [*row] for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


@contextmanager
def _as_it_is(model: Any) -> Iterator[None]:
    """The model without dropout and without its own generation settings.

    `generate` fills whatever the configuration given to it leaves open from the checkpoint's; here that is nothing.
    """
    wrapped = (model, base_model(model))
    own = [one.generation_config for one in wrapped]
    with evaluating(model):
        for one in wrapped:
            one.generation_config = GenerationConfig()
        try:
            yield
        finally:
            for one, config in zip(wrapped, own, strict=True):
                one.generation_config = config


def end_ids(model: Any, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Every token that ends a turn: the tokenizer's and those of the model's generation settings.

    Raises:
        UserError: there is none.
    """
    configured = model.generation_config.eos_token_id if model.generation_config is not None else None
    ends = {configured} if isinstance(configured, int) else set(configured or ())
    if tokenizer.eos_token_id is not None:
        ends.add(tokenizer.eos_token_id)
    if not ends:
        raise UserError("neither the tokenizer nor the model names an end-of-turn token")
    return ends


def context_length(model: Any) -> int | None:
    """How many tokens the model can hold (`max_position_embeddings`), None if it names no limit."""
    return getattr(base_model(model).config.get_text_config(), "max_position_embeddings", None)
