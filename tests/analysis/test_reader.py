"""A text as a language model reads it: its figures are those of the model, token by token."""

import math

import numpy as np
import pytest
import torch

from stepjepa.analysis import reader as reading
from stepjepa.analysis.reader import Reader
from stepjepa.data.encoding import chat_encoder
from stepjepa.models.loading import load_model
from stepjepa.records import UserError

TEXT = "She has 6 * 10 = 60 pens. Then 60 + 40 = 100 pens are left. The answer is \\boxed{100}."


@pytest.fixture(scope="module")
def loaded():
    return load_model()


def test_a_reading_is_what_the_model_says_of_the_answer(loaded):
    model, tokenizer = loaded
    read = Reader(model, tokenizer, layer=2)(TEXT)
    turns = [{"role": "user", "content": ""}, {"role": "assistant", "content": TEXT}]
    (encoded,) = chat_encoder(tokenizer).encode([turns])
    with torch.no_grad():
        out = model(input_ids=torch.tensor([encoded.ids]), output_hidden_states=True)
    first, last = encoded.prompt_length, encoded.prompt_length + len(read.starts)
    torch.testing.assert_close(torch.tensor(read.states), out.hidden_states[2][0, first:last], atol=1e-4, rtol=1e-4)
    # What comes before "Then" is one token or a space and the word: in both cases the word carries its probability.
    place = TEXT.index("Then")
    (token,) = np.flatnonzero((read.starts == place) & read.allowed)
    begin = token if encoded.offsets[first + token - 1][1] < encoded.rendering.start + place else token - 1
    tokens = range(first + begin, first + token + 1)
    log_p = [out.logits[0, i - 1].log_softmax(-1)[encoded.ids[i]].item() for i in tokens]
    assert math.isclose(read.surprisal[token], -sum(log_p), rel_tol=1e-3)
    before = out.logits[0, tokens[0] - 1].softmax(-1)
    assert math.isclose(read.entropy[token], torch.special.entr(before).sum().item(), rel_tol=1e-2, abs_tol=1e-4)
    line_ends = [i for i in range(len(tokenizer)) if tokenizer.decode([i]).lstrip(" ").startswith("\n")]
    assert math.isclose(read.separator[token], before[line_ends].sum().log().item(), rel_tol=1e-2, abs_tol=1e-4)


def test_cuts_stand_before_words_and_never_in_mathematics(loaded):
    text = "So $a + b = 3$ holds.  Then \\[ x = 4 \\] follows."
    read = Reader(*loaded)(text)
    allowed = {text[start:].split()[0] for start in read.starts[read.allowed]}
    assert allowed == {"$a", "holds.", "Then", "\\[", "follows."}


def test_line_ends_are_read_as_spaces_and_offsets_are_those_of_the_text(loaded):
    reader = Reader(*loaded)
    one, other = reader(TEXT), reader("\n" + TEXT.replace(". ", ".\n"))
    assert (other.starts == one.starts + 1).all()
    np.testing.assert_allclose(other.states, one.states, atol=1e-5)


def test_a_text_that_is_longer_than_the_model_is_read_in_parts(loaded, monkeypatch):
    monkeypatch.setattr(reading, "LONGEST", 32)
    read = Reader(*loaded)(" ".join([TEXT] * 4))
    assert len(read.starts) == len(read.surprisal) == len(read.states) > 64
    assert (np.diff(read.starts) >= 0).all()


def test_a_layer_that_is_not_there_is_refused(loaded):
    with pytest.raises(UserError, match="layer 99"):
        Reader(*loaded, layer=99)
