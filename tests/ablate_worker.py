"""A runner that kills itself: `python ablate_worker.py GRID OUTPUT_DIR CELL STEP`."""

from __future__ import annotations

import os
import signal
import sys

import torch

from stepjepa.experiments.grid import Cell
from stepjepa.experiments.grid_file import read_grid
from stepjepa.experiments.runner import Plan, run_plan
from stepjepa.experiments.store import GridFolder

if __name__ == "__main__":
    torch.set_num_threads(1)
    path, folder, address, last = sys.argv[1:]

    def step(cell: Cell, number: int, total: int) -> None:
        """Die in the middle of the given cell."""
        if cell.address == address and number == int(last):
            os.kill(os.getpid(), signal.SIGKILL)

    run_plan(Plan(read_grid(path), GridFolder(folder), save_steps=8), step=step)
