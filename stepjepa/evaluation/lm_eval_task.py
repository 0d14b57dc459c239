"""The package's problems and answer check as a task of lm-evaluation-harness (`lm_eval_tasks/stepjepa.yaml`).

A trained model needs nothing of this package to be evaluated there: it is an ordinary checkpoint with a chat
template. (A LoRA adapter has to be merged first: the harness cuts the embedding to the tokenizer's length, on
which the rows of the predictor tokens cannot be loaded.) The task is for evaluating it on the same local rows,
with the same prompts and the same reading of answers, in the program that published numbers come from.

What cannot be controlled from here: the harness renders the chat template and tokenizes its text itself. A question
that holds the string of a control token has that token in its prompt there (here it is text, see `data/control.py`);
a system message that the template drops is not folded into the question; a generation prompt that ends in a space is
not cut where training begins the answer. `stepjepa verify` and `stepjepa evaluate` know no such difference.

Reference: Gao et al., The Language Model Evaluation Harness, https://github.com/EleutherAI/lm-evaluation-harness
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stepjepa.data.sources import read_examples
from stepjepa.evaluation.answers import answers_match, exact_match, extract_answer, flexible_extract, strict_match
from stepjepa.records import UserError


def load_rows(
    test_file: str = "builtin", split: str = "test", count: int = 200, seed: int = 1, **_: Any
) -> dict[str, Any]:
    """The rows of the task, ``{"test": Dataset}`` with the texts `question`, `system` and `answer`.

    Args:
        test_file: What `stepjepa.data.sources.read_examples` reads, strictly; from ``--metadata test_file=…``.
        split, count, seed: Which split of a Hub data set, which built-in problems.
        _: The model's arguments, which the harness passes along.

    Raises:
        UserError: the file cannot be read, or a row has no answer or earlier turns, which the task cannot show.
    """
    from datasets import Dataset

    examples, _report = read_examples(test_file, split=split, count=count, seed=seed, strict=True)
    rows = []
    for number, example in enumerate(examples, 1):
        system, *turns = (message["content"] for message in _with_system(example["messages"]))
        if len(turns) != 2:
            raise UserError(f"{test_file}: row {number} has earlier turns, which this task cannot show the model")
        if not example["answer"]:
            raise UserError(f"{test_file}: row {number} has no answer to compare with")
        rows.append({"question": turns[0], "system": system, "answer": example["answer"]})
    return {"test": Dataset.from_list(rows)}


def _with_system(messages: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    return list(messages) if messages[0]["role"] == "system" else [{"role": "system", "content": ""}, *messages]


def score_response(row: Mapping[str, Any], responses: Sequence[str]) -> dict[str, float]:
    """Right (1) or wrong (0) as this package reads the answer, and as the harness's ``gsm8k`` task reads it."""
    (response,) = responses
    gold = row["answer"]
    return {
        "accuracy": float(answers_match(extract_answer(response), gold)),
        "strict_match": float(exact_match(strict_match(response), gold)),
        "flexible_extract": float(exact_match(flexible_extract(response), gold)),
    }
