"""The trainer: λ = 0 is plain fine-tuning, normalisation over the whole optimizer step, logs, evaluation."""

import itertools
import math
import random

import pytest
import torch
import transformers as tf
from accelerate import ParallelismConfig
from datasets import IterableDataset
from small_models import Tokens, collator, small_model, small_rows
from small_trainer import CHECKPOINTING, flat_weights, losses, make_trainer, step_of

from stepjepa import load_model
from stepjepa.jepa.losses import jepa_losses
from stepjepa.jepa.views import encode_views
from stepjepa.training.config import StepJEPAConfig
from stepjepa.training.trainer import StepJEPATrainer


def test_lambda_zero_is_plain_fine_tuning(tmp_path):
    """Same loss and same weights as transformers.Trainer on the same batches, accumulated."""
    settings = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "max_steps": 2}
    ours, trainer = step_of(tmp_path / "a", lbd=0.0, **settings)

    model = small_model("llama")
    before = flat_weights(model)
    args = tf.TrainingArguments(
        output_dir=str(tmp_path / "b"),
        learning_rate=0.1,
        optim="sgd",
        lr_scheduler_type="constant",
        max_grad_norm=0,
        save_strategy="no",
        disable_tqdm=True,
        logging_steps=1,
        use_cpu=True,
        seed=3,
        report_to="none",
        remove_unused_columns=False,
        **settings,
    )

    def plain_collator(rows):
        batch = collator(pairs="none")(rows)
        return {name: batch[name] for name in ("input_ids", "labels", "attention_mask")}

    stock = tf.Trainer(model=model, args=args, train_dataset=small_rows(8), data_collator=plain_collator)
    stock.train()
    theirs = flat_weights(model) - before
    assert (ours - theirs).norm() / theirs.norm() < 1e-5
    for a, b in zip(losses(trainer), losses(stock), strict=True):
        assert a == pytest.approx(b, rel=1e-5)


@pytest.mark.parametrize("kind", ["cosine", "mse"])
def test_the_step_is_that_of_the_loss_as_written(tmp_path, kind):
    """γ · LM sum / tokens + λ · JEPA sum / pairs over the whole optimizer step, differentiated by hand."""
    change, trainer = step_of(
        tmp_path,
        lbd=0.7,
        gamma=1.3,
        jepa_loss_type=kind,
        pairs="consecutive",
        per_device_train_batch_size=2,
        gradient_accumulation_steps=4,
    )
    model = small_model("llama").train()
    views = encode_views(model, collator(pairs="consecutive")(small_rows(8)))
    loss = 1.3 * views.lm_loss + 0.7 * jepa_losses(views.context, views.target, kind).mean()
    loss.backward()
    expected = torch.cat([-0.1 * p.grad.flatten() for p in model.parameters()]).double()
    assert (change - expected).norm() / expected.norm() < 1e-5
    assert losses(trainer)[0] == pytest.approx(loss.item(), rel=1e-5)
    log = trainer.state.log_history[0]
    assert log["lm_loss"] == pytest.approx(views.lm_loss.item(), rel=1e-4)
    assert log["jepa_loss"] == pytest.approx(jepa_losses(views.context, views.target, kind).mean().item(), rel=1e-4)


def test_how_examples_are_spread_over_microbatches_does_not_matter(tmp_path):
    settings = {"lbd": 0.7, "pairs": "consecutive"}
    changes = [
        step_of(
            tmp_path / str(size),
            model=small_model("llama").double(),
            per_device_train_batch_size=size,
            gradient_accumulation_steps=8 // size,
            **settings,
        )[0]
        for size in (8, 4, 2, 1)
    ]
    for other in changes[1:]:
        assert (other - changes[0]).norm() / changes[0].norm() < 1e-13


def test_packing_does_not_change_the_step(tmp_path):
    models = [small_model("llama").double() for _ in range(2)]
    plain, _ = step_of(tmp_path / "a", model=models[0], lbd=0.5, pairs="consecutive")
    packed, trainer = step_of(tmp_path / "b", model=models[1], lbd=0.5, pairs="consecutive", packing_length=200)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(8)])
    assert len(batch["input_ids"]) < 8
    assert (packed - plain).norm() / plain.norm() < 1e-13


def test_lambda_zero_builds_no_branch_but_evaluation_measures_both_losses(tmp_path):
    trainer = make_trainer(tmp_path, lbd=0.0, eval_rows=small_rows(4, seed=5))
    assert trainer.data_collator([trainer.train_dataset[0]])["context_index"].shape[1] == 0
    trainer.train()
    assert "jepa_loss" not in trainer.state.log_history[0]
    metrics = trainer.evaluate()
    views = encode_views(trainer.model, collator()(small_rows(4, seed=5)))
    assert metrics["eval_lm_loss"] == pytest.approx(views.lm_loss.item(), rel=1e-5)
    assert metrics["eval_jepa_loss"] == pytest.approx(jepa_losses(views.context, views.target).mean().item(), rel=1e-4)
    assert metrics["eval_loss"] == pytest.approx(metrics["eval_lm_loss"], rel=1e-6)


def test_evaluation_loss_does_not_depend_on_the_batch_size(tmp_path):
    rows = small_rows(7, seed=5)
    metrics = [
        make_trainer(tmp_path, lbd=0.4, eval_rows=rows, per_device_eval_batch_size=size).evaluate()
        for size in (7, 3, 1)
    ]
    for other in metrics[1:]:
        for name in ("eval_loss", "eval_lm_loss", "eval_jepa_loss", "eval_without_pair"):
            assert other[name] == pytest.approx(metrics[0][name], rel=1e-5)
    assert metrics[0]["eval_loss"] == pytest.approx(
        metrics[0]["eval_lm_loss"] + 0.4 * metrics[0]["eval_jepa_loss"], rel=1e-6
    )
    assert metrics[0]["eval_without_pair"] == pytest.approx(2 / 7)


def test_evaluation_by_source(tmp_path):
    rows = small_rows(6, seed=5)
    named = [{**row, "source": "a" if i < 2 else "b"} for i, row in enumerate(rows)]
    metrics = make_trainer(tmp_path, eval_rows=named).evaluate()
    alone = make_trainer(tmp_path, eval_rows=rows[:2]).evaluate()
    assert metrics["eval_a_lm_loss"] == pytest.approx(alone["eval_lm_loss"], rel=1e-5)
    assert metrics["eval_a_jepa_loss"] == pytest.approx(alone["eval_jepa_loss"], rel=1e-4)
    assert {"eval_b_lm_loss", "eval_b_retrieval"} <= set(metrics)


def test_several_evaluation_sets(tmp_path):
    trainer = make_trainer(tmp_path, eval_rows={"x": small_rows(2), "y": small_rows(3, seed=9)})
    assert {"eval_x_lm_loss", "eval_y_lm_loss"} <= set(trainer.evaluate())


def test_jepa_dropout_is_drawn_from_seed_and_step(tmp_path):
    trainer = make_trainer(tmp_path, jepa_ratio=0.5, lbd=0.2, max_steps=12)
    expected = [random.Random(f"jepa-3-{step}").random() < 0.5 for step in range(12)]
    drawn = []
    for step in range(12):
        trainer.state.global_step = step
        drawn.append(trainer._jepa_weight())
    assert drawn == [0.2 if kept else 0.0 for kept in expected]
    assert 0 < sum(expected) < 12
    trainer.state.global_step = 0
    trainer.train()
    logged = ["jepa_loss" in entry for entry in trainer.state.log_history if "loss" in entry]
    assert logged == expected


def test_logs_name_what_matters(tmp_path):
    trainer = make_trainer(tmp_path, pairs="consecutive")
    trainer.train()
    log = trainer.state.log_history[0]
    pairs = sum(max(0, n - 1) for n in itertools.islice(itertools.cycle((3, 4, 1, 2)), 8))
    assert log["retrieval_chance"] == pytest.approx(1 / pairs, abs=1e-5)
    assert 0 <= log["retrieval"] <= 1
    assert 0 < log["target_spread"] < 2
    assert log["without_pair"] == pytest.approx(2 / 8)
    assert log["tokens_per_second"] > 0


def test_collapse_is_explained(tmp_path, warnings_of_transformers):
    model = small_model("llama")
    model.model.norm.register_forward_hook(lambda _m, _i, out: torch.ones_like(out) + 1e-4 * out)
    trainer = make_trainer(tmp_path, model=model, pairs="consecutive", max_steps=3, lbd=0.1)
    trainer.train()
    told = [record.message for record in warnings_of_transformers.records if record.message.startswith("Targets")]
    assert len(told) == 1
    assert "chance" in told[0]


def test_infonce_with_one_pair_warns_once(tmp_path, warnings_of_transformers):
    rows = small_rows(4, steps=(2,))
    trainer = make_trainer(tmp_path, rows=rows, jepa_loss_type="infonce", per_device_train_batch_size=1, max_steps=3)
    trainer.train()
    assert sum("InfoNCE" in record.message for record in warnings_of_transformers.records) == 1


def test_defaults_that_differ(tmp_path):
    args = StepJEPAConfig(output_dir=str(tmp_path))
    assert (args.lbd, args.gamma, args.jepa_loss_type, args.pairs, args.isolation) == (
        0.1,
        1.0,
        "cosine",
        "first",
        "step",
    )
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps, args.num_train_epochs) == (4, 4, 3)
    trainer = StepJEPATrainer(small_model("llama"), args, train_dataset=small_rows(2), processing_class=Tokens())
    assert trainer.args.learning_rate == 2e-5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor"),
        ({"use_liger_kernel": True}, "use_liger_kernel"),
        ({"torch_compile": True}, "torch_compile"),
        ({"average_tokens_across_devices": False}, "average_tokens_across_devices"),
        ({"remove_unused_columns": True}, "remove_unused_columns"),
        ({"eval_do_concat_batches": False}, "eval_do_concat_batches"),
        ({"batch_eval_metrics": True}, "batch_eval_metrics"),
        ({"parallelism_config": ParallelismConfig(cp_size=2)}, "parallelism_config"),
        ({"lbd": -1.0}, "lbd=-1.0"),
        ({"lbd": math.inf}, "lbd=inf"),
        ({"pairs": "none"}, "unless lbd is 0"),
        ({"max_length": 0}, "max_length=0"),
        ({"packing_length": -3}, "packing_length=-3"),
        ({"jepa_ratio": 0.0}, "jepa_ratio=0.0"),
        ({"jepa_loss_type": "cos"}, "'cos'"),
        ({"pairs": "some"}, "'some'"),
        ({"isolation": "full"}, "'full'"),
    ],
)
def test_what_the_loss_cannot_honour_is_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        StepJEPAConfig(output_dir=str(tmp_path), **options)


def test_refused_arguments_of_the_trainer(tmp_path):
    for option in ("compute_metrics", "compute_loss_func"):
        with pytest.raises(ValueError, match=option):
            make_trainer(tmp_path, trainer_options={option: print})
    with pytest.raises(ValueError, match="processing_class"):
        StepJEPATrainer(small_model("llama"), StepJEPAConfig(output_dir=str(tmp_path)), train_dataset=small_rows(2))
    with pytest.raises(ValueError, match="empty"):
        make_trainer(tmp_path, rows=[])
    with pytest.raises(ValueError, match="question"):
        make_trainer(tmp_path, rows=[{"question": "?"}])


@pytest.mark.parametrize("given", [tf.DataCollatorForSeq2Seq, lambda tokenizer: lambda rows: rows])
def test_arguments_of_another_kind_are_named(tmp_path, given):
    """The two slips of somebody who knows the stock trainer: its arguments, and a collator that lays no branches out."""
    rows, tokenizer = small_rows(2), Tokens()
    arguments = tf.TrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True)
    with pytest.raises(TypeError, match="StepJEPAConfig, which is a TrainingArguments with further fields"):
        StepJEPATrainer(small_model("llama"), arguments, train_dataset=rows, processing_class=tokenizer)
    with pytest.raises(TypeError, match=r"StepJEPACollator .* not (DataCollatorForSeq2Seq|<lambda>)"):
        make_trainer(tmp_path, trainer_options={"data_collator": given(tokenizer)})


ONE_STEP = {"messages": [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "It is 2."}]}
ONE_STEP["steps"] = ["It is 2."]


def test_training_data_without_any_view_pair_are_refused_where_pairs_are_compared(tmp_path):
    """Otherwise the JEPA loss is 0 in silence, and the record reads like one of a run with it."""
    model, tokenizer = load_model("builtin")

    def trainer(**options):
        args = StepJEPAConfig(output_dir=str(tmp_path), use_cpu=True, report_to="none", **options)
        return StepJEPATrainer(model, args, train_dataset=[ONE_STEP] * 3, processing_class=tokenizer)

    with pytest.raises(
        ValueError, match=r"(?s)No example of the train dataset has a view pair \(pairs=first\).*verify"
    ):
        trainer()
    assert len(trainer(lbd=0.0).train_dataset) == 3
    assert len(trainer(pairs="question_answer").train_dataset) == 3


def test_rows_of_a_stream_that_are_no_examples_are_named_by_their_fields(tmp_path):
    rows = IterableDataset.from_generator(lambda: iter([{"question": "?", "answer": "#### 1"}]))
    trainer = make_trainer(tmp_path, rows=rows, max_steps=1)
    with pytest.raises(ValueError, match=r"Rows of the train dataset have the fields answer, question; give chat"):
        trainer.train()


def test_dataparallel_over_several_gpus_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(StepJEPAConfig, "n_gpu", property(lambda _self: 2))
    with pytest.raises(ValueError, match="torchrun"):
        make_trainer(tmp_path)


def test_loss_stays_finite_on_a_batch_without_any_pair(tmp_path):
    _, trainer = step_of(tmp_path, rows=small_rows(4, steps=(1,)), lbd=0.5)
    assert math.isfinite(losses(trainer)[0])
    assert trainer.state.log_history[0]["without_pair"] == 1.0
    assert trainer.state.log_history[0]["jepa_loss"] == 0.0


def test_tokenized_rows_beyond_the_models_positions_are_named(tmp_path):
    long = {"input_ids": [5] * 256, "labels": [5] * 256, "step_ids": [0] * 128 + [1] * 128}
    with pytest.raises(ValueError, match=r"Row 2 of the train dataset has 256 tokens.*hold 255"):
        make_trainer(tmp_path, rows=[*small_rows(2), long])


def test_a_configuration_serves_several_models(tmp_path):
    args = StepJEPAConfig(output_dir=str(tmp_path), use_cpu=True)
    full = StepJEPATrainer(small_model("llama"), args, train_dataset=small_rows(2), processing_class=Tokens())
    assert full.args.learning_rate == 2e-5
    assert args.learning_rate is None
    from peft import LoraConfig, get_peft_model

    lora = get_peft_model(small_model("llama"), LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))
    adapted = StepJEPATrainer(lora, args, train_dataset=small_rows(2), processing_class=Tokens())
    assert adapted.args.learning_rate == 2e-4


def test_retrieval_is_not_claimed_for_batches_of_one_pair(tmp_path):
    rows = small_rows(4, seed=5, steps=(2,))
    metrics = make_trainer(tmp_path, eval_rows=rows, per_device_eval_batch_size=1).evaluate()
    assert "eval_jepa_loss" in metrics
    assert "eval_retrieval" not in metrics
    together = make_trainer(tmp_path, eval_rows=rows, per_device_eval_batch_size=4).evaluate()
    assert together["eval_retrieval_chance"] == pytest.approx(0.25)


def test_predict_measures_like_evaluate(tmp_path):
    rows = small_rows(5, seed=5)
    trainer = make_trainer(tmp_path, lbd=0.0, packing_length=200, eval_rows=rows)
    evaluated, predicted = trainer.evaluate(), trainer.predict(rows).metrics
    for name in ("lm_loss", "jepa_loss", "loss"):
        assert predicted[f"test_{name}"] == evaluated[f"eval_{name}"]


def test_evaluation_rows_without_a_source_are_not_credited_to_one(tmp_path):
    train = [{**row, "source": name} for row, name in zip(small_rows(2), "ab", strict=True)]
    metrics = make_trainer(tmp_path, rows=train, eval_rows=small_rows(3)).evaluate()
    assert not any(name.startswith(("eval_a_", "eval_b_")) for name in metrics)


@pytest.mark.parametrize("kind", ["list", "dataset", "torch stream", "datasets stream"])
def test_every_kind_of_dataset_trains_alike(tmp_path, kind):
    import datasets

    rows = small_rows(8)

    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            yield from rows

    given = {
        "list": rows,
        "dataset": datasets.Dataset.from_list(rows),
        "torch stream": Stream(),
        "datasets stream": datasets.Dataset.from_list(rows).to_iterable_dataset(),
    }[kind]
    _, trainer = step_of(tmp_path, rows=given, lbd=0.5)
    _, reference = step_of(tmp_path, rows=rows, lbd=0.5)
    assert losses(trainer)[0] == pytest.approx(losses(reference)[0], rel=1e-5)


def test_ragged_rows_and_mappings_of_datasets_are_named(tmp_path):
    ragged = {"input_ids": [5, 6, 7], "labels": [5, 6], "step_ids": [0, 0, 0]}
    with pytest.raises(ValueError, match="Row 1 of the train dataset needs"):
        make_trainer(tmp_path, rows=[*small_rows(1), ragged])
    with pytest.raises(ValueError, match="mapping of train, test"):
        make_trainer(tmp_path, rows={"train": small_rows(1), "test": small_rows(1)})


def test_bf16_computes_in_bfloat16_and_keeps_float32_weights(tmp_path):
    exact, rounded = ({} if each else {"bf16": True, "use_cpu": False} for each in (True, False))
    whole, trainer = step_of(tmp_path, **exact)
    short, lower = step_of(tmp_path, **rounded)
    assert lower.args.use_cpu  # there is no GPU, and nothing else had to be said
    assert {p.dtype for p in lower.model.parameters()} == {torch.float32}
    difference = ((short - whole).norm() / whole.norm()).item()
    assert 1e-4 < difference < 0.1  # 8 bits: neither float32 nor wrong
    assert losses(lower) == pytest.approx(losses(trainer), rel=0.02)
    assert lower.evaluate(small_rows(4))["eval_lm_loss"] == pytest.approx(
        trainer.evaluate(small_rows(4))["eval_lm_loss"], rel=0.02
    )


@pytest.mark.parametrize("bf16", [False, True])
def test_activation_checkpointing_changes_no_loss(tmp_path, bf16):
    plain, checkpointed = (
        make_trainer(tmp_path, max_steps=3, bf16=bf16, pairs="consecutive", **{CHECKPOINTING: on})
        for on in (False, True)
    )
    for trainer in (plain, checkpointed):
        trainer.train()
    assert getattr(checkpointed.model, f"is_{CHECKPOINTING}")
    assert losses(plain) == losses(checkpointed)
    torch.testing.assert_close(flat_weights(plain.model), flat_weights(checkpointed.model), rtol=0, atol=0)
