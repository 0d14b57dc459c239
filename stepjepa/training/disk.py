"""Training data larger than memory: examples and their tokens in Arrow files on disk, written once, read row by row.

A source is read example by example into one file (each as JSON text, so that rows of all kinds have one form), which
processes of `datasets` tokenize into another. Both are memory-mapped: what a run holds does not grow with their length
but for the order of the rows and a digest of each built-in question (of each view pair too, with frozen targets). The
files' names are digests of what they follow from, so that the same data and tokenizer find them again; an unfinished
file has no such name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from stepjepa.data.examples import Example
from stepjepa.data.origins import stamp_of
from stepjepa.data.sources import read_examples
from stepjepa.data.tokens import TokenReport, tokenize_dataset
from stepjepa.environment import environment
from stepjepa.jepa.pairs import BranchLayout
from stepjepa.records import read_json, write_json, written_whole

_BATCH = 1000  # examples written, or tokenized, together
_NUMBERS = {"input_ids": "int32", "labels": "int32", "step_ids": "int32", "separator": "int8", "part_ids": "int32"}
_COUNTS = ("cut", "without_pair", "ended", "tokens", "labelled")
"""Of a batch, in its first row."""


class DiskExamples(Sequence[Example]):
    """Examples in a file; `sources` are the names of theirs, `processes` those that tokenize them."""

    def __init__(self, path: Path, sources: list[str], processes: int) -> None:
        from datasets import Dataset

        self.path, self.sources, self.processes = path, sources, processes
        self.dataset = Dataset.from_file(str(path))

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: Any) -> Any:
        return json.loads(self.dataset[index]["example"])

    def __iter__(self) -> Iterator[Example]:
        return (json.loads(row["example"]) for row in self.dataset)


class DiskRows(Sequence[Any]):
    """Tokenized rows in files, as `TrainingRows` gives them: their columns and `source_id`."""

    def __init__(self, dataset: Any, examples: DiskExamples) -> None:
        self.dataset, self.sources, self.numbers = dataset, examples.sources, dict[str, int]()
        self.report = TokenReport(len(examples), len(dataset), len(examples) - len(dataset))
        for name in _COUNTS:
            setattr(self.report, name, sum(chunk.sum().as_py() or 0 for chunk in self._chunks(name)))

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: Any) -> Any:
        row = self.dataset[index]
        return {name: row[name] for name in _NUMBERS} | {"source_id": self.numbers[row["source"]]}

    def numbered(self, known: list[str]) -> DiskRows:
        """Number the sources as in a list of known ones, which grows by new ones."""
        known += [source for source in self.sources if source not in known]
        self.numbers = {source: known.index(source) for source in self.sources}
        return self

    def arrays(self, columns: Sequence[str]) -> Iterator[dict[str, np.ndarray]]:
        """Some columns of every row, in order, faster than row by row."""
        for chunks in zip(*(self._chunks(name) for name in columns), strict=True):
            lengths = [chunk.value_lengths().to_numpy() for chunk in chunks]
            values = [chunk.flatten().to_numpy() for chunk in chunks]
            cut = [np.split(value, np.cumsum(length)[:-1]) for value, length in zip(values, lengths, strict=True)]
            for row in zip(*cut, strict=True):
                yield dict(zip(columns, row, strict=True))

    def _chunks(self, column: str) -> list[Any]:
        return list(self.dataset.data.column(column).chunks)


def examples_on_disk(
    train_file: Sequence[str], folder: Path, processes: int, **options: Any
) -> tuple[DiskExamples, str]:
    """The examples of sources, written unless they were before, and what their reader says of them.

    Args:
        options: of `read_examples`.

    Raises:
        UserError: a source cannot be read.
    """
    import pyarrow as pa
    from accelerate import PartialState

    stamps = [stamp_of(source) for source in train_file]
    path = folder / f"examples-{_digest(list(train_file), options, stamps)}.arrow"
    about = path.with_suffix(".json")
    with PartialState().main_process_first():
        if not about.exists():
            schema = pa.schema([("example", pa.large_string())])
            sources: dict[str, None] = {}
            texts: list[str] = []
            with written_whole(path) as temporary, pa.ipc.new_stream(str(temporary), schema) as writer:

                def keep(example: Example | None) -> None:
                    if example is not None:
                        sources.setdefault(example["source"])
                        texts.append(json.dumps(example, ensure_ascii=False))
                    if len(texts) == _BATCH or (example is None and texts):
                        writer.write_batch(pa.record_batch([pa.array(texts, pa.large_string())], schema=schema))
                        texts.clear()

                _, report = read_examples(train_file, each=keep, **options)
                keep(None)
            write_json({"sources": list(sources), "report": str(report)}, about)
    known = read_json(about)
    return DiskExamples(path, known["sources"], processes), known["report"]


def rows_on_disk(examples: DiskExamples, tokenizer: Any, layout: BranchLayout) -> DiskRows:
    """The examples tokenized, unless they were before; as `tokenize_dataset` does it."""
    from accelerate import PartialState
    from datasets import Features, Value
    from datasets import Sequence as List  # `List` since datasets 4

    shape = {part.name: getattr(layout, part.name) for part in fields(layout)}
    text = tokenizer.backend_tokenizer.to_str()
    name = _digest(examples.path.name, shape, text, tokenizer.chat_template, environment()["packages"])
    columns: dict[str, Any] = {column: List(Value(kind)) for column, kind in _NUMBERS.items()}
    columns |= {"source": Value("string")} | {count: Value("int64") for count in _COUNTS}
    with PartialState().main_process_first():
        dataset = examples.dataset.map(
            _tokenize,
            batched=True,
            batch_size=_BATCH,
            remove_columns=["example"],
            features=Features(columns),
            num_proc=examples.processes if examples.processes > 1 else None,
            fn_kwargs={"tokenizer": tokenizer, "layout": layout},
            cache_file_name=str(examples.path.with_name(f"rows-{name}.arrow")),
            new_fingerprint=name,
            desc="tokenizing",
        )
    return DiskRows(dataset, examples)


def _tokenize(batch: dict[str, list[str]], tokenizer: Any, layout: BranchLayout) -> dict[str, list[Any]]:
    rows, report = tokenize_dataset(map(json.loads, batch["example"]), tokenizer, layout)
    columns: dict[str, list[Any]] = {name: [row[name] for row in rows] for name in _NUMBERS}
    columns["source"] = [row["source"] for row in rows]
    return columns | {name: [getattr(report, name), *[0] * (len(rows) - 1)][: len(rows)] for name in _COUNTS}


def _digest(*what: Any) -> str:
    return hashlib.sha256(json.dumps(what, default=str).encode()).hexdigest()[:16]
