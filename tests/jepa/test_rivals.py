"""Objectives over tokens, each against its formula written out token by token, and spread over microbatches."""

import itertools
import math

import numpy as np
import pytest
import torch
from small_models import collator, small_model, small_rows
from small_trainer import make_trainer, step_of

from stepjepa.jepa.rivals import FutureTokens, NextLatent, Tube, followed
from stepjepa.jepa.views import encode_views

ROWS = small_rows(4)


def states_of(rows, **options):
    batch = collator(**{"pairs": "none", **options})(rows)
    model = small_model("llama")
    return model, batch, encode_views(model, batch).states.detach().requires_grad_()


def alone(model, row):
    """States of the tokens of a row by itself, `[L, D]`."""
    return (
        model.get_decoder()(input_ids=torch.tensor([row["input_ids"]])).last_hidden_state[0].detach().double().numpy()
    )


def head(model):
    return lambda states: torch.nn.functional.linear(states, model.lm_head.weight.detach())


def test_the_next_state_is_predicted_from_this_one_and_the_next_token():
    model, batch, states = states_of(ROWS)
    objective = NextLatent(32, seed=1)
    objective.vocabulary = head(model)
    objective.embedding = lambda ids: model.get_input_embeddings()(ids).detach()
    torch.nn.init.normal_(objective.dynamics[-1].weight, std=0.1)
    found = objective.of_tokens(states, batch)
    smooth, kl, example = [], [], []
    for number, row in enumerate(ROWS):
        h = alone(model, row)
        for t, label in enumerate(row["labels"][1:]):
            if label == -100:
                continue
            given = model.get_input_embeddings().weight[row["input_ids"][t + 1]].detach()
            predicted = torch.tensor(h[t]).float()
            predicted = predicted + objective.dynamics(torch.cat([predicted, given])[None])[0]
            difference = predicted.detach().double().numpy() - h[t + 1]
            small = np.abs(difference) < 1
            smooth.append(np.where(small, difference**2 / 2, np.abs(difference) - 0.5).mean())
            p, q = (torch.log_softmax(head(model)(x.float()), -1).double() for x in (torch.tensor(h[t + 1]), predicted))
            kl.append((p.exp() * (p - q)).sum().item())
            example.append(number)
    assert found.example.tolist() == example
    assert objective.count(batch) == len(example)
    np.testing.assert_allclose(found.values["smooth_l1"].detach(), smooth, rtol=1e-4)
    np.testing.assert_allclose(found.values["kl"].detach(), kl, rtol=1e-3)


def test_the_next_states_get_no_gradient():
    model, batch, states = states_of(ROWS[:1])
    objective = NextLatent(32)
    objective.vocabulary, objective.embedding = head(model), lambda ids: model.get_input_embeddings()(ids)
    sum(value.sum() for value in objective.of_tokens(states, batch).values.values()).backward()
    moved = states.grad[0].abs().sum(dim=-1) > 0
    predicts = [label != -100 for label in [*ROWS[0]["labels"][1:], -100]]
    assert moved.tolist()[: len(predicts)] == predicts


def test_future_tokens_are_those_after_the_next():
    model, batch, states = states_of(ROWS)
    objective = FutureTokens(32, 2, seed=1)
    objective.vocabulary = head(model)
    found = objective.of_tokens(states, batch)  # the heads are the identity yet
    for ahead in (2, 3):
        expected = []
        for row in ROWS:
            logits = head(model)(torch.tensor(alone(model, row)).float())
            for t, label in enumerate(row["labels"][1:]):
                if label != -100:
                    later = row["labels"][t + ahead] if t + ahead < len(row["labels"]) else -100
                    expected.append(0.0 if later == -100 else -torch.log_softmax(logits[t], -1)[later].item())
        np.testing.assert_allclose(found.values[f"token_{ahead}"].detach(), expected, rtol=1e-4)
    assert objective.count(batch) == len(found.example) == sum(label != -100 for row in ROWS for label in row["labels"])


@pytest.mark.parametrize(
    "options", [{}, {"packing_length": 120}, {"padding_side": "left"}, {"pairs": "first"}], ids=str
)
def test_a_tube_through_the_ends_of_steps(options):
    model, batch, states = states_of(ROWS, **options)
    expected = []
    for row in ROWS:
        h, steps = alone(model, row), row["step_ids"]
        ends = [steps.index(0) - 1, *(t for t, s in enumerate(steps) if s >= 0 and steps[t + 1] != s)]
        for s, r, t in zip(ends, ends[1:], ends[2:], strict=False):
            a, b = h[t] - h[r], h[r] - h[s]
            expected.append(1 - a @ b / math.sqrt(a @ a * (b @ b)))
    objective = Tube(at_steps=True)
    found = objective.of_tokens(states, batch)
    np.testing.assert_allclose(found.values["tube"].detach(), expected, rtol=1e-3, atol=1e-5)
    assert objective.count(batch) == len(expected) == 2 + 3 + 0 + 1
    assert found.example.tolist() == [0, 0, 1, 1, 1, 3]


def test_a_tube_through_three_tokens_drawn_for_each_example():
    _, batch, states = states_of(ROWS)
    objective = Tube(at_steps=False)
    places = objective._places(batch)
    for (row, s, r, t, example), source in zip(places, ROWS, strict=True):
        assert row == example
        assert source["step_ids"].index(0) - 1 <= s < r < t
        assert source["step_ids"][t] >= 0
    a, b, c = (states[torch.arange(4), torch.tensor([place[i] for place in places])] for i in (1, 2, 3))
    expected = 1 - torch.nn.functional.cosine_similarity(c - b, b - a)
    torch.testing.assert_close(objective.of_tokens(states, batch).values["tube"], expected)
    packed = collator(pairs="none", packing_length=200)(ROWS)
    starts = [packed["example_ids"][0].tolist().index(n) if n in packed["example_ids"][0] else None for n in range(2)]
    other = objective._places(packed)
    assert [x - starts[1] for x in other[1][1:4]] == list(places[1][1:4])  # whatever the batch
    objective.moment = 1
    assert objective._places(batch) != places


def test_nothing_is_drawn_across_examples_or_beyond_labels():
    batch = collator(pairs="none", packing_length=200)(ROWS)
    for ahead in (1, 2, 3):
        row, column = followed(batch, ahead)
        assert torch.equal(batch["example_ids"][row, column], batch["example_ids"][row, column + ahead])
        assert (batch["labels"][row, column + ahead] != -100).all()


@pytest.mark.parametrize("kind", ["nextlat", "mtp", "stp", "ssp"])
def test_the_step_does_not_depend_on_how_examples_are_spread(tmp_path, kind):
    changes, logs = [], []
    spread = ({}, {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}, {"packing_length": 200})
    for number, how in enumerate(spread):
        options = {"jepa_loss_type": kind, "lbd": 0.5, "max_steps": 2, "learning_rate": 0.02, **how}
        change, trainer = step_of(tmp_path / str(number), **options)
        changes.append(torch.cat([change, *[w.detach().double().flatten() for w in trainer.objective.parameters()]]))
        logs.append([entry["jepa_loss"] for entry in trainer.state.log_history if "jepa_loss" in entry])
    for change, log in itertools.islice(zip(changes, logs, strict=True), 1, None):
        assert (change - changes[0]).norm() / changes[0].norm() < 1e-5
        assert log == pytest.approx(logs[0], rel=1e-4)


def test_tokens_are_evaluated_over_the_whole_set(tmp_path):
    found = [
        make_trainer(
            tmp_path / str(size), jepa_loss_type="ssp", eval_rows=ROWS, per_device_eval_batch_size=size
        ).evaluate()
        for size in (4, 1)
    ]
    _, batch, states = states_of(ROWS)
    expected = Tube(at_steps=True).of_tokens(states, batch).values["tube"].mean().item()
    for metrics in found:
        assert metrics["eval_jepa_loss"] == pytest.approx(expected, rel=1e-4)
    assert found[0]["eval_retrieval_chance"] > 0  # of its view pairs, as for every objective
    dropped = make_trainer(tmp_path / "d", jepa_loss_type="nextlat", jepa_ratio=0.5, max_steps=4, lbd=0.2)
    dropped.train()
    assert {"jepa_loss" in entry for entry in dropped.state.log_history if "loss" in entry} == {True, False}
