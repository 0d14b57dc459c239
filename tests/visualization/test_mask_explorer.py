"""The explorer without a browser: what the controls send to the canvas, and the still that stands in for it."""

import html
import re
from dataclasses import replace
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pytest
from ipywidgets import Widget

from stepjepa import load_model
from stepjepa.data.examples import make_example
from stepjepa.data.tokens import tokenize_example
from stepjepa.jepa.layout import StepJEPACollator
from stepjepa.jepa.masks import allowed
from stepjepa.jepa.pairs import ISOLATIONS
from stepjepa.jepa.reference import build_step2_isolation_mask
from stepjepa.records import UserError
from stepjepa.visualization.mask_explorer import OWN, PAIR_CHOICES, MaskCanvas, mask_explorer
from stepjepa.visualization.mask_pictures import VIEWS
from stepjepa.visualization.masks import STEP_COLOURS, group_colour, paint
from stepjepa.visualization.style import BLUE, ORANGE

EXAMPLE = make_example("What is 2 + 3 - 1?", ["2 + 3 = 5.", "5 - 1 = 4.", "The answer is 4."], "4", "t", None)


@pytest.fixture(scope="module")
def tokenizer():
    return load_model()[1]


@pytest.fixture
def explorer(tokenizer):
    return mask_explorer(tokenizer, [EXAMPLE])


def sent(explorer) -> np.ndarray:
    """The mask as the canvas has it."""
    count = len(explorer.canvas.picture["tokens"])
    return np.frombuffer(explorer.canvas.picture["cells"], np.uint8).reshape(count, count) > 0


def test_the_canvas_is_sent_the_mask_of_the_layout(explorer, tokenizer):
    row = tokenize_example(EXAMPLE, tokenizer)
    for pairs, options in PAIR_CHOICES.items():
        for isolation in ISOLATIONS:
            explorer.pairs.value, explorer.isolation.value = pairs, isolation
            batch = StepJEPACollator(tokenizer, replace(options, isolation=isolation))([row])
            expected = allowed(batch["segment_ids"], batch["prefix_segment"], batch["prefix_end"])[0].numpy()
            assert (sent(explorer) == expected).all(), (pairs, isolation)
            assert len(explorer.picture.tokens) == len(expected)


def test_views_pairs_and_predictors_change_the_picture(explorer, tokenizer):
    steps = np.array(tokenize_example(EXAMPLE, tokenizer)["step_ids"])
    length, ends = len(steps), [np.flatnonzero(steps == k)[-1] + 1 for k in range(3)]
    explorer.view.value = "plain causal"
    assert (sent(explorer) == np.tril(np.ones((length, length)))).all()
    explorer.view.value = "two-pass"
    explorer.predictors.value = 3
    assert (sent(explorer) == build_step2_isolation_mask(length + 3, ends[0] + 3, ends[1] + 3).numpy()).all()
    explorer.pairs.value = "consecutive"
    assert explorer.pair.options == (("S1→S2", 0), ("S2→S3", 1))
    explorer.pair.value = 1
    assert (sent(explorer) == build_step2_isolation_mask(length + 3, ends[1] + 3, ends[2] + 3).numpy()).all()
    explorer.view.value = "difference"
    assert {label for _, label in explorer.canvas.picture["legend"]} == {
        "repeats the first pass",
        "computed in the branch",
        "left out by one pass",
    }
    explorer.pairs.value = "none"
    assert explorer.pair.disabled
    assert explorer.picture.summary.startswith("No view pair, so the first pass only")


def test_words_follow_the_token(explorer):
    assert explorer.words.endswith("because its step is read in isolation. The target view of S1→S2 is read here.")
    before = explorer.words
    explorer.selected = 0
    assert (
        explorer.words
        == "prompt token 1 sees: prompt token 1, because the trunk is plain causal and never sees a branch."
    )
    explorer.canvas.selected = len(explorer.picture.tokens) - 1  # as the canvas does on a click
    assert explorer.words == before


def test_the_token_looked_at_stays_the_same_text(explorer):
    named = {}
    for view in ("difference", "single-pass", "two-pass", "plain causal"):
        explorer.view.value = view
        named[view] = explorer.picture.tokens[explorer.canvas.selected].name
    size = named["two-pass"].rsplit(" ", 1)[1]
    assert named.pop("single-pass") == f"S2 copy token {size}"  # what the second pass isolates is a copy here
    assert set(named.values()) == {f"S2 token {size}"}


def test_colours_are_those_of_the_text_seen(explorer):
    picture = explorer.canvas.picture
    legend = dict((label, colour) for colour, label in picture["legend"])
    assert legend["S1"] == BLUE
    assert legend["predictor"] == ORANGE
    assert [part["name"] for part in picture["parts"]] == [
        "prompt",
        "S1",
        "S2",
        "S3",
        "end of turn",
        "predictor S1→S2",
        "S2 copy",
    ]
    cells = paint(explorer.picture)[0]
    copy = picture["parts"][-1]
    assert picture["legend"][cells[-1, copy["start"]] - 1][1] == "S2"
    assert len({*STEP_COLOURS, group_colour("predictor"), group_colour("prompt")}) == len(STEP_COLOURS) + 2
    assert group_colour("S11") == group_colour("S1")


def test_where_views_are_read_is_marked(explorer):
    parts = {part["name"]: part for part in explorer.canvas.picture["parts"]}
    assert explorer.canvas.picture["reads"] == [
        {"row": parts["predictor S1→S2"]["start"], "view": "context"},
        {"row": parts["S2 copy"]["end"] - 1, "view": "target"},
    ]


def test_ones_own_text(explorer):
    explorer.example.value = OWN
    assert [part["name"] for part in explorer.canvas.picture["parts"]][1:3] == ["S1", "S2"]
    explorer.steps.value = "One.\n\nTwo.\n\n\nThree."
    assert [part["name"] for part in explorer.canvas.picture["parts"]][1:4] == ["S1", "S2", "S3"]
    before = explorer.canvas.picture
    explorer.steps.value = " \n"
    assert "at least one step" in explorer.message.value
    assert explorer.canvas.picture == before
    explorer.steps.value = "<b>Only & one</b>"
    assert explorer.message.value == ""
    assert explorer.picture.summary.endswith(
        "tokens of trunk and 0 of branches: "
        f"{len(explorer.picture.tokens)} rows, {sent(explorer).sum()} cells that may be attended to."
    )


def test_an_example_that_cannot_be_tokenized(tokenizer):
    broken = {**EXAMPLE, "steps": ["Something else."]}
    explorer = mask_explorer(tokenizer, [EXAMPLE, broken])
    explorer.example.value = 1
    assert "cannot be tokenized" in explorer.message.value
    explorer.example.value = 0
    assert explorer.message.value == ""
    with pytest.raises(UserError, match="cannot be tokenized"):
        mask_explorer(tokenizer, [broken])


def test_the_callers_tokenizer_does_not_grow(tokenizer):
    before = dict(tokenizer.get_added_vocab())
    mask_explorer(tokenizer, [EXAMPLE])
    assert tokenizer.get_added_vocab() == before


def test_builtin_examples_are_one_for_each_number_of_steps():
    explorer = mask_explorer()
    labels = [label for label, _ in explorer.example.options]
    assert [label.split(" steps")[0] for label in labels] == ["3", "4", "5", "6", "7", "write your own"]


# -------- where no widget runs --------


def test_the_bundle_is_a_line_and_a_still(explorer):
    bundle = explorer._repr_mimebundle_()
    assert bundle["text/plain"].splitlines() == [
        "Mask explorer, single-pass, first pairs, isolation step, predictors 1. " + explorer.picture.summary
    ]
    again = mask_explorer(explorer._tokenizer, [EXAMPLE])._repr_mimebundle_()
    assert again["text/html"] == bundle["text/html"]  # a notebook's stored output is compared to the character
    explorer.view.value = "difference"
    assert explorer._repr_mimebundle_()["text/html"] != bundle["text/html"]


@pytest.mark.parametrize("view", VIEWS)
def test_the_still_draws_the_mask_and_holds_the_words(explorer, view):
    explorer.view.value = view
    page = explorer._repr_mimebundle_()["text/html"]
    assert "<script" not in page
    assert "http" not in unquote(page).replace("http://www.w3.org/2000/svg", "")
    svg = ElementTree.fromstring(unquote(re.search(r'src="data:image/svg\+xml,([^"]*)"', page)[1]))
    count = len(explorer.picture.tokens)
    edge = svg.findall("{*}rect")[1]
    cell = int(edge.get("width")) // count
    drawn = np.zeros((count, count), dtype=int)
    for path in svg.findall("{*}path"):
        for x, y, length in re.findall(r"M(\d+) (\d+)h(\d+)v\d+h-", path.get("d")):
            row, start = (int(y) - int(edge.get("y"))) // cell, (int(x) - int(edge.get("x"))) // cell
            drawn[row, start : start + int(length) // cell] += 1
    assert (drawn == explorer.picture.mask).all()
    titles = [html.unescape(title) for title in re.findall(r'<area [^>]*title="([^"]*)"', page)]
    assert titles == [explorer.picture.sentence(t) for t in range(count)]
    name = re.search(r'usemap="#([^"]+)"', page)[1]
    assert f'<map name="{name}">' in page


def test_the_canvas_brings_its_own_code():
    """Nothing is loaded from elsewhere: the widget sends the files of the package."""
    canvas = MaskCanvas()
    assert "export default" in canvas._esm
    assert not re.search(r"https?://|\bimport\b.*from", canvas._esm)
    assert ".stepjepa-mask" in canvas._css
    assert isinstance(canvas, Widget)
