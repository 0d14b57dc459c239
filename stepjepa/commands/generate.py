"""`stepjepa generate`: a model answers questions step by step, with the energy and the surprisal of each step."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from stepjepa.commands.options import Parser, parse
from stepjepa.commands.output import say
from stepjepa.data.steps import Splitter
from stepjepa.evaluation.options import MAX_NEW_TOKENS
from stepjepa.models.options import LoadedModel
from stepjepa.records import UserError, on_disk, option

if TYPE_CHECKING:
    from stepjepa.analysis.solving import Solution, SolvedStep


@dataclass(kw_only=True)
class GenerateOptions(LoadedModel):
    """Which questions are answered, and how."""

    question: list[str] = option([], "what is asked; without one, standard input is read", positional=True)
    question_file: str | None = option(
        None, ".txt or .md: questions with blank lines between them; else rows as evaluate reads them", metavar="FILE"
    )
    max_new_tokens: int = option(MAX_NEW_TOKENS, "where an answer is cut off", least=1, group="answers")
    temperature: float = option(0.0, "0 is greedy", group="answers")
    top_p: float = option(1.0, "sample from the most likely tokens with this share only", group="answers")
    seed: int = option(0, "of the sampling", group="answers")
    system_prompt: str = option(
        "train", "the system message: that of the model's training, or none", choices=("train", "none"), group="answers"
    )
    splitter: Splitter = option("paragraph", "what a step is", choices=get_args(Splitter), group="answers")

    def __post_init__(self) -> None:
        if self.question and self.question_file:
            raise ValueError("a question and --question_file: give one of them")


def main(argv: Sequence[str] | None = None) -> int:
    """`stepjepa generate`; returns the exit status."""
    parser = Parser(
        "generate",
        "Answer questions step by step, as the model says them. Behind each step stand its energy (how far it lies "
        "from what the model expected; where a JEPA term was trained) and its surprisal (nats a token). Without a "
        "question and without --question_file, questions are read from standard input.",
    )
    options: GenerateOptions = parse(parser, argv, GenerateOptions)
    asked = given(options)
    from transformers.utils import logging

    from stepjepa.analysis.solving import Solver
    from stepjepa.evaluation.generation import Sampling

    logging.disable_progress_bar()
    sampling = Sampling(options.max_new_tokens, 1, options.temperature, options.top_p, options.seed)
    solver = Solver(
        options.model_name,
        system=options.system_prompt,
        splitter=options.splitter,
        device=options.device,
        dtype=options.dtype,
        revision=options.revision,
        trust_remote_code=options.trust_remote_code,
    )
    energy = f"energy: {solver.distance}" if solver.predicts else "no energy: no JEPA term was trained"
    say(f"{solver.name}; system prompt: {solver.origin}; {energy}", sys.stderr)
    for number, question in enumerate(asked):
        say("\n" * (number > 0) + f"question: {question}\n")
        told = Told()
        say(told.end(solver(question, sampling, told.text, told.step)))
    return 0


class Told:
    """Prints an answer as it grows: each step, then its figures, then the answer."""

    def __init__(self) -> None:
        self.shown = ""

    def text(self, step: str) -> None:
        """What is new of the step under way."""
        if step.startswith(self.shown):
            say(step[len(self.shown) :], end="")
            self.shown = step

    def step(self, step: SolvedStep) -> None:
        """The rest of a step, and its figures."""
        new = step.text[len(self.shown) :] if step.text.startswith(self.shown) else f"\n{step.text}"
        say(f"{new}  {figures(step)}\n")
        self.shown = ""

    def end(self, solution: Solution) -> str:
        """How it ended, in words."""
        answer = "no answer found" if solution.answer is None else f"answer: {solution.answer}"
        return f"{answer} ({solution.tokens} tokens{', CUT OFF' if solution.truncated else ''})"


def figures(step: SolvedStep) -> str:
    """Energy and surprisal in brackets."""
    known: dict[str, Any] = {"energy": step.energy, "surprisal": step.surprisal}
    return "[" + ", ".join(f"{name} {value:.3f}" for name, value in known.items() if value is not None) + "]"


def given(options: GenerateOptions) -> Iterator[str]:
    """The questions of the command line, of the file, or of standard input; a terminal is asked for them."""
    if options.question:
        return iter(options.question)
    if options.question_file is None:
        return typed() if sys.stdin.isatty() else paragraphs(sys.stdin.read, "standard input")
    if options.question_file.endswith((".txt", ".md")):
        return paragraphs(functools.partial(Path(options.question_file).read_text, "utf-8-sig"), options.question_file)
    from stepjepa.evaluation.questions import read_questions
    from stepjepa.evaluation.results import not_counted

    data = read_questions([options.question_file])
    for line in not_counted(data.unreadable):
        say(line, sys.stderr)
    asked = data.questions
    for question in asked:
        if sum(turn["role"] == "user" for turn in question["messages"]) > 1:
            raise UserError(f"{question['place']}: a conversation of several turns; a question is answered by itself")
    return iter([question["question"] for question in asked])


def paragraphs(read: Callable[[], str], where: str) -> Iterator[str]:
    """Questions between blank lines.

    Raises:
        UserError: there is none, or the text cannot be read.
    """
    try:
        with on_disk(where, "read"):
            text = read()
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 at byte {error.start:,}; save it in that encoding") from error
    found = [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]  # "a\n\nb", "a\n \n\nb"
    if not found:
        raise UserError(f"{where}: no question in it")
    return iter(found)


def typed() -> Iterator[str]:
    """A question a line, until the end of the input."""
    while True:
        say("? ", sys.stderr, end="")
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()
