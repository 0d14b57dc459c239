"""Memory of a training run from shapes alone: the real model code runs on tensors that have no content.

Forward and backward run under PyTorch's fake tensors; whatever storage is made and let go is counted, so that LoRA,
autocast, activation checkpointing, tied weights and any architecture cost what they cost. What a kernel takes
inside itself is not seen, nor what the allocator wastes: that of glibc holds up to twice what tensors take, since it
leaves gaps between aligned pieces. Against an allocator without gaps `figures/plans.py` holds the trace.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from torch.utils.weak import WeakIdKeyDictionary

from stepjepa.analysis.leakage import has_experts
from stepjepa.jepa.architectures import base_model
from stepjepa.jepa.masks import by_layer_type, dense_mask
from stepjepa.models.loading import bfloat16_products, checkpoint_activations
from stepjepa.records import UserError
from stepjepa.training.config import StepJEPAConfig

CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_a, **_o: sdpa_flop_count(q, k, v),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda g, q, k, v, *_a, **_o: (
        sdpa_backward_flop_count(g, q, k, v)
    ),
}
"""Kernels that PyTorch's own counter does not know, by shapes."""


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors made inside that are alive, and the most that were at a time.

    Args:
        known: tensors that are not counted, such as the weights.
    """

    def __init__(self, known: list[Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.seen = WeakIdKeyDictionary()
        for tensor in known:
            self.seen[tensor.untyped_storage()] = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor) and (storage := leaf.untyped_storage()) not in self.seen:
                self.seen[storage] = True
                size = storage.nbytes()
                self.now += size
                weakref.finalize(storage, self._gone, size)
        self.peak = max(self.peak, self.now)
        return made

    def _gone(self, size: int) -> None:
        self.now -= size


@dataclass(frozen=True)
class Footprint:
    """Bytes of a model and of one microbatch of it, and what the microbatch computes."""

    parameters: int
    trainable: int
    weights: int
    """Bytes, buffers included."""
    gradients: int
    optimizer: int
    activations: int
    """Bytes kept from the forward for the backward."""
    microbatch: int
    """Most bytes at a time of forward and backward, gradients included."""
    flops: int
    """Of forward and backward."""
    products: int
    """Entries of the decoder's weight matrices, through which every token goes."""

    @property
    def peak(self) -> int:
        """Most bytes at a time in a run: in a backward, or while the optimizer works."""
        return self.weights + self.optimizer + max(self.microbatch, self.gradients)


def traced_growth(memory: Mapping[str, int]) -> int:
    """Most bytes that tensors grow by in a run, of the `memory` of a plan: `Footprint.peak` without the weights."""
    return memory["optimizer"] + max(memory["microbatch"], memory["gradients"])


def footprint(
    make: Callable[[], Any], args: StepJEPAConfig, rows: int, length: int, labelled: int, optimizer: Mapping[int, float]
) -> Footprint:
    """What a microbatch of `rows` × `length` tokens, `labelled` of them with a label, needs.

    Args:
        make: makes the model.
        optimizer: bytes of state per trainable parameter, by the parameter's bytes; see `optimizer_bytes`.

    Raises:
        UserError: the model decides by its activations which weights work (experts).
    """
    with torch.device("meta"):
        model = make().train()
    if has_experts(model):
        raise UserError("a plan needs shapes alone, and which experts a token goes through depends on weights")
    with FakeTensorMode(allow_non_fake_inputs=True):
        _without_content(model)
        inner = base_model(model)
        if checkpointed(args):
            # The state of random numbers is no tensor of the run.
            checkpoint_activations(model, preserve_rng_state=False)
        weights = [*model.parameters(), *model.buffers()]
        trainable = [p for p in model.parameters() if p.requires_grad]
        accumulated = args.gradient_accumulation_steps > 1
        with LiveBytes(weights) as live:
            kept = _microbatch(model, inner, args.bf16, rows, length, labelled, live)
            if accumulated:  # the gradients of the microbatches before are there already
                _microbatch(model, inner, args.bf16, rows, length, labelled, live)
        with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
            _microbatch(model, inner, args.bf16, rows, length, labelled, live)
        return Footprint(
            parameters=sum(p.numel() for p in model.parameters()),
            trainable=sum(p.numel() for p in trainable),
            weights=_bytes(weights),
            gradients=_bytes(trainable),
            optimizer=round(sum(p.numel() * optimizer[p.element_size()] for p in trainable)),
            activations=kept,
            microbatch=live.peak,
            flops=counter.get_total_flops(),
            products=sum(p.numel() for p in inner.get_decoder().parameters() if p.ndim > 1)
            - inner.get_input_embeddings().weight.numel(),
        )


def checkpointed(args: StepJEPAConfig) -> bool:
    """Whether activations are checkpointed; transformers before 5.23 names the option otherwise."""
    return bool(getattr(args, "activation_checkpointing", False) or getattr(args, "gradient_checkpointing", False))


def _microbatch(model: Any, inner: Any, bf16: bool, rows: int, length: int, labelled: int, live: LiveBytes) -> int:
    """Forward and backward of `encode_views` as far as memory goes; the bytes that the forward leaves behind."""
    before = live.now
    implementation = inner.config._attn_implementation
    config, window = inner.config, lambda _window: _mask(implementation, rows, length, inner.dtype)
    with bfloat16_products(torch.device("cpu"), bf16):
        states = inner.get_decoder()(
            input_ids=torch.zeros(rows, length, dtype=torch.long),
            attention_mask=by_layer_type(config, window),
            position_ids=torch.zeros(rows, length, dtype=torch.long),
            use_cache=False,
        ).last_hidden_state
        kept = states.flatten(0, 1).index_select(0, torch.zeros(labelled, dtype=torch.long))
        logits = inner.get_output_embeddings()(kept)
    losses = F.cross_entropy(logits.float(), torch.zeros(labelled, dtype=torch.long), reduction="none")
    loss = losses.sum() + states[:, 0].float().sum()
    del states, kept, logits, losses
    left = live.now - before
    loss.backward()
    return left


def _without_content(model: Any) -> None:
    """Put tensors of this fake mode in the place of a model's own; tied ones stay tied."""
    made: dict[int, Tensor] = {}
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, old in tensors.items():
                if old is None:
                    continue
                if id(old) not in made:
                    new = torch.empty(old.shape, dtype=old.dtype, device="cpu")
                    made[id(old)] = torch.nn.Parameter(new, old.requires_grad) if tensors is module._parameters else new
                tensors[name] = made[id(old)]


def _mask(implementation: str, rows: int, length: int, dtype: torch.dtype) -> Tensor:
    allowed = torch.zeros(rows, length, length, dtype=torch.bool)
    return dense_mask(allowed, "eager" if implementation == "eager" else "sdpa", dtype)


def _bytes(tensors: list[Any]) -> int:
    """Of all storages; one that two tensors share counts once."""
    return sum({id(storage): storage.nbytes() for storage in (t.untyped_storage() for t in tensors)}.values())


def optimizer_bytes(kind: type[torch.optim.Optimizer], options: Mapping[str, Any]) -> dict[int, float]:
    """Bytes of optimizer state per parameter, by the bytes of the parameter: read off a step on a small matrix."""
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        weight = torch.nn.Parameter(torch.zeros(256, 256, dtype=dtype))
        weight.grad = torch.ones_like(weight)
        optimizer = kind([weight], **{name: value for name, value in options.items() if name != "params"})
        optimizer.step()
        state = sum(v.numel() * v.element_size() for v in optimizer.state[weight].values() if isinstance(v, Tensor))
        found[weight.element_size()] = state / weight.numel()
    return found
