"""Figures of the data: tokens coloured by the step they belong to, and how many steps and tokens there are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from stepjepa.visualization.style import BLUE, CYCLE, GREEN, new_figure, styled

NO_STEP = "#D9D9D9"


@styled
def token_strip(tokens: Sequence[str], step_ids: Sequence[int], labels: Sequence[int], columns: int = 12) -> Figure:
    """The tokens of one example in reading order, a box each, coloured by step; untrained ones are pale.

    Args:
        tokens: their texts, `[L]`; line ends are drawn as ↵, a lone space as ␣.
        step_ids: `[L]`, −1 outside the steps.
        labels: `[L]`, −100 where the token is not trained.
        columns: boxes in a row.
    """
    rows = -(-len(tokens) // columns)
    figure = new_figure(0.034 * rows + 0.05)
    axes = figure.subplots()
    small = 0.75 * mpl.rcParams["font.size"]
    for i, (token, step, label) in enumerate(zip(tokens, step_ids, labels, strict=True)):
        x, y = i % columns, i // columns
        colour = CYCLE[step % len(CYCLE)] if step >= 0 else NO_STEP
        axes.add_patch(Rectangle((x, y), 0.94, 0.86, facecolor=colour, alpha=0.55 if label != -100 else 0.3))
        text = _short(token)
        axes.text(x + 0.47, y + 0.45, text, ha="center", va="center", fontsize=small, family="monospace", clip_on=True)
    axes.set(xlim=(0, columns), ylim=(rows, 0))
    axes.set_axis_off()
    shown = sorted(set(step_ids))
    handles = [
        Patch(
            color=CYCLE[step % len(CYCLE)] if step >= 0 else NO_STEP,
            alpha=0.55,
            label=f"step {step + 1}" if step >= 0 else "no step",
        )
        for step in shown
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 8))
    return figure


def _short(token: str) -> str:
    text = token.removeprefix("<|").removesuffix("|>") or token
    text = "␣" if text == " " else text.strip(" ").replace("\n", "↵")
    return text if len(text) <= 9 else text[:8] + "…"


@styled
def data_histograms(examples: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> Figure:
    """How many steps a solution has, and how many tokens an example and its steps have.

    Args:
        examples: prepared examples.
        rows: the same, tokenized.
    """
    figure = new_figure(0.28)
    left, middle, right = figure.subplots(1, 3)
    counts = Counter(example["total_steps"] for example in examples)
    left.bar(list(counts), list(counts.values()), color=BLUE)
    left.set(xlabel="steps in a solution", ylabel="examples")
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    middle.hist([len(row["input_ids"]) for row in rows], bins=30, color=BLUE)
    middle.set(xlabel="tokens in an example", ylabel="examples")
    lengths = [count for row in rows for step, count in Counter(row["step_ids"]).items() if step >= 0]
    right.hist(lengths, bins=range(0, max(lengths) + 2, max(1, max(lengths) // 30)), color=GREEN)
    right.set(xlabel="tokens in a step", ylabel="steps")
    return figure
