"""Grids: which configurations are trained, and with which seeds; read from YAML.

    base: ablation                     # a configuration of `stepjepa train`, or a mapping: {config: NAME, option: …}
    axes:                              # every combination is an arm
      lbd: [0, 0.1, 1]
    arms:                              # further arms, one by one
      - {name: no isolation, isolation: none}
    seeds: [0, 1, 2]                   # of order, initialisation and built-in training problems; 3 is the same
    baseline: {lbd: 0}                 # each arm is set against itself with this changed; or an arm's name; or several
    question: does it help?            # stands at the head of the report, as does `note`

A cell is one configuration with one seed. The address that its record is kept under is a hash of what changes the
result, where that differs from the default, without options that others make idle (with λ = 0, all of the JEPA's).
Cells of several grids that ask for the same run have the same address, and in one folder are run once.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from stepjepa.models.checkpoint import BUILTIN
from stepjepa.records import UserError, option
from stepjepa.training.config import StepJEPAConfig, idle_options
from stepjepa.training.configurations import (
    did_you_mean,
    options_of,
    own_name,
    read_configuration,
    shipped,
    spellings,
    trainer_options,
)
from stepjepa.training.options import JEPAOptions, RunOptions
from stepjepa.training.splits import drawn_kinds

KEYS = ("base", "axes", "arms", "seeds", "baseline", "question", "note")
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


# -------- reading --------


def shipped_grids() -> list[str]:
    """Names of the grids inside the package."""
    return shipped("stepjepa.experiments", "grids")


def read_grid(name: str) -> Grid:
    """Read a grid file, or one of `shipped_grids`.

    Raises:
        UserError: names the file, the key and what is wrong.
    """
    is_shipped = name in shipped_grids()
    path = files("stepjepa.experiments") / "grids" / f"{name}.yaml" if is_shipped else Path(name)
    if not path.is_file():
        raise UserError(f"{name}: no such grid file, and not one of {', '.join(shipped_grids())}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{name}: not YAML: {error}") from error
    return _Reader(name).grid(name if is_shipped else Path(name).stem, content)


class _Reader:
    """Reads one grid file; keeps its name for messages."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.known = trainer_options() | options_of(CellOptions, JEPAOptions)

    def grid(self, name: str, content: Any) -> Grid:
        content = self.mapping("the file", content)
        for key in content:
            if key not in KEYS:
                raise self.error(str(key), f"unknown key{did_you_mean(key, KEYS)}; a grid has {', '.join(KEYS)}")
        base = self.base(content.get("base", {}))
        changes, explicit = self.product(content.get("axes", {})), self.explicit(content.get("arms", []))
        if twice := sorted(changes.keys() & explicit.keys()):
            raise self.error("arms", f"{twice[0]!r} is the name of an arm of the axes already; give it another")
        changes |= explicit
        if not changes:
            raise self.error("axes", "neither axes nor arms: there is nothing to run")
        grid = Grid(
            name=name,
            arms={arm: self.merged(base, change) for arm, change in changes.items()},
            seeds=self.seeds(content.get("seeds", [0])),
            baselines=self.baselines(content.get("baseline", []), list(changes)),
            question=str(content.get("question", "")).strip(),
            note=str(content.get("note", "")).strip(),
        )
        self.check(grid)
        return grid

    def error(self, key: str, message: str) -> UserError:
        return UserError(f"{self.file}: {key}: {message}")

    def mapping(self, key: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self.error(key, f"a mapping of option to value is needed, not a {type(value).__name__}")
        return value

    def base(self, value: Any) -> dict[str, Any]:
        """Options under every arm: the configuration named in `config`, and the grid's own over it."""
        own = {"config": value} if isinstance(value, str) else dict(self.mapping("base", value))
        options: dict[str, Any] = {}
        if "config" in own:
            options = self.configuration("base: config", str(own.pop("config")))
        return options | self.options("base", own)

    def configuration(self, key: str, name: str) -> dict[str, Any]:
        try:
            values = read_configuration(name, self.known)
        except UserError as error:
            raise self.error(key, str(error).removeprefix("--config ")) from error
        kept = {option: value for option, value in values.items() if option not in set_by_runner()}
        return self.options(f"{key} {name}", kept)

    def merged(self, base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
        """As `stepjepa train` would: under the built-in model lies its configuration."""
        options = {**base, **change}
        if options.get("model_name", BUILTIN) != BUILTIN:
            return options
        under = self.configuration("model_name", BUILTIN)
        if options.get("lora"):
            under.pop("learning_rate", None)  # it is that of training all weights
        return under | options

    def options(self, key: str, values: Mapping[str, Any]) -> dict[str, Any]:
        return dict(self.option(key, str(name), value) for name, value in values.items())

    def option(self, key: str, name: str, value: Any) -> tuple[str, Any]:
        """An option under its own name, with its value in its own type, so that 1, 1.0 and "1" are one cell."""
        known = own_name(name, self.known)
        place = f"{key}: {name}"
        if known == "seed":
            raise self.error(place, "give `seeds` at the top of the grid")
        if known in set_by_runner():
            raise self.error(place, "set by the runner; a grid cannot choose it")
        if known not in self.known:
            raise self.error(place, f"unknown option{did_you_mean(name, spellings(self.known))}")
        try:
            return known, self.known[known].read(value)
        except (ValueError, TypeError) as error:
            raise self.error(place, f"{value!r} cannot be used: {error}") from error

    def product(self, axes: Any) -> dict[str, dict[str, Any]]:
        """An arm for every combination of the axes' values."""
        columns: list[list[tuple[str, Any]]] = []
        for name, values in self.mapping("axes", axes).items():
            if not isinstance(values, list) or not values:
                raise self.error(f"axes: {name}", "a list of values is needed")
            columns.append([self.option("axes", str(name), value) for value in values])
        names = [column[0][0] for column in columns]
        if len(set(names)) < len(names):
            raise self.error("axes", f"{', '.join(names)}: an option and its alias are the same axis")
        arms = [dict(combination) for combination in itertools.product(*columns)] if columns else []
        return self.named("axes", [(None, arm) for arm in arms])

    def explicit(self, arms: Any) -> dict[str, dict[str, Any]]:
        if not isinstance(arms, list):
            raise self.error("arms", f"a list of mappings is needed, not a {type(arms).__name__}")
        named = []
        for number, arm in enumerate(arms, start=1):
            own = dict(self.mapping(f"arms: {number}", arm))
            name = own.pop("name", None)
            named.append((None if name is None else str(name), self.options(f"arms: {number}", own)))
        return self.named("arms", named)

    def named(self, key: str, arms: Sequence[tuple[str | None, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
        by_name: dict[str, dict[str, Any]] = {}
        for name, options in arms:
            name = name or ", ".join(f"{option}={_shown(value)}" for option, value in options.items()) or "base"
            if name in by_name:
                raise self.error(key, f"two arms are called {name!r}")
            by_name[name] = options
        return by_name

    def seeds(self, value: Any) -> list[int]:
        seeds = list(range(value)) if type(value) is int else value  # `True` is an int too, and no seed
        if (
            not isinstance(seeds, list)
            or not seeds
            or not all(type(seed) is int and seed >= 0 for seed in seeds)
            or len(set(seeds)) < len(seeds)
        ):
            raise self.error("seeds", f"{value!r}: how many, or a list of different whole numbers from 0 on")
        return seeds

    def baselines(self, value: Any, arms: Sequence[str]) -> list[str | dict[str, Any]]:
        baselines: list[str | dict[str, Any]] = []
        for baseline in value if isinstance(value, list) else [value]:
            if isinstance(baseline, dict):
                baselines.append(self.options("baseline", baseline))
            elif baseline in arms:
                baselines.append(baseline)
            else:
                raise self.error("baseline", f"{baseline!r} is not an arm; the arms are {', '.join(arms)}")
        return baselines

    def check(self, grid: Grid) -> None:
        """Refuse what the trainer would refuse, arm by arm, and baselines that match no arm."""
        for arm in grid.arms:
            try:
                options, _ = grid.cell(arm, grid.seeds[0]).configure(output_dir="unused")
            except (ValueError, TypeError, ImportError) as error:
                raise self.error(f"arm {arm}", str(error)) from error
            if not drawn_kinds(options) and not (options.eval_file and options.test_file):
                raise self.error(
                    f"arm {arm}",
                    "train_file is not the built-in problems, so it needs an eval_file to choose by (validation) and "
                    "a test_file for what is claimed",
                )
        for baseline in grid.baselines:
            if isinstance(baseline, dict) and all(
                grid.arm_like(options | baseline) is None for options in grid.arms.values()
            ):
                raise self.error("baseline", f"{baseline} matches no arm; the arms are {', '.join(grid.arms)}")


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
