"""One look: documented widths, type that can be read on paper, and matplotlib's own settings left alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from stepjepa.analysis.attention import attention_record
from stepjepa.analysis.leakage import leakage_audit
from stepjepa.data.sources import make_example, read_examples
from stepjepa.jepa.pairs import CONSECUTIVE, BranchLayout
from stepjepa.models.loading import load_model
from stepjepa.records import UserError
from stepjepa.visualization import style
from stepjepa.visualization.attention import attention_maps, leakage_map, segment_flow
from stepjepa.visualization.comparison import price_bars
from stepjepa.visualization.masks import mask_panels
from stepjepa.visualization.style import new_figure, save_figure, styled
from stepjepa.visualization.training import loss_curves

DATA = Path(__file__).resolve().parents[2] / "figures" / "data"
WIDTHS = {"notebook": 9.0, "paper": 6.75, "column": 3.25}


@pytest.fixture(scope="module")
def records() -> dict[str, Any]:
    model, tokenizer = load_model()
    examples, _ = read_examples("builtin", split="test", count=2, seed=1)
    tiny = make_example("2 pens at $3?", ["2 * 3 = 6.", "So \\boxed{6}."], "6", "t", None)
    own = {path.stem: json.loads(path.read_text()) for path in DATA.glob("*.json")}
    return own | {
        "tiny": attention_record(model, tokenizer, tiny, layers=[-1]),
        "parts": attention_record(model, tokenizer, examples[0], layout=CONSECUTIVE),
        "heads": attention_record(model, tokenizer, examples[0], [0, -1], "all", layout=CONSECUTIVE),
        "audit": leakage_audit(model, tokenizer, examples),
        "control": leakage_audit(model, tokenizer, examples, layout=BranchLayout("consecutive", isolation="none")),
    }


FIGURES: dict[str, tuple[Callable[..., Figure], Callable[[dict[str, Any]], list[Any]]]] = {
    "masks": (mask_panels, lambda r: [r["masks"]]),
    "curves": (loss_curves, lambda r: [r["train-builtin"]["log_history"], "λ = 0.1"]),
    "price": (price_bars, lambda r: [r["bench-4k"], r["bench-32k"]]),
    "attention, tokens": (attention_maps, lambda r: [r["tiny"]]),
    "attention, parts": (attention_maps, lambda r: [r["parts"]]),
    "attention, heads": (attention_maps, lambda r: [r["heads"]]),
    "flow": (segment_flow, lambda r: [r["parts"]]),
    "flow, heads": (segment_flow, lambda r: [r["heads"]]),
    "leakage": (leakage_map, lambda r: [r["audit"]]),
    "leakage, control": (leakage_map, lambda r: [r["control"]]),
}


def texts(figure: Figure) -> list[Text]:
    found = figure.findobj(lambda artist: isinstance(artist, Text) and artist.get_visible())
    return [text for text in found if text.get_text().strip()]


@pytest.mark.parametrize("size", WIDTHS)
@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_has_the_width_and_type_of_its_size(records, name, size):
    draw, arguments = FIGURES[name]
    before = dict(mpl.rcParams)
    figure = draw(*arguments(records), size=size)
    assert dict(mpl.rcParams) == before
    assert figure.get_size_inches()[0] == WIDTHS[size]
    sizes = [text.get_fontsize() for text in texts(figure)]
    assert min(sizes) >= 6
    assert max(sizes) <= style.SIZES[size]["font.size"]
    drawn, page = figure.get_tightbbox(), figure.bbox_inches
    assert drawn.x0 > -0.05
    assert drawn.y0 > -0.05
    assert drawn.x1 < page.x1 + 0.05
    assert drawn.y1 < page.y1 + 0.05


def test_settings_come_back_when_drawing_fails():
    before = dict(mpl.rcParams)

    @styled
    def broken() -> Figure:
        assert mpl.rcParams["axes.spines.top"] is False
        raise RuntimeError("no figure")

    with pytest.raises(RuntimeError, match="no figure"):
        broken(size="paper")
    assert dict(mpl.rcParams) == before
    with pytest.raises(ValueError, match="poster"):
        broken(size="poster")


def test_figures_are_shares_of_the_text_width():
    @styled
    def half() -> Figure:
        assert style.text_width() in (648, 486, 234)
        return new_figure(0.5, width=0.5)

    assert half().get_size_inches().tolist() == [4.5, 4.5]
    assert half(size="paper").get_size_inches().tolist() == [3.375, 3.375]
    assert half(size="column").get_size_inches().tolist() == [1.625, 1.625]
    assert half.__name__ == "half"


def test_saved_files_are_whole_dateless_and_embed_their_type(tmp_path):
    @styled
    def plot() -> Figure:
        figure = new_figure(0.3)
        figure.subplots().plot([1, 2])
        return figure

    for kind in ("png", "pdf", "svg"):
        first = save_figure(plot(), tmp_path / "new" / f"a.{kind}").read_bytes()
        assert save_figure(plot(), tmp_path / f"b.{kind}").read_bytes() == first
    pdf = (tmp_path / "b.pdf").read_bytes()
    assert b"/FontFile2" in pdf  # TrueType: journals refuse Type 3
    assert b"/Type3" not in pdf
    assert {path.name for path in tmp_path.iterdir()} == {"new", "b.png", "b.pdf", "b.svg"}
    with pytest.raises(UserError, match="ends in"):
        save_figure(plot(), tmp_path / "b.bmp")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        save_figure(plot(), tmp_path / "file" / "a.png")


# ---- what the figures of attention and leakage say -------------------------------------------------------------


def test_attention_maps_label_what_fits(records):
    words = {text.get_text() for text in texts(attention_maps(records["tiny"]))}
    assert {"$", "↵", "boxed", "<|predictor|>"} <= words
    words = {text.get_text() for text in texts(attention_maps(records["parts"], size="paper"))}
    assert {"start", "question", "S1", "end", "PRED 1", "S2 copy"} <= words
    assert "boxed" not in words
    words = {text.get_text() for text in texts(attention_maps(records["heads"], size="paper"))}
    assert {"start, end", "S1", "PRED", "layer 4, head 3"} <= words


def test_forbidden_cells_are_hatched_and_no_colour_of_the_map(records):
    record = records["tiny"]
    figure = attention_maps(record)
    axes = figure.axes[0]
    assert any(patch.get_hatch() for patch in axes.patches)
    [image] = axes.images
    drawn, length = image.get_array(), len(record["tokens"])
    edges = style_edges(record)
    for q in range(length):
        for k in range(length):
            at = [int((edges[i] + edges[i + 1]) / 2 * len(drawn)) for i in (q, k)]
            seen = record["masks"][0]["rows"][q][k] == "1"
            assert bool(np.ma.getmaskarray(drawn)[at[0], at[1]]) == (not seen)
            if seen:
                assert drawn[at[0], at[1]] == record["maps"][0]["weights"][q][k]
    assert "forbidden mass 0" in figure.get_suptitle()
    broken = {**record["check"], "passed": False}
    broken["layers"] = [{**layer, "max_forbidden_mass": 0.25} for layer in broken["layers"]]
    assert "FORBIDDEN MASS 2.5e-01" in attention_maps({**record, "check": broken}).get_suptitle()


def style_edges(record: dict[str, Any]) -> np.ndarray:
    """Edges of the tokens on the axis, counted here: a part is at least 2% of the tokens wide."""
    widths = []
    for part in record["segments"]:
        size = part["end"] - part["start"]
        widths += [max(size, 0.02 * len(record["tokens"])) / size] * size
    return np.cumsum([0, *widths]) / sum(widths)


def test_flow_shows_the_numbers_of_the_record(records):
    record = records["parts"]
    axes = segment_flow(record).axes[0]
    names = [part["name"] for part in record["segments"]]
    shown = {(round(t.get_position()[1]), round(t.get_position()[0])): t.get_text() for t in axes.texts}
    row, column = names.index("PRED 2"), names.index("S2")
    assert shown[row, column] == f"{100 * record['maps'][0]['flow'][row][column]:.0f}"
    assert (row, names.index("S3")) not in shown  # after the context: forbidden
    assert (names.index("S2 copy"), names.index("question")) not in shown
    merged = segment_flow(records["heads"]).axes
    assert [axes.get_title() for axes in merged[:2]] == ["layer 0, mean of heads", "layer 4, mean of heads"]


def test_leaks_are_framed(records):
    clean, control = leakage_map(records["audit"]), leakage_map(records["control"])
    assert not clean.legends
    assert [text.get_text() for text in control.legends[0].get_texts()] == ["leaks by design"]
    cells = [{**cell, "ok": cell["segment"] != "prompt"} for cell in records["audit"]["cells"]]
    figure = leakage_map({**records["audit"], "cells": cells, "passed": False, "faults": ["one"]})
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["must not be"]
    assert "1 FAULTS" in figure.axes[0].get_title()


@pytest.mark.parametrize("name", ["$", "cost $5 and $6", "$x_", "a$b$c", r"\\$", "100%", "_^{", "\x1b[31m"])
def test_names_are_drawn_as_they_are(name, tmp_path):
    """Two dollar signs in a name are no formula."""

    @styled
    def draw():
        figure = new_figure(0.3)
        axes = figure.subplots()
        axes.plot([1, 2], label=name)
        axes.set_title(name)
        axes.set_yticks([1], [name])
        axes.legend()
        return figure

    figure = draw()
    assert figure.axes[0].get_title() == name
    assert not figure.axes[0].title.get_parse_math()
    save_figure(figure, tmp_path / "f.png")
