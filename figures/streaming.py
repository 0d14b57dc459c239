"""Memory and time of `stepjepa train --cache_dir` over the number of rows: `python figures/streaming.py 10000 100000`.

Each run is a process of its own: built-in stories, two optimizer steps of one row. Those of at most `IN_MEMORY` rows
run without `--cache_dir` too.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from stepjepa.environment import environment
from stepjepa.records import write_json

RECORD = Path(__file__).parent / "data" / "streaming.json"
IN_MEMORY = 100_000
OPTIONS = (
    "--max_steps 2 --batch_size 1 --grad_accum 1 --eval_problems 0 --accuracy_problems 0 --save_strategy no "
    "--pairs consecutive"
)


def measure(rows: int, on_disk: bool) -> dict[str, Any]:
    """Run one training and look at its anonymous pages five times a second."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["train", "--problems", str(rows), *OPTIONS.split(), "--output_dir", f"{folder}/out"]
        words += ["--cache_dir", f"{folder}/cache"] if on_disk else []
        began, peak = time.perf_counter(), 0
        with subprocess.Popen([sys.executable, "-m", "stepjepa", *words], stdout=subprocess.DEVNULL) as process:
            while True:
                pid, status, used = os.wait4(process.pid, os.WNOHANG)
                if pid:
                    process.returncode = os.waitstatus_to_exitcode(status)
                    break
                found = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
                peak = max(peak, 1024 * int(found[1]) if found else 0)
                time.sleep(0.2)
        if process.returncode:
            raise SystemExit(f"the run with {rows:,} rows failed")
        return {
            "rows": rows,
            "held": "on disk" if on_disk else "in memory",
            "peak_anonymous_bytes": peak,
            "file_bytes": sum(path.stat().st_size for path in Path(folder, "cache").glob("*")),
            "processor_seconds": round(used.ru_utime + used.ru_stime, 1),
            "wall_seconds": round(time.perf_counter() - began, 1),
        }


def main() -> None:
    """Measure the numbers of rows that are given, and write the record."""
    started_with, runs = environment(), []
    for rows in map(int, sys.argv[1:]):
        runs += [measure(rows, on_disk) for on_disk in (True, False) if on_disk or rows <= IN_MEMORY]
        print(runs[-1])
        write_json({"kind": "streaming", "options": OPTIONS, "runs": runs, "environment": started_with}, RECORD)


if __name__ == "__main__":
    main()
