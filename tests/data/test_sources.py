"""Sources of every kind become examples, and every bad line is skipped, counted and named."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from real_data import DATA

from stepjepa.data.boxes import last_boxed
from stepjepa.data.converters import RowOptions
from stepjepa.data.examples import DEFAULT_SYSTEM_PROMPT
from stepjepa.data.fields import WANTED_FIELDS, RowError
from stepjepa.data.formats import convert_row, recognise_format
from stepjepa.data.origins import would_be_part_of
from stepjepa.data.sources import Report, make_example, prepare, read_examples
from stepjepa.records import UserError, write_jsonl

GSM8K = {
    "question": "Natalia sold clips to 48 friends in April, and half as many in May. How many in all?",
    "answer": "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\nShe sold 48+24 = <<48+24=72>>72 clips.\n#### 72",
}
STEPS = ["Natalia sold 48/2 = 24 clips in May.", "She sold 48+24 = 72 clips.", "The answer is \\boxed{72}."]
TEACHER = GSM8K | {
    "ground_truth": "1,072",
    "deepseek_response": "<think>\nHm.\n</think>\n\nFirst, I note that 48 were sold.\n\nSo it is \\boxed{\\$1072}.",
}


def lines(path: Path, *rows: Any) -> Path:
    """A file of ``rows``: bytes as they are, anything else as JSON."""
    path.write_bytes(b"".join((r if isinstance(r, bytes) else json.dumps(r).encode()) + b"\n" for r in rows))
    return path


def test_gsm8k_row() -> None:
    assert convert_row(GSM8K, "gsm8k") == {
        "question": GSM8K["question"],
        "messages": [
            {"role": "system", "content": DEFAULT_SYSTEM_PROMPT},
            {"role": "user", "content": GSM8K["question"]},
            {"role": "assistant", "content": "\n\n".join(STEPS)},
        ],
        "steps": STEPS,
        "total_steps": 3,
        "answer": "72",
        "source": "gsm8k",
    }


def test_gsm8k_answer_line_need_not_be_the_last() -> None:
    row = GSM8K | {"answer": "She sold 48+24 = 72 clips.\n#### 1,450,000 \nThat is a very large number."}
    example = convert_row(row, "x")
    assert example["answer"] == "1,450,000"
    assert example["steps"] == [
        "She sold 48+24 = 72 clips.",
        "The answer is \\boxed{1,450,000}.",
        "That is a very large number.",
    ]


def test_math_row_keeps_level_and_type() -> None:
    row = {"problem": "What is $1+1$?", "solution": "We add one and one: \\boxed{\\frac{4}{2}}.", "level": "Level 1"}
    example = convert_row(row | {"type": "Algebra", "idx": 3}, "math")
    assert (example["answer"], example["level"], example["type"]) == ("\\frac{4}{2}", "Level 1", "Algebra")
    assert list(example)[:6] == ["question", "messages", "steps", "total_steps", "answer", "source"]
    assert "idx" not in example


def test_teacher_row() -> None:
    example = convert_row(TEACHER, "teacher")
    assert example["steps"] == ["First, I note that 48 were sold.", "So it is \\boxed{\\$1072}."]
    assert example["answer"] == "1,072"
    without = {key: value for key, value in TEACHER.items() if key != "ground_truth"}
    assert convert_row(without, "teacher")["answer"] == "72"


def test_thoughts_as_steps_still_end_with_the_answer() -> None:
    row = TEACHER | {"deepseek_response": "<think>Half of 48 clips is 24.</think>\\boxed{1072}"}
    example = convert_row(row, "teacher", options=RowOptions(think="steps"))
    assert example["steps"] == ["Half of 48 clips is 24.", "The answer is \\boxed{1,072}."]


def test_thoughts_of_earlier_turns_are_left_out() -> None:
    turns = [
        {"role": "user", "content": "What is <think>?"},
        {"role": "assistant", "content": "<think>A tag.</think>It opens a thought."},
        {"role": "user", "content": "Add 1 and 1."},
        {"role": "assistant", "content": "<think>Easy.</think>It is two, \\boxed{2}."},
    ]
    kept = [message["content"] for message in convert_row({"messages": turns}, "chat")["messages"][1:]]
    assert kept == ["What is <think>?", "It opens a thought.", "Add 1 and 1.", "It is two, \\boxed{2}."]


def test_chat_row_keeps_its_system_message_and_earlier_turns() -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Add 1 and 1."},
        {"role": "assistant", "content": "Two.\n\nIt is two."},
        {"role": "user", "content": "And one more?"},
        {"role": "assistant", "content": "Two and one are three.\n \nThe answer is \\boxed{3}."},
    ]
    example = convert_row({"messages": turns}, "chat")
    assert example["messages"][:4] == turns[:4]
    assert example["question"] == "And one more?"
    assert example["steps"] == ["Two and one are three.", "The answer is \\boxed{3}."]
    assert example["messages"][-1]["content"] == "Two and one are three.\n\nThe answer is \\boxed{3}."
    assert example["answer"] == "3"
    assert convert_row({"messages": turns[1:3]}, "chat")["messages"][0]["content"] == DEFAULT_SYSTEM_PROMPT


@pytest.mark.parametrize(
    "roles", [["user"], ["assistant"], ["user", "user", "assistant"], ["user", "tool", "assistant"], ["system"]]
)
def test_undefined_conversations_are_refused(roles: list[str]) -> None:
    with pytest.raises(RowError, match="ending with the assistant"):
        convert_row({"messages": [{"role": role, "content": "text"} for role in roles]}, "chat")


def test_recognised_by_fields_and_overridable(tmp_path: Path) -> None:
    assert recognise_format(TEACHER) == "teacher"
    assert recognise_format(GSM8K | {"messages": None}) == "gsm8k"
    path = lines(tmp_path / "t.jsonl", TEACHER)
    assert read_examples(path)[1].formats == {"teacher": 1}
    examples, report = read_examples(path, row_format="gsm8k")
    assert report.formats == {"gsm8k": 1}
    assert examples[0]["steps"] == STEPS


BAD = [
    (b"{not json", "not JSON"),
    (b"[1, 2]", "not a JSON object"),
    (b"", "empty line"),
    (b'{"question": "caf\xe9", "answer": "#### 1"}', "not UTF-8"),
    (
        {"question": "q"},
        "fields of no known format: has 'question' but no solution and no steps; fields seen: 'question'",
    ),
    ({"question": "", "answer": "#### 1"}, "'question' is empty"),
    ({"question": 3, "answer": "#### 1"}, "'question' is not text"),
    (
        {"question": "q", "answer": ["#### 1"]},
        "'answer' is a list, not text; a solution as a list of its steps goes by the name 'steps'",
    ),
    ({"question": "q", "answer": "just text"}, "no '####' answer line"),
    ({"problem": "q", "solution": "just text"}, "no \\boxed{} answer"),
    (
        {"question": "q", "deepseek_response": "<think>only \\boxed{1}"},
        "nothing but a thought, cut off or without an answer after it; think=steps takes its steps",
    ),
    (b'{"question": "q\\ud800", "answer": "#### 1"}', "lone surrogate"),
    (b'{"question": "q", "answer": "#### 1", "score": NaN}', "NaN or infinity"),
    (b"[" * 100_000, "nested too deeply"),
    ({"messages": "text"}, "messages is not a non-empty list"),
    ({"messages": [{"role": "user", "content": None}]}, "a message has no text"),
    (
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "b"}], "steps": ["a"]},
        "the steps joined by blank lines are not the assistant's message",
    ),
]


def test_bad_lines_are_skipped_and_named(tmp_path: Path) -> None:
    rows = [GSM8K]
    for bad, _ in BAD:
        rows += [bad, GSM8K]  # type: ignore[list-item]
    examples, report = read_examples(lines(tmp_path / "bad.jsonl", *rows))
    assert [example["steps"] for example in examples] == [STEPS] * (len(BAD) + 1)
    expected: dict[str, list[str]] = {}
    for index, (_, reason) in enumerate(BAD):
        expected.setdefault(reason, []).append(f"{tmp_path}/bad.jsonl:{2 * index + 2}")
    assert report.skipped == expected
    assert (report.read, report.kept, dict(report.step_counts)) == (35, 18, {3: 18})
    text = str(report)
    assert "35 read, 18 kept, 17 skipped" in text
    assert f"skipped 1: not UTF-8: {tmp_path}/bad.jsonl:8" in text


@pytest.mark.parametrize(("bad", "reason"), BAD)
def test_strict_names_file_and_line(tmp_path: Path, bad: Any, reason: str) -> None:
    path = lines(tmp_path / "bad.jsonl", GSM8K, bad, GSM8K)
    with pytest.raises(UserError) as error:
        read_examples(path, strict=True)
    assert str(error.value).startswith(f"{path}:2: {reason}")
    assert str(error.value).removeprefix(f"{path}:2: {reason}") in ("", f". Wanted: {WANTED_FIELDS}")


def test_byte_order_mark_carriage_returns_and_missing_last_line_end(tmp_path: Path) -> None:
    path = tmp_path / "bom.jsonl"
    line = json.dumps(GSM8K | {"question": "Zoë\u2028asks"}, ensure_ascii=False).encode()
    path.write_bytes(b"\xef\xbb\xbf" + line + b"\r\n" + line)
    examples, report = read_examples(path)
    assert (report.read, report.kept, examples[1]["question"]) == (2, 2, "Zoë\u2028asks")


def test_nothing_kept_is_an_error_and_writes_nothing(tmp_path: Path) -> None:
    for name, rows in (("empty.jsonl", []), ("bad.jsonl", [b"{", {"a": 1}])):
        with pytest.raises(UserError, match="nothing could be kept"):
            prepare(lines(tmp_path / name, *rows), tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_wrong_teachers_are_counted_and_dropped_on_request(tmp_path: Path) -> None:
    wrong = TEACHER | {"ground_truth": "1073"}
    unboxed = TEACHER | {"deepseek_response": "I do not know the answer at all."}
    path = lines(tmp_path / "t.jsonl", TEACHER, wrong, unboxed)
    report = read_examples(path)[1]
    assert (report.kept, report.wrong, report.unboxed) == (3, 1, 1)
    examples, report = read_examples(path, only_correct=True)
    assert [example["answer"] for example in examples] == ["1,072"]
    assert (report.wrong, report.unboxed, sum(map(len, report.skipped.values()))) == (1, 1, 2)


SOLVED = "Two and five are seven.\n\nTwice seven is fourteen.\n\nThe answer is \\boxed{{{}}}."


@pytest.mark.parametrize(
    ("row", "kept"),
    [
        ({"problem": "p?", "solution": SOLVED.format(14)}, 1),
        ({"problem": "p?", "solution": SOLVED.format(14), "answer": "14"}, 1),
        ({"problem": "p?", "solution": SOLVED.format(14), "answer": "15"}, 0),
        ({"problem": "p?", "solution": "Two and five are seven.\n\nWe get 14 in the end.", "answer": "15"}, 0),
        ({"question": "p?", "solution": SOLVED.format("\\frac{\\sqrt2}{2}"), "answer": "\\sqrt{2}/2"}, 1),
        ({"question": "p?", "solution": SOLVED.format("\\text{Ann}"), "answer": "Bob"}, 0),
    ],
)
def test_only_correct_goes_by_the_reference_of_every_kind_of_row(
    tmp_path: Path, row: dict[str, str], kept: int
) -> None:
    """A row of the kind beside it, so that something is kept; what only mathematics could tell is kept and counted."""
    other = {"problem": "q?", "solution": SOLVED.format(3)}
    examples, report = read_examples(lines(tmp_path / "t.jsonl", row, other), only_correct=True)
    assert len(examples) == kept + 1
    assert report.undecided == ("sqrt" in row["solution"])
    assert ("only mathematics could tell" in str(report)) == ("sqrt" in row["solution"])
    prepared = [{**examples[-1], "answer": "4"}, examples[-1]]
    again, _ = read_examples(lines(tmp_path / "p.jsonl", *prepared), only_correct=True)
    assert [example["answer"] for example in again] == ["3"]


def test_prepared_files_round_trip(tmp_path: Path) -> None:
    math = {"problem": "q", "solution": "We add one and one. Then we get \\boxed{2} as the answer.", "level": "L"}
    chat = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "A step of it."}]}
    raw = lines(tmp_path / "raw.jsonl", GSM8K, math, TEACHER, chat)
    once, twice = tmp_path / "once.jsonl", tmp_path / "twice.jsonl"
    prepare(raw, once)
    report = prepare(once, twice)
    assert once.read_bytes() == twice.read_bytes()
    assert report.formats == {"prepared": 4}
    assert read_examples(once, row_format="prepared", strict=True)[0] == read_examples(raw)[0]
    with pytest.raises(UserError, match="is a source"):
        prepare(once, once)
    with once.open("a") as file:
        file.write('{"question": "q"}\n')
    with pytest.raises(UserError, match=r"once\.jsonl:5: messages is not"):
        read_examples(once, row_format="prepared", strict=True)


def test_what_will_be_part_of_a_source(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    write_jsonl([{"question": "q", "solution": "s"}], tmp_path / "data" / "a.jsonl")
    for source, output, is_one in (
        ("data", "data/new.jsonl", True),
        ("data", "data/new.txt", False),
        ("data", "new.jsonl", False),
        ("data/*.jsonl", "data/new.jsonl", True),
        ("data/*.jsonl", "data/below/new.jsonl", False),
        ("**/*.jsonl", "data/below/new.jsonl", True),
        ("data/a.jsonl", "data/new.jsonl", False),
    ):
        assert would_be_part_of(tmp_path / output, str(tmp_path / source)) == is_one, (source, output)


def test_several_files_and_source_names(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    a, b = lines(tmp_path / "mine" / "train.jsonl", GSM8K), lines(tmp_path / "other.jsonl", GSM8K, b"x")
    examples, report = read_examples([a, str(b)])
    assert [example["source"] for example in examples] == ["mine", "other"]
    assert report.skipped == {"not JSON": [f"{b}:2"]}
    assert [e["source"] for e in read_examples([a, b], source_name="s")[0]] == ["s", "s"]


def test_write_is_atomic(tmp_path: Path) -> None:
    path = tmp_path / "new" / "out.jsonl"
    write_jsonl([{"a": "é"}], path)
    assert path.read_text(encoding="utf-8") == '{"a": "é"}\n'
    for broken in ({"a": float("nan")}, {"a": object()}):
        with pytest.raises((ValueError, TypeError)):
            write_jsonl([{"a": "x"}, broken], path)
        assert path.read_text(encoding="utf-8") == '{"a": "é"}\n'
        assert os.listdir(path.parent) == ["out.jsonl"]


def test_builtin_has_no_system_message() -> None:
    examples, report = read_examples("builtin", count=5, seed=3)
    assert (report.read, report.kept) == (5, 5)
    for example in examples:
        assert [message["role"] for message in example["messages"]] == ["user", "assistant"]
        assert example["source"] == "builtin"
        assert "latents" in example
    assert read_examples("builtin", count=1, system_prompt="Hi.")[0][0]["messages"][0]["content"] == "Hi."


def test_other_kinds_of_built_in_problems(tmp_path: Path) -> None:
    kinds = ["builtin:logic", "builtin", "builtin:programs", "builtin:easy"]
    report = prepare(kinds, tmp_path / "mixed.jsonl", count=3, seed=4, split="test")
    assert report.formats == {kind: 3 for kind in kinds}
    examples, again = read_examples(tmp_path / "mixed.jsonl")
    assert examples == read_examples(kinds, count=3, seed=4, split="test")[0]
    assert again.formats == {"prepared": 12}
    names = ["logic", "builtin", "programs", "easy"]
    assert [each["source"] for each in examples] == [name for name in names for _ in range(3)]
    assert all(len(each["latents"]) == len(each["steps"]) - 1 for each in examples)
    assert {len(each["steps"]) for each in read_examples("builtin:easy", count=30)[0]} == {3, 4}
    with pytest.raises(
        UserError, match="no built-in problems 'builtin:stories'; there are builtin, builtin:easy, builtin:programs"
    ):
        read_examples("builtin:stories")
    with pytest.raises(UserError, match="mistakes are planted in stories"):
        read_examples("builtin:logic", mistake="order")


def test_system_prompt_can_be_left_out(tmp_path: Path) -> None:
    examples, _ = read_examples(lines(tmp_path / "a.jsonl", GSM8K), system_prompt=None)
    assert [message["role"] for message in examples[0]["messages"]] == ["user", "assistant"]


def test_mistyped_paths_are_not_looked_up_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: pytest.fail("asked the Hub"))
    monkeypatch.chdir(tmp_path)
    lines(tmp_path / "train.jsonl", GSM8K)
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=r"no file 'trian.jsonl'; did you mean train.jsonl\?"):
        read_examples("trian.jsonl")
    for name in ("missing.json", "./missing", "folder/missing", str(tmp_path / "missing"), "a b", "a/b/c"):
        with pytest.raises(UserError, match="no file"):
            read_examples(name)
    with pytest.raises(UserError, match=r"is a folder without a file of rows"):
        read_examples("folder")


def test_hub_rows_and_hub_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []

    def load(name: str, config: str | None, *, split: str) -> list[dict[str, Any]]:
        calls.append((name, config, split))
        return [GSM8K, {"question": "q", "answer": None}]

    monkeypatch.setattr("datasets.load_dataset", load)
    examples, report = read_examples("openai/gsm8k", split="test")
    assert calls == [("openai/gsm8k", "main", "test")]
    assert examples[0]["source"] == "gsm8k"
    assert report.skipped == {
        "fields of no known format: has 'question' but no solution and no steps; fields seen: 'question'": [
            "openai/gsm8k[test]:2"
        ]
    }

    def refuse(*_: Any, **__: Any) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr("datasets.load_dataset", refuse)
    with pytest.raises(UserError, match=r"neither a file.*`hf auth login`.*no network"):
        read_examples("some/gated")


def test_make_example_refuses_broken_steps() -> None:
    for steps in ([], ["a", ""], ["a "], "ab", ["a", 3]):
        with pytest.raises(RowError):
            make_example("q", steps, "1", "s")  # type: ignore[arg-type]


def test_empty_report_prints() -> None:
    assert str(Report(["x"])) == "x: 0 read, 0 kept, 0 skipped"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "rows"),
    [
        ("gsm8k/train.jsonl", 7473),
        ("gsm8k/test.jsonl", 1319),
        ("math/test.jsonl", 5000),
        ("minerva_ocw/test.jsonl", 272),
    ],
)
def test_real_files_convert_whole(file: str, rows: int) -> None:
    if not (DATA / file).exists():
        pytest.skip(f"{file} is absent")
    examples, report = read_examples(DATA / file, strict=True)
    assert (report.read, report.kept, report.skipped) == (rows, rows, {})
    for example in examples:
        content = example["messages"][-1]["content"]
        assert "\n\n".join(example["steps"]) == content
        assert last_boxed(content) == example["answer"]
        assert "<<" not in content or "gsm8k" not in file
