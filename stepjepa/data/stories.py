"""Multi-step story problems with known latents: the data that Step-JEPA runs on when none is given.

A problem is a chain of two to six operations on a running amount (some by way of a product first), worded as a
short story with irrelevant numbers strewn in, and solved with one sentence per operation and a boxed answer.
Because the chain is drawn before it is worded, every step comes with its ground truth (operation, operands,
value), which probes can be trained on. The sentences stand in `stories.yaml`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any

import yaml

from stepjepa.data.chains import DIFFICULTIES, OPERATIONS, Difficulty, Event, draw_chain
from stepjepa.data.drawing import distinct_problems

_WORDS: dict[str, Any] = yaml.safe_load(files("stepjepa.data").joinpath("stories.yaml").read_text(encoding="utf-8"))
FAMILIES: dict[str, Any] = _WORDS["stories"]
"""Name of a family of stories → its cast and its sentences; `stories.yaml` explains the fields."""
PEOPLE: list[str] = _WORDS["people"]["women"] + _WORDS["people"]["men"]


def forms(word: str) -> tuple[str, str]:
    """Singular and plural: ``"rose"`` → ``("rose", "roses")``, ``"box/boxes"`` → ``("box", "boxes")``."""
    one, _, many = word.partition("/")
    return one, many or f"{one}s"


def generate_stories(
    n: int, seed: int = 0, split: str = "train", difficulty: str | Difficulty = "default"
) -> list[dict[str, Any]]:
    """Draw `n` different problems of a split; the same arguments give the same problems on any machine.

    A list of `draw_stories`, which draws them one by one.

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
    return list(draw_stories(n, seed, split, difficulty))


def draw_stories(
    n: int, seed: int = 0, split: str = "train", difficulty: str | Difficulty = "default"
) -> Iterator[dict[str, Any]]:
    """As `generate_stories`, one by one."""
    if isinstance(difficulty, str):
        if difficulty not in DIFFICULTIES:
            raise ValueError(f"unknown difficulty {difficulty!r}: choose one of {', '.join(DIFFICULTIES)}")
        difficulty = DIFFICULTIES[difficulty]
    rng, level = random.Random(f"stepjepa problems {seed}"), difficulty

    def tell() -> dict[str, Any]:
        story = Story(rng, rng.choice(list(FAMILIES)), level)
        return story.tell(draw_chain(rng, story.words["endings"], level))

    return distinct_problems(tell, n, split)


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
