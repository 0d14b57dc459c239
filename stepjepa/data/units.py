r"""Units of an answer: ``5\text{ cm}^2``, ``5 apples``, ``7km``, ``60^\circ``, ``\$5``, ``3 \mathrm{~m}/\mathrm{s}``.

A letter may be a unit or a variable, so how sure it is counts too (`Doubt`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum

from stepjepa.data.numbers import read_number

_PLURAL = re.compile("e?s?$")  # `inch` and `inches`, `mile` and `miles`
# Of each unit its name, then its symbols and other spellings. Plurals, dots and capitals of words are dropped.
_TABLE = """
metre m meter|centimetre cm centimeter|millimetre mm millimeter|kilometre km kilometer kms|nanometre nm nanometer
micrometre µm micrometer um|inch in|foot ft feet|yard yd|mile mi|litre l L liter|millilitre ml mL milliliter|gallon gal
quart qt|pint pt|ounce oz|pound lb lbs|gram g gm gramme|kilogram kg kilo kgs|milligram mg|tonne ton|second s sec
minute min mins|hour h hr hrs|millisecond ms|day|week wk|month mo|year yr yrs|degree deg °|radian rad|celsius C|kelvin K
fahrenheit F|newton N|joule J|kilojoule kJ|watt W|kilowatt kW|megawatt MW|milliwatt mW|volt V|ampere A amp|ohm Ω
hertz Hz|kilohertz kHz|megahertz MHz|pascal Pa|kilopascal kPa|mole mol|calorie cal|kilocalorie kcal|electronvolt eV
decibel dB|acre|hectare ha|dollar usd buck|cent ¢ cents|euro eur|yen|rupee rs|unit
""".replace("\n", "|")
_NAMES = {spelling: line.split()[0] for line in _TABLE.split("|") if line for spelling in line.split()}
_NAMES |= {_PLURAL.sub("", spelling): name for spelling, name in _NAMES.items() if len(spelling) > 3}
# These are short for others: miles per hour, cubic centimetres
_SHORT = {"mph": "mile/hour", "kmh": "kilometre/hour", "kph": "kilometre/hour", "cc": "centimetre^3"}
_CURRENCY = {"$": "dollar", "€": "euro", "£": "pound", "¥": "yen", "₹": "rupee", "¢": "cent"}
_PRODUCTS = frozenset({"mg", "ms", "ha", "pt", "mi", "mo"})  # symbols that are as often products of variables
_FACTORS = {"dozen": 12, "hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_PERCENT = ("percent", "percentage", "pct")
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_LINKS = ("of", "the", "a")  # `cups of flour`
# What follows a number and changes it, as a unit does not: `2 thirds`, `3 squared`.
_OPERATION = re.compile("and|or|not|pi|sqrt|root|squared|cubed|factorial|mod|half|halves|thirds?|quarters?|if|when|for")

_UPRIGHT = r"\\(?:text|textrm|textup|textnormal|textsf|mathrm|mathsf|mbox|hbox|operatorname)"
# The parts of a unit: `\text{ cm}`, `/` or `per`, `\cdot`, a word with its power (`cm^2`, `s^{-1}`, `m2`), `^\circ`
_PART = re.compile(
    rf"\s*(?:{_UPRIGHT}\s*\{{(?P<upright>[^{{}}]*)\}}|(?P<per>/|per(?![^\W\d_]))|(?P<times>\\cdot(?![A-Za-z])|\*|·|-)|"
    r"(?P<degree>\^\s*(?:\\circ(?![A-Za-z])|\{\s*\\circ\s*\}))|(?P<word>[^\W\d_]+|[¢°]|\\Omega(?![A-Za-z])))"
    r"(?:\s*\^\s*(?:\{\s*(?P<braced>-?[0-9])\s*\}|(?P<power>-?[0-9]))|(?P<digit>(?<=m)[23]|(?<=ft)[23]))?\s*"
)
# Where a unit may begin: an upright group, a degree sign, a letter that is no part of a command or of a longer word
_START = re.compile(rf"{_UPRIGHT}\s*\{{|\^\s*\{{?\s*\\circ|\\Omega|[¢°]|(?<![\\A-Za-z])[^\W\d_]")
_CONSTANT = re.compile(r"[^A-Za-z]*(?:\\(?:frac|sqrt|pi|cdot|times|pm|ln|log)(?![A-Za-z])[^A-Za-z]*)*")  # `2\sqrt{13}`
# `\$5`, `-€ 5`, `$-5`; `5¢`, `5 €`
_MONEY = re.compile(r"([-+]?)\s*\\?([$€£¥₹])\s*(.+)|(.*[0-9])\s*\\?([$€£¥₹¢])")
# `11_2`, `11_{16}`
_BASE = re.compile(r"([0-9]+)\s*_\s*(?:\{\s*([0-9]+)\s*\}|([0-9]))")
_CONSONANTS_AROUND_VOWEL = re.compile("[^aeiou][aeiouy][^aeiou]")  # `men`, `car`; not `xyz`, `ace`
_ALPHABET = "abcdefghijklmnopqrstuvwxyz"


class Doubt(IntEnum):
    """How a unit can be told from a variable."""

    NONE = 0  # `5\text{ m}`, `5 cm`, `7km`, `5 apples`, `5 m/s`
    SPACED = 1  # `5 m`, `2mg` without any LaTeX: a variable too, unless the answer asked for has none
    GLUED = 2  # `5m`: a variable, unless the other answer names the unit


@dataclass(frozen=True)
class Unit:
    """Known units with their powers, and what is counted (``apple``)."""

    powers: frozenset[tuple[str, int]] = frozenset()
    nouns: frozenset[str] = frozenset()
    doubt: Doubt = Doubt.NONE

    def agrees(self, other: Unit) -> bool:
        """The same unit; of two descriptions of what is counted one may say more."""
        nouns = self.nouns <= other.nouns or other.nouns <= self.nouns
        return self.powers == other.powers and nouns


@dataclass(frozen=True)
class Quantity:
    """An answer without its unit: ``5\\text{ million dollars}`` is ``5``, dollars, times 1,000,000."""

    text: str
    unit: Unit | None = None
    factor: int = 1
    percent: bool = False


def split_unit(text: str) -> Quantity:
    r"""The answer taken apart.

    A unit is upright words (``\text{ cm}``) after what holds a digit or π, or plain ones after a number. Plain, a word
    is a known unit or looks like a word: ``2ab``, ``5 x`` and ``4t`` are products. The base of ``11_2`` counts as a
    unit, a currency too; ``percent`` is a percentage.
    """
    if match := _BASE.fullmatch(text):
        return Quantity(match[1], Unit(nouns=frozenset({f"base {match[2] or match[3]}"})))
    if match := _MONEY.fullmatch(text):
        amount = match[1] + match[3] if match[2] else match[4]
        quantity = split_unit(amount) if not _MONEY.fullmatch(amount) else Quantity(amount, None)
        unit = Unit(frozenset({(_CURRENCY[match[2] or match[5]], 1)}))
        if quantity.unit is None or quantity.unit.agrees(unit):
            return Quantity(quantity.text, unit, quantity.factor)
        return Quantity(text)
    for start in _START.finditer(text):
        before = text[: start.start()].rstrip(" ~")
        if not before or before[-1] in "-=+*/^_,(<>{[":
            continue
        found = _read_unit(text[start.start() :], glued=text[start.start() - 1] not in " ~")
        if found is None:
            continue
        unit, factor, percent, upright = found
        number = read_number(before) is not None
        if upright:
            sure = re.search(r"[0-9]|\\pi(?![A-Za-z])", before) is not None
        else:
            sure = number or (unit.doubt is Doubt.NONE and _CONSTANT.fullmatch(before) is not None)
        if sure and (number or factor == 1) and before.count("{") == before.count("}"):
            bare = not unit.powers and not unit.nouns
            return Quantity(before, None if bare else unit, factor, percent)
    return Quantity(text)


def _read_unit(text: str, *, glued: bool) -> tuple[Unit, int, bool, bool] | None:
    """``(unit, factor, percent, all of it upright)`` of a text that is nothing but a unit."""
    words: list[tuple[str, int, bool]] = []  # spelling, power, upright
    position, sign = 0, 1
    text = re.sub("[.']", "", text)  # `sq. ft.`
    while position < len(text):
        part = _PART.match(text, position)
        if part is None:
            return None
        position = part.end()
        power = int(part["braced"] or part["power"] or part["digit"] or 1)
        if part["per"]:
            sign = -1
        elif part["degree"]:
            words.append(("°", 1, True))
        elif part["word"]:
            words.append(("Ω" if part["word"] == "\\Omega" else part["word"], sign * power, False))
        elif part["upright"] is not None:
            inner = re.findall(r"/|per\b|\^?\{?-?[23]\}?|[^\W\d_]+|[¢°]|\S", part["upright"])
            for piece in inner:
                if piece in ("/", "per"):
                    sign = -1
                elif digits := re.fullmatch(r"\^?\{?(-?[23])\}?", piece):
                    if not words:
                        return None
                    words[-1] = (words[-1][0], words[-1][1] * int(digits[1]), True)
                elif piece[0].isalpha() or piece in "¢°":
                    words.append((piece, sign, True))
                elif piece not in "-·~$":
                    return None
            if words and power != 1:
                words[-1] = (words[-1][0], words[-1][1] * power, True)
    return _named(words, glued)


def _named(words: list[tuple[str, int, bool]], glued: bool) -> tuple[Unit, int, bool, bool] | None:
    powers: dict[str, int] = {}
    nouns: set[str] = set()
    factor, ahead, percent, plain_letters = 1, 1, False, 0
    for index, (spelling, power, upright) in enumerate(words):
        word = spelling.lower()
        if _OPERATION.fullmatch(word):
            return None
        one = _PLURAL.sub("", word)
        name = _NAMES.get(spelling) or (_NAMES.get(word) or _NAMES.get(one) if len(word) > 1 else None)
        if times := _FACTORS.get(word) or _FACTORS.get(one):
            factor *= times
        elif word in _PERCENT:
            percent = True
        elif word in _POWERS:
            ahead = _POWERS[word]
        elif word in _LINKS:
            if index == 0:
                return None
        elif word in _SHORT:
            for part in _SHORT[word].split("/"):
                base, _, exponent = part.partition("^")
                powers[base] = powers.get(base, 0) + (-1 if powers else 1) * int(exponent or 1)
        elif name:
            powers[name] = powers.get(name, 0) + power * ahead
            plain_letters += not upright and len(spelling) == 1 and spelling.isascii()
            ahead = 1
        elif upright or _looks_like_a_word(word, glued and index == 0):
            nouns.add(one)
        else:
            return None
    if "degree" in powers and len(powers) > 1:
        del powers["degree"]  # degrees Celsius
    if ahead != 1:
        nouns.add("square" if ahead == 2 else "cubic")
    doubt = Doubt.NONE
    first, _, upright = words[0] if words else ("", 1, True)
    if plain_letters and plain_letters == len(words) == 1:
        doubt = Doubt.GLUED if glued else Doubt.SPACED
    elif glued and not upright and ((len(first) == 1 and first.isascii()) or first in _PRODUCTS):
        doubt = Doubt.SPACED
    upright = all(word[2] for word in words)
    return Unit(frozenset(powers.items()), frozenset(nouns), doubt), factor, percent, upright


def _looks_like_a_word(word: str, glued: bool) -> bool:
    if not word.isascii():
        return not all("\u0370" <= letter <= "\u03ff" for letter in word)  # Greek letters are variables
    if word in _ALPHABET or not set(word) & set("aeiouy"):
        return False
    return len(word) > 3 or (not glued and _CONSONANTS_AROUND_VOWEL.fullmatch(word) is not None)
