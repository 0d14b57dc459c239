"""A box is found however it is written, and in time that grows with the text alone."""

from __future__ import annotations

import pytest

from stepjepa.data.boxes import boxes, closed_braces, last_boxed


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{1} then \boxed{\frac{1}{2} \text{ of \} }} end \boxed{3", r"\frac{1}{2} \text{ of \} }"),
        ("nothing", None),
        (r"\boxed", None),
        (r"\boxedtext{5}", None),
        # without braces, as TeX reads on: a number, a command with what belongs to it, a letter
        (r"The larger is $\boxed 4$. This holds for 3 cases.", "4"),
        (r"$\boxed12$", "12"),
        (r"\boxed -1,450.5.", "-1,450.5"),
        (r"gives $\boxed\frac{3}{8}$.", r"\frac{3}{8}"),
        (r"$\boxed\frac38$", r"\frac38"),
        (r"$\boxed\frac{\sqrt{3}}{2}$ in 4", r"\frac{\sqrt{3}}{2}"),
        (r"$\boxed \pi$", r"\pi"),
        (r"\boxed\text{yes}", r"\text{yes}"),
        (r"$\boxed x$", "x"),
        # other boxes
        (r"So there are \framebox{8} ways, found in 3 steps.", "8"),
        (r"\framebox[2cm][c]{9}", "9"),
        (r"\framebox[2cm]{9}", "9"),
        (r"\bbox[border: 1px solid]{7}", "7"),
        # a box that only shows where to write
        (r"It is \boxed{9}. You asked for \boxed{}.", "9"),
        (r"It is \boxed{9}, in \boxed{...}, \boxed{ ? } or \boxed{\text{ }}", "9"),
        (r"Write it in \boxed{}.", ""),
        # several boxes
        (r"The roots are $\boxed{2}$ and $\boxed{5}$.", "2, 5"),
        (r"$\boxed{1}$, $\boxed{2}$, and $\boxed{3}$", "1, 2, 3"),
        (r"$x=\boxed{2}$ or $x=\boxed{5}$", r"2\text{ or }5"),
        (r"\boxed{1}, \boxed{2} \text{ or } \boxed{5}", r"1, 2\text{ or }5"),
        (r"\boxed{2}, so \boxed{5}", "5"),
        (r"\boxed{2} \boxed{5}", "5"),
        (r"\boxed{7}, \boxed{7}", "7, 7"),
        (r"First \boxed{3}, no: \boxed{4}.", "4"),
        (r"\boxed{\boxed{7}}", "7"),
    ],
)
def test_last_boxed(text: str, answer: str | None) -> None:
    assert last_boxed(text) == answer


def test_braces_and_boxes_by_their_offsets() -> None:
    assert closed_braces(r"{a{b}\}{") == {3: 5}
    assert closed_braces(r"}{a{b}\}}{") == {2: 9, 4: 6}
    assert [(box.start, box.end) for box in boxes(r"\boxed{1} \boxed{\fbox{2}} \boxed{3")] == [
        (0, 9),
        (10, 26),
        (17, 25),
    ]
