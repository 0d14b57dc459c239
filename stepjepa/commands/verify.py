"""`stepjepa verify`: the checks that matter on your model and data, as a table and a record."""

from __future__ import annotations

import argparse
import shutil
import sys
from typing import get_args

from stepjepa.data.steps import Splitter
from stepjepa.experiments.checks import DEVICES, TRAINED, VERIFIED_PAIRS, VerifyOptions
from stepjepa.experiments.verify import format_table, record, verify
from stepjepa.jepa.pairs import ISOLATIONS, BranchLayout
from stepjepa.records import write_json


def parser() -> argparse.ArgumentParser:
    """Options of `stepjepa verify`."""
    default = VerifyOptions()
    parser = argparse.ArgumentParser(
        prog="stepjepa verify",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        description="Check your model and data: boundaries, labels, losses, isolation, gradients. Exit status 0 only "
        "if every check passed.",
    )
    add = parser.add_argument
    add("--model_name", default=default.model_name, help="'builtin', a folder, or a Hub id")
    add(
        "--train_file",
        nargs="+",
        default=["builtin"],
        help="'builtin', JSONL files (any form that prepare reads), or Hub data set ids",
    )
    add("--splitter", choices=get_args(Splitter), help="how to find steps in unprepared data, as in prepare")
    add("--lora", action="store_true", help="verify with LoRA adapters, as `stepjepa train --lora` would train")
    add("--predictors", type=int, default=TRAINED.predictors, help="predictor tokens before a context view")
    add("--pairs", choices=VERIFIED_PAIRS, default=TRAINED.pairs, help="which view pairs")
    add("--horizon", type=int, default=TRAINED.horizon, help="steps ahead, for --pairs horizon")
    add("--isolation", choices=ISOLATIONS, default=TRAINED.isolation, help="what a target view sees besides itself")
    add(
        "--examples",
        type=int,
        default=default.examples,
        help="examples that the model is run on; the shortest with a view pair are taken",
    )
    add("--max_length", type=int, default=TRAINED.max_length, help="longest example in tokens")
    add(
        "--dtype",
        choices=("float32", "bfloat16", "float16", "auto"),
        default=default.dtype,
        help="dtype of the weights; only float32 compares to the last digits",
    )
    add("--attn_implementation", choices=("sdpa", "eager", "flex_attention"), help="transformers' choice if absent")
    add("--device", choices=DEVICES, default=default.device, help="auto takes a CUDA device if there is one")
    add("--revision", help="branch, tag or commit of a Hub model")
    add("--trust_remote_code", action="store_true", help="run Python code that comes with the model")
    add("--json", metavar="FILE", help="write options, versions and figures to this file as well")
    return parser


def main(argv: list[str] | None = None) -> int:
    """`stepjepa verify`; returns the exit status: 0 if every check passed, 1 otherwise."""
    from transformers.utils import logging

    command = parser()
    given = vars(command.parse_args(argv))
    json_file = given.pop("json")
    try:
        layout = BranchLayout(**{name: given.pop(name) for name in BranchLayout.__dataclass_fields__})
        options = VerifyOptions(**given)
    except ValueError as error:
        command.error(str(error))
    logging.disable_progress_bar()
    terminal = sys.stderr.isatty()

    def progress(name: str) -> None:
        if terminal:
            print(f"\r\033[K{name} …", end="", file=sys.stderr, flush=True)

    checks = verify(options, layout, progress)
    if terminal:
        print("\r\033[K", end="", file=sys.stderr, flush=True)
    print(format_table(checks, min(max(shutil.get_terminal_size((110, 24)).columns, 60), 120)))
    passed = all(check.passed for check in checks)
    if json_file is not None:
        write_json(record(options, layout, checks), json_file)
        print(f"written: {json_file}")
    return 0 if passed else 1
