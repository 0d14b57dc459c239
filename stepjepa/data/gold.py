r"""The reference answer in a field of a row: after `####`, in a box, or the whole text if that is an answer by itself.

A sentence or a whole solution is no answer: taken for one, every right response to it would count as wrong.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from stepjepa.data.steps import last_boxed

MARK = re.compile(r"^[ \t]*####[ \t]*(\S[^\n]*?)[ \t]*$", re.M)
"""The answer line of GSM8K."""
_COMMAND = re.compile(r"\\[A-Za-z]+")
_WORD = re.compile(r"[A-Za-z]{2,}")


def named_answer(row: Mapping[str, Any], *fields: str) -> str | None:
    """The answer in the first of the fields that holds one; numbers count as text."""
    for name in fields:
        value = row.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
        if isinstance(value, str) and value.strip():
            answer = marked_answer(value) or (value.strip() if is_bare(value) else None)
            if answer:
                return answer
    return None


def marked_answer(text: str) -> str | None:
    r"""What follows the last `####` of a text, else the content of its last `\boxed{}`."""
    marks = MARK.findall(text)
    return str(marks[-1]) if marks else last_boxed(text)


def is_bare(text: str) -> bool:
    r"""Whether a text is an answer by itself (``72``, ``\frac12``, ``no solution``) and not a sentence around one."""
    text = text.strip()
    words = len(_WORD.findall(_COMMAND.sub(" ", text)))
    sentence = words >= 3 and (text.endswith(".") or any(letter.isdigit() for letter in text))
    return "\n" not in text and words <= 4 and not sentence
