"""Small random models of many architectures and a batch to try them on."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
import transformers as tf

from stepjepa.jepa.layout import TOKEN_PADDING, StepJEPACollator
from stepjepa.jepa.pairs import BranchLayout

VOCABULARY = 160
PREDICTORS = {"<|predictor|>": 150, "<|predictor_1|>": 151, "<|predictor_2|>": 152, "<|predictor_3|>": 153}


class Tokens:
    """The little of a tokenizer that collator and trainer need."""

    pad_token_id = 0
    model_input_names = ("input_ids", "attention_mask")

    @staticmethod
    def get_added_vocab() -> dict[str, int]:
        return PREDICTORS

    @staticmethod
    def save_pretrained(folder: str) -> None:
        Path(folder, "tokenizer.txt").write_text("tokens")


SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "attention_dropout": 0.0,
}
WINDOW = 7
CONFIGS = {
    "llama": lambda: tf.LlamaConfig(**SIZES),
    "qwen2": lambda: tf.Qwen2Config(**SIZES),
    "qwen2-windowed": lambda: tf.Qwen2Config(
        **SIZES, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1
    ),
    "qwen3": lambda: tf.Qwen3Config(**SIZES),
    "gemma": lambda: tf.GemmaConfig(**SIZES),
    "gemma2": lambda: tf.Gemma2Config(**SIZES, sliding_window=WINDOW, query_pre_attn_scalar=8),
    "gemma3": lambda: tf.Gemma3TextConfig(
        **SIZES, sliding_window=WINDOW, sliding_window_pattern=2, query_pre_attn_scalar=8
    ),
    "mistral": lambda: tf.MistralConfig(**SIZES, sliding_window=WINDOW),
    "phi3": lambda: tf.Phi3Config(**{**SIZES, "num_key_value_heads": 4}, sliding_window=WINDOW),
    "mixtral": lambda: tf.MixtralConfig(**SIZES, sliding_window=WINDOW, num_local_experts=4),
    "gpt2": lambda: tf.GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=32,
        n_layer=3,
        n_head=4,
        n_positions=256,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    ),
    "gpt-oss": lambda: tf.GptOssConfig(**SIZES, sliding_window=WINDOW, num_local_experts=4, num_experts_per_tok=2),
}
EAGER_ONLY = ("gemma2", "gpt-oss")  # soft-capped or sink attention, which SDPA cannot compute


def small_model(name: str, seed: int = 0, **options: Any) -> Any:
    """A random model; weights are spread wider than the usual initialisation so that attention is not flat."""
    options.setdefault("attn_implementation", "eager" if name in EAGER_ONLY else "sdpa")
    torch.manual_seed(seed)
    model = tf.AutoModelForCausalLM.from_config(CONFIGS[name](), **options)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3)
    return model.eval()


def small_rows(count: int = 4, seed: int = 0, steps: tuple[int, ...] = (3, 4, 1, 2)) -> list[dict[str, Any]]:
    """Tokenized rows of random tokens: a prompt, some steps, an end-of-turn token."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for i in range(count):
        prompt = int(torch.randint(4, 9, (), generator=generator))
        sizes = torch.randint(2, 7, (steps[i % len(steps)],), generator=generator).tolist()
        total = prompt + sum(sizes) + 1
        ids = torch.randint(3, 140, (total,), generator=generator).tolist()
        step_ids = [-1] * prompt + [k for k, size in enumerate(sizes) for _ in range(size)] + [-1]
        labels = [-100] * prompt + ids[prompt:]
        rows.append({"input_ids": ids, "labels": labels, "step_ids": step_ids})
    return rows


@functools.cache
def collator(padding_side: str = "right", **options: Any) -> Any:
    """The collator over the token ids of this module; options are those of layout and collator, by name."""
    if padding_side == "left":
        return lambda rows: padded_left(collator(**options)(rows))
    layout = {name: options.pop(name) for name in BranchLayout.__dataclass_fields__ if name in options}
    return StepJEPACollator(Tokens(), BranchLayout(**layout), **options)


def padded_left(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A batch with the padding of every row before its tokens instead of behind them, and what points into it moved."""
    moved = {name: tensor.clone() for name, tensor in batch.items()}
    for row, segments in enumerate(batch["segment_ids"]):
        shift = int((segments < 0).sum())
        for name, tensor in moved.items():
            if name in TOKEN_PADDING or name == "attention_mask":
                tensor[row] = tensor[row].roll(shift)
            if name in (
                "prefix_end",
                "context_index",
                "target_first",
                "target_index",
                "context_end",
                "target_start",
                "target_end",
            ):
                tensor[row] = torch.where(tensor[row] >= 0, tensor[row] + shift, tensor[row])
    return moved
