"""Colours of the embedding explorer's points, and its still picture for pages that run no code."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import to_hex

from stepjepa.analysis.projections import VIEWS
from stepjepa.visualization.embedding_points import REACH, Map, Points
from stepjepa.visualization.embeddings import UNKNOWN, VIEW_COLOURS, VIEW_NAMES
from stepjepa.visualization.page import shown
from stepjepa.visualization.stills import Area, still_picture
from stepjepa.visualization.style import BLUE, CONTINUOUS, CYCLE, VERMILION

COLOURINGS = {
    "step": "step",
    "view": "view",
    "operation": "operation",
    "correctness": "correct",
    "length in characters": "length",
    "error of the pair (1 − cos)": "error",
}
"""What colour can tell, and the array of `Points` that holds it."""
_MEASURED = ("length in characters", "error of the pair (1 − cos)")
"""Of these the colour tells in which sixth of all values one lies, the label from where to where that goes."""
_SIXTHS = 6
_NOT_KNOWN = {"operation": "none or not known", "correctness": "not known", _MEASURED[1]: "not of a pair"}
DASHES = {"context": "5 3", "target": "", "state": "2 2"}
"""Dashes of the line through the steps of the chosen problem."""


class Palette:
    """Colours that mean the same in every set: the same step, view, operation or answer is always the same colour."""

    def __init__(self, sets: Sequence[Points]) -> None:
        steps = sorted({int(step) for points in sets for step in points.step})
        shades = _shades(len(steps))
        operations = sorted({name for points in sets for name in points.embeddings.operation_names})
        self._entries: dict[str, dict[Any, tuple[str, str]]] = {
            "step": {s: (c, f"step {s + 1}" if s >= 0 else "whole answer") for s, c in zip(steps, shades, strict=True)},
            "view": {view: (VIEW_COLOURS[view], VIEW_NAMES[view]) for view in VIEWS},
            "operation": {name: (CYCLE[i % len(CYCLE)], name) for i, name in enumerate(operations)},
            "correctness": {1: (BLUE, "answered correctly"), 0: (VERMILION, "answered wrongly")},
        }
        self._edges: dict[str, np.ndarray] = {}
        for name in _MEASURED:
            values = np.concatenate([getattr(points, COLOURINGS[name]) for points in sets])
            edges = np.unique(np.nanquantile(values, np.linspace(0, 1, _SIXTHS + 1)))
            shades = _shades(max(1, len(edges) - 1))
            ends = list(pairwise(edges)) or [(edges[0], edges[0])]
            self._edges[name] = edges[1:-1]
            self._entries[name] = {
                i: (shades[i], f"{_number(low)}–{_number(high)}") for i, (low, high) in enumerate(ends)
            }
        known = any((points.correct >= 0).any() for points in sets)
        self.choices = [
            name for name in COLOURINGS if (name != "operation" or operations) and (name != "correctness" or known)
        ]

    def paint(self, points: Points, by: str, rows: np.ndarray) -> tuple[np.ndarray, list[tuple[str, str]]]:
        """Codes `[N]` uint8 into a legend of (colour, label), which holds what the given rows need."""
        values = getattr(points, COLOURINGS[by])[rows]
        if by in _MEASURED:  # the place among the sixths
            values = np.where(np.isnan(values), -1, np.searchsorted(self._edges[by], values, side="right"))
        labels = values.tolist()
        if by == "operation":
            labels = [points.embeddings.operation_names[label] if label >= 0 else None for label in labels]
        entries, used = self._entries[by], set(labels)
        order = [label for label in entries if label in used]
        legend = [entries[label] for label in order]
        if used - set(entries):
            legend.append((UNKNOWN, _NOT_KNOWN[by]))
        places = {label: code for code, label in enumerate(order)}
        codes = np.zeros(len(points), dtype=np.uint8)
        codes[rows] = [places.get(label, len(order)) for label in labels]
        return codes, legend


def _shades(count: int) -> list[str]:
    return [to_hex(shade) for shade in mpl.colormaps[CONTINUOUS](np.linspace(0, 0.95, count))]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


# -------- the still --------

_SIDE, _TOP, _BOTTOM = 600, 24, 46
_HOW = "Run the cell to explore; in an exported page, point at a point for its words."


def still(
    points: Points,
    drawn: Map,
    codes: np.ndarray,
    legend: Sequence[tuple[str, str]],
    chosen: int,
    summary: str,
    how: str = _HOW,
) -> str:
    """The picture as HTML: an image with a hover text for each point. The same picture gives the same text, to the
    character."""
    rows = np.flatnonzero(~np.isnan(drawn.xy[:, 0]))
    own = rows[points.example[rows] == points.example[chosen]]
    at = np.zeros((len(points), 2), dtype=int)
    at[rows] = np.rint((drawn.xy[rows] * [1, -1] + REACH) / (2 * REACH) * _SIDE + [0, _TOP]).astype(int)
    out = [
        f"<rect x='.5' y='{_TOP}' width='{_SIDE - 1}' height='{_SIDE}' fill='none' stroke='#ccc'/>",
        f"<text x='0' y='15'>{shown(drawn.caption)}</text>",
    ]
    if drawn.circle:
        middle, radius = _SIDE // 2, round(_SIDE / (2 * REACH))
        out.append(
            f"<circle cx='{middle}' cy='{_TOP + middle}' r='{radius}' fill='none' stroke='#999'/><path stroke='#ddd' "
            f"d='M0 {_TOP + middle}h{_SIDE}M{middle} {_TOP}v{_SIDE}'/>"
        )
    others = np.setdiff1d(rows, own)
    for view in VIEWS:
        for code, (colour, _) in enumerate(legend):
            alike = others[(points.view[others] == view) & (codes[others] == code)]
            marks = "".join(_mark(view, at[i], 3) for i in alike)
            out.append(f"<path {_ink(view, colour, 3)} opacity='.6' d='{marks}'/>" if marks else "")
        line = "L".join(f"{x} {y}" for x, y in at[own[points.view[own] == view]])
        dashes = f" stroke-dasharray='{DASHES[view]}'" if DASHES[view] else ""
        out.append(f"<path fill='none' stroke='#222' stroke-width='1.2'{dashes} d='M{line}'/>" if line else "")
    for i in own:
        view, colour = str(points.view[i]), legend[codes[i]][0]
        size = 10 if i == chosen else 8
        out.append(f"<path {_ink(view, '#222', size + 1)} d='{_mark(view, at[i], size + 1)}'/>")
        out.append(f"<path {_ink(view, colour, size)} d='{_mark(view, at[i], size)}'/>")
        out.append(
            f"<text x='{at[i][0]}' y='{at[i][1] + 4}' text-anchor='middle' font-weight='bold' "
            f"fill='{ink_on(colour)}'>{step_mark(points.step[i])}</text>"
        )
    out.append(_legend(legend, [view for view in VIEWS if view in points.view[rows]]))
    areas = [
        Area("circle", (int(at[i][0]), int(at[i][1]), 10 if i in own else 5), f"point {i + 1}", points.short(int(i)))
        for i in [*own, *others]
    ]
    return still_picture("map", (_SIDE, _TOP + _SIDE + _BOTTOM), out, areas, summary, how)


def step_mark(step: int) -> str:
    """What is written on a point of the chosen problem: the number of its step, A for the whole answer."""
    return str(step + 1) if step >= 0 else "A"


def ink_on(colour: str) -> str:
    """Black or white, whichever can be read on a colour."""
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return "#222" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "#fff"


def _mark(view: str, at: Sequence[int] | np.ndarray, size: int) -> str:
    x, y = at
    if view == "context":
        return f"M{x} {y}h0"  # a dot: a line without length and round ends
    if view == "target":
        return f"M{x} {y - size - 1}l{size + 1} {2 * size}h-{2 * size + 2}z"
    return f"M{x - size} {y - size}h{2 * size}v{2 * size}h-{2 * size}z"


def _ink(view: str, colour: str, size: int) -> str:
    if view == "context":
        return f"stroke='{colour}' stroke-width='{2 * size + 1}' stroke-linecap='round'"
    return f"fill='{colour}'"


def _legend(legend: Sequence[tuple[str, str]], views: Sequence[str]) -> str:
    out, x, y = "", 8, _TOP + _SIDE + 16
    for view in views:
        name = VIEW_NAMES[view]
        out += f"<path {_ink(view, '#777', 4)} d='{_mark(view, (x, y - 4), 4)}'/>"
        out += f"<text x='{x + 10}' y='{y}'>{name}</text>"
        x += 30 + 6 * len(name)
    x, y = 8, y + 18
    for colour, label in legend:
        out += f"<rect x='{x - 5}' y='{y - 9}' width='10' height='10' fill='{colour}'/>"
        out += f"<text x='{x + 10}' y='{y}'>{shown(label)}</text>"
        x += 30 + 6 * len(label)
    return out
