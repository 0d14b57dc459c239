"""End-of-turn strings at the end of a solution are taken off in every format, and counted; in mid-text they are text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stepjepa.data.endings import without_end, without_ends
from stepjepa.data.sources import read_examples
from stepjepa.evaluation.questions import read_question

ENDS = (
    *("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|endoftext|>", "<|end_of_text|>", "<|end|>", "<|return|>"),
    *(
        "<｜end▁of▁sentence｜>",
        "</s>",
        "<eos>",
        "<end_of_turn>",
        "[SEP]",
        "<|END_OF_TURN_TOKEN|>",
        "<|eos|>",
        "<turn|>",
        "<|endofturn|>",
        "<|user|>",
    ),
)
STEPS = ["We add the weights: 3 + 4 = 7 and so on.", "Doubled they are 2 * 7 = 14.", "The answer is \\boxed{14}."]
SOLUTION = "\n\n".join(STEPS)


def rows(end: str) -> dict[str, dict[str, Any]]:
    said = f"{SOLUTION}{end}"
    turns = [{"role": "user", "content": "How much is it?"}, {"role": "assistant", "content": said}]
    return {
        "teacher": {"question": "How much?", "deepseek_response": said, "ground_truth": f"14{end}"},
        "math": {"problem": "How much?", "solution": said},
        "gsm8k": {"question": "How much?", "answer": f"{STEPS[0]}\n{STEPS[1]}\n#### 14{end}"},
        "chat": {"messages": turns},
        "parts": {"messages": [turns[0], {"role": "assistant", "content": [{"type": "text", "text": said}]}]},
        "sharegpt": {"conversations": [{"from": "human", "value": "How?"}, {"from": "gpt", "value": said}]},
        "prepared": {"messages": turns, "steps": [*STEPS[:2], f"{STEPS[2]}{end}"], "answer": "14"},
        "steps": {"prompt": "How much?", "completions": [*STEPS, end], "labels": [True] * 3},
    }


@pytest.mark.parametrize("end", ["<|im_end|>", " </s>\n", "<｜end▁of▁sentence｜><|im_end|>"])
def test_every_format_is_read_without_it(end: str, tmp_path: Path) -> None:
    for name, row in rows(end).items():
        path = tmp_path / f"{name}.jsonl"
        path.write_text(json.dumps(row))
        (example,), report = read_examples(path)
        assert example["steps"] == STEPS, name
        assert example["messages"][-1]["content"] == SOLUTION
        assert example["answer"] == "14"
        assert "1 solutions had an end-of-turn string taken off" in str(report)
        assert read_question(row, "s")["answer"] == "14" or name in ("parts", "sharegpt", "steps")


@pytest.mark.parametrize("end", ENDS)
def test_known_ends(end: str) -> None:
    assert without_end(f"It is 4.{end}") == "It is 4."
    assert without_end(f"It is 4. {end}\n{end} ") == "It is 4."
    for text in (
        f"{end} is text.",
        f"In {end} and {end}.",
        "It is 4. ",
        "x < 4",
        "[4]",
        "<b>4</b>",
        "<|end_of_thought|>",
        "<|END_THINKING|>",
    ):
        assert without_end(text) == text


def test_what_asks_is_left_alone() -> None:
    row = {"question": "What is </s>", "messages": [{"role": "user", "content": "</s>"}], "system": "[SEP]"}
    assert without_ends(row) is row


def test_a_long_text_of_ends_takes_no_time() -> None:
    assert without_end("4" + "</s> " * 200_000) == "4"
    deep: Any = "</s>"
    for _ in range(5000):
        deep = [deep]
    assert without_ends({"x": deep})["x"] is deep
