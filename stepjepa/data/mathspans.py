r"""Where a solution must not be cut: mathematics, environments, ``[asy]`` drawings and code fences.

One left-to-right scan for openers, each matched with its own closer. The hard part is the dollar sign, which
in one and the same data set opens a formula (``$x = 5$``) and names a price (``$5 and $3``).
"""

from __future__ import annotations

import re
from bisect import bisect_right

Span = tuple[int, int]

_OPENER = re.compile(r"\\\\|\\\$|\\\[|\\\(|\\begin\{[^{}]*\}|\\(?:boxed|fbox)\s*\{|\[asy\]|```|\$\$|\$")
_BLANK_LINE = re.compile(r"\n\s*\n")
_LATEX = re.compile(r"[\\^_{}]")


def protected_spans(text: str, *, inline: bool) -> list[Span]:
    r"""Spans in which no cut may fall, in order: ``\[…\]``, environments, ``[asy]…[/asy]``, code fences.

    With ``inline`` also ``$…$``, ``$$…$$``, ``\(…\)`` and ``\boxed{…}``. An opener that never closes
    protects nothing: one missing bracket must not swallow the rest of a solution.
    """
    even = len(re.findall(r"(?<!\\)\$", text)) % 2 == 0
    spans: list[Span] = []
    position = 0
    while match := _OPENER.search(text, position):
        opener, start = match.group(), match.end()
        end: int | None = None
        if opener == r"\[":
            end = _closing(text, start, r"\[", r"\]")
        elif opener.startswith(r"\begin"):
            end = _closing(text, start, opener, opener.replace("begin", "end", 1), nested=True)
        elif opener == "[asy]":
            end = _closing(text, start, "[asy]", "[/asy]")
        elif opener == "```":
            end = _closing(text, start, "```", "```")
        elif inline and opener == r"\(":
            end = _closing(text, start, r"\(", r"\)")
        elif inline and opener == "$$":
            end = _closing(text, start, "$$", "$$")
        elif inline and opener == "$":
            end = _closing_dollar(text, start, even)
        elif inline and opener not in (r"\\", r"\$"):
            end = closing_brace(text, start)
        # `\\` and `\$` are consumed whole, so that the line break `\\[2pt]` is not taken for `\[`.
        if end is None:
            position = start
        else:
            spans.append((match.start(), end))
            position = end
    return spans


def _closing(text: str, start: int, opener: str, closer: str, *, nested: bool = False) -> int | None:
    depth = 1
    for match in re.compile(rf"\\\\|{re.escape(closer)}|{re.escape(opener)}").finditer(text, start):
        token = match.group()
        if token == closer:
            depth -= 1
            if depth == 0:
                return match.end()
        elif token == opener:
            if not nested:
                return None  # a second opener before any closer: the first was never closed
            depth += 1
    return None


def _closing_dollar(text: str, start: int, even: bool) -> int | None:
    """End of ``$…$`` opened before ``start``, told apart from money.

    ``$5 and $3`` is money: in mathematics the dollars touch their content and no digit follows the closing
    one (pandoc's rule). Looser spacing is accepted where the content is LaTeX and the dollars pair up.
    """
    match = re.compile(r"(?<!\\)\$").search(text, start)
    if match is None:
        return None
    content = text[start : match.start()]
    if not content.strip() or _BLANK_LINE.search(content):
        return None
    tight = not content[0].isspace() and not content[-1].isspace()
    if tight and not text[match.end() : match.end() + 1].isdigit():
        return match.end()
    return match.end() if even and _LATEX.search(content) else None


def inside(spans: list[Span], offset: int) -> bool:
    index = bisect_right(spans, (offset, -1)) - 1
    return index >= 0 and spans[index][0] < offset < spans[index][1]


def closing_brace(text: str, start: int) -> int | None:
    """Offset just after the brace that closes the one opened before ``start``, or ``None``."""
    depth = 1
    for match in re.compile(r"\\.|[{}]", re.S).finditer(text, start):
        depth += {"{": 1, "}": -1}.get(match.group(), 0)  # an escaped \{ or \} is neither
        if depth == 0:
            return match.end()
    return None
