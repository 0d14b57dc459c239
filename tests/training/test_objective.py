"""An objective may add terms over the set of views, and have weights and state: trained, logged, saved, resumed."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_models import collator, small_model, small_rows
from small_objective import SIZE, Distance, Head
from small_trainer import flat_weights, make_trainer, saving_trainer, step_of
from transformers import AutoModelForCausalLM

from stepjepa.jepa.losses import LOSSES
from stepjepa.jepa.objectives import StepObjective
from stepjepa.jepa.registry import OBJECTIVES
from stepjepa.jepa.targets import PairKeys
from stepjepa.jepa.views import encode_views
from stepjepa.records import UserError
from stepjepa.training.checkpoints import OBJECTIVE_FILE
from stepjepa.training.config import StepJEPAConfig
from stepjepa.training.objective import gather_rows


def trainer_of(folder, make=make_trainer, **options):
    settings = {"pairs": "consecutive", "lbd": 0.5, **options}
    return make(folder, trainer_options={"objective": Head()}, **settings)


def test_every_loss_is_an_objective(tmp_path):
    assert set(OBJECTIVES) == {*LOSSES, "nextlat", "mtp", "stp", "ssp"}
    context, target = torch.randn(4, 8), torch.randn(4, 8)
    options = StepJEPAConfig(output_dir=str(tmp_path))
    for kind, make in ((kind, OBJECTIVES[kind]) for kind in LOSSES):
        terms = make(options, 8)(context, target, PairKeys(torch.zeros(4, dtype=torch.long), torch.arange(4)))
        assert list(terms) == [kind]
        assert terms[kind].shape == (4,)
    assert StepObjective("infonce").few_pairs
    assert StepObjective("cosine").few_pairs is None


def test_the_step_is_that_of_all_terms_as_written(tmp_path):
    """γ · LM + λ · (sum of distances / pairs of the step + mean of the variances over the microbatches), by hand."""
    trainer = trainer_of(tmp_path, per_device_train_batch_size=4, gradient_accumulation_steps=2)
    before, weights = flat_weights(trainer.model), trainer.objective.head.weight.detach().clone()
    order = []
    collate = trainer.data_collator
    trainer.data_collator = lambda rows: order.append(rows) or collate(rows)
    trainer.train()

    model, objective = small_model("llama"), Head()
    halves = [encode_views(model, collator(pairs="consecutive")(rows)) for rows in order[:2]]
    terms = [objective(views.context, views.target, None) for views in halves]
    pairs = sum(len(views.context) for views in halves)
    tokens = sum(views.lm_tokens for views in halves)
    loss = sum(views.token_losses.sum() for views in halves) / tokens + 0.5 * (
        sum(term["distance"].sum() for term in terms) / pairs + sum(term["variance"] for term in terms) / 2
    )
    loss.backward()
    change = torch.cat([-0.1 * p.grad.flatten() for p in model.parameters()]).double()
    torch.testing.assert_close(flat_weights(trainer.model) - before, change, atol=1e-7, rtol=1e-4)
    torch.testing.assert_close(
        trainer.objective.head.weight.detach() - weights, -0.1 * objective.head.weight.grad, atol=1e-7, rtol=1e-4
    )
    torch.testing.assert_close(trainer.objective.spread, objective.spread)


def test_pair_terms_do_not_depend_on_the_accumulation(tmp_path):
    """The head's gradient of 8 × 1 and 1 × 8; the variance, of a microbatch, is left out."""

    weights = []
    for size in (8, 1):
        trainer = make_trainer(
            tmp_path / str(size),
            pairs="consecutive",
            lbd=0.5,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=8 // size,
            trainer_options={"objective": Distance()},
        )
        trainer.train()
        weights.append(trainer.objective.head.weight.detach())
    assert not torch.equal(weights[0], torch.eye(SIZE))
    torch.testing.assert_close(weights[0], weights[1], atol=1e-7, rtol=1e-5)


def test_terms_are_logged_and_evaluated(tmp_path):
    trainer = trainer_of(tmp_path, eval_rows=small_rows(4, seed=2), max_steps=2)
    trainer.train()
    log = trainer.state.log_history[0]
    assert log["jepa_loss"] == pytest.approx(log["jepa_distance"] + log["jepa_variance"], abs=2e-6)
    assert log["jepa_variance"] > 0
    before = trainer.objective.spread.clone()
    found = trainer.evaluate()
    assert torch.equal(trainer.objective.spread, before)  # evaluation leaves its state alone
    views = encode_views(trainer.model, trainer.eval_collator(small_rows(4, seed=2)))
    terms = trainer.objective(views.context, views.target, None)
    assert found["eval_jepa_loss"] == pytest.approx((terms["distance"].mean() + terms["variance"]).item(), rel=1e-5)


def test_weights_and_state_are_resumed_bit_for_bit(tmp_path):
    whole = trainer_of(tmp_path / "whole", saving_trainer)
    whole.train()
    assert (tmp_path / "whole" / "checkpoint-3" / OBJECTIVE_FILE).is_file()
    resumed = trainer_of(tmp_path / "resumed", saving_trainer)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert torch.equal(flat_weights(resumed.model), flat_weights(whole.model))
    for name, value in whole.objective.state_dict().items():
        assert torch.equal(resumed.objective.state_dict()[name], value), name
    assert not torch.equal(whole.objective.head.weight, torch.eye(SIZE))
    assert whole.objective.spread != 1

    (tmp_path / "whole" / "checkpoint-6" / OBJECTIVE_FILE).unlink()
    again = trainer_of(tmp_path / "again", saving_trainer, max_steps=8)
    with pytest.raises(UserError, match=f"{OBJECTIVE_FILE} is missing"):
        again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-6"))


def test_the_model_saved_beside_an_objective_loads_without_it(tmp_path):
    trainer = trainer_of(tmp_path)
    trainer.save_model(str(tmp_path / "model"))
    assert (tmp_path / "model" / OBJECTIVE_FILE).is_file()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert torch.equal(flat_weights(loaded), flat_weights(trainer.model))


@pytest.mark.parametrize("options", [{"head": "linear"}, {"target_model": "ema", "ema_decay": 0.5}])
def test_the_best_model_comes_with_its_objective(tmp_path, options):
    trainer = make_trainer(
        tmp_path,
        rows=small_rows(16),
        eval_rows=small_rows(6, seed=5),
        pairs="consecutive",
        max_steps=3,
        learning_rate=0.01,
        save_strategy="steps",
        save_steps=1,
        eval_strategy="steps",
        eval_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="eval_lm_loss",
        greater_is_better=True,  # so that it is not the last one
        **options,
    )
    trainer.train()
    best = trainer.state.best_model_checkpoint
    assert not best.endswith("checkpoint-3")
    now, then = trainer.objective.state_dict(), load_file(Path(best) / OBJECTIVE_FILE)
    assert now.keys() == then.keys()
    assert all(torch.equal(now[name], then[name]) for name in then)
    evaluated = {
        entry["step"]: entry["eval_jepa_loss"] for entry in trainer.state.log_history if "eval_jepa_loss" in entry
    }
    assert trainer.evaluate()["eval_jepa_loss"] == pytest.approx(evaluated[int(best.split("-")[-1])], rel=1e-6)


def test_an_optimizer_of_the_caller_trains_the_objective_too(tmp_path):
    def trained(*optimizers):
        model = small_model("llama")
        given = [make(model) for make in optimizers]
        options = {"optimizers": (given[0], given[1](given[0]) if given[1:] else None)} if given else {}
        trainer = make_trainer(
            tmp_path, model=model, pairs="consecutive", head="linear", max_steps=2, trainer_options=options
        )
        trainer.train()
        return trainer

    own, callers = trained(), trained(lambda model: torch.optim.SGD(model.parameters(), lr=0.1))
    torch.testing.assert_close(callers.objective.head.weight, own.objective.head.weight)
    torch.testing.assert_close(flat_weights(callers.model), flat_weights(own.model))
    with pytest.raises(ValueError, match="the objective has weights of its own, which the optimizer lacks"):
        trained(
            lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
            lambda _: lambda optimizer: torch.optim.lr_scheduler.ConstantLR(optimizer),
        )


@pytest.mark.parametrize("whole_step", [False, True])
def test_a_single_pair_has_no_shuffled_target(tmp_path, whole_step, warnings_of_transformers):
    """The control arm must not become the treatment."""
    settings = {"rows": small_rows(1, steps=(2,)), "per_device_train_batch_size": 1}
    control, _ = step_of(tmp_path, lbd=0.7, target="shuffled", whole_step=whole_step, **settings)
    assert any("a single view pair: its loss is 0 there" in text for text in warnings_of_transformers.messages)
    plain, _ = step_of(tmp_path, lbd=0.0, **settings)
    torch.testing.assert_close(control, plain, atol=1e-7, rtol=1e-5)


def test_rows_of_several_processes_where_none_has_any():
    class Two:
        num_processes = 2

        def gather(self, rows):
            return torch.cat([rows, rows])

    assert gather_rows(Two(), torch.zeros(0, 3)).shape == (0, 3)
    assert gather_rows(Two(), torch.ones(2, 3)).shape == (4, 3)
