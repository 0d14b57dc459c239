"""Thoughts and answer, told apart by any model's marks, also unclosed, lone, nested and in the harmony format."""

from __future__ import annotations

import pytest

from stepjepa.data.thoughts import ANSWER_MARKS, MARKS, THOUGHT_MARKS, split_thoughts


@pytest.mark.parametrize(("opener", "closer"), THOUGHT_MARKS)
def test_marks(opener: str, closer: str) -> None:
    assert split_thoughts(f"{opener}\nHm, 3?\n{closer}\n\nIt is 4.") == ("Hm, 3?", "It is 4.")
    assert split_thoughts(f"{opener.upper()}a{closer.lower()}b{opener}c{closer}d") == ("a\n\nc", "b\n\nd")
    assert split_thoughts(f"It is 4.\n{opener}Or is it") == ("Or is it", "It is 4.")
    assert split_thoughts(f"Hm, 3?\n{closer}\nIt is 4.") == ("Hm, 3?", "It is 4.")
    assert split_thoughts(f"{opener}a{opener}b{closer}c{closer}d") == ("ab", "cd")
    assert split_thoughts(
        f"{opener}Is it <code>3</code>, [3] or 3 < 4?{closer}{ANSWER_MARKS[0]}4{ANSWER_MARKS[1]}"
    ) == ("Is it <code>3</code>, [3] or 3 < 4?", "4")


@pytest.mark.parametrize(
    "text", ["3 < 4 and [THIS] is <b>bold</b>", "It is 4.<|end|>", "<|start|>assistant", "◁ and ▷", ""]
)
def test_other_text_is_the_rest(text: str) -> None:
    assert split_thoughts(text) == ("", text)


@pytest.mark.parametrize(
    ("response", "thoughts", "rest"),
    [
        (
            "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>It is 4.",
            "Hm.",
            "It is 4.",
        ),
        (
            "<|start|>assistant<|channel|>analysis<|message|>A<|end|><|start|>assistant<|channel|>commentary to=functions.f "
            "<|constrain|>json<|message|>{}<|call|><|start|>assistant<|channel|>final<|message|>B<|return|>",
            "A\n\n{}",
            "B",
        ),
        ("Hm.<|end|><|start|>assistant<|channel|>final<|message|>It is 4.<|end|>", "Hm.", "It is 4."),
        ("<|channel|>analysis<|message|>Hm.<|channel|>final<|message|>It is 4.", "Hm.", "It is 4."),
        ("<|channel|>analysis<|message|>Hm, <think> is a mark", "Hm,  is a mark", ""),
        ("<|channel|>final<|message|>It is 4.<|return|>", "", "It is 4."),
        (
            "<|begin_of_thought|>\n\nHm.\n\n<|end_of_thought|>\n\n<|begin_of_solution|>\n\nB.\n\n<|end_of_solution|>",
            "Hm.",
            "B.",
        ),
    ],
)
def test_channels(response: str, thoughts: str, rest: str) -> None:
    assert split_thoughts(response) == (thoughts, rest)


@pytest.mark.parametrize("mark", [*MARKS, "<", "<|start|>", "<|channel|>x", "[TH", "<|channel|>analysis<|message|>"])
def test_no_mark_is_left_and_nothing_else_is_lost(mark: str) -> None:
    thoughts, rest = split_thoughts(f"one {mark} two " * 3)
    assert sorted((thoughts + " " + rest).replace(mark, " ").split()) == sorted(["one", "two"] * 3)
