"""How much faster batches are than one question at a time, and whether they answer the same.

Both run in turns: after each batch some of its questions are answered again one at a time, by a plain
`model.generate`, so that a busy machine slows both alike.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

import torch
from tqdm.auto import tqdm

from stepjepa.data.encoding import chat_encoder
from stepjepa.environment import environment
from stepjepa.evaluation.generation import Answer, Generation, Sampling, context_length, end_ids, generate
from stepjepa.evaluation.options import MAX_NEW_TOKENS
from stepjepa.evaluation.questions import read_questions
from stepjepa.evaluation.scoring import accuracy, verdict
from stepjepa.experiments.benchmark_report import spread
from stepjepa.models.checkpoint import BUILTIN, locate_model
from stepjepa.models.loading import choose_device, load_tokenizer, load_weights
from stepjepa.records import UserError, text_table


def bench_generation(
    model_name: str = BUILTIN,
    problems: int = 1000,
    single: int = 200,
    batch_size: int = 64,
    max_new_tokens: int = MAX_NEW_TOKENS,
    device: str = "auto",
    progress: bool = True,
) -> dict[str, Any]:
    """Answer built-in problems in batches, and about `single` of them one at a time too.

    Returns:
        A record of JSON values: `configuration`, `environment`, `batched` and `one_at_a_time` (`problems`, `seconds`,
        `problems_per_second`, `tokens_per_second`), `ratio` (`overall`, and median and quartiles over batches, of
        problems per second), `agreement` (`compared`, `same` token ids), `accuracy`, `batches`, `load_average`,
        `wall_seconds`.

    Raises:
        UserError: the model cannot be used, or there is nothing to measure.
    """
    if not 1 <= single <= problems:
        raise UserError(f"--single {single} has to be between 1 and the {problems} problems")
    began, load = time.perf_counter(), list(os.getloadavg())
    started_with = environment()
    questions = read_questions([BUILTIN], problems=problems).questions
    source = locate_model(model_name)
    tokenizer = load_tokenizer(source)
    model = load_weights(source, tokenizer, device=choose_device(device))
    prompts = [prompt.ids for prompt in chat_encoder(tokenizer).prompts([each["messages"] for each in questions])]
    sampling = Sampling(max_new_tokens=max_new_tokens)

    def begin(prompts: Sequence[Sequence[int]]) -> Generation:
        return Generation(prompts, sampling, batch_size, context_length(model))

    list(generate(model, tokenizer, begin(prompts[:2])))  # warm-up
    alone(model, tokenizer, prompts[0], max_new_tokens)

    state = begin(prompts)
    batches: list[dict[str, Any]] = []
    done = same = 0
    batched = generate(model, tokenizer, state)
    with tqdm(total=problems, desc="batched and one at a time", unit="problem", disable=not progress) as bar:
        while True:
            start = time.perf_counter()
            batch = next(batched, None)
            seconds = time.perf_counter() - start
            if batch is None:
                break
            finished = [request for request in batch if state.answers[request].end != "unfinished"]
            # Evenly over all problems, whatever the size of the batches.
            wanted = (done + len(finished)) * single // problems - done * single // problems
            done += len(finished)
            chosen = [finished[i * len(finished) // wanted] for i in range(wanted)]
            start = time.perf_counter()
            answers = [alone(model, tokenizer, prompts[request], max_new_tokens) for request in chosen]
            alone_seconds = time.perf_counter() - start
            same += sum(answer == state.answers[request] for answer, request in zip(answers, chosen, strict=True))
            batches.append(
                {
                    "rows": len(batch),
                    "finished": len(finished),
                    "seconds": seconds,
                    "alone": len(chosen),
                    "alone_seconds": alone_seconds,
                    "alone_tokens": sum(len(answer.tokens) for answer in answers),
                }
            )
            bar.update(len(finished))
    verdicts = [verdict(a, q["answer"], tokenizer) for a, q in zip(state.answers, questions, strict=True)]
    tokens = sum(len(answer.tokens) for answer in state.answers)
    together = _speed(problems, sum(batch["seconds"] for batch in batches), tokens)
    one = _speed(
        single, sum(batch["alone_seconds"] for batch in batches), sum(batch["alone_tokens"] for batch in batches)
    )
    return {
        "configuration": {
            "model": source.description(),
            "problems": problems,
            "single": single,
            "batch_size": batch_size,
            "max_new_tokens": max_new_tokens,
            "device": str(model.device),
        },
        "environment": started_with,
        "batched": together,
        "one_at_a_time": one,
        "ratio": {
            "overall": together["problems_per_second"] / one["problems_per_second"],
            **spread(
                [
                    (batch["alone_seconds"] / batch["alone"]) / (batch["seconds"] / batch["finished"])
                    for batch in batches
                    if batch["alone"]
                ]
            ),
        },
        "agreement": {"compared": single, "same": same},
        "accuracy": accuracy(verdicts),
        "batches": batches,
        "load_average": load,
        "wall_seconds": round(time.perf_counter() - began, 1),
    }


@torch.no_grad()
def alone(model: Any, tokenizer: Any, prompt: Sequence[int], max_new_tokens: int) -> Answer:
    """One question as one would ask it by hand: `model.generate` with transformers' own cache and defaults."""
    ids = torch.tensor([prompt], device=model.device)
    output = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_new_tokens, do_sample=False
    )
    row, ends = output[0, ids.shape[1] :].tolist(), end_ids(model, tokenizer)
    return Answer(row[:-1], "stopped") if row[-1] in ends else Answer(row, "truncated")


def _speed(problems: int, seconds: float, tokens: int) -> dict[str, float]:
    return {
        "problems": problems,
        "seconds": seconds,
        "problems_per_second": problems / seconds,
        "tokens_per_second": tokens / seconds,
    }


def table(record: dict[str, Any]) -> str:
    """The record as lines of text."""
    rows = [["", "problems", "seconds", "problems/s", "tokens/s"]]
    for label in ("batched", "one at a time"):
        speed = record[label.replace(" ", "_")]
        each_second = f"{speed['problems_per_second']:.1f}", f"{speed['tokens_per_second']:,.0f}"
        rows.append([label, f"{speed['problems']:,}", f"{speed['seconds']:.1f}", *each_second])
    lines = text_table(rows)
    ratio, agreement = record["ratio"], record["agreement"]
    lines.append(
        f"batched is {ratio['overall']:.1f} times as fast (median of {len(record['batches'])} batches "
        f"{ratio['median']:.1f}, quartiles {ratio['q1']:.1f} – {ratio['q3']:.1f}); {agreement['same']:,} of "
        f"{agreement['compared']:,} answers are the same to the token"
    )
    return "\n".join(lines)
