"""Control targets: what a context view is asked to predict in the place of the true next step.

If the JEPA term helps because a step's end predicts what the *next step means*, a wrong target must not help as
much. `shuffled` keeps everything but the pairing: each context gets the target view of another pair. `random` keeps
only the length of the target view: its direction is drawn once for each pair and stays the same throughout. Both cost
what the true target costs, since the views are computed either way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from stepjepa.jepa.losses import at_least_float32
from stepjepa.jepa.objectives import Objective
from stepjepa.jepa.targets import PairKeys, pair_keys_of

TARGETS = ("step", "shuffled", "random")


def training_target(
    kind: str, target: Tensor, batch: dict[str, Tensor], seed: int, moment: str, objective: Objective
) -> tuple[Tensor, PairKeys] | None:
    """What the contexts of a microbatch are trained to predict, `[P, D]`, and the keys of the pairs it is taken from.

    Everything random is drawn from the arguments, so a resumed run repeats it.

    Args:
        kind: one of `TARGETS`.
        target: the target views `[P, D]`.
        batch: of `StepJEPACollator`, which the views were read from.
        seed: of the run.
        moment: names optimizer step, microbatch and process; `shuffled` draws anew for each.
        objective: which scales targets before it compares them.

    Returns:
        `step`: the target views. `shuffled`: the same in another order, with their gradient, and their keys in that
        order; None for a single pair, which has no other to change places with. `random`: see `random_targets`.
    """
    keys = pair_keys_of(batch)
    if kind == "random":
        return random_like(target, pair_keys(batch, seed), objective), keys
    if kind == "step" or not len(target):
        return target, keys
    if len(target) == 1:
        return None
    order = shuffled_order(len(target), f"shuffled-{seed}-{moment}").to(target.device)
    return target[order], PairKeys(*(key[order] for key in keys))


def random_like(target: Tensor, names: Sequence[str], objective: Objective) -> Tensor:
    """Targets `[P, D]` that are `random_targets` of the target views as the objective compares them.

    A scale that shifts dimensions would else give all random vectors the same part, and another length.
    """
    return objective.unscaled(random_targets(objective.scaled(target.detach()), names))


def shuffled_order(count: int, key: str) -> Tensor:
    """A random permutation `[count]` of `0 … count − 1` that leaves nothing in place, drawn from `key` alone.

    It is one cycle through all (Sattolo 1986), so each is as likely as any other to get a given one's place.

    Raises:
        ValueError: fewer than two cannot change places.
    """
    if count < 2:
        raise ValueError(f"{count} cannot be shuffled so that nothing stays in place")
    cycle = torch.randperm(count, generator=_generator(key))
    order = torch.empty_like(cycle)
    order[cycle] = cycle.roll(1)
    return order


def random_targets(target: Tensor, keys: Sequence[str]) -> Tensor:
    """Vectors `[P, D]` as long as the target views `[P, D]`, in a random direction drawn from each pair's key alone.

    Directions are uniform on the sphere. No gradient flows into the target view, not even into its length.
    """
    drawn = [torch.randn(target.shape[-1], generator=_generator(key), dtype=torch.float64) for key in keys]
    directions = torch.stack(drawn) if drawn else torch.zeros(target.shape, dtype=torch.float64)
    lengths = at_least_float32(target.detach()).norm(dim=-1, keepdim=True)
    return F.normalize(directions, dim=-1).to(lengths) * lengths


def pair_keys(batch: dict[str, Tensor], seed: int) -> list[str]:
    """A name for each view pair of a batch, in the order of `Views`, from `seed` and the tokens it is made of.

    The tokens are those of the trunk up to the target's end, and where context and target lie in them. A pair's name
    therefore depends neither on the epoch nor on padding, packing or what else is in the batch.

    Args:
        batch: of `StepJEPACollator`.
        seed: of the run.
    """
    wanted = ("input_ids", "example_ids", "context_end", "target_start", "target_end")
    ids, examples, context_end, start, end = (batch[name].cpu() for name in wanted)
    keys = []
    for row, pair in (context_end >= 0).nonzero().tolist():
        own = examples[row] == examples[row, context_end[row, pair] - 1]
        first = int(own.nonzero()[0])  # of the trunk: examples may be packed, or padded on the left
        spans = [int(x[row, pair]) - first for x in (context_end, start, end)]
        tokens = ids[row, first : first + spans[-1]].tolist()
        keys.append(f"target-{seed}-{spans}-{tokens}")
    return keys


def _generator(key: str) -> torch.Generator:
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")
    return torch.Generator().manual_seed(seed % 2**63)
