"""Embedding figures: the arrays behind them, and that what is asked for is what is drawn."""

import json
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from small_embeddings import make_embeddings

from stepjepa.analysis.projections import map_record, project, similarity_record, spectrum_record, view_rows
from stepjepa.jepa.metrics import effective_rank
from stepjepa.records import UserError
from stepjepa.visualization.embeddings import UNKNOWN, embedding_map, similarity_map, spectrum
from stepjepa.visualization.style import BLUE, CYCLE, GREEN, ORANGE, VERMILION


@pytest.fixture(scope="module")
def embeddings():
    return make_embeddings(problems=9)


@pytest.fixture(scope="module")
def record(embeddings):
    return map_record(embeddings, "constructed", seeds=(0, 1))


def panels(figure):
    return [axes for axes in figure.axes if axes.get_visible()]


def colours(axes):
    return {tuple(np.round(c[:3], 3)) for dots in axes.collections for c in shades_of(dots)}


def shades_of(dots):
    """Colours of the dots of a layer; a ring has only an edge."""
    return dots.get_facecolors() if len(dots.get_facecolors()) else dots.get_edgecolors()


def rgb(*names):
    return {tuple(np.round(to_rgba(name)[:3], 3)) for name in names}


# ---- arrays --------------------------------------------------------------------------------------------------


def test_rows_of_a_view_carry_the_labels_of_the_step_it_is_about(embeddings):
    for view in ("context", "target"):
        rows = view_rows(embeddings, view)
        np.testing.assert_array_equal(rows.step, embeddings.target_step)
        closing = rows.step == np.array([len(embeddings.steps[e]) - 1 for e in rows.example])
        np.testing.assert_array_equal(rows.operation, np.where(closing, -1, (rows.example + rows.step) % 2))
    np.testing.assert_array_equal(view_rows(embeddings, "context").vectors.numpy(), embeddings.context)
    np.testing.assert_array_equal(view_rows(embeddings, "state").operation, embeddings.operation)
    with pytest.raises(ValueError, match="'view1'"):
        view_rows(embeddings, "view1")


def test_whole_answers_have_no_operation(embeddings):
    whole = make_embeddings(
        problems=9, target_step=np.full(len(embeddings.target), -1), context_step=np.full(len(embeddings.target), -1)
    )
    assert set(view_rows(whole, "target").operation) == {-1}


def test_projections_repeat_and_differ_by_seed(embeddings):
    points = project(embeddings, seeds=(0, 1))
    again = project(embeddings, seeds=(0, 1))
    count = 2 * len(embeddings.context)
    assert points["pca"].shape == (count, 2)
    assert points["tsne"].shape == (2, count, 2)
    np.testing.assert_array_equal(points["tsne"], again["tsne"])
    np.testing.assert_array_equal(points["pca"], again["pca"])
    assert not np.allclose(points["tsne"][0], points["tsne"][1], atol=1e-2)
    assert points["view"].tolist() == ["context"] * (count // 2) + ["target"] * (count // 2)
    np.testing.assert_array_equal(points["correct"], embeddings.correct[points["example"]])


def test_the_pca_keeps_a_shared_direction():
    """Not centred: identical vectors lie together on the unit circle, with all of the energy on the first axis."""
    rows = len(make_embeddings().context)
    same = np.tile(np.arange(1, 9, dtype=np.float32), (rows, 1))
    points = project(make_embeddings(context=same, target=3 * same), seeds=())
    np.testing.assert_allclose(points["pca"], np.tile([1, 0], (2 * rows, 1)), atol=1e-6)
    np.testing.assert_allclose(points["explained"], [1, 0], atol=1e-9)


def test_pca_against_an_independent_formula(embeddings):
    unit = np.concatenate([embeddings.context, embeddings.target])
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    values, vectors = np.linalg.eigh(unit.T @ unit)
    points = project(embeddings, seeds=())
    np.testing.assert_allclose(points["explained"], values[::-1][:2] / values.sum(), atol=1e-6)
    np.testing.assert_allclose(np.abs(points["pca"]), np.abs(unit @ vectors[:, ::-1][:, :2]), atol=1e-5)


def test_few_points_lower_the_perplexity(embeddings):
    few = embeddings.take(np.array([0, 1]))
    assert project(few, seeds=(0,))["perplexity"] == pytest.approx((2 * len(few.context) - 1) / 3)
    assert project(embeddings, seeds=(), perplexity=5)["perplexity"] == 5
    with pytest.raises(UserError, match="at least 4 points, and there are 2"):
        project(embeddings.take(np.array([0])), views=("target",))


# ---- maps ----------------------------------------------------------------------------------------------------


def test_a_map_has_a_pca_panel_and_one_for_each_seed(record):
    figure = embedding_map(record)
    titles = [axes.get_title() for axes in panels(figure)]
    assert len(titles) == 3
    assert titles[0].startswith("PCA, uncentred:")
    assert [title.split(",")[1] for title in titles[1:]] == [" seed 0", " seed 1"]
    assert all(f"perplexity {record['perplexity']:g}" in title for title in titles[1:])
    assert len(panels(embedding_map(record, record))) == 6
    points = sum(len(view["step"]) for view in record["views"])
    for axes in panels(figure):
        assert sum(len(dots.get_offsets()) for dots in axes.collections) == points


def test_the_first_panel_states_the_energy_of_the_mean(embeddings, record):
    unit = embeddings.target / np.linalg.norm(embeddings.target, axis=1, keepdims=True)
    energy = np.square(unit.mean(axis=0)).sum()
    assert record["mean_energy"]["target"] == pytest.approx(energy, abs=1e-3)
    assert f"target {energy:.0%}" in panels(embedding_map(record))[0].get_xlabel()


def test_colours_follow_the_label(record):
    axes = panels(embedding_map(record, color="operation"))[1]
    assert colours(axes) == rgb(CYCLE[0], CYCLE[1], UNKNOWN)
    assert colours(panels(embedding_map(record, color="view"))[0]) == rgb(ORANGE, GREEN)
    assert colours(panels(embedding_map(record, color="correct"))[2]) == rgb(BLUE, VERMILION, UNKNOWN)
    figure = embedding_map(record, color="step")
    assert len(colours(panels(figure)[0])) == 4  # steps 2 to 5
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "context view",
        "target view",
        "step 2",
        "step 3",
        "step 4",
        "step 5",
    ]
    with pytest.raises(ValueError, match="'family'"):
        embedding_map(record, color="family")


def test_operations_are_coloured_by_name_as_every_file_numbers_its_own(record):
    """A second file that knows the second operation alone; and names that begin with "_" are in the legend."""
    second = record["operations"][1]
    views = [view | {"operation": [min(number, 1) - 1 for number in view["operation"]]} for view in record["views"]]
    other = record | {"operations": [second], "views": views}
    axes = panels(embedding_map(record, other, color="operation"))[3]
    assert rgb(CYCLE[1]) <= colours(axes)
    assert not rgb(CYCLE[0]) & colours(axes)


def test_each_dot_has_the_colour_of_its_own_label(record):
    axes = panels(embedding_map(record, color="correct"))[0]
    shades = {1: BLUE, 0: VERMILION, -1: UNKNOWN}
    drawn = [
        (*place, *colour[:3])
        for dots in axes.collections
        for place, colour in zip(dots.get_offsets().tolist(), shades_of(dots).tolist(), strict=True)
    ]
    expected = [
        (x, y, *to_rgba(shades[value])[:3])
        for view in record["views"]
        for x, y, value in zip(view["pca"]["x"], view["pca"]["y"], view["correct"], strict=True)
    ]
    np.testing.assert_allclose(sorted(drawn), sorted(expected))


def test_neither_view_hides_the_other(record):
    """Context views are rings, and no layer of them lies above all of the target views."""
    layers = panels(embedding_map(record, color="view"))[0].collections
    rings = [dots for dots in layers if not len(dots.get_facecolors())]
    filled = [dots for dots in layers if len(dots.get_facecolors())]
    assert {tuple(np.round(dots.get_edgecolors()[0][:3], 3)) for dots in rings} == rgb(ORANGE)
    assert len(rings) == len(filled) == 8
    assert max(dots.get_zorder() for dots in rings) <= max(dots.get_zorder() for dots in filled)
    assert min(dots.get_sizes()[0] for dots in rings) > max(dots.get_sizes()[0] for dots in filled)


def test_views_differ_by_marker(embeddings):
    record = map_record(embeddings, seeds=(), views=("context", "target", "state"))
    dots = [each for each in panels(embedding_map(record))[0].collections if each.get_zorder() == 1]
    shapes = [tuple(map(tuple, each.get_paths()[0].vertices)) for each in dots]
    assert len(set(shapes)) == len(record["views"]) == 3


def test_lines_join_the_steps_of_chosen_problems(embeddings, record):
    def drawn(figure):  # the two axes lines of the PCA panel aside
        return [line for line in panels(figure)[1].lines if line.get_linewidth() == 0.8]

    assert not drawn(embedding_map(record))
    lines = drawn(embedding_map(record, connect=(1, 2)))
    assert len(lines) == 4  # two problems in two views
    target = record["views"][1]
    rows = [i for i, e in enumerate(target["example"]) if e == 1]
    rows.sort(key=lambda i: target["step"][i])
    assert len(rows) == len(embeddings.steps[1]) - 1
    np.testing.assert_allclose(lines[2].get_xdata(), [target["tsne"][0]["x"][i] for i in rows])


@pytest.mark.parametrize(("size", "width"), [("notebook", 9.0), ("paper", 6.75), ("column", 3.25)])
def test_maps_fit_their_page(record, size, width):
    figure = embedding_map(record, size=size)
    figure.draw_without_rendering()
    page = figure.bbox
    for axes in panels(figure):
        box = axes.get_tightbbox()
        assert box.x0 >= page.x0 - 1
        assert box.x1 <= page.x1 + 1
        assert box.y1 <= page.y1 + 1
    assert figure.get_size_inches()[0] == width


def test_records_stay_small_and_survive_json():
    large = make_embeddings(problems=300, size=16)
    record = map_record(large, "large", seeds=(0, 1, 2))
    text = json.dumps(record, indent=2)
    assert len(text) < 150_000
    again = json.loads(text)
    assert again == record
    assert len(panels(embedding_map(again))) == 4
    assert len({e for view in record["views"] for e in view["example"]}) == 60
    assert max(record["views"][0]["example"]) == 299  # evenly spaced over the whole file
    assert len(json.dumps(spectrum_record(large), indent=2)) < 10_000
    nothing = replace(large, context=np.zeros_like(large.context))
    assert set(spectrum_record(nothing)["views"]["context"]["values"]) == {0.0}


# ---- similarity and spectrum ---------------------------------------------------------------------------------


def test_similarities_against_numpy(embeddings):
    record = similarity_record(embeddings, (2, 0), "context", "target")
    order = [i for e in (2, 0) for i in np.flatnonzero(embeddings.pair_example == e)]
    assert record["row_steps"] == [(embeddings.pair_example[i], embeddings.target_step[i]) for i in order]

    def unit(x):
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    raw = unit(embeddings.context)[order] @ unit(embeddings.target)[order].T
    np.testing.assert_allclose(record["raw"], raw, atol=6e-4)
    centered = [unit(x - x.mean(axis=0))[order] for x in (embeddings.context, embeddings.target)]
    np.testing.assert_allclose(record["centered"], centered[0] @ centered[1].T, atol=6e-4)
    assert json.loads(json.dumps(record))["raw"] == record["raw"]
    with pytest.raises(UserError, match="example 99 has no state view; these embeddings hold 9"):
        similarity_record(embeddings, (0, 99))


def test_similarity_map_shows_both_matrices_and_the_boundaries(embeddings):
    record = similarity_record(embeddings, (0, 1))
    figure = similarity_map(record)
    raw, centered = (axes for axes in panels(figure) if axes.images)
    distances = 1 - np.array(record["raw"])
    np.testing.assert_allclose(raw.images[0].get_array(), distances.clip(min=1e-4))
    np.testing.assert_allclose(centered.images[0].get_array(), record["centered"])
    assert raw.images[0].get_clim() == (1e-4, distances.max())  # all of the scale, wherever the cosines lie
    assert centered.images[0].get_clim() == (-1, 1)
    first = len(embeddings.steps[0])
    assert sorted(line.get_xdata()[0] for line in raw.lines)[-1] == first - 0.5
    assert [label.get_text() for label in raw.get_yticklabels()] == [
        *(f"step {k + 1}" for k in range(first)),
        *(f"step {k + 1}" for k in range(len(embeddings.steps[1]))),
    ]
    assert len(raw.texts) == len(record["raw"]) ** 2 == 49
    assert not [
        text for axes in panels(similarity_map(similarity_record(embeddings, (0, 1, 2)))) for text in axes.texts
    ]


def test_spectra_and_their_ranks(embeddings):
    flat = make_embeddings(problems=9, target=np.ones_like(embeddings.target))
    records = [spectrum_record(embeddings, "healthy"), spectrum_record(flat, "flat")]
    assert records[1]["views"]["target"]["rank"] == pytest.approx(1, abs=0.01)
    assert records[0]["views"]["context"]["rank"] == pytest.approx(
        float(effective_rank(view_rows(embeddings, "context").vectors)), abs=0.01
    )
    values = np.linalg.svd(embeddings.target, compute_uv=False)
    np.testing.assert_allclose(records[0]["views"]["target"]["values"], values / values[0], rtol=6e-3)
    figure = spectrum(*records)
    assert [axes.get_title() for axes in panels(figure)] == ["context view", "target view", "step end in context"]
    target = panels(figure)[1]
    assert target.get_yscale() == "log"
    assert [text.get_text() for text in target.get_legend().get_texts()] == [
        f"healthy: {records[0]['views']['target']['rank']:.1f}",
        "flat: 1.0",
    ]
    marked = panels(spectrum(*(each | {"label": f"_{each['label']}"} for each in records)))[1].get_legend()
    assert [text.get_text()[:3] for text in marked.get_texts()] == [" _h", " _f"]
    assert target.get_legend().get_title().get_text() == "effective rank (of 8)"
    np.testing.assert_allclose(target.lines[0].get_ydata(), records[0]["views"]["target"]["values"])
