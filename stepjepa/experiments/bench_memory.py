"""Peak memory of a piece of work, in a process that did little else before.

On CUDA the allocator keeps the peak. On Linux the kernel does, as the high-water mark of the process image: unlike
`ru_maxrss`, which a new process inherits from the one that started it, it can be reset before the work begins.
"""

from __future__ import annotations

import gc
import os
import re
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

STATUS = Path("/proc/self/status")
STATM = Path("/proc/self/statm")
CLEAR = Path("/proc/self/clear_refs")


def peak_memory(work: Callable[[], None], device: str) -> dict[str, Any]:
    """Run `work` and measure.

    Returns:
        `before_bytes` (in use when the work began), `peak_bytes` (most in use), `growth_bytes` (the difference),
        and `method`: "cuda allocator", "VmHWM, reset" (Linux: resident memory), "VmHWM" (the peak could not be
        reset and may be that of building model and data), or "ru_maxrss" (elsewhere: both figures are peaks, before
        and after).
    """
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        method, before = "cuda allocator", torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated()
    elif STATUS.exists():
        method = "VmHWM, reset" if _reset_peak() else "VmHWM"
        before = resident_bytes()
        work()
        peak = peak_resident_bytes()
    else:
        method, before = "ru_maxrss", peak_resident_bytes()
        work()
        peak = peak_resident_bytes()
    return {"before_bytes": before, "peak_bytes": peak, "growth_bytes": peak - before, "method": method}


def resident_bytes() -> int:
    """Resident memory of this process now (Linux)."""
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak_resident_bytes() -> int:
    """Highest resident memory of this process so far (Linux: since the last reset)."""
    if STATUS.exists():
        found = re.search(r"^VmHWM:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _reset_peak() -> bool:
    """Set the kernel's high-water mark back to what is resident now; False where that is not permitted."""
    try:
        CLEAR.write_text("5")
    except OSError:
        return False
    return True
