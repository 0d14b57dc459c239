"""No wrong answer counts as right: 200 pairs that differ in one thing, made by rule, and as many that differ in none."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import islice

import pytest

from stepjepa.evaluation.answers import answers_match

Draw = random.Random
QUANTITIES: list[Callable[[Draw], str]] = [
    lambda draw: str(draw.randrange(2, 5000)),
    lambda draw: f"{draw.randrange(2, 5_000_000):,}",
    lambda draw: f"{draw.randrange(1, 900)}.{draw.randrange(1, 99):02d}",
    lambda draw: rf"\frac{{{draw.randrange(1, 30)}}}{{{draw.choice((7, 11, 13, 31))}}}",
    lambda draw: rf"{draw.randrange(2, 9)}\sqrt{{{draw.choice((2, 3, 5, 7))}}}",
    lambda draw: rf"{draw.randrange(2, 9)}\pi",
    lambda draw: rf"{draw.randrange(2, 9)}\frac{{1}}{{{draw.randrange(2, 9)}}}",
    lambda draw: rf"{draw.randrange(2, 9)}.{draw.randrange(1, 9)}\times 10^{{{draw.randrange(2, 9)}}}",
]
VARIABLES = [
    "t",
    "x",
    "s",
    "c",
    "h",
    "g",
    "l",
    "m",
    "d",
    "r",
    "k",
    "ab",
    "bc",
    "xy",
    "st",
    "th",
    "ct",
    "at",
    "x^2",
    "t_1",
]
UNITS = [  # which a reader might take for one another, each in the ways in which it is written
    [
        ["mm"],
        ["cm", "centimeters"],
        ["m", "meters", "metres"],
        ["km", "kilometers"],
        ["miles"],
        ["inches"],
        ["feet", "ft"],
    ],
    [["mg"], ["g", "grams"], ["kg", "kilograms"], ["pounds", "lb"], ["ounces", "oz"], ["tons"]],
    [["mL"], ["L", "liters", "litres"], ["gallons"]],
    [["seconds", "sec"], ["minutes", "min"], ["hours", "h", "hr"], ["days"], ["weeks"], ["years"]],
    [["m/s", "meters per second"], ["km/h", "kilometers per hour"], ["mph", "miles per hour"], ["m/s^2"]],
    [["cm^2", "square centimeters"], ["cm^3", "cubic centimeters"], ["m^2", "square meters"], ["m^3"], ["square feet"]],
    [["degrees"], ["radians", "rad"]],
    [["dollars"], ["cents"], ["euros"], ["pounds"]],
    [["apples"], ["oranges"], ["boys"], ["girls"], ["ways"]],
]
WRITTEN = [r"{} {}", r"{}\text{{ {}}}", r"{}\,\mathrm{{{}}}", r"{}~\text{{{}}}", r"{}\ \text{{{}.}}"]


def quantity(draw: Draw) -> str:
    return draw.choice(QUANTITIES)(draw)


def other_variable(draw: Draw) -> tuple[str, str]:
    base, (one, other) = quantity(draw), draw.sample(VARIABLES, 2)
    space = draw.choice(["", "", r"\,", r"\cdot "])
    space = space or " " * base[-1].isalpha()  # `\\pi t`
    product = base + space + one
    forms = [base, base + space + other, f"{one}+{base}", f"-{product}", f"y={base}"]
    near = draw.choice(forms)
    return (product, near) if draw.random() < 0.5 else (near, product)


def other_unit(draw: Draw) -> tuple[str, str]:
    base, (one, other) = quantity(draw), draw.sample(draw.choice(UNITS), 2)
    return tuple(draw.choice(WRITTEN).format(base, draw.choice(unit)) for unit in (one, other))  # type: ignore[return-value]


def other_sign(draw: Draw) -> tuple[str, str]:
    base = quantity(draw)
    minus = draw.choice(["-", "−", "–", "- "])
    unit = draw.choice(["", r"\text{ cm}", r"\%", " dollars", "x"])
    return base + unit, draw.choice(["", "" if unit else r"\$", "x="]) + minus + base + unit


def clock(hour: int, minute: int, half: str, style: int) -> str:
    return [f"{hour}:{minute:02d}{half and ' ' + half}", rf"{hour}:{minute:02d}\text{{ {half[:1]}.m.}}"][
        style if half else 0
    ]


def other_time(draw: Draw) -> tuple[str, str]:
    hour, minute, half = draw.randrange(1, 13), draw.randrange(60), draw.choice(["", "am", "pm", "PM"])
    there = (hour, minute, half)
    while True:
        if half and draw.random() < 0.3:
            here = (hour, minute, "am" if half.lower() == "pm" else "pm")
        else:
            here = draw.choice([(hour % 12 + 1, minute, half), (hour, (minute + draw.randrange(1, 60)) % 60, half)])
        return clock(*there, draw.randrange(2)), clock(*here, draw.randrange(2))


def pairs(make: Callable[[Draw], tuple[str, str]], seed: int) -> Iterator[tuple[str, str]]:
    draw = random.Random(seed)
    while True:
        yield make(draw)


NEAR_MISSES = [other_variable, other_unit, other_sign, other_time]


@pytest.mark.parametrize("make", NEAR_MISSES)
def test_near_misses_are_wrong(make: Callable[[Draw], tuple[str, str]]) -> None:
    assert [pair for pair in islice(pairs(make, 1), 50) if answers_match(*pair)] == []


@pytest.mark.slow
@pytest.mark.parametrize("make", NEAR_MISSES)
def test_many_near_misses_are_wrong_whichever_is_expected(make: Callable[[Draw], tuple[str, str]]) -> None:
    found = [pair for one, other in islice(pairs(make, 3), 500) for pair in ((one, other), (other, one))]
    assert [pair for pair in found if answers_match(*pair)] == []


# -------- the same in another notation --------


def same_number(draw: Draw) -> tuple[str, str]:
    base = quantity(draw)
    layouts = [
        *(r"\boldsymbol{{{}}}", r"\color{{red}}{{{}}}", r"\textcolor{{blue}}{{{}}}", r"\displaystyle {}"),
        *(
            "${}$",
            r"\({}\)",
            "**{}**",
            "{}.",
            r"= {}",
            r"\text{{The answer is }} {}",
            r"\text{{Area}} = {}",
            "Answer: {}",
        ),
        *(r"{{\bf {}}}", r"\large {}", r"{}\hspace{{2mm}}", r"\underline{{{}}}", r"\boxed{{{}}}", r"x = {}", "+{}"),
    ]
    layout = draw.choice(layouts)
    digits = base.replace(",", draw.choice(["", ",", "{,}", r"\,", r",\!"]))
    return layout.format(digits.replace(r"\frac", draw.choice([r"\frac", r"\dfrac", r"\tfrac"]))), base


def same_unit(draw: Draw) -> tuple[str, str]:
    base, unit = quantity(draw), draw.choice(draw.choice(UNITS))
    one, other = (draw.choice(WRITTEN[1:]).format(base, draw.choice(unit)) for _ in range(2))
    return one, draw.choice([other, base])


def same_time(draw: Draw) -> tuple[str, str]:
    hour, minute, half = draw.randrange(1, 13), draw.randrange(60), draw.choice(["a", "p"])
    halves = [f" {half}m", f"{half.upper()}M", rf"\text{{ {half}.m.}}", f" {half}.m."]
    there = f"{hour}:{minute:02d}" + draw.choice(halves)
    here = draw.choice([f"{hour}:{minute:02d}{draw.choice(halves)}", f"{hour}:{minute:02d}"])
    return here, there


def same_list(draw: Draw) -> tuple[str, str]:
    items = draw.sample(range(-20, 20), draw.randrange(2, 5))
    there = ", ".join(map(str, items))
    draw.shuffle(items)
    texts = [str(item).replace("-", draw.choice("-−–")) for item in items]
    last = f"{', '.join(texts[:-1])}{draw.choice([' and ', ', or ', chr(92) + 'text{ and }'])}{texts[-1]}"
    return draw.choice([",".join(texts), last, r"\{" + ", ".join(texts) + r"\}", "; ".join(texts)]), there


def same_choice(draw: Draw) -> tuple[str, str]:
    letter = draw.choice("ABCDE")
    written = [
        r"\textbf{{({})}}\ {}",
        r"({}) {}",
        "{}: {}",
        "{}) {}",
        r"\text{{({}) }}{}",
        "({})",
        "{}.",
        r"\mathrm{{({})}}",
    ]
    return draw.choice(written).format(letter, quantity(draw)), letter


@pytest.mark.parametrize("make", [same_number, same_unit, same_time, same_list, same_choice])
def test_other_notations_are_right(make: Callable[[Draw], tuple[str, str]]) -> None:
    assert [pair for pair in islice(pairs(make, 2), 40) if not answers_match(*pair)] == []
