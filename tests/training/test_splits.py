"""What is held out of training data: a tenth of the questions, whatever their order, no question on both sides."""

import json
import random
from collections import Counter

import pytest

from stepjepa.commands.main import main
from stepjepa.data.examples import question_key
from stepjepa.data.sources import prepare
from stepjepa.records import UserError
from stepjepa.training.options import RunOptions
from stepjepa.training.splits import hold_out, read_data


def rows(count, copies=1):
    return [
        {"question": f"{'  A '[copy:]}box holds {n} jars. How many lids?", "answer": f"{n} jars, {n} lids.\n#### {n}"}
        for copy in range(copies)
        for n in range(count)
    ]


def read(tmp_path, examples, **options):
    file = tmp_path / "own.jsonl"
    file.write_text("\n".join(map(json.dumps, examples)))
    said = []
    return read_data(RunOptions(train_file=[str(file)], **options), said.append), "\n".join(said)


def questions(examples):
    return {question_key(example) for example in examples}


@pytest.mark.parametrize(("count", "held"), [(1, 0), (49, 0), (50, 5), (99, 9), (1000, 100), (3000, 200)])
def test_a_tenth_is_held_out_where_that_says_something(count, held):
    train, evaluation = hold_out(rows(count), 200, seed=0)
    assert (len(train), len(evaluation)) == (count - held, held)


def test_a_question_is_on_one_side_and_order_decides_nothing():
    examples = rows(80, copies=3)  # the same question with other white space, three solutions of each
    assert len(questions(examples)) < len(examples)
    train, held = hold_out(examples, 200, seed=3)
    assert not questions(train) & questions(held)
    assert len(train) + len(held) == len(examples)
    shuffled = random.Random(1).sample(examples, len(examples))
    assert questions(hold_out(shuffled, 200, seed=3)[1]) == questions(held)
    assert questions(hold_out(examples, 200, seed=4)[1]) != questions(held)
    grown = questions(hold_out([*examples, *rows(81)[80:]], 200, seed=3)[1])
    assert len(grown & questions(held)) >= len(questions(held)) - 1


def test_built_in_problems_of_several_kinds_have_splits_of_their_own():
    sizes = {"problems": 6, "mixed_rows": 12, "eval_problems": 3, "accuracy_problems": 2}
    data = read_data(RunOptions(train_file=["builtin:logic:3", "builtin:1"], **sizes), str)
    taken = {
        name: Counter(row["source"] for row in getattr(data, name)) for name in ("train", "evaluation", "problems")
    }
    assert taken["train"] == {"logic": 9, "builtin": 3}
    assert taken["evaluation"] == {"logic": 3, "builtin": 3}
    assert taken["problems"] == {"logic": 2, "builtin": 2}
    assert not questions(data.train) & questions(data.evaluation + data.problems)


def test_what_is_held_out_is_said(tmp_path):
    data, said = read(tmp_path, rows(60, copies=2))
    assert "held out for evaluation: 6 of 60 questions (12 of 120 rows)" in said
    assert (len(data.train), len(data.evaluation), len(data.problems)) == (108, 12, 6)
    assert data.description() == {"held_out": {"questions": 6, "rows": 12, "of_questions": 60, "of_rows": 120}}


def test_few_questions_are_all_trained_on_and_what_is_missing_is_said(tmp_path):
    data, said = read(tmp_path, rows(30))
    assert (len(data.train), data.evaluation, data.problems, data.held_out) == (30, [], [], None)
    assert "to hold some out takes 50 questions, and there are 30" in said


@pytest.mark.parametrize("options", [{"eval_file": ["none"]}, {"eval_problems": 0}])
def test_nothing_is_held_out_unasked_for(tmp_path, options):
    data, said = read(tmp_path, rows(60), **options)
    assert (len(data.train), data.evaluation, data.problems) == (60, [], [])
    assert "evaluation" not in said


def test_evaluation_data_of_their_own_leave_the_training_data_whole(tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text("\n".join(map(json.dumps, [*rows(60)[50:], {"question": "new?", "answer": "so\n#### 1"}])))
    data, said = read(tmp_path, rows(55), eval_file=[str(other)], accuracy_problems=3)
    assert (len(data.train), len(data.evaluation), len(data.problems), data.held_out) == (55, 11, 3, None)
    assert "5 of 11 evaluation examples ask what training examples ask" in said


def two_files(tmp_path, first=60, second=240):
    for name, count in (("one", first), ("two", second)):
        lines = [json.dumps({"question": f"{name} {n}?", "answer": f"{n} of {name}.\n#### {n}"}) for n in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    return [str(tmp_path / "one.jsonl"), str(tmp_path / "two.jsonl")]


def read_mixed(tmp_path, weights, **options):
    files = [f"{file}{weight}" for file, weight in zip(two_files(tmp_path), weights, strict=True)]
    said = []
    return read_data(RunOptions(train_file=files, **options), said.append), "\n".join(said)


def test_a_mixture_is_drawn_from_what_is_not_held_out(tmp_path):
    plain, _ = read_mixed(tmp_path, ("", ""))
    data, said = read_mixed(tmp_path, (":0.7", ":0.3"))
    assert questions(data.evaluation) == questions(plain.evaluation)  # whatever the weights
    assert not questions(data.train) & questions(data.evaluation)
    assert len(data.train) == len(plain.train) == 270
    sources = [example["source"] for example in data.train]
    assert (sources.count("one"), sources.count("two")) == (189, 81)
    assert [part["taken"] for part in data.description()["mixture"]] == [189, 81]
    assert "70.00%    189  70.00%" in said
    assert {example["source"] for example in data.problems[:2]} == {"one", "two"}  # however few are answered


def test_several_solutions_of_an_evaluation_question_are_one_problem_to_answer(tmp_path):
    rows = [("How many?", 8), (" how  MANY? ", 2), ("How much?", 1)]
    lines = [
        json.dumps({"question": question, "answer": f"{n} of them.\n#### {n}"})
        for question, count in rows
        for n in range(count)
    ]
    (tmp_path / "eval.jsonl").write_text("\n".join(lines))
    data = read_data(RunOptions(eval_file=[str(tmp_path / "eval.jsonl")], problems=20), lambda _line: None)
    assert (len(data.evaluation), len(data.problems)) == (11, 2)


def test_a_source_of_weight_zero_is_evaluated_on(tmp_path):
    data, _ = read_mixed(tmp_path, (":1", ":0"), mixed_rows=40)
    assert [example["source"] for example in data.train] == ["one"] * 40
    assert {example["source"] for example in data.evaluation} == {"one", "two"}


def test_a_temperature_makes_sources_alike(tmp_path):
    data, _ = read_mixed(tmp_path, ("", ""), mixing_temperature=1e9, eval_file=["none"])
    sources = [example["source"] for example in data.train]
    assert (sources.count("one"), sources.count("two")) == (150, 150)
    for weights, temperature in (((":1", ":1"), 2.0), (("", ""), 0.0)):
        with pytest.raises(UserError, match="--mixing_temperature has to be above 0, and takes the place of weights"):
            read_mixed(tmp_path, weights, mixing_temperature=temperature)


def test_a_run_on_a_mixture_says_what_each_source_gave_and_how_it_is_solved(tmp_path, capsys):
    for name, seed in (("one", 1), ("two", 2)):
        prepare("builtin", tmp_path / f"{name}.jsonl", count=6, seed=seed, source_name=name)
    files = [str(tmp_path / "one.jsonl"), str(tmp_path / "two.jsonl")]
    words = ["--train_file", f"{files[0]}:3", f"{files[1]}:1", "--eval_file", *files, "--max_steps", "1"]
    words += ["--max_new_tokens", "8", "--accuracy_problems", "4", "--disable_tqdm", "true", "--lbd", "0"]
    assert main(["train", *words, "--output_dir", str(tmp_path / "run")]) == 0
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert [(part["rows"], part["taken"], part["passes"]) for part in record["data"]["mixture"]] == [
        (6, 9, 1.5),
        (6, 3, 0.5),
    ]
    assert record["data"]["train"]["examples"] == 12
    for when in ("before", "after"):
        assert {"eval_one_lm_loss", "eval_two_lm_loss"} <= set(record[when])
        assert {name: part["n"] for name, part in record[when]["accuracy_by_source"].items()} == {"one": 2, "two": 2}
    assert "  one: " in capsys.readouterr().out
