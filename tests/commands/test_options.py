"""Options: read from dataclasses and from the source of `TrainingArguments`, answered before torch is imported."""

import subprocess
import sys
import time
from dataclasses import dataclass, field, fields

import pytest

from stepjepa.analysis.options import EmbedOptions, ShownLayout
from stepjepa.commands.ablate import AblateOptions
from stepjepa.commands.attention import AttentionOptions
from stepjepa.commands.compare import CompareOptions
from stepjepa.commands.inspect import InspectOptions
from stepjepa.commands.main import COMMANDS, main
from stepjepa.commands.options import Parser, parse, take_flag
from stepjepa.commands.prepare import PrepareOptions
from stepjepa.evaluation.options import EvaluateOptions, SynthesizeOptions
from stepjepa.experiments.options import BenchOptions, VerifyOptions
from stepjepa.jepa.controls import TARGETS
from stepjepa.jepa.registry import OBJECTIVES
from stepjepa.records import UserError
from stepjepa.training.config import StepJEPAConfig
from stepjepa.training.configurations import Option, boolean, names, options_of, read_configuration, trainer_options
from stepjepa.training.options import JEPAOptions, RunOptions

HEAVY = ("torch", "transformers", "scipy", "matplotlib", "datasets")
PROBE = """
import sys
from stepjepa.commands.main import main
try:
    main(sys.argv[1:])
finally:
    print("HEAVY", [name for name in {heavy} if name in sys.modules], file=sys.stderr)
"""


def run(*words):
    """What a command says, with what it has imported of the heavy packages, and how long it took."""
    start = time.perf_counter()
    code = PROBE.format(heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    return done, time.perf_counter() - start


MISTAKES = {
    "prepare": (["--sorce", "builtin"], "did you mean --source?"),
    "synthesize": (["--base_ulr", "x"], "did you mean --base_url?"),
    "boundaries": (["--source", "builtin", "--layr", "2"], "did you mean --layer?"),
    "train": (["--lamda", "0.1"], "did you mean --lambda?"),
    "plan": (["--utilization", "0.5"], "did you mean --utilisation?"),
    "verify": (["--horzion", "2"], "did you mean --horizon?"),
    "evaluate": (["--modle_name", "builtin"], "did you mean --model_name?"),
    "generate": (["What is 1?", "--temprature", "1"], "did you mean --temperature?"),
    "compare": (["a.jsonl", "--base_line", "x"], "did you mean --baseline?"),
    "embed": (["--output-fil", "e.npz"], "did you mean --output_file?"),
    "inspect": (["e.npz", "--exmaples", "3"], "did you mean --examples?"),
    "report": (["runs/a", "--reslts", "r.jsonl"], "did you mean --results?"),
    "score": (["--detct"], "did you mean --detect?"),
    "attention": (["--audti"], "did you mean --audit?"),
    "ablate": (["lambda", "--dryrun"], "did you mean --dry_run?"),
    "bench": (["--round", "3"], "did you mean --rounds?"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_and_a_misspelt_option_are_answered_before_torch_is_imported(command):
    done, seconds = run(command, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: stepjepa {command}")
    assert done.stderr.strip() == "HEAVY []"
    words, message = MISTAKES[command]
    wrong, wrong_seconds = run(command, *words)
    assert wrong.returncode == 2
    line, heavy = wrong.stderr.strip().splitlines()
    assert line.startswith(f"stepjepa {command}: unknown option --")
    assert message in line
    assert heavy == "HEAVY []"
    assert max(seconds, wrong_seconds) < 10  # a third of a second where nothing else runs


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--jepa_loss_type", "cos"], "'cos'"),
        (["--dtype", "float8"], "float8"),
        (["--lbd", "much"], "invalid float value: 'much'"),
        (["--use_cpu", "perhaps"], "invalid boolean value: 'perhaps'"),
        (["--target", "none"], "step"),
        (["lambda"], "unrecognized arguments: lambda"),
    ],
)
def test_values_that_cannot_be_are_refused_before_torch_is_imported(words, message):
    done, _ = run("train", *words)
    assert done.returncode == 2
    line, heavy = done.stderr.strip().splitlines()
    assert line.startswith("stepjepa train: ")
    assert message in line
    assert heavy == "HEAVY []"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("train", []),
        ("plan", []),
        ("synthesize", ["--source", "builtin", "--output_file", "t.jsonl"]),
        ("evaluate", ["--test_file", "builtin", "--output_file", "r.jsonl"]),
        ("generate", ["What is 1 + 1?"]),
        ("score", ["--detect"]),
        ("bench", []),
    ],
)
def test_a_model_that_is_not_there_is_refused_before_torch_is_imported(command, words):
    done, _ = run(command, *words, "--model_name", "nothing.gguf")
    line, heavy = done.stderr.strip().splitlines()
    assert line == f"stepjepa {command}: Could not load 'nothing.gguf': there is no such folder or file"
    assert heavy == "HEAVY []"


def test_a_name_that_only_a_server_knows_is_not_looked_for():
    options = Parser("synthesize", "")
    options.add_options(options_of(SynthesizeOptions).values())
    words = ["--model_name", "qwen.gguf", "--source", "builtin", "--output_file", "t.jsonl"]
    assert options.read([*words, "--base_url", "http://127.0.0.1:1"])["model_name"] == "qwen.gguf"
    with pytest.raises(UserError, match="no such folder or file"):
        options.read(words)


def test_the_options_of_step_jepa_come_first_and_only():
    short, _ = run("train", "--help")
    full, _ = run("train", "--help_all")
    assert "--jepa_loss_type {cosine,l2,mse,smooth_l1,l1_std,infonce,nextlat,mtp,stp,ssp}" in short.stdout
    assert "--lbd, --lambda X" in short.stdout
    assert "--adam_beta1" not in short.stdout
    assert "--adam_beta1 X" in full.stdout
    for each in fields(StepJEPAConfig):
        if each.init:
            assert f"--{each.name}" in full.stdout, each.name


def test_what_is_read_from_source_is_what_the_classes_have():
    own = {each.name for each in fields(StepJEPAConfig) if each.init}
    assert set(trainer_options()) | {each.name for each in fields(JEPAOptions)} == own
    for option in trainer_options().values():
        default = getattr(StepJEPAConfig.__mro__[2], option.name, None)
        if option.default is not None and not option.many:
            assert option.default == default, option.name
    assert trainer_options()["max_steps"].kind is int
    assert trainer_options()["save_steps"].kind is float
    assert trainer_options()["push_to_hub"].kind is boolean
    assert trainer_options()["label_names"].many
    assert names("jepa.registry.OBJECTIVES") == tuple(OBJECTIVES)
    assert names("jepa.controls.TARGETS") == TARGETS


def test_defaults_of_the_configuration_stay():
    args = StepJEPAConfig(output_dir="x", use_cpu=True)
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps, args.learning_rate) == (4, 4, None)
    assert (args.logging_steps, args.warmup_steps, args.seed, args.remove_unused_columns) == (10, 0.03, 42, False)


def test_an_option_reads_yaml_as_the_command_line_would():
    options = options_of(RunOptions, JEPAOptions)
    assert options["lbd"].read(1) == 1.0
    assert isinstance(options["lbd"].read(1), float)
    assert options["lora"].read("yes") is True
    assert options["train_file"].read("a.jsonl") == ["a.jsonl"]
    assert options["max_length"].read(None) is None
    with pytest.raises(ValueError, match="choose one of cosine, l2"):
        options["jepa_loss_type"].read("cos")
    with pytest.raises(ValueError, match="single value"):
        options["lbd"].read([1])
    with pytest.raises(ValueError, match="neither true nor false"):
        options["lora"].read("maybe")
    with pytest.raises(ValueError, match="one entry of the list"):
        options["train_file"].read(["a.jsonl", None])
    for name in ("lbd", "problems", "train_file", "model_name"):
        with pytest.raises(ValueError, match="no value behind it"):
            options[name].read(None)
    with pytest.raises(ValueError, match="single value"):
        options["model_name"].read(["builtin"])
    with pytest.raises(ValueError, match="not a mapping"):
        options["lbd"].read({"a": 1})
    others = trainer_options()
    assert others["report_to"].read(["tensorboard", "wandb"]) == ["tensorboard", "wandb"]
    assert others["lr_scheduler_kwargs"].read({"num_cycles": 2}) == {"num_cycles": 2}


@dataclass
class Small:
    """A flag that is on, a list and a choice."""

    on: bool = field(default=True, metadata={"help": "on"})
    many_words: list[int] = field(default_factory=list, metadata={"help": "numbers", "aliases": ["--several"]})
    kind: str = field(default="a", metadata={"help": "100% a or b", "choices": ("a", "b")})


def test_spellings_of_an_option():
    def read(*words):
        return parse(Parser("small", "Small."), words, Small)

    assert read() == Small()
    assert read("--no_on", "--many-words", "1", "2") == Small(on=False, many_words=[1, 2])
    assert read("--on", "false", "--several=3", "--kind", "b") == Small(on=False, many_words=[3], kind="b")
    assert Option("x").read(3) == "3"


def test_what_follows_two_dashes_is_no_option():
    @dataclass
    class Asked:
        question: list[str] = field(default_factory=list, metadata={"help": "asked", "positional": True})

    assert parse(Parser("small", "Small."), ["--", "-3 plus 5?", "--x"], Asked) == Asked(["-3 plus 5?", "--x"])


def test_an_instance_gives_the_defaults_and_usage_errors_end_the_program(capsys):
    one, other = parse(Parser("small", "Small."), ["--rounds", "3"], Small(kind="b"), BenchOptions)
    assert (one.kind, other.rounds, other.batch_size) == ("b", 3, 8)
    with pytest.raises(SystemExit) as stop:
        parse(Parser("small", "Small."), ["--kind", "c"], Small)
    assert stop.value.code == 2
    assert capsys.readouterr().err == (
        "stepjepa small: argument --kind: invalid choice: 'c' (choose from 'a', 'b') "
        "(`stepjepa small --help` lists the options)\n"
    )


NUMERIC = {
    command: [
        option
        for option in options_of(*described).values()
        if option.kind in (int, float) and not option.many and option.const is None
    ]
    for command, described in {
        "prepare": (PrepareOptions,),
        "train": (RunOptions, JEPAOptions),
        "verify": (VerifyOptions, ShownLayout),
        "evaluate": (EvaluateOptions,),
        "synthesize": (SynthesizeOptions,),
        "compare": (CompareOptions,),
        "embed": (EmbedOptions, ShownLayout),
        "inspect": (InspectOptions,),
        "attention": (AttentionOptions, ShownLayout),
        "ablate": (AblateOptions,),
        "bench": (BenchOptions,),
    }.items()
}


@pytest.mark.parametrize("command", NUMERIC)
def test_no_number_of_any_command_is_nan_infinite_or_beyond_all_counting(command, capsys):
    for option in NUMERIC[command]:
        for word in ("nan", "-inf", "1e999", "9" * 30):
            if option.kind is float and word.strip("-").isdigit():
                continue
            with pytest.raises(SystemExit) as stop:
                main([command, f"--{option.name}={word}"])
            said = capsys.readouterr().err
            assert (stop.value.code, said.count("\n")) == (2, 1), said
            assert option.name in said or "required" in said


@pytest.mark.parametrize(
    "text",
    [
        "lbd: .nan",
        "learning_rate: .inf",
        "temperature: '1e999'",
        "seed: 99999999999999999999",
        "problems: 0",
        "lbd: [1]",
    ],
)
def test_nor_is_one_in_a_file_of_options(text, tmp_path):
    file = tmp_path / "my.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=f"--config {file}: {text.split(':')[0]}: "):
        read_configuration(str(file), options_of(RunOptions, JEPAOptions))


def test_an_option_under_two_of_its_names_is_refused(tmp_path):
    (tmp_path / "a.yaml").write_text("lambda: 0.1\nlbd: 0.5\n")
    with pytest.raises(UserError, match="lbd is given twice"):
        read_configuration(str(tmp_path / "a.yaml"), options_of(JEPAOptions))


def test_an_unreadable_file_of_options_is_named(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"lbd: \xff")
    with pytest.raises(UserError, match="not YAML"):
        read_configuration(str(tmp_path / "a.yaml"), options_of(JEPAOptions))


@pytest.mark.parametrize("word", ["--gpu_suite", "--gpu-suite", "--gpu_suite=true", "--gpu-suite=yes"])
def test_a_flag_that_decides_on_the_parser_is_known_in_every_spelling(word, capsys):
    assert take_flag(["--device", "cpu", word, "--small"], "gpu_suite") == (True, ["--device", "cpu", "--small"])
    with pytest.raises(SystemExit):
        main(["bench", word, "--help"])
    assert "--minutes" in capsys.readouterr().out
    assert take_flag(["--gpu-suite=false"], "gpu_suite") == (False, [])
    assert take_flag(["--gpu-suite", "false", "--small"], "gpu_suite") == (False, ["--small"])
    assert take_flag(["--gpu-suite", "--small", "true"], "gpu_suite") == (True, ["--small", "true"])
    with pytest.raises(UserError, match="--gpu_suite=perhaps"):
        take_flag(["--gpu_suite=perhaps"], "gpu_suite")


def test_all_options_of_train_are_shown_in_either_spelling(capsys):
    shown = []
    for word in ("--help_all", "--help-all"):
        with pytest.raises(SystemExit):
            main(["train", word])
        shown.append(capsys.readouterr().out)
    assert "--lr_scheduler_type" in shown[0]
    assert shown[0] == shown[1]
