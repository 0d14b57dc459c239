"""The environment of a result: versions, hardware, and the commit of the code that it came from."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = (
    "stepjepa",
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "tokenizers",
    "numpy",
    "scipy",
    "statsmodels",
    "scikit-learn",
    "math-verify",
)


def environment() -> dict[str, Any]:
    """Python and package versions, hardware, git commit of the package's source; no paths, no host names."""
    return {
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "hardware": hardware(),
        "git": git_state(),
    }


def hardware() -> dict[str, Any]:
    """Processor, cores, threads in use and accelerators."""
    import torch  # here, so that commands can refuse a wrong option without waiting for it

    found: dict[str, Any] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    if torch.cuda.is_available():
        found["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return found


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def git_state() -> dict[str, Any] | None:
    """Commit of the package's source and whether tracked files differ from it; None outside a checkout.

    If they do, `changes` is a digest of how, so that a run is never gone on with by other code.
    """
    folder = Path(__file__).parent

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=False)
        except FileNotFoundError:  # git is not installed
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if git("ls-files", "--error-unmatch", "environment.py") is None:
        return None
    state = {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
    if state["dirty"]:
        state["changes"] = hashlib.sha256((git("diff", "HEAD") or "").encode()).hexdigest()[:12]
    return state
