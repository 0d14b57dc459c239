"""A reference answer is read where it stands; what is none is never taken for one."""

from __future__ import annotations

import time

import pytest

from stepjepa.data.formats import convert_row
from stepjepa.data.golds import hash_mark, named_answer, stated_answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Work.\n#### 72", "72"),
        ("Two weigh 14 kg. #### 14", "14"),
        ("#### 72 and #### 73", "73"),
        ("#### 72\nI checked this in 3 ways.", "72"),
        ("####\n12", None),
        ("##### 4", None),
        ("#### Step 1\nAdd.\n#### Final Answer", None),
        ("#### Adding up\nSo 5.", None),
        ("#### Evelyn", "Evelyn"),
        ("#### \\text{Evelyn}\nindeed", "\\text{Evelyn}"),
        ("#### 2. Conclude\nIt is 5.", None),
        ("\\boxed{5} as in #### 6", "5"),
        ("Write it in \\boxed{}. #### 6", "6"),
        ("Write it in \\boxed{}.", ""),
    ],
)
def test_stated_answer(text: str, answer: str | None) -> None:
    assert stated_answer(text) == answer


def test_where_the_hash_mark_stands() -> None:
    assert hash_mark("a #### 72 \nb") == (2, 10, "72")


@pytest.mark.parametrize(
    "answer",
    [
        *("proof", "Proof.", "notfound", "Not found", "none", "null", "N/A", "nan", "?", "-", "…", "unknown", "", " "),
        *(float("inf"), float("nan"), True, None, [], ["1", "2"], {"value": 1}),
        "The answer is 72.",
        "It is 72.",
        "She sold 3.\nThen 4.",
        # prose of any script
        "逐步解答：一箱是 3+4=7 公斤。两箱是 7*2=14 公斤。答案是 14。",
        "答案是 14。",
        "每箱有两袋，一共重十四公斤",
        "一箱は7キロなので、二箱で14キロです",
        "答えは14です。",
        "กล่องหนึ่งหนัก 7 กิโลกรัม สองกล่องหนัก 14 กิโลกรัม",
        "Одна коробка весит 7 кг, две коробки весят 14 кг",
        "Μία κούτα ζυγίζει 7 κιλά, δύο κούτες 14.",
        "الصندوق الواحد يزن 7 كغ والصندوقان 14",
        "उत्तर 14 है।",
        "답은 14입니다.",
    ],
)
def test_what_is_no_reference_answer(answer: object) -> None:
    assert named_answer({"answer": answer}) is None


@pytest.mark.parametrize(
    "answer",
    [
        *(
            "72",
            "\\frac12",
            "no solution",
            "x = 3 or x = 5",
            "5 square feet.",
            "无解",
            "14 公斤",
            "14個",
            "十四",
            "\\{\\}",
        ),
        *(
            "[1,2)",
            "\\text{no real solution}",
            "∅",
            "C",
            "Sunday",
            "Rs. 14",
            "воскресенье",
            "-3.5",
            "0",
            "\\text{none}",
            "60 kilometers per hour",
            "5 square feet per minute",
            "15 cubic centimeters per second",
        ),
    ],
)
def test_bare_reference_answers(answer: str) -> None:
    assert named_answer({"answer": answer}) == answer


def test_the_first_field_with_an_answer_counts() -> None:
    assert named_answer({"answer": "Schritt für Schritt wird daraus am Ende 14.", "answer_number": 14}) == "14"
    assert named_answer({"answer": None, "answer_number": 14.5}) == "14.5"
    assert named_answer({"ground_truth": "notfound", "answer": ["7"]}) == "7"
    assert named_answer({"answer": "<think>Is it \\boxed{3}?</think>\\boxed{4}"}) == "4"


def test_rows_with_hash_marks_in_mid_line_and_proofs_are_examples() -> None:
    text = "One bag weighs 3 + 4 = 7 kg.\nTwo bags weigh 14 kg. #### 14"
    example = convert_row({"Question": "How much?", "Answer": text}, "x")
    assert example["answer"] == "14"
    assert example["steps"] == ["One bag weighs 3 + 4 = 7 kg.", "Two bags weigh 14 kg.", "The answer is \\boxed{14}."]
    proof = convert_row({"problem": "Show it.", "solution": "It is a product of neighbours.", "answer": "proof"}, "x")
    assert proof["answer"] is None


def test_a_sentence_takes_no_time_that_grows_with_its_square() -> None:
    sentence = "She buys some pens and then he sells a few of them again. "
    began = time.perf_counter()
    assert named_answer({"answer": sentence * 400}) is None
    assert time.perf_counter() - began < 1  # over ten, were every word tried as the beginning of a unit
