"""Masks: literal rows, equality with attention over separated sequences, zero Jacobian where flow is forbidden."""

import pytest
import torch
from small_models import collator, small_model, small_rows

from stepjepa.jepa.masks import (
    allowed,
    attention_masks,
    block_mask,
    both,
    branch_mask,
    dense_mask,
    sliding_window,
    within_window,
)
from stepjepa.jepa.reference import build_step2_isolation_mask

# One example: [Sys][User][S1][S2][S2][S3] then the branch [PRED][S2 S2], then padding.
SEGMENTS = torch.tensor([[0, 0, 0, 0, 0, 0, 1, 2, 2, -1]])
PREFIX = torch.tensor([[-1] * 6 + [0, -1, -1, -1]])
PREFIX_END = torch.tensor([[-1] * 6 + [2, -1, -1, -1]])


def seen(mask: torch.Tensor, row: int) -> set[int]:
    return set(mask[row].nonzero().flatten().tolist())


def test_literal_rows_of_the_branch_layout():
    mask = allowed(SEGMENTS, PREFIX, PREFIX_END)[0]
    assert seen(mask, 0) == {0}
    assert seen(mask, 5) == {0, 1, 2, 3, 4, 5}  # the trunk sees no branch
    assert seen(mask, 6) == {0, 1, 2, 6}  # the predictor sees the trunk up to the end of S1
    assert seen(mask, 7) == {7}  # the isolated copy sees only itself
    assert seen(mask, 8) == {7, 8}
    assert seen(mask, 9) == {9}  # padding keeps its diagonal


def test_literal_rows_of_the_two_pass_form():
    # [Sys][User][S1][PRED][S2][S2][S3][S3]
    mask = build_step2_isolation_mask(8, 4, 6)
    assert seen(mask, 3) == {0, 1, 2, 3}
    assert seen(mask, 4) == {4}
    assert seen(mask, 5) == {4, 5}
    assert seen(mask, 6) == {0, 1, 2, 3, 4, 5, 6}
    assert seen(mask, 7) == {0, 1, 2, 3, 4, 5, 6, 7}


def test_sink_sees_the_first_token_of_its_own_trunk_only():
    batch = collator(isolation="sink", padding_side="left", packing_length=300)(small_rows())
    mask = allowed(batch["segment_ids"], batch["prefix_segment"], batch["prefix_end"])
    for row, pair in (batch["context_index"] >= 0).nonzero().tolist():
        first_of_trunk = int(
            (batch["example_ids"][row] == batch["example_ids"][row, batch["context_end"][row, pair] - 1]).nonzero()[0]
        )
        copy_end = int(batch["target_index"][row, pair])
        size = int(batch["target_end"][row, pair] - batch["target_start"][row, pair])
        assert seen(mask[row], copy_end) == {first_of_trunk, *range(copy_end - size + 1, copy_end + 1)}


def test_window_counts_positions_not_indices():
    positions = torch.tensor([[0, 1, 2, 3, 1]])  # the last token stands at position 1
    assert within_window(positions, 2)[0, 4].tolist() == [True, True, True, True, True]
    assert within_window(positions, 2)[0, 3].tolist() == [False, False, True, True, False]


def test_eager_gets_additive_floats_and_sdpa_booleans():
    allow = allowed(SEGMENTS, PREFIX, PREFIX_END)
    additive = dense_mask(allow, "eager", torch.float32)
    assert additive.shape == (1, 1, 10, 10)
    assert additive[0, 0, 7, 7] == 0
    assert additive[0, 0, 7, 6] == torch.finfo(torch.float32).min
    assert dense_mask(allow, "sdpa", torch.float32).dtype == torch.bool
    with pytest.raises(ValueError, match="flash_attention_2"):
        dense_mask(allow, "flash_attention_2", torch.float32)


@pytest.mark.parametrize("window", [None, 3])
def test_block_mask_is_the_same_predicate(window):
    positions = torch.tensor([[0, 1, 2, 3, 4, 5, 3, 4, 5, 0]])
    dense = allowed(SEGMENTS, PREFIX, PREFIX_END)
    if window:
        dense = dense & within_window(positions, window)
    predicate = branch_mask(SEGMENTS, PREFIX, PREFIX_END)
    if window:
        predicate = both(predicate, sliding_window(positions, window))
    mod = block_mask(predicate, 1, 10).mask_mod
    index = torch.arange(10)
    rendered = torch.stack([torch.stack([mod(torch.tensor(0), torch.tensor(0), q, k) for k in index]) for q in index])
    assert torch.equal(rendered, dense[0])


def test_mixed_layers_get_one_mask_each():
    batch = collator()(small_rows())
    masks = attention_masks(small_model("gemma3").config, batch, torch.float32)
    assert set(masks) == {"full_attention", "sliding_attention"}
    assert masks["sliding_attention"].sum() < masks["full_attention"].sum()
    single = attention_masks(small_model("mistral").config, batch, torch.float32)
    assert torch.equal(single, masks["sliding_attention"])


def test_jacobian_is_zero_wherever_the_mask_forbids_flow():
    """Through the whole network, information reaches j from i only along a chain of permitted cells."""
    model = small_model("llama").double()
    batch = collator(pairs="consecutive")(small_rows(1))
    embeddings = model.get_input_embeddings()(batch["input_ids"]).detach()
    allow = allowed(batch["segment_ids"], batch["prefix_segment"], batch["prefix_end"])
    mask = dense_mask(allow, "sdpa", torch.float64)

    def states(inputs: torch.Tensor) -> torch.Tensor:
        return model.model(
            inputs_embeds=inputs, attention_mask=mask, position_ids=batch["position_ids"]
        ).last_hidden_state.sum(-1)

    jacobian = torch.autograd.functional.jacobian(states, embeddings)[0, :, 0].abs().sum(-1)  # [L, L]
    reach = torch.matrix_power(allow[0].double(), 3) > 0  # three layers
    assert (jacobian[~reach] == 0).all()
    assert (jacobian[allow[0]] > 0).all()
    assert torch.equal(reach, allow[0])  # the predicate is transitive: depth opens no side door
