"""What the explorers share: their script, controls, and a message beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ipywidgets import Box, Layout

from stepjepa.visualization.page import shown


def script(*names: str) -> str:
    """The JavaScript module of an explorer, after what all of them share; a module of its own could not be imported."""
    here = Path(__file__).parent
    return "\n".join((here / part).read_text(encoding="utf-8") for part in ("widgets.js", *names))


class Selecting:
    """An explorer whose `canvas` holds the row that is looked at."""

    canvas: Any

    @property
    def selected(self) -> int:
        """The row that is looked at, from 0."""
        return int(self.canvas.selected)

    @selected.setter
    def selected(self, row: int) -> None:
        self.canvas.selected = row


def sized(width: str, description: str = "72px") -> dict[str, Any]:
    """Options for a control of a width, of which its description takes a part."""
    return {"layout": Layout(width=width), "style": {"description_width": description}}


def side_by_side(*widgets: Any) -> Box:
    """Controls beside each other, on a second line where the page is narrow."""
    return Box(widgets, layout=Layout(flex_flow="row wrap", align_items="center"))


def alert(error: Exception) -> str:
    """HTML that says why what was chosen cannot be shown; a screen reader says it at once."""
    return f'<div role="alert" style="color:var(--jp-error-color1,#b00)">{shown(str(error))}</div>'
