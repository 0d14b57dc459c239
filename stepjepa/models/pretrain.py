"""Make the built-in checkpoint: a tiny Llama and its byte-level tokenizer, pretrained on easy story problems.

It is a plain language model of chat-formatted problems that are easier than those of fine-tuning (shorter
chains, smaller numbers, nothing irrelevant), which leaves fine-tuning something to teach. Rerun it with
``python -m stepjepa.models.pretrain --output_dir DIR``; one thread and a fixed seed make it repeatable. How many
problems the result solves, ``stepjepa evaluate`` measures.
"""

import argparse
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tqdm.auto import trange
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from stepjepa.data.boundaries import byte_level_bpe
from stepjepa.data.encoding import chat_encoder
from stepjepa.data.stories import generate_stories

PAD, BEGIN, END = "<|pad|>", "<|begin|>", "<|end_of_turn|>"
ROLES = ("system", "user", "assistant")
SPECIAL_TOKENS = (PAD, BEGIN, END, *(f"<|{role}|>" for role in ROLES))
VOCABULARY = 1000  # tokens; the embedding is padded to 1,024 rows, and the spare ones take new tokens
EMBEDDING_ROWS = 1024
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('unknown role: ' + message['role']) }}{% endif %}"
    "<|{{ message['role'] }}|>\n{{ message['content'] }}<|end_of_turn|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
# Pieces that are never merged: `'ll`, ` apples`, `7`, `.\n\n`. As in Llama 3, but digits stand alone: a number's tokens
# then line up with its decimal places.
_PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer of 1,000 tokens."""
    return PreTrainedTokenizerFast(
        tokenizer_object=byte_level_bpe(texts, _PIECES, VOCABULARY, list(SPECIAL_TOKENS)),
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens=[f"<|{role}|>" for role in ROLES],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
    )


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama of 1.7 million random weights with tied embeddings and 2,048 positions."""
    config = LlamaConfig(
        vocab_size=EMBEDDING_ROWS,
        hidden_size=160,
        num_hidden_layers=5,
        num_attention_heads=5,
        num_key_value_heads=5,
        intermediate_size=448,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    return model


def pretrain(
    output_dir: str | Path,
    optimizer_steps: int = 3300,
    problems: int = 60_000,
    rows: int = 10,
    length: int = 256,
    learning_rate: float = 3e-3,
    seed: int = 0,
    threads: int = 1,
    check: int = 200,
) -> dict[str, float]:
    """Train tokenizer and model from nothing and save both as one checkpoint folder.

    Each optimizer step takes `rows` rows of `length` tokens, cut from one long stream of problems (shuffled
    anew whenever it is used up), with the loss on every token; AdamW, warm-up of 100 steps, then cosine.

    Args:
        output_dir: Folder to write; it is made where missing, files of the same name are replaced.
        optimizer_steps: How long to train.
        problems: How many different easy problems the stream holds.
        rows: Rows per optimizer step.
        length: Tokens per row.
        learning_rate: Its peak.
        seed: Seed of problems, weights and order.
        threads: CPU threads; another number changes the rounding, hence the last digits of the weights.
        check: How many held-out easy problems to measure the loss on at the end.

    Returns:
        `loss` (of the saved checkpoint on held-out easy problems, per token), `seconds`, `parameters`.
    """
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    began = time.perf_counter()
    train = generate_stories(problems, seed=seed, split="train", difficulty="easy")
    held_out = generate_stories(check, seed=seed, split="validation", difficulty="easy")
    # The tokenizer also sees some default problems, so that words of irrelevant sentences are no byte soup.
    wording = train[:6000] + generate_stories(6000, seed=seed, split="train")
    tokenizer = train_tokenizer([text for problem in wording for text in (problem["question"], *problem["steps"])])
    model = build_model(tokenizer)
    documents = [_document(problem, tokenizer) for problem in train]
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    batches = _batches(documents, rows, length, random.Random(seed))
    model.train()
    progress = trange(1, optimizer_steps + 1, unit=" optimizer steps")
    for step in progress:
        batch = next(batches)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * _schedule(step, optimizer_steps)
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 100 == 0:
            progress.set_postfix(loss=f"{loss.item():.4f}")

    save(model, tokenizer, Path(output_dir))
    return {
        "loss": _loss(Path(output_dir), held_out),
        "seconds": time.perf_counter() - began,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a checkpoint whose weights are stored rounded to bfloat16 but load, and train, as float32."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)  # config.json says float32, which is what the loader goes by
    weights = folder / "model.safetensors"
    rounded = {name: tensor.to(torch.bfloat16) for name, tensor in load_file(weights).items()}
    save_file(rounded, weights, metadata={"format": "pt"})
    weights.chmod(0o644)  # it is written for its owner only, but a package's files are for everyone
    tokenizer.save_pretrained(folder)


def _document(problem: dict, tokenizer: PreTrainedTokenizerFast) -> list[int]:
    solution = "\n\n".join(problem["steps"])
    messages = [{"role": "user", "content": problem["question"]}, {"role": "assistant", "content": solution}]
    (encoded,) = chat_encoder(tokenizer).encode([messages])
    return encoded.ids


def _batches(documents: list[list[int]], rows: int, length: int, rng: random.Random) -> Iterator[torch.Tensor]:
    """An endless run of documents, shuffled anew each time round, as `[rows, length]` batches of token ids."""
    tokens: list[int] = []
    while True:
        for document in reversed(rng.sample(documents, len(documents))):
            tokens += document
            if len(tokens) >= rows * length:
                yield torch.tensor(tokens[: rows * length]).view(rows, length)
                tokens = tokens[rows * length :]


def _schedule(step: int, total: int, warmup: int = 100) -> float:
    """The share of the peak learning rate at an optimizer step: linear warm-up, then cosine to a tenth."""
    if step < warmup:
        return step / warmup
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def _loss(folder: Path, held_out: list[dict]) -> float:
    """Load what was saved and measure its loss per token on problems that it has not seen."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    model = LlamaForCausalLM.from_pretrained(folder).eval()
    loss, tokens = 0.0, 0
    with torch.no_grad():
        for problem in held_out:
            ids = torch.tensor([_document(problem, tokenizer)])
            loss += model(input_ids=ids, labels=ids).loss.item() * (ids.shape[1] - 1)
            tokens += ids.shape[1] - 1
    return loss / tokens


def main() -> None:
    """Pretrain with the options of the command line, and print what came out."""
    parser = argparse.ArgumentParser(description="Pretrain the built-in checkpoint on easy story problems.")
    parser.add_argument("--output_dir", required=True, help="folder to write the checkpoint and tokenizer to")
    parser.add_argument("--optimizer_steps", type=int, default=3300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="processor threads; they change the rounding")
    result = pretrain(**vars(parser.parse_args()))
    print(
        f"{result['parameters']:,} parameters; held-out easy problems: loss {result['loss']:.4f} per token; "
        f"{result['seconds']:.0f} s in all"
    )


if __name__ == "__main__":
    main()
