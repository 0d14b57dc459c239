"""Examples as they are embedded: under which system message, with whose solutions, and what is known of them.

A response is embedded only under the very prompt that it was given to, and only by a model that knows as many
predictor tokens as are asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from stepjepa.data.chat import ChatRenderer
from stepjepa.data.steps import Splitter, split_steps
from stepjepa.evaluation.results import Results
from stepjepa.jepa.layout import predictor_tokens
from stepjepa.records import UserError


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
    renderer = ChatRenderer(tokenizer)
    prompts = {row["id"]: row.get("prompt") for row in results.rows}
    for example, name in zip(examples, ids, strict=True):
        if prompts[name] != renderer.prompt(example["messages"]):
            raise UserError(
                f"{results.path}: question {name} was answered under another prompt than the one to embed it with; "
                "give the model that answered, and --system_prompt as in `stepjepa evaluate`"
            )


def check_predictors(tokenizer: PreTrainedTokenizerBase, count: int) -> bool:
    """Whether a checkpoint's tokenizer knows its predictor tokens; False if it has none at all.

    Raises:
        UserError: it was trained with another number of them.
    """
    known = {token for token in tokenizer.get_added_vocab() if token.startswith("<|predictor")}
    if known and known != set(predictor_tokens(count)):
        raise UserError(
            f"--predictors {count}: the model was trained with {len(known)}; give --predictors {len(known)}"
        )
    return bool(known)
