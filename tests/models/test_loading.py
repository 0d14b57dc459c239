"""Model and tokenizer: pad and predictor tokens, LoRA, saving and reloading with the stock classes."""

import json
import re

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from safetensors import safe_open
from small_models import CONFIGS
from small_tokenizers import gemma_style, gpt2_style, llama3_style
from transformers import AutoModelForCausalLM, AutoTokenizer

from stepjepa import load_model
from stepjepa.analysis import subject
from stepjepa.analysis.options import SolutionOptions
from stepjepa.analysis.solving import Solver
from stepjepa.data.sources import read_examples
from stepjepa.data.tokens import tokenize_dataset
from stepjepa.jepa.layout import StepJEPACollator, predictor_token_ids
from stepjepa.jepa.losses import jepa_losses
from stepjepa.jepa.pairs import CONSECUTIVE
from stepjepa.jepa.views import encode_views
from stepjepa.models.checkpoint import locate_model
from stepjepa.models.loading import check_finite, load_tokenizer, load_weights
from stepjepa.records import UserError
from stepjepa.training.config import StepJEPAConfig
from stepjepa.training.trainer import StepJEPATrainer

EXAMPLES, _ = read_examples("builtin", count=8)


def checkpoint(folder, spare=0, tied=True, tokenizer=None, pad=True):
    """A small Llama with a real tokenizer on disk; `spare` embedding rows beyond the vocabulary."""
    tokenizer = tokenizer or llama3_style()
    if not pad:
        tokenizer.pad_token = tokenizer.eos_token
    config = CONFIGS["llama"]()
    config.vocab_size = len(tokenizer) + spare
    config.max_position_embeddings = 1024
    config.tie_word_embeddings = tied
    config.pad_token_id = tokenizer.pad_token_id
    config.eos_token_id = tokenizer.eos_token_id
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def views_of(model, tokenizer):
    rows, _ = tokenize_dataset(EXAMPLES, tokenizer)
    with torch.no_grad():
        return encode_views(model.eval(), StepJEPACollator(tokenizer)(rows))


def train(model, tokenizer, folder, **options):
    args = StepJEPAConfig(
        output_dir=str(folder),
        max_steps=3,
        learning_rate=1e-2,
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
        pairs="consecutive",
        lbd=1.0,
        **options,
    )
    trainer = StepJEPATrainer(model, args, train_dataset=EXAMPLES, processing_class=tokenizer)
    trainer.train()
    trainer.save_model()
    return trainer


def test_five_lines(tmp_path):
    """The README's example, on examples as they come from `stepjepa prepare`."""
    model, tokenizer = load_model("builtin")
    args = StepJEPAConfig(output_dir=str(tmp_path), max_steps=1, use_cpu=True, report_to="none", save_strategy="no")
    trainer = StepJEPATrainer(model, args, train_dataset=EXAMPLES, processing_class=tokenizer)
    trainer.train()
    assert trainer.token_reports["train"].kept == len(EXAMPLES)


def test_spare_rows_are_used_without_resizing(tmp_path):
    model, tokenizer = load_model(checkpoint(tmp_path, spare=8), predictors=3)
    assert model.get_input_embeddings().weight.shape[0] == len(llama3_style()) + 8
    ids = predictor_token_ids(tokenizer, 3)
    assert min(ids) >= len(llama3_style())
    assert max(ids) < model.get_input_embeddings().weight.shape[0]


@pytest.mark.parametrize("tied", [True, False])
def test_without_spare_rows_the_embedding_grows_by_what_is_missing(tmp_path, tied):
    model, tokenizer = load_model(checkpoint(tmp_path, tied=tied))
    assert model.get_input_embeddings().weight.shape[0] == len(llama3_style()) + 1
    assert model.get_output_embeddings().weight.shape[0] == len(llama3_style()) + 1
    row = model.get_input_embeddings().weight[predictor_token_ids(tokenizer, 1)[0]]
    others = model.get_input_embeddings().weight[:-1]
    assert (row - others.mean(0)).norm() < others.std(0).norm()


def test_predictor_tokens_are_added_once(tmp_path):
    first, tokenizer = load_model(checkpoint(tmp_path / "a", spare=8))
    first.save_pretrained(tmp_path / "b")
    tokenizer.save_pretrained(tmp_path / "b")
    again, same = load_model(str(tmp_path / "b"))
    assert len(same) == len(tokenizer)
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_initialisation_depends_on_the_seed_alone(tmp_path):
    path = checkpoint(tmp_path, spare=8)

    def weights(seed):
        torch.manual_seed(torch.randint(1000, ()).item())  # whatever the global state
        model, _ = load_model(path, lora=True, seed=seed)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    before = torch.get_rng_state()
    load_model(path, lora=True)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize("pad", [True, False])
def test_the_pad_token_is_never_the_end_of_turn(tmp_path, pad):
    model, tokenizer = load_model(checkpoint(tmp_path, tokenizer=gpt2_style(), pad=pad, spare=4))
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert model.config.pad_token_id == tokenizer.pad_token_id == model.generation_config.pad_token_id
    rows, _ = tokenize_dataset(EXAMPLES[:1], tokenizer)
    assert rows[0]["labels"][-1] == tokenizer.eos_token_id  # stopping is learned
    assert model.get_input_embeddings().padding_idx != tokenizer.eos_token_id


def test_generation_stops_where_training_ends_the_turn(tmp_path):
    """Gemma's template ends a turn with a token that is not the eos token."""
    model, tokenizer = load_model(checkpoint(tmp_path, tokenizer=gemma_style(), spare=4))
    rows, _ = tokenize_dataset(EXAMPLES[:1], tokenizer)
    trained = [label for label in rows[0]["labels"] if label != -100][-1]
    assert trained != tokenizer.eos_token_id
    assert set(model.generation_config.eos_token_id) == {tokenizer.eos_token_id, trained}


UNUSABLE = {
    "refuses this conversation": "{% for m in messages %}",
    "does not show the assistant's message": "{{ messages[0]['content'] }}<|eot_id|>",
    "changes the text of the answer": "{% for m in messages %}{{ m['content'] | upper }}<|eot_id|>{% endfor %}",
}


@pytest.mark.parametrize("said", UNUSABLE)
def test_a_chat_template_that_cannot_be_used_is_said_with_the_model(tmp_path, said):
    """Whoever loads: training, and the parts that answer, read views, or look for steps."""
    tokenizer = llama3_style()
    tokenizer.chat_template = UNUSABLE[said]
    folder = checkpoint(tmp_path, tokenizer=tokenizer)
    located = locate_model(folder)
    for loading in (
        lambda: load_model(folder),
        lambda: Solver(folder),
        lambda: subject.load(SolutionOptions(model_name=folder), predictors=1),
        lambda: load_weights(located, load_tokenizer(located)),
    ):
        with pytest.raises(UserError, match=f"{re.escape(folder)}.*{said}"):
            loading()


@pytest.mark.parametrize("spare", [8, 0], ids=["spare rows", "grown"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_lora_trains_saves_and_reloads_the_predictor_rows(tmp_path, spare, tied):
    base = checkpoint(tmp_path / "base", spare=spare, tied=tied)
    model, tokenizer = load_model(base, lora=True, lora_dropout=0.0)
    row = predictor_token_ids(tokenizer, 1)[0]
    embedding_before = model.get_input_embeddings()(torch.tensor([row])).detach().clone()
    other_before = model.get_input_embeddings()(torch.tensor([5])).detach().clone()
    train(model, tokenizer, tmp_path / "out")
    assert not torch.equal(model.get_input_embeddings()(torch.tensor([row])), embedding_before)
    assert torch.equal(model.get_input_embeddings()(torch.tensor([5])), other_before)

    with safe_open(tmp_path / "out" / "adapter_model.safetensors", framework="pt") as file:
        sizes = {name: file.get_tensor(name).numel() for name in file.keys()}  # noqa: SIM118
    vocabulary = len(tokenizer) * 32
    assert max(sizes.values()) < vocabulary / 2  # neither embedding nor head is in there
    assert any("trainable_tokens" in name for name in sizes)

    expected = views_of(model, tokenizer)
    ours, our_tokenizer = load_model(str(tmp_path / "out"))
    stock = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out")
    stock_tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    for other, words in ((ours, our_tokenizer), (stock, stock_tokenizer)):
        got = views_of(other, words)
        torch.testing.assert_close(got.context, expected.context, atol=1e-6, rtol=0)
        torch.testing.assert_close(got.target, expected.target, atol=1e-6, rtol=0)
        if tied or spare:  # an untied head grown by the stock class draws its new row anew; nothing is predicted there
            assert got.lm_loss.item() == pytest.approx(expected.lm_loss.item(), rel=1e-6)
    assert any(p.requires_grad for p in ours.parameters())


def test_full_models_and_merged_adapters_load_with_the_stock_class(tmp_path):
    path = checkpoint(tmp_path / "base", spare=8)
    model, tokenizer = load_model(path)
    train(model, tokenizer, tmp_path / "full")
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "full")
    expected = views_of(model, tokenizer)
    got = views_of(stock, AutoTokenizer.from_pretrained(tmp_path / "full"))
    torch.testing.assert_close(got.context, expected.context)
    assert got.lm_loss.item() == pytest.approx(expected.lm_loss.item(), rel=1e-6)

    model, tokenizer = load_model(path, lora=True)
    train(model, tokenizer, tmp_path / "lora")
    expected = views_of(model, tokenizer)
    model.merge_and_unload().save_pretrained(tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    got = views_of(merged, tokenizer)
    torch.testing.assert_close(got.context, expected.context, atol=1e-5, rtol=0)
    torch.testing.assert_close(got.target, expected.target, atol=1e-5, rtol=0)
    assert got.lm_loss.item() == pytest.approx(expected.lm_loss.item(), rel=1e-5)


def test_every_checkpoint_holds_the_tokenizer_and_resumes_under_lora(tmp_path):
    path = checkpoint(tmp_path / "base", spare=8)

    def run(folder, steps, resume=None):
        model, tokenizer = load_model(path, lora=True, lora_dropout=0.1)
        args = StepJEPAConfig(
            output_dir=str(folder),
            max_steps=4,
            learning_rate=1e-2,
            use_cpu=True,
            disable_tqdm=True,
            save_steps=2,
            gradient_accumulation_steps=1,
            pairs="consecutive",
        )
        trainer = StepJEPATrainer(model, args, train_dataset=EXAMPLES, processing_class=tokenizer)
        trainer.train(resume_from_checkpoint=resume)
        return torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad])

    whole = run(tmp_path / "a", 4)
    assert (tmp_path / "a" / "checkpoint-2" / "tokenizer.json").exists()
    resumed = run(tmp_path / "b", 4, resume=str(tmp_path / "a" / "checkpoint-2"))
    assert torch.equal(whole, resumed)


def test_plain_generation_never_needs_the_predictor(tmp_path):
    _, tokenizer = load_model(checkpoint(tmp_path, spare=8), lora=True)
    rows, _ = tokenize_dataset(EXAMPLES, tokenizer)
    predictor = predictor_token_ids(tokenizer, 1)[0]
    batch = StepJEPACollator(tokenizer, CONSECUTIVE)(rows)
    assert not (batch["input_ids"][batch["example_ids"] >= 0] == predictor).any()
    assert not (batch["labels"] == predictor).any()


def test_the_jepa_loss_alone_trains_the_predictor_row(tmp_path):
    model, tokenizer = load_model(checkpoint(tmp_path, spare=8), lora=True)
    rows, _ = tokenize_dataset(EXAMPLES, tokenizer)
    views = encode_views(model, StepJEPACollator(tokenizer)(rows))
    jepa_losses(views.context, views.target).mean().backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if "trainable_tokens" in n and p.requires_grad}
    assert len(gradients) == 1
    assert next(iter(gradients.values())).norm() > 0


@pytest.mark.parametrize(
    ("name", "said", "hub"),
    [
        ("nobody/nothing", "No folder here", True),
        ("nothing", "No folder here", True),
        ("builtn", "No folder here has that name; did you mean builtin?", True),
        ("{here}", "config.json", False),
        ("no/such/folder/here", "no such folder", False),
        ("./mine", "no such folder", False),
        ("mine/", "no such folder", False),
        ("~/no-such-model", "no such folder", False),
        ("nothing.gguf", "no such folder or file", False),
        ("nobody/Nothing.GGUF", "no such folder or file", False),
        ("model.safetensors", "no such folder or file", False),
        ("{here}/runs/jeap", "; did you mean {here}/runs/jepa?", False),
        ("{here}/runs/jepa/record.json", "is a file", False),
    ],
)
def test_what_cannot_be_loaded_is_explained(tmp_path, name, said, hub):
    """A path at which there is nothing is a path, and no private model of the Hub."""
    (tmp_path / "runs" / "jepa").mkdir(parents=True)
    (tmp_path / "runs" / "jepa" / "record.json").write_text("{}")
    for load in (load_model, locate_model):
        with pytest.raises(UserError) as caught:
            load(name.format(here=tmp_path))
        if load is load_model or not hub:
            assert said.format(here=tmp_path) in str(caught.value)
        assert ("hf auth login" in str(caught.value)) == (hub and load is load_model)
        assert "internet connection" not in str(caught.value)


def test_pickled_weights_are_refused(tmp_path):
    path = checkpoint(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="safetensors"):
        load_model(path)


def test_truncated_weights_and_unknown_dtypes_are_explained(tmp_path):
    path = checkpoint(tmp_path)
    weights = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(UserError, match="Could not load"):
        load_model(path)
    with pytest.raises(ValueError, match="float17"):
        load_model(path, dtype="float17")


@pytest.mark.parametrize(
    ("base", "said"), [(None, "names no base model"), ("", "names no base model"), ("self", "names this folder")]
)
def test_an_adapter_without_a_base_is_explained(tmp_path, base, said):
    model, tokenizer = load_model(lora=True)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    file = tmp_path / "adapter_config.json"
    name = {"self": str(tmp_path)}.get(base, base)
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": name}))
    for load in (load_model, locate_model):
        with pytest.raises(UserError, match=said):
            load(str(tmp_path))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tmp_path)}))
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": str(tmp_path / "other")}))
    with pytest.raises(UserError, match="of which it is a base itself"):
        locate_model(str(tmp_path))
    without = json.loads(file.read_text())
    del without["base_model_name_or_path"]
    file.write_text(json.dumps(without))
    with pytest.raises(UserError, match="names no base model"):
        locate_model(str(tmp_path))


@pytest.mark.parametrize("predictors", [1, 2])
def test_loading_an_adapter_draws_nothing_from_the_global_random_state(tmp_path, predictors):
    """Of a base whose vocabulary has to grow by rows that the adapter does not bring."""
    base = checkpoint(tmp_path / "base", tied=False, spare=0)
    model, tokenizer = load_model(base, lora=True, predictors=predictors)
    model.save_pretrained(tmp_path / "adapter")
    tokenizer.save_pretrained(tmp_path / "adapter")
    before = torch.get_rng_state()
    first, _ = load_model(str(tmp_path / "adapter"), predictors=predictors)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    second, _ = load_model(str(tmp_path / "adapter"), predictors=predictors)
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


def test_lora_on_an_adapter_is_refused(tmp_path):
    model, tokenizer = load_model(checkpoint(tmp_path / "base", spare=8), lora=True)
    model.save_pretrained(tmp_path / "adapter")
    tokenizer.save_pretrained(tmp_path / "adapter")
    with pytest.raises(ValueError, match="already"):
        load_model(str(tmp_path / "adapter"), lora=True)
    with pytest.raises(ValueError, match="predictor_1"):
        load_model(str(tmp_path / "adapter"), predictors=2)
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["r"] == 16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_weights_that_are_no_numbers_are_refused_by_name(dtype):
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(0, 2)).to(dtype).requires_grad_(False)
    check_finite(model, "m has")
    for value in (float("nan"), float("inf"), -float("inf")):
        model[0].weight[0, 1].copy_(torch.tensor(value))
        if dtype.itemsize > 1:
            with pytest.raises(UserError, match=r"m has weights that are not finite numbers .*, first in 0\.weight"):
                check_finite(model, "m has")
