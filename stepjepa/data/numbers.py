r"""Numbers as people write them → their exact values: ``1,450``, ``2 1/2``, ``5\times10^{-3}``, ``0.\overline{3}``.

Exact, because a rounding that forgives `0.333` for 1/3 also takes 1e-9 for 2e-9. Texts are expected tidied
(`notation.py`): single spaces, no currency, `\frac` for its variants.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

# `72`, `1,450,000`; `1,4500` and `1,2` are two numbers each.
DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)"
# `72`, `7.`, `1,450.50`, `.5`
DECIMAL = rf"(?:{DIGITS}(?:\.[0-9]*)?|\.[0-9]+)"
# `e5`, `E-3`; at most four digits: a value has to fit into memory.
EXPONENT = r"[eE]([+-]?[0-9]{1,4})"
_LONGEST = 1000  # characters: reading digits takes more than linear time


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


# `10^5`, `10^{-33}`
_POWER_OF_TEN = r"10\s*\^\s*(?:\{\s*([+-]?[0-9]{1,4})\s*\}|([0-9]))"
# `-1,450.5`, `1 000` (`1\,000` is tidied to that), `5e-1`, `4.5\times10^{33}`, `2*10^5`
_SCIENTIFIC = re.compile(
    rf"([+-]?)\s*({DECIMAL}|[0-9]{{1,3}}(?: [0-9]{{3}})+(?:\.[0-9]*)?)"
    rf"(?:{EXPONENT}|\s*(?:\\times|\\cdot|\*|x)\s*{_POWER_OF_TEN})?"
)
# `-10^5`
_ONLY_POWER = re.compile(rf"([+-]?)\s*{_POWER_OF_TEN}")
# `0.\overline{3}`, `1.2\bar{45}`, `.(3)`, `0.1\overline 6`
_REPEATING = re.compile(
    r"([+-]?)\s*([0-9]*)\.([0-9]*)(?:\\(?:overline|bar|dot)\s*(?:\{\s*([0-9]+)\s*\}|([0-9]))|\(([0-9]+)\))"
)
# `-1/2`, `\frac12`, `\frac{3}{4}`, and mixed numbers: `3 1/2`, `3\frac{1}{2}`
_QUOTIENT = re.compile(
    r"([+-]?)\s*(?:([0-9]+)(?=\s|\\)\s*)?"
    r"(?:\\frac\s*(?:\{([^{}]*)\}|([0-9]))\s*(?:\{([^{}]*)\}|([0-9]))|([^/\\{}\s]+)\s*/\s*([^/\\{}\s]+))"
)


def read_number(text: str) -> Number | None:
    """The number that ``text`` is, written as a decimal, in scientific notation, as a fraction or mixed; else None.

    Nothing longer than 1,000 characters is read.
    """
    if len(text) > _LONGEST:
        return None
    if match := _ONLY_POWER.fullmatch(text):
        return read_number(f"{match[1]}1e{match[2] or match[3]}")
    if match := _SCIENTIFIC.fullmatch(text):
        sign, digits, *exponents = match.groups()
        plain = re.sub("[, ]", "", digits)
        value = Fraction(Decimal(sign + plain))
        exponent = next((power for power in exponents if power is not None), None)
        if exponent is not None:
            return Number(value * Fraction(10) ** int(exponent))
        return Number(value, len(plain.partition(".")[2]) if "." in plain else None)
    if match := _REPEATING.fullmatch(text):
        sign, whole, places, *repeated = match.groups()
        period = next(digits for digits in repeated if digits is not None)
        value = Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(places)) + Fraction(f"{whole or 0}.{places}0")
        return Number(-value if sign == "-" else value)
    if match := _QUOTIENT.fullmatch(text):
        sign, mixed, *parts = match.groups()
        above, below = (read_number(part.strip()) for part in parts if part is not None)
        if above is None or below is None or below.value == 0:
            return None
        value = above.value / below.value
        if mixed is not None:
            if not 0 < value < 1:
                return None  # `1 000/3` is no mixed number
            value += Fraction(Decimal(mixed))
        return Number(-value if sign == "-" else value)
    return None
