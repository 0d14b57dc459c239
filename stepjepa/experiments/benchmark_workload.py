"""What a benchmark runs on: options → model, tokenizer and microbatches of tokenized rows.

Either any checkpoint, or a random Llama of a chosen size with a byte-level BPE tokenizer trained on the spot on
the same text. Speed does not depend on what the weights have learnt, so no download is needed to measure.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from stepjepa.data.boundaries import byte_level_bpe
from stepjepa.data.sources import read_examples
from stepjepa.data.tokens import TokenReport, tokenize_dataset
from stepjepa.experiments.options import BenchOptions
from stepjepa.jepa.architectures import longest_trunk
from stepjepa.jepa.pairs import BranchLayout, step_spans
from stepjepa.models.checkpoint import BUILTIN
from stepjepa.models.loading import load_model
from stepjepa.models.vocabulary import add_predictor_tokens, set_pad_token
from stepjepa.records import UserError

PAD, END = "<|pad|>", "<|end|>"


@dataclass
class Workload:
    """Model (on the CPU still), tokenizer, and microbatches of tokenized rows, each row with at least one pair."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    microbatches: list[list[dict[str, Any]]]
    data: dict[str, Any]


def make_workload(options: BenchOptions) -> Workload:
    """Read the data, load or make tokenizer and model, cut the usable rows into microbatches.

    Raises:
        UserError: fewer than `batch_size` examples have two steps (after the cut to `max_length`), or data or model
            cannot be read.
    """
    examples, _ = read_examples(options.train_file, seed=options.seed)
    layout = BranchLayout(predictors=options.predictors, max_length=options.max_length)
    if options.model_name is None:
        tokenizer: PreTrainedTokenizerBase = train_tokenizer(
            (message["content"] for example in examples for message in example["messages"]),
            options.vocab_size,
            options.predictors,
        )
        model = None
    else:
        model, tokenizer = _load(options)
        layout = replace(layout, max_length=longest_trunk(model, layout))
    rows, report = tokenize_dataset(examples, tokenizer, layout)
    microbatches, usable = _microbatches(rows, report, options)
    if model is None:
        model = random_llama(options, tokenizer)
    used = [row for batch in microbatches for row in batch]
    data = {
        "examples": report.examples,
        "usable": usable,
        "rows": len(used),
        "microbatches": len(microbatches),
        "tokens_per_row": _mean(len(row["input_ids"]) for row in used),
        "labelled_per_row": _mean(sum(label >= 0 for label in row["labels"]) for row in used),
        "steps_per_row": _mean(len(step_spans(row["step_ids"])) for row in used),
        "trunk_tokens": [sum(len(row["input_ids"]) for row in batch) for batch in microbatches],
    }
    return Workload(model, tokenizer, microbatches, data)


def _microbatches(rows: Sequence[dict[str, Any]], report: TokenReport, options: BenchOptions) -> tuple[list, int]:
    usable = [row for row in rows if len(step_spans(row["step_ids"])) >= 2]
    size = options.batch_size
    if len(usable) < size:
        raise UserError(
            f"Only {len(usable)} of {report.examples} examples have at least two steps"
            + (f" within max_length={options.max_length}" if options.max_length else "")
            + f", but a microbatch needs {size}. Give more data, a larger max_length or a smaller batch_size."
        )
    random.Random(options.seed).shuffle(usable)
    count = min(max(options.rounds, options.memory_batches), len(usable) // size)
    kept = ("input_ids", "labels", "step_ids", "part_ids")
    chosen = [{name: row[name] for name in kept} for row in usable[: count * size]]
    return [chosen[i : i + size] for i in range(0, len(chosen), size)], len(usable)


def _mean(values: Iterable[int]) -> float:
    listed = list(values)
    return round(sum(listed) / len(listed), 2)


# -------- model and tokenizer --------

# Contractions, words, numbers, other signs, each with the space before it, and what is left of a run of spaces:
# "it's 12  «x»" → "it", "'s", " 12", " ", " «", "x", "»".
GPT2_PIECES = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def train_tokenizer(texts: Iterable[str], vocab_size: int, predictors: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of at most `vocab_size` tokens, pad, end and predictor tokens included.

    It has no chat template, so that the package's plain one applies.
    """
    tokenizer = byte_level_bpe(texts, GPT2_PIECES, vocab_size - predictors, [PAD, END])
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END)
    add_predictor_tokens(wrapped, predictors)
    return wrapped


def random_llama(options: BenchOptions, tokenizer: PreTrainedTokenizerBase) -> LlamaForCausalLM:
    """A Llama with random weights drawn from `options.seed`; embedding and head are not tied.

    The feed-forward layer has 8/3 of the hidden size, rounded up to a multiple of 64.
    """
    config = LlamaConfig(
        vocab_size=options.vocab_rows or options.vocab_size,
        hidden_size=options.hidden_size,
        intermediate_size=-(-options.hidden_size * 8 // 3 // 64) * 64,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        num_key_value_heads=options.heads,
        max_position_embeddings=8192,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config._attn_implementation = options.attn_implementation
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        model = LlamaForCausalLM(config).to(getattr(torch, options.dtype))
    set_pad_token(model, tokenizer)
    return model


def _load(options: BenchOptions) -> tuple[Any, PreTrainedTokenizerBase]:
    return load_model(
        options.model_name or BUILTIN,
        predictors=options.predictors,
        dtype=options.dtype,
        attn_implementation=options.attn_implementation,
        seed=options.seed,
    )


# -------- handing a workload to a fresh process --------


def save_workload(workload: Workload, options: BenchOptions, folder: Path) -> None:
    """Write what another process needs to build the same workload without reading the data again."""
    (folder / "options.json").write_text(json.dumps(asdict(options)), encoding="utf-8")
    (folder / "rows.json").write_text(json.dumps(workload.microbatches[: options.memory_batches]), encoding="utf-8")
    workload.tokenizer.save_pretrained(folder)


def restore_workload(folder: Path) -> tuple[Workload, BenchOptions]:
    """The workload and options that `save_workload` wrote."""
    options = BenchOptions(**json.loads((folder / "options.json").read_text(encoding="utf-8")))
    microbatches = json.loads((folder / "rows.json").read_text(encoding="utf-8"))
    if options.model_name is None:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        return Workload(random_llama(options, tokenizer), tokenizer, microbatches, {}), options
    return Workload(*_load(options), microbatches, {}), options
