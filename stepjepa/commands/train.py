"""`stepjepa train`: options of a run, from the command line over a configuration file over the defaults."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepjepa.commands.options import Parser, fill
from stepjepa.commands.output import say
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


def read_options(argv: Sequence[str]) -> dict[str, Any]:
    """The options of a run by name, from the command line and the configurations under it.

    Under the built-in model lies the configuration `builtin`, under any other the defaults of `StepJEPAConfig`; over
    it comes `--config`, over that the command line.
    """
    parser = Parser("train", "Fine-tune with Step-JEPA.")
    parser.add_argument("--help_all", action="help", help="list the options of transformers.TrainingArguments as well")
    described = options_of(TrainOptions, RunOptions, JEPAOptions)
    own = {name: option for name, option in described.items() if option.help}
    parents = {
        name: replace(option, default=described[name].default) if name in described else option
        for name, option in trainer_options().items()
        if name not in own
    }
    parser.add_options(own.values())
    parser.add_options(parents.values(), hidden="--help_all" not in argv)
    given = parser.read(argv)
    known = own | parents
    del known["config"]
    file = read_configuration(given["config"], known) if "config" in given else {}
    options = file | given
    base = read_configuration("builtin", known) if options.get("model_name", "builtin") == "builtin" else {}
    if options.get("lora"):
        base.pop("learning_rate", None)  # it is that of training all weights
    return base | options


def parse_train(argv: Sequence[str]) -> tuple[RunOptions, StepJEPAConfig, str | bool | None, bool]:
    """Command line → run options, training configuration, where to resume, whether to show the first example.

    Raises:
        UserError: a value that `StepJEPAConfig` refuses, by name.
    """
    given = read_options(argv)
    from stepjepa.training.config import StepJEPAConfig

    options, asked = fill(RunOptions, given), fill(TrainOptions, given)
    try:
        args = fill(StepJEPAConfig, given)
    except (ValueError, TypeError) as error:
        raise UserError(str(error)) from error
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
    options, args, resume, show_example = parse_train(sys.argv[1:] if argv is None else argv)
    from accelerate import PartialState
    from transformers.utils import logging

    from stepjepa.training.run import run_training
    from stepjepa.training.summary import run_title, summary_table
    from stepjepa.visualization.training import loss_curves

    logging.disable_progress_bar()  # of loading and saving files; training keeps its own
    record = run_training(options, args, resume, show_first=show_example, say=say)
    if PartialState().is_main_process:
        folder = Path(str(args.output_dir))
        title = run_title(options.model_name, args)
        loss_curves(record["log_history"], title=title).savefig(folder / "loss.png", dpi=150)
        say(summary_table(record, folder))
    return 0
