"""Where the time of a step goes: attention, feed-forward, head, masks, and the rest, forward and backward.

Markers around a module note the time when the forward or the backward pass comes by. The backward pass of PyTorch
runs the newest operations first, so that those of a module lie between its two markers. And how fast matrix products
alone run here, which is the bound that a step is compared with.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

PARTS = ("attention", "feed_forward", "head")
"""Parts that are modules; `masks` and `rest` (norms, embedding, residuals, losses) complete a step."""


class _Marker(torch.autograd.Function):
    """The tensor itself; calls `note` when the backward pass reaches it."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, note: Callable[[], None]) -> Tensor:
        ctx.note = note
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        ctx.note()
        return gradient, None


def part_of(module: nn.Module) -> str | None:
    """ "attention" or "feed_forward" by the name of the class, which all architectures keep to; None for others."""
    kind = type(module).__name__
    if kind.endswith("Attention"):
        return "attention"
    return "feed_forward" if kind.endswith(("MLP", "MoE", "SparseMoeBlock", "Experts")) else None


@contextmanager
def timing_parts(model: nn.Module, synchronise: Callable[[], None]) -> Iterator[dict[str, float]]:
    """Inside, steps add their seconds by part to the dictionary; only outermost modules of a part count."""
    seconds: dict[str, float] = defaultdict(float)
    started: dict[str, float] = {}
    modules = {name: part for name, module in model.named_modules() if (part := part_of(module))}
    outermost = [
        (module, modules[name])
        for name, module in model.named_modules()
        if name in modules and not any(name.startswith(f"{other}.") for other in modules)
    ]
    head: Any = model.get_output_embeddings()  # type: ignore[operator]

    def begin(part: str) -> None:
        synchronise()
        started[part] = time.perf_counter()

    def end(part: str) -> None:
        synchronise()
        seconds[part] += time.perf_counter() - started.pop(part)

    def before(part: str) -> Callable[..., Any]:
        def hook(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            def mark(value: Any) -> Any:
                tensor = isinstance(value, Tensor) and value.requires_grad
                return _Marker.apply(value, lambda: end(part)) if tensor else value

            first = bool(args)
            args = tuple(mark(value) if number == 0 else value for number, value in enumerate(args))
            kwargs = {name: mark(v) if name == "hidden_states" and not first else v for name, v in kwargs.items()}
            begin(part)
            return args, kwargs

        return hook

    def after(part: str) -> Callable[..., Any]:
        def hook(_module: Any, _args: Any, output: Any) -> Any:
            end(part)
            states, *others = output if isinstance(output, tuple) else (output,)
            if states.requires_grad:
                states = _Marker.apply(states, lambda: begin(part))
            return (states, *others) if isinstance(output, tuple) else states

        return hook

    handles = []
    for module, part in [*outermost, (head, "head")]:
        handles.append(module.register_forward_pre_hook(before(part), with_kwargs=True))
        handles.append(module.register_forward_hook(after(part)))
    try:
        yield seconds
    finally:
        for handle in handles:
            handle.remove()


def matrix_flops(model: Any, decoder_tokens: float, head_rows: float) -> float:
    """Floating-point operations of forward and backward in the products with weights: 6 for each weight and token.

    Attention's products of tokens with tokens are left out; so is the embedding, which is a look-up.
    """
    head = model.get_output_embeddings().weight
    weights = sum(p.numel() for name, p in model.get_decoder().named_parameters() if p.ndim > 1 and "embed" not in name)
    return 6.0 * (weights * decoder_tokens + head.numel() * head_rows)


def product_rate(
    model: Any, tokens: int, dtype: torch.dtype, synchronise: Callable[[], None], rounds: int = 9
) -> float:
    """Operations a second of the model's widest layer product, `[tokens, hidden] × [hidden, widest]`: the median."""
    device = next(model.parameters()).device
    config = model.config.get_text_config()
    widest = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    states = torch.randn(tokens, config.hidden_size, device=device).to(dtype)
    weight = torch.randn(widest, config.hidden_size, device=device).to(dtype)
    seconds = []
    for _ in range(rounds + 2):
        synchronise()
        start = time.perf_counter()
        for _ in range(4):
            nn.functional.linear(states, weight)
        synchronise()
        seconds.append((time.perf_counter() - start) / 4)
    return 2.0 * states.numel() * widest / statistics.median(seconds[2:])
