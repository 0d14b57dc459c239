"""Raw rows out of files of every kind that is read, and what is said of those that are not."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from stepjepa.data.fields import RowError
from stepjepa.data.files import file_rows
from stepjepa.data.origins import locate, name_of
from stepjepa.data.sources import read_examples
from stepjepa.records import UserError

ROWS = [{"question": f"What is {n} + 1,\n«so»?", "answer": f"It is {n + 1}.\n#### {n + 1}"} for n in range(3)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def table(delimiter: str) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, ["question", "answer", "note"], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(ROWS)
    return text.getvalue().encode()


def parquet() -> bytes:
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), file)
    return file.getvalue()


def zstd(data: bytes) -> bytes:
    buffer = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(buffer, "zstd") as stream:
        stream.write(data)
    return buffer.getvalue().to_pybytes()


def values(path: Path) -> list[object]:
    return [str(row.value) if isinstance(row.value, RowError) else row.value for row in file_rows(path)]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jsonl", LINES),
        ("a.jsonl.gz", gzip.compress(LINES, mtime=0)),
        ("no_ending", bz2.compress(LINES)),
        ("a.json.xz", lzma.compress(json.dumps(ROWS).encode())),
        ("a.jsonl.zst", zstd(LINES)),
        ("a.jsonl.zst", zstd(LINES[:50]) + zstd(LINES[50:])),
        ("a.parquet.zst", zstd(parquet())),
        ("a.json", json.dumps(ROWS).encode()),
        ("a.json", json.dumps(ROWS, indent=2).encode()),
        ("a.json", b"\n [" + LINES.strip().replace(b"\n", b",\n") + b"]"),
        ("a.json", json.dumps({"data": ROWS}, indent=1).encode()),
        ("a.json", json.dumps({"version": 1, "rows": ROWS}, indent=1).encode()),
        ("a.jsonl", LINES.decode().encode("utf-16")),
        ("a.csv", table(",")),
        ("a.csv", table(";")),
        ("a.tsv", b"\xef\xbb\xbf" + table("\t")),
        ("a.csv.gz", gzip.compress(table(","), mtime=0)),
        ("a.parquet", parquet()),
        ("a.parquet", gzip.compress(parquet(), mtime=0)),
    ],
)
def test_kinds_that_are_read(tmp_path: Path, name: str, data: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    assert values(path) == ROWS
    assert len(read_examples(path, strict=True)[0]) == 3


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"PK\x03\x04rest", r"a zip archive or a spreadsheet, which is not read; JSON lines"),
        (zstd(LINES)[:-5], "damaged and cannot be decompressed"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"<!DOCTYPE html>", "a web page"),
        (gzip.compress(LINES, mtime=0)[:-20], "damaged and cannot be decompressed"),
        (parquet()[:-9], "damaged Parquet"),
    ],
)
def test_kinds_that_are_not(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(data)
    with pytest.raises(UserError, match=reason):
        file_rows(path)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"a": 1e400}', "NaN or infinity"),
        (b'{"a": -Infinity}', "NaN or infinity"),
        (b'{"a": {"b": [NaN]}}', "NaN or infinity"),
        (b'{"a": 1, "a": 2}', "a field named twice"),
        (b'{"x": {"a": 1, "a": 1}}', "a field named twice"),
        (b'{"a": ' + b"9" * 5000 + b"}", "a number of too many digits"),
        (b'{"a": ' + b"[" * 5000 + b"]" * 5000 + b"}", "nested too deeply"),
        (b'{"a": "\\ud800"}', "lone surrogate"),
        (b'{"\\udfff": 1}', "lone surrogate"),
        (b'{"a": "b\\u0000"}', "NUL character"),
        (b'{"a": "b\x00"}', "not JSON"),
        (b"\x00\x00", "not JSON"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b'{"a": 1}}', "not JSON"),
        (b"{'a': 1}", "not JSON"),
        (b" \t", "empty line"),
    ],
)
def test_odd_lines_hide_no_other(tmp_path: Path, line: bytes, reason: str) -> None:
    path = tmp_path / "a.jsonl"
    for lines in ([line], [LINES[:-1], line, LINES[:-1]]):
        path.write_bytes(b"\n".join(lines))
        assert values(path) == [
            reason if each is line else row for each in lines for row in (ROWS if each is not line else [0])
        ]
        assert [row.place for row in file_rows(path)] == [f"{path}:{n}" for n in range(1, 1 + len(values(path)))]
    if reason not in ("not JSON", "not UTF-8", "empty line"):  # which leave no array
        path.write_bytes(b"[\n" + LINES.strip().replace(b"\n", b",\n") + b",\n" + line + b"]")
        if reason == "nested too deeply":
            return
        assert values(path) == [*ROWS, reason]
        assert [row.place for row in file_rows(path)][-1] == f"{path}:row 4"


def test_odd_tables_and_arrays(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b'[\n  {"a": 1},\n  {"a": 2,}\n]')
    assert len(values(path)) == 1
    assert "not JSON: an array begins here and breaks: " in str(values(path)[0])
    assert "line 3" in str(values(path)[0])
    path.write_bytes(b'[broken\n{"a": 1}\n')
    assert values(path) == ["not JSON", {"a": 1}]
    path = tmp_path / "a.csv"
    path.write_bytes(b'question,answer\nq,a,b\nq,\n"a\nb",c\n"open,c\n')
    found = [(row.place.removeprefix(f"{path}:"), row.value) for row in file_rows(path)]
    assert [place for place, _ in found][:3] == ["2", "3", "5"]
    assert str(found[0][1]) == "more cells than the header has"
    assert [found[1][1], found[2][1]] == [{"question": "q"}, {"question": "a\nb", "answer": "c"}]
    assert "cannot be read on" in str(found[3][1])


def test_numbers_and_backslashes_stay_as_they_are(tmp_path: Path) -> None:
    row = {"a": "\\u0000 and \\\\", "b": 10**300, "c": 1.5e300, "d": [True, None], "é": "\u2028"}
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    assert values(path) == [row]


def test_generated_bytes_raise_nothing(tmp_path: Path) -> None:
    rng = random.Random(3)
    atoms: list[Any] = [
        b"[",
        b"]",
        b"{",
        b"}",
        b'"a"',
        b":",
        b",",
        b"1",
        b"\n",
        b"null",
        b"\xff",
        b"\x00",
        b"\\u",
        b'"',
        b"1e999",
    ]
    for name in ("a.jsonl", "a.csv"):
        for _ in range(150):
            path = tmp_path / name
            path.write_bytes(b"".join(rng.choice(atoms) for _ in range(rng.randrange(30))))
            with suppress(UserError):  # a table that is not UTF-8
                assert all(value is None or isinstance(value, str | dict | list | int) for value in values(path))


@pytest.mark.parametrize(
    "address", ["https://example.org/datasets/some/data", "hf://datasets/some/data", "s3://b/a.jsonl"]
)
def test_addresses_are_not_files(address: str) -> None:
    with pytest.raises(UserError, match="is an address; download the file"):
        locate(address)


def test_the_data_set_of_a_page() -> None:
    with pytest.raises(UserError, match=r"'some/data'$"):
        locate("https://example.org/datasets/some/data/viewer")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("gsm8k/train.jsonl", "gsm8k"),
        ("gsm8k/train.jsonl.gz", "gsm8k"),
        ("mine.jsonl", "mine"),
        ("v1.2.json.xz", "v1.2"),
        ("run.final", "run"),
        ("plain", "plain"),
    ],
)
def test_name_of(path: str, name: str) -> None:
    assert name_of(Path(path)) == name


def test_the_bar_of_a_file_obeys_no_name(tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "a\x1b[2Jb.jsonl"
    path.write_bytes(LINES)
    titles: list[str] = []
    monkeypatch.setattr("stepjepa.data.files.tqdm", lambda rows, desc, **_: titles.append(desc) or rows)
    assert list(file_rows(path))
    assert titles == ["a\\x1b[2Jb.jsonl"]


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("wrapper", [None, "data", "rows"])
@pytest.mark.parametrize("odd", [float("nan"), "lone \ud800", "nul \u0000"])
def test_a_row_with_a_fault_hides_no_other_of_a_document(
    tmp_path: Path, indent: int | None, wrapper: str | None, odd: Any
) -> None:
    """However the document is laid out: on one line, as `json.dump` writes it, or on many."""
    rows: list[dict[str, Any]] = [*ROWS, {**ROWS[0], "score": odd}]
    (tmp_path / "a.json").write_text(json.dumps({wrapper: rows} if wrapper else rows, indent=indent))
    read = values(tmp_path / "a.json")
    assert read[:3] == ROWS
    assert len(read) == 4
    assert isinstance(read[3], str)


def test_objects_with_data_are_rows_where_there_are_several(tmp_path: Path) -> None:
    rows = [{"data": [n], "question": "q"} for n in range(3)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert values(tmp_path / "a.jsonl") == rows
    (tmp_path / "empty.json").write_text('{"data": []}')
    assert values(tmp_path / "empty.json") == []


def test_the_last_ending_that_is_known_says_what_a_file_is(tmp_path: Path) -> None:
    (tmp_path / "export.csv.json").write_text(json.dumps(ROWS))
    (tmp_path / "export.json.csv.part").write_bytes(table(","))
    assert values(tmp_path / "export.csv.json") == ROWS
    assert values(tmp_path / "export.json.csv.part") == ROWS


def test_columns_of_the_same_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("question,solution,answer,answer\nq,s,14,15\n")
    with pytest.raises(UserError, match="2 columns of the table are called 'answer'"):
        values(tmp_path / "a.csv")


def test_a_table_of_lines_that_end_in_a_carriage_return_alone(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(table(",").replace(b"\r\n", b"\r").replace(b"+ 1,\n", b"+ 1, "))
    read = values(tmp_path / "a.csv")
    assert [row["answer"].splitlines()[-1] for row in read if isinstance(row, dict)] == ["#### 1", "#### 2", "#### 3"]
