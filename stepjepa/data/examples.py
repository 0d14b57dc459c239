"""An example, the form in which the rest of the package reads worked solutions: messages, steps, answer, source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stepjepa.data.fields import RowError

Example = dict[str, Any]

DEFAULT_SYSTEM_PROMPT = (
    "Please solve the problem step by step (separate steps with double newlines), but keep it short and put "
    "your final answer (do not include any other text or units) within \\boxed{}."
)


def question_key(example: Mapping[str, Any]) -> str:
    """By which two examples are of one problem: the question but for case and white space."""
    return " ".join(str(example["question"]).casefold().split())


def make_example(
    question: str,
    steps: Sequence[str],
    answer: str | None,
    source: str,
    system_prompt: str | None = DEFAULT_SYSTEM_PROMPT,
    **extra: Any,
) -> Example:
    r"""Build one example; ``"\n\n".join(steps)`` is the assistant's message.

    Args:
        question: what the user asks.
        steps: the reasoning steps, see :func:`stepjepa.data.steps.split_steps`.
        answer: the final answer, or ``None`` if the data names none.
        source: name under which losses and accuracies of this data are reported.
        system_prompt: the system message; ``None`` for none.
        extra: further keys of the example, such as ``level`` or ``latents``.

    Raises:
        RowError: if a step is empty, not stripped or not text.
    """
    check_steps(steps)
    messages = [{"role": "system", "content": system_prompt}] if system_prompt is not None else []
    messages += [{"role": "user", "content": question}, {"role": "assistant", "content": "\n\n".join(steps)}]
    return assemble(question, messages, steps, answer, source, extra)


def assemble(
    question: str,
    messages: list[dict[str, str]],
    steps: Sequence[str],
    answer: str | None,
    source: str,
    extra: Mapping[str, Any],
) -> Example:
    """An example of messages that are given; `extra` adds keys and replaces none."""
    example: Example = {
        "question": question,
        "messages": messages,
        "steps": list(steps),
        "total_steps": len(steps),
        "answer": answer,
        "source": source,
    }
    return example | {key: value for key, value in extra.items() if key not in example}


def check_steps(steps: object, message: str | None = None) -> None:
    """Raise :class:`RowError` unless ``steps`` is a non-empty sequence of stripped, non-empty strings.

    With ``message``, the assistant's, also unless the steps joined by blank lines are that message.
    """
    if isinstance(steps, str) or not isinstance(steps, Sequence) or not steps:
        raise RowError("steps is not a non-empty list")
    for step in steps:
        if not isinstance(step, str) or not step or step != step.strip():
            raise RowError("a step is empty, not stripped or not text")
    if message is not None and "\n\n".join(steps) != message:
        raise RowError("the steps joined by blank lines are not the assistant's message")


def final_answer_step(answer: str) -> str:
    r"""The closing step that states ``answer``: ``"72"`` → ``"The answer is \boxed{72}."``.

    A whole sentence, because a bare ``\boxed{7}`` is shorter than the default ``min_chars`` and would be
    merged into the step before it.
    """
    return rf"The answer is \boxed{{{answer.strip()}}}."
