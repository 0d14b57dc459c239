"""`stepjepa train`: options of a run, from the command line over a configuration file over the defaults."""

from __future__ import annotations

import argparse
import difflib
import itertools
from importlib.resources import files
from pathlib import Path
from typing import Any

from stepjepa.records import UserError

ALIASES = {
    "lambda": "lbd",
    "batch_size": "per_device_train_batch_size",
    "grad_accum": "gradient_accumulation_steps",
    "num_epochs": "num_train_epochs",
}
"""Names of the original scripts that a configuration file may use."""
HELP = {
    "--output_dir": "Where model, checkpoints and record go; without it the next runs/train-NNN.",
    "--resume_from_checkpoint": "true: go on from the newest complete checkpoint in --output_dir; or the path of one.",
    "--no_target_gradient": "Stop the gradient into the target view.",
}


def parser() -> Any:
    """Options of `stepjepa train`: those of a run, of `StepJEPAConfig` and of its parent."""
    from transformers import HfArgumentParser

    from stepjepa.training.config import StepJEPAConfig
    from stepjepa.training.run import RunOptions

    command = HfArgumentParser(
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


def named_configurations() -> list[str]:
    """Names of the configurations inside the package."""
    folder = files("stepjepa.training") / "configs"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def read_configuration(name: str, command: argparse.ArgumentParser) -> dict[str, Any]:
    """Options from a named configuration or a YAML file.

    Args:
        name: one of `named_configurations`, or a path.
        command: its parser, which knows the options and their choices.

    Raises:
        UserError: names the file and what is wrong in it.
    """
    import yaml

    shipped = name in named_configurations()
    path = files("stepjepa.training") / "configs" / f"{name}.yaml" if shipped else Path(name)
    if not path.is_file():
        raise UserError(f"--config {name}: no such file, and not one of {', '.join(named_configurations())}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise UserError(f"--config {name}: not YAML: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"--config {name}: a mapping of option to value is needed, not a {type(values).__name__}")
    values = {ALIASES.get(key, key): value for key, value in values.items()}
    options = {action.dest: action for action in command._actions if action.dest not in ("help", "config")}
    known = set(options)
    for key, value in values.items():
        choices = list((options[key].choices if key in known else None) or ())
        if choices and value not in (None, *choices):
            raise UserError(f"--config {name}: {key}: {value!r} is not one of {', '.join(map(str, choices))}")
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            raise UserError(
                f"--config {name}: unknown option {key!r}" + (f"; did you mean {near[0]!r}?" if near else "")
            )
    for key in ("train_file", "eval_file"):
        if key in values and not isinstance(values[key], list):
            values[key] = [str(values[key])]
    return values


def parse_train(argv: list[str]) -> tuple[Any, Any, str | bool | None, int]:
    """Command line → run options, training configuration, where to resume, our debug level.

    Under the built-in model lies the configuration `builtin`, under any other the defaults of `StepJEPAConfig`; over
    it comes `--config`, over that the command line.
    """
    argv, debug = split_debug(argv)
    command = parser()
    given, _ = command.parse_known_args(argv)
    own = read_configuration(given.config, command) if given.config else {}
    if str(own.get("debug", "")).isdigit():
        debug = debug or int(own.pop("debug"))
    named = any(word.split("=")[0] in ("--model_name", "--model-name") for word in argv)
    model = given.model_name if named else own.get("model_name", given.model_name)
    base = read_configuration(model, command) if model == "builtin" else {}
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
    from stepjepa.training.run import run_training

    logging.disable_progress_bar()  # of loading and saving files; training keeps its own
    if debug:
        logging.set_verbosity_info()
        args.log_level = "info"
    run_training(options, args, resume, show_first=debug > 0)
    return 0
