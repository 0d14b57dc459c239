"""Attention masks of the branch layout, as one predicate over (query, key).

A few small per-token vectors say who may see whom: a token attends causally inside its own segment and, if it has a
prefix, to the beginning of another segment. `branch_mask` is that predicate, `sliding_window` a second one that is
joined to it by *and*. Dense masks (SDPA, eager) are the predicate at all indices at once, block-sparse masks
(FlexAttention) the same predicate at the indices its kernel asks for, so they cannot disagree.

The idea follows shared-prefix and document masks as in FlexAttention (Dong et al. 2024, arXiv 2412.05496).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

DENSE_IMPLEMENTATIONS = ("sdpa", "eager")

Predicate = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(row of the batch, head, query, key), indices that broadcast → booleans: may the query attend to the key?"""


def branch_mask(segment_ids: Tensor, prefix_segment: Tensor, prefix_end: Tensor) -> Predicate:
    """Who may attend to whom in the branch layout.

    `allowed(q, k) = (segment[q] == segment[k] and k <= q) or (segment[k] == prefix_segment[q] and
    k <= prefix_end[q])`. Padding tokens (segment −1) see exactly themselves, so that no row is empty: a
    softmax over nothing is NaN.

    Args:
        segment_ids: `[B, L]`, the segment each token belongs to; −1 marks padding.
        prefix_segment: `[B, L]`, the segment whose beginning the token sees as well; −1 for none.
        prefix_end: `[B, L]`, index of the last key of that prefix (inclusive); −1 for none.
    """

    def predicate(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        own = (segment_ids[b, q] == segment_ids[b, k]) & (segment_ids[b, q] >= 0) & (k <= q)
        prefix = (segment_ids[b, k] == prefix_segment[b, q]) & (k <= prefix_end[b, q])
        return own | prefix | (q == k)

    return predicate


def sliding_window(position_ids: Tensor, window: int) -> Predicate:
    """Keys fewer than `window` *positions* back: `position[q] − position[k] < window`.

    Distances come from positions `[B, L]`, not from indices: in the branch layout a predictor token stands far from
    the tokens it follows in meaning.
    """
    return lambda b, h, q, k: position_ids[b, q] - position_ids[b, k] < window


def both(one: Predicate, other: Predicate) -> Predicate:
    """What two predicates allow alike."""
    return lambda b, h, q, k: one(b, h, q, k) & other(b, h, q, k)


def dense(predicate: Predicate, batch: int, length: int, device: torch.device | str = "cpu") -> Tensor:
    """The predicate at all indices, `[B, L, L]` booleans: rows are queries, columns are keys."""
    index = torch.arange(length, device=device)
    row = torch.arange(batch, device=device)
    return predicate(row[:, None, None], torch.zeros_like(index[:1]), index[:, None], index[None, :])


def allowed(segment_ids: Tensor, prefix_segment: Tensor, prefix_end: Tensor) -> Tensor:
    """`branch_mask` as `[B, L, L]` booleans."""
    batch, length = segment_ids.shape
    return dense(branch_mask(segment_ids, prefix_segment, prefix_end), batch, length, segment_ids.device)


def within_window(position_ids: Tensor, window: int) -> Tensor:
    """`sliding_window` as `[B, L, L]` booleans."""
    batch, length = position_ids.shape
    return dense(sliding_window(position_ids, window), batch, length, position_ids.device)


def block_mask(predicate: Predicate, batch: int, length: int, device: torch.device | str = "cpu") -> BlockMask:
    """The predicate as FlexAttention takes it, block-sparse: no L×L tensor is made."""
    from torch.nn.attention.flex_attention import create_block_mask

    return create_block_mask(predicate, batch, None, length, length, device=str(device))


def dense_mask(allow: Tensor, implementation: str, dtype: torch.dtype) -> Tensor:
    """The mask `[B, 1, L, L]` in the form an attention implementation takes.

    SDPA takes the booleans. Eager attention *adds* its mask to the scores, so it needs 0 and the dtype's
    minimum: given booleans it would add 0 or 1 and silently attend everywhere.

    Raises:
        ValueError: for any implementation other than "sdpa" and "eager".
    """
    if implementation == "sdpa":
        return allow[:, None]
    if implementation == "eager":
        return torch.zeros(allow.shape, dtype=dtype, device=allow.device).masked_fill(~allow, torch.finfo(dtype).min)[
            :, None
        ]
    raise ValueError(
        f"No dense mask for attention implementation {implementation!r}; use one of {', '.join(DENSE_IMPLEMENTATIONS)}."
    )


def layer_windows(config: Any) -> dict[str, int | None] | int | None:
    """Which masks a decoder wants: a mapping layer type → window, or one window for all layers (None: full).

    Configurations with `layer_types` take one mask per type, as a dictionary; those without it have one mask,
    windowed if `sliding_window` is set (Mistral, Phi-3, Mixtral).
    """
    text = config.get_text_config()
    window = getattr(text, "sliding_window", None)
    types = getattr(text, "layer_types", None)
    if types is None or text.model_type == "mistral":
        return window
    return {kind: window if kind == "sliding_attention" else None for kind in sorted(set(types))}


def attention_masks(config: Any, batch: dict[str, Tensor], dtype: torch.dtype) -> Any:
    """What to pass to a Hugging Face decoder as `attention_mask` for a batch in branch layout.

    Args:
        config: the model's configuration; says which attention implementation and layer types it has.
        batch: `segment_ids`, `prefix_segment`, `prefix_end`, `position_ids`, each `[B, L]`.
        dtype: the dtype of the activations (eager masks must match it).

    Returns:
        A tensor `[B, 1, L, L]`, a `BlockMask`, or a dictionary of these by layer type.
    """
    implementation = config._attn_implementation
    device = batch["segment_ids"].device
    size, length = batch["segment_ids"].shape
    branches = branch_mask(batch["segment_ids"], batch["prefix_segment"], batch["prefix_end"])

    def render(window: int | None) -> Any:
        predicate = branches if window is None else both(branches, sliding_window(batch["position_ids"], window))
        if implementation == "flex_attention":
            return block_mask(predicate, size, length, device)
        return dense_mask(dense(predicate, size, length, device), implementation, dtype)

    return by_layer_type(config, render)


def by_layer_type(config: Any, render: Callable[[int | None], Any]) -> Any:
    """`render` of each window that `layer_windows` names: one mask, or a dictionary by layer type."""
    windows = layer_windows(config)
    if isinstance(windows, dict):
        return {kind: render(window) for kind, window in windows.items()}
    return render(windows)
