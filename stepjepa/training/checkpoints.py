"""Checkpoints that are complete or absent, and a `Trainer` that writes and resumes from such.

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
from torch import nn
from transformers import Trainer
from transformers.trainer_utils import rotate_checkpoints
from transformers.utils import logging

from stepjepa.models.checkpoint import NAME
from stepjepa.models.loading import check_finite
from stepjepa.records import UserError, environment, file_digest, json_bytes, on_disk, read_json, write_json
from stepjepa.training.identity import differences, identity

logger = logging.get_logger(__name__)
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


# -------- the trainer --------


class CompleteCheckpoints(Trainer):
    """`transformers.Trainer`; only saving and resuming differ.

    Attributes:
        about_run: settings of the run that no argument of the trainer holds, such as the model's name and digest;
            a checkpoint keeps them, and a resume compares them (see `identity`).
    """

    about_run: Mapping[str, Any] = {}
    _staging: Path | None = None
    _progress: Mapping[str, Any] | None = None

    # ---- resuming ----

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As the parent's; `resume_from_checkpoint=True` takes the newest *complete* checkpoint.

        Raises:
            NoCheckpointError: the checkpoint, or every one, is damaged or incomplete.
            UserError: the checkpoint is of a run with other settings or data; see `identity`.
        """
        if resume_from_checkpoint is True:
            path, skipped = by_first_process(lambda: newest_complete(str(self.args.output_dir)))
            for line in skipped:
                logger.warning(f"Skipped an incomplete checkpoint: {line}")
            logger.warning(f"Resuming from {path}")
            resume_from_checkpoint = str(path)
        elif resume_from_checkpoint:
            named = resume_from_checkpoint
            resume_from_checkpoint = str(by_first_process(lambda: check_complete(named)))
        if resume_from_checkpoint:
            self.check_goes_on(resume_from_checkpoint)
            self._progress = read_json(Path(resume_from_checkpoint) / MANIFEST)["progress"]
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def check_goes_on(self, checkpoint: str | Path) -> None:
        """Compare the run that a checkpoint is of with this one.

        Raises:
            UserError: what differs.
        """
        manifest = read_json(Path(checkpoint) / MANIFEST)
        if differing := differences(manifest["run"], identity(self)):
            raise UserError(
                f"{checkpoint} is of a run with other settings or data; different: {differing}. Give what that run "
                "had to go on with it, or another --output_dir to start a run of its own."
            )
        packages = differences(manifest["packages"], environment()["packages"])
        if packages:
            logger.warning(f"{checkpoint} was saved with other packages, so bits may differ: {packages}")

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        if self._progress is not None:  # the parent has just set its sums to zero
            self.restore(self._progress)
            self._progress = None
        super()._run_epoch(*args, **kwargs)

    def progress(self) -> dict[str, Any]:
        """Sums that figures of the log are made from, over all processes; the parent forgets them when it is killed."""
        interval = self.accelerator.reduce(self._tr_loss.detach().clone(), reduction="mean")
        return {
            "loss_before": self._total_loss_scalar,
            "loss_since": interval.item(),
            "logged_at": self._globalstep_last_logged,
        }

    def restore(self, progress: Mapping[str, Any]) -> None:
        """Take up what `progress` has kept."""
        self._total_loss_scalar = progress["loss_before"]
        self._tr_loss.fill_(progress["loss_since"])
        self._globalstep_last_logged = progress["logged_at"]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As the parent's; the `train_loss` at the end is the mean over all optimizer steps of the run."""
        if "train_loss" in logs:  # the parent divides by the steps since the resume
            logs["train_loss"] = self._total_loss_scalar / max(self.state.global_step, 1)
        super().log(logs, start_time)

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        output = super()._finalize_training(*args, **kwargs)
        return output._replace(training_loss=output.metrics["train_loss"])

    def _load_best_model(self) -> None:
        best = str(self.state.best_model_checkpoint)
        by_first_process(lambda: check_complete(best))
        super()._load_best_model()

    # ---- saving ----

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As the parent's.

        Raises:
            UserError: a weight is not a finite number; nothing is written.
        """
        check_finite(self.model, f"after optimizer step {self.state.global_step} the model has")
        super().save_model(output_dir, _internal_call)

    def _get_output_dir(self, trial: Any) -> str:
        return super()._get_output_dir(trial) if self._staging is None else str(self._staging)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """As the parent's, but written under a temporary name and renamed when complete."""
        run, name = Path(super()._get_output_dir(trial)), f"checkpoint-{self.state.global_step}"
        mine, wait = self.args.should_save, self.accelerator.wait_for_everyone
        content = {"run": identity(self), "packages": environment()["packages"], "progress": self.progress()}
        with staging(run, name, mine, wait) as folder:
            self._staging = folder
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self._staging = None
            best = self.state.best_global_step
            if best is not None and mine:
                path = run / f"checkpoint-{best}"
                if best == self.state.global_step or path.exists():
                    self.state.best_model_checkpoint = str(path)
            wait()
            if mine:
                self.state.save_to_json(os.path.join(folder, name, "trainer_state.json"))
                write_manifest(folder / name, **content)
                publish(folder / name, run / name)
        if mine:
            rotate_checkpoints(str(run), self.args.save_total_limit, self.state.best_model_checkpoint, use_mtime=True)
        wait()
