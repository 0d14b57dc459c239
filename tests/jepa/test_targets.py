"""Targets by themselves are those of the single pass, and problems have one number wherever they stand."""

import pytest
import torch
from small_models import collator, small_model, small_rows

from stepjepa.jepa.targets import isolation_of, problem_keys
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
