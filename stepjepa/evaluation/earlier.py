"""What lies under the name of a result file: nothing, the same evaluation finished or unfinished, or another one.

Two evaluations are the same if everything that their answers follow from is the same: weights, questions, prompts and
the settings of generation (`identity`, a flat mapping). Only then is a file gone on with; another one is never touched
unasked.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from stepjepa.evaluation.generation import Generation
from stepjepa.evaluation.journal import Kept, read_journal
from stepjepa.evaluation.results import ResultsError, partial_path, read_results, summary_path
from stepjepa.records import UserError

DIGESTS = ("model weights", "questions", "prompts")
"""Parts of an identity that are digests: that they differ can be said, the values say nothing."""


class EvaluateError(UserError):
    """An evaluation cannot be made as asked; the message names the file or option and what to do."""


def digest(value: object) -> str:
    """SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, ensure_ascii=False).encode()).hexdigest()


def check_output(output_file: str, test_files: Iterable[str]) -> None:
    """Refuse an output file that is a folder, a test file, or no `.jsonl`: two files might share one summary.

    Raises:
        EvaluateError: it is.
    """
    output = Path(output_file)
    if output.is_dir():
        raise EvaluateError(f"--output_file {output} is a folder; name a file, such as {output / 'results.jsonl'}")
    if output.suffix != ".jsonl":
        raise EvaluateError(f"--output_file {output}: a result file ends in .jsonl, as {output}.jsonl does")
    for written in (output, summary_path(output), partial_path(output)):
        for source in test_files:
            if written.exists() and Path(source).exists() and os.path.samefile(written, source):
                raise EvaluateError(f"--output_file {output} would overwrite the test file {source}")


def earlier(output_file: str, overwrite: bool, identity: Mapping[str, Any]) -> tuple[dict[str, Any] | None, Kept]:
    """The summary of a finished file if nothing is to be done, and what an unfinished run has left.

    Raises:
        EvaluateError: there is something else under this name, and it is not to be overwritten.
        UserError: the journal of an unfinished run cannot be read.
    """
    output = Path(output_file)
    way_out = "; give another --output_file, or --overwrite to replace it"
    kept = _readable(partial_path(output)) if overwrite else read_journal(partial_path(output))
    same = kept.configuration == identity
    if output.exists() and not overwrite:
        try:
            summary = read_results(output).summary
        except ResultsError as error:
            if not same:  # else it was stopped while it wrote its last files
                raise EvaluateError(f"{error}{way_out}") from error
        else:
            differing = _differences(summary.get("identity", {}), identity)
            if differing:
                raise EvaluateError(f"{output} holds another evaluation; different: {differing}{way_out}")
            return summary, kept
    if kept.configuration is not None and not same:
        if not overwrite:
            differing = _differences(kept.configuration, identity)
            raise EvaluateError(
                f"{partial_path(output)} is another evaluation, unfinished; different: {differing}{way_out}"
            )
        kept = Kept()
    return None, kept


def _readable(path: Path) -> Kept:
    """The journal, or nothing if it is none: it is to be overwritten anyway."""
    try:
        return read_journal(path)
    except UserError:
        return Kept()


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    differing = [name for name in {**there, **here} if there.get(name) != here.get(name)]
    if "questions" in differing and "prompts" in differing:
        differing.remove("prompts")  # that is why
    return ", ".join(
        name if name in DIGESTS else f"{name} ({there.get(name)} there, {here.get(name)} here)" for name in differing
    )


def replay(kept: Kept, state: Generation, path: Path) -> None:
    """Bring `state` to where the journal at `path` ends.

    Raises:
        EvaluateError: its batches do not follow on each other.
    """
    for outcome in kept.outcomes:
        try:
            state.record(outcome)
        except ValueError as error:
            raise EvaluateError(
                f"{path}: {error}: have two runs written to it at once? Delete it and begin anew"
            ) from error
