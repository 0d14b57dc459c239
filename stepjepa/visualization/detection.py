"""Records of `stepjepa score --detect` → a figure: how well each score finds each kind of mistake."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from stepjepa.analysis.detection import SCORES
from stepjepa.visualization.comparison import figure_of_lines, grid_lines
from stepjepa.visualization.style import CYCLE, GREY, small, styled

FIRST_CONTROL = "shuffled"


@styled
def error_detection(*records: Mapping[str, Any], of: str = "controlled") -> Figure:
    """Area under the ROC curve of each score (rows) for each kind of mistake (panels), with 95% intervals.

    Pale rings, of a single record only: the area over all steps, of whatever length and position.

    Args:
        records: as `stepjepa score --detect --json` writes them; each has a colour.
        of: which area, see `strata` of `analysis/detection.py`.
    """
    kinds = list(records[0]["kinds"])
    names = [name for name in SCORES if name in records[0]["kinds"][kinds[0]]["scores"]]
    figure = figure_of_lines(5.5 + (1.6 + 0.3 * len(records)) * len(names))
    panels = figure.subplots(1, len(kinds), sharey=True)
    for axes, kind in zip(panels, kinds, strict=True):
        for number, record in enumerate(records):
            shift = 0.6 * (number - (len(records) - 1) / 2) / max(len(records), 2)
            for row, name in enumerate(names):
                areas, place = record["kinds"][kind]["scores"][name], [row + shift]
                look: dict[str, Any] = {"color": CYCLE[number], "solid_capstyle": "butt"}
                axes.plot([areas[of]["low"], areas[of]["high"]], place * 2, **look)
                axes.plot([areas[of]["estimate"]], place, marker="o", **look)
                if len(records) == 1:
                    axes.plot([areas["pooled"]["estimate"]], place, marker="o", color=GREY, fillstyle="none", alpha=0.7)
        axes.axvline(0.5, color="black", linewidth=0.8, zorder=0.5)
        axes.axhline(names.index(FIRST_CONTROL) - 0.5, color=GREY, linewidth=0.6, linestyle=":", zorder=0.5)
        axes.set_title(f"{kind} ({records[0]['kinds'][kind]['steps']})")
        axes.set_xlim(0.22, 1.04)
        axes.set_xticks([0.25, 0.5, 0.75, 1.0])
        axes.set_xlabel("AUC")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        grid_lines(axes, "x")
    panels[0].set_yticks(range(len(names)), [SCORES[name] for name in names])
    panels[0].set_ylim(len(names) - 0.4, -0.6)
    handles = [Line2D([], [], color=CYCLE[n], marker="o", label=record["label"]) for n, record in enumerate(records)]
    if len(records) == 1:
        rings: dict[str, Any] = {"color": GREY, "marker": "o", "linestyle": "none", "fillstyle": "none"}
        handles.append(Line2D([], [], label="all lengths and positions", **rings))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 4), fontsize=small())
    return figure
