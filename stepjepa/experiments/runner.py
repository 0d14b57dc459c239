"""`stepjepa ablate`: run a grid, cell by cell, so that nothing finished is ever lost or run twice.

Runners share nothing but the folder: each goes through the cells of its shard and takes those that have no record and
that no other runner holds. Several processes are several runners, on one machine or on many; a runner that is stopped
or killed leaves records and checkpoints, and the next one goes on from there. A cell that raises an error is recorded
as failed, with the error, and the grid goes on.
"""

from __future__ import annotations

import argparse
import gc
import os
import re
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepjepa.experiments.grid import Cell, Grid
from stepjepa.experiments.grid_file import read_grid, shipped_grids
from stepjepa.experiments.store import FAILED, FINISHED, INTERRUPTED, KIND, OPEN, STATES, GridFolder
from stepjepa.records import UserError, environment

RUNS = Path("runs") / "ablations"


class AblationError(UserError):
    """A grid cannot be run as asked; the message names the option."""


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


# -------- the command --------


def parser() -> argparse.ArgumentParser:
    """Options of `stepjepa ablate`."""
    command = argparse.ArgumentParser(
        prog="stepjepa ablate",
        description="Run every cell of a grid of configurations and seeds. The same command again goes on where it "
        "was stopped; finished cells are skipped.",
    )
    add = command.add_argument
    add("grid", metavar="GRID", help=f"a YAML file, or one of {', '.join(shipped_grids())}")
    add(
        "--output_dir",
        metavar="DIR",
        help="for records and checkpoints; grids may share one (default: runs/ablations/GRID)",
    )
    add("--processes", type=int, default=1, metavar="N", help="run N cells at a time on this machine (default: 1)")
    add("--threads_per_process", type=int, default=1, metavar="N", help="processor threads of each (default: 1)")
    add("--shard", default="1/1", metavar="I/N", help="run the I-th of N parts of the cells, I from 1")
    add("--max_cells", type=int, metavar="K", help="stop after K cells")
    add("--retry_failed", action="store_true", help="run failed cells again")
    add("--worker", action="store_true", help=argparse.SUPPRESS)
    instead = command.add_mutually_exclusive_group()
    instead.add_argument("--list", action="store_true", help="list all cells and their states; run nothing")
    instead.add_argument("--dry_run", action="store_true", help="list the cells that would be run; run nothing")
    instead.add_argument(
        "--report",
        action="store_true",
        help="accuracy and differences of the arms from the records, as a table and as "
        "DIR/report-GRID.json; run nothing",
    )
    return command


def main(argv: list[str] | None = None) -> int:
    """`stepjepa ablate`; returns the exit status: 1 if a cell has failed or a process has died."""
    options = parser().parse_args(argv)
    for name in ("processes", "threads_per_process", "max_cells"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise AblationError(f"--{name} {value}: at least 1")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise AblationError("a cell runs in one process; start several runners with --shard I/N instead of torchrun")
    grid = read_grid(options.grid)
    folder = GridFolder(options.output_dir or RUNS / grid.name)
    plan = Plan(grid, folder, parse_shard(options.shard), options.max_cells)
    if options.list or options.dry_run:
        print(list_cells(plan, options.dry_run, options.retry_failed))
        return 0
    if options.report:
        from stepjepa.experiments.report import format_report, report
        from stepjepa.records import write_json

        record = report(grid, folder)
        path = folder.path / f"report-{grid.name}.json"
        print(format_report(record))
        write_json(record, path)
        print(f"\nreport: {path}")
        return 0
    from stepjepa.experiments.workers import run_here, run_processes

    if options.retry_failed:
        plan.forget_failures()
    if options.processes == 1:
        return run_here(plan, options.threads_per_process, worker=options.worker)
    return run_processes(plan, options)


def parse_shard(text: str) -> tuple[int, int]:
    """`"2/3"` → (2, 3).

    Raises:
        AblationError: not of that form, or not between 1 and N.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    part, parts = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= part <= parts:
        raise AblationError(f"--shard {text}: the part and how many there are, such as 1/3, 2/3 and 3/3")
    return part, parts


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
