"""Run a grid, cell by cell, so that nothing finished is ever lost or run twice.

Runners share nothing but the folder: each goes through the cells of its shard and takes those that have no record and
that no other runner holds. Several processes are several runners, on one machine or on many; a runner that is stopped
or killed leaves records and checkpoints, and the next one goes on from there. A cell that raises an error is recorded
as failed, with the error, and the grid goes on.
"""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepjepa.experiments.grid import Cell, Grid
from stepjepa.experiments.store import FAILED, FINISHED, INTERRUPTED, KIND, OPEN, STATES, GridFolder
from stepjepa.records import environment


@dataclass(frozen=True)
class Plan:
    """Which cells of a grid a runner runs, and where."""

    grid: Grid
    folder: GridFolder
    shard: tuple[int, int] = (1, 1)
    """The i-th of n parts, i from 1."""
    max_cells: int | None = None

    @property
    def cells(self) -> list[Cell]:
        """The shard's cells, run or not."""
        part, parts = self.shard
        return self.grid.cells[part - 1 :: parts]

    def open_cells(self) -> list[Cell]:
        """Those of them that have no record and that no runner holds."""
        return [cell for cell in self.cells if self.folder.state(cell) in (OPEN, INTERRUPTED)]

    def forget_failures(self) -> None:
        """Delete the records of failed cells, so that they are run again."""
        for cell in self.cells:
            if self.folder.state(cell) == FAILED:
                self.folder.record_path(cell).unlink()


Done = Callable[[Cell, dict[str, Any]], None]
Step = Callable[[Cell, int, int], None]


def run_plan(plan: Plan, done: Done = lambda _cell, _record: None, step: Step = lambda _cell, _n, _of: None) -> int:
    """Run the cells of a plan in this process, in order, leaving out what others hold.

    Args:
        done: called with each cell run and its record.
        step: called after every optimizer step, with the cell, the step and how many there will be. What it raises
            stops the runner; KeyboardInterrupt and the like leave the cell to be resumed.

    Returns:
        How many cells were run, failed ones included.
    """
    started_with = environment()  # now: the files on disk may change while a long grid goes on
    count, before = 0, -1
    while before < count:  # again after the last: another runner may have dropped what it held
        before = count
        for cell in plan.cells:
            if count == plan.max_cells:
                return count
            if (found := plan.folder.record(cell)) is not None:
                if found["status"] == FINISHED:
                    plan.folder.tidy(cell)
                continue
            with plan.folder.taken(cell) as mine:
                if not mine or plan.folder.record(cell) is not None:  # another has it, or has just finished it
                    continue
                record = _run(cell, plan.folder, started_with, step)
                plan.folder.write(cell, record)
            gc.collect()  # a trainer refers to itself; its memory, also that on a GPU, would linger
            count += 1
            done(cell, record)
    return count


def _run(cell: Cell, folder: GridFolder, started_with: dict[str, Any], step: Step) -> dict[str, Any]:
    """Train and measure a cell; an error becomes a failed record."""
    from transformers import TrainerCallback

    from stepjepa.experiments.cell import run_cell

    class Report(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            step(cell, state.global_step, state.max_steps)

    work = folder.prepare(cell, started_with)
    try:
        return run_cell(cell, work, started_with, folder.keep_questions, [Report()])
    except Exception as error:  # whatever it is: one broken cell must not cost the others, and nothing is hidden
        return {
            "kind": KIND,
            "status": FAILED,
            "address": cell.address,
            "cell": cell.options,
            "seed": cell.seed,
            "environment": started_with,
            "error": {
                "type": type(error).__name__,
                "message": str(error),
                "where": [
                    f"{Path(frame.filename).name}:{frame.lineno} {frame.name}"
                    for frame in traceback.extract_tb(error.__traceback__)
                ],
            },
        }


def list_cells(plan: Plan, only_wanted: bool, retry_failed: bool = False) -> str:
    """A line for each cell of the grid with its state, and how many there are of each.

    Args:
        only_wanted: list those that would be run.
        retry_failed: failed ones would be.
    """
    states = {cell.address: plan.folder.state(cell) for cell in plan.grid.cells}
    mine = [cell.address for cell in plan.cells]
    runnable = (OPEN, INTERRUPTED, FAILED) if retry_failed else (OPEN, INTERRUPTED)
    wanted = [address for address in mine if states[address] in runnable][: plan.max_cells]
    lines = [f"{'':4}  {'address':12}  {'state':11}  cell"]
    for number, cell in enumerate(plan.grid.cells, start=1):
        if cell.address in wanted or not only_wanted:
            elsewhere = "" if cell.address in mine else "  (another shard)"
            lines.append(f"{number:4}  {cell.address:12}  {states[cell.address]:11}  {cell.name}{elsewhere}")
    counts = ", ".join(f"{n} {state}" for state in STATES if (n := list(states.values()).count(state)))
    lines.append(f"{plan.grid.name} in {plan.folder.path}: {len(states)} cells ({counts}); {len(wanted)} would be run")
    return "\n".join(lines)
