"""Options of a run from a YAML file: one of the named configurations inside the package, or the user's own."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import fields
from enum import Enum
from importlib.resources import files
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

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
            raise UserError(f"--config {name}: unknown option {key!r}{did_you_mean(key, known)}")
    for key in ("train_file", "eval_file"):
        if key in values and not isinstance(values[key], list):
            values[key] = [str(values[key])]
    return values


def did_you_mean(word: Any, known: Iterable[str]) -> str:
    """`; did you mean 'lbd'?`, or nothing if nothing known is near."""
    near = difflib.get_close_matches(str(word), known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


class OptionType(NamedTuple):
    """How a value of an option is read from text."""

    kind: Callable[[str], Any]
    choices: tuple[Any, ...] = ()
    """What alone may be given; empty where anything goes."""
    many: bool = False
    """Whether it takes a list."""


def option_types(*classes: type) -> dict[str, OptionType]:
    """The types of the options that are the fields of dataclasses, as their command line has them."""
    return {
        option.name: _option_type(hints[option.name], option.metadata.get("choices", ()))
        for own, hints in ((own, get_type_hints(own)) for own in classes)
        for option in fields(own)
        if option.init
    }


def _option_type(hint: Any, choices: Iterable[Any]) -> OptionType:
    if get_origin(hint) in (Union, UnionType):  # the command line reads one type: of `dict | str | None` text
        kinds = [kind for kind in get_args(hint) if kind not in (str, NoneType)]
        hint = kinds[0] if kinds and not {str, NoneType} <= {*get_args(hint)} else str
    if get_origin(hint) is list:
        return OptionType(get_args(hint)[0], many=True)
    if get_origin(hint) is Literal:
        return OptionType(str, get_args(hint))
    if isinstance(hint, type) and issubclass(hint, Enum):
        return OptionType(str, tuple(member.value for member in hint))
    return OptionType(_boolean if hint is bool else hint, tuple(choices))


def _boolean(text: str) -> bool:
    for value, words in ((True, ("true", "yes", "t", "y", "1")), (False, ("false", "no", "f", "n", "0"))):
        if text.lower() in words:
            return value
    raise ValueError("true or false is needed")


def typed(option: OptionType, value: Any) -> Any:
    """A value from YAML as the command line would have read it: `1`, `1.0` and `"1"` are one λ.

    Raises:
        ValueError, TypeError: it cannot be read so.
    """
    if value is None or isinstance(value, dict):
        return value
    if option.many:
        values = value if isinstance(value, list) else [value]
        return [typed(option._replace(many=False), one) for one in values]
    if isinstance(value, list):
        raise ValueError("a single value is needed, not a list")
    read = option.kind(str(value))
    if option.choices and read not in option.choices:
        raise ValueError(f"choose one of {', '.join(map(str, option.choices))}")
    return read
