"""Options as data: what the fields of a dataclass say, for command lines, YAML files of options and grids alike.

Nothing here imports torch, so that `--help` and a mistyped option answer at once: the options of transformers'
`TrainingArguments` are read from its source, and so are choices that another module defines. A field's metadata has
`help`, and where they are needed `aliases` (option strings), `choices` (values, or "module.NAME" of a table in this
package), `metavar`, `group` (its heading in the help), `positional`, `hidden`, `const`, and
`least` (the smallest number).
"""

from __future__ import annotations

import ast
import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from stepjepa.records import UserError, read_yaml


def boolean(text: str) -> bool:
    """The words for yes and no that transformers takes.

    Raises:
        ValueError: another word.
    """
    word = text.lower()
    if word in ("yes", "true", "t", "y", "1"):
        return True
    if word in ("no", "false", "f", "n", "0"):
        return False
    raise ValueError(f"{text!r} is neither true nor false")


LARGEST = 2**32
"""Seeds are smaller, and so is whatever is counted here."""


KINDS: dict[str, Callable[[str], Any]] = {"bool": boolean, "int": int, "float": float, "Path": Path}
"""By the name in an annotation such as `int | None`; anything else is text."""


@dataclass(frozen=True)
class Option:
    """One option: its name, the type of its value or values, and what it is for."""

    name: str
    kind: Callable[[str], Any] = str
    many: bool = False
    required: bool = False
    default: Any = None
    help: str = ""
    choices: tuple[Any, ...] = ()
    aliases: tuple[str, ...] = ()
    metavar: str | None = None
    group: str | None = None
    positional: bool = False
    hidden: bool = False
    const: Any = None
    """What the option without a value means; None: it needs one."""
    least: float | None = None
    """The smallest number that it may be."""
    annotation: str = ""
    """Its type, as the dataclass has it."""

    def read(self, value: Any) -> Any:
        """A value of YAML in the type that the command line would have given it.

        Nothing, a mapping, and a list for what is else a text stay as they are, where the option's type has them.

        Raises:
            ValueError: it cannot be read so, or is not one of the choices.
        """
        if value is None and "None" not in self.annotation:
            raise ValueError("there is no value behind it; give one, or leave the option out")
        if isinstance(value, dict) and "dict" not in self.annotation:
            raise ValueError("a value is needed, not a mapping")
        if value is None or isinstance(value, dict):
            return value
        if self.many and isinstance(value, list) and None in value:
            raise ValueError("there is no value behind one entry of the list")
        if self.many:
            return [self._read_one(entry) for entry in (value if isinstance(value, list) else [value])]
        if isinstance(value, list) and "list" in self.annotation:
            return value
        if isinstance(value, list):
            raise ValueError("a single value is needed, not a list")
        return self._read_one(value)

    def _read_one(self, value: Any) -> Any:
        typed = self.kind(str(value))
        self.check(typed)
        if self.choices and typed not in self.choices:
            raise ValueError(f"choose one of {', '.join(map(str, self.choices))}")
        return typed

    def check(self, value: Any) -> None:
        """Refuse NaN and infinity, which Python reads as numbers and no option means, and numbers out of range.

        Raises:
            ValueError: the value, or one of a list, is such.
        """
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, float) and not math.isfinite(one):
                raise ValueError(f"{one} is not a finite number")
            if isinstance(one, int) and abs(one) >= LARGEST:
                raise ValueError(f"{one} is out of range")
            if self.least is not None and isinstance(one, int | float) and one < self.least:
                raise ValueError(f"{one} is less than {self.least:g}")


def options_of(*described: Any) -> dict[str, Option]:
    """The options that dataclasses describe, by name; an instance of one gives the defaults."""
    return {field.name: _of_field(field, each) for each in described for field in fields(each) if field.init}


def _of_field(field: Field[Any], described: Any) -> Option:
    about = field.metadata
    default = field.default_factory() if field.default_factory is not MISSING else field.default
    if not isinstance(described, type):
        default = getattr(described, field.name)
    choices = about.get("choices", ())
    annotation = field.type.__name__ if isinstance(field.type, type) else str(field.type)
    kind, many = _type(annotation)
    return Option(
        field.name,
        kind,
        many,
        required=default is MISSING,
        default=None if default is MISSING else default,
        help=about.get("help", ""),
        choices=names(choices) if isinstance(choices, str) else tuple(choices),
        aliases=tuple(about.get("aliases", ())),
        annotation=annotation,
        **{
            name: about[name]
            for name in ("metavar", "group", "positional", "hidden", "const", "least")
            if name in about
        },
    )


def _type(annotation: str) -> tuple[Callable[[str], Any], bool]:
    """`int | None` → (int, False); `list[str]` → (str, True); of a union with text, the other member counts."""
    members = [member for member in annotation.split(" | ") if member != "None"]
    kind = next((member for member in members if member not in ("str", "list[str]")), members[0])
    if kind.startswith(("list[", "Sequence[")):
        return KINDS.get(kind.partition("[")[2].rstrip("]"), str), True
    return KINDS.get(kind, str), False


@cache
def trainer_options() -> dict[str, Option]:
    """The options of transformers' `TrainingArguments`, by name, read from its source."""
    package = find_spec("transformers")
    assert package is not None
    assert package.origin is not None
    classes: dict[str, ast.ClassDef] = {}
    for file in ("debug_utils.py", "trainer_utils.py", "training_args.py"):
        tree = ast.parse(Path(package.origin).with_name(file).read_text(encoding="utf-8"))
        classes |= {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    found = {}
    for node in classes["TrainingArguments"].body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            parts = {part.arg: part.value for part in getattr(node.value, "keywords", ())}
            about = _metadata(parts.get("metadata"))
            annotation = ast.unparse(node.annotation)
            kind, many = _type(annotation)
            enums = [classes[word] for word in re.findall(r"\w+", annotation) if word in classes]  # IntervalStrategy
            values = (_literal(line.value) for enum in enums for line in enum.body if isinstance(line, ast.Assign))
            found[node.target.id] = Option(
                node.target.id,
                kind,
                many,
                default=_literal(parts.get("default", node.value)),
                help=about.get("help") or "",
                choices=tuple(about.get("choices") or values),
                annotation=annotation,
            )
    return found


def _metadata(node: ast.expr | None) -> dict[str, Any]:
    """What of a field's metadata is written out."""
    entries = zip(node.keys, node.values, strict=True) if isinstance(node, ast.Dict) else ()
    return {_literal(key): _literal(value) for key, value in entries}


def _literal(node: ast.expr | None) -> Any:
    try:
        return None if node is None else ast.literal_eval(node)
    except ValueError:  # computed when the class is made
        return None


@cache
def names(table: str) -> tuple[str, ...]:
    """The names in a tuple, or the keys of a mapping, of a module of this package, read from its source.

    >>> names("jepa.controls.TARGETS")
    ('step', 'shuffled', 'random')
    """
    module, _, name = table.rpartition(".")
    path = Path(__file__).parents[1].joinpath(*module.split(".")).with_suffix(".py")
    assigned: dict[str, ast.expr] = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("stepjepa."):
            origin = str(node.module).removeprefix("stepjepa.")
            assigned |= {each.name: ast.Constant(f"{origin}.{each.name}") for each in node.names}
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and getattr(node, "value", None) is not None:
            assigned[target.id] = node.value  # type: ignore[attr-defined]
    return tuple(_names(assigned[name], assigned))


def _names(node: ast.expr | None, assigned: dict[str, ast.expr]) -> Iterable[str]:
    """Names written out in a tuple, a mapping, a comprehension over one of them, or a union of such mappings."""
    if isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            yield from [ast.literal_eval(key)] if key is not None else _names(value, assigned)
    elif isinstance(node, ast.DictComp):
        yield from _names(node.generators[0].iter, assigned)
    elif isinstance(node, ast.BinOp):
        yield from (*_names(node.left, assigned), *_names(node.right, assigned))
    elif isinstance(node, ast.Name):
        yield from _names(assigned[node.id], assigned)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):  # a table of another module
        yield from names(node.value)
    elif node is not None:
        yield from ast.literal_eval(node)


def did_you_mean(word: Any, known: Iterable[str]) -> str:
    """`; did you mean 'lambda'?`, or nothing where no known name is near."""
    near = difflib.get_close_matches(str(word), list(known), n=1)
    if not near:
        return ""
    return f"; did you mean {near[0]}?" if near[0].startswith("--") else f"; did you mean {near[0]!r}?"


# -------- YAML --------


def shipped(package: str, folder: str) -> list[str]:
    """Names of the YAML files in a folder of the package."""
    entries = (files(package) / folder).iterdir()
    return sorted(entry.name.removesuffix(".yaml") for entry in entries if entry.name.endswith(".yaml"))


def named_configurations() -> list[str]:
    """Names of the configurations inside the package."""
    return shipped("stepjepa.training", "configs")


def spellings(known: Mapping[str, Option]) -> list[str]:
    """The names and aliases of options, without dashes."""
    return [*known, *(alias.lstrip("-") for option in known.values() for alias in option.aliases)]


def own_name(name: Any, known: Mapping[str, Option]) -> Any:
    """The name of an option that may be given by an alias, such as `lambda`."""
    return next((option.name for option in known.values() if f"--{name}" in option.aliases), name)


def read_configuration(name: str, known: Mapping[str, Option]) -> dict[str, Any]:
    """Options from a named configuration or a YAML file, by their own names.

    Args:
        name: one of `named_configurations`, or a path.
        known: the options that it may give.

    Raises:
        UserError: names the file and what is wrong in it.
    """
    path = files("stepjepa.training") / "configs" / f"{name}.yaml" if name in named_configurations() else Path(name)
    if not path.is_file():
        raise UserError(f"--config {name}: no such file, and not one of {', '.join(named_configurations())}")
    values = read_yaml(path, f"--config {name}") or {}
    if not isinstance(values, dict):
        raise UserError(f"--config {name}: a mapping of option to value is needed, not a {type(values).__name__}")
    given = [own_name(key, known) for key in values]
    if twice := [key for key in given if given.count(key) > 1]:
        raise UserError(f"--config {name}: {twice[0]} is given twice, under two of its names; leave one out")
    values = dict(zip(given, values.values(), strict=True))
    for key, value in values.items():
        if key not in known:
            raise UserError(f"--config {name}: unknown option {key!r}{did_you_mean(key, spellings(known))}")
        option = known[key]
        if option.choices and value not in (None, *option.choices):
            raise UserError(f"--config {name}: {key}: {value!r} is not one of {', '.join(map(str, option.choices))}")
        try:
            values[key] = option.read(value)
        except ValueError as error:
            raise UserError(f"--config {name}: {key}: {error}") from error
    return values
