"""Dataclasses of options → a command line; what is given there → instances of them.

Fields and metadata are read as transformers' `HfArgumentParser` reads them: `--model-name` is `--model_name`, a flag
may be given a value, one that is on by default has a `--no_…`. That class itself is not used: importing it takes more
than a second, and importing the options of `TrainingArguments` pulls in torch, where `--help` and a mistyped option
should be answered at once.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NoReturn

from stepjepa.models.checkpoint import model_path
from stepjepa.records import UserError, printable
from stepjepa.training.configurations import Option, boolean, did_you_mean, options_of

SIZES = ("notebook", "paper", "column")  # of figures
METAVARS: dict[Any, str] = {int: "N", float: "X", boolean: "true|false", Path: "PATH"}


class Layout(argparse.HelpFormatter):
    """Help in which the value stands once behind an option and its aliases."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=110)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        """Lines of a text that has several stay lines."""
        return "\n".join(textwrap.fill(line, width, subsequent_indent="    ") for line in text.splitlines())

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        return ", ".join(action.option_strings) + " " + self._format_args(action, str(action.metavar))


class Parser(argparse.ArgumentParser):
    """A parser without abbreviations, whose errors are one line that names the nearest option.

    Args:
        command: as in `stepjepa COMMAND`.
        description, epilog: said at the head and at the end of `--help`.
    """

    def __init__(self, command: str, description: str, epilog: str | None = None) -> None:
        super().__init__(
            prog=f"stepjepa {command}",
            description=description,
            epilog=epilog,
            allow_abbrev=False,
            argument_default=argparse.SUPPRESS,
            formatter_class=Layout,
        )
        self.usage = f"{self.prog} [options]"
        self.known: dict[str, Option] = {}

    def add_options(self, options: Iterable[Option], hidden: bool = False) -> None:
        """Add options to the groups that they name; `hidden` leaves them all out of `--help`."""
        groups: dict[str | None, Any] = {None: self, **{group.title: group for group in self._action_groups}}
        options = list(options)
        valued = not any(one.positional for one in options)  # else a flag would take a positional word for one
        for one in options:
            if one.group not in groups:
                groups[one.group] = self.add_argument_group(one.group)
            self.known[one.name] = one
            self._add_option(groups[one.group], one, hidden or one.hidden, valued)

    def _add_option(self, group: Any, option: Option, hidden: bool, valued: bool) -> None:
        about: dict[str, Any] = {"help": argparse.SUPPRESS if hidden else explained(option), "metavar": option.metavar}
        if option.metavar is None and not option.choices:
            about["metavar"] = METAVARS.get(option.kind, "TEXT")
        if option.choices:
            about["choices"] = option.choices
        if option.many:
            about["nargs"] = "*" if option.positional and not option.required else "+"
        if option.positional:
            self.usage = f"{self.prog} {option.metavar if option.required else f'[{option.metavar}]'} [options]"
            group.add_argument(option.name, **about)
            return
        if option.const is not None:
            about |= {"nargs": "?", "const": option.const}
        if option.kind is boolean and not valued:
            group.add_argument(f"--{option.name}", action="store_true", help=about["help"])
            return
        if option.kind is boolean:
            about |= {"nargs": "?", "const": True}
        about |= {"type": option.kind, "required": option.required}
        group.add_argument(f"--{option.name}", *option.aliases, dest=option.name, **about)
        if option.kind is boolean and option.default is True:
            group.add_argument(f"--no_{option.name}", dest=option.name, action="store_false", help=argparse.SUPPRESS)

    def read(self, argv: Sequence[str]) -> dict[str, Any]:
        """The options given, by name; one that does not exist ends the program with the nearest that does.

        Raises:
            UserError: the model's path is one at which there is nothing.
        """
        known = self._option_string_actions
        words: list[str] = []
        for number, word in enumerate(argv):
            if word == "--":  # what follows is no option, whatever it begins with
                words += argv[number:]
                break
            name, equals, value = word.partition("=")
            underscored = _underscored(name)
            if not word.startswith("--") or name in known:
                words.append(word)
            elif underscored in known:
                words.append(f"{underscored}{equals}{value}")
            else:
                self.error(f"unknown option {name}{did_you_mean(name, known)}")
        given = vars(self.parse_args(words))
        for name, value in given.items():
            try:
                if name in self.known:
                    self.known[name].check(value)
            except ValueError as error:
                self.error(f"argument --{name}: {error}")
        if "model_name" in given and "base_url" not in given:  # else it is a server's name for its model
            model_path(given["model_name"])
        return given

    def error(self, message: str) -> NoReturn:
        """End the program with status 2 and one line on what is wrong."""
        self.exit(2, printable(f"{self.prog}: {message} (`{self.prog} --help` lists the options)\n"))


def _underscored(option: str) -> str:
    """`--gpu-suite` by the name that the options have here."""
    return f"--{option[2:].replace('-', '_')}"


def take_flag(words: Sequence[str], name: str) -> tuple[bool, list[str]]:
    """Whether a flag is given, in any spelling of `Parser`, and the other words: where the flag decides on the parser.

    Raises:
        UserError: its value is neither true nor false.
    """
    given, others = False, []
    following = [*words[1:], ""][: len(words)]
    taken = False  # whether the word is the value of the flag before it
    for word, after in zip(words, following, strict=True):
        spelled, equals, value = word.partition("=")
        if taken:
            taken = False
        elif spelled.startswith("--") and _underscored(spelled) == f"--{name}":
            taken = not equals and after.lower() in ("true", "false")
            try:
                given = boolean(value if equals else after) if equals or taken else True
            except ValueError as error:
                raise UserError(f"--{name}={value}: {error}") from error
        else:
            others.append(word)
    return given, others


def explained(option: Option) -> str:
    """The help of an option with its default, where that says something."""
    default = " ".join(map(str, option.default)) if isinstance(option.default, list | tuple) else option.default
    text = option.help.replace("%", "%%")
    if option.default is True:
        return f"{text} (default: true; --no_{option.name} turns it off)"
    return text if default in (None, "", False) or option.required else f"{text} (default: {default})"


def parse(parser: Parser, argv: Sequence[str] | None, *described: Any) -> Any:
    """The command line as instances of dataclasses: one, or a list of several.

    Args:
        described: each a dataclass, or an instance of one that gives the defaults.

    A ValueError that a dataclass raises over its values, unless it is a `UserError`, ends the program as a usage error.
    """
    parser.add_options(options_of(*described).values())
    given = parser.read(sys.argv[1:] if argv is None else argv)
    try:
        made = [fill(each, given) for each in described]
    except UserError:
        raise
    except ValueError as error:
        parser.error(str(error))
    return made if len(made) > 1 else made[0]


def fill(described: Any, given: dict[str, Any]) -> Any:
    """An instance of a dataclass with the values that are given for its fields."""
    own = {each.name: given[each.name] for each in fields(described) if each.name in given}
    return described(**own) if isinstance(described, type) else replace(described, **own)
