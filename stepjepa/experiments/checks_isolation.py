"""The isolation check of `stepjepa verify`: change tokens and see which views move.

It asks nothing of the code that builds layout and masks: a view that must not see a token has to stay the same
to the bit when that token becomes another one, and a view that sees it has to move.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stepjepa.analysis.leakage import EXPERT_TOLERANCE, has_experts, perturb
from stepjepa.experiments.checks import Outcome, Subject, number, plural, relative_difference
from stepjepa.jepa.views import Views, encode_views

FUTURE_CONTEXT = "a future token changes a context view"
PAST_TARGET = "the question or step 1 changes a target view"
NEARER_TARGET = "an earlier step changes a target view"
PAST_CONTEXT = "the question changes no context view"
OWN_TARGET = "its own tokens change no target view"


@torch.no_grad()
def check_perturbation(subject: Subject) -> Outcome:
    """Change tokens that a view must not see: it stays the same to the bit. Change those it sees: it moves.

    Three changes, each of every token in its range: all before the first target (the question and step 1); all
    before the last target; all from the end of the last context on.
    """
    subject.require("model", "rows", "engine", "pairs")
    rows, model = subject.chosen, subject.model
    layout, collator = subject.layout, subject.collator()
    before = encode_views(model, collator(rows))
    first, last = _first_pairs(before), _last_pairs(before)
    spans = [layout.view_pairs(row["step_ids"]) for row in rows]
    sink = int(layout.isolation == "sink")  # the first token is seen by design

    def after(ranges: list[tuple[int, int]]) -> Views:
        changed = [perturb(row, *span) for row, span in zip(rows, ranges, strict=True)]
        return encode_views(model, collator(changed))

    past = after([(sink, pairs[0].target_start) for pairs in spans])
    nearer = after([(sink, pairs[-1].target_start) for pairs in spans])
    future = after([(pairs[-1].context_end, len(row["input_ids"])) for pairs, row in zip(spans, rows, strict=True)])

    isolated = layout.isolation != "none"
    exact = EXPERT_TOLERANCE if has_experts(model) else 0.0
    silent = {FUTURE_CONTEXT: relative_difference(future.context, before.context)}
    if isolated:
        silent[PAST_TARGET] = relative_difference(past.target, before.target)
        silent[NEARER_TARGET] = relative_difference(nearer.target[last], before.target[last])
    moved = {
        PAST_CONTEXT: _least(past.context, before.context, first),
        OWN_TARGET: _least(future.target, before.target, last),
    }
    faults = [f"{what} by {number(value)}" for what, value in silent.items() if value > exact]
    faults += [what for what, value in moved.items() if not value > exact]
    values = {**silent, **moved, "tolerance": exact}
    if faults:
        advice = "Information passes where it must not (or does not pass where it must): do not train; report it."
        return Outcome(False, f"{plural(len(before.context), 'view pair')}: {'; '.join(faults)}", advice, values)
    rule = f"within {exact:.0e}, as experts round by batch" if exact else "to the bit"
    target = (
        f"targets unchanged by question and earlier steps ({number(max(silent[PAST_TARGET], silent[NEARER_TARGET]))})"
        if isolated
        else "isolation none, so targets see all before them"
    )
    figures = (
        f"{plural(len(before.context), 'view pair')}, {rule}: {target}, contexts unchanged by the future "
        f"({number(silent[FUTURE_CONTEXT])}); the question moves contexts by {number(moved[PAST_CONTEXT])} or more"
    )
    return Outcome(True, figures, values=values)


def _first_pairs(views: Views) -> Tensor:
    """Which pairs are the first of their example, `[P]` booleans."""
    change = views.example[1:] != views.example[:-1]
    return torch.cat([change.new_ones(1), change])


def _last_pairs(views: Views) -> Tensor:
    change = views.example[1:] != views.example[:-1]
    return torch.cat([change, change.new_ones(1)])


def _least(a: Tensor, b: Tensor, which: Tensor) -> float:
    """The smallest movement of a view among the pairs `which`, relative to the largest entry of all."""
    return ((a - b)[which].abs().amax(dim=-1).min() / b.abs().max()).item()
