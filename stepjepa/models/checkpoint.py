"""A checkpoint: found by the name that it is given, and described so that a result can be traced to it.

Its weights are named by their SHA-256, its training by the `record.json` that `stepjepa train` leaves beside it.
Nothing is loaded here, nor is torch: a command can refuse a wrong name at once.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepjepa.models.gguf import gguf_in, is_gguf
from stepjepa.records import UserError, file_digest, read_json

BUILTIN = "builtin"
BUILTIN_PATH = Path(__file__).parent / "builtin"
DTYPES = ("float32", "bfloat16", "float16", "auto")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")  # `gpt2`, `openai/gsm8k`; not `./a`, `a/b/c`, `a/`
_FILE_ENDINGS = (".gguf", ".safetensors", ".bin", ".pt", ".pth", ".json")  # a file's name is no Hub id
NAME = re.compile(r"checkpoint-(\d+)")  # `checkpoint-500`: a checkpoint of a training run, after 500 optimizer steps


def published_name(given: str) -> str:
    """Of a model or a file as it may be published: Hub ids and relative paths as given, of absolute ones the end."""
    path = Path(given).expanduser()
    if given == BUILTIN or path == BUILTIN_PATH:
        return BUILTIN
    if not path.is_absolute():
        return given
    return f"{path.parent.name}/{path.name}" if _is_inside_run(path) else path.name


@dataclass(frozen=True)
class Checkpoint:
    """Where a model lies and how it was trained."""

    given: str
    """As on the command line: "builtin", a folder, a Hub id."""
    folder: Path
    """With configuration and weights, or a GGUF file; of a Hub id the snapshot in the local cache."""
    revision: str | None = None
    commit: str | None = None
    """Of a Hub id."""
    base: Checkpoint | None = None
    """The model below a LoRA adapter."""
    record: Mapping[str, Any] | None = None
    """Of the training run, None if there is none beside the model."""

    @property
    def name(self) -> str:
        """As it may be published."""
        return published_name(self.given)

    @property
    def path(self) -> str:
        """What transformers loads it by."""
        return str(self.folder) if self.commit is None else self.given

    def training(self) -> dict[str, Any] | None:
        """The settings of its training, flat; None without a record."""
        if self.record is None:
            return None
        kept = dict(self.record["settings"])
        for name in ("model_name", "train_file"):
            if isinstance(kept.get(name), str):
                kept[name] = published_name(kept[name])
            elif name in kept:
                kept[name] = [published_name(one) for one in kept[name]]
        return kept

    @property
    def predictors(self) -> int:
        """How many predictor tokens it was trained with; 1 without a record."""
        return int((self.training() or {}).get("predictors", 1))

    def weights(self) -> dict[str, str]:
        """SHA-256 of each weight file.

        Raises:
            UserError: there is none.
        """
        if self.folder.is_file():
            return {self.folder.name: file_digest(self.folder)}
        index = self.folder / "model.safetensors.index.json"
        if self.base is not None:
            names = ["adapter_model.safetensors"]
        elif index.exists():
            names = sorted(set(read_json(index)["weight_map"].values()))
        else:
            names = ["model.safetensors"]
        missing = [name for name in names if not (self.folder / name).is_file()]
        if missing:
            raise UserError(f"{self.given} has no {', '.join(missing)}; weights must be safetensors")
        return {name: file_digest(self.folder / name) for name in names}

    def identity(self) -> str:
        """A digest of all weights that answer; of a Hub id its commit, which is known before they are there."""
        own = self.commit or json.dumps(self.weights(), sort_keys=True)
        both = own if self.base is None else own + self.base.identity()
        return hashlib.sha256(both.encode()).hexdigest()

    def description(self) -> dict[str, Any]:
        """Name, commit and weights for a summary."""
        described = {"name": self.name, "commit": self.commit, "weights": self.weights()}
        return described if self.base is None else described | {"base": self.base.description()}


def _is_inside_run(folder: Path) -> bool:
    """Whether a folder is one that a training run makes inside its own."""
    return NAME.fullmatch(folder.name) is not None or folder.name == "merged"


def model_path(name: str) -> str:
    """What a model is loaded by: the built-in folder, a folder that exists, a GGUF file, or a Hub id.

    Raises:
        UserError: a path at which there is nothing; it is no id, and must not be looked up on the Hub.
    """
    path = BUILTIN_PATH if name == BUILTIN else Path(name).expanduser()
    if path.is_dir():
        return str(gguf_in(path) or path)
    if is_gguf(path):
        return str(path)
    if path.exists():
        raise UserError(
            f"{name!r} is a file; a model is a folder with config.json, weights and a tokenizer, or a .gguf file"
        )
    is_id = _HUB_ID.fullmatch(name) is not None and path.suffix.lower() not in _FILE_ENDINGS
    if is_id and (len(path.parts) == 1 or not path.parent.is_dir()):
        return name
    raise UserError(f"Could not load {name!r}: there is no such folder or file{names_near(path)}")


def names_near(path: Path) -> str:
    """What lies beside a path at which there is nothing and is named almost so, as the end of a message."""
    beside = [BUILTIN] if len(path.parts) == 1 else []
    if path.parent.is_dir():
        beside += [entry.name for entry in path.parent.iterdir() if entry.is_dir() or is_gguf(entry)]
    near = [str(path.parent / close) for close in difflib.get_close_matches(path.name, beside, n=3)]
    return f"; did you mean {' or '.join(near)}?" if near else ""


def locate_model(name: str, revision: str | None = None, above: tuple[str, ...] = ()) -> Checkpoint:
    """Find a model: "builtin", a folder (also `checkpoint-N` or `merged` inside a run), a GGUF file or a Hub id.

    Raises:
        UserError: there is nothing to load.
    """
    folder = Path(model_path(name))
    if is_gguf(folder):
        return Checkpoint(name, folder)
    commit = None
    if not folder.is_dir():
        folder = _snapshot(name, revision)
        commit = folder.name
    adapter = folder / "adapter_config.json"
    if not adapter.is_file() and not (folder / "config.json").is_file():
        inside = sorted(path.name for path in folder.iterdir() if path.is_dir())
        raise UserError(
            f"{name}: no config.json and no adapter_config.json in this folder"
            + (f"; it has the folders {', '.join(inside)}" if inside else "")
        )
    base = None
    if adapter.is_file():
        below = base_name(folder)
        if below in above:
            raise UserError(f"{name}: its base model is {below}, of which it is a base itself")
        base = locate_model(below, read_json(adapter).get("revision"), (*above, name, below))
    record = None if name == BUILTIN else _record(folder)
    return Checkpoint(name, folder, revision, commit, base, record)


def base_name(folder: Path) -> str:
    """What the adapter in a folder calls the model below it.

    Raises:
        UserError: it names none, or itself.
    """
    name = read_json(folder / "adapter_config.json").get("base_model_name_or_path")
    if not name or not isinstance(name, str):
        raise UserError(
            f"{folder}: its adapter_config.json names no base model; write where that is under base_model_name_or_path"
        )
    if Path(name).is_dir() and Path(name).samefile(folder):
        raise UserError(f"{folder}: its adapter_config.json names this folder as its base model")
    return name


def _snapshot(name: str, revision: str | None) -> Path:
    """The local folder of a Hub model, with its configuration and, if it has one, its training record."""
    from transformers.utils.hub import cached_file

    try:
        optional = {"revision": revision, "_raise_exceptions_for_missing_entries": False}
        path = cached_file(name, "adapter_config.json", **optional) or cached_file(
            name, "config.json", revision=revision
        )
        assert path is not None  # or an error
        cached_file(name, "record.json", **optional, _raise_exceptions_for_connection_errors=False)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{name!r} is neither a folder here nor a model that could be loaded from the Hugging Face Hub: "
            f"{first_line(error)}{names_near(Path(name))}"
        ) from error
    return Path(path).parent


def first_line(error: Exception) -> str:
    """What a library says is wrong, without the advice that follows."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _record(folder: Path) -> dict[str, Any] | None:
    """The training record beside a model, one folder up for a checkpoint or a merged adapter."""
    path = (folder.resolve().parent if _is_inside_run(folder) else folder) / "record.json"
    if not path.exists():
        return None
    record = read_json(path)
    return record if isinstance(record.get("settings"), dict) else None
