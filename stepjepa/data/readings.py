r"""An answer taken apart, and whether two answers are the same: notation, numbers, units, times, choices and lists.

What these do not settle is mathematics, which the caller decides (`evaluation/equivalence.py`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

from stepjepa.data.notation import WRAPPER, strip_marks, tidy, unwrapped
from stepjepa.data.numbers import Number, read_number
from stepjepa.data.units import Doubt, Unit, split_unit

LONGEST = 2000  # characters of an answer that is read; a longer one is compared as text
_MOST_ITEMS = 50  # of a list that is compared item by item,
_DEEPEST = 10  # brackets in brackets
_MOST_OPEN = 8  # of which only so many may need mathematics

Mathematics = Callable[[str, str], bool]
"""Whether two LaTeX expressions, the expected one first, are the same mathematics."""


@dataclass(frozen=True)
class Reading:
    """An answer taken apart: ``text`` is LaTeX without label and unit, ``key`` the same up to notation."""

    text: str
    key: str
    number: Number | None = None
    unit: Unit | None = None
    percent: bool = False
    label: str = ""
    """What the answer is said to be: ``area`` of ``Area = 12``."""
    time: tuple[int, int, int, str] | None = None
    """Hour, minute, second and half of the day: ``a``, ``p`` or nothing."""
    choice: str = ""
    """The letter of ``(C) 12``."""
    wordy: bool = False
    whole: str = ""
    """The text with its unit."""


# `5%`, `5 \%`
_PERCENT = re.compile(r"\s*\\?%$")
_CURRENCY = re.compile(r"\\?[$€£¥₹]")  # `\$` of `x=\$5`
# `even` and `numbers` in `even numbers`; none in `\sin`, `2xyz`, `x_{max}`, `{pmatrix}`, `log(`.
_WORD = re.compile(r"(?<![\\A-Za-z0-9{_^])[^\W\d_]{3,}(?![A-Za-z0-9}_^(])")
# `Tuesday`, `(B)`, `a.m.`
_ONLY_LETTERS = re.compile(r"[A-Za-z.,;:'() ]*")
# `3:30`, `4:30 p.m`, `12:05:30`, `6PM`, `7 o'clock`; not `3:75`
_CLOCK = re.compile(
    r"([0-2]?[0-9])(?::([0-5][0-9]))?(?::([0-5][0-9]))?\s*(?:o'?\s?clock)?\s*(?:([ap])\.?\s?m)?\.?(?:\s*o'?clock)?",
    re.I,
)
# `(C) 12`, `C: 12`, `C. 12`, `A)`, `Option B`, `(B)`; not `C + 1`, `(C)^2`
_CHOICE = re.compile(
    r"(?:(?:option|choice|answer)\s+)?(?:\(\s*([A-Ja-j])\s*\)|([A-J])\s*[):.]|([A-J])$)(?![-+*/^_=(])\s*(?P<rest>.*)",
    re.I,
)
_SECOND_CHOICE = re.compile(r"(?<![A-Za-z])\(?[A-J]\)")  # `B)` of `A) and B)`
# `= 5`, `\approx 3.14`, `\therefore 5`
_RELATION = re.compile(r"(?:(?:=|\\(?:therefore|approx|simeq|sim|doteq)(?![A-Za-z]))\s*)+")
# `Area = 12`, `The answer is 460`, `Ответ: 14`, `答案是14`
_LABEL = re.compile(
    r"(?P<label>[^\W\d_]+(?:[ '-][^\W\d_]+)*?)\s*"
    r"(?:=|:|：|\\approx|(?<=\s)(?:is|are|equals|was|equal to)(?=\s)|[是は])\s*(?P<rest>\S.*)"
)
# `sin x = 1`: no label
_FUNCTION = re.compile(r"\b(?:sin|cos|tan|cot|sec|csc|log|ln|exp|lim|max|min|gcd|lcm|det|sqrt|mod|arc\w+)\b")
_SYMBOL = r"(?:\\(?!text|math)[A-Za-z]+|[A-Za-z])(?:_(?:\{\w+\}|\w))?"
# `x = 5`, `v_1 = 5 m/s`, `(x,y) = (5,3)`, `P = (1,2)`; not `x=1, y=2`, `f(x)=3x`, `x+1=5`
_EQUATION = re.compile(rf"(?:{_SYMBOL}|\(\s*{_SYMBOL}(?:\s*,\s*{_SYMBOL})*\s*\))\s*=\s*(?P<value>[^=<>]*[^=<>\s])")
_GENERIC = frozenset(
    "the a an final our my so thus hence therefore answer result solution value it this that is are".split()
)


@lru_cache(maxsize=1024)
def read_answer(answer: str) -> Reading:
    """Take an answer apart; one longer than 2,000 characters only loses its spaces."""
    if len(answer) > LONGEST:
        return Reading("", "".join(answer.split()), wordy=True)
    reading = _read(tidy(answer))
    if reading.unit and reading.unit.doubt and "\\" in answer:  # `5\,m` is set as a product is
        return replace(reading, unit=replace(reading.unit, doubt=Doubt.GLUED))
    return reading


def _read(text: str, *, labelled: bool = False) -> Reading:
    plain = " ".join(WRAPPER.sub(r" \1 ", text).split())
    if match := _RELATION.match(text):
        text = strip_marks(text[match.end() :])
        plain = " ".join(WRAPPER.sub(r" \1 ", text).split())
    choice = _CHOICE.fullmatch(plain)
    letter = ""
    if choice and not _SECOND_CHOICE.search(choice["rest"]):
        letter = next(group for group in choice.groups() if group).upper()
    elif not labelled and (match := _LABEL.fullmatch(plain)) and not _FUNCTION.search(match["label"]):
        words = [word for word in match["label"].lower().split() if word not in _GENERIC]
        if len(match["label"]) >= 3 or not match["label"].isascii() or (not words and len(match["label"]) > 1):
            # From the text with its wrappers, in which units stand, if the label ends outside of them.
            rest = text[len(text) - len(match["rest"]) :] if text.endswith(match["rest"]) else match["rest"]
            return replace(_read(unwrapped(strip_marks(rest)), labelled=True), label=" ".join(words))
    clock = _CLOCK.fullmatch(plain)
    if clock and (clock[2] or clock[4] or "clock" in plain.lower()) and int(clock[1]) <= 24:
        hour, minute, second = (int(part or 0) for part in clock.groups()[:3])
        half = (clock[4] or "").lower()
        return Reading(text, _key(plain), time=(hour, minute, second, half), wordy=bool(half), whole=plain)
    if len(_list_of(text).items) > 1:  # units and the like are those of its items
        return Reading(text, _key(_AND_OR.sub(", ", text)), wordy=_WORD.search(_AND_OR.sub(", ", plain)) is not None)
    found = split_unit(text)
    percent = found.percent or _PERCENT.search(found.text) is not None
    quantity = strip_marks(_CURRENCY.sub("", WRAPPER.sub(r"\1", _PERCENT.sub("", found.text))))
    number = read_number(quantity)
    if number is not None and found.factor != 1:
        number = Number(number.value * found.factor)
    elif found.factor != 1:
        return Reading(plain, _key(plain), wordy=True, whole=plain)
    return Reading(
        quantity,
        _key(quantity),
        number,
        found.unit,
        percent,
        choice=letter,
        wordy=_WORD.search(quantity) is not None,
        whole=plain,
    )


def _key(text: str) -> str:
    key = re.sub(r"(?<![0-9])\s|\s(?![0-9])", "", text)  # `3 1/2` is not `31/2`
    key = re.sub(r"([\^_])\{([^{}\\])\}", r"\1\2", key)
    if _ONLY_LETTERS.fullmatch(key):
        key = re.sub(r"^\(([A-Za-z])\)$", r"\1", key)  # a choice: `(B)`
        return key if len(key) == 1 and key.lower() not in "abcdefghij" else key.lower()  # `V-v` is not `v-V`
    return key


def same_answer(predicted: str, expected: str, mathematics: Mathematics) -> bool:
    """Whether two answers are the same (see `evaluation/answers.py` for the conventions)."""
    pred, gold = read_answer(predicted), read_answer(expected)
    if not pred.key or not gold.key:
        return False
    if _same(pred, gold, mathematics):
        return True
    # Of an equation the right-hand side counts against a bare answer.
    if "=" not in expected and (value := _value_of(predicted)):
        return same_answer(value, expected, mathematics)
    if "=" not in predicted and (value := _value_of(expected)):
        return same_answer(predicted, value, mathematics)
    return False


@lru_cache(maxsize=1024)
def _value_of(answer: str) -> str | None:
    """`(5,3)` of `(x,y)=(5,3)`, `\\text{Dana}` of `x = \\text{Dana}`: what symbols are said to be; else None."""
    match = _EQUATION.fullmatch(tidy(answer)) if len(answer) <= LONGEST else None
    return match["value"] if match else None


def _same(pred: Reading, gold: Reading, mathematics: Mathematics) -> bool:
    if gold.choice and pred.choice and re.fullmatch("[A-J]", gold.key, re.I):
        return gold.choice == pred.choice
    if pred.choice and gold.choice and re.fullmatch("[A-J]", pred.key, re.I):
        return gold.choice == pred.choice
    if pred.label and gold.label and pred.label != gold.label:
        return False
    if (pred.time or gold.time) and (at := _same_time(pred, gold)) is not None:
        return at
    if pred.unit and gold.unit:
        if not pred.unit.agrees(gold.unit):
            return False
    elif pred.unit and pred.unit.doubt and (pred.unit.doubt is Doubt.GLUED or gold.number is None or gold.percent):
        pred = _without_unit(pred)
    elif gold.unit and gold.unit.doubt:
        gold = _without_unit(gold)
    if (pred.percent and gold.unit) or (pred.unit and gold.percent):
        return False
    if pred.number is not None and gold.number is not None:
        return _same_number(pred, gold)
    if (lists := _same_items(pred, gold, mathematics)) is not None:
        return lists
    if pred.key == gold.key:
        return pred.number is gold.number  # None: `1,234` is a number, `1, 234` a list
    return not pred.wordy and not gold.wordy and mathematics(*map(_expression, (gold, pred)))


def _expression(reading: Reading) -> str:
    text = _AND_OR.sub(", ", WRAPPER.sub(r"\1", reading.text))
    return text if re.search(r"[(\[]", text) else _THOUSANDS.sub("", text)  # `x=1,234`, not `[100,200]`


def _without_unit(reading: Reading) -> Reading:
    return replace(reading, text=reading.whole, key=_key(reading.whole), number=None, unit=None)


def _same_number(left: Reading, right: Reading) -> bool:
    a, b = left.number, right.number
    assert a is not None
    assert b is not None
    if left.percent != right.percent:
        percentage, plain = (a, b) if left.percent else (b, a)
        if percentage.value / 100 == plain.value:
            return True
    return a.value == b.value or a.is_rounded(b) or b.is_rounded(a)


def _same_time(pred: Reading, gold: Reading) -> bool | None:
    """None: one of them is no time, and the other may be a ratio (``10:20`` and ``1:2``)."""
    if pred.time and gold.time:
        if pred.time[1:3] != gold.time[1:3]:
            return False
        halves = (pred.time[3], gold.time[3])
        hours = [_hour(*each.time) for each in (pred, gold) if each.time]
        return hours[0] == hours[1] or (not all(halves) and pred.time[0] == gold.time[0])
    time, other = (pred, gold) if pred.time else (gold, pred)
    assert time.time is not None
    if other.number is not None:  # `8 p.m.` and `8`; `8:00` is written otherwise
        return bool(time.time[3]) and ":" not in time.whole and other.number.value == time.time[0] and not other.unit
    return None


def _hour(hour: int, minute: int, second: int, half: str) -> int:
    return hour % 12 + 12 * (half == "p") if half and hour <= 12 else hour


# -------- lists --------

_BRACKETS = {"(": ")", "[": "]", "\\{": "\\}"}
# `2 and 3`, `2, or 3`, `x\text{ or }y`; not `band`.
_AND_OR = re.compile(r",?\s*(?:\\(?:text|mbox)\s*\{\s*(?:and|or)\s*\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z]))\s*")
_OR = re.compile(r"\bor\b")
# An interval, an inequality or a vector, which are lists in other words: `x \le 3`, `\cup`
_NO_ITEMS = re.compile(r"\\(?:in|cup|le|ge|begin|infty)(?![A-Za-z])|[<>]")
_THOUSANDS = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))")


@dataclass(frozen=True)
class _List:
    items: tuple[str, ...]
    opening: str = ""
    closing: str = ""
    alternatives: bool = False  # joined by `or`


def _list_of(text: str) -> _List:
    """The items of ``1, 2``, ``(1,2)``, ``\\{1,2\\}``, ``1\\text{ or }2``; ``1,234`` is one item, ``(100,200)`` two."""
    for opening, closer in _BRACKETS.items():
        for closing in {closer, ")", "]"} if opening != "\\{" else {closer}:
            if text.startswith(opening) and text.endswith(closing):
                inner = text[len(opening) : len(text) - len(closing)]
                items = _split(inner, thousands=re.search(r",\s", inner) is not None)
                if items is not None and (len(items) > 1 or opening == "\\{"):
                    return _List(tuple(items), opening, closing)
    items = _split(_AND_OR.sub(", ", text), thousands=True)
    return _List(tuple(items or [text]), alternatives=_OR.search(text) is not None)


def _split(text: str, *, thousands: bool) -> list[str] | None:
    """Parts between commas and semicolons outside of all brackets; None if brackets are unpaired or nest too deep."""
    kept = {match.start() for match in _THOUSANDS.finditer(text)} if thousands else set()
    items, depth, start = [], 0, 0
    for match in re.finditer(r"\\[{}]|[\[\](){},;]|\\.", text):
        token = match.group()
        if token in ("(", "[", "{", "\\{"):
            depth += 1
            if depth > _DEEPEST:
                return None
        elif token in (")", "]", "}", "\\}"):
            depth -= 1
            if depth < 0:
                return None
        elif token in ",;" and depth == 0 and match.start() not in kept:
            items.append(text[start : match.start()].strip())
            start = match.end()
    items.append(text[start:].strip())
    return items if depth == 0 and all(items) else None


def _same_items(pred: Reading, gold: Reading, mathematics: Mathematics) -> bool | None:
    """Compare two lists item by item; None if neither is one or mathematics has to say (``3\\pm\\sqrt2``)."""
    left, right = _list_of(pred.text), _list_of(gold.text)
    if len(left.items) == len(right.items) == 1 and not (left.opening and right.opening):
        return None
    if left.alternatives or right.alternatives:
        left, right = _one_of(left, mathematics), _one_of(right, mathematics)
    if max(len(left.items), len(right.items)) > _MOST_ITEMS:
        return pred.key == gold.key
    if len(left.items) == len(right.items) == 1:
        return same_answer(left.items[0], right.items[0], mathematics)
    if any("\\pm" in reading.text or "\\mp" in reading.text for reading in (pred, gold)):
        return None
    if left.opening and right.opening and (left.opening, left.closing) != (right.opening, right.closing):
        return False
    if left.opening == right.opening == "\\{":
        left, right = _set_of(left, mathematics), _set_of(right, mathematics)
    if len(left.items) != len(right.items):
        single = pred if len(left.items) == 1 else gold
        in_other_words = min(len(left.items), len(right.items)) == 1 and _NO_ITEMS.search(single.text)
        return None if in_other_words else False
    tuples = [each.opening in ("(", "[") for each in (left, right)]
    if tuples[1] or (tuples[0] and any("=" in item for item in right.items)):
        pairs = list(zip(left.items, right.items, strict=True))
        open_pairs = [pair for pair in pairs if not same_answer(*pair, _undecided)]
        return len(open_pairs) <= _MOST_OPEN and all(same_answer(*pair, mathematics) for pair in open_pairs)
    given, wanted = list(left.items), list(right.items)
    for same in (_undecided, mathematics):
        for item in list(wanted):
            found = next((other for other in given if same_answer(other, item, same)), None)
            if found is not None:
                given.remove(found)
                wanted.remove(item)
        if len(wanted) > _MOST_OPEN:
            return False
    return not wanted


def _undecided(expected: str, predicted: str) -> bool:
    return False


def _one_of(choices: _List, mathematics: Mathematics) -> _List:
    """Alternatives that all mean the same are one answer: ``x+11\\text{ or }11+x``."""
    first, *others = choices.items
    if (
        choices.alternatives
        and len(others) < _MOST_OPEN
        and all(same_answer(other, first, mathematics) for other in others)
    ):
        return _List((first,))
    return choices


def _set_of(members: _List, mathematics: Mathematics) -> _List:
    different: list[str] = []
    for item in members.items:
        if not any(same_answer(item, other, _undecided) for other in different):
            different.append(item)
    return replace(members, items=tuple(different))
