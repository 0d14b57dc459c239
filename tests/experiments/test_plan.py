"""Plans: shapes alone give the bytes, the work and the steps that a real model and a real trainer have."""

import json
from dataclasses import replace

import pytest
import torch
from small_models import collator, small_model, small_rows
from small_trainer import CHECKPOINTING, make_trainer
from transformers import AutoConfig, Trainer

from stepjepa.commands.main import main
from stepjepa.experiments.options import CARDS, PlanOptions
from stepjepa.experiments.plan import _length_of_run, not_counted, plan
from stepjepa.experiments.plan_memory import footprint, optimizer_bytes
from stepjepa.experiments.plan_trial import Rows
from stepjepa.jepa.architectures import base_model
from stepjepa.jepa.views import encode_views
from stepjepa.models.checkpoint import model_path
from stepjepa.models.loading import add_lora, load_model
from stepjepa.models.shape import make_model, read_shape
from stepjepa.records import UserError
from stepjepa.training.config import StepJEPAConfig
from stepjepa.training.options import RunOptions

ADAM = {4: 8.0, 2: 4.0}


def arguments(tmp_path, **options):
    return StepJEPAConfig(output_dir=str(tmp_path), gradient_accumulation_steps=1, **options)


def model_of(name):
    model = small_model(name.removesuffix(", LoRA"))
    return add_lora(model, [150], rank=4) if name.endswith("LoRA") else model


def saved_bytes(model, batch, bf16):
    """What autograd keeps of a real forward, weights left out."""
    kept, own = {}, {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = tensor, storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            views = encode_views(model, batch)
        views.lm_loss.backward()
    return sum(size for _, size in kept.values())


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("name", ["llama", "llama, LoRA", "gemma2", "gemma3", "gpt2"])
def test_what_the_backward_keeps_is_traced_from_shapes(tmp_path, name, bf16):
    batch = collator(pairs="consecutive")(small_rows(4))
    rows, length = batch["input_ids"].shape
    labelled = int((batch["labels"][:, 1:] >= 0).sum())
    model = model_of(name).train()
    real = saved_bytes(model, batch, bf16)
    traced = footprint(lambda: model_of(name), arguments(tmp_path, bf16=bf16), rows, length, labelled, ADAM)
    assert traced.activations == pytest.approx(real, rel=0.15)
    assert traced.parameters == sum(p.numel() for p in model.parameters())
    assert traced.trainable == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert traced.gradients == 4 * traced.trainable
    assert traced.optimizer == 8 * traced.trainable


def test_work_is_that_of_the_products(tmp_path):
    rows, length, labelled = 2, 16, 10
    traced = footprint(lambda: small_model("llama"), arguments(tmp_path), rows, length, labelled, ADAM)
    layers, hidden, feed, heads, head_dim, vocabulary = 3, 32, 48, 4, 8, 160
    products = layers * (2 * hidden * hidden + 2 * hidden * 2 * head_dim + 3 * hidden * feed)
    assert traced.products == products
    linear = 2 * (products * rows * length + vocabulary * hidden * labelled)
    attention = 2 * layers * rows * heads * length * length * head_dim  # of one of its two products
    # The backward of attention computes its scores again; in older transformers rotary angles are a product too.
    assert traced.flops == pytest.approx(3 * linear + (2 + 5) * attention, rel=1e-4)


def test_checkpointing_keeps_little_and_computes_more(tmp_path):
    plain, checkpointed = (
        footprint(lambda: small_model("llama"), arguments(tmp_path, **{CHECKPOINTING: on}), 4, 64, 40, ADAM)
        for on in (False, True)
    )
    assert checkpointed.activations < 0.4 * plain.activations
    assert checkpointed.peak < plain.peak
    assert 1.2 < checkpointed.flops / plain.flops < 1.4  # one forward more beside three


@pytest.mark.parametrize(("optim", "expected"), [("adamw_torch", (8, 4)), ("sgd", (0, 0)), ("adafactor", (0, 0))])
def test_optimizer_state_is_read_off_a_step(tmp_path, optim, expected):
    given = Trainer.get_optimizer_cls_and_kwargs(arguments(tmp_path, optim=optim, learning_rate=1e-3))
    found = optimizer_bytes(*given)
    assert (found[4], found[2]) == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("lora", [False, True])
def test_a_shape_is_the_model_that_would_be_loaded(lora):
    model, tokenizer = load_model(lora=lora)
    config, words = read_shape("builtin")
    with torch.device("meta"):
        shape = make_model(config, words, lora=lora)
    assert words.get_vocab() == tokenizer.get_vocab()
    assert {n: (p.shape, p.requires_grad) for n, p in shape.named_parameters()} == {
        n: (p.shape, p.requires_grad) for n, p in model.named_parameters()
    }
    assert base_model(shape).config.pad_token_id == tokenizer.pad_token_id


@pytest.mark.parametrize("options", [{"num_train_epochs": 3.0}, {"num_train_epochs": 1.5}, {"max_steps": 5}])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_as_many_steps_as_the_trainer_takes(tmp_path, options, accumulation):
    options = {
        "max_steps": -1,
        **options,
        "per_device_train_batch_size": 3,
        "gradient_accumulation_steps": accumulation,
    }
    trainer = make_trainer(tmp_path, rows=small_rows(8), **options)
    trainer.train()
    assert _length_of_run(trainer.args, 3, 1)[0] == trainer.state.global_step


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """The built-in model's configuration and tokenizer, without its weights."""
    folder = tmp_path_factory.mktemp("bare")
    AutoConfig.from_pretrained(model_path("builtin")).save_pretrained(folder)
    load_model()[1].save_pretrained(folder)
    return str(folder)


def test_a_card_is_planned_for_without_weights(bare, tmp_path, capsys):
    file = tmp_path / "plan.json"
    words = f"plan --model_name {bare} --problems 30 --num_train_epochs 2 --batch_size 4 --grad_accum 2 --bf16".split()
    assert main([*words, "--device", "h100", "--devices", "2", "--output_file", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "40% of the peak of h100" in shown
    record = json.loads(file.read_text())
    assert record["memory"]["available"] == 80e9
    assert record["memory"]["program"] == 0
    clock = record["time"]
    assert clock["flops_per_second"] == 0.4 * 989e12
    assert clock["optimizer_steps"] == 2 * 2  # 8 microbatches of 4, 4 of each device, 2 a step
    assert clock["microbatches"] == 16
    assert clock["seconds"] == pytest.approx(clock["flops"] / 2 / clock["flops_per_second"])
    tokens = record["data"]["of_an_epoch"]
    assert tokens["labelled"] < tokens["trunk"]
    assert min(tokens.values()) > 0


def test_tokens_are_those_of_the_collator(tmp_path):
    args = arguments(tmp_path, per_device_train_batch_size=3, lbd=0.0)
    rows = Rows(small_rows(7), collator().tokenizer, args, 256)
    assert sum(shape.trunk for shape in rows.shapes) == sum(len(row["input_ids"]) for row in small_rows(7))
    assert {shape.branches for shape in rows.shapes} == {0}
    assert [shape.rows for shape in rows.shapes] == [3, 3, 1]
    assert rows.shapes[2].padding == 0
    assert sum(shape.labelled for shape in rows.shapes) == sum(
        label >= 0 for row in small_rows(7) for label in row["labels"][1:]
    )
    with_branches = Rows(small_rows(7), collator().tokenizer, replace(args, lbd=0.1), 256)
    assert sum(shape.branches for shape in with_branches.shapes) > 0


@pytest.mark.parametrize(
    ("options", "rest"),
    [
        ({}, []),
        ({"lbd": 0.0}, []),
        ({"pairs": "consecutive", "jepa_loss_type": "infonce", "whole_step": True}, []),
        ({"pairs": "consecutive", "target_model": "frozen"}, ["model before training"]),
        ({"pairs": "consecutive", "target_model": "ema"}, ["running mean"]),
        ({"jepa_loss_type": "stp"}, ["stp"]),
    ],
)
def test_rows_are_laid_out_as_the_trainer_lays_them_out(tmp_path, options, rest):
    trainer = make_trainer(tmp_path, **options)
    args = trainer.args
    rows = Rows(small_rows(7), collator().tokenizer, args, 256)
    assert rows.collate.layout == trainer.data_collator.layout
    found = not_counted(args)
    assert len(found) == len(rest)
    assert all(word in one for word, one in zip(rest, found, strict=True))
    if args.whole_step:
        assert "second forward pass" in not_counted(replace(args, gradient_accumulation_steps=2))[0]


def test_mistakes_are_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for words, said in (("--lora --lora_rank 0", "positive"), ("--max_length 5", "No example")):
        assert main(["plan", "--problems", "20", "--device", "a100", *words.split()]) == 1
        assert said in capsys.readouterr().err


def test_here_a_few_microbatches_are_timed(tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr("stepjepa.experiments.plan_trial.keep_freed_memory", lambda: kept.append(True))
    run = RunOptions(problems=6, eval_file=["none"])
    record = plan(run, arguments(tmp_path, num_train_epochs=1, per_device_train_batch_size=2), PlanOptions())
    assert kept == [True]  # as in the run
    assert len(record["time"]["timed"]) >= 3
    assert record["time"]["seconds"] > 0
    memory = record["memory"]
    assert memory["peak"] == max(memory["traced"], memory["measured"])
    assert min(memory["measured"], memory["program"]) > 1e8  # Python with torch is that large


def test_what_cannot_be_planned_is_refused(tmp_path):
    for zero in ({"tflops": 0.0, "memory": 8.0}, {"tflops": 10.0, "memory": 0.0}):
        with pytest.raises(UserError, match="has to be above 0"):
            PlanOptions(device="other", **zero)
    for words in ({"device": "other"}, {"tflops": 10.0, "memory": 8.0}, {"utilisation": 2.0}):
        with pytest.raises(UserError):
            PlanOptions(**words)
    assert PlanOptions(device="other", tflops=10.0, memory=8.0).memory == 8.0
    with pytest.raises(UserError, match="experts"):
        footprint(lambda: small_model("mixtral"), arguments(tmp_path), 2, 8, 4, ADAM)
    with pytest.raises(UserError, match=r"config\.json"):
        read_shape(str(tmp_path))
    load_model(lora=True)[0].save_pretrained(tmp_path / "adapter")
    with pytest.raises(UserError, match="base model"):
        read_shape(str(tmp_path / "adapter"))
    assert all(bfloat16 > float32 > 0 for bfloat16, float32, _ in CARDS.values())
