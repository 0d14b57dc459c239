"""The masks of the two-pass and of the single-pass form side by side: their record, and its figure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from torch import Tensor

from stepjepa.jepa.layout import StepJEPACollator
from stepjepa.jepa.masks import allowed
from stepjepa.jepa.reference import build_step2_isolation_mask
from stepjepa.visualization.style import FORBIDDEN, ROLES, new_figure, styled

TOKENS = ["system", "question", "S1", "S1", "S2", "S2", "S3"]
STEP_IDS = [-1, -1, 0, 0, 1, 1, 2]


class _Tokenizer:
    """All that the layout asks of a tokenizer."""

    pad_token_id = 0

    @staticmethod
    def get_added_vocab() -> dict[str, int]:
        return {"<|predictor|>": 1}


def mask_record() -> dict[str, Any]:
    """Both forms of the classic mask for a sequence of seven tokens."""
    row = {"input_ids": [2] * len(TOKENS), "labels": [-100] * len(TOKENS), "step_ids": STEP_IDS}
    batch = StepJEPACollator(_Tokenizer())([row])
    return {
        "panels": [
            {
                "title": "two passes: the second of them",
                "tokens": [*TOKENS[:4], "PRED", *TOKENS[4:]],
                "roles": ["trunk"] * 4 + ["predictor"] + ["isolated"] * 2 + ["trunk"],
                "rows": _strings(build_step2_isolation_mask(8, 5, 7)),
            },
            {
                "title": "one pass: trunk and branch",
                "tokens": [*TOKENS, "PRED", "S2 copy", "S2 copy"],
                "roles": ["trunk"] * 7 + ["predictor"] + ["copy"] * 2,
                "rows": _strings(allowed(batch["segment_ids"], batch["prefix_segment"], batch["prefix_end"])[0]),
            },
        ]
    }


def _strings(mask: Tensor) -> list[str]:
    return ["".join(str(int(cell)) for cell in row) for row in mask.tolist()]


@styled
def mask_panels(record: Mapping[str, Any]) -> Figure:
    """Who may attend to whom in the two-pass form and in the single pass, side by side.

    Args:
        record: `panels`, each with `title`, `tokens` (labels), `roles` (a key of `ROLES` for each token) and
            `rows` (a string of 0 and 1 for each query).
    """
    panels = record["panels"]
    sizes = [len(panel["tokens"]) for panel in panels]
    figure = new_figure(height=0.8 * max(sizes) / sum(sizes) + 0.12)
    axes_list = figure.subplots(1, len(panels), width_ratios=sizes)
    for axes, panel in zip(axes_list, panels, strict=True):
        count = len(panel["tokens"])
        for q, row in enumerate(panel["rows"]):
            for k, seen in enumerate(row):
                colour = ROLES[panel["roles"][q]] if seen == "1" else FORBIDDEN
                axes.add_patch(Rectangle((k, q), 0.92, 0.92, color=colour, linewidth=0))
        axes.set(xlim=(0, count), ylim=(count, 0), aspect="equal")
        axes.set_anchor("N")
        axes.set_title(panel["title"])
        ticks = [i + 0.46 for i in range(count)]
        axes.set_xticks(ticks, panel["tokens"], rotation=90, family="monospace")
        axes.set_yticks(ticks, panel["tokens"], family="monospace")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_xlabel("key: may be attended to")
        axes.set_ylabel("query")
    handles = [
        Patch(color=ROLES["trunk"], label="the ordinary sequence"),
        Patch(color=ROLES["predictor"], label="predictor token: context view"),
        Patch(color=ROLES["copy"], label="step 2 on its own: target view"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure
