"""Two processes give the step, the logs and the evaluation of one."""

import json
import math
import sys
from pathlib import Path

import pytest
import torch
from distributed_worker import SETTINGS, STRATEGIES, run
from launching import free_port, torchrun, two_processes

pytestmark = pytest.mark.slow
WORKER = Path(__file__).parents[1] / "distributed_worker.py"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distributed")
    two = torchrun(str(WORKER), str(folder / "2.pt"))
    assert two.returncode == 0, two.stderr[-3000:]
    return {name: run(**setting) for name, setting in SETTINGS.items()}, torch.load(folder / "2.pt")


@pytest.mark.parametrize("setting", SETTINGS)
def test_two_processes_equal_one(results, setting):
    one, two = (result[setting] for result in results)
    assert (one["weights"] - two["weights"]).norm() / one["weights"].norm() < 1e-6
    for a, b in zip(one["logs"], two["logs"], strict=True):
        assert a == pytest.approx(b, rel=1e-4)
    assert one["eval"] == pytest.approx(two["eval"], rel=1e-5)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_processes_go_on_in_the_order_of_their_epoch(results, strategy):
    assert results[1]["resumed"][strategy]


def test_processes_with_and_without_a_term_log_alike(results):
    assert all(map(math.isfinite, (figure for entry in results[1]["control"]["logs"] for figure in entry)))


@pytest.mark.parametrize("launcher", ["torchrun", "accelerate launch"])
def test_train_command_under_a_launcher(tmp_path, launcher):
    words = [
        "-m",
        "stepjepa",
        "train",
        "--max_steps",
        "2",
        "--problems",
        "64",
        "--eval_problems",
        "6",
        "--accuracy_problems",
        "5",
        "--max_new_tokens",
        "8",
        "--use_cpu",
        "--save_strategy",
        "no",
    ]
    if launcher == "torchrun":
        done = torchrun(*words, cwd=tmp_path)
    else:
        settings = [
            "--multi_gpu",
            "--num_processes",
            "2",
            "--num_machines",
            "1",
            "--mixed_precision",
            "no",
            "--dynamo_backend",
            "no",
            "--main_process_port",
            str(free_port()),
        ]
        done = two_processes([sys.executable, "-m", "accelerate.commands.launch", *settings, *words], tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("output folder: runs/train-001") == 1
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["train-001"]
    record = json.loads((tmp_path / "runs" / "train-001" / "record.json").read_text())
    assert record["processes"] == 2
    assert record["after"]["accuracy_problems"] == 5
    assert record["optimizer_steps"] == 2
