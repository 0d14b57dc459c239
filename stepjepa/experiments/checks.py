"""What a check of `stepjepa verify` is: a name, a verdict, one line of figures, and what to do if it failed.

A check is a function of a `Subject` (the user's model and data, filled in by the first checks). One that lacks
what an earlier check should have provided raises `CannotRun` and is reported as skipped, which is not a pass.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from jinja2.exceptions import TemplateError
from safetensors import SafetensorError
from torch import Tensor

from stepjepa.experiments.options import VerifyOptions
from stepjepa.jepa.architectures import longest_trunk
from stepjepa.jepa.layout import StepJEPACollator
from stepjepa.jepa.pairs import BranchLayout

TRAINED = BranchLayout(max_length=2048)
"""The branches of `stepjepa train` by default."""
FORESEEN = (OSError, ValueError, RuntimeError, TypeError, IndexError, ImportError, TemplateError, SafetensorError)
"""What foreign models, tokenizers, templates and files raise; anything else is a bug here and shows as one."""


@dataclass(frozen=True)
class Outcome:
    """What a check function returns: verdict, figures in words, advice if it failed, the figures as values."""

    passed: bool
    figures: str
    advice: str = ""
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Check:
    """One line of the report."""

    name: str
    status: Literal["passed", "failed", "skipped"]
    figures: str
    """One line of figures in words; for a skipped check the reason."""
    advice: str
    """What to do about a failure, else empty."""
    values: dict[str, Any]
    """The same figures for machines."""
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether it ran and found everything in order."""
        return self.status == "passed"


class CannotRun(Exception):
    """A check lacks what an earlier check should have provided; the message says what."""


@dataclass
class Subject:
    """The model and the data under test. The first checks fill it in; `require` guards what is not there."""

    options: VerifyOptions
    layout: BranchLayout = TRAINED
    examples: list[dict[str, Any]] = field(default_factory=list)
    """Examples of which `rows` are the tokens, one to one."""
    prepared: bool = False
    """Whether some of them come from a prepared file, which has its steps already."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Rows of `tokenize_example`."""
    chosen: list[dict[str, Any]] = field(default_factory=list)
    """The rows that the model is run on: the shortest with a view pair."""
    model: Any = None
    lower: Any = None
    """The model as it is trained, where that is not float32 throughout; `model` is float32 with the same weights."""
    tokenizer: Any = None
    supported: bool = False
    """Whether nothing known speaks against the architecture."""

    def require(self, *names: Literal["data", "model", "rows", "pairs", "engine"]) -> None:
        """Raise `CannotRun` unless everything named is there."""
        present: dict[str, Callable[[], tuple[bool, str]]] = {
            "data": lambda: (bool(self.examples), "there is no data"),
            "model": lambda: (self.model is not None, "there is no model"),
            "rows": lambda: (bool(self.rows), "there are no tokenized examples"),
            "pairs": lambda: (bool(self.chosen), "no example has a view pair"),
            "engine": lambda: (self.supported, "the architecture is not supported"),
        }
        for name in names:
            there, reason = present[name]()
            if not there:
                raise CannotRun(reason)

    def limit(self) -> int | None:
        """Longest row in tokens: the shorter of `max_length` and what the positions leave beside the predictor."""
        return longest_trunk(self.model, self.layout)

    def collator(self, **changes: Any) -> StepJEPACollator:
        """The collator of the layout, with some of it changed."""
        return StepJEPACollator(self.tokenizer, replace(self.layout, **changes))

    def has_pair(self, row: dict[str, Any]) -> bool:
        """Whether a row has a view pair in the layout."""
        return bool(self.layout.view_pairs(row["step_ids"]))


def shortest(rows: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """The `count` rows with the fewest tokens."""
    return sorted(rows, key=lambda row: len(row["input_ids"]))[:count]


def run_check(name: str, function: Callable[[Subject], Outcome], subject: Subject) -> Check:
    """Run one check and time it; what the user's model or data raises is a failure with its message."""
    began = time.perf_counter()
    status: Literal["passed", "failed", "skipped"]
    try:
        outcome = function(subject)
        status = "passed" if outcome.passed else "failed"
    except CannotRun as reason:
        status, outcome = "skipped", Outcome(False, str(reason))
    except FORESEEN as error:
        first, *rest = str(error).strip().splitlines() or [""]
        status, outcome = "failed", Outcome(False, f"{type(error).__name__}: {first}", "\n".join(rest))
    advice = "" if status == "passed" else outcome.advice
    return Check(name, status, outcome.figures, advice, outcome.values, time.perf_counter() - began)


TOLERANCES = {"lm": 1e-6, "views": 1e-5, "gradient": 1e-5}
"""Largest relative differences of LM loss, views and gradients that rounding in float32 explains."""


def finite(value: float) -> float:
    """`value`, or infinity where it is not a number, so that a comparison with a tolerance fails."""
    return value if math.isfinite(value) else math.inf


def relative_difference(a: Tensor, b: Tensor) -> float:
    """Largest difference of two tensors relative to the largest entry of the second."""
    return finite(((a - b).abs().max() / b.abs().max()).item())


def number(value: float) -> str:
    """A small figure: `3.1e-07`, or `0` where it is exactly that."""
    return f"{value:.1e}" if value else "0"


def plural(count: int, noun: str) -> str:
    """`1 step`, `2,000 steps`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
