"""Imports point down the house, and each room keeps to its tools: read from the syntax tree of every module.

Read, never run: imports inside functions and under TYPE_CHECKING count as those at the top of a file do.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "stepjepa"
ROOMS = tuple(
    "records environment jepa data models evaluation training analysis experiments visualization commands".split()
)
"""From the ground floor up: a module imports from its own room or from one named before it."""
DOORS = ("__init__", "__main__")
"""The package's own modules that are in no room; they may import anything, and nothing imports them."""
DISPATCHERS = ("stepjepa.__init__", "stepjepa.commands.main")
"""The only modules that may import by a name which is not written out: public names and commands are tables."""
MAKES_THE_BUILT_IN = "stepjepa.models.pretrain"
"""A script beside the checkpoint that it makes: it reads its command line and prints."""


@dataclass(frozen=True)
class Module:
    """One file of the package; `name` is dotted, and ends with `__init__` for a package's own file."""

    name: str
    path: str
    tree: ast.Module

    @property
    def room(self) -> str:
        return self.name.split(".")[1]

    @property
    def is_door_of_a_room(self) -> bool:
        return self.name.endswith(".__init__") and self.room != "__init__"

    def at(self, node: ast.AST, what: str) -> str:
        return f"{self.path}:{getattr(node, 'lineno', 1)}: {what}"


@dataclass(frozen=True)
class Import:
    """`source` uses `target`, a module of the package, or None where the target is not written out."""

    source: Module
    node: ast.AST
    target: str | None


class House:
    """Every module of a package, and who imports whom."""

    def __init__(self, package: Path):
        self.name = package.name
        self.modules: dict[str, Module] = {}
        for path in sorted(package.rglob("*.py")):
            parts = path.relative_to(package.parent).with_suffix("").parts
            place = path.relative_to(package.parent).as_posix()
            self.modules[".".join(parts)] = Module(".".join(parts), place, ast.parse(path.read_text(), place))
        self.imports = [found for module in self.modules.values() for found in self._imports(module)]

    def _home(self, dotted: str) -> str | None:
        """The module that a dotted name is, or is an attribute of; None outside the package."""
        parts = dotted.split(".")
        if parts[0] != self.name:
            return None
        for end in range(len(parts), 0, -1):
            stem = ".".join(parts[:end])
            for name in (stem, f"{stem}.__init__"):
                if name in self.modules:
                    return name
        return None

    def _imports(self, module: Module) -> Iterator[Import]:
        names: dict[str, str] = {}  # local name → dotted name, of everything imported
        for node in ast.walk(module.tree):
            names.update(bound_names(module, node))
        for node in ast.walk(module.tree):
            for dotted in self._used(module, node, names):
                target = None if dotted is None else self._home(dotted)
                if dotted is None or (target is not None and not self._is_constant(dotted, target)):
                    yield Import(module, node, target)

    def _used(self, module: Module, node: ast.AST, names: dict[str, str]) -> Iterator[str | None]:
        """Dotted names of the modules that a node imports or reaches through one imported; None: cannot be read."""
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = from_where(module, node)
            yield from (base if alias.name == "*" else f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute):  # `import stepjepa.records`, then `stepjepa.jepa.pairs`
            if (dotted := written(node, names)) and dotted.split(".")[0] == self.name:
                yield dotted
        elif isinstance(node, ast.Call) and called(node, names) in IMPORTERS:
            yield imported_by_call(module, node)

    def _is_constant(self, dotted: str, target: str) -> bool:
        """Whether this is a plain value of the package itself, such as its version."""
        own = f"{self.name}.__init__"
        if target != own:
            return False
        assigned = [node for node in self.modules[own].tree.body if isinstance(node, ast.Assign)]
        constants = [node for node in assigned if isinstance(node.value, ast.Constant)]
        return dotted in [f"{self.name}.{getattr(name, 'id', '')}" for node in constants for name in node.targets]


IMPORTERS = ("importlib.import_module", "importlib.__import__", "builtins.__import__", "__import__", "runpy.run_module")


def bound_names(module: Module, node: ast.AST) -> Iterator[tuple[str, str]]:
    """What an import statement makes of local names: `import a.b` binds a, `import a.b as c` binds c to a.b."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield (alias.asname, alias.name) if alias.asname else (alias.name.split(".")[0],) * 2
    elif isinstance(node, ast.ImportFrom):
        for alias in node.names:
            yield alias.asname or alias.name, f"{from_where(module, node)}.{alias.name}"


def from_where(module: Module, node: ast.ImportFrom) -> str:
    """The dotted name before `import`, with a relative one made whole."""
    if not node.level:
        return str(node.module)
    return ".".join([*module.name.split(".")[: -node.level], *([node.module] if node.module else [])])


def written(node: ast.expr, names: dict[str, str]) -> str | None:
    """The dotted name that an expression is, with its head as it was imported."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute) and (head := written(node.value, names)):
        return f"{head}.{node.attr}"
    return None


def called(node: ast.Call, names: dict[str, str]) -> str | None:
    return written(node.func, names)


def imported_by_call(module: Module, node: ast.Call) -> str | None:
    """The literal name given to `import_module` and its like, made whole; None where it is computed."""
    given = [*node.args, *(word.value for word in node.keywords if word.arg in ("name", "mod_name"))]
    if not given or not isinstance(given[0], ast.Constant) or not isinstance(given[0].value, str):
        return None
    name = given[0].value
    dots = len(name) - len(name.lstrip("."))
    return ".".join([*module.name.split(".")[:-dots], name[dots:]]) if dots else name


# -------- the rules: each returns a line for every place where it is broken --------


def strangers(house: House) -> list[str]:
    """The top of the package holds the rooms, its doors, and nothing else."""
    return [
        module.at(module.tree, f"{module.room} is none of the ten entries")
        for module in house.modules.values()
        if module.room not in (*ROOMS, *DOORS)
    ]


def climbs(house: House) -> list[str]:
    """Imports of a later room or of the package's doors, and imports whose target is not written out."""
    floor = {room: number for number, room in enumerate((*ROOMS, *DOORS))}
    lines = []
    for found in house.imports:
        source, target = found.source, found.target
        if target is None:
            if source.name.replace(house.name, "stepjepa", 1) not in DISPATCHERS:
                lines.append(source.at(found.node, "an import by a name that is not written out"))
        elif source.room not in DOORS:
            above = house.modules[target].room
            if floor.get(above, len(floor)) > floor.get(source.room, len(floor)):
                lines.append(source.at(found.node, f"{source.room} imports {target}, which lies above it"))
    return list(dict.fromkeys(lines))


def circles(house: House) -> list[str]:
    """Imports that lie on a circle of modules."""
    after: dict[str, set[str]] = {name: set() for name in house.modules}
    for found in house.imports:
        if found.target is not None:
            after[found.source.name].add(found.target)
    reach = {name: reachable(after, name) for name in after}
    return list(
        dict.fromkeys(
            found.source.at(found.node, f"{found.target} comes back to {found.source.name}")
            for found in house.imports
            if found.target is not None and found.source.name in reach[found.target] | {found.target}
        )
    )


def reachable(after: dict[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        for name in after[waiting.pop()] - seen:
            seen.add(name)
            waiting.append(name)
    return seen


def busy_doors(house: House) -> list[str]:
    """Imports in the `__init__` of a room: importing a module would pull in its whole room."""
    return [
        module.at(node, "the __init__ of a room imports")
        for module in house.modules.values()
        if module.is_door_of_a_room
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        or (isinstance(node, ast.Call) and called(node, {}) in ("import_module", *IMPORTERS))
    ]


def misplaced(house: House, library: str, *rooms: str) -> list[str]:
    """Imports of a library outside the rooms (or modules) where it belongs."""
    lines = []
    for module in house.modules.values():
        if module.room in rooms or module.name in rooms:
            continue
        for node in ast.walk(module.tree):
            names = [dotted for _, dotted in bound_names(module, node)]
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.Call) and (called(node, {}) or "").split(".")[-1].endswith("import_module"):
                names = [imported_by_call(module, node) or ""]
            if any(name.split(".")[0] == library for name in names):
                lines.append(module.at(node, f"{library} outside {', '.join(rooms)}"))
    return lines


def prints(house: House) -> list[str]:
    """Every use of `print`, called or handed on, outside the commands and files run as programs of their own."""
    return [
        module.at(node, "print outside commands")
        for module in house.modules.values()
        if module.room != "commands" and module.name != MAKES_THE_BUILT_IN
        for part in module.tree.body
        if not (isinstance(part, ast.If) and ast.unparse(part.test) == "__name__ == '__main__'")
        for node in ast.walk(part)
        if isinstance(node, ast.Name) and node.id == "print"
    ]


RULES = {
    "ten entries": strangers,
    "imports point down": climbs,
    "no circle": circles,
    "a room's __init__ imports nothing": busy_doors,
    "argparse": lambda house: misplaced(house, "argparse", "commands", MAKES_THE_BUILT_IN),
    "matplotlib": lambda house: misplaced(house, "matplotlib", "visualization"),
    "print": prints,
}


@pytest.fixture(scope="module")
def house() -> House:
    return House(PACKAGE)


@pytest.mark.parametrize("rule", RULES)
def test_the_house_keeps_the_rule(house, rule):
    lines = RULES[rule](house)
    assert not lines, "\n" + "\n".join(lines)


def test_every_import_of_the_package_was_read(house):
    """The graph is not empty by mistake, and no import names a module that is not there."""
    assert {module.room for module in house.modules.values()} >= {*ROOMS, *DOORS}
    assert {found.source.room for found in house.imports} >= {*ROOMS[2:], *DOORS}
    for module in house.modules.values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ImportFrom) and from_where(module, node).split(".")[0] == "stepjepa":
                base = from_where(module, node)
                assert base in house.modules or f"{base}.__init__" in house.modules, module.at(node, base)


# -------- each kind is caught, in made-up houses --------

SOUND = {
    "__init__.py": "from importlib import import_module\n__version__ = '1'\nHOMES = {'f': 'data'}\n"
    "def __getattr__(name): return import_module(f'stepjepa.{HOMES[name]}')\n",
    "__main__.py": "from stepjepa.commands.main import main\nmain()\n",
    "records.py": "import json\nfrom stepjepa import __version__\n",
    "jepa/__init__.py": '"""The idea; exports are named in words, `import x`."""\n',
    "jepa/pairs.py": "from stepjepa.records import x\nfrom .masks import y\n",
    "jepa/masks.py": "from .. import records\nprinted = 'print(1)'  # print(2)\n",
    "data/__init__.py": "",
    "data/program.py": "import json\nif __name__ == '__main__':\n    print(json.dumps(1))\n",
    "data/steps.py": "import stepjepa.records\nstepjepa.jepa.pairs\nimport stepjepa.jepa.pairs as pairs\npairs.a.b\n",
    "models/pretrain.py": "import argparse\nprint(argparse)\n",
    "visualization/draw.py": "import matplotlib.pyplot as plt\nfrom matplotlib import style\n",
    "commands/__init__.py": "",
    "commands/main.py": "import argparse\nfrom importlib import import_module\nprint(import_module(f'stepjepa.{argparse}'))\n",
}


def built(folder: Path, changed: dict[str, str] | None = None) -> House:
    """The sound house with some files written otherwise or added."""
    for name, source in (SOUND | (changed or {})).items():
        path = folder / "stepjepa" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return House(folder / "stepjepa")


def broken(house: House) -> dict[str, list[str]]:
    return {name: lines for name, rule in RULES.items() if (lines := rule(house))}


def test_a_sound_house_breaks_no_rule(tmp_path):
    house = built(tmp_path)
    assert broken(house) == {}
    edges = {(found.source.name, found.target) for found in house.imports}
    assert ("stepjepa.jepa.pairs", "stepjepa.jepa.masks") in edges
    assert ("stepjepa.jepa.masks", "stepjepa.records") in edges
    assert ("stepjepa.data.steps", "stepjepa.jepa.pairs") in edges


@pytest.mark.parametrize(
    "source",
    [
        "import stepjepa.data.steps\n",
        "import stepjepa.data.steps as steps\n",
        "from stepjepa.data.steps import split\n",
        "from stepjepa.data import steps\n",
        "from stepjepa import data\n",
        "from stepjepa import split_steps\n",  # a public name, by way of the package's door
        "import stepjepa\n",
        "from stepjepa import *\n",
        "from ..data import steps\n",
        "from ..data.steps import split\n",
        "from .. import data as d\n",
        "def later(): from stepjepa.data.steps import split\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING: from stepjepa.data.steps import split\n",
        "try:\n    import stepjepa.data.steps\nexcept ImportError: pass\n",
        "import importlib\nimportlib.import_module('stepjepa.data.steps')\n",
        "from importlib import import_module as bring\nbring('..data.steps', __package__)\n",
        "import importlib as i\ni.import_module(name='stepjepa.data.steps')\n",
        "__import__('stepjepa.data.steps')\n",
        "import runpy\nrunpy.run_module('stepjepa.data.steps')\n",
        "import stepjepa.records\nstepjepa.data.steps.split()\n",
        "import importlib\nimportlib.import_module('stepjepa.' + 'data')\n",  # cannot be read, so not allowed
        "from stepjepa.__main__ import main\n",
    ],
)
def test_a_climb_is_caught_however_it_is_written(tmp_path, source):
    house = built(tmp_path, {"jepa/pairs.py": "\n" + source})
    found = broken(house)
    assert "imports point down" in found
    assert all(line.startswith("stepjepa/jepa/pairs.py:") for line in found["imports point down"])
    assert int(found["imports point down"][0].split(":")[1]) > 1


def test_a_circle_is_caught_within_a_room_and_inside_functions(tmp_path):
    house = built(tmp_path, {"jepa/masks.py": "\ndef f():\n    from stepjepa.jepa import pairs\n"})
    assert broken(house) == {
        "no circle": [
            "stepjepa/jepa/masks.py:3: stepjepa.jepa.pairs comes back to stepjepa.jepa.masks",
            "stepjepa/jepa/pairs.py:2: stepjepa.jepa.masks comes back to stepjepa.jepa.pairs",
        ]
    }
    assert "no circle" in broken(built(tmp_path, {"jepa/masks.py": "import stepjepa.jepa.masks\n"}))


@pytest.mark.parametrize(
    ("rule", "file", "source"),
    [
        ("ten entries", "helpers.py", "\n"),
        ("ten entries", "utils/text.py", "\n"),
        ("a room's __init__ imports nothing", "jepa/__init__.py", "from .pairs import x\n"),
        ("a room's __init__ imports nothing", "jepa/__init__.py", "import os\n"),
        ("a room's __init__ imports nothing", "data/__init__.py", "def f():\n    import os\n"),
        ("argparse", "jepa/masks.py", "import argparse\n"),
        ("argparse", "models/loading.py", "def f():\n    from argparse import ArgumentParser\n"),
        ("matplotlib", "commands/train.py", "import matplotlib.pyplot as plt\n"),
        ("matplotlib", "experiments/report.py", "from matplotlib import pyplot\n"),
        ("matplotlib", "analysis/report.py", "import importlib\nimportlib.import_module('matplotlib.pyplot')\n"),
        ("print", "data/sources.py", "print('hello')\n"),
        ("print", "data/sources.py", "def f(say=print): say('hello')\n"),
    ],
)
def test_what_is_out_of_its_place_is_caught(tmp_path, rule, file, source):
    found = broken(built(tmp_path, {file: source}))
    assert list(found) == [rule]
    assert all(line.startswith(f"stepjepa/{file}:") for line in found[rule])
