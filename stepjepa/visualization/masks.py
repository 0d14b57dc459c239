"""Masks as pictures: the figure of both forms, and a `MaskPicture` in colours and as a still for the explorer.

In the explorer a cell takes the colour of the key that is seen, so that a row shows at a glance where its information
comes from; in a difference it takes the colour of what one pass makes of its row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from torch import Tensor

from stepjepa.jepa.layout import StepJEPACollator
from stepjepa.jepa.masks import allowed
from stepjepa.jepa.reference import build_step2_isolation_mask
from stepjepa.visualization.mask_pictures import AGAIN, BRANCH, LEFT_OUT, MaskPicture
from stepjepa.visualization.page import shown
from stepjepa.visualization.stills import Area, still_picture
from stepjepa.visualization.style import (
    BLUE,
    FORBIDDEN,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    ROLES,
    SKY,
    VERMILION,
    across,
    new_figure,
    styled,
)

TOKENS = ["system", "question", "S1", "S1", "S2", "S2", "S3"]
STEP_IDS = [-1, -1, 0, 0, 1, 1, 2]


class _Tokenizer:
    """All that the layout asks of a tokenizer."""

    pad_token_id = 0

    @staticmethod
    def get_added_vocab() -> dict[str, int]:
        return {"<|predictor|>": 1}


def mask_record() -> dict[str, Any]:
    """Both forms of the classic mask for a sequence of seven tokens."""
    row = {"input_ids": [2] * len(TOKENS), "labels": [-100] * len(TOKENS), "step_ids": STEP_IDS}
    batch = StepJEPACollator(_Tokenizer())([row])
    return {
        "panels": [
            {
                "title": "two passes: the second of them",
                "tokens": [*TOKENS[:4], "PRED", *TOKENS[4:]],
                "roles": ["trunk"] * 4 + ["predictor"] + ["isolated"] * 2 + ["trunk"],
                "rows": _strings(build_step2_isolation_mask(8, 5, 7)),
            },
            {
                "title": "one pass: trunk and branch",
                "tokens": [*TOKENS, "PRED", "S2 copy", "S2 copy"],
                "roles": ["trunk"] * 7 + ["predictor"] + ["copy"] * 2,
                "rows": _strings(allowed(batch["segment_ids"], batch["prefix_segment"], batch["prefix_end"])[0]),
            },
        ]
    }


def _strings(mask: Tensor) -> list[str]:
    return ["".join(str(int(cell)) for cell in row) for row in mask.tolist()]


@styled
def mask_panels(record: Mapping[str, Any]) -> Figure:
    """Who may attend to whom in the two-pass form and in the single pass, side by side.

    Args:
        record: `panels`, each with `title`, `tokens` (labels), `roles` (a key of `ROLES` for each token) and
            `rows` (a string of 0 and 1 for each query).
    """
    panels = record["panels"]
    sizes = [len(panel["tokens"]) for panel in panels]
    if across(len(panels), 20) > 1:
        figure = new_figure(height=0.8 * max(sizes) / sum(sizes) + 0.12)
        axes_list = figure.subplots(1, len(panels), width_ratios=sizes)
    else:
        figure = new_figure(height=0.78 * sum(sizes) / max(sizes) + 0.55)
        axes_list = figure.subplots(len(panels), 1, height_ratios=sizes)
    for axes, panel in zip(axes_list, panels, strict=True):
        count = len(panel["tokens"])
        for q, row in enumerate(panel["rows"]):
            for k, seen in enumerate(row):
                colour = ROLES[panel["roles"][q]] if seen == "1" else FORBIDDEN
                axes.add_patch(Rectangle((k, q), 0.92, 0.92, color=colour, linewidth=0))
        axes.set(xlim=(0, count), ylim=(count, 0), aspect="equal")
        axes.set_anchor("N")
        axes.set_title(panel["title"])
        ticks = [i + 0.46 for i in range(count)]
        axes.set_xticks(ticks, panel["tokens"], rotation=90, family="monospace")
        axes.set_yticks(ticks, panel["tokens"], family="monospace")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_xlabel("key: may be attended to")
        axes.set_ylabel("query")
    handles = [
        Patch(color=ROLES["trunk"], label="the ordinary sequence"),
        Patch(color=ROLES["predictor"], label="predictor token: context view"),
        Patch(color=ROLES["copy"], label="step 2 on its own: target view"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3 if across(2, 20) > 1 else 1)
    return figure


# -------- colours of the explorer --------

STEP_COLOURS = (BLUE, GREEN, VERMILION, PURPLE, SKY, "#00476F", "#006348", "#853A00", "#7E4568", "#6000BF")
"""Of steps 1 to 10, then again from the first. Orange is the predictor's."""
GROUP_COLOURS = {"prompt": ROLES["trunk"], "predictor": ORANGE, "end of turn": GREY, "padding": "#D9D9D9"}
ONE_PASS_COLOURS = {
    AGAIN: (ROLES["trunk"], "repeats the first pass"),
    BRANCH: (ORANGE, "computed in the branch"),
    LEFT_OUT: (GREY, "left out by one pass"),
}
UNSEEN = "#F1F1F1"


def group_colour(group: str) -> str:
    """Colour of a stretch of text: prompt, S1 …, predictor, end of turn, padding."""
    if group in GROUP_COLOURS:
        return GROUP_COLOURS[group]
    return STEP_COLOURS[(int(group.removeprefix("S")) - 1) % len(STEP_COLOURS)]


def paint(picture: MaskPicture) -> tuple[np.ndarray, tuple[tuple[str, str], ...]]:
    """Colours of the cells: `[L, L]` uint8, 0 for what must not be seen, else 1 + an index into the legend.

    Returns:
        The cells of the L tokens, and the legend: (colour, label) each.
    """
    if picture.one_pass:
        kinds, of_token = list(ONE_PASS_COLOURS), picture.one_pass
        legend = tuple(ONE_PASS_COLOURS.values())
    else:
        of_token = tuple(token.group for token in picture.tokens)
        kinds = list(dict.fromkeys(of_token))
        legend = tuple((group_colour(kind), kind) for kind in kinds)
    codes = np.array([1 + kinds.index(kind) for kind in of_token], dtype=np.uint8)
    by = codes[:, None] if picture.one_pass else codes[None, :]  # what one pass makes of the row, or the key's group
    return np.where(picture.mask, by, np.uint8(0)), legend


def parts(picture: MaskPicture) -> list[tuple[str, str, int, int]]:
    """The runs of tokens of one part: name, colour, start, end (exclusive)."""
    runs = []
    for (name, start_group), run in groupby(enumerate(picture.tokens), key=lambda item: (item[1].part, item[1].group)):
        columns = [column for column, _ in run]
        runs.append((name, group_colour(start_group), columns[0], columns[-1] + 1))
    return runs


# -------- the still of the explorer --------

_HOW = "Run the cell to explore; in an exported page, point at a row for its words."
_LABELS, _BAND, TOP = 104, 6, 26
LEFT = _LABELS + _BAND


def still(picture: MaskPicture, how: str = _HOW) -> str:
    """The picture as HTML: an image, and for each row a hover text with its sentence. The same picture gives the
    same text, to the character."""
    count = len(picture.tokens)
    cell = int(np.clip(680 // count, 2, 16))
    right = LEFT + cell * count
    areas = [
        Area("rect", (0, TOP + cell * t, right, TOP + cell * (t + 1)), token.name, picture.sentence(t))
        for t, token in enumerate(picture.tokens)
    ]
    size = max(right + 4, 560), TOP + cell * count + 34
    return still_picture("mask", size, _marks(picture, cell, size[1]), areas, picture.summary, how)


def _marks(picture: MaskPicture, cell: int, height: int) -> Iterator[str]:
    """SVG of cells, names of the parts, and legend."""
    (cells, legend), side = paint(picture), cell * len(picture.tokens)
    yield f"<rect x='{LEFT}' y='{TOP}' width='{side}' height='{side}' fill='{UNSEEN}'/>"
    for code, (colour, _) in enumerate(legend, start=1):
        runs = "".join(
            f"M{LEFT + cell * start} {TOP + cell * row}h{cell * length}v{cell}h-{cell * length}z"
            for row, start, length in _runs(cells == code)
        )
        yield f"<path fill='{colour}' d='{runs}'/>"
    yield from part_marks(picture, cell)
    x = LEFT
    for colour, label in (*legend, (UNSEEN, "must not be seen")):
        yield f"<rect x='{x}' y='{height - 18}' width='10' height='10' fill='{colour}'/>"
        yield f"<text x='{x + 14}' y='{height - 9}'>{label}</text>"
        x += 26 + 6 * len(label)


def part_marks(picture: MaskPicture, cell: int) -> Iterator[str]:
    """SVG of the names and colours of the parts, and of lines between them; a map begins at (`LEFT`, `TOP`)."""
    side = cell * len(picture.tokens)
    free = 0.0  # where the next label on the left may begin
    for name, colour, start, end in parts(picture):
        at, size = cell * start, cell * (end - start)
        label = shown(name.replace("predictor question→answer", "predictor Q→A"))
        yield f"<rect x='{_LABELS}' y='{TOP + at}' width='{_BAND - 1}' height='{size}' fill='{colour}'/>"
        yield f"<rect x='{LEFT + at}' y='{TOP - _BAND}' width='{size}' height='{_BAND - 1}' fill='{colour}'/>"
        middle = max(TOP + at + size / 2, free + 6)
        yield f"<text x='{_LABELS - 5}' y='{middle + 4:g}' text-anchor='end'>{label}</text>"
        free = middle + 6
        if size > 6.5 * len(label):
            yield f"<text x='{LEFT + at + size / 2:g}' y='{TOP - 10}' text-anchor='middle'>{label}</text>"
        lines = f"M{LEFT} {TOP + at}h{side}M{LEFT + at} {TOP}v{side}"
        yield f"<path stroke='white' stroke-width='1' d='{lines}'/>"


def _runs(cells: np.ndarray) -> list[tuple[int, int, int]]:
    """Row, start and length of every horizontal run of true cells."""
    edges = np.diff(np.pad(cells.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    rows, starts = np.nonzero(edges == 1)
    ends = np.nonzero(edges == -1)[1]
    return list(zip(rows.tolist(), starts.tolist(), (ends - starts).tolist(), strict=True))
