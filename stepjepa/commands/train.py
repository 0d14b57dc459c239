"""`stepjepa train`: options of a run, from the command line over a configuration file over the defaults."""

from __future__ import annotations

import itertools
from collections.abc import Collection
from pathlib import Path
from typing import Any

from stepjepa.records import UserError
from stepjepa.training.configurations import named_configurations, read_configuration

HELP = {
    "--output_dir": "Where model, checkpoints and record go; without it the next runs/train-NNN.",
    "--resume_from_checkpoint": "true: go on from the newest complete checkpoint in --output_dir; or the path of one.",
    "--no_target_gradient": "Stop the gradient into the target view.",
}


def parser() -> Any:
    """Options of `stepjepa train`: those of a run, of `StepJEPAConfig` and of its parent."""
    from stepjepa.training.config import OptionParser, StepJEPAConfig
    from stepjepa.training.run import RunOptions

    command = OptionParser(
        (RunOptions, StepJEPAConfig),  # type: ignore[arg-type]
        prog="stepjepa train",
        description="Fine-tune with Step-JEPA.",
        allow_abbrev=False,
    )
    command.add_argument(
        "--config",
        help=f"a YAML file of options, or one of {', '.join(named_configurations())}; options given here override it",
    )
    for action in command._actions:  # where the parent's words do not say what is done here
        action.help = HELP.get(action.option_strings[0], action.help)
    return command


def known_options(command: Any) -> dict[str, Collection[Any]]:
    """The options that a configuration may name, with their choices."""
    return {a.dest: a.choices or () for a in command._actions if a.dest not in ("help", "config")}


def parse_train(argv: list[str]) -> tuple[Any, Any, str | bool | None, int]:
    """Command line → run options, training configuration, where to resume, our debug level.

    Under the built-in model lies the configuration `builtin`, under any other the defaults of `StepJEPAConfig`; over
    it comes `--config`, over that the command line.
    """
    argv, debug = split_debug(argv)
    command = parser()
    given, _ = command.parse_known_args(argv)
    known = known_options(command)
    own = read_configuration(given.config, known) if given.config else {}
    if str(own.get("debug", "")).isdigit():
        debug = debug or int(own.pop("debug"))
    named = any(word.split("=")[0] in ("--model_name", "--model-name") for word in argv)
    model = given.model_name if named else own.get("model_name", given.model_name)
    base = read_configuration(model, known) if model == "builtin" else {}
    if given.lora or own.get("lora"):
        base.pop("learning_rate", None)  # it is that of training all weights
    command.set_defaults(**{**base, **own})
    options, args, _ = command.parse_args_into_dataclasses(argv, look_for_args_file=False)
    resume: str | bool | None = args.resume_from_checkpoint
    if isinstance(resume, str) and resume.lower() in ("true", "1", "yes", "auto"):
        resume = True
    elif isinstance(resume, str) and resume.lower() in ("false", "0", "no", ""):
        resume = None
    if command.parse_known_args(argv)[0].output_dir is None:
        args.output_dir = None  # the parent has filled in a fixed name; a new numbered folder is taken instead
    return options, args, resume, debug


def split_debug(argv: list[str]) -> tuple[list[str], int]:
    """Take `--debug 0|1` (our level) out of the arguments; the parent's own `--debug NAME` stays.

    >>> split_debug(["--debug", "1", "--lbd", "0"])
    (['--lbd', '0'], 1)
    >>> split_debug(["--debug", "underflow_overflow"])
    (['--debug', 'underflow_overflow'], 0)
    """
    kept, level, skip = [], 0, False
    for word, following in itertools.pairwise([*argv, ""]):
        if skip:
            skip = False
        elif word == "--debug" and following.isdigit():
            level, skip = int(following), True
        elif word.startswith("--debug=") and word[8:].isdigit():
            level = int(word[8:])
        else:
            kept.append(word)
    return kept, level


def main(argv: list[str]) -> int:
    """`stepjepa train`."""
    from transformers.utils import logging

    try:
        options, args, resume, debug = parse_train(argv)
    except (ValueError, TypeError) as error:  # a value that StepJEPAConfig refuses, by name
        raise UserError(str(error)) from error
    from accelerate import PartialState

    from stepjepa.training.run import run_training
    from stepjepa.training.summary import run_title, summary_table
    from stepjepa.visualization.training import loss_curves

    logging.disable_progress_bar()  # of loading and saving files; training keeps its own
    if debug:
        logging.set_verbosity_info()
        args.log_level = "info"
    record = run_training(options, args, resume, show_first=debug > 0, say=print)
    if PartialState().is_main_process:
        folder = Path(args.output_dir)
        title = run_title(options.model_name, args)
        loss_curves(record["log_history"], title=title).savefig(folder / "loss.png", dpi=150)
        print(summary_table(record, folder))
    return 0
