"""Explorers that follow each other: choose a step or a view pair in one, and the others show the same.

What can be linked has `problems` (question and steps of each), a trait `chosen`, and `choose(example, step, view)`.
Both speak of a view: the problem by its place; the step, from 0 (−1: the question, or as a target the whole answer);
and "context" after that step, "target" of it, or "state" at its end in its context. `chosen` is None where what is
looked at is no view.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from stepjepa.records import UserError


def problems_of(examples: Sequence[Mapping[str, Any]]) -> list[tuple[str, tuple[str, ...]]]:
    """The `problems` of an explorer of examples."""
    return [(example["question"], tuple(example["steps"])) for example in examples]


def link(*explorers: Any) -> Callable[[], None]:
    """Let explorers follow each other, each as far as it holds the same problems.

    Mask, embedding and attention explorers can be linked, two or all three:

    >>> link(mask_explorer(tokenizer, examples), embedding_explorer(embeddings))  # doctest: +SKIP

    Returns:
        A function that ends it.

    Raises:
        UserError: two of them share no problem.
    """
    places = [{problem: place for place, problem in enumerate(explorer.problems)} for explorer in explorers]
    for other in places[1:]:
        if not places[0].keys() & other.keys():
            raise UserError(
                "these explorers share no problem: make them of the same examples, as in mask_explorer(tokenizer, "
                "examples) and embedding_explorer(encode_examples(model, tokenizer, examples))"
            )
    busy = False

    def follow(change: Any) -> None:
        nonlocal busy
        if busy or change.new is None:  # another one follows just now
            return
        busy = True
        try:
            example, *view = change.new
            problem = change.owner.problems[example]
            for explorer, known in zip(explorers, places, strict=True):
                if explorer is not change.owner and problem in known:
                    explorer.choose(known[problem], *view)
        finally:
            busy = False

    for explorer in explorers:
        explorer.observe(follow, "chosen")

    def unlink() -> None:
        for explorer in explorers:
            explorer.unobserve(follow, "chosen")

    return unlink
