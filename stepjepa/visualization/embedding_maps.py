"""Maps for the embedding explorer: where each point is drawn, and in what frame.

The PCA of the unit vectors is always drawn in the whole unit circle, one scale for all sets, so that a collapsed set
stays a dot; a t-SNE map has neither place nor scale of its own and is shrunk into −1 … 1 (see `projections.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stepjepa.analysis.projections import project
from stepjepa.visualization.embedding_points import Points

REACH = 1.06
"""Half the side of the square that is drawn."""


@dataclass(frozen=True)
class Map:
    """Where the rows of `Points` are drawn."""

    caption: str
    """A line about the map: what its axes hold, or its perplexity and seed."""
    xy: np.ndarray
    """`[N, 2]`, from −1 to 1; NaN for rows of views that are not shown."""
    circle: bool
    """Whether the unit circle belongs to it."""


def make_map(points: Points, views: Sequence[str], seed: int | None, perplexity: float) -> Map:
    """The PCA (no seed) or the t-SNE map of some views, mapped together.

    Raises:
        UserError: fewer than four points.
    """
    found = project(points.embeddings, views, seeds=() if seed is None else (seed,), perplexity=perplexity)
    xy = np.full((len(points), 2), np.nan)
    if seed is None:
        xy[points.rows(views)] = found["pca"]
        first, second = found["explained"]
        shares = f"the axes hold {first:.0%} and {second:.0%} of the squared length"
        return Map(f"PCA, uncentred: {shares}.", xy, True)
    places = found["tsne"][0]
    places = places - (places.max(axis=0) + places.min(axis=0)) / 2
    xy[points.rows(views)] = places / np.abs(places).max()
    caption = f"t-SNE, perplexity {found['perplexity']:.3g}, seed {seed}: it shows who is near, not how far."
    return Map(caption, xy, False)
