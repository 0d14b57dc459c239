"""`stepjepa attention`: attention maps of one example, or with `--audit` the leakage audit of several."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import torch

from stepjepa.analysis.attention import Heads, attention_record
from stepjepa.analysis.leakage import format_audit, leakage_audit
from stepjepa.data.sources import read_examples
from stepjepa.data.steps import Splitter
from stepjepa.jepa.architectures import SUPPORTED_ATTENTION
from stepjepa.jepa.pairs import ISOLATIONS, PAIR_SETS, BranchLayout
from stepjepa.models.checkpoint import BUILTIN
from stepjepa.models.loading import load_model
from stepjepa.records import UserError, environment, write_json

SHOWN_PAIRS = tuple(name for name in PAIR_SETS if name != "none")
TEST_PROBLEMS, TEST_SEED = 200, 1  # the built-in problems that results are measured on
AUDITED = 16


def parser() -> argparse.ArgumentParser:
    """Options of `stepjepa attention`."""
    command = argparse.ArgumentParser(
        prog="stepjepa attention",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        description="Attention maps of one example over trunk and branches, with the check that forbidden cells have a "
        "weight of exactly 0 in all layers and heads; with --audit, which views move when a part of the text changes. "
        "Exit status 0 only if nothing leaks.",
    )
    add = command.add_argument
    add("--model_path", default=BUILTIN, help="'builtin', a folder (full model or adapter), or a Hub id")
    add(
        "--test_file",
        nargs="+",
        default=[BUILTIN],
        help="'builtin', JSONL files (any form that prepare reads), or Hub data set ids",
    )
    add("--splitter", choices=get_args(Splitter), help="how to find steps in unprepared data, as in prepare")
    add("--output", type=Path, required=True, metavar="FOLDER", help="where record and figures are written")
    add("--example", type=int, default=0, help="which example, from 0")
    add("--layers", type=int, nargs="+", default=[0, -1], help="which layers, from 0; negative from the last")
    add("--heads", nargs="+", default=["mean"], help="'mean' over the heads, 'all', or which, from 0")
    add(
        "--audit",
        type=int,
        nargs="?",
        const=AUDITED,
        metavar="N",
        help=f"instead of maps: audit N examples ({AUDITED} if no number is given), from --example on",
    )
    add("--pairs", choices=SHOWN_PAIRS, default="consecutive", help="which view pairs")
    add("--horizon", type=int, default=1, help="steps ahead, for --pairs horizon")
    add("--predictors", type=int, default=1, help="predictor tokens before a context view, as the model was trained")
    add("--isolation", choices=ISOLATIONS, default="step", help="what a target view sees besides itself")
    add("--max_length", type=int, help="longest example in tokens; a longer one loses whole steps")
    add("--size", choices=("notebook", "paper"), default="notebook", help="width and type of the figures")
    add(
        "--attn_implementation",
        choices=SUPPORTED_ATTENTION,
        help="what the audit runs (transformers' choice if absent); maps switch to eager",
    )
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto takes a CUDA device if there is one")
    add("--revision", help="branch, tag or commit of a Hub model")
    add("--trust_remote_code", action="store_true", help="run Python code that comes with the model")
    return command


def main(argv: Sequence[str] | None = None) -> int:
    """`stepjepa attention`; the exit status is 0 if nothing leaks, 1 otherwise (record and figures are written)."""
    from transformers.utils import logging

    command = parser()
    options = command.parse_args(argv)
    heads = _heads(options.heads)
    for name in ("horizon", "predictors", "max_length", "audit"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            command.error(f"--{name} must be at least 1")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: there is no CUDA device here; leave the option out")
    logging.disable_progress_bar()
    count = options.example + (options.audit or 1)
    examples, _ = read_examples(
        options.test_file, split="test", count=max(TEST_PROBLEMS, count), seed=TEST_SEED, splitter=options.splitter
    )
    if not 0 <= options.example < len(examples):
        raise UserError(f"--example {options.example}: there are {len(examples)} examples, 0 to {len(examples) - 1}")
    model, tokenizer = load_model(
        options.model_path,
        predictors=options.predictors,
        attn_implementation=options.attn_implementation,
        revision=options.revision,
        trust_remote_code=options.trust_remote_code,
    )
    model.to("cuda" if options.device != "cpu" and torch.cuda.is_available() else "cpu")
    layout = BranchLayout(options.pairs, options.horizon, options.predictors, options.isolation, options.max_length)
    about = {"command": "attention", "options": _plain(options), "environment": environment()}
    if options.audit:
        chosen = examples[options.example : count]
        return _audit(leakage_audit(model, tokenizer, chosen, layout=layout, progress=True), about, options)
    record = attention_record(model, tokenizer, examples[options.example], options.layers, heads, layout=layout)
    return _maps(record, about, options)


def _heads(words: Sequence[str]) -> Heads:
    if list(words) == ["mean"]:
        return "mean"
    if list(words) == ["all"]:
        return "all"
    try:
        return [int(word) for word in words]
    except ValueError as error:
        raise UserError(f"--heads {' '.join(words)}: give 'mean', 'all', or numbers from 0") from error


def _plain(options: argparse.Namespace) -> dict[str, Any]:
    return {name: value for name, value in vars(options).items() if name != "output"}


def _maps(record: Mapping[str, Any], about: Mapping[str, Any], options: argparse.Namespace) -> int:
    from stepjepa.visualization.attention import attention_maps, segment_flow

    figures = {"attention": attention_maps(record, size=options.size), "flow": segment_flow(record, size=options.size)}
    _write("attention", {**about, **record}, figures, options.output)
    check = record["check"]
    worst = max(layer["max_forbidden_mass"] for layer in check["layers"])
    cells = sum(layer["forbidden_cells"] for layer in check["layers"]) * check["heads"]
    sums = [layer[name] for layer in check["layers"] for name in ("row_sum_min", "row_sum_max")]
    print(
        f"{len(record['tokens'])} tokens, {len(check['layers'])} layers × {check['heads']} heads: mass on {cells:,} "
        f"forbidden cells {worst:g}; rows sum to {min(sums):.6f} … {max(sums):.6f}"
    )
    if not check["passed"]:
        print("FORBIDDEN MASS: the mask does not hold in this model; do not train it, report it")
    return 0 if check["passed"] else 1


def _audit(record: Mapping[str, Any], about: Mapping[str, Any], options: argparse.Namespace) -> int:
    from stepjepa.visualization.attention import leakage_map

    figures = {"leakage": leakage_map(record, size=options.size)}
    _write("leakage", {**about, **record}, figures, options.output)
    for reason, number in record["left_out"].items():
        if number:
            print(f"{number} examples left out: {reason.replace('_', ' ')}")
    print(format_audit(record))
    return 0 if record["passed"] else 1


def _write(name: str, record: Mapping[str, Any], figures: Mapping[str, Any], folder: Path) -> None:
    """The record and its figures; all are ready before the first is written."""
    from stepjepa.visualization.style import save_figure

    write_json(record, folder / f"{name}.json")
    paths = [
        save_figure(figure, folder / f"{stem}.{kind}") for stem, figure in figures.items() for kind in ("png", "pdf")
    ]
    print("\n".join(f"written: {path}" for path in (folder / f"{name}.json", *paths)))
