"""The embedding file: views and step states of a data set, with a label for every step.

`stepjepa embed` writes it, `stepjepa inspect` and the plots read it. A file ends in `.safetensors` or `.npz` and holds
the arrays of `Embeddings` under their own names (a layer's as `context_layers.3`), and one JSON text `stepjepa` with
everything else: `format` (1), `questions`, `steps`, `ids`, `operation_names`, `info`. In safetensors that text is in
the header's metadata, in npz an array of its own. No pickle is written or read.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from stepjepa.data.examples import question_key
from stepjepa.records import UserError, as_json, json_bytes, written_whole

FORMAT = 1
KEY = "stepjepa"
SUFFIXES = (".safetensors", ".npz")
PAIR_ARRAYS = ("context", "target", "pair_example", "context_step", "target_step")
STATE_ARRAYS = ("states", "state_example", "state_step", "operation", "value")
ARRAYS = (*PAIR_ARRAYS, *STATE_ARRAYS, "correct")
LAYERED = ("context_layers", "target_layers", "state_layers")
TEXTS = ("questions", "steps", "ids", "operation_names", "info")


@dataclass
class Embeddings:
    """Views and step-end states of E examples: P view pairs and S steps, hidden size D.

    Pairs and states come in example order, then step order. Steps count from 0; −1 is the question (as context) or
    the whole answer (as target).
    """

    context: np.ndarray
    """`[P, D]` float32: context views, last layer, after the final norm."""
    target: np.ndarray
    """`[P, D]` float32: target views, likewise."""
    pair_example: np.ndarray
    """`[P]`: the example of each pair."""
    context_step: np.ndarray
    """`[P]`: the step after which the context view is read."""
    target_step: np.ndarray
    """`[P]`: the step that the target view encodes."""
    states: np.ndarray
    """`[S, D]` float32: in-context states at the end of every step."""
    state_example: np.ndarray
    """`[S]`: the example of each step."""
    state_step: np.ndarray
    """`[S]`: which step of its example it is."""
    operation: np.ndarray
    """`[S]`: index into `operation_names`; −1 where not known."""
    value: np.ndarray
    """`[S]` float64: the running value after the step; NaN where not known."""
    correct: np.ndarray
    """`[E]`: 1 if the example was answered correctly, 0 if not, −1 where not known."""
    questions: list[str]
    """Text of each question."""
    steps: list[list[str]]
    """Texts of the steps of each example."""
    ids: list[str]
    """Name of each question, see `stepjepa.evaluation.results.question_ids`."""
    operation_names: list[str] = field(default_factory=list)
    info: dict[str, Any] = field(default_factory=dict)
    """Configuration, counts and environment of the run that made the embeddings."""
    context_layers: dict[int, np.ndarray] = field(default_factory=dict)
    """Context views of chosen layers, `[P, D]` each; 0 is the embedding output."""
    target_layers: dict[int, np.ndarray] = field(default_factory=dict)
    """Target views of chosen layers, `[P, D]` each."""
    state_layers: dict[int, np.ndarray] = field(default_factory=dict)
    """Step-end states of chosen layers, `[S, D]` each."""

    @cached_property
    def problem(self) -> np.ndarray:
        """`[E]`: the problem of each example, from 0 on; several solutions of a question are of one."""
        numbers: dict[str, int] = {}
        keys = [question_key({"question": question}) for question in self.questions]
        return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)

    def state_rows(self, example: np.ndarray, step: np.ndarray) -> np.ndarray:
        """Rows of the states (and of their labels) of given steps, `[N], [N] → [N]`; −1 where there is none."""
        place = {pair: row for row, pair in enumerate(zip(self.state_example, self.state_step, strict=True))}
        return np.array([place.get(pair, -1) for pair in zip(example, step, strict=True)], dtype=np.int64)

    def take(self, examples: np.ndarray) -> Embeddings:
        """Only these examples (ascending indices), numbered anew."""
        number = np.full(len(self.questions), -1)
        number[examples] = np.arange(len(examples))
        pairs, states = number[self.pair_example] >= 0, number[self.state_example] >= 0
        own: dict[str, Any] = {name: getattr(self, name)[pairs] for name in PAIR_ARRAYS}
        own |= {name: getattr(self, name)[states] for name in STATE_ARRAYS}
        own |= {name: [getattr(self, name)[i] for i in examples] for name in ("questions", "steps", "ids")}
        own |= {"pair_example": number[own["pair_example"]], "state_example": number[own["state_example"]]}
        return replace(
            self,
            **own,
            correct=self.correct[examples],
            context_layers={layer: array[pairs] for layer, array in self.context_layers.items()},
            target_layers={layer: array[pairs] for layer, array in self.target_layers.items()},
            state_layers={layer: array[states] for layer, array in self.state_layers.items()},
        )

    def at_layer(self, layer: int) -> Embeddings:
        """The same embeddings with the arrays of one stored layer in the place of the last one's.

        Raises:
            UserError: the layer was not stored.
        """
        if layer not in self.context_layers:
            stored = ", ".join(map(str, sorted(self.context_layers))) or "only the last"
            raise UserError(
                f"layer {layer} is not in these embeddings (stored: {stored}); `stepjepa embed --layers {layer}` "
                "stores it"
            )
        return replace(
            self,
            context=self.context_layers[layer],
            target=self.target_layers[layer],
            states=self.state_layers[layer],
            context_layers={},
            target_layers={},
            state_layers={},
        )


def check_finite(embeddings: Embeddings, name: str) -> Embeddings:
    """The embeddings, if all of their vectors are numbers; no metric means anything otherwise.

    Raises:
        UserError: names the array, and how many of its vectors are not finite.
    """
    arrays = {name: array for name, array in _arrays(embeddings) if name.startswith(("context", "target", "state"))}
    for array_name, array in arrays.items():
        if array.dtype.kind == "f" and (bad := int((~np.isfinite(array)).any(axis=-1).sum())):
            raise UserError(
                f"{name}: {bad:,} of {len(array):,} vectors of {array_name} hold NaN or infinity. The weights of the "
                "model have diverged, or overflow in their dtype (`stepjepa embed --dtype float32`)"
            )
    return embeddings


def evenly_spaced(count: int, most: int | None) -> np.ndarray:
    """At most so many of the indices 0 … count − 1, evenly spaced, so that a mixture of sources keeps its shares."""
    if most is None or most >= count:
        return np.arange(count)
    return np.linspace(0, count - 1, most).round().astype(int)


def check_suffix(path: str | os.PathLike[str]) -> Path:
    """The path, if it ends as an embedding file does.

    Raises:
        UserError: another ending.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: an embedding file ends in {' or '.join(SUFFIXES)}")
    return path


def save(embeddings: Embeddings, path: str | os.PathLike[str]) -> None:
    """Write an embedding file, whole or not at all.

    Raises:
        UserError: another ending than `.safetensors` or `.npz`, or it cannot be written there.
        ValueError: an array of other things than numbers.
    """
    path = check_suffix(path)
    arrays = dict(_arrays(embeddings))
    if objects := [name for name, array in arrays.items() if array.dtype.hasobject]:
        raise ValueError(f"{', '.join(objects)}: no numbers, and nothing is pickled")
    texts = {"format": FORMAT, **{name: getattr(embeddings, name) for name in TEXTS}}
    text = json_bytes(as_json(texts)).decode()
    with written_whole(path) as temporary:
        if path.suffix == ".npz":
            with temporary.open("wb") as file:
                np.savez(file, **{KEY: np.array(text), **arrays})  # type: ignore[arg-type]
        else:
            save_file(arrays, temporary, metadata={KEY: text})


def load(path: str | os.PathLike[str]) -> Embeddings:
    """Read an embedding file.

    Raises:
        UserError: no such file, another kind of file, a damaged one, one of a later format, or vectors that are not
            finite.
    """
    path = check_suffix(path)
    if not path.is_file():
        raise UserError(f"{path}: no such embedding file; `stepjepa embed --output_file {path}` writes one")
    try:
        text, arrays = _read_npz(path) if path.suffix == ".npz" else _read_safetensors(path)
    except (SafetensorError, zipfile.BadZipFile, OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: not a {path.suffix} file that can be read, or cut short: {error}") from error
    if text is None:
        raise UserError(f"{path}: a {path.suffix} file, but not one that `stepjepa embed` has written")
    try:
        stored = json.loads(text)
    except ValueError as error:
        raise UserError(f"{path}: damaged: its texts are no JSON ({error}); embed again") from error
    if stored.get("format") != FORMAT:
        raise UserError(f"{path}: written in format {stored.get('format')}, this version reads {FORMAT}; embed again")
    missing = {*ARRAYS, *TEXTS} - {*arrays, *stored}
    if missing:
        raise UserError(f"{path}: incomplete: no {', '.join(sorted(missing))}; embed again")
    layered: dict[str, dict[int, np.ndarray]] = {name: {} for name in LAYERED}
    try:
        for name in [name for name in arrays if "." in name]:
            group, layer = name.split(".")
            layered[group][int(layer)] = arrays.pop(name)
        fields: dict[str, Any] = {**arrays, **layered, **{name: stored[name] for name in TEXTS}}
        embeddings = Embeddings(**fields)
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path}: damaged: it holds an array of another name ({error}); embed again") from error
    return check_finite(embeddings, str(path))


def _arrays(embeddings: Embeddings) -> Iterator[tuple[str, np.ndarray]]:
    for name in ARRAYS:
        yield name, np.ascontiguousarray(getattr(embeddings, name))
    for name in LAYERED:
        for layer, array in getattr(embeddings, name).items():
            yield f"{name}.{layer}", np.ascontiguousarray(array)


def _read_safetensors(path: Path) -> tuple[str | None, dict[str, np.ndarray]]:
    with safe_open(path, framework="np") as file:
        text = (file.metadata() or {}).get(KEY)
        return text, {name: file.get_tensor(name) for name in file.keys()} if text is not None else {}  # noqa: SIM118


def _read_npz(path: Path) -> tuple[str | None, dict[str, np.ndarray]]:
    if not zipfile.is_zipfile(path):
        raise zipfile.BadZipFile("no zip archive")
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files} if KEY in file.files else {}
    text = arrays.pop(KEY, None)
    return None if text is None else str(text), arrays
