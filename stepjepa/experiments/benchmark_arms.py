"""The arms that `stepjepa bench` races: seven ways to compute the losses of one microbatch, up to the backward.

All arms are given the same rows and compute the same losses, so that the race is between equal results; what
differs is how many tokens the decoder runs and how many rows the head runs. An arm is a collation (done once,
as a data worker would) and a step (what the accelerator does). What it costs besides time is measured here too: tokens,
rows of the head, peak memory.
"""

from __future__ import annotations

import gc
import os
import re
import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from stepjepa.jepa.layout import IGNORE, StepJEPACollator, predictor_token_ids
from stepjepa.jepa.losses import jepa_losses
from stepjepa.jepa.masks import by_layer_type, within_window
from stepjepa.jepa.pairs import BranchLayout, view_pairs
from stepjepa.jepa.reference import two_pass_views
from stepjepa.jepa.views import Views, encode_views

Row = dict[str, Any]
Batch = dict[str, Tensor]


class ArmLosses(NamedTuple):
    """Scalars of one microbatch: LM loss (mean over labelled tokens) and JEPA loss (mean over pairs, or None)."""

    lm: Tensor
    jepa: Tensor | None

    def total(self, lbd: float) -> Tensor:
        """LM + λ · JEPA."""
        return self.lm if self.jepa is None else self.lm + lbd * self.jepa


@dataclass(frozen=True)
class Arm:
    """One way to compute the losses.

    `collation` names the batch it takes (see `collate`); `step(model, batch)` runs it forward; `dense` arms make
    dense masks, which FlexAttention does not take.
    """

    name: str
    label: str
    collation: str
    step: Callable[[Any, Batch], ArmLosses]
    dense: bool = False


def collate(collation: str, tokenizer: Any, rows: Sequence[Row], predictors: int = 1) -> Batch:
    """The batch of an arm: pair set "none", "first" or "consecutive" of the collator, or "doubled"."""
    if collation == "doubled":
        return doubled_rows(rows, tokenizer.pad_token_id, predictor_token_ids(tokenizer, predictors))
    return StepJEPACollator(tokenizer, BranchLayout(pairs=collation, predictors=predictors))(rows)


# -------- plain fine-tuning --------


def plain(model: Any, batch: Batch) -> ArmLosses:
    """Ordinary fine-tuning as `transformers.Trainer` does it: the model's own loss, head on every position."""
    output = model(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=batch["labels"], use_cache=False
    )
    return ArmLosses(output.loss, None)


def plain_labels(model: Any, batch: Batch) -> ArmLosses:
    """Ordinary fine-tuning with the head on labelled positions only."""
    return ArmLosses(encode_views(model, batch).lm_loss, None)


# -------- Step-JEPA --------


def single_pass(model: Any, batch: Batch) -> ArmLosses:
    """Trunk and branches in one pass."""
    return _from_views(encode_views(model, batch))


def two_pass(model: Any, batch: Batch) -> ArmLosses:
    """A plain pass, then a second pass with one row per view pair (`reference.py`)."""
    return _from_views(two_pass_views(model, batch))


def _from_views(views: Views) -> ArmLosses:
    return ArmLosses(views.lm_loss, jepa_losses(views.context, views.target).mean())


# -------- the doubled batch --------


def doubled_rows(rows: Sequence[Row], pad_token_id: int, predictor_ids: Sequence[int]) -> Batch:
    """B plain rows, then the same B rows with the predictor inserted after step 1; labels on the first B only.

    Returns `input_ids`, `labels` `[2B, L]`; `lengths` `[2B]`; `context_index`, `target_start`, `target_end` `[B]`
    in the coordinates of the second half.
    """
    plain_ids, with_predictor, labels, places = [], [], [], []
    extra = len(predictor_ids)
    for row in rows:
        (pair,) = view_pairs(row["step_ids"], "first")
        ids = list(row["input_ids"])
        cut = pair.context_end
        plain_ids.append(torch.tensor(ids))
        labels.append(torch.tensor([IGNORE, *row["labels"][1:]]))
        with_predictor.append(torch.tensor([*ids[:cut], *predictor_ids, *ids[cut:]]))
        places.append((cut + extra - 1, pair.target_start + extra, pair.target_end + extra))
    nothing = [torch.full_like(ids, IGNORE) for ids in with_predictor]
    both = plain_ids + with_predictor
    context_index, target_start, target_end = torch.tensor(places).unbind(dim=1)
    return {
        "input_ids": pad_sequence(both, batch_first=True, padding_value=pad_token_id),
        "labels": pad_sequence(labels + nothing, batch_first=True, padding_value=IGNORE),
        "lengths": torch.tensor([len(ids) for ids in both]),
        "context_index": context_index,
        "target_start": target_start,
        "target_end": target_end,
    }


def doubled_batch(model: Any, batch: Batch) -> ArmLosses:
    """One batch of 2B rows under stacked dense masks, as published LLM-JEPA and Step-JEPA trainers do it.

    In each step a float mask `[2B, 1, L, L]` of 0 and the dtype's minimum is filled row by row with slices: causal
    for the first half; causal with step 2 blind to everything before it for the second half. The model runs all
    2B rows with `labels` and `output_hidden_states=True`; its head and its loss thus run on every position of
    every row, although only the first half has labels. The views are read off the last hidden states.

    Kinder than the published code where that costs it nothing of its design: rows are padded to the longest of
    the batch instead of a fixed length, the mask is made on the model's device, step boundaries are known instead
    of searched for in the step, and padding sees itself (rows of −inf give NaN under eager attention).
    """
    rows, length = batch["input_ids"].shape
    half = rows // 2
    config, dtype, device = model.config, model.dtype, batch["input_ids"].device
    lowest = torch.finfo(dtype).min
    causal = torch.full((length, length), lowest, dtype=dtype, device=device).triu(1)
    mask = torch.full((rows, 1, length, length), lowest, dtype=dtype, device=device)
    mask.diagonal(dim1=-2, dim2=-1).zero_()
    for i, size in enumerate(batch["lengths"].tolist()):
        mask[i, 0, :size, :size] = causal[:size, :size]
    for i, (start, end) in enumerate(zip(batch["target_start"].tolist(), batch["target_end"].tolist(), strict=True)):
        mask[half + i, 0, start:end, :start] = lowest
    output = model(
        input_ids=batch["input_ids"],
        attention_mask=_by_layer_type(config, mask, lowest),
        labels=batch["labels"],
        output_hidden_states=True,
        use_cache=False,
    )
    states = output.hidden_states[-1][half:]
    row = torch.arange(half, device=device)
    context, target = states[row, batch["context_index"]], states[row, batch["target_end"] - 1]
    return ArmLosses(output.loss, jepa_losses(context, target).mean())


def _by_layer_type(config: Any, mask: Tensor, lowest: float) -> Any:
    """The mask, narrowed to the window of each layer type where the model has windows."""

    def one(window: int | None) -> Tensor:
        if window is None:
            return mask
        positions = torch.arange(mask.shape[-1], device=mask.device)[None]
        return mask.masked_fill(~within_window(positions, window)[:, None], lowest)

    return by_layer_type(config, one)


ARMS = {
    arm.name: arm
    for arm in (
        Arm("plain", "plain fine-tuning, head on every position", "none", plain),
        Arm("plain_labels", "plain fine-tuning, head on labelled positions only", "none", plain_labels),
        Arm("single_pass_first", "single pass, first pair", "first", single_pass),
        Arm("single_pass_all", "single pass, all consecutive pairs", "consecutive", single_pass),
        Arm("two_pass_first", "two passes, first pair", "first", two_pass, dense=True),
        Arm("two_pass_all", "two passes, all consecutive pairs", "consecutive", two_pass, dense=True),
        Arm("doubled_batch", "one batch of 2B rows with stacked masks, first pair", "doubled", doubled_batch, True),
    )
}
BASELINES = ("plain", "plain_labels")
SINGLE_PASS = ("single_pass_first", "single_pass_all")


# -------- counts that do not depend on the machine --------


@dataclass
class Counts:
    """Tokens run through the decoder (padding included) and rows run through the head."""

    decoder_tokens: int = 0
    head_rows: int = 0


@contextmanager
def counting(model: Any) -> Iterator[Counts]:
    """Count, by hooks on decoder and head, what really runs through them."""
    counts = Counts()

    def decoder(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        counts.decoder_tokens += (kwargs["input_ids"] if "input_ids" in kwargs else args[0]).numel()

    def head(_module: Any, _args: Any, logits: Tensor) -> None:  # its input is cut to the labelled rows by a later hook
        counts.head_rows += logits.shape[:-1].numel()

    handles = [
        model.get_decoder().register_forward_pre_hook(decoder, with_kwargs=True),
        model.get_output_embeddings().register_forward_hook(head),
    ]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


# -------- peak memory, in a process that did little else before --------

STATUS = Path("/proc/self/status")
STATM = Path("/proc/self/statm")
CLEAR = Path("/proc/self/clear_refs")


def peak_memory(work: Callable[[], None], device: str) -> dict[str, Any]:
    """Run `work` and measure.

    On CUDA the allocator keeps the peak. On Linux the kernel does, as the high-water mark of the process image: unlike
    `ru_maxrss`, which a new process inherits from the one that started it, it can be reset before the work begins.

    Returns:
        `before_bytes` (in use when the work began), `peak_bytes` (most in use), `growth_bytes` (the difference),
        and `method`: "cuda allocator", "VmHWM, reset" (Linux: resident memory), "VmHWM" (the peak could not be
        reset and may be that of building model and data), or "ru_maxrss" (elsewhere: both figures are peaks, before
        and after).
    """
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        method, before = "cuda allocator", torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)
        peak = torch.cuda.max_memory_allocated(device)
    elif STATUS.exists():
        method = "VmHWM, reset" if _reset_peak() else "VmHWM"
        before = resident_bytes()
        work()
        peak = peak_resident_bytes()
    else:
        method, before = "ru_maxrss", peak_resident_bytes()
        work()
        peak = peak_resident_bytes()
    return {"before_bytes": before, "peak_bytes": peak, "growth_bytes": peak - before, "method": method}


def resident_bytes() -> int:
    """Resident memory of this process now (Linux)."""
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak_resident_bytes() -> int:
    """Highest resident memory of this process so far (Linux: since the last reset)."""
    if STATUS.exists():
        # The line `VmHWM:    123456 kB`, and not `VmPeak:   234567 kB`, which is address space.
        peak = re.search(r"^VmHWM:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)
        if peak:
            return int(peak[1]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _reset_peak() -> bool:
    """Set the kernel's high-water mark back to what is resident now; False where that is not permitted."""
    try:
        CLEAR.write_text("5")
    except OSError:
        return False
    return True
