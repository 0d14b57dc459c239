"""What every room needs: the user's error, the environment of a result, files written whole or not at all, a table.

A result record is one JSON file that says what was run, with what, where, and what came out.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, field
from importlib.metadata import version
from pathlib import Path
from typing import Any


class UserError(ValueError):
    """Something the user gave cannot be used; the message names the file, line or option and what to do.

    The command line shows the message alone, without a traceback.
    """


def option(default: Any = MISSING, help: str = "", **about: Any) -> Any:
    """A field of a dataclass that is an option of a command; `training/configurations.py` reads what it says of itself.

    Args:
        default: a list stands for a new one each time; without it the option is required.
        help, about: metadata of the field.
    """
    metadata = {"help": help, **about}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


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

    if git("ls-files", "--error-unmatch", "records.py") is None:
        return None
    state = {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
    if state["dirty"]:
        state["changes"] = hashlib.sha256((git("diff", "HEAD") or "").encode()).hexdigest()[:12]
    return state


@contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside `path`, with its ending; on leaving, it is flushed to disk and takes the name.

    If the block raises, the temporary file is removed and what was at `path` stays.

    >>> with written_whole("figures/map.png") as temporary:  # doctest: +SKIP
    ...     figure.savefig(temporary)

    Raises:
        UserError: it cannot be written there.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # In the same folder, because a rename is atomic only within one file system.
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-", suffix=path.suffix)
        os.close(handle)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_json(data: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a JSON file whole or not at all.

    Raises:
        UserError: it cannot be written there.
    """
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_record(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A result record by its file.

    Raises:
        UserError: there is no such file.
    """
    try:
        record: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"there is no record {path}") from error
    return record


def write_jsonl(rows: Iterable[Mapping[str, Any]], path: str | os.PathLike[str]) -> None:
    """Write one JSON object a line, the file whole or not at all.

    Raises:
        UserError: it cannot be written there.
        ValueError: a number that JSON has no word for (NaN, infinity).
    """
    with written_whole(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")


def text_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Cells in columns two spaces apart, the first column to the left and the others to the right; a line each.

    >>> text_table([["arm", "accuracy"], ["plain", "47.1%"]])
    ['arm    accuracy', 'plain     47.1%']
    """
    first, *widths = (max(map(len, column)) for column in zip(*rows, strict=True))
    return [
        "  ".join([row[0].ljust(first), *(cell.rjust(w) for cell, w in zip(row[1:], widths, strict=True))]).rstrip()
        for row in rows
    ]


def points(share: float) -> str:
    """A difference of shares in points of per cent, with its sign; a minus is a minus, and zero has none.

    >>> points(0.021), points(-0.0345), points(-0.0001)
    ('+2.1', '−3.5', '+0.0')
    """
    return f"{100 * share:+z.1f}".replace("-", "−")


# ESC, a carriage return, a bell; U+2028, which ends a line; U+202E, which turns the rest of it round; half of a
# surrogate pair, which no encoding has. Line feeds and tabs are text.
_OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Text with the characters written out that a terminal or a viewer would obey instead of showing.

    >>> printable("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    return _OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)
