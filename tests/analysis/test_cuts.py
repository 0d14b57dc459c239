"""Cuts of solutions without separators: levels with known best values, and the file of a cutter."""

import math

import numpy as np
import pytest

from stepjepa.analysis.cuts import METHODS, Cutter, best_level, fit, load, load_splitter, save, splitter
from stepjepa.analysis.reader import Reader, Reading
from stepjepa.data.steps import split_steps
from stepjepa.models.loading import load_model
from stepjepa.records import UserError

TEXT = "She has 6 * 10 = 60 pens. Then 60 + 40 = 100 pens are left. The answer is \\boxed{100}."


@pytest.fixture(scope="module")
def loaded():
    return load_model()


def reading(length, generator, boundaries=(), size=4):
    """Tokens of two characters, each a word; states are noise, shifted by 5 from each boundary on."""
    states = generator.normal(size=(length, size)).astype(np.float32) * 0.1
    for boundary in boundaries:
        states[boundary:] += 5
    surprisal = np.ones(length, dtype=np.float32)
    surprisal[list(boundaries)] = 4
    allowed = np.arange(length) > 0
    return Reading(2 * np.arange(length), allowed, surprisal, -surprisal, surprisal - 9, states)


@pytest.fixture
def known():
    """Twenty readings with two boundaries each, and these."""
    generator = np.random.default_rng(0)
    places = [sorted(generator.choice(np.arange(3, 18), 2, replace=False).tolist()) for _ in range(20)]
    places = [(a, max(b, a + 3)) for a, b in places]
    readings = [reading(24, generator, boundaries) for boundaries in places]
    return readings, [
        one.boundaries([2 * b for b in boundaries]) for one, boundaries in zip(readings, places, strict=True)
    ]


@pytest.mark.parametrize("method", ["surprisal", "entropy", "separator", "change_points"])
def test_what_stands_out_is_found(method, known):
    """Surprisal 4 among 1, entropy low, a line end likely, a jump of the states: each tells all boundaries."""
    if method == "change_points":
        pytest.importorskip("ruptures")
    cutter = fit(method, *known)
    for one, marked in zip(*known, strict=True):
        assert (cutter.boundaries(one) == marked).all()
    middle = {"surprisal": 2.5, "entropy": 2.5, "separator": -6.5}
    if method in middle:  # halfway between a boundary's score and any other's
        assert cutter.level == middle[method]
    if method == "entropy":
        assert cutter.tensors["sign"] == -1


def test_the_head_is_a_logistic_regression_on_both_states():
    generator = np.random.default_rng(1)
    readings, marks = [], []
    for _ in range(30):
        one = reading(20, generator)
        marked = np.zeros(20, dtype=bool)
        marked[generator.choice(np.arange(1, 20), 3, replace=False)] = True
        one.states[np.flatnonzero(marked) - 1, 2] += 3  # the state *before* a boundary
        readings.append(one)
        marks.append(marked)
    cutter = fit("head", readings, marks)
    assert sum(int((cutter.boundaries(o) != m).sum()) for o, m in zip(readings, marks, strict=True)) == 0
    weight = cutter.tensors["weight"]
    assert int(np.abs(weight).argmax()) == 2  # third dimension of the token before; the token's own are 4 to 7
    one = readings[0]
    scaled = (one.states - cutter.tensors["mean"]) / cutter.tensors["deviation"]
    by_hand = weight[:4] @ scaled[6] + weight[4:] @ scaled[7] + cutter.tensors["bias"][0]
    assert math.isclose(cutter.scores(one)[7], by_hand, rel_tol=1e-4)


def test_best_level_by_hand():
    scores, labels = np.array([5.0, 4.0, 3.0, 2.0, 1.0]), np.array([1, 0, 1, 0, 0])
    # F1 of taking 1, 2, 3, …: 2/3, 2/4, 4/5, 4/6, 4/7 with two boundaries in all
    assert best_level(scores, labels, 2) == 2.5
    # With one more boundary, where no cut may stand: 2/4, 2/5, 4/6, …
    assert best_level(scores, labels, 3) == 2.5
    # Equal scores are taken together: of [3, 3, 1] with labels [1, 0, 0] the first alone cannot be had
    assert best_level(np.array([3.0, 3.0, 1.0]), np.array([0, 1, 0]), 1) == 2.0


def test_controls_know_the_mean_length_alone(known):
    uniform, random = fit("uniform", *known), fit("random", *known)
    assert uniform.level == random.level == 8  # 24 tokens in three steps
    one = known[0][0]
    assert np.flatnonzero(uniform.boundaries(one)).tolist() == [8, 16]
    drawn = random.boundaries(one)
    assert drawn.sum() == 2
    assert (drawn == random.boundaries(one)).all()
    longer = reading(240, np.random.default_rng(0))
    assert random.boundaries(longer).sum() == 29


def test_a_cut_stands_only_where_it_may():
    one = reading(10, np.random.default_rng(0), (4,))
    one.allowed[4] = False
    assert not Cutter("surprisal", 2).boundaries(one).any()
    one.allowed[[5, 6, 7, 8, 9]] = False
    assert np.flatnonzero(Cutter("uniform", 5).boundaries(one)).tolist() == [3]  # the nearest place to 5 that is left
    one.allowed[:] = False
    for method in METHODS:
        assert not Cutter(method, 2).boundaries(one).any()


def test_too_few_solutions_are_refused(known):
    readings, marks = known
    with pytest.raises(UserError, match="at least ten"):
        fit("surprisal", readings[:9], marks[:9])
    with pytest.raises(UserError, match="at least ten"):
        fit("surprisal", readings, [np.zeros(24, dtype=bool)] * 20)


# ---- the splitter and its file ----


def test_a_saved_cutter_splits_as_before(loaded, tmp_path):
    cutter = Cutter("separator", -1.0)
    file = tmp_path / "separator.safetensors"
    save(cutter, file, model_name="builtin", layer=-1)
    assert load(file)[0] == cutter
    steps = ["She has 6 * 10 = 60 pens.", "Then 60 + 40 = 100 pens are left.", "The answer is \\boxed{100}."]
    own = load_splitter(file, device="cpu")
    assert own(TEXT) == [26, 60]
    assert split_steps(TEXT, own) == steps
    assert split_steps(TEXT, splitter(Reader(*loaded), cutter)) == steps
    assert own("  ") == []


def test_tensors_survive_the_file(tmp_path):
    tensors = {"mean": np.array([1, 2], dtype=np.float32), "deviation": np.array([3, 4], dtype=np.float32)}
    save(Cutter("change_points", 0.5, tensors), tmp_path / "a.safetensors", model_name="builtin", layer=3)
    cutter, about = load(tmp_path / "a.safetensors")
    assert (cutter.method, cutter.level, about["layer"]) == ("change_points", 0.5, 3)
    assert all((cutter.tensors[name] == value).all() for name, value in tensors.items())


def test_what_is_no_boundary_model_is_named(tmp_path, monkeypatch):
    (tmp_path / "text").write_text("not a model")
    with pytest.raises(UserError, match="cannot be read as a boundary model"):
        load(tmp_path / "text")
    with pytest.raises(UserError, match="cannot be read as a boundary model"):
        load(tmp_path / "missing")
    from safetensors.numpy import save_file

    save_file({"a": np.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="is no boundary model"):
        load(tmp_path / "other.safetensors")
    save(Cutter("separator", 0), tmp_path / "own.safetensors", model_name="builtin", layer=-1)
    monkeypatch.setattr("stepjepa.models.checkpoint.Checkpoint.identity", lambda self: "other")
    with pytest.raises(UserError, match="other weights"):
        load_splitter(tmp_path / "own.safetensors")
