"""What a raw row holds, whatever a data set calls it: texts, messages, thoughts. Odd values are a :class:`RowError`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from stepjepa.data.thoughts import split_thoughts

FIELDS = {
    "messages": ("messages", "conversations", "conversation"),
    "question": ("question", "problem", "query", "prompt", "instruction", "input"),
    "solution": (
        *("deepseek_response", "solution", "generated_solution", "response", "completion", "output"),
        *("rationale", "chain_of_thought", "cot", "explanation", "reasoning"),
    ),
    "steps": ("steps", "completions"),
    "system": ("system", "system_prompt"),
    "thoughts": ("reasoning_content", "reasoning", "thinking"),
}
"""What a row may hold → the names that data sets give it; the first that is filled counts. Answers: `GOLD_FIELDS`."""

ROLES = {
    **{"human": "user", "developer": "system"},
    **dict.fromkeys(("gpt", "chatgpt", "bot", "model", "ai"), "assistant"),
}
"""What data sets call a speaker → the role."""

UNKNOWN_FIELDS = "fields of no known format"
WANTED_FIELDS = (
    "a conversation ({messages}), or a question ({question}) with a solution ({solution}, answer) or steps ({steps})"
).format(**{kind: ", ".join(names) for kind, names in FIELDS.items()})
_SHOWN = 8  # fields that a message names, of at most
_LENGTH = 30  # characters


class RowError(ValueError):
    """A row that cannot become an example; the message is the reason, without the row's own text."""


def lower_names(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with its field names in small letters; where two differ in case only, the one in small letters counts."""
    return {str(name).lower(): value for name, value in row.items()} | dict(row)


def field_name(row: Mapping[str, Any], kind: str) -> str | None:
    """The first field of a kind that is filled, else the first that is there."""
    present = [name for name in FIELDS[kind] if row.get(name) is not None]
    return next((name for name in present if row[name] not in ("", [])), present[0] if present else None)


def near_miss(row: Mapping[str, Any]) -> RowError:
    """What a row of no known format lacks, and the fields that it has."""
    seen = [name[:_LENGTH] for name, value in row.items() if value is not None][:_SHOWN]
    question, solution = field_name(row, "question"), field_name(row, "solution") or field_name(row, "steps")
    said = []
    if question:
        said.append(f"has {question!r} but no solution and no steps")
    elif solution:
        said.append(f"has {solution!r} but no question")
    known = {name for kind in ("messages", "question", "solution", "steps") for name in FIELDS[kind]} | {"answer"}
    for name in seen:
        if name not in known and (near := difflib.get_close_matches(name, known, n=1, cutoff=0.8)):
            said.append(f"is {name!r} meant for {near[0]!r}?")
    said.append(f"fields seen: {', '.join(map(repr, seen)) or 'none'}")
    return RowError(f"{UNKNOWN_FIELDS}: {'; '.join(said)}")


def optional_text(row: Mapping[str, Any], kind: str) -> str | None:
    """The text of a field that may be absent or empty."""
    name = field_name(row, kind)
    return None if name is None or row[name] in ("", []) else text_of(row, name)


def text_of(row: Mapping[str, Any], field: str) -> str:
    """The text of a field, stripped; RowError unless there is one."""
    value = row.get(field)
    if value is None:
        raise RowError(f"no field '{field}'")
    if isinstance(value, list):
        raise RowError(f"'{field}' is a list, not text; a solution as a list of its steps goes by the name 'steps'")
    if not isinstance(value, str):
        raise RowError(f"'{field}' is not text")
    if not value.strip():
        raise RowError(f"'{field}' is empty")
    return value.strip()


def question_of(row: Mapping[str, Any]) -> str:
    """The question, with what it is about where that is a field of its own."""
    name = field_name(row, "question") or "question"
    question = text_of(row, name)
    if name == "instruction" and row.get("input"):  # Alpaca's: what the instruction is about
        question += "\n\n" + text_of(row, "input")
    if row.get("history"):
        raise RowError("a 'history' of earlier turns, which is read from 'messages' only")
    return question


def with_thoughts(holder: Mapping[str, Any], solution: str) -> str:
    """A solution whose thoughts stand in a field of their own, as one text."""
    thoughts = optional_text(holder, "thoughts")
    return solution if thoughts is None else f"<think>{thoughts}</think>{solution}"


def content_text(value: object) -> str | None:
    """The text of a message's content: a text, or a list of texts and parts ``{"type": "text", "text": …}``."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        texts = []
        for part in value:
            text = part
            if isinstance(part, Mapping):
                text = part.get(part["type"] if part.get("type") in ("text", "thinking") else "")
                if part.get("type") == "thinking" and (inner := content_text(text)) is not None:
                    text = f"<think>{inner}</think>"
            if not isinstance(text, str):
                return None
            texts.append(text)
        return "\n\n".join(texts)
    return None


def read_messages(raw: object) -> list[dict[str, str]]:
    """Messages as ``{"role": …, "content": …}``, without an empty system message.

    The thoughts of the last message stand in its content; those of earlier ones are left out, as templates do.
    """
    if isinstance(raw, str) or not isinstance(raw, Sequence) or not raw:
        raise RowError("messages is not a non-empty list")
    messages = []
    for message in raw:
        role = message.get("role", message.get("from")) if isinstance(message, Mapping) else None
        if not isinstance(role, str):
            raise RowError("a message has no role")
        role = ROLES.get(role.lower(), role.lower())
        text = content_text(message.get("content", message.get("value")))
        if role == "system" and text is not None and not text.strip():
            continue
        if text is None and message.get("content"):
            raise RowError("a message holds something other than text")
        if text is None or not text.strip():
            raise RowError("a message has no text")
        if message is raw[-1]:
            text = with_thoughts(message, text)
        elif role == "assistant":
            text = split_thoughts(text)[1] or text
        messages.append({"role": role, "content": text})
    roles = [message["role"] for message in messages]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if not turns or len(turns) % 2 or turns != ["user", "assistant"] * (len(turns) // 2):
        raise RowError("messages are not [system,] user, assistant, … ending with the assistant")
    return messages
