"""Control targets: wrong on purpose, of the same scale, repeatable, and with gradients only where they are meant."""

from collections import Counter

import pytest
import torch
from small_models import Tokens, collator, small_model, small_rows
from small_trainer import flat_weights, losses, make_trainer, step_of

from stepjepa.jepa.controls import pair_keys, random_targets, shuffled_order, training_target
from stepjepa.jepa.losses import jepa_losses
from stepjepa.jepa.objectives import StepObjective
from stepjepa.jepa.targets import pair_keys_of
from stepjepa.jepa.views import encode_views

COSINE = StepObjective("cosine")


def test_a_shuffled_order_leaves_nothing_in_place():
    for count in range(2, 12):
        for key in range(30):
            order = shuffled_order(count, f"{key}")
            assert sorted(order.tolist()) == list(range(count))
            assert (order != torch.arange(count)).all()
    assert torch.equal(shuffled_order(9, "a"), shuffled_order(9, "a"))
    assert not torch.equal(shuffled_order(9, "a"), shuffled_order(9, "b"))
    with pytest.raises(ValueError, match="1 cannot be shuffled"):
        shuffled_order(1, "a")


def test_every_other_pair_is_as_likely():
    counts = Counter(int(shuffled_order(4, f"{key}")[0]) for key in range(3000))
    assert set(counts) == {1, 2, 3}
    assert all(abs(count - 1000) < 110 for count in counts.values())  # four standard deviations


def test_random_targets_have_the_length_of_the_target_and_nothing_else_of_it():
    torch.manual_seed(0)
    target = torch.randn(500, 64, requires_grad=True)
    keys = [str(i) for i in range(500)]
    drawn = random_targets(target, keys)
    assert not drawn.requires_grad
    torch.testing.assert_close(drawn.norm(dim=-1), target.norm(dim=-1))
    torch.testing.assert_close(random_targets(target * 3, keys), drawn * 3)
    torch.testing.assert_close(random_targets(target[7:8], keys[7:8])[0], drawn[7])  # whatever else is there
    unit = drawn / drawn.norm(dim=-1, keepdim=True)
    assert unit.mean(dim=0).norm() < 0.06  # 1/√500 = 0.045 for even directions
    assert torch.cosine_similarity(drawn, target.detach()).abs().mean() < 0.12  # √(2 / 64π) = 0.10 for unrelated ones
    assert random_targets(target[:0], []).shape == (0, 64)
    assert random_targets(target.bfloat16(), keys).dtype == torch.float32


def test_the_key_of_a_pair_depends_on_the_pair_alone():
    rows = small_rows(4)
    reference = {}
    for row in rows:
        for key in pair_keys(collator(pairs="consecutive")([row]), seed=3):
            assert key not in reference
            reference[key] = row
    assert len(reference) == 2 + 3 + 0 + 1
    for options in ({}, {"padding_side": "left"}, {"packing_length": 400}, {"pad_to_multiple_of": 64}):
        batch = collator(pairs="consecutive", **options)(rows)
        assert pair_keys(batch, seed=3) == list(reference), options
    assert not {*pair_keys(collator(pairs="consecutive")(rows), seed=4)} & {*reference}


def test_targets_by_name():
    batch = collator(pairs="consecutive")(small_rows(4))
    target = torch.randn(6, 8, requires_grad=True)
    keys = pair_keys_of(batch)
    given, own = training_target("step", target, batch, 0, "0", COSINE)
    assert given is target
    assert torch.equal(own.step, keys.step)
    shuffled, moved = training_target("shuffled", target, batch, 0, "0", COSINE)
    order = shuffled_order(6, "shuffled-0-0")
    assert torch.equal(shuffled, target[order])
    assert torch.equal(moved.step, keys.step[order])
    assert torch.equal(moved.problem, keys.problem[order])
    assert not torch.equal(shuffled, training_target("shuffled", target, batch, 0, "1", COSINE)[0])
    assert training_target("shuffled", target[:1], batch, 0, "0", COSINE) is None
    assert training_target("shuffled", target[:0], batch, 0, "0", COSINE)[0].shape == (0, 8)


def test_shuffled_targets_are_told_from_those_that_the_true_ones_are(tmp_path):
    """InfoNCE of shuffled pairs is that of the contexts in another order: the targets keep their negatives."""
    batch = collator(pairs="consecutive")(small_rows(4))
    context, target = torch.randn(6, 8), torch.randn(6, 8)
    keys = pair_keys_of(batch)
    objective = StepObjective("infonce", own_negatives=False, size=8, queue=6).train()
    shuffled, moved = training_target("shuffled", target, batch, 0, "0", objective)
    losses = objective(context, shuffled, moved)["infonce"]
    order = shuffled_order(6, "shuffled-0-0")
    back = torch.empty_like(order)
    back[order] = torch.arange(6)
    same = StepObjective("infonce", own_negatives=False)(context[back], target, keys)["infonce"]
    torch.testing.assert_close(losses, same[order])
    objective.end_step(lambda rows: rows)
    place = {tuple(key): row for key, row in zip(torch.stack(keys, dim=1).tolist(), target, strict=True)}
    for row, key in zip(objective.queue, objective.queue_keys.tolist(), strict=True):
        assert torch.equal(row, place[tuple(key)])


@pytest.mark.parametrize("scale", ["none", "layer", "zscore"])
def test_random_targets_are_random_as_they_are_compared(scale):
    """A scale gives them neither a part in common nor another length."""
    batch = collator(pairs="consecutive")(small_rows(400))
    pairs = len(pair_keys_of(batch).step)
    target = 5 + torch.arange(64.0) + torch.randn(pairs, 64)
    objective = StepObjective("cosine", size=64, target_scale=scale)
    if scale == "zscore":
        objective.scale.measure(target)
    drawn, _ = training_target("random", target, batch, 0, "0", objective)
    compared, true = objective.scaled(drawn), objective.scaled(target)
    torch.testing.assert_close(compared.norm(dim=-1), true.norm(dim=-1), rtol=1e-4, atol=1e-4)
    directions = torch.nn.functional.normalize(compared, dim=-1)
    assert directions.mean(dim=0).norm() < 3 / pairs**0.5


@pytest.mark.parametrize("target_gradient", [True, False])
@pytest.mark.parametrize("kind", ["shuffled", "random"])
def test_the_step_under_a_control_is_that_of_the_loss_as_written(tmp_path, kind, target_gradient):
    """Of a single optimizer step, differentiated by hand."""
    change, trainer = step_of(
        tmp_path,
        lbd=0.7,
        gamma=1.3,
        jepa_loss_type="mse",
        pairs="consecutive",
        target=kind,
        target_gradient=target_gradient,
    )
    model = small_model("llama").train()
    batch = trainer.data_collator([trainer.train_dataset[i] for i in data_order(trainer)])
    views = encode_views(model, batch)
    if kind == "shuffled":
        wrong = views.target[shuffled_order(len(views.target), "shuffled-3-0-0-0")]
    else:
        wrong = random_targets(views.target, pair_keys(batch, seed=3)).detach()
    loss = 1.3 * views.lm_loss + 0.7 * jepa_losses(views.context, wrong, "mse", target_gradient).mean()
    loss.backward()
    expected = torch.cat([-0.1 * p.grad.flatten() for p in model.parameters()]).double()
    assert (change - expected).norm() / expected.norm() < 1e-5
    assert losses(trainer)[0] == pytest.approx(loss.item(), rel=1e-5)


def data_order(trainer):
    """Which rows the trainer takes, in order."""
    torch.manual_seed(trainer.args.seed)
    ids = [row["input_ids"] for row in trainer.train_dataset]
    order = []
    for batch in trainer.get_train_dataloader():
        trunks = [
            row[examples >= 0].tolist() for row, examples in zip(batch["input_ids"], batch["example_ids"], strict=True)
        ]
        order += [ids.index(trunk) for trunk in trunks]
    return order


def test_no_gradient_reaches_the_target_of_a_random_vector():
    batch = collator()(small_rows(4))
    target = torch.randn(3, 8, requires_grad=True)
    context = torch.randn(3, 8, requires_grad=True)
    drawn, _ = training_target("random", target, batch, 0, "0", COSINE)
    jepa_losses(context, drawn, "l2").sum().backward()
    assert target.grad is None
    assert (context.grad != 0).all()


def test_random_targets_do_not_depend_on_how_examples_are_spread(tmp_path):
    settings = {"lbd": 0.7, "pairs": "consecutive", "target": "random"}
    changes = [
        step_of(
            tmp_path / str(size), per_device_train_batch_size=size, gradient_accumulation_steps=8 // size, **settings
        )[0]
        for size in (8, 2, 1)
    ]
    packed = step_of(tmp_path / "packed", packing_length=200, **settings)[0]
    for other in (*changes[1:], packed):
        assert (other - changes[0]).norm() / changes[0].norm() < 1e-5


@pytest.mark.parametrize("kind", ["shuffled", "random"])
def test_a_resumed_run_draws_the_same_targets(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(Tokens, "save_pretrained", lambda self, folder: None, raising=False)
    options = {
        "lbd": 0.7,
        "pairs": "consecutive",
        "target": kind,
        "max_steps": 6,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "save_strategy": "steps",
        "save_steps": 3,
        "optim": "adamw_torch",
        "learning_rate": 1e-2,
    }
    whole = make_trainer(tmp_path, **options)
    whole.train()
    again = make_trainer(tmp_path, **options)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert torch.equal(flat_weights(again.model), flat_weights(whole.model))
    true = make_trainer(tmp_path / "true", **options | {"target": "step", "save_strategy": "no"})
    true.train()
    assert not torch.equal(flat_weights(true.model), flat_weights(whole.model))


def test_a_single_pair_has_no_other_to_change_places_with(tmp_path, warnings_of_transformers):
    rows = small_rows(4, steps=(2,))
    options = {"rows": rows, "per_device_train_batch_size": 1, "max_steps": 2}
    alone, trainer = step_of(tmp_path / "a", lbd=0.7, target="shuffled", **options)
    plain, _ = step_of(tmp_path / "b", lbd=0.0, **options)
    assert (alone - plain).norm() / plain.norm() < 1e-5
    assert trainer.state.log_history[0]["jepa_loss"] == 0
    assert sum("target=shuffled" in record.message for record in warnings_of_transformers.records) == 1


def test_evaluation_asks_for_the_true_step_whatever_was_trained(tmp_path):
    rows = small_rows(6, seed=5)
    measured = [
        make_trainer(tmp_path, eval_rows=rows, target=kind).evaluate() for kind in ("step", "shuffled", "random")
    ]
    for other in measured[1:]:
        assert other["eval_jepa_loss"] == measured[0]["eval_jepa_loss"]
        assert other["eval_retrieval"] == measured[0]["eval_retrieval"]


def test_arms_of_a_seed_see_the_same_data_in_the_same_order(tmp_path):
    rows = small_rows(24)
    ids = [row["input_ids"] for row in rows]

    def order(seed, **options):
        trainer = make_trainer(
            tmp_path,
            rows=rows,
            seed=seed,
            max_steps=9,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            **options,
        )
        seen, collate = [], trainer.data_collator

        def watch(features):
            seen.extend(ids.index(row["input_ids"]) for row in features)
            return collate(features)

        trainer.data_collator = watch
        trainer.train()
        return seen

    plain = order(3, lbd=0.0)
    assert len(plain) >= 36  # one pass and a half
    for options in (
        {"pairs": "consecutive"},
        {"target": "shuffled"},
        {"target": "random"},
        {"isolation": "none"},
        {"jepa_loss_type": "infonce"},
        {"jepa_ratio": 0.5},
    ):
        assert order(3, lbd=0.5, **options) == plain, options
    assert order(4, lbd=0.0) != plain
