"""The output folder of a run: new and numbered by default, never one that is in use; one run at a time writes it.

Nothing is ever deleted there but what killed runs of this package have left half written.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from stepjepa.records import Lock, UserError, left_unfinished, on_disk
from stepjepa.training.checkpoints import (
    NoCheckpointError,
    check_complete,
    checkpoints,
    clear_staging,
    newest_complete,
    staging_folders,
)

RUNS = Path("runs")
LOCK = ".lock"
"""In the output folder, while a run has it or after it was killed."""


@dataclass(frozen=True)
class Claim:
    """An output folder that this process alone writes, until it is released or the process ends."""

    folder: Path
    made: bool
    """Whether it did not exist before."""
    checkpoint: Path | None = None
    """Where to go on from."""
    skipped: list[str] = field(default_factory=list)
    """A line for each newer checkpoint that is damaged."""
    lock: Lock | None = None
    """None in processes for which another holds it."""

    def release(self) -> None:
        """Let others have the folder; one that was made for this run, and in which nothing is, goes again."""
        if self.lock is not None:
            self.lock.free()
            if self.made and not any(self.folder.iterdir()):
                self.folder.rmdir()


def claim_folder(wanted: str | None, resume: str | bool | None) -> Claim:
    """The folder of a run, made now and locked; whatever it resumes from is looked at, what killed runs left removed.

    Args:
        wanted: the folder asked for; None takes the next `runs/train-NNN`.
        resume: True (the newest complete checkpoint in `wanted`), or the path of a checkpoint.

    Raises:
        UserError: if another run writes the folder, or it holds something else than the run that is resumed.
        NoCheckpointError: if there is no complete checkpoint to resume from.
    """
    if wanted is None and not resume:
        return _next_numbered()
    if wanted is None and resume is True:
        raise UserError("--resume_from_checkpoint true needs --output_dir: which run goes on?")
    folder = Path(wanted) if wanted is not None else Path(str(resume)).parent
    checkpoint: Path | None = None
    skipped: list[str] = []
    if isinstance(resume, str):
        checkpoint = _named(Path(resume))
    elif resume and not folder.is_dir():
        raise NoCheckpointError(f"No complete checkpoint in {folder}: there is no such folder.")
    claim = _take(folder)
    try:
        with on_disk(folder):
            if resume is True:
                checkpoint, skipped = _newest(folder)
            elif checkpoint is None or checkpoint.resolve().parent != folder.resolve():
                _check_free(folder, checkpoint)
            _tidy(folder)
    except UserError:
        claim.release()
        raise
    return Claim(folder, claim.made, checkpoint, skipped, claim.lock)


def _take(folder: Path, made: bool | None = None) -> Claim:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"The output folder {folder} is a file; give another --output_dir.")
    made = not folder.exists() if made is None else made
    with on_disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
    lock = Lock(folder / LOCK, folder)
    if not lock.take():
        raise UserError(
            f"Another run is writing into {folder} at this moment: wait for its end, or give another --output_dir."
        )
    return Claim(folder, made, lock=lock)


def _next_numbered() -> Claim:
    with on_disk(RUNS):
        RUNS.mkdir(exist_ok=True)
        numbers = [int(match[1]) for path in RUNS.iterdir() if (match := re.fullmatch(r"train-(\d+)", path.name))]
        number = max(numbers, default=0) + 1
        while True:
            folder = RUNS / f"train-{number:03d}"
            try:
                folder.mkdir()
            except FileExistsError:  # another run took it a moment ago
                number += 1
            else:
                return _take(folder, made=True)


# -------- what lies there --------


def _named(checkpoint: Path) -> Path:
    if checkpoint.is_dir() and checkpoints(checkpoint):
        raise NoCheckpointError(
            f"{checkpoint} is a run, not a checkpoint: use --output_dir {checkpoint} --resume_from_checkpoint true."
        )
    return check_complete(checkpoint)


def _newest(folder: Path) -> tuple[Path, list[str]]:
    try:
        return newest_complete(folder)
    except NoCheckpointError as error:
        way = "give another --output_dir" if _kept(folder) else "leave out --resume_from_checkpoint"
        raise NoCheckpointError(f"{error} To start anew {way}.") from error


def _check_free(folder: Path, checkpoint: Path | None) -> None:
    """Refuse a folder that holds more than what killed runs leave."""
    if not _kept(folder):
        return
    if checkpoint is not None:
        raise UserError(
            f"The output folder {folder} is in use by something else than {checkpoint}; give an empty --output_dir, or "
            "none to go on in the checkpoint's own run."
        )
    try:
        newest_complete(folder, checksums=False)
        way = "Go on with that run by --resume_from_checkpoint true, or give another --output_dir"
    except NoCheckpointError:
        way = "It has no complete checkpoint to go on from: give another --output_dir"
    raise UserError(f"The output folder {folder} is in use. {way}; nothing is ever deleted here.")


def _kept(folder: Path) -> list[Path]:
    """What is in a folder besides what a run leaves that was killed before its first checkpoint was complete."""
    ours = {folder / LOCK, *staging_folders(folder), *left_unfinished(folder)}
    return [path for path in folder.iterdir() if path not in ours and not _is_log(path)]


def _is_log(path: Path) -> bool:
    """Whether it is the folder of TensorBoard's files, which stay: a new run adds its own."""
    files = [file for file in path.rglob("*") if file.is_file()] if path.name == "runs" else []
    return bool(files) and all(file.name.startswith("events.out.tfevents.") for file in files)


def _tidy(folder: Path) -> None:
    """Remove what killed runs have left half written; the lock says that no other is at work."""
    clear_staging(folder)
    for path in left_unfinished(folder):
        path.unlink(missing_ok=True)
