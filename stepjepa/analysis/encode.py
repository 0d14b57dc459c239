"""Examples → `Embeddings`: views and step-end states of a data set, each step with its labels.

Every state comes from `encode_views`, the function that training uses, so what is measured and drawn is what the
objective saw. Padding and batch composition change nothing but the speed. A response is embedded only under the very
prompt that it was given to, and only by a model that knows as many predictor tokens as are asked for.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from stepjepa.analysis.embeddings import LAYERED, Embeddings
from stepjepa.data.encoding import chat_encoder
from stepjepa.data.steps import Splitter, split_steps
from stepjepa.data.tokens import tokenize_dataset
from stepjepa.evaluation.results import Results, question_ids
from stepjepa.jepa.architectures import base_model, evaluating, longest_trunk
from stepjepa.jepa.layout import IGNORE, StepJEPACollator, predictor_token_ids
from stepjepa.jepa.pairs import CONSECUTIVE, BranchLayout
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
    layout: BranchLayout = CONSECUTIVE,
    batch_size: int = 32,
    progress: bool = True,
    encode: Callable[..., Views] = encode_views,
) -> Embeddings:
    """Views and step-end states of examples, in their order.

    Args:
        model: as for `encode_views`; its training mode is restored afterwards.
        tokenizer: its tokenizer, with pad and predictor tokens.
        examples: of `read_examples`; `latents` (a dict with `operation` and `value` for each step) are kept as labels.
        ids: names of the questions; by default `question_ids` of the examples.
        correct: whether a question, by its name, was answered correctly; others are unknown.
        layers: also keep these layers, 0 (embedding output) … number of layers.
        layout: which views; examples longer than its `max_length`, or than the model's positions hold, keep the whole
            steps that fit.
        batch_size: examples encoded together; it changes the speed, not the embeddings.
        progress: show a progress bar.
        encode: gives the views; a trainer's `compared_views` gives them as its objective compares them.

    Raises:
        UserError: the tokenizer lacks the predictor tokens or offsets, a layer does not exist, an example is
            malformed, or none has a view pair.
        UnsupportedArchitectureError: see `encode_views`.
    """
    try:
        predictor_token_ids(tokenizer, layout.predictors)
    except ValueError as error:
        raise UserError(str(error)) from error
    depth = base_model(model).config.get_text_config().num_hidden_layers
    beyond = [layer for layer in layers if not 0 <= layer <= depth]
    if beyond:
        raise UserError(f"layer {beyond[0]}: the model has layers 0 (embedding output) to {depth}")
    names = question_ids(examples) if ids is None else list(ids)
    try:
        fitting = replace(layout, max_length=longest_trunk(model, layout))
        rows, report = tokenize_dataset(examples, tokenizer, fitting)
    except ValueError as error:  # a malformed example, by its question, or a tokenizer without offsets
        raise UserError(str(error)) from error
    if not rows:
        raise UserError(f"none of the {len(examples):,} examples can be embedded: {report}")
    skipped = set(report.skipped_indices)
    kept = [(name, example) for i, (name, example) in enumerate(zip(names, examples, strict=True)) if i not in skipped]
    arrays: dict[str, Any] = _encode(
        model, rows, StepJEPACollator(tokenizer, layout), layers, batch_size, progress, encode
    )
    if not len(arrays["pair_example"]):
        raise UserError(f"none of the {len(examples):,} examples has a view pair ({layout.pairs}); nothing to embed")
    labels = _step_labels([example for _, example in kept], arrays["state_example"], arrays["state_step"])
    known = correct or {}
    counts = {
        "examples": report.examples,
        "embedded": report.kept,
        "too_long": report.skipped,
        "cut": report.cut,
        "without_pair": len(rows) - len(np.unique(arrays["pair_example"])),
        "pairs": len(arrays["pair_example"]),
        "steps": len(arrays["state_example"]),
    }
    layered: dict[str, Any] = {
        group: {layer: arrays.pop(f"{group}.{layer}") for layer in dict.fromkeys(layers)} for group in LAYERED
    }
    return Embeddings(
        **arrays,
        **layered,
        **labels,
        correct=np.array([int(known[name]) if name in known else -1 for name, _ in kept], dtype=np.int64),
        questions=[example["question"] for _, example in kept],
        steps=[list(example["steps"]) for _, example in kept],
        ids=[name for name, _ in kept],
        info={"layout": asdict(layout), "counts": counts},
    )


@torch.no_grad()
def _encode(
    model: Any,
    rows: list[dict[str, Any]],
    collate: StepJEPACollator,
    layers: Sequence[int],
    batch_size: int,
    progress: bool,
    encode: Callable[..., Views],
) -> dict[str, np.ndarray]:
    """Everything `encode_views` gives, as arrays in the order of the rows; batches go from the longest row on."""
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]["input_ids"]), reverse=True)
    parts: dict[str, list[np.ndarray]] = {}
    with evaluating(model), tqdm(total=len(rows), desc="embedding", unit="example", disable=not progress) as bar:
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            # Without labels the language-modelling head, most of the work under a large vocabulary, has none.
            batch = collate([{**rows[i], "labels": [IGNORE] * len(rows[i]["labels"])} for i in chosen])
            views = encode(model, batch, layers=layers, step_states=True)
            for name, array in _arrays(views, np.array(chosen)):
                parts.setdefault(name, []).append(array)
            bar.update(len(chosen))
    arrays = {name: np.concatenate(batches) for name, batches in parts.items()}
    of_pairs, of_states = (np.argsort(arrays[name], kind="stable") for name in ("pair_example", "state_example"))
    return {name: array[of_states if name.startswith("state") else of_pairs] for name, array in arrays.items()}


def _arrays(views: Views, chosen: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """The arrays of one batch under their names in the embedding file; `chosen` names its examples."""
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
        *((f"context_layers.{layer}", plain(states)) for layer, states in views.context_layers.items()),
        *((f"target_layers.{layer}", plain(states)) for layer, states in views.target_layers.items()),
        *((f"state_layers.{layer}", plain(states)) for layer, states in views.step_layers.items()),
    ]


def _step_labels(examples: Sequence[Mapping[str, Any]], example: np.ndarray, step: np.ndarray) -> dict[str, Any]:
    """`operation_names`, and `operation` `[S]` and running `value` `[S]` of each step."""
    latents = [entry.get("latents") or [] for entry in examples]
    names = sorted({latent["operation"] for entry in latents for latent in entry})
    operation, value = np.full(len(step), -1), np.full(len(step), np.nan)
    for row, (e, k) in enumerate(zip(example, step, strict=True)):
        if k < len(latents[e]):  # the closing step, which states the answer, has no operation
            operation[row] = names.index(latents[e][k]["operation"])
            value[row] = latents[e][k]["value"]
    return {"operation_names": names, "operation": operation, "value": value}


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


# ---- which examples are embedded: their system message, their solutions, what is known of them -----------------


def with_system_prompt(examples: Sequence[Mapping[str, Any]], system: str | None) -> list[dict[str, Any]]:
    """The examples under this system message, or without any, as `stepjepa evaluate` asks them."""
    first = [] if system is None else [{"role": "system", "content": system}]
    return [
        {**example, "messages": [*first, *(turn for turn in example["messages"] if turn["role"] != "system")]}
        for example in examples
    ]


def with_responses(
    examples: Sequence[Mapping[str, Any]], ids: Sequence[str], results: Results, splitter: Splitter = "auto"
) -> tuple[list[dict[str, Any]], list[str]]:
    """The examples with the model's own responses in the place of their solutions, split into steps.

    Latents describe the gold steps and are left out. Examples whose response has no step are left out.

    Returns:
        Examples and their names.

    Raises:
        UserError: a question has no row in the results.
    """
    responses = {row["id"]: row["response"] for row in results.rows}
    missing = [name for name in ids if name not in responses]
    if missing:
        raise UserError(
            f"{results.path}: no response to {len(missing):,} of the {len(ids):,} questions (the first: {missing[0]}); "
            "embed the data that was evaluated"
        )
    replaced: list[dict[str, Any]] = []
    names: list[str] = []
    for example, name in zip(examples, ids, strict=True):
        steps = split_steps(responses[name], splitter)
        if not steps:
            continue
        own = {key: value for key, value in example.items() if key != "latents"}
        answer = {"role": "assistant", "content": "\n\n".join(steps)}
        replaced.append(
            {**own, "messages": [*example["messages"][:-1], answer], "steps": steps, "total_steps": len(steps)}
        )
        names.append(name)
    return replaced, names


def joined(ids: Sequence[str], results: Results) -> dict[str, bool]:
    """Which questions were answered correctly, by name.

    Raises:
        UserError: the results are those of other questions.
    """
    correct = {row["id"]: bool(row["correct"]) for row in results.rows}
    if not set(ids) & set(correct):
        raise UserError(f"{results.path}: these are results of other questions; embed the data that was evaluated")
    return {name: correct[name] for name in ids if name in correct}


def check_prompts(
    tokenizer: PreTrainedTokenizerBase, examples: Sequence[Mapping[str, Any]], ids: Sequence[str], results: Results
) -> None:
    """Raise `UserError` unless every response was given to the very prompt that it will be embedded with."""
    given = {row["id"]: row.get("prompt") for row in results.rows}
    prompts = chat_encoder(tokenizer).prompts([example["messages"] for example in examples])
    for prompt, name in zip(prompts, ids, strict=True):
        if given[name] != prompt.text:
            raise UserError(
                f"{results.path}: question {name} was answered under another prompt than the one to embed it with; "
                "give the model that answered, and --system_prompt as in `stepjepa evaluate`"
            )


def check_predictors(tokenizer: PreTrainedTokenizerBase, count: int) -> bool:
    """Whether a checkpoint's tokenizer knows its predictor tokens; False if it has none at all.

    Raises:
        UserError: it was trained with another number of them.
    """
    known = [token for token in tokenizer.get_added_vocab() if token.startswith("<|predictor")]
    single = known.count("<|predictor|>")  # a model that was trained with one, then with several, has them all
    trained = {1} if single else set()
    trained |= {len(known) - single} if len(known) > single else set()
    if trained and count not in trained:
        most = max(trained)
        raise UserError(f"--predictors {count}: the model was trained with {most}; give --predictors {most}")
    return bool(known)
