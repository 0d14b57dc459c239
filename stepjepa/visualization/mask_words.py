"""A labelled mask, and for every token in words what it sees.

The words name exactly the columns of the token's row in the mask: they are read off it, never made from rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

import numpy as np

AGAIN, BRANCH, LEFT_OUT = "again", "branch", "left out"
FATES = {
    AGAIN: "It repeats a row of the first pass; one pass computes that once, in the trunk.",
    BRANCH: "One pass computes this row in the branch.",
    LEFT_OUT: "No view depends on it; one pass leaves it out.",
}
"""What one pass makes of a row of the second pass."""


@dataclass(frozen=True)
class Token:
    """One token of a picture: `number` counts from 1 within its `part`, which has `size` tokens.

    `group` is the stretch of text it stands for, whichever copy of it this is: "prompt", "S1" …, "end of turn",
    "predictor" or "padding".
    """

    text: str
    part: str
    group: str
    number: int
    size: int

    @property
    def name(self) -> str:
        """Its part and number; the number is left out where the part has no other token."""
        return self.part if self.size == 1 else f"{self.part} token {self.number}"


@dataclass(frozen=True)
class MaskPicture:
    """One mask with its labels, for L tokens.

    `mask` is `[L, L]` (rows are queries), `why[t]` the reason for row t; `reads` names the view that is read at a
    row; `summary` is a line on the whole; `fate` is a key of `FATES` for each row, or empty.
    """

    tokens: tuple[Token, ...]
    mask: np.ndarray
    why: tuple[str, ...]
    reads: dict[int, str]
    summary: str
    fate: tuple[str, ...] = ()

    def sentence(self, t: int) -> str:
        """What token t sees and why: «S2 token 3 sees: S2 tokens 1–3, because its step is read in isolation.»"""
        words = f"{self.tokens[t].name} sees: {listing(self.tokens, self.mask[t])}, because {self.why[t]}."
        if t in self.reads:
            words += f" The {self.reads[t]} is read here."
        return words + (f" {FATES[self.fate[t]]}" if self.fate else "")


def listing(tokens: tuple[Token, ...], seen: np.ndarray) -> str:
    """The seen tokens by part: `prompt tokens 1–9, S1 tokens 1–4, predictor S1→S2`.

    Args:
        tokens: of length L.
        seen: `[L]` booleans.
    """
    phrases = []
    for part, group in groupby(np.flatnonzero(seen).tolist(), key=lambda k: tokens[k].part):
        keys = list(group)
        if tokens[keys[0]].size == 1:
            phrases.append(part)
            continue
        numbers = np.array([tokens[k].number for k in keys])
        runs = np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1)
        spans = " and ".join(f"{run[0]}–{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)
        phrases.append(f"{part} {'token' if len(numbers) == 1 else 'tokens'} {spans}")
    return ", ".join(phrases)
