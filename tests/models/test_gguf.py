"""GGUF files as models: what they hold is what is trained, saved and loaded again."""

# ruff: noqa: E402
import pytest
import torch

gguf = pytest.importorskip("gguf")
pytest.importorskip("transformers", minversion="5.23")  # as stepjepa.models.gguf wants it

from small_gguf import write_gguf
from small_models import CONFIGS
from small_tokenizers import llama3_style
from transformers import AutoModelForCausalLM, AutoTokenizer

from stepjepa.data.sources import read_examples
from stepjepa.models import gguf as module
from stepjepa.models.checkpoint import locate_model
from stepjepa.models.loading import load_model, load_tokenizer, load_weights
from stepjepa.records import UserError
from stepjepa.training.config import StepJEPAConfig
from stepjepa.training.trainer import StepJEPATrainer

EXAMPLES, _ = read_examples("builtin", count=8)
TEXT = "Anna has 1,204 apples.\n\nShe buys 36 more: 1204 + 36 = 1240.\n\nThe answer is \\boxed{1240}."


def small(tied=True):
    tokenizer = llama3_style()
    config = CONFIGS["llama"]()
    config.vocab_size = len(tokenizer)
    config.max_position_embeddings = 1024
    config.intermediate_size = 64  # whole blocks of 32
    config.tie_word_embeddings = tied
    config.eos_token_id = tokenizer.eos_token_id
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():  # norms too: one that is left out would not be seen
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model.eval(), tokenizer


def logits(model, ids):
    with torch.no_grad():
        return model.eval()(ids).logits


@pytest.mark.parametrize("tied", [True, False])
def test_a_file_holds_the_model_and_its_tokenizer(tmp_path, tied):
    original, known = small(tied)
    file = write_gguf(original, known, tmp_path / "small.gguf")
    model, tokenizer = load_model(str(file), predictors=2)
    assert tokenizer(TEXT).input_ids == known(TEXT).input_ids
    messages = EXAMPLES[0]["messages"]
    options = {"tokenize": False, "date_string": "1 Jan 2025"}
    assert tokenizer.apply_chat_template(messages, **options) == known.apply_chat_template(messages, **options)
    assert (tokenizer.eos_token, tokenizer.pad_token) == (known.eos_token, known.pad_token)

    ids = known(TEXT, return_tensors="pt").input_ids
    assert torch.equal(logits(model, ids)[..., : len(known)], logits(original, ids))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tied


@pytest.mark.parametrize("quantisation", ["F16", "BF16", "Q8_0", "Q4_0"])
def test_quantised_weights_are_those_that_the_format_says(tmp_path, quantisation):
    original, known = small()
    file = write_gguf(original, known, tmp_path / "small.gguf", quantisation)
    model, _ = load_model(str(file))
    kind = gguf.GGMLQuantizationType[quantisation]
    for name in ("model.layers.1.mlp.up_proj.weight", "model.layers.2.self_attn.v_proj.weight"):
        matrix = original.state_dict()[name].numpy()
        expected = torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(matrix, kind), kind))
        assert torch.equal(model.state_dict()[name], expected)
        assert not torch.equal(expected, original.state_dict()[name])


@pytest.mark.parametrize("lora", [False, True])
def test_a_model_from_a_file_is_trained_saved_and_loaded_again(tmp_path, lora):
    original, known = small()
    file = write_gguf(original, known, tmp_path / "small.gguf", "Q8_0")
    model, tokenizer = load_model(str(file), lora=lora, dtype="bfloat16" if lora else "float32")
    args = StepJEPAConfig(
        output_dir=str(tmp_path / "out"),
        max_steps=2,
        learning_rate=1e-2,
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
    )
    trainer = StepJEPATrainer(model, args, train_dataset=EXAMPLES, processing_class=tokenizer)
    trainer.train()
    trainer.save_model()
    ids = known(TEXT, return_tensors="pt").input_ids
    expected = logits(model, ids)
    assert not torch.equal(expected[..., : len(known)], logits(original, ids))
    again, _ = load_model(str(tmp_path / "out"), dtype="bfloat16" if lora else "float32")
    assert torch.equal(logits(again, ids), expected)
    if not lora:
        stock = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
        assert torch.equal(logits(stock, ids), expected)
        assert AutoTokenizer.from_pretrained(tmp_path / "out")(TEXT).input_ids == known(TEXT).input_ids
        return
    found = locate_model(str(tmp_path / "out"))
    assert found.base is not None
    assert found.base.weights().keys() == {"small.gguf"}
    answering = load_weights(found, load_tokenizer(found), dtype="bfloat16")
    assert torch.equal(logits(answering, ids), expected)
    model.merge_and_unload().save_pretrained(tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype="bfloat16")
    torch.testing.assert_close(logits(merged, ids), expected, atol=0.05, rtol=0)


def test_a_folder_with_one_file_is_that_file(tmp_path):
    original, known = small()
    file = write_gguf(original, known, tmp_path / "small.gguf")
    found = locate_model(str(tmp_path))
    assert found.path == str(file)
    assert found.name == tmp_path.name
    assert found.weights() == locate_model(str(file)).weights()
    assert locate_model(str(file)).identity() == found.identity()
    assert locate_model(str(file)).name == "small.gguf"
    (tmp_path / "other.gguf").write_bytes(file.read_bytes())
    with pytest.raises(UserError, match=r"several GGUF files \(other.gguf, small.gguf\)"):
        load_model(str(tmp_path))


def test_what_is_no_model_is_explained(tmp_path, monkeypatch):
    original, known = small()
    whole = write_gguf(original, known, tmp_path / "whole.gguf")
    text = tmp_path / "text.gguf"
    text.write_text("not a model")
    with pytest.raises(UserError, match="does not begin with"):
        load_model(str(text))
    for share in (0.05, 0.6):
        cut = tmp_path / "cut.gguf"
        cut.write_bytes(whole.read_bytes()[: int(share * whole.stat().st_size)])
        with pytest.raises(UserError, match=r"cut\.gguf"):
            load_model(str(cut))
    strange = write_gguf(original, known, tmp_path / "strange.gguf", architecture="rwkv6")
    with pytest.raises(UserError, match="rwkv6"):
        load_model(str(strange))
    with pytest.raises(UserError, match=r"did you mean .*whole\.gguf"):
        load_model(str(tmp_path / "whol.gguf"))
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(UserError, match="pip install gguf"):
        load_model(str(whole))


def test_versions_that_split_texts_otherwise_are_refused(tmp_path, monkeypatch):
    (tmp_path / "small.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr(module, "version", lambda name: "5.22.0")
    with pytest.raises(UserError, match=r"needs transformers 5\.23 or later, and 5\.22\.0 is installed"):
        load_model(str(tmp_path / "small.gguf"))
