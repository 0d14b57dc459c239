"""Records and rows of `stepjepa score` → figures: how well each score finds mistakes; the energies along a solution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from stepjepa.analysis.detection import SCORES
from stepjepa.visualization.comparison import figure_of_lines, grid_lines
from stepjepa.visualization.style import CYCLE, GREY, VERMILION, across, legend_columns, new_figure, styled
from stepjepa.visualization.words import in_legend

FIRST_CONTROL = "shuffled"
RING: dict[str, Any] = {"color": GREY, "marker": "o", "linestyle": "none", "fillstyle": "none"}


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
    beside = across(len(kinds), 13)
    rows = -(-len(kinds) // beside)
    figure = figure_of_lines(2 + rows * (4 + (1.6 + 0.3 * len(records)) * len(names)))
    panels = figure.subplots(rows, beside, sharey=True, squeeze=False).flat
    for axes, kind in zip(panels, kinds, strict=True):
        for number, record in enumerate(records):
            shift = 0.6 * (number - (len(records) - 1) / 2) / max(len(records), 2)
            for row, name in enumerate(names):
                areas, place = record["kinds"][kind]["scores"][name], [row + shift]
                look: dict[str, Any] = {"color": CYCLE[number], "solid_capstyle": "butt"}
                axes.plot([areas[of]["low"], areas[of]["high"]], place * 2, **look)
                axes.plot([areas[of]["estimate"]], place, marker="o", **look)
                if len(records) == 1:
                    axes.plot([areas["pooled"]["estimate"]], place, **RING)
        axes.axvline(0.5, color="black", linewidth=0.8, zorder=0.5)
        axes.axhline(names.index(FIRST_CONTROL) - 0.5, color=GREY, linewidth=0.6, linestyle=":", zorder=0.5)
        axes.set_title(kind)
        axes.set_xlim(0.22, 1.04)
        axes.set_xticks([0.5, 1.0])
        axes.set_xticks([0.75], minor=True)
        axes.set_xlabel(f"AUC, {records[0]['kinds'][kind]['steps']} wrong")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        grid_lines(axes, "x")
    panels[0].set_yticks(range(len(names)), [SCORES[name] for name in names])
    panels[0].set_ylim(len(names) - 0.4, -0.6)
    handles = [Line2D([], [], color=CYCLE[n], marker="o", label=record["label"]) for n, record in enumerate(records)]
    if len(records) == 1:
        handles.append(Line2D([], [], label="all lengths and positions", **RING))
    longest = max(len(str(handle.get_label())) for handle in handles)
    figure.legend(handles=handles, loc="outside lower center", ncols=legend_columns(len(handles), longest))
    return figure


@styled
def energies_along(rows: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> Figure:
    """The energy of every step from the second on, a line for each solution; a wrong step is marked.

    Args:
        rows: as `stepjepa score` writes them; those with `wrong_step` have a mark there.
        labels: of the rows.
    """
    figure = new_figure(height=0.4)
    axes = figure.subplots()
    grid_lines(axes, "y")
    for number, (row, label) in enumerate(zip(rows, labels, strict=True)):
        places = range(2, len(row["energies"]) + 1)
        axes.plot(places, row["energies"][1:], color=CYCLE[number], marker="o", label=in_legend(label))
        if "wrong_step" in row:
            wrong = row["wrong_step"]
            axes.plot([wrong + 1], [row["energies"][wrong]], "X", color=VERMILION, markersize=11, zorder=3)
    axes.set_xticks(range(2, 1 + max(len(row["energies"]) for row in rows)))
    axes.set_xlabel("step (a cross: the wrong one)")
    axes.set_ylabel("energy")
    axes.legend()
    return figure
