"""Monitors of a set of view pairs, each as small as its formula.

A falling cosine loss says nothing by itself: it is lowest when every embedding is the same vector. Retrieval
of the true target and the spread of the targets tell alignment from collapse.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def retrieval_hits(context: Tensor, target: Tensor) -> Tensor:
    """Whether each context is strictly nearer (cosine) to its own target than to any other, `[P]` booleans.

    Strictly: if all targets coincide nothing is retrieved. Chance level among P pairs is 1/P.
    """
    similarity = F.normalize(context.float(), dim=-1) @ F.normalize(target.float(), dim=-1).T  # [P, P]
    true = similarity.diagonal()
    others = similarity.masked_fill(torch.eye(len(true), dtype=torch.bool, device=true.device), -torch.inf)
    return true > others.amax(dim=-1) if len(true) else true > 0


def spread(embeddings: Tensor) -> Tensor:
    """Mean cosine distance between two different rows of `[P, D]`, a scalar; 0 when all rows are alike.

    Equal to (1 − ‖mean of the unit vectors‖²) · P / (P − 1): one minus the energy of the mean direction, made
    independent of P. About 1 for random directions. NaN for fewer than two rows.
    """
    unit = F.normalize(embeddings.float(), dim=-1)
    count = len(unit)
    return (1 - unit.mean(dim=0).square().sum()) * count / (count - 1) if count > 1 else unit.new_tensor(torch.nan)
