"""Measure how the text functions grow with the length of a text, and write the record: `python figures/growth.py`.

Texts repeat one unit: the shapes at which readers of text have been known to hang, and others drawn at random. Time is
that of the processor, the least of several tries.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from stepjepa.data.boxes import last_boxed
from stepjepa.data.fields import RowError
from stepjepa.data.files import parse_line
from stepjepa.data.formats import convert_row
from stepjepa.data.mathematics import protected_spans
from stepjepa.data.steps import split_steps
from stepjepa.data.thoughts import split_thoughts
from stepjepa.data.tokens import tokenize_example
from stepjepa.environment import environment
from stepjepa.evaluation.answers import answers_match, exact_match, extract_answer, flexible_extract, strict_match
from stepjepa.evaluation.questions import NoGoldError, read_question
from stepjepa.models.checkpoint import locate_model
from stepjepa.models.loading import load_tokenizer
from stepjepa.records import json_bytes, write_json

SCAN = (20_000, 40_000)
SIZES = (250_000, 500_000, 1_000_000)
WORST = 2
STEEP = 2.3
UNITS = (
    *("a", " ", "\N{NO-BREAK SPACE}", "\n", "\n ", ".", '."', "a. ", "A. B ", "。", "9", "9,", "1/", "-", "x^"),
    *("\\", "\\\\", "{", "}", "(", "$", "$$", "\\$", "$a", "`", "\n~~~", "\\boxed{", "\\boxed ", "\\begin{a}", "\\["),
    *("[asy]", "\\frac{", "<think>", "</think>", "<", "<|channel|>", "#### ", "\n# a", "\n\n**a:**", "a:\n\n", "\n1. "),
    *("\n\nStep 1: ", "\n第一步", "\nAnswer:", "\\text{", "\\left(", " and ", "km ", "1 2/", "0.3", "\\,", "|"),
)


def drawn_units(count: int, seed: int = 0) -> list[str]:
    """Units of two to five of the known ones."""
    rng = random.Random(seed)
    return ["".join(rng.choices(UNITS, k=rng.randint(2, 5))) for _ in range(count)]


def _prepare(text: str) -> None:
    line = json_bytes({"question": "What is it?", "response": text})
    with suppress(RowError):
        convert_row(parse_line(line), "growth")


def _question(text: str) -> None:
    with suppress(RowError, NoGoldError):
        read_question({"question": text, "answer": text}, "growth")


def functions() -> dict[str, Callable[[str], object]]:
    """What is measured, by name; each reads one text."""
    tokenizer = load_tokenizer(locate_model("builtin"))

    def tokenize(text: str) -> None:
        step = f"x{text}".strip()
        messages = [{"role": "user", "content": text}, {"role": "assistant", "content": step}]
        tokenize_example({"messages": messages, "steps": [step]}, tokenizer)

    splitters = ("auto", "paragraph", "line", "numbered", "sentence")
    return {
        **{f"split_steps, {name}": lambda text, name=name: split_steps(text, name) for name in splitters},
        "protected_spans": lambda text: protected_spans(text, inline=True),
        "split_thoughts": split_thoughts,
        "last_boxed": last_boxed,
        "prepare, one row": _prepare,
        "extract_answer": extract_answer,
        "read_question": _question,
        "strict_match": strict_match,
        "flexible_extract": flexible_extract,
        "exact_match": lambda text: exact_match(text, text + "1"),
        "answers_match, with 4": lambda text: answers_match(text, "4"),
        "answers_match, with another": lambda text: answers_match(text, text + "1"),
        "tokenize_example": tokenize,
    }


def seconds(function: Callable[[str], object], unit: str, size: int, tries: int) -> float:
    """The least of several tries, each on a text of its own: none is answered from a cache."""
    text = "x " + (unit * (size // len(unit) + 1))[:size]
    spent = []
    for attempt in range(tries):
        fresh = f"{text} {attempt}"
        start = time.process_time()
        function(fresh)
        spent.append(round(time.process_time() - start, 5))
        if spent[-1] > 0.5:
            break
    return min(spent)


def _steady(function: Callable[[str], object], unit: str, sizes: Sequence[int]) -> list[float]:
    """The seconds at each size; what seems steep is tried again, because a busy machine makes it seem so."""
    spent = [seconds(function, unit, size, tries=2) for size in sizes]
    for _ in range(6):
        steep = [i for i, (half, whole) in enumerate(pairwise(spent), 1) if whole > STEEP * max(half, 1e-3)]
        for i in steep:
            spent[i] = min(spent[i], seconds(function, unit, sizes[i], tries=2))
    return spent


def measure(
    units: Sequence[str], scan: Sequence[int], sizes: Sequence[int], names: Iterable[str] | None = None
) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Per function the seconds of every unit at the sizes of `scan`, and of the worst units at `sizes`.

    The worst are the slowest at the last size of the scan and those that grew most from the first.
    """
    known = functions()
    found = {}
    for name in names or known:
        scanned = {unit: [seconds(known[name], unit, size, tries=1) for size in scan] for unit in units}
        worst = {
            *sorted(units, key=lambda unit: scanned[unit][-1])[-WORST:],
            *sorted(units, key=lambda unit: scanned[unit][-1] / (scanned[unit][0] + 1e-3))[-WORST:],
        }
        long = {unit: _steady(known[name], unit, sizes) for unit in sorted(worst)}
        found[name] = {"scanned": scanned, "long": long}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "data" / "growth.json")
    parser.add_argument("--functions", nargs="*", help="some of them, to look into; nothing is written")
    options = parser.parse_args()
    start = time.perf_counter()
    measured = measure([*UNITS, *drawn_units(20)], SCAN, SIZES, options.functions)
    for name, times in measured.items():
        unit, worst = max(times["long"].items(), key=lambda item: item[1][-1])
        growth = max(spent[-1] / (spent[-2] + 1e-3) for spent in times["long"].values())
        print(f"{name}: {worst[-1]:.2f} s at most, for {unit!r}; at most {growth:.2f} times that of half the length")
    if options.functions is None:
        record = {
            "kind": "growth",
            "scan": SCAN,
            "sizes": SIZES,
            "seconds": measured,
            "environment": environment(),
            "wall_seconds": time.perf_counter() - start,
        }
        write_json(record, options.output)


if __name__ == "__main__":
    main()
