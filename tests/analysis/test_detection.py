"""Areas against scikit-learn and by hand, controls on views whose answer is known, and nothing but worked steps."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from stepjepa.analysis.detection import (
    AUCS,
    COMPACT,
    RIGHT,
    SCORES,
    area,
    detect,
    detect_compact,
    probe_before,
    retrieval,
    right_and_wrong,
    scores,
    strata,
)
from stepjepa.analysis.energies import StepViews, ZScore
from stepjepa.data.mistakes import MISTAKES
from stepjepa.data.stories import generate_stories
from stepjepa.records import UserError, as_json
from stepjepa.visualization.detection import error_detection

SIZE = 24


@pytest.fixture(scope="module")
def steps():
    return right_and_wrong(generate_stories(150, seed=4, split="test"))


def views_of(context, target, tokens):
    return StepViews(context, target, -tokens.double(), tokens)


@pytest.fixture(scope="module")
def foreseen(steps):
    """Contexts foresee the right step up to noise; wrong steps lie anywhere, and are a token longer."""
    generator = torch.Generator().manual_seed(0)
    place = {
        key: row for row, key in enumerate(zip(steps.problem, steps.step, strict=True)) if steps.kind[row] == RIGHT
    }
    before = torch.randn(len(place), SIZE, generator=generator)
    rows = torch.tensor([list(place).index(key) for key in zip(steps.problem, steps.step, strict=True)])
    context = before[rows]
    wrong = torch.tensor(steps.kind != RIGHT)
    noise = torch.randn(len(wrong), SIZE, generator=generator)
    target = torch.where(wrong[:, None], noise, context + 0.3 * noise)
    tokens = torch.randint(10, 12, (len(wrong),), generator=generator) + wrong
    return views_of(context, target, tokens)


def unscaled(views):
    one = torch.ones(SIZE)
    return ZScore(0 * one, one, 0 * one, one)


def test_rows_are_worked_steps_after_the_first(steps):
    problems = generate_stories(150, seed=4, split="test")
    assert steps.kind.tolist().count(RIGHT) == sum(len(problem["latents"]) - 1 for problem in problems)
    for candidate, kind, problem, step in zip(steps.candidates, steps.kind, steps.problem, steps.step, strict=True):
        assert (candidate.example, candidate.step) == (problem, step)
        own = problems[problem]["steps"]
        assert 1 <= step < len(own) - 1
        assert (candidate.text is None) == (kind == RIGHT)
        assert candidate.text != own[step]
    for kind in MISTAKES:
        assert len(set(steps.problem[steps.kind == kind])) == (steps.kind == kind).sum() > 90


def test_one_stratum_is_the_ordinary_area():
    random = np.random.default_rng(0)
    score, label = random.integers(0, 30, 300).astype(float), random.random(300) < 0.2
    score[label] += 5
    found = area(score, np.flatnonzero(label), np.flatnonzero(~label), np.arange(300) // 3, np.zeros(300, dtype=int))
    assert found.estimate == pytest.approx(roc_auc_score(label, score), abs=1e-12)
    assert found.low < found.estimate < found.high
    assert found.extra == {"compared": 1.0}


def test_strata_by_hand():
    #                 wrong          right
    score = np.array([3.0, 1.0, 9.0, 2.0, 4.0, 1.0, 0.0])
    stratum = np.array([0, 1, 2, 0, 0, 1, 1])
    found = area(score, np.arange(3), np.arange(3, 7), np.array([0, 1, 2, 0, 1, 1, 2]), stratum)
    # 3 beats one of two; 1 ties with one and beats one: 3/4; 9 has nobody of its stratum
    assert found.estimate == pytest.approx((0.5 + 0.75) / 2)
    assert found.extra["compared"] == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="no wrong step has a right one"):
        area(score, np.arange(2, 3), np.arange(3, 7), np.arange(7), stratum)


def test_the_interval_covers_what_drawing_problems_gives():
    random = np.random.default_rng(1)

    def drawn(problems):
        common = np.repeat(random.normal(size=problems), 4)
        score = common + random.normal(size=4 * problems)
        wrong = np.arange(0, 4 * problems, 4)
        score[wrong] += 1
        right = np.setdiff1d(np.arange(4 * problems), wrong)
        return area(score, wrong, right, np.arange(4 * problems) // 4, np.zeros(4 * problems, dtype=int), draws=200)

    truth = drawn(2000).estimate
    covered = [found.low <= truth <= found.high for found in (drawn(60) for _ in range(100))]
    assert 0.88 <= np.mean(covered) <= 1


def test_length_and_position_tell_nothing_where_they_are_controlled(steps, foreseen):
    split = strata(steps, foreseen.tokens.numpy())
    right, wrong = np.flatnonzero(steps.kind == RIGHT), np.flatnonzero(steps.kind == "arithmetic")
    length = foreseen.tokens.double().numpy()
    assert area(length, wrong, right, steps.problem, split["pooled"]).estimate > 0.8
    for score in (length, steps.step.astype(float)):
        found = area(score, wrong, right, steps.problem, split["controlled"])
        assert (found.estimate, found.low, found.high) == (0.5, 0.5, 0.5)
    same = area(foreseen.target[:, 0].double().numpy(), wrong, right, steps.problem, split["same_place"])
    replaced = {(p, s): row for row, (p, s) in enumerate(zip(steps.problem, steps.step, strict=True)) if row in right}
    value = foreseen.target[:, 0].numpy()
    ahead = [value[row] > value[replaced[steps.problem[row], steps.step[row]]] for row in wrong]
    assert same.estimate == pytest.approx(np.mean(ahead))


def test_a_model_that_foresees_finds_mistakes_and_the_controls_do_not(steps, foreseen):
    found = detect(foreseen, unscaled(foreseen), steps, random=np.zeros(len(steps.kind)), draws=50)
    assert list(found["kinds"]) == list(MISTAKES)
    assert found["right_steps"] == (steps.kind == RIGHT).sum()
    assert sum(entry["wrong"] for entry in found["by_position"].values()) == (steps.kind != RIGHT).sum()
    for entry in found["kinds"].values():
        assert list(entry["scores"]) == list(SCORES)
        area_of = {name: {of: entry["scores"][name][of].estimate for of in AUCS} for name in SCORES}
        assert min(area_of["energy"].values()) > 0.95
        assert area_of["raw"] == area_of["energy"]
        for control in ("shuffled", "before"):
            assert abs(area_of[control]["controlled"] - 0.5) < 0.12, control
        assert area_of["random"]["pooled"] == 0.5
    figure = error_detection(as_json(found) | {"label": "one"}, as_json(found) | {"label": "two"})
    assert figure.axes[0].get_title() == "operation"
    assert [text.get_text() for text in figure.legends[0].get_texts()][:2] == ["one", "two"]
    plt.close(figure)


def test_the_compact_figures_are_the_controlled_ones_and_their_mean_is_drawn_over_the_same_problems(steps, foreseen):
    whole = detect(foreseen, unscaled(foreseen), steps, draws=40)["kinds"]
    found = detect_compact(foreseen, unscaled(foreseen), steps, draws=40)
    assert list(found) == [*MISTAKES, "mean"]
    for kind in MISTAKES:
        assert found[kind]["steps"] == whole[kind]["steps"]
        for name in COMPACT:
            same, each = whole[kind]["scores"][name]["controlled"], found[kind][name]
            assert (each.estimate, each.low, each.high) == (same.estimate, same.low, same.high)
    for name in COMPACT:
        mean = found["mean"][name]
        assert mean.estimate == pytest.approx(np.mean([found[kind][name].estimate for kind in MISTAKES]))
        widths = [found[kind][name].high - found[kind][name].low for kind in MISTAKES]
        assert mean.high - mean.low <= max(widths)
    broken = views_of(foreseen.context * torch.nan, foreseen.target, foreseen.tokens)
    assert detect_compact(broken, unscaled(foreseen), steps) == {}


def test_shuffled_contexts_are_those_of_the_same_place_of_another_problem(steps):
    count = len(steps.kind)
    context = torch.tensor(np.stack([steps.problem, steps.step, np.ones(count)], axis=1), dtype=torch.float32)
    tokens = torch.full((count,), 9)
    views = views_of(context, torch.zeros(count, 3), tokens)
    one = torch.ones(3)
    found = scores(views, ZScore(0 * one, one, 0 * one, one), steps, "l2")
    own = np.sqrt(steps.problem**2.0 + steps.step**2.0 + 1)
    np.testing.assert_allclose(found["energy"], own, rtol=1e-6)
    other = np.sqrt(np.maximum(found["shuffled"] ** 2 - steps.step**2.0 - 1, 0))  # the problem whose context it was
    np.testing.assert_allclose(other, other.round(), atol=1e-2)
    assert (other.round() != steps.problem).all()
    has = set(zip(steps.problem, steps.step, strict=True))
    assert all(pair in has for pair in zip(other.round().astype(int), steps.step, strict=True))
    few = right_and_wrong(generate_stories(1, seed=4))
    with pytest.raises(UserError, match="take more with --problems"):
        scores(views[: len(few.kind)], ZScore(0 * one, one, 0 * one, one), few, "l2")


def test_a_probe_of_the_state_before_finds_what_is_there():
    random = np.random.default_rng(2)
    context, problem = random.normal(size=(200, 5)), np.arange(200) // 2
    wrong, right = np.arange(0, 200, 2), np.arange(1, 200, 2)
    label = np.arange(200) % 2 == 0
    assert abs(roc_auc_score(label, probe_before(context, wrong, right, problem)) - 0.5) < 0.15
    context[wrong, 3] += 3
    assert roc_auc_score(label, probe_before(context, wrong, right, problem)) > 0.95


def test_retrieval_is_among_right_steps_of_other_texts(steps, foreseen):
    texts = [f"{row}" for row in range(len(steps.kind))]
    found = retrieval(foreseen, steps, texts)
    assert found.estimate > 0.95
    assert found.chance == pytest.approx(1 / (steps.kind == RIGHT).sum())
    blind = views_of(torch.randn(len(texts), SIZE), foreseen.target, foreseen.tokens)
    assert retrieval(blind, steps, texts).estimate < 0.05
