"""Built-in logic: answers and steps against every truth assignment, Python's own sets, every order of the people."""

import hashlib
import itertools
import json
import re
from collections import Counter

import pytest

from stepjepa.data.drawing import SPLITS, split_of
from stepjepa.data.logic import draw_logic
from stepjepa.evaluation.answers import answers_match, extract_answer

STATEMENT = r"([A-Z][a-z]+) (?:(does not) )?(?:comes?|plays?|helps?|wins?)"
RULE = re.compile(rf"If {STATEMENT}, {STATEMENT}\.")
STEP = re.compile(rf"{STATEMENT}, so {STATEMENT}\.")
OPERATIONS = {"in {} and in {}": "intersection", "in {} or in {}": "union", "in {} and not in {}": "difference"}


def generate_logic(*args, **options):
    return list(draw_logic(*args, **options))


@pytest.fixture(scope="module")
def problems():
    drawn = generate_logic(600, seed=3)
    return {family: [p for p in drawn if p["family"] == family] for family in ("implications", "sets", "order")}


def worked(problem):
    """Steps without the closing one, with their latents."""
    *steps, last = problem["steps"]
    assert last == f"The answer is \\boxed{{{problem['answer']}}}."
    return zip(steps, problem["latents"], strict=True)


def test_implications_have_one_truth_and_steps_that_follow(problems):
    for problem in problems["implications"]:
        *rules, fact, question = re.findall(r"[^.?]+[.?]", problem["question"])
        clauses = []
        for rule in rules:
            one, never, other, neither = RULE.fullmatch(rule.strip()).groups()
            clauses.append(((one, never is None), (other, neither is None)))
        name, never = re.fullmatch(STATEMENT + r"\.", fact.strip()).groups()
        known = {name: never is None}
        people = sorted({person for clause in clauses for person, _ in clause})
        worlds = []
        for values in itertools.product([False, True], repeat=len(people)):
            world = dict(zip(people, values, strict=True))
            if world[name] == known[name] and all(
                world[who] != does or world[other] == wins for (who, does), (other, wins) in clauses
            ):
                worlds.append(world)
        assert len(worlds) == 1, problem["question"]
        assert re.fullmatch(r" How many of them (come|play|help|win)\?", question)
        assert problem["answer"] == str(sum(worlds[0].values()))
        for step, latent in worked(problem):
            one, never, other, neither = STEP.fullmatch(step).groups()
            assert known[one] == (never is None)
            assert other not in known
            known[other] = neither is None
            forwards = ((one, known[one]), (other, known[other]))
            backwards = ((other, not known[other]), (one, not known[one]))
            assert (forwards if latent["operation"] == "implication" else backwards) in clauses
            assert (latent["operands"], latent["value"]) == ([one, other], int(known[other]))
        assert known == worlds[0]


def test_sets_are_those_of_python(problems):
    for problem in problems["sets"]:
        *facts, question = re.findall(r"[^.?]+[.?]", problem["question"])
        sets, steps = {}, worked(problem)
        for fact in facts:
            name, given = re.fullmatch(r" ?Set ([A-Z]) has (.+)\.", fact).groups()
            if not given.startswith("what is "):
                sets[name] = {int(digit) for digit in given.split(", ")}
                continue
            given = given.removeprefix("what is ")
            left, right = re.findall(r"[A-Z]", given)
            condition = re.sub(r"(not )?in [A-Z]", r"digit \g<0>", given)  # digit in A and digit not in B
            sets[name] = {digit for digit in range(10) if eval(condition, {"digit": digit}, sets)}
            step, latent = next(steps)
            said, members = re.fullmatch(rf"I(.+): {name} has (.+)\.", step).groups()
            assert f"i{said}" == given
            assert {int(digit) for digit in members.split(", ")} == sets[name]
            assert latent == {
                "operation": OPERATIONS[re.sub("[A-Z]", "{}", given)],
                "operands": [left, right],
                "value": len(sets[name]),
            }
        assert next(steps, None) is None
        last = sets[name]
        if member := re.fullmatch(rf" Is (\d) in {name}\?", question):
            answer = "yes" if int(member[1]) in last else "no"
        else:
            answer = str(len(last) if question == f" How many numbers are in {name}?" else max(last))
            assert "How many" in question or question == f" Which is the largest number in {name}?"
        assert problem["answer"] == answer


def test_one_order_alone_agrees_with_the_facts(problems):
    for problem in problems["order"]:
        facts = re.findall(r"(\w+) is (before|after|\w+er than) (\w+)\.", problem["question"])
        pairs = [(a, b) if how in ("before", "older than", "taller than") else (b, a) for a, how, b in facts]
        people = sorted({person for pair in pairs for person in pair})
        orders = [o for o in itertools.permutations(people) if all(o.index(a) < o.index(b) for a, b in pairs)]
        assert len(orders) == 1
        end, place = re.search(r"From the (\w+), who is number (\d)\?", problem["question"]).groups()
        assert end == {"before": "front", "after": "front"}.get(facts[0][1]) or end[:3] in ("old", "tal")
        assert problem["answer"] == orders[0][int(place) - 1]
        known = ()
        for step, latent in worked(problem):
            told = tuple(re.fullmatch(r"The order is (.+)\.", step)[1].split(", "))
            assert "".join(told) in "".join(orders[0])
            assert latent["value"] == len(told) == max(1, len(known)) + 1
            new = [person for person in told if person not in known]
            assert latent["operands"][-1] == (new[0] if latent["operation"] == "front" else told[-1])
            assert (latent["operation"] == "front") == (known != () and told[0] not in known)
            known = told
        assert known == orders[0]


def test_problems_of_all_kinds_and_lengths(problems):
    drawn = [problem for family in problems.values() for problem in family]
    assert {len(problem["latents"]) for problem in drawn} == {2, 3, 4, 5, 6}
    assert min(map(len, problems.values())) > 150
    assert Counter(p["answer"] for p in drawn).most_common(1)[0][1] < len(drawn) / 6
    members = Counter(p["answer"] for p in problems["sets"] if p["answer"] in ("yes", "no"))
    assert min(members.values()) > 0.35 * members.total()
    assert len({problem["question"] for problem in drawn}) == len(drawn)
    assert {len(p["latents"]) for p in generate_logic(30, facts=(6, 6))} == {6}


def test_splits_are_disjoint_whatever_the_seed_and_longer_lists_begin_with_shorter_ones():
    drawn = {split: {p["question"] for s in (0, 1) for p in generate_logic(100, s, split)} for split in SPLITS}
    assert all(split_of(question) == split for split in SPLITS for question in drawn[split])
    assert generate_logic(20, seed=3) == generate_logic(40, seed=3)[:20]
    assert generate_logic(20, seed=4) != generate_logic(20, seed=3)


def test_problems_are_those_of_the_records():
    texts = json.dumps([generate_logic(200, 0), generate_logic(200, 1, "test")])
    assert hashlib.sha256(texts.encode()).hexdigest()[:16] == "06a824e04c4ef10e"


@pytest.mark.parametrize(("right", "wrong"), [("Elena", "Ivan"), ("yes", "no"), ("no", "yes"), ("3", "2")])
def test_every_kind_of_answer_is_read(right, wrong):
    for answer in (right, wrong):
        read = extract_answer(f"The order is A, B.\n\nThe answer is \\boxed{{{answer}}}.")
        assert answers_match(read, right) == (answer == right)


def test_a_problem_literally():
    order = next(problem for problem in generate_logic(40) if problem["family"] == "order")
    assert order == {
        "question": "Ravi is younger than Adam. Omar is older than Tara. Zoe is younger than Tara. Zoe is older than Adam. From the oldest, who is number 5?",
        "steps": [
            "The order is Adam, Ravi.",
            "The order is Zoe, Adam, Ravi.",
            "The order is Tara, Zoe, Adam, Ravi.",
            "The order is Omar, Tara, Zoe, Adam, Ravi.",
            "The answer is \\boxed{Ravi}.",
        ],
        "answer": "Ravi",
        "latents": [
            {"operation": "start", "operands": ["Adam", "Ravi"], "value": 2},
            {"operation": "front", "operands": ["Adam", "Zoe"], "value": 3},
            {"operation": "front", "operands": ["Zoe", "Tara"], "value": 4},
            {"operation": "front", "operands": ["Tara", "Omar"], "value": 5},
        ],
        "family": "order",
    }
