"""The checkpoint inside the package: small, safe, and fit for what the rest of the package asks of it."""

from importlib.resources import files
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

BUILTIN = Path(str(files("stepjepa.models") / "builtin"))


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(BUILTIN)


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(BUILTIN)


def test_folder_is_small_and_safe():
    sizes = {path.name: path.stat().st_size for path in BUILTIN.iterdir()}
    assert sum(sizes.values()) <= 8_000_000
    assert set(sizes) == {
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_model_loads_as_float32_with_tied_embeddings(model):
    assert model.config.model_type == "llama"
    assert model.config.max_position_embeddings >= 2048
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.lm_head.weight is model.model.embed_tokens.weight
    with safe_open(BUILTIN / "model.safetensors", "pt") as weights:
        assert weights.metadata() == {"format": "pt"}
        assert "lm_head.weight" not in weights.keys()  # noqa: SIM118 (not a dict)


def test_spare_rows_take_new_tokens_without_a_resize(model, tokenizer):
    rows = model.get_input_embeddings().weight.shape[0]
    assert rows == model.config.vocab_size == 1024
    assert rows - len(tokenizer) >= 8
    assert "<|predictor|>" not in tokenizer.get_vocab()
    fresh = AutoTokenizer.from_pretrained(BUILTIN)
    fresh.add_special_tokens({"additional_special_tokens": ["<|predictor|>"]})
    assert fresh("<|predictor|>", add_special_tokens=False)["input_ids"] == [len(tokenizer)]


def test_end_of_turn_is_eos_and_is_not_the_pad_token(model, tokenizer):
    assert tokenizer.eos_token == "<|end_of_turn|>"
    assert tokenizer.pad_token == "<|pad|>"
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id


@pytest.mark.parametrize(
    "text",
    [
        "She then has 12 + 7 = 19 apples.\n\nThe answer is \\boxed{19}.",
        "  two  spaces , a tab\t, \r\n and a trailing blank \n",
        "naïve façade — “quotes” ∑ λ·γ 答え は 四十二 🙂‍↔️ \u0000\u200d\ufeff",
        "".join(chr(code) for code in range(0x100)),
        "don't !!! 3.14 1,450,000 x² <|user> |end_of_turn|",
    ],
)
def test_any_text_survives_a_round_trip(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text


def test_every_byte_has_a_token(tokenizer):
    text = "".join(chr(code) for code in range(0x80))
    for character in [*text, *(chr(code) for code in range(0x80, 0x3000, 7)), "\U0010ffff"]:
        assert tokenizer.decode(tokenizer(character, add_special_tokens=False)["input_ids"]) == character


def test_digits_stand_alone(tokenizer):
    tokens = tokenizer.tokenize("12 + 345 = 357")
    assert [token for token in tokens if any(c.isdigit() for c in token)] == list("12345357")


def test_chat_template_literally(tokenizer):
    user = {"role": "user", "content": "How many?"}
    assistant = {"role": "assistant", "content": "One.\n\nTwo. "}
    system = {"role": "system", "content": "Be brief."}
    assert (
        tokenizer.apply_chat_template([user, assistant], tokenize=False)
        == "<|begin|><|user|>\nHow many?<|end_of_turn|><|assistant|>\nOne.\n\nTwo. <|end_of_turn|>"
    )
    assert (
        tokenizer.apply_chat_template([system, user], tokenize=False, add_generation_prompt=True)
        == "<|begin|><|system|>\nBe brief.<|end_of_turn|><|user|>\nHow many?<|end_of_turn|><|assistant|>\n"
    )
    with pytest.raises(Exception, match="unknown role: tool"):
        tokenizer.apply_chat_template([{"role": "tool", "content": "x"}], tokenize=False)


def test_a_tokenized_prompt_has_one_begin_token(tokenizer):
    text = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert tokenizer(text)["input_ids"].count(tokenizer.bos_token_id) == 1


def test_model_has_learned_the_form_of_solutions(model, tokenizer):
    text = "<|begin|><|user|>\nAnna has 12 marbles. Ben gives Anna 7 marbles. Anna sells 4 marbles. "
    text += "How many marbles does Anna have now?<|end_of_turn|><|assistant|>\n"
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    out = model.generate(input_ids=ids, max_new_tokens=100, do_sample=False)[0, ids.shape[1] :]
    assert out[-1] == tokenizer.eos_token_id
    assert "The answer is \\boxed{" in tokenizer.decode(out)
