"""The checks of `stepjepa verify` that look at packages, files and tokens; the model's weights play no part.

Step boundaries are checked against the characters of the training text, not against the code that found them.
"""

from __future__ import annotations

import platform
import shlex
import statistics
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from itertools import islice
from typing import Any, NamedTuple, get_args

import torch
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from stepjepa.data.encoding import Encoded, Prompt, chat_encoder, prompt_of
from stepjepa.data.examples import make_example
from stepjepa.data.mixtures import split_weights
from stepjepa.data.sources import Report, read_examples
from stepjepa.data.steps import Splitter, split_steps
from stepjepa.data.tokens import encode_examples, tokenize_dataset
from stepjepa.evaluation.generation import end_ids
from stepjepa.experiments.checks import Outcome, Subject, plural, shortest
from stepjepa.jepa.architectures import max_positions
from stepjepa.jepa.layout import IGNORE
from stepjepa.jepa.pairs import step_spans

MOST_EXAMPLES = 10_000
"""Of larger data sets this many examples, evenly spaced, are tokenized."""
LABEL_SAMPLE = 500
"""Labels are compared with the template's text on this many examples, evenly spaced."""
SHOWN = ("torch", "transformers", "peft")


# ---- environment ---------------------------------------------------------------------------------------------


def check_environment(subject: Subject) -> Outcome:
    """Python and every package that stepjepa needs are of a version that it allows."""
    try:
        python, needed = metadata("stepjepa")["Requires-Python"] or "", requires("stepjepa") or []
    except PackageNotFoundError:
        return Outcome(False, "the package stepjepa is not installed", "Install it with pip, e.g. `pip install -e .`")
    wrong = []
    if not SpecifierSet(python).contains(platform.python_version(), prereleases=True):
        wrong.append(f"Python {platform.python_version()} (needs {python})")
    found: dict[str, str] = {}
    for requirement in map(Requirement, needed):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found[requirement.name] = version(requirement.name)
        except PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing (needs {requirement.specifier})")
            continue
        if not requirement.specifier.contains(found[requirement.name], prereleases=True):
            wrong.append(f"{requirement.name} {found[requirement.name]} (needs {requirement.specifier})")
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    shown = ", ".join(f"{name} {found[name]}" for name in SHOWN if name in found)
    figures = f"Python {platform.python_version()}, {shown}; {cuda}, {plural(torch.get_num_threads(), 'CPU thread')}"
    values = {"python": platform.python_version(), **found}
    if wrong:
        advice = "Install the versions that stepjepa needs: pip install --upgrade stepjepa"
        return Outcome(False, f"not supported: {'; '.join(wrong)}", advice, values)
    return Outcome(True, figures, values=values)


# ---- data format ---------------------------------------------------------------------------------------------


def check_data_format(subject: Subject) -> Outcome:
    """The files are read, most rows can be kept, and steps join to the assistant's message."""
    options = subject.options
    examples, report = read_examples(_sources(options.train_file), count=options.problems, splitter=options.splitter)
    joined = sum("\n\n".join(example["steps"]) == example["messages"][-1]["content"] for example in examples)
    skipped = sum(map(len, report.skipped.values()))
    values = {"read": report.read, "kept": report.kept, "skipped": skipped, "joined": joined}
    subject.examples, subject.prepared = _evenly(examples, MOST_EXAMPLES), "prepared" in report.formats
    figures = f"{report.read:,} read, {report.kept:,} kept, {skipped:,} skipped{_skipped(report)}"
    if joined < len(examples):
        advice = "Write the file anew with `stepjepa prepare`."
        return Outcome(False, f"{figures}; steps join to the answer in {joined:,}", advice, values)
    figures += "; the steps join to the answer in all"
    advice = "More rows were skipped than kept: mend the lines named, or convert the file with `stepjepa prepare`."
    return Outcome(skipped <= report.kept, figures, advice, values)


def _skipped(report: Report, places: int = 3) -> str:
    """` (not JSON: 2, a.jsonl:7, a.jsonl:9)`: reasons, how many, and the first places."""
    if not report.skipped:
        return ""
    reasons = sorted(report.skipped.items(), key=lambda item: -len(item[1]))
    named = [f"{reason}: {len(found):,}, {', '.join(found[:places])}" for reason, found in reasons[:3]]
    more = f"; {len(reasons) - 3} more reasons" if len(reasons) > 3 else ""
    return f" ({'; '.join(named)}{more})"


def _evenly(items: list[Any], count: int) -> list[Any]:
    """At most `count` of the items, evenly spaced."""
    return items if len(items) <= count else [items[i * len(items) // count] for i in range(count)]


# ---- boundaries ----------------------------------------------------------------------------------------------


class _Aligned(NamedTuple):
    """One example's messages and steps with its row, and the text and tokens that the row was cut from."""

    messages: Sequence[Mapping[str, Any]]
    steps: list[str]
    row: dict[str, Any]
    encoded: Encoded

    @property
    def cut(self) -> bool:
        return len(self.row["input_ids"]) < len(self.encoded.ids)


def _aligned(subject: Subject, pairs: Iterable[tuple[dict[str, Any], dict[str, Any]]]) -> Iterator[_Aligned]:
    """Examples and their rows, with the text rendered and tokenized once more."""
    stream = iter(pairs)
    while batch := list(islice(stream, 500)):
        encoded = encode_examples([example for example, _ in batch], subject.tokenizer)
        for (example, row), (steps, each) in zip(batch, encoded, strict=True):
            yield _Aligned(example["messages"], steps, row, each)


def check_boundaries(subject: Subject) -> Outcome:
    """The characters of each step's tokens, stripped, are the step; and there are view pairs to train on."""
    subject.require("data", "model")
    given = len(subject.examples)
    rows, report = tokenize_dataset(
        subject.examples, subject.tokenizer, replace(subject.layout, max_length=subject.limit())
    )
    too_long = set(report.skipped_indices)
    subject.examples = [example for i, example in enumerate(subject.examples) if i not in too_long]
    subject.rows = rows

    steps = exact = 0
    first_wrong = ""
    for item in _aligned(subject, zip(subject.examples, rows, strict=True)):
        spans = step_spans(item.row["step_ids"])
        wanted = item.steps[: len(spans)] if item.cut else item.steps
        text, offsets = item.encoded.rendering.text, item.encoded.offsets
        covered = {span.step: text[offsets[span.start][0] : offsets[span.end - 1][1]].strip() for span in spans}
        for number, step in enumerate(wanted):
            steps += 1
            exact += covered.get(number) == step.strip()
            if exact < steps and not first_wrong:
                first_wrong = f"; first: {step[:40]!r} got {str(covered.get(number))[:40]!r}"
    with_pair = [row for row in rows if subject.has_pair(row)]
    subject.chosen, paired = shortest(with_pair, subject.options.examples), len(with_pair)
    values = {
        "examples": given,
        "steps": steps,
        "exact": exact,
        "with_pair": paired,
        "cut": report.cut,
        "too_long": report.skipped,
    }
    share = f"{exact / steps:.2%}" if exact < steps else "100%"
    figures = (
        f"{plural(steps, 'step')} of {plural(given, 'example')}, {share} exact{first_wrong}; with a view pair: "
        f"{paired:,}, cut: {report.cut:,}, too long: {report.skipped:,}"
    )
    if not paired:
        return Outcome(False, f"no step boundary to train on: {figures}", _pair_advice(subject, values), values)
    advice = "Report this tokenizer: the step boundaries it gives cannot be relied on."
    return Outcome(exact == steps, figures, advice, values)


def _pair_advice(subject: Subject, values: dict[str, int]) -> str:
    """Why no example has a view pair, and what would give it one."""
    layout = subject.layout
    if values["too_long"] or values["cut"]:
        return f"Examples lose their steps to the length limit of {subject.limit()} tokens: raise --max_length."
    most = max(len(example["steps"]) for example in subject.examples)
    if layout.pairs == "horizon" and most > 1:
        return f"The longest solution has {plural(most, 'step')}: take a smaller --horizon than {layout.horizon}."
    solutions = [example["messages"][-1]["content"] for example in _evenly(subject.examples, 200)]
    best, share = best_splitter(solutions)
    apart = ""
    if best is None:  # short steps were taken for fragments, and joined
        best, share = best_splitter(solutions, min_chars=0)
        apart = " --min_chars 0"
    if best is None:
        return (
            "Every solution is a single step, and no splitter finds more in them. Separate the steps by blank "
            "lines, or use --pairs question_answer."
        )
    sources = _sources(subject.options.train_file)
    again = " --format chat" if subject.prepared else ""  # read as chat, a prepared file is split anew
    command = f"stepjepa prepare --source {shlex.join(map(str, sources))}{again} --splitter {best}{apart}"
    return (
        f"Every solution is a single step. The splitter {best!r} finds two or more in {share:.0%} of them"
        f"{' where short ones stay apart' if apart else ''}:\n"
        f"{command} --output_file prepared.jsonl"
    )


def _sources(files: str | Sequence[str]) -> list[str]:
    """The training data without the weights of a mixture: all of its rows are looked at."""
    return split_weights([files] if isinstance(files, str) else files)[0]


def best_splitter(solutions: list[str], min_chars: int = 20) -> tuple[Splitter | None, float]:
    """The splitter that gives the largest share of solutions two or more steps, and that share."""
    shares = {
        name: sum(len(split_steps(text, name, min_chars=min_chars)) > 1 for text in solutions) / len(solutions)
        for name in get_args(Splitter)
        if name != "auto"
    }
    best = max(shares, key=lambda name: shares[name])
    return (best, shares[best]) if shares[best] else (None, 0.0)


# ---- labels --------------------------------------------------------------------------------------------------


def check_labels(subject: Subject) -> Outcome:
    """No prompt token is labelled, the end of turn is and ends generation, and prompts agree with training."""
    subject.require("model", "rows")
    tokenizer = subject.tokenizer
    ends = end_ids(subject.model, tokenizer)
    sample = _evenly(list(zip(subject.examples, subject.rows, strict=True)), LABEL_SAMPLE)
    wrong: dict[str, int] = {}
    whole = 0
    for item in _aligned(subject, sample):
        prompt = prompt_of(item.messages, tokenizer)
        whole += not item.cut
        for what, is_wrong in _label_faults(item, prompt, ends).items():
            wrong[what] = wrong.get(what, 0) + is_wrong
    faults = [f"{what} in {count:,}" for what, count in wrong.items() if count]
    pad, eos = tokenizer.pad_token_id, tokenizer.eos_token_id
    if pad is None or pad in ends:
        faults.insert(0, f"the pad token {tokenizer.pad_token!r} is {'missing' if pad is None else 'an end of turn'}")
    values = {"examples": len(sample), "whole": whole, "pad": pad, "eos": eos, **wrong}
    seen = f"{plural(len(sample), 'example')}, {whole:,} of them whole"
    if faults:
        return Outcome(False, f"{seen}: {'; '.join(faults)}", _label_advice(faults), values)
    return Outcome(
        True,
        f"{seen}: end of turn {tokenizer.convert_ids_to_tokens(sorted(ends))} labelled, pad {tokenizer.pad_token!r}, "
        "no label on a prompt; every row starts with the tokens of its prompt",
        values=values,
    )


def _label_faults(item: _Aligned, prompt: Prompt, ends: Collection[int]) -> dict[str, bool]:
    """What can be wrong with the labels of an example, and whether it is."""
    rendering, labels, offsets = item.encoded.rendering, item.row["labels"], item.encoded.offsets
    labelled = [i for i, label in enumerate(labels) if label != IGNORE]
    ending = [
        i
        for i, (start, end) in enumerate(offsets)
        if start < rendering.turn_end and end > rendering.end and end > start
    ]
    return {
        "a label on the prompt": any(
            offsets[i][0] < rendering.prompt_end and offsets[i][1] <= rendering.prompt_end for i in labelled
        ),
        "a label that is not its token": any(labels[i] != item.encoded.ids[i] for i in labelled),
        "an end of turn without a label": not item.cut and (not ending or any(labels[i] == IGNORE for i in ending)),
        "an end of turn that does not end generation": not item.cut
        and (not ending or item.encoded.ids[ending[-1]] not in ends),
        "a row that does not start with its prompt": item.row["input_ids"][: len(prompt.ids)] != prompt.ids
        or not rendering.text.startswith(prompt.text),
    }


def _label_advice(faults: list[str]) -> str:
    text = " ".join(faults)
    if "pad token" in text:
        return "Load the tokenizer with stepjepa.load_model: with pad = eos the model never learns to stop."
    if "does not end generation" in text:
        return (
            "The template ends a turn with another token than generation stops at: set tokenizer.eos_token (or "
            "eos_token_id in generation_config.json) to the token that ends a turn, or the model will not stop."
        )
    return "The chat template and the tokenizer's offsets do not agree; try another tokenizer or template."


# ---- text ----------------------------------------------------------------------------------------------------


def check_text(subject: Subject) -> Outcome:
    """Strings of control tokens in every message and step stay text; only the template writes control tokens."""
    subject.require("model")
    tokenizer, renderer = subject.tokenizer, chat_encoder(subject.tokenizer).renderer
    strings = list(renderer.control.ids)
    parts = [
        *(f"Text {each} and{each}text." for each in strings),
        f"{''.join(strings)}{renderer.end_of_turn}user text.",
    ]
    examples = [make_example("\n".join(part), part, None, "", "\n".join(part)) for part in (parts, ["Text."] * 2)]
    (steps, forged), (_, plain) = encode_examples(examples, tokenizer)
    (row, _), _ = tokenize_dataset(examples, tokenizer)
    text, offsets, prompt = forged.rendering.text, forged.offsets, prompt_of(examples[0], tokenizer).ids
    covered = [text[offsets[start][0] : offsets[end - 1][1]].strip() for _, start, end in step_spans(row["step_ids"])]
    found, written = (renderer.control.among(encoded.ids) for encoded in (forged, plain))
    faults = {
        f"text became a control token, one of {tokenizer.convert_ids_to_tokens(sorted({*found}))}": found != written,
        "the tokens of the steps are not their text": covered != steps,
        "the row does not start with its prompt": row["input_ids"][: len(prompt)] != prompt,
    }
    wrong = [fault for fault, is_wrong in faults.items() if is_wrong]
    figures = f"{plural(len(strings), 'control token')} as text in question, system message and {len(steps)} steps: "
    advice = "Report this tokenizer: text in your data could end a turn or forge one."
    return Outcome(not wrong, figures + ("; ".join(wrong) or "all stay text"), advice, {"strings": len(strings)})


# ---- resources -----------------------------------------------------------------------------------------------


def check_resources(subject: Subject) -> Outcome:
    """Tokens of an example, what the branches add, and the largest position against the model's limit."""
    subject.require("model", "rows")
    layout = subject.layout
    lengths = [len(row["input_ids"]) for row in subject.rows]
    extra = 0
    for row in subject.rows:
        for pair in layout.view_pairs(row["step_ids"]):
            copy = pair.target_end - pair.target_start if layout.isolation != "none" else 0
            extra += layout.predictors + copy
    near = [row for row in subject.rows if len(row["input_ids"]) >= max(lengths) - layout.predictors]
    largest = int(subject.collator()(near[:64])["position_ids"].max())
    most = max_positions(subject.model)
    values = {
        "median": statistics.median(lengths),
        "max": max(lengths),
        "branch_share": extra / sum(lengths),
        "largest_position": largest,
        "positions": most,
    }
    figures = (
        f"tokens of an example: median {values['median']:.0f}, max {max(lengths):,}; branches add "
        f"{extra / sum(lengths):.0%}; largest position {largest:,} of "
        + (f"{most:,}" if most else "a model that names no limit")
    )
    advice = f"Positions go up to {(most or 0) - 1:,}: take --max_length {(most or 0) - layout.predictors} or less."
    return Outcome(most is None or largest < most, figures, advice, values)
