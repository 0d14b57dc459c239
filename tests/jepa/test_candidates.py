"""One encoded context for many candidate steps: the views and log-probabilities of a row for each of them."""

import pytest
import torch
from small_models import EAGER_ONLY, Tokens, small_model

from stepjepa.jepa.candidates import CandidateCollator, Place
from stepjepa.jepa.layout import StepJEPACollator
from stepjepa.jepa.pairs import BranchLayout
from stepjepa.jepa.views import encode_views

PROMPT, FIRST, SECOND = [11, 12, 13, 14], [21, 22, 23], [31, 32, 33, 34]
SEPARATORS = (22, 34, 56)  # token ids
AFTER_PROMPT, AFTER_FIRST, AFTER_SECOND = [FIRST, [41, 42]], [SECOND, [51], [52, 53, 54, 55, 56]], [[61, 62]]


def separator(ids):
    return [int(token in SEPARATORS) for token in ids]


def place(step, end, candidates):
    return Place(step, end, [{"input_ids": ids, "separator": separator(ids)} for ids in candidates])


def rows():
    places = [
        place(0, len(PROMPT), AFTER_PROMPT),
        place(1, len(PROMPT + FIRST), AFTER_FIRST),
        place(2, len(PROMPT + FIRST + SECOND), AFTER_SECOND),
    ]
    other = [place(1, 6, [[71, 72], [73]])]
    return [
        {"input_ids": PROMPT + FIRST + SECOND, "places": places},
        {"input_ids": [15, 16, 81, 82, 83, 84], "places": other},
    ]


def alone():
    """(tokens before, candidate, step) of each pair, in order."""
    before = [PROMPT, PROMPT + FIRST, PROMPT + FIRST + SECOND]
    pairs = [(before[0], c, 0) for c in AFTER_PROMPT] + [(before[1], c, 1) for c in AFTER_FIRST]
    pairs += [(before[2], c, 2) for c in AFTER_SECOND]
    return pairs + [([15, 16, 81, 82, 83, 84], c, 1) for c in ([71, 72], [73])]


@pytest.mark.parametrize(
    ("name", "pairs", "isolation", "pooling"),
    [
        ("llama", "horizons", "step", "last"),
        ("llama", "consecutive", "step", "last"),
        ("llama", "consecutive", "sink", "content"),
        ("llama", "consecutive", "none", "mean"),
        ("llama", "consecutive", "none", "content"),
        ("qwen2-windowed", "consecutive", "step", "mean"),
        ("gemma2", "consecutive", "none", "last"),
        ("gpt2", "consecutive", "step", "content"),
    ],
)
def test_a_candidate_is_what_it_is_as_the_next_step_of_a_row(name, pairs, isolation, pooling):
    model = small_model(name, attn_implementation="eager" if name in EAGER_ONLY else "sdpa")
    layout = BranchLayout(pairs, horizon=3, isolation=isolation, pooling=pooling, predictors=3)
    with torch.no_grad():
        views = encode_views(model, CandidateCollator(Tokens(), layout, likelihood=True)(rows()))
    sums = torch.zeros(len(views.context)).index_add_(0, views.token_examples, -views.token_losses)
    assert views.steps[:, 1].tolist() == [step for *_, step in alone()]
    for number, (before, candidate, _step) in enumerate(alone()):
        ids = before + candidate
        row = {"input_ids": ids, "labels": ids, "step_ids": [0] * len(before) + [1] * len(candidate)}
        row["separator"] = separator(ids)
        with torch.no_grad():
            one = encode_views(model, StepJEPACollator(Tokens(), layout)([row]))
            scores = model(torch.tensor([ids])).logits[0].log_softmax(dim=-1)
        torch.testing.assert_close(views.context[number], one.context[0], atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(views.target[number], one.target[0], atol=2e-5, rtol=1e-4)
        expected = sum(scores[i - 1, ids[i]] for i in range(len(before), len(ids)))
        torch.testing.assert_close(sums[number], expected, atol=1e-4, rtol=1e-4)


def test_no_candidate_sees_another():
    model = small_model("llama")
    collate = CandidateCollator(Tokens(), BranchLayout("consecutive"), likelihood=True)
    changed = rows()
    changed[0]["places"][1] = place(1, len(PROMPT + FIRST), [SECOND, [99], AFTER_FIRST[2]])
    with torch.no_grad():
        first, second = (encode_views(model, collate(each)) for each in (rows(), changed))
    assert torch.equal(first.context, second.context)
    kept = torch.arange(len(first.target)) != 3
    assert torch.equal(first.target[kept], second.target[kept])
    assert not torch.allclose(first.target[3], second.target[3])
    same = first.token_examples != 3
    assert torch.equal(first.token_losses[same], second.token_losses[same])


def test_without_likelihood_nothing_is_labelled_and_rows_are_shorter():
    with_it, without = (
        CandidateCollator(Tokens(), BranchLayout("consecutive"), likelihood=likelihood)(rows())
        for likelihood in (True, False)
    )
    assert (without["labels"] == -100).all()
    in_context = sum(len(candidate) + 1 for _, candidate, _ in alone()[:6])
    assert with_it["input_ids"].shape[1] - without["input_ids"].shape[1] == in_context
