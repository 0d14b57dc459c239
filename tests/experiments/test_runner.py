"""Running grids: nothing finished is lost or run twice, whatever happens to the runners; what the report says."""

import hashlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from small_records import cell_record
from transformers import LlamaConfig, LlamaForCausalLM

from stepjepa.analysis.detection import COMPACT
from stepjepa.commands.ablate import main, parse_shard
from stepjepa.commands.score import main as score
from stepjepa.data.examples import make_example
from stepjepa.data.sources import read_examples
from stepjepa.experiments import cell as cell_module
from stepjepa.experiments.cell import cell_data, run_cell
from stepjepa.experiments.grid import CellOptions, defaults
from stepjepa.experiments.grid_file import read_grid
from stepjepa.experiments.report import format_report, report
from stepjepa.experiments.runner import Plan, list_cells, run_here, run_plan
from stepjepa.experiments.store import FAILED, FINISHED, INTERRUPTED, KIND, OPEN, RUNNING, GridFolder
from stepjepa.models.loading import load_model
from stepjepa.records import UserError, write_jsonl
from stepjepa.training.checkpoints import newest_complete
from stepjepa.training.run import run_training
from stepjepa.training.splits import TEST_SEED

WORKER = Path(__file__).parents[1] / "ablate_worker.py"
TINY = """
base: {model_name: MODEL, learning_rate: 1e-3, use_cpu: true, problems: 40, max_steps: 18, batch_size: 1, grad_accum: 1, eval_problems: 3,
       accuracy_problems: 4, max_new_tokens: 8}
arms:
  - {name: plain, lbd: 0}
  - {name: step, lbd: 0.3, pairs: consecutive, jepa_ratio: 0.7}
  - {name: shuffled, lbd: 0.3, pairs: consecutive, target: shuffled}
seeds: 1
baseline: plain
"""
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The text of a grid over a model of random weights that trains in no time."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = load_model()[1]
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=1024,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=1024,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        )
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return TINY.replace("MODEL", str(folder))


def write(folder, text):
    file = folder / "tiny.yaml"
    file.write_text(text)
    return str(file)


def records(folder):
    """Records by file name, without what depends on the clock."""
    found = {path.name: json.loads(path.read_text()) for path in folder.glob("*.json")}
    return {name: {key: value for key, value in record.items() if key != "attempt"} for name, record in found.items()}


def command(*words):
    return [sys.executable, "-m", "stepjepa", "ablate", *map(str, words)]


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory):
    """The tiny grid, run without interruption in this process."""
    folder = tmp_path_factory.mktemp("grid")
    plan = Plan(read_grid(write(folder, tiny)), GridFolder(folder / "out"), save_steps=8)
    done = []
    assert run_plan(plan, lambda cell, record: done.append((cell.name, record["status"]))) == 3
    assert done == [(f"{arm}, seed 0", FINISHED) for arm in ("plain", "step", "shuffled")]
    return plan


def test_a_record_holds_what_a_reader_needs(finished):
    cell = finished.cells[1]
    record = finished.folder.record(cell)
    assert (record["status"], record["address"], record["cell"]) == (FINISHED, cell.address, cell.options)
    assert {"git", "packages", "hardware"} <= set(record["environment"])
    training = record["configuration"]["training"]
    assert (training["lbd"], training["pairs"], training["seed"], training["optim"]) == (
        0.3,
        "consecutive",
        0,
        defaults()["optim"],
    )
    assert record["configuration"]["run"]["problem_seed"] == 0
    model = Path(record["configuration"]["run"]["model_name"]) / "model.safetensors"
    weights = json.dumps({model.name: hashlib.sha256(model.read_bytes()).hexdigest()})
    assert record["digests"]["model weights"] == hashlib.sha256(weights.encode()).hexdigest()
    assert record["digests"] == finished.folder.record(finished.cells[0])["digests"]  # another arm, the same data
    assert set(record["digests"]) == {"model weights", "training rows"}
    assert record["train"]["step"] == [1, 8, 16]
    assert all(len(column) == 3 for column in record["train"].values())
    for split, count in (("validation", 3), ("test", 4)):
        part = record[split]
        ids = json.loads((finished.folder.path / "questions" / f"{part['questions']}.json").read_text())["ids"]
        assert len(part["correct"]) == len(ids) == len(set(ids)) == count
        assert part["accuracy"] == part["correct"].count("1") / count
        assert part["lm_loss"] > 0
        views = part["representations"]
        assert views["first"]["pairs"] == count
        assert views["consecutive"]["pairs"] > count
        assert 1 <= views["consecutive"]["effective_rank_target"] <= views["consecutive"]["pairs"]
    assert record["attempt"]["resumed_at_step"] == 0
    text = finished.folder.record_path(cell).read_text()
    assert len(text) < 25_000
    assert str(finished.folder.path) not in text


TRAINED = {
    "plain": {"lbd": 0.0},
    "tokens": {"jepa_loss_type": "nextlat"},
    "ema": {"pairs": "consecutive", "target_model": "ema", "ema_decay": 0.5},
    "frozen": {"pairs": "consecutive", "target_model": "frozen", "jepa_loss_type": "l1_std", "head": "mlp"},
    "head": {
        "jepa_loss_type": "infonce", "pairs": "consecutive", "pooling": "mean", "head": "linear",
        "target_scale": "zscore", "target_layer": 0,
    },
}  # fmt: skip


@pytest.mark.parametrize(
    "name", [name if name in ("plain", "frozen") else pytest.param(name, marks=pytest.mark.slow) for name in TRAINED]
)
def test_a_cell_finds_planted_mistakes_as_score_does(name, tiny, tmp_path, monkeypatch):
    """The cell measures the model in its trainer; the command loads what `stepjepa train` saved."""
    monkeypatch.setattr(cell_module, "SCALE_PROBLEMS", 12)
    base = {**yaml.safe_load(tiny)["base"], "detect_problems": 30, "eval_problems": 1, "accuracy_problems": 1}
    base |= {"learning_rate": 0.01, "max_steps": 4, "batch_size": 8}
    grid = read_grid(write(tmp_path, yaml.safe_dump({"base": base, "arms": [TRAINED[name]]})))
    cell = grid.cells[0]
    found = run_cell(cell, tmp_path / "cell", {}, lambda _names: "q", 8)["detection"]
    options, args = cell.configure(output_dir=str(tmp_path / "run"), report_to="none", save_strategy="no")
    run_training(options, args)
    others, record = tmp_path / "others.jsonl", tmp_path / "detect.json"
    write_jsonl(read_examples("builtin", split="validation", count=12, seed=TEST_SEED)[0], others)
    words = ["--model_name", args.output_dir, "--detect", "--problems", "30", "--scale_file", str(others)]
    assert score([*words, "--batch_size", "64", "--json", str(record)]) == 0
    written = json.loads(record.read_text())
    assert (found["problems"], found["distance"]) == (30, written["configuration"]["distance"])
    assert written["configuration"]["targets"] == TRAINED[name].get("target_model", "own")
    assert (
        found["context"]
        == written["configuration"]["context"]
        == ("step_end" if name in ("plain", "tokens") else "predictor")
    )
    for kind, entry in written["kinds"].items():
        for each in COMPACT:
            own, same = found["kinds"][kind][each], entry["scores"][each]["controlled"]
            assert [own[key] for key in ("estimate", "low", "high")] == pytest.approx(
                [same[key] for key in ("estimate", "low", "high")],
                abs=0.02,  # near ties in other batches
            )
    assert 0 < found["kinds"]["mean"]["energy"]["estimate"] < 1


def test_finished_cells_leave_records_alone(finished):
    names = {entry.name for entry in finished.folder.path.iterdir()}
    assert names == {*(f"{cell.address}.json" for cell in finished.cells), "questions", "work"}
    assert list(finished.folder.work.iterdir()) == []
    before = records(finished.folder.path)
    assert run_plan(finished) == 0
    assert records(finished.folder.path) == before


@pytest.mark.slow
def test_a_killed_grid_goes_on_to_the_same_records_in_two_processes(finished, tiny, tmp_path):
    file, folder = write(tmp_path, tiny), tmp_path / "out"
    second = finished.cells[1]
    died = subprocess.run(
        [sys.executable, str(WORKER), file, str(folder), second.address, "10"],
        env=ENVIRONMENT,
        check=False,
        capture_output=True,
    )
    assert died.returncode == -signal.SIGKILL
    plan = Plan(read_grid(file), GridFolder(folder))
    assert [plan.folder.state(cell) for cell in plan.cells] == [FINISHED, INTERRUPTED, OPEN]
    assert (folder / "work" / second.address / "checkpoint-8").is_dir()

    done = subprocess.run(
        command(file, "--output_dir", folder, "--processes", 2),
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *cells, after = done.stdout.splitlines()
    assert {line.split(":")[0].split("  ")[1] for line in cells} == {"step, seed 0", "shuffled, seed 0"}
    assert after.startswith("next: stepjepa ablate")
    assert after.endswith("--report")
    assert json.loads((folder / f"{second.address}.json").read_text())["attempt"]["resumed_at_step"] == 8
    assert records(folder) == records(finished.folder.path)
    assert list((folder / "work").iterdir()) == []


@pytest.mark.slow
def test_ctrl_c_stops_all_processes_and_loses_nothing(finished, tiny, tmp_path):
    file, folder = write(tmp_path, tiny.replace("max_steps: 18", "max_steps: 100000")), tmp_path / "out"
    runner = subprocess.Popen(
        command(file, "--output_dir", folder, "--processes", 2),
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: len({path.parent for path in folder.glob("work/*/checkpoint-*")}) == 2, runner)
    runner.send_signal(signal.SIGINT)
    _, said = runner.communicate(timeout=180)
    assert runner.returncode == 130, said
    plan = Plan(read_grid(file), GridFolder(folder))
    states = [plan.folder.state(cell) for cell in plan.cells]
    assert states == [INTERRUPTED, INTERRUPTED, OPEN]  # two processes had a cell each, and have let go
    assert newest_complete(folder / "work" / plan.cells[0].address)[0].name.startswith("checkpoint-")


def wait_for(condition, process, seconds=300):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def interrupted(plan, step_wanted=9):
    """Run a plan until its first cell is in that optimizer step."""

    def stop(_cell, number, _total):
        if number == step_wanted:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_plan(plan, step=stop)


def perturb(model):
    """Give a model folder other weights of the same shapes."""
    weights = load_file(model / "model.safetensors")
    save_file({name: weight + 0.05 for name, weight in weights.items()}, model / "model.safetensors", {"format": "pt"})


def own_grid(tiny, folder, **files):
    """The tiny grid over a copy of its model, which a test may change, and over files of its own."""
    content = yaml.safe_load(tiny)
    shutil.copytree(content["base"]["model_name"], folder / "model")
    content["base"] |= {"model_name": str(folder / "model"), **files}
    return write(folder, yaml.safe_dump(content))


def test_an_interrupt_leaves_the_cell_to_be_resumed(finished, tmp_path):
    plan = Plan(finished.grid, GridFolder(tmp_path), max_cells=1, save_steps=8)
    interrupted(plan)
    assert plan.folder.state(plan.cells[0]) == INTERRUPTED
    steps = []
    assert run_plan(plan, step=lambda cell, number, total: steps.append((number, total))) == 1
    assert steps == [(n, 18) for n in range(9, 19)]
    assert records(tmp_path) == {k: v for k, v in records(finished.folder.path).items() if k in records(tmp_path)}


def test_a_cell_does_not_go_on_over_another_model(tiny, tmp_path):
    plan = Plan(read_grid(own_grid(tiny, tmp_path)), GridFolder(tmp_path / "out"), max_cells=1, save_steps=8)
    interrupted(plan)
    perturb(tmp_path / "model")
    assert run_plan(plan) == 1
    record = plan.folder.record(plan.cells[0])
    assert record["status"] == FAILED
    assert "different: model weights." in record["error"]["message"]


def test_a_cell_whose_data_were_corrected_begins_anew_when_it_is_retried(tiny, tmp_path):
    train = tmp_path / "mine.jsonl"
    rows = [{"question": f"{n} + 1?", "answer": f"One more.\nThat is {n + 1}.\n#### {n + 1}"} for n in range(20)]
    write_jsonl(rows, train)
    builtin = {"eval_file": ["builtin"], "test_file": ["builtin"]}
    file = own_grid(tiny, tmp_path, train_file=[str(train)], **builtin)
    plan = Plan(read_grid(file), GridFolder(tmp_path / "out"), max_cells=1, save_steps=8)
    cell, other, _ = plan.cells
    interrupted(plan)
    write_jsonl(rows[1:], train)
    assert run_plan(plan) == 1
    failed = plan.folder.record(cell)
    assert "different: training rows." in failed["error"]["message"]
    checkpoints = [plan.folder.prepare(one, failed["environment"]) / "checkpoint-8" for one in (cell, other)]
    assert checkpoints[0].is_dir()
    checkpoints[1].mkdir()
    about = {"address": other.address, "cell": other.options, "seed": other.seed}
    plan.folder.write(other, failed | about | {"error": {"type": "OSError", "message": "disk full", "where": []}})

    plan.forget_failures()
    assert [plan.folder.state(one) for one in (cell, other)] == [OPEN, INTERRUPTED]
    assert [folder.is_dir() for folder in checkpoints] == [False, True]  # a full disk is no reason to begin anew
    assert run_plan(plan) == 1
    record = plan.folder.record(cell)
    assert (record["status"], record["attempt"]["resumed_at_step"]) == (FINISHED, 0)


def test_examples_that_are_too_long_for_the_model_are_answered_and_not_embedded(tiny, tmp_path):
    rows = read_examples("builtin", split="test", count=3, seed=4)[0]
    long = make_example("Is it so? " * 300, ["It is, it is.", "So it is 1."], "1", "builtin", None)
    write_jsonl([rows[0], long, *rows[1:]], tmp_path / "test.jsonl")
    files = {"eval_file": [str(tmp_path / "test.jsonl")], "test_file": [str(tmp_path / "test.jsonl")]}
    grid = read_grid(own_grid(tiny, tmp_path, **files, max_length=400, eval_problems=4, max_steps=2))
    record = run_cell(grid.cell("step", 0), tmp_path / "cell", {}, lambda _names: "q", 8)
    assert len(record["test"]["correct"]) == 4
    steps = sum(len(row["steps"]) for row in rows)
    assert record["test"]["representations"]["consecutive"]["pairs"] == steps - 3


def test_checkpoints_of_other_code_are_not_gone_on_with(finished, tmp_path):
    folder, cell = GridFolder(tmp_path), finished.cells[0]
    work = folder.prepare(cell, {"git": "a"})
    (work / "checkpoint-32").mkdir()
    assert folder.prepare(cell, {"git": "a"}) == work
    assert (work / "checkpoint-32").exists()
    assert folder.prepare(cell, {"git": "b"}) == work
    assert not (work / "checkpoint-32").exists()


def test_what_a_kill_leaves_behind_is_tidied_up(finished, tmp_path, monkeypatch):
    folder, (first, second, _) = GridFolder(tmp_path), finished.cells
    folder.prepare(first, {"git": "a"})
    folder.record_path(first).write_text(finished.folder.record_path(first).read_text())  # killed before deleting
    folder.prepare(second, {"git": "a"})

    def die(path):
        (path / "cell.json").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", die)
        with pytest.raises(KeyboardInterrupt):
            folder.clear(second)  # killed while deleting
    (folder.work / f"{first.address}.lock").touch()  # killed while holding it
    folder.prepare(second, {"git": "b"})
    assert run_plan(Plan(finished.grid, folder, (1, 3))) == 0
    assert {path.name for path in folder.work.iterdir()} == {second.address}


@pytest.mark.slow
def test_a_cell_that_another_runner_drops_is_taken_up(finished, tmp_path):
    plan = Plan(finished.grid, GridFolder(tmp_path))
    done = []
    with ExitStack() as held:
        assert held.enter_context(plan.folder.taken(plan.cells[0]))

        def drop(cell, record):
            held.close()
            done.append(cell.arm)

        assert run_plan(plan, drop) == 3
    assert done == ["step", "shuffled", "plain"]


def test_a_worker_that_dies_is_named_with_its_last_words(tiny, tmp_path, monkeypatch):
    words = [sys.executable, "-c", "import sys; sys.exit('out of luck')"]
    monkeypatch.setattr(
        "stepjepa.experiments.runner._start",
        lambda plan, grid, max_cells, threads, output: subprocess.Popen(words, stderr=output),
    )
    with pytest.raises(UserError, match=r"(?s)2 of 2 processes ended with status 1.*out of luck"):
        main([write(tmp_path, tiny), "--output_dir", str(tmp_path / "out"), "--processes", "2"])


def test_a_worker_stops_when_the_process_that_started_it_has_gone(finished, tmp_path, monkeypatch):
    parents = itertools.chain([7] * 5, itertools.repeat(1))
    monkeypatch.setattr(os, "getppid", lambda: next(parents))
    plan = Plan(finished.grid, GridFolder(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        run_here(plan, threads=1, worker=True)
    assert plan.folder.state(plan.cells[0]) == INTERRUPTED


def test_nothing_is_deleted_that_the_runner_did_not_make(finished, tmp_path):
    folder, cell = GridFolder(tmp_path), finished.cells[0]
    work = tmp_path / "work" / cell.address
    work.mkdir(parents=True)
    (work / "thesis.txt").write_text("mine")
    for act in (lambda: folder.prepare(cell, {}), lambda: folder.clear(cell)):
        with pytest.raises(UserError, match="not made by this command"):
            act()
    assert (work / "thesis.txt").read_text() == "mine"
    folder.record_path(cell).write_text('{"kind": "shopping list"}')
    with pytest.raises(UserError, match="not a record of an ablation cell"):
        folder.state(cell)
    folder.record_path(cell).write_text(json.dumps({"kind": KIND}))
    with pytest.raises(UserError, match="not a record of an ablation cell"):
        folder.state(cell)
    folder.record_path(cell).write_text('{"kind"')
    with pytest.raises(UserError, match="cannot be read"):
        folder.state(cell)
    folder.record_path(cell).write_text(json.dumps({"kind": KIND, "cell": {"lbd": 7}, "status": FINISHED}))
    with pytest.raises(UserError, match="the record of another cell"):
        folder.state(cell)


def test_a_cell_is_taken_by_one_runner(finished, tmp_path):
    """Also within a process: the lock is of the open file, not of the process."""
    folder, (first, second, _) = GridFolder(tmp_path), finished.cells
    with folder.taken(first) as mine:
        assert mine
        assert folder.state(first) == RUNNING
        with folder.taken(first) as again, folder.taken(second) as other:
            assert (again, other) == (False, True)
        assert folder.state(first) == RUNNING  # a runner in vain has not let it go
    assert folder.state(first) == OPEN
    with folder.taken(first) as mine:
        assert mine


def test_a_runner_leaves_out_what_another_holds(finished, tmp_path):
    plan = Plan(finished.grid, GridFolder(tmp_path), max_cells=1)
    with plan.folder.taken(plan.cells[0]):
        done = []
        run_plan(plan, lambda cell, record: done.append(cell.arm))
    assert done == ["step"]


def test_failed_cells_are_recorded_reported_and_in_no_mean(finished, tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = "{name: broken, train_file: gone.jsonl, eval_file: builtin, test_file: builtin}"
    file = write(tmp_path, tiny.replace("seeds: 1", f"  - {files}\nseeds: 2"))
    folder = GridFolder("out")
    folder.path.mkdir()
    for path in finished.folder.path.glob("*.json"):  # records of another folder, merged by copying
        (folder.path / path.name).write_bytes(path.read_bytes())
    words = [file, "--output_dir", "out"]
    assert main([*words, "--max_cells", "1"]) == 1
    said = capsys.readouterr().out
    assert "broken, seed 0: FAILED: UserError" in said
    assert "gone.jsonl" in said
    grid = read_grid(file)
    broken = grid.cell("broken", 0)
    record = folder.record(broken)
    assert record["status"] == FAILED
    assert any("run_cell" in place for place in record["error"]["where"])
    assert not any("/" in place for place in record["error"]["where"])
    assert list(folder.work.iterdir()) == []

    assert main([*words, "--list"]) == 0
    said = capsys.readouterr().out
    assert "3 finished, 1 failed, 4 to run); 4 would be run" in said
    assert main([*words, "--dry_run", "--max_cells", "2", "--retry_failed"]) == 0
    said = capsys.readouterr().out
    assert said.count("seed 0") == 1
    assert said.count("seed 1") == 1
    assert "2 would be run" in said
    assert main([*words, "--report"]) == 0
    said = capsys.readouterr().out
    assert "failed: " in said
    assert "4 of 8 cells have not been run" in said
    assert said.count("to run: ") == 4
    written = json.loads((folder.path / "report-tiny.json").read_text())
    assert list(written["arms"]) == ["plain", "step", "shuffled"]
    assert [each["arm"] for each in written["failed"]] == ["broken"]

    assert main([*words, "--max_cells", "1", "--retry_failed"]) == 1  # tried again, and failed again
    assert folder.record(broken)["status"] == FAILED
    assert folder.state(grid.cell("plain", 1)) == OPEN


def test_shards_are_a_partition(finished):
    plans = [Plan(read_grid("lambda"), finished.folder, (part, 4)) for part in (1, 2, 3, 4)]
    parts = [cell.address for plan in plans for cell in plan.cells]
    assert sorted(parts) == sorted(cell.address for cell in plans[0].grid.cells)
    assert len(set(parts)) == len(parts) == 35
    assert max(len(plan.cells) for plan in plans) - min(len(plan.cells) for plan in plans) == 1
    assert parse_shard("2/3") == (2, 3)
    for wrong in ("0/3", "4/3", "1", "1/0", "a/b", "-1/2"):
        with pytest.raises(UserError, match="--shard"):
            parse_shard(wrong)
    assert "(another shard)" in list_cells(plans[0], only_wanted=False)


def test_options_are_checked(tiny, tmp_path, monkeypatch):
    file = write(tmp_path, tiny)
    for words, message in (
        (["--processes", "0"], "--processes 0"),
        (["--threads_per_process", "0"], "--threads_per_process 0"),
        (["--max_cells", "0"], "--max_cells 0"),
        (["--report", "--output_dir", str(tmp_path / "none")], "no cell of tiny has finished"),
    ):
        with pytest.raises(ValueError, match=message):
            main([file, *words])
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="torchrun"):
        main([file, "--output_dir", str(tmp_path / "none")])


def test_smaller_training_sets_are_parts_of_larger_ones():
    def questions(**options):
        train, validation, test = cell_data(CellOptions(eval_problems=3, accuracy_problems=4, **options))
        return [[example["question"] for example in split] for split in (train, validation, test)]

    large, validation, test = questions(problems=40, problem_seed=5)
    small, *held_out = questions(problems=10, problem_seed=5)
    assert small == large[:10]
    assert held_out == [validation, test]
    drawn = [questions(problems=40, problem_seed=5, train_examples=count)[0] for count in (5, 10, 40)]
    assert drawn[0] == drawn[1][:5]
    assert drawn[1] == drawn[2][:10]
    assert drawn[2] != large
    assert sorted(drawn[2]) == sorted(large)
    assert questions(problems=40, problem_seed=6)[0] != large
    assert not {*large} & {*validation, *test}
    assert not {*validation} & {*test}
    with pytest.raises(ValueError, match="train_examples=41: the training data has 40"):
        questions(problems=40, train_examples=41)


def test_each_source_of_a_test_split_is_measured_as_if_alone(tiny, tmp_path):
    kinds = ["builtin", "builtin:logic"]
    folder = GridFolder(tmp_path / "out")
    cells = []
    for files in (f"test_file: {kinds}, eval_file: {kinds}", "test_file: builtin", "test_file: builtin:logic"):
        arms = f'arms: [{{train_file: "builtin:logic", {files}}}]\nseeds: 1\n'
        grid = read_grid(write(tmp_path, tiny.partition("arms:")[0] + arms))
        assert run_plan(Plan(grid, folder)) == 1
        cells += grid.cells
    both, *alone = (folder.record(cell)["test"] for cell in cells)
    assert set(both["by_source"]) == {"builtin", "logic"}
    for part, single in zip(both["by_source"].values(), alone, strict=True):
        assert "by_source" not in single
        assert {part[name] for name in ("questions", "correct")} == {single[name] for name in ("questions", "correct")}
        assert part["lm_loss"] == pytest.approx(single["lm_loss"], rel=1e-4)
        for pairs, figures in part["representations"].items():
            assert figures == pytest.approx(single["representations"][pairs], rel=1e-3, abs=1e-4)
    assert len(both["correct"]) == 8
    pairs = [part["representations"]["consecutive"]["pairs"] for part in (both, *alone)]
    assert pairs[0] == pairs[1] + pairs[2]


# -------- the report --------


def invent(grid, folder, solved, questions=60):
    """Records whose answers are drawn: `solved[arm]` is the chance of a correct one, by split."""
    for cell in grid.cells:
        draw = np.random.default_rng(cell.seed)
        ease = draw.random(questions)

        def split(chance, ease=ease):
            correct = "".join(str(int(u < chance)) for u in ease)
            views = {"pairs": 9, "recall_all": chance, "effective_rank_target": 3.0}
            return {
                "questions": "q",
                "correct": correct,
                "accuracy": correct.count("1") / questions,
                "lm_loss": 0.5,
                "jepa_loss": 0.1,
                "truncated": 0.0,
                "representations": {"first": views, "consecutive": views},
            }

        validation, test = solved[cell.arm]
        by_source = {"a": split(test), "b": split(validation)}
        folder.write(cell, cell_record(cell, split(validation), split(test) | {"by_source": by_source}))


def test_the_report_pairs_seeds_and_questions_and_chooses_on_validation(tiny, tmp_path):
    grid = read_grid(write(tmp_path, tiny.replace("seeds: 1", "seeds: 4")))
    folder = GridFolder(tmp_path / "out")
    invent(grid, folder, {"plain": (0.3, 0.3), "step": (0.9, 0.7), "shuffled": (0.5, 0.9)})
    found = report(grid, folder, draws=500)
    assert found["chosen"] == "step"  # though `shuffled` is better on the test split
    assert (found["unfinished"], found["failed"], found["warnings"]) == ([], [], [])
    step, shuffled = found["comparisons"]
    assert (step["arm"], step["baseline"], step["seeds"]) == ("step", "plain", [0, 1, 2, 3])
    correct = {
        arm: np.array(
            [[mark == "1" for mark in folder.record(grid.cell(arm, seed))["test"]["correct"]] for seed in range(4)]
        )
        for arm in grid.arms
    }
    assert step["value"] == pytest.approx(correct["step"].mean() - correct["plain"].mean())
    assert step["by_seed"] == pytest.approx(correct["step"].mean(axis=1) - correct["plain"].mean(axis=1))
    assert step["lost"] == 0  # each seed's easier questions are the same for all arms: the pairing holds
    assert step["gained"] == (correct["step"] & ~correct["plain"]).sum()
    assert step["low"] < step["value"] < step["high"]
    assert step["bootstrap"]["low"] < step["value"] < step["bootstrap"]["high"]
    assert shuffled["p_holm"] >= shuffled["p"]
    arm = found["arms"]["step"]
    assert arm["test"]["by_seed"] == pytest.approx(correct["step"].mean(axis=1))
    assert arm["validation"]["first_recall_all"] == {"mean": 0.9, "low": 0.9, "high": 0.9, "seeds": 4}
    text = format_report(found)
    assert step["by_source"]["a"]["value"] == step["value"]
    chances = {seed: np.random.default_rng(seed).random(60) for seed in range(4)}
    wanted = np.mean([((ease >= 0.3) & (ease < 0.9)).mean() for ease in chances.values()])
    assert step["by_source"]["b"]["value"] == pytest.approx(wanted)
    assert arm["by_source"]["b"]["accuracy"] == pytest.approx(arm["validation"]["accuracy"])
    assert "b: test LM loss" in text
    assert "best on validation: step" in text
    assert f"{100 * step['value']:+.1f}" in text


def test_missing_and_diverged_cells_are_said(tiny, tmp_path):
    grid = read_grid(write(tmp_path, tiny.replace("seeds: 1", "seeds: 3")))
    folder = GridFolder(tmp_path / "out")
    invent(grid, folder, {"plain": (0.3, 0.3), "step": (0.5, 0.5), "shuffled": (0.4, 0.4)})
    folder.record_path(grid.cell("plain", 1)).unlink()
    cell = grid.cell("step", 2)
    record = folder.record(cell)
    record["validation"] |= {"lm_loss": None, "representations": {"first": {"pairs": 9}, "consecutive": {"pairs": 9}}}
    record["environment"] = {"git": {"commit": "def", "dirty": True}, "hardware": {"cores": 3}}
    folder.write(cell, record)
    found = report(grid, folder, draws=500)
    assert [each["seeds"] for each in found["comparisons"]] == [[0, 2], [0, 2]]
    assert found["arms"]["step"]["validation"]["lm_loss"]["seeds"] == 2
    said = " ".join(found["warnings"])
    for words in (
        "1 of 9 cells have not been run",
        "diverged with seed 2",
        "def with changes (1)",
        "2 kinds of hardware",
    ):
        assert words in said
    assert f"to run: {grid.cell('plain', 1).address}  plain, seed 1" in format_report(found)


def test_cells_of_changed_files_are_named(tiny, tmp_path):
    arms = "  - {name: few, lbd: 0.3, problems: 20}\nseeds: 2"
    grid = read_grid(write(tmp_path, tiny.replace("seeds: 1", arms)))
    folder = GridFolder(tmp_path / "out")
    invent(grid, folder, dict.fromkeys(grid.arms, (0.5, 0.5)))

    def warnings(changed):
        for cell in grid.cells:
            few = "few " * (cell.arm == "few")
            own = {"training rows": f"{few}rows of seed {cell.seed}", "model weights": "a"}
            folder.write(cell, folder.record(cell) | {"digests": own | changed.get(cell.name, {})})
        return report(grid, folder, draws=50)["warnings"]

    assert warnings({}) == []
    rows, model = {"training rows": "other rows"}, {"model weights": "b"}
    assert warnings({"step, seed 1": rows}) == [
        "training rows differ under the same names, as files have changed: some in plain with seed 1, shuffled with "
        "seed 1; others in step with seed 1"
    ]
    assert warnings({"few, seed 0": rows}) == []  # there is nothing to compare it with
    found = warnings({"plain, seed 1": model, "few, seed 1": model})
    assert found == [
        "model weights differ under the same names, as files have changed: some in plain with seed 0, step with seed "
        "0, 1, shuffled with seed 0, 1, few with seed 0; others in plain with seed 1, few with seed 1"
    ]


def test_different_questions_are_not_compared(tiny, tmp_path):
    grid = read_grid(write(tmp_path, tiny))
    folder = GridFolder(tmp_path / "out")
    invent(grid, folder, dict.fromkeys(grid.arms, (0.5, 0.5)))
    record = folder.record(grid.cells[0])
    record["test"]["questions"] = "other"
    folder.write(grid.cells[0], record)
    with pytest.raises(ValueError, match="different test questions"):
        report(grid, folder)


def test_cells_are_counted_once_and_single_seeds_are_named(tmp_path):
    """At λ = 0 every loss is the same cell; one arm with a single seed among others with two is no comparison of seeds."""
    file = tmp_path / "shared.yaml"
    file.write_text(
        "seeds: [0, 1]\naxes: {lbd: [0, 0.1], jepa_loss_type: [cosine, l2]}\nbaseline: lbd=0, jepa_loss_type=cosine\n"
    )
    grid, folder = read_grid(str(file)), GridFolder(tmp_path / "cells")
    folder.path.mkdir()
    invent(grid, folder, dict.fromkeys(grid.arms, (0.5, 0.5)))
    assert not [line for line in report(grid, folder, draws=10)["warnings"] if "seed" in line or "cells" in line]
    folder.record_path(grid.cell("lbd=0, jepa_loss_type=l2", 1)).unlink()
    folder.record_path(grid.cell("lbd=0.1, jepa_loss_type=l2", 1)).unlink()
    found = report(grid, folder, draws=10)
    assert "2 of 6 cells have not been run to the end; what is said is provisional" in found["warnings"]
    (single,) = [line for line in found["warnings"] if "intervals cover the choice of questions" in line]
    assert single.startswith(
        "one seed of lbd=0, jepa_loss_type=cosine, lbd=0, jepa_loss_type=l2, lbd=0.1, jepa_loss_type=l2:"
    )
    missing = [line for line in format_report(found).splitlines() if line.startswith("to run: ")]
    assert len(missing) == 2
    assert sum("lbd=0, jepa_loss_type=cosine = lbd=0, jepa_loss_type=l2, seed 1" in line for line in missing) == 1
