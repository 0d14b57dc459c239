"""What a source names → where its rows are: a file, a folder, a pattern (`part-*.jsonl`), a data set on the Hub.

Of a Hub id the configuration and the split may be named with it: `openai/gsm8k:main:test`, `some/data::train[:1000]`.
"""

from __future__ import annotations

import difflib
import fnmatch
import glob
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from stepjepa.data.files import TABLES, Row, file_rows
from stepjepa.records import UserError, printable

Source = str | os.PathLike[str]

_UNTELLING_STEMS = {"train", "test", "validation", "valid", "val", "dev", "data"}
_ROWS = {*TABLES, ".json", ".jsonl", ".ndjson", ".parquet"}
_COMPRESSED = {".gz", ".bz2", ".xz", ".zst"}
_SUFFIXES = {*_ROWS, *_COMPRESSED, ".txt"}
_ABOUT = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
"""Files beside a data set that say something of it."""
_ARROW = ("dataset_dict.json", "state.json")  # `save_to_disk` of the library `datasets` leaves one of them
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")  # `gsm8k`, `openai/gsm8k`; not `a/b/c`, `my data`
_HUB_CONFIGS = {"openai/gsm8k": "main", "gsm8k": "main"}  # the Hub names no default configuration for it
_URL = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*)://")  # `https://`, `hf://`
_HUB_PAGE = re.compile(r"/datasets/([\w.-]+/[\w.-]+)")  # the data set of a page, `/datasets/openai/gsm8k`

ORIGINS = {
    "a file": "`train.jsonl`",
    "a folder": "`data/`: all files of rows in it and below; also what `save_to_disk` of `datasets` wrote",
    "a pattern": "`'data/part-*.jsonl.zst'`, `'data/**/*.json'`",
    "a data set on the Hugging Face Hub": "`openai/gsm8k`, `openai/gsm8k:socratic`, `openai/gsm8k:main:test`, "
    "`some/data::train[:1000]`: configuration and split after colons",
    "the built-in problems": "`builtin` (stories), `builtin:easy` (short ones), `builtin:programs` (traced line by "
    "line), `builtin:logic`",
}
"""What a source may be → how it is named."""
BUILTIN = ("builtin", "builtin:easy", "builtin:programs", "builtin:logic")
"""Names of the built-in problems."""


def is_builtin(source: Source) -> bool:
    """Whether a source is drawn and not read.

    Raises:
        UserError: built-in problems of a kind that there is not.
    """
    if str(source).startswith("builtin:") and source not in BUILTIN:
        raise UserError(f"no built-in problems '{source}'; there are {', '.join(BUILTIN)}")
    return source in BUILTIN


@dataclass(frozen=True)
class Origin:
    """Where the rows of a source are.

    `name` is the `source` of its examples; `files` are read one after the other; `hub` is id, configuration, split.
    """

    name: str
    files: tuple[Path, ...] = ()
    hub: tuple[str, str | None, str] | None = None
    saved: tuple[Path, str] | None = None
    """A folder of `save_to_disk`, and a split."""

    def rows(self) -> Iterator[Row]:
        """All rows.

        Raises:
            UserError: they cannot be read.
        """
        if self.hub:
            return _hub_rows(*self.hub)
        if self.saved:
            return _saved_rows(*self.saved)
        return chain.from_iterable(map(file_rows, self.files))

    def stamp(self) -> list[Any]:
        """What changes when the rows do, and is known without reading them.

        Name, size and time of each file; of a data set on the Hub its commit, or, without network, that of the copy in
        the cache of `datasets`.

        Raises:
            UserError: a data set on the Hub cannot be reached, and there is no copy.
        """
        if self.hub:
            return [_hub_commit(*self.hub[:2])]
        files = sorted(path for path in self.saved[0].rglob("*") if path.is_file()) if self.saved else self.files
        return [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in files]


def is_part_of(path: str | os.PathLike[str], source: Source) -> bool:
    """Whether a file, which need not exist, is one of those that a source names: by itself, in a folder, a pattern."""
    path = Path(path)
    if not path.exists() or is_builtin(source):
        return False
    return any(os.path.samefile(file, path) for file in locate(source).files)


def would_be_part_of(path: str | os.PathLike[str], source: Source) -> bool:
    """Whether a file is one of those that a source names, or will be once it is written."""
    own, named = Path(path).resolve(), Path(source).expanduser().resolve()
    if is_builtin(source) or own.exists():
        return is_part_of(path, source)
    if named.is_dir():
        return own.is_relative_to(named) and _holds_rows(own.relative_to(named))
    alike = "**" in named.parts or len(own.parts) == len(named.parts)
    return glob.has_magic(str(source)) and alike and fnmatch.fnmatch(str(own), str(named))


def check_not_read(outputs: Iterable[str | None], sources: Iterable[str | None]) -> None:
    """Refuse to write over what is read, or twice to one file; None is no file.

    Raises:
        UserError: names both.
    """
    written = [output for output in outputs if output is not None]
    read = [source for source in sources if source is not None and (os.path.exists(source) or glob.has_magic(source))]
    for output in written:
        for source in read:
            if is_part_of(output, source):
                raise UserError(f"{output} would be written over {source}, which is read; write to another file")
    if twice := [str(path) for path, times in Counter(map(os.path.realpath, written)).items() if times > 1]:
        raise UserError(f"{', '.join(twice)}: two outputs would be written to it; name another file for one of them")


def stamp_of(source: Source) -> list[Any]:
    """The stamp of what a source names, see `Origin.stamp`; built-in problems change with the package alone.

    Raises:
        UserError: as `locate`, or as `Origin.stamp`.
    """
    return [version("stepjepa")] if is_builtin(source) else locate(source).stamp()


def locate(source: Source, config: str | None = None, split: str = "train") -> Origin:
    """Find what a source names; a mistyped path must not be looked up on the Hub.

    Args:
        config, split: of a Hub data set whose id names none.

    Raises:
        UserError: there is no such thing, or no file of rows in it.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return Origin(name_of(path), (path,))
    if path.is_dir():
        return _folder(path, split)
    name = str(source)
    if _URL.match(name):
        page = _HUB_PAGE.search(name)
        named = f"; or name the data set of that page: '{page[1]}'" if page else ""
        raise UserError(f"'{source}' is an address; download the file and name it{named}")
    if glob.has_magic(name.partition(":")[0]):  # `a/b::train[:5]` has a bracket, and is none
        return _pattern(name)
    hub_id, *more = name.split(":", 2)
    looks_local = (
        isinstance(source, os.PathLike)
        or path.suffix.lower() in _SUFFIXES
        or name.startswith((".", "/", "~"))
        or (len(path.parts) > 1 and path.parent.is_dir())
        or not _HUB_ID.fullmatch(hub_id)
    )
    if not looks_local:
        own_config, own_split = (*more, "", "")[:2]
        wanted = own_config or config or _HUB_CONFIGS.get(hub_id)
        return Origin(hub_id.rsplit("/", 1)[-1], hub=(hub_id, wanted, own_split or split))
    siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, siblings, n=3)
    weighted = (
        "; only `train` and `verify` take weights" if Path(name.rpartition(":")[0]).expanduser().is_file() else ""
    )
    raise UserError(f"no file '{source}'" + (f"; did you mean {' or '.join(close)}?" if close else "") + weighted)


def _folder(folder: Path, split: str) -> Origin:
    if any((folder / name).is_file() for name in _ARROW):
        return Origin(name_of(folder), saved=(folder, split))
    files = [path for path in sorted(folder.rglob("*")) if _holds_rows(path.relative_to(folder)) and path.is_file()]
    if not files:
        raise UserError(f"'{folder}' is a folder without a file of rows ({', '.join(sorted(_ROWS))}, also compressed)")
    return Origin(name_of(folder), tuple(files))


def _holds_rows(path: Path) -> bool:
    """Whether a file of a folder is one of rows, by its name; hidden ones are none."""
    if any(part.startswith(".") for part in path.parts) or path.name.lower() in _ABOUT:
        return False
    suffix = path.suffix.lower()
    return (Path(path.stem).suffix.lower() if suffix in _COMPRESSED else suffix) in _ROWS


def _pattern(pattern: str) -> Origin:
    """All files that match, whatever their endings."""
    files = [Path(name) for name in sorted(glob.glob(os.path.expanduser(pattern), recursive=True))]
    files = [path for path in files if path.is_file()]
    if not files:
        raise UserError(f"no file matches '{pattern}'")
    plain = [part for part in Path(pattern).parts[:-1] if not glob.has_magic(part)]
    return Origin(name_of(Path(*plain)) if plain else name_of(files[0]), tuple(files))


def name_of(path: Path) -> str:
    """``gsm8k/train.jsonl`` → ``gsm8k``, ``mine.jsonl`` → ``mine``, ``mine/`` → ``mine``."""
    stem = path.name
    while (suffix := Path(stem).suffix).lower() in _SUFFIXES or (stem == path.name and suffix and not path.is_dir()):
        stem = stem.removesuffix(suffix)
    if stem and stem.lower() not in _UNTELLING_STEMS:
        return stem
    resolved = path.resolve()
    return (resolved.parent.name if stem else resolved.name) or stem


# -------- rows that the library `datasets` reads --------


def _hub_rows(name: str, config: str | None, split: str) -> Iterator[Row]:
    from datasets import load_dataset

    return _numbered(_from_hub(load_dataset, name, config, split=split), f"{name}[{split}]", name)


def _hub_commit(name: str, config: str | None) -> str:
    from datasets import load_dataset_builder

    return str(_from_hub(load_dataset_builder, name, config).hash)


def _from_hub(load: Callable[..., Any], name: str, config: str | None, **options: Any) -> Any:
    from datasets.exceptions import DatasetsError

    try:
        return load(name, config, **options)
    except (OSError, ValueError, DatasetsError) as error:
        raise UserError(
            f"'{name}' is neither a file here nor a data set that could be loaded from the Hugging Face Hub. "
            f"If it is gated or private, ask for access on its page and log in with `hf auth login`. "
            f"The Hub said: {type(error).__name__}: {error}"
        ) from error


def _saved_rows(folder: Path, split: str) -> Iterator[Row]:
    from datasets import DatasetDict, load_from_disk
    from datasets.exceptions import DatasetsError

    try:
        rows = load_from_disk(str(folder))
    except (OSError, ValueError, DatasetsError) as error:
        raise UserError(f"{folder} cannot be read as a saved data set: {error}") from error
    if isinstance(rows, DatasetDict):
        if split not in rows:
            raise UserError(f"{folder} has no split '{split}'; it has {', '.join(rows)}")
        rows = rows[split]
    return _numbered(rows, f"{folder}[{split}]", folder.name)


def _numbered(rows: Any, place: str, title: str) -> Iterator[Row]:
    for number, row in enumerate(tqdm(rows, desc=printable(title), unit="row", delay=2, leave=False), 1):
        yield Row(f"{place}:{number}", row)
