"""Records of a grid's cells that are made up: accuracies are drawn, everything else follows them."""

import numpy as np

from stepjepa.experiments.store import FINISHED, KIND
from stepjepa.visualization.grid_reports import metric_panels

QUESTIONS = 120
FIGURES = {
    name.removeprefix("first_").removeprefix("consecutive_") for own in metric_panels().values() for name, _ in own
}


def invent(grid, folder, chances):
    """A record for every cell: seeds differ in which questions are easy, `chances[arm]` says how many are."""
    for cell in grid.cells:
        draw = np.random.default_rng(cell.seed)
        ease, loss = draw.random(QUESTIONS), 0.3 + draw.random()
        correct = "".join(str(int(u < chances[cell.arm])) for u in ease)
        views = {
            pairs: {name: 0.1 + 0.6 * chances[cell.arm] + 0.2 * draw.random() for name in sorted(FIGURES)}
            | {f"reciprocal_rank_{where}_chance": 0.02 for where in ("all", "own")}
            for pairs in ("first", "consecutive")
        }
        split = {
            "questions": "q",
            "correct": correct,
            "accuracy": correct.count("1") / QUESTIONS,
            "lm_loss": loss,
            "jepa_loss": 0.1,
            "truncated": 0.0,
            "representations": views,
        }
        folder.write(cell, cell_record(cell, split, split))


def cell_record(cell, validation, test):
    """The record of a finished cell around what was measured on its two splits."""
    return {
        "kind": KIND,
        "status": FINISHED,
        "address": cell.address,
        "cell": cell.options,
        "seed": cell.seed,
        "environment": {"git": {"commit": "abc", "dirty": False}, "hardware": {}},
        "validation": validation,
        "test": test,
        "attempt": {"train_seconds": 1.0, "resumed_at_step": 0},
    }
