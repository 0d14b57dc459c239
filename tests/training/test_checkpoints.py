"""Checkpoints are complete or absent; a killed run resumes to the same weights, bit for bit."""

import errno
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
from safetensors.torch import load_file, save_file
from small_models import small_rows

from stepjepa.records import UserError
from stepjepa.training.checkpoints import NoCheckpointError, clear_staging, damage, newest_complete, publish

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
    assert skipped[0].startswith("checkpoint-99: it has no manifest.json, which is written last")
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


FILES = ("optimizer.pt", "model.safetensors", "rng_state.pth", "scheduler.pt", "trainer_state.json", "manifest.json")


@pytest.fixture
def copied(uninterrupted, tmp_path):
    """The last checkpoint of a run and, as an older one, the same again."""
    for name in ("checkpoint-10", "checkpoint-9"):
        shutil.copytree(Path(uninterrupted.args.output_dir) / "checkpoint-10", tmp_path / name)
    return tmp_path / "checkpoint-10"


@pytest.mark.parametrize("file", FILES)
def test_each_damaged_file_is_noticed_and_the_checkpoint_before_is_taken(copied, file):
    assert damage(copied) is None
    content = (copied / file).read_bytes()
    for place in (0, len(content) // 3, len(content) - 2):  # a flipped bit keeps the size
        (copied / file).write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert file in damage(copied)
    (copied / file).write_bytes(content[: len(content) // 2])
    assert file in damage(copied)
    (copied / file).unlink()
    assert file in damage(copied)
    path, skipped = newest_complete(copied.parent)
    assert path.name == "checkpoint-9"
    assert file in skipped[0]


def test_weights_of_another_model_are_noticed(copied):
    other = load_file(copied / "model.safetensors")
    save_file({name: weight + 1 for name, weight in other.items()}, copied / "model.safetensors", {"format": "pt"})
    assert damage(copied) == "model.safetensors is not what was saved (its checksum differs)"
    shutil.rmtree(copied.parent / "checkpoint-9")
    with pytest.raises(NoCheckpointError, match=r"checkpoint-10: model\.safetensors is not what was saved"):
        newest_complete(copied.parent)
    with pytest.raises(NoCheckpointError, match="no checkpoint-N folder"):
        newest_complete(copied.parent / "nothing")


def test_a_checkpoint_without_optimizer_is_none_to_resume_from(tmp_path):
    trainer = make(str(tmp_path), max_steps=1, save_steps=1, save_only_model=True)
    trainer.train()
    assert "no optimizer state" in damage(tmp_path / "checkpoint-1")


@pytest.mark.parametrize(
    ("options", "different"),
    [
        ({"lbd": 0.7}, r"lbd \(0.1 → 0.7\)"),
        ({"seed": 6}, r"seed \(5 → 6\)"),
        ({"pairs": "first", "horizon": 2}, r"pairs \(consecutive → first\), horizon \(1 → 2\)|horizon.*pairs"),
        ({"learning_rate": 1.0}, r"learning_rate \(0.01 → 1.0\)"),
        ({"per_device_train_batch_size": 1}, r"per_device_train_batch_size \(2 → 1\)"),
        ({"max_steps": 12}, r"max_steps \(10 → 12\)"),
        ({"rows": small_rows(14, seed=3)}, "training rows"),
        ({"rows": small_rows(13)}, "training rows"),
        ({"architecture": "gpt2"}, r"model \(LlamaForCausalLM of .* → GPT2LMHeadModel of"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
def test_a_resume_with_other_settings_or_data_stops_and_names_them(uninterrupted, options, different):
    folder = Path(uninterrupted.args.output_dir)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    trainer = make(str(folder), **options)
    with pytest.raises(
        UserError, match=f"checkpoint-10 is of a run with other settings or data; different: .*{different}"
    ):
        trainer.train(resume_from_checkpoint=str(folder / "checkpoint-10"))
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.parametrize("strategy", ["random", "group_by_length", "batch_rebalance"])
def test_rows_come_in_an_order_of_seed_and_epoch_alone(tmp_path, strategy):
    """Over three epochs: the arm draws other random numbers than plain training, a resume begins in a later epoch."""

    def run(name, resume=None, **options):
        args = {"max_steps": 12, "save_total_limit": None, "eval_strategy": "no"} | options
        trainer = make(str(tmp_path / name), train_sampling_strategy=strategy, **args)
        order, collate = [], trainer.data_collator

        def noted(rows):
            order.extend(tuple(row["input_ids"]) for row in rows)
            return collate(rows)

        trainer.data_collator = noted
        trainer.train(resume_from_checkpoint=resume)
        return trainer, order

    whole, order = run("whole")
    _, plain = run("plain", lbd=0.0)
    _, other = run("other", seed=6, max_steps=4)
    assert order == plain
    size = len(order) // 3  # the last microbatch of an epoch may be filled up
    epochs = [tuple(order[start : start + size]) for start in (0, size, 2 * size)]
    assert {len(set(epoch)) for epoch in epochs} == {14}  # all rows in each epoch
    assert len(set(epochs)) == 3
    assert epochs[0] != tuple(other[:size])
    for step in (3, 6, 9):
        again, _ = run("again", str(tmp_path / "whole" / f"checkpoint-{step}"))
        assert torch.equal(weights(again), weights(whole))


@pytest.mark.parametrize(
    ("column", "option"), [("separator", {"pooling": "content"}), ("part_ids", {"pairs": "hierarchy"})]
)
def test_what_rows_say_beside_their_tokens_is_compared_where_it_is_read(tmp_path, column, option):
    def rows(last):
        """With the last token of each step as its separator and a part of its own, or with neither."""
        made = small_rows(4)
        for row in made:
            step_ids = row["step_ids"]
            ends = [step >= 0 and after != step for step, after in zip(step_ids, [*step_ids[1:], -1], strict=True)]
            row["separator"] = [last * int(end) for end in ends]
            row["part_ids"] = [-1 if step < 0 else last * int(end) for step, end in zip(step_ids, ends, strict=True)]
        return made

    short = {"max_steps": 1, "save_steps": 1, "eval_strategy": "no"}
    read, unread = tmp_path / "read", tmp_path / "unread"
    make(str(read), rows=rows(0), **short, **option).train()
    make(str(read), rows=rows(0), **short, **option).train(resume_from_checkpoint=True)
    with pytest.raises(UserError, match=rf"different: {column}\."):
        make(str(read), rows=rows(1), **short, **option).train(resume_from_checkpoint=True)
    make(str(unread), rows=rows(0), **short).train()
    make(str(unread), rows=rows(1), **short).train(resume_from_checkpoint=True)


def test_what_changes_no_weight_may_differ(uninterrupted, tmp_path):
    where = Path(uninterrupted.args.output_dir) / "checkpoint-10"
    trainer = make(str(tmp_path), save_steps=7, logging_steps=2, save_total_limit=None, dataloader_num_workers=0)
    trainer.train(resume_from_checkpoint=str(where))
    assert torch.equal(weights(trainer), weights(uninterrupted))


def test_a_longer_run_goes_on_where_the_learning_rate_is_constant(tmp_path):
    constant = {"lr_scheduler_type": "constant", "warmup_steps": 0, "eval_strategy": "no"}
    make(str(tmp_path), max_steps=2, **constant).train()
    longer = make(str(tmp_path), max_steps=3, **constant)
    longer.train(resume_from_checkpoint=True)
    whole = make(str(tmp_path / "whole"), max_steps=3, **constant)
    whole.train()
    assert torch.equal(weights(longer), weights(whole))


def test_logged_figures_do_not_depend_on_a_stop_within_their_interval(tmp_path):
    """The fourth optimizer step is logged; the run goes on after the third."""
    options = {"max_steps": 5, "logging_steps": 4, "eval_strategy": "no"}
    whole = make(str(tmp_path), **options)
    whole.train()
    shutil.rmtree(tmp_path / "checkpoint-5")
    resumed = make(str(tmp_path), **options)
    output = resumed.train(resume_from_checkpoint=True)
    timed = ("runtime", "per_second", "preparation_time", "flos")
    kept = [
        [{k: v for k, v in entry.items() if not k.endswith(timed)} for entry in trainer.state.log_history]
        for trainer in (whole, resumed)
    ]
    assert kept[0] == kept[1]
    assert output.training_loss == output.metrics["train_loss"] == whole.state.log_history[-1]["train_loss"]
    assert resumed.train(resume_from_checkpoint=True).training_loss == output.training_loss  # nothing is left to do


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
    clear_staging(tmp_path)
    assert staging.exists()  # nothing marks it as made by us


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("PytorchStreamWriter failed")]
)
def test_a_full_disk_is_one_sentence_and_leaves_what_was_saved(tmp_path, monkeypatch, error):
    trainer = make(str(tmp_path))
    save = trainer._save_optimizer_and_scheduler

    def full(folder):
        if trainer.state.global_step == 6:
            raise error
        save(folder)

    monkeypatch.setattr(trainer, "_save_optimizer_and_scheduler", full)
    with pytest.raises(UserError, match=r"checkpoint-6 cannot be written: (No space left|the disk took less)"):
        trainer.train()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-3"]
    assert damage(tmp_path / "checkpoint-3") is None


def test_training_stops_before_the_weights_where_the_loss_is_no_number(tmp_path):
    trainer = make(str(tmp_path), learning_rate=1e30, eval_strategy="no", warmup_steps=0)
    with pytest.raises(
        UserError,
        match=r"stopped at optimizer step (\d) of 10: the loss is (nan|inf) in the microbatch.* of training row \d+.*learning_rate \(it is 1e\+30\)",
    ):
        trainer.train()
    assert not list(tmp_path.iterdir())
    with torch.no_grad():
        next(trainer.model.parameters())[0, 0] = float("nan")
    with pytest.raises(UserError, match="not finite numbers"):
        trainer.save_model()
    assert not list(tmp_path.iterdir())


def test_training_stops_where_only_the_gradient_is_no_number(tmp_path):
    trainer = make(str(tmp_path), max_grad_norm=0)
    next(trainer.model.parameters()).register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(UserError, match=r"step 1 of 10: the norm of the gradients is nan in the microbatches of"):
        trainer.train()


def test_a_damaged_best_checkpoint_is_not_loaded(tmp_path):
    trainer = make(str(tmp_path))
    trainer.args.load_best_model_at_end = True
    load = trainer._load_best_model

    def damaged():
        path = Path(trainer.state.best_model_checkpoint, "model.safetensors")
        path.write_bytes(path.read_bytes()[:-1] + b"x")
        load()

    trainer._load_best_model = damaged
    with pytest.raises(NoCheckpointError, match=r"model\.safetensors is not what was saved"):
        trainer.train()


def test_the_best_checkpoint_is_loaded_at_the_end(tmp_path):
    trainer = make(str(tmp_path))
    trainer.args.load_best_model_at_end = True
    trainer.train()
    best = Path(trainer.state.best_model_checkpoint)
    assert best.parent == tmp_path
    evaluations = {e["step"]: e["eval_loss"] for e in trainer.state.log_history if "eval_loss" in e}
    assert best.name == f"checkpoint-{min(evaluations, key=evaluations.get)}"
    assert trainer.evaluate()["eval_loss"] == pytest.approx(min(evaluations.values()), rel=1e-6)
