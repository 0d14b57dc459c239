r"""Text that reads like a control token stays text: only the chat template writes control tokens.

A tokenizer makes a control token of its string (``<|im_end|>``, ``</s>``, ``<think>``) wherever it stands, also
inside a question or a solution, which could so end its own turn, forge another role's, or teach the model to stop in
mid-answer. Where a conversation holds such a string

- the template is given each content between two marks and with a third one inside the string, so that its logic
  (``content.split('</think>')``) does not find it, and what the template wrote itself is what stands outside the marks;
- the whole text is encoded at once by a copy of the tokenizer that knows each control token by another name, of the
  same length and of characters that no text has, put where the template wrote the token. What is text meets no control
  token there, and pieces, prefixes and offsets are those of any other text.

The marks are Unicode noncharacters, the names are of the last private plane.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from jinja2 import Environment
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

Span = tuple[int, int]

OPEN, CLOSE, BREAK = "\ufdd0", "\ufdd1", "\ufdd2"
_NAMES = 0x100000
_MARK = re.compile(f"([{OPEN}{CLOSE}])")  # the marks, each a part of its own when a text is split by it
_TAG = re.compile(r"</?\w+>")  # `<think>`, `</think>`: what the logic of a template may look for in a content


class ControlTokens:
    """The control tokens of a tokenizer, and the encoding of text in which only the template writes them.

    They are its special tokens (also those added later, such as the predictor tokens) and the other added tokens that
    the template writes (``<think>``, ``<tool_call>``); added tokens that are words or whitespace are text.

    Attributes:
        ids: the id of each control token by its string.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str) -> None:
        self.tokenizer = tokenizer
        literals = [value for _, kind, value in Environment().lex(template) if kind in ("data", "string")]
        written = "\n".join(literals)
        self.ids: dict[str, int] = {
            token.content: index
            for index, token in tokenizer.added_tokens_decoder.items()
            if token.special or (token.content in written and not token.content.isalnum() and token.content.strip())
        }
        # Text may well give the unknown token, which stands for pieces that the vocabulary lacks.
        self._numbers = frozenset(self.ids.values()) - {tokenizer.unk_token_id}
        self._names = {string: chr(_NAMES + i) * len(string) for i, string in enumerate(self.ids)}
        self._hidden = _any_of({*self.ids, *_TAG.findall(written)})

    def occur_in(self, text: str) -> bool:
        """Whether a text holds what reads like a control token, or like a tag that the template may look for."""
        return self._hidden.search(text) is not None

    def among(self, ids: Sequence[int]) -> list[int]:
        """The control tokens among token ids, in their order."""
        numbers = self._numbers
        return [index for index in ids if index in numbers]

    @cached_property
    def _control(self) -> re.Pattern[str]:
        return _any_of(self.ids)

    @cached_property
    def _first(self) -> re.Pattern[str]:
        return re.compile(f"(?={self._hidden.pattern})(.)", re.S)  # the `<` of each `<s>`, overlapping or not

    # ---- what the template is given, and what it wrote ----

    def hide(self, content: str) -> str:
        """A content, marked and broken up, for the template; whitespace around it stays outside, to be stripped."""
        if any(mark in content for mark in (OPEN, CLOSE, BREAK)):
            raise ValueError("a message holds a noncharacter (U+FDD0 to U+FDD2) beside the string of a control token")
        text = content.strip()
        if not text:
            return content
        start = content.index(text)
        return content[:start] + OPEN + self._first.sub(rf"\1{BREAK}", text) + CLOSE + content[start + len(text) :]

    def show(self, marked: str) -> tuple[str, list[Span]]:
        """What a template made of hidden contents: the text, and where the contents are in it.

        Raises:
            ValueError: if the template has cut a content.
        """
        parts: list[str] = []
        contents: list[Span] = []
        position, opened = 0, -1
        for part in _MARK.split(marked.replace(BREAK, "")):
            if part not in (OPEN, CLOSE):
                parts.append(part)
                position += len(part)
            elif (part == OPEN) == (opened >= 0):
                break
            elif part == OPEN:
                opened = position
            else:
                contents.append((opened, position))
                opened = -1
        else:
            if opened < 0:
                return "".join(parts), contents
        raise ValueError("the chat template cuts a message that holds the string of a control token")

    def outside(self, text: str, contents: Sequence[Span]) -> list[Span]:
        """Where the template itself wrote control tokens: those that stand in none of the contents."""
        found: list[Span] = []
        position = 0
        for start, end in [*contents, (len(text), len(text))]:
            found += [match.span() for match in self._control.finditer(text, position, start)]
            position = end
        return found

    # ---- its tokens ----

    def encode(self, text: str, written: Sequence[Span]) -> tuple[list[int], list[Span]]:
        """Token ids and offsets of a text in which control tokens stand at the given places and nowhere else.

        Raises:
            ValueError: if this tokenizer cannot be made to.
        """
        tokenizer, known = self._renamed
        encoding = tokenizer.encode(self._rename(text, written), add_special_tokens=False)
        ids = [known.get(index, index) for index in encoding.ids]
        if self.among(ids) != self.among([self.ids[text[start:end]] for start, end in written]):
            raise ValueError("the tokenizer cannot keep the text apart from the control tokens that it reads like")
        return ids, encoding.offsets

    def _rename(self, text: str, spans: Sequence[Span]) -> str:
        parts, position = [], 0
        for start, end in spans:
            parts += [text[position:start], self._names[text[start:end]]]
            position = end
        return "".join([*parts, text[position:]])

    @cached_property
    def _renamed(self) -> tuple[Tokenizer, dict[int, int]]:
        """The tokenizer with its control tokens renamed, and the old ids of those and all other added tokens.

        Renamed in the vocabulary too: a Unigram model would find the piece ``<s>`` in a text, BPE might by merges.
        """
        names = self._names
        state: dict[str, Any] = json.loads(self.tokenizer.backend_tokenizer.to_str())
        model = state["model"]
        if isinstance(model["vocab"], dict):
            model["vocab"] = {names.get(piece, piece): index for piece, index in model["vocab"].items()}
        else:
            model["vocab"] = [[names.get(piece, piece), score] for piece, score in model["vocab"]]
        if "merges" in model:
            prefix = model.get("continuing_subword_prefix") or ""
            model["merges"] = [
                (a, b) for a, b in model["merges"] if not {a, b, a + b.removeprefix(prefix)} & names.keys()
            ]
        if model.get("unk_token") in names:
            model["unk_token"] = names[model["unk_token"]]
        for token in state["added_tokens"]:
            token["content"] = names.get(token["content"], token["content"])
        renamed = Tokenizer.from_str(json.dumps(state | {"truncation": None, "padding": None}))
        added = {token.content: index for index, token in self.tokenizer.added_tokens_decoder.items()}
        ids = {renamed.token_to_id(names.get(string, string)): index for string, index in added.items()}
        return renamed, {index: old for index, old in ids.items() if index is not None}


def _any_of(strings: Any) -> re.Pattern[str]:
    """Matches the longest of the strings at a place, as tokenizers do; of none it matches nothing."""
    longest_first = sorted(strings, key=len, reverse=True)
    return re.compile(f"(?:{'|'.join(map(re.escape, longest_first)) or '(?!)'})")
