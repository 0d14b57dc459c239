"""Energies are distances of the very views that embedding and training read, whatever shares a context or a batch."""

import math

import pytest
import torch
from safetensors.torch import save_file

from stepjepa.analysis.encode import encode_examples
from stepjepa.analysis.energies import (
    Candidate,
    StepViews,
    ZScore,
    encode_candidates,
    energies,
    own_and_further,
    own_steps,
    scored_rows,
    with_step,
)
from stepjepa.analysis.trained import AS_IT_IS, Reading, distance_of, trained_reading
from stepjepa.data.sources import read_examples
from stepjepa.data.tokens import tokenize_example
from stepjepa.jepa.objectives import StepObjective
from stepjepa.jepa.pairs import BranchLayout, step_spans
from stepjepa.models.checkpoint import Checkpoint
from stepjepa.models.loading import load_model
from stepjepa.records import UserError


@pytest.fixture(scope="module")
def loaded():
    return load_model()


@pytest.fixture(scope="module")
def examples():
    return read_examples("builtin", split="test", count=6, seed=1)[0]


def encode(loaded, examples, candidates, **options):
    return encode_candidates(*loaded, examples, candidates, progress=False, **options)


def test_own_steps_have_the_views_of_an_embedding(loaded, examples):
    candidates = own_steps(examples, first=1)
    views = encode(loaded, examples, candidates, batch_size=4)
    embedded = encode_examples(*loaded, examples, progress=False)
    assert [(c.example, c.step) for c in candidates] == list(
        zip(embedded.pair_example, embedded.target_step, strict=True)
    )
    torch.testing.assert_close(views.context, torch.from_numpy(embedded.context), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(views.target, torch.from_numpy(embedded.target), atol=1e-5, rtol=1e-5)
    expected = 1 - torch.cosine_similarity(views.context, views.target)
    torch.testing.assert_close(energies(views), expected)


def test_log_probabilities_are_the_language_models(loaded, examples):
    model, tokenizer = loaded
    views = encode(loaded, examples[:2], own_steps(examples[:2]))
    found = iter(zip(views.log_probability.tolist(), views.tokens.tolist(), strict=True))
    for example in examples[:2]:
        row = tokenize_example(example, tokenizer)
        ids = torch.tensor(row["input_ids"])
        with torch.no_grad():
            scores = model(ids[None]).logits[0].log_softmax(dim=-1)
        for span in step_spans(row["step_ids"]):
            expected = sum(float(scores[i - 1, ids[i]]) for i in range(span.start, span.end))
            assert next(found) == (pytest.approx(expected, abs=1e-3), span.end - span.start)


def test_at_the_end_of_a_step_the_state_of_the_plain_model_is_read(loaded, examples):
    model, tokenizer = loaded
    views = encode(loaded, examples[:1], own_steps(examples[:1], first=1), at_step_end=True)
    row = tokenize_example(examples[0], tokenizer)
    with torch.no_grad():
        states = model(torch.tensor([row["input_ids"]]), output_hidden_states=True).hidden_states[-1][0]
    ends = [span.end - 1 for span in step_spans(row["step_ids"])][:-1]
    torch.testing.assert_close(views.context, states[ends], atol=1e-5, rtol=1e-5)


def test_other_candidates_and_batches_change_nothing(loaded, examples):
    place = Candidate(0, 2, "Ann has 3 + 4 = 7 cups.")
    alone = encode(loaded, examples, [place])
    without = encode(loaded, examples, [place], likelihood=False)
    assert (without.log_probability.item(), without.tokens.item()) == (0, alone.tokens.item())
    torch.testing.assert_close(without.target, alone.target, atol=2e-5, rtol=1e-4)
    many = [*own_steps(examples), Candidate(0, 2, "So it is 9."), place, Candidate(1, 1, examples[1]["steps"][2])]
    together = encode(loaded, examples, many, batch_size=3)
    changed = with_step(examples[0], 2, place.text)
    assert changed["messages"][-1]["content"] == "\n\n".join(changed["steps"])
    own = encode(loaded, [changed], [Candidate(0, 2)])
    for views in (together[[len(many) - 2]], own):
        for name in ("context", "target", "log_probability", "tokens"):
            torch.testing.assert_close(getattr(views, name), getattr(alone, name), atol=2e-5, rtol=1e-4)


def test_a_step_may_follow_the_last(loaded, examples):
    count = len(examples[0]["steps"])
    cut = {**with_step(examples[0], 0, examples[0]["steps"][0])}
    cut["steps"] = cut["steps"][:-1]
    cut["messages"] = [*cut["messages"][:-1], {"role": "assistant", "content": "\n\n".join(cut["steps"])}]
    further = encode(loaded, [cut], [Candidate(0, count - 1, examples[0]["steps"][-1])])
    whole = encode(loaded, examples, [Candidate(0, count - 1)])
    torch.testing.assert_close(further.target, whole.target, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(further.context, whole.context, atol=2e-5, rtol=1e-4)


def test_what_is_cut_off_is_no_number(loaded, examples):
    rows = [tokenize_example(example, loaded[1]) for example in examples]
    ends = [span.end for span in step_spans(rows[0]["step_ids"])]
    layout = BranchLayout("consecutive", max_length=ends[1])
    candidates = own_steps(examples[:1])
    views = encode(loaded, examples[:1], candidates, layout=layout)
    assert (views.tokens > 0).tolist() == [True, True] + [False] * (len(ends) - 2)
    assert energies(views).isnan().tolist() == [False, False] + [True] * (len(ends) - 2)
    (row,) = scored_rows(examples[:1], ["a"], candidates, views)
    assert row["energies"][2:] == row["log_probabilities"][2:] == [None] * (len(ends) - 2)
    assert row["energy"] is None
    with pytest.raises(UserError, match="no step to score"):
        encode(loaded, examples[:1], candidates, layout=BranchLayout(max_length=5))


def test_rows_carry_what_the_example_says(loaded, examples):
    example = {**examples[0], "wrong_step": 1, "mistake": "order", "candidates": ["So it is 9.", " It is 10. "]}
    candidates = own_and_further([example])
    assert candidates[-1] == Candidate(0, len(example["steps"]), "It is 10.")
    views = encode(loaded, [example], candidates)
    (row,) = scored_rows([example], ["name"], candidates, views)
    assert (row["id"], row["wrong_step"], row["mistake"], row["steps"]) == ("name", 1, "order", example["steps"])
    assert "messages" not in row
    assert row["energies"] + row["candidate_energies"] == energies(views).tolist()
    assert len(row["candidate_log_probabilities"]) == 2
    assert row["energy"] == pytest.approx(sum(row["energies"][1:]) / (len(row["steps"]) - 1))
    with pytest.raises(UserError, match="candidates is not a list of texts"):
        own_and_further([{**example, "candidates": "So it is 9."}])


def test_scales_make_dimensions_alike():
    generator = torch.Generator().manual_seed(1)
    context = torch.randn(50, 4, generator=generator) * torch.tensor([1.0, 100.0, 0.0, 3.0]) + 7
    views = StepViews(context, context.flip(1), torch.zeros(50, dtype=torch.float64), torch.ones(50, dtype=torch.long))
    views.tokens[0] = 0
    views.context[0] = 1e6  # cut off: takes no part
    scaled = ZScore.fit(views)(views)[1:]
    for each in (scaled.context, scaled.target.flip(1)):
        torch.testing.assert_close(each.mean(dim=0), torch.zeros(4), atol=1e-5, rtol=0)
        torch.testing.assert_close(each.std(dim=0), torch.tensor([1.0, 1.0, 0.0, 1.0]), atol=1e-5, rtol=0)
    with pytest.raises(UserError, match="at least two steps"):
        ZScore.fit(views[:2])


def test_the_energy_is_the_distance_of_the_runs_loss():
    assert distance_of("l2") == "l2"
    assert distance_of("infonce") == distance_of("cosine") == "cosine"
    views = StepViews(torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2), torch.zeros(1), torch.ones(1))
    assert energies(views, "l2").item() == 5
    assert math.isnan(energies(StepViews(views.context, views.target, views.log_probability, torch.zeros(1))).item())


def test_views_are_compared_as_the_run_compares_them(loaded, examples, tmp_path):
    size = loaded[0].config.hidden_size
    objective = StepObjective("l2", size=size, head="linear", target_scale="layer")
    with torch.no_grad():
        objective.head.weight.mul_(2)
    save_file(objective.state_dict(), tmp_path / "objective.safetensors")
    settings = {"jepa_loss_type": "l2", "head": "linear", "target_scale": "layer", "lbd": 0.1}
    found = trained_reading(Checkpoint("run", tmp_path, record={"settings": settings}), loaded[0])
    candidates = own_steps(examples[:2], first=1)
    plain, compared = (encode(loaded, examples, candidates, reading=each) for each in (AS_IT_IS, found))
    torch.testing.assert_close(compared.context, 2 * plain.context)
    torch.testing.assert_close(compared.target, torch.nn.functional.layer_norm(plain.target, (size,)))
    upper = encode(loaded, examples, candidates, reading=Reading(target_layer=-2))
    assert torch.equal(upper.context, plain.context)
    assert not torch.allclose(upper.target, plain.target)
    for other in ({"settings": settings | {"lbd": 0}}, {"settings": settings | {"jepa_loss_type": "nextlat"}}, None):
        assert trained_reading(Checkpoint("run", tmp_path, record=other), loaded[0]) is AS_IT_IS
    with pytest.raises(UserError, match=r"objective\.safetensors is missing"):
        trained_reading(Checkpoint("run", tmp_path / "moved", record={"settings": settings}), loaded[0])
