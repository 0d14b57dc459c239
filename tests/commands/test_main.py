"""The command line: names, configurations, errors without tracebacks, and one small run end to end."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from stepjepa.commands.main import COMMANDS, main
from stepjepa.commands.prepare import PrepareOptions
from stepjepa.commands.train import parse_train
from stepjepa.models.checkpoint import locate_model
from stepjepa.training.config import StepJEPAConfig
from stepjepa.training.run import load_run_model

SMALL = [
    "--max_steps",
    "4",
    "--problems",
    "40",
    "--eval_problems",
    "6",
    "--accuracy_problems",
    "4",
    "--max_new_tokens",
    "8",
    "--use_cpu",
]
LOGGED = ["--report_to", "tensorboard", "--logging_steps", "1"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder where the small run went through, with its output in `a`."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        logging.disable(logging.WARNING)
        assert main(["train", *SMALL, *LOGGED, "--output_dir", "a", "--save_steps", "2"]) == 0
        logging.disable(logging.NOTSET)
    return folder


def test_overview_and_unknown_commands(capsys):
    assert main([]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in COMMANDS)
    assert main(["trian"]) == 2
    assert "did you mean 'train'" in capsys.readouterr().err


def test_the_original_names_all_work():
    options, args, resume, show_example = parse_train(
        [
            "--train_file",
            "a.jsonl",
            "b.jsonl",
            "--model_name",
            "m",
            "--output_dir",
            "o",
            "--lora",
            "--lora_rank",
            "8",
            "--lbd",
            "0.5",
            "--gamma",
            "2",
            "--jepa_loss_type",
            "mse",
            "--batch_size",
            "2",
            "--grad_accum",
            "8",
            "--num_epochs",
            "1",
            "--learning_rate",
            "1e-3",
            "--max_length",
            "99",
            "--predictors",
            "2",
            "--jepa_ratio",
            "0.5",
            "--seed",
            "7",
            "--show_example",
            "--weight_decay",
            "0.1",
            "--use_cpu",
        ]
    )
    assert (options.train_file, options.model_name, options.lora, options.lora_rank) == (
        ["a.jsonl", "b.jsonl"],
        "m",
        True,
        8,
    )
    assert (args.lbd, args.gamma, args.jepa_loss_type, args.output_dir) == (0.5, 2.0, "mse", "o")
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps, args.num_train_epochs) == (2, 8, 1.0)
    assert (args.learning_rate, args.max_length, args.predictors, args.jepa_ratio, args.seed) == (1e-3, 99, 2, 0.5, 7)
    assert (show_example, resume, args.weight_decay) == (True, None, 0.1)


def test_no_argument_at_all_is_the_main_job():
    options, args, resume, show_example = parse_train([])
    assert (options.model_name, options.train_file) == ("builtin", ["builtin"])
    assert (args.lbd, args.gamma, args.output_dir, resume, show_example) == (0.1, 1.0, None, None, False)


def test_lambda_is_an_alias_and_the_parents_debug_passes_through():
    _, args, _, _ = parse_train(["--lambda", "0.3", "--debug", "underflow_overflow", "--use_cpu"])
    assert args.lbd == 0.3
    assert args.debug == ["underflow_overflow"]


def test_quick_start_configuration():
    options, args, _, _ = parse_train(["--config", "llama-3.2-1b", "--use_cpu", "--bf16", "false"])
    assert options.model_name == "meta-llama/Llama-3.2-1B-Instruct"
    assert (options.lora, options.lora_rank, options.train_file) == (True, 16, ["openai/gsm8k"])
    assert (args.lbd, args.gamma) == (0.1, 1.0)
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps, args.num_train_epochs) == (4, 4, 3)


def test_a_shipped_configuration_brings_no_evaluation_data_for_training_data_of_ones_own(tmp_path):
    """Of one's own file a tenth is held out then; a file of options of one's own says what it says."""
    words = ["--config", "llama-3.2-1b", "--use_cpu", "--bf16", "false"]
    assert parse_train(words)[0].eval_file == ["openai/gsm8k"]
    assert parse_train([*words, "--train_file", "mine.jsonl"])[0].eval_file == []
    assert parse_train([*words, "--train_file", "mine.jsonl", "--eval_file", "other.jsonl"])[0].eval_file == [
        "other.jsonl"
    ]
    file = tmp_path / "my.yaml"
    file.write_text("train_file: x.jsonl\neval_file: y.jsonl\n")
    options, *_ = parse_train(["--config", str(file), "--train_file", "mine.jsonl", "--use_cpu"])
    assert options.eval_file == ["y.jsonl"]


def test_the_modules_that_get_adapters_can_be_chosen():
    """By the names that PEFT's users know; what is not there is refused with the name."""
    assert parse_train(["--lora", "--use_cpu"])[0].lora_target_modules == ["all-linear"]
    options, *_ = parse_train(["--lora", "--lora_r", "4", "--lora_target_modules", "q_proj", "v_proj", "--use_cpu"])
    assert (options.lora_rank, options.lora_target_modules) == (4, ["q_proj", "v_proj"])
    model, _ = load_run_model(options, StepJEPAConfig(output_dir="x", use_cpu=True))
    adapted = {name.split(".")[-4] for name, _ in model.named_parameters() if "lora_A" in name}
    assert adapted == {"q_proj", "v_proj"}
    with pytest.raises(ValueError, match="nothing_proj"):
        load_run_model(
            replace(options, lora_target_modules=["nothing_proj"]), StepJEPAConfig(output_dir="x", use_cpu=True)
        )


def test_yaml_configuration_and_command_line_over_it(tmp_path):
    file = tmp_path / "my.yaml"
    file.write_text("lambda: 0.7\nbatch_size: 2\ntrain_file: x.jsonl\nmodel_name: y\noutput_dir: z\n")
    options, args, _, _ = parse_train(["--config", str(file), "--lbd", "0.9", "--use_cpu"])
    assert (args.lbd, args.per_device_train_batch_size, args.output_dir) == (0.9, 2, "z")
    assert (options.train_file, options.model_name) == (["x.jsonl"], "y")


def test_the_built_in_configuration_lies_under_the_users_own(tmp_path):
    file = tmp_path / "my.yaml"
    file.write_text("lbd: 0.2\nshow_example: true\n")
    _, args, _, show_example = parse_train(["--config", str(file), "--use_cpu"])
    assert (args.lbd, args.learning_rate, args.num_train_epochs, show_example) == (0.2, 2e-3, 2, True)
    _, args, _, _ = parse_train(["--lora", "--use_cpu"])
    assert args.learning_rate is None  # LoRA's own default
    file.write_text("model_name: elsewhere\n")
    _, args, _, _ = parse_train(["--config", str(file), "--use_cpu"])
    assert (args.learning_rate, args.num_train_epochs) == (None, 3)


def test_another_model_does_not_inherit_the_built_in_learning_rate():
    _, builtin, _, _ = parse_train(["--use_cpu"])
    _, other, _, _ = parse_train(["--model_name", "x", "--use_cpu"])
    assert builtin.learning_rate > 1e-4
    assert other.learning_rate is None  # the trainer fills in 2e-5, or 2e-4 under LoRA
    assert builtin.output_dir is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--config", "nothing"], "llama-3.2-1b"),
        (["train", "--label_smoothing_factor", "0.1"], "label_smoothing_factor"),
        (["train", "--train_file", "missing.jsonl", "--use_cpu", "--output_dir", "out"], "missing.jsonl"),
        (["train", "--lora", "--lora_rank", "0", "--use_cpu"], "r"),
        (["train", "--merge_lora", "--use_cpu"], "--merge_lora"),
        (["train", "--max_length", "20", "--use_cpu"], "could be used"),
        (["train", "--batch_size", "0"], "per_device_train_batch_size=0"),
        (["train", "--train_file", "own.jsonl", "--eval_strategy", "steps", "--use_cpu"], "eval"),
        (["train", "--output_dir", "typo", "--resume_from_checkpoint", "true", "--use_cpu"], "typo"),
        (["prepare", "--source", "builtin", "--output_file", "."], ". cannot be written"),
        (["prepare", "--source", "builtin", "--split", "foo", "--output_file", "o"], "foo"),
        (["prepare", "--source", "missing.jsonl", "--output_file", "out.jsonl"], "missing.jsonl"),
    ],
)
def test_errors_are_one_message_and_a_non_zero_exit(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    example = {
        "question": "q",
        "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a\n\nb"}],
    }
    (tmp_path / "own.jsonl").write_text(
        json.dumps({**example, "steps": ["a", "b"], "total_steps": 2, "answer": "1", "source": "s"})
    )
    assert main(words) == 1
    assert not list((tmp_path / "runs").iterdir() if (tmp_path / "runs").exists() else [])  # no folder left behind
    error = capsys.readouterr().err
    assert error.startswith(f"stepjepa {words[0]}: ")
    assert message in error
    assert "Traceback" not in error


def test_a_misspelt_option_in_yaml_is_named(tmp_path, capsys):
    file = tmp_path / "my.yaml"
    file.write_text("lamda: 0.7\n")
    assert main(["train", "--config", str(file)]) == 1
    assert "'lamda'; did you mean" in capsys.readouterr().err
    file.write_text("splitter: nope\n")
    assert main(["train", "--config", str(file)]) == 1
    assert "'nope' is not one of" in capsys.readouterr().err
    file.write_text("lbd: [1]\n")
    assert main(["train", "--config", str(file)]) == 1
    file.write_text("config: other\n")
    assert main(["train", "--config", str(file)]) == 1
    assert "unknown option 'config'" in capsys.readouterr().err
    file.write_text("- 1\n")
    assert main(["train", "--config", str(file)]) == 1
    assert "mapping" in capsys.readouterr().err


def test_prepare_built_in(tmp_path, capsys):
    out = tmp_path / "out.jsonl"
    assert main(["prepare", "--source", "builtin", "--problems", "5", "--output_file", str(out)]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == 5
    assert "\n\n".join(rows[0]["steps"]) == rows[0]["messages"][-1]["content"]
    assert "written" in capsys.readouterr().out
    assert PrepareOptions(source=["a"], output_file="b").min_chars == 20


def test_train_writes_model_record_and_figure_and_is_reproducible(trained, monkeypatch, capsys):
    monkeypatch.chdir(trained)
    logging.disable(logging.WARNING)
    assert main(["train", *SMALL, *LOGGED, "--output_dir", "b"]) == 0
    logging.disable(logging.NOTSET)
    table = capsys.readouterr().out
    assert "accuracy on 4 held-out problems" in table
    assert "model, record.json and loss.png are in b" in table
    records = [json.loads((trained / folder / "record.json").read_text()) for folder in ("a", "b")]
    timed = (
        "tokens_per_second",
        "eval_model_preparation_time",
        "eval_runtime",
        "eval_samples_per_second",
        "eval_steps_per_second",
        "train_runtime",
        "train_samples_per_second",
        "train_steps_per_second",
    )
    histories = [
        [{k: v for k, v in entry.items() if k not in timed} for entry in record["log_history"]] for record in records
    ]
    assert histories[0] == histories[1]
    assert records[0]["after"] == records[1]["after"]
    assert (trained / "a" / "model.safetensors").read_bytes() == (trained / "b" / "model.safetensors").read_bytes()
    record = records[0]
    assert record["configuration"]["training"]["lbd"] == 0.1
    assert record["configuration"]["run"]["problems"] == 40
    assert record["environment"]["packages"]["torch"].startswith("2.")
    assert record["before"]["accuracy_problems"] == 4
    assert record["digests"]["model weights"] == locate_model("builtin").identity()
    assert len({each["digests"]["training rows"] for each in records} - {None}) == 1
    assert (trained / "a" / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert any("tfevents" in path.name for path in (trained / "a").rglob("*"))
    assert main(["train", *SMALL, "--output_dir", "a"]) == 1
    assert "--resume_from_checkpoint" in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_train_command_goes_on_where_it_was(trained, tmp_path, monkeypatch):
    """SIGKILL after the first checkpoint, then the same command with --resume_from_checkpoint true."""
    words = ["train", *SMALL, "--save_steps", "1", "--output_dir", "cut"]
    process = subprocess.Popen(
        [sys.executable, "-m", "stepjepa", *words],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "cut" / "checkpoint-1").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / "cut" / "checkpoint-1").exists()
    assert not (tmp_path / "cut" / "record.json").exists()
    monkeypatch.chdir(tmp_path)
    assert main([*words, "--resume_from_checkpoint", "true"]) == 0
    resumed, whole = (folder / "model.safetensors" for folder in (tmp_path / "cut", trained / "a"))
    assert resumed.read_bytes() == whole.read_bytes()
