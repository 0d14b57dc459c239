"""Planted wrong steps: exactly one, wrong in the way that its label says."""

import json
import re
import subprocess
import sys

import pytest

from stepjepa.commands.prepare import main as prepare
from stepjepa.data.mistakes import MISTAKES, plant_mistakes
from stepjepa.data.sources import read_examples
from stepjepa.data.stories import generate_stories

EQUATION = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)")


@pytest.fixture(scope="module")
def problems():
    return generate_stories(400, seed=5, split="test")


def is_true(step: str) -> bool:
    left, sign, right, result = EQUATION.search(step).groups()
    return eval(f"{left} {sign} {right} == {result}")


def known_numbers(problem, steps) -> set[str]:
    return set(re.findall(r"\d+", problem["question"])) | {EQUATION.search(step)[4] for step in steps}


@pytest.mark.parametrize("kind", MISTAKES)
def test_one_step_is_wrong_and_named(problems, kind):
    right = {problem["question"]: problem for problem in problems}
    planted = plant_mistakes(problems, kind, seed=1)
    assert len(planted) > 200
    assert {row["wrong_step"] for row in planted} >= {1, 2, 3, 4}
    for row in planted:
        solution, place = right[row["question"]]["steps"], row["wrong_step"]
        assert row["mistake"] == kind
        assert row["right_step"] == solution[place] != row["steps"][place]
        assert 1 <= place < len(solution) - 1
        assert row["steps"][:place] == solution[:place]
        assert "latents" not in row
        if kind == "order":
            moved = row["steps"][place]
            assert solution.index(moved) > place
            assert [step for step in row["steps"] if step != moved] == [step for step in solution if step != moved]
        else:
            assert row["steps"][place + 1 :] == solution[place + 1 :]


def test_each_kind_is_wrong_in_its_own_way(problems):
    for row in plant_mistakes(problems, "arithmetic"):
        wrong, right = (EQUATION.search(row["steps"][row["wrong_step"]]), EQUATION.search(row["right_step"]))
        assert not is_true(wrong[0])
        assert wrong.groups()[:3] == right.groups()[:3]
        assert len(wrong[0]) == len(right[0])
    for row in plant_mistakes(problems, "operation"):
        wrong, right = (EQUATION.search(row["steps"][row["wrong_step"]]), EQUATION.search(row["right_step"]))
        assert is_true(wrong[0])
        assert (wrong[1], wrong[3]) == (right[1], right[3])
        assert wrong[2] != right[2]
        assert wrong[4] != right[4]
    for kind in ("order", "foreign"):
        for row in plant_mistakes(problems, kind):
            wrong = EQUATION.search(row["steps"][row["wrong_step"]])
            assert is_true(wrong[0])
            assert not {wrong[1], wrong[3]} <= known_numbers(row, row["steps"][: row["wrong_step"]])


def test_the_seed_decides_in_any_process(problems):
    code = (
        "import json; from stepjepa.data.mistakes import *; from stepjepa.data.stories import generate_stories as g;"
        "print(json.dumps([plant_mistakes(g(40, 7), kind, 3) for kind in MISTAKES]))"
    )
    first, second = (
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": hash_seed, "PATH": "", "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    )
    assert first == second
    assert json.loads(first)[0] == plant_mistakes(generate_stories(40, 7), "operation", 3)
    assert plant_mistakes(problems, "operation", 0) != plant_mistakes(problems, "operation", 1)


def test_what_cannot_hold_one_is_left_out():
    chain = {
        "question": "Ann has 3 cups and gets 4.",
        "steps": ["That is 3 + 4 = 7 cups.", "The answer is \\boxed{7}."],
        "latents": [{"operation": "add", "operands": [3, 4], "value": 7}],
        "answer": "7",
    }
    assert all(plant_mistakes([chain], kind) == [] for kind in MISTAKES)
    with pytest.raises(ValueError, match="unknown mistake 'typo'"):
        plant_mistakes([chain], "typo")


def test_prepare_writes_them_and_reads_them_back(tmp_path, capsys):
    path = tmp_path / "wrong.jsonl"
    words = ["--source", "builtin", "--problems", "30", "--mistake", "arithmetic", "--split", "test"]
    assert prepare(["--output_file", str(path), *words]) == 0
    assert "next: stepjepa verify" in capsys.readouterr().out
    examples, _ = read_examples(path)
    planted = plant_mistakes(generate_stories(30, seed=0, split="test"), "arithmetic", seed=0)
    for name in ("question", "steps", "wrong_step", "mistake", "right_step"):
        assert [example[name] for example in examples] == [row[name] for row in planted]
