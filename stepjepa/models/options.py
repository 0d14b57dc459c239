"""What every command that loads a model can be told of it; without torch, so that a wrong option is refused at once.

A dataclass of options inherits from `LoadedModel`; one that means something else by a field says it again.
"""

from __future__ import annotations

from dataclasses import dataclass

from stepjepa.models.checkpoint import BUILTIN, DTYPES
from stepjepa.records import option


@dataclass(kw_only=True)
class LoadedModel:
    """The model that a command looks at, and where it runs."""

    model_name: str = option(
        BUILTIN,
        "'builtin', a folder (full model or LoRA adapter), a GGUF file, or a Hub id",
        aliases=["--model_path"],
        group="model",
    )
    revision: str | None = option(None, "branch, tag or commit of a Hub model", group="model")
    trust_remote_code: bool = option(False, "run Python code that comes with the model", group="model")
    dtype: str = option("float32", "of the weights; auto is the checkpoint's own", choices=DTYPES, group="model")
    device: str = option("auto", "auto (CUDA if there is one), cpu, cuda, cuda:1, …", group="model")
