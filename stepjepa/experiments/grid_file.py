"""A YAML file → a grid.

base: ablation                     # a configuration of `stepjepa train`, or a mapping: {config: NAME, option: …}
axes:                              # every combination is an arm
  lbd: [0, 0.1, 1]
arms:                              # further arms, one by one
  - {name: no isolation, isolation: none}
seeds: [0, 1, 2]                   # of order, initialisation and built-in training problems; 3 is the same
baseline: {lbd: 0}                 # each arm is set against itself with this changed; or an arm's name; or several
question: does it help?            # stands at the head of the report, as does `note`
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from stepjepa.experiments.grid import CellOptions, Grid, set_by_runner
from stepjepa.models.checkpoint import BUILTIN
from stepjepa.records import UserError, read_yaml
from stepjepa.training.configurations import (
    did_you_mean,
    options_of,
    own_name,
    read_configuration,
    shipped,
    spellings,
    trainer_options,
)
from stepjepa.training.options import JEPAOptions
from stepjepa.training.splits import drawn_kinds

KEYS = ("base", "axes", "arms", "seeds", "baseline", "question", "note")


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
    content = read_yaml(path, name)
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
        given = [self.option(key, str(name), value) for name, value in values.items()]
        for name, count in Counter(name for name, _ in given).items():
            if count > 1:
                raise self.error(f"{key}: {name}", "given twice, under two of its names; leave one out")
        return dict(given)

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
        """Refuse what the trainer would refuse, arm by arm, arms that no report could compare, baselines of no arm."""
        measured: dict[str, tuple[str, Any]] = {}
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
            for given, count in (("eval_file", "eval_problems"), ("test_file", "accuracy_problems")):
                own = (tuple(getattr(options, given) or drawn_kinds(options)), getattr(options, count))
                if own[1] < 1:
                    raise self.error(f"arm {arm}", f"{count} has to be at least 1: the report compares answers")
                first, others = measured.setdefault(given, (arm, own))
                if own != others:
                    raise self.error(
                        f"arm {arm}",
                        f"measured on other questions than arm {first}, so no report could compare them "
                        f"({_questions(own)}; {_questions(others)}): give all arms the same {given} and {count}",
                    )
        for baseline in grid.baselines:
            if isinstance(baseline, dict) and all(
                grid.arm_like(options | baseline) is None for options in grid.arms.values()
            ):
                raise self.error("baseline", f"{baseline} matches no arm; the arms are {', '.join(grid.arms)}")


def _questions(measured: tuple[Sequence[str], int]) -> str:
    return f"{measured[1]:,} of {', '.join(measured[0])}"


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
