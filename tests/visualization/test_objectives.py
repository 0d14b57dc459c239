"""The map and the table of objectives, from records that are made up: what is shown is what the records say."""

from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from parts.grids import objective_rows, objectives_table
from small_records import QUESTIONS, invent

from stepjepa.experiments.grid_file import read_grid
from stepjepa.experiments.options import cost_of
from stepjepa.experiments.report import format_report, report, to_plain
from stepjepa.experiments.store import GridFolder
from stepjepa.records import write_json
from stepjepa.visualization.objectives import FAMILIES, Point, _place, family, objectives_map

GRID = """
base: ablation
arms:
  - {name: plain, lbd: 0}
  - {name: "plain, equal compute", lbd: 0, max_steps: 96}
  - {name: InfoNCE, jepa_loss_type: infonce, pairs: consecutive, pooling: mean}
  - {name: frozen, pairs: consecutive, target_model: frozen}
  - {name: nextlat, jepa_loss_type: nextlat}
seeds: SEEDS
baseline: plain
"""
CHANCES = {"plain": 0.5, "plain, equal compute": 0.52, "InfoNCE": 0.5, "frozen": 0.2, "nextlat": 0.45}


def made_up(folder, seeds, text=GRID, chances=CHANCES):
    (folder / "g.yaml").write_text(text.replace("SEEDS", str(seeds)))
    grid, records = read_grid(str(folder / "g.yaml")), GridFolder(folder / "out")
    invent(grid, records, chances)
    for cell in grid.cells:
        record = records.record(cell)
        area = {"estimate": 0.5 + 0.1 * cell.seed, "low": 0.4, "high": 0.9}
        for split in ("validation", "test"):
            record[split]["representations"]["consecutive"]["recall_all"] = chances[cell.arm] / 2
        kinds = {kind: {"energy": area, "log_probability": area} for kind in ("order", "mean")}
        write_json(record | {"detection": {"kinds": kinds if cell.arm != "plain" else {}}}, records.record_path(cell))
    return report(grid, records, draws=20)


BENCH = {
    "arms": {
        "plain": {"cost": "plain", "ratio": {"median": 1.0, "q1": 1.0, "q3": 1.0}},
        "InfoNCE; all pairs": {
            "cost": cost_of({"jepa_loss_type": "infonce", "pairs": "consecutive", "temperature": 0.1}),
            "ratio": {"median": 1.4, "q1": 1.3, "q3": 1.5},
        },
    }
}


def test_with_several_seeds_claims_are_those_of_the_test_split(tmp_path):
    said = made_up(tmp_path, 5)
    lines = objective_rows(said, BENCH)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")]
    by_arm = {row[0]: dict(zip(rows[0], row, strict=True)) for row in rows}
    assert list(by_arm)[2:] == ["plain fine-tuning", "plain, equal compute", "InfoNCE", "frozen", "nextlat"]
    info, frozen, plain = by_arm["InfoNCE"], by_arm["frozen"], by_arm["plain fine-tuning"]
    assert info["to plain, points (95%)"].startswith("+0.0 (")
    assert frozen["not worse by 1 point"] == "not shown, p = 1.000"
    test = next(pair for pair in said["comparisons"] if pair["arm"] == "InfoNCE")["not_worse"]
    assert info["not worse by 1 point"] == f"{'yes' if test['shown'] else 'not shown'}, p = {test['p']:.3f}"
    assert (info["time, × plain"], frozen["time, × plain"], plain["time, × plain"]) == ("1.40", "–", "1.00")
    assert by_arm["plain, equal compute"]["time, × plain"] == "1.50"  # 96 optimizer steps instead of 64
    assert info["AUC: energy, −log-probability"] == "0.70, 0.70"  # the mean of 0.5 … 0.9
    assert plain["AUC: energy, −log-probability"] == "–, –"
    assert "worse than plain by 1 point or more is not ruled out" in format_report(said)


def test_with_one_seed_there_is_no_test_of_accuracy_and_the_split_is_that_for_choices(tmp_path):
    said = made_up(tmp_path, 1)
    assert all(pair["not_worse"] is None for pair in said["comparisons"])
    lines = objective_rows(said, None)
    assert lines[0].startswith("| objective | accuracy | LM loss | R@1, all steps |")
    assert "The validation split" in lines[-1]
    assert "not worse" not in "".join(lines)
    assert objectives_table("no such grid") == ["Not measured yet: `stepjepa ablate no such grid`."]


def test_a_second_baseline_with_a_term_has_a_line_of_its_own(tmp_path):
    """The column and the map stay those of plain fine-tuning, whichever baseline stands first."""
    for baseline in ("[plain, frozen]", "[frozen, plain]"):
        said = made_up(tmp_path, 5, GRID.replace("baseline: plain", f"baseline: {baseline}"))
        assert {pair["baseline"] for pair in to_plain(said).values()} == {"plain"}
        assert set(to_plain(said)) == {*CHANCES} - {"plain"}
        lines = objective_rows(said, None)
        (line,) = (line for line in lines if line.startswith("To "))
        assert line.startswith("To frozen, points (95%): plain fine-tuning +")
        assert line.count(";") == 3  # of four other arms
        assert any("| nextlat | 5 |" in one and "| −" in one for one in lines)
        assert objectives_map(said).axes[0].get_ylabel() == "accuracy, points to plain fine-tuning"
    assert not [line for line in objective_rows(made_up(tmp_path, 5), None) if line.startswith("To ")]


@pytest.mark.parametrize(("chance", "marker"), [(0.05, "v"), (0.99, "^")])
def test_what_lies_far_from_all_else_is_a_triangle_at_the_edge_with_its_value(tmp_path, chance, marker):
    alike = {f"alike {number}": 0.5 + 0.001 * number for number in range(1, 9)}
    arms = [f"{{name: {arm}, lbd: 0.{number}}}" for number, arm in enumerate([*alike, "far"], 1)]
    text = "\n  - ".join(["base: ablation\narms:", "{name: plain, lbd: 0}", *arms])
    said = made_up(tmp_path, 5, f"{text}\nseeds: SEEDS\nbaseline: plain\n", {"plain": 0.5, **alike, "far": chance})
    axes = objectives_map(said).axes[0]
    (triangle,) = (line for line in axes.lines if line.get_marker() in ("v", "^"))
    assert triangle.get_marker() == marker
    low, high = axes.get_ylim()
    value = 100 * to_plain(said)["far"]["value"]
    assert low < triangle.get_ydata()[0] < high
    assert not low < value < high
    (said_there,) = (text.get_text() for text in axes.texts if "(" in text.get_text())
    assert said_there.endswith(f" ({value:+.0f})".replace("-", "−"))
    assert len(axes.texts) == 10


def test_numbers_of_points_that_lie_close_are_told_apart():
    figure = plt.figure(figsize=(6, 5))
    axes = figure.add_subplot()
    axes.set_xscale("log")
    axes.set_xlim(1, 100)
    random = np.random.default_rng(0)
    places = zip(10 * np.exp(random.normal(0, 0.5, 20)), random.normal(0, 1, 20), strict=True)
    points = [Point(x, y, y - 1, y + 1, number, "C0") for number, (x, y) in enumerate(places, 1)]
    _place(axes, [*points, Point(10, 1000, 999, 1001, 21, "C0")], ".0f")
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == 21
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    plt.close(figure)


def test_every_objective_is_a_point_on_the_map(tmp_path):
    said = made_up(tmp_path, 5)
    figure = objectives_map(said)
    left, right = figure.axes
    for axes in (left, right):
        assert sorted(text.get_text() for text in axes.texts) == list("12345")
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names[0] == "1 plain, equal compute"  # 26% found, the most
    assert names[4] == "5 frozen"
    assert any(list(line.get_xdata()) == [100 * 0.1] for line in right.lines)
    assert set(names[5:]) == {
        "no JEPA term",
        "over tokens",
        "InfoNCE, its own target",
        "a distance, another model's target",
    }
    assert set(names[5:]) <= set(FAMILIES)
    assert family({"jepa_loss_type": "infonce", "target_model": "ema"}) == "InfoNCE, another model's target"
    assert QUESTIONS > 100


def test_what_changes_the_cost_and_what_does_not():
    base = {"jepa_loss_type": "infonce", "pairs": "consecutive"}
    same = [{"pooling": "mean"}, {"temperature": 0.1}, {"lbd": 0.5}, {"learning_rate": 0.1}]
    assert {cost_of(base | more) for more in same} == {cost_of(base)}
    other = [{"pairs": "first"}, {"queue": 8}, {"whole_step": True}, {"target_model": "ema"}, {"head": "mlp"}]
    assert len({cost_of(base | more) for more in [*other, {}, {"lbd": 0}]}) == len(other) + 2
    assert cost_of(base | {"queue": 8}) == cost_of(base | {"queue": 9})
    assert cost_of(base | {"whole_step": True, "gradient_accumulation_steps": 1}) == cost_of(base)
    assert cost_of(base | {"whole_step": True, "gradient_accumulation_steps": 2}) != cost_of(base)
