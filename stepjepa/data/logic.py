"""Small problems of logic with exact answers: chains of implications, sets and their members, orderings.

In each, the facts stand in any order (sets in that in which they are made), and the solution takes one fact a step: the
first in the text that can be used with what is known by then. The numbers of facts, the names and the question differ.
Latents are as those of a story: `operation` (how the fact was used), `operands` (whom or what it is about), `value`
(does the second one come? how many members? how many are in order by now?).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import Any

from stepjepa.data.drawing import distinct_problems
from stepjepa.data.stories import PEOPLE

VERBS = {"comes": "come", "plays": "play", "helps": "help", "wins": "win"}
"""What implications are about, of one and of many."""
ORDERS = {
    "before": ("after", "front"),
    "older than": ("younger than", "oldest"),
    "taller than": ("shorter than", "tallest"),
}
"""A relation → its converse, and the end that it points to."""
SETS: dict[str, tuple[str, Callable[[set[int], set[int]], set[int]]]] = {
    "intersection": ("in {} and in {}", set.intersection),
    "union": ("in {} or in {}", set.union),
    "difference": ("in {} and not in {}", set.difference),
}
"""Name of an operation → its words and its function."""


def draw_logic(
    n: int, seed: int = 0, split: str = "train", facts: tuple[int, int] = (2, 6)
) -> Iterator[dict[str, Any]]:
    """Draw `n` different problems of a split, one by one, as `draw_stories` draws stories.

    Args:
        n, seed, split: as there.
        facts: how many facts, and with them steps, a problem has at least and at most, the answer not counted.

    Yields:
        Dicts with `question`, `steps`, `answer`, `latents`, and `family`: "implications", "sets" or "order".

    Raises:
        ValueError: unknown split or negative `n`.
    """
    rng = random.Random(f"stepjepa logic {seed}")
    families = (_implications, _sets, _order)
    return distinct_problems(lambda: rng.choice(families)(rng, rng.randint(*facts)), n, split)


def _problem(
    family: str, sentences: Iterable[str], steps: list[str], latents: list[tuple[str, list[str], int]], answer: object
) -> dict[str, Any]:
    return {
        "question": " ".join(sentences),
        "steps": [*steps, f"The answer is \\boxed{{{answer}}}."],
        "answer": str(answer),
        "latents": [
            {"operation": operation, "operands": operands, "value": value} for operation, operands, value in latents
        ],
        "family": family,
    }


def _implications(rng: random.Random, facts: int) -> dict[str, Any]:
    """Who comes follows from one person by rules, some of them used backwards; how many do?"""
    people = rng.sample(PEOPLE, facts + 1)
    one, many = rng.choice(list(VERBS.items()))
    truth = {person: rng.random() < 0.5 for person in people}

    def said(person: str, does: bool) -> str:
        return f"{person} {one}" if does else f"{person} does not {many}"

    rules = []
    for index, person in enumerate(people[1:], start=1):
        known, backwards = rng.choice(people[:index]), rng.random() < 0.5
        # What is known implies what is new; written as its contraposition, it is used backwards.
        ends = [(known, truth[known]), (person, truth[person])]
        if backwards:
            ends = [(who, not does) for who, does in reversed(ends)]
        rules.append((known, person, backwards, f"If {said(*ends[0])}, {said(*ends[1])}."))
    rng.shuffle(rules)
    reached, steps, latents, left = {people[0]}, [], [], list(rules)
    while left:
        rule = next(rule for rule in left if rule[0] in reached)
        left.remove(rule)
        known, person, backwards, _ = rule
        reached.add(person)
        steps.append(f"{said(known, truth[known])}, so {said(person, truth[person])}.")
        latents.append(("contraposition" if backwards else "implication", [known, person], int(truth[person])))
    sentences = [rule[-1] for rule in rules] + [f"{said(people[0], truth[people[0]])}.", f"How many of them {many}?"]
    return _problem("implications", sentences, steps, latents, sum(truth.values()))


def _sets(rng: random.Random, facts: int) -> dict[str, Any]:
    """Sets of digits, each of those behind the first two made of two before it; something is asked about the last."""
    sets = {name: set(rng.sample(range(1, 10), rng.randint(3, 5))) for name in "AB"}
    sentences = [f"Set {name} has {_listed(members)}." for name, members in sets.items()]
    steps, latents = [], []
    for name in "CDEFGHIJ"[:facts]:
        while True:
            left, right = rng.sample(list(sets), 2)
            operation, (words, function) = rng.choice(list(SETS.items()))
            members = function(sets[left], sets[right])
            if members:
                break
        sets[name] = members
        words = words.format(left, right)
        sentences.append(f"Set {name} has what is {words}.")
        steps.append(f"I{words[1:]}: {name} has {_listed(members)}.")
        latents.append((operation, [left, right], len(members)))
    asked = rng.choice(("count", "largest", "member"))
    if asked == "count":
        sentences.append(f"How many numbers are in {name}?")
        return _problem("sets", sentences, steps, latents, len(members))
    if asked == "largest":
        sentences.append(f"Which is the largest number in {name}?")
        return _problem("sets", sentences, steps, latents, max(members))
    is_member = rng.random() < 0.5 or len(members) == 9
    digit = rng.choice(sorted(members if is_member else set(range(1, 10)) - members))
    sentences.append(f"Is {digit} in {name}?")
    return _problem("sets", sentences, steps, latents, "yes" if is_member else "no")


def _listed(members: set[int]) -> str:
    return ", ".join(map(str, sorted(members)))


def _order(rng: random.Random, facts: int) -> dict[str, Any]:
    """A row of people, told by its neighbours; who stands at a place?"""
    row = rng.sample(PEOPLE, facts + 1)
    relation, (converse, end) = rng.choice(list(ORDERS.items()))
    pairs = list(pairwise(row))
    rng.shuffle(pairs)
    sentences = []
    for first, second in pairs:
        told = (first, relation, second) if rng.random() < 0.5 else (second, converse, first)
        sentences.append("{} is {} {}.".format(*told))
    place = rng.randint(1, len(row))
    sentences.append(f"From the {end}, who is number {place}?")
    known, steps, latents, left = list(pairs[0]), [], [], list(pairs)
    while left:
        pair = next(pair for pair in left if set(pair) & {known[0], known[-1]})
        left.remove(pair)
        if pair[1] == known[0]:
            known.insert(0, pair[0])
            latents.append(("front", [known[1], known[0]], len(known)))
        elif pair[0] == known[-1]:
            known.append(pair[1])
            latents.append(("end", [known[-2], known[-1]], len(known)))
        else:
            latents.append(("start", list(pair), len(known)))
        steps.append(f"The order is {', '.join(known)}.")
    return _problem("order", sentences, steps, latents, row[place - 1])
