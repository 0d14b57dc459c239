"""Views of a trained run are read as it compared them: the targets of other weights, by interpolating them by hand."""

import shutil

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from stepjepa.analysis.embeddings import load
from stepjepa.analysis.trained import shown_layout, trained_reading
from stepjepa.commands.attention import main as attention
from stepjepa.commands.embed import main as embed
from stepjepa.data.sources import read_examples
from stepjepa.data.tokens import tokenize_dataset
from stepjepa.evaluation.results import Results, question_ids
from stepjepa.experiments.run_report import _views
from stepjepa.jepa.layout import StepJEPACollator
from stepjepa.jepa.pairs import BranchLayout
from stepjepa.jepa.views import encode_views
from stepjepa.models.checkpoint import locate_model
from stepjepa.models.loading import load_model
from stepjepa.records import UserError
from stepjepa.training.config import StepJEPAConfig
from stepjepa.training.options import RunOptions
from stepjepa.training.run import run_training

LAYOUT = {"pairs": "consecutive", "pooling": "mean"}


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    """A folder with a small model of random weights."""
    folder = tmp_path_factory.mktemp("before") / "model"
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=1024, bos_token_id=1, eos_token_id=2, **sizes)).save_pretrained(folder)
    load_model()[1].save_pretrained(folder)
    return folder


def trained(folder, before, lora=False, merge_lora=False, **options):
    """One optimizer step; the run's folder."""
    args = StepJEPAConfig(
        output_dir=str(folder), max_steps=1, learning_rate=0.05, use_cpu=True, report_to="none", save_strategy="no",
        disable_tqdm=True, optim="sgd", max_grad_norm=0, warmup_steps=0, lr_scheduler_type="constant", seed=5,
        **{**LAYOUT, **options},
    )  # fmt: skip
    data = {"problems": 16, "eval_problems": 2, "accuracy_problems": 0}
    adapter = {"lora": lora, "lora_dropout": 0.0, "lora_rank": 4, "merge_lora": merge_lora}
    run_training(RunOptions(model_name=str(before), **adapter, **data), args)
    return folder


@pytest.mark.parametrize(
    ("targets", "kept", "lora"),
    [("ema", 0.75, False), ("ema", 0.75, True), ("frozen", 1.0, False), ("frozen", 1.0, True)],
    ids=["ema", "ema-lora", "frozen", "frozen-lora"],
)
def test_targets_are_those_of_the_weights_that_the_run_predicted(targets, kept, lora, tmp_path, before):
    """mean after one step = d · w₀ + (1 − d) · w₁; frozen is d = 1."""
    ema = {"ema_decay": 0.75} if targets == "ema" else {}
    run = trained(tmp_path / "run", before, lora, target_model=targets, lbd=1.0, **ema)
    with torch.no_grad():
        check_targets(run, before, targets, kept, lora)


def check_targets(run, before, targets, kept, lora):
    model, tokenizer = load_model(str(run))
    reading = trained_reading(locate_model(str(run)), model)
    examples, _ = read_examples("builtin", split="test", count=3)
    batch = StepJEPACollator(tokenizer, BranchLayout(**LAYOUT))(tokenize_dataset(examples, tokenizer)[0])
    other, _ = load_model(str(before), lora=lora, lora_dropout=0.0, lora_rank=4, seed=5)
    for first, last in zip(other.parameters(), model.parameters(), strict=True):
        if first.requires_grad:
            first.copy_(kept * first + (1 - kept) * last)
    for each in (model, other):
        each.eval()
    own, found = encode_views(model, batch), reading(model, batch)
    torch.testing.assert_close(found.target, encode_views(other, batch).target, atol=1e-6, rtol=1e-5)
    assert (found.target - own.target).abs().max() > 1e-4
    assert torch.equal(found.context, own.context)
    assert torch.equal(encode_views(model, batch).target, own.target)  # the model is itself again
    assert reading.targets == targets
    assert torch.equal(reading.of_itself()(model, batch).target, own.target)


def test_targets_of_an_adapter_that_went_on_are_those_of_the_adapter_it_began_with(tmp_path, before):
    first, tokenizer = load_model(str(before), lora=True, lora_rank=4, seed=5)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in first.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight) / 5)
    first.save_pretrained(tmp_path / "first")
    tokenizer.save_pretrained(tmp_path / "first")
    run = trained(tmp_path / "run", tmp_path / "first", merge_lora=True, target_model="frozen", lbd=1.0)
    examples, _ = read_examples("builtin", split="test", count=3)
    batch = StepJEPACollator(tokenizer, BranchLayout(**LAYOUT))(tokenize_dataset(examples, tokenizer)[0])
    with torch.no_grad():
        expected = encode_views(first.eval(), batch).target
    for folder in (run, run / "merged"):
        model, _ = load_model(str(folder))
        own = encode_views(model.eval(), batch).target
        found = trained_reading(locate_model(str(folder)), model)(model, batch).target
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        assert (found - own).abs().max() > 1e-3
    shutil.rmtree(tmp_path / "first")
    with pytest.raises(UserError, match=r"(?s)before training.*first.*--no_as_trained"):
        trained_reading(locate_model(str(run)), load_model(str(run))[0])


def check_report_reads_alike(run, compared, plain):
    """The views of `stepjepa report` are those of `stepjepa embed`."""
    at, options = locate_model(str(run)), BranchLayout(**LAYOUT)
    model, tokenizer = load_model(str(run))
    examples, _ = read_examples("builtin", split="test", count=3, seed=1, system_prompt=None)
    answers = Results("r.jsonl", [{"id": name, "correct": True} for name in question_ids(examples)], {})
    read = _views(at, model, tokenizer, examples, answers, options)
    np.testing.assert_allclose(read.target, compared.target, atol=1e-5)
    np.testing.assert_allclose(read.context, compared.context, atol=1e-5)
    assert np.abs(read.target - plain.target).max() > 0.1
    assert read.info["layout"] == compared.info["layout"]


def test_embed_reads_a_run_as_it_compared_its_views(tmp_path, before, capsys):
    model = tmp_path / "before"
    shutil.copytree(before, model)
    options = {"target_model": "frozen", "head": "linear", "target_scale": "zscore", "jepa_loss_type": "smooth_l1"}
    run = trained(tmp_path / "run", model, lbd=1.0, **options)
    words = ["--model_name", str(run), "--problems", "3", "--output_file", str(tmp_path / "views.safetensors")]
    assert embed(words) == 0
    assert "targets: those of the model before training; pooling: mean" in capsys.readouterr().out
    compared = load(tmp_path / "views.safetensors")
    assert compared.info["layout"]["pooling"] == "mean"
    assert (compared.info["model"]["targets"], compared.info["model"]["as_trained"]) == ("frozen", True)
    assert embed([*words, "--no_as_trained", "--pooling", "mean"]) == 0
    assert "states as they are; targets: the model's own; pooling: mean" in capsys.readouterr().out
    plain = load(tmp_path / "views.safetensors")
    check_report_reads_alike(run, compared, plain)
    assert abs(compared.target.std(axis=0).mean() - 1) < 0.5  # z-scored on 16 problems
    assert plain.target.std(axis=0).mean() != pytest.approx(1, abs=0.5)
    shutil.rmtree(model)
    with pytest.raises(UserError, match=r"(?s)before training.*before.*--no_as_trained"):
        embed(words)
    (run / "objective.safetensors").unlink()
    with pytest.raises(UserError, match=r"objective\.safetensors is missing.*--no_as_trained"):
        embed(words)


def test_the_next_step_is_read_where_it_was_predicted(tmp_path, before, capsys):
    """With a predictor token for each horizon the first one predicts the next step; with K for one horizon the last."""
    many = trained(tmp_path / "many", before, lbd=1.0, pairs="horizons", horizon=2, predictors=2)
    one = trained(tmp_path / "one", before, lbd=1.0, pairs="horizon", horizon=1, predictors=2, isolation="sink")
    examples, _ = read_examples("builtin", split="test", count=3, seed=1, system_prompt=None)
    for run, reader in ((many, 0), (one, 1)):
        layout = shown_layout(locate_model(str(run)))
        pairs = layout.view_pairs([-1, 0, 0, 1, 1, 2])
        assert [(pair.context_step, pair.target_step) for pair in pairs] == [(0, 1), (1, 2)]
        assert {layout.reader(pair.level) for pair in pairs} == {reader}
        words = ["--model_name", str(run), "--problems", "3"]
        assert embed([*words, "--output_file", str(tmp_path / "views.safetensors")]) == 0
        found, (model, tokenizer) = load(tmp_path / "views.safetensors"), load_model(str(run), predictors=2)
        batch = StepJEPACollator(tokenizer, layout)(tokenize_dataset(examples, tokenizer)[0])
        with torch.no_grad():
            views = encode_views(model.eval(), batch)
        np.testing.assert_allclose(found.context, views.context, atol=1e-5)
        answers = Results("r.jsonl", [{"id": name, "correct": True} for name in question_ids(examples)], {})
        settings = locate_model(str(run)).training()
        own = BranchLayout(
            **{name: settings[name] for name in ("pairs", "horizon", "predictors", "pooling", "isolation")}
        )
        read = _views(locate_model(str(run)), model, tokenizer, examples, answers, own)
        np.testing.assert_allclose(read.context, found.context, atol=1e-5)
        assert attention([*words, "--output_dir", str(tmp_path / "maps")]) == 0
    capsys.readouterr()
    with pytest.raises(UserError, match="--predictors 3: the model was trained with 2"):
        attention([*words, "--predictors", "3", "--output_dir", str(tmp_path / "maps")])


def test_a_predictor_token_of_a_plain_run_is_said_to_be_untrained(tmp_path, before, capsys):
    run = trained(tmp_path / "run", before, lbd=0.0)
    assert embed(["--model_name", str(run), "--problems", "3", "--output_file", str(tmp_path / "v.npz")]) == 0
    assert "note: no predictor token was trained in this model" in capsys.readouterr().out
