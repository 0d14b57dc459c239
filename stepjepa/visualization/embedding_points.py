"""The points of the embedding explorer: every view of some problems, in words what each one is, and where it is drawn.

Neighbours and ranks are computed in all D dimensions, never in a map: a map puts points beside each other that are
not alike. Several sets of one size are mapped together, so that a point's way from one to the next can be followed on
the same axes. A view's *partner* is the other view of its pair (context view after step k, target view of step k + 1),
and its rank is that of `metrics.py`: 1 means that the step is retrieved. The PCA of the unit vectors is always drawn in
the whole unit circle, one scale for all sets, so that a collapsed set stays a dot; a t-SNE map has neither place nor
scale of its own and is shrunk into −1 … 1 (see `projections.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from stepjepa.analysis.embeddings import Embeddings
from stepjepa.analysis.measurements import target_texts
from stepjepa.analysis.projections import VIEWS, flat, view_rows
from stepjepa.jepa.metrics import retrieval_ranks, unit_rows

PARTNERS, OWN = "partner's view", "own view"
NEAREST = (PARTNERS, OWN)
"""Among which views the nearest are sought. Step ends have no partner: theirs are always step ends."""
_PARTNER_VIEW = {"context": "target", "target": "context", "state": "state"}
PLURALS = {"context": "context views", "target": "target views", "state": "step ends"}
REACH = 1.06
"""Half the side of the square that is drawn."""
_DECIMALS = 9
"""Cosines are put in order after rounding, or equal texts would stand in the order of their rounding errors."""
_TIE = 1e-14
"""Times a row, it is less than a unit of the last decimal."""


@dataclass(frozen=True)
class PointWords:
    """What the explorer says of a point; of each of the nearest its row, cosine, words, and whether its problem is
    the same."""

    name: str
    text: str
    read: str
    facts: str
    partner: str
    among: str
    nearest: tuple[tuple[int, str, str, bool], ...]

    def __str__(self) -> str:
        listed = "; ".join(f"{cosine} {words}" for _, cosine, words, _ in self.nearest)
        parts = [f"{self.name}: {self.text}", self.read, self.facts, self.partner, f"{self.among} {listed}."]
        return " ".join(part for part in parts if part)


class Points:
    """All N rows of a set of embeddings: context views, then target views, then step ends, each in example order.

    `view`, `example`, `step`, `operation`, `value`, `correct`, `length`, `error` are arrays `[N]`; `step` is the step
    that a row is about (of a context view the one it has to predict), −1 the whole answer; `after` `[N]` is the step
    after which a context view is read, −1 the question (and elsewhere); `partner` `[N]` the row of the partner, −1
    for step ends; `length` counts the characters of the step, `error` is the cosine distance to the
    partner, NaN for step ends.

    Args:
        embeddings: views and labels.
        numbers: `[E]`, what the problems are called.
    """

    def __init__(self, embeddings: Embeddings, numbers: Sequence[int]) -> None:
        self.embeddings, self.numbers = embeddings, list(numbers)
        views = [view_rows(embeddings, name) for name in VIEWS]
        pairs, states = len(embeddings.context), len(embeddings.states)
        self.view = np.repeat(VIEWS, [pairs, pairs, states])
        self.example = np.concatenate([view.example for view in views])
        self.step = np.concatenate([view.step for view in views])
        self.operation = np.concatenate([view.operation for view in views])
        self.correct = embeddings.correct[self.example]
        self.after = np.concatenate([embeddings.context_step, np.full(pairs + states, -1)])
        self.partner = np.concatenate([np.arange(pairs) + pairs, np.arange(pairs), np.full(states, -1)])
        labels = embeddings.state_rows(self.example, self.step)
        self.value = np.where(labels >= 0, embeddings.value[labels], np.nan)
        self.length = np.array([len(self.text(i)) for i in range(len(self))])
        self._units = {name: unit_rows(view.vectors) for name, view in zip(VIEWS, views, strict=True)}
        error = 1 - (self._units["context"] * self._units["target"]).sum(dim=1).numpy()
        self.error = np.concatenate([error, error, np.full(states, np.nan)])
        self._starts = {"context": 0, "target": pairs, "state": 2 * pairs}

    def __len__(self) -> int:
        return len(self.view)

    @property
    def dimensions(self) -> int:
        """D, the size of the space in which neighbours are sought."""
        return self.embeddings.context.shape[1]

    def rows(self, views: Sequence[str]) -> np.ndarray:
        """The rows of some views, in the order of the views."""
        return np.concatenate([np.flatnonzero(self.view == view) for view in views])

    def vectors(self, views: Sequence[str]) -> torch.Tensor:
        """Unit vectors of these rows, `[rows, D]`."""
        return torch.cat([self._units[view] for view in views])

    @cached_property
    def read(self) -> np.ndarray:
        """`[N]`: the step after which a view is read, −1 the question; of a target view the step that it encodes."""
        return np.where(self.view == "context", self.after, self.step)

    def about(self, row: int) -> tuple[int, int, str]:
        """What a row is, for `linking.py`."""
        return int(self.example[row]), int(self.read[row]), str(self.view[row])

    def same_rows(self, other: Points) -> bool:
        """Whether every row of both is about the same step of the same problem."""
        names = ("view", "example", "step")
        return all(np.array_equal(getattr(self, name), getattr(other, name)) for name in names)

    @cached_property
    def ranks(self) -> tuple[np.ndarray, np.ndarray]:
        """`[N]` rank of the partner among all views of its kind, and `[N]` how many compete; 0 where there is no
        partner. Views of a step with the same text as the partner's do not compete: none could be told from it."""
        context, target = self._units["context"], self._units["target"]
        text = torch.from_numpy(np.unique(target_texts(self.embeddings), return_inverse=True)[1])
        own = torch.arange(len(context))
        allowed = text[:, None] != text[None]
        allowed[own, own] = True
        ranks = [retrieval_ranks(context, target, own, allowed), retrieval_ranks(target, context, own, allowed)]
        sizes = allowed.sum(dim=1)
        none = torch.zeros(len(self) - 2 * len(context), dtype=torch.int64)
        return torch.cat([*ranks, none]).numpy(), torch.cat([sizes, sizes, none]).numpy()

    def nearest(self, among: str, count: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """For each of N rows the nearest other rows by cosine, at most `count`, and their cosines.

        Args:
            among: one of `NEAREST`.
        """
        nearest, cosines = [], []
        for view in VIEWS:
            other = view if among == OWN else _PARTNER_VIEW[view]
            similarity = (self._units[view] @ self._units[other].T).numpy().round(_DECIMALS)
            if view == other:
                np.fill_diagonal(similarity, -np.inf)  # not itself
            most = min(count, similarity.shape[1] - (view == other))
            distance = _TIE * np.arange(similarity.shape[1]) - similarity  # equal ones in the order of their rows
            order = np.argpartition(distance, range(most), axis=1)[:, :most]  # a whole sort takes five times as long
            nearest += list(order + self._starts[other])
            cosines += list(np.take_along_axis(similarity, order, axis=1))
        return nearest, cosines

    # -------- words --------

    def words(self, among: str, count: int) -> list[PointWords]:
        """What is said of every row."""
        (nearest, cosines), (ranks, sizes) = self.nearest(among, count), self.ranks
        return [
            PointWords(
                name=f"Problem {self.numbers[self.example[i]]}: {self.kind(i)}",
                text=f"«{self.text(i)}»",
                read=self._read(i),
                facts=self._facts(i),
                partner=self._partner(i, ranks[i], sizes[i]),
                among=f"Nearest {PLURALS[str(self.view[i]) if among == OWN else _PARTNER_VIEW[str(self.view[i])]]} "
                f"by cosine in all {self.dimensions} dimensions:",
                nearest=tuple(
                    (int(j), f"{cosine:.3f}", self._neighbour(i, j), bool(self.example[i] == self.example[j]))
                    for j, cosine in zip(nearest[i], cosines[i], strict=True)
                ),
            )
            for i in range(len(self))
        ]

    def kind(self, i: int) -> str:
        """Its view and step in words."""
        step = _step(self.step[i])
        if self.view[i] == "context":
            return f"context view after {_read_to(self.after[i])}, which has to predict {step}"
        return f"target view of {step}" if self.view[i] == "target" else f"end of {step} in its context"

    def text(self, i: int) -> str:
        """Text of the step that the row is about."""
        steps, step = self.embeddings.steps[self.example[i]], self.step[i]
        return steps[step] if step >= 0 else "\n\n".join(steps)

    def short(self, i: int) -> str:
        """A line for a hover text: what it is, its step's text, operation and running value."""
        name = f"Problem {self.numbers[self.example[i]]}, {self.kind(i)}"
        return f"{name}: «{_cut(self.text(i))}» {self._facts(i)}".strip()

    def _read(self, i: int) -> str:
        if self.view[i] != "context":
            return ""
        steps = self.embeddings.steps[self.example[i]]
        return f"It has read up to: «{steps[self.after[i]]}»" if self.after[i] >= 0 else "It has read the question."

    def _facts(self, i: int) -> str:
        facts = []
        if self.operation[i] >= 0:
            facts.append(f"Operation: {self.embeddings.operation_names[self.operation[i]]}.")
        if not np.isnan(self.value[i]):
            facts.append(f"Running value: {self.value[i]:,.12g}.")
        if self.correct[i] >= 0:
            facts.append(f"Problem answered {'correctly' if self.correct[i] else 'wrongly'}.")
        return " ".join(facts)

    def _partner(self, i: int, rank: int, size: int) -> str:
        if self.partner[i] < 0:
            return ""
        kinds = PLURALS[str(self.view[self.partner[i]])]
        competing = f"of the {size:,} {kinds} that compete"
        partner = f"Its partner, the {self.kind(self.partner[i])},"
        if rank == 1:
            return f"{partner} is the nearest {competing}: retrieved."
        return f"{partner} has rank {rank:,} {competing}: not retrieved."

    def _neighbour(self, i: int, j: int) -> str:
        if j == self.partner[i]:
            whose = "its partner"
        else:
            whose = "same problem" if self.example[i] == self.example[j] else f"problem {self.numbers[self.example[j]]}"
        after = f"after {_read_to(self.after[j])}, for " if self.view[j] == "context" else ""
        return f"{whose}, {after}{_step(self.step[j])}: «{_cut(self.text(j))}»"


def as_message(words: PointWords) -> dict[str, Any]:
    """Words as the canvas takes them."""
    nearest = [dict(zip(("row", "cosine", "words", "same"), entry, strict=True)) for entry in words.nearest]
    return {**vars(words), "nearest": nearest}


def _step(step: int) -> str:
    return f"step {step + 1}" if step >= 0 else "the whole answer"


def _read_to(step: int) -> str:
    return f"step {step + 1}" if step >= 0 else "the question"


def _cut(text: str, most: int = 80) -> str:
    text = text.replace("\n", " ")
    return text if len(text) <= most else f"{text[: most - 1]}…"


@dataclass(frozen=True)
class Map:
    """Where the rows of `Points` are drawn."""

    caption: str
    """A line about the map: what its axes hold, or its perplexity and seed."""
    xy: np.ndarray
    """`[N, 2]`, from −1 to 1; NaN for rows of views that are not shown."""
    circle: bool
    """Whether the unit circle belongs to it."""


def make_maps(sets: Sequence[Points], views: Sequence[str], seed: int | None, perplexity: float) -> list[Map]:
    """The PCA (no seed) or the t-SNE map of some views of one or several sets, all mapped together: a map for each set.

    Raises:
        UserError: fewer than four points.
    """
    rows = [points.rows(views) for points in sets]
    vectors = torch.cat([points.vectors(views) for points in sets])
    projected = flat(vectors, () if seed is None else (seed,), perplexity)
    together = f" of {len(sets)} sets together" if len(sets) > 1 else ""
    if seed is None:
        places, (first, second) = projected["pca"], projected["explained"]
        shares = f"the axes hold {first:.0%} and {second:.0%} of the squared length"
        caption = f"PCA{together}, uncentred: {shares}."
    else:
        places = projected["tsne"][0]
        places = places - (places.max(axis=0) + places.min(axis=0)) / 2
        places = places / np.abs(places).max()
        used = f"perplexity {projected['perplexity']:.3g}, seed {seed}"
        caption = f"t-SNE{together}, {used}: it shows who is near, not how far."
    maps = []
    for points, own, part in zip(sets, rows, np.split(places, np.cumsum([len(own) for own in rows])[:-1]), strict=True):
        xy = np.full((len(points), 2), np.nan)
        xy[own] = part
        maps.append(Map(caption, xy, seed is None))
    return maps
