"""One entry in the table of metrics is enough to measure a figure, to report it and to draw it."""

import pytest
import torch
from small_embeddings import make_embeddings

from stepjepa.analysis.measurements import measure, pair_views, true_ranks
from stepjepa.analysis.report import inspect
from stepjepa.analysis.report_text import report_text
from stepjepa.experiments.cell import representations
from stepjepa.experiments.report import report_columns
from stepjepa.jepa.metrics import METRICS, Metric
from stepjepa.records import as_json
from stepjepa.visualization.grid_reports import metric_panels

NEW = {
    "length": Metric("length of a row", "view", lambda x: x.norm(dim=1), per_row=True, panel="length"),
    "largest": Metric("largest entry", "view", lambda x: x.amax(), columns={"max tgt": "first_largest_target"}),
    "gap": Metric("gap of a pair", "pairs", lambda x, y: (x - y).norm(dim=1), per_row=True, chance=0.5, panel="gap"),
    "depth": Metric(
        "depth", "ranks", lambda ranks: ranks.double(), per_row=True, chance=lambda sizes: sizes.double().mean() / 2
    ),
    "hidden": Metric("hidden", "view", lambda x: x.amin(), commands=()),
}


@pytest.fixture
def embeddings(monkeypatch):
    for name, metric in NEW.items():
        monkeypatch.setitem(METRICS, name, metric)
    return make_embeddings(problems=12)


def test_a_new_metric_is_measured_with_interval_and_chance(embeddings):
    figures = measure(embeddings)
    context, target = pair_views(embeddings)
    states, ranks = torch.from_numpy(embeddings.states), true_ranks(embeddings)
    for name, value, chance in (
        ("length_context", context.norm(dim=1).mean(), None),
        ("length_state", states.norm(dim=1).mean(), None),
        ("largest_target", target.max(), None),
        ("gap", (context - target).norm(dim=1).mean(), 0.5),
        ("depth_all", ranks["all"].ranks.double().mean(), len(context) / 2),
        ("depth_own", ranks["own"].ranks.double().mean(), ranks["own"].sizes.double().mean().item() / 2),
    ):
        figure = figures[name]
        assert figure.estimate == pytest.approx(value.item()), name
        assert figure.chance == chance, name
        assert figure.low <= figure.estimate <= figure.high, name
    assert not [name for name in figures if "hidden" in name]


def test_a_new_metric_is_reported(embeddings):
    lines = report_text(as_json(inspect({"a": embeddings}))).splitlines()
    shown = [line.strip() for line in lines]
    for label, times in (
        ("length of a row", 3),
        ("largest entry", 3),
        ("gap of a pair", 1),
        ("depth, all steps", 1),
        ("depth, same problem", 1),
        ("hidden", 0),
    ):
        assert sum(line.startswith(label) for line in shown) == times, label
    gap = next(i for i, line in enumerate(shown) if line.startswith("gap of a pair"))
    assert shown[gap + 1].split() == ["by", "chance", "0.500"]


def test_a_new_metric_is_in_the_record_of_a_cell(embeddings):
    figures = representations(embeddings)
    first = torch.from_numpy(embeddings.context_step == 0)
    context, target = (view[first] for view in pair_views(embeddings))
    for name, value in (
        ("length_context", context.norm(dim=1).mean()),
        ("largest_target", target.max()),
        ("gap", (context - target).norm(dim=1).mean()),
        ("depth_all", true_ranks(embeddings)["all"].ranks[first].double().mean()),
    ):
        assert figures["first"][name] == pytest.approx(value.item()), name
        assert name in figures["consecutive"]
    assert figures["first"]["depth_all_chance"] == len(embeddings.target) / 2
    assert not [name for name in figures["first"] if "hidden" in name]


def test_a_new_metric_is_in_the_report_and_the_figures_of_a_grid(embeddings):
    assert ("max tgt", "first_largest_target", ".2f") in report_columns()
    panels = metric_panels()
    assert [name for name, _ in panels["length"]] == ["first_length_context", "first_length_target"]
    assert [name for name, _ in panels["gap"]] == ["first_gap", "consecutive_gap"]
    assert not {"hidden", "largest entry"} & {*panels}
