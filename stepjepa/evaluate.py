"""Does the model solve the problem? Batched greedy generation and comparison of final answers.

Prompts of similar length are generated together, padded on the left, with a KV cache. Generation stops at the
end of the turn only, never at a blank line (which would end a solution after its first step). Every example
counts: a cut-off or answerless response is wrong, not dropped.
"""

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import GenerationConfig, PreTrainedTokenizerBase

from stepjepa.chat import ChatRenderer
from stepjepa.steps import last_boxed

_HASHES = re.compile(r"####[ \t]*([^\n]+)")
_NUMBER = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|-?\.\d+")
_WRAPPING = re.compile(r"\\(?:text|mathrm|mbox)\s*\{([^{}]*)\}")


def extract_answer(text: str) -> str | None:
    r"""The final answer of a solution, or None where there is none.

    Taken from the last complete ``\boxed{…}`` (nested braces allowed), else what follows the last ``####``,
    else the last number.
    """
    boxed = last_boxed(text)
    if boxed is not None:
        return boxed
    marked = _HASHES.findall(text)
    if marked:
        return str(marked[-1]).strip()
    numbers = _NUMBER.findall(text)
    return str(numbers[-1]) if numbers else None


def answers_match(predicted: str | None, gold: str) -> bool:
    """Whether two answers are the same number, or the same text up to notation.

    Thousands separators, currency and percent signs, closing dots and trailing zeros do not count:
    ``$1,450,000.`` equals ``1450000`` and ``29.00`` equals ``29``.
    """
    if predicted is None:
        return False
    left, right = _normalize(predicted), _normalize(gold)
    if left == right:
        return left != ""
    left_number, right_number = _number(left), _number(right)
    return left_number is not None and left_number == right_number


def _normalize(answer: str) -> str:
    text = _WRAPPING.sub(r"\1", answer).replace("\\!", "").replace("\\,", "").replace("{,}", ",")
    text = text.replace("\\$", "").replace("\\%", "")
    text = re.sub(r"[$€£¥%\s]", "", text).rstrip(".")
    return re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text).lower()


def _number(text: str) -> Decimal | None:
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def accuracy(results: Sequence[Mapping[str, Any]]) -> float:
    """Share of correct results among all of them, 0 to 1.

    Raises:
        ValueError: no results, since a share of nothing is not a number.
    """
    if not results:
        raise ValueError("no results: accuracy needs at least one")
    return sum(bool(result["correct"]) for result in results) / len(results)


@torch.no_grad()
def generate_answers(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Mapping[str, Any]],
    batch_size: int = 64,
    max_new_tokens: int = 512,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Answer every example greedily and compare with its gold answer.

    Args:
        model: A causal language model with `generate` (a PEFT model too), on any device; its training mode
            is restored afterwards.
        tokenizer: Its tokenizer, with a pad token; it is not changed.
        examples: Rows with `messages` (the assistant message is not shown to the model) and `answer`.
        batch_size: Prompts generated together; it changes the speed, not the answers (in fp32).
        max_new_tokens: Where a response is cut off, in tokens.
        progress: Show a progress bar.

    Returns:
        One dict per example, in the order given: `prompt`, `response`, `extracted` (answer or None), `gold`,
        `correct`, `tokens` (of the response, without the end-of-turn token), `stopped` (the model ended the
        turn), `truncated` (cut off instead).

    Raises:
        ValueError: the tokenizer has no pad or no end-of-turn token.
    """
    ends = end_ids(model, tokenizer)
    if tokenizer.pad_token_id is None:
        raise ValueError("the tokenizer has no pad token, which batched generation needs")
    renderer = ChatRenderer(tokenizer)  # once: it probes the template
    prompts = [renderer.prompt(example["messages"]) for example in examples]
    ids: list[list[int]] = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in prompts]
    order = sorted(range(len(ids)), key=lambda index: len(ids[index]), reverse=True)
    config = GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        eos_token_id=sorted(ends),
        pad_token_id=tokenizer.pad_token_id,
        use_cache=True,
    )
    results: list[dict[str, Any] | None] = [None] * len(ids)
    was_training = model.training
    model.eval()
    try:
        with tqdm(total=len(ids), desc="generating", unit="problem", disable=not progress) as bar:
            for start in range(0, len(order), batch_size):
                chosen = order[start : start + batch_size]
                input_ids, mask = _left_pad([ids[index] for index in chosen], tokenizer.pad_token_id)
                output = model.generate(
                    input_ids=input_ids.to(model.device),
                    attention_mask=mask.to(model.device),
                    generation_config=config,
                )
                new = output[:, input_ids.shape[1] :].tolist()
                for index, row in zip(chosen, new, strict=True):
                    results[index] = _result(prompts[index], row, ends, examples[index], tokenizer)
                bar.update(len(chosen))
    finally:
        model.train(was_training)
    return [result for result in results if result is not None]


def _left_pad(rows: list[list[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, both `[B, L]`, of prompts that end in the same column."""
    length = max(map(len, rows))
    ids = torch.tensor([[pad] * (length - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


def end_ids(model: Any, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Every token that ends a turn: the tokenizer's and those of the model's generation settings."""
    configured = model.generation_config.eos_token_id if model.generation_config is not None else None
    ends = {configured} if isinstance(configured, int) else set(configured or ())
    if tokenizer.eos_token_id is not None:
        ends.add(tokenizer.eos_token_id)
    if not ends:
        raise ValueError("neither the tokenizer nor the model names an end-of-turn token")
    return ends


def _result(
    prompt: str,
    row: list[int],
    ends: set[int],
    example: Mapping[str, Any],
    tokenizer: PreTrainedTokenizerBase,
) -> dict[str, Any]:
    length = next((index for index, token in enumerate(row) if token in ends), len(row))
    response = str(tokenizer.decode(row[:length], skip_special_tokens=True))
    extracted = extract_answer(response)
    return {
        "prompt": prompt,
        "response": response,
        "extracted": extracted,
        "gold": example["answer"],
        "correct": answers_match(extracted, example["answer"]),
        "tokens": length,
        "stopped": length < len(row),
        "truncated": length == len(row),
    }
