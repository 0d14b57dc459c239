"""The package described by its own docstrings and tables: rooms, modules, options, formats that are read."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from parts.cells import ROOT, table

from stepjepa.data.files import FILES
from stepjepa.data.formats import FORMATS
from stepjepa.data.origins import ORIGINS
from stepjepa.training.configurations import options_of
from stepjepa.training.options import JEPAOptions

PACKAGE = ROOT / "stepjepa"
ROOMS = (
    "records.py environment.py jepa data models evaluation training analysis experiments visualization commands".split()
)
"""The entries at the top of the package, in the order of the floors."""


def first_line(path: Path) -> str:
    """The first paragraph of a module's docstring on one line, without its full stop."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(docstring.split("\n\n")[0].split()).rstrip(".")


def rooms() -> list[str]:
    """The entries of the package with what each is for."""
    rows = []
    for room in ROOMS:
        path = PACKAGE / room
        name = room if path.is_file() else f"{room}/"
        rows.append([f"[`{name}`](stepjepa/{name})", first_line(path if path.is_file() else path / "__init__.py")])
    return table(["entry", "holds"], *rows)


def files() -> list[str]:
    """Every module of the package with its first line, room by room."""
    lines = []
    for room in ROOMS:
        path = PACKAGE / room
        if path.is_file():
            lines += [*item(path), ""]
        else:
            lines += [f"**{room}/**: {first_line(path / '__init__.py')}", ""]
            lines += [line for module in in_reading_order(path) for line in item(module)]
            lines += [""]
    return lines[:-1]


def formats() -> list[str]:
    """Everything that `prepare` reads."""
    return [
        *table(["a source is", "named as"], *([what, how] for what, how in ORIGINS.items())),
        "",
        *table(["a file is", "named as"], *([what, how] for what, how in FILES.items())),
        "",
        *table(
            ["`--format`", "rows", "known by"],
            *([f"`{name}`", kind.about, kind.fields] for name, kind in FORMATS.items()),
        ),
    ]


def options() -> list[str]:
    """What Step-JEPA adds to the options of transformers' `TrainingArguments`, one a row."""
    rows = [["option", "default", "choices", "what it is"]]
    for option in options_of(JEPAOptions).values():
        if option.help:
            names = [f"`--{option.name}`", *(f"`{alias}`" for alias in option.aliases)]
            default = "" if option.default in (None, []) else str(option.default)
            default = default.lower() if isinstance(option.default, bool) else default
            choices = ", ".join(f"`{choice}`" for choice in option.choices)
            rows.append([", ".join(names), default, choices, option.help])
    return table(*rows)


def named_modules(room: Path) -> list[str]:
    """The modules that the docstring of a room's `__init__` names, in its order."""
    docstring = ast.get_docstring(ast.parse((room / "__init__.py").read_text(encoding="utf-8"))) or ""
    # `masks.py` at the beginning of a line or in a sentence; not `jepa/metrics.py`
    return list(dict.fromkeys(re.findall(r"(?<![\w/])\w+\.py", docstring)))


def in_reading_order(room: Path) -> list[Path]:
    """The modules of a room as its docstring names them, then those that it does not name."""
    order = {name: number for number, name in enumerate(named_modules(room))}
    modules = sorted(path for path in room.glob("*.py") if path.name != "__init__.py")
    return sorted(modules, key=lambda path: order.get(path.name, len(order)))


def item(path: Path) -> list[str]:
    name = path.relative_to(PACKAGE).as_posix()
    return [f"- [`{name}`]({name}): {first_line(path)}"]
