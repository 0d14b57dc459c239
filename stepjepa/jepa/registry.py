"""Every objective by name: one for each loss per pair, and those of other papers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from stepjepa.jepa.losses import LOSSES
from stepjepa.jepa.objectives import Objective, StepObjective
from stepjepa.jepa.rivals import future_tokens, next_latent, random_tube, step_tube

OBJECTIVES: dict[str, Callable[[Any, int], Objective]] = {
    **{kind: partial(StepObjective.of, kind) for kind in LOSSES},
    "nextlat": next_latent,
    "mtp": future_tokens,
    "stp": random_tube,
    "ssp": step_tube,
}
"""Name → what makes the objective from the options of a run (`training/options.py`) and the model's hidden size D."""
