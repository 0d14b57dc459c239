r"""Solution text → reasoning steps, the unit that everything else in the package aligns.

A splitter is a function that names *cut offsets* in the text; the steps are what lies between the cuts, so
no splitter can lose or reorder content. Cuts never fall inside mathematics, an ``[asy]`` drawing or a code
fence, and every step comes out stripped, non-empty and free of blank lines: ``"\n\n".join(steps)`` therefore
splits back (``"paragraph"``) into the same steps. `tokens.py` makes tokens of them.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, get_args

from stepjepa.data.boxes import BOX, closed_braces
from stepjepa.data.thoughts import split_thoughts

Splitter = Literal["auto", "paragraph", "line", "numbered", "sentence"]
Think = Literal["remove", "steps"]
Short = Literal["merge", "drop"]
Span = tuple[int, int]


# -------- where a text must not be cut --------

_CLOSERS = {r"\[": r"\]", "[asy]": "[/asy]", "```": "```"}
_INLINE_CLOSERS = {r"\(": r"\)", "$$": "$$"}
# `\[`, `\(`, `\begin{cases}`, `\boxed{`, `[asy]`, a code fence, `$$`, `$`. Also `\\` and `\$`, which open nothing but
# are taken whole, so that the line break `\\[2pt]` is not read as `\[` nor a price `\$5` as a formula.
_OPENER = re.compile(rf"\\\\|\\\$|\\\[|\\\(|\\begin\{{[^{{}}]*\}}|{BOX.pattern}|\[asy\]|```|\$\$|\$")
_DOLLAR = re.compile(r"(?<!\\)\$")  # `$`, not `\$`
_BLANK_LINE = re.compile(r"\n\s*\n\s*")  # a line end, nothing but whitespace, and another line end
_LATEX = re.compile(r"[\\^_{}]")  # what formulas have and prices have not: `\`, `^`, `_`, braces


def protected_spans(text: str, *, inline: bool) -> list[Span]:
    r"""Spans in which no cut may fall, in order: ``\[…\]``, environments, ``[asy]…[/asy]``, code fences.

    With ``inline`` also ``$…$``, ``$$…$$``, ``\(…\)`` and ``\boxed{…}``. One scan from left to right; an opener
    that never closes protects nothing: one missing bracket must not swallow the rest of a solution.
    """
    closers = _CLOSERS | _INLINE_CLOSERS if inline else _CLOSERS
    even = len(_DOLLAR.findall(text)) % 2 == 0
    closed = closed_braces(text) if inline else {}
    spans: list[Span] = []
    position = 0
    while match := _OPENER.search(text, position):
        opener, start = match.group(), match.end()
        end: int | None = None
        if opener in closers:
            end = _closing(text, start, opener, closers[opener])
        elif opener.startswith(r"\begin"):
            end = _closing(text, start, opener, opener.replace("begin", "end", 1), nested=True)
        elif inline and opener == "$":
            end = _closing_dollar(text, start, even)
        elif inline and opener.endswith("{"):
            end = closed.get(start)
        if end is not None:
            spans.append((match.start(), end))
        position = start if end is None else end
    return spans


def _closing(text: str, start: int, opener: str, closer: str, *, nested: bool = False) -> int | None:
    depth = 1
    # The closer, another opener, or a line break `\\`, taken whole as above.
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
    """End of ``$…$`` opened before ``start``, distinguished from money, which the same data set may hold.

    ``$5 and $3`` is money: in mathematics the dollars touch their content and no digit follows the closing
    one (pandoc's rule). Looser spacing is accepted where the content is LaTeX and the dollars pair up.
    """
    match = _DOLLAR.search(text, start)
    if match is None:
        return None
    content = text[start : match.start()]
    if not content.strip() or _BLANK_LINE.search(content):
        return None
    tight = not content[0].isspace() and not content[-1].isspace()
    if tight and not text[match.end() : match.end() + 1].isdigit():
        return match.end()
    return match.end() if even and _LATEX.search(content) else None


def _inside(spans: Sequence[Span], offset: int) -> bool:
    index = bisect_right(spans, (offset, -1)) - 1
    return index >= 0 and spans[index][0] < offset < spans[index][1]


def _mathematics(text: str) -> tuple[list[Span], Callable[[int], bool]]:
    """The protected spans, and whether an offset must not be cut.

    A stray `$` can pair up across the beginning of a display and hide it, so both scans count: what the
    paragraph splitter keeps together no other splitter may cut.
    """
    spans, displays = protected_spans(text, inline=True), protected_spans(text, inline=False)
    return spans, lambda offset: _inside(spans, offset) or _inside(displays, offset)


# -------- splitters --------

_DISPLAY = (r"\[", r"\begin", "[asy]", "$$", "```")
# `Step 1:`, `**Step 2.**`, `### Step 3: Add` and, under a heading, also `## Step 3`; not `Step 2 gives 7`
_STEP_MARKER = re.compile(
    r"^[ \t]{0,3}(?:#{1,6}[ \t]+(?:\*\*|__)?Step[ \t]+(\d+)\b|"
    r"(?:\*\*|__)?[ \t]*Step[ \t]+(\d+)[ \t]*(?:[:.)–—-]|\*\*|__|$))",
    re.M | re.I,
)
# `1. `, `(2) `, `**3.** `, `## 4) ` at the beginning of a line; not `1.5 hours`
_BARE_MARKER = re.compile(r"^[ \t]{0,3}(?:#{1,6}[ \t]+)?(?:\*\*|__)?\(?(\d{1,2})[.)](?:\*\*|__)?(?=\s)", re.M)
# `Answer:`, `**Final Answer:**`, `## Conclusion`; not `The answer is`
_ANSWER_HEADING = re.compile(
    r"^[ \t]{0,3}(?:#{1,6}[ \t]*)?(?:\*\*|__)?(?:Final[ \t]+)?(?:Answer|Conclusion)[ \t]*(?::|\*\*|__|$)", re.M | re.I
)
# `72. Then`, `sure?" She`, and a full stop just inside the mathematics that it ends, `$x = 5.$ Then`; not `3.5`
_SENTENCE_END = re.compile(
    r"[.!?]+[\"')\]}”’*]*(?:\s?(?:\$\$?|\\\)|\\\]))?[\"')\]”’*]*(\s+)(?=[A-Z0-9$\\\"'(\[“‘*#—-])"
)
_CAPITAL_NEXT = re.compile(r"\s*(?=[A-Z])")  # after a display: `Hence`, ` Then`; not `, so`
# What a full stop ends without ending the sentence: ` Mr.`, `(e.g.`, ` J.`, ` U.S.`; not ` I.`
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\[\"'“‘])(?:mr|mrs|ms|dr|prof|st|jr|sr|vs|e\.g|i\.e|cf|eq|eqs|eqn|fig|figs|no|nos|approx|ca|vol|"
    r"sec|ch|ex|thm|resp|[A-HJ-Z]|[A-Z]\.[A-Z])\.$",
    re.I,
)


def _paragraph_cuts(text: str) -> list[int]:
    # Only spans whose delimiters cannot be mistaken: `$` is guessed from its surroundings, and the guess
    # would not be the same again once the steps have been joined by blank lines.
    spans = protected_spans(text, inline=False)
    return [match.end() for match in _BLANK_LINE.finditer(text) if not _inside(spans, match.start())]


def _line_cuts(text: str) -> list[int]:
    spans, is_inside = _mathematics(text)
    starts = {start for start, _ in spans}
    cuts = []
    for match in re.finditer(r"\n\s*", text):  # a line end and what is empty after it
        cut = match.end()
        display = cut in starts and text.startswith(_DISPLAY, cut)
        if not is_inside(match.start()) and not display:
            cuts.append(cut)  # a display formula finishes the sentence of the line before it
    return cuts


def _markers(text: str) -> list[int]:
    """Offsets of the numbered markers 1, 2, 3, …: ``Step n`` ones if there are any, else bare ``n.`` ones."""
    _, is_inside = _mathematics(text)
    for pattern in (_STEP_MARKER, _BARE_MARKER):
        markers = [
            (int(next(filter(None, match.groups()))), match.start())
            for match in pattern.finditer(text)
            if not is_inside(match.start())
        ]
        first = next((i for i, (number, _) in enumerate(markers) if number <= 1), 0)
        chain = markers[first : first + 1]
        for number, start in markers[first + 1 :]:
            if number == chain[-1][0] + 1:  # a list inside a step starts again at 1 and stays inside
                chain.append((number, start))
        if len(chain) > 1 or (chain and pattern is _STEP_MARKER):
            return [start for _, start in chain]
    return []


def _numbered_cuts(text: str) -> list[int]:
    cuts = _markers(text)
    answer = _ANSWER_HEADING.search(text, cuts[-1]) if cuts else None
    if answer and not _mathematics(text)[1](answer.start()):
        cuts.append(answer.start())
    return cuts


def _sentence_cuts(text: str) -> list[int]:
    spans, is_inside = _mathematics(text)
    cuts = set(_paragraph_cuts(text))
    for match in _SENTENCE_END.finditer(text):
        stop = text[max(0, match.start() - 12) : match.start() + 1]
        if not is_inside(match.start(1)) and not _ABBREVIATION.search(stop):
            cuts.add(match.end(1))
    for start, end in spans:
        # A display is often glued to the next sentence, and ends its own without a full stop: `\]Hence`.
        capital = _CAPITAL_NEXT.match(text, end)
        if capital and text.startswith(_DISPLAY, start) and not is_inside(end):
            cuts.add(capital.end())
    return sorted(cuts)


def _auto_cuts(text: str) -> list[int]:
    if len(_markers(text)) >= 2:
        return _numbered_cuts(text)
    return _paragraph_cuts(text) or _line_cuts(text) or _sentence_cuts(text)


_SPLITTERS: dict[str, Callable[[str], list[int]]] = {
    "auto": _auto_cuts,
    "paragraph": _paragraph_cuts,
    "line": _line_cuts,
    "numbered": _numbered_cuts,
    "sentence": _sentence_cuts,
}

# -------- pieces and merging --------

# `## How we add`, `**Adding:**`, `__Adding__:`; not `**72** clips`
_HEADING = re.compile(r"#{1,6}[ \t][^\n]*|(?:\*\*|__)[^\n]*:[ \t]*(?:\*\*|__)|(?:\*\*|__)[^\n]*(?:\*\*|__):")
# `1.`, `(2)`, `**Step 3:**`, `-`, and a lone word such as `So` or `Therefore,`; not `So it is`
_MARKER_ONLY = re.compile(r"(?:\*\*|__)?(?:Step[ \t]+\d+|\(?\d{1,2}[.)]|[-*•–])[:.]?(?:\*\*|__)?|[A-Z][a-z]+,?", re.I)


# Blank lines in a row, with the spaces before them: `word \n\n \n`, not `word \n`
_BLANK_LINES = re.compile(r"[^\S\n]*\n(?:\s*\n)+")


def _tidy(text: str) -> str:
    """Strip, and close up blank lines: a step must be one paragraph, or joined steps would not split back."""
    return _BLANK_LINES.sub("\n", text).strip()


def _merge_short(text: str, pieces: Sequence[Span], min_chars: int) -> list[Span]:
    """Join fragments to a neighbour: headings, markers, lead-ins (``…:``) forward, anything else backward."""
    merged: list[Span] = []
    waiting: int | None = None  # where the fragments that wait for the next piece begin
    for index, (start, end) in enumerate(pieces):
        start = start if waiting is None else waiting
        fragment = _tidy(text[start:end])
        short = len(fragment) < min_chars
        opens = not merged or fragment.endswith(":") or _MARKER_ONLY.fullmatch(fragment) is not None
        if index + 1 < len(pieces) and ((short and opens) or _HEADING.fullmatch(fragment)):
            waiting = start
            continue
        waiting = None
        if short and merged:
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
    return merged


def split_steps(
    text: str, splitter: Splitter = "auto", *, think: Think = "remove", short: Short = "merge", min_chars: int = 20
) -> list[str]:
    r"""Split a worked solution into its reasoning steps.

    Args:
        text: the solution; ``\r\n`` counts as ``\n``.
        splitter: ``paragraph`` cuts at blank lines; ``line`` at line ends (a line that begins with a display
            formula stays with the line before); ``numbered`` at ``**Step 1:**``, ``Step 1:``, ``## Step 1``
            or ``1.`` markers and at a closing answer heading, sub-paragraphs staying inside their step;
            ``sentence`` at sentence ends and blank lines. ``auto`` takes ``numbered`` if at least two markers
            count up, else ``paragraph`` if there is a blank line, else ``line`` if there is a line end, else
            ``sentence``. None of them cuts inside mathematics, an environment, ``[asy]`` or a code fence.
        think: ``remove`` drops thoughts (see :func:`stepjepa.data.thoughts.split_thoughts`); ``steps`` takes the
            thoughts for the steps and drops the rest, where there are thoughts.
        short: what happens to fragments under ``min_chars`` characters. ``merge`` joins the first fragment,
            headings, markers and lead-ins ending in a colon to the next piece, any other to the previous one,
            so no content is lost; headings are joined whatever their length. ``drop`` drops fragments, as the
            original Step-JEPA scripts did (short ``\boxed{540}`` answers are lost).
        min_chars: the length below which a piece is a fragment.

    Returns:
        The steps, stripped, non-empty, without blank lines inside; ``[]`` for a text with nothing in it.

    Raises:
        ValueError: for an unknown ``splitter``, ``think`` or ``short``.
    """
    for name, value, known in (
        ("splitter", splitter, get_args(Splitter)),
        ("think", think, get_args(Think)),
        ("short", short, get_args(Short)),
    ):
        if value not in known:
            raise ValueError(f"{name}={value!r} is unknown; choose one of {', '.join(known)}")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    thoughts, solution = split_thoughts(text)
    text = thoughts if think == "steps" and thoughts else solution
    bounds = sorted({0, len(text), *_SPLITTERS[splitter](text)})
    pieces = [(start, end) for start, end in pairwise(bounds) if text[start:end].strip()]
    if short == "merge":
        pieces = _merge_short(text, pieces, min_chars)
    steps = [_tidy(text[start:end]) for start, end in pieces]
    return [step for step in steps if short == "merge" or len(step) >= min_chars]
