"""Small tokenizers made on the spot, one for each family that splits and merges text in its own way.

Each has at most 4,096 tokens, learnt from generated story problems, and the special tokens and chat
template of the family that it stands for. The module must not be called ``tokenizers``.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from copy import deepcopy
from functools import cache, wraps

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer, WordPieceTrainer
from transformers import PreTrainedTokenizerFast

from stepjepa.data.examples import DEFAULT_SYSTEM_PROMPT
from stepjepa.data.stories import generate_stories

VOCABULARY = 2048

LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

LLAMA3_TEMPLATE = (
    "{{- bos_token }}"
    "{%- if not date_string is defined %}{%- set date_string = strftime_now('%d %b %Y') %}{%- endif %}"
    "{%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content']|trim %}"
    "{%- set messages = messages[1:] %}{%- else %}{%- set system = '' %}{%- endif %}"
    "{{- '<|start_header_id|>system<|end_header_id|>\n\n' }}"
    "{{- 'Cutting Knowledge Date: December 2023\nToday Date: ' + date_string + '\n\n' }}"
    "{{- system + '<|eot_id|>' }}"
    "{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{{- message['content'] | trim + '<|eot_id|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)

QWEN3_TEMPLATE = (
    "{%- for message in messages %}"
    "{%- set content = message['content'] %}"
    "{%- if message['role'] == 'assistant' and loop.last %}"
    "{{- '<|im_start|>assistant\n<think>\n\n</think>\n\n' + content.lstrip('\n') + '<|im_end|>\n' }}"
    "{%- else %}{{- '<|im_start|>' + message['role'] + '\n' + content + '<|im_end|>\n' }}{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}"
    "{{- '<think>\n\n</think>\n\n' }}{%- endif %}"
    "{%- endif %}"
)

GEMMA_TEMPLATE = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)

# As Llama 2's: the space before the answer is not part of the generation prompt, and one stands before </s>.
LLAMA2_TEMPLATE = (
    "{% if messages[0]['role'] == 'system' %}"
    "{% set system = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}"
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + (system if loop.first else '') + message['content'].strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'].strip() + ' ' + eos_token }}{% endif %}"
    "{% endfor %}"
)


@cache
def corpus() -> tuple[str, ...]:
    """Nineteen hundred short texts; blank lines, LaTeX and accents occur, as they do in real ones."""
    rng = random.Random(0)
    names = ("Natalia", "Weng", "Betty", "Julie", "Mark", "Zoë", "José", "Ali", "Tina", "Randy")
    things = ("clips", "apples", "pages", "dollars", "hours", "miles", "tickets", "flowers", "cookies", "eggs")
    forms = (
        "{n} sold {a}/2 = {b} {t} in May.",
        "In total, {n} has {a} + {b} = {c} {t}.",
        "So the {t} cost ${a}.50 each, which is {b} x {a} = {c}.",
        "{n} gave {a} of the {t} to her friends, so she had {c} - {a} = {b} left.",
        "Therefore, the answer is \\boxed{{{c}}}.",
    )
    texts = []
    for _ in range(1000):
        lines = []
        for form in rng.sample(forms, 4):
            a, b = rng.randrange(1, 400), rng.randrange(1, 90)
            lines.append(form.format(n=rng.choice(names), t=rng.choice(things), a=a, b=b, c=a + b))
        texts.append("\n\n".join(lines))
    problems = generate_stories(300)
    texts += [f"{problem['question']}\n\n{DEFAULT_SYSTEM_PROMPT}" for problem in problems]
    texts += ["\n\n".join(problem["steps"]) for problem in problems]
    # Without the full stop the blank line must be learnt as a token of its own, as in the real vocabularies.
    texts += ["\n\n".join(step.rstrip(".") for step in problem["steps"]) for problem in problems]
    return tuple(texts)


def _specials(*tokens: str) -> list[AddedToken]:
    return [AddedToken(token, special=True, normalized=False) for token in tokens]


def _byte_bpe(split: str | None, specials: list[AddedToken], *, trim_offsets: bool = False) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is None)
    tokenizer.pre_tokenizer = (
        byte_level
        if split is None
        else pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(split), "isolated"), byte_level])
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim_offsets)
    trainer = BpeTrainer(
        vocab_size=VOCABULARY,
        show_progress=False,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    return tokenizer


def made_once(make: Callable[[], PreTrainedTokenizerFast]) -> Callable[[], PreTrainedTokenizerFast]:
    """Learn the tokenizer once and hand out copies: a test that changes its own must not change the next one's."""
    learnt = cache(make)

    @wraps(make)
    def copy() -> PreTrainedTokenizerFast:
        return deepcopy(learnt())

    return copy


@made_once
def llama3_style() -> PreTrainedTokenizerFast:
    """Byte-level BPE whose pre-tokenizer glues line ends to punctuation: ``.\\n\\n`` is one token."""
    specials = _specials("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|pad|>")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_byte_bpe(LLAMA3_SPLIT, specials),
        bos_token="<|begin_of_text|>",
        eos_token="<|eot_id|>",
        pad_token="<|pad|>",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = LLAMA3_TEMPLATE
    return tokenizer


@made_once
def gpt2_style() -> PreTrainedTokenizerFast:
    """Byte-level BPE with GPT-2's own split; one token is bos and eos; no chat template."""
    return PreTrainedTokenizerFast(
        tokenizer_object=_byte_bpe(None, _specials("<|endoftext|>", "<|pad|>")),
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|pad|>",
        clean_up_tokenization_spaces=False,
    )


@made_once
def roberta_style() -> PreTrainedTokenizerFast:
    """As GPT-2's, but offsets leave out the space that a token begins with."""
    return PreTrainedTokenizerFast(
        tokenizer_object=_byte_bpe(None, _specials("<s>", "</s>", "<pad>"), trim_offsets=True),
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )


@made_once
def qwen_style() -> PreTrainedTokenizerFast:
    """Byte-level BPE with Qwen3's template: empty think block, line end after the end of turn, no bos."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_byte_bpe(LLAMA3_SPLIT, _specials("<|im_start|>", "<|im_end|>", "<|endoftext|>")),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = QWEN3_TEMPLATE
    return tokenizer


def _sentencepiece(template: str, begin: str, end: str, *others: str) -> PreTrainedTokenizerFast:
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    draft = Tokenizer(models.BPE(unk_token="<unk>"))
    draft.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\n"), "removed"), pre_tokenizers.Metaspace(prepend_scheme="first")]
    )
    trainer = BpeTrainer(vocab_size=VOCABULARY, show_progress=False, special_tokens=["<unk>", *bytes_])
    # Line ends and accents have no piece of their own, as in Llama 2: they fall back to bytes.
    draft.train_from_iterator((text.replace("ë", "e").replace("é", "e") for text in corpus()), trainer)
    learnt = draft.get_vocab()
    merges = [tuple(merge) for merge in json.loads(draft.to_str())["model"]["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab=learnt, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(_specials(begin, end, "<pad>", *others))
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=begin,
        eos_token=end,
        unk_token="<unk>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )
    made.chat_template = template
    return made


@made_once
def sentencepiece_style() -> PreTrainedTokenizerFast:
    """BPE over ``▁`` with byte fallback and no pre-tokenizer, and the template of Llama 2."""
    return _sentencepiece(LLAMA2_TEMPLATE, "<s>", "</s>")


@made_once
def gemma_style() -> PreTrainedTokenizerFast:
    """The same pieces with a template that refuses the system role and strips content."""
    return _sentencepiece(GEMMA_TEMPLATE, "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>")


@made_once
def wordpiece_style() -> PreTrainedTokenizerFast:
    """BERT's cased WordPiece: whitespace leaves no token, so a separator has none; no chat template."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=100))  # type: ignore[call-arg]
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    specials = ["[UNK]", "[CLS]", "[SEP]", "[PAD]"]
    tokenizer.train_from_iterator(
        corpus(), WordPieceTrainer(vocab_size=VOCABULARY, show_progress=False, special_tokens=specials)
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", eos_token="[SEP]", pad_token="[PAD]")


STYLES = {
    "llama3": llama3_style,
    "gpt2": gpt2_style,
    "sentencepiece": sentencepiece_style,
    "wordpiece": wordpiece_style,
    "qwen": qwen_style,
    "gemma": gemma_style,
    "roberta": roberta_style,
}
