"""What is in a report of `stepjepa ablate`, for its figures: arms and axes, figures by panel, what is missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stepjepa.jepa.metrics import METRICS
from stepjepa.visualization.comparison import SHADE
from stepjepa.visualization.style import BLUE, GREEN, ORANGE, PURPLE
from stepjepa.visualization.words import arm_in_words

Report = Mapping[str, Any]
Curve = tuple[str, str]
"""Name of a figure in the report, and its colour."""
PAIRS = {"first": (BLUE, "first pair of a problem"), "consecutive": (PURPLE, "all consecutive pairs")}
VIEWS = {"context": (ORANGE, "context view"), "target": (GREEN, "target view")}


def metric_panels() -> dict[str, list[Curve]]:
    """Title of each panel about a model and the figures in it: the LM loss, and the metrics that have a panel.

    Retrieval and pairs are shown of first and of all consecutive pairs, both views of first pairs only.
    """
    panels: dict[str, list[Curve]] = {"LM loss (nats)": [("lm_loss", SHADE)]}
    for name, metric in METRICS.items():
        if not metric.panel:
            continue
        if metric.of == "view":
            panels[metric.panel] = [(f"first_{name}_{view}", colour) for view, (colour, _) in VIEWS.items()]
            continue
        places = {"_all": " among all steps", "_own": " within the problem"} if metric.of == "ranks" else {"": ""}
        for where, words in places.items():
            curves = [(f"{pairs}_{name}{where}", colour) for pairs, (colour, _) in PAIRS.items()]
            panels[metric.panel + words] = curves
    return panels


def axis_values(arm: str) -> dict[str, str]:
    """What the name of an arm of a grid's axes says: `"problems=64, lbd=0"` → `{"problems": "64", "lbd": "0"}`."""
    return dict(part.split("=", 1) for part in arm.split(", ") if "=" in part)


def missing_cells(report: Report) -> list[str]:
    """What the figures of a report lack, in words: cells not run or failed, and runs that diverged."""
    lines = []
    for what, cells in (("not run to the end", report["unfinished"]), ("failed", report["failed"])):
        seeds: dict[str, list[int]] = {}
        for cell in cells:
            seeds.setdefault(cell["arm"], []).append(cell["seed"])
        alike: dict[tuple[int, ...], list[str]] = {}
        for arm, own in seeds.items():
            alike.setdefault(tuple(own), []).append(arm)
        for numbers, arms in alike.items():
            where = "; ".join(map(arm_in_words, arms)) if len(arms) < len(all_arms(report)) else "every arm"
            lines.append(f"{what}: seed{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))} of {where}")
    for arm, splits in report["arms"].items():
        count = len(splits["seeds"])
        if diverged := count - splits["validation"]["lm_loss"]["seeds"]:
            lines.append(f"diverged, only accuracy is known: {diverged} of {count} seeds of {arm_in_words(arm)}")
    return lines


def all_arms(report: Report) -> list[str]:
    """The arms of the grid; those without a finished record come last."""
    return list(dict.fromkeys([*report["arms"], *(cell["arm"] for cell in (*report["failed"], *report["unfinished"]))]))


def on_axis(report: Report, option: str) -> dict[str, float]:
    """Arms of the axis `option`, recorded or not, and their values on it.

    Raises:
        ValueError: the grid has no such axis.
    """
    values = {arm: axis_values(arm) for arm in all_arms(report)}
    places = {arm: float(own[option]) for arm, own in values.items() if option in own}
    if not places:
        raise ValueError(f"{option!r} is no axis of the grid {report['grid']}; its arms are {'; '.join(values)}.")
    return places


def measured(split: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """A figure of a split over the seeds; None where no seed has it, as after divergence."""
    summary = split.get(name)
    return None if summary is None or summary["mean"] is None else summary


def recorded(report: Report, places: Mapping[str, float]) -> list[str]:
    """The arms that have a record, in the order of their places."""
    return sorted((arm for arm in places if arm in report["arms"]), key=places.__getitem__)
