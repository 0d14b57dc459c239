"""Multi-step story problems with known latents: the data that Step-JEPA runs on when none is given.

A problem is a chain of two to six operations on a running amount (some by way of a product first), worded as a
short story with irrelevant numbers strewn in, and solved with one sentence per operation and a boxed answer.
Because the chain is drawn before it is worded, every step comes with its ground truth (operation, operands,
value), which probes can be trained on. The sentences stand in `stories.yaml`.
"""

import hashlib
import math
import operator
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, NamedTuple

import yaml

SPLITS = ("train", "validation", "test")
OPERATIONS = {
    "add": ("+", operator.add),
    "subtract": ("-", operator.sub),
    "multiply": ("*", operator.mul),
    "divide": ("/", operator.floordiv),  # only ever without a remainder
}
"""Name of an operation → its sign and its function."""
_MAX_REJECTED = 20_000  # draws in a row without a new problem: the settings allow no more

_WORDS: dict[str, Any] = yaml.safe_load(files("stepjepa.data").joinpath("stories.yaml").read_text(encoding="utf-8"))
FAMILIES: dict[str, Any] = _WORDS["stories"]
"""Name of a family of stories → its cast and its sentences; `stories.yaml` explains the fields."""
PEOPLE: list[str] = _WORDS["people"]["women"] + _WORDS["people"]["men"]


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


def forms(word: str) -> tuple[str, str]:
    """Singular and plural: ``"rose"`` → ``("rose", "roses")``, ``"box/boxes"`` → ``("box", "boxes")``."""
    one, _, many = word.partition("/")
    return one, many or f"{one}s"


def split_of(question: str) -> str:
    """The split that a question belongs to, by a hash of its text: 80% train, 10% validation, 10% test."""
    bucket = hashlib.sha256(question.encode()).digest()[0] % 10
    return {0: "validation", 1: "test"}.get(bucket, "train")


def generate_problems(
    n: int, seed: int = 0, split: str = "train", difficulty: str | Difficulty = "default"
) -> list[dict[str, Any]]:
    """Draw `n` different problems of a split; the same arguments give the same problems on any machine.

    A list of `draw_problems`, which draws them one by one.

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
    return list(draw_problems(n, seed, split, difficulty))


def draw_problems(
    n: int, seed: int = 0, split: str = "train", difficulty: str | Difficulty = "default"
) -> Iterator[dict[str, Any]]:
    """As `generate_problems`, one by one."""
    if isinstance(difficulty, str):
        if difficulty not in DIFFICULTIES:
            raise ValueError(f"unknown difficulty {difficulty!r}: choose one of {', '.join(DIFFICULTIES)}")
        difficulty = DIFFICULTIES[difficulty]
    rng, level = random.Random(f"stepjepa problems {seed}"), difficulty

    def tell() -> dict[str, Any]:
        story = Story(rng, rng.choice(list(FAMILIES)), level)
        return story.tell(_draw_chain(rng, story.words["endings"], level))

    return distinct_problems(tell, n, split)


def distinct_problems(draw: Callable[[], dict[str, Any]], n: int, split: str) -> Iterator[dict[str, Any]]:
    """The first `n` problems that are drawn, of those of a split and none twice; only a digest of each is remembered.

    Raises:
        ValueError: unknown split, negative `n`, or there are no more.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
    if n < 0:
        raise ValueError(f"the number of problems must not be negative, got {n}")
    seen: set[bytes] = set()
    rejected = 0
    while len(seen) < n:
        problem = draw()
        question = problem["question"]
        digest = hashlib.sha256(question.encode()).digest()[:12]
        if digest in seen or split_of(question) != split:
            rejected += 1
            if rejected > _MAX_REJECTED:
                raise ValueError(f"found only {len(seen)} of {n} different problems with these settings")
            continue
        rejected = 0
        seen.add(digest)
        yield problem


# -------- the numbers --------


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


def _draw_chain(rng: random.Random, endings: Sequence[Mapping[str, Any]], level: Difficulty) -> list[Event]:
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


# -------- the story --------


class Story:
    """Words a chain of events: keeps the cast, and who was mentioned last so that pronouns stay clear."""

    def __init__(self, rng: random.Random, family: str, level: Difficulty) -> None:
        self.rng, self.family, self.level = rng, family, level
        self.words = FAMILIES[family]
        noun, units = rng.choice(list(self.words["casts"].items()))
        self.unit = rng.choice(units)
        woman = rng.random() < 0.5
        people = rng.sample(_WORDS["people"]["women"], 8) + rng.sample(_WORDS["people"]["men"], 8)
        name = people[0] if woman else people[8]
        self.friends = [person for person in people if person != name]
        rng.shuffle(self.friends)
        if noun == "person":
            self.opener = self.name = name
            self.pronoun, self.his, self.him = ("she", "her", "her") if woman else ("he", "his", "him")
        else:
            article = "an" if noun[0] in "aeiou" else "a"
            self.opener, self.name = f"{article} {noun}", f"the {noun}"
            self.pronoun, self.his, self.him = "it", "its", "it"
        self.sentences: list[str] = []
        self.steps: list[str] = []
        self.irrelevant = list(self.words["distractors"])
        self.named = False  # the last sentence was about the subject, so a pronoun is clear

    def tell(self, chain: Sequence[Event]) -> dict[str, Any]:
        """The problem as a dict, with the question asked and the answer boxed."""
        for event in chain:
            self._tell_event(event)
        if chain[-1].ending is None:
            self._add_sentence(self.rng.choice(self.words["ask"]), {})
        latents = [latent for event in chain for latent in event.latents]
        answer = str(latents[-1].value)
        return {
            "question": " ".join(self.sentences),
            "steps": [*self.steps, f"The answer is \\boxed{{{answer}}}."],
            "answer": answer,
            "latents": [
                {"operation": latent.operation, "operands": [latent.left, latent.right], "value": latent.value}
                for latent in latents
            ],
            "family": self.family,
            "distractors": len(self.words["distractors"]) - len(self.irrelevant),
        }

    def _tell_event(self, event: Event) -> None:
        """Add the sentence of an event, perhaps irrelevant ones, and the steps that work the event out."""
        wording = event.ending or self.words["events"][event.kind]
        box, boxes = forms(self.rng.choice(self.words["boxes"]))
        fields: dict[str, Any] = {"box": box, "boxes": boxes, "friend": self.friends.pop()}
        if len(event.numbers) == 2:
            fields["a"], fields["b"] = event.numbers
        else:
            (k,) = event.numbers
            fields |= {"k": k, "fraction": _WORDS["fractions"].get(k), "times": "twice" if k == 2 else f"{k} times"}
        self._add_sentence(self.rng.choice(wording["story"]), fields)
        if event.ending is None:
            while self.irrelevant and self.rng.random() < self.level.distractor_rate:
                self._distract()
        one, many = forms(wording.get("unit", self.unit))
        for index, latent in enumerate(event.latents):
            if event.kind == "together":
                templates = wording["steps"][index : index + 1]
            elif index == 0:
                templates = wording["steps"]
            else:  # the product is known: now it is added or subtracted
                templates = self.words["events"][latent.operation]["steps"]
            equation = f"{latent.left} {OPERATIONS[latent.operation][0]} {latent.right} = {latent.value}"
            worked = fields | {"eq": equation, "unit": one if latent.value == 1 else many}
            self.steps.append(self._fill(self.rng.choice(templates), worked, clear=bool(self.steps)))

    def _distract(self) -> None:
        fields = {
            "x": self.rng.randint(*self.level.amount),
            "age": self.rng.randint(19, 79),
            "friend": self.friends.pop(),
            "other": self.rng.choice(_WORDS["other_things"]),
        }
        template = self.rng.choice(self.irrelevant)
        self.irrelevant.remove(template)  # the same thing told twice would contradict itself
        self._add_sentence(template, fields)

    def _add_sentence(self, template: str, fields: Mapping[str, Any]) -> None:
        self.sentences.append(self._fill(template, fields, clear=self.named))
        self.named = "{friend}" not in template and any(
            field in template for field in ("{Sub}", "{sub}", "{name}", "{him}", "{whose}")
        )

    def _fill(self, template: str, fields: Mapping[str, Any], clear: bool) -> str:
        """Fill a template; the subject is a pronoun half of the time where it is clear who is meant."""
        subject = self.name if self.sentences else self.opener
        if clear and self.rng.random() < 0.5:
            subject = self.pronoun
        text = template.format(
            Sub=subject[0].upper() + subject[1:],
            sub=subject,
            name=self.name,
            his=self.his,
            him=self.him if clear else self.name,
            whose=self.his if clear else f"{self.name}'s",
            obj=forms(self.unit)[1],
            **fields,
        )
        return text[0].upper() + text[1:]
