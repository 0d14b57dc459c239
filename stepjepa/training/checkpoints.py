"""Checkpoints that are complete or absent.

A checkpoint is written into a staging folder, flushed to disk and renamed; a run killed at any moment leaves
either a whole `checkpoint-N` or none. On resuming, the newest checkpoint that can really be read is taken and
any newer, damaged one is named.
"""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open

from stepjepa.models.checkpoint import NAME
from stepjepa.records import UserError

STAGING = ".staging-checkpoint"
REPLACED = "replaced-"


class NoCheckpointError(UserError):
    """There is no complete checkpoint to resume from."""


def publish(staged: Path, final: Path) -> None:
    """Flush a staged checkpoint to disk and give it its name in one step.

    A checkpoint of the same name, as left by a run resumed from an earlier one, is replaced.
    """
    for path in [*staged.rglob("*"), staged]:
        _flush(path)
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
    for replaced in folder.glob(f"{STAGING}-*/{REPLACED}*"):
        final = folder / replaced.name.removeprefix(REPLACED)
        staged = replaced.parent / final.name
        if not final.exists():
            os.rename(staged if staged.exists() else replaced, final)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint folder, or None if everything a resume needs can be read.

    Weights are checked by their headers and sizes, not value by value.
    """
    state = checkpoint / "trainer_state.json"
    try:
        json.loads(state.read_text())
    except (OSError, ValueError) as error:
        return f"trainer_state.json cannot be read ({error})"
    weights = sorted(checkpoint.glob("*.safetensors"))
    if not weights and not any(checkpoint.glob("pytorch_model_fsdp*")):
        return "it has no model weights"
    index = checkpoint / "model.safetensors.index.json"
    if index.exists():
        try:
            named = set(json.loads(index.read_text())["weight_map"].values())
        except (OSError, ValueError, KeyError) as error:
            return f"{index.name} cannot be read ({error})"
        missing = named - {path.name for path in weights}
        if missing:
            return f"{', '.join(sorted(missing))} is missing"
    for path in weights:
        try:
            with safe_open(path, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            return f"{path.name} cannot be read ({error})"
    optimizer = [path for path in checkpoint.glob("optimizer*") if path.name.startswith("optimizer")]
    if not optimizer:
        return "it has no optimizer state (saved with save_only_model?)"
    if not (checkpoint / "scheduler.pt").exists():
        return "it has no learning-rate schedule"
    if not list(checkpoint.glob("rng_state*.pth")):
        return "it has no random-number state"
    for path in [*checkpoint.glob("*.pt"), *checkpoint.glob("*.pth"), *checkpoint.glob("*.bin")]:
        if not zipfile.is_zipfile(path):
            return f"{path.name} is truncated"
    return None


def checkpoints(folder: Path) -> list[Path]:
    """The `checkpoint-N` folders, newest (largest N) first; looked at by name only."""
    named = [
        (int(match[1]), path) for path in folder.iterdir() if path.is_dir() and (match := NAME.fullmatch(path.name))
    ]
    return [path for _, path in sorted(named, reverse=True)]


def newest_complete(folder: str | Path) -> tuple[Path, list[str]]:
    """The newest complete checkpoint of a run, and one line for each newer one that was passed over.

    Raises:
        NoCheckpointError: if the folder has none; the message lists what was found.
    """
    folder = Path(folder)
    skipped: list[str] = []
    if folder.is_dir():
        finish_interrupted(folder)
    for path in checkpoints(folder) if folder.is_dir() else []:
        wrong = damage(path)
        if wrong is None:
            return path, skipped
        skipped.append(f"{path.name}: {wrong}")
    found = "; ".join(skipped) if skipped else "no checkpoint-N folder"
    raise NoCheckpointError(f"No complete checkpoint in {folder}: {found}.")
