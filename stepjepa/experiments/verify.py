"""`stepjepa verify`: the checks that matter, on the user's own model and data, in about a minute.

Each check is a small function in `checks_data.py` or `checks_model.py`. What comes out is a table with figures,
on request a JSON file, and an exit status that is 0 only if every check ran and passed.
"""

from __future__ import annotations

import argparse
import math
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, get_args

from stepjepa.data.steps import Splitter
from stepjepa.experiments.checks import DEVICES, VERIFIED_PAIRS, Check, Outcome, Subject, VerifyOptions, run_check
from stepjepa.experiments.checks_data import (
    check_boundaries,
    check_data_format,
    check_environment,
    check_labels,
    check_resources,
)
from stepjepa.experiments.checks_model import MODEL_CHECKS, check_model
from stepjepa.jepa.layout import ISOLATIONS
from stepjepa.records import environment, write_json

__all__ = ["Check", "VerifyOptions", "format_table", "main", "verify"]

CHECKS: tuple[tuple[str, Callable[[Subject], Outcome]], ...] = (
    ("environment", check_environment),
    ("data format", check_data_format),
    ("model", check_model),
    ("boundaries", check_boundaries),
    ("labels", check_labels),
    *MODEL_CHECKS,
    ("resources", check_resources),
)
MARKS = {"passed": "pass", "failed": "FAIL", "skipped": "skip"}


def verify(options: VerifyOptions, progress: Callable[[str], None] | None = None) -> list[Check]:
    """Run every check, in order.

    Args:
        options: the model, the data and the layout to verify.
        progress: called with the name of each check before it runs.

    Returns:
        One `Check` for each, also for those that could not run (skipped) or were stopped by an error (failed).
    """
    subject = Subject(options)
    checks = []
    for name, function in CHECKS:
        if progress is not None:
            progress(name)
        checks.append(run_check(name, function, subject))
    return checks


def format_table(checks: Sequence[Check], width: int = 110) -> str:
    """The checks as a table of name, result, seconds and figures, with advice below failures and a closing line.

    Args:
        checks: from `verify`.
        width: characters in a line.
    """
    margin = max((len(check.name) for check in checks), default=5) + 16
    room = max(width - margin, 30)
    header = f"{'check':{margin - 16}}  result  seconds"
    lines = [f"{header} figures", "─" * width]
    for check in checks:
        text = f"skipped: {check.figures}" if check.status == "skipped" else check.figures
        first, *rest = textwrap.wrap(text, room, break_on_hyphens=False) or [""]
        head = f"{check.name:{margin - 16}}  {MARKS[check.status]:6}{check.seconds:7.1f} "
        lines += [f"{head}{first}", *(" " * margin + line for line in rest)]
        for paragraph in check.advice.splitlines():
            arrows = textwrap.wrap(paragraph, room, initial_indent="→ ", subsequent_indent="  ", break_on_hyphens=False)
            lines += [" " * margin + line for line in arrows]
    return "\n".join([*lines, "─" * width, *textwrap.wrap(summary(checks), width)])


def summary(checks: Sequence[Check]) -> str:
    """The closing line: how many passed, which did not."""
    seconds = sum(check.seconds for check in checks)
    failed = [check.name for check in checks if check.status == "failed"]
    skipped = [check.name for check in checks if check.status == "skipped"]
    if not failed and not skipped:
        return f"All {len(checks)} checks passed in {seconds:.0f} s."
    parts = [
        f"{len(names)} {what} ({', '.join(names)})"
        for what, names in (("failed", failed), ("skipped", skipped))
        if names
    ]
    passed = len(checks) - len(failed) - len(skipped)
    return f"Not verified: of {len(checks)} checks {' and '.join(parts)}, {passed} passed, in {seconds:.0f} s."


def record(options: VerifyOptions, checks: Sequence[Check]) -> dict[str, Any]:
    """Everything about a verification, ready for JSON; figures that are not finite become text."""
    return {
        "command": "verify",
        "passed": all(check.passed for check in checks),
        "options": asdict(options),
        "environment": environment(),
        "checks": [_plain({**asdict(check), "passed": check.passed}) for check in checks],
    }


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def parser() -> argparse.ArgumentParser:
    """Options of `stepjepa verify`."""
    default = VerifyOptions()
    parser = argparse.ArgumentParser(
        prog="stepjepa verify",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        description="Check your model and data: boundaries, labels, losses, isolation, gradients. Exit status 0 only "
        "if every check passed.",
    )
    add = parser.add_argument
    add("--model_name", default=default.model_name, help="'builtin', a folder, or a Hub id")
    add(
        "--train_file",
        nargs="+",
        default=["builtin"],
        help="'builtin', JSONL files (any form that prepare reads), or Hub data set ids",
    )
    add("--splitter", choices=get_args(Splitter), help="how to find steps in unprepared data, as in prepare")
    add("--lora", action="store_true", help="verify with LoRA adapters, as `stepjepa train --lora` would train")
    add("--predictors", type=int, default=default.predictors, help="predictor tokens before a context view")
    add("--pairs", choices=VERIFIED_PAIRS, default=default.pairs, help="which view pairs")
    add("--horizon", type=int, default=default.horizon, help="steps ahead, for --pairs horizon")
    add("--isolation", choices=ISOLATIONS, default=default.isolation, help="what a target view sees besides itself")
    add(
        "--examples",
        type=int,
        default=default.examples,
        help="examples that the model is run on; the shortest with a view pair are taken",
    )
    add("--max_length", type=int, default=default.max_length, help="longest example in tokens")
    add(
        "--dtype",
        choices=("float32", "bfloat16", "float16", "auto"),
        default=default.dtype,
        help="dtype of the weights; only float32 compares to the last digits",
    )
    add("--attn_implementation", choices=("sdpa", "eager", "flex_attention"), help="transformers' choice if absent")
    add("--device", choices=DEVICES, default=default.device, help="auto takes a CUDA device if there is one")
    add("--revision", help="branch, tag or commit of a Hub model")
    add("--trust_remote_code", action="store_true", help="run Python code that comes with the model")
    add("--json", metavar="FILE", help="write options, versions and figures to this file as well")
    return parser


def main(argv: list[str] | None = None) -> int:
    """`stepjepa verify`; returns the exit status: 0 if every check passed, 1 otherwise."""
    from transformers.utils import logging

    command = parser()
    given = vars(command.parse_args(argv))
    json_file = given.pop("json")
    try:
        options = VerifyOptions(**given)
    except ValueError as error:
        command.error(str(error))
    logging.disable_progress_bar()
    terminal = sys.stderr.isatty()

    def progress(name: str) -> None:
        if terminal:
            print(f"\r\033[K{name} …", end="", file=sys.stderr, flush=True)

    checks = verify(options, progress)
    if terminal:
        print("\r\033[K", end="", file=sys.stderr, flush=True)
    print(format_table(checks, min(max(shutil.get_terminal_size((110, 24)).columns, 60), 120)))
    passed = all(check.passed for check in checks)
    if json_file is not None:
        write_json(record(options, checks), json_file)
        print(f"written: {json_file}")
    return 0 if passed else 1
