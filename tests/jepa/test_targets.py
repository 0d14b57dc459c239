"""Targets by themselves are those of the single pass, and problems have one number wherever they stand."""

import pytest
import torch
from small_models import collator, small_model, small_rows

from stepjepa.jepa.targets import isolation_of, pair_keys_of, pair_shares, problem_keys
from stepjepa.jepa.views import encode_targets, encode_views

ISOLATED = [
    {"pairs": "consecutive"},
    {"pairs": "consecutive", "pooling": "mean", "predictors": 3},
    {"pairs": "horizon", "horizon": 2, "isolation": "sink", "pooling": "mean"},
    {"pairs": "first", "isolation": "sink", "predictors": 2},
    {"pairs": "question_answer", "isolation": "none", "pooling": "mean"},
]


@pytest.mark.parametrize("options", [{}, {"packing_length": 120}, {"padding_side": "left"}], ids=str)
@pytest.mark.parametrize("layers", [{}, {"target_layer": -2, "target_top": 2}], ids=str)
@pytest.mark.parametrize("layout", ISOLATED, ids=lambda layout: "-".join(map(str, layout.values())))
@pytest.mark.parametrize("name", ["llama", "qwen2-windowed", "gpt2"])
def test_steps_by_themselves_have_the_targets_of_the_single_pass(name, layout, layers, options):
    model, rows = small_model(name), small_rows(5)
    expected = encode_views(model, collator(**layout)(rows), **layers).target
    isolation = layout.get("isolation", "step")
    how = {"predictors": layout.get("predictors", 1), "isolation": isolation, **layers}
    with_copies = collator(**layout, **options)(rows)
    without = collator(**{**layout, "isolation": "none"}, **options)(rows)
    assert isolation_of(with_copies) == (None if isolation == "none" else isolation)
    assert isolation_of(without) is None
    for batch in (with_copies, without):
        torch.testing.assert_close(encode_targets(model, batch, **how), expected, atol=1e-5, rtol=0)


def test_without_pairs_there_are_no_targets():
    batch = collator()(small_rows(2, steps=(1,)))
    assert encode_targets(small_model("llama"), batch, predictors=1, isolation="step").shape == (0, 32)
    assert isolation_of(batch) is None


def test_a_problem_has_one_number_whatever_its_solution_and_batch():
    rows = small_rows(4, steps=(3,))
    prompt = rows[0]["step_ids"].index(0)
    other = small_rows(1, seed=9, steps=(2,))[0]
    begin = other["step_ids"].index(0)
    same = {name: rows[0][name][:prompt] + other[name][begin:] for name in other}  # another solution of problem 0
    together = [*rows, same]
    keys = problem_keys(collator(pairs="consecutive")(together))
    assert keys[4] == keys[0]
    assert len(set(keys.tolist())) == 4
    packed = problem_keys(collator(pairs="consecutive", packing_length=120)(together))
    assert torch.equal(packed, keys)
    left = problem_keys(collator(pairs="consecutive", padding_side="left")(together))
    assert torch.equal(left, keys)
    assert problem_keys(collator(pairs="consecutive")(rows[1:2])).tolist() == keys[1:2].tolist()


def test_pairs_are_known_by_problem_and_by_the_tokens_of_their_target():
    rows = small_rows(3, steps=(3,))
    twin = rows[0]["step_ids"].index(1), rows[0]["step_ids"].index(2)
    ids = [*rows[1]["input_ids"]]
    begin, end = rows[1]["step_ids"].index(1), rows[1]["step_ids"].index(2)
    step = rows[0]["input_ids"][slice(*twin)]
    other = {
        "input_ids": ids[:begin] + step + ids[end:],
        "labels": [-100] * begin + step + rows[1]["labels"][end:],
        "step_ids": rows[1]["step_ids"][:begin] + [1] * len(step) + rows[1]["step_ids"][end:],
    }
    for options in ({}, {"packing_length": 120}, {"padding_side": "left"}):
        batch = collator(pairs="consecutive", **options)([rows[0], other, rows[2]])
        keys = pair_keys_of(batch)
        problems = problem_keys(batch)
        assert keys.problem.tolist() == problems.repeat_interleave(2).tolist()
        assert keys.step[0] == keys.step[2]  # the same step in two problems
        assert len(set(keys.step.tolist())) == 5


def test_every_level_of_pairs_has_its_weight():
    batch = collator(pairs="horizons", horizon=2)(small_rows(2, steps=(3, 2)))
    assert pair_shares(batch, []).tolist() == [1.0] * 4
    assert pair_shares(batch, [1.0, 0.25]).tolist() == [1.0, 0.25, 1.0, 1.0]  # 1 → 2, 1 → 3, 2 → 3; 1 → 2
