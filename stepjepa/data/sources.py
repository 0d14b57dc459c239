"""Any source of worked solutions → examples, with an account of every row that was left out.

A source is the built-in problems, one or several files, or a data set on the Hugging Face Hub. A bad
line never stops or corrupts the rest: it is skipped, counted by reason, and named by its line (or, with
``strict``, raised). Files are written whole or not at all.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from stepjepa.data.boxes import last_boxed
from stepjepa.data.converters import RowOptions, WrongSteps
from stepjepa.data.examples import DEFAULT_SYSTEM_PROMPT, Example, make_example
from stepjepa.data.fields import UNKNOWN_FIELDS, WANTED_FIELDS, RowError
from stepjepa.data.files import READ, json_fault
from stepjepa.data.formats import convert_row, recognise_format
from stepjepa.data.origins import Source, is_builtin, is_part_of, locate
from stepjepa.data.readings import same_answer
from stepjepa.data.steps import Cuts, Short, Splitter, Think
from stepjepa.records import UserError, write_jsonl

_PLACES = 5  # of each reason, how many places a printed report names
_REASONS = 20  # how many reasons it names
_STEPS, _LINE = 8, 100  # how many steps of an example are shown, and characters of each


@dataclass
class Report:
    """What became of the rows of one or several sources; printed, it is a few lines of text.

    ``skipped`` maps each reason to the places, as ``"file:line"`` (lines and rows count from 1);
    ``step_counts[n]`` is the number of kept examples with ``n`` steps. ``wrong`` and ``unboxed`` count the
    rows whose own solution boxes another answer than the reference, or none, whether they were kept or not;
    ``changes`` counts what was merged or dropped in the kept ones; ``first`` is the first of them.
    """

    sources: list[str] = field(default_factory=list)
    read: int = 0
    kept: int = 0
    skipped: dict[str, list[str]] = field(default_factory=dict)
    changes: Counter[str] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    step_counts: Counter[int] = field(default_factory=Counter)
    first: Example | None = None
    wrong: int = 0
    unboxed: int = 0
    undecided: int = 0

    def keep(self, example: Example, kind: str) -> None:
        self.first = self.first or example
        self.kept += 1
        self.formats[kind] += 1
        self.step_counts[example["total_steps"]] += 1

    def steps_shown(self) -> str:
        """The steps of the first example, a line each: are they what a reader would call steps?"""
        if self.first is None:
            return ""
        lines = (" ".join(step.split()) for step in self.first["steps"][:_STEPS])
        shown = [f"  {n}. {line if len(line) <= _LINE else line[:_LINE] + ' …'}" for n, line in enumerate(lines, 1)]
        more = self.first["total_steps"] - len(shown)
        return "\n".join(["steps of the first example:", *shown, *([f"  … ({more:,} more)"] if more else [])])

    def __str__(self) -> str:
        left_out = sum(map(len, self.skipped.values()))
        lines = [f"{', '.join(self.sources)}: {self.read:,} read, {self.kept:,} kept, {left_out:,} skipped"]
        reasons = sorted(self.skipped.items(), key=lambda item: -len(item[1]))
        for reason, places in reasons[:_REASONS]:
            more = f", … ({len(places) - _PLACES:,} more)" if len(places) > _PLACES else ""
            lines.append(f"  skipped {len(places):,}: {reason}: {', '.join(places[:_PLACES])}{more}")
        if rest := reasons[_REASONS:]:
            lines.append(f"  skipped {sum(len(places) for _, places in rest):,}: {len(rest):,} other reasons")
        if any(reason.startswith(UNKNOWN_FIELDS) for reason in self.skipped):
            lines.append(f"  fields wanted: {WANTED_FIELDS}")
        if self.formats:
            lines.append("  formats: " + ", ".join(f"{n:,} {kind}" for kind, n in self.formats.most_common()))
        if changes := +self.changes:
            lines.append("  changes: " + ", ".join(f"{n:,} {change}" for change, n in changes.most_common()))
        if self.wrong or self.unboxed or self.undecided:
            lines.append(f"  solutions with another answer: {self.wrong:,}; without a boxed one: {self.unboxed:,}")
        if self.undecided:
            lines.append(f"  kept, as only mathematics could tell their answer from the reference: {self.undecided:,}")
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
    row_format: str | None = None,
    splitter: Splitter | Cuts | None = None,
    think: Think = "remove",
    short: Short = "merge",
    min_chars: int = 20,
    wrong_steps: WrongSteps = "skip",
    system_prompt: str | Literal["auto"] | None = "auto",
    source_name: str | None = None,
    only_correct: bool = False,
    strict: bool = False,
    count: int = 2000,
    seed: int = 0,
    mistake: str | None = None,
    each: Callable[[Example], object] | None = None,
) -> tuple[list[Example], Report]:
    """Read a source as examples.

    Args:
        source: what `ORIGINS` of `origins.py` names, or a list of them.
        config: configuration of a Hub data set (``openai/gsm8k`` is read as ``main``).
        split: split of a Hub data set or of the built-in problems.
        row_format: the kind of every row; ``None`` recognises each row by its fields.
        splitter, think, short, min_chars: see :func:`stepjepa.data.steps.split_steps`. ``splitter=None`` takes
            ``line`` for GSM8K rows and ``auto`` otherwise. Prepared and built-in examples have their steps.
        wrong_steps: ``skip`` leaves out solutions with a step that is labelled as wrong; ``keep`` keeps them, with
            ``wrong_step`` (the index of the first).
        system_prompt: ``"auto"`` is none for the built-in problems and ``DEFAULT_SYSTEM_PROMPT`` for others;
            ``None`` is none. Chat rows keep a system message of their own, prepared rows are not touched.
        source_name: the examples' ``source``; by default the file's or folder's or data set's name.
        only_correct: drop rows with a reference answer whose solution boxes another answer, or none; what only
            mathematics could tell from the reference is kept, and counted.
        strict: raise at the first bad line instead of skipping it.
        count, seed: how many built-in problems of each kind that is named, and which.
        mistake: a kind of wrong step to plant in built-in stories, see :func:`.mistakes.plant_mistakes`.
        each: called with every example in the place of keeping it; the list is empty then.

    Returns:
        The examples and the report.

    Raises:
        UserError: if a source cannot be read, nothing could be kept, or a line is bad under ``strict``.
    """
    report = Report()
    examples: list[Example] = []

    def take(example: Example, kind: str) -> None:
        if source_name is not None:
            example["source"] = source_name
        report.keep(example, kind)
        (each or examples.append)(example)

    for origin in _listed(source):
        report.sources.append(str(origin))
        if is_builtin(origin):
            prompt = None if system_prompt == "auto" else system_prompt
            for example in _builtin_examples(str(origin), count, seed, split, prompt, mistake):
                report.read += 1
                take(example, str(origin))
            continue
        prompt = DEFAULT_SYSTEM_PROMPT if system_prompt == "auto" else system_prompt
        options = RowOptions(splitter, think, short, min_chars, wrong_steps, prompt)
        located = locate(origin, config, split)
        for row in located.rows():
            report.read += 1
            options.changes.clear()
            try:
                if isinstance(row.value, RowError):
                    raise row.value
                example = convert_row(row.value, located.name, row_format, options)
                kind = row_format or recognise_format(row.value)  # type: ignore[arg-type]
                if fault := json_fault(example):
                    raise fault
                _check_answer(example, only_correct, report)
            except RowError as error:
                if strict:
                    wanted = f". Wanted: {WANTED_FIELDS}" if str(error).startswith(UNKNOWN_FIELDS) else ""
                    raise UserError(f"{row.place}: {error}{wanted}") from error
                report.skipped.setdefault(str(error), []).append(row.place)
            else:
                report.changes += options.changes
                take(example, kind)
    if not report.kept:
        hint = f"\nrows are read from {READ}" if set(report.skipped) == {"not JSON"} else ""
        raise UserError(f"nothing could be kept\n{report}{hint}")
    return examples, report


def _listed(source: Source | Sequence[Source]) -> list[Source]:
    return [source] if isinstance(source, str | os.PathLike) else list(source)


def _builtin_examples(
    origin: str, count: int, seed: int, split: str, system_prompt: str | None, mistake: str | None
) -> Iterator[Example]:
    kind = origin.rpartition(":")[2]
    if mistake is not None and kind != "builtin":
        raise UserError(f"mistakes are planted in stories (builtin), not in {origin}")
    # Imported here, as reading the words of the stories takes a moment.
    if kind == "programs":
        from stepjepa.data.programs import draw_programs

        problems = draw_programs(count, seed, split)
    elif kind == "logic":
        from stepjepa.data.logic import draw_logic

        problems = draw_logic(count, seed, split)
    else:
        from stepjepa.data.stories import draw_stories

        problems = draw_stories(count, seed, split, "easy" if kind == "easy" else "default")
    if mistake is not None:
        from stepjepa.data.mistakes import plant_mistakes

        problems = iter(plant_mistakes(list(problems), mistake, seed))
    for problem in problems:
        question, steps, answer = (problem.pop(name) for name in ("question", "steps", "answer"))
        yield make_example(question, steps, answer, kind, system_prompt, **problem)


def _check_answer(example: Example, only_correct: bool, report: Report) -> None:
    """Count (and with ``only_correct`` refuse) a solution whose boxed answer is not the reference.

    Where mathematics has to say, which is not asked here, a solution is kept.
    """
    boxed = last_boxed(example["messages"][-1]["content"])
    if example["answer"] in (None, boxed):  # none, or that of the solution itself
        return
    open_pairs: list[tuple[str, str]] = []

    def mathematics(expected: str, predicted: str) -> bool:
        open_pairs.append((expected, predicted))
        return False

    if boxed is None:
        report.unboxed += 1
        if only_correct:
            raise RowError(r"the solution has no \boxed{} answer (only_correct)")
    elif same_answer(boxed, example["answer"], mathematics):
        return
    elif open_pairs:  # `\frac{\sqrt2}{2}` and `\sqrt{2}/2`
        report.undecided += 1
    else:
        report.wrong += 1
        if only_correct:
            raise RowError("the solution's answer is not the reference (only_correct)")


def prepare(source: Source | Sequence[Source], output_file: str | os.PathLike[str], **options: Any) -> Report:
    """Read ``source`` (see :func:`read_examples`, whose options it takes) and write ``output_file``.

    Raises:
        UserError: as :func:`read_examples`, or if the output is a source; nothing is written then.
    """
    for origin in _listed(source):
        if is_part_of(output_file, origin):
            raise UserError(f"the output file '{output_file}' is a source; write to another file")
    examples, report = read_examples(source, **options)
    write_jsonl(examples, output_file)
    return report
