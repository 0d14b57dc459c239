"""What a run that takes hours has answered so far: appended to a file as it comes, and read when the run goes on.

`stepjepa evaluate` keeps one until its result file is whole, `stepjepa synthesize` keeps it for good: answers cost time
and money. What the answers follow from is said in the first line (the identity, a flat mapping), so that a run never
goes on with the answers of another.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stepjepa.records import UserError, json_bytes, on_disk

DIGESTS = ("model weights", "questions", "prompts")
"""Parts of an identity that are digests: that they differ can be said, the values say nothing."""


def partial_path(path: str | os.PathLike[str]) -> Path:
    """`results.jsonl` → `results.partial.jsonl`, the finished rows of an evaluation that goes on or was stopped."""
    return Path(path).with_suffix(".partial.jsonl")


@dataclass
class Partial:
    """The finished rows of a run, kept on disk as they come.

    The first line says what is answered (`identity`); each further one holds the rows that were finished together and
    the seconds that they took. Nothing is written before the first of them.
    """

    path: Path
    identity: Mapping[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)
    """What it held when it was read; each has an `index`, that of its question."""
    seconds: float = 0.0
    size: int = 0
    """Bytes of the complete lines."""

    def append(self, rows: Sequence[dict[str, Any]], seconds: float) -> None:
        """Add rows, and have them on disk when this returns.

        Raises:
            UserError: the file cannot be written.
        """
        entries: list[dict[str, Any]] = [] if self.size else [{"identity": self.identity}]
        entries.append({"seconds": round(seconds, 3), "rows": rows})
        lines = b"".join(json_bytes(entry) + b"\n" for entry in entries)
        with on_disk(self.path), self.path.open("ab") as file:
            file.truncate(self.size)  # of a line that was cut off, or of what is to be overwritten
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())
            self.size = file.tell()
        self.seconds += seconds


def read_partial(path: Path) -> Partial | None:
    """What a file of finished rows holds up to its last complete line; None if there is none, or no such line.

    Raises:
        UserError: it cannot be read, or is none.
    """
    with on_disk(path, "read"):
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    partial = None
    for number, line in enumerate(lines, start=1):
        if not line.endswith(b"\n"):
            break  # cut off by the stop; only the last line can be
        try:
            entry = json.loads(line)
            if partial is None:
                partial = Partial(path, dict(entry["identity"]))
            else:
                partial.rows += [{**row, "index": int(row["index"])} for row in entry["rows"]]
                partial.seconds += float(entry["seconds"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}:{number}: not the answers of an unfinished run ({error!r}); --overwrite begins anew"
            ) from error
        partial.size += len(line)
    return partial


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """What differs between two identities, in words; nothing where they are the same."""
    differing = [name for name in {**there, **here} if there.get(name) != here.get(name)]
    if "questions" in differing and "prompts" in differing:
        differing.remove("prompts")  # that is why
    return ", ".join(
        name if name in DIGESTS else f"{name} ({there.get(name)} there, {here.get(name)} here)" for name in differing
    )


def digest(texts: Sequence[Any]) -> str:
    """SHA-256 of texts, or of whatever JSON can hold, in their order."""
    return hashlib.sha256(json.dumps(texts, ensure_ascii=False).encode()).hexdigest()
