"""Running a plan where someone watches: in this process, or in several, with a line for each cell and the time left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from tqdm.auto import tqdm

from stepjepa.experiments.grid import Cell
from stepjepa.experiments.runner import Plan, run_plan
from stepjepa.experiments.store import FAILED
from stepjepa.records import UserError

POLL_SECONDS = 0.5
GRACE_SECONDS = 30  # for a process to stop after Ctrl-C; it may be writing a checkpoint


class Progress:
    """A bar over the cells to run, and a line for each that was."""

    def __init__(self, plan: Plan, quiet: bool = False) -> None:
        self.quiet = quiet
        self.live = sys.stderr.isatty()
        """Whether someone watches the bar; a file gets it with each cell, not twice a second."""
        cells = plan.open_cells()[: plan.max_cells]
        self.failed = 0
        self.bar = tqdm(total=len(cells), desc=plan.grid.name, unit="cell", disable=quiet, smoothing=0)

    def step(self, cell: Cell, number: int, total: int) -> None:
        """Show how far a cell is."""
        self.bar.set_postfix_str(f"{cell.name}: {number}/{total}", refresh=self.live)

    def done(self, cell: Cell, record: Mapping[str, Any]) -> None:
        """Say how a cell ended."""
        self.failed += record["status"] == FAILED
        if not self.quiet:
            self.bar.write(outcome(cell, record))
        self.bar.update()


def outcome(cell: Cell, record: Mapping[str, Any]) -> str:
    """A finished or failed cell in one line."""
    if record["status"] == FAILED:
        error = record["error"]
        return f"{cell.address}  {cell.name}: FAILED: {error['type']}: {error['message']}"
    found = record["validation"]  # the test split is for the report, once nothing is to be chosen any more
    loss = "not finite" if found["lm_loss"] is None else f"{found['lm_loss']:.3f}"
    return (
        f"{cell.address}  {cell.name}: accuracy {found['accuracy']:.1%} (validation), LM loss {loss}; "
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
        UserError: a process has died; what it said last is in the message.
    """
    progress = Progress(plan)
    count = min(processes, len(plan.open_cells()[: plan.max_cells]))
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
            for number in range(count):
                log = plan.folder.work / f"runner-{os.getpid()}-{number + 1}.log"
                with log.open("wb") as output:
                    workers.append((_start(plan, grid, number, count, threads, output), log))
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


def _start(plan: Plan, grid: str, number: int, count: int, threads: int, output: IO[bytes]) -> subprocess.Popen[bytes]:
    words = [
        sys.executable,
        "-m",
        "stepjepa",
        "ablate",
        grid,
        "--output_dir",
        str(plan.folder.path),
        "--worker",
        "--shard",
        "{}/{}".format(*plan.shard),
        "--threads_per_process",
        str(threads),
    ]
    if plan.max_cells is not None:
        share, rest = divmod(min(plan.max_cells, len(plan.open_cells())), count)
        words += ["--max_cells", str(share + (number < rest))]
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
