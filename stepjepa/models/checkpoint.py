"""The model under evaluation: loaded as it is, and traceable.

No token is added and no row changed: what is measured is what the checkpoint holds. Its weights are named by their
SHA-256, its training by the `record.json` that `stepjepa train` leaves beside it.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils.hub import cached_file

from stepjepa.jepa.architectures import base_model
from stepjepa.models.loading import BUILTIN, BUILTIN_PATH, ModelLoadError, set_end_of_turn
from stepjepa.records import UserError
from stepjepa.training.checkpoints import NAME as CHECKPOINT

TRAINING = (
    "lbd",
    "gamma",
    "jepa_loss_type",
    "pairs",
    "horizon",
    "isolation",
    "predictors",
    "target",
    "target_gradient",
    "temperature",
    "jepa_ratio",
    "jepa_ratio_rescale",
    "packing_length",
    "max_length",
    "learning_rate",
    "weight_decay",
    "warmup_steps",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "seed",
    "model_name",
    "lora",
    "lora_rank",
    "lora_alpha",
    "lora_dropout",
    "splitter",
    "train_file",
    "problems",
    "problem_seed",
)
"""What a summary says of the training: enough to tell arms and seeds apart."""


@dataclass(frozen=True)
class EvaluatedModel:
    """Where a model lies and how it was trained."""

    given: str
    """As on the command line: "builtin", a folder, a Hub id."""
    folder: Path
    """With configuration and weights; of a Hub id the snapshot in the local cache."""
    revision: str | None = None
    commit: str | None = None
    """Of a Hub id."""
    base: EvaluatedModel | None = None
    """The model below a LoRA adapter."""
    record: Mapping[str, Any] | None = None
    """Of the training run, None if there is none beside the model."""

    @property
    def name(self) -> str:
        """As it may be published: Hub ids and relative paths as given, of absolute ones the telling end."""
        path = Path(self.given).expanduser()
        if self.given == BUILTIN or path == BUILTIN_PATH:
            return BUILTIN
        if not path.is_absolute():
            return self.given
        inner = CHECKPOINT.fullmatch(path.name) or path.name == "merged"
        return f"{path.parent.name}/{path.name}" if inner else path.name

    @property
    def path(self) -> str:
        """What transformers loads it by."""
        return str(self.folder) if self.commit is None else self.given

    def training(self) -> dict[str, Any] | None:
        """The settings of its training, flat; None without a record."""
        if self.record is None:
            return None
        configuration = self.record["configuration"]
        settings = {**configuration["run"], **configuration["training"]}
        found = {name: settings[name] for name in TRAINING if name in settings}
        for name in ("model_name", "train_file"):  # as they may be published
            if isinstance(found.get(name), str):
                found[name] = EvaluatedModel(found[name], self.folder).name
            elif name in found:
                found[name] = [EvaluatedModel(each, self.folder).name for each in found[name]]
        return found

    def weights(self) -> dict[str, str]:
        """SHA-256 of each weight file.

        Raises:
            ModelLoadError: there is none.
        """
        index = self.folder / "model.safetensors.index.json"
        if self.base is not None:
            names = ["adapter_model.safetensors"]
        elif index.exists():
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        else:
            names = ["model.safetensors"]
        missing = [name for name in names if not (self.folder / name).is_file()]
        if missing:
            raise ModelLoadError(f"{self.given} has no {', '.join(missing)}; weights must be safetensors")
        return {name: _sha256(self.folder / name, (self.folder / name).stat().st_mtime_ns) for name in names}

    def identity(self) -> str:
        """A digest of all weights that answer; of a Hub id its commit, which is known before they are there."""
        own = self.commit or json.dumps(self.weights(), sort_keys=True)
        both = own if self.base is None else own + self.base.identity()
        return hashlib.sha256(both.encode()).hexdigest()

    def description(self) -> dict[str, Any]:
        """Name, commit and weights for a summary."""
        described = {"name": self.name, "commit": self.commit, "weights": self.weights()}
        return described if self.base is None else described | {"base": self.base.description()}


@functools.cache
def _sha256(path: Path, modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def locate_model(name: str, revision: str | None = None) -> EvaluatedModel:
    """Find a model: "builtin", a folder (also `checkpoint-N` or `merged` inside a run) or a Hub id.

    Raises:
        ModelLoadError: there is nothing to load.
    """
    folder = BUILTIN_PATH if name == BUILTIN else Path(name).expanduser()
    commit = None
    if not folder.is_dir():
        folder = _snapshot(name, revision)
        commit = folder.name
    adapter = folder / "adapter_config.json"
    if not adapter.is_file() and not (folder / "config.json").is_file():
        inside = sorted(path.name for path in folder.iterdir() if path.is_dir())
        raise ModelLoadError(
            f"{name}: no config.json and no adapter_config.json in this folder"
            + (f"; it has the folders {', '.join(inside)}" if inside else "")
        )
    base = None
    if adapter.is_file():
        below = json.loads(adapter.read_text(encoding="utf-8"))
        base = locate_model(below["base_model_name_or_path"], below.get("revision"))
    record = None if name == BUILTIN else _record(folder)
    return EvaluatedModel(name, folder, revision, commit, base, record)


def _snapshot(name: str, revision: str | None) -> Path:
    """The local folder of a Hub model, with its configuration and, if it has one, its training record."""
    try:
        optional = {"revision": revision, "_raise_exceptions_for_missing_entries": False}
        found = cached_file(name, "adapter_config.json", **optional) or cached_file(
            name, "config.json", revision=revision
        )
        assert found is not None  # or an error
        cached_file(name, "record.json", **optional, _raise_exceptions_for_connection_errors=False)
    except (OSError, ValueError) as error:
        raise ModelLoadError(
            f"{name!r} is neither a folder here nor a model that could be loaded from the Hugging Face Hub: {error}"
        ) from error
    return Path(found).parent


def _record(folder: Path) -> dict[str, Any] | None:
    """The training record beside a model, one folder up for a checkpoint or a merged adapter."""
    inner = CHECKPOINT.fullmatch(folder.name) or folder.name == "merged"
    path = (folder.resolve().parent if inner else folder) / "record.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); it should be the record of the model's training") from error
    configuration = record.get("configuration") if isinstance(record, dict) else None
    ours = isinstance(configuration, dict) and {"run", "training"} <= configuration.keys()
    return record if ours else None


def load_tokenizer(
    model: EvaluatedModel, trust_remote_code: bool = False, pad_token: str | None = None
) -> PreTrainedTokenizerBase:
    """The model's tokenizer, which has a pad token.

    Args:
        pad_token: the token that pads, if the tokenizer names none; it has to be in the vocabulary.

    Raises:
        ModelLoadError: it cannot be loaded.
        UserError: no pad token.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            model.path, revision=model.revision, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError, ImportError) as error:
        raise ModelLoadError(f"Could not load the tokenizer of {model.given!r}: {error}") from error
    if pad_token is not None:
        if pad_token not in tokenizer.get_vocab():
            raise UserError(f"--pad_token {pad_token}: the tokenizer of {model.given!r} has no such token")
        tokenizer.pad_token = pad_token
    if tokenizer.pad_token_id is None:
        end = tokenizer.eos_token
        raise UserError(
            f"the tokenizer of {model.given!r} has no pad token, which batched generation needs. Name one of its own "
            "tokens with --pad_token: padding is masked, so it changes no answer"
            + (f"; its end token will do: --pad_token '{end}'" if end else "")
        )
    return tokenizer


def load_weights(
    model: EvaluatedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    dtype: str = "float32",
    attn_implementation: str | None = None,
    device: torch.device | str = "cpu",
    trust_remote_code: bool = False,
) -> Any:
    """The model on `device`, in evaluation mode, with the end of the turn among the tokens it stops at.

    Raises:
        ModelLoadError: it cannot be loaded.
    """
    options: dict[str, Any] = {
        "dtype": dtype,
        "attn_implementation": attn_implementation,
        "use_safetensors": True,
        "trust_remote_code": trust_remote_code,
        "revision": model.revision,
    }
    try:
        if model.base is None:
            loaded: Any = AutoModelForCausalLM.from_pretrained(model.path, **options)
        else:
            from peft import AutoPeftModelForCausalLM

            loaded = AutoPeftModelForCausalLM.from_pretrained(model.path, **options)
        loaded.to(device)
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        raise ModelLoadError(f"Could not load {model.given!r}: {error}") from error
    set_end_of_turn(base_model(loaded), tokenizer)
    return loaded.eval()


def choose_device(wanted: str) -> torch.device:
    """`auto` is CUDA if there is one.

    Raises:
        UserError: no such device.
    """
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {wanted} cannot be used here: {str(error).splitlines()[0]}") from error
    return device
