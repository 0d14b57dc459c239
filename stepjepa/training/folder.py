"""The output folder of a run: new and numbered by default, never one that is in use, nothing ever deleted."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from stepjepa.records import UserError
from stepjepa.training.checkpoints import NoCheckpointError, checkpoints, damage, newest_complete

RUNS = Path("runs")


@dataclass(frozen=True)
class Claim:
    """An output folder; `made` says that it did not exist before and can be given back while it is empty."""

    folder: Path
    made: bool

    def give_back(self) -> None:
        """Remove the folder again if it was made for this run and nothing is in it: the run never started."""
        if self.made and self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()


def claim_folder(wanted: str | None, resume: str | bool | None) -> Claim:
    """The folder of a run, made now; whatever it resumes from is looked at first.

    Args:
        wanted: the folder asked for; None takes the next `runs/train-NNN`.
        resume: True (the newest complete checkpoint in `wanted`), or the path of a checkpoint.

    Raises:
        UserError: if the folder holds something else than the run that is resumed.
        NoCheckpointError: if there is no complete checkpoint to resume from.
    """
    if isinstance(resume, str):
        return _of_checkpoint(wanted, Path(resume))
    if resume:
        if wanted is None:
            raise UserError("--resume_from_checkpoint true needs --output_dir: which run goes on?")
        newest_complete(wanted)
        return Claim(Path(wanted), made=False)
    if wanted is None:
        return _next_numbered()
    folder = Path(wanted)
    if _in_use(folder):
        raise UserError(
            f"The output folder {folder} is in use. Go on with that run by --resume_from_checkpoint true, or give "
            "another --output_dir; nothing is ever deleted here."
        )
    return _make(folder)


def _of_checkpoint(wanted: str | None, checkpoint: Path) -> Claim:
    if checkpoint.is_dir() and checkpoints(checkpoint):
        raise NoCheckpointError(
            f"{checkpoint} is a run, not a checkpoint: use --output_dir {checkpoint} --resume_from_checkpoint true."
        )
    wrong = damage(checkpoint)
    if wrong is not None:
        raise NoCheckpointError(f"Cannot resume from {checkpoint}: {wrong}.")
    run = checkpoint.resolve().parent
    folder = Path(wanted) if wanted else checkpoint.parent
    if folder.resolve() != run and _in_use(folder):
        raise UserError(
            f"The output folder {folder} is in use by something else than {checkpoint}; give an empty --output_dir, or "
            "none to go on in the checkpoint's own run."
        )
    return _make(folder)


def _make(folder: Path) -> Claim:
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    return Claim(folder, made)


def _in_use(folder: Path) -> bool:
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


def _next_numbered() -> Claim:
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
            return Claim(folder, made=True)
