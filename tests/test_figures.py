"""Figures come from records: none without one, all drawn again by one command."""

import json
import re
from pathlib import Path

import draw
import pytest

from stepjepa.records import UserError
from stepjepa.visualization.masks import mask_record
from stepjepa.visualization.training import loss_curves

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "figures" / "data"


def test_every_figure_has_its_records_and_every_record_its_place():
    names = {path.name for path in (ROOT / "figures").glob("*.p[nd][gf]")}
    complete = [
        name
        for name, (_, sources) in draw.FIGURES.items()
        if not any(draw.read_source(DATA, source).get("unfinished") for source in sources)
    ]
    assert names == {f"{name}{ending}" for name in complete for ending in draw.FILES}
    text = (ROOT / "figures" / "README.md").read_text()
    for path in DATA.glob("*.json"):
        assert path.name in text, f"{path.name} is not explained in figures/README.md"
    for name in complete:
        assert re.search(rf"\((figures/)?{name}\.png\)", text + (ROOT / "README.md").read_text())


def test_pdfs_are_one_and_two_columns_wide_and_embed_their_type():
    for path in (ROOT / "figures").glob("*.pdf"):
        pdf = path.read_bytes()
        assert b"/FontFile2" in pdf  # TrueType: journals refuse Type 3
        assert b"/Type3" not in pdf
        [width] = re.findall(rb"/MediaBox \[ 0 0 ([\d.]+) ", pdf)
        assert float(width) == (234 if path.stem.endswith("-column") else 486)


@pytest.mark.slow
def test_all_figures_are_drawn_again(tmp_path):
    draw.main(["--data", str(DATA), "--output", str(tmp_path)])
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in (ROOT / "figures").glob("*.p[nd][gf]")}
    assert all(path.stat().st_size > 4000 for path in tmp_path.iterdir())
    with pytest.raises(UserError, match=r"masks\.json"):
        draw.draw_all(tmp_path, tmp_path)


def test_the_mask_record_is_what_the_code_computes():
    assert json.loads((DATA / "masks.json").read_text()) == mask_record()


def test_records_name_versions_hardware_and_commit_but_no_paths():
    for path in (*DATA.glob("*.json"), *DATA.glob("ablation/*.json")):
        text = path.read_text()
        assert not re.search(r'"/\w+/', text), f"{path.name} holds a path"
        if path.name != "masks.json":
            record = json.loads(text)
            parts = record["settings"] if record.get("kind") == "plans" else [record]  # each made on its own
            assert parts
            for environment in (part["environment"] for part in parts):
                assert environment["packages"]["torch"]
                assert environment["hardware"]["processor"]
                assert len(environment["git"]["commit"]) == 40
                assert environment["git"]["dirty"] is False


def test_loss_curves_say_so_when_there_is_no_jepa_term():
    figure = loss_curves([{"step": 1, "lm_loss": 2.0}, {"step": 2, "lm_loss": 1.0}, {"step": 2, "eval_lm_loss": 1.1}])
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert any("λ = 0" in text for text in texts)
    assert figure.axes[0].lines[0].get_ydata().tolist() == [2.0, 1.0]


def test_shares_and_distances_have_axes_of_their_own_and_the_jepa_loss_a_logarithmic_one():
    log = [
        {
            "step": i,
            "lm_loss": 1.0,
            "jepa_loss": 10.0**-i,
            "retrieval": 0.5,
            "retrieval_chance": 0.25,
            "target_spread": 0.1,
        }
        for i in range(3)
    ]
    _, jepa, retrieval, spread = loss_curves(log).axes
    assert jepa.get_yscale() == "log"
    assert [line.get_ydata().tolist() for line in retrieval.lines] == [[0.5] * 3, [0.25] * 3]
    assert [line.get_ydata().tolist() for line in spread.lines] == [[0.1] * 3]
    log[2]["jepa_loss"] = 0.0  # an objective of one's own may be 0 or less
    assert loss_curves(log).axes[1].get_yscale() == "linear"
