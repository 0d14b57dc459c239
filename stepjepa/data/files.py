"""A file → raw rows, each with its place or the reason why it cannot be read.

What is in a file is told by how it begins, not by its name, except tables of text (`.csv`, `.tsv`).
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from tqdm.auto import tqdm

from stepjepa.data.fields import RowError
from stepjepa.records import UserError, on_disk, printable

TABLES = {".csv", ".tsv"}
KINDS = TABLES | {".json", ".jsonl", ".ndjson", ".parquet"}
_NOT_READ = {
    b"PK\x03\x04": "a zip archive or a spreadsheet",
    b"ARROW1": "an Arrow file",
    b"\x89HDF": "an HDF5 file",
    b"SQLite": "a database",
    b"%PDF": "a PDF",
    b"\x80\x04": "a pickle",
    b"version https://git-lfs": "a pointer to a file that Git LFS has not fetched (`git lfs pull`)",
    b"<": "a web page or XML",
}
"""How files begin that are no rows for us, and what they are."""
FILES = {
    "JSON lines": "`.jsonl`, `.ndjson`, or any other name",
    "a JSON array, or an object with a list `data` or `rows`": "`.json`, or any other name",
    "CSV, TSV": "`.csv`, `.tsv`, with a header; commas, semicolons or tabs",
    "Parquet": "`.parquet`, or any other name",
    "any of them compressed with gzip, bzip2, xz or zstd": "`.gz`, `.bz2`, `.xz`, `.zst`, or any other name",
}
"""What is read → how it is usually named."""
READ = "JSON lines, a JSON array, CSV, TSV or Parquet, also compressed with gzip, bzip2, xz or zstd"
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")  # `\u0000`, `\\\u0000`; not `\\u0000`, which is a backslash and text


def _zstd(data: bytes) -> bytes:
    from pyarrow import BufferReader, CompressedInputStream  # the standard library has none before Python 3.14

    with CompressedInputStream(BufferReader(data), "zstd") as stream:
        text: bytes = stream.read()
    return text


_COMPRESSED = {
    b"\x1f\x8b": gzip.decompress,
    b"BZh": bz2.decompress,
    b"\xfd7zXZ\x00": lzma.decompress,
    b"\x28\xb5\x2f\xfd": _zstd,
}


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
    if _is_lines(path):  # read line by line: such a file may be larger than memory
        return iter(tqdm(_line_rows(path), desc=printable(path.name), unit="row", delay=2, leave=False))
    with on_disk(path, "read"):
        data = path.read_bytes()
    kinds = [suffix.lower() for suffix in path.suffixes if suffix.lower() in KINDS]
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
    elif kinds and kinds[-1] in TABLES:
        rows = _table_rows(path, data)
    else:
        rows = _json_rows(path, data)
    return iter(tqdm(rows, desc=printable(path.name), unit="row", delay=2, leave=False))


def _is_lines(path: Path) -> bool:
    """Whether a file is JSON lines beyond doubt: its first line that is not empty is an object, no whole document."""
    with on_disk(path, "read"), path.open("rb") as file:
        lines = (line for line in file if line.strip())
        first = next(lines, b"")
        value = parse_line(first) if first.startswith(b"{") else None
        return isinstance(value, dict) and (_rows_of(value) is None or next(lines, None) is not None)


def _rows_of(document: dict[str, Any]) -> list[Any] | None:
    """The rows of an object that is a whole document."""
    return next((document[name] for name in ("data", "rows") if isinstance(document.get(name), list)), None)


def _line_rows(path: Path) -> Iterator[Row]:
    with on_disk(path, "read"), path.open("rb") as file:
        for number, line in enumerate(file, 1):
            yield Row(f"{path}:{number}", parse_line(line))


def _json_rows(path: Path, data: bytes) -> Iterable[Row]:
    """JSON lines; or the rows of one JSON document, a list or an object with a list `data` or `rows`."""
    lines = data.split(b"\n")
    if lines[-1] == b"":
        lines.pop()  # what follows the last line end is not a line
    first = next((parse_line(line) for line in lines if line.strip()), None)
    is_broken = isinstance(first, RowError) and str(first) == "not JSON"
    # Of a document on one line a row with a fault is a fault of the line, and must not hide the others.
    is_document = isinstance(first, list | RowError) or (isinstance(first, dict) and _rows_of(first) is not None)
    if is_document and data.lstrip()[:1] in (b"[", b"{"):
        try:
            document = _loads(data.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            has_objects = any(isinstance(parse_line(line), dict) for line in lines)
            if is_broken and data.lstrip()[:1] == b"[" and not has_objects:
                return [Row(f"{path}:1", RowError(f"not JSON: an array begins here and breaks: {error}"))]
        else:
            if isinstance(document, dict):
                rows = _rows_of(document)
                document = [document] if rows is None and is_broken else rows  # one object over several lines
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
        for name, count in Counter(table.fieldnames or ()).items():
            if name.strip() and count > 1:
                raise UserError(f"{path}: {count} columns of the table are called {name!r}; rename them")
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
