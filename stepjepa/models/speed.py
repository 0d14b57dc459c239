"""What makes a model quicker, above all on a CPU, and changes no result but by rounding and by what dropout draws.

Each was found by profiling a model of 135 million parameters: page faults of memory that the allocator gave back and
took again were a seventh of the time, drawing the dropout of LoRA an eighth, copies of the whole embedding for the
sake of one trained row a fifteenth.
"""

from __future__ import annotations

import ctypes
import platform
from typing import Any

import torch
from peft.tuners.trainable_tokens.layer import TrainableTokensLayer
from torch import Tensor, nn

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Of `malloc.h`."""
LEVELS = 2**16
"""Of the random numbers that dropout is drawn from: its probability is rounded to one part in so many."""


def keep_freed_memory() -> bool:
    """Let this process keep the memory that tensors free, so that the next ones need no page faults.

    glibc gives large pieces back at once, and the kernel has to clear each page again. What the process has held at its
    peak it holds to its end. Returns whether it was done: elsewhere than on glibc there is no such switch.
    On a CPU `train`, what foretells or measures it, and the commands that answer questions or read views call it
    (prompts of 64 questions, 135 million parameters in bfloat16, one core: 22 s instead of 32); a script of yours may.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(M_MMAP_MAX, 0)) and bool(libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


class BitsDropout(nn.Dropout):
    """Dropout that on a CPU draws 16 random bits an element, four elements at once, which takes a fifth of the time."""

    def forward(self, input: Tensor) -> Tensor:
        """As the parent's."""
        dropped = round(self.p * LEVELS)
        if not self.training or input.device.type != "cpu" or not 0 < dropped < LEVELS:
            return super().forward(input)
        bits = torch.empty(-(-input.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
        kept = (bits[: input.numel()] >= dropped - LEVELS // 2).view(input.shape)
        return torch.where(kept, input * (LEVELS / (LEVELS - dropped)), 0)


class TrainedRows(TrainableTokensLayer):
    """PEFT's layer with trained rows, applied to what it makes instead of to a copy of the whole weight.

    The parent copies the embedding in every forward pass, twice where the head is tied to it, and takes the gradient
    of all of it.
    """

    def forward_adapters(self, x: Tensor, active_adapters: Any, *args: Any, **kwargs: Any) -> Tensor:
        """As the parent's."""
        if self.disable_adapters or self.merged or len(active_adapters) != 1:
            return super().forward_adapters(x, active_adapters, *args, **kwargs)
        (adapter,) = active_adapters
        result = self.base_layer(x)
        ids, rows = self.token_indices[adapter], self.trainable_tokens_delta[adapter].to(self.base_layer.weight)
        if isinstance(self.base_layer, nn.Linear):  # a head that is tied to the embedding
            return result.index_copy_(-1, torch.tensor(ids, device=x.device), nn.functional.linear(x, rows))
        rows = rows * torch.as_tensor(getattr(self.base_layer, "embed_scale", 1)).to(rows)  # as Gemma's embedding does
        for number, row in zip(ids, rows, strict=True):
            result = torch.where((x == number)[..., None], row, result)
        return result


def faster_adapter(model: Any) -> Any:
    """The same PEFT model, with the dropout and the trained rows of this module in place of its own."""
    for name, module in model.named_modules():
        if "lora_dropout" in name and type(module) is nn.Dropout:
            module.__class__ = BitsDropout
        elif type(module) is TrainableTokensLayer:
            module.__class__ = TrainedRows
    return model
