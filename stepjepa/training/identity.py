"""What the result of a training run follows from, and how that of a checkpoint differs from the run that goes on.

A run that is resumed has the settings and data that it began with: every training argument but those in `MAY_CHANGE`,
what the objective reads of the tokenized rows, the model's architecture and size, the number of processes, and what the
run adds (`about_run`: options and the digest of the model's weights).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stepjepa.records import as_json
from stepjepa.training.config import MAY_CHANGE, plain_arguments
from stepjepa.training.dataset import COLUMNS, FURTHER
from stepjepa.training.disk import DiskRows

SHOWN_ONLY = (
    *("model_name", "revision", "trust_remote_code", "train_file", "problems", "problem_seed", "splitter"),
    *("mixing_temperature", "mixed_rows"),
)
"""Names of what is compared by its content: they may change, and explain a difference of content where there is one."""
CONTENT = ("training rows", "model weights")
"""What is compared by a digest, whose values say nothing, as are the columns in `FURTHER` where they are read."""
LENGTHS = ("max_steps", "num_train_epochs")


def identity(trainer: Any) -> dict[str, Any]:
    """What the result of a trainer's run follows from, flat and ready for JSON."""
    arguments = {name: value for name, value in plain_arguments(trainer.args).items() if name not in MAY_CHANGE}
    # Only constant rates do not depend on how many steps follow.
    if trainer.args.lr_scheduler_type == "constant" and trainer.args.lbd_schedule == "constant":
        arguments = {name: value for name, value in arguments.items() if name not in LENGTHS}
    model = trainer.accelerator.unwrap_model(trainer.model)
    size = sum(parameter.numel() for parameter in model.parameters())
    described: dict[str, Any] = as_json(
        arguments
        | {"processes": trainer.accelerator.num_processes, "model": f"{type(model).__name__} of {size:,} weights"}
        | _digests_once(trainer)
        | dict(trainer.about_run)
    )
    return described


def content(trainer: Any) -> dict[str, Any]:
    """The digests of a trainer's data and model, by `CONTENT`; its `about_run` has that of the model."""
    described = identity(trainer)
    return {name: described[name] for name in CONTENT}


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """What differs between two identities, old → new; empty if nothing does.

    What only one of them knows, as of another version of transformers, is not compared.
    """
    differing = [name for name in there if name in here and there[name] != here[name]]
    if not set(differing) - set(SHOWN_ONLY):
        return ""
    return ", ".join(
        name if name in (*CONTENT, *FURTHER) else f"{name} ({there[name]} → {here[name]})" for name in differing
    )


def _digests_once(trainer: Any) -> dict[str, str | None]:
    """The digests of a trainer's rows, by the name that they are compared under; computed once for each set of rows."""
    rows = trainer.train_dataset
    known = getattr(trainer, "_rows_digests", None)
    if known is None or known[0] is not rows:
        args = trainer.args
        read = [
            name for name, (argument, value) in FURTHER.items() if args.lbd > 0 and getattr(args, argument) == value
        ]
        # Apart, so that "training rows" are the same for all arms of a grid that train on the same data.
        digests = {"training rows": rows_digest(rows)} | {name: rows_digest(rows, (name,)) for name in read}
        known = trainer._rows_digests = (rows, digests)
    return known[1]


def rows_digest(rows: Any, columns: Sequence[str] = COLUMNS) -> str | None:
    """A digest of columns of tokenized rows, in their order; None for a dataset without a length, not compared."""
    if not hasattr(rows, "__len__"):
        return None
    digest = hashlib.sha256()
    for row in rows.arrays(columns) if isinstance(rows, DiskRows) else rows:
        for column in columns:
            numbers = np.asarray(row[column], dtype=np.int64)
            digest.update(len(numbers).to_bytes(8, "little") + numbers.tobytes())
    return digest.hexdigest()
