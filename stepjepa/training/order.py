"""The order of training rows: it follows from seed and epoch alone, so that arms share it and a resumed run keeps it.

The parent draws that of `train_sampling_strategy=group_by_length` from the random numbers that dropout draws from too,
which differ between arms and, from the second epoch on, after a resume; `batch_rebalance` has the same for all seeds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import LengthGroupedSampler, get_length_grouped_indices


class LengthGroups(LengthGroupedSampler):
    """Rows of about the same length together, in an order of each epoch's own."""

    epoch = 0

    def __init__(self, batch_size: int, lengths: list[int], seed: int) -> None:
        super().__init__(batch_size, lengths=lengths)
        self.seed = seed

    def set_epoch(self, epoch: int) -> None:
        """Called as an epoch begins, and for the one that a resumed run is in; see `tell_epoch`."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        return iter(get_length_grouped_indices(self.lengths, self.batch_size, generator=generator))


def tell_epoch(loader: Any, epoch: int) -> None:
    """Set the epoch of whatever draws the order of a data loader, below all that accelerate has wrapped around it.

    accelerate and the parent look one wrapper deep, which is too little where batches are shared out among processes
    and the first of them skipped, as in a resumed run; the wrappers share what they wrap.
    """
    sampler = getattr(loader, "batch_sampler", None)
    while sampler is not None:
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)
        sampler = getattr(sampler, "batch_sampler", None) or getattr(sampler, "sampler", None)


def seeded(sampler: Any, seed: int) -> Sampler[int] | None:
    """A sampler of `Trainer`, or one in its place, in the order of a seed; a random one is given it by accelerate."""
    if isinstance(sampler, LengthGroupedSampler):
        return LengthGroups(sampler.batch_size, sampler.lengths, seed)
    if hasattr(sampler, "seed"):
        sampler.seed = seed
    return sampler
