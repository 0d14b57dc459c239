"""Stopped anywhere, `stepjepa evaluate` goes on to the same file; what lies there already is never lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import stepjepa.evaluation.run as evaluation
from stepjepa.commands.evaluate import main
from stepjepa.evaluation.journal import Partial, partial_path
from stepjepa.evaluation.results import read_results
from stepjepa.models.loading import load_model
from stepjepa.records import UserError, one_writer

SHORT = ("--problems", "6", "--max_new_tokens", "40", "--batch_size", "2")


def evaluate(output: Path, *words: Any) -> int:
    words = ("--model_path", "builtin", "--test_file", "builtin", "--output_file", output, *words)
    return main([str(word) for word in words])


def other_model(folder: Path) -> Path:
    model, tokenizer = load_model("builtin")
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(1.1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("finished") / "r.jsonl"
    assert evaluate(output, *SHORT) == 0
    return output


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# ---- stops ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        pytest.param((), id="greedy"),
        pytest.param(("--samples", "2", "--seed", "4"), id="sampled", marks=pytest.mark.slow),
    ],
)
def test_stopped_anywhere_it_goes_on_to_the_same_file(words, tmp_path, monkeypatch, capsys):
    words = (*SHORT, "--max_new_tokens", "12", *words)
    whole = tmp_path / "whole.jsonl"
    kept: list[bytes] = []
    write = evaluation.write_results

    def look(rows: Any, summary: Any, path: Any) -> Any:
        kept.append(partial_path(path).read_bytes())
        return write(rows, summary, path)

    monkeypatch.setattr(evaluation, "write_results", look)
    evaluate(whole, *words)
    partial = kept[0]
    ends = [place + 1 for place, byte in enumerate(partial) if byte == ord("\n")]
    assert len(ends) >= 4  # the first line and three batches
    for place in (0, ends[0] // 2, ends[0], ends[1] - 1, ends[1] + 9, ends[2], ends[-1] - 2, ends[-1]):
        output = tmp_path / f"{place}.jsonl"
        partial_path(output).write_bytes(partial[:place])
        assert evaluate(output, *words) == 0
        assert output.read_bytes() == whole.read_bytes()
        assert not partial_path(output).exists()
        # What was kept stays, and no question is answered twice.
        assert kept[-1].startswith(partial[: max([0, *(end for end in ends if end <= place)])])
        rows = [row["index"] for line in kept[-1].splitlines()[1:] for row in json.loads(line)["rows"]]
        assert sorted(rows) == list(range(6))
    assert "going on: 6 of 6 questions are answered already" in capsys.readouterr().out


@pytest.mark.slow
def test_killed_it_goes_on_after_the_last_batch(tmp_path, finished):
    output = tmp_path / "r.jsonl"
    words = ["--model_path", "builtin", "--test_file", "builtin", "--output_file", str(output), *SHORT]
    # One batch at a time, each waiting to be killed.
    code = (
        "import sys, time; from stepjepa.evaluation.journal import Partial; append = Partial.append\n"
        "def slow(self, *words): append(self, *words); time.sleep(60)\n"
        "Partial.append = slow\n"
        "from stepjepa.commands.evaluate import main; main(sys.argv[1:])"
    )
    process = subprocess.Popen([sys.executable, "-c", code, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    began = time.monotonic()
    while not partial_path(output).exists() or partial_path(output).read_bytes().count(b"\n") < 2:
        assert process.poll() is None, process.stderr.read().decode()  # type: ignore[union-attr]
        assert time.monotonic() - began < 120
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not output.exists()
    written = partial_path(output).read_bytes()
    assert evaluate(output, *SHORT) == 0
    assert written.count(b"\n") == 2
    assert output.read_bytes() == finished.read_bytes()


def test_a_second_writer_is_refused_and_loses_nothing(tmp_path, finished):
    output = tmp_path / "r.jsonl"
    partial_path(output).write_text("what the first has answered")
    with one_writer(output), pytest.raises(UserError, match=r"r\.jsonl is being written by another run"):
        evaluate(output, *SHORT, "--overwrite")
    assert [path.name for path in tmp_path.iterdir()] == ["r.partial.jsonl"]
    assert evaluate(output, *SHORT, "--overwrite") == 0  # a lock that was given back, or whose owner died, is none
    assert output.read_bytes() == finished.read_bytes()


def test_weights_that_are_no_numbers_answer_nothing(tmp_path):
    model, tokenizer = load_model("builtin")
    with torch.no_grad():
        model.lm_head.weight[3, 5] = float("inf")
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match=r"model has weights that are not finite numbers.*first in .*weight"):
        evaluate(tmp_path / "r.jsonl", *SHORT, "--model_path", tmp_path / "model")
    assert not list(tmp_path.glob("*.jsonl"))


def test_an_interrupt_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    def stop(*words: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Partial, "append", stop)
    with pytest.raises(KeyboardInterrupt):
        evaluate(tmp_path / "r.jsonl", *SHORT)
    assert "the same command goes on" in capsys.readouterr().err


def test_stopped_between_rows_and_summary_it_finishes(tmp_path, finished, monkeypatch):
    output = tmp_path / "r.jsonl"

    def half(rows: Any, summary: Any, path: Any) -> None:
        Path(path).write_bytes(finished.read_bytes())
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "write_results", half)
        with pytest.raises(KeyboardInterrupt):
            evaluate(output, *SHORT)
    assert evaluate(output, *SHORT) == 0
    assert read_results(output).rows == read_results(finished).rows


# ---- earlier results -----------------------------------------------------------------------------------------


def test_a_finished_file_is_not_answered_again(finished, monkeypatch, capsys):
    before = snapshot(finished.parent)
    monkeypatch.setattr(evaluation, "load_weights", None)  # would fail
    # In single precision the batch size changes no answer.
    assert evaluate(finished, *SHORT, "--batch_size", "5", "--seed", "9") == 0
    shown = capsys.readouterr().out
    assert "finished already" in shown
    assert "95% interval" in shown
    assert snapshot(finished.parent) == before


@pytest.mark.parametrize(
    ("words", "different"),
    [
        (("--max_new_tokens", "41"), r"different: max_new_tokens \(40 there, 41 here\);"),
        (("--problems", "7"), "different: questions;"),
        (("--system_prompt", "train", "--model_path", "RUN"), "different: model weights, prompts;"),
        (("--samples", "2"), "samples .*temperature .*top_p .*seed .*batch_size"),
        (("--dtype", "bfloat16"), "dtype .*batch_size"),
        (("--bf16",), "bf16 .*batch_size"),
    ],
)
def test_results_of_another_evaluation_are_left_alone(words, different, finished, tmp_path):
    before = snapshot(finished.parent)
    words = tuple(other_model(tmp_path / "model") if word == "RUN" else word for word in words)
    with pytest.raises(UserError, match=different) as caught:
        evaluate(finished, *SHORT, *words)
    assert "--overwrite" in str(caught.value)
    assert snapshot(finished.parent) == before


def test_an_unfinished_run_of_another_evaluation_is_left_alone(tmp_path, finished):
    output = tmp_path / "r.jsonl"
    header = {"identity": {**read_results(finished).summary["identity"], "max_new_tokens": 9}}
    partial_path(output).write_text(json.dumps(header) + "\n")
    with pytest.raises(UserError, match=r"r\.partial\.jsonl is another evaluation.*max_new_tokens \(9 there, 40 here"):
        evaluate(output, *SHORT)
    partial_path(output).write_text("{}\n")
    with pytest.raises(UserError, match=r"r\.partial\.jsonl:1: not the answers"):
        evaluate(output, *SHORT)
    assert evaluate(output, *SHORT, "--overwrite") == 0
    assert output.read_bytes() == finished.read_bytes()


def test_overwriting_replaces_when_the_new_results_are_whole(tmp_path, finished, monkeypatch):
    output = tmp_path / "r.jsonl"
    evaluate(output, *SHORT, "--max_new_tokens", "3")
    before = snapshot(tmp_path)
    append, calls = Partial.append, []

    def stop_at_second(self: Partial, *words: Any) -> None:
        calls.append(words)
        if len(calls) == 2:
            raise KeyboardInterrupt
        append(self, *words)

    with monkeypatch.context() as patch:
        patch.setattr(Partial, "append", stop_at_second)
        with pytest.raises(KeyboardInterrupt):
            evaluate(output, *SHORT, "--overwrite")
    assert {name: snapshot(tmp_path)[name] for name in before} == before
    assert evaluate(output, *SHORT, "--overwrite") == 0
    assert output.read_bytes() == finished.read_bytes()
