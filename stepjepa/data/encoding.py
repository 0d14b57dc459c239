"""A conversation → token ids, the one way for all: training rows, prompts, embeddings, attention and checks.

A prompt is the beginning of a training row, token for token: it is encoded as the row of a stand-in answer and cut
where the answer begins. So a template whose generation prompt ends in a space, which the tokenizer glues to the first
word of the answer, gives generation what training has seen, and the space is learnt as part of the answer.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from transformers import PreTrainedTokenizerBase

from stepjepa.data.chat import ChatRenderer, Message, Rendering, time_limit
from stepjepa.data.control import Span

_STAND_IN = "Answer"
# First characters that tokenizers tell apart: what merges with one of them may merge with the prompt's end.
_BEGINNINGS = ("A", "s", "1", "\\(", "$", "(", ".", ":", '"', "#", "\u00e9", "\u7b54", "\U0001f34e")


@dataclass(frozen=True)
class Encoded:
    """A conversation's training text with its token ids, their character offsets, and where each begins.

    The first ``prompt_length`` tokens are the prompt of generation.
    """

    rendering: Rendering
    ids: list[int]
    offsets: list[Span]
    starts: list[int]
    prompt_length: int


@dataclass(frozen=True)
class Prompt:
    """What generation is given: its text, to be read, and its token ids, which that text alone does not tell."""

    text: str
    ids: list[int]


class ChatEncoder:
    """Encodes conversations for one tokenizer; get it from `chat_encoder`.

    Attributes:
        renderer: the tokenizer's template.
        end_of_turn: id of the token that ends an answer.

    Raises:
        ValueError: for a tokenizer without offsets, or a template that cannot be used.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise ValueError(
                f"{type(tokenizer).__name__} is a slow tokenizer: it has no character offsets, and step "
                "boundaries cannot be found without. Load a fast one (AutoTokenizer with a tokenizer.json)."
            )
        self.tokenizer = tokenizer
        self.renderer = ChatRenderer(tokenizer)
        self.end_of_turn = self.renderer.control.ids[self.renderer.end_of_turn]
        self._merged = 0  # characters at the end of the generation prompt that belong to tokens of the answer
        self._written: dict[tuple[str, ...], list[int]] = {}
        self._merged = self._merged_characters()

    def encode(self, conversations: Sequence[Sequence[Message]], names: Iterable[str] = ()) -> list[Encoded]:
        """Encode conversations that end with the assistant's (stripped) answer.

        Args:
            conversations: messages of each.
            names: how an error names each of them.

        Raises:
            ValueError: if one cannot be encoded such that text stays text and the prompt is the beginning.
        """
        named = [f"{name}: " for name in names] or [""] * len(conversations)
        with time_limit():
            renderings = [self._render(*each) for each in zip(conversations, named, strict=True)]
        tokens: dict[int, tuple[list[int], list[Span]]] = {}
        plain = [i for i, rendering in enumerate(renderings) if rendering.written is None]
        for i, (ids, offsets) in zip(plain, self._plain([renderings[i].text for i in plain]), strict=True):
            if self.renderer.control.among(ids) == self._written_for(conversations[i]):
                tokens[i] = ids, offsets
            else:  # a control token that only the tokenizer finds: normalized, or between a message and the template
                renderings[i] = self._render(conversations[i], named[i], hide=True)
        encoded = []
        for i, (rendering, name) in enumerate(zip(renderings, named, strict=True)):
            with _named(name):
                if i not in tokens:
                    tokens[i] = self.renderer.control.encode(rendering.text, rendering.written or [])
                encoded.append(_aligned(rendering, *tokens[i]))
        return encoded

    def prompts(self, conversations: Sequence[Sequence[Message]], names: Iterable[str] = ()) -> list[Prompt]:
        """What generation is given for each conversation (a final answer in it is left out).

        Raises:
            ValueError: as `encode`.
        """
        asked = [turns[:-1] if turns[-1]["role"] == "assistant" else turns for turns in conversations]
        answered = [[*turns, {"role": "assistant", "content": _STAND_IN}] for turns in asked]
        return [
            Prompt(each.rendering.text[: each.rendering.prompt_end], each.ids[: each.prompt_length])
            for each in self.encode(answered, names)
        ]

    def without_end(self, answer: str) -> str:
        """An answer without what its turn is ended with at its own end, where the template writes that once more."""
        ends = tuple({self.renderer.end_of_turn, self.tokenizer.eos_token or self.renderer.end_of_turn})
        kept = end = len(answer)
        while end:
            if answer[end - 1].isspace():
                end -= 1
            elif mark := next((mark for mark in ends if answer.endswith(mark, 0, end)), ""):
                kept = end = end - len(mark)
            else:
                break
        return answer if kept == len(answer) else answer[:kept].rstrip()

    def _render(self, messages: Sequence[Message], name: str = "", hide: bool = False) -> Rendering:
        with _named(name):
            rendering = self.renderer.render(messages, hide=hide or self.renderer.holds_control(messages))
        return replace(rendering, prompt_end=rendering.prompt_end - self._merged)

    def _plain(self, texts: list[str]) -> list[tuple[list[int], list[Span]]]:
        if not texts:
            return []
        # The template wrote the special tokens: adding them again would double the bos token.
        encoding = self.tokenizer(
            texts,
            add_special_tokens=False,
            return_offsets_mapping=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        return list(zip(encoding["input_ids"], encoding["offset_mapping"], strict=True))

    def _written_for(self, messages: Sequence[Message]) -> list[int]:
        """The control tokens that the template writes around messages of these roles."""
        roles = tuple(message["role"] for message in messages)
        if roles not in self._written:
            stand_in = [{"role": role, "content": _STAND_IN} for role in roles]
            ((ids, _),) = self._plain([self.renderer.render(stand_in).text])
            self._written[roles] = self.renderer.control.among(ids)
        return self._written[roles]

    def _merged_characters(self) -> int:
        """How many characters at the end of the generation prompt depend on how the answer begins."""
        question = {"role": "user", "content": "Question"}
        renderings = [self._render([question, {"role": "assistant", "content": text}]) for text in _BEGINNINGS]
        end = renderings[0].prompt_end
        rows = self._plain([rendering.text for rendering in renderings])
        same = 0
        while len({ids[same] for ids, _ in rows}) == 1 and all(offsets[same][1] <= end for _, offsets in rows):
            same += 1
        cut = min([end, *(offsets[same][0] for _, offsets in rows)])
        asked = renderings[0].text.rfind(question["content"], 0, end)
        if cut < asked + len(question["content"]):
            raise ValueError("the tokenizer merges the question with the answer: the chat template keeps nothing apart")
        return end - cut


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Errors begin with the name of the conversation."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{name}{error}") from error


def _aligned(rendering: Rendering, ids: list[int], offsets: list[Span]) -> Encoded:
    starts = [start for start, _ in offsets]
    if starts != sorted(starts):
        raise ValueError("the tokenizer's offsets are not in order, so tokens cannot be given to steps")
    length = bisect_left(starts, rendering.prompt_end)
    if length and offsets[length - 1][1] > rendering.prompt_end:
        raise ValueError("the tokenizer merges the end of the prompt with this answer: it would differ in generation")
    return Encoded(rendering, ids, offsets, starts, length)


def chat_encoder(tokenizer: PreTrainedTokenizerBase) -> ChatEncoder:
    """The encoder of a tokenizer as it is now; the last few are kept, since each tries its template first."""
    state = (repr(tokenizer.chat_template), len(tokenizer), *tokenizer.all_special_tokens, tokenizer.eos_token)
    return _made(tokenizer, state)


@lru_cache(maxsize=8)
def _made(tokenizer: PreTrainedTokenizerBase, _state: tuple[Any, ...]) -> ChatEncoder:
    return ChatEncoder(tokenizer)


def prompt_of(example: Mapping[str, Any] | Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> Prompt:
    """The text and the token ids to generate from, for an example or a list of messages.

    Its ids are the first ids of the training row. To tokenize the text instead would make control tokens of
    what only reads like them.
    """
    messages = example["messages"] if isinstance(example, Mapping) else example
    return chat_encoder(tokenizer).prompts([messages])[0]


def end_of_turn_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that training ends an answer with.

    It may differ from the eos token (Gemma, Qwen base models); generation has to stop at it all the same.
    """
    return chat_encoder(tokenizer).end_of_turn
