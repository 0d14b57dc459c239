"""Several sources in given shares: which rows of each are trained on, and how often.

The mixture is a list of rows, drawn once and exactly: counts add up by the largest remainder, each source is taken in
whole passes and what is left over without a row twice. Shares are given as weights behind the sources
(`a.jsonl:0.7 b.jsonl:0.3`), or follow from the sizes by a temperature T: each is proportional to size ** (1/T), so that
T = 1 is the rows as they are and a large T makes all sources equal.

Reference: Raffel et al. 2020, section 3.5.2 (arXiv 1910.10683).
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stepjepa.data.examples import Example
from stepjepa.records import UserError, text_table

_WEIGHT = re.compile(r"(.+):(\d+\.?\d*|\.\d+)")  # `a.jsonl:0.7`, `some/data:main:train:2`


@dataclass(frozen=True)
class Part:
    """What one source gives to a mixture: its rows, the share wanted, how many were taken."""

    source: str
    rows: int
    wanted: float
    taken: int


def split_weights(sources: Sequence[str]) -> tuple[list[str], list[float] | None]:
    """`["a.jsonl:0.7", "b.jsonl:0.3"]` → the sources and their weights, which are None if there are none.

    Raises:
        UserError: some sources have a weight and some have none, or all weights are 0.
    """
    names, weights = [], []
    for source in sources:
        match = None if Path(source).expanduser().exists() else _WEIGHT.fullmatch(source)
        names.append(match[1] if match else source)
        weights += [float(match[2])] if match else []
    if not weights:
        return names, None
    if len(weights) < len(names):
        bare = next(name for name, source in zip(names, sources, strict=True) if name == source)
        raise UserError(f"--train_file: {bare} has no weight and others have; give every source one, as in {bare}:0.5")
    if not sum(weights):
        raise UserError("--train_file: all weights are 0")
    return names, weights


def shares(sizes: Sequence[int], weights: Sequence[float] | None, temperature: float | None) -> list[float]:
    """Share of each source, which add up to 1.

    >>> shares([100, 400], None, 2.0)
    [0.3333333333333333, 0.6666666666666666]
    """
    raw = weights if weights is not None else [size ** (1 / (temperature or 1.0)) for size in sizes]
    return [one / math.fsum(raw) for one in raw]


def apportion(wanted: Sequence[float], total: int) -> list[int]:
    """Whole numbers that add up to `total`, by the largest remainder; of equal remainders the first.

    >>> apportion([0.7, 0.2, 0.1], 9)
    [6, 2, 1]
    """
    counts = [math.floor(share * total) for share in wanted]
    order = sorted(range(len(wanted)), key=lambda number: counts[number] - wanted[number] * total)
    for number in order[: total - sum(counts)]:
        counts[number] += 1
    return counts


def mix(
    sources: Sequence[str],
    groups: Sequence[Sequence[Example]],
    weights: Sequence[float] | None = None,
    temperature: float | None = None,
    rows: int | None = None,
    seed: int = 0,
) -> tuple[list[Example], list[Part]]:
    """Draw a mixture.

    Args:
        sources, groups: names and examples of each source.
        weights, temperature: see the module.
        rows: how many to draw; by default as many as there are.
        seed: which rows of an incomplete pass are taken.

    Returns:
        The rows, source after source, and what each source gives.

    Raises:
        UserError: a source that is to be drawn from has no row.
    """
    wanted = shares([len(group) for group in groups], weights, temperature)
    counts = apportion(wanted, sum(map(len, groups)) if rows is None else rows)
    drawn: list[Example] = []
    for source, group, count in zip(sources, groups, counts, strict=True):
        if count and not group:
            raise UserError(f"--train_file {source}: no row is left to train on")
        passes, rest = divmod(count, len(group)) if group else (0, 0)
        order = sorted(range(len(group)), key=lambda n: hashlib.sha256(f"{seed} {source} {n}".encode()).digest())
        chosen = set(order[:rest])
        drawn += [*group] * passes + [example for number, example in enumerate(group) if number in chosen]
    parts = [
        Part(source, len(group), share, count)
        for source, group, share, count in zip(sources, groups, wanted, counts, strict=True)
    ]
    return drawn, parts


def described(parts: Sequence[Part]) -> list[dict[str, Any]]:
    """For a record: of each source rows, share wanted, rows taken, share, and passes, how often each row is there."""
    total = sum(part.taken for part in parts)
    return [
        asdict(part) | {"share": part.taken / total, "passes": part.taken / part.rows if part.rows else 0.0}
        for part in parts
    ]


def table(parts: Sequence[Part]) -> str:
    """The same as lines of text."""
    rows = [["mixture", "rows", "wanted", "taken", "share", "times each"]]
    for part in described(parts):
        rows.append(
            [
                part["source"],
                f"{part['rows']:,}",
                f"{part['wanted']:.2%}",
                f"{part['taken']:,}",
                f"{part['share']:.2%}",
                f"{part['passes']:.2f}",
            ]
        )
    return "\n".join(text_table(rows))
