"""The right answer is read from the right place, and only what means the same matches."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from fractions import Fraction
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
from real_data import DATA

from stepjepa.data.readings import read_answer
from stepjepa.data.sources import read_examples
from stepjepa.evaluation import equivalence
from stepjepa.evaluation.answers import answers_match, exact_match, extract_answer, flexible_extract, strict_match
from stepjepa.evaluation.equivalence import equivalent

# -------- where the answer stands --------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The answer is \\boxed{19}.", "19"),
        ("First \\boxed{3}, no: \\boxed{4}.", "4"),  # elsewhere: the first box
        ("So \\boxed{\\frac{1}{2}} it is.", "\\frac{1}{2}"),  # elsewhere: `\frac{1`
        ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}"),
        ("\\boxed{a_{b_{c}}} and 7", "a_{b_{c}}"),
        ("\\boxed{5} then \\boxed{6", "5"),
        ("in all \\boxed{6", "6"),
        ("\\boxed {8}", "8"),
        ("\\fbox{9}", "9"),
        ("\\boxed{\\boxed{7}}", "7"),
        ("\\boxed{}", ""),
        ("It is 9. You want it in \\boxed{}.", "9"),
        ("\\boxed{9} as you want it in \\boxed{}.", "9"),
        ("So $\\boxed 7$, for all 3 cases.", "7"),
        ("The roots are $\\boxed{2}$ and $\\boxed{5}$.", "2, 5"),
        ("\\boxed{5} as in #### 6", "5"),
        ("<think>Is it \\boxed{3}?</think>\n\nIt is \\boxed{4}.", "4"),
        ("Is it \\boxed{3}? Surely.</think> It is 4.", "4"),
        ("<think>It must be \\boxed{3}", None),
        ("Work.\n#### 72", "72"),
        ("#### 72\nI checked this in 3 ways.", "72"),  # elsewhere: only on the last line
        ("#### 1\n#### $1,450,000 \nDone.", "$1,450,000"),
        ("So ####-3 it is", "-3 it is"),
        ("#### \\frac{1}{2}", "\\frac{1}{2}"),
        ("#### \\text{Evelyn}", "\\text{Evelyn}"),
        ("#### **72**", "**72**"),
        ("#### Step 1\nAdd 2 and 3.\n#### Final Answer\nIt is 5.", "5"),
        ("#### 1. Add\n2 + 3\n#### 2. Conclude\nIt is 5.", "5"),
        ("##### 4\nIt is 5.", "5"),
        ("####\n12", "12"),
        ("She pays 3 dollars, so 1,450,000 in all.", "1,450,000"),  # elsewhere: `000`
        ("It is -4.5 degrees", "-4.5"),
        ("It is −4", "-4"),
        ("12 + 7 = 19.", "19"),
        ("10-4", "4"),
        ("(2+3)-4", "4"),
        ("3-5 days", "5"),
        ("x = -3", "-3"),
        ("x=-3", "-3"),
        ("So 3/4.", "3/4"),
        ("So x = -\\frac{3}{4}$", "-\\frac{3}{4}"),
        ("So \\dfrac34", "\\dfrac34"),
        ("about 4.5e33 erg", "4.5e33"),
        ("costs $.50 each", ".50"),
        ("1,4500", "4500"),
        ("pick 1,2", "2"),
        ("I paid 7...", "7"),
        ("50%", "50"),
        ("no number at all", None),
        ("The total is $1{,}234$ items.", "1{,}234"),
        ("The total is $1\\,234.50$.", "1\\,234.50"),
        ("The change is -$5.", "-$5"),
        ("It is $-5$", "-5"),
        ("from $3-$5", "5"),
        ("She walked 2 1/2 miles.", "2 1/2"),
        ("She walked 2½ miles.", "2½"),
        ("It is $2\\frac{1}{2}$.", "2\\frac{1}{2}"),
        ("So x = –3.", "-3"),
        ("so—5", "5"),
        ("It ends at 5:30 PM.", "5:30 PM"),
        ("The ratio is 3:5.", "3:5"),
        ("which is 0.\\overline{3}.", "0.\\overline{3}"),
        ("about $3.5 \\times 10^{8}$ m", "3.5 \\times 10^{8}"),
        ("一共是１４公斤。", "14"),
        ("<thinking>Is it \\boxed{3}?</thinking> It is 4.", "4"),
        ("The total is 12 500 euros.", "12 500"),
        ("The total is 1 000 000 euros.", "1 000 000"),
        ("in 2020 500 of them", "500"),
        ("She buys 3 100-watt bulbs", "100"),
        ("It is 10^6.", "10^6"),
        ("so $2^{10}$ ways", "2^{10}"),
        ("", None),
    ],
)
def test_extract_answer(text: str, expected: str | None) -> None:
    assert extract_answer(text) == expected


# -------- what counts as the same --------

# The first column is the gold answer. Both columns also have to match themselves.
SAME = [
    ("29", "29.00"),
    ("1450000", "1,450,000"),
    ("1450000", "$1,450,000."),
    ("18", "\\$18"),
    ("18", "18\\%"),
    ("1234", "1{,}234"),
    ("1234", "1,\\!234"),
    ("1234", "1\\,234"),
    ("12", "12 \\text{ }"),
    ("12", "12."),
    ("12", "$12$"),
    ("12", "\\(12\\)"),
    ("12", "**12**"),
    ("12", "12\\\\"),
    ("7", "007"),
    ("2", "+2"),
    ("0", "-0"),
    ("0.5", ".5"),
    ("\\frac{1}{2}", "0.5"),
    ("\\frac{1}{2}", "\\dfrac12"),
    ("\\frac34", "3/4"),
    ("-\\frac{1}{2}", "-.5"),
    ("-\\frac{1}{2}", "\\frac{-1}{2}"),
    ("-\\frac{1}{2}", "\\frac{1}{-2}"),
    ("\\frac{1}{2}", "\\tfrac 1 2"),
    ("3\\frac{1}{2}", "7/2"),
    ("3.5", "3 1/2"),
    ("\\frac{12}{5,\\!525}", "\\frac{12}{5525}"),
    ("-1./3", "-1/3"),
    ("\\frac{1}{3}", "0.333333"),
    ("\\frac{2}{3}", "0.6666667"),
    ("10^{3}", "1000"),
    ("10^3", "1{,}000"),
    ("4.5e33", "4.5\\times10^{33}"),
    ("4.5e33", "4.5 \\cdot 10^{33}"),
    ("2e-7", "0.0000002"),
    ("1e11", "10^{11}"),
    ("−3", "-3"),
    ("2^{10}", "1024"),
    ("5!", "120"),
    ("\\text{Evelyn}", "evelyn"),
    ("\\text{(B)}", "B"),
    ("E", "\\text{(E)}"),
    ("\\text{A,D}", "A, D"),
    ("\\text{no solution}", "No solution."),
    ("C", "(C)"),
    ("5", "5\\text{ cm}"),
    ("5\\text{ cm}", "5"),
    ("5", "5 apples"),
    ("5", "5\\mathrm{~km/h}"),
    ("16", "16\\text{ cm}^2"),
    ("16\\text{ square units}", "16"),
    ("5\\text{ inches}", "5 inch"),
    ("90^\\circ", "90"),
    ("60", "60^{\\circ}"),
    ("60", "60°"),
    ("60", "60\\text{ degrees}"),
    ("1011_2", "1011"),
    ("1011_2", "1011_{2}"),
    ("3\\pi", "3\\pi\\text{ cm}"),
    ("5{,}000{,}000", "5\\text{ million dollars}"),
    ("24", "2 dozen"),
    ("8", "8 p.m."),
    ("5\\%", "5"),
    ("5\\%", "0.05"),
    ("0.05", "5\\%"),
    ("5", "5 percent"),
    ("\\frac{1}{4}", "25%"),
    ("5\\%", "5 \\%"),
    ("x=5", "5"),
    ("5", "x=5"),
    ("5", "2+3"),
    ("y=2x+3", "2x+3"),
    ("2x+3y=4", "4x+6y=8"),
    ("\\sqrt{8}", "2\\sqrt2"),
    ("2\\sqrt{13}", "2\\sqrt{13}\\text{ cm}"),
    ("\\frac{\\sqrt{2}}{2}", "\\frac{1}{\\sqrt2}"),
    ("x+1", "1+x"),
    ("(x+1)^2", "x^2+2x+1"),
    ("e^{t} / 3", "\\frac{1}{3}e^t"),
    ("\\frac \\pi4", "\\frac{\\pi}{4}"),
    ("1,2", "2,1"),
    ("1,2", "\\{1,2\\}"),
    ("1,2", "1\\text{ and }2"),
    ("1,2", "x=1\\text{ or }x=2"),
    ("(1,2)", "1,2"),
    ("(1,2)", "\\left( 1, 2 \\right)"),
    ("(\\frac{1}{2},3)", "(0.5,3)"),
    ("1,234", "1234"),
    ("3\\pm\\sqrt2", "3+\\sqrt2,3-\\sqrt2"),
    ("[-2,7]", "x \\in [-2,7]"),
    ("x\\le 3", "(-\\infty,3]"),
    ("(-\\infty, 1)\\cup(2,\\infty)", "\\left(2,\\infty\\right)\\cup\\left(-\\infty,1\\right)"),
    ("\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", "\\begin{bmatrix}1\\\\2\\end{bmatrix}"),
    ("\\begin{pmatrix} 1/2 \\\\ 2 \\end{pmatrix}", "\\begin{pmatrix}\\frac12\\\\[2pt]2\\end{pmatrix}"),
    ("2\\pi", "6.283185"),
    ("\\frac{3}{2^{98}}", "\\frac{6}{2^{99}}"),
    ("\\infty", "∞"),
    ("\\frac{7}{5} + \\frac{1}{5} i.", "\\frac{7+i}{5}"),
    ("V-v", "-v+V"),
    # times of day
    ("5:30\\text{ p.m.}", "5:30 PM"),
    ("5:30", "5:30 PM"),
    ("17:30", "5:30 pm"),
    ("6 p.m.", "6PM"),
    ("7:00", "7 o'clock"),
    ("1:2", "10:20"),
    # layout
    ("(1,2)", "\\bigl(1,2\\bigr)"),
    ("9/7", "\\left.\\frac{9}{7}\\right."),
    ("12", "\\color{blue}{12}"),
    ("5", "\\textcolor{red}{5}"),
    ("\\{1,2\\}", "\\Big\\{1,2\\Big\\}"),
    ("5", "{\\bf 5}"),
    ("2^{12}", "2^\\mathbf{12}"),
    ("5", "5\\hspace{2mm}"),
    ("5\\text{ m}", "5 {\\rm m}"),
    # Unicode
    ("5/2", "2½"),
    ("2\\sqrt{3}", "2√3"),
    ("x^3", "x³"),
    ("x_{12}", "x₁₂"),
    ("x\\le 3", "x ≤ 3"),
    ("-5", "–5"),
    ("0.75", "３/４"),
    ("\\alpha+\\beta", "β+α"),
    # a letter is asked for
    ("C", "\\textbf{(C)}\\ 12"),
    ("C", "C: 12"),
    ("A", "A)"),
    ("\\text{(D)}", "D. 5\\pi"),
    # what the answer is said to be
    ("12", "\\text{The answer is } 12"),
    ("460", "\\text{The answer is 460}"),
    ("12", "\\text{Area} = 12\\text{ cm}^2"),
    ("5", "= 5"),
    ("3.14", "\\approx 3.14"),
    ("14", "Ответ: 14"),
    ("14", "答案是14"),
    # units
    ("15 min", "15 minutes"),
    ("5", "5 m/s"),
    ("5\\text{ m/s}", "5 meters per second"),
    ("3\\times 10^8", "3.00 \\times 10^{8} \\mathrm{~m} / \\mathrm{s}"),
    ("5 m^2", "5\\text{ m}^2"),
    ("5 cm^3", "5 cubic centimeters"),
    ("60 mph", "60 miles per hour"),
    ("5", "5\\text{¢}"),
    ("5 euros", "€5"),
    ("5000000", "\\$5 million"),
    ("7", "7km"),
    ("5", "5 m"),
    ("5\\text{ m}", "5m"),
    ("25\\text{ degrees Celsius}", "25°C"),
    ("18 ways", "18 different ways"),
    ("14 公斤", "14公斤"),
    # repeating decimals
    ("1/3", "0.\\overline{3}"),
    ("0.\\overline{142857}", "1/7"),
    ("\\frac{1}{6}", "0.1(6)"),
    ("1", "0.\\bar{9}"),
    # lists
    ("1, 1", "1\\text{ and }1"),
    ("\\{1\\}", "\\{1,1\\}"),
    ("15\\frac{39}{40}\\text{ or }\\frac{639}{40}", "15.975"),
    ("x+11\\text{ or }11+x", "11+x"),
    ("(1,2),(3,4)", "(3, 4), (1, 2)"),
    ("2,3", "x=2; x=3"),
    ("4972896", "x = 4,972,896"),
    # what symbols are said to be
    ("(5,3)", "(x,y)=(5,3)"),
    ("(r, \\theta) = (2, \\pi)", "(2, \\pi)"),
    ("[5,6]", "x = [5,6]"),
    ("\\{1,2\\}", "S=\\{2,1\\}"),
    ("\\text{Dana}", "x = \\text{Dana}"),
    ("\\text{4:30 p.m.}", "t_1=\\text{4:30 p.m.}"),
    ("5 m/s", "v = 5 m/s"),
    ("5", "n = 5 cm"),
    # a label before what a formula encloses
    ("36^\\circ", "The answer is $36^\\circ$"),
    ("5\\text{ cm}^2", "\\text{Area} = $5\\text{ cm}^2$"),
    ("5\\%", "The answer is $5\\%$"),
    ("5000", "5 000"),
    # a derivative is a symbol of its own
    ("m \\frac{d v}{d t}+b v=f", "\\frac{dv}{dt} m + bv = f"),
    ("y''+5y=0", "5y + y'' = 0"),
    ("\\dot{x}+x=2", "x + \\dot x = 2"),
    ("y'+5y=0", "5y + y^{\\prime} = 0"),
    ("\\frac{d^2 y}{d x^{2}}=y+1", "1+y=\\frac{d^{2}y}{dx^2}"),
    ("1, 2, \\dots, n", "1, 2, \\dots, n"),
    ("I \\frac{d \\omega}{d t}+B \\Omega=T_{1}", "B\\Omega+I\\frac{d\\omega}{dt}=T_{1}"),
]

DIFFERENT = [
    ("5 cm", "5 m"),
    ("3 g", "3 kg"),
    ("5 L", "5 mL"),
    ("29", "29.50"),
    ("3", "-3"),
    ("12", "1,2"),
    ("1,2", "12"),
    ("1450000", "000"),
    ("1450000", "450000"),
    ("1450000", "1"),
    ("0", "nan"),
    ("0", "none"),
    ("5", ""),
    ("", ""),
    ("", "5"),
    ("\\text{}", "\\text{ }"),
    (".", "."),
    ("$", "$"),
    ("31/2", "3 1/2"),
    ("52", "5²"),
    ("1", "1 000/3"),
    ("\\frac{1}{2}", "\\frac{2}{1}"),
    ("\\frac{1}{3}", "0.333"),
    ("\\frac{1}{3}", "0.33"),
    ("\\frac{1}{3}", "0.333334"),
    ("1e-9", "2e-9"),
    ("0.0000001", "0.0000002"),
    ("0.0000001", "0"),
    ("6.7e-27", "1.2e-30"),
    ("\\frac{3}{2^{98}}", "\\frac{3}{2^{99}}"),
    ("\\sqrt{2}\\cdot10^{-20}", "\\sqrt{3}\\cdot10^{-20}"),
    ("10^{3}", "103"),
    ("10^3", "100"),
    ("1000001", "10^6"),
    ("5\\%", "0.5"),
    ("5", "0.05"),
    ("0.05", "5"),
    ("5\\%", "500\\%"),
    ("5\\%", "0.05\\%"),
    ("x=5", "y=5"),
    ("x=5", "6"),
    ("5", "x=6"),
    ("5", "x=3,x=5"),
    ("5", "3,5"),
    ("3,5", "5"),
    ("1,2,3", "1,2"),
    ("(1,2)", "(2,1)"),
    ("(1,2)", "[1,2]"),
    ("[1,2]", "(1,2)"),
    ("(100,200)", "(100200)"),
    ("1,234", "1, 234"),
    ("(-\\infty,3]", "x\\le 3"),
    ("(-2,1)", "[-2,1]"),
    ("5\\text{ cm}", "5\\text{ m}"),
    ("16\\text{ cm}^2", "16\\text{ cm}"),
    ("10\\text{ a.m.}", "10\\text{ p.m.}"),
    ("1011_2", "1011_3"),
    ("5", "5\\text{ million}"),
    ("5", "5 million"),
    ("5", "5 pi"),
    ("5", "5x"),
    ("5", "5 x"),
    ("1", "1\\text{ hour }30\\text{ minutes}"),
    ("30", "1 hour 30 minutes"),
    ("5", "5 dollars and 30 cents"),
    ("20", "\\text{June 20}"),
    ("\\text{June 20}", "\\text{June 21}"),
    ("5", "5 squared"),
    ("5", "five"),
    ("\\text{even}", "neve"),
    ("left", "felt"),
    ("\\text{odd}", "\\text{even}"),
    ("\\text{yes}", "\\text{no}"),
    ("A", "B"),
    ("\\omega", "\\Omega"),
    ("V-v", "v-V"),
    ("x", "2x"),
    ("2x", "2X"),
    ("T-t", "t-T"),
    ("\\Omega t", "\\omega t"),
    ("\\sin x", "\\cos x"),
    ("\\infty", "-\\infty"),
    ("i", "-i"),
    ("\\frac{1}{2}", "garbage \\frac{1}{2} garbage"),
    ("5", "garbage 5"),
    ("\\pi", "3.14"),
    ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix}2\\\\1\\end{pmatrix}"),
    ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix}1&2\\end{pmatrix}"),
    ("5", "\\frac{5}{0}"),
    ("\\frac{1}{0}", "\\frac{2}{0}"),
    # a variable is no unit
    ("4t", "4"),
    ("4", "4t"),
    ("3+5t", "8"),
    ("2", "2ab"),
    ("2", "2 ab"),
    ("\\sqrt{3}", "\\sqrt{3}s"),
    ("\\frac{1}{\\sqrt{2}}c", "\\frac{1}{\\sqrt{2}}"),
    ("\\frac{1}{m} t", "\\frac{1}{m}"),
    ("y=4t", "y=4"),
    ("5 m", "5"),
    ("5", "5m"),
    ("5", "5\\,m"),
    # another unit
    ("7km", "7mm"),
    ("7kg", "7g"),
    ("7 m/s", "7 m/s^2"),
    ("\\$5", "€5"),
    ("\\$5", "5\\%"),
    ("90^\\circ", "90\\text{ radians}"),
    ("25°C", "25°F"),
    ("5 minutes", "5 m"),
    # another time
    ("9am", "9pm"),
    ("3:30", "4:40"),
    ("1:15", "2:30"),
    ("3:30 AM", "3:30 PM"),
    # another label, choice or list
    ("\\text{Area} = 12", "\\text{Perimeter} = 12"),
    ("a=5", "b=5"),
    ("C", "(D) 12"),
    ("A", "A) and B)"),
    ("12", "(C) 12"),
    ("1", "1,1"),
    ("5", "5,5,5"),
    ("1,1,2", "1,2,2"),
    ("x=1,y=2", "(2,1)"),
    ("3", "x = 3\\text{ or }5"),
    ("0.\\overline{12}", "0.\\overline{21}"),
    ("1/3", "0.(31)"),
    ("T", "t"),
    ("(5,3)", "(x,y)=(3,5)"),
    ("(x,y)=(5,3)", "(a,b)=(5,3)"),
    # derivatives
    ("I \\frac{d \\omega}{d t}+2 B \\omega=T", "2 B \\omega=T"),
    ("I \\frac{d \\omega}{d t}+2 B \\omega=T", "-I \\frac{d \\omega}{d t}+2 B \\omega=T"),
    ("\\frac{d x}{d t}=k x-a", "0=k x-a"),
    ("m \\frac{d v}{d t}+b v=f", "-m \\frac{d v}{d t}+b v=f"),
    ("\\frac{dM}{dt}=M^6", "\\frac{dM}{dr}=M^6"),
    ("\\frac{\\partial u}{\\partial t}=u", "\\frac{\\partial u}{\\partial x}=u"),
    ("y'=3y", "y=3y"),
    ("\\frac{d^2 y}{d x^{2}}+y=1", "y=1"),
    ("\\dot x + x = 2", "x=2"),
    ("x'+5x=0", "x''+5x=0"),
    ("\\nabla\\times E=0", "\\nabla\\cdot E=0"),
]


@pytest.mark.parametrize(("gold", "predicted"), SAME)
def test_the_same_in_another_notation(gold: str, predicted: str) -> None:
    assert answers_match(predicted, gold) is True
    assert answers_match(predicted, predicted) is True
    assert answers_match(gold, gold) is True


@pytest.mark.parametrize(("gold", "predicted"), DIFFERENT)
def test_not_the_same(gold: str, predicted: str) -> None:
    assert answers_match(predicted, gold) is False


def test_no_answer_is_wrong() -> None:
    assert not answers_match(None, "5")
    assert not answers_match(None, "")
    assert not answers_match(None, "None")


def test_gold_and_prediction_are_not_exchangeable() -> None:
    """An inequality may be answered by its interval; where an interval is asked for, an inequality is not one."""
    assert answers_match("(-\\infty,3]", gold="x\\le 3")
    assert not answers_match("x\\le 3", gold="(-\\infty,3]")


def test_a_number_matches_itself_in_every_form_and_no_neighbour() -> None:
    draw = random.Random(0)
    for _ in range(300):
        whole, cents = draw.randrange(-3_000_000, 3_000_000), draw.randrange(100)
        value = Fraction(whole) + Fraction(cents, 100) * (1 if whole >= 0 else -1)
        sign, size = ("-" if value < 0 else ""), abs(value)
        units, rest = divmod(size, 1)
        decimal = f"{sign}{int(units)}.{int(rest * 100):02d}"
        grouped = f"{sign}{int(units):,}.{int(rest * 100):02d}"
        forms = [
            decimal,
            grouped,
            decimal + "0",
            grouped.replace(",", "{,}"),
            grouped.replace(",", ",\\!"),
            f"{sign}\\${grouped.lstrip('-')}",
            f"${decimal}$",
            f"\\text{{{grouped}}}",
            f"{grouped} \\text{{ dollars}}",
            f"{sign}\\frac{{{size.numerator}}}{{{size.denominator}}}",
            f"{value.numerator}/{value.denominator}",
            f"{sign}{float(size) / 1000:.5f}\\times 10^{{3}}",
            f"{sign}{float(size) * 1000:.0f}e-3",
        ]
        for form in forms:
            assert answers_match(form, decimal), (form, decimal)
            assert answers_match(decimal, form), (decimal, form)
            for step in (Fraction(1, 100), Fraction(-1, 100), 1, -1):
                neighbour = f"{float(value + step):.2f}"
                assert not answers_match(form, neighbour), (form, neighbour)
            if value:
                assert not answers_match(form, f"{float(-value):.2f}")


# -------- never in the way --------

PIECES = [
    "\\frac",
    "{",
    "}",
    "(",
    ")",
    "[",
    "]",
    "\\{",
    "\\}",
    "\\",
    "$",
    "%",
    "\\%",
    ",",
    ".",
    "1",
    "23",
    "x",
    "=",
    "^",
    "_",
    "\\sqrt",
    "\\text{",
    "\\text{ or }",
    " ",
    "\n",
    "\\\\",
    "&",
    "\\begin{pmatrix}",
    "\\end{pmatrix}",
    "+",
    "-",
    "/",
    "|",
    "\\left",
    "\\right",
    "\\infty",
    "\\pi",
    "é",
    "²",
    "\x00",
    "\ud800",
    "####",
    "\\boxed{",
    "e",
    "million",
    "\\cup",
    "!",
]


def test_nothing_raises() -> None:
    draw = random.Random(1)
    texts = ["".join(draw.choices(PIECES, k=draw.randrange(1, 9))) for _ in range(200)]
    texts += ["9" * 5000, "(" * 2000, "{" * 2000, "\\frac{1}{" * 300, "1e9999", "-" * 5000, "1 " * 3000, "a b " * 3000]
    texts += ["= " * 900, "$" * 1900, "$€" * 900, "(1," * 600, "it is " * 300, "\\{" * 900, "a: " * 600]
    for text in texts:
        assert answers_match(text, "\\sqrt{2}+1") is False, text
        assert answers_match("\\sqrt{2}+1", text) is False, text
        for read in (extract_answer, strict_match, flexible_extract):
            assert isinstance(read(text), str | None)
        exact_match(text, text)


def test_a_runaway_computation_is_stopped_and_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(equivalence, "SECONDS", 1)
    assert not answers_match("9^{9^{9^{9}}} + 1", "\\sqrt{2}+1")


def test_other_threads_agree_with_the_main_one() -> None:
    pairs = [("2\\sqrt2", "\\sqrt8"), ("\ud800+1", "x"), ("3/4", "0.75")]
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.extend(answers_match(*pair) for pair in pairs))
    thread.start()
    thread.join()
    assert found == [answers_match(*pair) for pair in pairs] == [True, False, True]


def test_importing_is_light() -> None:
    code = "import sys, stepjepa.evaluation.answers; print([m for m in ('sympy', 'math_verify', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# -------- gold answers, read back from their own solutions --------


@cache
def examples(name: str) -> list[dict[str, Any]]:
    path = DATA / name / "test.jsonl"
    if not path.exists():
        pytest.skip(f"{name} is absent")
    return read_examples(path, strict=True)[0]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "rows"), [("math", 5000), ("gsm8k", 1319), ("minerva_ocw", 272)])
def test_every_gold_answer_is_read_back_from_its_solution(name: str, rows: int) -> None:
    """From the steps as they are trained, after splitting and joining."""
    found = [(extract_answer("\n\n".join(each["steps"])), each["answer"]) for each in examples(name)]
    assert len(found) == rows
    assert [pair for pair in found if not answers_match(*pair)] == []
    assert [gold for _, gold in found if not answers_match(gold, gold)] == []


@pytest.mark.slow
def test_gold_answers_of_raw_gsm8k_solutions() -> None:
    """With `####` instead of a box, and of the last number where even that mark is taken away."""
    rows = [(each["steps"][:-1], each["answer"]) for each in examples("gsm8k")]
    marked = [extract_answer("\n".join([*steps, f"#### {gold}"])) for steps, gold in rows]
    assert all(answers_match(found, gold) for found, (_, gold) in zip(marked, rows, strict=True))
    bare = [extract_answer("\n".join([*steps, f"So it is ${gold}."])) for steps, gold in rows]
    assert all(answers_match(found, gold) for found, (_, gold) in zip(bare, rows, strict=True))


def plain(answer: str) -> str:
    return read_answer(answer).text


# What math-verify cannot read, of the 1,909 and 255 different answers; equal texts match all the same.
UNREADABLE = {
    "math": ["4:30 p.m", "\\frac{12}{5,525}"],
    "minerva_ocw": [
        "-1./3",
        "-3./2",
        "E_{1},E_{2}",
        "\\frac{1}{3} E_{1}+\\frac{2}{3} E_{2}",
        "\\frac{dM}{dt}=\\frac{10^{5} L_{\\odot}}{0.007 c^{2} M_{\\odot}^{6}} M^{6}",
        "np.arcsin(10/13)",
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "different", "every"), [("math", 1909, 12), ("minerva_ocw", 255, 4)])
def test_math_verify_alone_recognises_the_gold_answers(name: str, different: int, every: int) -> None:
    """Without the shortcuts for equal texts and numbers. All answers take 12 s and 3 s, so only some are tried."""
    golds = sorted({plain(each["answer"]) for each in examples(name)})
    assert len(golds) == different
    tried = sorted({*golds[::every], *UNREADABLE[name]})
    assert [gold for gold in tried if not equivalent(gold, gold)] == UNREADABLE[name]


# The rows whose answer is written otherwise in the row before, and means the same.
EQUAL_NEIGHBOURS = {
    "math": [("120^\\circ", "120"), ("7\\%", "7"), ("\\frac{3}{4}", "\\frac34")],
    "minerva_ocw": [],
    "gsm8k": [],
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "every"), [("math", 12), ("minerva_ocw", 14), ("gsm8k", 1)])
def test_the_next_row_has_another_answer(name: str, every: int) -> None:
    """A negative control. All pairs take 18 s and 12 s, so only some are tried."""
    golds = [each["answer"] for each in examples(name)]
    pairs = sorted({(gold, following) for gold, following in pairwise(golds) if gold != following})
    tried = sorted({*pairs[::every], *EQUAL_NEIGHBOURS[name]})
    assert len(tried) >= len(pairs) / every
    assert [(gold, other) for gold, other in tried if answers_match(other, gold)] == EQUAL_NEIGHBOURS[name]
