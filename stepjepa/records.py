"""What every room needs: the user's error, files read and written, a table.

A result record is one JSON file that says what was run, with what, where, and what came out.
"""

from __future__ import annotations

import functools
import glob
import hashlib
import json
import math
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, asdict, field, is_dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout


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


# -------- files: every write, and every read of a file of ours --------


@contextmanager
def on_disk(path: str | os.PathLike[str], verb: str = "written") -> Iterator[None]:
    """Whatever the operating system refuses inside is said of `path`, in one sentence.

    Raises:
        UserError: such as «runs/a/record.json cannot be written: No space left on device».
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be {verb}: {error.strerror or error}") from error
    except Exception as error:  # safetensors and tokenizers (Rust) and torch have no type of their own for it
        if match := OS_ERROR.search(str(error)):
            reason = os.strerror(int(match[1])) if match[1] else "the disk took less than was given; is it full?"
            raise UserError(f"{path} cannot be {verb}: {reason}") from error
        raise


OS_ERROR = re.compile(r"\(os error (\d+)\)|PytorchStreamWriter|inline_container")
"""`No space left on device (os error 28)`; `[enforce fail at inline_container.cc:672] . unexpected pos 52 vs 51`."""


@contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside `path`, with its ending; on leaving, it is flushed to disk and takes the name.

    What a link leads to is written, and the link stays; a device or a pipe is written as it is. If the block raises,
    the temporary file is removed and what was at `path` stays; the next `one_writer` removes that of a killed process.

    >>> with written_whole("figures/map.png") as temporary:  # doctest: +SKIP
    ...     figure.savefig(temporary)

    Raises:
        UserError: it cannot be written there.
    """
    path = Path(path)
    with on_disk(path):
        if path.exists() and not path.is_file() and not path.is_dir():
            yield path
            return
        path = path.resolve()
        path.parent.mkdir(parents=True, exist_ok=True)
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~UMASK
        # In the same folder, because a rename is atomic only within one file system.
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}{UNFINISHED}", suffix=path.suffix)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.chmod(mode)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


UNFINISHED = ".unfinished-"
UMASK = os.umask(0)
"""The permissions that the user takes from new files; it can only be read by setting it."""
os.umask(UMASK)


def left_unfinished(folder: Path, name: str = "") -> list[Path]:
    """The temporary files of a file, or of all, in a folder: of killed writers and of running ones."""
    return [*folder.glob(f".{glob.escape(name) or '*'}{UNFINISHED}????????*")]


class Lock:
    """The right to write something, held by one process at a time; the kernel (flock) frees it when its owner ends,
    however it ends.

    Args:
        file: an empty file that is there while the lock is held, or after its owner was killed.
        of: what is written, for messages.
    """

    def __init__(self, file: Path, of: Path) -> None:
        self.file, self.of = file, of
        # A soft lock, the library's stand-in where a file system has no flock, would outlive its owner.
        self._lock = FileLock(file, blocking=False, fallback_to_soft=False)

    def take(self) -> bool:
        """Whether it is ours now.

        Raises:
            UserError: nothing can be written there.
        """
        with on_disk(self.of):
            try:
                self._lock.acquire()
            except Timeout:
                return False
        return True

    def free(self) -> None:
        """Give it back; the file goes."""
        self.file.unlink(missing_ok=True)  # while it is held: who waits for it sees that it is gone
        self._lock.release()


@contextmanager
def one_writer(path: str | os.PathLike[str], *others: Path) -> Iterator[None]:
    """Inside, no other process of ours writes the file; what killed ones have left of it is removed.

    Args:
        others: files in the same folder that belong to it.

    Raises:
        UserError: another process is writing it.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} cannot be written: it is a folder")
    with on_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    lock = Lock(path.with_name(f".{path.name}.lock"), path)
    if not lock.take():
        raise UserError(f"{path} is being written by another run; wait for its end or name another file")
    try:
        for temporary in (left for file in (path, *others) for left in left_unfinished(path.parent, file.name)):
            temporary.unlink(missing_ok=True)
        yield
    finally:
        lock.free()


def as_json(value: Any) -> Any:
    """A value for JSON, which has no word for NaN and infinity: a number that is not defined is null."""
    if is_dataclass(value) and not isinstance(value, type):
        return as_json(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): as_json(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def json_bytes(value: Any, **style: Any) -> bytes:
    """Strict JSON in UTF-8.

    Raises:
        ValueError: a number that JSON has no word for (NaN, infinity).
    """
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, **style).encode()
    except UnicodeEncodeError:  # half a character, as in a file name that is not UTF-8: JSON escapes it
        return json.dumps(value, allow_nan=False, **style).encode()


def write_json(data: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a JSON file whole or not at all; numbers that are not defined become null (`as_json`).

    Raises:
        UserError: it cannot be written there.
    """
    with written_whole(path) as temporary:
        temporary.write_bytes(json_bytes(as_json(data), indent=2) + b"\n")


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UserError: there is no such file, it cannot be read, or it holds something else.
    """
    with on_disk(path, "read"):
        content = Path(path).read_bytes()
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: not JSON, or damaged ({error})") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} cannot be read: no JSON object")
    return found


def read_yaml(path: Any, name: str) -> Any:
    """What a YAML file says.

    Args:
        path: with `read_text`; a file, or one of a package.
        name: what it is called in messages.

    Raises:
        UserError: it cannot be read, or is no YAML.
    """
    import yaml

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # also a date that is none, or bytes that are no text
        raise UserError(f"{name}: not YAML: {error}") from error


def write_jsonl(rows: Iterable[Mapping[str, Any]], path: str | os.PathLike[str]) -> None:
    """Write one JSON object a line, the file whole or not at all.

    Raises:
        UserError: it cannot be written there.
        ValueError: a number that JSON has no word for (NaN, infinity).
    """
    with written_whole(path) as temporary, temporary.open("wb") as file:
        for row in rows:
            file.write(json_bytes(row) + b"\n")


def file_digest(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, computed once for each time of its last change.

    Raises:
        UserError: it cannot be read.
    """
    with on_disk(path, "read"):
        about = os.stat(path)
        return _digest(os.fspath(path), about.st_mtime_ns, about.st_size)


@functools.cache
def _digest(path: str, _changed: int, _size: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# -------- text --------


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
