r"""Boxes, in which a solution states its answer: ``\boxed{72}``, ``\fbox{72}``, ``\framebox[2cm]{72}``, ``\boxed 4``.

Whatever the text, it is read once from left to right.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from dataclasses import dataclass

# `\boxed`, `\fbox`, `\framebox[2cm]`; not `\boxedtext`
_COMMAND = r"\\(?:boxed|fbox|framebox|bbox)(?![A-Za-z])(?:\s*\[[^\[\]{}\n]{0,40}\](?=\s*[\[{])){0,2}"
BOX = re.compile(_COMMAND + r"\s*\{")  # `\boxed{`, `\fbox {`: where a box begins
_ANY_BOX = re.compile(_COMMAND + r"\s*(\{?)")  # also `\boxed ` of `\boxed 4`
_BRACE = re.compile(r"\\.|[{}]", re.S)  # `{`, `}`; also `\{`, `\}` and `\\`, whole, because they are no braces
# After a box without braces: `4`, `-1,450.5`, `.5`, `\frac38`, `\frac`, `\pi`, `x`
_ARGUMENT = re.compile(
    r"[+-]?(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+|"
    r"\\[dtc]?frac\s*[0-9]\s*[0-9]|\\[A-Za-z]+|[A-Za-z])"
)
_GROUP = re.compile(r"\s*\{")  # where an argument of that command begins: `{` of `\frac{3}{8}`
# A box that only shows where to write holds nothing but these: ` `, `...`, `\ldots`, `?`, `__`, `\text{ }`, `\boxed{}`
_NOTHING = r"[\s.…?_~${}]|\\[,;:! _]|\\(?:[lc]?dots|q?quad|text|boxed|fbox)(?![A-Za-z])"
_SOMETHING = re.compile(rf"(?:{_NOTHING})*+(?:(.)|$)", re.S)  # the next character that is an answer's
# Between two boxes that state one answer: `, `, `$ and $`, ` \text{ or } `, `$, and $x_2 = `
_JOINT = re.compile(
    r"[\s$]*(?:[,;、][\s$]*)?(?:\\text\s*\{\s*)?(and|or|[,;、和或])[\s$}]*(?:[A-Za-z](?:_?[0-9])?\s*=[\s$]*)?"
)
_LONGEST_JOINT = 40  # characters


@dataclass(frozen=True)
class Box:
    """Where a box and its content begin and end, in characters."""

    start: int
    end: int
    content: tuple[int, int]


def closed_braces(text: str) -> dict[int, int]:
    """For each ``{`` that is closed: offset just after it → offset just after the ``}`` that closes it."""
    opened: list[int] = []
    closed: dict[int, int] = {}
    for match in _BRACE.finditer(text):
        if match.group() == "{":
            opened.append(match.end())
        elif match.group() == "}" and opened:
            closed[opened.pop()] = match.end()
    return closed


def boxes(text: str) -> list[Box]:
    """All closed boxes, in the order in which they begin; one may lie in another."""
    closed = closed_braces(text)
    found = []
    for match in _ANY_BOX.finditer(text):
        start = match.end()
        end = closed.get(start) if match[1] else _end_of_argument(text, start, closed)
        if end is not None:
            found.append(Box(match.start(), end, (start, end - 1 if match[1] else end)))
    return found


def _end_of_argument(text: str, start: int, closed: dict[int, int]) -> int | None:
    argument = _ARGUMENT.match(text, start)
    if argument is None:
        return None
    end = argument.end()
    if "\\" in argument.group():
        while (group := _GROUP.match(text, end)) and group.end() in closed:
            end = closed[group.end()]
    return end


def last_boxed(text: str) -> str | None:
    r"""The answer in the last box of ``text``, or None.

    Boxes joined by a comma, *and* or *or* state one answer: ``\boxed{2}$ and $\boxed{5}`` is ``2, 5``, with *or*
    ``2\text{ or }5``. An empty box counts only where no other is filled.
    """
    every = boxes(text)
    if not every:
        return None
    something = [match.start(1) for match in _SOMETHING.finditer(text, every[0].start) if match[1]]
    filled = [box for box in every if bisect_left(something, box.content[0]) < bisect_left(something, box.content[1])]
    last = filled.pop() if filled else every[-1]
    answer = [text[slice(*last.content)].strip()]
    while filled and filled[-1].end <= last.start <= filled[-1].end + _LONGEST_JOINT:
        joint = _JOINT.fullmatch(text, filled[-1].end, last.start)
        if joint is None:
            break
        last = filled.pop()
        answer += [r"\text{ or }" if joint[1] in ("or", "或") else ", ", text[slice(*last.content)].strip()]
    return "".join(reversed(answer))
