"""Examples → `Embeddings`: views and step-end states of a data set, each step with its labels.

Every state comes from `encode_views`, the function that training uses, so what is measured and drawn is what the
objective saw. Padding and batch composition change nothing but the speed.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from stepjepa.analysis.embeddings import Embeddings
from stepjepa.data.tokens import tokenize_dataset
from stepjepa.evaluation.results import question_ids
from stepjepa.jepa.architectures import base_model
from stepjepa.jepa.layout import IGNORE, StepJEPACollator, predictor_token_ids
from stepjepa.jepa.views import Views, encode_views
from stepjepa.records import UserError


def encode_examples(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Mapping[str, Any]],
    *,
    ids: Sequence[str] | None = None,
    correct: Mapping[str, bool] | None = None,
    layers: Sequence[int] = (),
    pairs: str = "consecutive",
    horizon: int = 1,
    isolation: str = "step",
    predictors: int = 1,
    batch_size: int = 32,
    max_length: int | None = None,
    progress: bool = True,
) -> Embeddings:
    """Views and step-end states of examples, in their order.

    Args:
        model: as for `encode_views`; its training mode is restored afterwards.
        tokenizer: its tokenizer, with pad and predictor tokens.
        examples: of `read_examples`; `latents` (a dict with `operation` and `value` for each step) are kept as labels.
        ids: names of the questions; by default `question_ids` of the examples.
        correct: whether a question, by its name, was answered correctly; others are unknown.
        layers: also keep these layers, 0 (embedding output) … number of layers.
        pairs, horizon, isolation, predictors: the layout, see `StepJEPACollator`.
        batch_size: examples encoded together; it changes the speed, not the embeddings.
        max_length: longer examples keep the whole steps that fit.
        progress: show a progress bar.

    Raises:
        UserError: the tokenizer lacks the predictor tokens or offsets, a layer does not exist, an example is
            malformed, or none has a view pair.
        UnsupportedArchitectureError: see `encode_views`.
    """
    try:
        predictor_token_ids(tokenizer, predictors)
    except ValueError as error:
        raise UserError(str(error)) from error
    depth = base_model(model).config.get_text_config().num_hidden_layers
    beyond = [layer for layer in layers if not 0 <= layer <= depth]
    if beyond:
        raise UserError(f"layer {beyond[0]}: the model has layers 0 (embedding output) to {depth}")
    names = question_ids(examples) if ids is None else list(ids)
    try:
        rows, report = tokenize_dataset(examples, tokenizer, max_length)
    except ValueError as error:  # a malformed example, by its question, or a tokenizer without offsets
        raise UserError(str(error)) from error
    skipped = set(report.skipped_indices)
    kept = [(name, example) for i, (name, example) in enumerate(zip(names, examples, strict=True)) if i not in skipped]
    collate = StepJEPACollator(tokenizer, pairs=pairs, horizon=horizon, predictors=predictors, isolation=isolation)
    parts = _encode(model, rows, collate, layers, batch_size, progress)
    pair_order = np.argsort(parts["pair_example"], kind="stable")
    state_order = np.argsort(parts["state_example"], kind="stable")
    if not len(pair_order):
        raise UserError(f"none of the {len(examples):,} examples has a view pair ({pairs}); nothing to embed")

    def pair(name: str) -> np.ndarray:
        return parts[name][pair_order]

    def state(name: str) -> np.ndarray:
        return parts[name][state_order]

    operations, operation, value = _step_labels(
        [example for _, example in kept], state("state_example"), state("state_step")
    )
    known = correct or {}
    return Embeddings(
        context=pair("context"),
        target=pair("target"),
        pair_example=pair("pair_example"),
        context_step=pair("context_step"),
        target_step=pair("target_step"),
        states=state("states"),
        state_example=state("state_example"),
        state_step=state("state_step"),
        operation=operation,
        value=value,
        correct=np.array([int(known[name]) if name in known else -1 for name, _ in kept], dtype=np.int64),
        questions=[example["question"] for _, example in kept],
        steps=[list(example["steps"]) for _, example in kept],
        ids=[name for name, _ in kept],
        operation_names=operations,
        info={
            "layout": {
                "pairs": pairs,
                "horizon": horizon,
                "isolation": isolation,
                "predictors": predictors,
                "max_length": max_length,
            },
            "counts": {
                "examples": report.examples,
                "embedded": report.kept,
                "too_long": report.skipped,
                "cut": report.cut,
                "without_pair": len(rows) - len(np.unique(parts["pair_example"])),
                "pairs": len(pair_order),
                "steps": len(state_order),
            },
        },
        context_layers={layer: pair(f"context.{layer}") for layer in layers},
        target_layers={layer: pair(f"target.{layer}") for layer in layers},
        state_layers={layer: state(f"states.{layer}") for layer in layers},
    )


@torch.no_grad()
def _encode(
    model: Any,
    rows: list[dict[str, Any]],
    collate: StepJEPACollator,
    layers: Sequence[int],
    batch_size: int,
    progress: bool,
) -> dict[str, np.ndarray]:
    """Everything `encode_views` gives, batch by batch from the longest row, as numpy arrays."""
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]["input_ids"]), reverse=True)
    parts: dict[str, list[np.ndarray]] = {}
    was_training = model.training
    model.eval()
    try:
        with tqdm(total=len(rows), desc="embedding", unit="example", disable=not progress) as bar:
            for start in range(0, len(order), batch_size):
                chosen = order[start : start + batch_size]
                # Without labels the language-modelling head, most of the work under a large vocabulary, has none.
                batch = collate([{**rows[i], "labels": [IGNORE] * len(rows[i]["labels"])} for i in chosen])
                views = encode_views(model, batch, layers=layers, step_states=True)
                for name, array in _arrays(views, np.array(chosen)):
                    parts.setdefault(name, []).append(array)
                bar.update(len(chosen))
    finally:
        model.train(was_training)
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


def _arrays(views: Views, chosen: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """The arrays of one batch; `chosen` names its examples."""
    assert views.step_states is not None
    assert views.step_index is not None

    def plain(states: Tensor) -> np.ndarray:
        return states.float().cpu().numpy()

    index, steps = views.step_index.cpu().numpy(), views.steps.cpu().numpy()
    return [
        ("context", plain(views.context)),
        ("target", plain(views.target)),
        ("states", plain(views.step_states)),
        ("pair_example", chosen[views.example.cpu().numpy()]),
        ("context_step", steps[:, 0]),
        ("target_step", steps[:, 1]),
        ("state_example", chosen[index[:, 0]]),
        ("state_step", index[:, 1]),
        *((f"context.{layer}", plain(states)) for layer, states in views.context_layers.items()),
        *((f"target.{layer}", plain(states)) for layer, states in views.target_layers.items()),
        *((f"states.{layer}", plain(states)) for layer, states in views.step_layers.items()),
    ]


def _step_labels(
    examples: Sequence[Mapping[str, Any]], example: np.ndarray, step: np.ndarray
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names of the operations, and operation `[S]` and running value `[S]` of each step."""
    latents = [entry.get("latents") or [] for entry in examples]
    names = sorted({latent["operation"] for entry in latents for latent in entry})
    operation, value = np.full(len(step), -1), np.full(len(step), np.nan)
    for row, (e, k) in enumerate(zip(example, step, strict=True)):
        if k < len(latents[e]):  # the closing step, which states the answer, has no operation
            operation[row] = names.index(latents[e][k]["operation"])
            value[row] = latents[e][k]["value"]
    return names, operation, value


def random_weights(model: Any, seed: int) -> Any:
    """A model of the same architecture, size, dtype and device with freshly drawn weights; adapters are left out.

    What random features of the same text give is the control for every figure about representations. The global
    random state is untouched.
    """
    inner = base_model(model)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fresh = type(inner)(copy.deepcopy(inner.config))
    return fresh.to(device=inner.device, dtype=inner.dtype)
