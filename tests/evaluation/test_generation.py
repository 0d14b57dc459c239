"""Batches answer as one prompt at a time does, whatever the architecture, the order, or where a run was stopped."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from real_data import DATA
from small_models import CONFIGS, SIZES, small_model
from small_tokenizers import llama3_style
from transformers import AutoTokenizer, DynamicCache, GenerationConfig, GPT2Config, GPT2LMHeadModel

import stepjepa.evaluation.generation as generation
from stepjepa.data.encoding import prompt_of
from stepjepa.data.sources import read_examples
from stepjepa.evaluation.cache import GrowingLayer, growing_cache
from stepjepa.evaluation.generation import (
    Answer,
    Generation,
    Sampling,
    _Draw,
    context_length,
    end_ids,
    generate,
    left_pad,
)
from stepjepa.evaluation.options import MAX_NEW_TOKENS
from stepjepa.experiments.benchmark_generation import alone
from stepjepa.models.checkpoint import BUILTIN_PATH
from stepjepa.models.loading import load_model
from stepjepa.records import UserError

TOKENS: Any = SimpleNamespace(pad_token_id=0, eos_token_id=2)  # what generation needs of the small models' tokenizer


@pytest.fixture(scope="module")
def builtin() -> tuple[Any, Any]:
    return load_model("builtin")


@pytest.fixture(scope="module")
def prompts(builtin) -> list[list[int]]:
    _, tokenizer = builtin
    examples, _ = read_examples("builtin", split="test", count=20, seed=1)
    return [prompt_of(example, tokenizer).ids for example in examples]


def random_prompts(count: int, longest: int, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, longest, (count,), generator=generator).tolist()
    return [torch.randint(3, 140, (length,), generator=generator).tolist() for length in lengths]


def answer(model: Any, tokenizer: Any, prompts: Any, batch_size: int = 8, **options: Any) -> Generation:
    state = Generation(prompts, Sampling(**options), batch_size, context_length(model))
    for _ in generate(model, tokenizer, state):
        pass
    return state


# ---- batched = one at a time ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_batch_answers_as_plain_generate_does_one_at_a_time(builtin, prompts):
    model, tokenizer = builtin
    together = answer(model, tokenizer, prompts, batch_size=8).answers
    assert together == [alone(model, tokenizer, prompt, MAX_NEW_TOKENS) for prompt in prompts]
    assert {each.end for each in together} == {"stopped"}
    assert len({len(each.tokens) for each in together}) > 8


@pytest.mark.parametrize("name", CONFIGS)
def test_every_architecture_answers_alike_in_a_batch(name):
    model = small_model(name)
    prompts = random_prompts(6, 30)
    together = answer(model, TOKENS, prompts, batch_size=4, max_new_tokens=14).answers
    assert together == [alone(model, TOKENS, prompt, 14) for prompt in prompts]


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0, "top_p": 0.9}], ids=["greedy", "sampled"])
def test_the_batch_size_and_leaving_stragglers_change_no_answer(options, builtin, prompts, monkeypatch):
    model, tokenizer = builtin
    some = prompts[:16]
    expected = answer(model, tokenizer, some, batch_size=16, **options).answers

    def in_eights() -> tuple[list[Answer], int]:
        state = Generation(some, Sampling(**options), 8, context_length(model))
        batches = sum(1 for _ in generate(model, tokenizer, state))
        return state.answers, batches

    kept, few = in_eights()
    monkeypatch.setattr(generation, "PATIENCE", 1.0)
    left, many = in_eights()
    assert expected == left == kept
    assert many > few >= 2


def test_a_cut_off_answer_is_the_beginning_of_the_whole_one(builtin, prompts):
    model, tokenizer = builtin
    whole = answer(model, tokenizer, prompts[:10]).answers
    cut = answer(model, tokenizer, prompts[:10], max_new_tokens=30).answers
    assert [each.tokens for each in cut] == [each.tokens[:30] for each in whole]
    # The end of the turn is one of the 30 tokens.
    assert [each.end for each in cut] == ["stopped" if len(each.tokens) < 30 else "truncated" for each in whole]


def test_answers_come_in_the_order_of_the_prompts_and_longest_prompts_go_first(builtin, prompts):
    state = Generation(prompts, Sampling(), 8, None)
    first = state.next_batch()
    assert [len(prompts[request]) for request in first] == sorted(map(len, prompts), reverse=True)[:8]


def test_left_padding_ends_all_prompts_in_one_column():
    ids, mask = left_pad([[5, 6, 7], [8]], pad=0)
    assert ids.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]


# ---- the cache -----------------------------------------------------------------------------------------------


def test_the_growing_cache_holds_what_the_stock_cache_holds():
    generator = torch.Generator().manual_seed(0)
    config = small_model("llama").config
    growing, stock = growing_cache(config), DynamicCache(config=config)
    assert all(type(layer) is GrowingLayer for layer in growing.layers)
    for length in (5, 1, 1, 60, 1, 150, 1, 1):
        keys, values = (torch.randn(2, 2, length, size, generator=generator) for size in (8, 6))
        for layer in range(config.num_hidden_layers):
            ours, theirs = growing.update(keys, values, layer), stock.update(keys, values, layer)
            assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
        assert growing.get_seq_length() == stock.get_seq_length()
    # Room for half as many tokens again: the buffer was not copied for each of them.
    assert growing.layers[0]._buffers[0].shape[-2] > 220


def test_windowed_layers_keep_their_own_cache():
    kinds = [type(layer).__name__ for layer in growing_cache(small_model("gemma2").config).layers]
    assert "DynamicSlidingWindowLayer" in kinds
    assert "GrowingLayer" in kinds


# ---- the context ---------------------------------------------------------------------------------------------


def test_learned_positions_end_where_the_context_ends():
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=160, n_embd=32, n_layer=2, n_head=4, n_positions=48, bos_token_id=1, eos_token_id=2)
    ).eval()
    prompts = [*random_prompts(10, 40), [5] * 47, [5] * 48, [5] * 60]
    state = answer(model, TOKENS, prompts, batch_size=6, max_new_tokens=20)
    for prompt, given in zip(prompts, state.answers, strict=True):
        room = max(0, min(20, 48 - len(prompt)))
        assert given == (alone(model, TOKENS, prompt, room) if room else Answer([], "truncated"))
    assert [len(given.tokens) for given in state.answers[-3:]] == [1, 0, 0]
    assert sum(given.end == "truncated" for given in state.answers) > 8


# ---- the checkpoint's own settings ---------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [False, True])
def test_settings_that_come_with_a_checkpoint_do_not_steer_the_answers(lora, prompts):
    model, tokenizer = load_model("builtin", lora=lora)
    expected = answer(model, tokenizer, prompts[:6]).answers
    inner = model.get_base_model() if lora else model
    own = GenerationConfig(
        repetition_penalty=5.0,
        do_sample=True,
        top_k=3,
        temperature=3.0,
        suppress_tokens=expected[0].tokens[:5],
        max_length=20,
        eos_token_id=tokenizer.eos_token_id,
    )
    for each in (model, inner):
        each.generation_config = own
    model.train()
    assert answer(model, tokenizer, prompts[:6]).answers == expected
    assert model.training
    assert model.generation_config is own
    assert inner.generation_config is own


def test_between_two_batches_the_model_is_the_caller_s_own(prompts):
    model, tokenizer = load_model("builtin")
    own = model.generation_config
    model.train()
    state = Generation(prompts[:4], Sampling(max_new_tokens=3), 2)
    for _ in generate(model, tokenizer, state):
        assert model.generation_config is own
        assert model.training


def test_what_is_missing_is_named(builtin, prompts):
    model, _ = builtin
    bare = AutoTokenizer.from_pretrained(BUILTIN_PATH)
    bare.pad_token = None
    with pytest.raises(UserError, match="no pad token"):
        answer(model, bare, prompts[:1])
    with pytest.raises(UserError, match="end-of-turn"):
        end_ids(SimpleNamespace(generation_config=None), SimpleNamespace(eos_token_id=None))
    configured = SimpleNamespace(generation_config=GenerationConfig(eos_token_id=[4, 7]))
    assert end_ids(configured, SimpleNamespace(eos_token_id=2)) == {2, 4, 7}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"samples": 0}, "at least 1"),
        ({"max_new_tokens": 0}, "at least 1"),
        ({"temperature": -1.0}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"samples": 4}, "all the same"),
    ],
)
def test_impossible_sampling_is_refused(options, words):
    with pytest.raises(UserError, match=words):
        Sampling(**options)


# ---- sampling ------------------------------------------------------------------------------------------------


def test_samples_follow_from_the_seed_and_leave_the_random_state_alone(builtin, prompts):
    model, tokenizer = builtin
    options = {"samples": 3, "temperature": 1.0, "max_new_tokens": 30}
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = answer(model, tokenizer, prompts[:6], seed=1, **options).answers
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert answer(model, tokenizer, prompts[:6], seed=1, **options).answers == first
    assert answer(model, tokenizer, prompts[:6], seed=2, **options).answers != first
    samples = {tuple(each.tokens) for each in first}
    assert len(first) == 18
    assert len(samples) > 9  # the samples of one question differ


def test_more_samples_begin_with_the_same_ones(builtin, prompts):
    model, tokenizer = builtin
    options = {"temperature": 1.0, "max_new_tokens": 20, "seed": 1}
    two, three = (answer(model, tokenizer, prompts[:3], samples=samples, **options).answers for samples in (2, 3))
    assert [two[0:2], two[2:4], two[4:6]] == [three[0:2], three[3:5], three[6:8]]


def test_a_number_draws_the_token_where_the_cumulative_probability_passes_it():
    numbers = torch.tensor([[0.0, 0.05], [0.09, 0.05], [0.11, 0.05], [0.31, 0.05], [0.9999, 0.05]], dtype=torch.float64)
    scores = torch.tensor([0.0, 0.1, 0.2, 0.7]).log().expand(5, 4)
    draw = _Draw(numbers, prompt_length=3)
    assert draw(torch.zeros(5, 3), scores).argmax(dim=1).tolist() == [1, 1, 2, 3, 3]  # never 0, which has no chance
    assert draw(torch.zeros(5, 4), scores).argmax(dim=1).tolist() == [1] * 5  # the next numbers for the next token


def test_nothing_but_the_temperature_and_top_p_shapes_the_samples():
    """The library's own top-k of 50 would leave two thirds of this vocabulary out."""
    model = small_model("llama")
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.lm_head.weight[:4] = 0.01 * torch.randn(4, SIZES["hidden_size"])
    model.generation_config.eos_token_id = None
    options = {"samples": 1000, "temperature": 1.0, "max_new_tokens": 1}
    given = answer(model, TOKENS, [[5, 6]], batch_size=1000, **options).answers
    assert len({each.tokens[0] for each in given if each.tokens}) > 140
    few = answer(model, TOKENS, [[5, 6]], batch_size=1000, top_p=0.01, **options).answers
    assert len({each.tokens[0] for each in few if each.tokens}) <= 3


# ---- going on after a stop -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="greedy", marks=pytest.mark.slow),
        pytest.param({"samples": 2, "temperature": 1.0, "seed": 0}, id="sampled"),
    ],
)
def test_what_is_finished_is_not_asked_and_the_rest_is_answered_alike(options, builtin, prompts, monkeypatch):
    monkeypatch.setattr(generation, "PATIENCE", 1.0)
    model, tokenizer = builtin
    some, samples = prompts[:12], options.get("samples", 1)
    whole = answer(model, tokenizer, some, max_new_tokens=150, **options).answers
    for finished in ({0, 5, 6}, {*range(12)} - {3}, {*range(12)}):
        state = Generation(some, Sampling(max_new_tokens=150, **options), 8, 2048, finished)
        asked = {request for batch in generate(model, tokenizer, state) for request in batch}
        assert asked == {request for request in range(12 * samples) if request // samples not in finished}
        assert state.answers == [given if i in asked else Answer() for i, given in enumerate(whole)]


# ---- how long answers are ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "gsm8k").is_dir(), reason="no GSM8K here")
@pytest.mark.parametrize("style", ["builtin", "llama3"])
def test_no_gsm8k_solution_is_longer_than_the_default(style):
    tokenizer = AutoTokenizer.from_pretrained(BUILTIN_PATH) if style == "builtin" else llama3_style()
    texts = []
    for split in ("train", "test"):
        with (DATA / "gsm8k" / f"{split}.jsonl").open(encoding="utf-8") as file:
            texts += [json.loads(line)["answer"] for line in file]
    assert len(texts) == 8792
    longest = max(map(len, tokenizer(texts, add_special_tokens=False)["input_ids"]))
    assert longest + 1 <= MAX_NEW_TOKENS  # and the end of the turn
