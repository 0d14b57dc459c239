"""What commands print: text that a terminal shows and never obeys, what comes next, one line of progress."""

from __future__ import annotations

import os
import shlex
import sys
from typing import IO

from stepjepa.records import printable


def say(text: object = "", file: IO[str] | None = None, end: str = "\n") -> None:
    """Print a text, control characters written out; the one place where commands print.

    Where nobody reads any longer (`stepjepa … | head`) the command goes on without a word: what it was asked for are
    its files.
    """
    file = file or sys.stdout
    try:
        print(printable(str(text)), file=file, end=end, flush=True)
    except BrokenPipeError:
        silence(file)


def silence(file: IO[str]) -> None:
    """Let a stream whose reader has gone lead nowhere, so that what is still in it raises nothing at the end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, file.fileno())
    os.close(nowhere)


def say_next(*words: str, note: str = "") -> None:
    """The next command to type, as a shell takes it.

    Args:
        words: of the command, without `stepjepa`.
        note: what it is for.
    """
    say(f"next{f', {note}' if note else ''}: {shlex.join(('stepjepa', *words))}")


class Progress:
    """One line on a terminal that says what is going on; nothing where nobody watches."""

    def __call__(self, text: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\033[K{printable(text)} …", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Clear the line."""
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr, flush=True)
