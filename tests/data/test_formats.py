"""Rows by any usual names of their fields become examples, and odd values in any field are refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from stepjepa.data.converters import RowOptions
from stepjepa.data.examples import DEFAULT_SYSTEM_PROMPT
from stepjepa.data.fields import FIELDS, RowError
from stepjepa.data.formats import convert_row, recognise_format

QUESTION = "A crate holds two bags of 3 kg and 4 kg. What do two crates weigh?"
STEPS = ["We add the two weights: 3 + 4 = 7.", "Then we double it, which is 14.", "The answer is \\boxed{14}."]
SOLUTION = "\n\n".join(STEPS)
THOUGHTS = ["First I add the two bags: 7 kilograms.", "Then I take that twice over: 14."]


def turn(role: str, content: Any, names: tuple[str, str] = ("role", "content"), **more: Any) -> dict[str, Any]:
    return dict(zip(names, (role, content), strict=True)) | more


@pytest.mark.parametrize("question", FIELDS["question"])
@pytest.mark.parametrize("solution", [*FIELDS["solution"], "answer"])
def test_any_names_of_question_and_solution(question: str, solution: str) -> None:
    row = {question: QUESTION, solution: SOLUTION}
    for named in (row, {name.title(): value for name, value in row.items()}, row | {"id": 3, "messages": None}):
        example = convert_row(named, "s")
        assert (example["question"], example["steps"], example["answer"]) == (QUESTION, STEPS, "14")


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"question": QUESTION, "solution": SOLUTION, "answer": "14"}, "solution"),
        ({"problem": QUESTION, "generated_solution": SOLUTION, "expected_answer": "14"}, "solution"),
        ({"instruction": QUESTION, "input": "", "output": SOLUTION, "system": "", "history": []}, "solution"),
        ({"question": QUESTION, "answer": SOLUTION, "answer_number": 14}, "gsm8k"),
        ({"Problem": QUESTION, "Solution": SOLUTION, "Answer": 14}, "math"),
        ({"prompt": QUESTION, "completions": STEPS, "labels": [True, True, True]}, "steps"),
        ({"prompt": [turn("user", QUESTION)], "completion": [turn("assistant", SOLUTION)]}, "chat"),
        (
            {"conversations": [turn("human", QUESTION, ("from", "value")), turn("gpt", SOLUTION, ("from", "value"))]},
            "chat",
        ),
        ({"messages": [turn("system", " "), turn("User", QUESTION), turn("assistant", SOLUTION)]}, "chat"),
        ({"messages": [turn("user", [{"type": "text", "text": QUESTION}]), turn("assistant", STEPS)]}, "chat"),
    ],
)
def test_forms_of_data_sets(row: dict[str, Any], kind: str) -> None:
    assert recognise_format(row) == kind
    example = convert_row(row, "s")
    assert example["messages"] == [
        turn("system", DEFAULT_SYSTEM_PROMPT),
        turn("user", QUESTION),
        turn("assistant", SOLUTION),
    ]
    assert (example["steps"], example["answer"]) == (STEPS, "14")


def test_answers_of_earlier_turns_are_context_and_counted() -> None:
    options = RowOptions()
    earlier = [turn("user", "And 1 + 1?"), turn("assistant", "That is 2, of course.")]
    row = {"messages": [*earlier, turn("user", QUESTION), turn("assistant", SOLUTION)]}
    example = convert_row(row, "s", options=options)
    assert example["messages"][1:3] == earlier
    assert example["steps"] == STEPS
    assert +options.changes == {"answers of earlier turns kept as context, not trained on": 1}


def test_alpaca_input_and_system_fields() -> None:
    row = {"instruction": "Solve it.", "input": QUESTION, "output": SOLUTION, "system": "Be brief."}
    example = convert_row(row, "s")
    assert example["question"] == f"Solve it.\n\n{QUESTION}"
    assert example["messages"][0] == turn("system", "Be brief.")
    chat = {"system": "Be brief.", "conversations": [turn("user", QUESTION), turn("model", SOLUTION)]}
    assert convert_row(chat, "s")["messages"][0] == turn("system", "Be brief.")
    with pytest.raises(RowError, match="history"):
        convert_row(row | {"history": [["q", "a"]]}, "s")


def test_a_marked_answer_in_any_solution_is_boxed() -> None:
    row = {
        "query": QUESTION,
        "response": "One weighs 3 + 4 = 7 kg.\nTwo weigh 2 * 7 = 14 kg.\n#### 14\nThe answer is: 14",
    }
    example = convert_row(row, "s")
    assert example["answer"] == "14"
    assert example["steps"][-1] == "The answer is \\boxed{14}.\nThe answer is: 14"
    single = convert_row(
        {"question": QUESTION, "answer": "One weighs <<3+4=7>>7 kg, so it is twice that. #### 14"}, "s"
    )
    assert single["steps"] == ["One weighs 7 kg, so it is twice that.", "The answer is \\boxed{14}."]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [turn("user", QUESTION), turn("assistant", SOLUTION, reasoning_content="\n\n".join(THOUGHTS))]},
        {
            "messages": [
                turn("user", QUESTION),
                turn("assistant", SOLUTION, reasoning="<think>" + "\n\n".join(THOUGHTS)),
            ]
        },
        {
            "messages": [
                turn("user", QUESTION),
                turn(
                    "assistant",
                    [{"type": "thinking", "thinking": "\n\n".join(THOUGHTS)}, {"type": "text", "text": SOLUTION}],
                ),
            ]
        },
        {"question": QUESTION, "response": SOLUTION, "reasoning_content": "\n\n".join(THOUGHTS)},
        {"question": QUESTION, "deepseek_response": f"[THINK]{THOUGHTS[0]}\n\n{THOUGHTS[1]}[/THINK]{SOLUTION}"},
    ],
)
def test_thoughts_in_a_field_of_their_own(row: dict[str, Any]) -> None:
    options = RowOptions()
    assert convert_row(row, "s", options=options)["steps"] == STEPS
    assert options.changes["thoughts dropped"] == 1
    options = RowOptions(think="steps")
    assert convert_row(row, "s", options=options)["steps"] == [*THOUGHTS, STEPS[-1]]
    assert options.changes["solutions dropped for their thoughts"] == 1


def test_a_box_in_a_thought_is_no_answer() -> None:
    row = {"question": QUESTION, "response": "<thinking>Is it \\boxed{7}?</thinking>We double it, so there are 14 kg."}
    assert convert_row(row, "s")["answer"] is None
    assert convert_row(row, "s", options=RowOptions(think="steps"))["answer"] == "7"


@pytest.mark.parametrize(
    "end", ["<|im_end|>", "<｜end▁of▁sentence｜>", "\n</s>", "<end_of_turn>\n", "<|eot_id|> <|endoftext|>"]
)
def test_a_turns_end_at_the_end_is_taken_off(end: str) -> None:
    options = RowOptions()
    for row in (
        {"question": QUESTION, "deepseek_response": f"<think>{THOUGHTS[0]}</think>{SOLUTION}{end}"},
        {"messages": [turn("user", QUESTION), turn("assistant", SOLUTION + end)]},
        {"prompt": QUESTION, "completions": [*STEPS[:2], STEPS[2] + end]},
    ):
        assert convert_row(row, "s", options=options)["steps"] == STEPS
    assert options.changes["solutions had an end-of-turn string taken off"] == 3
    row = {"question": QUESTION, "response": f"We read {end} as a text.\n\n{SOLUTION}"}
    assert end.strip() in convert_row(row, "s")["steps"][0]


def test_steps_as_given() -> None:
    row = {"prompt": QUESTION, "completions": ["7", "A.\n\nB. ", "\\boxed{14}"]}
    assert convert_row(row, "s")["steps"] == ["7", "A.\nB.", "\\boxed{14}"]
    for odd in ({"labels": [True, False, True]}, {"completions": ["a", 3]}, {"completions": ["a", " "]}):
        with pytest.raises(RowError):
            convert_row(row | odd, "s")


def test_unknown_fields_are_named() -> None:
    with pytest.raises(RowError) as error:
        convert_row({"frage": "q", "l\x1b[2Jsung": "s", "empty": None}, "s")
    assert "\x1b" not in str(error.value)
    assert str(error.value).startswith("fields of no known format: fields seen: 'frage', 'l")
    assert "empty" not in str(error.value)


ROWS: list[dict[str, Any]] = [
    {"question": QUESTION, "answer": "It is 14.\n#### 14", "level": 1},
    {"problem": QUESTION, "solution": SOLUTION, "answer": "14", "type": "a"},
    {"question": QUESTION, "deepseek_response": SOLUTION, "ground_truth": "14"},
    {"instruction": QUESTION, "input": "x", "output": SOLUTION, "system": "s", "history": []},
    {"prompt": QUESTION, "completions": STEPS, "labels": [True] * 3},
    {
        "messages": [turn("user", QUESTION), turn("assistant", SOLUTION)],
        "steps": STEPS,
        "total_steps": 3,
        "answer": "14",
    },
    {"messages": [turn("system", "s"), turn("user", QUESTION), turn("assistant", SOLUTION, reasoning_content="r")]},
    {"conversations": [turn("human", QUESTION, ("from", "value")), turn("gpt", SOLUTION, ("from", "value"))]},
    {"prompt": [turn("user", QUESTION)], "completion": [turn("assistant", SOLUTION)]},
]
ODD: list[Any] = [
    None,
    True,
    0,
    -1.5,
    10**400,
    "",
    " ",
    "\n\n",
    [],
    {},
    [[]],
    [None],
    [""],
    {"a": [1]},
    ["a", 1],
    [{}],
    [[{"a": 1}]],
]


def changed(value: Any) -> list[Any]:
    """Every value that has an odd one somewhere in place of what it had."""
    results = list(ODD)
    if isinstance(value, dict):
        results += [value | {key: other} for key, inner in value.items() for other in changed(inner)]
    elif isinstance(value, list):
        results += [[*value[:i], other, *value[i + 1 :]] for i, inner in enumerate(value) for other in changed(inner)]
    return results


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("think", ["remove", "steps"])
def test_odd_values_anywhere_are_refused_by_name(row: dict[str, Any], think: Any) -> None:
    convert_row(row, "s")
    for odd in changed(row):
        try:
            example = convert_row(odd, "s", options=RowOptions(think=think))
        except RowError:
            continue
        assert "\n\n".join(example["steps"]) == example["messages"][-1]["content"]
        assert all(isinstance(message["content"], str) for message in example["messages"])
        assert example["answer"] is None or isinstance(example["answer"], str)
