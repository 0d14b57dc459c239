"""Ablation figures: what is drawn is what the report says, and what is missing is said."""

import json

import numpy as np
import pytest
from matplotlib.colors import to_hex
from small_records import invent

from stepjepa.experiments.grid_file import read_grid
from stepjepa.experiments.report import report
from stepjepa.experiments.store import FAILED, GridFolder
from stepjepa.visualization.grid_reports import axis_values, metric_panels, missing_cells
from stepjepa.visualization.grids import arms_forest, lambda_accuracy, lambda_representations, low_data
from stepjepa.visualization.style import BLUE, VERMILION


def invented(name, folder, chances=None):
    grid, folder = read_grid(name), GridFolder(folder)
    invent(grid, folder, chances or {arm: 0.3 + 0.04 * i for i, arm in enumerate(grid.arms)})
    return grid, folder


@pytest.fixture(scope="module")
def by_lambda(tmp_path_factory):
    grid, folder = invented("lambda", tmp_path_factory.mktemp("lambda"))
    return report(grid, folder, draws=200)


@pytest.fixture(scope="module")
def isolation(tmp_path_factory):
    grid, folder = invented("isolation", tmp_path_factory.mktemp("isolation"))
    return report(grid, folder, draws=200)


def points(axes, marker):
    """Places of the marks of one kind, seeds (small) aside."""
    return sorted(
        (float(x), float(y))
        for line in axes.lines
        if line.get_marker() == marker and line.get_markersize() > 3.6
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
    )


def seeds(axes):
    return sorted(
        float(y)
        for line in axes.lines
        if line.get_marker() == "o" and line.get_markersize() == 3
        for y in line.get_ydata()
    )


def words(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def title(figure):
    return " ".join(figure.get_suptitle().split())


# ---- over λ --------------------------------------------------------------------------------------------------


def test_accuracies_stand_at_their_lambda_with_every_seed(by_lambda):
    left, right = lambda_accuracy(by_lambda).axes
    expected = sorted(
        (float(arm.removeprefix("lbd=")), 100 * own["test"]["accuracy"]) for arm, own in by_lambda["arms"].items()
    )
    assert [x for x, _ in expected] == [0, 0.01, 0.03, 0.1, 0.3, 1, 3]
    np.testing.assert_allclose(points(left, "o"), expected)
    every = sorted(100 * share for own in by_lambda["arms"].values() for share in own["test"]["by_seed"])
    assert len(every) == 35
    np.testing.assert_allclose(seeds(left), every)
    assert [label.get_text() for label in left.get_xticklabels()] == ["0", "0.01", "0.03", "0.1", "0.3", "1", "3"]
    differences = sorted(
        (float(each["arm"].removeprefix("lbd=")), 100 * each["value"]) for each in by_lambda["comparisons"]
    )
    np.testing.assert_allclose(points(right, "s"), differences)
    assert len(seeds(right)) == 30
    assert "λ = 0" in right.get_ylabel()


def test_differences_are_named_by_their_baseline(tmp_path):
    file = tmp_path / "other.yaml"
    file.write_text("seeds: [0, 1]\naxes: {lbd: [0, 0.1, 1]}\nbaseline: lbd=0.1\n")
    found = report(*invented(str(file), tmp_path / "cells"), draws=10)
    assert lambda_accuracy(found).axes[1].get_ylabel().startswith("difference to λ = 0.1")


def test_bars_are_the_intervals(by_lambda):
    left, _ = lambda_accuracy(by_lambda).axes
    bars = {(line.get_xdata()[0], *line.get_ydata()) for line in left.lines if line.get_marker() == "None"}
    assert bars == {
        (float(arm.removeprefix("lbd=")), 100 * own["test"]["low"], 100 * own["test"]["high"])
        for arm, own in by_lambda["arms"].items()
    }


def test_only_corrected_p_values_give_colour(by_lambda):
    _, right = lambda_accuracy(by_lambda).axes
    colours = {
        float(line.get_xdata()[0]): to_hex(line.get_color()).upper() for line in right.lines if line.get_marker() == "s"
    }
    assert colours == {
        float(each["arm"].removeprefix("lbd=")): VERMILION if each["p_holm"] < 0.05 else BLUE
        for each in by_lambda["comparisons"]
    }
    assert {VERMILION, BLUE} == set(colours.values())


def test_representations_join_the_means(by_lambda):
    figure = lambda_representations(by_lambda)
    assert [axes.get_title() for axes in figure.axes] == list(metric_panels())
    for axes, curves in zip(figure.axes, metric_panels().values(), strict=True):
        drawn = [
            list(line.get_ydata()) for line in axes.lines if len(line.get_xdata()) == 7 and line.get_alpha() is None
        ]
        for name, _ in curves:
            means = [own["validation"][name]["mean"] for own in by_lambda["arms"].values()]
            assert any(np.allclose(line, means) for line in drawn), name
        dashed = [line for line in axes.lines if line.get_linestyle() == "--" and len(line.get_xdata())]
        assert len(dashed) == (2 if "MRR" in axes.get_title() else 0)


def test_values_of_single_seeds_are_dots_where_the_report_has_them(by_lambda):
    own = json.loads(json.dumps(by_lambda))
    values = [0.31, 0.32, 0.33, 0.34, 0.35]
    for arm in own["arms"].values():
        arm["validation"]["lm_loss"] = {"mean": 0.33, "low": 0.31, "high": 0.35, "seeds": 5, "by_seed": values}
    panel = lambda_representations(own).axes[0]
    assert seeds(panel) == sorted(values * 7)


def test_other_grids_have_no_lambda_axis(isolation):
    with pytest.raises(ValueError, match="'lbd' is no axis of the grid isolation; its arms are plain; step; none"):
        lambda_accuracy(isolation)


# ---- what is missing -----------------------------------------------------------------------------------------


def test_missing_failed_and_diverged_cells_are_said_in_every_figure(tmp_path):
    grid, folder = invented("lambda", tmp_path)
    for seed in grid.seeds:
        folder.record_path(grid.cell("lbd=3", seed)).unlink()
    for arm in ("lbd=0.1", "lbd=0.01"):
        folder.record_path(grid.cell(arm, 2)).unlink()
    cell = grid.cell("lbd=1", 4)
    error = {"type": "OutOfMemoryError", "message": "", "where": []}
    folder.write(cell, {**folder.record(cell), "status": FAILED, "error": error})
    cell = grid.cell("lbd=0.3", 0)
    record = folder.record(cell)
    empty = {"pairs": 9}
    record["validation"] |= {"lm_loss": None, "representations": {"first": empty, "consecutive": empty}}
    folder.write(cell, record)
    found = report(grid, folder, draws=200)
    lines = missing_cells(found)
    assert lines == [
        "not run to the end: seed 2 of λ = 0.01; λ = 0.1",
        "not run to the end: seeds 0, 1, 2, 3, 4 of λ = 3",
        "failed: seed 4 of λ = 1",
        "diverged, only accuracy is known: 1 of 5 seeds of λ = 0.3",
    ]
    for draw in (lambda_accuracy, lambda_representations, arms_forest):
        figure = draw(found)
        for line in lines:
            assert line in title(figure)
    left = lambda_accuracy(found).axes[0]
    assert len(points(left, "o")) == 6
    assert left.get_xticks()[-1] == 3  # an arm that is missing leaves its place empty
    panels = arms_forest(found).axes
    assert [text.get_text() for text in panels[0].texts] == ["no record"]
    assert [label.get_text() for label in panels[0].get_yticklabels()][-1] == "λ = 3"


def test_seeds_that_every_arm_lacks_are_said_once(tmp_path):
    grid, folder = invented("lambda", tmp_path)
    for arm in grid.arms:
        for seed in (3, 4):
            folder.record_path(grid.cell(arm, seed)).unlink()
    assert missing_cells(report(grid, folder, draws=200)) == ["not run to the end: seeds 3, 4 of every arm"]


def test_a_single_seed_is_called_one(tmp_path):
    grid, folder = invented("lambda", tmp_path)
    for arm in grid.arms:
        for seed in grid.seeds[1:]:
            folder.record_path(grid.cell(arm, seed)).unlink()
    figure = lambda_accuracy(report(grid, folder, draws=200))
    assert "ONE SEED an arm" in title(figure)
    assert "one seed" not in words(figure)  # no dots beside the means
    assert not seeds(figure.axes[0])


def test_complete_figures_say_nothing_is_missing(by_lambda):
    assert missing_cells(by_lambda) == []
    assert title(lambda_accuracy(by_lambda)) == ""


def test_an_arm_of_which_every_seed_diverged_keeps_its_accuracy_only(tmp_path):
    grid, folder = invented("lambda", tmp_path)
    empty = {"pairs": 9}
    for seed in grid.seeds:
        cell = grid.cell("lbd=3", seed)
        record = folder.record(cell)
        record["validation"] |= {"lm_loss": None, "representations": {"first": empty, "consecutive": empty}}
        folder.write(cell, record)
    found = report(grid, folder, draws=200)
    assert missing_cells(found) == ["diverged, only accuracy is known: 5 of 5 seeds of λ = 3"]
    assert len(points(lambda_accuracy(found).axes[0], "o")) == 7
    for axes in lambda_representations(found).axes:
        assert 0.8 < max(x for x, _ in points(axes, "o")) < 1.2  # figures of one λ stand side by side
    last = list(found["arms"]).index("lbd=3")
    assert last not in {round(y) for axes in arms_forest(found).axes[2:] for _, y in points(axes, "o")}


# ---- arms ----------------------------------------------------------------------------------------------------


def test_arms_have_their_figures_in_their_row(isolation):
    figure = arms_forest(isolation)
    accuracy, difference, loss, rank, margin, energy = figure.axes
    names = [label.get_text().replace("\n", " ") for label in accuracy.get_yticklabels()]
    assert names == [
        "plain fine-tuning",
        "step isolated",
        "not isolated",
        "step and first token",
        "shuffled target",
        "random target",
        "plain, 1.125 × the steps",
    ]
    arms = list(isolation["arms"])
    expected = [(100 * own["test"]["accuracy"], row) for row, own in enumerate(isolation["arms"].values())]
    np.testing.assert_allclose(points(accuracy, "o"), sorted(expected))
    for marker, base in (("s", "plain"), ("D", "step")):
        against = [each for each in isolation["comparisons"] if each["baseline"] == base]
        assert len(points(difference, marker)) == len(against) == 6
        for each in against:
            assert any(
                x == pytest.approx(100 * each["value"]) and round(y) == arms.index(each["arm"])
                for x, y in points(difference, marker)
            )
    assert {"difference to plain fine-tuning", "difference to step isolated"} <= set(words(figure))
    for axes, count in ((rank, 2), (margin, 2), (energy, 2), (loss, 1)):
        assert (
            len([line for line in axes.lines if line.get_marker() == "o" and line.get_markersize() == 4]) == 7 * count
        )


def test_low_data_has_a_curve_for_each_lambda(tmp_path):
    grid, folder = invented("lowdata", tmp_path)
    found = report(grid, folder, draws=200)
    left, right = low_data(found).axes
    curves = [list(line.get_ydata()) for line in left.lines if len(line.get_xdata()) == 3 and line.get_alpha() is None]
    for lbd in ("0", "0.1"):
        means = [100 * found["arms"][f"problems={n}, lbd={lbd}"]["test"]["accuracy"] for n in (64, 256, 1024)]
        assert any(np.allclose(curve, means) for curve in curves)
    differences = [(float(axis_values(each["arm"])["problems"]), 100 * each["value"]) for each in found["comparisons"]]
    np.testing.assert_allclose(points(right, "s"), sorted(differences))
    assert len(differences) == 3
    assert [label.get_text() for label in left.get_xticklabels()] == ["64", "256", "1,024"]
    assert words(low_data(found))[:2] == ["λ = 0", "λ = 0.1"]
    with pytest.raises(ValueError, match="'train_examples' is no axis"):
        low_data(found, "train_examples")


@pytest.mark.parametrize("size", ["notebook", "paper", "column"])
def test_figures_fit_their_page(by_lambda, isolation, size):
    for draw, found in ((lambda_accuracy, by_lambda), (lambda_representations, by_lambda), (arms_forest, isolation)):
        figure = draw(found, size=size)
        page = figure.bbox
        for axes in figure.axes:
            box = axes.get_tightbbox()
            assert box.x0 >= page.x0 - 1
            assert box.x1 <= page.x1 + 1
