"""Faults on purpose: `python tests/drills.py --rounds 40 --seed 0 --output_file figures/data/drills.json`.

A round draws a kind of fault and its moment from the seed, lets it happen to a command of the package, lets the same
command go on or begin anew, and compares what comes out with what comes out undisturbed: training's weights, the rows
of an evaluation and the record of a grid's cell are to be the same, bit for bit; a command that refuses is to say one
sentence, exit with status 1 and leave what was saved as it was. The record has every round and what went wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import stepjepa.analysis.encode
import stepjepa.evaluation.run
import stepjepa.experiments.cell
import stepjepa.training.run  # noqa: F401  (what the commands need, before processes are forked)
from stepjepa.commands.main import main as stepjepa_command
from stepjepa.environment import environment
from stepjepa.models.loading import load_model
from stepjepa.records import file_digest, write_json

TRAIN = """--problems 24 --eval_problems 4 --accuracy_problems 0 --batch_size 2 --grad_accum 2 --max_steps 9 --save_steps 2
    --save_total_limit 3 --logging_steps 3 --learning_rate 1e-3 --pairs consecutive --use_cpu""".split()
EVALUATE = "--test_file builtin --problems 12 --max_new_tokens 24 --batch_size 2 --temperature 0.7 --seed 3".split()
EMBED = "--test_file builtin --problems 30".split()
GRID = """
base: {{model_name: {model}, learning_rate: 1e-3, use_cpu: true, problems: 24, max_steps: 40, batch_size: 1, grad_accum: 1,
       eval_problems: 3, accuracy_problems: 3, max_new_tokens: 8}}
arms: [{{name: plain, lbd: 0}}, {{name: step, lbd: 0.3}}]
seeds: 1
baseline: plain
"""
OTHER = {  # options that a run is resumed with, and one that its checkpoint is of
    "lbd": "0.7",
    "seed": "7",
    "pairs": "first",
    "problems": "23",
    "learning_rate": "0.002",
    "isolation": "none",
    "batch_size": "4",
    "grad_accum": "1",
    "max_steps": "12",
    "jepa_loss_type": "mse",
    "weight_decay": "0.1",
}
RESUME = ["--resume_from_checkpoint", "true"]


class Lab:
    """A small model, commands on it, and what they give undisturbed.

    Args:
        work: an empty folder.
        inside: run commands that are not to be killed in this process, which is faster.
    """

    def __init__(self, work: Path, inside: bool = False) -> None:
        self.work, self.inside = work, inside
        self.model = str(work / "model")
        tokenizer = load_model()[1]
        torch.manual_seed(0)
        sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        tokens = {"vocab_size": 1024, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
        LlamaForCausalLM(LlamaConfig(**sizes, **tokens, max_position_embeddings=1024)).save_pretrained(self.model)
        tokenizer.save_pretrained(self.model)
        (work / "grid.yaml").write_text(GRID.format(model=self.model))
        self.trained = work / "trained"
        self.seconds = {"train": self.time(*self.train(self.trained))}

    def train(self, folder: Path, *words: str) -> list[str]:
        return ["train", "--model_name", self.model, "--output_dir", str(folder), *TRAIN, *words]

    def evaluate(self, file: Path) -> list[str]:
        return ["evaluate", "--model_name", self.model, "--output_file", str(file), *EVALUATE]

    def embed(self, file: Path) -> list[str]:
        return ["embed", "--model_name", self.model, "--output_file", str(file), *EMBED]

    def ablate(self, folder: Path) -> list[str]:
        return ["ablate", str(self.work / "grid.yaml"), "--output_dir", str(folder)]

    def time(self, *words: str) -> float:
        """Run a command that has to succeed; returns how long it took."""
        began = time.monotonic()
        code, said = self.run(*words)
        assert code == 0, said[-600:]
        return time.monotonic() - began

    def undisturbed(self, name: str, words: Callable[[Path], list[str]], ending: str = "") -> Path:
        """What a command gives if nothing happens, made once."""
        path = self.work / f"undisturbed-{name}{ending}"
        if name not in self.seconds:
            self.seconds[name] = self.time(*words(path))
        return path

    def run(self, *words: str, largest: int | None = None) -> tuple[int, str]:
        """Exit status and output of a command.

        Args:
            largest: bytes that no file may grow beyond.
        """
        if self.inside and largest is None:
            said = io.StringIO()
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                return stepjepa_command(words), said.getvalue()
        return Process(words, largest).result()

    def killed(self, words: Sequence[str], ready: Callable[[], bool], after: float) -> None:
        """Start a command and kill it some seconds after it is ready, if it has not ended by then."""
        process = Process(words)
        while process.runs() and not ready():
            time.sleep(0.001)
        end = time.monotonic() + after
        while process.runs() and time.monotonic() < end:
            time.sleep(0.001)
        process.kill()


class Process:
    """A command in a process of its own, forked from this one, which has imported everything already."""

    def __init__(self, words: Sequence[str], largest: int | None = None) -> None:
        self.output = tempfile.TemporaryFile()  # noqa: SIM115  (read when the process has ended)
        self.code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            self._be(words, largest)

    def _be(self, words: Sequence[str], largest: int | None) -> None:
        code = 70
        reader, writer = os.pipe()  # the limit is one of files; `cat` has none
        if os.fork() == 0:
            os.close(writer)
            while part := os.read(reader, 1 << 16):
                os.write(self.output.fileno(), part)
            os._exit(0)
        os.dup2(writer, 1)
        os.dup2(writer, 2)
        os.close(writer)
        os.close(reader)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        try:
            if largest is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
            code = stepjepa_command(words)
        except BaseException:  # whatever it is, this is the end of the process
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def runs(self) -> bool:
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code is None

    def kill(self) -> None:
        if self.runs():
            os.kill(self.pid, signal.SIGKILL)
        self.result()

    def result(self) -> tuple[int, str]:
        """Exit status and output, once it has ended."""
        while self.runs():
            time.sleep(0.005)
        time.sleep(0.02)  # for the last of its output to be copied
        self.output.seek(0)
        assert self.code is not None
        return self.code, self.output.read().decode()


# -------- what has to hold --------


def same_weights(lab: Lab, folder: Path) -> None:
    assert file_digest(folder / "model.safetensors") == file_digest(lab.trained / "model.safetensors"), "other weights"
    logs = [json.loads((run / "record.json").read_text())["log_history"] for run in (folder, lab.trained)]
    losses = [[entry["train_loss"] for entry in log if "train_loss" in entry][-1] for log in logs]
    assert losses[0] == losses[1], f"train_loss {losses[0]} instead of {losses[1]}"
    left = [path.name for path in folder.iterdir() if path.name.startswith(".")]
    assert not left, f"left: {left}"


def finish(lab: Lab, folder: Path) -> str:
    """Go on from the newest checkpoint, or begin anew where there is none: as the messages say."""
    code, said = lab.run(*lab.train(folder, *RESUME))
    how = "went on"
    if code and "leave out --resume_from_checkpoint" in said:
        code, said = lab.run(*lab.train(folder))
        how = "began anew"
    elif code and "no such folder" in said:
        code, said = lab.run(*lab.train(folder))
        how = "began"
    assert code == 0, said[-600:]
    same_weights(lab, folder)
    return how


def refused(code: int, said: str, *names: str) -> None:
    assert code == 1, f"status {code}: {said[-600:]}"
    assert "Traceback" not in said, said[-600:]
    last = said.strip().splitlines()[-1]
    assert all(name in last for name in names), f"{names} not named: {last}"


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): file_digest(path) for path in folder.rglob("*") if path.is_file()}


def half_trained(lab: Lab, folder: Path) -> list[Path]:
    """A run that was stopped: its checkpoints, oldest first, and nothing else."""
    found = sorted(lab.trained.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
    for path in found[:-1]:
        shutil.copytree(path, folder / path.name)
    return [folder / path.name for path in found[:-1]]


# -------- kinds of faults: what happened, in a word, or an AssertionError --------


def kill_train(lab: Lab, folder: Path, rng: random.Random) -> str:
    for _ in range(rng.randint(1, 2)):
        resume = RESUME if list(folder.glob("checkpoint-*")) else []
        lab.killed(lab.train(folder, *resume), folder.exists, rng.uniform(0, lab.seconds["train"]))
    return finish(lab, folder)


def kill_while_saving(lab: Lab, folder: Path, rng: random.Random) -> str:
    number = rng.choice([2, 4, 6, 8, 9])
    names = [folder / f".staging-checkpoint-{number}", folder / ".staging-model"]
    lab.killed(lab.train(folder), (names[rng.random() < 0.2]).exists, rng.uniform(0, 0.02))
    return finish(lab, folder)


def kill_evaluate(lab: Lab, folder: Path, rng: random.Random) -> str:
    whole = lab.undisturbed("evaluate", lab.evaluate, ".jsonl")
    file, partial_file = folder / "r.jsonl", folder / "r.partial.jsonl"
    kept = b""
    for _ in range(rng.randint(1, 3)):
        lab.killed(lab.evaluate(file), partial_file.exists, rng.uniform(0, 0.4))
        now = partial_file.read_bytes() if partial_file.exists() else b""
        assert file.exists() or now.startswith(kept[: kept.rfind(b"\n") + 1]), "answers were lost"
        kept = now
    code, said = lab.run(*lab.evaluate(file))
    assert code == 0, said[-600:]
    assert file.read_bytes() == whole.read_bytes(), "other rows"
    assert {path.name for path in folder.iterdir()} == {"r.jsonl", "r.summary.json"}, "something is left"
    return f"{kept.count(b'rows')} batches kept"


def kill_ablate(lab: Lab, folder: Path, rng: random.Random) -> str:
    whole = lab.undisturbed("ablate", lab.ablate)
    lab.killed(lab.ablate(folder), (folder / "work").exists, rng.uniform(0, lab.seconds["ablate"]))
    code, said = lab.run(*lab.ablate(folder))
    assert code == 0, said[-600:]
    for path in whole.glob("*.json"):
        one, two = (json.loads(file.read_text()) for file in (path, folder / path.name))
        assert {**one, "attempt": 0} == {**two, "attempt": 0}, "another record"
    assert not list((folder / "work").iterdir()), "something is left"
    return "went on"


def two_train(lab: Lab, folder: Path, rng: random.Random) -> str:
    _two(lab.train(folder), rng.uniform(0, lab.seconds["train"] / 3), "Another run is writing into")
    same_weights(lab, folder)
    return "one refused"


def two_evaluate(lab: Lab, folder: Path, rng: random.Random) -> str:
    whole = lab.undisturbed("evaluate", lab.evaluate, ".jsonl")
    _two(lab.evaluate(folder / "r.jsonl"), rng.uniform(0, lab.seconds["evaluate"] / 3), "being written by another run")
    assert (folder / "r.jsonl").read_bytes() == whole.read_bytes(), "other rows"
    return "one refused"


def _two(words: Sequence[str], between: float, sentence: str) -> None:
    first = Process(words)
    time.sleep(between)
    both = [process.result() for process in (first, Process(words))]
    codes, said = zip(*both, strict=True)
    assert sorted(codes) == [0, 1], f"status {codes}: {said[0][-300:]} {said[1][-300:]}"
    refused(1, said[codes.index(1)], sentence)


def other_options(lab: Lab, folder: Path, rng: random.Random) -> str:
    half_trained(lab, folder)
    before = contents(folder)
    name = rng.choice(sorted(OTHER))
    words = [word for word in lab.train(folder, *RESUME)]
    words += [f"--{name}", OTHER[name]]
    changed = {"batch_size": "per_device_train_batch_size", "grad_accum": "gradient_accumulation_steps"}.get(name, name)
    refused(*lab.run(*words), "other settings or data", changed)
    assert contents(folder) == before, "the folder was changed"
    return f"refused {name}"


def flipped_byte(lab: Lab, folder: Path, rng: random.Random) -> str:
    every = half_trained(lab, folder)
    damaged = every[-rng.randint(1, len(every)) :]
    for checkpoint in damaged:
        path = rng.choice(sorted(file for file in checkpoint.iterdir() if file.stat().st_size))
        content = bytearray(path.read_bytes())
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
    code, said = lab.run(*lab.train(folder, *RESUME))
    names = [f"{path.name}: " for path in damaged]
    if len(damaged) == len(every):
        refused(code, said, "No complete checkpoint", *names)
        return "refused, all damaged"
    assert code == 0, said[-600:]
    assert all(name in said for name in names), "not named"
    same_weights(lab, folder)
    return f"went on before {len(damaged)}"


def full_disk(lab: Lab, folder: Path, rng: random.Random) -> str:
    """No file may grow beyond a few bytes: what a full disk is to a process, without one."""
    kind = rng.choice(["train", "train", "evaluate", "embed"])
    if kind == "train":
        sizes = sorted({path.stat().st_size for path in lab.trained.rglob("*") if path.is_file()})
        if half := rng.random() < 0.5:
            half_trained(lab, folder)
        before = contents(folder)
        refused(
            *lab.run(*lab.train(folder, *(RESUME if half else [])), largest=rng.choice(sizes) - 1), "cannot be written"
        )
        assert before.items() <= contents(folder).items(), "a checkpoint was changed"
        return f"train: refused; {finish(lab, folder)}"
    words, ending = (lab.evaluate, ".jsonl") if kind == "evaluate" else (lab.embed, ".npz")
    whole = lab.undisturbed(kind, words, ending)
    file = folder / f"r{ending}"
    refused(*lab.run(*words(file), largest=rng.randrange(whole.stat().st_size)), "cannot be written")
    assert not file.exists(), "half a file"
    code, said = lab.run(*words(file))
    assert code == 0, said[-600:]
    assert kind == "embed" or file.read_bytes() == whole.read_bytes(), "other rows"
    return f"{kind}: refused, then whole"


KINDS = {
    drill.__name__: drill
    for drill in (
        kill_train,
        kill_while_saving,
        kill_evaluate,
        kill_ablate,
        two_train,
        two_evaluate,
        other_options,
        flipped_byte,
        full_disk,
    )
}


def play(lab: Lab, kind: str, seed: str) -> dict[str, Any]:
    """One round: what happened, and what is wrong with it, if anything."""
    folder = lab.work / "round"
    folder.mkdir()
    began = time.monotonic()
    output = folder / "out"
    if kind in ("kill_evaluate", "two_evaluate", "other_options", "flipped_byte", "full_disk"):
        output.mkdir()
    try:
        result: dict[str, Any] = {"outcome": KINDS[kind](lab, output, random.Random(seed)), "wrong": None}
    except AssertionError as error:
        result = {"outcome": "wrong", "wrong": str(error)}
    shutil.rmtree(folder)
    return {"kind": kind, "seed": seed, **result, "seconds": round(time.monotonic() - began, 1)}


def main() -> int:
    """Play rounds of all kinds in turn; returns 1 if anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=len(KINDS), help="how many, the kinds in turn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--output_file", help="a record of all rounds")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    started_with = environment()
    rounds = []
    with tempfile.TemporaryDirectory() as work:
        lab = Lab(Path(work))
        for number in range(asked.rounds):
            kind = asked.kinds[number % len(asked.kinds)]
            rounds.append(play(lab, kind, f"{asked.seed}-{number}"))
            print(
                "{kind:18} {seed:8} {seconds:6.1f} s  {outcome}".format(**rounds[-1]),
                rounds[-1]["wrong"] or "",
                flush=True,
            )
    wrong = [entry for entry in rounds if entry["wrong"]]
    print(f"{len(rounds)} rounds, {len(wrong)} wrong")
    if asked.output_file:
        about = {"rounds": asked.rounds, "seed": asked.seed, "kinds": asked.kinds}
        write_json({"configuration": about, "environment": started_with, "rounds": rounds}, asked.output_file)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
