"""What people write is read as exactly the number that it is."""

from __future__ import annotations

from fractions import Fraction

import pytest

from stepjepa.data.numbers import Number, read_number


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3 1/2", Number(Fraction(7, 2))),
        ("-3\\frac{1}{2}", Number(Fraction(-7, 2))),
        ("1 234 567", Number(Fraction(1234567))),
        ("1.50", Number(Fraction(3, 2), 2)),
        ("10^{-3}", Number(Fraction(1, 1000))),
        ("1e-3", Number(Fraction(1, 1000))),
        ("0.1\\overline{6}", Number(Fraction(1, 6))),
        ("-.(3)", Number(Fraction(-1, 3))),
        ("9" * 1001, None),
        ("3 5/2", None),
        ("1 000/3", None),
        ("1/0", None),
        ("1e99999", None),
        ("٣", None),
        ("", None),
    ],
)
def test_read_number(text: str, value: Number | None) -> None:
    assert read_number(text) == value
