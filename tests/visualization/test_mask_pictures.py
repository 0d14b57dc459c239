"""The words of every token name exactly what the mask lets it see, and the counts are those of the masks."""

import itertools
import re

import numpy as np
import pytest
from small_models import collator, small_rows

from stepjepa.jepa.masks import allowed
from stepjepa.jepa.reference import build_step2_isolation_mask
from stepjepa.visualization.mask_pictures import AGAIN, BRANCH, LEFT_OUT, VIEWS, MaskPicture, MaskStory, Token, listing

PAIR_OPTIONS = (
    {"pairs": "first"},
    {"pairs": "consecutive"},
    {"pairs": "horizon", "horizon": 2},
    {"pairs": "question_answer"},
    {"pairs": "none"},
)
LAYOUTS = [
    {**pairs, "isolation": isolation, "predictors": predictors, "padding_side": side}
    for pairs, isolation, predictors, side in itertools.product(
        PAIR_OPTIONS, ("step", "sink", "none"), (1, 2, 3), ("left", "right")
    )
]


def stories(**options):
    batch = collator(**options)(small_rows())
    return batch, [MaskStory(batch, str, row) for row in range(len(batch["input_ids"]))]


def named(sentence: str, picture: MaskPicture) -> set[int]:
    """Read the words back into columns: the inverse of what is tested, written from the grammar alone."""
    place = {(token.part, token.number): i for i, token in enumerate(picture.tokens)}
    listed = re.fullmatch(r".+? sees: (.+?), because .+", sentence)[1]
    columns = []
    for phrase in listed.split(", "):
        part, spans = re.fullmatch(r"(.+?)(?: tokens? ([\d–]+(?: and [\d–]+)*))?", phrase).groups()
        if spans is None:
            assert (part, 2) not in place, f"{part} has several tokens, and none is named"
        for span in (spans or "1").split(" and "):
            first, _, last = span.partition("–")
            columns += [place[part, number] for number in range(int(first), int(last or first) + 1)]
    assert len(columns) == len(set(columns)), sentence
    return set(columns)


@pytest.mark.parametrize("options", LAYOUTS, ids=lambda o: "-".join(str(value) for value in o.values()))
def test_every_sentence_names_the_row_of_the_mask(options):
    batch, own = stories(**options)
    sees = allowed(batch["segment_ids"], batch["prefix_segment"], batch["prefix_end"]).numpy()
    for row, story in enumerate(own):
        for view, pair in itertools.product(VIEWS, range(max(1, len(story.pairs)))):
            picture = story.picture(view, pair)
            if view == "single-pass":
                assert (picture.mask == sees[row]).all()
            for t in range(len(picture.tokens)):
                assert named(picture.sentence(t), picture) == set(np.flatnonzero(picture.mask[t]).tolist())


@pytest.mark.parametrize("options", LAYOUTS, ids=lambda o: "-".join(str(value) for value in o.values()))
def test_what_a_view_depends_on_is_never_left_out(options):
    """Whatever the read rows see, directly or through other rows, one pass has computed."""
    for story in stories(**options)[1]:
        for pair in range(len(story.pairs)):
            picture = story.picture("difference", pair)
            assert len(picture.reads) == 2
            needed = np.zeros(len(picture.tokens), dtype=bool)
            needed[list(picture.reads)] = True
            for _ in picture.tokens:
                needed |= picture.mask[needed].any(axis=0)
            one_pass = np.array(picture.one_pass)
            assert LEFT_OUT not in one_pass[needed]
            if options["isolation"] == "none":
                assert LEFT_OUT not in one_pass
            assert (one_pass == BRANCH).sum() == sum(
                token.group == "predictor" or "in isolation" in why
                for token, why in zip(picture.tokens, picture.why, strict=True)
            )


def row_of(prompt: int, steps: list[int]) -> dict[str, list[int]]:
    step_ids = [-1] * prompt + [k for k, size in enumerate(steps) for _ in range(size)] + [-1]
    return {"input_ids": list(range(10, 10 + len(step_ids))), "labels": [-100] * len(step_ids), "step_ids": step_ids}


def story_of(prompt: int, steps: list[int], **options) -> MaskStory:
    return MaskStory(collator(**options)([row_of(prompt, steps)]), str)


def words(story: MaskStory, view: str, pair: int = 0) -> list[str]:
    picture = story.picture(view, pair)
    return [picture.sentence(t) for t in range(len(picture.tokens))]


def test_words_of_the_two_pass_form():
    assert words(story_of(2, [2, 2, 1]), "two-pass") == [
        "prompt token 1 sees: prompt token 1, because the second pass is plain causal before its predictor.",
        "prompt token 2 sees: prompt tokens 1–2, because the second pass is plain causal before its predictor.",
        "S1 token 1 sees: prompt tokens 1–2, S1 token 1, because the second pass is plain causal before its predictor.",
        "S1 token 2 sees: prompt tokens 1–2, S1 tokens 1–2, because the second pass is plain causal before its predictor.",
        "predictor S1→S2 sees: prompt tokens 1–2, S1 tokens 1–2, predictor S1→S2, because a predictor token sees the "
        "sequence up to the end of S1, and predictor tokens up to itself. The context view of S1→S2 is read here.",
        "S2 token 1 sees: S2 token 1, because its step is read in isolation.",
        "S2 token 2 sees: S2 tokens 1–2, because its step is read in isolation. The target view of S1→S2 is read here.",
        "S3 sees: prompt tokens 1–2, S1 tokens 1–2, predictor S1→S2, S2 tokens 1–2, S3, because it stands after the "
        "predictor and is not isolated, so it stays causal.",
        "end of turn sees: prompt tokens 1–2, S1 tokens 1–2, predictor S1→S2, S2 tokens 1–2, S3, end of turn, because "
        "it stands after the predictor and is not isolated, so it stays causal.",
    ]


def test_words_of_the_single_pass_and_of_the_sink():
    assert words(story_of(2, [1, 2], isolation="sink", predictors=2), "single-pass")[4:] == [
        "S2 token 2 sees: prompt tokens 1–2, S1, S2 tokens 1–2, because the trunk is plain causal and never sees a "
        "branch.",
        "end of turn sees: prompt tokens 1–2, S1, S2 tokens 1–2, end of turn, because the trunk is plain causal and "
        "never sees a branch.",
        "predictor S1→S2 token 1 sees: prompt tokens 1–2, S1, predictor S1→S2 token 1, because a predictor token sees "
        "the sequence up to the end of S1, and predictor tokens up to itself.",
        "predictor S1→S2 token 2 sees: prompt tokens 1–2, S1, predictor S1→S2 tokens 1–2, because a predictor token "
        "sees the sequence up to the end of S1, and predictor tokens up to itself. The context view of S1→S2 is read "
        "here.",
        "S2 copy token 1 sees: prompt token 1, S2 copy token 1, because its step is read in isolation, but for the "
        "first token of the sequence, the attention sink.",
        "S2 copy token 2 sees: prompt token 1, S2 copy tokens 1–2, because its step is read in isolation, but for the "
        "first token of the sequence, the attention sink. The target view of S1→S2 is read here.",
    ]


def test_words_without_isolation_and_of_the_whole_answer():
    none = words(story_of(1, [2, 2], isolation="none"), "two-pass")
    assert none[5] == (
        "S2 token 2 sees: prompt, S1 tokens 1–2, S2 tokens 1–2, because isolation is none: the predictor is hidden from "
        "later rows, which are those of the first pass. The target view of S1→S2 is read here."
    )
    answer = words(story_of(2, [1, 2], pairs="question_answer"), "single-pass")
    assert answer[6:] == [
        "predictor question→answer sees: prompt tokens 1–2, predictor question→answer, because a predictor token sees "
        "the sequence up to the end of the question, and predictor tokens up to itself. The context view of "
        "question→answer is read here.",
        "answer copy token 1 sees: answer copy token 1, because the answer is read in isolation.",
        "answer copy token 2 sees: answer copy tokens 1–2, because the answer is read in isolation.",
        "answer copy token 3 sees: answer copy tokens 1–3, because the answer is read in isolation. The target view of "
        "question→answer is read here.",
    ]
    copies = story_of(2, [1, 2], pairs="question_answer").picture("single-pass").tokens[7:]
    assert [token.group for token in copies] == ["S1", "S2", "S2"]


def test_pictures_are_those_of_the_executable_specification():
    """Written out: two prompt tokens, steps of 2, 3 and 1 tokens, an end of turn; the predictor at column 4."""
    assert (story_of(2, [2, 3, 1]).picture("two-pass").mask == build_step2_isolation_mask(10, 5, 8).numpy()).all()
    consecutive = story_of(2, [2, 3, 1], pairs="consecutive")
    assert consecutive.pairs == ("S1→S2", "S2→S3")
    assert (consecutive.picture("two-pass", 1).mask == build_step2_isolation_mask(10, 8, 9).numpy()).all()
    assert (consecutive.picture("plain causal").mask == np.tril(np.ones((9, 9)))).all()


def test_difference_counts_what_each_form_computes():
    """By hand, prompt 2, S1 2, S2 2, end 1, so 7 tokens. First pass: 28 cells.

    Second pass, 8 rows: 10 cells before the predictor, 5 of the predictor, 1 + 2 of S2, 8 of the end of turn: 26.
    One pass: 28 + 5 + 3 cells in 7 + 1 + 2 rows.
    """
    picture = story_of(2, [2, 2]).picture("difference")
    assert picture.one_pass == (AGAIN,) * 4 + (BRANCH,) * 3 + (LEFT_OUT,)
    assert picture.summary == (
        "Of the 26 cells of the second pass for S1→S2, 10 repeat the first pass, 8 are the branch, and no view depends "
        "on the other 8. With 1 view pair, the two-pass form computes 15 rows and 54 cells; one pass computes "
        "10 rows and 36 cells."
    )


def test_difference_notices_a_branch_that_is_not_the_second_pass():
    batch = collator()([row_of(2, [2, 2])])
    assert MaskStory(batch, str).picture("difference").one_pass.count(BRANCH) == 3
    for name, column, value in (("prefix_end", 7, 2), ("position_ids", 8, 0), ("input_ids", 9, 5)):
        wrong = {key: tensor.clone() for key, tensor in batch.items()}
        wrong[name][0, column] = value
        picture = MaskStory(wrong, str).picture("difference")
        assert picture.one_pass.count(BRANCH) < 3, name


def test_an_example_without_a_pair_says_so():
    for story in (story_of(2, [3]), story_of(2, [3, 2], pairs="none")):
        assert story.pairs == ()
        for view in ("two-pass", "difference"):
            assert story.picture(view).summary.startswith("No view pair, so the first pass only: ")
        assert story.picture("plain causal").summary.startswith("Plain causal: ")
        assert (story.picture("single-pass").mask == story.picture("plain causal").mask).all()


def test_listing_of_scattered_tokens():
    """No mask of the layout has a gap inside a part; the words would still be exact."""
    tokens = tuple(Token("", "S1", "S1", n, 5) for n in range(1, 6))
    assert listing(tokens, np.array([1, 0, 1, 1, 0], dtype=bool)) == "S1 tokens 1 and 3–4"


def test_what_cannot_be_shown_is_refused():
    with pytest.raises(ValueError, match="packed"):
        MaskStory(collator(packing_length=200)(small_rows()), str)
    with pytest.raises(ValueError, match="Unknown view 'sideways'; choose one of plain causal"):
        story_of(2, [2]).picture("sideways")
