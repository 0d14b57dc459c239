"""Questions answered step by step: the same answer as in a batch, and every step with its own figures, as it comes."""

import json

import pytest
import torch
from ipywidgets import Button

from stepjepa.analysis.energies import Candidate, encode_candidates, energies
from stepjepa.analysis.solving import Solution, SolvedStep, Solver
from stepjepa.commands.generate import figures, main
from stepjepa.data.sources import make_example, read_examples
from stepjepa.data.steps import split_steps
from stepjepa.data.tokens import tokenize_example
from stepjepa.evaluation.generation import Sampling
from stepjepa.evaluation.scoring import generate_answers
from stepjepa.models.loading import load_model
from stepjepa.records import UserError
from stepjepa.visualization.solving_form import answer_html, solving_form

HOSTILE = "<script>alert(1)</script>\x1b[2J"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder as a training run leaves it: predictor tokens and a record of a JEPA term."""
    folder = tmp_path_factory.mktemp("run")
    model, tokenizer = load_model()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    settings = {"lbd": 0.1, "jepa_loss_type": "cosine", "pairs": "first", "predictors": 1, "isolation": "step"}
    (folder / "record.json").write_text(json.dumps({"settings": settings, "system_prompt": None}))
    return folder


@pytest.fixture(scope="module")
def solver(run):
    return Solver(str(run))


@pytest.fixture(scope="module")
def question():
    examples, _ = read_examples("builtin", split="test", count=3, seed=1)
    return examples[2]["question"]


def test_steps_come_as_they_are_complete_and_make_up_the_answer_of_a_batch(solver, question):
    heard = []
    solution = solver(question, None, lambda text: heard.append(text), lambda step: heard.append(step))
    example = make_example(question, ["x"], "1", "test", None)
    [same] = generate_answers(*load_model(), [example], progress=False)
    assert "\n\n".join(step.text for step in solution.steps) == same["response"].strip()
    assert (solution.answer, solution.tokens, solution.truncated) == (same["extracted"], same["tokens"], False)
    assert [each for each in heard if isinstance(each, SolvedStep)] == list(solution.steps)
    growing = [each for each in heard[: heard.index(solution.steps[0])] if each]
    assert len(growing) > 3
    assert all(solution.steps[0].text.startswith(text) for text in growing)
    assert len(solution.steps) > 1


def test_what_auto_takes_for_steps_is_told_once_all_is_there(run, solver, question):
    """The text begins as sentences and goes on as paragraphs, which are the steps."""
    heard = []
    solution = Solver(str(run), splitter="auto")(question, None, None, heard.append)
    assert heard == list(solution.steps)
    texts = [step.text for step in solution.steps]
    assert texts == split_steps("\n\n".join(step.text for step in solver(question).steps), min_chars=1)


def test_surprisal_is_that_of_the_tokens_in_their_place(solver, question):
    solution = solver(question)
    texts = [step.text for step in solution.steps]
    for k, step in enumerate(solution.steps):
        row = tokenize_example(make_example(question, texts[: k + 1], "1", "test", None), solver.tokenizer)
        ids = torch.tensor([row["input_ids"]])
        with torch.no_grad():
            likely = solver.model(input_ids=ids).logits[0].double().log_softmax(-1)
        own = [-float(likely[i - 1, ids[0, i]]) for i, at in enumerate(row["step_ids"]) if at == k]
        assert step.surprisal == pytest.approx(sum(own) / len(own), abs=1e-5)


def test_energy_is_that_of_the_step_after_the_steps_before_it(solver, question):
    solution = solver(question)
    assert solution.steps[0].energy is None  # nothing predicts the first step
    texts = [step.text for step in solution.steps]
    example = make_example(question, texts, "1", "test", None)
    last = len(texts) - 1
    views = encode_candidates(solver.model, solver.tokenizer, [example], [Candidate(0, last)], progress=False)
    assert solution.steps[last].energy == pytest.approx(float(energies(views)[0]), abs=1e-6)
    assert all(0 <= step.energy <= 2 for step in solution.steps[1:])


def test_a_model_without_a_jepa_term_has_no_energy(question):
    assert {step.energy for step in Solver()(question, Sampling(max_new_tokens=30)).steps} == {None}


def test_cut_off_and_full_contexts_are_said(solver, question):
    solution = solver(question, Sampling(max_new_tokens=5))
    assert solution.truncated
    assert solution.tokens == 5
    with pytest.raises(UserError, match="leaves no room"):
        solver("many words " * 3000)
    with pytest.raises(UserError, match="empty"):
        solver(" \n")


def test_questions_from_arguments_files_and_standard_input(tmp_path, capsys, monkeypatch):
    asked = []

    class Fake:
        name, origin, predicts, distance = "fake", "none", True, "cosine"

        def __init__(self, *_, **options):
            pass

        def __call__(self, question, sampling, on_text, on_step):
            asked.append(question)
            on_text("One")
            on_text("One " + HOSTILE)
            on_step(step := SolvedStep(f"One {HOSTILE}.", 0.25, 0.125))
            on_step(SolvedStep("Two", None, None))
            return Solution((step,), "7", 9, truncated=True)

    monkeypatch.setattr("stepjepa.analysis.solving.Solver", Fake)
    assert main(["What is 1?", "What is 2?"]) == 0
    shown = capsys.readouterr().out
    assert "One <script>alert(1)</script>\\x1b[2J.  [energy 0.125, surprisal 0.250]\n" in shown
    assert "answer: 7 (9 tokens, CUT OFF)" in shown
    assert "\x1b" not in shown
    (tmp_path / "q.txt").write_text("What is\n3?\n\n \nWhat is 4?\n")
    assert main(["--question_file", str(tmp_path / "q.txt")]) == 0
    (tmp_path / "q.jsonl").write_text('{"question": "What is 5?", "answer": "#### 5"}\n')
    assert main(["--question_file", str(tmp_path / "q.jsonl")]) == 0
    monkeypatch.setattr("sys.stdin", open(tmp_path / "q.txt"))  # noqa: SIM115
    assert main([]) == 0
    first = ["What is 1?", "What is 2?"]
    assert asked == [*first, "What is\n3?", "What is 4?", "What is 5?", "What is\n3?", "What is 4?"]
    (tmp_path / "q.txt").write_bytes(b"\xef\xbb\xbfWhat is 6?\r\n")
    assert main(["--question_file", str(tmp_path / "q.txt")]) == 0
    assert asked[-1] == "What is 6?"
    turns = [
        {"role": role, "content": f"What is {n}?"} for n, role in enumerate(("user", "assistant", "user", "assistant"))
    ]
    (tmp_path / "q.jsonl").write_text(json.dumps({"messages": turns, "answer": "7"}))
    with pytest.raises(UserError, match=r"q\.jsonl:1: a conversation of several turns"):
        main(["--question_file", str(tmp_path / "q.jsonl")])
    (tmp_path / "q.txt").write_bytes(b"\xff")
    with pytest.raises(UserError, match="not UTF-8 at byte 0"):
        main(["--question_file", str(tmp_path / "q.txt")])
    (tmp_path / "q.txt").write_text(" \n")
    with pytest.raises(UserError, match="no question in it"):
        main(["--question_file", str(tmp_path / "q.txt")])
    with pytest.raises(UserError, match="cannot be read"):
        main(["--question_file", str(tmp_path / "none.txt")])


def test_a_form_shows_the_answer_and_obeys_nothing(solver):
    form = solving_form(solver)
    [button] = [each for each in form.children[1].children if isinstance(each, Button)]
    button.click()
    shown = form.children[2].value
    assert shown.count("<tr>") > 2
    assert "answer: <b>" in shown
    assert not button.disabled
    form.children[0].value = ""
    button.click()
    assert "the question is empty" in form.children[2].value
    html = answer_html([SolvedStep(HOSTILE, 0.5, None)], HOSTILE, Solution((), HOSTILE, 1, truncated=False))
    assert "<script>" not in html
    assert "\x1b" not in html
    assert "25%" in html  # half a nat fills a quarter


def test_figures_that_are_not_known_are_left_out():
    assert figures(SolvedStep("a", 1.0, None)) == "[surprisal 1.000]"
    assert figures(SolvedStep("a", 1.0, 0.5)) == "[energy 0.500, surprisal 1.000]"
