"""A key-value cache whose layers grow in place, as batched generation needs it."""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

SPARE = 64  # tokens of free space in the smallest buffer


class GrowingLayer(DynamicLayer):
    """Keys and values `[B, heads, L, d]` of one layer, views of buffers with room for more tokens.

    The library's own layer concatenates: each new token copies all earlier keys and values of the batch, with the
    built-in model half of the time of batched generation. Here a token costs its own row, and only a full buffer is
    copied, to one half as large again. The attention sees the same numbers.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._buffers: list[torch.Tensor] = []

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the keys and values of new tokens; returns those of all tokens so far."""
        new = (key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if not self._buffers or end > self._buffers[0].shape[-2]:
            room = end + max(SPARE, end // 2)
            grown = [states.new_empty((*states.shape[:-2], room, states.shape[-1])) for states in new]
            # Of an empty cache there is nothing to copy.
            for buffer, full in zip(grown, self._buffers, strict=False):
                buffer[..., :start, :] = full[..., :start, :]
            self._buffers = grown
        for buffer, states in zip(self._buffers, new, strict=True):
            buffer[..., start:end, :] = states
        self.keys, self.values = (buffer[..., :end, :] for buffer in self._buffers)
        return self.keys, self.values


def growing_cache(config: Any) -> DynamicCache:
    """An empty cache for one batch: growing layers where attention is full, transformers' own elsewhere.

    For `generate` without beams: layers cannot be cropped or reordered.

    Args:
        config: of the model, whose layer types (full, sliding window, …) decide.
    """
    cache = DynamicCache(config=config.get_text_config(decoder=True))
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
