"""GGUF: a model in one file, quantised or not → weights that can be trained, with its tokenizer and chat template.

transformers reads such a file, but what it returns refuses to be trained and saved, as a quantised model does. Here
the dequantised weights are handed to a model built from the file's configuration, which computes the same to the
bit, is trained and saved as safetensors, and knows the file as its origin.
"""

from __future__ import annotations

import importlib.util
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from packaging.version import Version

from stepjepa.records import UserError

SUFFIX = ".gguf"
TRANSFORMERS = "5.23"
"""Earlier versions leave out how the file's vocabulary splits a text, or where one begins: other tokens, silently."""


def is_gguf(path: str | Path) -> bool:
    """Whether a path that exists is a GGUF file, by its name."""
    path = Path(path)
    return path.suffix.lower() == SUFFIX and path.is_file()


def gguf_in(folder: Path) -> Path | None:
    """The GGUF file of a folder that holds no model in another form; None if there is none.

    Raises:
        UserError: there are several.
    """
    if any((folder / name).exists() for name in ("config.json", "adapter_config.json")):
        return None
    files = sorted(entry for entry in folder.iterdir() if is_gguf(entry))
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise UserError(f"{folder} has several GGUF files ({names}); give the path of one of them")
    return files[0] if files else None


def gguf_tokenizer(path: str | Path) -> Any:
    """The tokenizer of a GGUF file, with its chat template if it has one.

    Raises:
        UserError: see `gguf_model`.
    """
    from transformers import AutoTokenizer

    with _reading(path) as file:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    tokenizer.name_or_path = str(file)
    return tokenizer


def gguf_model(path: str | Path, dtype: Any = "float32", attn_implementation: str | None = None) -> Any:
    """The causal language model of a GGUF file, its weights dequantised.

    Args:
        dtype: of the weights; "auto" is float32, which holds every quantised value exactly.

    Raises:
        UserError: the package `gguf` is missing, or the file is none, is damaged, or of an architecture or a
            quantisation that transformers does not read.
    """
    import transformers
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    options: dict[str, Any] = {"dtype": "float32" if dtype == "auto" else dtype}
    if attn_implementation is not None:
        options["attn_implementation"] = attn_implementation
    plain = getattr(transformers, "GgufConfig", None)  # of versions that would leave the weights packed on some devices
    packed = {} if plain is None else {"quantization_config": plain(dequantize=True)}
    with _reading(path) as file:
        read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, **options, **packed)
    config = read.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.name_or_path = str(file)
    with no_init_weights():
        model = AutoModelForCausalLM.from_config(config, **options)
    model.load_state_dict(read.state_dict(), assign=True)
    model.tie_weights()
    model.generation_config = read.generation_config
    return model.eval()


@contextmanager
def _reading(path: str | Path) -> Iterator[Path]:
    """The file, while a library reads it."""
    if importlib.util.find_spec("gguf") is None:
        raise UserError(f"{path} is a GGUF file, which needs the package gguf: pip install gguf")
    if Version(version("transformers")) < Version(TRANSFORMERS):
        raise UserError(
            f"{path} is a GGUF file, which needs transformers {TRANSFORMERS} or later, and "
            f'{version("transformers")} is installed: pip install "transformers>={TRANSFORMERS}"'
        )
    file = Path(path)
    with file.open("rb") as start:
        if start.read(4) != b"GGUF":
            raise UserError(f"{path} is no GGUF file, whatever its name says: it does not begin with «GGUF»")
    try:
        yield file
    except (struct.error, IndexError) as error:
        raise UserError(f"{path} ends too early: part of the file is missing ({error})") from error
