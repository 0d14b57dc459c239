"""A form for a notebook: type a question, read the model's answer as it comes, with figures beside every step.

>>> solving_form("runs/jepa")  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from ipywidgets import HTML, Button, FloatSlider, Layout, Textarea, VBox

from stepjepa.analysis.solving import Solution, SolvedStep, Solver
from stepjepa.evaluation.generation import Sampling
from stepjepa.models.checkpoint import BUILTIN
from stepjepa.records import UserError, printable
from stepjepa.visualization.widgets import alert, side_by_side

QUESTION = "Anna has 3 boxes with 4 pens each. She gives 5 pens away. How many pens are left?"


def solving_form(model: str | Solver = BUILTIN, question: str = QUESTION, **options: Any) -> VBox:
    """Question, button, temperature; below them the answer.

    Args:
        model: what to load, or a `Solver` that is loaded already.
        question: that stands in the form at first.
        options: of `Solver`.

    Raises:
        UserError: the model cannot be loaded.
    """
    solver = model if isinstance(model, Solver) else Solver(model, **options)
    text = Textarea(value=question, layout=Layout(width="100%", height="64px"))
    button = Button(description="answer", button_style="primary")
    temperature = FloatSlider(
        value=0, max=1.5, step=0.1, description="temperature", style={"description_width": "initial"}
    )
    answer = HTML()

    def run(_: Button) -> None:
        button.disabled = True
        told: list[SolvedStep] = []

        def step(new: SolvedStep) -> None:
            told.append(new)
            answer.value = answer_html(told)

        def grow(under_way: str) -> None:
            answer.value = answer_html(told, under_way)

        try:
            solution = solver(text.value, Sampling(temperature=temperature.value), grow, step)
            answer.value = answer_html(told, solution=solution)
        except UserError as error:
            answer.value = alert(error)
        finally:
            button.disabled = False

    button.on_click(run)
    return VBox([text, side_by_side(button, temperature), answer])


def answer_html(steps: Sequence[SolvedStep], under_way: str = "", solution: Solution | None = None) -> str:
    """The steps said so far as a table, a bar beside each as long as its surprisal (2 nats fill it)."""
    rows = [f"<tr><td>{_shown(step.text)}</td>{_figures(step)}</tr>" for step in steps]
    if under_way:
        rows.append(f"<tr><td>{_shown(under_way)} …</td><td></td><td></td></tr>")
    head = "<tr><th style='text-align:left'>step</th><th style='text-align:right'>energy</th>"
    head += "<th style='text-align:left'>surprisal (nats a token)</th></tr>"
    end = ""
    if solution is not None:
        said = "no answer found" if solution.answer is None else f"answer: <b>{_shown(solution.answer)}</b>"
        end = f"<p>{said} ({solution.tokens} tokens{', cut off' if solution.truncated else ''})</p>"
    return f"<table style='width:100%'>{head}{''.join(rows)}</table>{end}"


def _shown(text: str) -> str:
    return f"<span style='white-space:pre-wrap'>{escape(printable(text))}</span>"


def _figures(step: SolvedStep) -> str:
    energy = "" if step.energy is None else f"{step.energy:.3f}"
    if step.surprisal is None:
        return f"<td style='text-align:right;padding:0 12px'>{energy}</td><td></td>"
    width = round(100 * min(step.surprisal / 2, 1))
    bar = f"background:linear-gradient(90deg,rgba(86,180,233,.45) {width}%,transparent {width}%)"
    left = f"<td style='text-align:right;padding:0 12px'>{energy}</td>"
    return f"{left}<td style='min-width:120px;{bar}'>{step.surprisal:.3f}</td>"
