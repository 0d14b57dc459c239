"""Options of a run from a YAML file: one of the named configurations inside the package, or the user's own."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from stepjepa.records import UserError

ALIASES = {
    "lambda": "lbd",
    "batch_size": "per_device_train_batch_size",
    "grad_accum": "gradient_accumulation_steps",
    "num_epochs": "num_train_epochs",
}
"""Names of the original scripts that a configuration file may use."""


def named_configurations() -> list[str]:
    """Names of the configurations inside the package."""
    folder = files("stepjepa.training") / "configs"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def read_configuration(name: str, known: Mapping[str, Collection[Any]]) -> dict[str, Any]:
    """Options from a named configuration or a YAML file.

    Args:
        name: one of `named_configurations`, or a path.
        known: the options and the choices of each, none where anything goes.

    Raises:
        UserError: names the file and what is wrong in it.
    """
    shipped = name in named_configurations()
    path = files("stepjepa.training") / "configs" / f"{name}.yaml" if shipped else Path(name)
    if not path.is_file():
        raise UserError(f"--config {name}: no such file, and not one of {', '.join(named_configurations())}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise UserError(f"--config {name}: not YAML: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"--config {name}: a mapping of option to value is needed, not a {type(values).__name__}")
    values = {ALIASES.get(key, key): value for key, value in values.items()}
    for key, value in values.items():
        choices = known.get(key, ())
        if choices and value not in (None, *choices):
            raise UserError(f"--config {name}: {key}: {value!r} is not one of {', '.join(map(str, choices))}")
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            raise UserError(
                f"--config {name}: unknown option {key!r}" + (f"; did you mean {near[0]!r}?" if near else "")
            )
    for key in ("train_file", "eval_file"):
        if key in values and not isinstance(values[key], list):
            values[key] = [str(values[key])]
    return values
