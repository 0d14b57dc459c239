"""What the report of a grid warns of: gaps, versions and machines, runs that diverged, files that changed meanwhile."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from stepjepa.experiments.grid import Grid
from stepjepa.training.identity import SHOWN_ONLY

Records = dict[int, dict[str, Any]]
"""Finished records of an arm, by seed."""

DIGESTS_FOLLOW_FROM = {
    "training rows": (*SHOWN_ONLY, "train_examples", "max_length", "predictors"),
    "model weights": ("model_name", "revision"),
}
"""The options that decide what each digest of a record is of, as long as no file changes."""


def environments(arms: Mapping[str, Records]) -> list[dict[str, Any]]:
    """The different environments of the records, and how many records are of each."""
    of_records = {record["address"]: record["environment"]["git"] for own in arms.values() for record in own.values()}
    counts = Counter(
        "no commit" if git is None else f"{git['commit']}{' with changes' if git['dirty'] else ''}"
        for git in of_records.values()
    )
    return [{"git": git, "records": count} for git, count in counts.most_common()]


def warnings_of(
    grid: Grid, arms: Mapping[str, Records], unfinished: Sequence[Mapping], failed: Sequence[Mapping]
) -> list[str]:
    """What limits a report: missing and failed cells, few seeds, other versions or machines, divergence, other data."""
    warnings = []
    total = len(grid.cells)
    missing, broken = (len({cell["address"] for cell in cells}) for cells in (unfinished, failed))
    if missing:
        warnings.append(f"{missing} of {total} cells have not been run to the end; what is said is provisional")
    if broken:
        warnings.append(f"{broken} of {total} cells have failed and are in no figure: see below")
    single = [name for name, own in arms.items() if len(own) == 1]
    if single:
        which = "one seed an arm" if len(single) == len(arms) else f"one seed of {', '.join(single)}"
        warnings.append(f"{which}: intervals cover the choice of questions, not the training seed")
    versions = environments(arms)
    if len(versions) > 1 or "with changes" in versions[0]["git"]:
        warnings.append("the records are of " + ", ".join(f"{one['git']} ({one['records']})" for one in versions))
    machines = {str(record["environment"]["hardware"]) for records in arms.values() for record in records.values()}
    if len(machines) > 1:
        warnings.append(f"the records come from {len(machines)} kinds of hardware; rounding may differ between them")
    for name, records in arms.items():
        diverged = [seed for seed, record in records.items() if record["validation"]["lm_loss"] is None]
        if diverged:
            warnings.append(
                f"{name}: training diverged with seed {', '.join(map(str, diverged))}; its accuracy counts, its losses "
                "and representations are not numbers"
            )
    return warnings + _changed_between(arms)


def _changed_between(arms: Mapping[str, Records]) -> list[str]:
    """Which cells name the same data or the same model, and were trained with different ones.

    Records that were written before digests were have none, and are not compared.
    """
    warnings = []
    for what, options in DIGESTS_FOLLOW_FROM.items():
        groups: dict[str, dict[str, dict[str, list[str]]]] = {}
        for name, records in arms.items():
            for seed, record in records.items():
                if (digest := record.get("digests", {}).get(what)) is not None:
                    named = json.dumps([record["cell"].get(option) for option in options])
                    groups.setdefault(named, {}).setdefault(digest, {}).setdefault(name, []).append(str(seed))
        for group in groups.values():
            if len(group) > 1:
                of_each = [
                    ", ".join(f"{name} with seed {', '.join(seeds)}" for name, seeds in cells.items())
                    for cells in group.values()
                ]
                warnings.append(
                    f"{what} differ under the same names, as files have changed: some in {'; others in '.join(of_each)}"
                )
    return warnings
