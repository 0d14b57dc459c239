"""The branch layout: literal tensors, view pairs, what the collator emits and what it refuses."""

import pytest
import torch
from small_models import Tokens, collator, small_rows

from stepjepa.jepa.layout import StepJEPACollator, without_branches
from stepjepa.jepa.pairs import BranchLayout, StepSpan, ViewPair, step_spans, view_pairs

#          prompt  S1     S2     S3  end of turn
STEP_IDS = [-1, -1, 0, 0, 1, 1, 2, -1]
ROW = {
    "input_ids": [11, 12, 21, 22, 31, 32, 41, 2],
    "labels": [-100, -100, 21, 22, 31, 32, 41, 2],
    "step_ids": STEP_IDS,
}
P = 150  # id of <|predictor|>


def test_step_spans():
    assert step_spans(STEP_IDS) == [StepSpan(0, 2, 4), StepSpan(1, 4, 6), StepSpan(2, 6, 7)]
    assert step_spans([]) == []
    assert step_spans([-1, -1]) == []
    assert step_spans([0, 0]) == [StepSpan(0, 0, 2)]


def test_view_pairs():
    assert view_pairs(STEP_IDS, "first") == [ViewPair(0, 1, 4, 4, 6)]
    assert view_pairs(STEP_IDS, "consecutive") == [ViewPair(0, 1, 4, 4, 6), ViewPair(1, 2, 6, 6, 7)]
    assert view_pairs(STEP_IDS, "horizon", 2) == [ViewPair(0, 2, 4, 6, 7)]
    assert view_pairs(STEP_IDS, "horizon", 3) == []
    assert view_pairs(STEP_IDS, "question_answer") == [ViewPair(-1, -1, 2, 2, 7)]
    assert view_pairs([-1, 0, 0, -1], "first") == []
    assert view_pairs(STEP_IDS, "horizons", 2) == [
        ViewPair(0, 1, 4, 4, 6, 0),
        ViewPair(0, 2, 4, 6, 7, 1),
        ViewPair(1, 2, 6, 6, 7, 0),
    ]
    assert view_pairs(STEP_IDS, "hierarchy", part_ids=[-1, -1, 0, 0, 0, 1, 0, -1]) == [
        ViewPair(-1, -1, 2, 2, 7, 0),
        ViewPair(0, 1, 4, 4, 6, 1),
        ViewPair(1, 2, 6, 6, 7, 1),
        ViewPair(1, 1, 5, 5, 6, 2),
    ]
    with pytest.raises(ValueError, match="`part_ids` column"):
        view_pairs(STEP_IDS, "hierarchy")
    with pytest.raises(ValueError, match="'all'"):
        view_pairs(STEP_IDS, "all")
    with pytest.raises(ValueError, match="horizon"):
        view_pairs(STEP_IDS, "horizon", 0)


def test_literal_batch_first_pair():
    batch = collator()([ROW])
    assert batch["input_ids"].tolist() == [[11, 12, 21, 22, 31, 32, 41, 2, P, 31, 32]]
    assert batch["labels"].tolist() == [[-100, -100, 21, 22, 31, 32, 41, 2, -100, -100, -100]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 5, 6, 7, 4, 5, 6]]
    assert batch["segment_ids"].tolist() == [[0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 2]]
    assert batch["prefix_segment"].tolist() == [[-1] * 8 + [0, -1, -1]]
    assert batch["prefix_end"].tolist() == [[-1] * 8 + [3, -1, -1]]
    assert batch["step_ids"].tolist() == [[-1, -1, 0, 0, 1, 1, 2, -1, -1, -1, -1]]
    assert batch["example_ids"].tolist() == [[0] * 8 + [-1] * 3]
    assert batch["context_index"].tolist() == [[8]]
    assert batch["target_index"].tolist() == [[10]]
    assert [batch[n].item() for n in ("context_end", "target_start", "target_end")] == [4, 4, 6]
    assert [batch[n].item() for n in ("context_step", "target_step")] == [0, 1]
    assert "attention_mask" not in batch


def test_several_predictor_tokens_move_the_copy():
    batch = collator(predictors=3)([ROW])
    assert batch["input_ids"][0, 8:].tolist() == [151, 152, 153, 31, 32]
    assert batch["position_ids"][0, 8:].tolist() == [4, 5, 6, 7, 8]  # copy at original + 3
    assert batch["context_index"].item() == 10  # the last of the three


def test_pairs_that_share_a_context_or_a_target_share_its_branch():
    """Two horizons of S1 S2 S3: one predictor branch after S1 and S2 each, one copy of S2 and of S3 each."""
    batch = collator(pairs="horizons", horizon=2, predictors=2)([ROW])
    assert batch["input_ids"][0, 8:].tolist() == [151, 152, 31, 32, 41, 151, 152]
    assert batch["context_index"].tolist() == [[8, 9, 13]]  # one step ahead at the first token, two at the second
    assert batch["target_index"].tolist() == [[11, 12, 12]]
    assert batch["level"].tolist() == [[0, 1, 0]]
    ahead = collator(pairs="horizons", horizon=1, predictors=2)([ROW])
    assert ahead["context_index"].tolist() == [[8, 12]]  # the first token of each
    assert ahead["target_step"].tolist() == collator(pairs="consecutive")([ROW])["target_step"].tolist()
    with pytest.raises(ValueError, match="at least the horizon"):
        BranchLayout("horizons", horizon=3, predictors=2)


def test_isolation_none_makes_no_copy():
    batch = collator(isolation="none", pairs="consecutive")([ROW])
    assert batch["input_ids"][0, 8:].tolist() == [P, P]
    assert batch["target_index"].tolist() == [[5, 6]]  # the trunk's own states at the ends of S2 and S3


def test_packing_fills_rows_in_order_and_never_crosses_examples():
    rows = small_rows(5)
    plain = collator(pairs="consecutive")(rows)
    packed = collator(pairs="consecutive", packing_length=90)(rows)
    assert len(packed["input_ids"]) < 5
    assert packed["input_ids"].shape[1] <= 90
    order = packed["example_ids"][packed["example_ids"] >= 0]
    assert torch.equal(order, order.sort().values)
    for name in ("labels", "step_ids", "position_ids"):
        trunk_packed, trunk_plain = packed["example_ids"] >= 0, plain["example_ids"] >= 0
        assert torch.equal(packed[name][trunk_packed], plain[name][trunk_plain])
    # no two examples share a segment within a row
    for row in range(len(packed["input_ids"])):
        trunk = packed["example_ids"][row] >= 0
        pairs = set(
            zip(packed["segment_ids"][row][trunk].tolist(), packed["example_ids"][row][trunk].tolist(), strict=True)
        )
        assert len(pairs) == len({segment for segment, _ in pairs}) == len({example for _, example in pairs})


def test_without_branches_is_the_plain_batch():
    rows = small_rows(4)
    stripped = without_branches(collator(pairs="consecutive", padding_side="left")(rows))
    plain = collator(pairs="none")(rows)
    assert set(stripped) == set(plain)
    for name in plain:
        assert torch.equal(stripped[name], plain[name]), name


def test_a_batch_without_any_pair_is_an_ordinary_one():
    batch = collator()([{name: values[:4] for name, values in ROW.items()}])
    assert batch["context_index"].shape == (1, 0)
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1]]


def test_a_label_on_the_first_token_is_dropped_like_everywhere_else():
    row = {"input_ids": [21, 22], "labels": [21, 22], "step_ids": [0, 0]}
    assert collator(pairs="none")([row])["labels"].tolist() == [[-100, 22]]


def test_every_tensor_is_batch_first_and_passthrough_columns_survive():
    rows = [{**row, "source_id": i} for i, row in enumerate(small_rows(3))]
    batch = collator(pairs="consecutive", pad_to_multiple_of=32)(rows)
    assert {len(tensor) for tensor in batch.values()} == {3}
    assert batch["input_ids"].shape[1] % 32 == 0
    assert batch["source_id"].tolist() == [0, 1, 2]


def test_rows_given_to_the_collator_are_not_changed():
    row = {name: list(values) for name, values in ROW.items()}
    collator()([row])
    assert row == ROW


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairs": "second"}, "'second'"),
        ({"isolation": "full"}, "'full'"),
        ({"predictors": 0}, "at least 1"),
        ({"predictors": 7}, r"lacks <\|predictor_4\|>"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        StepJEPACollator(Tokens(), BranchLayout(**options))


def test_a_tokenizer_without_pad_token_is_refused():
    class NoPad(Tokens):
        pad_token_id = None

    with pytest.raises(ValueError, match="pad token"):
        StepJEPACollator(NoPad())


def test_packed_batches_keep_their_layout_and_empty_ones_are_refused():
    with pytest.raises(ValueError, match="packed"):
        without_branches(collator(packing_length=200)(small_rows(3)))
    with pytest.raises(ValueError, match="no rows"):
        collator()([])
