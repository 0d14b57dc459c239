"""Different problems of a split: drawn until there are enough, none twice, and in no split but their own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

from stepjepa.records import UserError

SPLITS = ("train", "validation", "test")
_MAX_REJECTED = 20_000  # draws in a row without a new problem: the settings allow no more


def split_of(question: str) -> str:
    """The split that a question belongs to, by a hash of its text: 80% train, 10% validation, 10% test."""
    bucket = hashlib.sha256(question.encode()).digest()[0] % 10
    return {0: "validation", 1: "test"}.get(bucket, "train")


def distinct_problems(draw: Callable[[], dict[str, Any]], n: int, split: str) -> Iterator[dict[str, Any]]:
    """The first `n` problems that are drawn, of those of a split and none twice; only a digest of each is remembered.

    Raises:
        UserError: unknown split, negative `n`, or there are no more.
    """
    if split not in SPLITS:
        raise UserError(f"unknown split {split!r} of built-in problems: choose one of {', '.join(SPLITS)}")
    if n < 0:
        raise UserError(f"the number of problems must not be negative, got {n}")
    seen: set[bytes] = set()
    rejected = 0
    while len(seen) < n:
        problem = draw()
        question = problem["question"]
        digest = hashlib.sha256(question.encode()).digest()[:12]
        if digest in seen or split_of(question) != split:
            rejected += 1
            if rejected > _MAX_REJECTED:
                raise UserError(f"found only {len(seen):,} of {n:,} different problems with these settings")
            continue
        rejected = 0
        seen.add(digest)
        yield problem
