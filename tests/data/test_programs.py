"""Built-in programs: what Python itself does line by line is what their traces say."""

import hashlib
import json
import re
import sys
from collections import Counter

import pytest

from stepjepa.data.drawing import SPLITS, split_of
from stepjepa.data.programs import draw_programs

EQUATION = re.compile(r"([abc] = .+) = (\d+) (\+|-|\*|//|%) (\d+) = (\d+)\.")  # c = a // b = 3 // 16 = 0.
COMPARISON = re.compile(r"([abc] [<>] \d+): (\d+) ([<>]) (\d+) is (true|false)\.")  # a < 8: 16 < 8 is false.
SIGNS = {"add": "+", "subtract": "-", "multiply": "*", "divide": "//", "remainder": "%"}


def generate_programs(*args, **options):
    return list(draw_programs(*args, **options))


@pytest.fixture(scope="module")
def programs():
    return generate_programs(400, seed=3)


def run(source):
    """Run a program under Python's own tracer: what it prints, and (line, variables before, variables after) of every
    line that is run."""
    code, events, printed = compile(source, "program", "exec"), [], []
    variables = {"print": printed.append}

    def named():
        return {name: value for name, value in variables.items() if name in "abci"}

    def trace(frame, event, _argument):
        if frame.f_code is not code:
            return None
        if events:
            events[-1][2].update(named())
        if event == "line":
            events.append((frame.f_lineno, named(), {}))
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        exec(code, variables)
    finally:
        sys.settrace(before)
    return printed, events


def test_python_prints_the_answer_and_takes_the_lines_of_the_trace(programs):
    for problem in programs:
        head, _, source = problem["question"].partition("\n")
        assert head == "What does this print?"
        printed, events = run(source)
        assert [str(value) for value in printed] == [problem["answer"]]
        *worked, last = problem["steps"]
        assert last == f"The answer is \\boxed{{{problem['answer']}}}."
        text = source.split("\n")
        traced = [event for event in events if not re.fullmatch(r"[abc] = \d+|for .*|print.*", text[event[0] - 1])]
        assert len(traced) == len(worked) == len(problem["latents"]) >= 2
        for step, latent, (number, before, after) in zip(worked, problem["latents"], traced, strict=True):
            code = text[number - 1].strip()
            left, right = re.findall(r"\w+", code.partition(" = ")[2] or code.removeprefix("if"))
            operands = [eval(one, {}, before) for one in (left, right)]
            assert latent["operands"] == operands
            if match := COMPARISON.fullmatch(step):
                assert latent["operation"] == "compare"
                assert code == f"if {match[1]}:"
                assert [int(match[2]), int(match[4])] == operands
                assert match[1] == f"{left} {match[3]} {right}"
                assert latent["value"] == eval(match[1], {}, before) == (match[5] == "true")
            else:
                said, one, sign, other, value = EQUATION.fullmatch(step).groups()
                assert [int(one), int(other)] == operands
                assert sign == SIGNS[latent["operation"]]
                assert code == said == f"{code[0]} = {left} {sign} {right}"
                assert latent["value"] == int(value) == after[code[0]] >= 0
                assert after[code[0]] <= 100


def test_programs_of_all_kinds_and_lengths(programs):
    assert set(Counter(len(problem["latents"]) for problem in programs)) == {2, 3, 4, 5, 6}
    assert {problem["family"] for problem in programs} == {"straight", "branch", "loop", "branch and loop"}
    assert {latent["operation"] for problem in programs for latent in problem["latents"]} == {*SIGNS, "compare"}
    compared = [x["value"] for problem in programs for x in problem["latents"] if x["operation"] == "compare"]
    assert 0.2 < sum(compared) / len(compared) < 0.8
    assert len({problem["question"] for problem in programs}) == len(programs)
    hard = generate_programs(50, traced=(5, 6), largest=40)
    assert {len(problem["latents"]) for problem in hard} == {5, 6}
    assert max(x["value"] for problem in hard for x in problem["latents"]) <= 40


def test_splits_are_disjoint_whatever_the_seed_and_longer_lists_begin_with_shorter_ones(programs):
    drawn = {split: {p["question"] for s in (0, 1) for p in generate_programs(100, s, split)} for split in SPLITS}
    assert all(split_of(question) == split for split in SPLITS for question in drawn[split])
    assert generate_programs(20, seed=3) == programs[:20]
    assert generate_programs(20, seed=4) != programs[:20]


def test_programs_are_those_of_the_records():
    texts = json.dumps([generate_programs(200, 0), generate_programs(200, 1, "test")])
    assert hashlib.sha256(texts.encode()).hexdigest()[:16] == "2c8fb52d81bedb11"


def test_a_program_literally():
    assert generate_programs(3)[2] == {
        "question": "What does this print?\na = 2\nb = 2\nb = a % 2\nb = a + 8\nprint(b)",
        "steps": ["b = a % 2 = 2 % 2 = 0.", "b = a + 8 = 2 + 8 = 10.", "The answer is \\boxed{10}."],
        "answer": "10",
        "latents": [
            {"operation": "remainder", "operands": [2, 2], "value": 0},
            {"operation": "add", "operands": [2, 8], "value": 10},
        ],
        "family": "straight",
    }
