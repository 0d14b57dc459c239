"""Answers are read from the right place, compared as numbers, and every question counts."""

from importlib.resources import files
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from stepjepa.evaluate import accuracy, answers_match, extract_answer, generate_answers
from stepjepa.problems import generate_problems

BUILTIN = Path(str(files("stepjepa") / "builtin"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The answer is \\boxed{19}.", "19"),
        ("First \\boxed{3}, no: \\boxed{4}.", "4"),
        ("So \\boxed{\\frac{1}{2}} it is.", "\\frac{1}{2}"),
        ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}"),
        ("\\boxed{a_{b_{c}}} and 7", "a_{b_{c}}"),
        ("\\boxed{5} then \\boxed{6", "5"),
        ("\\boxed {8}", "8"),
        ("Work.\n#### 72", "72"),
        ("#### 72\nI checked this in 3 ways.", "72"),
        ("#### 1\n#### $1,450,000 \nDone.", "$1,450,000"),
        ("She pays 3 dollars, so 1,450,000 in all.", "1,450,000"),
        ("It is -4.5 degrees", "-4.5"),
        ("12 + 7 = 19.", "19"),
        ("no number at all", None),
        ("", None),
        ("\\boxed{}", ""),
    ],
)
def test_extract_answer(text, expected):
    assert extract_answer(text) == expected


@pytest.mark.parametrize(
    ("predicted", "gold", "same"),
    [
        ("29.00", "29", True),
        ("29.50", "29", False),
        ("1,450,000", "1450000", True),
        ("$1,450,000.", "1450000", True),
        ("\\$18", "18", True),
        ("18\\%", "18", True),
        ("1{,}234", "1234", True),
        ("12 \\text{ }", "12", True),
        ("\\text{Evelyn}", "evelyn", True),
        ("007", "7", True),
        ("-3", "3", False),
        ("1,2", "12", False),
        ("(1,2)", "(1,2)", True),
        ("000", "1450000", False),
        ("", "", False),
        ("nan", "0", False),
        (None, "5", False),
    ],
)
def test_answers_match(predicted, gold, same):
    assert answers_match(predicted, gold) is same


def test_accuracy_counts_every_result():
    assert accuracy([{"correct": True}, {"correct": False}, {"correct": False}, {"correct": False}]) == 0.25
    with pytest.raises(ValueError, match="at least one"):
        accuracy([])


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(BUILTIN)


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(BUILTIN)


@pytest.fixture(scope="module")
def examples():
    return [
        {
            "messages": [
                {"role": "user", "content": problem["question"]},
                {"role": "assistant", "content": "\n\n".join(problem["steps"])},
            ],
            "answer": problem["answer"],
        }
        for problem in generate_problems(8, split="validation")
    ]


def test_a_batch_answers_as_one_at_a_time(model, tokenizer, examples):
    model.train()
    tokenizer.padding_side = "right"
    batched = generate_answers(model, tokenizer, examples, batch_size=3, max_new_tokens=40, progress=False)
    assert model.training
    assert tokenizer.padding_side == "right"
    single = [
        generate_answers(model, tokenizer, [example], max_new_tokens=40, progress=False)[0] for example in examples
    ]
    assert batched == single
    assert [result["gold"] for result in batched] == [example["answer"] for example in examples]
    for result, example in zip(batched, examples, strict=True):
        assert example["messages"][0]["content"] in result["prompt"]
        assert example["messages"][1]["content"] not in result["prompt"]
        assert result["prompt"].endswith("<|assistant|>\n")


def test_generation_ends_with_the_turn_not_with_a_step(model, tokenizer, examples):
    results = generate_answers(model, tokenizer, examples, max_new_tokens=250, progress=False)
    assert sum(result["stopped"] for result in results) >= 4
    for result in results:
        assert result["stopped"] is not result["truncated"]
        assert "<|" not in result["response"]
        if result["stopped"]:
            assert result["response"].count("\n\n") >= 2
            assert result["tokens"] == len(tokenizer(result["response"], add_special_tokens=False)["input_ids"])


def test_a_cut_off_response_counts_as_wrong(model, tokenizer, examples):
    results = generate_answers(model, tokenizer, examples, max_new_tokens=3, progress=False)
    assert len(results) == len(examples)
    assert all(result["truncated"] and result["tokens"] == 3 for result in results)
    assert accuracy(results) <= 1 / len(examples)


def test_prompts_start_with_one_begin_token(model, tokenizer, examples, monkeypatch):
    seen = []

    def record(input_ids, attention_mask, generation_config):
        seen.append((input_ids, attention_mask))
        return torch.cat([input_ids, torch.full((len(input_ids), 1), tokenizer.eos_token_id)], dim=1)

    monkeypatch.setattr(model, "generate", record)
    results = generate_answers(model, tokenizer, examples, batch_size=3, progress=False)
    assert [len(ids) for ids, _ in seen] == [3, 3, 2]
    for ids, mask in seen:
        assert ((ids == tokenizer.bos_token_id).sum(1) == 1).all()
        assert (ids[:, -1] != tokenizer.pad_token_id).all()
        assert (mask == (ids != tokenizer.pad_token_id)).all()
    assert all(result["tokens"] == 0 and result["stopped"] and not result["correct"] for result in results)


def test_no_examples_give_no_results(model, tokenizer):
    assert generate_answers(model, tokenizer, [], progress=False) == []


def test_a_tokenizer_without_pad_is_refused(model, examples):
    bare = AutoTokenizer.from_pretrained(BUILTIN)
    bare.pad_token = None
    with pytest.raises(ValueError, match="no pad token"):
        generate_answers(model, bare, examples, progress=False)
