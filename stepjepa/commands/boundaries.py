"""`stepjepa boundaries`: learn where steps begin in solutions without separators, and measure how well it is found."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

from stepjepa.commands.options import Parser, parse
from stepjepa.commands.output import say, say_next
from stepjepa.data.steps import Splitter
from stepjepa.environment import environment
from stepjepa.models.options import LoadedModel
from stepjepa.records import UserError, one_writer, option, text_table, write_json

KNOWN_METHODS = "analysis.cuts.METHODS"


@dataclass(kw_only=True)
class BoundariesOptions(LoadedModel):
    """What is learned from, by which methods, what is kept."""

    source: list[str] = option(
        help="solutions whose steps are known, each source read as prepare reads it; all are trained and tested on",
        aliases=["--train_file"],
        group="data",
    )
    output_file: str | None = option(None, "keep the boundary model, for prepare", metavar="FILE.safetensors")
    record_file: str | None = option(None, "write what was measured", aliases=["--json"], metavar="FILE")
    method: str = option("head", "which one is kept, fitted to all sources", choices=KNOWN_METHODS)
    methods: list[str] | None = option(None, "which ones are measured; all by default", choices=KNOWN_METHODS)
    layer: int = option(-1, "whose hidden states are looked at: 0 (embedding output) to the last, −1", group="model")
    splitter: Splitter | None = option(
        None,
        "how the known steps are found; 'line' for GSM8K rows, 'auto' otherwise, which cuts sentences where there is "
        "no line end",
        choices=get_args(Splitter),
        group="data",
    )
    training_solutions: int = option(200, "of each source, to learn from", least=10, group="data")
    test_solutions: int = option(100, "of each source, of other questions, to measure on", least=2, group="data")
    problems: int = option(2000, "how many built-in problems these are drawn from", least=1, group="data")
    seed: int = option(0, "of what is drawn", least=0, group="data")


def main(argv: Sequence[str] | None = None) -> int:
    """`stepjepa boundaries`; returns the exit status."""
    parser = Parser(
        "boundaries",
        "Where would a solution without separators be cut into steps? Fits every method to solutions whose steps are "
        "known, without their separators, and measures it on others, within each source and from source to source.",
    )
    options: BoundariesOptions = parse(parser, argv, BoundariesOptions)
    from stepjepa.data.origins import check_not_read

    outputs = [file for file in (options.output_file, options.record_file) if file]
    check_not_read(outputs, options.source)
    if not outputs:
        return boundaries(options)
    with one_writer(outputs[0], *map(Path, outputs[1:])):
        return boundaries(options)


def boundaries(options: BoundariesOptions) -> int:
    """Read, fit, measure, write; returns the exit status."""
    from stepjepa.analysis.cuts import save
    from stepjepa.analysis.reader import Reader
    from stepjepa.analysis.segmentation import EVERY, compare, dealt, read_solutions
    from stepjepa.analysis.subject import described
    from stepjepa.data.sources import read_examples
    from stepjepa.evaluation.questions import shown_path
    from stepjepa.models.checkpoint import locate_model
    from stepjepa.models.loading import choose_device, load_model

    began, started = environment(), time.monotonic()
    names = [Path(source).stem if Path(source).exists() else source for source in options.source]
    if len(set(names)) < len(names):
        raise UserError(f"--source: two of {', '.join(names)} have the same name, by which sources are told apart")
    if EVERY in names and len(names) > 1:
        raise UserError(f"--source: {EVERY!r} is what all of them together are called; rename that file")
    methods = measured_methods(options)
    located = locate_model(options.model_name, options.revision)
    model, tokenizer = load_model(
        options.model_name,
        predictors=located.predictors,
        dtype=options.dtype,
        revision=options.revision,
        trust_remote_code=options.trust_remote_code,
    )
    model.to(choose_device(options.device))
    reader = Reader(model, tokenizer, options.layer)
    training: dict[str, Any] = {}
    test: dict[str, Any] = {}
    sources: dict[str, Any] = {}
    examples = {}
    for name, source in zip(names, options.source, strict=True):
        examples[name], _ = read_examples(
            source, count=options.problems, seed=options.seed, splitter=options.splitter, system_prompt=None
        )
    parts = dealt(examples, options.training_solutions, options.test_solutions, options.seed)
    for name, source in zip(names, options.source, strict=True):
        training[name], test[name] = (read_solutions(reader, part) for part in parts[name])
        known = [solution.known for solution in test[name]]
        sources[name] = {
            "source": shown_path(source),
            "training": len(training[name]),
            "test": len(test[name]),
            "boundaries": sum(int(marked.sum()) for marked in known),
            "tokens": sum(map(len, known)),
        }
    results, cutters = compare(training, test, methods=methods, seed=options.seed, progress=say)
    everything = cutters[EVERY if len(names) > 1 else names[0]]
    say("\n".join(shown(results)))
    if options.output_file:
        save(
            everything[options.method],
            options.output_file,
            model_name=options.model_name,
            revision=options.revision,
            dtype=options.dtype,
            layer=options.layer,
        )
        say(f"written: {options.output_file}, cutting by {options.method}")
    if options.record_file:
        record = {
            "sources": sources,
            "results": results,
            "levels": {name: {method: own.level for method, own in of.items()} for name, of in cutters.items()},
            "configuration": {
                name: getattr(options, name)
                for name in ("layer", "splitter", "training_solutions", "test_solutions", "problems", "seed", "dtype")
            },
            "model": {**located.description(), **described(model)},
            "environment": began,
            "wall_seconds": round(time.monotonic() - started, 1),
        }
        write_json(record, options.record_file)
        say(f"written: {options.record_file}")
    if options.output_file:
        say_next("prepare", "--splitter", "learned", "--boundary_model", options.output_file)
    return 0


def measured_methods(options: BoundariesOptions) -> list[str]:
    """Those asked for, and the one that is kept; by default all that are installed.

    Raises:
        UserError: one that was asked for is not installed.
    """
    from stepjepa.analysis.cuts import METHODS

    methods = list(dict.fromkeys([*(options.methods or METHODS), options.method]))
    if "change_points" in methods and find_spec("ruptures") is None:
        need = "need ruptures (pip install 'stepjepa[boundaries]')"
        if options.methods or options.method == "change_points":
            raise UserError(f"change points {need}; leave change_points out of --methods")
        say(f"change points are left out: they {need}")
        methods.remove("change_points")
    return methods


def shown(results: dict[str, Any]) -> list[str]:
    """What was measured as a text table."""
    measures = {
        "precision": "precision",
        "recall": "recall",
        "f1": "F1",
        "near_f1": "F1, ±1 token",
        "p_k": "P_k",
        "window_diff": "WindowDiff",
    }
    rows = [["tested on", "method", "fitted to", *measures.values()]]
    for name, methods in results.items():
        for method, by_training in methods.items():
            for trained, measured in by_training.items():
                cells = (measured[measure] for measure in measures)
                rows.append([name, method, trained, *(f"{m[0]:.3f} ({m[1]:.3f}–{m[2]:.3f})" for m in cells)])
    return text_table(rows)
