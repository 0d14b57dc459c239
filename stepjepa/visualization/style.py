"""One look for all figures, at three sizes: `notebook` (9 inches wide, 10 pt), `paper` (6.75, 8 pt), `column` (3.25).

`paper` is two columns of a journal wide, `column` one, both with the same type; panels go below each other there.

Colours are those of Okabe & Ito (2008), which colour-blind readers can tell apart; continuous values take
cividis, signed ones a blue-orange map. `stepjepa.mplstyle` beside this file holds everything else.
"""

from __future__ import annotations

import functools
import os
import textwrap
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
from matplotlib import rc_params_from_file
from matplotlib.figure import Figure
from matplotlib.font_manager import font_scalings

from stepjepa.records import UserError, written_whole

Size = Literal["notebook", "paper", "column"]
BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, GREY = "#CC79A7", "#56B4E9", "#777777"
CYCLE = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, GREY)
CONTINUOUS, SIGNED = "cividis", "PuOr_r"
ROLES = {"trunk": "#B9CBD9", "predictor": ORANGE, "copy": GREEN, "isolated": GREEN}
FORBIDDEN = "#EDEDED"
"""Background of cells that a mask forbids; it is no colour of a map."""
_PRINT: dict[str, Any] = {
    "font.size": 8,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
}
SIZES: dict[str, dict[str, Any]] = {
    "notebook": {"font.size": 10, "figure.figsize": (9.0, 4.0)},
    "paper": {**_PRINT, "figure.figsize": (6.75, 3.0)},
    "column": {**_PRINT, "figure.figsize": (3.25, 2.2)},
}

MOMENTS = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}, ".png": {}}
"""Formats, and what a file of each would say about when it was made."""


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Give a drawing function the house style and a keyword `size`: "notebook" (default), "paper" or "column".

    The function makes its figure with `new_figure`; matplotlib's own settings are left as they were.
    """

    @functools.wraps(draw)
    def wrapper(*args: Any, size: Size = "notebook", **options: Any) -> Figure:
        if size not in SIZES:
            raise ValueError(f"Unknown size {size!r}; choose one of {', '.join(SIZES)}.")
        with mpl.rc_context(_house(size)):
            figure = draw(*args, **options)
            figure.draw_without_rendering()  # ticks take their size from the settings when first drawn
        return figure

    return wrapper


def _house(size: Size = "notebook") -> Any:
    look: Any = rc_params_from_file(
        str(files("stepjepa.visualization") / "stepjepa.mplstyle"), use_default_template=False
    )
    look.update(SIZES[size])
    return look


def new_figure(height: float, width: float = 1.0) -> Figure:
    """An empty figure; both sizes are shares of the full text width of the chosen size."""
    full = text_width() / 72
    return Figure(figsize=(width * full, height * full))


def text_width() -> float:
    """Full text width of the chosen size, in points (72 an inch)."""
    return 72 * float(mpl.rcParams["figure.figsize"][0])


def across(panels: int, least: float) -> int:
    """How many of the panels stand side by side, each at least so many lines of type wide."""
    return max(1, min(panels, int(text_width() / (least * mpl.rcParams["font.size"]))))


def legend_columns(most: int, letters: int = 24) -> int:
    """Columns of a legend below a figure whose entries have up to so many letters."""
    return across(most, 2.5 + 0.45 * letters)


def wrapped(text: str, width: float | None = None) -> str:
    """Text in small type, in lines of at most so many points; the width of the figure if none is given."""
    return textwrap.fill(text, max(8, int((width or text_width()) / (0.56 * small()))), break_long_words=False)


def small() -> float:
    """Size of small type in points, that of tick labels: 8.3 in a notebook, 6.7 on paper."""
    return float(mpl.rcParams["font.size"] * font_scalings["small"])


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a figure as PNG, PDF or SVG, whole or not at all; the file says nothing about when it was made.

    Resolution and embedding of type are those of the house style, which matplotlib reads when it saves.

    Raises:
        UserError: another ending, or it cannot be written there.
    """
    path = Path(path)
    if path.suffix not in MOMENTS:
        raise UserError(f"{path}: a figure ends in {', '.join(MOMENTS)}")
    with written_whole(path) as temporary, mpl.rc_context(_house()):
        figure.savefig(temporary, format=path.suffix[1:], metadata=MOMENTS[path.suffix])
    return path
