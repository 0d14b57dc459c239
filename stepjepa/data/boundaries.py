r"""Why step boundaries come from character offsets: what a search for the blank line's token would find instead.

Llama 3's pre-tokenizer glues line ends to the punctuation before them, so ``.\n\n`` is one token and the token of
``\n\n`` never appears at most boundaries; and the chat header holds blank lines of its own, which such a search
takes for the first steps. This module counts both on data of yours, with your tokenizer or one made on the spot.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from stepjepa.data.tokens import tokenize_dataset
from stepjepa.jepa.pairs import step_spans

# Pieces that are never merged with their neighbours: `'ll`, ` apples`, `128`, and a full stop with the line ends after
# it, `.\n\n`, which is why the search fails.
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""The regular expression by which Llama 3's tokenizer cuts text before merging bytes."""
_TEMPLATE = (
    "{{- bos_token }}{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] + '<|eot_id|>' }}"
    "{%- endfor %}{%- if add_generation_prompt %}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)


@dataclass(frozen=True)
class BoundaryCount:
    """Boundaries between steps in a data set, and what a search for the token of a blank line makes of them."""

    examples: int
    boundaries: int
    """Between two steps of one solution, by character offsets."""
    hits: int
    """Of those, how many end in the token of ``\\n\\n``, which is all that a search can find."""
    outside: int
    """Tokens of ``\\n\\n`` that are no boundary: in the chat header or the question."""

    def __str__(self) -> str:
        share = self.hits / self.boundaries if self.boundaries else 0.0
        return (
            f"{self.boundaries:,} step boundaries in {self.examples:,} examples; searching for the blank line's token "
            f"finds {self.hits:,} of them ({share:.0%}) and {self.outside:,} places that are none"
        )


def count_boundaries(examples: Sequence[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase) -> BoundaryCount:
    r"""Count step boundaries by offsets, and those that a search for the token of ``\n\n`` would find.

    Args:
        examples: prepared examples, see `sources.read_examples`.
        tokenizer: a fast tokenizer. One that has no single token for ``\n\n`` lets the search find nothing.
    """
    blank = tokenizer.encode("\n\n", add_special_tokens=False)
    rows, _ = tokenize_dataset(examples, tokenizer)
    boundaries = hits = total = 0
    for row in rows:
        ends = [end for _, _, end in step_spans(row["step_ids"])[:-1]]
        boundaries += len(ends)
        if len(blank) == 1:
            hits += sum(row["input_ids"][end - 1] == blank[0] for end in ends)
            total += row["input_ids"].count(blank[0])
    return BoundaryCount(len(rows), boundaries, hits, total - hits)


def llama3_style_tokenizer(texts: Iterable[str], vocab_size: int = 1024) -> PreTrainedTokenizerFast:
    """A small byte-level BPE tokenizer that cuts text and marks turns as Llama 3's does, learnt from `texts`.

    It stands in for the real one where that cannot be downloaded; merges differ, the treatment of line ends does not.
    """
    names = ["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|pad|>"]
    # A header's blank line follows a word or a special token, not a full stop: it must be there to be learnt.
    tokenizer = byte_level_bpe((f"assistant\n\n{text}" for text in texts), LLAMA3_SPLIT, vocab_size, names)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=names[0], eos_token=names[1], pad_token=names[4]
    )
    wrapped.chat_template = _TEMPLATE
    return wrapped


def byte_level_bpe(texts: Iterable[str], pieces: str, vocab_size: int, special_tokens: list[str]) -> Tokenizer:
    """Byte-level BPE (Sennrich et al. 2016) learnt from `texts`; all 256 bytes are among its tokens, so any text fits.

    Args:
        pieces: the regular expression of what is never merged with its neighbours.
        special_tokens: in the order of their ids, from 0 on.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pieces), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special_tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
