"""The folder that grids are run in: a record for each cell, and for cells under way a lock and a work folder.

    ADDRESS.json                 the record of a finished or failed cell, written whole or not at all
    questions/DIGEST.json        names of the questions that `correct` in the records refers to, one a place
    work/ADDRESS.lock            held by the runner that has taken the cell
    work/ADDRESS/                checkpoints of the cell, and `cell.json`: what it is; deleted once the record is there

Records of several machines are merged by putting them into one folder.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stepjepa.experiments.grid import Cell
from stepjepa.records import Lock, UserError, on_disk, read_json, write_json

KIND = "ablation cell"
FINISHED, FAILED, RUNNING, INTERRUPTED, OPEN = "finished", "failed", "running", "interrupted", "to run"
STATES = (FINISHED, FAILED, RUNNING, INTERRUPTED, OPEN)


class GridFolder:
    """Records, locks and work folders of cells, under `path`."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.work = self.path / "work"

    def record_path(self, cell: Cell) -> Path:
        return self.path / f"{cell.address}.json"

    def record(self, cell: Cell) -> dict[str, Any] | None:
        """The record of a finished or failed cell; None if there is none yet.

        Raises:
            UserError: a file of that name is no record of this cell.
        """
        path = self.record_path(cell)
        if not path.exists():
            return None
        record = read_json(path)
        if record.get("kind") != KIND or not {"cell", "status"} <= record.keys():
            raise UserError(f"{path}: not a record of an ablation cell; give another --output_dir")
        if record["cell"] != cell.options:
            raise UserError(f"{path}: the record of another cell, {record['cell']}; move it away")
        return record

    def state(self, cell: Cell) -> str:
        """One of `STATES`."""
        record = self.record(cell)
        if record is not None:
            return str(record["status"])
        if self._is_held(cell):
            return RUNNING
        return INTERRUPTED if self._folder(cell).is_dir() else OPEN

    def write(self, cell: Cell, record: Mapping[str, Any]) -> None:
        """Write the record of a cell and delete its work folder; a failed cell keeps checkpoints, to go on from."""
        write_json(record, self.record_path(cell))
        if record["status"] == FINISHED or not any(self._folder(cell).glob("checkpoint-*")):
            self.clear(cell)

    def clear(self, cell: Cell) -> None:
        """Delete the cell's work folder, if there is one and `prepare` made it.

        It is renamed first: half deleted, it would not be known again as one of ours.
        """
        folder, discarded = self._folder(cell), self.work / f"{cell.address}.discarded"
        if discarded.exists():  # by a runner that was killed while deleting
            shutil.rmtree(discarded)
        if folder.exists():
            self._check_own(cell, folder)
            os.rename(folder, discarded)
            shutil.rmtree(discarded)

    def tidy(self, cell: Cell) -> None:
        """Remove the work folder of a cell with a record, unless another runner has it.

        It is left by a runner that was killed between writing the record and tidying up, or by a failed cell.
        """
        if any(self.work.glob(f"{cell.address}*")):
            with self.taken(cell) as mine:
                if mine:
                    self.clear(cell)

    def prepare(self, cell: Cell, environment: Mapping[str, Any]) -> Path:
        """The cell's work folder, with its checkpoints if an earlier attempt under the same environment left any.

        Checkpoints of other code, packages or hardware are not gone on with: a record comes from one of each.

        Raises:
            UserError: something else is in the place of the work folder.
        """
        folder = self._folder(cell)
        if folder.exists():
            earlier = self._check_own(cell, folder)
            if earlier["environment"] == environment:
                return folder
        self.clear(cell)
        folder.mkdir(parents=True)
        write_json({"address": cell.address, "cell": cell.options, "environment": environment}, folder / "cell.json")
        return folder

    def keep_questions(self, names: Sequence[str]) -> str:
        """Store the names of a split's questions once; returns their digest."""
        digest = hashlib.sha256("\n".join(names).encode()).hexdigest()[:12]
        path = self.path / "questions" / f"{digest}.json"
        if not path.exists():
            write_json({"kind": "questions", "ids": list(names)}, path)
        return digest

    @contextmanager
    def taken(self, cell: Cell) -> Iterator[bool]:
        """Take a cell for this process; False if another has it."""
        with on_disk(self.work):
            self.work.mkdir(parents=True, exist_ok=True)
        lock = Lock(self._lock(cell), self.work)
        if not lock.take():
            yield False
            return
        try:
            yield True
        finally:
            lock.free()

    def _folder(self, cell: Cell) -> Path:
        return self.work / cell.address

    def _lock(self, cell: Cell) -> Path:
        return self.work / f"{cell.address}.lock"

    def _is_held(self, cell: Cell) -> bool:
        """Whether a running process has the cell; a lock file without an owner is removed."""
        if not self._lock(cell).exists():
            return False
        with self.taken(cell) as mine:
            return not mine

    def _check_own(self, cell: Cell, folder: Path) -> dict[str, Any]:
        """What `prepare` wrote into a work folder."""
        mark = folder / "cell.json"
        if folder.is_dir() and not any(entry for entry in folder.iterdir() if not entry.name.startswith(".cell.json")):
            return {"environment": None}  # killed while `prepare` was at work
        try:
            found = read_json(mark)
        except UserError as error:
            raise UserError(
                f"{folder}: in the way of a cell's checkpoints, and not made by this command; move it away"
            ) from error
        if found.get("address") != cell.address:
            raise UserError(f"{folder}: holds the checkpoints of another cell; move it away")
        return found
