"""Result files are whole, belong to their summaries, and give the right figures."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from statsmodels.stats.proportion import proportion_confint

from stepjepa.evaluation.journal import partial_path
from stepjepa.evaluation.results import (
    figures,
    question_ids,
    read_results,
    read_rows,
    share,
    summary_path,
    table,
    write_results,
)
from stepjepa.records import UserError


def row(index: int = 0, correct: bool = True, **more: Any) -> dict[str, Any]:
    return {
        "id": f"q{index}",
        "index": index,
        "question": "?",
        "source": "s",
        "prompt": "?",
        "response": "7",
        "extracted": "7",
        "gold": "7" if correct else "8",
        "correct": correct,
        "strict": None,
        "strict_correct": False,
        "flexible": "7",
        "flexible_correct": correct,
        "tokens": 3,
        "stopped": True,
        "truncated": False,
        **more,
    }


# ---- files ---------------------------------------------------------------------------------------------------


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "new" / "r.jsonl"
    rows = [row(0), row(1, response="a\u2028b\x85c\x0cd")]  # line breaks to some, not to JSON
    written = write_results(rows, {"n": 2}, path)
    results = read_results(path)
    assert results.rows == rows
    assert results.summary == written == json.loads(summary_path(path).read_text())
    assert sorted(each.name for each in path.parent.iterdir()) == ["r.jsonl", "r.summary.json"]


def test_rows_beside_the_summary_of_others_are_refused(tmp_path):
    path = tmp_path / "r.jsonl"
    write_results([row(0)], {}, path)
    path.write_text(path.read_text().replace('"7"', '"6"'))
    with pytest.raises(UserError, match="not those of its summary"):
        read_results(path)


def test_unfinished_and_missing_files_are_told_apart(tmp_path):
    path = tmp_path / "r.jsonl"
    with pytest.raises(UserError, match="no such result file"):
        read_rows(path)
    partial_path(path).write_text("")
    with pytest.raises(UserError, match=r"unfinished; the same .* goes on"):
        read_rows(path)
    assert partial_path("a/r.jsonl") == Path("a/r.partial.jsonl")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "an empty result file"),
        ("{\n", r"r\.jsonl:1: not JSON"),
        ('{"id": 1}\n', r"r\.jsonl:1: not a result row: no index"),
        (f"{json.dumps(row() | {'index': None})}\n", r"r\.jsonl:1: not a result row: its index"),
        (f"{json.dumps(row() | {'id': ['a']})}\n", r"r\.jsonl:1: not a result row"),
        (f"{json.dumps(row())}\n{json.dumps(row())}\n", "question q0 has more than one row"),
    ],
)
def test_other_files_are_refused(tmp_path, text, words):
    path = tmp_path / "r.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=words):
        read_rows(path)


def test_question_ids_are_stable_and_distinct():
    examples = [{"question": "a", "answer": "1"}, {"question": "a", "answer": "2"}, {"question": "a", "answer": "1"}]
    names = question_ids(examples)
    assert len(set(names)) == 3
    assert names[2] == f"{names[0]}-2"
    assert names[0] == hashlib.sha256(b'["a", "1"]').hexdigest()[:16]


# ---- figures -------------------------------------------------------------------------------------------------


def test_share_has_the_wilson_interval():
    found = share([True] * 3 + [False] * 7)
    assert (found["n"], found["correct"], found["accuracy"]) == (10, 3, 0.3)
    assert found["interval"] == pytest.approx(proportion_confint(3, 10, method="wilson"))


def test_a_level_is_one_whether_it_is_a_number_or_text():
    found = figures([row(0, level=1), row(1, False, level="1"), row(2, False, level="1"), row(3, level=2)])
    assert {name: (v["correct"], v["n"]) for name, v in found["by_level"].items()} == {"1": (1, 3), "2": (1, 1)}


def test_every_row_counts_in_every_figure():
    rows = [
        row(0, level="Level 1", type="Algebra"),
        row(1, False, level="Level 2", stopped=False, truncated=True, tokens=9),
        row(2, False, source="t", strict_correct=True),
        row(3, level="Level 1", source="t"),
    ]
    found = figures(rows)
    assert found["n"] == 4
    assert {reader: value["accuracy"] for reader, value in found["accuracy"].items()} == {
        "ours": 0.5,
        "strict": 0.25,
        "flexible": 0.5,
    }
    assert found["truncated"] == found["no_stop"] == {"count": 1, "share": 0.25}
    assert found["tokens"] == {"mean": 4.5, "median": 3.0, "max": 9}
    assert {name: (v["correct"], v["n"]) for name, v in found["by_source"].items()} == {"s": (1, 2), "t": (1, 2)}
    assert {name: (v["correct"], v["n"]) for name, v in found["by_level"].items()} == {
        "Level 1": (2, 2),
        "Level 2": (0, 1),
    }
    assert list(found["by_type"]) == ["Algebra"]
    shown = table(found | {"unreadable": [{"place": "f:3", "reason": "not JSON"}]})
    assert re.search(r"^accuracy +2 +4 +50\.0% +15\.0% – 85\.0%$", shown, re.M)
    assert "  Level 1" in shown
    assert "NOT COUNTED: 1 rows hold no question (not JSON): f:3" in shown
    assert "truncated 1 (25.0%)" in shown


def test_samples_give_pass_at_k_and_all_their_lengths():
    rows = [
        row(index, samples=[row(tokens=i, correct=i < right) for i in range(4)])
        for index, right in enumerate((0, 1, 4))
    ]
    found = figures(rows)
    assert found["sampled"]["samples"] == 4
    estimates = {k: value["estimate"] for k, value in found["sampled"]["pass_at"].items()}
    assert estimates == pytest.approx({"1": (0 + 1 / 4 + 1) / 3, "2": (0 + 1 / 2 + 1) / 3, "4": (0 + 1 + 1) / 3})
    assert found["sampled"]["pass_at"]["1"]["standard_error"] == pytest.approx(0.3004626)
    assert found["tokens"] == {"mean": 1.5, "median": 1.5, "max": 3}
    shown = table(found | {"unreadable": []})
    assert "majority of 4" in shown
    assert "pass@1 41.7%, @2 50.0%, @4 66.7%" in shown


@pytest.mark.parametrize(
    ("right", "total", "said"), [(0, 200, True), (1, 1000, True), (0, 10, False), (36, 1319, True), (9, 100, False)]
)
def test_a_model_that_solves_nothing_is_said_to(right, total, said):
    found = figures([row(index, index < right) for index in range(total)])
    assert ("solves practically none" in table(found | {"unreadable": []})) is said
