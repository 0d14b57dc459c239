"""Multi-step story problems with known latents: the data that Step-JEPA runs on when none is given.

A problem is a chain of two to six operations on a running amount (some by way of a product first), told as a
short story with irrelevant numbers strewn in, and solved with one sentence per operation and a boxed answer.
Because the chain is drawn before it is worded, every step comes with its ground truth (operation, operands,
value), which probes can be trained on.
"""

import hashlib
import random
from dataclasses import dataclass
from typing import Any

from stepjepa.data.problem_stories import COLLECTION, SHOP, TRAINING
from stepjepa.data.problem_stories_more import BUS, GAME, SAVINGS, TANK
from stepjepa.data.problem_text import Ending, Event, Family, Story

FAMILIES = (COLLECTION, SHOP, SAVINGS, BUS, GAME, TANK, TRAINING)
SPLITS = ("train", "validation", "test")
_MAX_REJECTED = 20_000  # draws in a row without a new problem: the settings allow no more


@dataclass(frozen=True)
class Difficulty:
    """How hard problems are: chain length, number ranges (inclusive), irrelevant sentences.

    `amount` is the range of the first number, `change` that of added and subtracted numbers, `factor` that of
    multipliers, divisors and the count in a product, `each` that of the other number in a product; no value
    exceeds `largest`. `distractor_rate` is the chance of an irrelevant sentence after each event.
    """

    operations: tuple[int, int] = (2, 6)
    amount: tuple[int, int] = (5, 50)
    change: tuple[int, int] = (2, 30)
    factor: tuple[int, int] = (2, 6)
    each: tuple[int, int] = (2, 10)
    largest: int = 200
    distractor_rate: float = 0.25

    def __post_init__(self) -> None:
        """Refuse settings under which no chain, or no grammatical plural, could be found."""
        for name in ("operations", "amount", "change", "factor", "each"):
            low, high = getattr(self, name)
            if not 2 <= low <= high:
                raise ValueError(f"{name} must be a range with 2 <= low <= high, got {(low, high)}")
        if self.operations[1] > 6 or self.factor[1] > 10:
            raise ValueError("at most 6 operations, and factors up to 10, can be told")
        needed = max(self.amount[1], self.factor[1] * self.each[1], 2 * self.change[0])
        if self.largest < needed:
            raise ValueError(f"largest must be at least {needed} for these ranges, got {self.largest}")
        if not 0 <= self.distractor_rate <= 1:
            raise ValueError(f"distractor_rate must be between 0 and 1, got {self.distractor_rate}")


DIFFICULTIES = {
    "default": Difficulty(),
    "easy": Difficulty((2, 3), (2, 30), (2, 20), (2, 5), (2, 9), largest=100, distractor_rate=0.0),
}


def split_of(question: str) -> str:
    """The split that a question belongs to, by a hash of its text: 80% train, 10% validation, 10% test."""
    bucket = hashlib.sha256(question.encode()).digest()[0] % 10
    return {0: "validation", 1: "test"}.get(bucket, "train")


def generate_problems(
    n: int, seed: int = 0, split: str = "train", difficulty: str | Difficulty = "default"
) -> list[dict[str, Any]]:
    """Draw `n` different problems of a split; the same arguments give the same problems on any machine.

    Args:
        n: How many; a longer list with the same other arguments begins with the shorter one.
        seed: Seed of the draw. Splits are disjoint whatever the seeds, see `split_of`.
        split: "train", "validation" or "test".
        difficulty: "default", "easy", or settings of your own.

    Returns:
        Dicts with `question`, `steps` (one sentence per operation, then the boxed answer), `answer`,
        `latents` (per operation: `operation`, `operands` as they stand in the step's equation, `value`),
        `family` and `distractors` (the number of irrelevant sentences).

    Raises:
        ValueError: unknown split or difficulty, negative `n`, or settings without `n` different problems.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
    if n < 0:
        raise ValueError(f"the number of problems must not be negative, got {n}")
    if isinstance(difficulty, str):
        if difficulty not in DIFFICULTIES:
            raise ValueError(f"unknown difficulty {difficulty!r}: choose one of {', '.join(DIFFICULTIES)}")
        difficulty = DIFFICULTIES[difficulty]
    rng = random.Random(f"stepjepa problems {seed}")
    problems: list[dict[str, Any]] = []
    seen: set[str] = set()
    rejected = 0
    while len(problems) < n:
        problem = _draw(rng, difficulty)
        question = problem["question"]
        if question in seen or split_of(question) != split:
            rejected += 1
            if rejected > _MAX_REJECTED:
                raise ValueError(f"found only {len(problems)} of {n} different problems with {difficulty}")
            continue
        rejected = 0
        seen.add(question)
        problems.append(problem)
    return problems


def _draw(rng: random.Random, difficulty: Difficulty) -> dict[str, Any]:
    family = rng.choice(FAMILIES)
    story = Story(rng, family, difficulty.distractor_rate, difficulty.amount)
    for event in _plan(rng, family, difficulty):
        story.tell(event)
    return story.finish()


def _plan(rng: random.Random, family: Family, level: Difficulty) -> list[Event]:
    """Draw the chain of events; the operations of all events add up to the drawn number exactly."""
    remaining = rng.randint(*level.operations)
    ending = rng.choice(family.endings) if family.endings and rng.random() < 0.35 else None
    cost = 0 if ending is None else 1 + (ending.operation == "together")
    if cost >= remaining:
        ending, cost = None, 0
    if remaining - cost >= 2 and rng.random() < 0.25:
        count, each = rng.randint(*level.factor), rng.randint(*level.each)
        value = count * each
        events = [Event("start_product", (count, each), (("multiply", count, each, value),))]
        remaining -= 1
    else:
        value = rng.randint(*level.amount)
        events = [Event("start", (value,), ())]
    while remaining > cost:
        event = _next_event(rng, level, value, remaining - cost, events[-1].kind)
        events.append(event)
        value = event.latents[-1][3]
        remaining -= len(event.latents)
    if ending is not None:
        last = _ending_event(rng, level, value, ending)
        # An amount that no divisor fits keeps the length of the chain with ordinary events instead.
        while last is None and remaining > 0:
            event = _next_event(rng, level, value, remaining, events[-1].kind)
            events.append(event)
            value = event.latents[-1][3]
            remaining -= len(event.latents)
        if last is not None:
            events.append(last)
    return events


def _next_event(rng: random.Random, level: Difficulty, value: int, room: int, previous: str) -> Event:
    """An event of at most `room` operations that keeps the running amount within 1 and the largest value."""
    kinds = ["add"] * 3 + ["subtract"] * 3 + ["multiply", "divide"]
    if room >= 2:
        kinds += ["add_product"] * 2 + ["subtract_product"] * 2
    while True:
        kind = rng.choice(kinds)
        change, factor = rng.randint(*level.change), rng.randint(*level.factor)
        each = rng.randint(*level.each)
        if kind == previous and kind in ("multiply", "divide"):
            continue
        if kind == "add" and value + change <= level.largest:
            return Event(kind, (change,), ((kind, value, change, value + change),))
        if kind == "subtract" and value > change:
            return Event(kind, (change,), ((kind, value, change, value - change),))
        if kind == "multiply" and value > 1 and value * factor <= level.largest:
            return Event(kind, (factor,), ((kind, value, factor, value * factor),))
        if kind == "divide" and value % factor == 0 and value > factor:
            return Event(kind, (factor,), ((kind, value, factor, value // factor),))
        product = factor * each
        if kind == "add_product" and value + product <= level.largest:
            return Event(
                kind, (factor, each), (("multiply", factor, each, product), ("add", value, product, value + product))
            )
        if kind == "subtract_product" and value > product:
            return Event(
                kind,
                (factor, each),
                (("multiply", factor, each, product), ("subtract", value, product, value - product)),
            )


def _ending_event(rng: random.Random, level: Difficulty, value: int, ending: Ending) -> Event | None:
    """The last event for a running amount, or None where no allowed factor fits."""
    factors = range(level.factor[0], level.factor[1] + 1)
    if ending.operation == "divide":
        factors_that_fit = [k for k in factors if value % k == 0 and value > k]
    elif ending.operation == "multiply":
        factors_that_fit = [k for k in factors if value > 1 and value * k <= level.largest]
    else:
        factors_that_fit = [k for k in factors if value > 1 and value * (k + 1) <= level.largest]
    if not factors_that_fit:
        return None
    k = rng.choice(factors_that_fit)
    if ending.operation == "divide":
        latents: tuple[tuple[str, int, int, int], ...] = (("divide", value, k, value // k),)
    elif ending.operation == "multiply":
        latents = (("multiply", value, k, value * k),)
    else:
        latents = (("multiply", value, k, value * k), ("add", value, value * k, value * (k + 1)))
    return Event(ending.operation, (k,), latents, ending)
