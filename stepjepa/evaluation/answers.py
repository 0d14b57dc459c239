r"""Reading the final answer out of a response, and deciding whether it is the right one.

Two independent readers: the package's own (`extract_answer`, `answers_match`: boxed answers, mathematical
equivalence), and, so that published numbers compare, those of lm-evaluation-harness's ``gsm8k`` task
(`strict_match`, `flexible_extract`, `exact_match`). Numbers are compared exactly, texts up to notation; what
neither settles goes to math-verify (`equivalence.py`). Alone that library is no judge: it took 3/2^98 for 3/2^99,
`left` for `felt` and `5 million` for 5, and needed 10 s for a degenerate pair (`figures/README.md`).

References: Hendrycks et al. 2021 (MATH, normalised answers), Lewkowycz et al. 2022 (Minerva, appendix D),
lm-evaluation-harness 0.4.13, ``lm_eval/tasks/gsm8k/gsm8k.yaml``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from stepjepa.data.boxes import last_boxed
from stepjepa.data.thoughts import split_thoughts
from stepjepa.evaluation.equivalence import equivalent

# `72`, `1,450,000`; `1,4500` and `1,2` are two numbers each.
DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)"
# `72`, `7.`, `1,450.50`, `.5`
DECIMAL = rf"(?:{DIGITS}(?:\.[0-9]*)?|\.[0-9]+)"
# `e5`, `E-3`; at most four digits: a value has to fit into memory.
EXPONENT = r"[eE]([+-]?[0-9]{1,4})"

# -------- extraction --------

# `#### 72`, `####72 apples`; not `##### 72`.
_MARK = re.compile(r"(?<!#)####(?!#)[ \t]*([^\n]*\S)")
# After the mark: `Step 3`, `**Answer**`, `2. Compute`; not `72` nor `2.`.
_HEADING = re.compile(r"(?:\*\*|__)?[ \t]*(?:[A-Za-z]|[0-9]+[.)][ \t]+\S)")
# `-3`, `1,450.50`, `3/4`, `2e5`, `\frac{1}{2}`, `\dfrac12`. A hyphen after a digit, a letter or a bracket subtracts or
# is a range: of `10-4` and `3-5 days` the 4 and the 5.
_LAST_NUMBER = re.compile(
    rf"(?<![\w)}}\].])-?(?:\\[dtc]?frac(?:\{{-?{DECIMAL}\}}\{{{DECIMAL}\}}|[0-9][0-9])|"
    rf"{DECIMAL}(?:/{DECIMAL}|[eE][+-]?[0-9]{{1,4}}(?![0-9]))?)|{DECIMAL}"
)


def extract_answer(text: str) -> str | None:
    r"""The final answer of a response, or None where there is none.

    Taken from the last complete ``\boxed{…}`` or ``\fbox{…}`` (nested braces allowed), else from what follows
    the last ``####`` on its line (anywhere in the text; a Markdown heading is no answer), else the last number
    (a fraction and a scientific notation count as one). Thoughts (:func:`split_thoughts`) are not an answer, even
    if nothing follows them.
    """
    text = split_thoughts(text)[1]
    boxed = last_boxed(text)
    if boxed is not None:
        return boxed
    marked = [match for match in _MARK.findall(text) if not _HEADING.match(match)]
    if marked:
        return str(marked[-1]).strip()
    numbers = _LAST_NUMBER.findall(text.replace("−", "-"))
    return str(numbers[-1]).rstrip(".") if numbers else None


# -------- as lm-evaluation-harness reads GSM8K --------

# `#### 1,450`, `#### -5`, `#### .`; not `####5` nor `#### $5`.
_STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")
# `$1,450.00`, `-5`, `...`
_FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
# Each `,` and `$`, what comes before the last `#### `, a final dot.
_IGNORED = (",", r"\$", r"(?s).*#### ", r"\.$")


def strict_match(text: str) -> str | None:
    r"""What lm-eval's ``strict-match`` filter reads: the number after the *first* ``#### ``, or None.

    It does not know ``\boxed{…}``: a model that was taught to box its answers scores 0 by construction.
    """
    match = _STRICT.search(text)
    return match[1].strip() if match else None


def flexible_extract(text: str) -> str | None:
    """What lm-eval's ``flexible-extract`` filter reads: the last run of digits, ``$``, dots and commas, or None.

    The run need not be a number: of ``"It is 5..."`` it reads ``"..."`` last.
    """
    matches = _FLEXIBLE.findall(text)
    return str(next(group for group in matches[-1] if group)).strip() if matches else None


def exact_match(extracted: str | None, gold: str) -> bool:
    """lm-eval's ``exact_match`` as configured for GSM8K: equal texts without commas, ``$``, a final dot and case.

    Args:
        extracted: What a filter read; None (lm-eval's ``[invalid]``) is wrong.
        gold: The bare answer or a whole GSM8K solution, of which what follows the last ``#### `` counts.
    """
    return extracted is not None and _lm_eval_form(extracted) == _lm_eval_form(gold)


def _lm_eval_form(text: str) -> str:
    for pattern in _IGNORED:
        text = re.sub(pattern, "", text)
    return text.lower()


# -------- comparison --------


def answers_match(predicted: str | None, gold: str) -> bool:
    r"""Whether an answer is right.

    Notation does not count: thousands separators (``1,450,000``, ``1{,}000``, ``1\,000``), currency, closing dots
    and zeros, ``\dfrac``, ``\left``, ``\text``, spacing, case. Numbers are compared exactly, whether written as
    ``0.5``, ``.5``, ``1/2``, ``\frac12``, ``5e-1`` or ``5\times10^{-1}``; a decimal with at least six digits equals
    the fraction that rounds to it. Everything else is compared by math-verify. Conventions, each a test:

    - A unit (``5\text{ cm}``, ``5 apples``, ``90^\circ``, base ``11_2``) is ignored if only one side states it;
      two different units do not match. ``5\text{ million}`` is 5,000,000.
    - A percentage equals its number and its value: ``5\%`` matches ``5`` and ``0.05``; ``5`` is not ``0.05``.
    - ``x=5`` matches ``5``, not ``y=5``; of an equation only the right-hand side counts against a bare answer.
    - ``1,2`` is a list: it matches ``2,1``, ``\{1,2\}``, ``x=1\text{ or }x=2`` and the pair ``(1,2)``, never ``12``;
      ``(1,2)`` is not ``(2,1)`` nor ``[1,2]``. ``1,234`` is a number, ``1, 234`` is a list.
    - Words are compared as text. An empty answer matches nothing, not even an empty one.

    Args:
        predicted: The extracted answer; None is wrong.
        gold: The reference answer.
    """
    if predicted is None:
        return False
    left, right = _read(predicted), _read(gold)
    if not left.key or not right.key or (left.unit and right.unit and left.unit != right.unit):
        return False
    for one, other in ((left, right), (right, left)):
        if one.unit and (letter := _LETTER_UNIT.fullmatch(other.text)):
            return one.unit == letter[1].lower()  # `5 cm` and `5 m`
    if left.number is not None and right.number is not None:
        return _same_number(left, right)
    if left.key == right.key:
        return left.number is right.number  # None: `1,234` is a number, `1, 234` a list
    return not left.wordy and not right.wordy and equivalent(right.text, left.text)


@dataclass(frozen=True)
class _Reading:
    """An answer taken apart: ``text`` is LaTeX for math-verify, ``key`` the same text up to notation."""

    text: str
    key: str
    unit: str
    percent: bool
    wordy: bool
    number: Number | None


_CHARACTERS = str.maketrans({"−": "-", "×": r"\times ", "π": r"\pi ", "∞": r"\infty ", "°": r"^\circ "})
# A new row: `\\`, `\\[2mm]`. A space: `\,`, `\quad`, `~`. Without meaning: `\!`, `\(`, `\$`, `€`, `\left`, `^\circ`.
_TOKEN = re.compile(
    r"(?P<row>\\\\(?:\[[0-9.]+\s*[a-z]{2}\])?)|(?P<space>\\[,;: ]|\\q?quad(?![A-Za-z])|~)|"
    r"\\!|\\[\[\]()]|\\?[$€£¥]|\\(?:left|right)(?![A-Za-z])|\^\s*(?:\\circ(?![A-Za-z])|\{\s*\\circ\s*\})"
)
# `\text{ cm}`, `\mathrm{5}`; not `\text{a {b}}`.
_WRAPPER = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mbox)\s*\{([^{}]*)\}")
# `\dfrac`, `\frac\pi`; not `\fraction`.
_FRAC = re.compile(r"\\[dtc]?frac(?![A-Za-z])\s*(\\pi(?![A-Za-z]))?")
# `2 and 3`, `2, or 3`, `x\text{ or }y`; not `band`.
_AND_OR = re.compile(r",?\s*(?:\\(?:text|mbox)\s*\{\s*(?:and|or)\s*\}|(?<![A-Za-z])(?:and|or)(?![A-Za-z]))\s*")
# `5%`, `5 \%`
_PERCENT = re.compile(r"\s*\\?%$")
# `even` and `numbers` in `even numbers`; none in `\sin`, `2xyz`, `x_{max}`, `{pmatrix}`, `log(`.
_WORD = re.compile(r"(?<![\\A-Za-z0-9{_^])[A-Za-z]{3,}(?![A-Za-z0-9}_^(])")
# `5 m`, `-1,000 g`
_LETTER_UNIT = re.compile(r"-?[0-9][0-9.,/ ]* ([A-Za-z])")
# `Tuesday`, `(B)`, `a.m.`
_ONLY_LETTERS = re.compile(r"[A-Za-z.,;:'() ]*")


def _read(answer: str) -> _Reading:
    text, unit, factor = split_unit(_tidy(answer))
    percent = _PERCENT.search(text) is not None
    text = _strip(_WRAPPER.sub(r"\1", _PERCENT.sub("", text)))
    number = read_number(text)
    if number is not None and factor != 1:
        number = Number(number.value * factor)
    key = re.sub(r"(?<![0-9])\s|\s(?![0-9])", "", text)  # `3 1/2` is not `31/2`
    if _ONLY_LETTERS.fullmatch(key):
        key = re.sub(r"^\(([a-z])\)$", r"\1", key.lower())  # a choice: `(B)`; elsewhere `V-v` is not `v-V`
    return _Reading(text, key, unit, percent, _WORD.search(text) is not None, number)


def _tidy(answer: str) -> str:
    """The answer without what never changes its meaning: delimiters, currency, spacing, sizes, degree signs."""
    text = _TOKEN.sub(
        lambda match: r"\\" if match["row"] else " " if match["space"] else "", answer.translate(_CHARACTERS)
    )
    text = _strip(" ".join(text.replace("{,}", ",").split()))
    whole = _WRAPPER.fullmatch(text)
    text = _FRAC.sub(lambda match: r"\frac" + (r"{\pi}" if match[1] else ""), _strip(whole[1]) if whole else text)
    return _AND_OR.sub(", ", text)


def _strip(text: str) -> str:
    """Without what closes a sentence, a bold face or a line: ``12.``, ``**12**``, ``12\\\\``."""
    return text.strip(" *").rstrip(" .,;:*\\")


def _same_number(left: _Reading, right: _Reading) -> bool:
    assert left.number is not None
    assert right.number is not None
    a, b = left.number, right.number
    if left.percent != right.percent:
        percentage, plain = (a, b) if left.percent else (b, a)
        if percentage.value / 100 == plain.value:
            return True
    return a.value == b.value or a.is_rounded(b) or b.is_rounded(a)


# -------- numbers: what people write → the exact value --------
#
# Exact, because a rounding that forgives `0.333` for 1/3 also takes 1e-9 for 2e-9. Texts are expected tidied: single
# spaces, no currency, `\frac` for its variants.


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
# `-1/2`, `\frac12`, `\frac{3}{4}`, and mixed numbers: `3 1/2`, `3\frac{1}{2}`
_QUOTIENT = re.compile(
    r"([+-]?)\s*(?:([0-9]+)(?=\s|\\)\s*)?"
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
        exponent = next((power for power in exponents if power is not None), None)
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

# After a number or another quantity: `\text{ cm}^2`, `\mathrm{square feet}`; ` apples`, ` cm^2`, ` p.m`, not ` x`.
_WORDS = r"[A-Za-z.\s/-]*"
_POWER = r"(?:\s*\^\s*\{?\s*([23])\s*\}?)?$"
_WRAPPED_UNIT = re.compile(rf"\s*\\(?:text|textrm|textbf|mathrm|mbox)\s*\{{\s*([A-Za-z]{_WORDS})\}}{_POWER}")
_PLAIN_UNIT = re.compile(rf"\s([A-Za-z]{{2}}{_WORDS}|[ap]\.m){_POWER}")
# `11_2`, `11_{16}`
_BASE = re.compile(r"([0-9]+)\s*_\s*(?:\{\s*([0-9]+)\s*\}|([0-9]))")
_FACTORS = {"dozen": 12, "hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_PERCENT_WORDS = ("percent", "percentage", "pct")
_PLURAL = re.compile("e?s?$")  # `inch` and `inches`, `mile` and `miles`
# What follows a number and changes it, as a unit does not: `2 thirds`, `3 squared`.
_OPERATION = re.compile("and|or|not|pi|sqrt|root|squared|cubed|factorial|mod|half|halves|thirds?|quarters?")


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
    if any(map(_OPERATION.fullmatch, words)):
        return text, "", 1
    factor = 1
    for word in words:
        factor *= _FACTORS.get(word, 1)
    if factor != 1 and read_number(quantity) is None:
        return text, "", 1  # `2\pi\text{ million}`: without a number to multiply, the words stay
    if not set(words).isdisjoint(_PERCENT_WORDS):
        return f"{quantity}%", "", 1
    unit = " ".join(_PLURAL.sub("", word) for word in words if word not in _FACTORS)
    return quantity, f"{unit}^{match[2]}" if match[2] else unit, factor
