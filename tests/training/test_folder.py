"""An output folder has one writer; what killed runs leave half written goes, and nothing else ever."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from resume_worker import make

from stepjepa.records import UserError, written_whole
from stepjepa.training.checkpoints import MARK, NoCheckpointError
from stepjepa.training.folder import LOCK, claim_folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with checkpoints 2 and 3."""
    folder = tmp_path_factory.mktemp("run")
    make(str(folder), max_steps=3, save_steps=2, eval_strategy="no").train()
    return folder


def test_output_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second = claim_folder(None, None), claim_folder(None, None)
    assert (str(first.folder), str(second.folder)) == ("runs/train-001", "runs/train-002")
    second.release()
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["train-001"]
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "thing").write_text("mine")
    with pytest.raises(
        UserError, match=r"in use. It has no complete checkpoint to go on from: give another --output_dir"
    ):
        claim_folder("used", None)
    with pytest.raises(NoCheckpointError, match=r"no checkpoint-N folder. To start anew give another --output_dir"):
        claim_folder("used", True)
    with pytest.raises(NoCheckpointError, match="typo"):
        claim_folder("typo", True)
    assert not (tmp_path / "typo").exists()
    with pytest.raises(UserError, match="--output_dir"):
        claim_folder(None, True)
    with pytest.raises(UserError, match="is a file"):
        claim_folder("used/thing", None)
    (tmp_path / "empty").mkdir()
    claim_folder("empty", None).release()
    assert (tmp_path / "empty").exists()  # it was there before: not ours to remove
    assert [path.name for path in (tmp_path / "used").iterdir()] == ["thing"]


def test_resuming_from_a_path_never_writes_into_another_run(run, tmp_path, monkeypatch):
    shutil.copytree(run, tmp_path / "a")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "record.json").write_text("{}")
    with pytest.raises(UserError, match="something else"):
        claim_folder("other", "a/checkpoint-2")
    with pytest.raises(NoCheckpointError, match="--output_dir a --resume_from_checkpoint true"):
        claim_folder(None, "a")
    for wanted, folder in ((None, "a"), ("a", "a"), ("new", "new")):
        claim = claim_folder(wanted, "a/checkpoint-2")
        assert (str(claim.folder), claim.checkpoint) == (folder, Path("a/checkpoint-2"))
        claim.release()
    with pytest.raises(UserError, match=r"in use. Go on with that run by --resume_from_checkpoint true"):
        claim_folder("a", None)
    for path in tmp_path.glob("a/checkpoint-*/optimizer.pt"):
        path.write_bytes(b"short")
    with pytest.raises(UserError, match="no complete checkpoint to go on from"):
        claim_folder("a", None)


def test_one_writer_at_a_time(tmp_path):
    folder = str(tmp_path / "new")
    claim = claim_folder(folder, None)
    for resume in (None, True):
        with pytest.raises(UserError, match=r"Another run is writing into .*new"):
            claim_folder(folder, resume)
    claim.release()
    assert not (tmp_path / "new").exists()
    code = (
        "import os; from pathlib import Path; from stepjepa.records import Lock; "
        f"lock = Lock(Path({folder!r}, {LOCK!r}), Path({folder!r})); lock.take(); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    assert (tmp_path / "new" / LOCK).exists()
    claim_folder(folder, None).release()  # the lock of a killed process is none
    assert list((tmp_path / "new").iterdir()) == []


def test_starting_anew_where_a_run_was_killed_before_its_first_checkpoint(tmp_path):
    staged = tmp_path / ".staging-checkpoint-2" / "checkpoint-2"
    staged.mkdir(parents=True)
    (staged.parent / MARK).touch()
    (staged / "optimizer.pt").write_bytes(b"half")
    (tmp_path / ".staging-model").mkdir()  # killed at once
    (tmp_path / LOCK).touch()
    events = tmp_path / "runs" / "Jan01" / "events.out.tfevents.1"
    events.parent.mkdir(parents=True)
    events.touch()
    with written_whole(tmp_path / "record.json") as left:
        pass
    (tmp_path / "record.json").rename(left)  # as a kill leaves it
    with pytest.raises(NoCheckpointError, match="To start anew leave out --resume_from_checkpoint"):
        claim_folder(str(tmp_path), True)
    claim_folder(str(tmp_path), None).release()
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    assert events.exists()


@pytest.mark.parametrize("name", [".staging-checkpoint-2", ".staging-notes", ".record.json", "checkpoint-x", "runs"])
def test_what_we_did_not_make_stays(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "mine").write_text("mine")
    with pytest.raises(UserError, match="in use"):
        claim_folder(str(tmp_path), None)
    assert (tmp_path / name / "mine").read_text() == "mine"
