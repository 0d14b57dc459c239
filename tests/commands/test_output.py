"""What is printed is shown and never obeyed; readers that go away, Ctrl-C, words that are no text."""

import io
import logging
import os
import subprocess
import sys
import unicodedata

import pytest

from stepjepa.commands import main as main_module
from stepjepa.commands.main import main
from stepjepa.commands.output import say, say_next
from stepjepa.commands.train import busy, stopped
from stepjepa.records import UserError, printable

OBEYED = [
    "\x1b[31mred",
    "\x1b]0;title\x07",
    "\x1bP1$r\x1b\\",
    "\x9b31m",
    "over\rwritten",
    "back\b\b\bspace",
    "\x00nul",
    "\x7f",
    "\x0b\x0c",
    "\u202egnp.exe",
    "\u2066isolate",
    "line\u2028separator",
    "\udcff",
    "\ud83d",
]


@pytest.mark.parametrize("text", OBEYED)
def test_control_characters_are_written_out(text, capsys):
    say(text)
    out = capsys.readouterr().out
    assert all(unicodedata.category(c) not in ("Cc", "Cs", "Zl", "Zp") for c in out.rstrip("\n"))
    assert "\\" in out


@pytest.mark.parametrize("text", ["λ = 0,1\n\ttab", "步骤1：", "5\u202f000 €", "نص", "👩‍🚀", "e\u0301", "a\\x1bb"])
def test_text_is_printed_as_it_is(text):
    assert printable(text) == text


def run(*words, code="import sys; from stepjepa.commands.main import main; sys.exit(main(sys.argv[1:]))", **options):
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, check=False, **options)


def test_a_reader_that_goes_away_ends_no_command(tmp_path):
    read, write = os.pipe()
    os.close(read)
    words = ["prepare", "--source", "builtin", "--problems", "2", "--output_file", str(tmp_path / "o.jsonl")]
    code = "import sys; from stepjepa.commands.main import main; sys.exit(main(sys.argv[1:]))"
    for arguments, status in ((words, 0), (["train", "--help_all"], 0), (["--help"], 0)):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], stdout=write, stderr=subprocess.PIPE, check=False
        )
        assert (done.returncode, done.stderr) == (status, b"")
    os.close(write)
    assert len((tmp_path / "o.jsonl").read_text().splitlines()) == 2


def test_a_terminal_without_lambda_and_words_that_are_no_text():
    done = run("--help", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"\u2192" in done.stdout
    done = run("prepare", "--source", b"\xff\xfe.jsonl", "--output_file", "o")
    assert done.returncode == 2
    assert b"is not UTF-8" in done.stderr
    assert b"Traceback" not in done.stderr


def test_errors_and_log_lines_are_printable(monkeypatch, capsys):
    class Stub:
        @staticmethod
        def main(_words):
            logging.getLogger("stepjepa.training").warning("Resuming from %s", "a\x1b[2Jb")
            raise UserError("no file '\x1b[2J'")

    monkeypatch.setattr(main_module, "import_module", lambda _name: Stub)
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logging.getLogger("stepjepa").addHandler(handler)
    assert main(["train"]) == 1
    logging.getLogger("stepjepa").removeHandler(handler)
    assert capsys.readouterr().err == "stepjepa train: no file '\\x1b[2J'\n"
    assert stream.getvalue() == "Resuming from a\\x1b[2Jb\n"


def test_the_next_command_can_be_pasted(capsys):
    say_next("verify", "--train_file", "my rows.jsonl", "$x")
    assert capsys.readouterr().out == "next: stepjepa verify --train_file 'my rows.jsonl' '$x'\n"


def test_an_interrupted_run_says_what_is_saved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "nothing is saved" in stopped(None, [])
    (tmp_path / "run").mkdir()
    assert "start anew" in stopped("run", [])
    monkeypatch.setattr("stepjepa.training.checkpoints.newest_complete", lambda _, checksums: ("run/checkpoint-8", []))
    again = "run/checkpoint-8 is saved. It goes on with: stepjepa train --lbd 0 --output_dir run --resume_from_checkpoint true"
    assert again in stopped("run", ["--lbd", "0"])
    assert again in stopped("run", ["--lbd", "0", "--output_dir", "run", "--resume_from_checkpoint", "true"])


@pytest.mark.parametrize(("load", "threads", "advised"), [(0.1, 2, None), (1.9, 2, 1), (3.6, 1, None), (2.2, 4, 2)])
def test_a_busy_processor_is_told_of(load, threads, advised, monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0, 0), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 2 if threads < 4 else 4)
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert (f"OMP_NUM_THREADS={advised}" in (busy() or "")) == (advised is not None)
