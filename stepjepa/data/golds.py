r"""Where an answer stands in a text, and the reference answer of a row.

Reference answers and responses are read by the same functions. A row's answer is a whole field, or what a box or
``####`` marks in it; a sentence or a whole solution is none, in whatever script: taken for one, every right response
to it would count as wrong.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from stepjepa.data.boxes import last_boxed
from stepjepa.data.numbers import read_number
from stepjepa.data.thoughts import split_thoughts
from stepjepa.data.units import split_unit

GOLD_FIELDS = (
    *("ground_truth", "answer", "answer_number", "expected_answer", "final_answer", "gold_answer", "reference_answer"),
    *("gold", "target"),
)
"""Fields that hold a reference answer, in the order in which they are asked."""

# What data sets write where there is no answer, in any case of letters: `proof` and `notfound` of NuminaMath
_NO_ANSWER = re.compile(
    r"(?:proof|not ?(?:found|available|provided)|no answer|none|null|nan|n/?a|unknown|tbd|see solution)\.?|"
    r"[-–—?.…*_$\s]*",
    re.I,
)
_HASHES = re.compile(r"(?<!#)####(?!#)[ \t]*")  # `#### ` of `#### 72`, `So #### 72`; not `##### 72`
# After the hashes: `Step 3`, `**Final answer**`, `Answer: 5`
_HEADING = re.compile(r"[*_ \t]*(?:step|final|answer|solution|result|conclusion)\b", re.I)
# The same, if text follows: `Adding up`, `2. Compute`; not `x`, `\text{Eve}`, `72`
_TITLE = re.compile(r"[*_ \t]*(?:[^\W\d_]{2}|[0-9]+[.)][ \t]+\S)")
_COMMAND = re.compile(r"\\[A-Za-z]+")  # `\frac`, `\text`
# `no`, `решений`, `समाधान`; not `x`. Scripts without spaces (Chinese, Japanese, Thai, …): two letters are a word.
_WORD = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]{1,2}|"
    "(?:[^\\W\\d_][\u0300-\u036f\u0591-\u05c7\u0610-\u06ed\u0900-\u0903\u093a-\u094f\u0980-\u0d7f]*){2,}"
)
_DIGIT = re.compile(r"\d")
_LONGEST_QUANTITY = 100  # characters; for a unit every word is tried with all that follows it
_SENTENCE_END = re.compile(r"[。！？।؟]\s*$")  # never the end of a number, as `.` may be


def hash_mark(text: str) -> tuple[int, int, str] | None:
    """``(start, end, answer)`` of the last ``#### answer``, anywhere in a line; a Markdown heading is none."""
    following = len(text)
    for match in reversed(list(_HASHES.finditer(text))):
        stop = text.find("\n", match.end(), following)
        stop = following if stop < 0 else stop
        answer = text[match.end() : stop].strip()
        followed = bool(text[stop:following].strip()) or following < len(text)
        if answer and not _HEADING.match(answer) and not (followed and _TITLE.match(answer)):
            return match.start(), stop, answer
        following = match.start()
    return None


def stated_answer(text: str) -> str | None:
    """The answer in the last box (:func:`last_boxed`) unless that is empty, else after the last ``####``."""
    boxed = last_boxed(text)
    if boxed:
        return boxed
    mark = hash_mark(text)
    return mark[2] if mark else boxed


def named_answer(row: Mapping[str, Any], *fields: str) -> str | None:
    """The answer in the first of the fields (all of `GOLD_FIELDS` if none is named) that holds one.

    Numbers count as text, unless JSON's double-precision numbers cannot hold them: ``1e400`` is no infinity.
    """
    for name in fields or GOLD_FIELDS:
        value = row.get(name)
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if (type(value) is int) or (isinstance(value, float) and math.isfinite(value)):
            return str(value)
        if isinstance(value, str):
            text = split_thoughts(value)[1]
            answer = stated_answer(text) or (text if _is_bare(text) else "")
            if not _NO_ANSWER.fullmatch(answer):
                return answer
    return None


def _is_bare(text: str) -> bool:
    r"""Whether a text is an answer by itself (``72``, ``\frac12``, ``no solution``) and not a sentence around one."""
    if len(text) <= _LONGEST_QUANTITY and "\n" not in text:
        quantity = split_unit(text.strip().rstrip("."))
        if quantity.unit is not None and read_number(quantity.text) is not None:
            return True  # `60 kilometers per hour`
    text = _COMMAND.sub(" ", text.strip())
    words = len(_WORD.findall(text))
    stops = text.endswith(".")
    if "\n" in text or words > 4 or (words and _SENTENCE_END.search(text)):
        return False
    digit = _DIGIT.search(text)
    if words == 2:  # `5 square feet.`, not `It is 5.`
        return not (stops and digit and _WORD.search(text, 0, digit.start()))
    return not (words >= 3 and (stops or digit))
