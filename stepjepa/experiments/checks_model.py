"""Checks of `stepjepa verify` that run the model: is the single pass exact, a step isolated, the predictor trained?

They run on a few short examples in evaluation mode (no dropout) and compare with plain fine-tuning and with the
two-pass specification. The isolation check asks nothing of the code that builds layout and masks: a view that must not
see a token has to stay the same to the bit when that token becomes another one, and a view that sees it has to move.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from stepjepa.analysis.leakage import EXPERT_TOLERANCE, has_experts, perturb
from stepjepa.experiments.checks import (
    TOLERANCES,
    Outcome,
    Subject,
    finite,
    number,
    plural,
    relative_difference,
    shortest,
)
from stepjepa.jepa.architectures import base_model, check_architecture, check_isolation
from stepjepa.jepa.layout import predictor_token_ids, predictor_tokens
from stepjepa.jepa.losses import jepa_losses
from stepjepa.jepa.reference import two_pass_views
from stepjepa.jepa.views import Views, encode_views
from stepjepa.models.loading import choose_device, load_model
from stepjepa.records import UserError

# ---- model ---------------------------------------------------------------------------------------------------


def check_model(subject: Subject) -> Outcome:
    """Model and tokenizer load, the predictor tokens are there, and the device can take them.

    The checks after this one run in float32, on a copy where the weights have another dtype; in lower precision only
    `check_lower_precision` does.
    """
    options = subject.options
    try:
        device = str(choose_device(options.device))
    except UserError as error:
        return Outcome(False, str(error), "Use --device cpu, or install a CUDA build of torch.")
    model, tokenizer = load_model(
        options.model_name,
        predictors=subject.layout.predictors,
        lora=options.lora,
        dtype=options.dtype,
        attn_implementation=options.attn_implementation,
        revision=options.revision,
        trust_remote_code=options.trust_remote_code,
    )
    model, inner = model.to(device).eval(), base_model(model)
    subject.tokenizer = tokenizer
    half = inner.dtype in (torch.bfloat16, torch.float16)
    subject.model = copy.deepcopy(model).float() if half else model
    subject.lower = model if half or options.bf16 else None
    total = sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    ids = predictor_token_ids(tokenizer, subject.layout.predictors)
    named = ", ".join(
        f"{token} = {i}" for token, i in zip(predictor_tokens(subject.layout.predictors), ids, strict=True)
    )
    values = {
        "class": type(inner).__name__,
        "parameters": total,
        "trainable": trainable,
        "dtype": str(inner.dtype).removeprefix("torch."),
        "device": device,
        "attention": inner.config.get_text_config()._attn_implementation,
    }
    figures = (
        f"{values['class']}, {total:,} parameters, {trainable:,} trainable, {values['dtype']}, "
        f"{values['attention']} attention, on {device}{', checked in float32' * half}; {named}"
    )
    return Outcome(True, figures, values=values)


def check_architecture_holds(subject: Subject) -> Outcome:
    """Nothing known speaks against the architecture, and a handful of tokens shows no leak."""
    subject.require("model")
    model = subject.model
    config = base_model(model).config.get_text_config()
    check_architecture(model)
    if getattr(config, "output_router_logits", False):
        advice = "Set output_router_logits to false in the model's configuration: the router's loss is not added."
        return Outcome(False, "the model adds a router loss to its own", advice)
    if config._attn_implementation == "flex_attention" and base_model(model).device.type == "cpu":
        advice = "Use --attn_implementation sdpa, or --device cuda."
        return Outcome(False, "FlexAttention has no backward pass on the CPU, so nothing could be trained", advice)
    subject.supported = True
    check_isolation(model, EXPERT_TOLERANCE)
    kinds = sorted(set(getattr(config, "layer_types", None) or ["one layer type"]))
    experts = "; mixture of experts" if has_experts(model) else ""
    figures = f"{config.model_type}, {plural(config.num_hidden_layers, 'layer')} ({', '.join(kinds)}){experts}; no leak"
    return Outcome(True, figures)


# ---- losses and views ----------------------------------------------------------------------------------------


def check_lm_loss(subject: Subject) -> Outcome:
    """The LM loss read beside the views is the loss that the model itself gives for plain fine-tuning."""
    subject.require("model", "rows", "engine")
    rows = subject.chosen or shortest(subject.rows, subject.options.examples)
    model = subject.model
    device = base_model(model).device
    plain = {name: tensor.to(device) for name, tensor in subject.collator(pairs="none")(rows).items()}
    given = {name: plain[name] for name in ("input_ids", "attention_mask", "labels")}
    with torch.no_grad():
        own = model(**given, use_cache=False).loss.item()
        views = encode_views(model, subject.collator()(rows))
    ours = views.lm_loss.item()
    difference = finite(abs(ours - own) / abs(own)) if own else finite(abs(ours))
    tolerance = TOLERANCES["lm"]
    figures = (
        f"{ours:.6f} beside the views, {own:.6f} in plain fine-tuning, {plural(views.lm_tokens, 'token')}: "
        f"relative difference {number(difference)} (at most {tolerance:.0e})"
    )
    advice = "Branches or masks reach the ordinary sequence: do not train with this model; report it."
    values = {"lm_loss": ours, "plain_loss": own, "difference": difference, "tolerance": tolerance}
    return Outcome(difference <= tolerance, figures, advice, values)


def check_two_passes(subject: Subject) -> Outcome:
    """LM loss, views and gradients of the single pass are those of the two-pass specification."""
    subject.require("model", "rows", "engine", "pairs")
    model = subject.model
    batch = subject.collator()(subject.chosen)
    one = encode_views(model, batch)
    one_gradient = gradients(model, one)
    with dense_attention(model):
        two = two_pass_views(model, batch)
        two_gradient = gradients(model, two)
    if not torch.equal(one.steps, two.steps) or not torch.equal(one.example, two.example):
        return Outcome(False, "the two engines do not even list the same view pairs", "Report this.")
    states = torch.stack([one.context, one.target]).detach(), torch.stack([two.context, two.target]).detach()
    apart = sum((a - b).square().sum().item() for a, b in zip(one_gradient, two_gradient, strict=True))
    length = sum(b.square().sum().item() for b in two_gradient)
    differences = {
        "lm": finite(abs(one.lm_loss.item() - two.lm_loss.item()) / max(abs(two.lm_loss.item()), 1e-30)),
        "views": relative_difference(*states),
        "gradient": finite((apart / length) ** 0.5) if length else float("inf"),
    }
    limits = TOLERANCES
    figures = f"{plural(len(one.context), 'view pair')}, relative differences: " + ", ".join(
        f"{name} {number(differences[key])} (at most {limits[key]:.0e})"
        for name, key in (("LM loss", "lm"), ("views", "views"), ("gradient", "gradient"))
    )
    advice = "The single pass is not exact for this model: do not train with it; report it."
    passed = all(differences[key] <= limits[key] for key in limits)
    return Outcome(passed, figures, advice, {**differences, "tolerance": limits, "pairs": len(one.context)})


def gradients(model: Any, views: Views) -> list[Tensor]:
    """Gradient of LM + JEPA loss of every trainable parameter, in float32; zeros where none arrives."""
    loss = views.lm_loss + jepa_losses(views.context, views.target).mean()
    weights = [p for p in model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss, weights, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g.float() for p, g in zip(weights, gradients, strict=True)]


@contextmanager
def dense_attention(model: Any, wanted: bool = True) -> Iterator[None]:
    """FlexAttention replaced by SDPA, if that is wanted: the specification builds dense masks."""
    inner = base_model(model)
    implementation = inner.config._attn_implementation
    if implementation != "flex_attention" or not wanted:
        yield
        return
    inner.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        inner.set_attn_implementation(implementation)


# ---- isolation -----------------------------------------------------------------------------------------------

FUTURE_CONTEXT = "a future token changes a context view"
PAST_TARGET = "the question or step 1 changes a target view"
NEARER_TARGET = "an earlier step changes a target view"
PAST_CONTEXT = "the question changes no context view"
OWN_TARGET = "its own tokens change no target view"


@torch.no_grad()
def check_perturbation(subject: Subject) -> Outcome:
    """Change tokens that a view must not see: it stays the same to the bit. Change those it sees: it moves.

    Three changes, each of every token in its range: all before the first target (the question and step 1); all
    before the last target; all from the end of the last context on.
    """
    subject.require("model", "rows", "engine", "pairs")
    rows, model = subject.chosen, subject.model
    device = base_model(model).device.type
    lowest = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else base_model(model).dtype
    layout, collator = subject.layout, subject.collator()
    before = encode_views(model, collator(rows))
    first, last = _edges(before)
    spans = [layout.view_pairs(row["step_ids"]) for row in rows]
    sink = int(layout.isolation == "sink")  # the first token is seen by design

    def after(ranges: list[tuple[int, int]]) -> Views:
        changed = [perturb(row, *span) for row, span in zip(rows, ranges, strict=True)]
        return encode_views(model, collator(changed))

    past = after([(sink, pairs[0].target_start) for pairs in spans])
    nearer = after([(sink, pairs[-1].target_start) for pairs in spans])
    future = after([(pairs[-1].context_end, len(row["input_ids"])) for pairs, row in zip(spans, rows, strict=True)])

    isolated = layout.isolation != "none"
    # Experts round by batch, in lower precision by a few units in the last place.
    exact = max(EXPERT_TOLERANCE, 4 * torch.finfo(lowest).eps) if has_experts(model) else 0.0
    silent = {FUTURE_CONTEXT: relative_difference(future.context, before.context)}
    if isolated:
        silent[PAST_TARGET] = relative_difference(past.target, before.target)
        silent[NEARER_TARGET] = relative_difference(nearer.target[last], before.target[last])
    moved = {
        PAST_CONTEXT: _least(past.context, before.context, first),
        OWN_TARGET: _least(future.target, before.target, last),
    }
    faults = [f"{what} by {number(value)}" for what, value in silent.items() if value > exact]
    faults += [what for what, value in moved.items() if not value > exact]
    values = {**silent, **moved, "tolerance": exact}
    if faults:
        advice = "Information passes where it must not (or does not pass where it must): do not train; report it."
        return Outcome(False, f"{plural(len(before.context), 'view pair')}: {'; '.join(faults)}", advice, values)
    rule = f"within {exact:.0e}, as experts round by batch" if exact else "to the bit"
    target = (
        f"targets unchanged by question and earlier steps ({number(max(silent[PAST_TARGET], silent[NEARER_TARGET]))})"
        if isolated
        else "isolation none, so targets see all before them"
    )
    figures = (
        f"{plural(len(before.context), 'view pair')}, {rule}: {target}, contexts unchanged by the future "
        f"({number(silent[FUTURE_CONTEXT])}); the question moves contexts by {number(moved[PAST_CONTEXT])} or more"
    )
    return Outcome(True, figures, values=values)


def _edges(views: Views) -> tuple[Tensor, Tensor]:
    """Which pairs are the first and which the last of their example, `[P]` booleans each."""
    change = views.example[1:] != views.example[:-1]
    edge = change.new_ones(1)
    return torch.cat([edge, change]), torch.cat([change, edge])


def _least(a: Tensor, b: Tensor, which: Tensor) -> float:
    """The smallest movement of a view among the pairs `which`, relative to the largest entry of all."""
    return ((a - b)[which].abs().amax(dim=-1).min() / b.abs().max()).item()


# ---- gradient ------------------------------------------------------------------------------------------------


def check_predictor_gradient(subject: Subject) -> Outcome:
    """The JEPA loss reaches the embedding of every predictor token; under LoRA nothing else than adapters trains."""
    subject.require("model", "rows", "engine", "pairs")
    model = subject.model
    ids = predictor_token_ids(subject.tokenizer, subject.layout.predictors)
    views = encode_views(model, subject.collator()(subject.chosen))
    loss = jepa_losses(views.context, views.target).mean()
    trainable = {token: place for token in ids if (place := _trainable_row(model, token)) is not None}
    norms = dict.fromkeys(ids, 0.0)
    if trainable and loss.requires_grad:
        gradients = torch.autograd.grad(loss, [weight for weight, _ in trainable.values()], allow_unused=True)
        for (token, (_, row)), gradient in zip(trainable.items(), gradients, strict=True):
            norms[token] = 0.0 if gradient is None else gradient[row].float().norm().item()
    frozen = [token for token in ids if token not in trainable]
    silent = [token for token in trainable if not norms[token] > 0]
    names = subject.tokenizer.convert_ids_to_tokens
    faults = [f"frozen: {', '.join(names(frozen))}"] if frozen else []
    faults += [f"no gradient: {', '.join(names(silent))}"] if silent else []
    others: list[str] = []
    if hasattr(model, "peft_config"):
        others = [name for name, p in model.named_parameters() if p.requires_grad and not _is_adapter(name, model)]
        faults += [f"trainable besides adapters and predictor rows: {', '.join(others[:3])}"] if others else []
    listed = ", ".join(f"{name} {norm:.2g}" for name, norm in zip(names(ids), norms.values(), strict=True))
    values = {"norms": {str(token): norm for token, norm in norms.items()}, "unexpected_trainable": others}
    if faults:
        advice = (
            "The predictor rows would stay as they were initialised. Load the model with stepjepa.load_model, which "
            "makes them trainable (under LoRA through trainable_token_indices)."
        )
        return Outcome(False, "; ".join(faults), advice, values)
    lora = "; besides these rows only adapters are trainable" if hasattr(model, "peft_config") else ""
    return Outcome(
        True, f"JEPA loss {loss.item():.4f}; its gradient at the embedding has norm: {listed}{lora}", values=values
    )


def _trainable_row(model: Any, token: int) -> tuple[Tensor, int] | None:
    """The trainable parameter that holds the embedding of `token` and its row in it; None if it is frozen."""
    embedding = base_model(model).get_input_embeddings()
    for module in embedding.modules():
        deltas = getattr(module, "trainable_tokens_delta", None)
        if deltas is None:
            continue
        for name, delta in deltas.items():
            if token in module.token_indices[name] and delta.requires_grad:
                return delta, module.token_indices[name].index(token)
    weight = embedding.weight
    return (weight, token) if weight.requires_grad and weight.is_leaf else None


def _is_adapter(name: str, model: Any) -> bool:
    prefix = getattr(model.base_model, "prefix", "lora_")
    return prefix in name or "trainable_tokens_delta" in name
