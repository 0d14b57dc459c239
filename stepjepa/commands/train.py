"""`stepjepa train`: options of a run, from the command line over a configuration file over the defaults."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepjepa.commands.options import Parser, fill, take_flag
from stepjepa.commands.output import say, say_next
from stepjepa.records import UserError, option
from stepjepa.training.configurations import named_configurations, options_of, read_configuration, trainer_options
from stepjepa.training.options import JEPAOptions, RunOptions

if TYPE_CHECKING:
    from stepjepa.training.config import StepJEPAConfig


@dataclass(kw_only=True)
class TrainOptions:
    """What is no part of the run."""

    config: str | None = option(
        None, f"A YAML file of options, or one of {', '.join(named_configurations())}; options given here override it."
    )
    show_example: bool = option(False, "Show how the first training example is cut into steps and tokens.")


def read_options(argv: Sequence[str], parser: Parser, *others: Any) -> dict[str, Any]:
    """The options of a run by name, from the command line and the configurations under it.

    Args:
        others: dataclasses of further options, which no configuration holds.

    Under the built-in model lies the configuration `builtin`, under any other the defaults of `StepJEPAConfig`; over
    it comes `--config`, over that the command line.
    """
    parser.add_options(options_of(*others).values())
    parser.add_argument("--help_all", action="help", help="list the options of transformers.TrainingArguments as well")
    described = options_of(TrainOptions, RunOptions, JEPAOptions)
    own = {name: option for name, option in described.items() if option.help}
    parents = {
        name: replace(option, default=described[name].default) if name in described else option
        for name, option in trainer_options().items()
        if name not in own
    }
    parser.add_options(own.values())
    parser.add_options(parents.values(), hidden=not take_flag(argv, "help_all")[0])
    given = parser.read(argv)
    known = own | parents
    del known["config"]
    file = read_configuration(given["config"], known) if "config" in given else {}
    if "train_file" in given and given.get("config") in named_configurations():
        file.pop("eval_file", None)  # it goes with the training data that the configuration names
    options = file | given
    base = read_configuration("builtin", known) if options.get("model_name", "builtin") == "builtin" else {}
    if options.get("lora"):
        base.pop("learning_rate", None)  # it is that of training all weights
    return base | options


def run_of(given: dict[str, Any]) -> tuple[RunOptions, StepJEPAConfig]:
    """Run options and training configuration of options by name.

    Raises:
        UserError: a value that `StepJEPAConfig` refuses, by name.
    """
    from stepjepa.training.config import StepJEPAConfig

    try:
        return fill(RunOptions, given), fill(StepJEPAConfig, given)
    except (ValueError, TypeError) as error:
        raise UserError(str(error)) from error


def parse_train(argv: Sequence[str]) -> tuple[RunOptions, StepJEPAConfig, str | bool | None, bool]:
    """Command line → run options, training configuration, where to resume, whether to show the first example.

    Raises:
        UserError: a value that `StepJEPAConfig` refuses, by name.
    """
    given = read_options(argv, Parser("train", "Fine-tune with Step-JEPA."))
    options, args = run_of(given)
    asked = fill(TrainOptions, given)
    if given.get("output_dir") is None:
        args.output_dir = None  # the parent has filled in a fixed name; a new numbered folder is taken instead
    resume: str | bool | None = args.resume_from_checkpoint
    if isinstance(resume, str) and resume.lower() in ("true", "1", "yes", "auto"):
        resume = True
    elif isinstance(resume, str) and resume.lower() in ("false", "0", "no", ""):
        resume = None
    return options, args, resume, asked.show_example


def main(argv: Sequence[str] | None = None) -> int:
    """`stepjepa train`."""
    words = sys.argv[1:] if argv is None else argv
    options, args, resume, show_example = parse_train(words)
    from accelerate import PartialState
    from transformers.utils import logging

    from stepjepa.training.run import HELD_OUT, run_training
    from stepjepa.training.splits import drawn_kinds
    from stepjepa.training.summary import run_title, summary_table

    logging.disable_progress_bar()  # of loading and saving files; training keeps its own
    if PartialState().is_main_process and (advice := busy()):
        say(advice)
    try:
        record = run_training(options, args, resume, show_first=show_example, say=say)
    except KeyboardInterrupt:
        if PartialState().is_main_process:
            say(stopped(args.output_dir, words), sys.stderr)
        raise
    if PartialState().is_main_process:
        folder = Path(str(args.output_dir))
        say(summary_table(record))
        drawn = draw(record, run_title(options.model_name, args), folder / "loss.png")
        say(f"model, record.json{' and loss.png' if drawn else ''} are in {folder}")
        held_out = record["data"]["held_out"] is not None
        test = [str(folder / HELD_OUT)] if held_out else drawn_kinds(options) or None
        files = test or [file for file in options.eval_file if file != "none"] or ["TEST_FILE"]
        results = f"results/{folder.name}.jsonl"
        say_next("evaluate", "--model_name", str(folder), "--test_file", *files, "--output_file", results)
    return 0


def busy() -> str | None:
    """Advice where other work leaves fewer cores than PyTorch has threads, which then wait for each other.

    The number is not changed here: it decides the rounding, and with it whether a resumed run is the same to the bit.
    """
    import torch

    threads, cores = torch.get_num_threads(), os.cpu_count() or 1
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    free = max(1, round(cores - load))
    if torch.cuda.is_available() or threads <= free:
        return None
    return (
        f"note: others use {load:.1f} of {cores} cores, and {threads} threads would wait for each other; "
        f"OMP_NUM_THREADS={free} stepjepa train … may be several times faster"
    )


def draw(record: Mapping[str, Any], title: str, path: Path) -> bool:
    """Draw the losses of a run; says no if it has logged none (`--logging_strategy no`)."""
    from stepjepa.visualization.style import save_figure
    from stepjepa.visualization.training import loss_curves

    logged = any("lm_loss" in entry for entry in record["log_history"])
    if logged:
        save_figure(loss_curves(record["log_history"], title=title), path)
    return logged


def stopped(output_dir: str | None, words: Sequence[str]) -> str:
    """What an interrupted run has saved, and how it goes on.

    Args:
        output_dir: None if the run had none yet.
        words: the command line.
    """
    if output_dir is None or not Path(output_dir).is_dir():
        return "\nstopped before anything was trained; nothing is saved"
    from stepjepa.training.checkpoints import NoCheckpointError, newest_complete

    try:
        checkpoint, _ = newest_complete(output_dir, checksums=False)
    except NoCheckpointError:
        return (
            f"\nstopped before the first checkpoint: nothing of the training is saved in {output_dir}, start anew. "
            "--save_strategy steps --save_steps N saves more often"
        )
    kept = list(words)
    if not any(word.replace("-", "_").startswith("__output_dir") for word in words):
        kept += ["--output_dir", output_dir]
    if not any(word.replace("-", "_").startswith("__resume_from_checkpoint") for word in words):
        kept += ["--resume_from_checkpoint", "true"]
    return f"\nstopped; {checkpoint} is saved. It goes on with: {shlex.join(['stepjepa', 'train', *kept])}"
