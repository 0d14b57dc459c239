"""Training data on disk: the same rows, in the same order, as in memory; found again; nothing held that grows."""

import json
import os
import shutil
import tracemalloc
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from launching import torchrun
from safetensors.torch import load_file
from small_trainer import flat_weights, make_trainer

from stepjepa.commands.main import main
from stepjepa.data.sources import read_examples
from stepjepa.data.tokens import tokenize_dataset
from stepjepa.jepa.pairs import BranchLayout
from stepjepa.models.loading import load_model
from stepjepa.records import UserError
from stepjepa.training.dataset import COLUMNS, TrainingRows
from stepjepa.training.disk import examples_on_disk, rows_on_disk
from stepjepa.training.identity import rows_digest
from stepjepa.training.options import RunOptions
from stepjepa.training.splits import read_data

KINDS = ["builtin:logic", "builtin"]
SMALL = (
    "train --problems 24 --batch_size 2 --grad_accum 1 --eval_problems 0 --accuracy_problems 0 --use_cpu --report_to none"
).split()
"""A run that only trains."""


@pytest.fixture(scope="module")
def tokenizer():
    return load_model()[1]


def test_rows_on_disk_are_those_in_memory(tmp_path, tokenizer):
    layout = BranchLayout(pairs="consecutive", max_length=170)  # too short for some
    examples, said = examples_on_disk(KINDS, tmp_path, 2, count=40, seed=2)
    expected, report = read_examples(KINDS, count=40, seed=2)
    assert list(examples) == expected
    assert (examples[3], len(examples), said) == (expected[3], 80, str(report))
    there = TrainingRows(tokenizer, layout, None)
    here = TrainingRows(tokenizer, layout, None)
    rows, wanted = there(examples, "train"), here(expected, "train")
    assert [rows[n] for n in range(len(rows))] == wanted
    assert there.sources == here.sources == ["logic", "builtin"]
    assert there.reports["train"].cut > 0
    assert there.reports["train"].skipped > 0
    assert asdict(there.reports["train"]) == asdict(here.reports["train"]) | {"skipped_indices": []}
    assert rows_digest(rows) == rows_digest(wanted)


def test_a_step_from_disk_is_that_from_memory(tmp_path):
    """The trainer is handed rows of a dataset on disk, with the source of each, and reads them one by one."""
    from datasets import Dataset

    model, tokenizer = load_model()
    rows, _ = tokenize_dataset(read_examples(KINDS, count=8)[0], tokenizer)
    Dataset.from_list(rows).save_to_disk(tmp_path / "rows")
    weights = []
    for dataset in (rows, Dataset.load_from_disk(tmp_path / "rows")):
        model, _ = load_model()
        trainer = make_trainer(tmp_path / "out", model=model, rows=dataset, lbd=0.5, pairs="consecutive", max_steps=2)
        assert trainer.sources == ["logic", "builtin"]
        trainer.train()
        weights.append(flat_weights(trainer.model))
    assert not isinstance(trainer.train_dataset, list)
    assert (weights[0] == weights[1]).all()


def test_the_files_are_found_again_and_other_data_are_others(tmp_path, tokenizer):
    source = tmp_path / "mine.jsonl"
    rows = [{"question": f"{n} + 1?", "answer": f"One more.\nThat is {n + 1}.\n#### {n + 1}"} for n in range(9)]
    source.write_text("\n".join(map(json.dumps, rows)))
    folder = tmp_path / "cache"
    once = examples_on_disk([str(source)], folder, 1)[0]
    first = rows_on_disk(once, tokenizer, BranchLayout())
    files = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    again = rows_on_disk(examples_on_disk([str(source)], folder, 1)[0], tokenizer, BranchLayout())
    assert next(again.arrays(COLUMNS))["input_ids"].tolist() == first.dataset[0]["input_ids"]
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == files
    rows_on_disk(once, tokenizer, BranchLayout(max_length=40))
    source.write_text("\n".join(map(json.dumps, rows[:5])))
    assert len(examples_on_disk([str(source)], folder, 1)[0]) == 5
    assert len(list(folder.glob("rows-*.arrow"))) == len(list(folder.glob("examples-*.arrow"))) == 2


def solved(count, what):
    return [{"question": f"{n} {what}?", "answer": f"One more.\nThat is {n + 1}.\n#### {n + 1}"} for n in range(count)]


def questions_on_disk(source, folder):
    examples, _ = examples_on_disk([str(source)], folder, 1, count=4)
    return [example["question"] for example in examples]


def test_a_saved_data_set_that_was_saved_anew_is_read_again(tmp_path):
    from datasets import Dataset

    source, folder = tmp_path / "saved", tmp_path / "cache"
    Dataset.from_list(solved(3, "apples")).save_to_disk(source)
    assert questions_on_disk(source, folder) == questions_on_disk(source, folder) == [f"{n} apples?" for n in range(3)]
    shutil.rmtree(source)
    Dataset.from_list(solved(3, "melons")).save_to_disk(source)
    assert questions_on_disk(source, folder) == [f"{n} melons?" for n in range(3)]
    assert len(list(folder.glob("examples-*.arrow"))) == 2


def test_a_file_of_another_name_and_the_same_length_is_read_again(tmp_path):
    source, folder = tmp_path / "mine", tmp_path / "cache"
    source.mkdir()
    for name, what in (("a", "apples"), ("b", "melons")):
        (source / f"{name}.jsonl").write_text(json.dumps(solved(1, what)[0]))
        os.utime(source / f"{name}.jsonl", ns=(1, 1))
    assert questions_on_disk(source, folder) == ["0 apples?", "0 melons?"]
    (source / "a.jsonl").rename(source / "c.jsonl")
    assert questions_on_disk(source, folder) == ["0 melons?", "0 apples?"]


def test_a_data_set_of_another_commit_on_the_hub_is_read_again(tmp_path, monkeypatch):
    hub = {"commit": "1a", "rows": solved(2, "apples")}
    asked = []

    def load(name, config, *, split):
        asked.append((name, config, split))
        return hub["rows"]

    monkeypatch.setattr("datasets.load_dataset", load)
    monkeypatch.setattr(
        "datasets.load_dataset_builder", lambda _name, config: SimpleNamespace(hash=f"{hub['commit']} {config}")
    )
    first = [questions_on_disk("some/data:easy:test", tmp_path) for _ in range(2)]
    assert first == [["0 apples?", "1 apples?"]] * 2
    assert asked == [("some/data", "easy", "test")]  # once
    hub |= {"commit": "2b", "rows": solved(2, "melons")}
    assert questions_on_disk("some/data:easy:test", tmp_path) == ["0 melons?", "1 melons?"]


def test_built_in_problems_of_another_version_are_drawn_again(tmp_path, monkeypatch):
    assert len(questions_on_disk("builtin", tmp_path)) == 4
    monkeypatch.setattr("stepjepa.data.origins.version", lambda _package: "99")
    questions_on_disk("builtin", tmp_path)
    assert len(list(tmp_path.glob("examples-*.arrow"))) == 2


def test_what_reading_holds_does_not_grow_with_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr("stepjepa.training.disk._BATCH", 50)
    source = tmp_path / "mine.jsonl"
    peaks = []
    for count in (300, 1200):
        row = {"question": "?", "answer": "Seven is a number, and so is eight.\nThat is 7.\n#### 7"}
        source.write_text("\n".join(json.dumps(row | {"question": f"{n}?"}) for n in range(count)))
        examples_on_disk([str(source)], tmp_path / "warm", 1)  # what is imported on the way counts for nothing
        tracemalloc.start()
        examples, _ = examples_on_disk([str(source)], tmp_path / "cache", 1)
        assert len(examples) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


def test_a_run_reads_from_disk_and_what_it_cannot_do_is_said(tmp_path):
    folder = str(tmp_path / "cache")
    data = read_data(RunOptions(problems=6, eval_problems=3, accuracy_problems=2, cache_dir=folder), str)
    assert [row["source"] for row in data.train] == ["builtin"] * 6
    assert (len(data.evaluation), len(data.problems)) == (3, 2)
    with pytest.raises(UserError, match="leave out weights"):
        read_data(RunOptions(train_file=["builtin:1", "builtin:logic:2"], cache_dir=folder), str)
    source = tmp_path / "mine.jsonl"
    source.write_text(json.dumps({"question": "?", "answer": "It is seven.\n#### 7"}))
    with pytest.raises(UserError, match="name an --eval_file, or none"):
        read_data(RunOptions(train_file=[str(source)], cache_dir=folder), str)
    assert len(read_data(RunOptions(train_file=[str(source)], cache_dir=folder, eval_file=["none"]), str).train) == 1


def test_arrays_are_the_rows(tmp_path, tokenizer):
    examples, _ = examples_on_disk(["builtin"], tmp_path, 1, count=5)
    rows = rows_on_disk(examples, tokenizer, BranchLayout())
    for row, arrays in zip(rows.dataset, rows.arrays(("input_ids", "step_ids")), strict=True):
        assert all(np.array_equal(row[name], arrays[name]) for name in arrays)


def train(folder, cache, *words):
    """Weights after `stepjepa train` in this process, from memory or from disk."""
    there = ["--cache_dir", str(cache)] if cache else []
    assert main([*SMALL, "--max_steps", "4", *words, "--output_dir", str(folder), *there]) == 0
    return load_file(folder / "model.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_frozen_targets_of_data_on_disk_are_those_of_data_in_memory(tmp_path):
    words = ["--target_model", "frozen", "--target_scale", "zscore", "--pairs", "consecutive", "--save_strategy", "no"]
    here, there = (train(tmp_path / name, cache, *words) for name, cache in (("a", None), ("b", tmp_path / "cache")))
    assert same(here, there)


def test_a_run_from_disk_goes_on_where_it_stopped(tmp_path):
    words = ["--save_strategy", "steps", "--save_steps", "2"]
    whole = train(tmp_path / "a", tmp_path / "cache", *words)
    resumed = train(tmp_path / "b", tmp_path / "cache", *words)
    shutil.rmtree(tmp_path / "b" / "checkpoint-4")
    (tmp_path / "b" / "model.safetensors").unlink()
    again = train(tmp_path / "b", tmp_path / "cache", *words, "--resume_from_checkpoint", "true")
    assert same(whole, resumed)
    assert same(whole, again)


def test_what_was_not_read_to_its_end_is_read_again(tmp_path, monkeypatch):
    def broken(train_file, each, **options):
        read_examples(train_file, each=each, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("stepjepa.training.disk.read_examples", broken)
        with pytest.raises(KeyboardInterrupt):
            examples_on_disk(["builtin"], tmp_path, 1, count=5)
    assert not list(tmp_path.glob("examples-*"))
    assert len(examples_on_disk(["builtin"], tmp_path, 1, count=5)[0]) == 5


@pytest.mark.slow
def test_two_processes_read_one_file_from_disk(tmp_path):
    words = ["-m", "stepjepa", *SMALL, "--max_steps", "3", "--save_strategy", "no"]
    weights = []
    for name, more in (("memory", []), ("disk", ["--cache_dir", "cache", "--cache_processes", "2"])):
        done = torchrun(*words, "--output_dir", name, *more, cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-3000:]
        weights.append(load_file(tmp_path / name / "model.safetensors"))
    assert same(*weights)
    assert len(list((tmp_path / "cache").glob("rows-*.arrow"))) in (1, 2)  # of one process or of two
