"""What the trainer is given → rows for the collator: chat examples are tokenized, sources numbered, lengths checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch.utils.data import IterableDataset

from stepjepa.data.tokens import TokenReport, tokenize_dataset
from stepjepa.jepa.pairs import BranchLayout
from stepjepa.training.disk import DiskExamples, rows_on_disk

COLUMNS = ("input_ids", "labels", "step_ids")
FURTHER = {"separator": ("pooling", "content"), "part_ids": ("pairs", "hierarchy")}
"""Columns that only one value of an argument needs."""


class TrainingRows:
    """Makes rows of one training run; keeps what it counted.

    Args:
        tokenizer: of the model.
        layout: decides which examples have a view pair, and where longer ones are cut.
        positions: how many positions the model has; rows must leave room for the predictor tokens.

    Attributes:
        reports: a `TokenReport` by dataset name, for datasets tokenized here.
        sources: names of the sources; a row's `source_id` is an index into it.
    """

    def __init__(self, tokenizer: Any, layout: BranchLayout, positions: int | None) -> None:
        self.tokenizer = tokenizer
        self.room = None if positions is None else positions - layout.predictors
        limit = min((n for n in (layout.max_length, self.room) if n is not None), default=None)
        self.layout = replace(layout, max_length=limit)
        self.reports: dict[str, TokenReport] = {}
        self.sources: list[str] = []

    def __call__(self, dataset: Any, name: str) -> Any:
        """Rows of a dataset of chat examples or of rows of `tokenize_example`.

        Datasets without a length are converted as they are read; tokenized rows and `DiskExamples` stay where they are.

        Raises:
            ValueError: for an empty dataset, unknown fields, or tokenized rows longer than the model's positions.
        """
        if dataset is None:
            return None
        if isinstance(dataset, DiskExamples):
            rows_there = rows_on_disk(dataset, self.tokenizer, self.layout)
            self.reports[name] = rows_there.report
            if not len(rows_there):
                raise ValueError(f"No example of the {name} dataset could be used: {rows_there.report}")
            return rows_there.numbered(self.sources)
        if not hasattr(dataset, "__len__"):
            return _Stream(dataset, self, name)
        if isinstance(dataset, Mapping):
            raise ValueError(f"The {name} dataset is a mapping of {', '.join(map(str, dataset))}; pass one of them.")
        if len(dataset) == 0:
            raise ValueError(f"The {name} dataset is empty.")
        first = dataset[0]
        if "input_ids" in first and "step_ids" in first:
            self._check_lengths(dataset, name)
            return _Numbered(dataset, self) if "source" in first else dataset
        if "messages" in first and "steps" in first:
            rows, report = tokenize_dataset(dataset, self.tokenizer, self.layout)
            self.reports[name] = report
            if not rows:
                raise ValueError(f"No example of the {name} dataset could be used: {report}")
            return [self._numbered(row) for row in rows]
        raise _no_such_rows(first, name)

    def check_pairs(self, name: str) -> None:
        """Refuse a dataset of which no example has a view pair: the JEPA term would be 0 in silence.

        Raises:
            ValueError: what there is instead, and what would give pairs.
        """
        report = self.reports.get(name)
        if report is not None and report.without_pair == report.kept:
            raise ValueError(
                f"No example of the {name} dataset has a view pair (pairs={self.layout.pairs}), so there is nothing "
                f"that a JEPA term could compare: {report}. Solutions need two steps or more: `stepjepa verify` says "
                "what cuts them. pairs=question_answer needs no steps; lbd=0 is plain fine-tuning."
            )

    def _check_lengths(self, rows: Any, name: str) -> None:
        for number, row in enumerate(rows):
            if "source" in row:
                self._numbered(row)  # sources are numbered in the order of the rows, not in that of training
            sizes = {column: len(row[column]) for column in COLUMNS if column in row}
            if len(sizes) < len(COLUMNS) or len(set(sizes.values())) > 1:
                raise ValueError(
                    f"Row {number} of the {name} dataset needs {', '.join(COLUMNS)} of equal lengths; it has {sizes}."
                )
            if self.room is not None and sizes["input_ids"] > self.room:
                raise ValueError(
                    f"Row {number} of the {name} dataset has {sizes['input_ids']} tokens, but the model's positions "
                    f"hold {self.room} beside the predictor tokens; tokenize with max_length={self.room}."
                )

    def _numbered(self, row: dict[str, Any]) -> dict[str, Any]:
        row = dict(row)
        source = row.pop("source", None) or "unnamed"
        if source not in self.sources:
            self.sources.append(source)
        return {**row, "source_id": self.sources.index(source)}


def _no_such_rows(row: Mapping[str, Any], name: str) -> ValueError:
    return ValueError(
        f"Rows of the {name} dataset have the fields {', '.join(sorted(row))}; give chat examples (messages, steps: "
        "see `stepjepa prepare`) or rows of tokenize_example (input_ids, labels, step_ids)."
    )


class _Numbered(Sequence[Any]):
    """Tokenized rows with their sources numbered; each is read when it is asked for, as from a dataset on disk."""

    def __init__(self, rows: Any, make_rows: TrainingRows) -> None:
        self.rows, self.make_rows = rows, make_rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return self.make_rows._numbered(self.rows[index])


class _Stream(IterableDataset):
    """A dataset without a length, converted row by row; examples of which no step fits are left out."""

    def __init__(self, dataset: Any, make_rows: TrainingRows, name: str) -> None:
        self.dataset, self.make_rows, self.name = dataset, make_rows, name

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for row in self.dataset:
            if "input_ids" in row:
                self.make_rows._check_lengths([row], self.name)
                yield {column: row[column] for column in (*COLUMNS, *FURTHER) if column in row}
            elif "messages" not in row or "steps" not in row:
                raise _no_such_rows(row, self.name)
            else:
                tokenized, _ = tokenize_dataset([row], self.make_rows.tokenizer, self.make_rows.layout)
                yield from ({column: each[column] for column in (*COLUMNS, *FURTHER)} for each in tokenized)
