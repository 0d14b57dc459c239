"""`stepjepa ablate`: run the cells of a grid that have no record yet, list them, or report what the records say."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stepjepa.commands.options import Parser, parse
from stepjepa.commands.output import say, say_next
from stepjepa.records import UserError, option, write_json
from stepjepa.training.configurations import shipped

RUNS = Path("runs") / "ablations"


@dataclass(kw_only=True)
class AblateOptions:
    """Which cells of a grid are run, and by how many processes; or that none is."""

    grid: str = option(
        help=f"a YAML file, or one of {', '.join(shipped('stepjepa.experiments', 'grids'))}",
        positional=True,
        metavar="GRID",
    )
    output_dir: str | None = option(
        None, "for records and checkpoints; grids may share one (default: runs/ablations/GRID)", metavar="DIR"
    )
    processes: int = option(1, "run N cells at a time on this machine", metavar="N")
    threads_per_process: int = option(1, "processor threads of each", metavar="N")
    shard: str = option("1/1", "run the I-th of N parts of the cells, I from 1", metavar="I/N")
    max_cells: int | None = option(None, "stop after K cells", metavar="K")
    retry_failed: bool = option(
        False, "run failed cells again, from their checkpoints, or anew where these are of other data or another model"
    )
    worker: bool = option(False, hidden=True)
    list: bool = option(False, "list all cells and their states; run nothing")
    dry_run: bool = option(False, "list the cells that would be run; run nothing")
    report: bool = option(
        False,
        "accuracy and differences of the arms from the records, as a table and as DIR/report-GRID.json; run nothing",
    )

    def __post_init__(self) -> None:
        for name in ("processes", "threads_per_process", "max_cells"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UserError(f"--{name} {value}: at least 1")
        if self.list + self.dry_run + self.report > 1:
            raise ValueError("give one of --list, --dry_run and --report")


def main(argv: Sequence[str] | None = None) -> int:
    """`stepjepa ablate`; returns the exit status: 1 if a cell has failed or a process has died."""
    parser = Parser(
        "ablate",
        "Run every cell of a grid of configurations and seeds. The same command again goes on where it was stopped; "
        "finished cells are skipped.",
    )
    options: AblateOptions = parse(parser, argv, AblateOptions)
    shard = parse_shard(options.shard)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("a cell runs in one process; start several runners with --shard I/N instead of torchrun")
    from stepjepa.experiments.grid_file import read_grid
    from stepjepa.experiments.report import format_report, report
    from stepjepa.experiments.runner import Plan, list_cells, run_here, run_processes
    from stepjepa.experiments.store import GridFolder

    grid = read_grid(options.grid)
    folder = GridFolder(options.output_dir or RUNS / grid.name)
    plan = Plan(grid, folder, shard, options.max_cells)
    again = ("ablate", options.grid, *(["--output_dir", options.output_dir] if options.output_dir else []))
    if options.list or options.dry_run:
        say(list_cells(plan, options.dry_run, options.retry_failed))
        say_next(*again)
        return 0
    if options.report:
        record = report(grid, folder)
        path = folder.path / f"report-{grid.name}.json"
        say(format_report(record))
        write_json(record, path)
        say(f"\nreport: {path}")
        return 0
    if options.retry_failed:
        plan.forget_failures()
    try:
        if options.processes == 1:
            status = run_here(plan, options.threads_per_process, worker=options.worker)
        else:
            status = run_processes(plan, options.grid, options.processes, options.threads_per_process)
    except KeyboardInterrupt:
        if not options.worker:
            say("\nstopped; finished cells are kept, and the same command goes on with the others", sys.stderr)
        raise
    if not options.worker:
        say_next(*again, "--report")
    return status


def parse_shard(text: str) -> tuple[int, int]:
    """`"2/3"` → (2, 3).

    Raises:
        UserError: not of that form, or not between 1 and N.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text)  # 1/1, 2/3; not 0/3 (below), 3, 1/3/5
    part, parts = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= part <= parts:
        raise UserError(f"--shard {text}: the part and how many there are, such as 1/3, 2/3 and 3/3")
    return part, parts
