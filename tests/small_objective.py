"""Objectives with weights, state and a term of the set of views."""

import torch
from small_models import CONFIGS
from torch import nn
from torch.nn import functional as F

from stepjepa.jepa.objectives import Objective

SIZE = CONFIGS["llama"]().hidden_size


class Head(Objective):
    """A linear head predicts the target; the contexts' spread is held at that of a running mean."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(SIZE, SIZE, bias=False)
        nn.init.eye_(self.head.weight)
        self.register_buffer("spread", torch.ones(()))

    def forward(self, context, target, keys):
        if not len(context):
            return {"distance": context.sum(dim=-1), "variance": context.sum()}
        spread = context.var(dim=0, correction=0).mean()
        if self.training:
            self.spread.mul_(0.9).add_(0.1 * spread.detach())
        return {
            "distance": 1 - F.cosine_similarity(self.head(context), target),
            "variance": (spread - self.spread) ** 2,
        }


class Distance(Head):
    """The distance alone: a term of the pairs, the same however they are spread over microbatches and processes."""

    def forward(self, context, target, keys):
        return {"distance": super().forward(context, target, keys)["distance"]}
