"""Tokens, labels and step ids: on every kind of tokenizer and template, and on all of GSM8K."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from real_data import DATA
from small_tokenizers import (
    STYLES,
    gemma_style,
    gpt2_style,
    llama3_style,
    qwen_style,
    roberta_style,
    sentencepiece_style,
)
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from stepjepa.data.chat import PLAIN_TEMPLATE
from stepjepa.data.encoding import prompt_of
from stepjepa.data.sources import make_example, read_examples
from stepjepa.data.tokens import TooLongError, tokenize_dataset, tokenize_example
from stepjepa.jepa.pairs import BranchLayout, step_spans

GSM8K = DATA / "gsm8k" / "train.jsonl"

STEPS = ["Natalia sold 48/2 = 24 clips in May.", "In total, she has 48 + 24 = 72", "So the answer is \\boxed{72}."]
EXAMPLE = make_example("How many clips did Natalia sell?", STEPS, "72", "gsm8k", "Be brief.\n\nBe right.")

Tokenizer = PreTrainedTokenizerFast


def with_template(tokenizer: Tokenizer, template: str | None, **changes: Any) -> Tokenizer:
    """A copy of ``tokenizer`` with another template: the cached ones are shared between tests."""
    copy = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        **{"bos_token": tokenizer.bos_token, "eos_token": tokenizer.eos_token} | changes,
    )
    copy.chat_template = template
    return copy


def labelled(row: dict[str, Any], tokenizer: Tokenizer) -> str:
    assert all(label in (-100, token) for label, token in zip(row["labels"], row["input_ids"], strict=True))
    return tokenizer.decode([label for label in row["labels"] if label != -100])


def spans(row: dict[str, Any], tokenizer: Tokenizer) -> list[str]:
    return [tokenizer.decode(row["input_ids"][start:end]) for _, start, end in step_spans(row["step_ids"])]


def test_llama3_by_hand() -> None:
    tokenizer = llama3_style()
    row = tokenize_example(make_example("Add.", ["Yes", "No."], "1", "s", None), tokenizer)
    tokens = tokenizer.convert_ids_to_tokens(row["input_ids"])
    assert tokens[0] == "<|begin_of_text|>"
    assert tokens.count("<|begin_of_text|>") == 1
    begin = len(tokens) - row["labels"][::-1].index(-100)
    assert "".join(tokens[:begin]).endswith("<|start_header_id|>assistant<|end_header_id|>ĊĊ")
    assert "".join(tokens[begin:]) == "YesĊĊNo.<|eot_id|>"
    # the separator belongs to the step that it ends, the end of turn to none
    separator = tokens.index("ĊĊ", begin)
    assert row["step_ids"][begin:] == [0] * (separator + 1 - begin) + [1] * (len(tokens) - separator - 2) + [-1]
    assert row["step_ids"][:begin] == [-1] * begin
    assert row["labels"][-1] == row["input_ids"][-1] == tokenizer.convert_tokens_to_ids("<|eot_id|>")


def test_separators_and_parts_of_steps_are_marked() -> None:
    tokenizer = llama3_style()
    steps = ["He has 3. He buys 4;\nso 3 + 4 = 7", "It costs 3.5 in all."]
    row = tokenize_example(make_example("Add.", steps, "1", "s", None), tokenizer)
    parts: dict[tuple[int, int], str] = {}
    columns = (row[name] for name in ("input_ids", "step_ids", "part_ids", "separator"))
    for token, step, part, mark in zip(*columns, strict=True):
        assert (step < 0) == (part < 0)
        if step >= 0:
            parts[step, part] = parts.get((step, part), "") + tokenizer.decode([token])
            assert mark == ("\n\n" in tokenizer.decode([token]))
    texts = [text.strip() for text in parts.values()]
    assert texts == ["He has 3.", "He buys 4;", "so 3 + 4", "= 7", "It costs 3.5 in all."]


def test_full_stop_and_blank_line_in_one_token() -> None:
    tokenizer = llama3_style()
    row = tokenize_example(EXAMPLE, tokenizer)
    ends = [tokenizer.convert_ids_to_tokens(row["input_ids"][end - 1]) for _, _, end in step_spans(row["step_ids"])]
    assert ends == [".ĊĊ", "ĊĊ", "}."]


ENDINGS = {
    "llama3": "<|eot_id|>",
    "gpt2": "<|endoftext|>",
    "sentencepiece": " </s>",
    "qwen": "<|im_end|>",
    "gemma": "<end_of_turn>",
    "roberta": "</s>",
}


@pytest.mark.parametrize("style", ENDINGS)
def test_labels_are_the_answer_and_its_end(style: str) -> None:
    tokenizer = STYLES[style]()
    row = tokenize_example(EXAMPLE, tokenizer)
    assert labelled(row, tokenizer) == "\n\n".join(STEPS) + ENDINGS[style]
    assert [text.strip() for text in spans(row, tokenizer)] == STEPS
    last = max(i for i, label in enumerate(row["labels"]) if label != -100)
    assert row["step_ids"][last] == -1
    # Qwen and Gemma write a line end after the end of turn, which no model is asked to say
    assert tokenizer.decode(row["input_ids"][last + 1 :]) == ("\n" if style in ("qwen", "gemma") else "")


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("system", ["Be brief.\n\nBe right.", None])
def test_prompt_of_generation_is_the_beginning_of_training(style: str, system: str | None) -> None:
    tokenizer = STYLES[style]()
    example = make_example("How many clips?\n\nAnswer in words.", STEPS, "72", "s", system)
    row = tokenize_example(example, tokenizer)
    prompt, ids = prompt_of(example, tokenizer).text, prompt_of(example, tokenizer).ids
    assert tokenizer(prompt, add_special_tokens=False)["input_ids"] == ids
    assert row["input_ids"][: len(ids)] == ids
    assert row["labels"][: len(ids)] == [-100] * len(ids)
    assert row["labels"][len(ids)] != -100
    assert prompt_of(example["messages"][:-1], tokenizer).text == prompt
    assert (system or "") in prompt
    bos = {"llama3": 1, "sentencepiece": 1, "gemma": 1, "roberta": 1, "gpt2": 1}  # GPT-2's is the eos at the end
    assert row["input_ids"].count(tokenizer.bos_token_id) == bos.get(style, 0)


def test_offsets_trimmed_of_spaces() -> None:
    tokenizer = roberta_style()
    assert tokenizer("a\n\nb of", return_offsets_mapping=True)["offset_mapping"][-1] == (5, 7)  # not (4, 7)
    assert spans(tokenize_example(EXAMPLE, tokenizer), tokenizer) == [f"{STEPS[0]}\n\n", f"{STEPS[1]}\n\n", STEPS[2]]


def test_blank_lines_of_the_header_are_no_boundary() -> None:
    row = tokenize_example(EXAMPLE, llama3_style())
    first = row["step_ids"].index(0)
    assert llama3_style().decode(row["input_ids"][:first]).count("\n\n") == 5
    assert set(row["step_ids"][:first]) == {-1}


def test_date_is_pinned() -> None:
    assert "Today Date: 26 Jul 2024\n" in prompt_of(EXAMPLE, llama3_style()).text
    stamp = "{{ strftime_now('%Y-%m-%d') }}\n"
    tokenizer = with_template(gpt2_style(), stamp + PLAIN_TEMPLATE)
    assert prompt_of(EXAMPLE, tokenizer).text.startswith("2024-07-26\n")
    assert spans(tokenize_example(EXAMPLE, tokenizer), tokenizer)[0].strip() == STEPS[0]


def test_think_block_belongs_to_the_prompt() -> None:
    prompt = prompt_of(EXAMPLE, qwen_style()).text
    assert prompt.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert "think" not in labelled(tokenize_example(EXAMPLE, qwen_style()), qwen_style())


def test_what_only_training_puts_before_the_answer_is_learnt() -> None:
    template = PLAIN_TEMPLATE.replace("'Answer:\n' + message", "'Answer:\n[thought]\n' + message")
    tokenizer = with_template(gpt2_style(), template)
    row = tokenize_example(EXAMPLE, tokenizer)
    assert prompt_of(EXAMPLE, tokenizer).text.endswith("Answer:\n")
    assert labelled(row, tokenizer) == "[thought]\n" + "\n\n".join(STEPS) + "<|endoftext|>"
    assert spans(row, tokenizer)[0].strip() == STEPS[0]


def test_thought_opened_only_for_generation_is_not_given_to_it() -> None:
    template = PLAIN_TEMPLATE.replace("{{ 'Answer:\n' }}", "{{ 'Answer:\n<think>\n' }}")
    tokenizer = with_template(gpt2_style(), template)
    assert prompt_of(EXAMPLE, tokenizer).text.endswith("Answer:\n")
    assert labelled(tokenize_example(EXAMPLE, tokenizer), tokenizer) == "\n\n".join(STEPS) + "<|endoftext|>"


def test_no_system_role_folds_into_the_first_user_turn() -> None:
    expected = (
        "<bos><start_of_turn>user\nBe brief.\n\nBe right.\n\nHow many clips did Natalia sell?<end_of_turn>\n"
        "<start_of_turn>model\n"
    )
    assert prompt_of(EXAMPLE, gemma_style()).text == expected
    silent = "{% for m in messages if m['role'] != 'system' %}{{ m['content'] + eos_token }}{% endfor %}"
    assert prompt_of(EXAMPLE, with_template(gpt2_style(), silent)).text.startswith("Be brief.")


def test_no_template_uses_the_plain_one() -> None:
    assert prompt_of(EXAMPLE, gpt2_style()).text == (
        "Be brief.\n\nBe right.\n\nQuestion:\nHow many clips did Natalia sell?\n\nAnswer:\n"
    )
    assert prompt_of(EXAMPLE, roberta_style()).text.startswith("<s>Be brief.")


def test_template_without_an_end_of_turn_gets_the_eos_token() -> None:
    template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    row = tokenize_example(EXAMPLE, with_template(gpt2_style(), template))
    assert row["labels"][-1] == gpt2_style().eos_token_id
    for given in (template, None):
        with pytest.raises(ValueError, match="no eos token"):
            tokenize_example(EXAMPLE, with_template(gpt2_style(), given, eos_token=None))


def test_template_that_changes_the_answer_is_refused() -> None:
    template = "{% for m in messages %}{{ m['content'] | replace('\n\n', ' ') + eos_token }}{% endfor %}"
    with pytest.raises(ValueError, match=r"How many clips.*changes the text of the answer"):
        tokenize_example(EXAMPLE, with_template(gpt2_style(), template))
    with pytest.raises(ValueError, match="chat template does not show the assistant's message"):
        tokenize_example(EXAMPLE, with_template(gpt2_style(), template.replace("messages", "messages[:1]")))


@pytest.mark.parametrize("style", STYLES)
def test_question_that_quotes_the_answer(style: str) -> None:
    tokenizer = STYLES[style]()
    quoting = make_example("Is this right?\n\n" + "\n\n".join(STEPS), STEPS, "72", "s")
    row = tokenize_example(quoting, tokenizer)
    plain = tokenize_example(make_example("Is it?", STEPS, "72", "s"), tokenizer)
    count = sum(step >= 0 for step in plain["step_ids"])
    assert sum(step >= 0 for step in row["step_ids"]) == count
    assert row["step_ids"].index(0) > len(row["step_ids"]) - count - 5
    short = tokenize_example(make_example("e", ["e"], "e", "s"), tokenizer)
    assert sum(step >= 0 for step in short["step_ids"]) == 1


def test_accents_emoji_and_bytes_stay_in_their_step() -> None:
    steps = ["Zoë has 3 🍎 and é", "日本 costs 5 €", "🍎"]
    for style in ENDINGS:
        tokenizer = STYLES[style]()
        row = tokenize_example(make_example("q", steps, "5", "s"), tokenizer)
        assert [text.strip() for text in spans(row, tokenizer)] == steps


def test_slow_tokenizer_is_refused() -> None:
    with pytest.raises(ValueError, match="ByT5Tokenizer is a slow tokenizer: it has no character offsets"):
        tokenize_example(EXAMPLE, ByT5Tokenizer())


def test_malformed_examples_are_named() -> None:
    broken = EXAMPLE | {"steps": STEPS[:2]}
    with pytest.raises(ValueError, match=r"«How many clips did Natalia sell\?».*not the assistant's message"):
        tokenize_example(broken, llama3_style())
    with pytest.raises(ValueError, match=r"^example 1 \(«How many"):
        tokenize_dataset([EXAMPLE, broken], llama3_style())
    with pytest.raises(ValueError, match="do not end with the assistant"):
        tokenize_example(EXAMPLE | {"messages": EXAMPLE["messages"][:-1]}, llama3_style())


def test_rows_without_steps_are_refused() -> None:
    with pytest.raises(ValueError, match=r"How many clips.*steps is not a non-empty list"):
        tokenize_example({"messages": EXAMPLE["messages"]}, llama3_style())


def test_over_long_examples_are_cut_at_a_step() -> None:
    tokenizer = llama3_style()
    row = tokenize_example(EXAMPLE, tokenizer)
    (_, _, first), (_, _, second), (_, _, third) = step_spans(row["step_ids"])
    total = len(row["input_ids"])
    assert third == total - 1
    for limit, length in ((total, total), (total - 1, third), (third - 1, second), (second, second), (first, first)):
        cut = tokenize_example(EXAMPLE, tokenizer, limit)
        assert cut == {key: values[:length] for key, values in row.items()}
    with pytest.raises(TooLongError, match=rf"first step ends at token {first}, beyond max_length={first - 1}"):
        tokenize_example(EXAMPLE, tokenizer, first - 1)


def test_dataset_counts_and_keeps_the_source() -> None:
    tokenizer = llama3_style()
    one = make_example("How many?", ["There are 3 of them in all."], "3", "mine", None)
    ends = [end for _, _, end in step_spans(tokenize_example(EXAMPLE, tokenizer)["step_ids"])]
    long = make_example("How many? " * 200, STEPS, "72", "x")
    rows, report = tokenize_dataset(iter([EXAMPLE, long, one]), tokenizer, BranchLayout(max_length=ends[1]))
    assert [row["source"] for row in rows] == ["gsm8k", "mine"]
    assert len(rows[0]["input_ids"]) == ends[1]
    assert (report.examples, report.kept, report.cut, report.skipped, report.without_pair) == (3, 2, 1, 1, 1)
    assert report.skipped_indices == [1]
    assert report.tokens == sum(len(row["input_ids"]) for row in rows)
    assert str(report).startswith("2 of 3 examples, ")
    assert str(report).endswith("cut at a step to fit: 1; skipped, no step fits: 1; without a view pair: 1")


def test_dataset_equals_one_by_one() -> None:
    examples = [*read_examples("builtin", count=20)[0], EXAMPLE]
    for style in STYLES.values():
        rows, _ = tokenize_dataset(examples, style(), BranchLayout(max_length=400))
        for example, row in zip(examples, rows, strict=True):
            assert row == {**tokenize_example(example, style(), 400), "source": example["source"]}


# -------- all of GSM8K --------


@pytest.fixture(scope="module")
def gsm8k() -> list[dict[str, Any]]:
    if not GSM8K.exists():
        pytest.skip("the GSM8K file is absent")
    return read_examples(GSM8K)[0]


@pytest.mark.parametrize("style", [llama3_style, gpt2_style, sentencepiece_style])
@pytest.mark.slow
def test_every_step_of_gsm8k_is_decoded_exactly(gsm8k: list[dict[str, Any]], style: Callable[[], Tokenizer]) -> None:
    tokenizer = style()
    rows, report = tokenize_dataset(gsm8k, tokenizer)
    assert (report.kept, report.cut, report.without_pair) == (7473, 0, 0)
    texts, expected = [], []
    for example, row in zip(gsm8k, rows, strict=True):
        found = step_spans(row["step_ids"])
        assert [step for step, _, _ in found] == list(range(len(example["steps"])))
        texts += [row["input_ids"][start:end] for _, start, end in found]
        expected += example["steps"]
    assert [text.strip() for text in tokenizer.batch_decode(texts)] == expected
    if style is llama3_style:  # what a search for the token of the blank line would have found
        blank = tokenizer.convert_tokens_to_ids("ĊĊ")
        found_by_id = sum(
            row["input_ids"][end - 1] == blank for row in rows for _, _, end in step_spans(row["step_ids"])[:-1]
        )
        assert (found_by_id, len(expected) - len(rows)) == (11168, 26100)  # 43%


@pytest.mark.slow
@pytest.mark.parametrize("style", STYLES)
def test_characters_of_a_step_are_the_step(gsm8k: list[dict[str, Any]], style: str) -> None:
    """Against the offsets themselves, which decoding cannot stand in for (WordPiece loses whitespace)."""
    tokenizer = STYLES[style]()
    gap = " " if style == "sentencepiece" else ""  # Llama 2's space before the answer
    stride = 1 if style == "wordpiece" else 20
    for first in range(0, len(gsm8k), 1000 * stride):
        examples = gsm8k[first : first + 1000 * stride : stride]
        rows, _ = tokenize_dataset(examples, tokenizer)
        texts = [prompt_of(example, tokenizer).text + gap + "\n\n".join(example["steps"]) for example in examples]
        encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
        for example, row, text, offsets in zip(examples, rows, texts, encoded["offset_mapping"], strict=True):
            found = step_spans(row["step_ids"])
            covered = [text[offsets[start][0] : offsets[end - 1][1]].strip() for _, start, end in found]
            assert covered == example["steps"]
