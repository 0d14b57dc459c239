"""The examples of a run: those that train, those that evaluate its losses, and the problems it answers.

Data that come without a file to evaluate on keep a part of their own back. Which part follows from the questions and
`problem_seed` alone, so that arms, seeds and resumed runs are measured on the same rows, in whatever order the file
has them; what is asked twice stays on one side.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stepjepa.data.examples import Example, question_key
from stepjepa.data.mixtures import Part, described, mix, split_weights, table
from stepjepa.data.origins import is_builtin
from stepjepa.data.sources import read_examples
from stepjepa.records import UserError
from stepjepa.training.disk import DiskExamples, examples_on_disk
from stepjepa.training.options import RunOptions

TEST_SEED = 1  # the test problems of seed 0 were looked at when the built-in learning rate was chosen
SHARE = 10  # one question in so many is held out
LEAST = 5  # of fewer questions a loss or an accuracy says nothing


@dataclass
class HeldOut:
    """How much of the training data was kept for evaluation."""

    questions: int
    rows: int
    of_questions: int
    of_rows: int


@dataclass
class RunData:
    """What a run reads."""

    train: Sequence[Example]
    evaluation: list[Example] = field(default_factory=list)
    problems: list[Example] = field(default_factory=list)
    """To answer before and after; of the evaluation data, or built-in ones of another split."""
    held_out: HeldOut | None = None
    """None where nothing of the training data was kept back."""
    mixture: list[Part] = field(default_factory=list)
    """What each source gives to the training rows; empty where they are taken as they are."""

    def description(self) -> dict[str, Any]:
        """For a record."""
        kept = {"held_out": asdict(self.held_out) if self.held_out else None}
        return kept | ({"mixture": described(self.mixture)} if self.mixture else {})


def read_data(options: RunOptions, say: Callable[[str], None]) -> RunData:
    """Read what a run trains and evaluates on; see `RunOptions`.

    Args:
        say: called with what was read and what was held out.

    Raises:
        UserError: a source that cannot be read.
    """
    if options.cache_dir is not None:
        data = RunData(_read_to_disk(options, Path(options.cache_dir), say))
        _read_evaluation(data, options, say)
        return data
    groups = read_training(options, say)
    data = RunData([example for group in groups for example in group])
    _read_evaluation(data, options, say)
    data.train, data.mixture = mixed(groups, list(data.train), options)
    if data.mixture:
        say(table(data.mixture))
    return data


def _read_to_disk(options: RunOptions, folder: Path, say: Callable[[str], None]) -> DiskExamples:
    if is_mixed(options):
        raise UserError("--cache_dir keeps the training data as they are: leave out weights, and other mixing")
    if not options.eval_file and not drawn_kinds(options):
        raise UserError("--cache_dir holds nothing of the training data out: name an --eval_file, or none")
    reading = {"count": options.problems, "seed": options.problem_seed, "splitter": options.splitter}
    examples, said = examples_on_disk(options.train_file, folder, options.cache_processes, **reading)
    say(said)
    return examples


def read_training(options: RunOptions, say: Callable[[str], None]) -> list[list[Example]]:
    """The training examples: of each source if they are mixed, else of all together.

    Raises:
        UserError: a source that cannot be read, or weights that say nothing.
    """
    sources, weights = split_weights(options.train_file)
    if options.mixing_temperature is not None and (weights is not None or options.mixing_temperature <= 0):
        raise UserError("--mixing_temperature has to be above 0, and takes the place of weights")
    groups = []
    for source in [[one] for one in sources] if is_mixed(options) else [sources]:
        examples, report = read_examples(
            source, count=options.problems, seed=options.problem_seed, splitter=options.splitter
        )
        say(str(report))
        groups.append(examples)
    return groups


def drawn_kinds(options: RunOptions) -> list[str]:
    """The kinds of built-in problems that a run trains on, which have splits of their own; none if it reads anything.

    >>> drawn_kinds(RunOptions(train_file=["builtin:logic:2", "builtin:1"]))
    ['builtin:logic', 'builtin']
    """
    sources, _ = split_weights(options.train_file)
    return sources if all(map(is_builtin, sources)) else []


def is_mixed(options: RunOptions) -> bool:
    """Whether training rows are drawn from the sources and not just all of theirs."""
    asked = options.mixing_temperature, options.mixed_rows, split_weights(options.train_file)[1]
    return any(one is not None for one in asked)


def mixed(groups: list[list[Example]], kept: list[Example], options: RunOptions) -> tuple[list[Example], list[Part]]:
    """The rows to train on, and what each source gives to a mixture of them; nothing if there is none.

    Args:
        groups: of `read_training`.
        kept: those of the examples that are to be drawn from.
    """
    if not is_mixed(options):
        return kept, []
    sources, weights = split_weights(options.train_file)
    mine = {id(example) for example in kept}
    left = [[example for example in group if id(example) in mine] for group in groups]
    return mix(sources, left, weights, options.mixing_temperature, options.mixed_rows, options.problem_seed)


def _read_evaluation(data: RunData, options: RunOptions, say: Callable[[str], None]) -> None:
    """Read what a run evaluates on, or keep some of its training data for that."""
    train = data.train
    if options.eval_file == ["none"]:
        return
    if options.eval_file:
        data.evaluation, report = read_examples(
            options.eval_file, count=options.eval_problems, split="test", seed=TEST_SEED, splitter=options.splitter
        )
        say(str(report))
        known = {hash(question_key(example)) for example in train}  # a set of the texts would not stay small
        if both := sum(hash(question_key(example)) in known for example in data.evaluation):
            say(f"{both:,} of {len(data.evaluation):,} evaluation examples ask what training examples ask")
    elif kinds := drawn_kinds(options):
        if options.eval_problems:
            data.evaluation, _ = read_examples(kinds, split="validation", count=options.eval_problems)
        if options.accuracy_problems:
            data.problems, _ = read_examples(kinds, split="test", count=options.accuracy_problems, seed=TEST_SEED)
        return
    else:
        _hold_out(data, options, say)
    # several solutions of a question are one problem
    answered = {question_key(example): example for example in data.evaluation if example.get("answer")}
    data.problems = one_in_turn(list(answered.values()))[: options.accuracy_problems]


def one_in_turn(examples: list[Example]) -> list[Example]:
    """A first one of every source, then a second one of each, so that the first few are of all."""
    seen: Counter[str] = Counter()
    places = []
    for example in examples:
        seen[example["source"]] += 1
        places.append(seen[example["source"]])
    return [examples[number] for number in sorted(range(len(examples)), key=places.__getitem__)]


def _hold_out(data: RunData, options: RunOptions, say: Callable[[str], None]) -> None:
    asked = len({question_key(example) for example in data.train})
    rows = len(data.train)
    data.train, data.evaluation = hold_out(data.train, options.eval_problems, options.problem_seed)
    if data.evaluation:
        held = len({question_key(example) for example in data.evaluation})
        data.held_out = HeldOut(held, len(data.evaluation), asked, rows)
        say(
            f"held out for evaluation: {held:,} of {asked:,} questions ({len(data.evaluation):,} of {rows:,} rows). "
            "--eval_file FILE evaluates on other data and trains on all of these, --eval_file none just trains on all"
        )
    elif options.eval_problems:
        say(
            f"no evaluation data: to hold some out takes {SHARE * LEAST} questions, and there are {asked:,}, so "
            "whatever is reported is of the training data; --eval_file FILE gives others"
        )


def hold_out(examples: Sequence[Example], most: int, seed: int) -> tuple[list[Example], list[Example]]:
    """Examples to train on, and all those of a tenth of the questions, `most` at most; both in their order.

    Drawn are the questions with the smallest digests of seed and question. None is if a tenth is less than `LEAST`.

    >>> train, held = hold_out([{"question": f"{n} + 1?"} for n in range(60)], most=200, seed=0)
    >>> len(train), len(held)
    (54, 6)
    """
    keys = [question_key(example) for example in examples]
    order = sorted(set(keys), key=lambda key: hashlib.sha256(f"{seed} {key}".encode()).digest())
    count = min(len(order) // SHARE, most)
    held = set(order[:count]) if len(order) // SHARE >= LEAST else set()
    return (
        [example for example, key in zip(examples, keys, strict=True) if key not in held],
        [example for example, key in zip(examples, keys, strict=True) if key in held],
    )
