"""Tokens that training needs, in tokenizer and model: pad, end of turn, predictor tokens and their embedding rows.

A predictor token is a new vocabulary entry whose embedding is learned, also under LoRA; where the embedding has spare
rows it takes one of them, otherwise the embedding grows by just the missing rows.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AddedToken, PreTrainedTokenizerBase

from stepjepa.data.encoding import end_of_turn_id
from stepjepa.jepa.layout import predictor_tokens

PAD_CANDIDATES = ("<|finetune_right_pad_id|>", "<|pad|>", "<pad>", "[PAD]", "<|endoftext|>", "<|extra_0|>")


def add_pad_token(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Give the tokenizer a pad token that is not its eos token; returns the tokens that are new to it.

    With pad = eos, ignoring padding in the loss would ignore the end of every answer: the model would never
    learn to stop.
    """
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id != tokenizer.eos_token_id:
        return []
    vocabulary = tokenizer.get_vocab()
    for candidate in PAD_CANDIDATES:
        if candidate in vocabulary and vocabulary[candidate] != tokenizer.eos_token_id:
            tokenizer.pad_token = candidate
            return []
    tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
    return ["<|pad|>"]


def add_predictor_tokens(tokenizer: PreTrainedTokenizerBase, count: int) -> list[str]:
    """Add the K predictor tokens to the tokenizer; returns those that were not there yet."""
    new = [token for token in predictor_tokens(count) if token not in tokenizer.get_added_vocab()]
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in new], special_tokens=True)
    return new


@torch.no_grad()
def initialise_rows(model: Any, tokenizer: PreTrainedTokenizerBase, added: list[str], seed: int) -> None:
    """Embedding rows for new tokens: the mean row plus a tenth of the rows' spread, drawn from `seed`.

    The embedding grows only if a new token's id lies beyond it; a head of its own then grows by mean rows. Spare
    rows of such a head stay as they are: nothing is ever predicted there, and an adapter does not carry them.
    """
    if not added:
        return
    ids = torch.tensor(tokenizer.convert_tokens_to_ids(added))
    grow_rows(model, int(ids.max()) + 1)
    known = int(ids.min())
    embedding = model.get_input_embeddings().weight
    generator = torch.Generator().manual_seed(seed)
    mean, std = (embedding[:known].float().mean(dim=0), embedding[:known].float().std(dim=0))
    noise = torch.randn(len(ids), embedding.shape[1], generator=generator).to(embedding.device)
    embedding[ids.to(embedding.device)] = (mean + 0.1 * std * noise).to(embedding.dtype)


@torch.no_grad()
def grow_rows(model: Any, rows: int) -> None:
    """Give embedding and head at least so many rows; new ones are the mean row, the same however often it is done."""
    known = model.get_input_embeddings().weight.shape[0]
    if rows <= known:
        return
    model.resize_token_embeddings(rows, mean_resizing=False)
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        module.weight[known:] = module.weight[:known].float().mean(dim=0).to(module.weight.dtype)


def set_pad_token(model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Tell model, embedding and generation which token pads."""
    pad = tokenizer.pad_token_id
    model.config.get_text_config().pad_token_id = pad
    model.config.pad_token_id = pad
    if model.generation_config is not None:
        model.generation_config.pad_token_id = pad
    # An embedding made with padding_idx = eos gives that row no gradient.
    model.get_input_embeddings().padding_idx = pad


def set_end_of_turn(model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Let generation stop where training ends the turn, also where the template's token is not the eos token."""
    config = model.generation_config
    end = end_of_turn_id(tokenizer)
    if config is None:
        return
    known = config.eos_token_id if config.eos_token_id is not None else tokenizer.eos_token_id
    ids = [known] if isinstance(known, int) else list(known or [])
    if end not in ids:
        config.eos_token_id = [*ids, end]
