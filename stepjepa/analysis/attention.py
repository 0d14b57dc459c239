"""Where a model looks in the branch layout: attention weights, what they sum to, and a check of the mask.

A forbidden cell must have a weight of exactly 0, in every layer and head: the mask puts the lowest number of the dtype
there, whose exponential is 0 and not merely small. Weights tell where a head looks, not what the model owes to it
(Jain & Wallace 2019, arXiv 1902.10186); what a view really depends on is measured in `leakage.py`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from stepjepa.data.encoding import chat_encoder
from stepjepa.data.tokens import TooLongError, tokenize_example
from stepjepa.jepa.architectures import base_model, evaluating, longest_trunk
from stepjepa.jepa.layout import StepJEPACollator
from stepjepa.jepa.masks import allowed, layer_windows, within_window
from stepjepa.jepa.pairs import FIRST, BranchLayout, step_spans
from stepjepa.jepa.views import encode_views
from stepjepa.records import UserError

MAX_MAPS = 64
Heads = Literal["mean", "all"] | list[int]


# ---- weights and their check ---------------------------------------------------------------------------------


@torch.no_grad()
def read_attention(model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
    """Attention weights of every layer over a batch in branch layout, `[B, heads, L, L]` each.

    The model runs in eval mode with eager attention, the only kind that gives its weights away, and is left as it was.
    """
    with _eager(model):
        attentions = encode_views(model, batch, attentions=True).attentions
    assert attentions is not None  # encode_views raises rather than leave them out
    return attentions


@contextmanager
def _eager(model: Any) -> Iterator[None]:
    inner = base_model(model)
    implementation = inner.config._attn_implementation
    with evaluating(model):  # dropout falls on the weights
        if implementation != "eager":
            inner.set_attn_implementation("eager")
        try:
            yield
        finally:
            if implementation != "eager":
                inner.set_attn_implementation(implementation)


def windows_by_layer(config: Any) -> list[int | None]:
    """The sliding window of every layer in positions; None where a layer has none."""
    text = config.get_text_config()
    windows = layer_windows(config)
    if isinstance(windows, dict):
        return [windows[kind] for kind in text.layer_types]
    return [windows] * text.num_hidden_layers


def visible_cells(config: Any, batch: Mapping[str, Tensor]) -> list[Tensor]:
    """Which cells the mask of each layer allows, `[B, L, L]` booleans: rows are queries, columns keys."""
    allow = allowed(batch["segment_ids"], batch["prefix_segment"], batch["prefix_end"])
    positions = batch["position_ids"]
    return [
        allow if window is None else allow & within_window(positions, window) for window in windows_by_layer(config)
    ]


def check_forbidden(attentions: Sequence[Tensor], visible: Sequence[Tensor]) -> list[dict[str, Any]]:
    """For every layer: how much attention lies on forbidden cells, and what rows sum to.

    Args:
        attentions: `[B, heads, L, L]` for each layer.
        visible: `[B, L, L]` for each layer, from `visible_cells`.

    Returns:
        Per layer `forbidden_cells` (in one head), `max_forbidden_mass` (the largest share that a query of a head gives
        to all its forbidden keys together; must be 0.0), `row_sum_min` and `row_sum_max` (1, but less in models with
        learned sinks, whose share is not in the weights).

    Raises:
        UserError: weights that are not finite numbers.
    """
    checks = []
    for layer, (weights, see) in enumerate(zip(attentions, visible, strict=True)):
        weights = weights.double()
        see = see[:, None].to(weights.device)
        if not bool(weights.isfinite().all()):
            raise UserError(f"the attention weights of layer {layer} are not finite numbers: the model is broken")
        sums = weights.sum(dim=-1)
        checks.append(
            {
                "layer": layer,
                "forbidden_cells": int((~see).sum()),
                "max_forbidden_mass": weights.masked_fill(see, 0).sum(dim=-1).max().item(),
                "row_sum_min": sums.min().item(),
                "row_sum_max": sums.max().item(),
            }
        )
    return checks


# ---- names of the parts --------------------------------------------------------------------------------------


def prompt_parts(messages: Sequence[Mapping[str, Any]], tokenizer: Any) -> list[tuple[str, int]]:
    """Names of the parts of a prompt and the first token of each: "start", "system", "question".

    "start" is what the chat template writes before any message; what it writes after one belongs to that message. A
    part without tokens is left out. Where the template changes a message's text there is one part, "prompt".
    """
    (encoded,) = chat_encoder(tokenizer).encode([messages])
    rendering, ends = encoded.rendering, [end for _, end in encoded.offsets]
    has_system = messages[0]["role"] == "system"
    texts = [("system", messages[0]["content"])] if has_system else []
    texts.append(("question", messages[int(has_system)]["content"]))
    parts, position = [("start", 0)], 0
    for name, text in texts:
        start = rendering.text.find(text.strip(), position, rendering.start)
        if start < 0:
            return [("prompt", 0)]
        parts.append((name, bisect_right(ends, start)))
        position = start + len(text.strip())
    return [(name, first) for i, (name, first) in enumerate(parts) if i + 1 == len(parts) or first < parts[i + 1][1]]


def segments(
    parts: Sequence[tuple[str, int]], step_ids: Sequence[int], batch: Mapping[str, Tensor], layout: BranchLayout = FIRST
) -> list[dict[str, Any]]:
    """The parts of a single row in branch layout, in order and without gaps.

    Args:
        parts: of the prompt, from `prompt_parts`.
        step_ids: of the tokenized example.
        batch: the collated row.
        layout: of the row.

    Returns:
        For each part `name` (such as "question", "S1", "PRED 1", "S2 copy"), `kind` ("prompt", "step", "end",
        "predictor" or "copy"), `step` (from 0; None if it belongs to none), and the tokens `start` … `end` − 1.
    """
    spans = step_spans(step_ids)
    ends = [*(first for _, first in parts[1:]), spans[0].start]
    named: list[tuple[str, str, int | None, int, int]] = [
        *((name, "prompt", None, first, end) for (name, first), end in zip(parts, ends, strict=True)),
        *((f"S{step + 1}", "step", step, start, end) for step, start, end in spans),
        ("end", "end", None, spans[-1].end, len(step_ids)),
    ]
    fields = ("context_index", "target_index", "context_step", "target_step", "target_start", "target_end", "level")
    for context, target, context_step, target_step, first, last, level in zip(
        *(batch[name][0].tolist() for name in fields), strict=True
    ):
        predictors = layout.predictors
        after = context + predictors - layout.reader(level)
        whole = context_step < 0  # question → answer
        named.append(("PRED" if whole else f"PRED {context_step + 1}", "predictor", None, after - predictors, after))
        if target > context:  # isolation "none" makes no copy
            name, step = ("answer copy", None) if whole else (f"S{target_step + 1} copy", target_step)
            named.append((name, "copy", step, after, after + last - first))
    names = ("name", "kind", "step", "start", "end")
    return [dict(zip(names, part, strict=True)) for part in named if part[3] < part[4]]


def flow(weights: Tensor, parts: Sequence[Mapping[str, Any]]) -> Tensor:
    """How much attention the tokens of each part give to each part on average, `[L, L] → [parts, parts]`."""
    index = torch.cat([torch.full((part["end"] - part["start"],), i) for i, part in enumerate(parts)])
    member = torch.nn.functional.one_hot(index, len(parts)).to(weights)  # [L, parts]
    return (member / member.sum(dim=0)).T @ weights @ member


# ---- one example ---------------------------------------------------------------------------------------------


def laid_out(
    model: Any, tokenizer: Any, example: Mapping[str, Any], layout: BranchLayout
) -> tuple[dict[str, list[int]], dict[str, Tensor]]:
    """One example as `tokenize_example` gives it, and as a batch in branch layout; what is too long for the layout or
    for the model's positions loses whole steps.

    Raises:
        UserError: an example without a view pair, or too long for a single step.
    """
    try:
        row = tokenize_example(example, tokenizer, longest_trunk(model, layout))
    except TooLongError as error:
        raise UserError(f"the example cannot be shown: {error}") from error
    batch = StepJEPACollator(tokenizer, layout)([row])
    if not batch["context_index"].numel():
        raise UserError(
            f"the example has no view pair ({layout.pairs}); choose one with more steps: {_question(example)}"
        )
    return row, batch


# ---- the record ----------------------------------------------------------------------------------------------


def attention_record(
    model: Any,
    tokenizer: Any,
    example: Mapping[str, Any],
    layers: Sequence[int] = (0, -1),
    heads: Heads = "mean",
    *,
    layout: BranchLayout = FIRST,
    digits: int = 4,
) -> dict[str, Any]:
    """Attention weights of one example over trunk and branches, with the check of all layers and heads.

    Args:
        model, tokenizer: from `load_model`.
        example: with `messages` and `steps`.
        layers: which to show, from 0; negative ones count from the last.
        heads: "mean" over the heads, "all", or which, from 0.
        layout: which branches. Its `max_length` is at most what the model has positions for; a longer example loses
            whole steps.
        digits: decimals of the weights.

    Returns:
        `question`, `layout`, `cut` (whether steps were lost), `tokens` (their texts), `segments` (see `segments`).
        `maps`: for every layer and head shown `layer`, `head`, `weights` `[L, L]`, `flow` (see `flow`) and `mask`,
        which of the `masks` it has: their `rows` are strings of 0 and 1 for each query. `check`: `passed`, `heads`,
        and `layers` of `check_forbidden`.

    Raises:
        UserError: no such layer or head, more than 64 maps, an example without a view pair or too long for a
            single step, or weights that are not finite numbers.
    """
    inner = base_model(model)
    text_config = inner.config.get_text_config()
    count, width = text_config.num_hidden_layers, text_config.num_attention_heads
    chosen = _chosen(layers, count, "layer")
    kept: Sequence[int | str] = (
        ["mean"] if heads == "mean" else _chosen(range(width) if heads == "all" else heads, width, "head")
    )
    if len(chosen) * len(kept) > MAX_MAPS:
        raise UserError(
            f"{len(chosen)} layers × {len(kept)} heads are more than {MAX_MAPS} maps: nobody could read them; choose "
            "fewer layers or heads, or the mean of the heads"
        )
    row, batch = laid_out(model, tokenizer, example, layout)
    attentions = read_attention(model, batch)
    visible = visible_cells(inner.config, batch)
    checks = check_forbidden(attentions, visible)
    parts = segments(prompt_parts(example["messages"], tokenizer), row["step_ids"], batch, layout)
    windows = windows_by_layer(inner.config)
    distinct = list(dict.fromkeys(windows))

    maps = []
    for layer in chosen:
        weights = attentions[layer][0].double().cpu()
        for head in kept:
            shown = weights.mean(dim=0) if isinstance(head, str) else weights[head]
            maps.append(
                {
                    "layer": layer,
                    "head": head,
                    "mask": distinct.index(windows[layer]),
                    "weights": _rounded(shown, digits),
                    "flow": _rounded(flow(shown, parts), digits),
                }
            )
    masks = [
        {"window": window, "rows": _strings(visible[windows.index(window)][0])} for window in distinct
    ]  # a window has one mask, whichever layer it is in
    return {
        "question": _question(example),
        "cut": len(row["step_ids"]) < len(tokenize_example(example, tokenizer)["step_ids"]),
        "layout": {name: getattr(layout, name) for name in ("pairs", "horizon", "predictors", "isolation")},
        "tokens": [tokenizer.decode([token]) for token in batch["input_ids"][0].tolist()],
        "segments": parts,
        "masks": masks,
        "maps": maps,
        "check": {
            "passed": all(check["max_forbidden_mass"] == 0 for check in checks),
            "heads": width,
            "layers": checks,
        },
    }


def _chosen(wanted: Sequence[int], count: int, what: str) -> list[int]:
    for index in wanted:
        if not -count <= index < count:
            raise UserError(f"there is no {what} {index}: the model has {count}, 0 to {count - 1}")
    return list(dict.fromkeys(index % count for index in wanted))


def _question(example: Mapping[str, Any]) -> str:
    return str(next(message["content"] for message in example["messages"] if message["role"] == "user"))


def _rounded(weights: Tensor, digits: int) -> list[list[float]]:
    return [[round(value, digits) for value in line] for line in weights.tolist()]


def _strings(mask: Tensor) -> list[str]:
    return ["".join("1" if cell else "0" for cell in line) for line in mask.tolist()]
