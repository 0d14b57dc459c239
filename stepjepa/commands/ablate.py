"""`stepjepa ablate`: run the cells of a grid that have no record yet, list them, or report what the records say."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path

from stepjepa.experiments.grid import read_grid, shipped_grids
from stepjepa.experiments.report import format_report, report
from stepjepa.experiments.runner import Plan, list_cells, run_here, run_processes
from stepjepa.experiments.store import GridFolder
from stepjepa.records import UserError, write_json

RUNS = Path("runs") / "ablations"


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
            raise UserError(f"--{name} {value}: at least 1")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("a cell runs in one process; start several runners with --shard I/N instead of torchrun")
    grid = read_grid(options.grid)
    folder = GridFolder(options.output_dir or RUNS / grid.name)
    plan = Plan(grid, folder, parse_shard(options.shard), options.max_cells)
    if options.list or options.dry_run:
        print(list_cells(plan, options.dry_run, options.retry_failed))
        return 0
    if options.report:
        record = report(grid, folder)
        path = folder.path / f"report-{grid.name}.json"
        print(format_report(record))
        write_json(record, path)
        print(f"\nreport: {path}")
        return 0
    if options.retry_failed:
        plan.forget_failures()
    if options.processes == 1:
        return run_here(plan, options.threads_per_process, worker=options.worker)
    return run_processes(plan, options.grid, options.processes, options.threads_per_process)


def parse_shard(text: str) -> tuple[int, int]:
    """`"2/3"` → (2, 3).

    Raises:
        UserError: not of that form, or not between 1 and N.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    part, parts = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= part <= parts:
        raise UserError(f"--shard {text}: the part and how many there are, such as 1/3, 2/3 and 3/3")
    return part, parts
