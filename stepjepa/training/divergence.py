"""What is said where the loss is no number: the optimizer step, the examples, and what to try."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from stepjepa.jepa.layout import IGNORE

SHOWN = 3
"""Most examples that are named."""


def divergence_message(trainer: Any, batches: Sequence[dict[str, Tensor]], losses: Sequence[float], norm: float) -> str:
    """Where training stopped, and why.

    Args:
        trainer: in the optimizer step that is not done.
        batches: its microbatches in this process.
        losses: of the microbatches.
        norm: of the gradients.
    """
    broken = [number for number, loss in enumerate(losses) if not math.isfinite(loss)]
    what = f"the loss is {losses[broken[0]]}" if broken else f"the norm of the gradients is {norm}"
    named = named_rows(trainer, [batches[number] for number in broken or range(len(batches))])
    done = trainer.state.global_step
    return (
        f"training stopped at optimizer step {done + 1} of {trainer.state.max_steps}: {what} in the microbatch"
        f"{'' if len(broken) == 1 else 'es'} of {named}. The weights after step {done} were not changed and nothing of "
        f"this step is saved. Lower --learning_rate (it is {trainer.args.learning_rate:g}), use float32 or bfloat16 in "
        "the place of float16, or look at these examples"
    )


def named_rows(trainer: Any, batches: Sequence[dict[str, Tensor]]) -> str:
    """Numbers of the training rows in some microbatches, from 0, and how the solutions of the first ones begin."""
    examples = [example for batch in batches for example in _examples(batch)]
    rows = trainer.train_dataset
    number = {tuple(row["input_ids"]): n for n, row in enumerate(rows)} if hasattr(rows, "__len__") else {}
    shown = []
    for ids, labels in examples[:SHOWN]:
        solution = [token for token, label in zip(ids, labels, strict=True) if label != IGNORE]
        text = trainer.processing_class.decode(solution) if hasattr(trainer.processing_class, "decode") else solution
        place = number.get(tuple(ids))
        shown.append(f"{'a row' if place is None else f'training row {place}'} ({text[:60]!r} …)")
    more = len(examples) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _examples(batch: dict[str, Tensor]) -> list[tuple[list[int], list[int]]]:
    """Token ids and labels of the examples in a microbatch, without branches and padding."""
    found = []
    for example in batch["example_ids"].unique().tolist():
        if example >= 0:
            here = batch["example_ids"] == example
            found.append((batch["input_ids"][here].tolist(), batch["labels"][here].tolist()))
    return found
