"""`stepjepa synthesize`: what is right is written, all else accounted for, and nothing that was answered is asked twice."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from stub_server import Stub, completion, cut, error, hang_up, reply, send, stall

from stepjepa.commands.main import main
from stepjepa.evaluation import servers
from stepjepa.evaluation.options import SynthesizeOptions
from stepjepa.evaluation.solutions import chosen, distance
from stepjepa.records import UserError

KEY = "sk-very-secret-0123456789"


def questions(folder: Path, count: int = 3) -> Path:
    """«What is n + n?», with its answer."""
    path = folder / "questions.jsonl"
    rows = [{"question": f"What is {n} + {n}?", "answer": f"{2 * n}"} for n in range(1, count + 1)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def number_of(question: str) -> int:
    return int(question.split()[2])


def solution(n: int, answer: int, words: str = "") -> str:
    return f"We add {n} and {n}, {words}which are two numbers.\n\nThe answer is \\boxed{{{answer}}}."


def synthesize(output: Path, source: Path | str, *words: Any, status: int = 0) -> list[dict[str, Any]]:
    command = ["synthesize", "--output_file", output, "--source", source, *words]
    assert main([str(word) for word in command]) == status
    return rows_of(output)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def summary_of(output: Path) -> dict[str, Any]:
    return json.loads(output.with_suffix(".summary.json").read_text())


def journal_of(output: Path) -> list[tuple[int, int]]:
    """Question and sample of all that is complete in the file of samples."""
    path = output.with_suffix(".samples.jsonl")
    lines = path.read_bytes().split(b"\n")[1:-1] if path.exists() else []
    return [(row["index"], row["sample"]) for line in lines for row in json.loads(line)["rows"]]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(servers, "FIRST_PAUSE", 0.01)


# -------- a server --------


class Teacher:
    """Gives the n-th sample of a question that it is asked for as `script[n]` says."""

    def __init__(self, *script: Any) -> None:
        self.script, self.seeds = script, {}

    def __call__(self, asked):
        seeds = self.seeds.setdefault(asked.question, [])
        if asked.body["seed"] not in seeds:
            seeds.append(asked.body["seed"])
        return self.script[seeds.index(asked.body["seed"])](number_of(asked.question), asked.attempt)


SCRIPT = (
    lambda n, attempt: reply(solution(n, 2 * n + 1)),
    lambda n, attempt: error(500, "busy") if attempt == 1 else reply(solution(n, 2 * n, "with some care, ")),
    lambda n, attempt: reply(solution(n, 2 * n), finish="length"),
    lambda n, attempt: send(completion("No idea.")) if attempt > 1 else cut(solution(n, 2 * n)),
    lambda n, attempt: reply(solution(n, 2 * n, "with some care, ")),
    lambda n, attempt: reply(solution(n, 2 * n), reasoning_content="Two of them."),
    lambda n, attempt: reply(f"<think>\\boxed{{{2 * n}}}"),
    lambda n, attempt: reply(solution(n, 2 * n, "\0")),
    lambda n, attempt: reply("", finish="content_filter"),
)
"""Another answer; a failure, then right; cut off; half an answer, then none; the same again; right and short; a thought
alone; a solution that no file can hold; filtered."""


def test_what_is_right_is_written_and_everything_else_accounted_for(tmp_path, capsys):
    output = tmp_path / "t.jsonl"
    with Stub(Teacher(*SCRIPT)) as stub:
        words = ("--base_url", stub.url, "--model_name", "m", "--samples", 9, "--concurrency", 1)
        rows = synthesize(output, questions(tmp_path), *words)
        assert len(stub.asked) == 3 * (9 + 2)
        asked = {asked.question: asked.body for asked in stub.asked}["What is 2 + 2?"]
        # The same samples: nothing is asked for, however one chooses among them.
        shortest = synthesize(output, questions(tmp_path), *words, "--choose", "shortest")
        diverse = synthesize(output, questions(tmp_path), *words, "--choose", "diverse", "--keep", "3")
        assert len(stub.asked) == 3 * (9 + 2)
        url = stub.url
    assert {name: asked[name] for name in ("model", "max_tokens", "temperature", "top_p")} == {
        "model": "m",
        "max_tokens": 2048,
        "temperature": 0.7,
        "top_p": 1.0,
    }
    assert [message["role"] for message in asked["messages"]] == ["system", "user"]
    assert [row["deepseek_response"] for row in rows] == [solution(n, 2 * n, "with some care, ") for n in (1, 2, 3)]
    first = rows[0]
    assert {name: value for name, value in first.items() if name not in ("id", "seed")} == {
        "question": "What is 1 + 1?",
        "deepseek_response": solution(1, 2, "with some care, "),
        "ground_truth": "2",
        "question_source": "questions",
        "sample": 1,
        "tokens": 7,
        "model": "stub-1 fp",
        "teacher": "m",
    }
    assert [(row["deepseek_response"], row["reasoning_content"]) for row in shortest] == [
        (solution(n, 2 * n), "Two of them.") for n in (1, 2, 3)
    ]
    assert [row["sample"] for row in diverse] == [1, 5, 1, 5, 1, 5]
    summary = summary_of(output)
    assert {
        name: summary[name] for name in ("samples", "right", "questions", "questions_solved", "solutions", "tokens")
    } == {"samples": 27, "right": 9, "questions": 3, "questions_solved": 3, "solutions": 6, "tokens": 27 * 7}
    assert summary["dropped"] == {
        "no answer": 6,
        "another answer": 3,
        "cut off at the length limit": 3,
        "the same as another": 3,
        "cannot be prepared: NUL character": 3,
        "cut off by a filter": 3,
    }
    assert summary["model"] == {"name": "m", "base_url": url, "told": ["stub-1 fp"], "asked_again": 0}
    assert summary["configuration"]["seed"] == 0
    assert summary["system_prompt"].startswith("Please solve")
    shown = capsys.readouterr().out
    assert "going on: 27 of 27 samples are there already" in shown
    assert "questions with a right solution: 3 of 3" in shown
    assert f"stepjepa prepare --source {output}" in shown


def test_more_samples_are_asked_for_later(tmp_path):
    output, source = tmp_path / "t.jsonl", questions(tmp_path)
    with Stub(Teacher(*SCRIPT)) as stub:
        words = ("--base_url", stub.url, "--model_name", "m", "--concurrency", 1)
        assert synthesize(output, source, *words, "--samples", 1, status=1) == []
        assert journal_of(output) == [(0, 0), (1, 0), (2, 0)]
        assert len(synthesize(output, source, *words, "--samples", 2)) == 3
        assert Counter(asked.attempt for asked in stub.asked) == {1: 6, 2: 3}
        assert len({(asked.question, asked.body["seed"]) for asked in stub.asked}) == 6
        assert synthesize(output, source, *words, "--samples", 1, status=1) != []  # what was right before stays


def test_a_server_that_stops_answering_stops_the_run_and_loses_nothing(tmp_path, capsys):
    output, source = tmp_path / "t.jsonl", questions(tmp_path, 30)
    is_down = False

    def behave(asked):
        return error(503, "down") if is_down and number_of(asked.question) > 12 else reply(solution(1, 2))

    with Stub(behave) as stub:
        words = ("--base_url", stub.url, "--model_name", "m", "--samples", 1, "--concurrency", 1, "--retries", 1)
        is_down = True
        synthesize(output, source, *words, status=1)
        said = capsys.readouterr().err
        assert "has given no answer to 10 requests in a row, the last time: status 503: down" in said
        assert "The same command goes on" in said
        assert len(journal_of(output)) == 12
        assert not output.exists()
        is_down = False
        assert len(synthesize(output, source, *words)) == 1
        times = Counter(number_of(asked.question) for asked in stub.asked)
        assert {times[n] for n in range(1, 13)} == {1}  # what was answered
        assert {times[n] for n in range(13, 23)} == {3}  # twice in vain
        assert len(journal_of(output)) == 30


def test_a_teacher_that_does_not_sample_is_told(tmp_path, capsys):
    def behave(asked):
        n = number_of(asked.question)
        return send(completion(solution(n, 2 * n)).replace("stub-1", "/home/someone/stub-1"))

    with Stub(behave) as stub:
        words = ("--base_url", stub.url, "--model_name", "/home/someone/m", "--samples")
        synthesize(tmp_path / "one.jsonl", questions(tmp_path), *words, 1)
        assert "NOTE" not in capsys.readouterr().out
        rows = synthesize(tmp_path / "two.jsonl", questions(tmp_path), *words, 2)
        assert "NOTE: all samples of a question are the same text" in capsys.readouterr().out
    assert summary_of(tmp_path / "two.jsonl")["distinct"] == 3
    assert {(row["teacher"], row["model"]) for row in rows} == {("m", "stub-1 fp")}  # no folders of a machine


def test_a_request_that_is_refused_is_told_and_asked_for_again(tmp_path, capsys):
    output, source = tmp_path / "t.jsonl", questions(tmp_path)

    def behave(asked):
        n = number_of(asked.question)
        return error(400, "the prompt is too long") if n == 2 else reply(solution(n, 2 * n))

    with Stub(behave) as stub:
        words = ("--base_url", stub.url, "--model_name", "m", "--samples", 2)
        assert len(synthesize(output, source, *words)) == 2
        assert "NOT ANSWERED: 2 samples" in capsys.readouterr().out
        assert summary_of(output)["not_answered"] == {"status 400: the prompt is too long": 2}
        assert len(synthesize(output, source, *words)) == 2
        assert Counter(number_of(asked.question) for asked in stub.asked) == {1: 2, 2: 4, 3: 2}


def test_many_refusals_do_not_stop_what_has_answers(tmp_path, capsys):
    output, source = tmp_path / "t.jsonl", questions(tmp_path, 8)

    def behave(asked):
        n = number_of(asked.question)
        return error(400, "the prompt is too long") if n > 1 else reply(solution(n, 2 * n))

    with Stub(behave) as stub:
        words = ("--base_url", stub.url, "--model_name", "m", "--samples", 2, "--concurrency", 1)
        for choose in ("first", "shortest"):  # 14 samples are refused in a row each time
            assert len(synthesize(output, source, *words, "--choose", choose)) == 1
            assert "NOT ANSWERED: 14 samples" in capsys.readouterr().out
        never = tmp_path / "never.jsonl"
        never.write_text("".join(source.read_text().splitlines(keepends=True)[1:]))
        synthesize(tmp_path / "n.jsonl", never, *words, status=1)  # a server that takes nothing is given up
        assert "has given no answer to 10 requests in a row" in capsys.readouterr().err


@pytest.mark.parametrize("finish", ["abort", "error", "cancelled"])
def test_what_the_server_broke_off_is_asked_for_again(finish, tmp_path):
    output = tmp_path / "t.jsonl"

    def behave(asked):
        n = number_of(asked.question)
        return reply(solution(n, 2 * n), finish="stop" if asked.attempt > 1 else finish)

    with Stub(behave) as stub:
        words = ("--base_url", stub.url, "--model_name", "m", "--samples", 1)
        assert len(synthesize(output, questions(tmp_path), *words)) == 3
        assert Counter(asked.attempt for asked in stub.asked) == {1: 3, 2: 3}


def test_rows_that_are_not_asked_are_told(tmp_path, capsys):
    source = questions(tmp_path)
    with source.open("a") as file:
        file.write('{"nothing": 1}\n' + source.read_text().splitlines(keepends=True)[0])
    with Stub(lambda asked: reply(solution(number_of(asked.question), 2 * number_of(asked.question)))) as stub:
        rows = synthesize(tmp_path / "t.jsonl", source, "--base_url", stub.url, "--model_name", "m", "--samples", 1)
        assert len(rows) == len(stub.asked) == 3
    shown = capsys.readouterr().out
    assert "NOT COUNTED: 2 rows hold no question" in shown
    assert "the question of questions.jsonl:1 again" in shown


def test_options_that_would_do_nothing_are_refused():
    common = {"model_name": "m", "source": ["builtin"], "output_file": "t.jsonl"}
    for options, said in (
        ({"request": "{}"}, "--request does nothing here: no server is asked"),
        ({"concurrency": 2}, "--concurrency does nothing here"),
        ({"base_url": "http://127.0.0.1:1/v1", "dtype": "bfloat16"}, "--dtype does nothing here: the model is the"),
    ):
        with pytest.raises(ValueError, match=said):
            SynthesizeOptions(**common, **options)


def test_the_key_is_nowhere(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("TEACHER_KEY", KEY)
    output = tmp_path / "t.jsonl"

    def behave(asked):
        if asked.attempt == 1:
            return error(500, f"{KEY} is over its limit")
        return reply(solution(number_of(asked.question), 2 * number_of(asked.question), f"{KEY} "), reasoning=KEY)

    with Stub(behave) as stub:
        words = ("--base_url", stub.url, "--model_name", "m", "--samples", 1)
        synthesize(output, questions(tmp_path), *words, "--key_variable", "TEACHER_KEY")
        assert {asked.headers["Authorization"] for asked in stub.asked} == {f"Bearer {KEY}"}
        asked = len(stub.asked)
        synthesize(tmp_path / "u.jsonl", questions(tmp_path), *words, "--key_variable", KEY, status=1)
        assert len(stub.asked) == asked
    for path in tmp_path.iterdir():
        assert KEY.encode() not in path.read_bytes(), path
    assert KEY not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--temperature", 0.5), r"t.samples.jsonl holds the samples of another run; different: temperature \(0.7 there, 0.5"),
        (("--model_name", "other"), r"different: model \(m there, other here\); give another --output_file"),
        (("--system_prompt", "none"), "different: prompts;"),
        (("--request", '{"top_k": 3}'), r"different: request \(\{\} there, \{'top_k': 3\} here\)"),
        (("--request", "[]"), "--request has to be a JSON object"),
        (("--request", "{"), "--request is not JSON"),
        (("--request", '{"n": 2}'), "without messages, n and stream"),
        (("--key_variable", "NOT_SET_ANYWHERE"), "the name of an environment variable with a key in it"),
    ],
)  # fmt: skip
def test_another_run_is_left_alone(words, message, tmp_path):
    output, source = tmp_path / "t.jsonl", questions(tmp_path, 1)
    with Stub(lambda asked: reply(solution(1, 2))) as stub:
        mine = ("--base_url", stub.url, "--model_name", "m", "--samples", 1)
        synthesize(output, source, *mine)
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        from stepjepa.commands.synthesize import main as command

        with pytest.raises(UserError, match=message):
            command([str(word) for word in ("--output_file", output, "--source", source, *mine, *words)])
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
        assert len(stub.asked) == 1


def test_files_of_others_are_left_alone(tmp_path):
    from stepjepa.commands.synthesize import main as command

    source = questions(tmp_path, 1)
    for name, message in (("questions.jsonl", "would overwrite the source"), ("t.txt", "rows are written as .jsonl")):
        with pytest.raises(UserError, match=message):
            command(["--model_name", "m", "--source", str(source), "--output_file", str(tmp_path / name)])
    (tmp_path / "t.jsonl").write_text("mine")
    with Stub(lambda asked: reply(solution(1, 2))) as stub:
        words = ["--base_url", stub.url, "--model_name", "m", "--source", str(source), "--samples", "1"]
        words += ["--output_file", str(tmp_path / "t.jsonl")]
        with pytest.raises(UserError, match="is there already, without the samples"):
            command(words)
        assert command([*words, "--overwrite"]) == 0
    assert len(rows_of(tmp_path / "t.jsonl")) == 1


# -------- choosing --------


def test_choosing():
    texts = ["a b c d e f", "a b c d e g", "p q r s", "a b c", "p q r t u v"]
    assert chosen(texts, "first", 2) == [0, 1]
    assert chosen(texts, "shortest", 2) == [3, 2]
    assert chosen(texts, "diverse", 1) == [0]
    # Then one of those that share nothing with the first, and of the rest the farthest from its nearest: the fourth
    # shares one of the first's four runs of words, the last one of five with the third.
    assert chosen(texts, "diverse", 3) == [0, 2, 4]
    assert chosen(texts, "diverse", 9) == [0, 2, 4, 3, 1]
    assert [chosen([], how, 3) for how in ("first", "shortest", "diverse")] == [[], [], []]
    assert distance("a b c d e f", "a b c") == 0.75
    assert distance("p q r s", "p q r t u v") == 0.8
    assert (distance("a b", "a b"), distance("a b", "a c"), distance("a b", "a b c")) == (0, 1, 1)


# -------- a model that is loaded here --------

LOCAL = ("--model_name", "builtin", "--problems", 6, "--samples", 2, "--max_new_tokens", 70)


def test_the_built_in_model_teaches_itself(tmp_path, capsys):
    output, other = tmp_path / "t.jsonl", tmp_path / "u.jsonl"
    rows = synthesize(output, "builtin", *LOCAL, "--seed", 2)
    assert rows
    summary = summary_of(output)
    assert summary["samples"] == 12 == summary["solutions"] + sum(summary["dropped"].values())
    assert summary["model"]["name"] == "builtin"
    assert set(summary["model"]["weights"]) == {"model.safetensors"}
    whole = output.with_suffix(".samples.jsonl").read_bytes()
    # Stopped at any byte, and with other batches: the same samples and the same file.
    first, second = (end + 1 for end, byte in enumerate(whole) if byte == ord("\n"))
    for place in (0, first + 9, second):
        other.with_suffix(".samples.jsonl").write_bytes(whole[:place])
        assert synthesize(other, "builtin", *LOCAL, "--seed", 2, "--batch_size", 5) == rows
        assert sorted(journal_of(other)) == [(index, sample) for index in range(6) for sample in range(2)]
        for path in (other, other.with_suffix(".summary.json")):
            path.unlink()
    # More samples begin with those that are there.
    more = synthesize(other, "builtin", *LOCAL, "--seed", 2, "--samples", 3, "--keep", 3)
    assert {row["deepseek_response"] for row in rows} <= {row["deepseek_response"] for row in more}
    # What is written is what prepare and train read.
    prepared = tmp_path / "prepared.jsonl"
    assert main(["prepare", "--source", str(output), "--output_file", str(prepared), "--only_correct", "--strict"]) == 0
    assert [row["answer"] for row in rows_of(prepared)] == [row["ground_truth"] for row in rows]
    words = ["--max_steps", "1", "--output_dir", str(tmp_path / "run"), "--disable_tqdm", "true", "--eval_file", "none"]
    assert main(["train", "--train_file", str(prepared), *words]) == 0
    assert (tmp_path / "run" / "model.safetensors").is_file()


# -------- kills --------

KILLS, QUESTIONS, SAMPLES, WORKERS = 20, 40, 4, 6
CHILD = (
    "import sys; from stepjepa.evaluation import servers; servers.FIRST_PAUSE = 0.02\n"
    "from stepjepa.commands.main import main; sys.exit(main(sys.argv[1:]))"
)


@pytest.mark.slow
def test_killed_at_random_moments_nothing_is_asked_twice_and_nothing_lost(tmp_path):
    """What is on disk when a run is killed is never asked for again; what is under way may be, and nothing else."""
    output, source = tmp_path / "t.jsonl", questions(tmp_path, QUESTIONS)
    seed = int(os.environ.get("STEPJEPA_DRILL_SEED", "0"))
    draw = random.Random(seed)
    answered: Counter[tuple[int, int]] = Counter()  # whole answers sent, by question and seed
    lock, progress = threading.Lock(), threading.Condition()

    def behave(asked):
        n, kind = number_of(asked.question), random.Random(f"{asked.body['seed']} {len(stub.asked)}").random()
        failures = (error(500, "busy"), error(429, "slow", Retry_After="0.02"), cut("half"), send("garbage"), hang_up)
        if kind < 0.2:
            return failures[int(kind * 25)]
        if kind < 0.22:
            return stall(1.5)

        def act(handler):
            time.sleep(0.02 + 0.08 * kind)
            is_right = asked.body["seed"] % 3 > 0
            reply(solution(n, 2 * n + (not is_right), f"{asked.body['seed']} times, "))(handler)
            with lock:
                answered[n - 1, asked.body["seed"]] += 1
            with progress:
                progress.notify_all()

        return act

    with Stub(behave) as stub:
        words = ["synthesize", "--source", str(source), "--output_file", str(output), "--base_url", stub.url]
        words += ["--model_name", "m", "--samples", str(SAMPLES), "--concurrency", str(WORKERS), "--timeout", "1"]
        settled: dict[tuple[int, int], int] = {}  # on disk → requests for it until then
        seeds: dict[tuple[int, int], int] = {}
        for kill in range(KILLS + 1):
            process = subprocess.Popen(
                [sys.executable, "-c", CHILD, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
            if kill < KILLS:
                # After so many answers of this run, or (one in five) at any time: while it starts, or as it writes.
                goal = sum(answered.values()) + draw.randrange(1, 14)
                with progress:
                    limit = draw.uniform(0, 6) if kill % 5 == 4 else 60
                    progress.wait_for(lambda goal=goal: sum(answered.values()) >= goal, timeout=limit)
                time.sleep(draw.uniform(0, 0.03))
                process.send_signal(signal.SIGKILL)
            said = process.communicate(timeout=300)[0].decode()
            assert process.returncode == (-signal.SIGKILL if kill < KILLS else 0), said
            time.sleep(0.2)  # what the server still had under way
            requests = Counter((number_of(asked.question) - 1, asked.body["seed"]) for asked in stub.asked)
            for key, before in settled.items():
                assert requests[key[0], seeds[key]] == before, f"{key} was asked for again after it was on disk"
            rows = rows_of_samples(output)
            assert set(settled) <= set(rows), "a sample that was on disk is lost"
            for key, row in rows.items():
                seeds[key] = row["seed"]
                settled[key] = requests[key[0], row["seed"]]
        assert len(journal_of(output)) == len(set(journal_of(output))) == QUESTIONS * SAMPLES
        # Answers sent twice: those that were under way when a run was killed, at most one a worker.
        twice = sum(count - 1 for count in answered.values())
        assert twice <= KILLS * WORKERS
        rows = rows_of(output)
        right = [row for row in rows_of_samples(output).values() if row["seed"] % 3 > 0]
        assert summary_of(output)["right"] == len(right)
        assert len(rows) == len({row["index"] for row in right})
        print(
            f"{KILLS} kills, seed {seed}: {len(stub.asked)} requests, {sum(answered.values())} answers sent for "
            f"{QUESTIONS * SAMPLES} samples, {twice} of them again because they were under way when the run was killed"
        )


@pytest.mark.slow
def test_interrupted_it_waits_for_no_answer_and_says_how_to_go_on(tmp_path):
    output, source = tmp_path / "t.jsonl", questions(tmp_path, 20)
    with Stub(lambda asked: reply(solution(1, 2)) if len(stub.asked) <= 3 else stall(300)) as stub:
        words = ["synthesize", "--source", str(source), "--output_file", str(output), "--base_url", stub.url]
        words += ["--model_name", "m", "--concurrency", "4"]
        process = subprocess.Popen(
            [sys.executable, "-c", CHILD, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        while len(stub.asked) < 7:  # four of them are waited for
            assert process.poll() is None
            time.sleep(0.05)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[0].decode()
    assert process.returncode == 130, said
    assert f"stopped; the same command goes on after what is in {tmp_path / 't.samples.jsonl'}" in said
    assert len(journal_of(output)) == 3


def rows_of_samples(output: Path) -> dict[tuple[int, int], dict[str, Any]]:
    path = output.with_suffix(".samples.jsonl")
    lines = path.read_bytes().split(b"\n")[1:-1] if path.exists() else []
    return {(row["index"], row["sample"]): row for line in lines for row in json.loads(line)["rows"]}
