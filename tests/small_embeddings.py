"""Constructed embeddings: problems of three to five steps whose views are whatever a test needs."""

from __future__ import annotations

from typing import Any

import numpy as np

from stepjepa.analysis.embeddings import Embeddings

OPERATIONS = ["add", "subtract"]


def make_embeddings(problems: int = 12, size: int = 8, seed: int = 0, noise: float = 0.1, **fields: Any) -> Embeddings:
    """Targets are random directions, contexts are their targets plus noise; fields given replace the constructed."""
    generator = np.random.default_rng(seed)
    counts = [3 + i % 3 for i in range(problems)]
    state_example = np.repeat(np.arange(problems), counts)
    state_step = np.concatenate([np.arange(count) for count in counts])
    later = state_step > 0
    target = generator.standard_normal((later.sum(), size)).astype(np.float32)
    closing = state_step == np.repeat(counts, counts) - 1
    own = {
        "context": target + noise * generator.standard_normal(target.shape).astype(np.float32),
        "target": target,
        "pair_example": state_example[later],
        "context_step": state_step[later] - 1,
        "target_step": state_step[later],
        "states": generator.standard_normal((len(later), size)).astype(np.float32),
        "state_example": state_example,
        "state_step": state_step,
        "operation": np.where(closing, -1, (state_example + state_step) % 2),
        "value": np.where(closing, np.nan, 1.0 + state_example * 3 + state_step),
        "correct": np.arange(problems) % 3 - 1,
        "questions": [f"Question {i}?" for i in range(problems)],
        "steps": [[f"Step {k} of problem {i}." for k in range(count)] for i, count in enumerate(counts)],
        "ids": [f"id{i}" for i in range(problems)],
        "operation_names": OPERATIONS,
        "info": {"layout": {"pairs": "consecutive", "isolation": "step"}, "model": {"random_weights": None}},
    }
    return Embeddings(**own | fields)
