"""`stepjepa evaluate`: answer test problems with a model, check the answers, say how sure the accuracy is."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields

from transformers.utils import logging

from stepjepa.evaluation.generation import MAX_NEW_TOKENS
from stepjepa.evaluation.results import summary_path, table
from stepjepa.evaluation.run import PROBLEM_SEED, PROBLEMS, EvaluateOptions, evaluate
from stepjepa.evaluation.scoring import SYSTEM_PROMPTS
from stepjepa.models.checkpoint import BUILTIN, DTYPES

SAMPLING_TEMPERATURE = 0.7  # Wang et al. 2022, for majority votes


def parser() -> argparse.ArgumentParser:
    """Options of `stepjepa evaluate`."""
    found = argparse.ArgumentParser(
        prog="stepjepa evaluate",
        description="Answer test problems and check the answers: one result row a question, a summary beside them. "
        "An interrupted run goes on where it stopped if started again in the same way.",
        allow_abbrev=False,
    )
    add = found.add_argument_group("what").add_argument
    add(
        "--model_path", required=True, help=f"'{BUILTIN}', a folder (a model, a LoRA adapter, a checkpoint-N), a Hub id"
    )
    add(
        "--test_file",
        nargs="+",
        required=True,
        metavar="T",
        help=f"test data: '{BUILTIN}', JSONL files (any form that prepare reads), Hub data set ids",
    )
    add("--output_file", required=True, metavar="R.jsonl", help="result rows; the summary is R.summary.json")
    add("--overwrite", action="store_true", help="replace results of another evaluation, once the new ones are whole")

    add = found.add_argument_group("questions").add_argument
    add(
        "--system_prompt",
        choices=SYSTEM_PROMPTS,
        default="train",
        help="the system message: that of the model's training, that of each test row, or none",
    )
    add("--split", default="test", help="split of a Hub data set or of the built-in problems")
    add("--hub_config", help="configuration of a Hub data set")
    add("--problems", type=int, default=PROBLEMS, help=f"how many built-in problems ({PROBLEMS})")
    add("--problem_seed", type=int, default=PROBLEM_SEED, help="which built-in problems are drawn")

    add = found.add_argument_group("answers").add_argument
    add(
        "--max_new_tokens",
        type=int,
        default=MAX_NEW_TOKENS,
        help=f"where a response is cut off ({MAX_NEW_TOKENS}: no GSM8K solution is as long)",
    )
    add("--batch_size", type=int, default=64, help="prompts answered together; speed only, in float32 (64)")
    add("--samples", type=int, default=1, metavar="K", help="samples a question: majority vote and pass@k")
    add(
        "--temperature", type=float, help=f"0 is greedy, the default for one sample; {SAMPLING_TEMPERATURE} for several"
    )
    add("--top_p", type=float, default=1.0, help="sample from the most likely tokens with this share only")
    add("--seed", type=int, default=0, help="of the sampling")

    add = found.add_argument_group("model").add_argument
    add("--dtype", choices=DTYPES, default="float32", help="of the weights; auto is the checkpoint's own")
    add("--device", default="auto", help="auto (CUDA if there is one), cpu, cuda:1, …")
    add("--attn_implementation", help="sdpa, eager, …; the library's choice by default")
    add("--revision", help="branch, tag or commit of a Hub model")
    add("--trust_remote_code", action="store_true", help="run Python code that comes with the model")
    add("--pad_token", help="the token that pads, for a tokenizer that names none")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """`stepjepa evaluate`."""
    given = parser().parse_args(argv)
    if given.temperature is None:
        given.temperature = SAMPLING_TEMPERATURE if given.samples > 1 else 0.0
    options = EvaluateOptions(**{each.name: getattr(given, each.name) for each in fields(EvaluateOptions)})
    logging.disable_progress_bar()  # of loading files
    try:
        summary = evaluate(options, say=print)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on after the last complete batch", file=sys.stderr)
        raise
    print(table(summary))
    print(f"written: {options.output_file}, {summary_path(options.output_file)}")
    return 0
