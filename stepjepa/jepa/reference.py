"""The two-pass executable specification of Step-JEPA, written as one would explain it.

First pass: the plain sequence, for the language-modelling loss. Second pass, for each view pair: the predictor
tokens are inserted right after the context step and the target step is isolated, so that it attends only to
itself. It loops over examples and pairs in Python and builds dense masks; it is what tests compare the single
pass with, what the mask explorer draws and what benchmarks race. Nothing trains with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from stepjepa.jepa.architectures import base_model, check_architecture
from stepjepa.jepa.layout import IGNORE
from stepjepa.jepa.masks import by_layer_type, dense_mask, within_window
from stepjepa.jepa.pairs import step_spans
from stepjepa.jepa.views import Views, next_labels, token_losses


def find_step_boundaries(step_ids: Sequence[int]) -> list[tuple[int, int]]:
    """Start and end (exclusive) of every reasoning step, from per-token step indices.

    >>> find_step_boundaries([-1, -1, 0, 0, 1, -1])
    [(2, 4), (4, 5)]
    """
    return [(span.start, span.end) for span in step_spans(step_ids)]


def insert_predictor_token(tokens: Sequence[int], position: int, predictor_ids: Sequence[int]) -> list[int]:
    """`tokens` with the predictor tokens inserted before index `position`.

    >>> insert_predictor_token([5, 6, 7], 2, [99])
    [5, 6, 99, 7]
    """
    return [*tokens[:position], *predictor_ids, *tokens[position:]]


def build_step2_isolation_mask(
    length: int, start: int, end: int, isolation: str = "step", hidden: tuple[int, int] = (0, 0)
) -> Tensor:
    """Who may attend to whom in the second pass, `[length, length]` booleans (rows are queries).

    Causal everywhere; the rows `start … end − 1` of the isolated step lose sight of everything before `start`.

    Args:
        isolation: "step" as above; "sink" lets those rows see token 0 too; "none" leaves them causal.
        hidden: columns that only their own rows see (the predictor tokens, for isolation "none", where the rows
            after them must be those of the plain sequence).

    >>> build_step2_isolation_mask(6, 3, 5).int().tolist()[3:]
    [[0, 0, 0, 1, 0, 0], [0, 0, 0, 1, 1, 0], [1, 1, 1, 1, 1, 1]]
    """
    mask = torch.ones(length, length, dtype=torch.bool).tril()
    if isolation != "none":
        mask[start:end, :start] = False
    if isolation == "sink":
        mask[start:end, 0] = True
    mask[hidden[1] :, hidden[0] : hidden[1]] = False
    return mask


def two_pass_views(model: nn.Module, batch: dict[str, Tensor], *, target_layer: int = -1, target_top: int = 1) -> Views:
    """Loss and views of a `StepJEPACollator` batch in two passes; same result as the single pass.

    First pass: one row per example, head on every position. Second pass: one row per view pair. The isolation
    in force, and which tokens a target view is the mean of, are read off the batch's own layout; layers are chosen as
    in `encode_views`.

    Raises:
        UnsupportedArchitectureError: as `encode_views`.
    """
    check_architecture(model)
    inner = base_model(model)
    device = inner.device
    batch = {name: tensor.to(device) for name, tensor in batch.items()}
    trunks: list[Tensor] = []
    labels: list[Tensor] = []
    numbers: list[int] = []
    second: list[SecondPass] = []
    for row in range(len(batch["input_ids"])):
        example_ids = batch["example_ids"][row]
        for example in example_ids[example_ids >= 0].unique().tolist():
            trunk = (example_ids == example).nonzero().squeeze(1)
            trunks.append(batch["input_ids"][row, trunk])
            labels.append(batch["labels"][row, trunk])
            numbers.append(example)
            first = int(trunk[0])
            for pair in range(batch["context_index"].shape[1]):
                if first < batch["context_end"][row, pair] <= first + len(trunk):
                    second.append(SecondPass.of(batch, row, pair, trunks[-1].tolist(), first, example))

    wanted = next_labels(pad_sequence(labels, batch_first=True, padding_value=IGNORE))
    present = pad_sequence([torch.ones_like(trunk) for trunk in trunks], batch_first=True)
    output = model(
        input_ids=pad_sequence(trunks, batch_first=True), attention_mask=present, use_cache=False
    )  # plain fine-tuning
    kept = wanted != IGNORE
    context, target = _run_second_pass(inner, second, target_layer, target_top)
    return Views(
        token_losses=token_losses(output.logits[kept], wanted[kept]),
        token_examples=torch.tensor(numbers, device=device)[kept.nonzero()[:, 0]],
        context=context,
        target=target,
        example=torch.tensor([row.example for row in second], dtype=torch.long, device=device),
        steps=torch.tensor([row.steps for row in second], dtype=torch.long, device=device).reshape(-1, 2),
    )


@dataclass
class SecondPass:
    """One row of the second pass: a sequence with the predictor inserted and one step isolated."""

    tokens: list[int]
    mask: Tensor
    positions: Tensor
    context_index: int
    target_first: int
    target_index: int
    example: int
    steps: tuple[int, int]

    @classmethod
    def of(
        cls, batch: dict[str, Tensor], row: int, pair: int, trunk: list[int], first: int, example: int
    ) -> SecondPass:
        """The row for one view pair of a trunk that begins at column `first`."""
        cut = int(batch["context_end"][row, pair]) - first
        start, end = (int(batch[name][row, pair]) - first for name in ("target_start", "target_end"))
        predictor_segment = batch["segment_ids"][row, batch["context_index"][row, pair]]
        predictor_ids = batch["input_ids"][row][batch["segment_ids"][row] == predictor_segment].tolist()
        extra = len(predictor_ids)
        isolation = _isolation_of(batch, row, pair)
        reads = [int(batch[name][row, pair]) for name in ("target_first", "target_index")]
        copy = first + start  # where the target's tokens begin in the batch
        if isolation != "none":
            copy = batch["segment_ids"][row].tolist().index(int(batch["segment_ids"][row, reads[1]]))

        read = int((batch["segment_ids"][row, : batch["context_index"][row, pair]] == predictor_segment).sum())
        tokens = insert_predictor_token(trunk, cut, predictor_ids)
        hidden, positions = (0, 0), torch.arange(len(tokens))
        if isolation == "none":  # rows after the predictor are those of the plain sequence: it is not there
            hidden = (cut, cut + extra)
            positions = torch.tensor([*range(cut), *range(cut, cut + extra), *range(cut, len(trunk))])
        return cls(
            tokens=tokens,
            mask=build_step2_isolation_mask(len(tokens), start + extra, end + extra, isolation, hidden),
            positions=positions,
            context_index=cut + read,
            target_first=start + extra + reads[0] - copy,
            target_index=start + extra + reads[1] - copy,
            example=example,
            steps=(int(batch["context_step"][row, pair]), int(batch["target_step"][row, pair])),
        )


def _run_second_pass(inner: Any, rows: list[SecondPass], layer: int, top: int) -> tuple[Tensor, Tensor]:
    """Context and target views `[P, D]`, `[P, D]` of the second pass."""
    device = inner.device
    if not rows:
        empty = torch.zeros(0, inner.config.get_text_config().hidden_size, dtype=inner.dtype, device=device)
        return empty, empty
    length = max(len(row.tokens) for row in rows)
    tokens = torch.zeros(len(rows), length, dtype=torch.long)
    positions = torch.zeros(len(rows), length, dtype=torch.long)
    mask = torch.eye(length, dtype=torch.bool).repeat(len(rows), 1, 1)  # padding sees itself
    for i, row in enumerate(rows):
        size = len(row.tokens)
        tokens[i, :size] = torch.tensor(row.tokens)
        positions[i, :size] = row.positions
        mask[i, :size, :size] = row.mask
    mask, positions = mask.to(device), positions.to(device)
    output = inner.get_decoder()(
        input_ids=tokens.to(device),
        attention_mask=_render(inner.config, mask, positions, inner.dtype),
        position_ids=positions,
        use_cache=False,
        output_hidden_states=True,
    )
    depth = len(output.hidden_states)
    chosen = range(depth)[layer - top + 1 + (depth if layer < 0 else 0) :][:top]
    of_layers = [output.last_hidden_state if one == depth - 1 else output.hidden_states[one] for one in chosen]
    if top > 1:  # each layer less its mean and divided by its standard deviation
        of_layers = [
            (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + 1e-5).sqrt() for x in of_layers
        ]
    targets = sum(of_layers) / top
    return (
        torch.stack([output.last_hidden_state[i, row.context_index] for i, row in enumerate(rows)]),
        torch.stack([targets[i, row.target_first : row.target_index + 1].mean(0) for i, row in enumerate(rows)]),
    )


def _isolation_of(batch: dict[str, Tensor], row: int, pair: int) -> str:
    target = batch["target_index"][row, pair]
    if batch["example_ids"][row, target] >= 0:
        return "none"
    return "step" if batch["prefix_end"][row, target] < 0 else "sink"


def _render(config: Any, mask: Tensor, positions: Tensor, dtype: torch.dtype) -> Any:
    """The dense mask, for each layer type where the model has several."""

    def one(window: int | None) -> Tensor:
        visible = mask if window is None else mask & within_window(positions, window)
        return dense_mask(visible, config._attn_implementation, dtype)

    return by_layer_type(config, one)
