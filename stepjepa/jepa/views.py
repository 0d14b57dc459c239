"""`encode_views`: one forward pass of a model → language-modelling loss, context views and target views.

This is the only place where hidden states become views, so training, evaluation and figures cannot disagree.
States are read by a hook on the decoder while the *wrapped* model runs: calling decoder and head by hand is
wrong under data parallelism and skips the output scaling of several architectures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stepjepa.jepa.architectures import base_model, check_architecture
from stepjepa.jepa.layout import IGNORE, whole_blocks
from stepjepa.jepa.losses import at_least_float32
from stepjepa.jepa.masks import attention_masks
from stepjepa.jepa.targets import isolated_steps


@dataclass
class Views:
    """What `encode_views` returns, for N labelled tokens and P view pairs of hidden size D.

    Pairs come in example order, then pair order.
    """

    token_losses: Tensor
    """`[N]`: cross-entropy of each labelled token, float32 or wider, in nats."""
    token_examples: Tensor
    """`[N]`: the example of the batch each labelled token belongs to."""
    context: Tensor
    """`[P, D]`: context views: last predictor token, last layer, after the final norm."""
    target: Tensor
    """`[P, D]`: target views: last token of the isolated target step, likewise, or as the layout's `pooling` says."""
    example: Tensor
    """`[P]`: the example of the batch each pair belongs to."""
    steps: Tensor
    """`[P, 2]`: context step and target step; (−1, −1) is question → whole answer."""
    context_layers: dict[int, Tensor] = field(default_factory=dict)
    """Context views at the chosen layers, `[P, D]` each; 0 is the embedding output."""
    target_layers: dict[int, Tensor] = field(default_factory=dict)
    """Target views at the chosen layers, `[P, D]` each."""
    step_states: Tensor | None = None
    """`[S, D]`: in-context states at the end of every step of every trunk."""
    step_index: Tensor | None = None
    """`[S, 2]`: example and step of each row of `step_states`."""
    step_layers: dict[int, Tensor] = field(default_factory=dict)
    """In-context step-end states at the chosen layers, `[S, D]` each; only with `step_states`."""
    states: Tensor | None = None
    """`[B, L, D]`: the last layer's states of all tokens, after the final norm; for objectives over tokens."""
    attentions: tuple[Tensor, ...] | None = None
    """Attention weights over the branch layout, `[B, heads, L, L]` for each layer (eager attention only)."""

    @property
    def lm_tokens(self) -> int:
        """How many labelled tokens the loss averages over."""
        return len(self.token_losses)

    @property
    def lm_loss(self) -> Tensor:
        """Mean cross-entropy over the labelled tokens (0 if there is none), a scalar in nats."""
        return self.token_losses.sum() / max(self.lm_tokens, 1)


def token_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each token, `[N, V], [N] → [N]`, in float32 or wider."""
    return F.cross_entropy(at_least_float32(logits), labels, reduction="none")


def next_labels(labels: Tensor) -> Tensor:
    """For each position the label it has to predict, `[B, L] → [B, L]`: labels shifted left by one."""
    return F.pad(labels[:, 1:], (0, 1), value=IGNORE)


def pooled(states: Tensor, row: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """Means of the states of tokens `first … last`, `[B, L, D], [P], [P], [P] → [P, D]`, in float32 or wider.

    Of single tokens they are their states as they are.
    """
    if torch.equal(first, last):
        return states[row, last]
    column = first[:, None] + torch.arange(int((last - first).max()) + 1, device=first.device)  # [P, W]
    inside = column <= last[:, None]
    column = torch.where(inside, column, last[:, None])
    kept = at_least_float32(states[row[:, None], column]) * inside[..., None]
    return kept.sum(dim=1) / inside.sum(dim=1, keepdim=True)


def layer_mean(states: Sequence[Tensor]) -> Tensor:
    """Mean over layers of their states `[…, D]`, each layer-normalised (without weights), in float32 or wider.

    As the targets of data2vec (Baevski et al. 2022, arXiv 2202.03555): layers differ in scale, and the largest would
    decide alone.
    """
    normalised = [F.layer_norm(at_least_float32(state), state.shape[-1:]) for state in states]
    return torch.stack(normalised).mean(dim=0)


def chosen_layers(layer: int, top: int) -> slice:
    """The `top` layers up to `layer` in the tuple of hidden states, of which −1 is the last."""
    return slice(layer - top + 1, None if layer == -1 else layer + 1)


@torch.no_grad()
def encode_targets(
    model: nn.Module,
    batch: dict[str, Tensor],
    *,
    predictors: int,
    isolation: str,
    target_layer: int = -1,
    target_top: int = 1,
) -> Tensor:
    """The target views `[P, D]` of a batch alone, without a gradient: those of `encode_views`, of any model.

    Only the decoder runs, over the steps by themselves (isolation "none": over the whole batch).

    Args:
        model: not sharded over processes; its train or eval mode is left as it is.
        batch: of `StepJEPACollator`, with copies or without.
        predictors: K of its layout.
        isolation: what the targets see besides themselves; batches without copies do not say so.
    """
    inner = base_model(model)
    batch = {name: tensor.to(inner.device) for name, tensor in batch.items()}
    row, pair = (batch["context_index"] >= 0).nonzero(as_tuple=True)
    if not len(row):
        return torch.zeros(0, inner.config.get_text_config().hidden_size, dtype=inner.dtype, device=inner.device)
    if isolation == "none":
        first, last = batch["target_first"][row, pair], batch["target_index"][row, pair]
    else:
        batch = isolated_steps(batch, predictors, isolation)
        row, first, last = torch.arange(len(row), device=row.device), batch["target_first"], batch["target_index"]
    batch = whole_blocks(inner.config, batch)
    output = inner.get_decoder()(
        input_ids=batch["input_ids"],
        attention_mask=attention_masks(inner.config, batch, inner.dtype),
        position_ids=batch["position_ids"],
        use_cache=False,
        output_hidden_states=(target_layer, target_top) != (-1, 1),
    )
    states = _target_states(output.last_hidden_state, output.hidden_states, target_layer, target_top)
    return pooled(states, row, first, last)


def _target_states(last: Tensor, layers: Any, layer: int, top: int) -> Tensor:
    """The states `[B, L, D]` that target views are read from."""
    if (layer, top) == (-1, 1):
        return last
    chosen = layers[chosen_layers(layer, top)]
    return chosen[0] if top == 1 else layer_mean(chosen)


def encode_views(
    model: nn.Module,
    batch: dict[str, Tensor],
    *,
    target_layer: int = -1,
    target_top: int = 1,
    layers: Sequence[int] = (),
    step_states: bool = False,
    attentions: bool = False,
) -> Views:
    """Run a batch of `StepJEPACollator` through a causal language model and read loss and views.

    Args:
        model: a decoder-only Hugging Face model, bare or wrapped (PEFT, DDP, FSDP2, compiled). Its train or
            eval mode is left as it is.
        batch: from `StepJEPACollator`.
        target_layer: the layer whose states make the target views; −1 is the last, after the final norm, −2 the one
            before it; from 0 on, 0 is the embedding output.
        target_top: the mean over so many layers up to that one, see `layer_mean`.
        layers: also return the views at these layers, 0 (embedding output) … number of layers.
        step_states: also return the trunk's states at the end of every step, at those layers too.
        attentions: also return the attention weights; the model must use eager attention.

    Raises:
        UnsupportedArchitectureError: for models that cannot hold the invariants.
        ValueError: attention weights of a model without eager attention.
    """
    check_architecture(model)
    inner = base_model(model)
    if attentions and inner.config._attn_implementation != "eager":
        raise ValueError('Attention weights need a model loaded with attn_implementation="eager".')
    batch = {name: tensor.to(inner.device) for name, tensor in batch.items()}
    mask = batch.get("attention_mask")
    if mask is None:
        batch = whole_blocks(inner.config, batch)
        mask = attention_masks(inner.config, batch, inner.dtype)
    wanted = next_labels(batch["labels"])
    labelled = wanted != IGNORE
    outputs = _forward(
        model,
        inner,
        labelled,
        output_hidden_states=bool(layers) or (target_layer, target_top) != (-1, 1),
        output_attentions=attentions,
        input_ids=batch["input_ids"],
        attention_mask=mask,
        position_ids=batch["position_ids"],
    )

    row, pair = (batch["context_index"] >= 0).nonzero(as_tuple=True)
    at_context = row, batch["context_index"][row, pair]
    at_target = row, batch["target_first"][row, pair], batch["target_index"][row, pair]
    states = outputs.states
    targets = _target_states(states, outputs.layers, target_layer, target_top)
    views = Views(
        token_losses=token_losses(outputs.logits, wanted[labelled]),
        token_examples=batch["example_ids"][labelled],
        context=states[at_context],
        target=pooled(targets, *at_target),
        example=batch["example_ids"][row, batch["context_end"][row, pair] - 1],
        steps=torch.stack([batch["context_step"][row, pair], batch["target_step"][row, pair]], dim=1),
        context_layers={layer: outputs.layers[layer][at_context] for layer in layers},
        target_layers={layer: pooled(outputs.layers[layer], *at_target) for layer in layers},
        states=states,
        attentions=outputs.attentions,
    )
    if step_states:
        steps = batch["step_ids"]
        last = (steps >= 0) & (
            (F.pad(steps[:, 1:], (0, 1), value=-1) != steps)
            | (F.pad(batch["example_ids"][:, 1:], (0, 1), value=-1) != batch["example_ids"])
        )
        views.step_states = states[last]
        views.step_index = torch.stack([batch["example_ids"][last], steps[last]], dim=1)
        views.step_layers = {layer: outputs.layers[layer][last] for layer in layers}
    return views


@dataclass
class _Outputs:
    logits: Tensor
    states: Tensor
    layers: tuple[Tensor, ...]
    attentions: tuple[Tensor, ...] | None


def _forward(model: nn.Module, inner: Any, labelled: Tensor, **inputs: Any) -> _Outputs:
    """Run the wrapped model once; logits of the labelled positions `[N, V]`, the decoder's last states `[B, L, D]`.

    The head is given the labelled positions by a hook, since not every version and architecture takes a boolean
    `logits_to_keep`.
    """
    caught: list[Any] = []
    catch: Callable[..., None] = lambda _module, _args, output: caught.append(output)  # noqa: E731
    hooks = [inner.get_decoder().register_forward_hook(catch)]
    if (head := inner.get_output_embeddings()) is not None:
        hooks.append(head.register_forward_pre_hook(lambda _module, args: (args[0][labelled],)))
    try:
        output = model(**inputs, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    logits = output.logits
    if logits.ndim == 3:  # an architecture that applies its head in another way
        logits = logits[labelled]
    decoder_output = caught[-1]
    return _Outputs(
        logits, decoder_output.last_hidden_state, output.hidden_states or (), decoder_output.attentions or None
    )
