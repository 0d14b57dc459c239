"""What the model says is what is judged, and every question counts."""

import itertools
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from stepjepa.data.stories import generate_stories
from stepjepa.evaluation.answers import answers_match
from stepjepa.evaluation.generation import Answer
from stepjepa.evaluation.scoring import accuracy, generate_answers, majority, verdict, vote
from stepjepa.records import UserError

BUILTIN = Path(str(files("stepjepa.models") / "builtin"))


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
        for problem in generate_stories(8, split="validation")
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

    def record(input_ids, attention_mask, **others):
        seen.append((input_ids, attention_mask))
        return torch.cat([input_ids, torch.full((len(input_ids), 1), tokenizer.eos_token_id)], dim=1)

    monkeypatch.setattr(model, "generate", record)
    results = generate_answers(model, tokenizer, examples, batch_size=3, progress=False)
    assert [len(ids) for ids, _ in seen] == [3, 3, 2]
    assert len(results) == 8
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
    with pytest.raises(UserError, match="no pad token"):
        generate_answers(model, bare, examples, progress=False)


# ---- verdicts ------------------------------------------------------------------------------------------------


def said(tokenizer, text, end="stopped"):
    return Answer(tokenizer(text, add_special_tokens=False)["input_ids"], end)


def test_a_response_is_read_three_ways(tokenizer):
    found = verdict(said(tokenizer, "2 + 2 = 4.\n\nThe answer is \\boxed{4}."), "4", tokenizer)
    assert (found["extracted"], found["strict"], found["flexible"]) == ("4", None, "4")
    assert (found["correct"], found["strict_correct"], found["flexible_correct"]) == (True, False, True)
    found = verdict(said(tokenizer, "#### 1,450\nIn 3 ways."), "1450", tokenizer)
    assert (found["extracted"], found["strict"], found["flexible"]) == ("1,450", "1,450", "3")
    assert (found["correct"], found["strict_correct"], found["flexible_correct"]) == (True, True, False)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "<|channel|>analysis<|message|>Is it \\boxed{3}? No.<|end|><|start|>assistant<|channel|>final<|message|>It is 4.",
            None,
        ),
        ("<|begin_of_thought|>It is \\boxed{3}.<|end_of_thought|>It is 4.", None),
        ("[THINK]Or \\boxed{3}?[/THINK]It is 4.", None),
        ("<|channel>thought\nIs it \\boxed{3}?<channel|>It is 4.", None),
        ("It is 4.<|end|>", "It is 4."),
        ("It is<|user|> 4.", "It is 4."),
    ],
)
def test_control_tokens_that_mark_a_thought_are_looked_at_before_they_are_dropped(text, shown):
    tokenizer = AutoTokenizer.from_pretrained(BUILTIN)
    marks = ["<|channel|>", "<|message|>", "<|end|>", "<|start|>", "<|begin_of_thought|>", "<|end_of_thought|>"]
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [*marks, "[THINK]", "[/THINK]", "<|channel>", "<channel|>"]}
    )
    found = verdict(said(tokenizer, text), "4", tokenizer)
    assert (found["extracted"], found["correct"]) == ("4", True)
    assert found["response"] == (shown or text)


def test_a_thought_that_the_prompt_opens_is_no_answer(tokenizer):
    cut_off = said(tokenizer, "Maybe \\boxed{4}, but", "truncated")
    assert verdict(cut_off, "4", tokenizer, "<|assistant|>\n<think>\n")["extracted"] is None
    assert verdict(cut_off, "4", tokenizer, "<|assistant|>\n")["extracted"] == "4"
    closed = said(tokenizer, "Maybe \\boxed{3}?</think>It is 4.")
    assert verdict(closed, "4", tokenizer, "<|assistant|>\n<think>\n")["extracted"] == "4"


def test_how_a_response_ended_is_said(tokenizer):
    whole, cut = (verdict(said(tokenizer, "It is 4", end), "4", tokenizer) for end in ("stopped", "truncated"))
    assert (whole["stopped"], whole["truncated"], cut["stopped"], cut["truncated"]) == (True, False, False, True)
    nothing = verdict(Answer([], "truncated"), "4", tokenizer)
    assert (nothing["response"], nothing["extracted"], nothing["correct"], nothing["tokens"]) == ("", None, False, 0)


def test_the_majority_speaks_for_a_question(tokenizer):
    texts = ["It is 5", "It is 4.0", "No idea", "So 4"]
    samples = [verdict(said(tokenizer, text), "4", tokenizer) for text in texts]
    row = vote(samples)
    assert row["response"] == "It is 4.0"
    assert row["correct"]
    assert row["samples"] == samples
    silent = vote([verdict(said(tokenizer, "no idea"), "4", tokenizer)] * 2)
    assert (silent["extracted"], silent["correct"]) == (None, False)


# ---- votes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (["4", "5", "5"], 1),
        (["4", "5"], 0),  # the first seen
        (["4", "5", "5", "4"], 0),
        (["1/2", "3", "0.5"], 0),  # one answer, written in two ways
        ([None, None, "7"], 2),
        ([None, None], None),
        (["7"], 0),
    ],
)
def test_majority(answers, expected):
    assert majority(answers, answers_match) == expected


def test_majority_counts_as_counting_does():
    for answers in itertools.product("abc", repeat=5):
        counts = {answer: answers.count(answer) for answer in answers}
        expected = next(i for i, answer in enumerate(answers) if counts[answer] == max(counts.values()))
        assert majority(answers, str.__eq__) == expected
