"""The checks that matter, on the user's own model and data, in about a minute.

Each check is a small function in `checks_data.py` or `checks_model.py`. What comes out is a table with figures,
on request a JSON file, and an exit status that is 0 only if every check ran and passed.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from stepjepa.environment import environment
from stepjepa.experiments.checks import TRAINED, Check, Outcome, Subject, run_check
from stepjepa.experiments.checks_data import (
    check_boundaries,
    check_data_format,
    check_environment,
    check_labels,
    check_resources,
    check_text,
)
from stepjepa.experiments.checks_model import (
    check_architecture_holds,
    check_lm_loss,
    check_model,
    check_perturbation,
    check_predictor_gradient,
    check_two_passes,
)
from stepjepa.experiments.checks_precision import check_lower_precision
from stepjepa.experiments.options import VerifyOptions
from stepjepa.jepa.pairs import BranchLayout

__all__ = ["Check", "VerifyOptions", "format_table", "verify"]

CHECKS: tuple[tuple[str, Callable[[Subject], Outcome]], ...] = (
    ("environment", check_environment),
    ("data format", check_data_format),
    ("model", check_model),
    ("boundaries", check_boundaries),
    ("labels", check_labels),
    ("text", check_text),
    ("architecture", check_architecture_holds),
    ("LM loss", check_lm_loss),
    ("two passes", check_two_passes),
    ("isolation", check_perturbation),
    ("precision", check_lower_precision),
    ("predictor", check_predictor_gradient),
    ("resources", check_resources),
)
MARKS = {"passed": "pass", "failed": "FAIL", "skipped": "skip"}


def verify(
    options: VerifyOptions, layout: BranchLayout = TRAINED, progress: Callable[[str], None] | None = None
) -> list[Check]:
    """Run every check, in order.

    Args:
        options: the model and the data to verify.
        layout: the branches to verify them with.
        progress: called with the name of each check before it runs.

    Returns:
        One `Check` for each, also for those that could not run (skipped) or were stopped by an error (failed); of
        precision only where training is not in float32 throughout.
    """
    subject = Subject(options, layout)
    checks = []
    for name, function in CHECKS:
        if function is check_lower_precision and subject.lower is None:
            continue
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


def record(options: VerifyOptions, layout: BranchLayout, checks: Sequence[Check]) -> dict[str, Any]:
    """Everything about a verification, ready for JSON; figures that are not finite become text."""
    return {
        "command": "verify",
        "passed": all(check.passed for check in checks),
        "options": asdict(options) | asdict(layout),
        "environment": environment(),
        "checks": [_plain({**asdict(check), "passed": check.passed}) for check in checks],
    }


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
