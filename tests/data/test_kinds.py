"""Each kind of data from a file as people have it: recognised, read, its steps and labels as they are."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from stepjepa.commands.main import main
from stepjepa.commands.prepare import kinds
from stepjepa.data.converters import RowOptions
from stepjepa.data.fields import RowError
from stepjepa.data.files import FILES
from stepjepa.data.formats import FORMATS, convert_row, recognise_format
from stepjepa.data.origins import ORIGINS, locate
from stepjepa.data.sources import read_examples
from stepjepa.evaluation.questions import read_questions
from stepjepa.records import UserError

QUESTION = "Nia buys 3 bags of 4 apples and eats 2. How many are left?"
STEPS = ["Three bags hold 3 * 4 = 12 apples.", "She eats 2, so 12 - 2 = 10 are left.", "The answer is \\boxed{10}."]
SOLUTION = "\n\n".join(STEPS)


def said(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def rated(*ratings: int, text: str = "", chosen: int | None = 0, human: str | None = None) -> dict[str, Any]:
    completions = [{"text": text, "rating": rating, "flagged": False} for rating in ratings]
    own = {"text": human, "rating": None, "source": "human", "flagged": False, "corrected_rating": None}
    return {"completions": completions, "human_completion": own if human else None, "chosen_completion": chosen}


def prm800k(*steps: dict[str, Any], finish: str = "solution") -> dict[str, Any]:
    return {
        "labeler": "e90a38f3",
        "timestamp": "2023-01-22T04:34:27",
        "generation": None,
        "is_quality_control_question": False,
        "is_initial_screening_question": False,
        "question": {"problem": QUESTION, "ground_truth_answer": "10"},
        "label": {"steps": list(steps), "total_time": 278270, "finish_reason": finish},
    }


PRM800K = prm800k(
    rated(-1, text="Three bags hold 3 + 4 = 7 apples.", chosen=None, human=STEPS[0]),
    rated(0, text="We take away what she eats."),
    rated(1, text="She eats 2, so 10 are left.\n\n# Answer\n\n10"),
)
FOUND_ERROR = prm800k(
    rated(1, text=STEPS[0]), rated(-1, 1, text="She eats 12 - 2 = 11.", chosen=None), finish="found_error"
)
SHEPHERD = {
    "input": f"{QUESTION} Step 1: 3 * 4 = 12 apples. ки\nStep 2: 12 - 2 = 10 are left. The answer is: 10 ки",
    "label": f"{QUESTION} Step 1: 3 * 4 = 12 apples. +\nStep 2: 12 - 2 = 10 are left. The answer is: 10 +",
    "task": "GSM8K",
}
SHEPHERD_STEPS = ["Step 1: 3 * 4 = 12 apples.", "Step 2: 12 - 2 = 10 are left. The answer is: 10"]
RLHFLOW = {
    "conversations": [
        said("user", f"{QUESTION} Step 1: 3 * 4 = 12 apples."),
        said("assistant", "+"),
        said("user", "Step 2: 12 - 2 = 10 are left. The answer is: 10"),
        said("assistant", "+"),
    ]
}
PROCESSBENCH = {
    "id": "gsm8k-7",
    "generator": "some-model",
    "problem": QUESTION,
    "steps": STEPS,
    "final_answer_correct": True,
    "label": -1,
}


@dataclass(frozen=True)
class Case:
    """A row as a data set has it, and what is to be read."""

    row: dict[str, Any]
    kind: str
    steps: tuple[str, ...] = tuple(STEPS)
    answer: str | None = "10"
    labels: tuple[Any, ...] | None = None
    name: str = "a.jsonl"
    system: str | None = None


AS_PEOPLE_HAVE_THEM = {
    "GSM8K": Case(
        {"question": QUESTION, "answer": "Three bags hold <<3*4=12>>12 apples.\nShe eats 2, so 10 are left.\n#### 10"},
        "gsm8k",
        ("Three bags hold 12 apples.", "She eats 2, so 10 are left.", "The answer is \\boxed{10}."),
    ),
    "MATH": Case(
        {"problem": QUESTION, "level": "Level 1", "type": "Prealgebra", "solution": SOLUTION}, "math", name="1.json"
    ),
    "NuminaMath": Case(
        {"source": "gsm8k", "problem": QUESTION, "solution": SOLUTION, "messages": [said("user", QUESTION), said("assistant", SOLUTION)]},
        "chat",
        name="a.parquet",
    ),
    "OpenMathInstruct": Case(
        {"problem": QUESTION, "generated_solution": SOLUTION, "expected_answer": "10", "problem_source": "gsm8k"},
        "solution",
        name="a.parquet",
    ),
    "MetaMath": Case(
        {"query": QUESTION, "response": SOLUTION, "type": "GSM_Rephrased", "original_question": QUESTION}, "solution", name="a.json"
    ),
    "MathInstruct": Case({"source": "x.json", "instruction": QUESTION, "output": SOLUTION}, "solution", name="a.json"),
    "Alpaca": Case(
        {"instruction": QUESTION, "input": "", "output": SOLUTION, "text": "Below is an instruction"}, "solution", name="a.csv"
    ),
    "prompt and completion": Case({"prompt": QUESTION, "completion": SOLUTION}, "solution", name="a.tsv"),
    "prompt and completion as messages": Case(
        {"prompt": [said("system", "Be brief."), said("user", QUESTION)], "completion": [said("assistant", SOLUTION)]},
        "chat",
        system="Be brief.",
    ),
    "ShareGPT": Case(
        {
            "id": "x_0",
            "conversations": [
                {"from": "system", "value": "Be brief."},
                {"from": "human", "value": QUESTION},
                {"from": "gpt", "value": SOLUTION},
            ],
        },
        "chat",
        name="a.json",
        system="Be brief.",
    ),
    "messages": Case({"messages": [said("user", QUESTION), said("assistant", SOLUTION)]}, "chat"),
    "a teacher": Case(
        {"question": QUESTION, "deepseek_response": f"<think>12, 10</think>{SOLUTION}", "ground_truth": "10"}, "teacher"
    ),
    "PRM800K": Case(
        PRM800K,
        "prm800k",
        (STEPS[0], "We take away what she eats.", "She eats 2, so 10 are left.\n# Answer\n10"),
        labels=(True, None, True),
    ),
    "PRM800K in Parquet": Case(
        FOUND_ERROR, "prm800k", (STEPS[0], "She eats 12 - 2 = 11."), labels=(True, False), name="a.parquet"
    ),
    "Math-Shepherd": Case(SHEPHERD, "math_shepherd", tuple(SHEPHERD_STEPS), labels=(True, True)),
    "Math-Shepherd, wrong": Case(
        {**SHEPHERD, "label": SHEPHERD["label"][:-1] + "-"},
        "math_shepherd",
        tuple(SHEPHERD_STEPS),
        None,
        (True, False),
        "a.parquet",
    ),
    "Math-Shepherd as a conversation": Case(RLHFLOW, "math_shepherd", tuple(SHEPHERD_STEPS), labels=(True, True)),
    "ProcessBench": Case(PROCESSBENCH, "processbench", labels=(True, True, True), name="a.json"),
    "ProcessBench, wrong": Case(
        {**PROCESSBENCH, "label": 1, "final_answer_correct": False},
        "processbench",
        answer=None,
        labels=(True, False, None),
    ),
    "steps with labels": Case(
        {"prompt": QUESTION, "completions": STEPS, "labels": [True, True, False]},
        "steps",
        answer=None,
        labels=(True, True, False),
        name="a.parquet",
    ),
    "steps with 0 and 1": Case({"question": QUESTION, "steps": STEPS, "labels": [1, 0, 1]}, "steps", answer=None, labels=(True, False, True)),
    "steps with ratings": Case({"question": QUESTION, "steps": STEPS, "labels": [1, 0, -1]}, "steps", answer=None, labels=(True, None, False)),
    "steps with shares": Case({"question": QUESTION, "steps": STEPS, "labels": [0.875, 0.5, 0.25]}, "steps", labels=(0.875, 0.5, 0.25)),
    "steps": Case({"question": QUESTION, "steps": STEPS, "answer": 10}, "steps", name="a.json"),
    "steps alone": Case({"Question": QUESTION, "Steps": STEPS}, "steps"),
    "prepared": Case(
        {"question": QUESTION, "messages": [said("user", QUESTION), said("assistant", SOLUTION)], "steps": STEPS, "total_steps": 3, "answer": "10", "source": "mine", "step_labels": [True, None, True]},
        "prepared",
        labels=(True, None, True),
    ),
}  # fmt: skip


def write(path: Path, *rows: dict[str, Any]) -> Path:
    """Rows in a file of the kind that its name tells."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        file = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), file)
        path.write_bytes(file.getvalue())
    elif path.suffix in (".csv", ".tsv"):
        mark = "," if path.suffix == ".csv" else "\t"
        lines = [rows[0], *(row.values() for row in rows)]
        path.write_text(
            "".join(mark.join('"' + cell.replace('"', '""') + '"' for cell in line) + "\n" for line in lines)
        )
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows[0] if len(rows) == 1 else rows, indent=2))
    else:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("name", AS_PEOPLE_HAVE_THEM)
def test_a_file_as_people_have_it(name: str, tmp_path: Path) -> None:
    case = AS_PEOPLE_HAVE_THEM[name]
    path = write(tmp_path / "set" / case.name, case.row)
    (example,), report = read_examples(path, strict=True, wrong_steps="keep")
    assert dict(report.formats) == {case.kind: 1}
    assert example["question"] == QUESTION
    assert example["steps"] == list(case.steps)
    assert "\n\n".join(example["steps"]) == example["messages"][-1]["content"]
    assert example["answer"] == case.answer
    assert example.get("step_labels") == (None if case.labels is None else list(case.labels))
    assert case.system is None or example["messages"][0] == said("system", case.system)
    # Labels stay with their steps however often the row is prepared again.
    (again,), _ = read_examples(write(tmp_path / "b.jsonl", example), strict=True)
    assert again == example
    wrong = None if case.labels is None or False not in case.labels else case.labels.index(False)
    assert example.get("wrong_step") == wrong
    if wrong is not None:
        with pytest.raises(UserError, match="a step is labelled as wrong"):
            read_examples(path, strict=True)


def test_the_table_has_every_kind() -> None:
    assert {case.kind for case in AS_PEOPLE_HAVE_THEM.values()} == set(FORMATS)


# -------- rows --------


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": QUESTION, "id": 3}, "has 'question' but no solution and no steps; fields seen: 'question', 'id'"),
        ({"response": SOLUTION}, "has 'response' but no question; fields seen: 'response'"),
        (
            {"quesion": QUESTION, "solution": SOLUTION},
            "has 'solution' but no question; is 'quesion' meant for 'question'?; fields seen: 'quesion', 'solution'",
        ),
        ({"message": [], "x": None}, "is 'message' meant for 'messages'?; fields seen: 'message'"),
        ({"text": QUESTION, "meta": {}}, "fields seen: 'text', 'meta'"),
        ({}, "fields seen: none"),
        ({f"f{n}" * 40: n for n in range(20)}, "fields seen: " + ", ".join(repr((f"f{n}" * 40)[:30]) for n in range(8))),
    ],
)  # fmt: skip
def test_a_near_miss_is_named(row: dict[str, Any], message: str) -> None:
    with pytest.raises(RowError) as error:
        recognise_format(row)
    assert str(error.value) == f"fields of no known format: {message}"


def test_a_format_that_is_given_overrides(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", AS_PEOPLE_HAVE_THEM["NuminaMath"].row)
    assert read_examples(path, row_format="math")[1].formats == {"math": 1}
    with pytest.raises(UserError, match="no field 'question'"):
        read_examples(path, row_format="teacher", strict=True)
    words = ["prepare", "--source", str(path), "--output_file", str(tmp_path / "b.jsonl")]
    assert main([*words, "--format", "solution"]) == 0
    with pytest.raises(SystemExit):
        main([*words, "--format", "mathematics"])


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (prm800k(rated(1, text="a"), finish="give_up"), "the labeller did not finish: give_up"),
        (prm800k(rated(1, text="a"), finish="bad_problem"), "the labeller did not finish: bad_problem"),
        (prm800k(rated(1, text="a", chosen=4)), "a step has no completion"),
        (prm800k(rated(text="a", chosen=None)), "a step has no completion"),
        (prm800k(rated(2, text="a")), "a rating is not −1, 0 or 1"),
        (prm800k(rated(1, text=" ")), "a step is empty, not stripped or not text"),
        (prm800k(), "steps is not a non-empty list"),
        ({**PRM800K, "question": {"problem": ""}}, "'problem' is empty"),
        ({**SHEPHERD, "label": "Step 1: a +"}, "no question before 'Step 1:'"),
        ({**SHEPHERD, "label": "q Step 1: a"}, "a step does not end with + or -"),
        ({**PROCESSBENCH, "label": 3}, "'label' is neither −1 nor the index of a step"),
        ({**PROCESSBENCH, "label": -2}, "'label' is neither −1 nor the index of a step"),
        ({**PROCESSBENCH, "steps": ["a", 3]}, "the steps are not a list of texts"),
        ({"prompt": QUESTION, "completions": STEPS, "labels": [True]}, "'labels' is not a list of one label for each step"),
        ({"prompt": QUESTION, "completions": STEPS, "labels": ["+", "+", "-"]}, "a label is neither true, false, null nor a number"),
        ({"prompt": QUESTION, "completions": STEPS, "labels": [3, 1, 1]}, "a label is beyond −1 to 1"),
        ({"prompt": QUESTION, "completions": STEPS, "labels": [0.5, -0.5, 1]}, "a rating is not −1, 0 or 1"),
        ({**AS_PEOPLE_HAVE_THEM["prepared"].row, "step_labels": [True]}, "'step_labels' is not a list of one label for each step"),
    ],
)  # fmt: skip
def test_odd_labels_are_refused_by_name(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(RowError) as error:
        convert_row(row, "s", options=RowOptions(wrong_steps="keep"))
    assert str(error.value) == reason


def odd(value: Any) -> list[Any]:
    """Every value that has something else somewhere in place of what it had."""
    others: list[Any] = [None, True, 0, -1.5, "", "x", [], {}, [None], [{}], 10**400]
    if isinstance(value, dict):
        others += [value | {key: new} for key, inner in value.items() for new in odd(inner)]
    elif isinstance(value, list):
        others += [[*value[:n], new, *value[n + 1 :]] for n, inner in enumerate(value) for new in odd(inner)]
    return others


@pytest.mark.parametrize("row", [PRM800K, FOUND_ERROR, SHEPHERD, RLHFLOW, PROCESSBENCH], ids=["prm800k", "error", "shepherd", "rlhflow", "processbench"])  # fmt: skip
def test_odd_values_anywhere_in_labelled_rows_raise_nothing_else(row: dict[str, Any]) -> None:
    for changed in odd(row):
        try:
            example = convert_row(changed, "s", options=RowOptions(wrong_steps="keep"))
        except RowError:
            continue
        labels = example.get("step_labels")
        assert labels is None or len(labels) == len(example["steps"])


def test_what_only_looks_labelled_is_read_as_before() -> None:
    alpaca = {"instruction": "Say it.", "input": QUESTION, "output": SOLUTION, "label": "good"}
    assert recognise_format(alpaca) == "solution"
    assert recognise_format({"prompt": QUESTION, "completion": SOLUTION, "label": True}) == "solution"
    assert recognise_format({"problem": QUESTION, "solution": SOLUTION, "label": 3}) == "math"
    assert recognise_format({"messages": [said("user", QUESTION), said("assistant", "+ 3")]}) == "chat"


def test_labelled_rows_are_questions_too(tmp_path: Path) -> None:
    rows = (FOUND_ERROR, {**SHEPHERD, "answer": "10"}, PROCESSBENCH)
    data = read_questions([write(tmp_path / "a.jsonl", *rows)])
    assert [(one["question"], one["answer"]) for one in data.questions] == [(QUESTION, "10")] * 3


# -------- sources --------


def test_a_folder_is_all_its_files(tmp_path: Path) -> None:
    row = AS_PEOPLE_HAVE_THEM["MATH"].row
    folder = tmp_path / "MATH" / "train"
    for name in ("algebra/2.json", "algebra/1.json", "geometry/a.parquet", "b.jsonl"):
        write(folder / name, {**row, "problem": f"{name}?"})
    for name in (".cache/c.jsonl", "dataset_info.json", "README.md", "notes.txt", "b.jsonl.lock"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("no rows")
    examples, report = read_examples(folder, strict=True)
    assert [example["question"] for example in examples] == [
        "algebra/1.json?",
        "algebra/2.json?",
        "b.jsonl?",
        "geometry/a.parquet?",
    ]
    assert {example["source"] for example in examples} == {"MATH"}
    data = read_questions([folder])
    assert (len(data.questions), data.files[0]["count"]) == (4, 4)
    (folder / "b.jsonl").write_text("no row\n")
    _, report = read_examples(folder)
    assert report.skipped == {"not JSON": [f"{folder}/b.jsonl:1"]}


def test_a_pattern_is_all_that_match(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = AS_PEOPLE_HAVE_THEM["MATH"].row
    for name in ("part-1.jsonl", "part-0.jsonl", "other.jsonl", "deep/er/part-2.jsonl"):
        write(tmp_path / "mine" / name, {**row, "problem": f"{name}?"})
    monkeypatch.chdir(tmp_path)
    examples, _ = read_examples("mine/part-*.jsonl")
    assert [example["question"] for example in examples] == ["part-0.jsonl?", "part-1.jsonl?"]
    assert {example["source"] for example in examples} == {"mine"}
    assert len(read_examples("mine/**/part-*.jsonl")[0]) == 3
    monkeypatch.chdir(tmp_path / "mine")
    assert read_examples("part-[01].jsonl")[0][0]["source"] == "part-0"
    with pytest.raises(UserError, match=r"no file matches 'part-x\*\.jsonl'"):
        read_examples("part-x*.jsonl")
    write(tmp_path / "mine" / "odd[1].jsonl", row)
    assert len(read_examples("odd[1].jsonl")[0]) == 1  # a file of that name


def test_a_saved_data_set(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    row = AS_PEOPLE_HAVE_THEM["MATH"].row
    Dataset.from_list([row] * 3).save_to_disk(tmp_path / "one")
    assert len(read_examples(tmp_path / "one", strict=True)[0]) == 3
    DatasetDict(train=Dataset.from_list([row]), test=Dataset.from_list([row] * 2)).save_to_disk(tmp_path / "two")
    examples, _ = read_examples(tmp_path / "two", split="test", strict=True)
    assert [example["source"] for example in examples] == ["two", "two"]
    with pytest.raises(UserError, match="has no split 'dev'; it has train, test"):
        read_examples(tmp_path / "two", split="dev")


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("some/data", ("some/data", "c", "test")),
        ("some/data:other", ("some/data", "other", "test")),
        ("some/data:other:train", ("some/data", "other", "train")),
        ("some/data::train[:100]", ("some/data", "c", "train[:100]")),
        ("some/data::train[:10%]+test", ("some/data", "c", "train[:10%]+test")),
    ],
)
def test_configuration_and_split_of_a_hub_id(
    name: str, asked: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def load(name: str, config: str, *, split: str) -> list[dict[str, Any]]:
        calls.append((name, config, split))
        return [AS_PEOPLE_HAVE_THEM["MATH"].row]

    monkeypatch.setattr("datasets.load_dataset", load)
    examples, _ = read_examples(name, config="c", split="test")
    assert calls == [asked]
    assert examples[0]["source"] == "data"


def test_a_hub_id_without_a_configuration_takes_that_which_the_hub_does_not_name() -> None:
    assert locate("openai/gsm8k").hub == ("openai/gsm8k", "main", "train")
    assert locate("openai/gsm8k:socratic:test").hub == ("openai/gsm8k", "socratic", "test")


def test_weights_are_for_training(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", AS_PEOPLE_HAVE_THEM["MATH"].row)
    with pytest.raises(UserError, match=r"no file '.*a\.jsonl:0\.5'.*only `train` and `verify` take weights"):
        read_examples(f"{path}:0.5")


def test_the_output_is_no_file_of_a_source(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", AS_PEOPLE_HAVE_THEM["MATH"].row)
    words = ["prepare", "--source", str(tmp_path), "--output_file", str(tmp_path / "a.jsonl")]
    assert main(words) == 1
    assert main([*words[:-1], str(tmp_path / "b.jsonl")]) == 0


def test_the_help_names_every_kind(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["prepare", "--help"])
    shown = capsys.readouterr().out
    assert all(f"\n  {name}: ".replace("`", "") in shown for name in (*FORMATS, *FILES, *ORIGINS))
    assert "`" not in kinds()
