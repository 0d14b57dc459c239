"""A file or a data set on the Hugging Face Hub → raw rows, each with its place or the reason why it cannot be read.

What is in a file is told by how it begins, not by its name, except tables of text (`.csv`, `.tsv`).
"""

from __future__ import annotations

import bz2
import csv
import difflib
import gzip
import io
import json
import lzma
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from tqdm.auto import tqdm

from stepjepa.data.fields import RowError
from stepjepa.records import UserError, on_disk, printable

Source = str | os.PathLike[str]

_UNTELLING_STEMS = {"train", "test", "validation", "valid", "val", "dev", "data"}
_TABLES = {".csv", ".tsv"}
_DATA_SUFFIXES = {*_TABLES, ".json", ".jsonl", ".ndjson", ".txt", ".parquet", ".gz", ".bz2", ".xz", ".zst"}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")  # `gsm8k`, `openai/gsm8k`; not `a/b/c`, `my data`
_HUB_CONFIGS = {"openai/gsm8k": "main", "gsm8k": "main"}  # the Hub names no default configuration for it
_URL = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*)://")  # `https://`, `hf://`
_HUB_PAGE = re.compile(r"/datasets/([\w.-]+/[\w.-]+)")  # the data set of a page, `/datasets/openai/gsm8k`
_COMPRESSED = {b"\x1f\x8b": gzip.decompress, b"BZh": bz2.decompress, b"\xfd7zXZ\x00": lzma.decompress}
_NOT_READ = {
    b"PK\x03\x04": "a zip archive or a spreadsheet",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"ARROW1": "an Arrow file",
    b"\x89HDF": "an HDF5 file",
    b"SQLite": "a database",
    b"%PDF": "a PDF",
    b"\x80\x04": "a pickle",
    b"version https://git-lfs": "a pointer to a file that Git LFS has not fetched (`git lfs pull`)",
    b"<": "a web page or XML",
}
"""How files begin that are no rows for us, and what they are."""
READ = "JSON lines, a JSON array, CSV, TSV or Parquet, also compressed with gzip, bzip2 or xz"
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")  # `\u0000`, `\\\u0000`; not `\\u0000`, which is a backslash and text


@dataclass(frozen=True)
class Row:
    """A raw row: where it stands (``file:line``), and its value or the reason why it has none."""

    place: str
    value: object  # parsed, or the RowError that says why it could not be


# -------- files --------


def file_rows(path: Path) -> Iterator[Row]:
    """The rows of a file.

    Raises:
        UserError: it cannot be read, or is of a kind that is not.
    """
    with on_disk(path, "read"):
        data = path.read_bytes()
    suffixes = {suffix.lower() for suffix in path.suffixes}
    for begin, decompress in _COMPRESSED.items():
        if data.startswith(begin):
            try:
                data = decompress(data)
            except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
                raise UserError(f"{path} is damaged and cannot be decompressed: {error}") from error
            break
    for begin, kind in _NOT_READ.items():
        if data.startswith(begin):
            raise UserError(f"{path} is {kind}, which is not read; {READ} are")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        data = data.decode("utf-16", "replace").encode()
    data = data.removeprefix(b"\xef\xbb\xbf")
    rows: Iterable[Row]
    if data.startswith(b"PAR1"):
        rows = _parquet_rows(path, data)
    elif suffixes & _TABLES:
        rows = _table_rows(path, data)
    else:
        rows = _json_rows(path, data)
    return iter(tqdm(rows, desc=printable(path.name), unit="row", delay=2, leave=False))


def _json_rows(path: Path, data: bytes) -> Iterable[Row]:
    """JSON lines; or the rows of one JSON document, a list or an object with a list `data` or `rows`."""
    lines = data.split(b"\n")
    if lines[-1] == b"":
        lines.pop()  # what follows the last line end is not a line
    first = next((parse_line(line) for line in lines if line.strip()), None)
    is_broken = isinstance(first, RowError) and str(first) == "not JSON"
    if isinstance(first, list) or (is_broken and data.lstrip()[:1] in (b"[", b"{")):
        try:
            document = _loads(data.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            has_objects = any(isinstance(parse_line(line), dict) for line in lines)
            if is_broken and data.lstrip()[:1] == b"[" and not has_objects:
                return [Row(f"{path}:1", RowError(f"not JSON: an array begins here and breaks: {error}"))]
        else:
            if isinstance(document, dict):
                document = next((document[name] for name in ("data", "rows") if name in document), [document])
            if isinstance(document, list):
                return [Row(f"{path}:row {n}", json_fault(value) or value) for n, value in enumerate(document, 1)]
    return (Row(f"{path}:{number}", parse_line(line)) for number, line in enumerate(lines, 1))


def _table_rows(path: Path, data: bytes) -> Iterator[Row]:
    """The lines of a table with a header; empty cells are absent fields."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: byte {error.start:,}") from error
    header = text.partition("\n")[0]
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    table = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count), strict=True)
    try:
        for cells in table:
            row = {name: cell for name, cell in cells.items() if cell}
            fault = RowError("more cells than the header has") if None in row else json_fault(row)
            yield Row(f"{path}:{table.line_num}", fault or row)
    except csv.Error as error:
        yield Row(f"{path}:{table.line_num}", RowError(f"the table cannot be read on from here: {error}"))


def _parquet_rows(path: Path, data: bytes) -> Iterator[Row]:
    from pyarrow import ArrowException, parquet

    try:
        values: Iterable[Any] = parquet.read_table(io.BytesIO(data)).to_pylist()
    except (ArrowException, OSError) as error:
        raise UserError(f"{path} is a damaged Parquet file: {error}") from error
    return (Row(f"{path}:row {number}", value) for number, value in enumerate(values, 1))


# -------- JSON --------


def parse_line(line: bytes) -> object:
    """The value of a line of JSON, or the RowError that says why it has none."""
    if not line.strip():
        return RowError("empty line")
    try:
        value = _loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        return RowError("not UTF-8")
    except ValueError:
        return RowError("not JSON")
    except RecursionError:
        return RowError("nested too deeply")
    return json_fault(value) or value


def _loads(text: str) -> object:
    """A JSON value in which whatever is out of order is a RowError: one such row does not hide the others."""
    return json.loads(text, object_pairs_hook=_object, parse_int=_whole_number)


def _object(pairs: Sequence[tuple[str, Any]]) -> object:
    found = dict(pairs)
    return found if len(found) == len(pairs) else RowError("a field named twice")


def _whole_number(digits: str) -> object:
    try:
        return int(digits)
    except ValueError:  # Python's limit, against numbers that take minutes to read
        return RowError("a number of too many digits")


def json_fault(value: object) -> RowError | None:
    """Why a value cannot be written as JSON that everything reads, or None."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=_raise)
        # A lone surrogate passes the JSON parser and breaks the first encoder that it meets, far from here.
        text.encode("utf-8")
    except RowError as error:
        return error
    except UnicodeEncodeError:
        return RowError("lone surrogate")
    except ValueError:
        return RowError("NaN or infinity")  # also `1e400`, which is read as infinity
    except RecursionError:
        return RowError("nested too deeply")
    return RowError("NUL character") if _NUL.search(text) else None


def _raise(value: object) -> NoReturn:
    if isinstance(value, RowError):
        raise value
    raise RowError(f"a value that JSON has no word for: {type(value).__name__}")


# -------- the Hub, and names --------


def hub_rows(name: str, config: str | None, split: str) -> Iterator[Row]:
    """The rows of a data set on the Hub.

    Raises:
        UserError: it cannot be loaded.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        rows = load_dataset(name, config or _HUB_CONFIGS.get(name), split=split)
    except (OSError, ValueError, DatasetsError) as error:
        raise UserError(
            f"'{name}' is neither a file here nor a data set that could be loaded from the Hugging Face Hub. "
            f"If it is gated or private, ask for access on its page and log in with `hf auth login`. "
            f"The Hub said: {type(error).__name__}: {error}"
        ) from error
    for number, row in enumerate(tqdm(rows, desc=name, unit="row", delay=2, leave=False), 1):
        yield Row(f"{name}[{split}]:{number}", row)


def locate(source: Source) -> Path | str:
    """The file that ``source`` names, or a Hub id; a mistyped path must not be looked up on the Hub.

    Raises:
        UserError: there is no such file, or it is a folder.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        inside = sorted(p.name for p in path.iterdir() if p.suffix in _DATA_SUFFIXES)
        raise UserError(f"'{source}' is a folder; name a file in it" + (f": {', '.join(inside)}" if inside else ""))
    name = str(source)
    if _URL.match(name):
        page = _HUB_PAGE.search(name)
        named = f"; or name the data set of that page: '{page[1]}'" if page else ""
        raise UserError(f"'{source}' is an address; download the file and name it{named}")
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
    raise UserError(f"no file '{source}'" + (f"; did you mean {' or '.join(close)}?" if close else ""))


def name_of(located: Path | str) -> str:
    """``gsm8k/train.jsonl`` → ``gsm8k``, ``mine.jsonl`` → ``mine``, ``openai/gsm8k`` → ``gsm8k``."""
    if isinstance(located, str):
        return located.rsplit("/", 1)[-1]
    stem = located.name
    while (suffix := Path(stem).suffix).lower() in _DATA_SUFFIXES or (stem == located.name and suffix):
        stem = stem.removesuffix(suffix)
    return stem if stem.lower() not in _UNTELLING_STEMS else located.resolve().parent.name or stem
