"""Grids: which configurations are trained, and with which seeds.

A cell is one configuration with one seed. The address that its record is kept under is a hash of what changes the
result, where that differs from the default, without options that others make idle (with λ = 0, all of the JEPA's).
Cells of several grids that ask for the same run have the same address, and in one folder are run once.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields
from functools import cache
from typing import Any

from stepjepa.records import option
from stepjepa.training.config import StepJEPAConfig, idle_options
from stepjepa.training.options import RunOptions

LEAST_DETECT = 30  # with fewer, some place has the step of a single problem, and nothing to compare it with
DIGITS = 12  # of an address: 48 bits, so that even a million cells collide with a chance of 0.2%


@dataclass
class CellOptions(RunOptions):
    """`RunOptions`, with what a grid needs besides: a test split of its own, and training sets of several sizes.

    `eval_problems` (of `eval_file`) is the validation split, `accuracy_problems` (of `test_file`) the test split.
    """

    test_file: list[str] = option([], "Test data; built-in problems have their own.")
    train_examples: int | None = option(
        None, "Train on this many examples, drawn by problem_seed; fewer are a part of more."
    )
    detect_problems: int = option(
        0,
        "Built-in test problems in which the trained model looks for planted wrong steps, as `stepjepa score --detect` "
        "does; 0: none.",
        least=0,
    )

    def __post_init__(self) -> None:
        if 0 < self.detect_problems < LEAST_DETECT:
            raise ValueError(f"detect_problems={self.detect_problems} must be 0 or at least {LEAST_DETECT}.")


@dataclass(frozen=True)
class Cell:
    """One configuration with one seed."""

    arm: str
    seed: int
    options: dict[str, Any]
    """What differs from the defaults and changes the result, by option; what the address is the hash of."""

    @property
    def address(self) -> str:
        text = json.dumps(self.options, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]

    @property
    def name(self) -> str:
        return f"{self.arm}, seed {self.seed}"

    def configure(self, **runner: Any) -> tuple[CellOptions, StepJEPAConfig]:
        """The configuration of the run; `runner`: options of `set_by_runner`.

        Raises:
            ValueError, TypeError: a value that `StepJEPAConfig` refuses.
        """
        own = {option.name for option in fields(CellOptions)}
        run = {name: value for name, value in self.options.items() if name in own}
        training = {name: value for name, value in self.options.items() if name not in own}
        return CellOptions(**run), StepJEPAConfig(**training, **runner)


@dataclass(frozen=True)
class Grid:
    """A read grid: its cells, seed by seed, so that an unfinished grid holds as many seeds of each arm as of others."""

    name: str
    arms: dict[str, dict[str, Any]]
    """Full options of each arm, by name."""
    seeds: list[int]
    baselines: list[str | dict[str, Any]]
    question: str
    note: str

    def cell(self, arm: str, seed: int) -> Cell:
        return Cell(arm, seed, canonical(self.arms[arm], seed))

    @property
    def cells(self) -> list[Cell]:
        """All cells, no address twice."""
        by_address: dict[str, Cell] = {}
        for seed, arm in itertools.product(self.seeds, self.arms):
            cell = self.cell(arm, seed)
            by_address.setdefault(cell.address, cell)
        return list(by_address.values())

    def comparisons(self) -> list[tuple[str, str]]:
        """Pairs of arm and baseline, none twice and none with itself, under whatever names: where options are idle, as
        those of the JEPA term at λ = 0, several arms are the same one."""
        pairs: dict[tuple[str, str], tuple[str, str]] = {}
        for baseline in self.baselines:
            for arm, options in self.arms.items():
                base = baseline if isinstance(baseline, str) else self.arm_like(options | baseline)
                if base is None:
                    continue
                one, other = self.cell(arm, 0).address, self.cell(base, 0).address
                if one != other:
                    pairs.setdefault((one, other), (arm, base))
        return list(pairs.values())

    def arm_like(self, options: Mapping[str, Any]) -> str | None:
        wanted = canonical(options, 0)
        return next((arm for arm, own in self.arms.items() if canonical(own, 0) == wanted), None)


@cache
def cell_fields() -> dict[str, Field[Any]]:
    """Every option of a cell, with default and metadata."""
    return {option.name: option for option in (*fields(CellOptions), *fields(StepJEPAConfig)) if option.init}


@cache
def defaults() -> dict[str, Any]:
    """Default of every option of a cell."""
    return {
        name: option.default if option.default_factory is MISSING else option.default_factory()
        for name, option in cell_fields().items()
    }


def set_by_runner() -> set[str]:
    """Options that a grid may not name: where things are written, what is logged and saved, and the seed."""
    return {name for name, option in cell_fields().items() if option.metadata.get("runner")}


def canonical(options: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """What of an arm's options decides the result of one seed.

    The seed is also that of the training problems (`problem_seed`), unless the options give one.
    """
    full = defaults() | {"problem_seed": seed} | dict(options) | {"seed": seed}
    idle = idle_options(full, cell_fields().values()) - {"seed"}
    return {
        name: value
        for name, value in sorted(full.items())
        if name not in idle and (name in ("seed", "problem_seed") or value != defaults()[name])
    }
