"""What stands between views and their loss: a head that predicts from the context view, the scale of the target view.

A head is trained, saved beside the model and never needed for generation. It begins as the identity, so that training
begins where it would without one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stepjepa.jepa.losses import at_least_float32


class LinearHead(nn.Linear):
    """x ↦ W x + b, `[P, D] → [P, D]`; at first the identity."""

    def __init__(self, size: int) -> None:
        super().__init__(size, size)
        nn.init.eye_(self.weight)
        nn.init.zeros_(self.bias)


class MLPHead(nn.Module):
    """x ↦ x + W₂ gelu(W₁ x + b₁) + b₂, `[P, D] → [P, D]`; W₂ is 0 at first, which makes it the identity."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(size, size), nn.Linear(size, size)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """`[P, D] → [P, D]`."""
        return x + self.outer(F.gelu(self.inner(x)))


HEADS: dict[str, Callable[[int], nn.Module]] = {"none": nn.Identity, "linear": LinearHead, "mlp": MLPHead}


def make_head(kind: str, size: int, seed: int) -> nn.Module:
    """A head of `HEADS` for views of `size` D; whatever is random in it follows from `seed` alone.

    Raises:
        ValueError: for an unknown kind.
    """
    if kind not in HEADS:
        raise ValueError(f"Unknown head {kind!r}; choose one of {', '.join(HEADS)}.")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return HEADS[kind](size)


SCALES = ("none", "layer", "zscore")


class Scale(nn.Module):
    """How target views are scaled before they are compared, `[P, D] → [P, D]`.

    Args:
        kind: "none": as they are. "layer": each less the mean of its D numbers and divided by their standard deviation
            (layer norm without weights; data2vec, arXiv 2202.03555). "zscore": each dimension less its mean and divided
            by its standard deviation over the targets of the training data, as `measure` found them; they are measured
            once, before training, so neither microbatches nor processes change them.
        size: D.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, kind: str, size: int) -> None:
        super().__init__()
        if kind not in SCALES:
            raise ValueError(f"Unknown target_scale {kind!r}; choose one of {', '.join(SCALES)}.")
        self.kind = kind
        if kind == "zscore":
            self.register_buffer("mean", torch.full((size,), torch.nan))
            self.register_buffer("deviation", torch.full((size,), torch.nan))

    def measure(self, targets: Tensor) -> None:
        """Take mean and standard deviation of each dimension of `[P, D]`."""
        deviation, mean = torch.std_mean(targets.cpu().double(), dim=0, correction=0)
        self.mean.copy_(mean)
        self.deviation.copy_(deviation.clamp(min=1e-6))

    def forward(self, target: Tensor) -> Tensor:
        """`[P, D] → [P, D]`, in float32 or wider."""
        target = at_least_float32(target)
        if self.kind == "layer":
            return F.layer_norm(target, target.shape[-1:])
        if self.kind == "zscore":
            return (target - self.mean) / self.deviation
        return target

    def back(self, scaled: Tensor) -> Tensor:
        """A target `[P, D]` that is scaled to this, `[P, D]`; of "layer" as it is, which forgets mean and length."""
        return scaled * self.deviation + self.mean if self.kind == "zscore" else scaled
