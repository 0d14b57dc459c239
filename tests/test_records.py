"""Files are written whole, by one process at a time, in strict JSON; what a disk refuses is one sentence."""

import contextlib
import errno
import json
import os
import stat
import subprocess
import sys

import numpy as np
import pytest
from safetensors import SafetensorError
from small_embeddings import make_embeddings

from stepjepa.analysis.embeddings import load, save
from stepjepa.records import (
    UserError,
    as_json,
    file_digest,
    json_bytes,
    left_unfinished,
    on_disk,
    one_writer,
    read_json,
    write_json,
    write_jsonl,
    written_whole,
)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EIO, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_what_a_disk_refuses_is_one_sentence_that_names_the_file(tmp_path, monkeypatch, code, call):
    (tmp_path / "a.json").write_text("before")

    def refuse(*_words):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(UserError, match=rf"a\.json cannot be written: {os.strerror(code)}"):
        write_json({"a": 1}, tmp_path / "a.json")
    assert (tmp_path / "a.json").read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
            "No space left on",
        ),
        (Exception("Permission denied (os error 13)"), "Permission denied"),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 52 vs 51"), "is it full"),
        (RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"), "is it full"),
    ],
)
def test_what_other_libraries_say_of_a_disk(tmp_path, error, reason):
    with pytest.raises(UserError, match=f"x cannot be written: .*{reason}"), on_disk(tmp_path / "x"):
        raise error
    with pytest.raises(KeyError), on_disk(tmp_path / "x"):
        raise KeyError("another error stays what it is")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[1]", b"\xff\xfe", b'{"a": 1', b"[" * 100_000, b"null"],
    ids=lambda content: repr(content[:8]),
)
def test_a_damaged_file_of_ours_is_named(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.json cannot be read"):
        read_json(tmp_path / "a.json")
    with pytest.raises(UserError, match="none cannot be read: No such file"):
        read_json(tmp_path / "none")
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        read_json(tmp_path)


def test_json_is_strict_and_loses_nothing(tmp_path):
    odd = {"nan": float("nan"), "list": [1.5, (float("-inf"), 2)], 3: np.float64("nan"), "half": "\udc80", "ü": "ü"}
    write_json(odd, tmp_path / "a.json")
    found = json.loads((tmp_path / "a.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert found == {"nan": None, "list": [1.5, [None, 2]], "3": None, "half": "\udc80", "ü": "ü"}
    assert as_json({"a": 0.1}) == {"a": 0.1}
    assert json_bytes("ü") == '"ü"'.encode()
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_jsonl([{"a": float("inf")}], tmp_path / "a.jsonl")
    assert not (tmp_path / "a.jsonl").exists()


def test_one_writer_at_a_time_and_what_killed_ones_left_goes(tmp_path):
    path = tmp_path / "r.jsonl"
    code = (
        "import os, sys; from stepjepa.records import *\n"
        "with one_writer(sys.argv[1]), written_whole(sys.argv[1]): os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    with written_whole(tmp_path / "other.jsonl") as other:
        assert sorted(file.name for file in tmp_path.iterdir())[0] == other.name
        assert len(left_unfinished(tmp_path)) == 2
        (tmp_path / ".r.jsonl.mine").write_text("mine")
        with one_writer(path):
            assert {file.name for file in tmp_path.iterdir()} == {".r.jsonl.lock", ".r.jsonl.mine", other.name}
            with pytest.raises(UserError, match=r"r\.jsonl is being written by another run"), one_writer(path):
                pass
    with one_writer(path):
        pass
    assert {file.name for file in tmp_path.iterdir()} == {".r.jsonl.mine", "other.jsonl"}
    with pytest.raises(UserError, match="it is a folder"), one_writer(tmp_path):
        pass


def test_a_digest_follows_the_file(tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    first = file_digest(tmp_path / "a")
    (tmp_path / "a").write_bytes(b"22")
    assert file_digest(tmp_path / "a") != first


@pytest.mark.parametrize("ending", ["npz", "safetensors"])
def test_a_damaged_embedding_file_is_one_sentence(tmp_path, ending):
    path = tmp_path / f"e.{ending}"
    save(make_embeddings(), path)
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    for place in [0, 1, 8, 9, 40, len(whole) - 1, *generator.integers(len(whole), size=40)]:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << generator.integers(8))]) + whole[place + 1 :])
        with contextlib.suppress(UserError):  # or nothing: a flipped bit in a number is none that a reader could know
            load(path)
    for place in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:place])
        with pytest.raises(UserError, match=f"e.{ending}"):
            load(path)


def test_a_link_stays_a_link_and_a_pipe_a_pipe(tmp_path):
    """What is written goes to where the name leads; nothing but a regular file is put in the place of another."""
    (tmp_path / "elsewhere").mkdir()
    there, link, pipe = tmp_path / "elsewhere" / "a.json", tmp_path / "link.json", tmp_path / "pipe"
    there.write_text("{}")
    link.symlink_to(there)
    write_json({"a": 1}, link)
    assert link.is_symlink()
    assert read_json(there) == {"a": 1}
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_json({"a": 2}, pipe)
    assert json.loads(os.read(reader, 1000)) == {"a": 2}
    os.close(reader)
    assert pipe.is_fifo()
    write_json({"a": 3}, "/dev/null")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_permissions_are_those_of_new_files_or_of_the_file_before(tmp_path, monkeypatch):
    monkeypatch.setattr("stepjepa.records.UMASK", 0o077)
    for _ in range(2):
        write_json({}, tmp_path / "a.json")
        assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == 0o600
    (tmp_path / "a.json").chmod(0o640)
    write_json({"a": 1}, tmp_path / "a.json")
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == 0o640
