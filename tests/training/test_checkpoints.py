"""Checkpoints are complete or absent; a killed run resumes to the same weights, bit for bit."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from resume_worker import make

from stepjepa.training.checkpoints import NoCheckpointError, damage, newest_complete, publish

WORKER = Path(__file__).parents[1] / "resume_worker.py"


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def losses(trainer):
    return [(e["step"], e["loss"], e.get("jepa_loss")) for e in trainer.state.log_history if "loss" in e]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    torch.set_num_threads(1)
    trainer = make(str(tmp_path_factory.mktemp("uninterrupted")))
    trainer.train()
    return trainer


@pytest.mark.slow
@pytest.mark.parametrize(("death", "last"), [("training", 6), ("saving", 3)])
def test_a_killed_run_resumes_to_the_same_weights(uninterrupted, tmp_path, death, last):
    done = subprocess.run([sys.executable, str(WORKER), str(tmp_path), death], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL
    path, skipped = newest_complete(tmp_path)
    assert path.name == f"checkpoint-{last}"
    assert skipped == []  # nothing half-written carries a checkpoint's name
    assert (death == "saving") == any(entry.name.startswith(".staging") for entry in tmp_path.iterdir())

    torch.set_num_threads(1)
    trainer = make(str(tmp_path))
    trainer.train(resume_from_checkpoint=True)
    assert torch.equal(weights(trainer), weights(uninterrupted))
    assert losses(trainer) == losses(uninterrupted)
    assert not any(entry.name.startswith(".staging") for entry in tmp_path.iterdir())
    assert {entry.name for entry in tmp_path.iterdir() if entry.is_dir()} <= {f"checkpoint-{n}" for n in range(11)}


def test_a_truncated_newer_checkpoint_is_skipped_and_named(uninterrupted, warnings_of_transformers):
    folder = Path(uninterrupted.args.output_dir)
    broken = folder / "checkpoint-99"
    broken.mkdir()
    (broken / "trainer_state.json").write_text('{"global_step": 99')
    path, skipped = newest_complete(folder)
    assert path.name == "checkpoint-10"
    assert len(skipped) == 1
    assert skipped[0].startswith("checkpoint-99: trainer_state.json")
    trainer = make(str(folder))
    trainer.train(resume_from_checkpoint=True)
    assert any(
        "Skipped an incomplete checkpoint: checkpoint-99" in record.message
        for record in warnings_of_transformers.records
    )
    assert trainer.state.global_step == 10  # a finished run has nothing left to do
    assert torch.equal(weights(trainer), weights(uninterrupted))
    with pytest.raises(NoCheckpointError, match="checkpoint-99"):
        trainer.train(resume_from_checkpoint=str(broken))


def test_limits_best_and_content(uninterrupted):
    folder = Path(uninterrupted.args.output_dir)
    names = {entry.name for entry in folder.iterdir()} - {"checkpoint-99"}
    best = Path(uninterrupted.state.best_model_checkpoint)
    assert best.parent == folder
    assert names == {"checkpoint-10", best.name}  # save_total_limit=2 keeps the newest and the best
    assert (folder / "checkpoint-10" / "tokenizer.txt").read_text() == "tokens"
    state = json.loads((folder / "checkpoint-10" / "trainer_state.json").read_text())
    assert ".staging" not in str(state["best_model_checkpoint"])


@pytest.mark.parametrize(
    ("file", "what"),
    [
        ("optimizer.pt", "truncated"),
        ("model.safetensors", "cannot be read"),
        ("rng_state.pth", "truncated"),
        ("scheduler.pt", "truncated"),
        ("trainer_state.json", "cannot be read"),
    ],
)
def test_each_truncated_file_is_noticed(uninterrupted, tmp_path, file, what):
    copy = tmp_path / "checkpoint-10"
    shutil.copytree(Path(uninterrupted.args.output_dir) / "checkpoint-10", copy)
    assert damage(copy) is None
    content = (copy / file).read_bytes()
    (copy / file).write_bytes(content[: len(content) // 2])
    assert what in damage(copy)
    assert file in damage(copy)


def test_missing_files_and_no_checkpoint_at_all(uninterrupted, tmp_path):
    copy = tmp_path / "checkpoint-10"
    shutil.copytree(Path(uninterrupted.args.output_dir) / "checkpoint-10", copy)
    (copy / "optimizer.pt").unlink()
    assert "optimizer" in damage(copy)
    (copy / "model.safetensors.index.json").write_text("{")
    assert "index.json cannot be read" in damage(copy)
    (copy / "model.safetensors.index.json").unlink()
    with pytest.raises(NoCheckpointError, match="checkpoint-10: it has no optimizer state"):
        newest_complete(tmp_path)
    with pytest.raises(NoCheckpointError, match="no checkpoint-N folder"):
        newest_complete(tmp_path / "nothing")


def test_a_checkpoint_of_the_same_name_is_replaced(uninterrupted, tmp_path):
    """Going on from an earlier checkpoint meets the later ones again."""
    shutil.copytree(Path(uninterrupted.args.output_dir) / "checkpoint-10", tmp_path / "checkpoint-3")
    (tmp_path / "checkpoint-3" / "stale").write_text("left over")
    trainer = make(str(tmp_path))
    trainer.train()
    assert not any(tmp_path.rglob("stale"))
    assert newest_complete(tmp_path)[0].name == "checkpoint-10"


@pytest.mark.parametrize("deadly", [1, 2])
def test_a_kill_between_the_renames_of_a_replacement_loses_nothing(uninterrupted, tmp_path, monkeypatch, deadly):
    final, staging = tmp_path / "checkpoint-10", tmp_path / ".staging-checkpoint-10"
    shutil.copytree(Path(uninterrupted.args.output_dir) / "checkpoint-10", final)
    shutil.copytree(final, staging / "checkpoint-10")
    (staging / "checkpoint-10" / "new").write_text("yes")
    renames = []

    def rename(a, b, _rename=os.rename):
        renames.append(a)
        if len(renames) == deadly:
            raise KeyboardInterrupt
        _rename(a, b)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(KeyboardInterrupt):
        publish(staging / "checkpoint-10", final)
    monkeypatch.undo()
    path, skipped = newest_complete(tmp_path)
    assert (path, skipped) == (final, [])
    assert (final / "new").exists() == (deadly == 2)


def test_the_best_checkpoint_is_loaded_at_the_end(tmp_path):
    trainer = make(str(tmp_path))
    trainer.args.load_best_model_at_end = True
    trainer.train()
    best = Path(trainer.state.best_model_checkpoint)
    assert best.parent == tmp_path
    evaluations = {e["step"]: e["eval_loss"] for e in trainer.state.log_history if "eval_loss" in e}
    assert best.name == f"checkpoint-{min(evaluations, key=evaluations.get)}"
    assert trainer.evaluate()["eval_loss"] == pytest.approx(min(evaluations.values()), rel=1e-6)
