"""Embeddings → the small records that the figures of `visualization/embeddings.py` are drawn from.

t-SNE (van der Maaten & Hinton 2008) shows neighbourhoods and hides scale: a collapsed set gets the same airy clouds as
a healthy one. Beside it therefore stands an *uncentred* PCA of the unit vectors, one scale for all models: a shared
direction shows as a cloud far from the origin, collapse as a dot on the unit circle.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from stepjepa.analysis.embeddings import Embeddings, evenly_spaced
from stepjepa.jepa.metrics import centered_unit_rows, effective_rank, mean_direction_energy, singular_values, unit_rows
from stepjepa.records import UserError

VIEWS = ("context", "target", "state")


class ViewRows(NamedTuple):
    """One view of a set of embeddings: N rows and their labels."""

    vectors: torch.Tensor
    """`[N, D]`"""
    example: np.ndarray
    """`[N]`"""
    step: np.ndarray
    """`[N]`: the step that the row is about; of a context view the step it has to predict."""
    operation: np.ndarray
    """`[N]`: the operation of that step, −1 where not known."""

    def take(self, kept: np.ndarray) -> ViewRows:
        """Only these rows, `[N]` booleans."""
        return ViewRows(self.vectors[torch.from_numpy(kept)], self.example[kept], self.step[kept], self.operation[kept])


def view_rows(embeddings: Embeddings, view: str) -> ViewRows:
    """The rows of a view: "context", "target" or "state" (in-context step ends).

    Raises:
        ValueError: another name.
    """
    if view == "state":
        return ViewRows(
            torch.from_numpy(embeddings.states), embeddings.state_example, embeddings.state_step, embeddings.operation
        )
    if view not in VIEWS:
        raise ValueError(f"Unknown view {view!r}; choose one of {', '.join(VIEWS)}.")
    rows = embeddings.state_rows(embeddings.pair_example, embeddings.target_step)
    operation = np.where(rows >= 0, embeddings.operation[rows], -1)
    vectors = embeddings.context if view == "context" else embeddings.target
    return ViewRows(torch.from_numpy(vectors), embeddings.pair_example, embeddings.target_step, operation)


def project(
    embeddings: Embeddings,
    views: Sequence[str] = ("context", "target"),
    seeds: Sequence[int] = (0, 1, 2),
    perplexity: float = 30,
) -> dict[str, Any]:
    """Two-dimensional maps of the unit vectors of one or several views, mapped together.

    Args:
        views: which of "context", "target", "state".
        seeds: of the t-SNE runs, each from its own random start, so that what differs between them is chance.
        perplexity: of t-SNE; fewer than three times as many points take a third of their number.

    Returns:
        For N points `view`, `example`, `step`, `operation`, `correct`, each `[N]`; `pca` `[N, 2]` and `explained`
        `[2]` (shares of the squared length); `tsne` `[seeds, N, 2]`; `seeds`; the `perplexity` in force.

    Raises:
        UserError: fewer than four points.
    """
    parts = {view: view_rows(embeddings, view) for view in views}
    example = np.concatenate([rows.example for rows in parts.values()])
    return {
        "view": np.concatenate([np.full(len(rows.step), view) for view, rows in parts.items()]),
        "example": example,
        "step": np.concatenate([rows.step for rows in parts.values()]),
        "operation": np.concatenate([rows.operation for rows in parts.values()]),
        "correct": embeddings.correct[example],
        **flat(torch.cat([rows.vectors for rows in parts.values()]), seeds, perplexity),
    }


def flat(vectors: torch.Tensor, seeds: Sequence[int], perplexity: float) -> dict[str, Any]:
    """Maps of any vectors `[N, D]`, all together; see `project`, which adds what each point is."""
    from sklearn.manifold import TSNE

    if len(vectors) < 4:
        raise UserError(f"a map needs at least 4 points, and there are {len(vectors)}")
    unit = unit_rows(vectors).numpy()
    _, values, axes = np.linalg.svd(unit, full_matrices=False)
    axes = axes[:2] * np.where(axes[:2].sum(axis=1, keepdims=True) < 0, -1, 1)  # the sign is arbitrary: fix it
    perplexity = min(perplexity, (len(unit) - 1) / 3)
    maps = [
        TSNE(perplexity=perplexity, init="random", random_state=seed, n_jobs=1).fit_transform(unit.astype(np.float32))
        for seed in seeds
    ]
    return {
        "pca": unit @ axes.T,
        "explained": (values**2 / (values**2).sum())[:2],
        "tsne": np.array(maps).reshape(len(maps), len(unit), 2),
        "seeds": list(seeds),
        "perplexity": perplexity,
    }


def map_record(embeddings: Embeddings, label: str = "", examples: int | None = 60, **options: Any) -> dict[str, Any]:
    """What `embedding_map` draws, rounded: at most so many examples, evenly spaced over the data.

    `options` are those of `project`; `example` is the place of a point's problem in the file.

    t-SNE has neither place nor scale of its own: each map is moved and shrunk into −1 … 1. `mean_energy` holds the
    mean-direction energy of each view, over all of its rows.
    """
    places = evenly_spaced(len(embeddings.questions), examples)
    points = project(embeddings.take(places), **options)
    points["example"] = places[points["example"]]
    middle = (points["tsne"].max(axis=1) + points["tsne"].min(axis=1)) / 2  # [seeds, 2]
    maps = points["tsne"] - middle[:, None]
    maps /= np.abs(maps).max(axis=(1, 2), keepdims=True)
    views = []
    for view in dict.fromkeys(points["view"].tolist()):
        at = points["view"] == view
        views.append(
            {
                "view": view,
                **{name: points[name][at].tolist() for name in ("example", "step", "operation", "correct")},
                "pca": _columns(points["pca"][at]),
                "tsne": [_columns(tsne[at]) for tsne in maps],
            }
        )
    return {
        "label": label,
        "operations": embeddings.operation_names,
        "seeds": points["seeds"],
        "perplexity": round(points["perplexity"], 1),
        "explained": points["explained"].round(3).tolist(),
        "mean_energy": {
            view: round(float(mean_direction_energy(view_rows(embeddings, view).vectors)), 3)
            for view in dict.fromkeys(points["view"].tolist())
        },
        "views": views,
    }


def _columns(points: np.ndarray) -> dict[str, list[float]]:
    x, y = points.round(3).T.tolist()
    return {"x": x, "y": y}


def similarity_record(
    embeddings: Embeddings, examples: Sequence[int] = (0,), rows: str = "state", columns: str | None = None
) -> dict[str, Any]:
    """Cosine similarities between the steps of chosen problems, for `similarity_map`.

    Args:
        examples: which problems, by their place in the file.
        rows, columns: views; columns are those of the rows unless given. "context" by "target" shows what is
            predicted against what it should be.

    Returns:
        `raw` cosines, and `centered` after each view's mean over *all* steps is removed; labels for both axes.

    Raises:
        UserError: no such problem, or one without a step in these views.
    """
    columns = columns or rows
    sides = {}
    for name in dict.fromkeys((rows, columns)):
        view = view_rows(embeddings, name)
        order = np.concatenate([np.flatnonzero(view.example == example) for example in examples])
        absent = set(examples) - set(view.example[order].tolist())
        if absent:
            raise UserError(
                f"example {min(absent)} has no {name} view; these embeddings hold {len(embeddings.questions)} examples"
            )
        at = torch.from_numpy(order)
        sides[name] = (
            unit_rows(view.vectors)[at],
            centered_unit_rows(view.vectors)[at],
            [(int(e), int(k)) for e, k in zip(view.example[order], view.step[order], strict=True)],
        )
    left, right = sides[rows], sides[columns]
    return {
        "rows": rows,
        "columns": columns,
        "row_steps": left[2],
        "column_steps": right[2],
        "raw": (left[0] @ right[0].T).numpy().round(3).tolist(),
        "centered": (left[1] @ right[1].T).numpy().round(3).tolist(),
    }


def spectrum_record(embeddings: Embeddings, label: str = "", views: Sequence[str] = VIEWS) -> dict[str, Any]:
    """Singular values of each view, largest first, as shares of the largest; uncentred, as effective rank is.

    Returns:
        `label` and, for each view, `values`, `rank` (effective) and `most` (the largest that it could be).
    """
    record: dict[str, Any] = {"label": label, "views": {}}
    for name in views:
        vectors = view_rows(embeddings, name).vectors
        values = singular_values(vectors)
        record["views"][name] = {
            "values": [float(f"{value:.3g}") for value in (values / (values[0] or 1)).tolist()],
            "rank": round(float(effective_rank(vectors)), 2),
            "most": min(vectors.shape),
        }
    return record
