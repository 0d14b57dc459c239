"""The embedding explorer without a browser: what its controls send to the canvas, its words, and its still."""

import html
import re
import time
from dataclasses import replace
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pytest
from small_embeddings import make_embeddings

from stepjepa import load_model
from stepjepa.analysis.embeddings import PAIR_ARRAYS
from stepjepa.analysis.encode import encode_examples, random_weights
from stepjepa.analysis.measurements import true_ranks
from stepjepa.analysis.projections import project
from stepjepa.data.sources import read_examples
from stepjepa.records import UserError
from stepjepa.visualization.embedding_drawing import Palette, ink_on
from stepjepa.visualization.embedding_explorer import SHOWN, EmbeddingCanvas, embedding_explorer
from stepjepa.visualization.embedding_points import OWN, PARTNERS, REACH, Points
from stepjepa.visualization.style import BLUE, VERMILION

LENGTH, ERROR = "length in characters", "error of the pair (1 − cos)"


@pytest.fixture(scope="module")
def builtin():
    """The built-in model on 40 test problems, and the same with random weights."""
    model, tokenizer = load_model()
    examples, _ = read_examples("builtin", split="test", count=40, seed=1)
    after = encode_examples(model, tokenizer, examples, progress=False)
    return {"random": encode_examples(random_weights(model, 0), tokenizer, examples, progress=False), "built-in": after}


@pytest.fixture
def small():
    """Twelve problems; only PCA, which needs no time."""
    return embedding_explorer(make_embeddings(12), "small", seeds=())


def places(explorer) -> np.ndarray:
    """Where the canvas draws every row, NaN where it does not."""
    return np.frombuffer(explorer.canvas.picture["xy"], np.float32).reshape(-1, 2)


def colours(explorer) -> list[str | None]:
    """Label of the colour of every row that is shown."""
    picture = explorer.canvas.picture
    codes = np.frombuffer(picture["colours"], np.uint8)
    return [
        picture["legend"][code][1] if seen else None
        for code, seen in zip(codes, ~np.isnan(places(explorer)[:, 0]), strict=True)
    ]


# -------- the points sent to the canvas --------


@pytest.mark.slow
def test_the_points_are_those_of_the_projection(builtin):
    explorer = embedding_explorer(builtin["built-in"], seeds=(3,))
    expected = project(builtin["built-in"], seeds=(3,))
    shown = ~np.isnan(places(explorer)[:, 0])
    assert shown.sum() == len(expected["view"]) == 2 * len(builtin["built-in"].context)
    assert explorer.points.view[shown].tolist() == expected["view"].tolist()
    assert explorer.points.step[shown].tolist() == expected["step"].tolist()

    drawn, tsne = places(explorer)[shown], expected["tsne"][0]
    assert np.abs(drawn).max() == pytest.approx(1)
    shrunk = (drawn - drawn.mean(0)) * np.ptp(tsne, axis=0).max() / np.ptp(drawn, axis=0).max()
    assert np.allclose(shrunk, tsne - tsne.mean(0), atol=1e-3 * np.abs(tsne).max())
    assert explorer.canvas.picture["caption"].startswith("t-SNE, perplexity 30, seed 3:")
    assert not explorer.canvas.picture["circle"]

    explorer.projection.value = "PCA"
    assert np.allclose(places(explorer)[shown], expected["pca"], atol=1e-6)
    first, second = expected["explained"]
    assert f"the axes hold {first:.0%} and {second:.0%} of the squared length" in explorer.canvas.picture["caption"]
    assert explorer.canvas.picture["circle"]


@pytest.mark.parametrize("choice", SHOWN)
def test_views_to_show(small, choice):
    small.shown.value = choice
    shown = ~np.isnan(places(small)[:, 0])
    assert set(small.points.view[shown].tolist()) == set(SHOWN[choice])
    assert np.isin(small.points.view, SHOWN[choice]).tolist() == shown.tolist()
    assert [entry["view"] for entry in small.canvas.picture["views"]] == list(SHOWN[choice])
    assert shown[small.canvas.selected]


def test_colour_tells_what_was_chosen(small):
    points = small.points
    pairs = points.view != "state"
    assert small.colour.options == ("step", "view", "operation", "correctness", LENGTH, ERROR)
    for by, label in {
        "step": lambda i: f"step {points.step[i] + 1}",
        "view": lambda i: f"{points.view[i]} view",
        "operation": lambda i: ["add", "subtract", "none or not known"][points.operation[i]],
        "correctness": lambda i: ["answered wrongly", "answered correctly", "not known"][points.correct[i]],
    }.items():
        small.colour.value = by
        assert colours(small) == [label(i) if pairs[i] else None for i in range(len(points))]
    legend = dict(reversed(entry) for entry in small.canvas.picture["legend"])
    assert (legend["answered correctly"], legend["answered wrongly"]) == (BLUE, VERMILION)


def test_measured_colours_go_by_sixths_of_all_sets():
    """Six colours, each for as many values; a value lies between the two numbers on the label of its colour."""
    embeddings, other = make_embeddings(20, noise=1.0), make_embeddings(20, noise=0.1)
    explorer = embedding_explorer({"far": embeddings, "near": other}, seeds=())
    explorer.shown.value, explorer.colour.value = "all of these", ERROR
    cosines = [
        [float(c @ t / np.linalg.norm(c) / np.linalg.norm(t)) for c, t in zip(e.context, e.target, strict=True)]
        for e in (embeddings, other)
    ]
    found = []
    for name, cosine in zip(("far", "near"), cosines, strict=True):
        explorer.which.value = name
        labels = colours(explorer)
        assert labels[: len(cosine)] == labels[len(cosine) : 2 * len(cosine)]  # both views of a pair
        assert set(labels[2 * len(cosine) :]) == {"not of a pair"}
        for label, value in zip(labels, cosine, strict=False):
            low, high = map(float, label.split("–"))
            assert 0.97 * low <= 1 - value <= 1.03 * high  # labels have two digits
        found += labels[: len(cosine)]
    counts = [found.count(label) for label in set(found)]
    assert len(counts) == 6
    assert max(counts) - min(counts) <= 1
    explorer.colour.value = LENGTH
    label = colours(explorer)[explorer.selected]
    low, high = map(int, label.split("–"))
    assert low <= len(explorer.points.text(explorer.selected)) <= high


def test_several_sets_are_mapped_together():
    """On common axes; a set of another size has a space, and so a map, of its own."""
    before, after = make_embeddings(12, noise=1.0), make_embeddings(12, noise=0.1)
    explorer = embedding_explorer({"before": before, "after": after}, seeds=())
    both = np.concatenate([v for e in (before, after) for v in (e.context, e.target)]).astype(np.float64)
    both /= np.linalg.norm(both, axis=1, keepdims=True)
    axes = np.linalg.eigh(both.T @ both)[1][:, :-3:-1]
    expected = np.abs(both @ axes)
    assert explorer.canvas.picture["moves"]
    assert "of 2 sets together" in explorer.canvas.picture["caption"]
    drawn = []
    for name in ("before", "after"):
        explorer.which.value = name
        drawn.append(np.abs(places(explorer)[explorer.points.view != "state"]))
    assert np.allclose(np.concatenate(drawn), expected, atol=1e-6)  # the sign of an axis is arbitrary
    other = embedding_explorer({"before": before, "other": make_embeddings(12, size=9)}, seeds=())
    assert not other.canvas.picture["moves"]
    assert "together" not in other.canvas.picture["caption"]


def test_colours_that_nobody_knows_are_not_offered(builtin):
    explorer = embedding_explorer(builtin["built-in"], seeds=())
    assert explorer.colour.options == ("step", "view", "operation", LENGTH, ERROR)
    plain = make_embeddings(6, operation=None, operation_names=[])
    plain.operation = np.full(len(plain.states), -1)
    assert embedding_explorer(plain, seeds=()).colour.options == ("step", "view", "correctness", LENGTH, ERROR)


def test_a_colour_means_the_same_in_every_set():
    few, many = make_embeddings(4), make_embeddings(4, operation_names=["subtract", "multiply"])
    few.target_step[few.target_step > 1] = 1
    palette = Palette([Points(few, range(4)), Points(many, range(4))])
    found = {}
    for embeddings in (few, many):
        points = Points(embeddings, range(4))
        for by in ("step", "operation"):
            for colour, label in palette.paint(points, by, np.arange(len(points)))[1]:
                assert found.setdefault((by, label), colour) == colour
    assert len(set(found.values())) == len(found)
    assert {label for by, label in found if by == "operation"} == {"add", "subtract", "multiply", "none or not known"}


def test_a_change_of_colour_or_map_does_not_send_the_words_again(builtin):
    explorer = embedding_explorer(builtin, seeds=(0,))
    sent = explorer.canvas.points
    explorer.colour.value, explorer.projection.value = "operation", "PCA"
    assert explorer.canvas.points is sent
    explorer.which.value = "built-in"
    assert explorer.canvas.points is not sent


# -------- words --------


def brute_force(embeddings, points, i, among, count):
    """Nearest rows by cosine, one at a time."""
    vectors = np.concatenate([embeddings.context, embeddings.target, embeddings.states]).astype(np.float64)
    wanted = {"context": "target", "target": "context", "state": "state"}[str(points.view[i])]
    wanted = points.view[i] if among == OWN else wanted
    cosine = {}
    for j in range(len(vectors)):
        if points.view[j] == wanted and j != i:
            cosine[j] = vectors[i] @ vectors[j] / np.linalg.norm(vectors[i]) / np.linalg.norm(vectors[j])
    return sorted(((round(value, 9), -j) for j, value in cosine.items()), reverse=True)[:count]


@pytest.mark.parametrize("among", [PARTNERS, OWN])
def test_nearest_steps_are_those_of_brute_force(builtin, among):
    embeddings = builtin["built-in"].take(np.arange(12))
    explorer = embedding_explorer(embeddings, seeds=(), neighbours=4)
    explorer.nearest.value = among
    points = explorer.points
    for i in range(0, len(points), 3):
        said = explorer.canvas.points["words"][i]["nearest"]
        expected = brute_force(embeddings, points, i, among, 4)
        assert [near["row"] for near in said] == [-j for _, j in expected]
        assert [near["cosine"] for near in said] == [f"{cosine:.3f}" for cosine, _ in expected]
        for near in said:
            assert near["same"] == (points.example[near["row"]] == points.example[i])
            assert ("problem" in near["words"].split(",")[0]) != (near["row"] == points.partner[i])
            assert f"«{points.text(near['row'])}»" in near["words"]


def test_neighbours_are_sought_in_the_full_space():
    """In the plane of the PCA the two far steps coincide; in the full space they are opposite."""
    rng = np.random.default_rng(0)
    target = np.zeros((27, 8), dtype=np.float32)
    target[:, :2] = 5 * rng.standard_normal((27, 2))
    target[0], target[1] = [3, 3, 2, 0, 0, 0, 0, 0], [3, 3, -2, 0, 0, 0, 0, 0]
    target[2] = [3, 1, 2, 0, 0, 0, 0, 0]
    explorer = embedding_explorer(make_embeddings(9, target=target, context=target), seeds=())
    explorer.shown.value, explorer.nearest.value = "target views", OWN
    row = int(np.flatnonzero(explorer.points.view == "target")[0])
    xy = places(explorer)
    assert np.hypot(*(xy[row] - xy[row + 1])) < np.hypot(*(xy[row] - xy[row + 2]))
    order = [near["row"] for near in explorer.canvas.points["words"][row]["nearest"]]
    assert row + 2 in order
    assert row + 1 not in order[: order.index(row + 2)]


def test_ranks_are_those_of_the_measurements(builtin):
    for embeddings in builtin.values():
        ranks, sizes = Points(embeddings, range(40)).ranks
        true, pairs = true_ranks(embeddings)["all"], len(embeddings.context)
        assert (ranks[:pairs] == true.ranks.numpy()).all()
        assert (sizes[:pairs] == true.sizes.numpy()).all()
        turned = true_ranks(replace(embeddings, context=embeddings.target, target=embeddings.context))["all"]
        assert (ranks[pairs : 2 * pairs] == turned.ranks.numpy()).all()
        assert (ranks[2 * pairs :] == 0).all()


def test_words_tell_step_partner_and_rank():
    explorer = embedding_explorer(make_embeddings(12, noise=0.01), seeds=())
    assert explorer.words.startswith(
        "Problem 1: context view after step 1, which has to predict step 2: «Step 1 of problem 0.» It has read up to: "
        "«Step 0 of problem 0.» Operation: subtract. Running value: 2. Its partner, the "
        "target view of step 2, is the nearest of the 36 target views that compete: retrieved. "
        "Nearest target views by cosine in all 8 dimensions: 1.000 its partner, step 2: "
    )
    explorer.selected = int(explorer.points.partner[0])
    assert explorer.words.startswith(
        "Problem 1: target view of step 2: «Step 1 of problem 0.» Operation: subtract. Running value: 2. "
        "Its partner, the context view after step 1, which has to predict step 2, is the nearest of the 36 "
        "context views that compete: retrieved."
    )
    assert "1.000 its partner, after step 1, for step 2: «Step 1 of problem 0.»" in explorer.words
    explorer.shown.value = "step ends"
    assert explorer.words.startswith("Problem 1: end of step 2 in its context: «Step 1 of problem 0.»")
    assert "partner" not in explorer.words
    explorer.choose(1, 1, "state")  # of which it is known how it was answered
    assert "Problem answered wrongly." in explorer.words


def test_a_partner_that_is_not_nearest_is_not_retrieved():
    embeddings = make_embeddings(12, noise=0.01)
    embeddings.context[[0, 5]] = embeddings.context[[5, 0]]
    words = embedding_explorer(embeddings, seeds=()).canvas.points["words"][0]["partner"]
    assert re.search(r"has rank \d+ of the 36 target views that compete: not retrieved\.$", words)
    assert " rank 1 " not in words


def test_steps_with_the_same_text_do_not_compete():
    embeddings = make_embeddings(6)
    embeddings.steps[3][1] = embeddings.steps[0][1]
    embeddings.target[embeddings.pair_example == 3] = embeddings.target[0]
    words = embedding_explorer(embeddings, seeds=()).canvas.points["words"][0]
    assert "of the 17 target views that compete" in words["partner"]


def test_question_to_answer_pairs_are_said_so():
    embeddings = make_embeddings(6)
    pairs = np.flatnonzero(embeddings.context_step == 0)
    own = {name: getattr(embeddings, name)[pairs] for name in ("context", "target", "pair_example")}
    whole = make_embeddings(6, **own, context_step=np.full(6, -1), target_step=np.full(6, -1))
    explorer = embedding_explorer(whole, seeds=())
    assert explorer.words.startswith(
        "Problem 1: context view after the question, which has to predict the whole answer: «Step 0 of problem 0.\n\n"
    )
    assert "It has read the question." in explorer.words
    assert explorer.canvas.points["marks"][0] == "A"


# -------- the chosen point --------


def test_a_row_that_is_not_shown_gives_way(small):
    context, target, state = (
        int(np.flatnonzero((small.points.example == 2) & (small.points.view == view))[-1])
        for view in SHOWN["all of these"]
    )
    small.canvas.selected = target  # as the canvas does on a click
    assert (small.selected, small.words.split(":")[0]) == (target, "Problem 3")
    small.canvas.selected = state  # is not shown: what is shown of the same step instead
    assert small.selected == context
    small.choose(2, 99, "target")
    assert small.selected == target


def test_the_chosen_point_stays_chosen(builtin):
    explorer = embedding_explorer(builtin, seeds=())
    explorer.choose(7, 1, "context")
    chosen = explorer.selected
    before = explorer.words
    explorer.which.value = "built-in"
    assert explorer.selected == chosen
    assert explorer.words != before
    assert explorer.words.split(":")[:2] == before.split(":")[:2]
    explorer.shown.value = "step ends"
    points, row = explorer.points, explorer.selected
    assert (points.example[row], points.step[row], points.view[row]) == (7, 2, "state")


def test_what_was_found_is_a_list_of_steps(small):
    rows = [0, int(small.points.partner[0])]
    small.canvas.found = rows  # as the canvas does after a search
    about = {"problem": 1, "step": 2, "text": "Step 1 of problem 0."}
    assert small.found == [{**about, "view": "context"}, {**about, "view": "target"}]
    small.colour.value = "view"
    assert small.canvas.found == rows
    fewer = make_embeddings(12).take(np.arange(6))
    fewer.context_step[0], fewer.target_step[0] = 1, 2
    explorer = embedding_explorer({"some": make_embeddings(6), "others": fewer}, seeds=())
    explorer.canvas.found = [0]
    explorer.which.value = "others"  # its rows are about other steps
    assert explorer.found == []


def test_sets_show_the_problems_that_they_share():
    both = make_embeddings(10)
    explorer = embedding_explorer({"all": both, "some": both.take(np.array([1, 4, 5, 8]))}, seeds=())
    assert explorer.canvas.points["numbers"] == [i + 1 for i in (1, 4, 5, 8)]
    assert explorer.canvas.points["questions"] == [f"Question {i}?" for i in (1, 4, 5, 8)]
    assert len(explorer.points) == len(both.take(np.array([1, 4, 5, 8])).context) * 3 + 4
    few = embedding_explorer(both, seeds=(), examples=3)
    assert few.canvas.points["numbers"] == [1, 5, 10]


def test_sets_that_cannot_be_explored():
    one_pair = {name: getattr(make_embeddings(1), name)[:1] for name in PAIR_ARRAYS}
    one, other = make_embeddings(6), make_embeddings(6, ids=[f"other{i}" for i in range(6)])
    with pytest.raises(UserError, match="the sets a, b have no problem in common"):
        embedding_explorer({"a": one, "b": other})
    with pytest.raises(UserError, match="letters for 26"):
        embedding_explorer(one, neighbours=27)
    with pytest.raises(UserError, match="no embeddings"):
        embedding_explorer({})
    with pytest.raises(UserError, match="different orders"):
        embedding_explorer({"a": one, "b": make_embeddings(6, ids=one.ids[::-1])})
    with pytest.raises(UserError, match="at least 4 points"):
        embedding_explorer(make_embeddings(1, **one_pair), seeds=())


def test_a_choice_that_cannot_be_mapped_says_so_and_keeps_the_picture():
    explorer = embedding_explorer(make_embeddings(1), seeds=())
    before, summary = explorer.canvas.picture, explorer.summary
    explorer.shown.value = "context views"
    assert "at least 4 points" in explorer.message.value
    assert explorer.canvas.picture is before
    assert explorer._repr_mimebundle_()["text/plain"].startswith(summary)
    explorer.shown.value = "all of these"
    assert explorer.message.value == ""


# -------- where no widget runs --------


def test_the_summary_is_a_line_without_rounded_numbers(builtin):
    explorer = embedding_explorer(builtin, seeds=(0,))
    line = explorer._repr_mimebundle_()["text/plain"]
    count, chosen = len(builtin["random"].context), builtin["random"].steps[0][1]
    assert line == (
        f"Embedding explorer, random: {count} context views, {count} target views of 40 problems, t-SNE, seed 0, "
        f"colour by step. Chosen: Problem 1, context view after step 1, which has to predict step 2: «{chosen}» "
        "Operation: add. Running value: 40."
    )
    again = embedding_explorer(builtin, seeds=(0,))._repr_mimebundle_()
    assert again["text/html"] == explorer._repr_mimebundle_()["text/html"]


@pytest.mark.parametrize("shown", SHOWN)
def test_the_still_draws_every_point_and_holds_its_words(small, shown):
    small.shown.value = shown
    page = small._repr_mimebundle_()["text/html"]
    assert "<script" not in page
    assert "http" not in unquote(page).replace("http://www.w3.org/2000/svg", "")
    svg = ElementTree.fromstring(unquote(re.search(r'src="data:image/svg\+xml,([^"]*)"', page)[1]))
    rows = np.flatnonzero(~np.isnan(places(small)[:, 0]))
    own = rows[small.points.example[rows] == 0]

    areas = re.findall(r'coords="(\d+),(\d+),\d+" alt="point (\d+)" title="([^"]*)"', page)
    assert sorted(int(number) - 1 for *_, number, _ in areas) == rows.tolist()
    for left, top, number, title in areas:
        row = int(number) - 1
        x, y = (places(small)[row] * [1, -1] + REACH) / (2 * REACH) * 600
        assert (int(left), int(top)) == (pytest.approx(x, abs=0.51), pytest.approx(y + 24, abs=0.51))
        assert html.unescape(title) == small.points.short(row)

    side = 600 + 24  # above the legend
    marks = [
        m for path in svg.findall("{*}path") if path.get("opacity") for m in re.findall(r"M\d+ \d+", path.get("d"))
    ]
    assert len(marks) == len(rows) - len(own)
    numbers = [text.text for text in svg.findall("{*}text") if text.get("font-weight") == "bold"]
    assert sorted(numbers) == sorted(str(small.points.step[i] + 1) for i in own)
    lines = [path for path in svg.findall("{*}path") if path.get("stroke-width") == "1.2"]
    assert len(lines) == len(SHOWN[shown])  # through the steps of the chosen problem, a line for each view
    assert sum(path.get("d").count("L") + 1 for path in lines) == len(own)
    assert int(svg.get("height")) > side


def test_ink_can_be_read():
    assert (ink_on("#FFE945"), ink_on("#00204D")) == ("#222", "#fff")


def test_the_canvas_brings_its_own_code():
    canvas = EmbeddingCanvas()
    assert "export default" in canvas._esm
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|\bimport\b.*from", canvas._esm)
    assert ".stepjepa-map" in canvas._css


def test_a_large_set_is_said_in_time():
    """1,500 views: what Python does for a change of set takes a moment, words and neighbours included."""
    embeddings = make_embeddings(250, size=256)
    start = time.perf_counter()
    explorer = embedding_explorer(embeddings, seeds=(), examples=None)
    assert time.perf_counter() - start < 10
    assert (~np.isnan(places(explorer)[:, 0])).sum() == 2 * len(embeddings.context) == 1498
