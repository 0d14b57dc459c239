"""The attention explorer without a browser: the bytes that it sends, what can be set and linked, and its still."""

import base64
import html
import io
import re
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
import transformers as tf
from PIL import Image
from traitlets import HasTraits, Int, TraitError, link

from stepjepa import BranchLayout, StepJEPACollator, encode_views, load_model, tokenize_example
from stepjepa.analysis.encode import random_weights
from stepjepa.data.examples import make_example
from stepjepa.jepa.masks import allowed
from stepjepa.records import UserError
from stepjepa.visualization import attention_pictures
from stepjepa.visualization.attention_explorer import LAYOUT, AttentionExplorer, attention_explorer
from stepjepa.visualization.attention_pictures import MEAN, RAMPS, colour, from_bytes, to_bytes

EXAMPLE = make_example("What is 2 + 3 - 1?", ["2 + 3 = 5.", "5 - 1 = 4.", "The answer is 4."], "4", "t", None)
OTHER = make_example("What is 1 + 1?", ["1 + 1 = 2.", "The answer is 2."], "2", "t", None)


@pytest.fixture(scope="module")
def models():
    """Two models of one shape, the tokenizer, and their weights on `EXAMPLE`, read here without the explorer."""
    model, tokenizer = load_model(attn_implementation="eager")
    named = {"before": random_weights(model, 0).eval(), "after": model.eval()}
    batch = StepJEPACollator(tokenizer, LAYOUT)([tokenize_example(EXAMPLE, tokenizer)])
    with torch.no_grad():
        weights = {
            name: torch.stack(encode_views(own, batch, attentions=True).attentions)[:, 0].numpy()
            for name, own in named.items()
        }
    return named, tokenizer, batch, weights


@pytest.fixture
def explorer(models):
    return attention_explorer(models[0], models[1], [EXAMPLE, OTHER])


def sent(explorer: AttentionExplorer, shown: int, layer: int) -> tuple[dict, np.ndarray, np.ndarray]:
    """What the canvas is given when it asks for a picture: words, mask `[L, L]`, bytes `[1 + heads, cells]`."""
    answers = []
    explorer.send = lambda content, buffers: answers.append((content, buffers))
    explorer._answer({"example": explorer.example, "shown": shown, "layer": layer})
    ((content, (bits, codes)),) = answers
    count = len(content["tokens"])
    mask = np.unpackbits(np.frombuffer(bits, np.uint8), count=count**2).reshape(count, count).astype(bool)
    kind = np.int8 if content["signed"] else np.uint8
    return content, mask, np.frombuffer(codes, kind).reshape(1 + content["heads"], mask.sum())


# -------- bytes --------


def test_bytes_are_wrong_by_no_more_than_they_say():
    weights = np.concatenate([np.geomspace(1e-7, 1, 5001), [0]])
    root = np.sqrt(weights)
    codes = to_bytes(weights)
    assert codes.dtype == np.uint8
    assert (np.abs(from_bytes(codes) - weights) <= root / 255 + 1 / 510**2 + 1e-7).all()
    assert from_bytes(codes)[-1] == 0
    for sign in (1, -1):
        codes = to_bytes(sign * weights, signed=True)
        assert codes.dtype == np.int8
        assert (np.abs(from_bytes(codes) - sign * weights) <= root / 127 + 1 / 254**2 + 1e-7).all()


@pytest.mark.parametrize("layer", [0, 4])
@pytest.mark.parametrize("shown", [0, 1])
def test_weights_sent_are_those_of_the_model(explorer, models, shown, layer):
    _, _, batch, weights = models
    content, mask, codes = sent(explorer, shown, layer)
    vectors = (batch[name] for name in ("segment_ids", "prefix_segment", "prefix_end"))
    assert (mask == allowed(*vectors)[0].numpy()).all()
    expected = weights[list(weights)[shown]][layer]
    assert (expected[:, ~mask] == 0).all()  # what is not sent is exactly 0
    for row, own in zip(codes, [expected.mean(axis=0), *expected], strict=True):
        full = own[mask]
        bound = np.sqrt(full) / 255 + 1 / 510**2 + full / 2048  # the last: weights are kept in float16
        assert (np.abs((row / 255.0) ** 2 - full) <= bound + 1e-6).all()
    assert "exactly 0" in content["summary"]
    assert codes.nbytes == (1 + 5) * mask.sum()


def test_a_difference_is_the_later_model_less_the_first(explorer, models):
    weights = models[3]
    content, mask, codes = sent(explorer, 2, 1)
    assert content["signed"]
    assert explorer.choices["shown"] == ["before", "after", "after − before"]
    expected = (weights["after"] - weights["before"])[1][:, mask]
    most = np.maximum(weights["after"], weights["before"])[1][:, mask]
    bound = np.sqrt(np.abs(expected)) / 127 + 1 / 254**2 + most / 1024
    roots = codes[1:] / 127.0
    assert (np.abs(roots * np.abs(roots) - expected) <= bound + 1e-5).all()
    assert codes.any()
    same = attention_explorer({"one": models[0]["after"], "again": models[0]["after"]}, models[1], [EXAMPLE])
    assert not sent(same, 2, 1)[2].any()


def test_weight_on_a_forbidden_cell_is_said(models, monkeypatch):
    def leaking(model, batch):
        weights = read(model, batch)
        weights[3][0, 2, 0, -1] = 0.25
        return weights

    read = attention_pictures.read_attention
    monkeypatch.setattr(attention_pictures, "read_attention", leaking)
    explorer = attention_explorer(models[0]["after"], models[1], [EXAMPLE])
    assert "FORBIDDEN CELLS WEIGH UP TO 2.5e-01 in layer 3" in sent(explorer, 0, 0)[0]["summary"]
    assert "the mask does not hold" in explorer.summary


def test_a_layer_with_a_window_has_a_mask_of_its_own(models):
    config = tf.Gemma3TextConfig(
        vocab_size=len(models[1]), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, sliding_window=7, layer_types=["sliding_attention", "full_attention"],
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    explorer = attention_explorer(tf.Gemma3ForCausalLM(config), models[1], [EXAMPLE])
    (near, short, _), (whole, full, _) = (sent(explorer, 0, layer) for layer in (0, 1))
    assert short.sum(axis=1).max() == 7
    assert (short <= full).all()
    trunk = next(part["start"] for part in near["parts"] if part["branch"])
    assert full[trunk - 1].sum() == trunk
    assert near["sentences"][trunk - 1].endswith("and this layer has a window of 7 positions.")
    assert "window" not in whole["sentences"][trunk - 1]
    with pytest.raises(UserError, match="one: 2 layers × 4 heads; two: 5 layers × 5 heads"):
        attention_explorer({"one": tf.Gemma3ForCausalLM(config), "two": models[0]["after"]}, models[1])


# -------- what is chosen --------


def test_branches_stand_beside_their_target(explorer):
    parts = explorer.story.parts()
    rows = {part["name"]: part["row"] for part in parts}
    assert [part["name"] for part in parts if not part["branch"]] == ["prompt", "S1", "S2", "S3", "end of turn"]
    assert rows["predictor S1→S2"] == rows["S2 copy"] == rows["S2"] == 2
    assert rows["predictor S2→S3"] == rows["S3 copy"] == rows["S3"] == 3


@pytest.mark.parametrize("layout", [LAYOUT, BranchLayout("question_answer"), BranchLayout("first", isolation="none")])
def test_a_step_and_a_view_choose_a_token(models, layout):
    explorer = attention_explorer(models[0]["after"], models[1], [OTHER, EXAMPLE], layout=layout)
    batch = StepJEPACollator(models[1], layout)([tokenize_example(EXAMPLE, models[1])])
    for pair in range(batch["context_index"].shape[1]):
        for view in ("context", "target"):
            assert explorer.choose(1, int(batch[f"{view}_step"][0, pair]), view)
            assert (explorer.example, explorer.position) == (1, int(batch[f"{view}_index"][0, pair]))
            assert f"The {view} view of " in explorer.words
    assert explorer.choose(1, 2, "state")
    assert explorer.position == int(np.flatnonzero(batch["step_ids"][0].numpy() == 2)[-1])
    before = explorer.position
    assert not explorer.choose(0, 7, "target")
    assert (explorer.example, explorer.position) == (1, before)


def test_what_there_is_not_cannot_be_chosen(explorer):
    end = len(explorer.story.texts)
    for name, wrong in (
        ("layer", 5),
        ("layer", -1),
        ("head", 5),
        ("head", -2),
        ("shown", 3),
        ("example", 2),
        ("position", end),
    ):
        before = getattr(explorer, name)
        with pytest.raises(TraitError, match=f"there is no {name} {wrong}"):
            setattr(explorer, name, wrong)
        assert getattr(explorer, name) == before
    explorer.layer, explorer.head, explorer.shown, explorer.position = 0, 4, 2, end - 1
    explorer.example = 1  # which has fewer tokens
    assert explorer.position == max(explorer.story.picture.reads) < end - 1


def test_another_explorer_can_be_linked(explorer):
    class Another(HasTraits):
        row = Int(3)

    another = Another()
    link((another, "row"), (explorer, "position"))
    assert explorer.position == 3
    explorer.position = 5
    assert another.row == 5


def test_examples_that_cannot_be_shown(models):
    single = make_example("What is 1 + 1?", ["2"], "2", "t", None)
    with pytest.raises(UserError, match="no view pair"):
        attention_explorer(models[0]["after"], models[1], [single])
    explorer = attention_explorer(models[0]["after"], models[1], [EXAMPLE, single])
    with pytest.raises(UserError, match="no view pair"):
        explorer.example = 1
    assert explorer.example == 0
    answers = []
    explorer.send = lambda content, buffers: answers.append(content)
    explorer._answer({"example": 1, "shown": 0, "layer": 0})
    assert "no view pair" in answers[0]["error"]
    with pytest.raises(UserError, match="no model"):
        attention_explorer({}, models[1])


def test_a_long_text_loses_whole_steps(models):
    long = make_example(
        "Count.", [f"This is number {i}, and that is all there is to say of it." for i in range(60)], "0", "t", None
    )
    explorer = attention_explorer(models[0]["after"], models[1], [long])
    trunk = next(part["start"] for part in explorer.story.parts() if part["branch"])
    assert 480 < trunk <= 512


# -------- words and still --------


def test_words_say_where_a_token_looks(explorer, models):
    explorer.shown, explorer.layer, explorer.head = 1, 2, 3
    row = models[3]["after"][2, 3, explorer.position]
    most = explorer.story.picture.tokens[int(row.argmax())].name
    assert f"Most attention: {most} {row.max():.2f}" in explorer.words
    assert explorer.words.startswith(explorer.story.picture.sentence(explorer.position))
    explorer.shown = 2
    change = models[3]["after"][2, 3, explorer.position] - models[3]["before"][2, 3, explorer.position]
    most = explorer.story.picture.tokens[int(np.abs(change).argmax())].name
    assert f"Largest differences: {most} {change[np.abs(change).argmax()]:+.2f}" in explorer.words


def test_the_still_draws_the_weights_and_holds_the_words(explorer):
    explorer.shown, explorer.layer, explorer.head = 1, 0, 2
    bundle, _ = explorer._repr_mimebundle_()
    assert bundle["text/plain"] == explorer.summary
    page = bundle["text/html"]
    assert "<script" not in page
    assert "http" not in unquote(page).replace("http://www.w3.org/2000/svg", "")
    svg = ElementTree.fromstring(unquote(re.search(r'src="data:image/svg\+xml,([^"]*)"', page)[1]))
    images = [image.get("href").split(",")[1] for image in svg.findall("{*}image")]
    assert len(images) == 1 + 1 + 5  # what is chosen, the mean, and every head
    assert images[0] == images[2 + explorer.head]
    pixels = np.array(Image.open(io.BytesIO(base64.b64decode(images[0]))))
    mask = explorer.story.masks[0]
    assert ((pixels[..., 3] > 0) == mask).all()  # a forbidden cell has no colour: the hatching is seen
    strong = pixels[..., :3].sum(axis=-1)[mask].argsort()
    weights = explorer.story.weights(1, 0, 2)[mask]
    assert weights[strong[0]] == weights.max()
    titles = [html.unescape(title) for title in re.findall(r'<area [^>]*title="([^"]*)"', page)]
    assert [title.split(" Most attention")[0] for title in titles] == explorer.story.sentences(0)
    explorer.head = MEAN
    assert explorer._repr_mimebundle_()[0]["text/html"] != page


def test_colours_tell_sign_and_size_apart_also_without_hue():
    values = np.array([1, 0.1, 0.01, 0.001, 0, -0.001, -0.01, -0.1, -1])
    for theme in RAMPS:
        drawn = colour(values, theme).astype(float)
        light = drawn @ [0.299, 0.587, 0.114]
        away = np.abs(light - light[4])
        assert (np.diff(away[:4]) < -20).all()  # four steps of lightness, whatever the hue
        assert (np.diff(away[5:]) > 20).all()
        assert (drawn[3:6] == drawn[4]).all()
        more, less = drawn[[1, 2]], drawn[[7, 6]]
        assert (more[:, 2] > more[:, 0] + 40).all()  # blue against yellow, which the colour-blind tell apart
        assert (less[:, 0] > less[:, 2] + 40).all()


def test_the_canvas_brings_its_own_code():
    assert "export default" in AttentionExplorer._esm
    assert not re.search(r"https?://|\bimport\b.*from", AttentionExplorer._esm)
