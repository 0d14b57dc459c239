"""A unit is told from what it measures, and from a variable."""

from __future__ import annotations

import pytest

from stepjepa.data.units import Doubt, Quantity, Unit, split_unit


def unit(*powers: tuple[str, int], nouns: str = "", doubt: Doubt = Doubt.NONE) -> Unit:
    return Unit(frozenset(powers), frozenset(nouns.split()), doubt)


@pytest.mark.parametrize(
    ("text", "quantity"),
    [
        ("5\\text{ million dollars}", Quantity("5", unit(("dollar", 1)), 10**6)),
        ("16\\text{ cm}^{2}", Quantity("16", unit(("centimetre", 2)))),
        ("16 sq. cm", Quantity("16", unit(("centimetre", 2)))),
        ("2\\pi\\mathrm{ m}", Quantity("2\\pi", unit(("metre", 1)))),
        ("3 \\mathrm{ m} / \\mathrm{s}^2", Quantity("3", unit(("metre", 1), ("second", -2)))),
        ("3 kilometers per hour", Quantity("3", unit(("kilometre", 1), ("hour", -1)))),
        ("3 m s^{-1}", Quantity("3", unit(("metre", 1), ("second", -1)))),
        ("7km", Quantity("7", unit(("kilometre", 1)))),
        ("2 dozen eggs", Quantity("2", unit(nouns="egg"), 12)),
        ("3 cups of flour", Quantity("3", unit(nouns="cup flour"))),
        ("5 percent", Quantity("5", percent=True)),
        ("-\\$ 5", Quantity("-5", unit(("dollar", 1)))),
        ("60^\\circ", Quantity("60", unit(("degree", 1)))),
        ("11_{2}", Quantity("11", Unit(nouns=frozenset({"base 2"})))),
        ("5 m", Quantity("5", unit(("metre", 1), doubt=Doubt.SPACED))),
        ("5m", Quantity("5", unit(("metre", 1), doubt=Doubt.GLUED))),
        # no unit
        *(
            (text, Quantity(text))
            for text in ("x = \\text{even}", "5 +\\text{ odd}", "5 x", "4t", "2ab", "2 ab", "3 xyz")
        ),
        *((text, Quantity(text)) for text in ("2\\pi\\text{ million}", "5 squared", "2 thirds", "\\sqrt3 s", "5 α")),
        *(
            (text, Quantity(text))
            for text in ("\\frac{1}{m} t", "x_{\\text{red}}", "\\text{June 20}", "5\\text{ if } x")
        ),
    ],
)
def test_split_unit(text: str, quantity: Quantity) -> None:
    assert split_unit(text) == quantity
