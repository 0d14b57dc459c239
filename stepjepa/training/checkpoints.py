"""Checkpoints on disk that are complete or absent: staged, renamed, described by a manifest, found again.

The stock trainer writes into `checkpoint-N` file by file and resumes from the newest folder of that name, even when a
kill has left it truncated. Here a checkpoint is written into a staging folder, flushed to disk and renamed; a run
killed at any moment leaves either a whole `checkpoint-N` or none. Its `manifest.json`, written last, has the checksum
of every file and what the run's result follows from (`identity.py`): a resume takes the newest checkpoint whose files
are those that were saved, names newer ones that are not, and refuses to go on with other settings or data.

Checksums cost little beside saving: 0.6 s of one core for a checkpoint of 500 MB, which takes several seconds to have
on disk; on resuming they are computed once, by the first process.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from accelerate.utils import broadcast_object_list

from stepjepa.models.checkpoint import NAME
from stepjepa.records import UserError, file_digest, json_bytes, on_disk, read_json, write_json

Result = TypeVar("Result")

OBJECTIVE_FILE = "objective.safetensors"
"""Weights and state of the objective, beside those of the model."""
MANIFEST = "manifest.json"
STAGING = ".staging-"
MARK = "made-by-stepjepa"
"""A file in every staging folder of ours; no other is ever deleted."""
REPLACED = "replaced-"


class NoCheckpointError(UserError):
    """There is no complete checkpoint to resume from."""


class OtherRunError(UserError):
    """A checkpoint is of a run with other settings, other data or another model."""


# -------- written whole or not at all --------


@contextmanager
def staging(run: Path, name: str, mine: bool, wait: Callable[[], None]) -> Iterator[Path]:
    """A folder to write into, in the run's folder, for what is to be called `name` there; gone on leaving.

    Args:
        mine: whether this process makes and removes it.
        wait: until all processes are there.

    Raises:
        UserError: it cannot be written there; what was saved before is as it was.
    """
    folder = run / f"{STAGING}{name}"
    try:
        with on_disk(run / name):
            if mine:
                run.mkdir(parents=True, exist_ok=True)
                clear_staging(run)
                folder.mkdir()
                (folder / MARK).touch()
            wait()
            yield folder
    finally:
        if mine and folder.exists():
            clear_staging(run)


def clear_staging(run: Path) -> None:
    """Remove what killed processes have left half written; a publication that they had begun is completed first.

    Only the process that has the run may do this.
    """
    finish_interrupted(run)
    for folder in staging_folders(run):
        shutil.rmtree(folder)


def staging_folders(run: Path) -> list[Path]:
    """Our staging folders in a run's folder: marked as such, or empty because they were just being made."""
    found = [path for path in run.glob(f"{STAGING}*") if path.is_dir() and not path.is_symlink()]
    return [path for path in found if (path / MARK).is_file() or not any(path.iterdir())]


def publish(staged: Path, final: Path) -> None:
    """Flush a staged checkpoint to disk and give it its name in one step.

    A checkpoint of the same name, as left by a run resumed from an earlier one, is replaced.
    """
    flush(staged)
    if final.exists():
        replaced = staged.parent / f"{REPLACED}{final.name}"
        os.rename(final, replaced)
        os.rename(staged, final)
        shutil.rmtree(replaced)
    else:
        os.rename(staged, final)
    _flush(final.parent)


def finish_interrupted(folder: Path) -> None:
    """Complete a `publish` that was killed between moving the old checkpoint away and the new one in.

    Both are complete then; the new one takes its name.
    """
    for replaced in folder.glob(f"{STAGING}*/{REPLACED}*"):
        final = folder / replaced.name.removeprefix(REPLACED)
        staged = replaced.parent / final.name
        if not final.exists():
            os.rename(staged if staged.exists() else replaced, final)


def flush(folder: Path) -> None:
    """Have a folder and all in it on disk."""
    for path in [*folder.rglob("*"), folder]:
        _flush(path)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# -------- what a checkpoint holds --------


def write_manifest(checkpoint: Path, **content: Any) -> None:
    """Write down sizes and checksums of all files of a checkpoint, and `content`, as its last file."""
    files = {
        str(path.relative_to(checkpoint)): {"bytes": path.stat().st_size, "sha256": file_digest(path)}
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file()
    }
    whole = {"files": files, **content}
    write_json(whole | {"sha256": _own_digest(whole)}, checkpoint / MANIFEST)


def _own_digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json_bytes({name: manifest[name] for name in manifest if name != "sha256"})).hexdigest()


def damage(checkpoint: Path, checksums: bool = True) -> str | None:
    """What is wrong with a checkpoint folder, or None if it is what was saved and has all that a resume needs.

    Args:
        checksums: read all files; otherwise only their sizes are compared.
    """
    if not (checkpoint / MANIFEST).is_file():
        return f"it has no {MANIFEST}, which is written last: saving was interrupted, or something else has saved it"
    try:
        manifest = read_json(checkpoint / MANIFEST)
        if manifest.get("sha256") != _own_digest(manifest):
            return f"{MANIFEST} is not what was saved"
        for name, known in manifest["files"].items():
            path = checkpoint / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != known["bytes"]:
                return f"{name} has {path.stat().st_size:,} of its {known['bytes']:,} bytes"
            if checksums and file_digest(path) != known["sha256"]:
                return f"{name} is not what was saved (its checksum differs)"
    except (UserError, OSError) as error:
        return str(error)
    if not any(name.startswith("optimizer") for name in manifest["files"]):
        return "it has no optimizer state (saved with save_only_model?)"
    return None


def checkpoints(folder: Path) -> list[Path]:
    """The `checkpoint-N` folders, newest (largest N) first; looked at by name only."""
    named = [
        (int(match[1]), path) for path in folder.iterdir() if path.is_dir() and (match := NAME.fullmatch(path.name))
    ]
    return [path for _, path in sorted(named, reverse=True)]


def newest_complete(folder: str | Path, checksums: bool = True) -> tuple[Path, list[str]]:
    """The newest complete checkpoint of a run, and one line for each newer one that was passed over.

    Raises:
        NoCheckpointError: if the folder has none; the message lists what was found.
    """
    folder = Path(folder)
    skipped: list[str] = []
    if folder.is_dir():
        finish_interrupted(folder)
    for path in checkpoints(folder) if folder.is_dir() else []:
        wrong = damage(path, checksums)
        if wrong is None:
            return path, skipped
        skipped.append(f"{path.name}: {wrong}")
    found = "; ".join(skipped) if skipped else "no checkpoint-N folder"
    raise NoCheckpointError(f"No complete checkpoint in {folder}: {found}.")


def check_complete(checkpoint: str | Path) -> Path:
    """The path of a checkpoint that a resume can use.

    Raises:
        NoCheckpointError: it cannot; what is wrong with it.
    """
    if (wrong := damage(Path(checkpoint))) is not None:
        raise NoCheckpointError(f"Cannot resume from {checkpoint}: {wrong}.")
    return Path(checkpoint)


def by_first_process(compute: Callable[[], Result]) -> Result:
    """What the first process computes, or the user's error that it meets, in all processes."""
    from accelerate import PartialState

    found: list[Any] = [None]
    if PartialState().is_main_process:
        try:
            found = [compute()]
        except UserError as error:
            found = [error]
    result = broadcast_object_list(found)[0]
    if isinstance(result, UserError):
        raise result
    return result
