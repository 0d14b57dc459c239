"""No text function takes longer than its length explains, whatever the text repeats; `figures/growth.py` says it in full."""

from __future__ import annotations

import growth

SHORT, LONG = 500, 5_000


def test_time_grows_with_the_length() -> None:
    units = [*growth.UNITS[::5], *growth.drawn_units(2, seed=1)]
    for name, function in growth.functions().items():
        for unit in units:
            # Ten times is linear; what is quadratic takes a hundred times as long.
            short, long = (growth.seconds(function, unit, size, tries=1) for size in (SHORT, LONG))
            assert long < 30 * short + 0.05, f"{name} of {unit!r}: {short}, {long}"
