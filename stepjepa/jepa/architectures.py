"""Which architectures can hold the single-pass invariants, and why others are refused.

The branch layout needs two things of a model: information flows between tokens only through an attention mask
that the caller can give, and a token's position is what the caller says it is.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from stepjepa.jepa.pairs import BranchLayout
from stepjepa.records import UserError

SUPPORTED_ATTENTION = ("sdpa", "eager", "flex_attention")
ATTENTION_LAYERS = ("full_attention", "sliding_attention")
TRIED = ("llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "mistral", "phi3", "mixtral", "gpt2", "gpt_oss")
"""Model types that the tests run; any other is tried for leaks before it is trained."""
RECURRENT_NAMES = ("mamba", "rwkv", "recurrent", "xlstm", "deltanet", "shortconv", "retention", "linearattention")


class UnsupportedArchitectureError(UserError):
    """The model cannot hold the single-pass invariants; the message names the model and the reason."""


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """The model without dropout; its mode is restored on leaving."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def base_model(model: Any) -> Any:
    """The Hugging Face model inside wrappers: data-parallel, compiled, PEFT. What casts to lower precision stays on."""
    from accelerate.utils import extract_model_from_parallel

    model = extract_model_from_parallel(model, keep_fp32_wrapper=True, keep_torch_compile=False)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def refusal(model: Any) -> str | None:
    """Why the model's architecture is refused, or None if nothing known speaks against it."""
    model = base_model(model)
    config = model.config.get_text_config()
    if model.config.is_encoder_decoder:
        return "it is an encoder-decoder; Step-JEPA reads a decoder-only language model"
    alibi = config.model_type in ("bloom", "mpt") or bool(getattr(config, "alibi", False))
    if alibi:
        return "it uses ALiBi, whose biases come from token indices and would misplace every branch"
    other = sorted(set(getattr(config, "layer_types", None) or ()) - set(ATTENTION_LAYERS))
    if other:
        return (
            f"its layer types {', '.join(other)} pass information along the sequence outside the attention "
            "mask (recurrence, convolution, chunks), so an isolated step would leak"
        )
    decoder = model.get_decoder()
    for name, module in decoder.named_modules():
        kind = type(module).__name__
        if isinstance(module, nn.Conv1d) or any(word in kind.lower() for word in RECURRENT_NAMES):
            where = f"layer {name} ({kind})" if name else f"decoder ({kind})"
            return (
                f"its {where} is recurrent or convolutional and passes information along the "
                "sequence outside the attention mask, so an isolated step would leak"
            )
    if "position_ids" not in inspect.signature(decoder.forward).parameters:
        return "its decoder takes no position_ids, so a branch cannot stand where it belongs"
    implementation = config._attn_implementation
    if implementation not in SUPPORTED_ATTENTION:
        return (
            f"attention implementation {implementation!r} takes no mask of one's own; load it with "
            'attn_implementation="sdpa", "eager" or "flex_attention"'
        )
    return None


def check_architecture(model: Any) -> None:
    """Refuse a model that cannot hold the invariants.

    Raises:
        UnsupportedArchitectureError: names the model class and the reason.
    """
    reason = refusal(model)
    if reason is not None:
        raise UnsupportedArchitectureError(f"{type(base_model(model)).__name__} is not supported: {reason}.")


def max_positions(model: Any) -> int | None:
    """How many positions a model has, None where it names no limit."""
    return getattr(base_model(model).config.get_text_config(), "max_position_embeddings", None)


def longest_trunk(model: Any, layout: BranchLayout) -> int | None:
    """Most tokens of an example: `max_length`, or what the model's positions leave beside the predictor tokens."""
    positions = max_positions(model)
    limits = [layout.max_length, positions and positions - layout.predictors]
    return min((limit for limit in limits if limit), default=None)


@torch.no_grad()
def check_isolation(model: Any, tolerance: float = 1e-4) -> None:
    """Try on a handful of tokens that nothing leaks, for an architecture nobody has tried before.

    Two sequences that differ only before the isolated part must give the same states inside it.

    Args:
        tolerance: largest difference, relative to the largest state. Not 0: mixtures of experts group tokens of
            the whole batch into one product, so other tokens change the rounding.

    Raises:
        UnsupportedArchitectureError: if they do not.
    """
    from stepjepa.jepa.layout import whole_blocks
    from stepjepa.jepa.masks import attention_masks

    inner = base_model(model)
    device = next(inner.parameters()).device
    ids = torch.tensor([[1, 2, 3, 4, 5, 6], [6, 5, 4, 4, 5, 6]], device=device)
    batch = {
        "input_ids": ids,
        "segment_ids": torch.tensor([[0, 0, 0, 1, 1, 1]] * 2, device=device),
        "prefix_segment": torch.full((2, 6), -1, device=device),
        "prefix_end": torch.full((2, 6), -1, device=device),
        "position_ids": torch.arange(6, device=device).expand(2, 6),
    }
    batch = whole_blocks(inner.config, batch)
    mask = attention_masks(inner.config, batch, inner.dtype)
    decoder = inner.get_decoder()
    with evaluating(inner):
        states = decoder(
            input_ids=batch["input_ids"], attention_mask=mask, position_ids=batch["position_ids"], use_cache=False
        ).last_hidden_state
    isolated = states[:, 3:6].float()
    leak = ((isolated[0] - isolated[1]).abs().max() / isolated.abs().max()).item()
    if not leak <= tolerance:
        raise UnsupportedArchitectureError(
            f"{type(inner).__name__} is not supported: an isolated step changes by {leak:.1e} (relative) when tokens "
            "it must not see change, so this architecture passes information outside the attention mask."
        )


def check_trainable(model: Any) -> None:
    """Refuse a model that cannot be trained with views; one of an untried architecture is run on a few tokens.

    Raises:
        UnsupportedArchitectureError: see `check_architecture` and `check_isolation`.
        ValueError: it adds a loss of its own, which would be lost.
    """
    check_architecture(model)
    config = base_model(model).config.get_text_config()
    if getattr(config, "output_router_logits", False):
        raise ValueError("Step-JEPA cannot honour output_router_logits: the router's loss is not added.")
    if config.model_type not in TRIED:
        check_isolation(model)
