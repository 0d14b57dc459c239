"""Cuts of a solution without separators: its words in a row, and under them where each method cuts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from stepjepa.visualization.comparison import figure_of_lines
from stepjepa.visualization.style import BLUE, GREY, VERMILION, legend_columns, styled


@styled
def cuts_along(text: str, known: Sequence[int], found: Mapping[str, Sequence[int]]) -> Figure:
    """A dot before each word where a method cuts, filled if a step begins there; a grey line where one does.

    Args:
        text: one line.
        known: offsets at which steps begin.
        found: offsets at which each method cuts, by its label.
    """
    words = text.split()
    begins = [sum(len(word) + 1 for word in words[:n]) for n in range(len(words))]
    right = {begins.index(offset) for offset in known if offset}
    figure = figure_of_lines(8 + 1.4 * len(found))
    axes = figure.subplots()
    for place in right:
        axes.axvline(place - 0.5, color=GREY, linewidth=0.8, zorder=0.5)
    for row, offsets in enumerate(found.values()):
        places = [begins.index(offset) for offset in offsets if offset]
        for place in places:
            hit = place in right
            look: Any = {"color": BLUE if hit else VERMILION, "fillstyle": "full" if hit else "none"}
            axes.plot([place - 0.5], [row], marker="o", linestyle="none", **look)
    axes.set_yticks(range(len(found)), list(found))
    axes.set_ylim(len(found) - 0.4, -0.6)
    axes.set_xlim(-1, len(words))
    axes.set_xticks(range(len(words)), [word.replace("$", r"\$") for word in words], rotation=90)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    handles = [
        Line2D([], [], color=BLUE, marker="o", linestyle="none", label="cut where a step begins"),
        Line2D([], [], color=VERMILION, marker="o", linestyle="none", fillstyle="none", label="cut within a step"),
        Line2D([], [], color=GREY, linewidth=0.8, label="a step begins"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=legend_columns(3))
    return figure
