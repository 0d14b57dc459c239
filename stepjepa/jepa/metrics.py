"""What a set of embeddings looks like: retrieval, alignment of pairs, collapse, spectrum.

A falling cosine loss says nothing by itself: it is lowest when every embedding is the same vector. Rank alone is
no better as an alarm, so margin, spread and the energy of the mean direction stand beside it. Each function is as
small as its formula. Those that are a mean over independent rows return the rows (`[P]`), which a bootstrap can
resample; those that belong to the set as a whole return a scalar. `METRICS`, at the end, is the one table of what is
measured and shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

TIE = 1e-12
"""Cosines closer than this are equal: identical candidates differ by rounding in a matrix product."""
BLOCK = 1024
"""Rows ranked at a time, which bounds the memory at `BLOCK` × C cosines."""
NARROW = 0.9
"""Energy in the mean direction from which views are called narrow."""


def retrieval_hits(context: Tensor, target: Tensor) -> Tensor:
    """Whether each context is strictly nearer (cosine) to its own target than to any other, `[P]` booleans.

    Strictly: if all targets coincide nothing is retrieved. Chance level among P pairs is 1/P.
    """
    similarity = F.normalize(context.float(), dim=-1) @ F.normalize(target.float(), dim=-1).T  # [P, P]
    true = similarity.diagonal()
    others = similarity.masked_fill(torch.eye(len(true), dtype=torch.bool, device=true.device), -torch.inf)
    return true > others.amax(dim=-1) if len(true) else true > 0


def spread(embeddings: Tensor) -> Tensor:
    """Mean cosine distance between two different rows of `[P, D]`, a scalar; 0 when all rows are alike.

    Equal to (1 − ‖mean of the unit vectors‖²) · P / (P − 1): one minus the energy of the mean direction, made
    independent of P. About 1 for random directions. NaN for fewer than two rows.
    """
    unit = F.normalize(embeddings.float(), dim=-1)
    count = len(unit)
    return (1 - unit.mean(dim=0).square().sum()) * count / (count - 1) if count > 1 else unit.new_tensor(torch.nan)


def unit_rows(x: Tensor) -> Tensor:
    """Rows of `[P, D]` scaled to length 1, in float64; a zero row stays zero."""
    return F.normalize(x.double(), dim=-1)


def centered_unit_rows(x: Tensor) -> Tensor:
    """Rows of `[P, D]` minus their mean, scaled to length 1, in float64; what is only rounding becomes zero.

    Without that last rule a collapsed set would be judged by the directions of its rounding errors: a row counts
    as equal to the mean when it differs by less than 4 rounding units of `x.dtype` (5e-7 in float32, 3% in
    bfloat16) of the longest row's length.
    """
    centered = x.double() - x.double().mean(dim=0)
    norm = centered.norm(dim=-1, keepdim=True)
    longest = x.double().norm(dim=-1).amax() if len(x) else norm.sum()
    return torch.where(norm > 4 * torch.finfo(x.dtype).eps * longest, centered / norm, 0.0)


# ---- retrieval: where does the true next step stand when candidates are ranked by cosine? ---------------------


def retrieval_ranks(context: Tensor, candidates: Tensor, true_index: Tensor, allowed: Tensor | None = None) -> Tensor:
    """Rank of each context's true candidate by cosine similarity, `[P]`, 1 is best.

    Asked among all steps of a set (which problem is this?) and, with `allowed`, among the steps of the same problem
    (which step of it comes next?). Surface content alone, such as names and numbers, finds the problem without
    knowing the step.

    Ties count against the model: a candidate just as similar as the true one stands before it, so nothing is
    retrieved from a collapsed set. Steps with the same text have the same target view up to rounding (`The answer is
    …`): leave such twins out with `allowed`, or no model can reach rank 1 on them. A direction that all contexts
    share draws them to the same few candidates; subtract each set's mean first to see the ranking without it.

    Args:
        context: `[P, D]`.
        candidates: `[C, D]`; with `true_index = arange(P)` simply the P targets.
        true_index: `[P]`, the row of `candidates` that is right.
        allowed: `[P, C]` booleans, the candidates that compete; all of them if None.

    Raises:
        ValueError: a true candidate is not among the allowed ones, or shapes do not fit.
    """
    rows = torch.arange(len(context), device=context.device)
    if true_index.shape != (len(context),):
        raise ValueError(f"true_index has shape {tuple(true_index.shape)} for {len(context)} contexts.")
    if allowed is not None:
        if allowed.shape != (len(context), len(candidates)):
            raise ValueError(f"allowed has shape {tuple(allowed.shape)}, not ({len(context)}, {len(candidates)}).")
        if not bool(allowed[rows, true_index].all()):
            raise ValueError("A true candidate is not among the allowed ones.")
    a, b = unit_rows(context), unit_rows(candidates)
    ranks = []
    for block in rows.split(BLOCK):
        similarity = a[block] @ b.T  # [BLOCK, C]
        true = similarity.gather(1, true_index[block, None])
        ahead = similarity >= true - TIE  # the true candidate itself included, which makes the best rank 1
        if allowed is not None:
            ahead &= allowed[block]
        ranks.append(ahead.sum(dim=1))
    return torch.cat(ranks) if ranks else rows


def recall_at(ranks: Tensor, k: int = 1) -> Tensor:
    """1 where a rank is k or better, else 0, `[P] → [P]`; the mean is R@k."""
    return (ranks <= k).double()


def reciprocal_rank(ranks: Tensor) -> Tensor:
    """1/rank, `[P] → [P]` in (0, 1]; the mean is MRR."""
    return ranks.double().reciprocal()


def chance_recall(sizes: Tensor, k: int = 1) -> Tensor:
    """Expected R@k of a random order, for `sizes` `[P]` competing candidates each: mean of min(k, n) / n."""
    return (sizes.clamp(max=k) / sizes.double()).mean()


def chance_reciprocal_rank(sizes: Tensor) -> Tensor:
    """Expected MRR of a random order, for `sizes` `[P]` competing candidates each: mean of H(n) / n.

    H(n) = 1 + 1/2 + … + 1/n, the harmonic number.
    """
    harmonic = torch.special.digamma(sizes.double() + 1) - torch.special.digamma(torch.ones((), dtype=torch.float64))
    return (harmonic / sizes).mean()


def alignment(x: Tensor, y: Tensor, alpha: float = 2) -> Tensor:
    """‖x − y‖^alpha between the unit vectors of each pair, `[P, D], [P, D] → [P]`; its mean is the metric.

    0 is perfect. For alpha 2 it is 2 − 2 cos, so 2 for unrelated directions. Wang & Isola 2020
    (arXiv 2005.10242), ℓ_align.
    """
    return (unit_rows(x) - unit_rows(y)).norm(dim=-1) ** alpha


def mean_cosine(x: Tensor, y: Tensor) -> Tensor:
    """Mean cosine of the pairs, `[P, D], [P, D] → ` scalar."""
    # numpy's mean, whose order of summation is that of the committed records
    return torch.tensor(np.mean(1 - alignment(x, y).cpu().numpy() / 2))


def uniformity(x: Tensor, t: float = 2) -> Tensor:
    """log mean exp(−t ‖u − v‖²) over pairs of different unit rows of `[P, D]`, a scalar; lower is more even.

    0 at collapse; for independent directions about −2t + 2t²/D. NaN for fewer than two rows. Wang & Isola 2020
    (arXiv 2005.10242), ℓ_uniform.
    """
    unit = unit_rows(x)
    if len(unit) < 2:
        return unit.new_tensor(torch.nan)
    different = ~torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    potential = (2 * t * (unit @ unit.T - 1))[different]  # −t ‖u − v‖² of unit rows
    return potential.logsumexp(dim=0) - unit.new_tensor(len(potential)).log()


def singular_values(x: Tensor, center: bool = False) -> Tensor:
    """Singular values of `[P, D]`, largest first, `[min(P, D)]`, float64; of the centred rows with `center`."""
    x = x.double()
    return torch.linalg.svdvals(x - x.mean(dim=0) if center else x)


def effective_rank(x: Tensor, center: bool = False) -> Tensor:
    """exp of the entropy of the singular values of `[P, D]` as shares of their sum: 1 … min(P, D), a scalar.

    Uncentred, as RankMe (Garrido et al. 2022, arXiv 2210.02885) has it, without its ε = 1e-7; defined by Roy &
    Vetterli 2007. A shared direction therefore counts, and lowers it; `center` takes it out. It grows with P, so
    compare only sets of the same size. NaN for a zero matrix.
    """
    values = singular_values(x, center)
    shares = values / values.sum()
    return torch.special.entr(shares).sum().exp()


def dimension_spread(x: Tensor) -> Tensor:
    """Standard deviation of each dimension of `[P, D]` → `[D]`, in the embedding's own units; NaN for P < 2.

    The quantity that VICReg (Bardes et al. 2021, arXiv 2105.04906, eq. 1, without its ε) keeps above 1. Scale
    counts: give `unit_rows(x)` to compare with 1/√D, the value for directions spread evenly.
    """
    if len(x) < 2:
        return x.new_full(x.shape[1:], torch.nan, dtype=torch.float64)
    return x.double().std(dim=0)


def relative_dimension_spread(x: Tensor) -> Tensor:
    """Mean `dimension_spread` of the unit rows times √D, a scalar: 1 for directions spread evenly."""
    return dimension_spread(unit_rows(x)).mean() * x.shape[1] ** 0.5


def mean_direction_energy(x: Tensor) -> Tensor:
    """‖mean of the unit rows‖² of `[P, D]`: the share of their energy that lies in the mean vector, a scalar.

    1 at collapse, about 1/P for random directions. Cosines can be high merely because all vectors share a
    direction: the mean cosine of all P² ordered pairs, each row with itself included, *is* this number, and
    `spread` = (1 − it) · P / (P − 1). NaN for no rows.
    """
    return unit_rows(x).mean(dim=0).square().sum()


def centered_margin(context: Tensor, target: Tensor) -> Tensor:
    """Centred cosine with the own target minus the mean centred cosine with the others', `[P]`; the mean counts.

    Each set has its own mean removed first, so a shared direction earns nothing. 0 for unrelated sets and at
    collapse (also when only one of the two collapsed), at most P / (P − 1). NaN for fewer than two pairs. Every
    value depends on the whole set through the means and the other targets, which resampling `[P]` holds fixed.
    """
    a, b = centered_unit_rows(context), centered_unit_rows(target)
    if len(a) < 2:
        return a.new_full((len(a),), torch.nan)
    true = (a * b).sum(dim=-1)
    others = (a @ b.sum(dim=0) - true) / (len(a) - 1)
    return true - others


# ---- the table -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Metric:
    """A figure about embeddings: how it is computed and called, what chance gives, where it is shown."""

    label: str
    """In the tables of `stepjepa inspect`."""
    of: Literal["ranks", "pairs", "view"]
    """What `function` takes, and the figure's names in records: the ranks `[P]` of the true steps (`<name>_all` among
    all steps, `<name>_own` in the same problem), both views of the pairs `[P, D]` (`<name>`), or the rows `[N, D]` of
    one view (`<name>_context`, `<name>_target`, `<name>_state`)."""
    function: Callable[..., Tensor]
    per_row: bool = False
    """Whether it gives a value for each row, `[P]`, whose mean is the figure; else one for the set, a scalar."""
    chance: float | Callable[[Tensor], Tensor] | None = None
    """What unrelated views reach; of ranks, a function of how many candidates compete, `[P]`."""
    most: Callable[[Tensor], float] | None = None
    """The largest value that the rows of a view could have."""
    panel: str = ""
    """Title of its panel in the figures of a grid; "" for none."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Columns in the report of a grid: heading → figure, whose name starts with the pairs it is of: `first_…`, of the
    first pair of each problem, or `consecutive_…`, of all consecutive pairs."""
    form: str = ".2f"
    """How these columns write a number."""
    commands: tuple[str, ...] = ("inspect", "ablate")
    """Whose records hold it."""

    def value(self, *rows: Tensor) -> float:
        """The figure of a set, of the arguments that `of` names."""
        return float(self.function(*rows).mean())

    def by_chance(self, sizes: Tensor | None = None) -> float | None:
        """The level of chance; of ranks, where so many candidates compete, `[P]`."""
        level = self.chance(sizes) if callable(self.chance) else self.chance  # type: ignore[arg-type]
        return None if level is None else float(level)


METRICS = {
    "recall": Metric(
        "R@1",
        "ranks",
        recall_at,
        per_row=True,
        chance=chance_recall,
        columns={
            "R@1 all": "first_recall_all",
            "own": "first_recall_own",
            "chance": "first_recall_own_chance",
            "R@1 all'": "consecutive_recall_all",
            "own'": "consecutive_recall_own",
        },
        form=".0%",
    ),
    "reciprocal_rank": Metric(
        "MRR",
        "ranks",
        reciprocal_rank,
        per_row=True,
        chance=chance_reciprocal_rank,
        panel="MRR",
        columns={"MRR all": "first_reciprocal_rank_all"},
    ),
    "alignment": Metric("alignment (0: perfect)", "pairs", alignment, per_row=True, commands=("inspect",)),
    "cosine": Metric("cosine", "pairs", mean_cosine, commands=("ablate",)),
    "centered_margin": Metric(
        "centred cosine margin",
        "pairs",
        centered_margin,
        per_row=True,
        chance=0.0,
        panel="centred margin",
        columns={"margin": "first_centered_margin"},
    ),
    "effective_rank": Metric(
        "effective rank",
        "view",
        effective_rank,
        most=lambda x: float(min(x.shape)),
        panel="effective rank",
        columns={"rank tgt": "first_effective_rank_target", "ctx": "first_effective_rank_context"},
        form=".1f",
    ),
    "centered_rank": Metric(
        "centred effective rank", "view", lambda x: effective_rank(x, center=True), commands=("ablate",)
    ),
    "mean_energy": Metric(
        "mean-direction energy",
        "view",
        mean_direction_energy,
        panel="energy in mean direction",
        columns={"energy tgt": "first_mean_energy_target"},
        form=".3f",
    ),
    "spread": Metric("spread", "view", spread, columns={"spread tgt": "first_spread_target"}, form=".3f"),
    "dimension_spread": Metric("per-dimension spread", "view", relative_dimension_spread, commands=("inspect",)),
    "uniformity": Metric("uniformity", "view", uniformity, commands=("inspect",)),
}
"""Name → metric, in the order of the tables. An entry here is all that it takes to measure and show a figure."""


def metrics_of(of: str, command: str) -> dict[str, Metric]:
    """The metrics of ranks, pairs or views that the records of a command hold."""
    return {name: metric for name, metric in METRICS.items() if metric.of == of and command in metric.commands}
