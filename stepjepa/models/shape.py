"""A model as its configuration describes it: what it will be like is known before its weights are here.

Under `torch._subclasses.FakeTensorMode` such a model has shapes and no memory; on a device it has drawn weights, which
take as much time and memory as trained ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerBase
from transformers.utils.peft_utils import find_adapter_config_file

from stepjepa.jepa.layout import predictor_token_ids
from stepjepa.models.checkpoint import model_path
from stepjepa.models.gguf import is_gguf
from stepjepa.models.loading import add_lora, explained, read_tokenizer
from stepjepa.models.vocabulary import add_pad_token, add_predictor_tokens, set_pad_token
from stepjepa.records import UserError


def read_shape(
    name: str, *, predictors: int = 1, tokenizer: str | None = None, **remote: Any
) -> tuple[Any, PreTrainedTokenizerBase]:
    """Configuration and tokenizer as `load_model` makes them ready: the vocabulary has the new tokens.

    Args:
        name: 'builtin', a folder with at least config.json, a GGUF file, a Hub id.
        tokenizer: the model or folder whose tokenizer to take; that of the model by default.
        remote: `revision` and `trust_remote_code`.

    Raises:
        UserError: nothing can be read there, or it is an adapter.
    """
    path = model_path(name)
    with explained(
        f"the configuration of {name!r}", "\nIt has to be a folder with config.json, a GGUF file or a Hub id."
    ):
        if is_gguf(path):
            config = AutoConfig.from_pretrained(Path(path).parent, gguf_file=Path(path).name)
        elif find_adapter_config_file(path, revision=remote.get("revision")):
            raise UserError(f"--model_name {name} is an adapter; give its base model, with --lora")
        else:
            config = AutoConfig.from_pretrained(path, **remote)
    with explained(f"the tokenizer of {tokenizer or name!r}", "\n--tokenizer MODEL takes another model's."):
        words = read_tokenizer(path, **remote) if tokenizer is None else read_tokenizer(model_path(tokenizer))
    added = [*add_pad_token(words), *add_predictor_tokens(words, predictors)]
    text = config.get_text_config()
    known = words.get_vocab()
    text.vocab_size = max([text.vocab_size, *(1 + known[token] for token in added)])
    return config, words


def make_model(
    config: Any,
    tokenizer: PreTrainedTokenizerBase,
    *,
    predictors: int = 1,
    lora: bool = False,
    lora_rank: int = 16,
    lora_dropout: float = 0.05,
    lora_target_modules: str | list[str] = "all-linear",
    dtype: str = "float32",
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
    seed: int = 42,
) -> Any:
    """A model of that configuration with drawn weights, on the default device; see `load_model`."""
    own = {"trust_remote_code": trust_remote_code, "attn_implementation": attn_implementation}
    dtype = config.dtype or "float32" if dtype == "auto" else dtype
    model = AutoModelForCausalLM.from_config(config, dtype=dtype, **own)
    set_pad_token(model, tokenizer)
    if lora:
        ids = predictor_token_ids(tokenizer, predictors)
        model = add_lora(model, ids, lora_rank, 2 * lora_rank, lora_dropout, lora_target_modules, seed)
    return model
