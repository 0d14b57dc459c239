"""End-of-turn strings that exporters leave at the end of a solution: taken off when a row is read, and counted.

A chat template writes the end of the turn itself. Anywhere else in a text such a string is text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from stepjepa.data.fields import FIELDS, ROLES

# `</s>`, `<eos>`, `<end_of_turn>`, `<|im_end|>`, `<|eot_id|>`, `<|endoftext|>`, `<|END_OF_TURN_TOKEN|>`, `<|return|>`,
# `<｜end▁of▁sentence｜>`, `[SEP]`, `<|user|>` (GLM); not `<|end_of_thought|>`, `<|end_header_id|>`
_END = re.compile(
    r"</s>|<eos>|<end_of_(?:turn|utterance)>|<turn\|>|\[(?:SEP|EOS)\]|<[|｜](?:eo[a-z](?:_id)?|return|user|"
    r"(?:im_)?end(?![\w▁]*(?:th(?:ink|ought)|solution|response|header))[\w▁]*)[|｜]>",
    re.I,
)
_LONGEST = 32
_ASKING = {*FIELDS["question"], *FIELDS["system"]}
_DEPTH = 5  # row, messages, message, content, part


def without_end(text: str) -> str:
    """``"It is 4.<|im_end|>\\n"`` → ``"It is 4."``; a text that does not end so is left as it is."""
    kept = end = len(text)
    while end:
        if text[end - 1].isspace():
            end -= 1
            continue
        start = max(text.rfind(bracket, max(0, end - _LONGEST), end) for bracket in "<[")
        if start < 0 or not _END.fullmatch(text, start, end):
            break
        kept = end = start
    return text if kept == len(text) else text[:kept].rstrip()


def without_ends(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row of data whose solutions, answers and assistant's messages do not end with an end-of-turn string.

    What asks (questions, system messages, a user's turns) is not touched. A row that has none is returned as it is.
    """
    ended: Mapping[str, Any] = _without_ends(row, _DEPTH)
    return ended


def _without_ends(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return without_end(value)
    if depth and isinstance(value, Mapping):
        role = str(value.get("role", value.get("from"))).lower()
        if ROLES.get(role, role) in ("user", "system"):
            return value
        texts = {name: text for name, text in value.items() if str(name).lower() not in _ASKING}
        changed = {name: new for name, text in texts.items() if (new := _without_ends(text, depth - 1)) is not text}
        return {**value, **changed} if changed else value
    if depth and isinstance(value, list) and value:
        *others, last = value  # of the steps of a solution only the last ends it
        new = [part if isinstance(part, str) else _without_ends(part, depth - 1) for part in others]
        end = _without_ends(last, depth - 1)
        if end != "" or last == "":  # a step of nothing but an end is none; a label False stays
            new.append(end)
        same = len(new) == len(value) and all(one is other for one, other in zip(new, value, strict=True))
        return value if same else new
    return value
