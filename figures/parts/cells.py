"""Records read, and what is made of their numbers: shares, differences, intervals, Markdown tables."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from statsmodels.stats.proportion import confint_proportions_2indep

from stepjepa.experiments.grid_file import read_grid
from stepjepa.experiments.report import report
from stepjepa.experiments.store import GridFolder
from stepjepa.records import points, read_json

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "figures" / "data"

record = functools.cache(lambda name: read_json(DATA / f"{name}.json"))


def record_or_none(name: str) -> dict[str, Any] | None:
    return record(name) if (DATA / f"{name}.json").exists() else None


@functools.cache
def grid(name: str) -> dict[str, Any]:
    """What the records of a grid's cells say. The intervals shown are those of the t-test; bootstraps are not."""
    return report(read_grid(name), GridFolder(DATA / "ablation"), draws=10)


def table(*rows: Sequence[str]) -> list[str]:
    """A Markdown table of which the first row is the head."""
    head, *body = (f"| {' | '.join(row)} |".replace("|  |", "| |").replace("|  |", "| |") for row in rows)
    return [head, "|" + "---|" * len(rows[0]), *body]


def percent(share: float, low: float, high: float) -> str:
    return f"{share:.1%} ({low:.1%}–{high:.1%})"


def between(entry: Mapping[str, float]) -> str:
    return f"{points(entry['low'])} to {points(entry['high'])}"


def difference(entry: Mapping[str, float]) -> str:
    """A paired difference with its interval, for a column in points."""
    return f"{points(entry['value'])} ({between(entry)})"


def in_points(entry: Mapping[str, float]) -> str:
    """A paired difference with its interval, for a sentence."""
    return f"{points(entry['value'])} points ({between(entry)})"


def two_samples(arm: Mapping[str, int], other: Mapping[str, int]) -> dict[str, float]:
    """The difference of two accuracies whose answers cannot be paired, with Newcombe's interval."""
    low, high = confint_proportions_2indep(arm["correct"], arm["n"], other["correct"], other["n"], method="newcomb")
    return {"value": arm["correct"] / arm["n"] - other["correct"] / other["n"], "low": low, "high": high}


def measure(entry: Mapping[str, float]) -> str:
    """An estimate with its interval, in as many places as it deserves."""
    size = abs(entry["estimate"])
    places = 3 if size < 1 else 2 if size < 10 else 1
    value, low, high = (f"{entry[name]:.{places}f}".replace("-", "−") for name in ("estimate", "low", "high"))
    return f"{value} [{low}, {high}]"


def quartiles(entry: Mapping[str, float]) -> str:
    return f"{entry['median']:.2f} ({entry['q1']:.2f}–{entry['q3']:.2f})"


def mean_of(entry: Mapping[str, Any], key: str, form: str) -> str:
    """The mean over seeds of a figure."""
    mean = entry.get(key, {}).get("mean")
    return "–" if mean is None else format(mean, form)


def still_to_run(said: Mapping[str, Any]) -> list[str]:
    """How many cells of a grid are open, by its report; nothing if none is."""
    open_cells = len(said["unfinished"])
    cells = open_cells + len(said["failed"]) + sum(len(arm["seeds"]) for arm in said["arms"].values())
    return ["", f"Cells still to run: {open_cells} of {cells}."] if open_cells else []
