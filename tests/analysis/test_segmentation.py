"""Boundaries against known ones: counts and window errors by hand, and by NLTK where it is installed."""

import numpy as np
import pytest

from stepjepa.analysis.cuts import Cutter
from stepjepa.analysis.reader import Reading
from stepjepa.analysis.segmentation import (
    Solution,
    begins,
    counted,
    dealt,
    found_boundaries,
    joined,
    measured,
    near_hits,
    window_errors,
)
from stepjepa.data.examples import question_key
from stepjepa.data.steps import split_steps
from stepjepa.records import UserError


def marks(text):
    return np.array([character == "1" for character in text])


def test_separators_are_gone_and_steps_are_where_they_begin():
    text, offsets = joined(["One\nline.", "Two  words.", "End."])
    assert text == "One line. Two words. End."
    assert offsets == [0, 10, 21]
    assert begins(text, ["One line.", "Two words.", "End."]) == offsets
    assert begins("so so so", ["so", "so so"]) == [0, 3]


@pytest.mark.parametrize(
    ("known", "found", "exact", "near"),
    [
        ("0100010", "0100010", 2, 2),
        ("0100010", "0010010", 1, 2),
        ("0100010", "0001000", 0, 0),
        ("0100000", "1110000", 1, 1),  # one boundary is found once, however many cuts stand around it
        ("0011000", "0101000", 1, 2),
        ("0010100", "0001000", 0, 1),
    ],
)
def test_hits_by_hand(known, found, exact, near):
    row = counted(marks(known), marks(found))
    assert (row["hits"], row["near"]) == (exact, near)
    assert (row["known"], row["found"]) == (known.count("1"), found.count("1"))


def test_near_hits_are_as_many_as_can_be_matched():
    """Against the largest matching of small random sets, by trying all."""
    generator = np.random.default_rng(0)

    def largest(boundaries, cuts):
        if not cuts:
            return 0
        rest = [largest(boundaries - {b}, cuts[1:]) + 1 for b in boundaries if abs(b - cuts[0]) <= 1]
        return max([largest(boundaries, cuts[1:]), *rest])

    for _ in range(200):
        known, found = generator.random((2, 10)) < 0.4
        expected = largest(set(np.flatnonzero(known).tolist()), np.flatnonzero(found).tolist())
        assert near_hits(known, found) == expected


def test_window_errors_by_hand():
    known, found = marks("00010000"), marks("00000100")
    # k = half of the mean length 4 = 2; windows end at tokens 2 … 7 and hold cuts at the two tokens up to there:
    # known 0 1 1 0 0 0, found 0 0 0 1 1 0
    assert window_errors(known, found) == (4 / 6, 4 / 6)
    assert window_errors(known, known) == (0, 0)
    # Two cuts where one is: P_k sees that there is one, WindowDiff counts. known 0 1 1 0 0 0, found 1 2 1 0 0 0
    assert window_errors(known, marks("00110000")) == (1 / 6, 2 / 6)
    # Nothing found: as many windows are wrong as hold the boundary.
    assert window_errors(known, marks("00000000")) == (2 / 6, 2 / 6)


def test_window_errors_are_those_of_nltk():
    segmentation = pytest.importorskip("nltk.metrics.segmentation")
    generator = np.random.default_rng(1)
    for _ in range(50):
        known, found = generator.random((2, 40)) < 0.15
        known[0] = found[0] = False
        k = max(1, round(40 / (known.sum() + 1) / 2))
        # NLTK's windows are of boundaries, of which T tokens have T − 1 between them.
        one, other = ("".join("01"[int(m)] for m in marked[1:]) for marked in (known, found))
        p_k, window_diff = window_errors(known, found)
        assert p_k == pytest.approx(segmentation.pk(one, other, k=k))
        assert window_diff == pytest.approx(segmentation.windowdiff(one, other, k))


def solution(text, offsets):
    """Each word a token, whose surprisal is its length."""
    words = [(0 if i == 0 else text.index(" " + word, i) + 1, word) for i, word in _words(text)]
    starts = np.array([start for start, _ in words])
    lengths = np.array([len(word) for _, word in words], dtype=float)
    states = np.zeros((len(words), 2), dtype=np.float32)
    read = Reading(starts, starts > 0, lengths, lengths, lengths, states)
    return Solution(text, read, read.boundaries(offsets))


def _words(text):
    position = 0
    for word in text.split(" "):
        yield max(0, position - 1), word
        position += len(word) + 1


def test_measures_over_solutions():
    first = solution("aa bb cc dd ee ff gg longer hh ii jj kk ll mm nn oo", [21])
    second = solution("aa bb cc dd ee ff gg hh longer ii jj kk ll mm nn oo", [0])
    third = solution("aa bb cc dd ee ff gg hh ii longer jj kk ll mm nn oo", [27, 34])
    found = measured([first, second, third], Cutter("surprisal", 5), draws=200)
    # Cuts at «longer» alone: two are right, one is wrong, one boundary (a word after another cut) is not found.
    assert found["precision"][0] == pytest.approx(2 / 3)
    assert found["recall"][0] == pytest.approx(2 / 3)
    assert found["f1"][0] == pytest.approx(2 * 2 / (3 + 3))
    for estimate, low, high in found.values():
        assert low <= estimate <= high


def test_what_is_measured_is_what_prepare_would_cut():
    """Short fragments are merged, as `split_steps` merges them."""
    one = solution("first words of a longer step tiny bit second words of a longer step", [29])
    cuts = np.flatnonzero([word in ("tiny", "second") for word in one.text.split(" ")])
    one.reading.surprisal[cuts] = 99
    steps = split_steps(one.text, lambda _: [29, 38])
    assert steps == ["first words of a longer step tiny bit", "second words of a longer step"]
    assert one.reading.starts[found_boundaries(one, Cutter("surprisal", 50))].tolist() == [38]
    assert not found_boundaries(one, "sentence").any()


def test_no_question_is_trained_and_tested_on():
    examples = [{"question": f"q{i % 20}", "steps": ["a", "b"][: 1 + (i % 20 > 3)]} for i in range(40)]
    train, test = dealt({"one": examples}, 10, 6)["one"]
    names = [example["question"] for example in [*train, *test]]
    assert len(set(names)) == 16
    assert all(len(example["steps"]) == 2 for example in [*train, *test])
    with pytest.raises(UserError, match="16 questions"):
        dealt({"one": examples}, 10, 7)


def test_no_question_that_one_source_tests_on_is_trained_on_in_another():
    """Teacher responses to the questions of another source, and one of them in other white space."""
    one = [{"question": f"Question {i}?", "steps": ["a", "b"]} for i in range(40)]
    other = [{"question": f"question  {i}?", "steps": ["c", "d", "e"]} for i in range(39)]
    parts = dealt({"one": one, "other": other}, 15, 8)
    assert [(len(train), len(test)) for train, test in parts.values()] == [(15, 8), (15, 8)]
    trained, tested = ({question_key(e) for part in parts.values() for e in part[side]} for side in (0, 1))
    assert not trained & tested
    with pytest.raises(UserError, match="one: 40 questions"):
        dealt({"one": one, "other": other}, 30, 8)
