"""Test rows of every form become questions with gold answers, and no row goes missing unsaid."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from real_data import DATA

from stepjepa.data.fields import RowError
from stepjepa.data.sources import read_examples
from stepjepa.evaluation.questions import NoGoldError, read_question, read_questions, shown_path
from stepjepa.evaluation.results import question_ids
from stepjepa.records import UserError, write_jsonl

GSM8K = {"question": "How many?", "answer": "She has 3 + 4 = <<3+4=7>>7.\n#### 7"}
USER = {"role": "user", "content": "How many?"}


def lines(path: Path, *rows: object) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("row", "gold"),
    [
        (GSM8K, "7"),
        ({"problem": "How many?", "solution": "It is \\boxed{\\frac{1}{2}}."}, "\\frac{1}{2}"),
        ({"question": "How many?", "answer": "72"}, "72"),
        ({"question": "How many?", "answer": 72}, "72"),
        ({"question": "How many?", "answer": 2.5}, "2.5"),
        ({"question": "How many?", "answer": "$1,450.50"}, "$1,450.50"),
        ({"question": "How many?", "answer": "\\text{no real solution}"}, "\\text{no real solution}"),
        ({"question": "How many?", "answer": "x = 3 or x = 5"}, "x = 3 or x = 5"),
        ({"question": "How many?", "answer": "As we saw, it is \\boxed{8}."}, "8"),
        ({"question": "How many?", "answer": "Long.\nStory.\n#### 9", "solution": ""}, "9"),
        ({"problem": "How many?", "answer": "12", "solution": "No box here."}, "12"),
        ({"question": "How many?", "deepseek_response": "It is \\boxed{6}.", "ground_truth": "6"}, "6"),
        ({"question": "How many?", "deepseek_response": "", "ground_truth": "6"}, "6"),
        ({"messages": [USER], "answer": "5"}, "5"),
        ({"messages": [{"role": "system", "content": ""}, USER], "answer": "5"}, "5"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "How many?"}]}], "answer": "5"}, "5"),
        ({"conversations": [{"from": "human", "value": "How many?"}], "answer": "5"}, "5"),
        ({"prompt": [USER], "answer": "5"}, "5"),
        ({"instruction": "How many?", "input": "", "answer": 5}, "5"),
        ({"Problem": "How many?", "Answer": 5}, "5"),
        ({"question": "How many?", "answer": "答案是 5。", "answer_number": 5}, "5"),
        ({"query": "How many?", "expected_answer": "5"}, "5"),
        ({"problem": "How many?", "solution": "<think>Is it \\boxed{3}?</think> It is $\\boxed 5$."}, "5"),
        ({"messages": [USER, {"role": "assistant", "content": "So."}], "answer": "First 2.\n\nSo \\boxed{5}."}, "5"),
        ({"question": "How many?", "deepseek_response": "So \\boxed{6}.", "answer": "There are six of them."}, "6"),
        ({"problem": "How many?", "solution": "So \\boxed{\\textbf{(B)}\\ 72}.", "answer": "72"}, "72"),
        ({"messages": [USER, {"role": "assistant", "content": "So \\boxed{5}."}]}, "5"),
        ({"messages": [USER, {"role": "assistant", "content": "So five."}], "steps": ["other"], "answer": "5"}, "5"),
    ],
)
def test_question_and_gold_answer_are_all_that_is_needed(row, gold):
    question = read_question(row, "x")
    assert (question["question"], question["answer"], question["source"]) == ("How many?", gold, "x")
    assert question["messages"] == [USER]


@pytest.mark.parametrize(
    "row",
    [
        {"question": "How many?", "answer": None},
        {"question": "How many?", "answer": ""},
        {"question": "How many?"},
        {"question": "How many?", "answer": "The answer is 72."},  # not a bare answer: it would match nothing
        {"question": "How many?", "answer": "She sold 3.\nThen 4."},
        {"question": "Show it.", "answer": "proof"},
        {"question": "How many?", "answer": float("inf")},  # `1e400`, as JSON reads it
        {"problem": "How many?", "solution": "<think>\\boxed{3}</think> Well."},
        {"problem": "How many?", "solution": "No box."},
        {"messages": [USER]},
        {"messages": [USER, {"role": "assistant", "content": "Hm."}], "steps": ["Hm."], "answer": None},
    ],
)
def test_a_question_without_gold_answer_is_one(row):
    with pytest.raises(NoGoldError):
        read_question(row, "x")


@pytest.mark.parametrize("row", [[], "text", {}, {"text": "How many?"}, {"messages": []}, {"answer": "7"}])
def test_what_is_no_question(row):
    with pytest.raises(RowError) as caught:
        read_question(row, "x")
    assert not isinstance(caught.value, NoGoldError)


def test_system_messages_and_labels_stay_with_their_rows():
    system = {"role": "system", "content": "Be brief."}
    question = read_question({"messages": [system, USER], "answer": "5", "level": 3, "subject": "Algebra"}, "x")
    assert question["messages"] == [system, USER]
    assert (question["level"], question["type"]) == (3, "Algebra")
    assert "level" not in read_question(GSM8K, "x")


def test_files_are_told_by_digest_and_unreadable_rows_by_place(tmp_path):
    path = lines(tmp_path / "mine.jsonl", GSM8K, "not JSON", {"text": "?"}, GSM8K | {"question": "And now?"})
    data = read_questions([path, "builtin:logic"], problems=3)
    assert [each["question"] for each in data.questions[:2]] == ["How many?", "And now?"]
    assert [each["source"] for each in data.questions] == ["mine", "mine", "logic", "logic", "logic"]
    assert data.files[0] == {"name": "mine.jsonl", "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "count": 2}
    assert (data.files[1]["name"], data.files[1]["count"]) == ("builtin:logic", 3)
    assert data.questions[2]["place"] == "builtin:logic[test]:1"
    assert [each["place"] for each in data.unreadable] == ["mine.jsonl:2", "mine.jsonl:3"]
    assert data.unreadable[0]["reason"] == "not JSON"
    assert data.questions[1]["place"] == f"{path}:4"


def test_missing_gold_answers_are_named_by_line(tmp_path):
    bad = {"question": "How many?", "answer": None}
    path = lines(tmp_path / "mine.jsonl", GSM8K, bad, bad)
    with pytest.raises(UserError, match=r"2 questions have no gold answer: .*mine\.jsonl:2, .*mine\.jsonl:3\. Give"):
        read_questions([path])
    with pytest.raises(UserError, match=r"7 questions .*mine\.jsonl:5, … \(2 more\)"):
        read_questions([lines(tmp_path / "mine.jsonl", *[bad] * 7)])


def test_empty_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r"empty\.jsonl: no question in it \(it is empty\)"):
        read_questions(["builtin", lines(tmp_path / "empty.jsonl")], problems=1)
    with pytest.raises(UserError, match=r"no question in it; .*odd\.jsonl:1: not JSON"):
        read_questions([lines(tmp_path / "odd.jsonl", "[")])
    with pytest.raises(UserError, match="no file"):
        read_questions([tmp_path / "none.jsonl"])


def test_prepared_rows_keep_their_names(tmp_path):
    """`stepjepa embed` finds a question's result by the name that the prepared example has."""
    examples, _ = read_examples("builtin", split="test", count=4, seed=1)
    path = tmp_path / "prepared.jsonl"
    write_jsonl(examples, path)
    data = read_questions([path])
    assert question_ids(data.questions) == question_ids(examples)
    assert [each["source"] for each in data.questions] == ["builtin"] * 4
    assert question_ids(read_questions(["builtin"], problems=4).questions) == question_ids(examples)


def test_published_paths_name_no_folder_of_this_machine(tmp_path):
    assert shown_path(tmp_path / "a.jsonl") == "a.jsonl"
    assert shown_path("~/a.jsonl") == "a.jsonl"
    assert shown_path("data/a.jsonl") == "data/a.jsonl"
    assert shown_path("openai/gsm8k") == "openai/gsm8k"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "count", "levels"), [("gsm8k", 1319, 0), ("math", 5000, 5), ("minerva_ocw", 272, 0)])
def test_every_row_of_the_usual_test_sets_is_a_question(name, count, levels):
    path = DATA / name / "test.jsonl"
    if not path.is_file():
        pytest.skip(f"no {name} here")
    data = read_questions([path])
    assert (len(data.questions), data.unreadable) == (count, [])
    assert len({each["level"] for each in data.questions if "level" in each}) == levels
    assert len(set(question_ids(data.questions))) == count


def test_reading_questions_and_answers_needs_no_torch():
    code = (
        "import sys; from stepjepa.evaluation.questions import NoGoldError, read_question; "
        "from stepjepa.evaluation.answers import answers_match, extract_answer; "
        "print(answers_match(extract_answer('So 1/2'), '0.5'), sorted({'torch', 'transformers'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True []\n"
