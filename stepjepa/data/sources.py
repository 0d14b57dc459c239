"""Any source of worked solutions → examples, with an account of every row that was left out.

A source is the built-in problems, one or several JSONL files, or a data set on the Hugging Face Hub. A bad
line never stops or corrupts the rest: it is skipped, counted by reason, and named by its line (or, with
``strict``, raised). Files are written whole or not at all (DESIGN §5).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

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
from stepjepa.data.rows import SourceError, file_rows, hub_rows, locate, name_of
from stepjepa.data.steps import Short, Splitter, Think, last_boxed
from stepjepa.records import write_jsonl

__all__ = [
    "DEFAULT_SYSTEM_PROMPT",
    "Report",
    "SourceError",
    "format_report",
    "make_example",
    "prepare",
    "read_examples",
    "read_jsonl",
]

Source = str | os.PathLike[str]


@dataclass
class Report:
    """What became of the rows of one or several sources.

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

    def skip(self, reason: str, place: str) -> None:
        self.skipped.setdefault(reason, []).append(place)

    def __str__(self) -> str:
        return format_report(self)


def format_report(report: Report, places: int = 5) -> str:
    """The report as lines of text; of each reason at most ``places`` places are named."""
    left_out = sum(map(len, report.skipped.values()))
    lines = [f"{', '.join(report.sources)}: {report.read:,} read, {report.kept:,} kept, {left_out:,} skipped"]
    for reason, found in sorted(report.skipped.items(), key=lambda item: -len(item[1])):
        more = f", … ({len(found) - places:,} more)" if len(found) > places else ""
        lines.append(f"  skipped {len(found):,}: {reason}: {', '.join(found[:places])}{more}")
    if report.formats:
        lines.append("  formats: " + ", ".join(f"{n:,} {kind}" for kind, n in report.formats.most_common()))
    if report.wrong or report.unboxed:
        lines.append(f"  solutions with another answer: {report.wrong:,}; without a boxed one: {report.unboxed:,}")
    if report.kept:
        total = sum(n * count for n, count in report.step_counts.items())
        counts = ", ".join(f"{n}: {count:,}" for n, count in sorted(report.step_counts.items()))
        lines.append(f"  steps per example: mean {total / report.kept:.2f} ({counts})")
    return "\n".join(lines)


def _builtin_examples(count: int, seed: int, split: str, system_prompt: str | None) -> Iterator[Example]:
    from stepjepa.data.problems import generate_problems

    for problem in generate_problems(count, seed=seed, split=split):
        extra = {key: value for key, value in problem.items() if key not in ("question", "steps", "answer")}
        yield make_example(problem["question"], problem["steps"], problem["answer"], "builtin", system_prompt, **extra)


# -------- reading --------


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
        SourceError: if a source cannot be read, nothing could be kept, or a line is bad under ``strict``.
    """
    report = Report()
    examples: list[Example] = []
    for each in _listed(source):
        report.sources.append(str(each))
        if each == "builtin":
            prompt = None if system_prompt == "auto" else system_prompt
            for example in _builtin_examples(count, seed, split, prompt):
                if source_name is not None:
                    example["source"] = source_name
                report.read += 1
                _keep(example, "builtin", examples, report)
            continue
        prompt = DEFAULT_SYSTEM_PROMPT if system_prompt == "auto" else system_prompt
        options = RowOptions(splitter, think, short, min_chars, prompt)
        located = locate(each)
        rows = file_rows(located) if isinstance(located, Path) else hub_rows(located, config, split)
        for row in rows:
            report.read += 1
            try:
                if isinstance(row.value, RowError):
                    raise row.value
                example = convert_row(row.value, source_name or name_of(located), row_format, options)
                kind = row_format or recognise_format(row.value)  # type: ignore[arg-type]
                _check_answer(example, kind, only_correct, report)
            except RowError as error:
                if strict:
                    raise SourceError(f"{row.place}: {error}") from error
                report.skip(str(error), row.place)
                continue
            if source_name is not None:
                example["source"] = source_name
            _keep(example, kind, examples, report)
    if not examples:
        raise SourceError(f"nothing could be kept\n{format_report(report)}")
    return examples, report


def _listed(source: Source | Sequence[Source]) -> list[Source]:
    return [source] if isinstance(source, str | os.PathLike) else list(source)


def _keep(example: Example, kind: str, examples: list[Example], report: Report) -> None:
    examples.append(example)
    report.kept += 1
    report.formats[kind] += 1
    report.step_counts[example["total_steps"]] += 1


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
        SourceError: as :func:`read_examples`, or if the output is a source; nothing is written then.
    """
    for each in _listed(source):
        if Path(each).exists() and Path(output_file).exists() and os.path.samefile(each, output_file):
            raise SourceError(f"the output file '{output_file}' is a source; write to another file")
    examples, report = read_examples(source, **options)
    write_jsonl(examples, output_file)
    return report


# -------- prepared files --------


def read_jsonl(path: str | os.PathLike[str]) -> list[Example]:
    """Read a prepared file.

    Raises:
        SourceError: naming file and line, if a line is not a prepared example.
    """
    return read_examples(Path(path), row_format="prepared", strict=True)[0]
