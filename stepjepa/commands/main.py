"""The command line: `stepjepa <command>`; each command is the `main` of a module of its own."""

from __future__ import annotations

import difflib
import logging
import re
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module

from stepjepa.commands.output import say, silence
from stepjepa.records import UserError, printable

COMMANDS = {
    "prepare": ("commands.prepare", "solutions of any source → chat JSONL with steps"),
    "synthesize": ("commands.synthesize", "sample solutions from a model or a server and keep those that are right"),
    "boundaries": ("commands.boundaries", "learn where steps begin in solutions without separators, and measure it"),
    "train": (
        "commands.train",
        "fine-tune with Step-JEPA; without options: built-in data and model, about three minutes on two cores",
    ),
    "plan": ("commands.plan", "what a training run will need before it runs: memory, tokens, time"),
    "verify": ("commands.verify", "check your model and data: boundaries, losses, isolation, gradients"),
    "evaluate": (
        "commands.evaluate",
        "answer test problems and check the answers: one row a question, accuracy with intervals",
    ),
    "generate": ("commands.generate", "answer a question step by step, with the energy and the surprisal of each step"),
    "compare": ("commands.compare", "result files of several models and seeds: paired differences with intervals"),
    "embed": ("commands.embed", "context views, target views and step states of a data set → one file"),
    "inspect": ("commands.inspect", "aligned or collapsed? metrics of embedding files with intervals and controls"),
    "score": ("commands.score", "energy of each step; best of n by it; planted mistakes found by it"),
    "report": ("commands.report", "training runs as one HTML page, several compared"),
    "attention": ("commands.attention", "attention maps over trunk and branches; the leakage audit"),
    "ablate": (
        "commands.ablate",
        "run a grid of configurations and seeds: resumable, sharded; --report compares the arms",
    ),
    "bench": ("commands.bench", "what the JEPA term costs against plain fine-tuning; how fast answers are generated"),
}
"""Name of the command → its module, and what it does."""


BROKEN_PIPE, INTERRUPTED = 141, 130
"""Exit statuses: as shells give for SIGPIPE and SIGINT."""


class _ShownRecord(logging.LogRecord):
    """A line of this package's logs, which name files too."""

    def getMessage(self) -> str:
        message = super().getMessage()
        return printable(message) if self.name.startswith("stepjepa") else message


def _concerns_the_user(record: logging.LogRecord) -> bool:
    return not re.match("The new (embeddings|lm_head weights) will be initialized", str(record.msg))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status. Errors of the user's making are one message, no traceback."""
    argv = list(sys.argv[1:] if argv is None else argv)
    logging.setLogRecordFactory(_ShownRecord)
    # Of libraries, about which a user can do nothing: a name that PEFT asks for, and rows that the adapter brings.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
    logging.getLogger("transformers.modeling_utils").addFilter(_concerns_the_user)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that has no λ shows \u03bb
    try:
        status = _run(argv)
        sys.stdout.flush()
    except BrokenPipeError:  # as in `stepjepa train --help_all | head`
        for stream in (sys.stdout, sys.stderr):
            silence(stream)
        return BROKEN_PIPE
    return status


def _run(argv: Sequence[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        say(overview())
        return 0
    if argv[0] == "--version":
        from stepjepa import __version__

        say(__version__)
        return 0
    name, rest = argv[0], argv[1:]
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        say(f"stepjepa: unknown command {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""), sys.stderr)
        say(overview(), sys.stderr)
        return 2
    for word in rest:
        if not _is_unicode(word):
            say(f"stepjepa {name}: {word!r} is not UTF-8; name it in that encoding", sys.stderr)
            return 2
    try:
        return int(import_module(f"stepjepa.{COMMANDS[name][0]}").main(rest))
    except KeyboardInterrupt:
        say(f"\nstepjepa {name}: interrupted", sys.stderr)
        return INTERRUPTED
    except UserError as error:
        say(f"stepjepa {name}: {error}", sys.stderr)
        return 1


def _is_unicode(word: str) -> bool:
    """Whether a word can be written to a file: bytes that are no UTF-8 reach Python as halves of surrogate pairs."""
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True


def overview() -> str:
    """The list of commands."""
    lines = ["usage: stepjepa <command> [options]", "", "commands:"]
    lines += [f"  {name:10} {what}" for name, (_, what) in COMMANDS.items()]
    return "\n".join([*lines, "", "`stepjepa <command> --help` lists its options."])


if __name__ == "__main__":
    sys.exit(main())
