"""What one GPU makes of Step-JEPA, in a few minutes and with nothing to download: `stepjepa bench --gpu_suite`.

Random weights of the Llama-3.2-1B architecture, the built-in story problems as text. First the invariants, then a list
of cases, the most telling first: how fast, how near to the card's peak, how much memory. A case that fails or for which
no time is left is in the record with the reason, so that the suite always finishes.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from stepjepa.data.sources import read_examples
from stepjepa.data.tokens import tokenize_dataset
from stepjepa.environment import environment
from stepjepa.experiments.benchmark_arms import doubled_batch, doubled_rows, plain, plain_labels, single_pass, two_pass
from stepjepa.experiments.benchmark_parts import matrix_flops, product_rate
from stepjepa.experiments.benchmark_workload import train_tokenizer
from stepjepa.experiments.checks_model import dense_attention, gradients
from stepjepa.experiments.options import GpuSuiteOptions
from stepjepa.jepa.layout import StepJEPACollator, predictor_token_ids
from stepjepa.jepa.pairs import BranchLayout, step_spans
from stepjepa.jepa.reference import two_pass_views
from stepjepa.jepa.views import encode_views
from stepjepa.models.loading import add_lora, bfloat16_products, choose_device
from stepjepa.models.vocabulary import set_pad_token
from stepjepa.records import text_table

LLAMA_1B: dict[str, Any] = {
    "vocab_size": 128256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "rope_parameters": {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}
"""The architecture of meta-llama/Llama-3.2-1B; bos, eos and pad are those of the tokenizer that is trained here."""
SMALL = {"vocab_size": 1024, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2} | {
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
SOLUTIONS = 6862
"""Of the epoch whose time is told."""
PEAKS = {"H100": 989e12, "H200": 989e12, "GH200": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "4090": 165e12}
"""Dense bfloat16 operations a second by the maker's data sheets."""
ARMS = {
    "plain": plain,
    "plain_labels": plain_labels,
    "single_pass_first": single_pass,
    "single_pass_all": single_pass,
    "two_pass_first": two_pass,
    "doubled_batch": doubled_batch,
}
PAIRS = {"plain": "none", "plain_labels": "none", "single_pass_all": "consecutive"}
"""Of an arm's batch; "first" for the others."""


@dataclass(frozen=True)
class Case:
    """One thing to measure: `tokens` a microbatch, in rows of at most `packing` tokens or (None) one solution a row."""

    arm: str
    attention: str
    lora: bool
    packing: int | None
    tokens: int


def cases(small: bool) -> list[Case]:
    """All of them, the most telling first."""
    tokens, lengths = (512, (256,)) if small else (8192, (2048, 512, 8192, 1024, 4096))
    listed = [Case(arm, "flex_attention", True, lengths[0], tokens) for arm in ("single_pass_first", "plain_labels")]
    listed += [Case(arm, "sdpa", lora, None, tokens) for lora in (True, False) for arm in ARMS]
    arms = ("single_pass_first", "single_pass_all", "plain_labels")
    listed += [Case(arm, "flex_attention", lora, None, tokens) for lora in (True, False) for arm in arms]
    listed += [
        Case(arm, attention, lora, length, tokens)
        for length in lengths
        for lora in (True, False)
        for attention in ("flex_attention", "sdpa")
        for arm in arms
    ]
    return list(dict.fromkeys(listed))


def gpu_suite(options: GpuSuiteOptions) -> dict[str, Any]:
    """Run the suite.

    Returns:
        A record of JSON values: `configuration`, `environment`, `model`, `data`, `products` (operations a second of
        matrix products alone, and the data sheet's), `invariants` (single pass against two passes), `cases` (each with
        its figures or with `skipped`, the reason), `wall_seconds`.

    Raises:
        UserError: there is no such device.
    """
    began = time.perf_counter()
    device = choose_device(options.device)
    rows, tokenizer = _rows(options)
    model: Any = _model(options, tokenizer, device)
    record = {
        "kind": "gpu_suite",
        "configuration": asdict(options),
        "environment": environment(),
        "model": {"architecture": "Llama-3.2-1B" if not options.small else "a small Llama", "random_weights": True}
        | {"parameters": sum(p.numel() for p in model.parameters()), "predictors": 1},
        "data": {"source": "built-in story problems", "solutions": len(rows)}
        | {"tokens_per_solution": statistics.fmean(len(row["input_ids"]) for row in rows)},
        "invariants": _invariants(model, tokenizer, rows[:4]),
    }
    model = model.to(torch.bfloat16)
    record["products"] = {
        "dtype": "bfloat16",
        "flops_per_second": product_rate(model, 8192, torch.bfloat16, lambda: _synchronise(device)),
        "data_sheet": _peak(device),
    }
    measured: list[dict[str, Any]] = []
    longest = 0.0
    for case in cases(options.small):
        start = time.perf_counter()
        left = 60 * options.minutes - (start - began)
        if left < max(1.5 * longest, 5.0):
            entry: dict[str, Any] = {"skipped": f"{left:.0f} s left, and the longest case took {longest:.0f} s"}
        elif device.type == "cpu" and case.attention == "flex_attention":
            entry = {"skipped": "FlexAttention has no backward on a CPU"}
        elif case.packing and case.arm == "two_pass_first":
            entry = {"skipped": "two passes take one solution a row"}
        else:
            try:
                entry = _measure(case, model, tokenizer, rows, record["products"])
            except RuntimeError as error:  # out of memory, or a kernel that does not compile here
                entry = {"skipped": f"{type(error).__name__}: {str(error).strip().splitlines()[0][:300]}"}
            _forget()
            longest = max(longest, time.perf_counter() - start)
        measured.append({**asdict(case), **entry})
    return {**record, "cases": measured, "wall_seconds": round(time.perf_counter() - began, 1)}


def _rows(options: GpuSuiteOptions) -> tuple[list[dict[str, Any]], Any]:
    examples, _ = read_examples("builtin", count=64 if options.small else 2000)
    texts = (message["content"] for example in examples for message in example["messages"])
    tokenizer = train_tokenizer(texts, 1024 if options.small else 4096, 1)
    rows, _ = tokenize_dataset(examples, tokenizer)
    return [row for row in rows if len(step_spans(row["step_ids"])) >= 2], tokenizer


def _model(options: GpuSuiteOptions, tokenizer: Any, device: torch.device) -> LlamaForCausalLM:
    ids = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = LlamaConfig(**(LLAMA_1B | (SMALL if options.small else {}) | ids))
    config._attn_implementation = "sdpa"
    with torch.random.fork_rng(), device:
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    set_pad_token(model, tokenizer)
    return model


def _invariants(model: Any, tokenizer: Any, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Single pass against two passes on the same weights: relative differences of LM loss, views and gradients."""
    batch = StepJEPACollator(tokenizer, BranchLayout(pairs="consecutive"))(rows)
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        model.to(dtype)
        for attention in ("sdpa", "flex_attention"):
            backward = attention == "sdpa" or model.device.type != "cpu"
            try:
                with _attention(model, attention), torch.set_grad_enabled(backward):
                    single = _quantities(model, encode_views(model, batch), backward)
                    with dense_attention(model):
                        double = _quantities(model, two_pass_views(model, batch), backward)
                values: dict[str, Any] = {
                    name: ((single[name] - double[name]).norm() / double[name].norm()).item() for name in single
                }
            except RuntimeError as error:
                values = {"failed": f"{type(error).__name__}: {str(error).strip().splitlines()[0][:300]}"}
            found.append({"dtype": str(dtype).removeprefix("torch."), "attention": attention, **values})
            _forget()
    return found


def _quantities(model: Any, views: Any, backward: bool) -> dict[str, Tensor]:
    found = {"lm_loss": views.lm_loss, "views": torch.cat([views.context, views.target]).float()}
    if backward:
        found["gradient"] = torch.cat([slope.flatten() for slope in gradients(model, views)])
    return {name: tensor.detach() for name, tensor in found.items()}


@contextmanager
def _attention(model: Any, implementation: str) -> Iterator[None]:
    before = model.config._attn_implementation
    model.set_attn_implementation(implementation)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _measure(case: Case, model: Any, tokenizer: Any, rows: Sequence[dict[str, Any]], products: Any) -> dict[str, Any]:
    """Steps with optimizer; three after two to warm up, on a GPU up to ten in three seconds."""
    device = model.device
    batch, chosen = _batch(case, tokenizer, rows)
    batch = {name: tensor.to(device) for name, tensor in batch.items()}
    with _attention(model, case.attention):
        trained = add_lora(model, predictor_token_ids(tokenizer, 1)) if case.lora else model.train()
        try:
            optimizer = torch.optim.AdamW([p for p in trained.parameters() if p.requires_grad], lr=1e-6, fused=True)
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            seconds: list[float] = []
            first, enough = time.perf_counter(), 3.0 if device.type == "cuda" else 0.0
            for number in range(12):
                _synchronise(device)
                start = time.perf_counter()
                with bfloat16_products(device):  # PEFT keeps its adapters in float32
                    loss = ARMS[case.arm](trained, batch).total(0.1)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                _synchronise(device)
                if number > 1:
                    seconds.append(time.perf_counter() - start)
                if len(seconds) >= 3 and time.perf_counter() - first > enough:
                    break
        finally:
            if case.lora:
                trained.unload()
            for parameter in model.parameters():
                parameter.requires_grad_(True)
                parameter.grad = None
    step = statistics.median(seconds)
    trunk = sum(len(row["input_ids"]) for row in chosen)
    positions = batch["input_ids"].numel()
    head = positions if case.arm in ("plain", "doubled_batch") else int((batch["labels"][:, 1:] >= 0).sum())
    # A frozen weight has no gradient of its own: 4 operations a weight and token instead of 6. Two passes run the
    # trunk once more with the predictor in it.
    runs = 2 if case.arm == "two_pass_first" else 1
    operations = matrix_flops(model, runs * positions, head) * (4 / 6 if case.lora else 1)
    sheet = products["data_sheet"]
    return {
        "seconds": step,
        "rounds": len(seconds),
        "solutions": len(chosen),
        "row_tokens": batch["input_ids"].shape[1],
        "tokens_per_second": trunk / step,
        "epoch_seconds": SOLUTIONS / len(chosen) * step,
        "share_of_products": operations / step / products["flops_per_second"],
        "mfu": operations / step / sheet if sheet else None,
        "peak_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
    }


def _batch(case: Case, tokenizer: Any, rows: Sequence[dict[str, Any]]) -> tuple[dict[str, Tensor], list[Any]]:
    """As many solutions as `tokens` allow, in one collation."""
    chosen: list[dict[str, Any]] = []
    for row in rows:
        if sum(len(each["input_ids"]) for each in [*chosen, row]) > case.tokens:
            break
        chosen.append(row)
    if case.arm == "doubled_batch":
        return doubled_rows(chosen, tokenizer.pad_token_id, predictor_token_ids(tokenizer, 1)), chosen
    layout = BranchLayout(pairs=PAIRS.get(case.arm, "first"))
    return StepJEPACollator(tokenizer, layout, packing_length=case.packing)(chosen), chosen


def _peak(device: torch.device) -> float | None:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((peak for card, peak in PEAKS.items() if card in name), None)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _forget() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def suite_table(record: dict[str, Any]) -> str:
    """The record as lines of text."""
    rows = [["arm", "attention", "weights", "packed", "tokens/s", "MFU", "of products", "peak GB", "epoch s"]]
    for case in record["cases"]:
        name = [case["arm"], case["attention"], "LoRA" if case["lora"] else "full", str(case["packing"] or "no")]
        if "skipped" in case:
            rows.append([*name, "skipped", "", "", "", ""])
            continue
        mfu, peak = case["mfu"], case["peak_bytes"]
        figures = [
            f"{case['tokens_per_second']:,.0f}",
            f"{mfu:.0%}" if mfu else "–",
            f"{case['share_of_products']:.0%}",
        ]
        rows.append([*name, *figures, f"{peak / 1e9:.1f}" if peak else "–", f"{case['epoch_seconds']:.0f}"])
    lines = [", ".join(f"{key} {value}" for key, value in entry.items()) for entry in record["invariants"]]
    reasons = sorted({case["skipped"] for case in record["cases"] if "skipped" in case})
    return "\n".join([*lines, "", *text_table(rows), "", *(f"skipped: {reason}" for reason in reasons)])
