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

from stepjepa.data.golds import stated_answer
from stepjepa.data.notation import MINUS_SIGNS
from stepjepa.data.numbers import DECIMAL
from stepjepa.data.readings import same_answer
from stepjepa.data.thoughts import split_thoughts
from stepjepa.evaluation.equivalence import equivalent

# -------- extraction --------

# `1{,}234`, `1\,234`, `12 500`: digits in groups
_GROUPED = r"[0-9]{1,3}(?:(?:\{,\}|\\,|,\\!|[ \u00a0\u2009\u202f])[0-9]{3})+(?![0-9]|-[A-Za-z])(?:\.[0-9]+)?"
_PLAIN = rf"(?:{_GROUPED}|{DECIMAL})"
# `5:30 PM`, `12:05`, `3:5`
_COLON = r"[0-9]+:[0-9]+(?::[0-9]{2})?(?:\s?[ap]\.?m\b\.?)?"
# `\times10^{-3}`, ` x 10^5`, `e5`
_POWER = r"(?:[eE][+-]?[0-9]{1,4}(?![0-9])|\s*(?:\\times|\\cdot|×|x)\s*10\s*\^\s*(?:\{[+-]?[0-9]{1,4}\}|[0-9]))"
_RAISED = rf"{DECIMAL}\s*\^\s*(?:\{{-?[0-9]{{1,4}}\}}|[0-9]{{1,4}})"  # `10^6`, `2^{10}`
_LATEX_FRACTION = rf"\\[dtc]?frac(?:\{{-?{DECIMAL}\}}\{{{DECIMAL}\}}|[0-9][0-9])"
# The last of them is the answer: `-3`, `-$5`, `1,450.50`, `3/4`, `2 1/2`, `2\frac{1}{2}`, `½`, `2e5`, `0.\overline{3}`,
# `5:30 PM`. A hyphen after a digit, a letter or a bracket subtracts or is a range: of `10-4` and `3-5 days` the 4 and
# the 5.
_LAST_NUMBER = re.compile(
    rf"(?<![\w)}}\].])(?:-(?:\\?[$€£¥])?)?(?:{_COLON}|[0-9]+ [0-9]+/[0-9]+|[0-9]*{_LATEX_FRACTION}|[0-9]*[¼½¾⅐-⅞]|"
    rf"[0-9]*\.[0-9]*(?:\\overline\{{[0-9]+\}}|\([0-9]+\))|{_RAISED}|{_PLAIN}(?:/{DECIMAL}|{_POWER})?)|{_PLAIN}",
    re.I,
)


def extract_answer(text: str) -> str | None:
    r"""The final answer of a response, or None where there is none.

    Taken from the last box (:func:`stepjepa.data.boxes.last_boxed`), else from what follows the last ``####`` on its
    line (anywhere in the text; a Markdown heading is no answer), else the last number, as it is written: fractions,
    mixed numbers, scientific notation and times count as one. An empty box is an answer, the empty one, only where
    there is nothing else. Thoughts (:func:`split_thoughts`) are not an answer, even if nothing follows them.
    """
    text = split_thoughts(text)[1]
    stated = stated_answer(text)
    if stated:
        return stated
    numbers = _LAST_NUMBER.findall(text.translate(_IN_PROSE))
    return str(numbers[-1]).rstrip(".") if numbers else stated


_IN_PROSE = MINUS_SIGNS | {0xFF10 + digit: str(digit) for digit in range(10)}  # `−`, `５`


# -------- as lm-evaluation-harness reads GSM8K --------

# `#### 1,450`, `#### -5`, `#### .`; not `####5` nor `#### $5`.
_STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")
# `$1,450.00`, `-5`, `...`
_FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
_FINAL_DOT = re.compile(r"\.$")  # of `5.`, also before a last line end


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
    """Without what the task's `regexes_to_ignore` match: `,`, `$`, all up to the last `#### `, a final dot."""
    return _FINAL_DOT.sub("", text.replace(",", "").replace("$", "").rpartition("#### ")[2]).lower()


# -------- comparison --------


def answers_match(predicted: str | None, gold: str) -> bool:
    r"""Whether an answer is right.

    Notation does not count: thousands separators (``1,450,000``, ``1{,}000``, ``1\,000``, ``1 000``), closing dots and
    zeros, ``\dfrac``, ``\left``, ``\text``, size, colour and face, spacing, case, Unicode for LaTeX (``½``, ``–3``).
    Numbers are compared exactly, whether written as ``0.5``, ``.5``, ``1/2``, ``\frac12``, ``5e-1``,
    ``5\times10^{-1}``, ``2 1/2`` or ``0.\overline{3}``; a decimal with at least six digits equals the fraction that
    rounds to it. Everything else is compared by math-verify. Conventions, each a test:

    - A unit (``5\text{ cm}``, ``7km``, ``5 apples``, ``\$5``, ``90^\circ``, base ``11_2``) is ignored if only one side
      states it; two different units never match, degree and radian among them, and none is converted.
      ``5\text{ million}`` is 5,000,000.
    - A letter is a variable rather than a unit: ``4t``, ``2ab`` and ``5m`` are not 4, 2 and 5. Plain ``5 m`` is a
      length only as an answer to a bare number, which has no variable; ``5 m/s`` and ``7km`` are units.
    - A percentage equals its number and its value: ``5\%`` matches ``5`` and ``0.05``; ``5`` is not ``0.05``.
    - ``3:30`` is a time: hours, minutes and half of the day each count, the half only if both sides state one. ``3:75``
      and ``1:2`` are ratios.
    - ``x=5`` matches ``5``, not ``y=5``; of an equation only the right-hand side counts against a bare answer. So does
      a label: ``\text{Area} = 12`` and ``The answer is 12`` are ``12``; two different labels do not match.
    - ``1,2`` is a list: it matches ``2,1``, ``\{1,2\}``, ``x=1\text{ or }x=2`` and the pair ``(1,2)``, never ``12``;
      ``(1,2)`` is not ``(2,1)`` nor ``[1,2]``. ``1,234`` is a number, ``1, 234`` is a list. How often an item is
      there counts: ``1,1`` is not ``1``, but ``\{1,1\}`` is the set ``\{1\}``, and ``1/2\text{ or }0.5`` states one.
    - Where a letter A to J is asked for, ``(C) 12`` and ``C: 12`` are ``C``; they are not ``12``.
    - Words are compared as text, and so is an answer longer than 2,000 characters. An empty answer matches nothing,
      not even an empty one.

    Args:
        predicted: The extracted answer; None is wrong.
        gold: The reference answer.
    """
    return predicted is not None and same_answer(predicted, gold, equivalent)
