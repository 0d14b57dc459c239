r"""Solution text → reasoning steps, the unit that everything else in the package aligns.

A splitter is a function that names *cut offsets* in the text; the steps are what lies between the cuts, so
no splitter can lose or reorder content. Cuts never fall inside mathematics, an ``[asy]`` drawing or a code
fence, and every step comes out stripped, non-empty and free of blank lines: ``"\n\n".join(steps)`` therefore
splits back (``"paragraph"``) into the same steps. See DESIGN §5 for how the steps become tokens.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Literal, get_args

from stepjepa.data.mathspans import Span, closing_brace, inside, protected_spans

Splitter = Literal["auto", "paragraph", "line", "numbered", "sentence"]
Think = Literal["remove", "steps"]
Short = Literal["merge", "drop"]

# -------- answer helpers --------

_CALCULATOR_MARK = re.compile(r"<<[^<>]*>>")
_BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{")


def strip_calculator_marks(text: str) -> str:
    """Remove GSM8K's calculator marks: ``"48/2 = <<48/2=24>>24"`` → ``"48/2 = 24"``."""
    return _CALCULATOR_MARK.sub("", text)


def final_answer_step(answer: str) -> str:
    r"""The closing step that states ``answer``: ``"72"`` → ``"The answer is \boxed{72}."``.

    A whole sentence, because a bare ``\boxed{7}`` is shorter than the default ``min_chars`` and would be
    merged into the step before it.
    """
    return rf"The answer is \boxed{{{answer.strip()}}}."


def last_boxed(text: str) -> str | None:
    r"""The content of the last closed ``\boxed{…}`` in ``text`` (nested braces allowed), or ``None``."""
    for match in reversed(list(_BOXED.finditer(text))):
        end = closing_brace(text, match.end())
        if end is not None:
            return text[match.end() : end - 1].strip()
    return None


# -------- thinking blocks --------

_THINK_BLOCK = re.compile(r"<think>(.*?)(?:</think>|\Z)", re.S)
_THINK_TAG = re.compile(r"</?think>")


def split_think(text: str) -> tuple[str, str]:
    """``(thoughts, solution)`` of a response with ``<think>…</think>`` blocks.

    An unclosed ``<think>`` runs to the end of the text; a ``</think>`` without an opening tag closes a
    thought that began with the text (templates that put ``<think>`` into the prompt leave such responses).
    """
    opened, closed = text.find("<think>"), text.find("</think>")
    if closed >= 0 and (opened < 0 or closed < opened):
        text = "<think>" + text
    thoughts = "\n\n".join(match.group(1) for match in _THINK_BLOCK.finditer(text))
    solution = _THINK_BLOCK.sub("\n\n", text)
    return _THINK_TAG.sub("", thoughts).strip(), _THINK_TAG.sub("", solution).strip()


# -------- splitters --------

_DISPLAY = (r"\[", r"\begin", "[asy]", "$$", "```")
_STEP_MARKER = re.compile(
    r"^[ \t]{0,3}(?:#{1,6}[ \t]+(?:\*\*|__)?Step[ \t]+(\d+)\b|"
    r"(?:\*\*|__)?[ \t]*Step[ \t]+(\d+)[ \t]*(?:[:.)–—-]|\*\*|__|$))",
    re.M | re.I,
)
_BARE_MARKER = re.compile(r"^[ \t]{0,3}(?:#{1,6}[ \t]+)?(?:\*\*|__)?\(?(\d{1,2})[.)](?:\*\*|__)?(?=\s)", re.M)
_ANSWER_HEADING = re.compile(
    r"^[ \t]{0,3}(?:#{1,6}[ \t]*)?(?:\*\*|__)?(?:Final[ \t]+)?(?:Answer|Conclusion)[ \t]*(?::|\*\*|__|$)", re.M | re.I
)
# A full stop may sit just inside the mathematics or the quotation that it ends: `$x = 5.$ Then`.
_SENTENCE_END = re.compile(
    r"[.!?]+[\"')\]}”’*]*(?:\s?(?:\$\$?|\\\)|\\\]))?[\"')\]”’*]*(\s+)(?=[A-Z0-9$\\\"'(\[“‘*#—-])"
)
_CAPITAL_NEXT = re.compile(r"\s*(?=[A-Z])")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\[\"'“‘])(?:mr|mrs|ms|dr|prof|st|jr|sr|vs|e\.g|i\.e|cf|eq|eqs|eqn|fig|figs|no|nos|approx|ca|vol|"
    r"sec|ch|ex|thm|resp|[A-HJ-Z]|[A-Z]\.[A-Z])\.$",
    re.I,
)


def _paragraph_cuts(text: str) -> list[int]:
    # Only spans whose delimiters cannot be mistaken: `$` is guessed from its surroundings, and the guess
    # would not be the same again once the steps have been joined by blank lines.
    spans = protected_spans(text, inline=False)
    return [m.end() for m in re.finditer(r"\n\s*\n\s*", text) if not inside(spans, m.start())]


def _mathematics(text: str) -> tuple[list[Span], Callable[[int], bool]]:
    """The protected spans, and whether an offset must not be cut.

    A stray `$` can pair up across the beginning of a display and hide it, so both scans count: what the
    paragraph splitter keeps together no other splitter may cut.
    """
    spans, displays = protected_spans(text, inline=True), protected_spans(text, inline=False)
    return spans, lambda offset: inside(spans, offset) or inside(displays, offset)


def _line_cuts(text: str) -> list[int]:
    spans, is_inside = _mathematics(text)
    starts = {start for start, _ in spans}
    cuts = []
    for match in re.finditer(r"\n\s*", text):
        cut = match.end()
        display = cut in starts and text.startswith(_DISPLAY, cut)
        if not is_inside(match.start()) and not display:
            cuts.append(cut)  # a display formula finishes the sentence of the line before it
    return cuts


def _markers(text: str) -> list[int]:
    """Offsets of the numbered markers 1, 2, 3, …: ``Step n`` ones if there are any, else bare ``n.`` ones."""
    _, is_inside = _mathematics(text)
    for pattern in (_STEP_MARKER, _BARE_MARKER):
        found = [
            (int(next(g for g in m.groups() if g)), m.start())
            for m in pattern.finditer(text)
            if not is_inside(m.start())
        ]
        first = next((i for i, (number, _) in enumerate(found) if number <= 1), 0)
        chain = found[first : first + 1]
        for number, start in found[first + 1 :]:
            if number == chain[-1][0] + 1:  # a list inside a step starts again at 1 and stays inside
                chain.append((number, start))
        if len(chain) > 1:
            return [start for _, start in chain]
        if chain and pattern is _STEP_MARKER:
            return [chain[0][1]]
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

_HEADING = re.compile(r"#{1,6}[ \t][^\n]*|(?:\*\*|__)[^\n]*:[ \t]*(?:\*\*|__)|(?:\*\*|__)[^\n]*(?:\*\*|__):")
# Also a lone word such as `So` or `Therefore,` on a line of its own.
_MARKER_ONLY = re.compile(r"(?:\*\*|__)?(?:Step[ \t]+\d+|\(?\d{1,2}[.)]|[-*•–])[:.]?(?:\*\*|__)?|[A-Z][a-z]+,?", re.I)


def _tidy(text: str) -> str:
    """Strip, and close up blank lines: a step must be one paragraph, or joined steps would not split back."""
    return re.sub(r"[^\S\n]*\n(?:\s*\n)+", "\n", text).strip()


def _merge_short(text: str, pieces: Iterable[Span], min_chars: int) -> list[Span]:
    """Join fragments to a neighbour: headings, markers, lead-ins (``…:``) forward, anything else backward."""
    merged: list[Span] = []
    start: int | None = None  # where the fragments that wait for the next piece begin
    pieces = list(pieces)
    for index, (a, b) in enumerate(pieces):
        a = a if start is None else start
        fragment = _tidy(text[a:b])
        short = len(fragment) < min_chars
        opens = not merged or fragment.endswith(":") or _MARKER_ONLY.fullmatch(fragment) is not None
        if index + 1 < len(pieces) and ((short and opens) or _HEADING.fullmatch(fragment)):
            start = a
            continue
        start = None
        if short and merged:
            merged[-1] = (merged[-1][0], b)
        else:
            merged.append((a, b))
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
        think: ``remove`` drops ``<think>…</think>`` blocks (see :func:`split_think`); ``steps`` takes the
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
    thoughts, solution = split_think(text)
    text = thoughts if think == "steps" and thoughts else solution
    bounds = sorted({0, len(text), *_SPLITTERS[splitter](text)})
    pieces = [(a, b) for a, b in pairwise(bounds) if text[a:b].strip()]
    if short == "merge":
        pieces = _merge_short(text, pieces, min_chars)
    steps = [_tidy(text[a:b]) for a, b in pieces]
    return [step for step in steps if short == "merge" or len(step) >= min_chars]
