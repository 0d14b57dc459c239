"""The check of `stepjepa verify` in lower precision: is rounding all that separates the single pass from float32?

How far bfloat16 lies from float32 depends on depth and weights of a model, so that no number is a bound for all. The
bound is measured instead, on the same model, weights and examples: the two-pass specification in lower precision
against itself in float32 is what rounding alone does. The single pass rounds as often, in another order; its distance
to float32 has to be of that size (ratios measured: 0.96 to 1.03), and `ROUNDING` times it is allowed. Errors of
different origin add as squares, so what passes hides no fault above 1.1 times the rounding itself; smaller ones show in
float32, in which all other checks run, on the same weights. Distances are root mean squares over all labelled tokens,
view entries or gradient entries: a single loss may agree by luck.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from stepjepa.experiments.checks import Outcome, Subject, finite, number
from stepjepa.experiments.checks_model import check_perturbation, dense_attention, gradients
from stepjepa.jepa.architectures import base_model
from stepjepa.jepa.reference import two_pass_views
from stepjepa.jepa.views import Views, encode_views
from stepjepa.models.loading import bfloat16_products

ROUNDING = 1.5
"""How many times as far from float32 as the two passes in lower precision the single pass may be."""
QUANTITIES = ("LM loss", "views", "gradient")


def check_lower_precision(subject: Subject) -> Outcome:
    """In the precision of training the single pass is as near to float32 as two passes are, and isolates to the bit."""
    subject.require("model", "rows", "engine", "pairs")
    assert subject.lower is not None
    options, batch = subject.options, subject.collator()(subject.chosen)

    def read(model: Any, form: Any, bf16: bool) -> tuple[Tensor, ...]:
        with dense_attention(model, form is two_pass_views):
            with bfloat16_products(base_model(model).device, bf16):
                views: Views = form(model, batch)
            slopes = gradients(model, views)
        states = torch.cat([views.context, views.target]).detach().float()
        return views.token_losses.detach(), states, torch.cat([slope.flatten() for slope in slopes])

    exact = read(subject.model, two_pass_views, False)
    one = read(subject.lower, encode_views, options.bf16)
    two = read(subject.lower, two_pass_views, options.bf16)
    distances = [tuple(_distance(part, true) for part in parts) for *parts, true in zip(one, two, exact, strict=True)]
    with bfloat16_products(base_model(subject.lower).device, options.bf16):
        isolation = check_perturbation(replace(subject, model=subject.lower))
    values = {
        name: {"single_pass": single, "two_passes": double, "bound": ROUNDING * double}
        for name, (single, double) in zip(QUANTITIES, distances, strict=True)
    }
    shown = ", ".join(
        f"{name} {number(single)} ({number(double)})"
        for name, (single, double) in zip(QUANTITIES, distances, strict=True)
    )
    figures = (
        f"distance to float32 on the same weights, relative (of two passes; at most {ROUNDING} times that): {shown}; "
        f"isolation: {isolation.figures}"
    )
    passed = isolation.passed and all(single <= ROUNDING * double for single, double in distances)
    advice = "In this precision the single pass does more than round: train in float32, and report it."
    return Outcome(passed, figures, advice, {**values, "isolation": isolation.values})


def _distance(a: Tensor, true: Tensor) -> float:
    """Root mean square of the difference, relative to that of the true values."""
    return finite(((a - true).norm() / true.norm()).item())
