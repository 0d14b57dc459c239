"""Linked explorers: what is chosen in one is shown in the others."""

import pytest

from stepjepa import load_model
from stepjepa.analysis.encode import encode_examples
from stepjepa.data.sources import read_examples
from stepjepa.records import UserError
from stepjepa.visualization.attention_explorer import attention_explorer
from stepjepa.visualization.embedding_explorer import embedding_explorer
from stepjepa.visualization.linking import link
from stepjepa.visualization.mask_explorer import OWN, mask_explorer


@pytest.fixture(scope="module")
def made():
    """The built-in tokenizer, eight problems and their embeddings."""
    model, tokenizer = load_model()
    examples, _ = read_examples("builtin", split="test", count=8, seed=1)
    return tokenizer, examples, encode_examples(model, tokenizer, examples, progress=False)


@pytest.fixture
def both(made):
    """A linked pair, whose examples stand in different orders."""
    tokenizer, examples, embeddings = made
    masks, points = mask_explorer(tokenizer, examples[::-1]), embedding_explorer(embeddings, seeds=())
    link(masks, points)
    return masks, points


def row_of(points, example, step, view):
    own = points.points
    return next(i for i in range(len(own)) if (own.example[i], own.step[i], own.view[i]) == (example, step, view))


def test_a_step_chosen_on_the_map_is_the_row_of_the_mask(both, made):
    masks, points = both
    points.selected = row_of(points, 2, 3, "context")
    assert masks.example.value == len(made[1]) - 1 - 2
    assert masks.pairs.value == "consecutive"  # the first pair alone does not hold it
    assert "The context view of S3→S4 is read here." in masks.words
    points.selected = row_of(points, 2, 3, "target")
    assert "The target view of S3→S4 is read here." in masks.words
    points.selected = row_of(points, 5, 1, "target")
    assert masks.example.value == len(made[1]) - 1 - 5
    assert "The target view of S1→S2 is read here." in masks.words
    masks.view.value = "two-pass"
    points.selected = row_of(points, 5, 2, "context")
    assert masks.pair.label == "S2→S3"
    assert "The context view of S2→S3 is read here." in masks.words
    points.shown.value = "step ends"
    points.selected = row_of(points, 5, 0, "state")
    token = masks.picture.tokens[masks.selected]
    assert (token.part, token.number) == ("S1", token.size)


def test_a_pair_chosen_in_the_mask_is_where_both_views_lie(both, made):
    masks, points = both
    longest = max(range(8), key=lambda i: len(made[1][i]["steps"]))
    masks.example.value, masks.pairs.value = 7 - longest, "consecutive"
    rows = {about: row for row, about in masks.picture.views.items()}
    masks.selected = rows[2, "target"]
    assert points.selected == row_of(points, longest, 3, "target")
    assert points.points.partner[points.selected] == row_of(points, longest, 3, "context")  # joined to it by a line
    masks.selected = rows[1, "context"]
    assert points.selected == row_of(points, longest, 2, "context")
    before = points.selected
    masks.selected = 0  # a token of the prompt is no view
    assert points.selected == before
    masks.view.value = "two-pass"
    masks.pair.value = 0
    assert points.selected == row_of(points, longest, 1, "context")
    masks.example.value = OWN
    assert points.selected == row_of(points, longest, 1, "context")


def test_the_attention_follows_and_leads(made):
    tokenizer, examples, embeddings = made
    model, _ = load_model(attn_implementation="eager")
    attention = attention_explorer(model, tokenizer, examples)
    masks, points = mask_explorer(tokenizer, examples), embedding_explorer(embeddings, seeds=())
    link(points, masks, attention)
    points.selected = row_of(points, 2, 1, "target")
    assert attention.example == 2
    assert "The target view of S1→S2 is read here." in attention.words
    attention.choose(4, 0, "context")
    assert points.selected == row_of(points, 4, 1, "context")
    assert "The context view of S1→S2 is read here." in masks.words
    attention.position = 0  # of the prompt: no view
    assert points.selected == row_of(points, 4, 1, "context")


def test_a_link_ends(made):
    masks, points = mask_explorer(made[0], made[1]), embedding_explorer(made[2], seeds=())
    link(masks, points)()
    before = masks.example.value, masks.selected
    points.selected = row_of(points, 6, 2, "target")
    assert (masks.example.value, masks.selected) == before


def test_explorers_of_other_problems_are_not_linked(made):
    with pytest.raises(UserError, match="share no problem"):
        link(mask_explorer(), embedding_explorer(made[2], seeds=()))
