"""The numbers of a story: a chain of operations on a running amount, drawn before it is put into words."""

from __future__ import annotations

import math
import operator
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

OPERATIONS = {
    "add": ("+", operator.add),
    "subtract": ("-", operator.sub),
    "multiply": ("*", operator.mul),
    "divide": ("/", operator.floordiv),  # only ever without a remainder
}
"""Name of an operation → its sign and its function."""


@dataclass(frozen=True)
class Difficulty:
    """How hard problems are: chain length, number ranges (inclusive), irrelevant sentences.

    `amount` is the range of the first number, `change` that of added and subtracted numbers, `factor` that of
    multipliers, divisors and the count in a product, `per_item` that of the other number in a product; no value
    exceeds `largest`. `distractor_rate` is the chance of an irrelevant sentence after each event.
    """

    operations: tuple[int, int] = (2, 6)
    amount: tuple[int, int] = (5, 50)
    change: tuple[int, int] = (2, 30)
    factor: tuple[int, int] = (2, 6)
    per_item: tuple[int, int] = (2, 10)
    largest: int = 200
    distractor_rate: float = 0.25

    def __post_init__(self) -> None:
        """Refuse settings under which no chain, or no grammatical plural, could be found."""
        for name in ("operations", "amount", "change", "factor", "per_item"):
            low, high = getattr(self, name)
            if not 2 <= low <= high:
                raise ValueError(f"{name} must be a range with 2 <= low <= high, got {(low, high)}")
        if self.operations[1] > 6 or self.factor[1] > 10:
            raise ValueError("at most 6 operations, and factors up to 10, can be told")
        needed = max(self.amount[1], self.factor[1] * self.per_item[1], 2 * self.change[0])
        if self.largest < needed:
            raise ValueError(f"largest must be at least {needed} for these ranges, got {self.largest}")
        if not 0 <= self.distractor_rate <= 1:
            raise ValueError(f"distractor_rate must be between 0 and 1, got {self.distractor_rate}")


DIFFICULTIES = {
    "default": Difficulty(),
    "easy": Difficulty((2, 3), (2, 30), (2, 20), (2, 5), (2, 9), largest=100, distractor_rate=0.0),
}


class Latent(NamedTuple):
    """One operation, as it stands in the equation of its step."""

    operation: str
    left: int
    right: int

    @property
    def value(self) -> int:
        return int(OPERATIONS[self.operation][1](self.left, self.right))


class Event(NamedTuple):
    """One happening of the story: its numbers and the operations (one or two) that it asks for."""

    kind: str  # "start", an operation, "together"; "start_product", "add_product", "subtract_product"
    numbers: tuple[int, ...]
    latents: tuple[Latent, ...]
    ending: Mapping[str, Any] | None = None

    @property
    def amount(self) -> int:
        """The running amount after it."""
        return self.latents[-1].value if self.latents else self.numbers[0]


def draw_chain(rng: random.Random, endings: Sequence[Mapping[str, Any]], level: Difficulty) -> list[Event]:
    """Draw the chain of events; the operations of all events add up to the drawn number exactly."""
    operations = rng.randint(*level.operations)
    ending = rng.choice(endings) if rng.random() < 0.35 else None
    reserved = 0 if ending is None else 1 + (ending["operation"] == "together")
    if reserved >= operations:
        ending, reserved = None, 0
    room = operations - reserved
    if room >= 2 and rng.random() < 0.25:
        start = Latent("multiply", rng.randint(*level.factor), rng.randint(*level.per_item))
        chain = [Event("start_product", (start.left, start.right), (start,))]
        room -= 1
    else:
        chain = [Event("start", (rng.randint(*level.amount),), ())]
    _lengthen(chain, room, rng, level)
    if ending is not None:
        last = _ending_event(rng, level, chain[-1].amount, ending)
        if last is None:  # no factor fits the amount: ordinary events keep the length of the chain instead
            _lengthen(chain, reserved, rng, level)
        else:
            chain.append(last)
    return chain


def _lengthen(chain: list[Event], operations: int, rng: random.Random, level: Difficulty) -> None:
    """Append ordinary events of so many operations."""
    while operations > 0:
        chain.append(_ordinary_event(rng, level, chain[-1], operations))
        operations -= len(chain[-1].latents)


def _ordinary_event(rng: random.Random, level: Difficulty, previous: Event, room: int) -> Event:
    """An event of at most `room` operations that keeps the running amount between 1 and the largest value."""
    kinds = ["add"] * 3 + ["subtract"] * 3 + ["multiply", "divide"]
    if room >= 2:
        kinds += ["add_product"] * 2 + ["subtract_product"] * 2
    while True:
        kind = rng.choice(kinds)
        change, factor, per_item = (rng.randint(*limits) for limits in (level.change, level.factor, level.per_item))
        if kind == previous.kind and kind in ("multiply", "divide"):
            continue
        operation, _, product = kind.partition("_")
        numbers: tuple[int, ...] = (change,) if operation in ("add", "subtract") else (factor,)
        if product:
            numbers = (factor, per_item)
        latent = Latent(operation, previous.amount, math.prod(numbers))
        if _fits(latent, level):
            first = (Latent("multiply", factor, per_item),) if product else ()
            return Event(kind, numbers, (*first, latent))


def _fits(latent: Latent, level: Difficulty) -> bool:
    """Whether an operation is a real one and leaves an amount between 1 and the largest value."""
    if latent.operation == "subtract":
        return latent.left > latent.right
    if latent.operation == "divide":
        return latent.left % latent.right == 0 and latent.left > latent.right
    return latent.value <= level.largest and (latent.operation == "add" or latent.left > 1)


def _ending_event(rng: random.Random, level: Difficulty, amount: int, ending: Mapping[str, Any]) -> Event | None:
    """The last event for a running amount, or None where no allowed factor fits."""
    together = ending["operation"] == "together"  # a friend's multiple of the amount, then both added up
    operation = "multiply" if together else ending["operation"]
    factors = range(level.factor[0], level.factor[1] + 1)
    # Together they have one amount more than the friend's multiple of it.
    fitting = [k for k in factors if _fits(Latent(operation, amount, k + together), level)]
    if not fitting:
        return None
    k = rng.choice(fitting)
    latent = Latent(operation, amount, k)
    total = (Latent("add", amount, latent.value),) if together else ()
    return Event(ending["operation"], (k,), (latent, *total), ending)
