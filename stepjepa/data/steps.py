r"""Solution text → reasoning steps, the unit that everything else in the package aligns.

A splitter is a function that names *cut offsets* in the text; the steps are what lies between the cuts, so
no splitter can lose or reorder content. Cuts never fall inside mathematics, an ``[asy]`` drawing or a code
fence, and every step comes out stripped, non-empty and free of blank lines: ``"\n\n".join(steps)`` therefore
splits back (``"paragraph"``) into the same steps. `tokens.py` makes tokens of them.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, get_args

from stepjepa.data.mathematics import BLANK_LINE, DISPLAY, Span, is_inside, mathematics, protected_spans
from stepjepa.data.thoughts import split_thoughts

Splitter = Literal["auto", "paragraph", "line", "numbered", "sentence"]
Cuts = Callable[[str], Sequence[int]]
"""A splitter of one's own: a text → the offsets at which it is cut, in any order."""
Think = Literal["remove", "steps"]
Short = Literal["merge", "drop"]

# -------- markers --------

_NUMBER = r"(\d{1,3}|[一二三四五六七八九十]{1,3})"  # `3`, `12`, `三`, `十二`
_STEP = rf"(?:Step|Schritt|Étape|Paso|Passo|Шаг|步骤|步驟|ステップ|手順|단계)[ \t]*{_NUMBER}"  # `Step 3`, `步骤3`
_NTH_STEP = rf"第[ \t]*{_NUMBER}[ \t]*(?:步|段階)"  # `第三步`, `第 3 步`
# `Step 1:`, `**Step 2.**`, `### Step 3: Add`, `步骤1：`, `第一步，` and, under a heading, also `## Step 3`; not
# `Step 2 gives 7`
_STEP_MARKER = re.compile(
    rf"^[ \t]{{0,3}}(?:#{{1,6}}[ \t]+(?:\*\*|__)?{_STEP}\b|"
    rf"(?:\*\*|__)?[ \t]*{_STEP}[ \t]*(?:[:.)：．、）–—-]|\*\*|__|$)|"
    rf"(?:#{{1,6}}[ \t]+)?(?:\*\*|__)?{_NTH_STEP}[ \t]*(?:[:.,：．、，]|\*\*|__|\s|$))",
    re.M | re.I,
)
# `1. `, `(2) `, `**3.** `, `## 4) `, `5、`, `（六）` at the beginning of a line; not `1.5 hours`
_BARE_MARKER = re.compile(
    rf"^[ \t]{{0,3}}(?:#{{1,6}}[ \t]+)?(?:\*\*|__)?[(（]?{_NUMBER}(?:[.)](?:\*\*|__)?(?=\s)|[）、．])", re.M
)
# `- `, `* `, `• ` at the beginning of a line, not indented as in a list inside an item; not `---`, `**Adding**`
_BULLET = re.compile(r"^[-*•–][ \t]+(?=\S)", re.M)
# `Answer:`, `**Final Answer:**`, `## Conclusion`, `答案：`; not `The answer is`
_ANSWER_HEADING = re.compile(
    r"^[ \t]{0,3}(?:#{1,6}[ \t]*)?(?:\*\*|__)?"
    r"(?:(?:Final[ \t]+)?(?:Answer|Conclusion)|最?[终終]?(?:答案|结论|結論|答え?))[ \t]*(?:[:：]|\*\*|__|$)",
    re.M | re.I,
)


def _value(number: str) -> int:
    """``"12"``, ``"十二"`` → 12."""
    if number.isdecimal():
        return int(number)
    tens, ten, ones = number.rpartition("十")
    digits = "〇一二三四五六七八九"
    return 10 * bool(ten) * (digits.find(tens) if tens else 1) + (digits.find(ones) if ones else 0)


def _markers(text: str) -> tuple[list[int], bool]:
    """Offsets of the numbered markers 1, 2, 3, …: ``Step n`` ones if there are any, else bare ``n.`` ones.

    And whether these are plain: neither steps by name nor set off by a heading or bold type.
    """
    _, is_protected = mathematics(text)
    for pattern in (_STEP_MARKER, _BARE_MARKER):
        markers = [
            (_value(next(filter(None, match.groups()))), match)
            for match in pattern.finditer(text)
            if not is_protected(match.start())
        ]
        first = next((i for i, (number, _) in enumerate(markers) if number <= 1), 0)
        chain = markers[first : first + 1]
        for number, match in markers[first + 1 :]:
            if number == chain[-1][0] + 1:  # a list inside a step starts again at 1 and stays inside
                chain.append((number, match))
        if len(chain) > 1 or (chain and pattern is _STEP_MARKER):
            plain = pattern is _BARE_MARKER and chain[0][1].group().lstrip()[0] not in "#*_"
            return [match.start() for _, match in chain], plain
    return [], False


def _answer_heading(text: str, start: int) -> int | None:
    """Offset of a closing answer heading after ``start``."""
    answer = _ANSWER_HEADING.search(text, start)
    return answer.start() if answer and not mathematics(text)[1](answer.start()) else None


def _is_list_in_prose(text: str, markers: Sequence[int]) -> bool:
    """Whether more paragraphs (or lines, where there are none) stand around a list than it has items.

    After the last item as many are taken for its own as another item has. A list that is a single paragraph among
    others is in prose if there are as many of them as it has items.
    """
    cuts = _paragraph_cuts(text) or _line_cuts(text)
    paragraphs = [bisect_right(cuts, marker) for marker in markers]  # in which each item begins
    own = max([later - earlier - 1 for earlier, later in pairwise(paragraphs)])
    answer = _answer_heading(text, markers[-1])
    last = len(cuts) if answer is None else bisect_right(cuts, answer) - 1
    around = paragraphs[0] + max(0, last - paragraphs[-1] - max(0, own))
    is_one_paragraph = own < 0
    return around + is_one_paragraph > len(markers)


# -------- splitters --------

# `72. Then`, `sure?" She`, `है। फिर`, and a full stop just inside the mathematics that it ends, `$x = 5.$ Then`; not
# `3.5`
_SENTENCE_END = re.compile(
    r"(?<![.!?।؟])[.!?।؟]++[\"')\]}”’*]*+(?:\s?(?:\$\$?|\\\)|\\\]))?[\"')\]”’*]*+(\s++)(?=[0-9$\\\"'(\[“‘*#—-]|[^\W\d_])"
)
_WIDE_SENTENCE_END = re.compile(
    r"(?<![。！？｡])[。！？｡]++[”’」』）】*]*+\s*+(?=[^~])"
)  # `14。`, `14。」`, with no space after it
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
    return [match.end() for match in BLANK_LINE.finditer(text) if not is_inside(spans, match.start())]


def _line_cuts(text: str) -> list[int]:
    spans, is_protected = mathematics(text)
    starts = {start for start, _ in spans}
    cuts = []
    for match in re.finditer(r"\n\s*", text):  # a line end and what is empty after it
        cut = match.end()
        display = cut in starts and text.startswith(DISPLAY, cut)
        if not is_protected(match.start()) and not display:
            cuts.append(cut)  # a display formula finishes the sentence of the line before it
    return cuts


def _numbered_cuts(text: str) -> list[int]:
    cuts, _ = _markers(text)
    answer = _answer_heading(text, cuts[-1]) if cuts else None
    return cuts if answer is None else [*cuts, answer]


def _sentence_cuts(text: str) -> list[int]:
    spans, is_protected = mathematics(text)
    cuts = set(_paragraph_cuts(text))
    for match in _SENTENCE_END.finditer(text):
        stop = text[max(0, match.start() - 12) : match.start() + 1]
        begins = not text[match.end()].islower()
        if begins and not is_protected(match.start(1)) and not _ABBREVIATION.search(stop):
            cuts.add(match.end())
    cuts.update(match.end() for match in _WIDE_SENTENCE_END.finditer(text) if not is_protected(match.end()))
    for start, end in spans:
        # A display is often glued to the next sentence, and ends its own without a full stop: `\]Hence`.
        capital = _CAPITAL_NEXT.match(text, end)
        if capital and text.startswith(DISPLAY, start) and not is_protected(end):
            cuts.add(capital.end())
    return sorted(cuts)


def _bullet_cuts(text: str, paragraphs: Sequence[int]) -> list[int]:
    """Where the items of bulleted lists begin, unless more paragraphs stand around the lists than they have items."""
    _, is_protected = mathematics(text)
    bullets = [match.start() for match in _BULLET.finditer(text) if not is_protected(match.start())]
    lists = {bisect_right(paragraphs, bullet) for bullet in bullets}
    around = len(paragraphs) + 1 - len(lists)
    return bullets if len(bullets) >= 2 and around <= len(bullets) else []


def _auto_cuts(text: str) -> list[int]:
    markers, plain = _markers(text)
    if len(markers) >= 2 and not (plain and _is_list_in_prose(text, markers)):
        return _numbered_cuts(text)
    if paragraphs := _paragraph_cuts(text):
        return [*paragraphs, *_bullet_cuts(text, paragraphs)]
    return _line_cuts(text) or _sentence_cuts(text)


_SPLITTERS: dict[str, Callable[[str], list[int]]] = {
    "auto": _auto_cuts,
    "paragraph": _paragraph_cuts,
    "line": _line_cuts,
    "numbered": _numbered_cuts,
    "sentence": _sentence_cuts,
}

# -------- pieces and merging --------

# `## How we add`, `**Adding:**`, `__Adding__:`; not `**72** clips`
_HEADING = re.compile(r"#{1,6}[ \t][^\n]{0,200}|(?:\*\*|__)[^\n]{0,200}(?:[:：][ \t]*(?:\*\*|__)|(?:\*\*|__)[:：])")
# `1.`, `(2)`, `**Step 3:**`, `第三步`, `-`, and a lone word such as `So` or `Therefore,`; not `So it is`
_MARKER_ONLY = re.compile(
    rf"(?:\*\*|__)?(?:{_STEP}|{_NTH_STEP}|\(?\d{{1,2}}[.)]|[-*•–])[:.：]?(?:\*\*|__)?|[A-Z][a-z]+,?", re.I
)
_LEAD_IN = (":", "：", "，")  # how a fragment ends that belongs to what comes after it
# Blank lines in a row, with the spaces before them: `word \n\n \n`, not `word \n`
_BLANK_LINES = re.compile(r"(?<![^\S\n])[^\S\n]*+\n\s*\n")
_WIDE = re.compile(
    r"[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe4f\uff01-\uff60]"
)  # `一`, `の`, `단`


def close_up(text: str) -> str:
    """Without blank lines: a step must be one paragraph, or joined steps would not split back."""
    return _BLANK_LINES.sub("\n", text)


def _width(text: str) -> int:
    """Characters, of which the wide ones of Chinese, Japanese and Korean say as much as two."""
    return len(text) + len(_WIDE.findall(text))


def _merge_short(text: str, pieces: Sequence[Span], min_chars: int) -> list[Span]:
    """Join fragments to a neighbour: headings, markers, lead-ins (``…:``) forward, anything else backward."""
    merged: list[Span] = []
    waiting: int | None = None  # where the fragments that wait for the next piece begin
    before = ""  # they
    for index, (start, end) in enumerate(pieces):
        before += close_up(text[start:end])
        start = start if waiting is None else waiting
        fragment = before.strip()
        short = _width(fragment) < min_chars
        opens = not merged or fragment.endswith(_LEAD_IN) or _MARKER_ONLY.fullmatch(fragment) is not None
        if index + 1 < len(pieces) and ((short and opens) or _HEADING.fullmatch(fragment)):
            waiting = start
            continue
        waiting, before = None, ""
        if short and merged:
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
    return merged


def split_steps(
    text: str,
    splitter: Splitter | Cuts = "auto",
    *,
    think: Think = "remove",
    short: Short = "merge",
    min_chars: int = 20,
    changes: Counter[str] | None = None,
) -> list[str]:
    r"""Split a worked solution into its reasoning steps.

    Args:
        text: the solution; ``\r\n`` counts as ``\n``.
        splitter: ``paragraph`` cuts at blank lines; ``line`` at line ends (a line that begins with a display
            formula stays with the line before); ``numbered`` at ``**Step 1:**``, ``Step 1:``, ``## Step 1``,
            ``步骤1：`` or ``1.`` markers and at a closing answer heading, sub-paragraphs staying inside their step;
            ``sentence`` at sentence ends and blank lines. ``auto`` takes ``numbered`` if at least two markers
            count up and are no list in the middle of prose, else ``paragraph`` if there is a blank line, with a cut
            at each item of bulleted lists unless these stand in prose too, else ``line`` if there is a line end, else
            ``sentence``. None of them cuts inside mathematics, an environment,
            ``[asy]`` or a code fence. A function cuts at the offsets that it gives.
        think: ``remove`` drops thoughts (see :func:`stepjepa.data.thoughts.split_thoughts`); ``steps`` takes the
            thoughts for the steps and drops the rest, where there are thoughts.
        short: what happens to fragments under ``min_chars`` characters. ``merge`` joins the first fragment,
            headings, markers and lead-ins ending in a colon to the next piece, any other to the previous one,
            so no content is lost; headings are joined whatever their length. ``drop`` drops fragments, as the
            original Step-JEPA scripts did (short ``\boxed{540}`` answers are lost).
        min_chars: the length below which a piece is a fragment; a Chinese, Japanese or Korean character counts as two.
        changes: counts what was merged or dropped, by name.

    Returns:
        The steps, stripped, non-empty, without blank lines inside; ``[]`` for a text with nothing in it.

    Raises:
        ValueError: for an unknown ``splitter``, ``think`` or ``short``.
    """
    for name, value, known in (
        ("splitter", "auto" if callable(splitter) else splitter, get_args(Splitter)),
        ("think", think, get_args(Think)),
        ("short", short, get_args(Short)),
    ):
        if value not in known:
            raise ValueError(f"{name}={value!r} is unknown; choose one of {', '.join(known)}")
    changes = Counter() if changes is None else changes
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    thoughts, solution = split_thoughts(text)
    if thoughts:
        changes["solutions dropped for their thoughts" if think == "steps" else "thoughts dropped"] += 1
    text = thoughts if think == "steps" and thoughts else solution
    bounds = sorted({0, len(text), *(splitter if callable(splitter) else _SPLITTERS[splitter])(text)})
    pieces = [(start, end) for start, end in pairwise(bounds) if text[start:end].strip()]
    kept = _merge_short(text, pieces, min_chars) if short == "merge" else pieces
    steps = [close_up(text[start:end]).strip() for start, end in kept]
    if short == "drop":
        steps = [step for step in steps if _width(step) >= min_chars]
    changes["fragments merged into a neighbour" if short == "merge" else "fragments dropped"] += len(pieces) - len(
        steps
    )
    return steps
