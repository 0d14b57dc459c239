"""Any source of worked solutions → examples, with an account of every row that was left out.

A source is the built-in problems, one or several JSONL files, or a data set on the Hugging Face Hub. A bad
line never stops or corrupts the rest: it is skipped, counted by reason, and named by its line (or, with
``strict``, raised). Files are written whole or not at all.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn

from tqdm.auto import tqdm

from stepjepa.data.boxes import last_boxed
from stepjepa.data.formats import (
    DEFAULT_SYSTEM_PROMPT,
    Example,
    RowError,
    RowFormat,
    RowOptions,
    answers_agree,
    convert_row,
    make_example,
    recognise_format,
)
from stepjepa.data.steps import Short, Splitter, Think
from stepjepa.records import UserError, write_jsonl

_UNTELLING_STEMS = {"train", "test", "validation", "valid", "val", "dev", "data"}
_DATA_SUFFIXES = {".json", ".jsonl", ".ndjson", ".txt", ".csv", ".tsv", ".parquet", ".gz", ".zst"}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")  # `gsm8k`, `openai/gsm8k`; not `a/b/c`, `my data`
_HUB_CONFIGS = {"openai/gsm8k": "main", "gsm8k": "main"}  # the Hub names no default configuration for it
_PLACES = 5  # of each reason, how many places a printed report names

Source = str | os.PathLike[str]


# -------- raw rows --------


@dataclass(frozen=True)
class Row:
    """A raw row: where it stands (``file:line``), and its value or the reason why it has none."""

    place: str
    value: object  # parsed, or the RowError that says why it could not be


def file_rows(path: Path) -> Iterator[Row]:
    """The lines of a JSONL file.

    Raises:
        UserError: it cannot be read.
    """
    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    if lines[-1] == b"":
        lines.pop()  # what follows the last line end is not a line
    for number, line in enumerate(tqdm(lines, desc=path.name, unit="row", delay=2, leave=False), 1):
        yield Row(f"{path}:{number}", _parse_line(line))


def _parse_line(line: bytes) -> object:
    if not line.strip():
        return RowError("empty line")
    try:
        value = json.loads(line.decode("utf-8"), parse_constant=_reject_constant)
        # A lone surrogate passes the JSON parser and breaks the first encoder that it meets, far from here.
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RowError as error:
        return error
    except UnicodeDecodeError:
        return RowError("not UTF-8")
    except UnicodeEncodeError:
        return RowError("lone surrogate")
    except (ValueError, RecursionError):
        return RowError("not JSON")
    return value


def _reject_constant(name: str) -> NoReturn:
    raise RowError("NaN or infinity")


def hub_rows(name: str, config: str | None, split: str) -> Iterator[Row]:
    """The rows of a data set on the Hub.

    Raises:
        UserError: it cannot be loaded.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        rows = load_dataset(name, config or _HUB_CONFIGS.get(name), split=split)
    except (OSError, ValueError, DatasetsError) as error:
        raise UserError(
            f"'{name}' is neither a file here nor a data set that could be loaded from the Hugging Face Hub. "
            f"If it is gated or private, ask for access on its page and log in with `hf auth login`. "
            f"The Hub said: {type(error).__name__}: {error}"
        ) from error
    for number, row in enumerate(tqdm(rows, desc=name, unit="row", delay=2, leave=False), 1):
        yield Row(f"{name}[{split}]:{number}", row)


def locate(source: Source) -> Path | str:
    """The file that ``source`` names, or a Hub id; a mistyped path must not be looked up on the Hub.

    Raises:
        UserError: there is no such file, or it is a folder.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        inside = sorted(p.name for p in path.iterdir() if p.suffix in _DATA_SUFFIXES)
        raise UserError(f"'{source}' is a folder; name a file in it" + (f": {', '.join(inside)}" if inside else ""))
    name = str(source)
    looks_local = (
        isinstance(source, os.PathLike)
        or path.suffix.lower() in _DATA_SUFFIXES
        or name.startswith((".", "/", "~"))
        or (len(path.parts) > 1 and path.parent.is_dir())
        or not _HUB_ID.fullmatch(name)
    )
    if not looks_local:
        return name
    siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, siblings, n=3)
    raise UserError(f"no file '{source}'" + (f"; did you mean {' or '.join(close)}?" if close else ""))


def name_of(located: Path | str) -> str:
    """``gsm8k/train.jsonl`` → ``gsm8k``, ``mine.jsonl`` → ``mine``, ``openai/gsm8k`` → ``gsm8k``."""
    if isinstance(located, str):
        return located.rsplit("/", 1)[-1]
    if located.stem.lower() in _UNTELLING_STEMS:
        return located.resolve().parent.name or located.stem
    return located.stem


# -------- reading --------


@dataclass
class Report:
    """What became of the rows of one or several sources; printed, it is a few lines of text.

    ``skipped`` maps each reason to the places, as ``"file:line"`` (lines and rows count from 1);
    ``step_counts[n]`` is the number of kept examples with ``n`` steps. ``wrong`` and ``unboxed`` count the
    rows whose own solution boxes another answer than the reference, or none, whether they were kept or not.
    """

    sources: list[str] = field(default_factory=list)
    read: int = 0
    kept: int = 0
    skipped: dict[str, list[str]] = field(default_factory=dict)
    formats: Counter[str] = field(default_factory=Counter)
    step_counts: Counter[int] = field(default_factory=Counter)
    wrong: int = 0
    unboxed: int = 0

    def keep(self, example: Example, kind: str) -> None:
        self.kept += 1
        self.formats[kind] += 1
        self.step_counts[example["total_steps"]] += 1

    def __str__(self) -> str:
        left_out = sum(map(len, self.skipped.values()))
        lines = [f"{', '.join(self.sources)}: {self.read:,} read, {self.kept:,} kept, {left_out:,} skipped"]
        for reason, places in sorted(self.skipped.items(), key=lambda item: -len(item[1])):
            more = f", … ({len(places) - _PLACES:,} more)" if len(places) > _PLACES else ""
            lines.append(f"  skipped {len(places):,}: {reason}: {', '.join(places[:_PLACES])}{more}")
        if self.formats:
            lines.append("  formats: " + ", ".join(f"{n:,} {kind}" for kind, n in self.formats.most_common()))
        if self.wrong or self.unboxed:
            lines.append(f"  solutions with another answer: {self.wrong:,}; without a boxed one: {self.unboxed:,}")
        if self.kept:
            total = sum(n * count for n, count in self.step_counts.items())
            counts = ", ".join(f"{n}: {count:,}" for n, count in sorted(self.step_counts.items()))
            lines.append(f"  steps per example: mean {total / self.kept:.2f} ({counts})")
        return "\n".join(lines)


def read_examples(
    source: Source | Sequence[Source],
    *,
    config: str | None = None,
    split: str = "train",
    row_format: RowFormat | None = None,
    splitter: Splitter | None = None,
    think: Think = "remove",
    short: Short = "merge",
    min_chars: int = 20,
    system_prompt: str | Literal["auto"] | None = "auto",
    source_name: str | None = None,
    only_correct: bool = False,
    strict: bool = False,
    count: int = 2000,
    seed: int = 0,
) -> tuple[list[Example], Report]:
    """Read a source as examples.

    Args:
        source: ``"builtin"``, a JSONL file, a Hub data set id, or a list of them.
        config: configuration of a Hub data set (``openai/gsm8k`` is read as ``main``).
        split: split of a Hub data set or of the built-in problems.
        row_format: the kind of every row; ``None`` recognises each row by its fields.
        splitter, think, short, min_chars: see :func:`stepjepa.data.steps.split_steps`. ``splitter=None`` takes
            ``line`` for GSM8K rows and ``auto`` otherwise. Prepared and built-in examples have their steps.
        system_prompt: ``"auto"`` is none for the built-in problems and ``DEFAULT_SYSTEM_PROMPT`` for others;
            ``None`` is none. Chat rows keep a system message of their own, prepared rows are not touched.
        source_name: the examples' ``source``; by default the file's or folder's or data set's name.
        only_correct: drop rows with a reference answer whose solution boxes another answer, or none.
        strict: raise at the first bad line instead of skipping it.
        count, seed: how many built-in problems, and which.

    Returns:
        The examples and the report.

    Raises:
        UserError: if a source cannot be read, nothing could be kept, or a line is bad under ``strict``.
    """
    report = Report()
    examples: list[Example] = []
    for origin in _listed(source):
        report.sources.append(str(origin))
        if origin == "builtin":
            prompt = None if system_prompt == "auto" else system_prompt
            for example in _builtin_examples(count, seed, split, prompt):
                report.read += 1
                report.keep(example, "builtin")
                examples.append(example)
            continue
        prompt = DEFAULT_SYSTEM_PROMPT if system_prompt == "auto" else system_prompt
        options = RowOptions(splitter, think, short, min_chars, prompt)
        located = locate(origin)
        for row in file_rows(located) if isinstance(located, Path) else hub_rows(located, config, split):
            report.read += 1
            try:
                if isinstance(row.value, RowError):
                    raise row.value
                example = convert_row(row.value, name_of(located), row_format, options)
                kind = row_format or recognise_format(row.value)  # type: ignore[arg-type]
                _check_answer(example, kind, only_correct, report)
            except RowError as error:
                if strict:
                    raise UserError(f"{row.place}: {error}") from error
                report.skipped.setdefault(str(error), []).append(row.place)
            else:
                report.keep(example, kind)
                examples.append(example)
    if not examples:
        raise UserError(f"nothing could be kept\n{report}")
    if source_name is not None:
        for example in examples:
            example["source"] = source_name
    return examples, report


def _listed(source: Source | Sequence[Source]) -> list[Source]:
    return [source] if isinstance(source, str | os.PathLike) else list(source)


def _builtin_examples(count: int, seed: int, split: str, system_prompt: str | None) -> Iterator[Example]:
    from stepjepa.data.problems import generate_problems  # here, as reading its stories takes a moment

    for problem in generate_problems(count, seed=seed, split=split):
        question, steps, answer = (problem.pop(name) for name in ("question", "steps", "answer"))
        yield make_example(question, steps, answer, "builtin", system_prompt, **problem)


def _check_answer(example: Example, kind: str, only_correct: bool, report: Report) -> None:
    """Count (and with ``only_correct`` refuse) a solution whose boxed answer is not the reference."""
    if kind not in ("teacher", "chat") or example["answer"] is None:
        return
    boxed = last_boxed(example["messages"][-1]["content"])
    if boxed is None:
        report.unboxed += 1
        if only_correct:
            raise RowError(r"the solution has no \boxed{} answer (only_correct)")
    elif not answers_agree(boxed, example["answer"]):
        report.wrong += 1
        if only_correct:
            raise RowError("the solution's answer is not the reference (only_correct)")


def prepare(source: Source | Sequence[Source], output_file: str | os.PathLike[str], **options: Any) -> Report:
    """Read ``source`` (see :func:`read_examples`, whose options it takes) and write ``output_file``.

    Raises:
        UserError: as :func:`read_examples`, or if the output is a source; nothing is written then.
    """
    for origin in _listed(source):
        if Path(origin).exists() and Path(output_file).exists() and os.path.samefile(origin, output_file):
            raise UserError(f"the output file '{output_file}' is a source; write to another file")
    examples, report = read_examples(source, **options)
    write_jsonl(examples, output_file)
    return report
