"""Built-in story problems: true equations, latents that agree with the text, disjoint splits."""

import hashlib
import json
import re
import subprocess
import sys
from itertools import pairwise

import pytest

from stepjepa.data.chains import DIFFICULTIES, Difficulty
from stepjepa.data.drawing import SPLITS, split_of
from stepjepa.data.stories import FAMILIES, forms, generate_stories

EQUATION = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+) ")
OPERATIONS = {"+": "add", "-": "subtract", "*": "multiply", "/": "divide"}


@pytest.fixture(scope="module")
def problems():
    return generate_stories(1500, seed=3)


def evaluate(left: int, symbol: str, right: int) -> int:
    if symbol == "/":
        quotient, remainder = divmod(left, right)
        assert remainder == 0
        return quotient
    return {"+": left + right, "-": left - right, "*": left * right}[symbol]


def test_every_equation_is_true_and_is_the_latent(problems):
    for problem in problems:
        *worked, last = problem["steps"]
        assert len(worked) == len(problem["latents"])
        for step, latent in zip(worked, problem["latents"], strict=True):
            ((left, symbol, right, value),) = EQUATION.findall(step)
            assert evaluate(int(left), symbol, int(right)) == int(value) >= 0
            assert latent == {"operation": OPERATIONS[symbol], "operands": [int(left), int(right)], "value": int(value)}
        assert problem["answer"] == str(problem["latents"][-1]["value"])
        assert last == f"The answer is \\boxed{{{problem['answer']}}}."


def test_operands_come_from_the_question_or_an_earlier_step(problems):
    words = {"twice": 2, "half": 2, "third": 3, "quarter": 4, "fifth": 5, "sixth": 6}
    for problem in problems:
        known = {int(number) for number in re.findall(r"\d+", problem["question"])}
        known |= {number for word, number in words.items() if word in problem["question"]}
        for latent in problem["latents"]:
            assert set(latent["operands"]) <= known, problem
            known.add(latent["value"])


def test_shape_of_steps_and_questions(problems):
    assert {len(problem["latents"]) for problem in problems} == {2, 3, 4, 5, 6}
    assert {problem["family"] for problem in problems} == set(FAMILIES)
    for problem in problems:
        assert len(problem["steps"]) >= 3
        for step in problem["steps"]:
            assert "\n" not in step
            assert step == step.strip()
            assert step[0].isupper()
            assert step.endswith(".")
        assert problem["question"].endswith("?")
        assert not set("{}\n") & set(problem["question"])
        assert "  " not in problem["question"]
        for before, after in pairwise(re.findall(r"[.?] (.)", problem["question"])):
            assert before.isupper()
            assert after.isupper()


def test_one_thing_is_singular_and_others_are_plural(problems):
    words = {unit for family in FAMILIES.values() for choices in family["casts"].values() for unit in choices}
    words |= {ending["unit"] for family in FAMILIES.values() for ending in family["endings"] if "unit" in ending}
    units = {forms(word) for word in words}
    singular = {one for one, _ in units}
    plural = {many for _, many in units}
    counts = set()
    for problem in problems:
        for step in problem["steps"][:-1]:
            value, words = re.search(r"= (\d+) ([a-z ]+)", step).groups()
            counts.add(value == "1")
            thing = next(name for name in sorted(singular | plural, key=len, reverse=True) if words.startswith(name))
            assert thing in (singular if value == "1" else plural), step
    assert counts == {True, False}


def test_questions_count_irrelevant_sentences(problems):
    assert any(problem["distractors"] for problem in problems)
    assert all(problem["distractors"] == 0 for problem in generate_stories(200, difficulty="easy"))
    always = Difficulty(distractor_rate=1.0)
    for problem in generate_stories(50, difficulty=always):
        assert problem["distractors"] >= 6 - 1


def test_splits_are_disjoint_whatever_the_seed():
    questions = {
        split: {problem["question"] for seed in (0, 1) for problem in generate_stories(400, seed, split)}
        for split in SPLITS
    }
    assert not questions["train"] & questions["validation"]
    assert not questions["train"] & questions["test"]
    assert not questions["validation"] & questions["test"]
    assert all(split_of(question) == split for split in SPLITS for question in questions[split])


def test_split_is_a_fixed_function_of_the_text():
    assert [split_of(text) for text in "abcdefgh"] == ["train"] * 7 + ["validation"]


def test_no_duplicates_and_longer_lists_begin_with_shorter_ones():
    long = generate_stories(600, seed=5, difficulty="easy")
    assert len({problem["question"] for problem in long}) == 600
    assert generate_stories(20, seed=5, difficulty="easy") == long[:20]
    assert generate_stories(20, seed=6, difficulty="easy") != long[:20]
    assert generate_stories(0) == []


def test_same_problems_in_another_process():
    code = (
        "import hashlib, json; from stepjepa.data.stories import generate_stories as g;"
        "print(hashlib.sha256(json.dumps([g(50, 7), g(50, 7, 'test')]).encode()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": hash_seed, "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(digests) == 1


def test_problems_are_those_of_the_records():
    """The built-in checkpoint and every record rest on these very texts: a reworded story makes other data."""
    problems = [generate_stories(200, 0), generate_stories(200, 1, "test", "easy")]
    assert hashlib.sha256(json.dumps(problems).encode()).hexdigest()[:16] == "de7d8ac6c3852fce"


def test_easy_problems_are_easier():
    easy = generate_stories(300, difficulty="easy")
    level = DIFFICULTIES["easy"]
    assert {len(problem["latents"]) for problem in easy} == {2, 3}
    assert max(latent["value"] for problem in easy for latent in problem["latents"]) <= level.largest
    assert level.largest < DIFFICULTIES["default"].largest


def test_difficulty_bounds_hold():
    level = Difficulty(operations=(4, 4), amount=(2, 9), change=(2, 5), factor=(2, 3), per_item=(2, 3), largest=20)
    for problem in generate_stories(200, difficulty=level):
        assert len(problem["latents"]) == 4
        assert max(latent["value"] for latent in problem["latents"]) <= 20


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"operations": (1, 3)}, "operations"),
        ({"operations": (2, 7)}, "6 operations"),
        ({"amount": (9, 3)}, "amount"),
        ({"largest": 30}, "largest"),
        ({"distractor_rate": 1.5}, "distractor_rate"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Difficulty(**settings)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="unknown split 'dev'"):
        generate_stories(1, split="dev")
    with pytest.raises(ValueError, match="unknown difficulty 'hard'"):
        generate_stories(1, difficulty="hard")
    with pytest.raises(ValueError, match="negative"):
        generate_stories(-1)


def test_too_many_problems_are_refused(monkeypatch):
    monkeypatch.setattr("stepjepa.data.stories.FAMILIES", {"training": FAMILIES["training"]})
    monkeypatch.setattr("stepjepa.data.drawing._MAX_REJECTED", 30)
    tiny = Difficulty((2, 2), (2, 2), (2, 2), (2, 2), (2, 2), largest=4, distractor_rate=0.0)
    with pytest.raises(ValueError, match="different problems"):
        generate_stories(1_000_000, difficulty=tiny)


def test_unit_tables():
    assert ("peach", "peaches") in map(forms, FAMILIES["shop"]["casts"]["fruit stand"])
    assert ("toy car", "toy cars") in map(forms, FAMILIES["collection"]["casts"]["person"])


def test_a_problem_literally():
    problem = generate_stories(1, seed=0, split="test", difficulty="easy")[0]
    assert problem == {
        "question": "A flower shop has 19 tulips on its shelves. A customer brings back 2 tulips. "
        "Ravi buys 19 tulips. The flower shop adds 7 fresh tulips. How many tulips are left in the end?",
        "steps": [
            "With these there are 19 + 2 = 21 tulips in the store.",
            "After that, the flower shop has 21 - 19 = 2 tulips.",
            "That makes 2 + 7 = 9 tulips.",
            "The answer is \\boxed{9}.",
        ],
        "answer": "9",
        "latents": [
            {"operation": "add", "operands": [19, 2], "value": 21},
            {"operation": "subtract", "operands": [21, 19], "value": 2},
            {"operation": "add", "operands": [2, 7], "value": 9},
        ],
        "family": "shop",
        "distractors": 0,
    }
