"""Attention masks of the branch layout, as one predicate over (query, key).

A few small per-token vectors describe who may see whom: a token attends causally inside its own segment and,
if it has a prefix, to the beginning of another segment. Dense masks (SDPA, eager) and block-sparse masks
(FlexAttention) are two renderings of that same predicate, so they cannot disagree.

The idea follows shared-prefix and document masks as in FlexAttention (Dong et al. 2024, arXiv 2412.05496).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

DENSE_IMPLEMENTATIONS = ("sdpa", "eager")


def allowed(segment_ids: Tensor, prefix_segment: Tensor, prefix_end: Tensor) -> Tensor:
    """Who may attend to whom: `[B, L, L]` booleans, rows are queries, columns are keys.

    `allowed(q, k) = (segment[q] == segment[k] and k <= q) or (segment[k] == prefix_segment[q] and
    k <= prefix_end[q])`. Padding tokens (segment −1) see exactly themselves, so that no row is empty: a
    softmax over nothing is NaN.

    Args:
        segment_ids: `[B, L]`, the segment each token belongs to; −1 marks padding.
        prefix_segment: `[B, L]`, the segment whose beginning the token sees as well; −1 for none.
        prefix_end: `[B, L]`, index of the last key of that prefix (inclusive); −1 for none.
    """
    index = torch.arange(segment_ids.shape[1], device=segment_ids.device)
    query_segment, key_segment = segment_ids[:, :, None], segment_ids[:, None, :]  # [B, L, 1], [B, 1, L]
    own = (query_segment == key_segment) & (query_segment >= 0) & (index[None, :] <= index[:, None])
    prefix = (key_segment == prefix_segment[:, :, None]) & (index <= prefix_end[:, :, None])
    itself = index[None, :] == index[:, None]
    return own | prefix | itself


def within_window(position_ids: Tensor, window: int) -> Tensor:
    """Sliding window by *position*, `[B, L, L]`: `position[q] − position[k] < window`.

    Distances come from positions, not from indices: in the branch layout a predictor token stands far from
    the tokens it follows in meaning.
    """
    return position_ids[:, :, None] - position_ids[:, None, :] < window


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


def block_mask(
    segment_ids: Tensor,
    prefix_segment: Tensor,
    prefix_end: Tensor,
    position_ids: Tensor | None = None,
    window: int | None = None,
) -> BlockMask:
    """The same predicate as a FlexAttention `BlockMask` (block-sparse, no L×L tensor).

    Args:
        segment_ids, prefix_segment, prefix_end: `[B, L]`, as in `allowed`.
        position_ids, window: give both for a sliding-window layer.
    """
    from torch.nn.attention.flex_attention import create_block_mask

    def predicate(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        own = (segment_ids[b, q] == segment_ids[b, k]) & (segment_ids[b, q] >= 0) & (k <= q)
        prefix = (segment_ids[b, k] == prefix_segment[b, q]) & (k <= prefix_end[b, q])
        see = own | prefix | (q == k)
        if window is not None and position_ids is not None:
            see = see & (position_ids[b, q] - position_ids[b, k] < window)
        return see

    batch, length = segment_ids.shape
    return create_block_mask(predicate, batch, None, length, length, device=str(segment_ids.device))


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
    vectors = (batch["segment_ids"], batch["prefix_segment"], batch["prefix_end"])
    positions = batch["position_ids"]
    windows = layer_windows(config)

    if implementation == "flex_attention":

        def render(window: int | None) -> Any:
            return block_mask(*vectors, positions, window)
    else:
        allow = allowed(*vectors)

        def render(window: int | None) -> Any:
            visible = allow if window is None else allow & within_window(positions, window)
            return dense_mask(visible, implementation, dtype)

    if isinstance(windows, dict):
        return {kind: render(window) for kind, window in windows.items()}
    return render(windows)
