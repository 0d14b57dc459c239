"""The answers of an unfinished evaluation: one line a batch, flushed to disk, so that a stop costs one batch at most.

The first line says what is being evaluated; a last line that the stop cut off is dropped. Answers are kept as token
ids, from which the result rows follow: a resumed evaluation writes the file that an uninterrupted one would have.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stepjepa.evaluation.generation import Outcome
from stepjepa.records import UserError

FORMAT = 1


@dataclass
class Kept:
    """What a journal holds: nothing if there is none."""

    configuration: dict[str, Any] | None = None
    outcomes: list[Outcome] = field(default_factory=list)
    seconds: float = 0.0
    """That the outcomes took."""
    size: int = 0
    """Bytes of its complete lines."""


def read_journal(path: Path) -> Kept:
    """Read a journal up to its last complete line.

    Raises:
        UserError: it cannot be read, or is none.
    """
    kept = Kept()
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except (FileNotFoundError, NotADirectoryError):
        return kept
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    for number, line in enumerate(lines, start=1):
        if not line.endswith(b"\n"):
            break  # cut off by the stop; only the last line can be
        try:
            entry = json.loads(line)
            if number == 1:
                if entry["format"] != FORMAT:
                    raise ValueError(f"format {entry['format']}, not {FORMAT}")
                kept.configuration = dict(entry["configuration"])
            else:
                rows = [(int(request), list(tokens), end) for request, tokens, end in entry["rows"]]
                kept.outcomes.append(Outcome(int(entry["batch"]), rows))
                kept.seconds += float(entry["seconds"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}:{number}: not the answers of an unfinished evaluation ({error!r}); --overwrite begins anew"
            ) from error
        kept.size += len(line)
    return kept


class Journal:
    """A journal that is being written.

    Args:
        kept: what it holds already; whatever stands behind that is cut off.
        configuration: what is evaluated, for the first line of a new one.

    Raises:
        UserError: it cannot be written.
    """

    def __init__(self, path: Path, kept: Kept, configuration: Mapping[str, Any]) -> None:
        self.path, self.seconds = path, kept.seconds
        self._batches = len(kept.outcomes)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a", encoding="utf-8", newline="\n")
            self._file.truncate(kept.size)
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}") from error
        if not kept.size:
            self._write({"format": FORMAT, "configuration": configuration})

    def append(self, outcome: Outcome, seconds: float) -> None:
        """Keep what a batch gave, and how long it took."""
        self._write({"batch": outcome.batch, "seconds": round(seconds, 3), "rows": outcome.rows})
        self.seconds += seconds
        self._batches += 1

    def _write(self, entry: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(entry, ensure_ascii=False) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; it stays unless it holds no batch."""
        self._file.close()
        if not self._batches:
            self.path.unlink()
