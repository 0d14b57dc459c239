"""Does the model solve the problem? Prompts, answers, verdicts.

Every question counts: a cut-off or answerless response is wrong, not dropped. Each response is read three ways: by
the package's own reader, and by the strict and the flexible filter of lm-evaluation-harness, so that published numbers
compare. `stepjepa evaluate` (`run.py`) does the same for whole test files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from stepjepa.data.encoding import Prompt, chat_encoder
from stepjepa.data.examples import DEFAULT_SYSTEM_PROMPT
from stepjepa.data.thoughts import CHANNEL_MARKS, MARKS, opened_thought
from stepjepa.evaluation.answers import answers_match, exact_match, extract_answer, flexible_extract, strict_match
from stepjepa.evaluation.generation import Answer, Generation, Sampling, context_length, generate
from stepjepa.evaluation.options import MAX_NEW_TOKENS
from stepjepa.evaluation.questions import Question
from stepjepa.models.checkpoint import BUILTIN, Checkpoint
from stepjepa.records import UserError


def system_prompt(mode: str, model: Checkpoint) -> tuple[str | None, str]:
    """The system message for every question, None for none or for the rows' own, and where it comes from."""
    if mode == "none":
        return None, "none"
    if mode == "file":
        return None, "that of each test row, if it has one"
    if model.name == BUILTIN:
        return None, "none, as in the training of the built-in model"
    if model.record is not None and "system_prompt" in model.record:
        prompt = model.record["system_prompt"]
        return prompt, "none, as in its training" if prompt is None else "that of its training"
    return DEFAULT_SYSTEM_PROMPT, "no training record beside the model names one; the package's default"


def encode_prompts(
    questions: Sequence[Question], mode: str, system: str | None, tokenizer: PreTrainedTokenizerBase
) -> list[Prompt]:
    """The prompt of each question, with the system message of `mode` (see `system_prompt`).

    Raises:
        UserError: the chat template cannot be used, or refuses a conversation.
    """
    conversations = []
    for question in questions:
        turns = question["messages"]
        if mode != "file":
            turns = [turn for turn in turns if turn["role"] != "system"]
            turns = turns if system is None else [{"role": "system", "content": system}, *turns]
        conversations.append(turns)
    try:
        return chat_encoder(tokenizer).prompts(conversations, [question["place"] for question in questions])
    except ValueError as error:  # names the place
        raise UserError(str(error)) from error


def accuracy(results: Sequence[Mapping[str, Any]]) -> float:
    """Share of correct results among all of them, 0 to 1.

    Raises:
        ValueError: no results, since a share of nothing is not a number.
    """
    if not results:
        raise ValueError("no results: accuracy needs at least one")
    return sum(bool(result["correct"]) for result in results) / len(results)


def generate_answers(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Mapping[str, Any]],
    batch_size: int = 64,
    max_new_tokens: int = MAX_NEW_TOKENS,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Answer every example greedily and compare with its gold answer.

    Args:
        model: A causal language model with `generate` (a PEFT model too), on any device; its training mode
            is restored afterwards.
        tokenizer: Its tokenizer, with a pad token; it is not changed.
        examples: Rows with `messages` (the assistant message is not shown to the model) and `answer`.
        batch_size: Prompts generated together; it changes the speed, not the answers (in fp32).
        max_new_tokens: Where a response is cut off, in tokens; the model's context may cut it off earlier.
        progress: Show a progress bar.

    Returns:
        One dict per example, in the order given: `prompt`, `gold`, and what `verdict` says.

    Raises:
        UserError: the tokenizer has no pad or no end-of-turn token.
    """
    prompts = chat_encoder(tokenizer).prompts([example["messages"] for example in examples])
    sampling = Sampling(max_new_tokens=max_new_tokens)
    state = Generation([prompt.ids for prompt in prompts], sampling, batch_size, context_length(model))
    with tqdm(total=len(prompts), desc="generating", unit="problem", disable=not progress) as bar:
        for batch in generate(model, tokenizer, state):
            bar.update(sum(state.answers[request].end != "unfinished" for request in batch))
    return [
        {"prompt": prompt.text, "gold": example["answer"], **verdict(answer, example["answer"], tokenizer, prompt.text)}
        for prompt, answer, example in zip(prompts, state.answers, examples, strict=True)
    ]


def response_text(tokens: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str:
    """A response without control tokens, except those of which the marks of thoughts are made.

    `split_thoughts` needs them; the decoder's `skip_special_tokens` would leave the thoughts without their marks.
    """
    controls = {token: str(added) for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    said = {controls[token] for token in tokens if token in controls}
    marks = MARKS if "<|channel|>" in said else [mark for mark in MARKS if mark not in CHANNEL_MARKS]
    kept = {control for control in said if any(mark.startswith(control) for mark in marks)}
    rest = [token for token in tokens if token not in controls or controls[token] in kept]
    return str(tokenizer.decode(rest, skip_special_tokens=not kept))


def verdict(answer: Answer, gold: str, tokenizer: PreTrainedTokenizerBase, prompt: str = "") -> dict[str, Any]:
    """What a response says and whether that is right.

    Args:
        answer: The response.
        gold: The reference answer.
        tokenizer: It decodes the response.
        prompt: Its end may open the thought with which the response begins.

    Returns:
        `response`, with the marks of its thoughts; `extracted` (answer or None), `correct`; `strict`,
        `strict_correct`, `flexible`, `flexible_correct`, as lm-evaluation-harness reads GSM8K; `tokens` (without the
        end-of-turn token), `stopped` (the model ended the turn), `truncated` (cut off instead).
    """
    response = response_text(answer.tokens, tokenizer)
    extracted = extract_answer(opened_thought(prompt) + response)
    strict, flexible = strict_match(response), flexible_extract(response)
    return {
        "response": response,
        "extracted": extracted,
        "correct": answers_match(extracted, gold),
        "strict": strict,
        "strict_correct": exact_match(strict, gold),
        "flexible": flexible,
        "flexible_correct": exact_match(flexible, gold),
        "tokens": len(answer.tokens),
        "stopped": answer.end == "stopped",
        "truncated": answer.end == "truncated",
    }


def vote(verdicts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of several samples of one question the first that has the majority's answer, with all of them in `samples`.

    Where no sample has an answer it is the first sample, which is wrong.
    """
    chosen = majority([sample["extracted"] for sample in verdicts], answers_match)
    return {**verdicts[chosen or 0], "samples": list(verdicts)}


def majority(answers: Sequence[str | None], same: Callable[[str, str], bool]) -> int | None:
    """Index of the first sample with the most frequent answer (self-consistency, Wang et al. 2022, arXiv 2203.11171).

    Args:
        answers: extracted answers; None does not vote.
        same: whether an answer equals the first one of a group. Of groups of equal size the first seen wins.

    Returns:
        The index, or None if no sample has an answer.
    """
    groups: list[list[int]] = []
    for index, answer in enumerate(answers):
        if answer is None:
            continue
        for group in groups:
            first = answers[group[0]]
            if answer == first or same(answer, first):  # type: ignore[arg-type]
                group.append(index)
                break
        else:
            groups.append([index])
    return max(groups, key=len)[0] if groups else None
