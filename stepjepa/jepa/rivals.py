"""Objectives of other papers, over the states of the trunk's tokens: they need no branch, no predictor token, no copy.

`TokenObjective` is what they share. Where a paper leaves a choice open, or this package cannot follow it exactly, the
docstring says which was taken.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stepjepa.jepa.heads import make_head
from stepjepa.jepa.layout import IGNORE
from stepjepa.jepa.losses import at_least_float32, cosine, smooth_l1
from stepjepa.jepa.objectives import Objective, divergence


class Terms(NamedTuple):
    """What a `TokenObjective` gives for a microbatch."""

    values: dict[str, Tensor]
    """`[N]` each, in float32 or wider."""
    example: Tensor
    """`[N]`: the example of the batch that each value belongs to."""


class TokenObjective(Objective):
    """An objective over the trunk's states; the trainer takes the mean of each term over all N of the optimizer step.

    `of_tokens(states, batch)` takes the last layer's states `[B, L, D]`, after the final norm, and the batch, with
    branches or without, and returns `Terms`; `count(batch)` says how many N there will be.
    """

    embedding: Callable[[Tensor], Tensor] | None = None
    """Input embeddings of token ids, without a gradient; set by the trainer."""

    def of_tokens(self, states: Tensor, batch: dict[str, Tensor]) -> Terms:
        """The terms of a microbatch."""
        raise NotImplementedError

    def count(self, batch: dict[str, Tensor]) -> int:
        """N."""
        raise NotImplementedError


def followed(batch: dict[str, Tensor], ahead: int) -> tuple[Tensor, Tensor]:
    """Row and column of the tokens t of the trunks whose token t + `ahead` is labelled, `[N]` each."""
    labels, examples = batch["labels"], batch["example_ids"]
    wanted = F.pad(labels[:, ahead:], (0, min(ahead, labels.shape[1])), value=IGNORE)
    own = F.pad(examples[:, ahead:], (0, min(ahead, labels.shape[1])), value=-1) == examples
    row, column = ((wanted != IGNORE) & own & (examples >= 0)).nonzero(as_tuple=True)
    return row, column


class NextLatent(TokenObjective):
    """Predict the next token's state from this one's and the next token (NextLat, Teoh et al. 2025, arXiv 2511.05963).

    Smooth L1 to the stopped next state, plus the divergence of what the language model's head makes of both. Taken: one
    step ahead; state + a three-layer MLP of state and input embedding, whose last layer is 0 at first; both terms weigh
    1; the embeddings and the language model's head get no gradient from here; the states that predict a labelled token.
    """

    def __init__(self, size: int, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            last = nn.Linear(size, size)
            inner = nn.Linear(2 * size, size), nn.GELU(), nn.Linear(size, size), nn.GELU()
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.dynamics = nn.Sequential(*inner, last)

    def of_tokens(self, states: Tensor, batch: dict[str, Tensor]) -> Terms:
        """`smooth_l1` and `kl`."""
        assert self.embedding is not None
        assert self.vocabulary is not None
        row, column = followed(batch, 1)
        here, target = at_least_float32(states[row, column]), at_least_float32(states[row, column + 1]).detach()
        given = at_least_float32(self.embedding(batch["input_ids"][row, column + 1]))
        predicted = here + self.dynamics(torch.cat([here, given], dim=-1))
        values = {
            "smooth_l1": smooth_l1(predicted, target),
            "kl": divergence(self.vocabulary(predicted), self.vocabulary(target)),
        }
        return Terms(values, batch["example_ids"][row, column])

    def count(self, batch: dict[str, Tensor]) -> int:
        """Labelled tokens."""
        return len(followed(batch, 1)[0])


class FutureTokens(TokenObjective):
    """Predict the tokens after the next one (Gloeckle et al. 2024, arXiv 2404.19737): the control in token space.

    Cross-entropy of the second, third, … next token, summed. Taken: a residual MLP for each in the place of a
    transformer layer, then the language model's own head, whose weights get no gradient from here; the mean is over
    labelled tokens, as that of the next one is.
    """

    def __init__(self, size: int, future: int, seed: int = 0) -> None:
        super().__init__()
        self.heads = nn.ModuleList(make_head("mlp", size, seed + number) for number in range(future))

    def of_tokens(self, states: Tensor, batch: dict[str, Tensor]) -> Terms:
        """`token_2`, `token_3`, …; 0 where the solution ends before."""
        assert self.vocabulary is not None
        row, column = followed(batch, 1)
        values = {}
        for ahead, head in enumerate(self.heads, start=2):
            present = torch.zeros_like(batch["labels"], dtype=torch.bool)
            present[followed(batch, ahead)] = True
            kept = present[row, column]
            logits = self.vocabulary(head(at_least_float32(states[row[kept], column[kept]])))
            losses = F.cross_entropy(logits, batch["labels"][row[kept], column[kept] + ahead], reduction="none")
            values[f"token_{ahead}"] = losses.new_zeros(len(row)).masked_scatter(kept, losses)
        return Terms(values, batch["example_ids"][row, column])

    def count(self, batch: dict[str, Tensor]) -> int:
        """Labelled tokens."""
        return len(followed(batch, 1)[0])


class Tube(TokenObjective):
    """Keep the trajectory of states straight: 1 − cos(h_t − h_r, h_r − h_s) for s < r < t.

    "stp", semantic tube prediction (Huang, LeCun & Balestriero 2026, arXiv 2602.22617): three tokens of an example,
    drawn anew in each optimizer step. Taken: uniformly among those from the last one of the question on, for each
    example from its tokens, so that the batch does not matter. "ssp", semantic step prediction (Yuan 2026, arXiv
    2604.18464): all consecutive ends of the question and its steps. The gradient flows into all three states.
    """

    def __init__(self, at_steps: bool) -> None:
        super().__init__()
        self.at_steps = at_steps

    def of_tokens(self, states: Tensor, batch: dict[str, Tensor]) -> Terms:
        """`tube`."""
        places = self._places(batch)
        row, s, r, t, example = (
            torch.tensor(places, dtype=torch.long, device=states.device).reshape(-1, 5).unbind(dim=1)
        )
        a, b, c = (at_least_float32(states[row, column]) for column in (s, r, t))
        return Terms({"tube": cosine(c - b, b - a)}, example)

    def count(self, batch: dict[str, Tensor]) -> int:
        """Triples of tokens."""
        return len(self._places(batch))

    def _places(self, batch: dict[str, Tensor]) -> list[tuple[int, int, int, int, int]]:
        """Row, s, r, t and example of each triple."""
        places = []
        names = ("input_ids", "example_ids", "step_ids")
        for row, (ids, examples, steps) in enumerate(zip(*(batch[name].tolist() for name in names), strict=True)):
            for example in sorted({number for number in examples if number >= 0}):
                trunk = [column for column, number in enumerate(examples) if number == example]
                inside = [column for column in trunk if steps[column] >= 0]
                if not inside or inside[0] == trunk[0]:
                    continue
                ends = [column for column in inside if steps[column : column + 2] != [steps[column]] * 2]
                points = [inside[0] - 1, *ends]
                if self.at_steps:
                    triples = list(zip(points, points[1:], points[2:], strict=False))
                elif len(inside) < 2:
                    triples = []
                else:
                    key = f"tube-{self.moment}-{[ids[column] for column in trunk]}"
                    drawn = random.Random(hashlib.sha256(key.encode()).digest()).sample([points[0], *inside], 3)
                    triples = [tuple(sorted(drawn))]  # type: ignore[list-item]
                places += [(row, *triple, example) for triple in triples]
        return places


def next_latent(options: Any, size: int) -> NextLatent:
    """As a run asks for it."""
    return NextLatent(size, options.seed)


def future_tokens(options: Any, size: int) -> FutureTokens:
    """As a run asks for it."""
    return FutureTokens(size, options.future_tokens, options.seed)


def random_tube(options: Any, size: int) -> Tube:
    """As a run asks for it."""
    return Tube(at_steps=False)


def step_tube(options: Any, size: int) -> Tube:
    """As a run asks for it."""
    return Tube(at_steps=True)
