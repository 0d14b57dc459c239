"""Do two answers mean the same mathematics? `math-verify` (on sympy) decides, within a time limit.

Only for what plain text and numbers cannot settle (see `answers.py`): radicals, sets, tuples, intervals, equations,
matrices, formulas. Sympy may compute for hours on a stray tower of powers; math-verify stops it with
an alarm signal (in place of any that the caller had set), which only the main thread can receive. In any other
thread the comparison therefore runs in a process of its own: about a second slower, the same answer.

Reference: Kydlíček, Math-Verify, https://github.com/huggingface/Math-Verify
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

SECONDS = 5  # for reading each answer, and for comparing them; math-verify's own default
_START = 60  # for a process of its own to import sympy on a busy machine
_CLOSE = 1e-6  # relative
_LONGEST = 500  # characters; a degenerate response, `((((…`, would use up its time limit to be wrong


def equivalent(gold: str, predicted: str) -> bool:
    r"""Whether two LaTeX (or plain) expressions are mathematically the same; False if either cannot be read
    or is longer than any answer (500 characters). A derivative is a symbol of its own, and an answer with another
    differential operator (``\nabla``) equals its own text alone.

    The order matters: an answer ``x=5`` is right where ``5`` is asked for and the other way round, an interval
    is right where an inequality is asked for but an inequality is not an interval.
    """
    if max(len(gold), len(predicted)) > _LONGEST:
        return False
    if threading.current_thread() is threading.main_thread():
        return _compare(gold, predicted)
    # -P and a file instead of -m: neither this folder nor the working one may shadow what sympy imports.
    command = [sys.executable, "-P", __file__]
    request = json.dumps([gold, predicted])
    try:
        done = subprocess.run(
            command, input=request, capture_output=True, text=True, check=True, timeout=_START + 4 * SECONDS
        )
    except subprocess.TimeoutExpired:
        return False
    return bool(json.loads(done.stdout))


def _compare(gold: str, predicted: str) -> bool:
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, verify

    texts = _without_derivatives(gold, predicted)
    if texts is None:
        return False
    # Its list of units holds `t`, `c`, `s` and `ab`, which it takes away as readily from mathematics.
    normalization = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none"
    )
    parsed = [
        parse(
            f"${text}$",
            [LatexExtractionConfig(boxed_match_priority=-1, normalization_config=normalization)],
            fallback_mode="no_fallback",
            extraction_mode="first_match",  # the whole answer or nothing, not a fraction found inside it
            parsing_timeout=SECONDS,
        )
        for text in _tell_cases_apart(*texts)
    ]
    if not all(parsed) or not verify(*parsed, timeout_seconds=SECONDS):
        return False
    return not _far_apart(parsed[0][0], parsed[1][0])


# `V`, `\Omega`, `\sin`, `\begin{pmatrix}` as a whole: its letters name nothing.
_LETTER = re.compile(r"\\(?:begin|end)\s*\{[^{}]*\}|\\[A-Za-z]+|[A-Za-z]")
_SPARE_LETTERS = (r"\xi", r"\chi", r"\kappa", r"\eta", r"\nu", r"\iota", r"\upsilon", r"\tau")
# `\frac{d \omega}{d t}`, `\frac{\partial^2 u}{\partial x^2}`, `y''`, `\dot x`; not `\dots`, `\frac{a}{b}`
_INSIDE = r"(?:[^{}]|\{[^{}]*\})*"
_OF = r"\{\s*(?:d|\\partial)\s*"
_DERIVATIVE = re.compile(
    rf"\\[dt]?frac\s*{_OF}(?:\^\s*(?:[0-9]|\{{[0-9]\}}))?\s*(?:\\?[A-Za-z]{_INSIDE})?\}}\s*{_OF}\\?[A-Za-z]{_INSIDE}\}}|"
    r"(?:\\[A-Za-z]+|[A-Za-z])\s*(?:'+|\^\s*(?:\{\s*(?:\\prime\s*)+\}|\\prime(?![A-Za-z])))|"
    rf"\\d?dot(?![A-Za-z])\s*(?:\{{{_INSIDE}\}}|\\?[A-Za-z]+)"
)
_OPERATOR = re.compile(r"\\(?:nabla|partial)(?![A-Za-z])")


def _letters(texts: Sequence[str]) -> set[str]:
    """The letters and commands that texts have."""
    return {match for text in texts for match in _LETTER.findall(text)}


def _without_derivatives(*texts: str) -> list[str] | None:
    """The texts with a symbol for each derivative, as sympy takes those of symbols for 0; None where that cannot be."""
    letters = _letters(texts)
    spare = [name for name in reversed(_SPARE_LETTERS) if name not in letters]
    found = dict.fromkeys(_derivative(match) for text in texts for match in _DERIVATIVE.finditer(text))
    if len(found) > len(spare) or any(_OPERATOR.search(_DERIVATIVE.sub("", text)) for text in texts):
        return None
    names = dict(zip(found, spare, strict=False))
    return [_DERIVATIVE.sub(lambda match: f" {names[_derivative(match)]} ", text) for text in texts]


def _derivative(match: re.Match[str]) -> str:
    """A derivative in one spelling: `\\dot{x}` is `\\dot x`, `y^{\\prime}` is `y'`."""
    text = re.sub(r"\s+", "", match[0]).replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    text = re.sub(r"\^\{?((?:\\prime)+)\}?", lambda primes: "'" * primes[1].count("prime"), text)
    return re.sub(r"\{(\\?[A-Za-z]+|[0-9])\}", r"\1", text)


def _tell_cases_apart(*texts: str) -> list[str]:
    """The texts with other names for capitals whose small letter occurs too: math-verify reads V as v, Ω as ω."""
    letters = _letters(texts)
    spare = (name for name in _SPARE_LETTERS if name not in letters)
    capitals = sorted(letter for letter in letters if letter != letter.lower() and letter.lower() in letters)
    names = dict(zip(capitals, spare, strict=False))
    return [_LETTER.sub(lambda match: names[match[0]] + " " if match[0] in names else match[0], text) for text in texts]


def _far_apart(left: Any, right: Any) -> bool:
    """Whether both are constants and differ by more than rounding.

    math-verify compares constants to six or fifteen places after the point, where all small numbers are alike:
    it takes 3/2^98 for 3/2^99.
    """
    import sympy
    from math_verify.errors import TimeoutException
    from math_verify.utils import timeout

    if not all(isinstance(value, sympy.Expr) and value.is_number for value in (left, right)):
        return False

    def relative() -> Any:
        sizes = [sympy.Abs(value).evalf(30) for value in (left, right, left - right)]
        known = all(isinstance(size, sympy.Number) and size.is_finite for size in sizes)
        return known and sizes[2] > _CLOSE * max(sizes[0], sizes[1])

    try:
        return bool(timeout(SECONDS)(relative)())
    except (ArithmeticError, AttributeError, NotImplementedError, RecursionError, TypeError, ValueError):
        return False  # sympy cannot say how large they are; math-verify could say that they agree
    except TimeoutException:
        return False


if __name__ == "__main__":
    print(json.dumps(_compare(*json.load(sys.stdin))))
