"""Templates of the built-in story problems, and the teller that fills them in.

Only text lives here; `stepjepa.data.problems` chooses the numbers. A template names its operands ``{k}`` (one
number), or ``{a}`` and ``{b}`` (a product); its solution sentence shows the equation as ``{eq}``, followed by
the ``{unit}`` that agrees with the result.

Other fields: ``{Sub}``/``{sub}`` the subject or its pronoun (capital: opens the sentence), ``{name}`` never
the pronoun, ``{his}`` the possessive in a sentence that names the subject, ``{him}``/``{whose}`` the object
and possessive that fall back to the name where a pronoun would be unclear, ``{obj}`` the plural thing,
``{fraction}`` "half", "a third", …, ``{times}`` "twice", "3 times", …, ``{boxes}``/``{box}`` a container,
``{friend}`` somebody else; in distractors ``{x}`` a number, ``{age}``, ``{other}`` unrelated things.
"""

import random
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Wording:
    """Ways to tell one kind of event (`story`) and to work it out (`steps`)."""

    story: tuple[str, ...]
    steps: tuple[str, ...]


@dataclass(frozen=True)
class Ending:
    """A last event that asks for something else than the running amount, in a `unit` of its own."""

    operation: str  # "multiply", "divide", or "together": a friend's multiple, then both added up
    story: tuple[str, ...]
    steps: tuple[str, ...]
    unit: tuple[str, str] | None = None  # None: the unit of the story


@dataclass(frozen=True)
class Family:
    """One kind of story: who has what, what may happen to it, and what may be asked."""

    key: str
    casts: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]  # (subject noun, "" for a person; its units)
    start: tuple[str, ...]
    start_product: Wording
    single: dict[str, Wording]  # operation -> wording, one number each
    product: dict[str, Wording]  # "add" or "subtract" of a product a * b; `steps` word the product only
    ask: tuple[str, ...]
    distractors: tuple[str, ...]
    endings: tuple[Ending, ...] = ()
    boxes: tuple[tuple[str, str], ...] = (("box", "boxes"),)


WOMEN = (
    "Anna Bella Chloe Dina Elena Fatima Grace Hana Ines Julia Karen Lena Maria Nora Olivia Priya Rosa Sofia "
    "Tara Uma Vera Wendy Yuki Zoe"
)
MEN = (
    "Adam Ben Carlos David Erik Felix George Hugo Ivan Jack Kofi Liam Marco Noah Omar Paul Quentin Ravi Sam "
    "Tom Victor Walter Yusuf Zack"
)
FRACTIONS = {2: "half", 3: "a third", 4: "a quarter", 5: "a fifth", 6: "a sixth", 7: "a seventh"}
FRACTIONS |= {8: "an eighth", 9: "a ninth", 10: "a tenth"}
TIMES = {2: "twice"}  # any other factor: "<k> times"
OTHER_THINGS = ("chairs", "spoons", "plates", "bottles", "candles", "umbrellas", "pillows", "blankets")
SYMBOLS = {"add": "+", "subtract": "-", "multiply": "*", "divide": "/"}
DOLLARS = ("dollar", "dollars")


def plain_units(words: str) -> tuple[tuple[str, str], ...]:
    """Units with a regular plural, from a space-separated list; ``_`` stands for a space."""
    return tuple((word.replace("_", " "), word.replace("_", " ") + "s") for word in words.split())


GAIN = ("{Sub} now has {eq} {unit}.", "{Sub} then has {eq} {unit}.", "That makes {eq} {unit}.")
GAIN_MORE = ("Adding them, {sub} has {eq} {unit}.", "In total this gives {eq} {unit}.")
LOSS = ("{Sub} has {eq} {unit} left.", "This leaves {eq} {unit}.", "After that, {sub} has {eq} {unit}.")
LOSS_MORE = ("Taking them away, {sub} keeps {eq} {unit}.",)
SCALE = ("{Sub} now has {eq} {unit}.", "That gives {sub} {eq} {unit}.", "The new amount is {eq} {unit}.")
SHARE = ("One share is {eq} {unit}.", "{Sub} keeps {eq} {unit}.", "That is {eq} {unit}.")
HOLD = ("The {boxes} hold {eq} {unit}.", "That is {eq} {unit} in the {boxes}.", "All the {boxes} have {eq} {unit}.")

PERSON_DISTRACTORS = (
    "{name} is {age} years old.",
    "{friend}, a neighbor, is {age} years old.",
    "{friend} has {x} {obj} too.",
    "{friend} owns {x} {other}.",
    "It is {x} degrees outside.",
    "{name} lives in house number {x}.",
    "There are {x} {other} in the next room.",
    "The day before, {friend} counted {x} {other}.",
)
PLACE_DISTRACTORS = (
    "{friend}, who works there, is {age} years old.",
    "{Sub} opened {x} years ago.",
    "About {x} people live nearby.",
    "It is {x} degrees outside.",
    "{friend} has {x} {obj} at home.",
    "A house across the street has {x} windows.",
)


@dataclass(frozen=True)
class Event:
    """One happening of the story: its numbers and the operations (one or two) that it asks for."""

    kind: str  # "start", an operation, or "<add|subtract>_product", "together"
    numbers: tuple[int, ...]
    latents: tuple[tuple[str, int, int, int], ...]  # (operation, left, right, value)
    ending: Ending | None = None


class Story:
    """Words a chain of events: keeps the cast, and who was mentioned last so that pronouns stay clear."""

    def __init__(self, rng: random.Random, family: Family, distractor_rate: float, numbers: tuple[int, int]) -> None:
        self.rng, self.family, self.distractor_rate, self.numbers = rng, family, distractor_rate, numbers
        noun, units = rng.choice(family.casts)
        self.unit = rng.choice(units)
        woman = rng.random() < 0.5
        people = rng.sample(WOMEN.split(), 8) + rng.sample(MEN.split(), 8)
        name = people[0] if woman else people[8]
        self.friends = [person for person in people if person != name]
        rng.shuffle(self.friends)
        if noun:
            article = "an" if noun[0] in "aeiou" else "a"
            self.opener, self.name = f"{article} {noun}", f"the {noun}"
            self.pronoun, self.his, self.him = "it", "its", "it"
        else:
            self.opener = self.name = name
            self.pronoun, self.his, self.him = ("she", "her", "her") if woman else ("he", "his", "him")
        self.sentences: list[str] = []
        self.steps: list[str] = []
        self.latents: list[dict[str, Any]] = []
        self.irrelevant = list(family.distractors)
        self.distractors = 0
        self.named = False  # the last sentence was about the subject, so a pronoun is clear
        self.asked = False

    def tell(self, event: Event) -> None:
        """Add the sentence of an event, perhaps an irrelevant one, and the steps that work the event out."""
        wording = self._wording(event)
        box, boxes = self.rng.choice(self.family.boxes)
        fields: dict[str, Any] = {"box": box, "boxes": boxes, "friend": self.friends.pop()}
        if len(event.numbers) == 2:
            fields["a"], fields["b"] = event.numbers
        else:
            k = event.numbers[0]
            fields |= {"k": k, "fraction": FRACTIONS.get(k, f"one part in {k}"), "times": TIMES.get(k, f"{k} times")}
        self._say(self.rng.choice(wording.story), fields)
        if event.ending is None:
            while self.irrelevant and self.rng.random() < self.distractor_rate:
                self._distract()
        self.asked = event.ending is not None
        for index, latent in enumerate(event.latents):
            self._work_out(latent, self._step_templates(event, wording, index), fields, event.ending)

    def finish(self) -> dict[str, Any]:
        """The problem as a dict, with the question asked and the answer boxed."""
        if not self.asked:
            self._say(self.rng.choice(self.family.ask), {})
        answer = str(self.latents[-1]["value"])
        return {
            "question": " ".join(self.sentences),
            "steps": [*self.steps, f"The answer is \\boxed{{{answer}}}."],
            "answer": answer,
            "latents": self.latents,
            "family": self.family.key,
            "distractors": self.distractors,
        }

    def _wording(self, event: Event) -> Wording:
        if event.ending is not None:
            return Wording(event.ending.story, event.ending.steps)
        if event.kind == "start":
            return Wording(self.family.start, ())
        if event.kind == "start_product":
            return self.family.start_product
        if event.kind.endswith("_product"):
            return self.family.product[event.kind.removesuffix("_product")]
        return self.family.single[event.kind]

    def _step_templates(self, event: Event, wording: Wording, index: int) -> tuple[str, ...]:
        if event.kind == "together":
            return wording.steps[index : index + 1]
        if index == 1:  # the product is known: now it is added or subtracted
            return self.family.single[event.kind.removesuffix("_product")].steps
        return wording.steps

    def _work_out(
        self,
        latent: tuple[str, int, int, int],
        templates: tuple[str, ...],
        fields: dict[str, Any],
        ending: Ending | None,
    ) -> None:
        operation, left, right, value = latent
        unit = self.unit if ending is None or ending.unit is None else ending.unit
        fields = fields | {
            "eq": f"{left} {SYMBOLS[operation]} {right} = {value}",
            "unit": unit[0] if value == 1 else unit[1],
        }
        self.steps.append(self._fill(self.rng.choice(templates), fields, clear=bool(self.steps)))
        self.latents.append({"operation": operation, "operands": [left, right], "value": value})

    def _distract(self) -> None:
        fields = {
            "x": self.rng.randint(*self.numbers),
            "age": self.rng.randint(19, 79),
            "friend": self.friends.pop(),
            "other": self.rng.choice(OTHER_THINGS),
        }
        template = self.rng.choice(self.irrelevant)
        self.irrelevant.remove(template)  # the same thing told twice would contradict itself
        self._say(template, fields)
        self.distractors += 1

    def _say(self, template: str, fields: dict[str, Any]) -> None:
        first = not self.sentences
        self.sentences.append(self._fill(template, fields, clear=self.named, first=first))
        self.named = "{friend}" not in template and any(
            field in template for field in ("{Sub}", "{sub}", "{name}", "{him}", "{whose}")
        )

    def _fill(self, template: str, fields: dict[str, Any], clear: bool, first: bool = False) -> str:
        """Fill a template; the subject is a pronoun half of the time where it is clear who is meant."""
        subject = self.opener if first else self.name
        if clear and self.rng.random() < 0.5:
            subject = self.pronoun
        text = template.format(
            Sub=subject[0].upper() + subject[1:],
            sub=subject,
            name=self.name,
            his=self.his,
            him=self.him if clear else self.name,
            whose=self.his if clear else f"{self.name}'s",
            obj=self.unit[1],
            **fields,
        )
        return text[0].upper() + text[1:]
