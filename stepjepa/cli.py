"""The command line: `stepjepa <command>`, each command a thin call into the package."""

from __future__ import annotations

import argparse
import difflib
import itertools
import sys
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

COMMANDS = {
    "prepare": "solutions of any source → chat JSONL with steps",
    "train": "fine-tune with Step-JEPA; without options: built-in data and model, about three minutes on two cores",
    "verify": "check your model and data: boundaries, losses, isolation, gradients",
    "bench": "what the JEPA term costs against plain fine-tuning",
    "figures": "draw every figure again from its record",
    "pretrain": "make the built-in checkpoint again",
}
YAML_ALIASES = {
    "lambda": "lbd", "batch_size": "per_device_train_batch_size", "grad_accum": "gradient_accumulation_steps",
    "num_epochs": "num_train_epochs",
}  # fmt: skip


class UsageError(ValueError):
    """The command line or a configuration file is wrong; the message says where."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status. Errors of the user's making are one message, no traceback."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(overview())
        return 0
    if argv[0] == "--version":
        from stepjepa import __version__

        print(__version__)
        return 0
    name, rest = argv[0], argv[1:]
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        print(f"stepjepa: unknown command {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""), file=sys.stderr)
        print(overview(), file=sys.stderr)
        return 2
    commands: dict[str, Callable[[list[str]], int]] = {
        "prepare": prepare, "train": train, "verify": verify, "bench": bench, "figures": figures, "pretrain": pretrain,
    }  # fmt: skip
    try:
        return commands[name](rest)
    except KeyboardInterrupt:
        print(f"\nstepjepa {name}: interrupted", file=sys.stderr)
        return 130
    except _user_errors() as error:
        print(f"stepjepa {name}: {error}", file=sys.stderr)
        return 1


def overview() -> str:
    """The list of commands."""
    lines = ["usage: stepjepa <command> [options]", "", "commands:"]
    lines += [f"  {name:9} {what}" for name, what in COMMANDS.items()]
    return "\n".join([*lines, "", "`stepjepa <command> --help` lists its options."])


def _user_errors() -> tuple[type[Exception], ...]:
    from stepjepa.checkpoints import NoCheckpointError
    from stepjepa.experiments import SetupError
    from stepjepa.rows import SourceError
    from stepjepa.run_folder import OutputFolderError

    return (UsageError, SourceError, SetupError, OutputFolderError, NoCheckpointError)


# ---- prepare -------------------------------------------------------------------------------------------------


def prepare_parser() -> argparse.ArgumentParser:
    """Options of `stepjepa prepare`."""
    from stepjepa.formats import DEFAULT_SYSTEM_PROMPT, ROW_FORMATS
    from stepjepa.steps import Splitter

    parser = argparse.ArgumentParser(prog="stepjepa prepare", description=COMMANDS["prepare"])
    add = parser.add_argument
    add("--source", nargs="+", required=True, help="'builtin', JSONL files, or Hub data set ids")
    add("--output_file", required=True, help="JSONL to write, one example a line")
    add(
        "--format",
        dest="row_format",
        choices=ROW_FORMATS,
        help="the kind of the rows; recognised by their fields if absent",
    )
    add("--splitter", choices=get_args(Splitter), help="how steps are found; 'line' for GSM8K rows, 'auto' otherwise")
    add("--think", choices=("remove", "steps"), default="remove", help="drop <think> blocks, or use them as the steps")
    add("--min_chars", type=int, default=20, help="fragments shorter than this are merged into a neighbour")
    add("--drop_short", action="store_true", help="drop short fragments instead, as the original did (loses content)")
    add(
        "--system_prompt", help=f"system message; 'none' for none. Default: «{DEFAULT_SYSTEM_PROMPT}»; none for builtin"
    )
    add("--source_name", help="name in the examples' 'source' field; the file's or data set's by default")
    add("--only_correct", action="store_true", help="drop rows whose solution boxes another answer than the reference")
    add("--strict", action="store_true", help="make the first bad line an error")
    add("--hub_config", help="configuration of a Hub data set")
    add("--split", default="train", help="split of a Hub data set or of the built-in problems")
    add("--problems", type=int, default=2000, help="how many built-in problems")
    add("--seed", type=int, default=0, help="which built-in problems")
    return parser


def prepare(argv: list[str]) -> int:
    """`stepjepa prepare`."""
    options = prepare_parser().parse_args(argv)
    from stepjepa.sources import format_report
    from stepjepa.sources import prepare as write_examples

    prompt = {None: "auto", "none": None}.get(options.system_prompt, options.system_prompt)
    try:
        report = write_examples(
            options.source, options.output_file, config=options.hub_config, split=options.split,
            row_format=options.row_format, splitter=options.splitter, think=options.think,
            short="drop" if options.drop_short else "merge", min_chars=options.min_chars, system_prompt=prompt,
            source_name=options.source_name, only_correct=options.only_correct, strict=options.strict,
            count=options.problems, seed=options.seed,
        )  # fmt: skip
    except (ValueError, OSError) as error:  # an option or file that cannot be used, by name
        raise UsageError(str(error)) from error
    print(format_report(report))
    print(f"written: {options.output_file}")
    return 0


# ---- train ---------------------------------------------------------------------------------------------------


def train_parser() -> Any:
    """Options of `stepjepa train`: those of a run, of `StepJEPAConfig` and of its parent."""
    from transformers import HfArgumentParser

    from stepjepa.config import StepJEPAConfig
    from stepjepa.experiments import RunOptions

    parser = HfArgumentParser(
        (RunOptions, StepJEPAConfig), prog="stepjepa train", description=COMMANDS["train"], allow_abbrev=False  # type: ignore[arg-type]
    )  # fmt: skip
    parser.add_argument(
        "--config",
        help=f"a YAML file of options, or one of {', '.join(named_configurations())}; options given here override it",
    )
    return parser


def named_configurations() -> list[str]:
    """Names of the configurations inside the package."""
    folder = files("stepjepa") / "configs"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def read_configuration(name: str, parser: argparse.ArgumentParser) -> dict[str, Any]:
    """Options from a named configuration or a YAML file.

    Args:
        name: one of `named_configurations`, or a path.
        parser: knows the options and their choices.

    Raises:
        UsageError: names the file and what is wrong in it.
    """
    import yaml

    shipped = name in named_configurations()
    path = files("stepjepa") / "configs" / f"{name}.yaml" if shipped else Path(name)
    if not path.is_file():
        raise UsageError(f"--config {name}: no such file, and not one of {', '.join(named_configurations())}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise UsageError(f"--config {name}: not YAML: {error}") from error
    if not isinstance(values, dict):
        raise UsageError(f"--config {name}: a mapping of option to value is needed, not a {type(values).__name__}")
    values = {YAML_ALIASES.get(key, key): value for key, value in values.items()}
    options = {action.dest: action for action in parser._actions if action.dest not in ("help", "config")}
    known = set(options)
    for key, value in values.items():
        choices = list((options[key].choices if key in known else None) or ())
        if choices and value not in (None, *choices):
            raise UsageError(f"--config {name}: {key}: {value!r} is not one of {', '.join(map(str, choices))}")
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            raise UsageError(
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
    parser = train_parser()
    given, _ = parser.parse_known_args(argv)
    own = read_configuration(given.config, parser) if given.config else {}
    if str(own.get("debug", "")).isdigit():
        debug = debug or int(own.pop("debug"))
    named = any(word.split("=")[0] in ("--model_name", "--model-name") for word in argv)
    model = given.model_name if named else own.get("model_name", given.model_name)
    base = read_configuration(model, parser) if model == "builtin" else {}
    if given.lora or own.get("lora"):
        base.pop("learning_rate", None)  # it is that of training all weights
    parser.set_defaults(**{**base, **own})
    options, args, _ = parser.parse_args_into_dataclasses(argv, look_for_args_file=False)
    resume: str | bool | None = args.resume_from_checkpoint
    if isinstance(resume, str) and resume.lower() in ("true", "1", "yes", "auto"):
        resume = True
    elif isinstance(resume, str) and resume.lower() in ("false", "0", "no", ""):
        resume = None
    if parser.parse_known_args(argv)[0].output_dir is None:
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


def train(argv: list[str]) -> int:
    """`stepjepa train`."""
    from transformers.utils import logging

    try:
        options, args, resume, debug = parse_train(argv)
    except (ValueError, TypeError) as error:  # a value that StepJEPAConfig refuses, by name
        raise UsageError(str(error)) from error
    from stepjepa.experiments import run_training

    logging.disable_progress_bar()  # of loading and saving files; training keeps its own
    if debug:
        logging.set_verbosity_info()
        args.log_level = "info"
    run_training(options, args, resume, show_first=debug > 0)
    return 0


# ---- the others ----------------------------------------------------------------------------------------------


def verify(argv: list[str]) -> int:
    """`stepjepa verify`."""
    from stepjepa.verify import main as command

    return command(argv)


def bench(argv: list[str]) -> int:
    """`stepjepa bench`."""
    from stepjepa.bench import main as command

    return command(argv)


def figures(argv: list[str]) -> int:
    """`stepjepa figures`."""
    from stepjepa.figures import main as command

    try:
        return command(argv)
    except OSError as error:
        raise UsageError(str(error)) from error


def pretrain(argv: list[str]) -> int:
    """`stepjepa pretrain`."""
    from stepjepa.pretrain import main as command

    return command(argv)


if __name__ == "__main__":
    sys.exit(main())
