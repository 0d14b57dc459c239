r"""A number as people write it → its exact value: ``1,450,000``, ``.5``, ``-\frac12``, ``3 1/2``, ``4.5\times10^{33}``.

Exact, because a rounding that forgives ``0.333`` for 1/3 also takes 1e-9 for 2e-9. Units and magnitude words
(``5\text{ million dollars}``) are told apart from the number that they follow. Texts are expected tidied as in
`stepjepa.evaluation.answers`: single spaces, no currency, ``\frac`` for its variants.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

# Thousands are grouped by commas; `1,4500` and `1,2` are two numbers.
DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)"
DECIMAL = rf"(?:{DIGITS}(?:\.[0-9]*)?|\.[0-9]+)"
EXPONENT = r"[eE]([+-]?[0-9]{1,4})"  # at most four digits: a value has to fit into memory


@dataclass(frozen=True)
class Number:
    """An exact value, and its digits after the point if it is written as a plain decimal."""

    value: Fraction
    places: int | None = None

    def is_rounded(self, exact: Number) -> bool:
        """Whether this decimal is what ``exact``, a fraction, rounds to at six or more significant digits."""
        if self.places is None or exact.places is not None:
            return False
        digits = self.value * 10**self.places
        return abs(digits) >= 10**5 and round(exact.value * 10**self.places) == digits


_POWER_OF_TEN = r"10\s*\^\s*(?:\{\s*([+-]?[0-9]{1,4})\s*\}|([0-9]))"
_SCIENTIFIC = re.compile(
    rf"([+-]?)\s*({DECIMAL}|[0-9]{{1,3}}(?: [0-9]{{3}})+(?:\.[0-9]*)?)"  # by spaces too: `1\,000` is tidied to that
    rf"(?:{EXPONENT}|\s*(?:\\times|\\cdot|\*|x)\s*{_POWER_OF_TEN})?"
)
_ONLY_POWER = re.compile(rf"([+-]?)\s*{_POWER_OF_TEN}")
_QUOTIENT = re.compile(
    r"([+-]?)\s*(?:([0-9]+)(?=\s|\\)\s*)?"  # a mixed number's whole part
    r"(?:\\frac\s*(?:\{([^{}]*)\}|([0-9]))\s*(?:\{([^{}]*)\}|([0-9]))|([^/\\{}\s]+)\s*/\s*([^/\\{}\s]+))"
)


def read_number(text: str) -> Number | None:
    """The number that ``text`` is, written as a decimal, in scientific notation, as a fraction or mixed; else None."""
    if match := _ONLY_POWER.fullmatch(text):
        return read_number(f"{match[1]}1e{match[2] or match[3]}")
    if match := _SCIENTIFIC.fullmatch(text):
        sign, digits, *exponents = match.groups()
        plain = re.sub("[, ]", "", digits)
        value = Fraction(Decimal(sign + plain))
        exponent = next((each for each in exponents if each is not None), None)
        if exponent is not None:
            return Number(value * Fraction(10) ** int(exponent))
        return Number(value, len(plain.partition(".")[2]) if "." in plain else None)
    if match := _QUOTIENT.fullmatch(text):
        sign, whole, *parts = match.groups()
        above, below = (read_number(part.strip()) for part in parts if part is not None)
        if above is None or below is None or below.value == 0:
            return None
        value = above.value / below.value
        if whole is not None:
            if not 0 < value < 1:
                return None  # `1 000/3` is no mixed number
            value += Fraction(Decimal(whole))
        return Number(-value if sign == "-" else value)
    return None


# -------- units --------

_WORDS = r"[A-Za-z.\s/-]*"
_POWER = r"(?:\s*\^\s*\{?\s*([23])\s*\}?)?$"
_WRAPPED_UNIT = re.compile(rf"\s*\\(?:text|textrm|textbf|mathrm|mbox)\s*\{{\s*([A-Za-z]{_WORDS})\}}{_POWER}")
_PLAIN_UNIT = re.compile(rf"\s([A-Za-z]{{2}}{_WORDS}|[ap]\.m){_POWER}")
_BASE = re.compile(r"([0-9]+)\s*_\s*(?:\{\s*([0-9]+)\s*\}|([0-9]))")
_FACTORS = {"dozen": 12, "hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_PERCENT = ("percent", "percentage", "pct")
_PLURAL = re.compile("e?s?$")  # `inch` and `inches`, `mile` and `miles`
# What follows a number and changes it, as a unit does not.
_OPERATIONS = {
    "and",
    "or",
    "not",
    "pi",
    "sqrt",
    "root",
    "squared",
    "cubed",
    "factorial",
    "mod",
    "half",
    "halves",
    "third",
    "thirds",
    "quarter",
    "quarters",
}


def split_unit(text: str) -> tuple[str, str, int]:
    r"""``(quantity, unit, factor)``: ``5\text{ million dollars}`` → ``("5", "dollar", 1000000)``; no unit is ``""``.

    A unit is words in ``\text`` or its kin after something that holds a digit or π, or plain words of at least
    two letters after a number and a space (``5 x`` is a product). Its dots, capitals and plural endings are
    dropped: it is there to be compared, not to be shown. ``percent`` becomes ``%``; the base of ``11_2`` counts
    as a unit.
    """
    if match := _BASE.fullmatch(text):
        return match[1], f"base {match[2] or match[3]}", 1
    match = _WRAPPED_UNIT.search(text)
    if match is not None:
        quantity = text[: match.start()]
        if quantity[-1:] in tuple("-=+*/^_,(<>") or re.search(r"[0-9]|\\pi(?![A-Za-z])", quantity) is None:
            return text, "", 1
    else:
        match = _PLAIN_UNIT.search(text)
        if match is None or read_number(text[: match.start()].rstrip("\\% ")) is None:
            return text, "", 1
        quantity = text[: match.start()]
    words = match[1].lower().replace(".", "").split()
    if not _OPERATIONS.isdisjoint(words):
        return text, "", 1
    factor = 1
    for word in words:
        factor *= _FACTORS.get(word, 1)
    if factor != 1 and read_number(quantity) is None:
        return text, "", 1  # `2\pi\text{ million}`: without a number to multiply, the words stay
    if not set(words).isdisjoint(_PERCENT):
        return f"{quantity}%", "", 1
    unit = " ".join(_PLURAL.sub("", word) for word in words if word not in _FACTORS)
    return quantity, f"{unit}^{match[2]}" if match[2] else unit, factor
