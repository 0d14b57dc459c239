"""Teacher data: questions with answers → sampled solutions of a model, of which the right ones are written.

The teacher is a model loaded here or one behind an OpenAI-compatible server. Every sample goes into a file beside the
output when it comes (`journal.py`) and stays there: a run that was stopped asks only for what it lacks, and so does one
that asks for more samples a question; another choice among the samples asks for nothing. The output and its account
follow from that file and the options.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from stepjepa.data.examples import question_key
from stepjepa.data.origins import would_be_part_of
from stepjepa.environment import environment
from stepjepa.evaluation.generation import Sampling
from stepjepa.evaluation.journal import Partial, differences, digest, read_partial
from stepjepa.evaluation.options import SynthesizeOptions
from stepjepa.evaluation.questions import QuestionSet, read_questions, shown_path
from stepjepa.evaluation.results import not_counted, question_ids, summary_path
from stepjepa.evaluation.solutions import solutions_of
from stepjepa.evaluation.teachers import LocalTeacher, RemoteTeacher
from stepjepa.records import UserError, file_digest, one_writer, text_table, write_json, write_jsonl


def samples_path(path: str | os.PathLike[str]) -> Path:
    """`teacher.jsonl` → `teacher.samples.jsonl`, all samples that the teacher has given."""
    return Path(path).with_suffix(".samples.jsonl")


def synthesize(options: SynthesizeOptions, say: Callable[[str], object] = lambda _line: None) -> dict[str, Any]:
    """Sample, keep what is right, and write it with its account, which is returned.

    Raises:
        UserError: options, questions, model or server cannot be used, nothing was right, or other files lie there.
    """
    output = Path(options.output_file)
    if output.suffix != ".jsonl":
        raise UserError(f"--output_file {output}: rows are written as .jsonl, as in {output}.jsonl")
    written = (output, samples_path(output), summary_path(output))
    for source in options.source:
        if any(would_be_part_of(path, source) for path in written):
            raise UserError(
                f"--output_file {output} would overwrite the source {source}, or be read with it when sampling goes on"
            )
    with one_writer(*written):
        return _synthesize(options, output, say)


def _synthesize(options: SynthesizeOptions, output: Path, say: Callable[[str], object]) -> dict[str, Any]:
    data = read_questions(
        options.source,
        split=options.split,
        hub_config=options.hub_config,
        problems=options.problems,
        problem_seed=options.problem_seed,
    )
    _without_earlier_turns(data)
    _without_repeats(data)
    began_with = environment()
    sampling = Sampling(options.max_new_tokens, options.samples, options.temperature, options.top_p, options.seed)
    teacher = (
        LocalTeacher(options, data, sampling) if options.base_url is None else RemoteTeacher(options, data, sampling)
    )
    identity = {"questions": digest(question_ids(data.questions)), **teacher.identity}
    identity |= {name: getattr(sampling, name) for name in ("max_new_tokens", "temperature", "top_p", "seed")}
    journal = _earlier(output, options.overwrite, identity)

    count = len(data.questions) * options.samples
    samples = {(row["index"], row["sample"]): row for row in journal.rows}
    wanted = [
        (index, sample)
        for sample in range(options.samples)  # a first one of every question, then a second one
        for index in range(len(data.questions))
        if (index, sample) not in samples
    ]
    say(f"{len(data.questions):,} questions, {options.samples:,} samples each; teacher: {options.model_name}")
    if len(wanted) < count:
        say(f"going on: {count - len(wanted):,} of {count:,} samples are there already")
    refused: Counter[str] = Counter()
    if wanted:
        with tqdm(total=count, initial=count - len(wanted), desc="sampling", unit="sample") as bar:
            began = time.perf_counter()

            def take(rows: list[dict[str, Any]]) -> None:
                nonlocal began
                now = time.perf_counter()
                journal.append(rows, now - began)
                began = now
                samples.update({(row["index"], row["sample"]): row for row in rows})
                bar.update(len(rows))

            refused = teacher.sample(wanted, take)
    # What an earlier run asked for beyond this one's samples stays in the file and is not looked at.
    looked_at = [row for row in samples.values() if row["sample"] < options.samples]
    rows, figures = solutions_of(
        data.questions,
        question_ids(data.questions),
        looked_at,
        options.choose,
        options.keep,
        {"teacher": teacher.identity["model"]},
    )
    left_out = ("model_name", "output_file", "overwrite")
    configuration = {name: value for name, value in asdict(options).items() if name not in left_out}
    summary = {
        **figures,
        "not_answered": dict(refused.most_common()),
        "configuration": configuration | {"source": [shown_path(source) for source in options.source]},
        "sources": data.files,
        "unreadable": data.unreadable,
        "model": teacher.description(looked_at),
        "system_prompt": teacher.system,
        "environment": began_with,
        "identity": identity,
        "seconds": round(journal.seconds, 3),
    }
    if not rows:
        earlier = f"; {output} is still that of an earlier run" if output.exists() else ""
        raise UserError(f"none of the solutions is right, and nothing was written{earlier}\n{table(summary)}")
    write_jsonl(rows, output)
    write_json({**summary, "output_sha256": file_digest(output)}, summary_path(output))
    return summary


def _without_earlier_turns(data: QuestionSet) -> None:
    """A teacher row has one question; what belongs to a conversation of several turns is listed and left out."""
    several = [sum(turn["role"] == "user" for turn in question["messages"]) > 1 for question in data.questions]
    for question, is_several in zip(data.questions, several, strict=True):
        if is_several:
            place = shown_path(question["place"])
            data.unreadable.append({"place": place, "reason": "a question of several turns"})
    data.questions = [one for one, is_several in zip(data.questions, several, strict=True) if not is_several]
    if not data.questions:
        raise UserError("no question of one turn in the source")


def _without_repeats(data: QuestionSet) -> None:
    """A question that stands in several rows, as in files with several solutions of each, is asked once."""
    first: dict[str, str] = {}
    kept = []
    for question in data.questions:
        place = shown_path(question["place"])
        if (before := first.setdefault(question_key(question), place)) == place:
            kept.append(question)
        else:
            data.unreadable.append({"place": place, "reason": f"the question of {before} again"})
    data.questions = kept


def _earlier(output: Path, overwrite: bool, identity: Mapping[str, Any]) -> Partial:
    """The samples of an earlier run of the same teacher and questions, or none.

    Raises:
        UserError: something else lies there, and is not to be overwritten.
    """
    path = samples_path(output)
    try:
        journal = read_partial(path)
    except UserError:
        if not overwrite:
            raise
        journal = None
    differing = differences(journal.identity, identity) if journal is not None else ""
    way_out = "; give another --output_file, or --overwrite to begin anew"
    if journal is None and output.exists() and not overwrite:
        raise UserError(f"{output} is there already, without the samples it was made of{way_out}")
    if differing and not overwrite:
        raise UserError(f"{path} holds the samples of another run; different: {differing}{way_out}")
    return Partial(path, identity) if journal is None or differing else journal


# -------- what the command ends with --------


def table(summary: Mapping[str, Any]) -> str:
    """The account of a run as lines of text."""
    answered = summary["samples"]

    def line(name: str, count: int) -> list[str]:
        return [name, f"{count:,}", f"{count / answered:.1%}" if answered else "–"]

    rows = [["samples", f"{answered:,}", ""], line("written", summary["solutions"])]
    rows += [line(f"  {reason}", count) for reason, count in summary["dropped"].items()]
    lines = text_table(rows)
    lines.append(f"questions with a right solution: {summary['questions_solved']:,} of {summary['questions']:,}")
    if summary["distinct"] <= summary["questions"] < answered:
        lines.append(
            "NOTE: all samples of a question are the same text: the teacher does not sample; see --temperature,"
        )
        lines.append("      and for a server that wants to be told in other words --request")
    lines += not_counted(summary["unreadable"])
    if missing := summary["not_answered"]:
        lines.append(f"NOT ANSWERED: {sum(missing.values()):,} samples; the same command asks for them again")
        lines += [f"  {count:,}: {reason}" for reason, count in list(missing.items())[:5]]
    return "\n".join(lines)
