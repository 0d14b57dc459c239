"""Records of `leakage.py` → a figure: what was changed down, views across."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from stepjepa.visualization.attention import number_map
from stepjepa.visualization.style import FORBIDDEN, GREY, VERMILION, new_figure, small, styled, text_width


@styled
def leakage_map(record: Mapping[str, Any]) -> Figure:
    """How far each view moves (relative L2, the most over the examples) when each part of the text is changed.

    An exact 0 is grey. A red frame marks what should not be; a dashed one what leaks by design (isolation none).

    Args:
        record: from `leakage_audit`.
    """
    segments, views = record["segments"], record["views"]
    figure = new_figure((len(segments) * 2.1 + 9) * small() / text_width())
    axes = figure.subplots()
    values = np.full((len(segments), len(views)), np.nan)
    for cell in record["cells"]:
        values[segments.index(cell["segment"]), views.index(cell["view"])] = cell["relative_max"]
    image = number_map(axes, values, values > 0, PowerNorm(0.5, 0, max(np.nanmax(values), 1e-30)), _short)
    for row, column in np.argwhere(values == 0):
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, color=FORBIDDEN, linewidth=0))
        axes.text(column, row, "0", ha="center", va="center", fontsize=small(), color=GREY)
    axes.hlines(np.arange(len(segments) - 1) + 0.5, -0.5, len(views) - 0.5, color="white", linewidth=1)
    axes.vlines(np.arange(len(views) - 1) + 0.5, -0.5, len(segments) - 0.5, color="white", linewidth=1)
    frames = {}
    for cell in record["cells"]:
        if not cell["ok"] or cell["expected"] == "leaks":
            corner = views.index(cell["view"]) - 0.44, segments.index(cell["segment"]) - 0.44
            what, line = ("leaks by design", "--") if cell["ok"] else ("must not be", "-")
            frame = Rectangle(corner, 0.88, 0.88, fill=False, edgecolor=VERMILION, linewidth=1.5, linestyle=line)
            frames[what] = axes.add_patch(frame)
    contexts = sum(view.startswith("context") for view in views)
    axes.axvline(contexts - 0.5, color="black", linewidth=1)
    axes.set_xticks(range(len(views)), [view.partition(" ")[2] for view in views])
    axes.set_yticks(range(len(segments)), segments)
    below: dict[str, Any] = {
        "xycoords": axes.get_xaxis_transform(),
        "textcoords": "offset points",
        "ha": "center",
        "va": "top",
    }
    for text, middle in (
        ("context view after", contexts / 2),
        ("target view of", contexts + (len(views) - contexts) / 2),
    ):
        axes.annotate(text, (middle - 0.5, 0), (0, -2.2 * small()), annotation_clip=False, **below)
    axes.set_ylabel("changed")
    layout, many = record["layout"], record["examples"]
    faults = "" if record["passed"] else f": {len(record['faults'])} FAULTS"
    axes.set_title(
        f"how far views move, isolation {layout['isolation']}, {many} example{'' if many == 1 else 's'}{faults}",
        color="black" if record["passed"] else VERMILION,
    )
    figure.colorbar(image, ax=axes, label="relative change", pad=0.02)
    if frames:
        figure.legend(frames.values(), frames.keys(), loc="outside lower center", ncols=2)
    return figure


def _short(value: float) -> str:
    return f"{value:.2f}" if value >= 0.005 else f"{value:.0e}"
