"""Targets of another model than the one in training, objectives over the whole optimizer step, λ over time."""

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from small_models import CONFIGS, collator, small_model, small_rows
from small_trainer import flat_weights, make_trainer, saving_trainer, step_of
from transformers import AutoModelForCausalLM

from stepjepa.jepa.losses import jepa_losses
from stepjepa.jepa.objectives import StepObjective
from stepjepa.jepa.views import encode_views
from stepjepa.models.loading import add_lora
from stepjepa.training.config import StepJEPAConfig
from stepjepa.training.targets import FROZEN_FILE
from stepjepa.training.trainer import StepJEPATrainer

PAIRS = {"pairs": "consecutive", "lbd": 0.7}


def with_adapters(fresh=True, **options):
    torch.manual_seed(1)
    config = LoraConfig(
        r=4,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
        trainable_token_indices=[150],
        init_lora_weights=fresh,
        **options,
    )
    return get_peft_model(small_model("llama"), config)


@pytest.mark.parametrize("model", ["frozen", "ema"])
@pytest.mark.parametrize("kind", ["mse", "infonce"])
def test_the_first_step_is_that_of_stopped_targets(tmp_path, model, kind):
    """Before anything is trained all models are the same: λ · loss(context, stopped target), by hand."""
    change, trainer = step_of(tmp_path, jepa_loss_type=kind, target_model=model, **PAIRS)
    own = small_model("llama").train()
    views = encode_views(own, collator(pairs="consecutive")(small_rows(8)))
    (views.lm_loss + 0.7 * jepa_losses(views.context, views.target, kind, target_gradient=False).mean()).backward()
    expected = torch.cat([-0.1 * p.grad.flatten() for p in own.parameters()]).double()
    assert (change - expected).norm() / expected.norm() < 1e-5
    assert (trainer.data_collator.layout.isolation, trainer.args.isolation) == ("none", "step")  # no copies are made


def test_frozen_targets_stay_those_of_the_model_before_training(tmp_path):
    trainer = make_trainer(tmp_path, target_model="frozen", pooling="mean", max_steps=3, **PAIRS)
    before = encode_views(trainer.model, collator(pairs="consecutive", pooling="mean")(small_rows(8))).target
    batch = trainer.data_collator(small_rows(8))
    trainer.train()
    assert np.load(tmp_path / FROZEN_FILE).shape == before.shape
    torch.testing.assert_close(trainer.views(trainer.model, batch).target, before, atol=1e-5, rtol=0)
    new = small_rows(3, seed=7)  # not in the file: the frozen weights are put in for it
    expected = encode_views(small_model("llama"), collator(pairs="consecutive", pooling="mean")(new)).target
    changed = flat_weights(trainer.model)
    found = trainer.compared_views(trainer.model, collator(pairs="consecutive", pooling="mean")(new)).target
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert torch.equal(flat_weights(trainer.model), changed)


def test_the_file_of_frozen_targets_is_taken_up_again_only_by_the_same_run(tmp_path):
    trainer = make_trainer(tmp_path, target_model="frozen", **PAIRS)
    trainer.measure_targets()
    written = np.load(tmp_path / FROZEN_FILE)
    np.save(tmp_path / FROZEN_FILE, written + 1)
    again = make_trainer(tmp_path, target_model="frozen", **PAIRS)
    again.measure_targets()
    np.testing.assert_array_equal(again._cache, written + 1)
    for options in ({"pooling": "mean"}, {"model": small_model("llama", seed=4)}, {"rows": small_rows(8, seed=2)}):
        other = make_trainer(tmp_path, target_model="frozen", **PAIRS, **options)
        other.measure_targets()
        assert not np.array_equal(other._cache, written + 1)
        np.save(tmp_path / FROZEN_FILE, np.array(other._cache))


def configured(dtype=torch.float32, **options):
    """The small model with its weights rounded to bfloat16, whatever they are kept in, and other options."""
    config = CONFIGS["llama"]()
    for name, value in options.items():
        setattr(config, name, value)
    model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(small_model("llama").state_dict())
    return model.to(torch.bfloat16).to(dtype)


def with_separators(*contents):
    """The same example for each of `contents`, which is how many tokens before the separator each of its steps has."""
    row = small_rows(1)[0]
    steps = np.array(row["step_ids"])
    within = np.array([(steps[:place] == step).sum() for place, step in enumerate(steps)])
    return [{**row, "separator": ((steps >= 0) & (within >= content)).astype(int).tolist()} for content in contents]


def rank_one(alpha):
    torch.manual_seed(2)
    config = LoraConfig(r=1, lora_alpha=alpha, target_modules="all-linear", init_lora_weights=False)
    return get_peft_model(small_model("llama"), config)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (lambda: {"model": configured(torch.bfloat16)}, lambda: {"model": configured()}),
        (lambda: {"model": configured()}, lambda: {"model": configured(rms_norm_eps=0.01)}),
        (lambda: {"model": rank_one(1)}, lambda: {"model": rank_one(2)}),
        (
            lambda: {"rows": with_separators(1, 1), "pooling": "content"},
            lambda: {"rows": with_separators(2, 2), "pooling": "content"},
        ),
    ],
    ids=["dtype", "configuration", "adapter", "separators"],
)
def test_the_file_of_frozen_targets_is_of_all_that_they_follow_from(tmp_path, first, second):
    def targets(name, options):
        trainer = make_trainer(tmp_path / name, target_model="frozen", **options, **PAIRS)
        trainer.measure_targets()
        return np.array(trainer._cache)

    one, taken_up, expected = targets("a", first()), targets("a", second()), targets("b", second())
    np.testing.assert_array_equal(taken_up, expected)
    assert np.abs(one - expected).max() > 1e-3


def test_the_origin_of_a_model_is_nothing_that_frozen_targets_follow_from(tmp_path):
    names = []
    for name in ("one", "two"):
        model = rank_one(1)
        model.get_base_model().config._name_or_path = model.peft_config["default"].base_model_name_or_path = name
        names.append(make_trainer(tmp_path, model=model, target_model="frozen", **PAIRS)._about_frozen([]))
    assert names[0] == names[1]


def test_frozen_targets_of_the_same_tokens_are_told_apart_by_where_they_are_read(tmp_path):
    rows = with_separators(1, 2)
    trainer = make_trainer(tmp_path, rows=rows, target_model="frozen", pooling="content", **PAIRS)
    trainer.measure_targets()
    for row in rows:
        batch = trainer.data_collator([row])
        expected = encode_views(small_model("llama"), collator(pairs="consecutive", pooling="content")([row])).target
        torch.testing.assert_close(trainer.other_targets(batch), expected, atol=1e-5, rtol=0)
        assert len(trainer._known) == len(rows) * len(expected)


def test_under_lora_the_frozen_model_is_the_one_without_adapters(tmp_path):
    trainer = make_trainer(tmp_path, model=with_adapters(), target_model="frozen", max_steps=3, **PAIRS)
    trainer.train()
    new = small_rows(3, seed=7)
    expected = encode_views(small_model("llama"), collator(pairs="consecutive")(new)).target
    found = trainer.compared_views(trainer.model, collator(pairs="consecutive")(new)).target
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert sum(weight.numel() for weight in trainer._frozen) < 0.5 * flat_weights(small_model("llama")).numel()
    own = encode_views(trainer.model, collator(pairs="consecutive")(new)).target
    assert (own - expected).abs().max() > 1e-3


def test_of_an_adapter_that_goes_on_the_frozen_model_is_the_one_with_the_adapter_as_it_was(tmp_path):
    """Before training, in its file and outside it, and where the run is resumed from a checkpoint."""

    def trainer_in(folder):
        model = with_adapters(fresh=False, lora_dropout=0.2)
        return saving_trainer(folder, model=model, target_model="frozen", max_grad_norm=1.0, **PAIRS)

    def targets(model, rows):
        return encode_views(model.eval(), collator(pairs="consecutive")(rows)).target.detach()

    new = small_rows(3, seed=7)
    before = with_adapters(fresh=False)
    assert (targets(before, new) - targets(small_model("llama"), new)).abs().max() > 0.1
    whole = trainer_in(tmp_path)
    whole.train()
    (tmp_path / FROZEN_FILE).rename(tmp_path / "written.npy")
    (tmp_path / "frozen_targets.json").unlink()
    resumed = trainer_in(tmp_path)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert torch.equal(flat_weights(resumed.model), flat_weights(whole.model))
    np.testing.assert_array_equal(np.load(tmp_path / FROZEN_FILE), np.load(tmp_path / "written.npy"))
    of_training = targets(before, small_rows(14))
    torch.testing.assert_close(torch.from_numpy(np.load(tmp_path / FROZEN_FILE)), of_training, atol=1e-5, rtol=0)
    for trainer in (whole, resumed):
        found = trainer.compared_views(trainer.model, collator(pairs="consecutive")(new)).target
        torch.testing.assert_close(found, targets(before, new), atol=1e-5, rtol=0)
        assert (targets(trainer.model, new) - found).abs().max() > 1e-3


def test_the_running_mean_is_the_closed_form(tmp_path):
    """mean after n steps = dⁿ · w₀ + (1 − d) Σ dⁿ⁻ⁱ · wᵢ, of the trained weights alone."""
    for name, model in (("full", small_model("llama")), ("lora", with_adapters())):
        trainer = make_trainer(tmp_path / name, model=model, target_model="ema", ema_decay=0.8, max_steps=3, **PAIRS)
        weights = [torch.cat([w.detach().flatten() for w in trainer.trained_weights()])]
        seen = []
        mean = trainer.objective.target_weights
        move = mean.move
        mean.move = lambda current, move=move, seen=seen: (
            seen.append(torch.cat([w.detach().flatten() for w in current])),
            move(current),
        )
        trainer.train()
        weights += seen
        expected = 0.8**3 * weights[0] + 0.2 * sum(0.8 ** (3 - i) * weights[i] for i in (1, 2, 3))
        torch.testing.assert_close(torch.cat([b.flatten() for b in mean.buffers()]), expected, atol=1e-6, rtol=1e-5)
        assert len(expected) == sum(w.numel() for w in trainer.model.parameters() if w.requires_grad)


@pytest.mark.parametrize(
    "options",
    [
        {"target_model": "frozen", "target_scale": "zscore", "head": "linear", "jepa_loss_type": "smooth_l1"},
        {"target_model": "ema", "pooling": "mean", "target_scale": "layer", "head": "mlp", "jepa_loss_type": "l1_std"},
        {"target_scale": "zscore", "target_gradient": False, "isolation": "sink"},
        {"jepa_loss_type": "smooth_l1", "kl": 0.5, "target_model": "frozen", "isolation": "none"},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_what_is_a_mean_over_pairs_does_not_depend_on_how_examples_are_spread(tmp_path, options):
    changes = []
    for number, how in enumerate(
        ({}, {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}, {"packing_length": 200})
    ):
        change, trainer = step_of(tmp_path / str(number), max_steps=2, **how, **options, **PAIRS)
        changes.append(torch.cat([change, *[w.detach().double().flatten() for w in trainer.objective.parameters()]]))
    for other in changes[1:]:
        assert (other - changes[0]).norm() / changes[0].norm() < 1e-5


def test_several_horizons_are_a_weighted_mean(tmp_path):
    """γ · LM + λ · Σ weight · loss / Σ weight, over pairs one and two steps ahead, by hand and accumulated."""
    options = {"pairs": "horizons", "horizon": 2, "predictors": 2, "pair_weights": [1.0, 0.25], "lbd": 0.7}
    evaluated = {"eval_rows": small_rows(8)}
    change, _ = step_of(tmp_path / "a", **options, **evaluated)
    again, _ = step_of(tmp_path / "b", per_device_train_batch_size=2, gradient_accumulation_steps=4, **options)
    model = small_model("llama").train()
    views = encode_views(model, collator(pairs="horizons", horizon=2, predictors=2)(small_rows(8)))
    share = torch.where(views.steps[:, 1] - views.steps[:, 0] == 1, 1.0, 0.25)
    assert set(share.tolist()) == {1.0, 0.25}
    jepa = (share * jepa_losses(views.context, views.target)).sum() / share.sum()
    (views.lm_loss + 0.7 * jepa).backward()
    expected = torch.cat([-0.1 * p.grad.flatten() for p in model.parameters()]).double()
    for found in (change, again):
        assert (found - expected).norm() / expected.norm() < 1e-5
    fresh = make_trainer(tmp_path / "c", **options, **evaluated)
    assert fresh.evaluate()["eval_jepa_loss"] == pytest.approx(jepa.item(), rel=1e-5)
    for wrong in ([1.0], [1.0, -1.0], [0.0, 0.0]):
        with pytest.raises(ValueError, match="pair_weights"):
            StepJEPAConfig(output_dir=str(tmp_path), **{**options, "pair_weights": wrong})


@pytest.mark.parametrize(
    "options",
    [
        {"jepa_loss_type": "infonce", "pooling": "mean", "head": "linear"},
        {"jepa_loss_type": "infonce", "own_negatives": False, "target_model": "ema", "queue": 16},
        {"regularisers": ["variance=1", "covariance=0.1", "sigreg=0.1"], "head": "mlp"},
        {"jepa_loss_type": "infonce", "target": "shuffled"},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_over_the_whole_step_sets_do_not_depend_on_how_examples_are_spread(tmp_path, options):
    """8 × 1 in one microbatch, where nothing needs to be gathered, against 2 × 4 over the whole step, in float64."""
    changes, losses = [], []
    for size in (8, 2, 4):
        change, trainer = step_of(
            tmp_path / str(size),
            model=small_model("llama").double(),
            max_steps=2,
            whole_step=size < 8 or "target" in options,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=8 // size,
            **options,
            **PAIRS,
        )
        changes.append(torch.cat([change, *[w.detach().double().flatten() for w in trainer.objective.parameters()]]))
        losses.append([entry["jepa_loss"] for entry in trainer.state.log_history if "jepa_loss" in entry])
    for change, loss in zip(changes[1:], losses[1:], strict=True):
        assert (change - changes[0]).norm() / changes[0].norm() < 1e-13
        assert loss == pytest.approx(losses[0], rel=1e-6)


def test_both_passes_of_the_whole_step_drop_the_same(tmp_path, monkeypatch):
    """With dropout and one microbatch the two passes are the ordinary step, to rounding; by itself it takes but one."""
    config = CONFIGS["llama"]()
    config.attention_dropout = 0.3
    changes, passes = [], []
    for number, (whole, both) in enumerate(((False, False), (True, True), (True, False))):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        model.register_forward_pre_hook(lambda *_: passes.append(number))  # noqa: B023
        with monkeypatch.context() as patch:
            if both:
                patch.setattr(StepJEPATrainer, "in_two_passes", True)
            change, _ = step_of(
                tmp_path / str(number), model=model, jepa_loss_type="infonce", whole_step=whole, **PAIRS
            )
        changes.append(change)
    assert (changes[0] - changes[1]).norm() / changes[0].norm() < 1e-5
    assert torch.equal(changes[0], changes[2])
    assert [passes.count(number) for number in range(3)] == [1, 2, 1]


def test_what_compares_pairs_of_a_microbatch_says_so_once(tmp_path, warnings_of_transformers):
    settings = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "max_steps": 2, **PAIRS}
    make_trainer(tmp_path / "a", jepa_loss_type="infonce", regularisers=["sigreg"], **settings).train()
    told = [r.message for r in warnings_of_transformers.records if "whole_step" in r.message]
    assert len(told) == 1
    assert told[0].startswith("InfoNCE, sigreg compares")
    for number, options in enumerate(({"jepa_loss_type": "infonce", "whole_step": True}, {})):
        make_trainer(tmp_path / str(number), **options, **settings).train()
    assert len([r for r in warnings_of_transformers.records if "whole_step" in r.message]) == 1


def test_a_queue_of_targets_that_train_is_warned_of(tmp_path, warnings_of_transformers):
    told = []
    for whole, target in ((False, "own"), (True, "own"), (True, "ema"), (True, "frozen")):
        options = {"jepa_loss_type": "infonce", "queue": 8, "target_model": target, "whole_step": whole}
        settings = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "max_steps": 2}
        make_trainer(tmp_path / f"{target}{whole}", **options, **settings, **PAIRS).train()
        told.append(len([r for r in warnings_of_transformers.records if "target_model=ema" in r.message]))
    assert told == [1, 2, 2, 2]


@pytest.mark.parametrize(
    "options",
    [
        {"target_model": "ema", "jepa_loss_type": "infonce", "queue": 12, "head": "mlp"},
        {"target_model": "frozen", "target_scale": "zscore", "head": "linear"},
        {"jepa_loss_type": "infonce", "whole_step": True, "regularisers": ["sigreg=0.1"], "lbd_schedule": "decay"},
    ],
    ids=lambda options: options.get("target_model", "own"),
)
def test_weights_and_state_are_resumed_bit_for_bit(tmp_path, options):
    whole, resumed = (saving_trainer(tmp_path / name, **options, **PAIRS) for name in ("whole", "resumed"))
    whole.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert torch.equal(flat_weights(resumed.model), flat_weights(whole.model))
    for name, value in whole.objective.state_dict().items():
        assert torch.equal(resumed.objective.state_dict()[name], value), name


def test_lambda_follows_its_schedule(tmp_path):
    def weights(steps=8, **options):
        args = StepJEPAConfig(output_dir=str(tmp_path), lbd=0.4, **options)
        return [round(args.jepa_weight(step, steps), 6) for step in range(steps)]

    assert weights() == [0.4] * 8
    assert weights(lbd_schedule="warmup") == [0.1, 0.2, 0.3, 0.4, 0.4, 0.4, 0.4, 0.4]
    assert weights(lbd_schedule="decay", lbd_share=1.0) == [0.4, 0.35, 0.3, 0.25, 0.2, 0.15, 0.1, 0.05]
    with pytest.raises(ValueError, match="lbd_share"):
        weights(lbd_share=0.0)


def model_with_head(head):
    """A small model whose head is of one kind, and whose adapters, if any, are no longer as they were made."""
    torch.manual_seed(0)
    config = CONFIGS["llama"]()
    config.tie_word_embeddings = head != "bias"
    model = AutoModelForCausalLM.from_config(config)
    if head == "bias":
        model.lm_head = torch.nn.Linear(config.hidden_size, config.vocab_size)
    if head == "tied-lora":
        model = add_lora(model, [150, 151], rank=4)
    if head == "tied-peft":  # without the layers of this package
        model = get_peft_model(
            model, LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM", trainable_token_indices=[150])
        )
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight) / 10)
    return model


@pytest.mark.parametrize("head", ["tied", "bias", "tied-lora", "tied-peft"])
def test_the_vocabulary_of_objectives_is_the_head_of_the_model(tmp_path, head):
    model = model_with_head(head)
    trainer = make_trainer(tmp_path, model=model, **PAIRS)
    states = torch.randn(5, 32, requires_grad=True)
    logits = trainer.vocabulary(states)
    inner = model.get_base_model() if "-" in head else model
    decoder_output = {}
    hook = inner.get_decoder().register_forward_hook(lambda *args: decoder_output.update(args[2]))
    expected = model(torch.tensor([[5, 6, 150, 7]])).logits
    hook.remove()
    assert torch.equal(trainer.vocabulary(decoder_output["last_hidden_state"]), expected)
    assert logits.shape == (5, 160)
    logits.square().sum().backward()
    assert states.grad.norm() > 0
    assert all(weight.grad is None for weight in model.parameters())


@pytest.mark.parametrize("options", [{"kl": 1.0}, {"jepa_loss_type": "nextlat"}, {"jepa_loss_type": "mtp"}], ids=str)
def test_objectives_over_the_vocabulary_train_adapters_of_a_tied_model(tmp_path, options):
    change, trainer = step_of(tmp_path, model=model_with_head("tied-lora"), max_steps=2, **{**PAIRS, **options})
    assert change.norm() > 0
    assert np.isfinite([entry["loss"] for entry in trainer.state.log_history if "loss" in entry]).all()


def test_layers_that_the_model_does_not_have_are_named(tmp_path):
    for options in ({"target_layer": 4}, {"target_layer": -5}, {"target_layer": 1, "target_top": 3}):
        with pytest.raises(ValueError, match="the model has the layers 0"):
            make_trainer(tmp_path, **options)


def test_evaluation_compares_what_training_compares(tmp_path):
    trainer = make_trainer(
        tmp_path, target_model="frozen", head="linear", target_scale="zscore", eval_rows=small_rows(4, seed=5), **PAIRS
    )
    found = trainer.evaluate()
    views = encode_views(trainer.model, collator(pairs="consecutive")(small_rows(4, seed=5)))
    training = encode_views(trainer.model, collator(pairs="consecutive")(small_rows(8))).target.double()
    scaled = (views.target - training.mean(0)) / training.std(0, correction=0)
    assert found["eval_jepa_loss"] == pytest.approx(jepa_losses(views.context, scaled).mean().item(), rel=1e-4)
    assert isinstance(trainer.objective, StepObjective)
