r"""Where a solution must not be cut: mathematics, environments, ``[asy]`` drawings and code fences.

Every opener's closer is found before the text is read for spans, so that no part of it is searched twice.
"""

from __future__ import annotations

import functools
import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Sequence

from stepjepa.data.boxes import BOX, closed_braces

Span = tuple[int, int]

DISPLAY = (r"\[", r"\begin", "[asy]", "$$", "```", "~~~")
"""How a formula, a drawing or code that stands on lines of its own begins."""

_CLOSERS = {r"\[": r"\]", r"\(": r"\)", "[asy]": "[/asy]"}
# A code fence: ```` ``` ````, ```` ````python ````; of tildes only at a line's beginning: `a~~~b` is LaTeX
_FENCE = r"`{3,}|(?m:^)[^\S\n]*~{3,}"
_ENVIRONMENT = r"\\(?:begin|end)\{[^{}\\]*\}"  # `\begin{cases}`, `\end{cases}`
# What opens or closes a span, but for dollars and boxes. Also `\\`, which is taken whole, so that the line break
# `\\[2pt]` is not read as `\[`.
_DELIMITER = re.compile(rf"\\\\|\\[()\[\]]|{_ENVIRONMENT}|\[/?asy\]|{_FENCE}")
# What opens a span. Also `\\` and `\$`, which open nothing but are taken whole: `\$5` is a price.
_OPENER = re.compile(rf"\\\\|\\\$|\\[(\[]|\\begin\{{[^{{}}\\]*\}}|{BOX.pattern}|\[asy\]|{_FENCE}|\$\$|\$")
_DOLLAR = re.compile(r"(?<!\\)\$")  # `$`, not `\$`
_LATEX = re.compile(r"[\\^_{}]")  # what formulas have and prices have not: `\`, `^`, `_`, braces
BLANK_LINE = re.compile(r"\n\s*\n\s*")  # a line end, nothing but whitespace, and another line end


@functools.lru_cache(maxsize=2)  # the splitters ask for the same text several times
def protected_spans(text: str, *, inline: bool) -> Sequence[Span]:
    r"""Spans in which no cut may fall, in order: ``\[…\]``, environments, ``[asy]…[/asy]``, code fences.

    With ``inline`` also ``$…$``, ``$$…$$``, ``\(…\)`` and ``\boxed{…}``. One scan from left to right; an opener
    that never closes protects nothing: one missing bracket must not swallow the rest of a solution.
    """
    closed = _closed(text)
    if inline:
        closed |= closed_braces(text)
    even = len(_DOLLAR.findall(text)) % 2 == 0
    spans: list[Span] = []
    position = 0
    while match := _OPENER.search(text, position):
        opener, start = match.group(), match.end()
        end: int | None = None
        if opener == "$":
            end = _closing_dollar(text, start, even) if inline else None
        elif opener == "$$":
            # Found or not, no dollar before the next pair of them is looked at again.
            end = text.find("$$", start) + 2 if inline else None
            end = None if end == 1 else end
        elif inline or opener != r"\(":
            end = closed.get(start)
        if end is not None:
            spans.append((start - len(opener.lstrip()), end))
        position = start if end is None else end
    return spans


def _closed(text: str) -> dict[int, int]:
    """For each opener that is closed, but for dollars and braces: offset just after it → just after its closer."""
    closed: dict[int, int] = {}
    waiting: dict[str, int] = {}  # closer → end of its opener; a second opener before it: the first was never closed
    environments: dict[str, list[int]] = defaultdict(list)  # name → ends of those open, which nest
    fences: dict[str, list[tuple[int, int]]] = {"`": [], "~": []}  # length and end of those open
    for match in _DELIMITER.finditer(text):
        mark, end = match.group(), match.end()
        if mark in _CLOSERS:
            waiting[_CLOSERS[mark]] = end
        elif mark in waiting:
            closed[waiting.pop(mark)] = end
        elif mark.startswith(r"\begin"):
            environments[mark[6:]].append(end)
        elif mark.startswith(r"\end") and environments[mark[4:]]:
            closed[environments[mark[4:]].pop()] = end
        elif mark[-1] in fences:
            fence = mark.lstrip()
            opened = fences[mark[-1]]
            while opened and opened[-1][0] <= len(fence):  # closed by one that is as long or longer
                closed[opened.pop()[1]] = end
            opened.append((len(fence), end))
    return closed


def _closing_dollar(text: str, start: int, even: bool) -> int | None:
    """End of ``$…$`` opened before ``start``, distinguished from money, which the same data set may hold.

    ``$5 and $3`` is money: in mathematics the dollars touch their content and no digit follows the closing
    one (pandoc's rule). Looser spacing is accepted where the content is LaTeX and the dollars pair up.
    """
    match = _DOLLAR.search(text, start)
    if match is None:
        return None
    content = text[start : match.start()]
    if not content.strip() or BLANK_LINE.search(content):
        return None
    tight = not content[0].isspace() and not content[-1].isspace()
    if tight and not text[match.end() : match.end() + 1].isdigit():
        return match.end()
    return match.end() if even and _LATEX.search(content) else None


def is_inside(spans: Sequence[Span], offset: int) -> bool:
    """Whether an offset lies within one of the spans, their ends excepted."""
    index = bisect_right(spans, (offset, -1)) - 1
    return index >= 0 and spans[index][0] < offset < spans[index][1]


def mathematics(text: str) -> tuple[Sequence[Span], Callable[[int], bool]]:
    """The protected spans, and whether an offset is protected.

    A stray `$` can pair up across the beginning of a display and hide it, so both scans count: what the
    paragraph splitter keeps together no other splitter may cut.
    """
    spans, displays = protected_spans(text, inline=True), protected_spans(text, inline=False)
    return spans, lambda offset: is_inside(spans, offset) or is_inside(displays, offset)
