"""A `MaskPicture` in colours: cell codes for the explorer's canvas, and a still picture for pages that run no code.

A cell takes the colour of the key that is seen, so that a row shows at a glance where its information comes from;
in a difference it takes the colour of its row's fate. The still has a hover text for each row.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from itertools import groupby

import numpy as np

from stepjepa.visualization.mask_words import AGAIN, BRANCH, LEFT_OUT, MaskPicture
from stepjepa.visualization.stills import Area, still_picture
from stepjepa.visualization.style import BLUE, GREEN, GREY, ORANGE, PURPLE, ROLES, SKY, VERMILION

STEP_COLOURS = (BLUE, GREEN, VERMILION, PURPLE, SKY, "#00476F", "#006348", "#853A00", "#7E4568", "#2A6F97")
"""Of steps 1 to 10, then again from the first: five colours, then the same ones darkened. Orange is the predictor's."""
GROUP_COLOURS = {"prompt": ROLES["trunk"], "predictor": ORANGE, "end of turn": GREY, "padding": "#D9D9D9"}
FATE_COLOURS = {
    AGAIN: (ROLES["trunk"], "repeats the first pass"),
    BRANCH: (ORANGE, "computed in the branch"),
    LEFT_OUT: (GREY, "left out by one pass"),
}
UNSEEN = "#F1F1F1"
_STRONG_PROMPT = "#5B87A8"


@dataclass(frozen=True)
class Painting:
    """`cells` `[L, L]` uint8: 0 for what must not be seen, else 1 + an index into `legend`, (colour, label) each."""

    cells: np.ndarray
    legend: tuple[tuple[str, str], ...]


def group_colour(group: str) -> str:
    """Colour of a stretch of text: prompt, S1 …, predictor, end of turn, padding."""
    if group in GROUP_COLOURS:
        return GROUP_COLOURS[group]
    return STEP_COLOURS[(int(group.removeprefix("S")) - 1) % len(STEP_COLOURS)]


def paint(picture: MaskPicture, strong: bool = False) -> Painting:
    """Colour the cells of a picture; `strong` deepens the prompt's colour, which is too pale to be diluted."""
    if picture.fate:
        kinds, of_token = list(FATE_COLOURS), picture.fate
        legend = tuple(FATE_COLOURS.values())
    else:
        of_token = tuple(token.group for token in picture.tokens)
        kinds = list(dict.fromkeys(of_token))
        legend = tuple((_STRONG_PROMPT if strong and kind == "prompt" else group_colour(kind), kind) for kind in kinds)
    codes = np.array([1 + kinds.index(kind) for kind in of_token], dtype=np.uint8)
    by = codes[:, None] if picture.fate else codes[None, :]  # the row's fate, or the key's group
    return Painting(np.where(picture.mask, by, np.uint8(0)), legend)


def parts(picture: MaskPicture) -> list[tuple[str, str, int, int]]:
    """The runs of tokens of one part: name, colour, start, end (exclusive)."""
    runs = []
    for (name, start_group), run in groupby(enumerate(picture.tokens), key=lambda item: (item[1].part, item[1].group)):
        columns = [column for column, _ in run]
        runs.append((name, group_colour(start_group), columns[0], columns[-1] + 1))
    return runs


# -------- the still --------

_HOW = "Run the cell to explore; in an exported page, point at a row for its words."
_LABELS, _BAND, _TOP = 104, 6, 26


def still(picture: MaskPicture) -> str:
    """The picture as HTML: an image, and for each row a hover text with its sentence. The same picture gives the
    same text, to the character."""
    count = len(picture.tokens)
    cell = int(np.clip(680 // count, 2, 16))
    width = _LABELS + _BAND + cell * count
    areas = [
        Area("rect", (0, _TOP + cell * t, width, _TOP + cell * (t + 1)), token.name, picture.sentence(t))
        for t, token in enumerate(picture.tokens)
    ]
    return still_picture("mask", _svg(picture, cell), areas, picture.summary, _HOW)


def _svg(picture: MaskPicture, cell: int) -> str:
    count, painting = len(picture.tokens), paint(picture)
    left = _LABELS + _BAND
    width, height = max(left + cell * count + 4, 560), _TOP + cell * count + 34
    out = [
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{width}' height='{height}' font-family='sans-serif' "
        f"font-size='11'><rect width='100%' height='100%' fill='white'/>",
        f"<rect x='{left}' y='{_TOP}' width='{cell * count}' height='{cell * count}' fill='{UNSEEN}'/>",
    ]
    for code, (colour, _) in enumerate(painting.legend, start=1):
        runs = "".join(
            f"M{left + cell * start} {_TOP + cell * row}h{cell * length}v{cell}h-{cell * length}z"
            for row, start, length in _runs(painting.cells == code)
        )
        out.append(f"<path fill='{colour}' d='{runs}'/>")
    free = 0.0  # where the next label on the left may begin
    for name, colour, start, end in parts(picture):
        at, size = cell * start, cell * (end - start)
        out.append(f"<rect x='{_LABELS}' y='{_TOP + at}' width='{_BAND - 1}' height='{size}' fill='{colour}'/>")
        out.append(f"<rect x='{left + at}' y='{_TOP - _BAND}' width='{size}' height='{_BAND - 1}' fill='{colour}'/>")
        middle = max(_TOP + at + size / 2, free + 6)
        out.append(f"<text x='{_LABELS - 5}' y='{middle + 4:g}' text-anchor='end'>{escape(_short(name))}</text>")
        free = middle + 6
        if size > 6.5 * len(_short(name)):
            out.append(f"<text x='{left + at + size / 2:g}' y='{_TOP - 10}' text-anchor='middle'>{_short(name)}</text>")
        line = (
            f"stroke='white' stroke-width='1' d='M{left} {_TOP + at}h{cell * count}M{left + at} {_TOP}v{cell * count}'"
        )
        out.append(f"<path {line}/>")
    x = left
    for colour, label in (*painting.legend, (UNSEEN, "must not be seen")):
        out.append(f"<rect x='{x}' y='{height - 18}' width='10' height='10' fill='{colour}'/>")
        out.append(f"<text x='{x + 14}' y='{height - 9}'>{label}</text>")
        x += 26 + 6 * len(label)
    return "".join(out) + "</svg>"


def _short(name: str) -> str:
    return name.replace("predictor question→answer", "predictor Q→A")


def _runs(cells: np.ndarray) -> list[tuple[int, int, int]]:
    """Row, start and length of every horizontal run of true cells."""
    edges = np.diff(np.pad(cells.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    rows, starts = np.nonzero(edges == 1)
    ends = np.nonzero(edges == -1)[1]
    return list(zip(rows.tolist(), starts.tolist(), (ends - starts).tolist(), strict=True))
