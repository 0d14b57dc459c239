"""Small programs and what they print, traced line by line: built-in problems of another kind than stories.

A program sets two or three variables and works on them: assignments, an `if`, a short `for`. Its solution has one step
for every line that is run and works something out: the line, numbers in the place of the variables, and the result.
Lines that only name a number have none, as the question shows it. The latents of a step are those of a story.
"""

from __future__ import annotations

import operator
import random
from collections.abc import Iterator
from typing import Any

from stepjepa.data.drawing import distinct_problems

OPERATIONS = {
    "add": ("+", operator.add),
    "subtract": ("-", operator.sub),
    "multiply": ("*", operator.mul),
    "divide": ("//", operator.floordiv),
    "remainder": ("%", operator.mod),
}
"""Name of an operation → its sign and its function."""
COMPARISONS = {">": operator.gt, "<": operator.lt}
_CHANGE, _FACTOR = (2, 20), (2, 5)  # ranges of the numbers that are added or subtracted, and of the others


def draw_programs(
    n: int, seed: int = 0, split: str = "train", traced: tuple[int, int] = (2, 6), largest: int = 100
) -> Iterator[dict[str, Any]]:
    """Draw `n` different programs of a split, one by one, as `draw_stories` draws stories.

    Args:
        n, seed, split: as there.
        traced: how many steps a trace has at least and at most, the answer not counted.
        largest: no variable is ever above it, and none below 0.

    Yields:
        Dicts with `question`, `steps`, `answer`, `latents` (`operation` is one of `OPERATIONS`, or "compare" with the
        value 1 for true and 0 for false), `family` ("straight", "branch", "loop", "branch and loop").

    Raises:
        ValueError: unknown split or negative `n`.
    """
    rng = random.Random(f"stepjepa programs {seed}")
    return distinct_problems(lambda: _Program(rng, rng.randint(*traced), largest).problem(), n, split)


class _Program:
    """A program in the making: it is run as it grows, so that all its values are known and small."""

    def __init__(self, rng: random.Random, traced: int, largest: int) -> None:
        self.rng, self.largest = rng, largest
        self.lines: list[str] = []
        self.steps: list[str] = []
        self.latents: list[dict[str, Any]] = []
        self.kinds: set[str] = set()
        self.values = {name: rng.randint(*_CHANGE) for name in "abc"[: rng.choice((2, 2, 2, 3))]}
        self.lines += [f"{name} = {value}" for name, value in self.values.items()]
        self.last = "a"
        while (room := traced - len(self.steps)) > 0:
            kind = rng.choice(("assign", "assign", "branch", "loop"))
            if kind == "assign":
                self._assign()
            elif kind == "branch":
                self._branch(room)
            else:
                self._loop(room)

    def problem(self) -> dict[str, Any]:
        """It as a problem; the variable that was changed last is printed."""
        answer = str(self.values[self.last])
        return {
            "question": "\n".join(["What does this print?", *self.lines, f"print({self.last})"]),
            "steps": [*self.steps, f"The answer is \\boxed{{{answer}}}."],
            "answer": answer,
            "latents": self.latents,
            "family": " and ".join(sorted(self.kinds)) or "straight",
        }

    def _assign(self, indent: str = "") -> None:
        target = self.rng.choice(list(self.values))
        while True:
            operation, right = self._right_side()
            left = self.rng.choice(list(self.values))
            value = self._value(operation, self.values[left], self.values.get(right, right))
            if value is not None and left != right:
                break
        self.lines.append(f"{indent}{target} = {left} {OPERATIONS[operation][0]} {right}")
        self._work(target, operation, self.values[left], self.values.get(right, right), value)

    def _branch(self, room: int) -> None:
        """`if a > 7:` and one line, which is run or left out; a true one takes two steps."""
        name, sign = self.rng.choice(list(self.values)), self.rng.choice(list(COMPARISONS))
        value = self.values[name]
        limit = max(1, value + self.rng.choice([-1, 1]) * self.rng.randint(1, 9))
        holds = COMPARISONS[sign](value, limit)
        if holds and room < 2:
            return
        self.kinds.add("branch")
        self.lines.append(f"if {name} {sign} {limit}:")
        told = f"{name} {sign} {limit}: {value} {sign} {limit} is {str(holds).lower()}."
        self._step(told, "compare", value, limit, int(holds))
        if holds:
            self._assign("    ")
        else:
            operation, right = self._right_side()
            self.lines.append(f"    {name} = {name} {OPERATIONS[operation][0]} {right}")

    def _loop(self, room: int) -> None:
        """`for i in range(3):` and one line, run two or three times; each takes a step."""
        rounds, name = self.rng.randint(2, 3), self.rng.choice(list(self.values))
        operation, right = self.rng.choice(["add", "add", "subtract", "multiply"]), self.rng.choice(["i", *self.values])
        if rounds > room or (operation == "multiply" and right == "i"):
            return
        rights = list(range(rounds)) if right == "i" else [self.values[right]] * rounds
        value: int | None = self.values[name]
        for number in rights:
            value = None if value is None else self._value(operation, value, number)
        if value is None or right == name:
            return
        self.kinds.add("loop")
        self.lines += [f"for i in range({rounds}):", f"    {name} = {name} {OPERATIONS[operation][0]} {right}"]
        for number in rights:
            left = self.values[name]
            self._work(name, operation, left, number, OPERATIONS[operation][1](left, number))

    def _right_side(self) -> tuple[str, Any]:
        """An operation, and what stands behind its sign: a number or a variable."""
        operation = self.rng.choice(["add", "add", "subtract", "subtract", "multiply", "divide", "remainder"])
        limits = _CHANGE if operation in ("add", "subtract") else _FACTOR
        right = self.rng.choice([self.rng.randint(*limits), self.rng.choice(list(self.values))])
        return operation, right

    def _value(self, operation: str, left: int, right: int) -> int | None:
        """The result, None where there is none or it is too large."""
        if right == 0 and operation in ("divide", "remainder"):
            return None
        value = int(OPERATIONS[operation][1](left, right))
        return value if 0 <= value <= self.largest else None

    def _work(self, target: str, operation: str, left: int, right: int, value: int) -> None:
        """Run the last line."""
        self.values[target], self.last = value, target
        equation = f"{self.lines[-1].strip()} = {left} {OPERATIONS[operation][0]} {right} = {value}."
        self._step(equation, operation, left, right, value)

    def _step(self, text: str, operation: str, left: int, right: int, value: int) -> None:
        self.steps.append(text)
        self.latents.append({"operation": operation, "operands": [left, right], "value": value})
