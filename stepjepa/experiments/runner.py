"""Run a grid, cell by cell, so that nothing finished is ever lost or run twice.

Runners share nothing but the folder: each goes through the cells of its shard and takes those that have no record and
that no other runner holds. Several processes are several runners, on one machine or on many; a runner that is stopped
or killed leaves records and checkpoints, and the next one goes on from there. A cell that raises an error is recorded
as failed, with the error, and the grid goes on.
"""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tqdm.auto import tqdm

from stepjepa.environment import environment
from stepjepa.experiments.grid import Cell, Grid
from stepjepa.experiments.store import FAILED, FINISHED, INTERRUPTED, KIND, OPEN, STATES, GridFolder
from stepjepa.records import UserError, printable
from stepjepa.training.checkpoints import OtherRunError

POLL_SECONDS = 0.5
GRACE_SECONDS = 30  # for a process to stop after Ctrl-C; it may be writing a checkpoint


@dataclass(frozen=True)
class Plan:
    """Which cells of a grid a runner runs, and where."""

    grid: Grid
    folder: GridFolder
    shard: tuple[int, int] = (1, 1)
    """The i-th of n parts, i from 1."""
    max_cells: int | None = None
    save_steps: int = 32
    """Optimizer steps between checkpoints."""

    @property
    def cells(self) -> list[Cell]:
        """The shard's cells, run or not."""
        part, parts = self.shard
        return self.grid.cells[part - 1 :: parts]

    def open_cells(self) -> list[Cell]:
        """Those of them that have no record and that no runner holds."""
        return [cell for cell in self.cells if self.folder.state(cell) in (OPEN, INTERRUPTED)]

    def forget_failures(self) -> None:
        """Delete the records of failed cells, so that they are run again.

        A cell goes on from its checkpoints, unless it failed because these are of other data or another model.
        """
        for cell in self.cells:
            record = self.folder.record(cell)
            if record is not None and record["status"] == FAILED:
                if record["error"]["type"] == OtherRunError.__name__:
                    self.folder.tidy(cell)
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
            record = plan.folder.record(cell)
            if record is not None:
                if record["status"] == FINISHED:
                    plan.folder.tidy(cell)
                continue
            with plan.folder.taken(cell) as mine:
                if not mine or plan.folder.record(cell) is not None:  # another has it, or has just finished it
                    continue
                record = _run(cell, plan, started_with, step)
                plan.folder.write(cell, record)
            gc.collect()  # a trainer refers to itself; its memory, also that on a GPU, would linger
            count += 1
            done(cell, record)
    return count


def _run(cell: Cell, plan: Plan, started_with: dict[str, Any], step: Step) -> dict[str, Any]:
    """Train and measure a cell; an error becomes a failed record."""
    from transformers import TrainerCallback

    from stepjepa.experiments.cell import run_cell

    class Report(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            step(cell, state.global_step, state.max_steps)

    work = plan.folder.prepare(cell, started_with)
    try:
        return run_cell(cell, work, started_with, plan.folder.keep_questions, plan.save_steps, [Report()])
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


# -------- with progress, here or in several processes --------


class Progress:
    """A bar over the cells to run, and a line for each that was."""

    def __init__(self, plan: Plan, quiet: bool = False) -> None:
        self.quiet = quiet
        self.live = sys.stderr.isatty()
        """Whether someone watches the bar; a file gets it with each cell, not twice a second."""
        cells = plan.open_cells()[: plan.max_cells]
        self.failed = 0
        self.bar = tqdm(total=len(cells), desc=printable(plan.grid.name), unit="cell", disable=quiet, smoothing=0)

    def step(self, cell: Cell, number: int, total: int) -> None:
        """Show how far a cell is."""
        self.bar.set_postfix_str(f"{printable(cell.name)}: {number}/{total}", refresh=self.live)

    def done(self, cell: Cell, record: Mapping[str, Any]) -> None:
        """Say how a cell ended."""
        self.failed += record["status"] == FAILED
        if not self.quiet:
            self.bar.write(printable(outcome(cell, record)))
        self.bar.update()


def outcome(cell: Cell, record: Mapping[str, Any]) -> str:
    """A finished or failed cell in one line."""
    if record["status"] == FAILED:
        error = record["error"]
        return f"{cell.address}  {cell.name}: FAILED: {error['type']}: {error['message']}"
    measured = record["validation"]  # the test split is for the report, once nothing is to be chosen any more
    loss = "not finite" if measured["lm_loss"] is None else f"{measured['lm_loss']:.3f}"
    return (
        f"{cell.address}  {cell.name}: accuracy {measured['accuracy']:.1%} (validation), LM loss {loss}; "
        f"{record['attempt']['wall_seconds']:.0f} s"
    )


def run_here(plan: Plan, threads: int, worker: bool = False) -> int:
    """Run a plan in this process; returns the exit status.

    Args:
        threads: processor threads.
        worker: say nothing, and stop when the process that started this one has gone.
    """
    import torch
    from transformers.utils import logging

    torch.set_num_threads(threads)
    logging.disable_progress_bar()  # of loading and saving files
    progress = Progress(plan, quiet=worker)
    parent = os.getppid()

    def step(cell: Cell, number: int, total: int) -> None:
        if worker and os.getppid() != parent:
            raise KeyboardInterrupt
        progress.step(cell, number, total)

    with progress.bar:
        run_plan(plan, progress.done, step)
    return 1 if progress.failed and not worker else 0


def run_processes(plan: Plan, grid: str, processes: int, threads: int) -> int:
    """Run a plan in several processes; returns the exit status.

    Args:
        grid: its name or file, which each process reads again.
        threads: processor threads of each.

    Raises:
        UserError: a process has died; the message has its last lines.
    """
    progress = Progress(plan)
    cells = len(plan.open_cells()[: plan.max_cells])
    count = min(processes, cells)
    shares = [cells // count + (number < cells % count) for number in range(count)]
    unrecorded = {cell.address: cell for cell in plan.cells if plan.folder.record(cell) is None}
    workers: list[tuple[subprocess.Popen[bytes], Path]] = []
    plan.folder.work.mkdir(parents=True, exist_ok=True)

    def show_new() -> None:
        for cell in list(unrecorded.values()):
            record = plan.folder.record(cell)
            if record is not None:
                del unrecorded[cell.address]
                progress.done(cell, record)

    with progress.bar:
        try:
            for number, share in enumerate(shares, start=1):
                log = plan.folder.work / f"runner-{os.getpid()}-{number}.log"
                with log.open("wb") as output:
                    process = _start(plan, grid, None if plan.max_cells is None else share, threads, output)
                    workers.append((process, log))
            while any(process.poll() is None for process, _ in workers):
                show_new()
                if progress.live:
                    progress.bar.refresh()
                time.sleep(POLL_SECONDS)
            show_new()
        finally:
            _stop([process for process, _ in workers])
    died = [(process.returncode, log) for process, log in workers if process.returncode != 0]
    for process, log in workers:
        if process.returncode == 0:
            log.unlink()
    if died:
        code, log = died[0]
        how = f"by signal {-code}" if code < 0 else f"with status {code}"
        last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
        raise UserError(
            f"{len(died)} of {count} processes ended {how}; the same command goes on where they stopped. The last "
            f"lines of {log}:\n" + "\n".join(last)
        )
    return 1 if progress.failed else 0


def _start(plan: Plan, grid: str, max_cells: int | None, threads: int, output: IO[bytes]) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "stepjepa", "ablate", grid, "--worker", "--output_dir", str(plan.folder.path)]
    words += ["--shard", "{}/{}".format(*plan.shard), "--threads_per_process", str(threads)]
    if max_cells is not None:
        words += ["--max_cells", str(max_cells)]
    return subprocess.Popen(
        words,
        stdout=output,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)},
        start_new_session=True,  # Ctrl-C reaches this process alone, which passes it on once
    )


def _stop(processes: list[subprocess.Popen[bytes]]) -> None:
    """Interrupt what still runs, and wait for it."""
    running = [process for process in processes if process.poll() is None]
    for process in running:
        process.send_signal(signal.SIGINT)
    deadline = time.monotonic() + GRACE_SECONDS
    for process in running:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()  # its checkpoints are whole all the same
            process.wait()
