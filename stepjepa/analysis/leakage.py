"""The leakage audit: change a part of the text, see which views move.

Attention weights show one way that information could take; this shows whether it arrives, whatever the way. It asks
nothing of the code that builds layout and masks: a target view must stay the same to the bit when anything outside its
own step changes, a context view when anything after it changes, and both must move when what they see changes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from tqdm.auto import tqdm

from stepjepa.analysis.attention import windows_by_layer
from stepjepa.data.tokens import tokenize_dataset
from stepjepa.jepa.architectures import base_model, evaluating, longest_trunk
from stepjepa.jepa.layout import StepJEPACollator
from stepjepa.jepa.pairs import CONSECUTIVE, BranchLayout, ViewPair, step_spans
from stepjepa.jepa.views import Views, encode_views
from stepjepa.records import UserError, text_table

EXPERT_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
EXPERT_TOLERANCE = 1e-4
"""Mixtures of experts group the tokens of the batch into one product, so other tokens change the rounding."""
FIRST_TOKEN = "first token"

Range = tuple[int, int]


def has_experts(model: Any) -> bool:
    """Whether the model's configuration names more than one expert."""
    config = base_model(model).config.get_text_config()
    return any((getattr(config, name, None) or 0) > 1 for name in EXPERT_COUNTS)


def perturb(row: Mapping[str, Any], start: int, end: int) -> dict[str, Any]:
    """The row with every token of a range replaced by another one, taken from its own steps."""
    ids = list(row["input_ids"])
    pool = sorted({token for token, step in zip(ids, row["step_ids"], strict=True) if step >= 0})
    ids[start:end] = [pool[bisect_right(pool, token) % len(pool)] for token in ids[start:end]]
    return {**row, "input_ids": ids}


def leakage_audit(
    model: Any,
    tokenizer: Any,
    examples: Sequence[Mapping[str, Any]],
    *,
    layout: BranchLayout = CONSECUTIVE,
    batch_size: int = 8,
    progress: bool = False,
) -> dict[str, Any]:
    """Audit a model on examples.

    Args:
        model, tokenizer: from `load_model`.
        examples: with `messages` and `steps`; those without a view pair, or too long for a single step, are left out.
        layout: which views; isolation "none" is the control that leaks. Its `max_length` is at most what the model has
            positions for.
        batch_size: examples in one pass.
        progress: show a progress bar.

    Returns:
        As `audit_rows`, and `left_out`: how many were too long, had no view pair.

    Raises:
        UserError: no example has a view pair, or the views are not finite numbers.
    """
    tokenized, report = tokenize_dataset(examples, tokenizer, replace(layout, max_length=longest_trunk(model, layout)))
    rows = [row for row in tokenized if layout.view_pairs(row["step_ids"])]
    if not rows:
        raise UserError(
            f"none of the {len(examples)} examples has a view pair ({layout.pairs}); give some with more steps"
        )
    collator = StepJEPACollator(tokenizer, layout)
    left_out = {"too_long": report.skipped, "without_pair": len(tokenized) - len(rows)}
    return {**audit_rows(model, rows, collator, batch_size, progress), "left_out": left_out}


@torch.no_grad()
def audit_rows(
    model: Any, rows: Sequence[dict[str, Any]], collator: StepJEPACollator, batch_size: int = 8, progress: bool = False
) -> dict[str, Any]:
    """Audit a model on tokenized rows, each with a view pair.

    Every part of the text (prompt, each step, what ends the turn) is changed in turn, in all rows at once, so that
    the two passes compared have the same shapes and the same rounding.

    Returns:
        `segments` and `views` (names, in order), and `cells`, one for each segment and view that occur together:
        `relative_max`, `relative_min` (‖after − before‖ / ‖before‖, over the examples), `absolute_max` (of an entry),
        `count` of examples, `expected`, and `ok`. Expected are "zero"; "moves"; or "leaks": it moves, as it does by
        design in isolation "none", although a target view should not. `tolerance` is 0 but for mixtures of experts.
        `passed`, `faults` (in words), `examples`, and the layout.

    Raises:
        UserError: the views are not finite numbers.
    """
    tolerance = EXPERT_TOLERANCE if has_experts(model) else 0.0
    reach = Reach.of(model)
    cells: dict[tuple[str, str], dict[str, Any]] = {}
    batches = [list(rows[i : i + batch_size]) for i in range(0, len(rows), batch_size)]
    named = [[text_segments(row, collator.layout.isolation) for row in batch] for batch in batches]
    order = sorted({name for batch in named for parts in batch for name in parts}, key=_order)
    passes = len(batches) * (len(order) + 1)
    with evaluating(model), tqdm(total=passes, desc="auditing", unit="pass", disable=not progress) as bar:
        for batch, parts in zip(batches, named, strict=True):
            before = encode_views(model, collator(batch))
            bar.update()
            if not bool(before.context.isfinite().all() and before.target.isfinite().all()):
                raise UserError("the views are not finite numbers: the model is broken")
            for name in order:
                spans = [own.get(name) for own in parts]
                changed = [perturb(row, *span) if span else row for row, span in zip(batch, spans, strict=True)]
                if any(spans):
                    after = encode_views(model, collator(changed))
                    for view, cell in _compare(before, after, batch, spans, collator, reach):
                        _merge(cells.setdefault((name, view), {"segment": name, "view": view}), cell, tolerance)
                bar.update()
    faults = [_fault(cell) for cell in cells.values() if not cell["ok"]]
    return {
        "layout": {name: getattr(collator.layout, name) for name in ("pairs", "horizon", "predictors", "isolation")},
        "examples": len(rows),
        "tolerance": tolerance,
        "passed": not faults,
        "faults": faults,
        "segments": order,
        "views": list(dict.fromkeys(view for _, view in sorted(cells, key=_column))),
        "cells": list(cells.values()),
    }


def text_segments(row: Mapping[str, Any], isolation: str = "step") -> dict[str, Range]:
    """The parts of a tokenized row that are changed one at a time: prompt, S1, S2, …, end.

    Under isolation "sink" the first token, which a target sees by design, is a part of its own.
    """
    spans = step_spans(row["step_ids"])
    sink = int(isolation == "sink")
    parts = {
        FIRST_TOKEN: (0, sink),
        "prompt": (sink, spans[0].start),
        **{f"S{step + 1}": (start, end) for step, start, end in spans},
        "end": (spans[-1].end, len(row["input_ids"])),
    }
    return {name: (start, end) for name, (start, end) in parts.items() if start < end}


def _compare(
    before: Views,
    after: Views,
    batch: Sequence[dict[str, Any]],
    spans: Sequence[Range | None],
    collator: StepJEPACollator,
    reach: Reach,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """For every view of the rows that were changed: its name, how far it moved, what was expected."""
    pairs = [(row, pair) for row, data in enumerate(batch) for pair in collator.layout.view_pairs(data["step_ids"])]
    assert len(pairs) == len(before.context)
    for kind in ("context", "target"):
        old, new = getattr(before, kind).double(), getattr(after, kind).double()  # [P, D]
        relative = ((new - old).norm(dim=1) / old.norm(dim=1)).tolist()
        absolute = (new - old).abs().amax(dim=1).tolist()
        for (row, pair), share, most in zip(pairs, relative, absolute, strict=True):
            span = spans[row]
            if span is not None:
                far = expected(kind, span, pair, collator, reach)
                yield view_name(kind, pair), {"relative": share, "absolute": most, "expected": far}


class Reach(NamedTuple):
    """How far information can travel in a model whose layers all have the same window (None: at least one has none)."""

    window: int | None = None
    layers: int = 1

    @classmethod
    def of(cls, model: Any) -> Reach:
        """That of a model."""
        windows = windows_by_layer(base_model(model).config)
        return cls(windows[0] if None not in windows else None, len(windows))

    def covers(self, distance: int, direct: int = 0) -> bool:
        """Whether a state depends on a token `distance` positions back, the last `direct` of them in a single layer."""
        return self.window is None or (distance <= self.layers * (self.window - 1) and direct < self.window)


NO_WINDOW = Reach()


def expected(kind: str, span: Range, pair: ViewPair, collator: StepJEPACollator, reach: Reach = NO_WINDOW) -> str:
    """What a view does when the tokens of `span` change: "zero", "moves" or "leaks" (moves, and should not).

    Args:
        kind: "context" or "target".
        span: first token, and the one after the last.
        pair: the view pair.
        collator: says isolation and predictor tokens.
        reach: of the model; what lies beyond it changes nothing.
    """
    start, end = span
    extra = len(collator.predictor_ids)
    own = pair.target_start <= start and end <= pair.target_end
    if kind == "context":
        back = pair.context_end + extra - end
        return "moves" if end <= pair.context_end and reach.covers(back) else "zero"
    if own:
        return "moves" if reach.covers(pair.target_end - end) else "zero"
    if collator.layout.isolation == "none":
        return "leaks" if end <= pair.target_start and reach.covers(pair.target_end - end) else "zero"
    sees_first = collator.layout.isolation == "sink" and end == 1
    # Only the copy's own tokens see the first one, so one of them must have it in its window.
    return "moves" if sees_first and reach.covers(pair.target_end - 1 + extra, pair.target_start + extra) else "zero"


def view_name(kind: str, pair: ViewPair) -> str:
    """`context S1`, `target S2`; for the whole answer `context question`, `target answer`."""
    step = pair.context_step if kind == "context" else pair.target_step
    return f"{kind} S{step + 1}" if step >= 0 else {"context": "context question", "target": "target answer"}[kind]


def _merge(cell: dict[str, Any], new: Mapping[str, Any], tolerance: float) -> None:
    """Add one example's finding to a cell."""
    share, most, quiet = new["relative"], new["absolute"], new["expected"] == "zero"
    cell["relative_max"] = max(cell.get("relative_max", share), share)
    cell["relative_min"] = min(cell.get("relative_min", share), share)
    cell["absolute_max"] = max(cell.get("absolute_max", most), most)
    cell["count"] = cell.get("count", 0) + 1
    if not quiet or "expected" not in cell:  # in a windowed model the part may lie within reach in one example only
        cell["expected"] = new["expected"]
    cell["ok"] = cell.get("ok", True) and (share <= tolerance if quiet else share > tolerance)


def _order(name: str) -> tuple[int, int]:
    step = int(name[1:]) if name[0] == "S" else 0
    return {FIRST_TOKEN: 0, "prompt": 1, "end": 3}.get(name, 2), step


def _column(key: tuple[str, str]) -> tuple[str, int]:
    kind, _, what = key[1].partition(" ")
    return kind, int(what[1:]) if what[0] == "S" else 0


def _fault(cell: Mapping[str, Any]) -> str:
    if cell["expected"] == "zero":
        return f"a change of {cell['segment']} moves {cell['view']} by {cell['relative_max']:.1e}"
    return f"a change of {cell['segment']} does not move {cell['view']}"


def format_audit(record: Mapping[str, Any]) -> str:
    """The audit as a table, changed parts down and views across: the largest relative change, with the verdict."""
    cells = {(cell["segment"], cell["view"]): cell for cell in record["cells"]}

    def shown(segment: str, view: str) -> str:
        cell = cells.get((segment, view))
        return "" if cell is None else f"{'' if cell['ok'] else '!'}{cell['relative_max']:.2g}"

    rows = [[segment, *(shown(segment, view) for view in record["views"])] for segment in record["segments"]]
    lines = text_table([["changed", *record["views"]], *rows])
    return "\n".join([*lines, "", *(f"! {fault}" for fault in record["faults"]), verdict(record)])


def verdict(record: Mapping[str, Any]) -> str:
    """One line: what was found, over how many examples."""
    many = f"{record['examples']} example{'' if record['examples'] == 1 else 's'}"
    if not record["passed"]:
        return (
            f"{len(record['faults'])} faults in {many}: information passes where it must not, or does not where it must"
        )
    if record["layout"]["isolation"] == "none":
        return f"isolation none, {many}: targets see all before them, as this control is meant to"
    exact = f"within {record['tolerance']:.0e}" if record["tolerance"] else "to the bit"
    return f"no leak in {many}: what a view must not see leaves it the same {exact}, what it sees moves it"
