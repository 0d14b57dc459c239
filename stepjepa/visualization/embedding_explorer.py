"""The embedding explorer: a live map of step embeddings, before and after training, with every point in words.

A thin binding: `embedding_points.py` says what the points are, which are nearest in the full space and where they are
drawn, `embedding_drawing.py` in which colours; a canvas in `embedding_explorer.js` draws them, loaded from the package
itself (anywidget; no network, no lab extension). Where no widget runs, as in an exported page, the same map appears as
a still.

>>> explorer = embedding_explorer({"before": before, "after": after})  # doctest: +SKIP
>>> explorer.projection.value = "PCA"  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import anywidget
import numpy as np
import traitlets
from ipywidgets import HTML, Dropdown, IntSlider, VBox

from stepjepa.analysis.embeddings import Embeddings, evenly_spaced
from stepjepa.analysis.projections import VIEWS
from stepjepa.records import UserError
from stepjepa.visualization.embedding_drawing import DASHES, Palette, step_mark, still
from stepjepa.visualization.embedding_points import NEAREST, PLURALS, REACH, Map, Points, as_message, make_map
from stepjepa.visualization.embeddings import VIEW_NAMES
from stepjepa.visualization.widgets import alert, script, side_by_side, sized

SHOWN: dict[str, tuple[str, ...]] = {
    "context and target views": ("context", "target"),
    "context views": ("context",),
    "target views": ("target",),
    "step ends": ("state",),
    "all of these": VIEWS,
}


class EmbeddingCanvas(anywidget.AnyWidget):
    """The drawing. `points` (words, which are many) changes with the set, `picture` (places and colours) with every
    choice; a change of both is sent as one."""

    _esm = script("embedding_explorer.js")
    _css = Path(__file__).with_name("embedding_explorer.css")
    points = traitlets.Dict().tag(sync=True)
    picture = traitlets.Dict().tag(sync=True)
    selected = traitlets.Int(0).tag(sync=True)
    """The row of the chosen point, from 0."""


class EmbeddingExplorer(VBox):
    """See `embedding_explorer`. Every control is an attribute: `which` (set), `shown`, `projection`, `colour`,
    `nearest`, `problem`, `point`; `canvas` is the drawing."""

    def __init__(self, sets: Mapping[str, Points], seeds: Sequence[int], perplexity: float, neighbours: int) -> None:
        self._sets, self._perplexity, self._neighbours = dict(sets), perplexity, neighbours
        self._palette = Palette(list(self._sets.values()))
        self._seeds: dict[str, int | None] = {f"t-SNE, seed {seed}": seed for seed in seeds} | {"PCA": None}
        self._maps: dict[tuple[Any, ...], Map] = {}
        self._messages: dict[tuple[str, str], dict[str, Any]] = {}
        self._words: dict[tuple[str, str], list[str]] = {}
        self._busy = False
        short, wide = sized("255px"), sized("760px")
        first = next(iter(self._sets.values()))
        self.which = Dropdown(options=list(self._sets), description="Set", **short)
        self.shown = Dropdown(options=list(SHOWN), description="Points", **sized("285px"))
        self.projection = Dropdown(options=list(self._seeds), description="Map", **short)
        self.colour = Dropdown(options=self._palette.choices, description="Colour", **short)
        self.nearest = Dropdown(options=NEAREST, description="Nearest in", **short)
        self.problem = Dropdown(
            options=[
                (f"{number}: {question}", i)
                for i, (number, question) in enumerate(zip(first.numbers, first.embeddings.questions, strict=True))
            ],
            description="Problem",
            **wide,
        )
        self.point = IntSlider(min=1, max=1, description="Point", **wide)
        self.message = HTML()
        self.canvas = EmbeddingCanvas()
        several = [self.which] if len(self._sets) > 1 else []
        super().__init__(
            [
                side_by_side(*several, self.shown, self.projection),
                side_by_side(self.colour, self.nearest),
                self.problem,
                self.point,
                self.message,
                self.canvas,
            ]
        )
        self._points, self._chosen = first, 0
        self._draw()
        for control in (self.which, self.shown, self.projection, self.colour, self.nearest):
            control.observe(lambda _change: self._refresh(), "value")
        self.problem.observe(lambda change: self._choose_problem(change.new), "value")
        self.point.observe(lambda change: self._choose(int(self._own()[change.new - 1])), "value")
        self.canvas.observe(lambda change: self._choose(change.new), "selected")

    # -------- what is shown, for readers and tests --------

    @property
    def points(self) -> Points:
        """The rows of the set that is shown."""
        return self._points

    @property
    def map(self) -> Map:
        """The map that is shown."""
        return self._map

    @property
    def words(self) -> str:
        """The words of the chosen point."""
        return self._words[self.which.value, self.nearest.value][self._chosen]

    @property
    def summary(self) -> str:
        """The picture in a line."""
        return str(self.canvas.picture["summary"])

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        bundle: dict[str, Any] = super()._repr_mimebundle_(**options)
        line = f"{self.summary} Chosen: {self._points.short(self._chosen)}"
        page = still(self._points, self._map, self._codes, self._legend, self._chosen, line)
        return bundle | {"text/plain": line, "text/html": page}

    # -------- from the controls to the picture --------

    def _refresh(self) -> None:
        try:
            self._draw()
            self.message.value = ""
        except UserError as error:  # what was chosen cannot be shown: say why, keep the last picture
            self.message.value = alert(error)

    def _draw(self) -> None:
        points, views = self._sets[self.which.value], SHOWN[self.shown.value]
        drawn = self._make_map(points, views)
        chosen = self._same_point(points, views)
        self._points, self._map = points, drawn
        self._codes, self._legend = self._palette.paint(points, self.colour.value, self._rows())
        used = [view for view in VIEWS if view in points.view[self._rows()]]
        with self.canvas.hold_sync():
            self.canvas.points = self._message(points)
            self.canvas.picture = {
                "summary": self._summary(),
                "caption": drawn.caption,
                "xy": drawn.xy.astype(np.float32).tobytes(),
                "reach": REACH,
                "circle": drawn.circle,
                "colours": self._codes.tobytes(),
                "legend": self._legend,
                "views": [{"view": view, "name": VIEW_NAMES[view], "dashes": DASHES[view]} for view in used],
            }
            self._choose(chosen)

    def _make_map(self, points: Points, views: tuple[str, ...]) -> Map:
        key = (self.which.value, views, self.projection.value)
        if key not in self._maps:
            self.message.value = "The map is being computed …"
            self._maps[key] = make_map(points, views, self._seeds[self.projection.value], self._perplexity)
            self.message.value = ""
        return self._maps[key]

    def _summary(self) -> str:
        rows = self._rows()
        views = self._points.view[rows].tolist()
        counts = ", ".join(f"{views.count(view):,} {PLURALS[view]}" for view in VIEWS if view in views)
        problems = len(set(self._points.example[rows].tolist()))
        name = f", {self.which.value}" if self.which.value else ""
        shown = f"{self.projection.value}, colour by {self.colour.value}"
        return f"Embedding explorer{name}: {counts} of {problems:,} problems, {shown}."

    def _message(self, points: Points) -> dict[str, Any]:
        key = (self.which.value, self.nearest.value)
        if key not in self._messages:
            words = points.words(self.nearest.value, self._neighbours)
            self._words[key] = [str(point) for point in words]
            self._messages[key] = {
                "words": [as_message(point) for point in words],
                "questions": points.embeddings.questions,
                "view": points.view.tolist(),
                "example": points.example.tolist(),
                "marks": [step_mark(step) for step in points.step.tolist()],
                "partner": points.partner.tolist(),
            }
        return self._messages[key]

    # -------- the chosen point --------

    def _rows(self) -> np.ndarray:
        return np.flatnonzero(~np.isnan(self._map.xy[:, 0]))

    def _own(self) -> np.ndarray:
        """The rows of the chosen problem that are shown."""
        rows = self._rows()
        return rows[self._points.example[rows] == self._points.example[self._chosen]]

    def _same_point(self, points: Points, views: tuple[str, ...]) -> int:
        """The row in `points` of what is chosen now: the same problem, and if it can be the same step and view."""
        before, chosen = self._points, self._chosen
        return _closest(
            points, points.rows(views), int(before.example[chosen]), int(before.step[chosen]), str(before.view[chosen])
        )

    def _choose_problem(self, example: int) -> None:
        if not self._busy:
            step, view = int(self._points.step[self._chosen]), str(self._points.view[self._chosen])
            self._choose(_closest(self._points, self._rows(), example, step, view))

    def _choose(self, row: int) -> None:
        """Make a row the chosen one, in every control."""
        if self._busy:  # a change that choosing itself made
            return
        self._busy = True
        try:
            if np.isnan(self._map.xy[row, 0]):  # a click that crossed a change of the picture on its way
                example, step = int(self._points.example[row]), int(self._points.step[row])
                row = _closest(self._points, self._rows(), example, step, str(self._points.view[row]))
            self._chosen = row
            own = self._own()
            self.problem.value = int(self._points.example[row])
            self.point.max = len(own)
            self.point.value = int(np.flatnonzero(own == row)[0]) + 1
            self.canvas.selected = row
        finally:
            self._busy = False


def _closest(points: Points, rows: np.ndarray, example: int, step: int, view: str) -> int:
    """Of some rows the one of this problem, step and view; where there is none, what comes closest in this order."""
    misses = [points.example[rows] != example, abs(points.step[rows] - step), points.view[rows] != view]
    return int(rows[np.lexsort(misses[::-1])[0]])


def embedding_explorer(
    embeddings: Embeddings | Mapping[str, Embeddings],
    label: str = "",
    *,
    seeds: Sequence[int] = (0, 1, 2),
    perplexity: float = 30,
    examples: int | None = 60,
    neighbours: int = 5,
) -> EmbeddingExplorer:
    """Explore the views of steps: a map, and for each point its text, its partner and its nearest steps.

    Everything is about the problems that are shown: they alone are mapped, are neighbours and compete in ranks.
    Each t-SNE map is computed when first chosen, 1,500 points in some seconds.

    Args:
        embeddings: of `encode_examples` or an embedding file; or several of the same problems by name, to switch
            between while the chosen point stays chosen.
        label: name of a single set.
        seeds: of the t-SNE maps to choose from; none of them leaves PCA.
        perplexity: of t-SNE, see `projections.project`.
        examples: at most so many problems, evenly spaced over those that all sets have; None for all.
        neighbours: how many nearest steps are named, at most 26 (the map calls them a to z).

    Raises:
        UserError: no set, no problem that all sets have, sets in different orders, fewer than four points, or
            more than 26 neighbours.
    """
    sets = {label: embeddings} if isinstance(embeddings, Embeddings) else dict(embeddings)
    if neighbours > len(ascii_lowercase):
        raise UserError(f"neighbours: {neighbours}; the map has letters for {len(ascii_lowercase)}")
    if not sets:
        raise UserError("no embeddings to explore: give one set, or several by name")
    first, *others = (embeddings.ids for embeddings in sets.values())
    shared = set(first).intersection(*others)
    common = [place for place, name in enumerate(first) if name in shared]
    if not common:
        raise UserError(f"the sets {', '.join(sets)} have no problem in common: embed the same data with each")
    places = np.array(common)[evenly_spaced(len(common), examples)]
    names, numbers = [first[place] for place in places], (places + 1).tolist()
    points = {name: Points(_in_order(own, names), numbers) for name, own in sets.items()}
    return EmbeddingExplorer(points, seeds, perplexity, neighbours)


def _in_order(embeddings: Embeddings, names: Sequence[str]) -> Embeddings:
    """The problems of these names, in the order of the names."""
    place = {name: i for i, name in enumerate(embeddings.ids)}
    wanted = np.array([place[name] for name in names])
    if not (np.diff(wanted) > 0).all():
        raise UserError("the sets hold the same problems in different orders: embed the same data with each")
    return embeddings.take(wanted)
