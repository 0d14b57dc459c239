"""Cells of a grid: one configuration with one seed each, and the address that its record is kept under.

The address is a hash of the configuration: of what changes the result, where that differs from the default, without
options that others make idle (with λ = 0, all of the JEPA's). Cells of several grids that ask for the same run have
the same address, and in one folder are run once. `grid_file.py` reads grids.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from typing import Any

from stepjepa.training.config import StepJEPAConfig
from stepjepa.training.run import RunOptions

SET_BY_RUNNER = (
    "output_dir",
    "resume_from_checkpoint",
    "merge_lora",
    "run_name",
    "project",
    "report_to",
    "disable_tqdm",
    "debug",
    "log_level",
    "log_level_replica",
    "log_on_each_node",
    "logging_strategy",
    "logging_steps",
    "logging_first_step",
    "logging_nan_inf_filter",
    "eval_strategy",
    "eval_steps",
    "eval_delay",
    "eval_on_start",
    "save_strategy",
    "save_steps",
    "save_total_limit",
    "save_only_model",
    "save_on_each_node",
    "load_best_model_at_end",
    "metric_for_best_model",
    "greater_is_better",
    "push_to_hub",
    "hub_token",
    "hub_private_repo",
    "hub_model_id",
    "hub_strategy",
    "hub_always_push",
    "hub_revision",
    "do_train",
    "do_eval",
    "do_predict",
    "local_rank",
    "seed",
)
"""Options that a grid may not name: where things are written, what is logged and saved, and the seed."""
JEPA_ONLY = (
    "jepa_loss_type",
    "pairs",
    "horizon",
    "isolation",
    "target",
    "target_gradient",
    "temperature",
    "jepa_ratio",
    "jepa_ratio_rescale",
)
"""Options without effect on a model trained with λ = 0. `predictors` has one: it adds rows to the embedding."""
DIGITS = 12  # of an address: 48 bits, so that even a million cells collide with a chance of 0.2%


@dataclass
class CellOptions(RunOptions):
    """`RunOptions`, with what a grid needs besides: a test split of its own, and training sets of several sizes.

    `eval_problems` (of `eval_file`) is the validation split, `accuracy_problems` (of `test_file`) the test split.
    """

    test_file: list[str] = field(
        default_factory=list, metadata={"help": "Test data; built-in problems have their own."}
    )
    train_examples: int | None = field(
        default=None, metadata={"help": "Train on this many examples, drawn by problem_seed; fewer are a part of more."}
    )


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
        """The configuration of the run; `runner`: options of `SET_BY_RUNNER`.

        Raises:
            ValueError, TypeError: a value that `StepJEPAConfig` refuses.
        """
        own = {each.name for each in fields(CellOptions)}
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
        found: dict[str, Cell] = {}
        for seed in self.seeds:
            for arm in self.arms:
                cell = self.cell(arm, seed)
                found.setdefault(cell.address, cell)
        return list(found.values())

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
def defaults() -> dict[str, Any]:
    """Default of every option of a cell."""
    found = {}
    for each in (*fields(CellOptions), *fields(StepJEPAConfig)):
        if each.init:
            found[each.name] = each.default_factory() if each.default_factory is not MISSING else each.default
    return found


def canonical(options: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """What of an arm's options decides the result of one seed: see the module's idea.

    The seed is also that of the training problems (`problem_seed`), unless the options give one.
    """
    full = defaults() | {"problem_seed": seed} | dict(options) | {"seed": seed}
    idle = {*SET_BY_RUNNER, "collapse_threshold"} - {"seed"}
    if full["lbd"] == 0:
        idle.update(JEPA_ONLY)
    if full["pairs"] != "horizon":
        idle.add("horizon")
    if full["jepa_loss_type"] != "infonce":
        idle.add("temperature")
    if full["jepa_ratio"] == 1:
        idle.add("jepa_ratio_rescale")
    if full["target"] == "random":
        idle.add("target_gradient")
    if not full["lora"]:
        idle.update(("lora_rank", "lora_alpha", "lora_dropout"))
    if full["max_steps"] > 0:
        idle.add("num_train_epochs")
    return {
        name: value
        for name, value in sorted(full.items())
        if name not in idle and (name in ("seed", "problem_seed") or value != defaults()[name])
    }
