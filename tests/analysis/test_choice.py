"""The best of n: which sample each way chooses, and what its answers are worth."""

from pathlib import Path

import numpy as np
import pytest
import torch

from stepjepa.analysis.choice import choose, sample_scores, sampled_solutions
from stepjepa.analysis.energies import StepViews, own_steps
from stepjepa.data.examples import make_example
from stepjepa.evaluation.results import Results, question_ids
from stepjepa.records import UserError

#          answers of three samples, all to be 1
ANSWERS = [["1", "2", "2"], ["3", "1", "3"], ["1", "1", "4"], ["5", None, "1"]]


@pytest.fixture
def examples():
    return [make_example(f"Question {q}?", ["It is 1.", "The answer is 1."], "1", "test") for q in range(4)]


@pytest.fixture
def results(examples):
    rows = []
    for index, (name, answers) in enumerate(zip(question_ids(examples), ANSWERS, strict=True)):
        samples = [
            {
                "response": f"First there is a step to {a}.\n\nTherefore the answer is {a}." if a else "",
                "extracted": a,
                "correct": a == "1",
            }
            for a in answers
        ]
        rows.append({"id": name, "index": index, "samples": samples})
    return Results(Path("samples.jsonl"), rows, {})


def test_each_way_chooses_its_own(examples, results):
    ids = question_ids(examples)
    energy = np.array([[0.1, 0.2, 0.3], [0.9, 0.2, 0.5], [0.5, 0.5, 0.4], [0.3, np.nan, 0.2]])
    likely = np.array([[-9.0, -1, -2], [-1, -2, -3], [-3, -1, -2], [-1, np.nan, -2]])
    greedy = Results(Path("greedy.jsonl"), [{"id": name, "correct": name == ids[0]} for name in ids], {})
    found = choose(results, ids, energy, likely, greedy)
    accuracies = {name: arm["accuracy"] for name, arm in found["arms"].items()}
    # energy: 1, 1, 4, 1; majority: 2, 3, 1, 5 (of equals the first); likely: 2, 3, 1, 5; first: 1, 3, 1, 5
    assert accuracies == {
        "energy": 0.75, "greedy": 0.25, "first": 0.5, "majority": 0.25, "log_probability": 0.25, "any": 1.0,
    }  # fmt: skip
    majority = found["differences"]["majority"]
    assert (majority["gained"], majority["lost"], majority["value"]) == (3, 1, 0.5)
    assert majority["low"] < 0.5 < majority["high"]
    assert all(entry["p_holm"] >= entry["p"] for entry in found["differences"].values())
    assert "greedy" not in choose(results, ids, energy, likely)["arms"]
    with pytest.raises(UserError, match="no answer to 1 of the questions"):
        choose(results, ids, energy, likely, Results(greedy.path, greedy.rows[1:], {}))


def test_samples_become_solutions(examples, results):
    solutions, index = sampled_solutions(examples, question_ids(examples), results)
    assert (index >= 0).tolist() == [[True] * 3, [True] * 3, [True] * 3, [True, False, True]]
    for q, row in enumerate(ANSWERS):
        for sample, answer in enumerate(row):
            if answer:
                solution = solutions[index[q, sample]]
                assert solution["steps"] == [
                    f"First there is a step to {answer}.",
                    f"Therefore the answer is {answer}.",
                ]
                assert solution["messages"][:-1] == examples[q]["messages"][:-1]
    assert len(solutions) == sum(len(set(row) - {None}) for row in ANSWERS)  # what is said twice is scored once
    with pytest.raises(UserError, match="no samples to choose among"):
        sampled_solutions(examples, question_ids(examples), Results(results.path, [{"id": "a", "response": "b"}], {}))


def test_a_samples_energy_is_the_mean_from_its_second_step_on():
    solutions = [
        make_example("Q?", ["One is one.", "Two is two.", "Three is three."], None, "test"),
        make_example("Q?", ["Only one."], None, "test"),
    ]
    context = torch.tensor([[1.0, 0], [1, 0], [1, 0], [1, 0]])
    target = torch.tensor([[9.0, 9], [1, 2], [1, 4], [1, 1]])
    views = StepViews(context, target, torch.tensor([-1.0, -2, -3, -8]), torch.tensor([2, 3, 1, 4]))
    index = np.array([[1, 0], [-1, 0]])
    energy, likely = sample_scores(own_steps(solutions), views, views, index, "l2")
    np.testing.assert_allclose(energy, [[np.nan, 3.0], [np.nan, 3.0]])
    np.testing.assert_allclose(likely, [[-2.0, -1.0], [np.nan, -1.0]])
