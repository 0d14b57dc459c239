"""Result files → arms: which files are seeds of one arm, whether they are comparable, and in which order seeds pair up.

An arm is a way of training (or not training) a model; its runs differ by training seed alone. `NAME=FILE` says to which
arm a file belongs; a bare `FILE` belongs to the arm of its own name. All files must hold the same questions. Other
settings of the evaluation that differ do not forbid a comparison, but the report warns of them.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepjepa.evaluation.results import Results, read_results
from stepjepa.records import UserError

METRICS = ("correct", "strict_correct", "flexible_correct")
SAME_ARM = ("seed", "problem_seed")
"""Training settings that do not make another arm; a grid draws the built-in training problems by the same seed."""
SUMMARY = ("configuration", "generation", "test_files", "environment")
"""What is read of a summary, besides `training`."""
GENERATION = ("max_new_tokens", "samples", "temperature", "top_p", "dtype")
READERS = ("stepjepa", "math-verify")
"""Packages that read the answers."""


@dataclass
class Run:
    """One result file: one trained model, one training seed."""

    path: Path
    arm: str
    named: bool
    """Whether the arm was given, as NAME=FILE."""
    results: Results
    seed: int | None
    """Training seed; None if the model has no training record."""
    settings: dict[str, Any]
    """Of its training; empty for a model without training record."""
    digest: str
    """SHA-256 of the rows."""


@dataclass
class Arm:
    """Runs that differ by training seed alone, seeds in the order in which they pair up with other arms'."""

    name: str
    runs: list[Run]

    @property
    def fixed(self) -> bool:
        """A single model that no training seed has made: it stands beside every seed of the other arms."""
        return len(self.runs) == 1 and self.runs[0].seed is None

    def correct(self, metric: str, ids: Sequence[str]) -> NDArray[np.bool_]:
        """Correctness `[S, Q]` of the runs on these questions.

        Raises:
            UserError: a row does not say whether it is correct by this metric.
        """
        table = []
        for run in self.runs:
            verdicts = {row["id"]: row.get(metric) for row in run.results.rows}
            silent = next((name for name in ids if not isinstance(verdicts[name], bool)), None)
            if silent is not None:
                raise UserError(f"{run.path}: question {silent} has no {metric}: true or false; --metric takes another")
            table.append([verdicts[name] for name in ids])
        return np.array(table, dtype=bool)


def split_word(word: str) -> tuple[str | None, Path]:
    """Name and file of `NAME=FILE` or `FILE`; both may hold further `=`, as in `runs/lbd=0.1.jsonl`."""
    cuts = [place for place, letter in enumerate(word) if letter == "=" and os.sep not in word[:place]]
    if Path(word).is_file() or not cuts:
        return None, Path(word)
    cut = next((place for place in cuts if Path(word[place + 1 :]).is_file()), cuts[0])
    return word[:cut], Path(word[cut + 1 :])


def read_run(word: str) -> Run:
    """The run that `FILE` or `NAME=FILE` stands for.

    Raises:
        UserError: see `read_results`; or the summary is not one of `stepjepa evaluate`.
    """
    name, path = split_word(word)
    results = read_results(path)
    missing = [part for part in SUMMARY if part not in results.summary]
    if missing:
        raise UserError(f"{path}: its summary lacks {', '.join(missing)}; evaluate again")
    if not _is_whole(results.summary):
        raise UserError(f"{path}: its summary is not one of `stepjepa evaluate`; evaluate again")
    settings = results.summary.get("training") or {}
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Run(path, name or path.stem, name is not None, results, settings.get("seed"), settings, digest)


def _is_whole(summary: Mapping[str, Any]) -> bool:
    """Whether the parts of a summary hold what a comparison reads of them."""
    configuration, environment = summary["configuration"], summary["environment"]
    parts = (configuration, summary["generation"], environment, summary.get("training") or {})
    if not all(isinstance(part, Mapping) for part in parts):
        return False
    files = summary["test_files"]
    return (
        {*GENERATION, "system_prompt"} <= set(configuration)
        and "system_prompt" in summary["generation"]
        and isinstance(environment.get("packages"), Mapping)
        and isinstance(files, list)
        and all(isinstance(file, Mapping) and "sha256" in file for file in files)
    )


def evaluation_settings(summary: Mapping[str, Any]) -> dict[str, Any]:
    """How the answers were generated and read: what should be the same for all files of a comparison."""
    configuration, packages = summary["configuration"], summary["environment"]["packages"]
    own = configuration["system_prompt"] == "file"
    return {
        **{name: configuration[name] for name in GENERATION},
        "bf16": configuration.get("bf16", False),  # older files say nothing of it
        "system prompt": "that of each test row" if own else summary["generation"]["system_prompt"],
        "test files (SHA-256)": [file["sha256"] for file in summary["test_files"]],
        **{f"version of {name}": packages.get(name) for name in READERS},
    }


def check_questions(runs: Sequence[Run]) -> list[str]:
    """Names of the questions, in the order of the first file.

    Raises:
        UserError: two files hold different questions.
    """
    first = runs[0]
    here = {row["id"]: row["question"] for row in first.results.rows}
    for run in runs[1:]:
        there = {row["id"]: row["question"] for row in run.results.rows}
        if here.keys() == there.keys():
            continue
        only_here, only_there = ([n for n in a if n not in b] for a, b in ((here, there), (there, here)))
        example = here[only_here[0]] if only_here else there[only_there[0]]
        raise UserError(
            f"{first.path} and {run.path} hold different questions: {len(only_here):,} of {len(here):,} in the first "
            f"are not in the second, {len(only_there):,} of {len(there):,} in the second are not in the first; for "
            f"example {_shortened(example)!r}. Evaluate both on the same test files"
        )
    return list(here)


def group(runs: Sequence[Run]) -> list[Arm]:
    """Arms in the order of their first file.

    Raises:
        UserError: fewer than two arms, or a seed or a file twice in one.
    """
    arms: dict[str, Arm] = {}
    for run in runs:
        arms.setdefault(run.arm, Arm(run.arm, [])).runs.append(run)
    for arm in arms.values():
        _check_distinct(arm)
    if len(arms) < 2:
        raise UserError(f"one arm only ({runs[0].arm}); add the files of another arm, with another NAME=FILE")
    return list(arms.values())


def pair_seeds(arms: Sequence[Arm]) -> str:
    """Bring the runs of all arms into a common order of seeds; returns how they pair up, in words.

    By training seed if all arms have the same ones. If no seed is known, or none is shared, by the order given: runs
    that have nothing in common may be paired in any order.

    Raises:
        UserError: the arms have different numbers of runs, or share some of their seeds only.
    """
    trained = [arm for arm in arms if not arm.fixed]
    if max(len(arm.runs) for arm in arms) == 1:
        seeds = {run.seed for arm in trained for run in arm.runs}
        return "one run an arm" + (", of different training seeds" if len(seeds) > 1 else "")
    sets = [{run.seed for run in arm.runs} for arm in trained]
    known = not any(None in seeds for seeds in sets)
    shared = any(a & b for a, b in itertools.combinations(sets, 2)) if known else False
    equal = known and all(seeds == sets[0] for seeds in sets)
    if len({len(arm.runs) for arm in trained}) > 1 or (shared and not equal):
        listed = "; ".join(f"{arm.name}: {_seeds_of(arm)}" for arm in trained)
        raise UserError(
            f"the arms have different training seeds ({listed}). Give the same seeds for every arm: a seed that one "
            "arm lacks would count for the other alone"
        )
    if equal:
        for arm in trained:
            arm.runs.sort(key=lambda run: run.seed)  # type: ignore[arg-type,return-value]
        return "runs paired by training seed"
    return "runs paired in the order given: " + (
        "no training seed is shared" if known else "not all training seeds are known"
    )


def unlike_evaluations(arms: Sequence[Arm]) -> list[str]:
    """A warning for each setting of the evaluation in which the files differ, with the arms that have each value."""
    settings = [(arm.name, evaluation_settings(run.results.summary)) for arm in arms for run in arm.runs]
    warnings = []
    for name in _differing([values for _, values in settings]):
        having: dict[str, dict[str, None]] = {}
        for arm, values in settings:
            having.setdefault(str(values.get(name)), {})[arm] = None
        told = _told_apart(list(having))
        listed = "; ".join(
            f"{value} for {', '.join(names)}" for value, names in zip(told, having.values(), strict=True)
        )
        warnings.append(f"the files were not evaluated alike: {name}: {listed}")
    return warnings


def arm_settings(arms: Sequence[Arm]) -> dict[str, dict[str, Any]]:
    """For every arm, by name, the training settings that are not the same in all arms; paths by their last part."""
    runs = [run for arm in arms for run in arm.runs if run.settings]
    names = _differing([run.settings for run in runs])
    return {arm.name: {n: _value(arm.runs[0].settings[n]) for n in names if n in arm.runs[0].settings} for arm in arms}


def mixed_arms(arms: Iterable[Arm]) -> list[str]:
    """A warning for each arm whose runs differ in more than the training seed."""
    mixed = {arm.name: _differing([run.settings for run in arm.runs]) for arm in arms}
    return [
        f"the runs of {name} differ in more than the training seed: {', '.join(settings)}"
        for name, settings in mixed.items()
        if settings
    ]


def _check_distinct(arm: Arm) -> None:
    for first, second in itertools.combinations(arm.runs, 2):
        twice = (
            f"the training seed {first.seed}"
            if first.seed is not None and first.seed == second.seed
            else "the same answers"
            if first.digest == second.digest
            else "no training seed"
            if first.seed is None and not (first.named and second.named)
            else None
        )
        if twice:
            raise UserError(
                f"{first.path} and {second.path} are both of arm {arm.name} and have {twice}: seeds of an arm are runs "
                "of different training seeds. Leave one out, or tell them apart with NAME=FILE"
            )


def _differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the settings that are not the same everywhere, seeds of the training aside."""
    names = dict.fromkeys(name for values in settings for name in values if name not in SAME_ARM)
    return [name for name in names if any(values.get(name) != settings[0].get(name) for values in settings)]


def _seeds_of(arm: Arm) -> str:
    known = [run.seed for run in arm.runs if run.seed is not None]
    return ", ".join(map(str, sorted(known))) if len(known) == len(arm.runs) else f"{len(arm.runs)} files, unknown"


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return "+".join(Path(str(path)).name for path in value) if isinstance(value, list) else Path(str(value)).name


def _told_apart(texts: list[str]) -> list[str]:
    """Texts shortened to where they still differ."""
    columns = zip(*texts, strict=False)
    common = sum(1 for _ in itertools.takewhile(lambda column: len(set(column)) == 1, columns))
    return [_shortened(text if common < 40 else f"…{text[common - 20 :]}") for text in texts]


def _shortened(text: str, width: int = 80) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
