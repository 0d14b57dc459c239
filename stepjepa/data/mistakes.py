"""Built-in solutions with exactly one planted wrong step, whose place and kind are known: what error detection is
measured on.

Everything but one step is as in the right solution, the steps after it too, and the wrong step is never the first, so
it is always read after right ones.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

from stepjepa.data.chains import OPERATIONS

MISTAKES = ("operation", "arithmetic", "order", "foreign")
"""Kinds of wrong steps: another operation on the same numbers, with its right result; the right operation with a wrong
result of as many digits; a later step before its time, with the steps between after it; the step of another problem."""

_EQUATION = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)")  # «12 - 5 = 7», as every worked step holds it once
_NUMBER = re.compile(r"\d+")


def plant_mistakes(problems: Sequence[Mapping[str, Any]], kind: str, seed: int = 0) -> list[dict[str, Any]]:
    """The problems that allow it, each with one wrong step of this kind.

    Of an operation or arithmetic only the equation is changed, not the words around it, and where "1" would want the
    singular the step is left alone. A step out of order needs a result that is not known yet, one of another problem a
    number that is not. The closing step, which states the answer, is never the wrong one.

    Args:
        problems: of `generate_stories`; where the wrong step is put is drawn from `seed` and each question alone, the
            foreign step from the other problems too.
        kind: one of `MISTAKES`.

    Returns:
        The problems with other `steps`, without `latents` (which are those of the right solution), and with
        `wrong_step` (its index, from 0), `mistake` (the kind), `right_step` (what should stand there).

    Raises:
        ValueError: an unknown kind.
    """
    if kind not in MISTAKES:
        raise ValueError(f"unknown mistake {kind!r}: choose one of {', '.join(MISTAKES)}")
    planted = []
    for problem in problems:
        rng = random.Random(f"stepjepa mistakes {seed} {kind} {problem['question']}")
        places = list(range(1, len(problem["latents"])))
        rng.shuffle(places)
        for place in places:
            steps = _with_mistake(problem, place, kind, rng, problems)
            if steps is not None:
                kept = {name: value for name, value in problem.items() if name != "latents"}
                about = {"wrong_step": place, "mistake": kind, "right_step": problem["steps"][place]}
                planted.append(kept | {"steps": steps} | about)
                break
    return planted


def _with_mistake(
    problem: Mapping[str, Any], place: int, kind: str, rng: random.Random, problems: Sequence[Mapping[str, Any]]
) -> list[str] | None:
    """The steps with a wrong one at a place, None where there can be none of this kind."""
    steps = list(problem["steps"])
    if kind == "order":
        known = _known(problem, place)
        later = [j for j in range(place + 1, len(problem["latents"])) if not _operands(problem, j) <= known]
        if not later:
            return None
        steps.insert(place, steps.pop(rng.choice(later)))
        return steps
    if kind == "foreign":
        known = _known(problem, place)
        for _ in range(20):
            other = rng.choice(problems)
            if place < len(other["latents"]) and not _operands(other, place) <= known:
                steps[place] = other["steps"][place]
                return steps
        return None
    changed = _wrong_equation(problem["latents"][place], kind, rng)
    if changed is None:
        return None
    steps[place] = _EQUATION.sub(changed, steps[place], count=1)
    return steps


def _known(problem: Mapping[str, Any], place: int) -> set[int]:
    """The numbers of the question and the results of the steps before a place."""
    told = {int(number) for number in _NUMBER.findall(problem["question"])}
    return told | {latent["value"] for latent in problem["latents"][:place]}


def _operands(problem: Mapping[str, Any], place: int) -> set[int]:
    return set(problem["latents"][place]["operands"])


def _wrong_equation(latent: Mapping[str, Any], kind: str, rng: random.Random) -> str | None:
    left, right = latent["operands"]
    value = latent["value"]
    if value < 2:
        return None
    sign = OPERATIONS[latent["operation"]][0]
    if kind == "arithmetic":
        low, high = max(2, 10 ** (len(str(value)) - 1)), 10 ** len(str(value)) - 1
        near = [v for v in range(max(low, value - 10), min(high, value + 10) + 1) if v != value]
        return f"{left} {sign} {right} = {rng.choice(near)}"
    others = []
    for name, (other, function) in OPERATIONS.items():
        if name == latent["operation"] or (name == "divide" and left % right):
            continue
        result = function(left, right)
        if result >= 2 and result != value:
            others.append(f"{left} {other} {right} = {result}")
    return rng.choice(others) if others else None
