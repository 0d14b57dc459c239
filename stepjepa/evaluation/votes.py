"""Several samples of one question: the answer that most of them give, and the chance that one of k is right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import comb


def majority(answers: Sequence[str | None], same: Callable[[str, str], bool]) -> int | None:
    """Index of the first sample with the most frequent answer (self-consistency, Wang et al. 2022, arXiv 2203.11171).

    Args:
        answers: extracted answers; None does not vote.
        same: whether an answer equals the first one of a group. Of groups of equal size the first seen wins.

    Returns:
        The index, or None if no sample has an answer.
    """
    groups: list[list[int]] = []
    for index, answer in enumerate(answers):
        if answer is None:
            continue
        for group in groups:
            first = answers[group[0]]
            if answer == first or same(answer, first):  # type: ignore[arg-type]
                group.append(index)
                break
        else:
            groups.append([index])
    return max(groups, key=len)[0] if groups else None


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Unbiased estimate of the chance that at least one of k samples is right (Chen et al. 2021, arXiv 2107.03374).

    1 − C(n − c, k) / C(n, k), the share of the subsets of k among the n samples that hold one of the c right ones.

    Raises:
        ValueError: unless 0 ≤ correct ≤ samples and 1 ≤ k ≤ samples.
    """
    if not (0 <= correct <= samples and 1 <= k <= samples):
        raise ValueError(f"pass@{k} of {correct} right among {samples} samples is not defined")
    return 1 - comb(samples - correct, k) / comb(samples, k)


def powers_of_two(limit: int) -> list[int]:
    """1, 2, 4, … up to `limit`."""
    return [1 << i for i in range(limit.bit_length())]
