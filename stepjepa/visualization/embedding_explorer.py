"""The embedding explorer: a live map of step embeddings, before and after training, with every point in words.

A thin binding: `embedding_points.py` says what the points are, which are nearest in the full space and where they are
drawn, `embedding_drawing.py` in which colours; a canvas in `embedding_explorer.js` draws them, loaded from the package
itself (anywidget; no network, no lab extension). Choosing, searching and the lasso need no kernel. Where no widget
runs, as in an exported page, the same map appears as a still.

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
from ipywidgets import HTML, Dropdown, VBox

from stepjepa.analysis.embeddings import Embeddings, evenly_spaced
from stepjepa.analysis.projections import VIEWS
from stepjepa.records import UserError
from stepjepa.visualization.embedding_drawing import DASHES, Palette, step_mark, still
from stepjepa.visualization.embedding_points import NEAREST, PLURALS, REACH, Map, Points, as_message, make_maps
from stepjepa.visualization.embeddings import VIEW_NAMES
from stepjepa.visualization.widgets import Selecting, alert, script, side_by_side, sized

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

    _esm = script("embedding_marks.js", "embedding_explorer.js")
    _css = Path(__file__).with_name("embedding_explorer.css")
    points = traitlets.Dict().tag(sync=True)
    picture = traitlets.Dict().tag(sync=True)
    selected = traitlets.Int(0).tag(sync=True)
    """The row of the chosen point, from 0: the one state of keys, pointer, menu and slider, which the page holds, so
    that they agree while the kernel is busy."""
    found = traitlets.List(traitlets.Int()).tag(sync=True)
    """The rows that the last search or lasso has found."""


class EmbeddingExplorer(Selecting, VBox):
    """See `embedding_explorer`. Every menu is an attribute: `which` (set), `shown`, `projection`, `colour`, `nearest`;
    `selected` is the row of the chosen point; one that is not shown gives way to what comes closest. `canvas` is the
    drawing."""

    chosen = traitlets.Any(None)
    """The chosen point, see `linking.py`."""

    def __init__(self, sets: Mapping[str, Points], seeds: Sequence[int], perplexity: float, neighbours: int) -> None:
        self._sets, self._perplexity, self._neighbours = dict(sets), perplexity, neighbours
        first, *others = self._sets.values()
        self._together = all(points.dimensions == first.dimensions for points in others)
        self._palette = Palette(list(self._sets.values()))
        self._seeds: dict[str, int | None] = {f"t-SNE, seed {seed}": seed for seed in seeds} | {"PCA": None}
        self._maps: dict[tuple[Any, ...], Map] = {}
        self._messages: dict[tuple[str, str], dict[str, Any]] = {}
        self._words: dict[tuple[str, str], list[str]] = {}
        self.which = Dropdown(options=list(self._sets), description="Set", **sized("160px", "34px"))
        self.shown = Dropdown(options=list(SHOWN), description="Points", **sized("255px", "48px"))
        self.projection = Dropdown(options=list(self._seeds), description="Map", **sized("160px", "36px"))
        self.colour = Dropdown(options=self._palette.choices, description="Colour", **sized("190px", "48px"))
        self.nearest = Dropdown(options=NEAREST, description="Nearest in", **sized("210px", "70px"))
        self.message = HTML()
        self.canvas = EmbeddingCanvas()
        several = [self.which] if len(self._sets) > 1 else []
        menus = side_by_side(*several, self.shown, self.projection, self.colour, self.nearest)
        super().__init__([menus, self.message, self.canvas])
        self._points = first
        self._draw()
        for control in (self.which, self.shown, self.projection, self.colour, self.nearest):
            control.observe(lambda _change: self._refresh(), "value")
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
    def found(self) -> list[dict[str, Any]]:
        """What the last search or lasso has found: `problem`, `view`, `step` (from 1; 0 the whole answer), `text`."""
        points = self._points
        return [
            {
                "problem": points.numbers[points.example[row]],
                "view": str(points.view[row]),
                "step": int(points.step[row]) + 1,
                "text": points.text(row),
            }
            for row in self.canvas.found
        ]

    @property
    def words(self) -> str:
        """The words of the chosen point."""
        return self._words[self.which.value, self.nearest.value][self.selected]

    @property
    def summary(self) -> str:
        """The picture in a line."""
        return str(self.canvas.picture["summary"])

    @property
    def problems(self) -> list[tuple[str, tuple[str, ...]]]:
        """Question and steps of every problem that is shown."""
        own = self._points.embeddings
        return [(question, tuple(steps)) for question, steps in zip(own.questions, own.steps, strict=True)]

    def choose(self, example: int, step: int, view: str) -> None:
        """Choose a view, see `linking.py`, or what comes closest to it."""
        self.selected = _closest(self._points, self._rows(), example, step, view)

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        bundle: dict[str, Any] = super()._repr_mimebundle_(**options)
        line = f"{self.summary} Chosen: {self._points.short(self.selected)}"
        page = still(self._points, self._map, self._codes, self._legend, self.selected, line)
        return bundle | {"text/plain": line, "text/html": page}

    # -------- from the menus to the picture --------

    def _refresh(self) -> None:
        try:
            self._draw()
            self.message.value = ""
        except UserError as error:  # what was chosen cannot be shown: say why, keep the last picture
            self.message.value = alert(error)

    def _draw(self) -> None:
        before, points, views = self._points, self._sets[self.which.value], SHOWN[self.shown.value]
        drawn = self._make_map(views)
        chosen, rows = self.selected, points.rows(views)
        if not (points.same_rows(before) and chosen in rows):
            chosen = _closest(points, rows, *before.about(chosen))
        self._points, self._map = points, drawn
        self._codes, self._legend = self._palette.paint(points, self.colour.value, self._rows())
        used = [view for view in VIEWS if view in points.view[self._rows()]]
        with self.canvas.hold_sync():
            if not points.same_rows(before):
                self.canvas.found = []
            self.canvas.points = self._message(points)
            self.canvas.picture = {
                "summary": self._summary(),
                "caption": drawn.caption,
                "xy": drawn.xy.astype(np.float32).tobytes(),
                "moves": self._together and points.same_rows(before),
                "reach": REACH,
                "circle": drawn.circle,
                "colours": self._codes.tobytes(),
                "legend": self._legend,
                "views": [{"view": view, "name": VIEW_NAMES[view], "dashes": DASHES[view]} for view in used],
            }
            self.selected = chosen

    def _make_map(self, views: tuple[str, ...]) -> Map:
        """The map of the chosen set; of all sets at once where they have one space."""
        names = list(self._sets) if self._together else [self.which.value]
        key = (views, self.projection.value)
        if (self.which.value, *key) not in self._maps:
            self.message.value = "The map is being computed …"
            sets = [self._sets[name] for name in names]
            maps = make_maps(sets, views, self._seeds[self.projection.value], self._perplexity)
            self._maps |= {(name, *key): drawn for name, drawn in zip(names, maps, strict=True)}
            self.message.value = ""
        return self._maps[self.which.value, *key]

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
                "numbers": points.numbers,
                "view": points.view.tolist(),
                "example": points.example.tolist(),
                "marks": [step_mark(step) for step in points.step.tolist()],
                "partner": points.partner.tolist(),
            }
        return self._messages[key]

    # -------- the chosen point --------

    def _rows(self) -> np.ndarray:
        return np.flatnonzero(~np.isnan(self._map.xy[:, 0]))

    def _choose(self, row: int) -> None:
        if np.isnan(self._map.xy[row, 0]):  # as by a click that crossed a change of the picture on its way
            self.choose(*self._points.about(row))
        else:
            self.chosen = self._points.about(row)


def _closest(points: Points, rows: np.ndarray, example: int, step: int, view: str) -> int:
    """Of some rows that of a view (see `linking.py`); where there is none, what comes closest: the same problem, what
    is about the same step, the same view."""
    about = step + 1 if view == "context" else step  # what a context view has to predict
    misses = [points.example[rows] != example, abs(points.step[rows] - about), points.view[rows] != view]
    exact = (points.view[rows] == view) & (points.read[rows] == step)
    return int(rows[np.lexsort([*misses[:0:-1], ~exact, misses[0]])[0]])


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
