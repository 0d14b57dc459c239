"""Where raw rows come from: the lines of a file, or a data set on the Hugging Face Hub.

Each row comes with its place (``file:line``) and either its value or the reason why it has none, so that one
bad line costs one row. A mistyped path is told apart from a Hub id before the network is asked.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from tqdm.auto import tqdm

from stepjepa.data.formats import RowError
from stepjepa.records import UserError

_UNTELLING_STEMS = {"train", "test", "validation", "valid", "val", "dev", "data"}
_DATA_SUFFIXES = {".json", ".jsonl", ".ndjson", ".txt", ".csv", ".tsv", ".parquet", ".gz", ".zst"}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_HUB_CONFIGS = {"openai/gsm8k": "main", "gsm8k": "main"}  # the Hub names no default configuration for it


class SourceError(UserError):
    """A source that cannot be read, a line refused under ``strict``, or one with nothing to keep."""


@dataclass(frozen=True)
class Row:
    place: str
    value: object  # parsed, or the RowError that says why it could not be


def _reject_constant(name: str) -> NoReturn:
    raise RowError("NaN or infinity")


def _parse_line(line: bytes) -> object:
    if not line.strip():
        return RowError("empty line")
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        return RowError("not UTF-8")
    try:
        value = json.loads(text, parse_constant=_reject_constant)
        # A lone surrogate passes the JSON parser and breaks the first encoder that it meets, far from here.
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RowError as error:
        return error
    except UnicodeEncodeError:
        return RowError("lone surrogate")
    except (ValueError, RecursionError):
        return RowError("not JSON")
    return value


def file_rows(path: Path) -> Iterator[Row]:
    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from error
    if lines[-1] == b"":
        lines.pop()  # what follows the last line end is not a line
    for number, line in enumerate(tqdm(lines, desc=path.name, unit="row", delay=2, leave=False), 1):
        yield Row(f"{path}:{number}", _parse_line(line))


def hub_rows(name: str, config: str | None, split: str) -> Iterator[Row]:
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        rows = load_dataset(name, config or _HUB_CONFIGS.get(name), split=split)
    except (OSError, ValueError, DatasetsError) as error:
        raise SourceError(
            f"'{name}' is neither a file here nor a data set that could be loaded from the Hugging Face Hub. "
            f"If it is gated or private, ask for access on its page and log in with `hf auth login`. "
            f"The Hub said: {type(error).__name__}: {error}"
        ) from error
    for number, row in enumerate(tqdm(rows, desc=name, unit="row", delay=2, leave=False), 1):
        yield Row(f"{name}[{split}]:{number}", row)


def locate(source: str | os.PathLike[str]) -> Path | str:
    """The file that ``source`` names, or a Hub id; a mistyped path must not be looked up on the Hub."""
    path = Path(source).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        inside = sorted(p.name for p in path.iterdir() if p.suffix in _DATA_SUFFIXES)
        raise SourceError(f"'{source}' is a folder; name a file in it" + (f": {', '.join(inside)}" * bool(inside)))
    name = str(source)
    looks_local = (
        isinstance(source, os.PathLike)
        or path.suffix.lower() in _DATA_SUFFIXES
        or name.startswith((".", "/", "~"))
        or (len(path.parts) > 1 and path.parent.is_dir())
        or not _HUB_ID.fullmatch(name)
    )
    if not looks_local:
        return name
    siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, siblings, n=3)
    raise SourceError(f"no file '{source}'" + (f"; did you mean {' or '.join(close)}?" if close else ""))


def name_of(located: Path | str) -> str:
    """``gsm8k/train.jsonl`` → ``gsm8k``, ``mine.jsonl`` → ``mine``, ``openai/gsm8k`` → ``gsm8k``."""
    if isinstance(located, str):
        return located.rsplit("/", 1)[-1]
    if located.stem.lower() in _UNTELLING_STEMS:
        return located.resolve().parent.name or located.stem
    return located.stem
