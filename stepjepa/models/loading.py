"""Model and tokenizer: ready for Step-JEPA (pad token, predictor tokens, LoRA), or just as the checkpoint has them.

`load_model` is for training and embedding. `load_tokenizer` and `load_weights` are for evaluation and add nothing: what
is measured is what the checkpoint holds.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils.peft_utils import find_adapter_config_file

from stepjepa.jepa.architectures import base_model
from stepjepa.jepa.layout import predictor_token_ids
from stepjepa.models.checkpoint import BUILTIN, DTYPES, Checkpoint, base_name, first_line, model_path, names_near
from stepjepa.models.gguf import gguf_model, gguf_tokenizer, is_gguf
from stepjepa.models.vocabulary import (
    add_pad_token,
    add_predictor_tokens,
    grow_rows,
    initialise_rows,
    set_end_of_turn,
    set_pad_token,
)
from stepjepa.records import UserError


@contextmanager
def explained(what: str, advice: str = "", hub: bool = False) -> Iterator[None]:
    """Whatever a library raises while loading becomes a `UserError` that says what could not be loaded.

    Args:
        hub: it is looked for on the Hub, and advice on that is given here.
    """
    try:
        yield
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        said = first_line(error) if hub and isinstance(error, OSError) else error
        raise UserError(f"Could not load {what}: {said}{advice}") from error


def load_model(
    name: str = BUILTIN,
    *,
    predictors: int = 1,
    lora: bool = False,
    lora_rank: int = 16,
    lora_alpha: int | None = None,
    lora_dropout: float = 0.05,
    lora_target_modules: str | list[str] = "all-linear",
    dtype: str | torch.dtype = "float32",
    attn_implementation: str | None = None,
    activation_checkpointing: bool = False,
    revision: str | None = None,
    trust_remote_code: bool = False,
    seed: int = 42,
) -> tuple[Any, PreTrainedTokenizerBase]:
    """Load a causal language model and its tokenizer and make both ready for `StepJEPATrainer`.

    Args:
        name: "builtin", a Hub id, a GGUF file (`gguf.py`), or a folder: a full model or a LoRA adapter (its base
            model is loaded too and the adapter stays trainable). Weights must be safetensors or GGUF.
        predictors: K, how many predictor tokens to have.
        lora: wrap with new LoRA adapters; the rows of the predictor tokens are trained and saved with them.
        lora_rank, lora_alpha, lora_dropout, lora_target_modules: of LoRA (Hu et al. 2021); alpha is twice the
            rank unless given.
        dtype: of the weights: "float32", "bfloat16", "float16", or "auto" for the checkpoint's own.
        attn_implementation: "sdpa", "eager" or "flex_attention"; None lets transformers choose.
        activation_checkpointing: trade compute for memory.
        revision: branch, tag or commit on the Hub.
        trust_remote_code: run Python code that comes with the checkpoint. Off by default.
        seed: of the initialisation of new embedding rows and adapters; the global random state is untouched.

    Returns:
        model, tokenizer. Pad and eos token differ; `tokenizer.pad_token_id` is set in the model's configuration.

    Raises:
        UserError: if nothing can be loaded from `name`, a weight is not a finite number, `lora` is asked for on top of
            an existing adapter, for an unknown dtype, or if the tokenizer has neither an eos token nor a template that
            ends a turn.
    """
    if not isinstance(dtype, torch.dtype) and dtype not in DTYPES:
        raise UserError(f"dtype={dtype!r} is unknown; choose one of {', '.join(DTYPES)}.")
    path = model_path(name)
    remote = {"revision": revision, "trust_remote_code": trust_remote_code}
    hub = not Path(path).exists()
    advice = "\nIt has to be a folder with config.json, safetensors weights and a tokenizer, a GGUF file, or a Hub id."
    if hub:
        advice = (
            f"\nNo folder here has that name{names_near(Path(name)) or '.'} For a gated or private model run "
            "`hf auth login` first and accept its licence on its page."
        )
    with explained(repr(name), advice, hub):
        adapter = None if is_gguf(path) else find_adapter_config_file(path, revision=revision)
        tokenizer = read_tokenizer(path, **remote)
        options = {"dtype": dtype, "attn_implementation": attn_implementation, **remote}
        model = _slim_saving(_adapter(path, options, trained=True)) if adapter else _full_model(path, options)
    if adapter and lora:
        raise UserError(f"{name!r} is a LoRA adapter already; load it without lora to go on training it.")

    added = [*add_pad_token(tokenizer), *add_predictor_tokens(tokenizer, predictors)]
    if added and adapter:
        raise UserError(
            f"The adapter {name!r} was trained without {', '.join(added)}; load it with the number of predictor "
            "tokens it was trained with."
        )
    check_finite(model, f"{name} has")
    inner = base_model(model)
    initialise_rows(inner, tokenizer, added, seed)
    set_pad_token(inner, tokenizer)
    with explained(repr(name)):  # a chat template that is none, or ends no turn
        set_end_of_turn(inner, tokenizer)
    if lora:
        ids = predictor_token_ids(tokenizer, predictors)
        alpha = 2 * lora_rank if lora_alpha is None else lora_alpha
        model = add_lora(model, ids, lora_rank, alpha, lora_dropout, lora_target_modules, seed)
    if activation_checkpointing:
        checkpoint_activations(model)
    return model, tokenizer


def checkpoint_activations(model: Any, **options: Any) -> None:
    """Compute the activations of each layer again in the backward pass: less memory, more time.

    Args:
        options: of `torch.utils.checkpoint.checkpoint`.
    """
    enable = getattr(model, "activation_checkpointing_enable", None)  # the name since transformers 5.23
    (enable or model.gradient_checkpointing_enable)({"use_reentrant": False, **options})
    model.enable_input_require_grads()


def add_lora(
    model: Any,
    token_ids: list[int],
    rank: int = 16,
    alpha: int = 32,
    dropout: float = 0.05,
    targets: str | list[str] = "all-linear",
    seed: int = 42,
) -> Any:
    """Wrap with new LoRA adapters that train and save the embedding rows `token_ids` too; as in `load_model`."""
    from peft import LoraConfig, get_peft_model

    from stepjepa.models.speed import faster_adapter

    targets = "all-linear" if list(targets) == ["all-linear"] else targets  # as options give it; a list is of names
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=targets,
        trainable_token_indices=list(token_ids),
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return _slim_saving(faster_adapter(get_peft_model(model, config)))


def read_tokenizer(path: str, **remote: Any) -> PreTrainedTokenizerBase:
    """The tokenizer at `model_path(name)`, as it is there.

    Args:
        remote: `revision` and `trust_remote_code`, as `from_pretrained` takes them.
    """
    return gguf_tokenizer(path) if is_gguf(path) else AutoTokenizer.from_pretrained(path, **remote)


def _full_model(path: str, options: dict[str, Any]) -> Any:
    if is_gguf(path):
        return gguf_model(path, options["dtype"], options["attn_implementation"])
    return AutoModelForCausalLM.from_pretrained(path, use_safetensors=True, **options)


def _adapter(path: str, options: dict[str, Any], *, trained: bool) -> Any:
    from peft import AutoPeftModelForCausalLM, PeftModelForCausalLM

    from stepjepa.models.speed import faster_adapter

    base = base_name(Path(path)) if Path(path).is_dir() else ""  # not of a Hub id
    if is_gguf(base):
        model = _full_model(base, options)
        grow_rows(model, len(AutoTokenizer.from_pretrained(path)))
        loaded = PeftModelForCausalLM.from_pretrained(model, path, is_trainable=trained)
    else:
        with torch.random.fork_rng():  # rows that a grown vocabulary adds are drawn, unless the adapter brings them
            torch.manual_seed(0)
            loaded = AutoPeftModelForCausalLM.from_pretrained(
                path, use_safetensors=True, is_trainable=trained, **options
            )
    return faster_adapter(loaded)


def _slim_saving(model: Any) -> Any:
    """Save the adapter and the predictor rows only.

    Left to itself PEFT saves the whole embedding and head with every adapter once the vocabulary has grown:
    about 1 GB for a model with 1B parameters.
    """
    model.save_pretrained = functools.partial(model.save_pretrained, save_embedding_layers=False)
    return model


# -------- as the checkpoint has them --------


def load_tokenizer(
    model: Checkpoint, trust_remote_code: bool = False, pad_token: str | None = None
) -> PreTrainedTokenizerBase:
    """The model's tokenizer, which has a pad token.

    Args:
        pad_token: the token that pads, if the tokenizer names none; it has to be in the vocabulary.

    Raises:
        UserError: it cannot be loaded, or has no pad token.
    """
    with explained(f"the tokenizer of {model.given!r}"):
        tokenizer = read_tokenizer(model.path, revision=model.revision, trust_remote_code=trust_remote_code)
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
    model: Checkpoint,
    tokenizer: PreTrainedTokenizerBase,
    *,
    dtype: str = "float32",
    attn_implementation: str | None = None,
    device: torch.device | str = "cpu",
    trust_remote_code: bool = False,
) -> Any:
    """The model on `device`, in evaluation mode, with the end of the turn among the tokens it stops at.

    Raises:
        UserError: it cannot be loaded, or a weight is not a finite number.
    """
    remote = {"revision": model.revision, "trust_remote_code": trust_remote_code}
    options = {"dtype": dtype, "attn_implementation": attn_implementation, **remote}
    with explained(repr(model.given)):
        loaded = _adapter(model.path, options, trained=False) if model.base else _full_model(model.path, options)
        loaded.to(device)
    check_finite(loaded, f"{model.given} has")
    with explained(repr(model.given)):
        set_end_of_turn(base_model(loaded), tokenizer)
    return loaded.eval()


def check_finite(model: Any, who: str) -> None:
    """Refuse weights that are no numbers.

    Args:
        who: has them, as the message begins.

    Raises:
        UserError: a weight is NaN or infinite; which.
    """
    for name, parameter in model.named_parameters():
        weight = parameter.detach()
        weight = weight.to_local() if hasattr(weight, "to_local") else weight  # of FSDP: this process's part
        if not weight.numel() or not weight.is_floating_point() or weight.element_size() == 1:  # 8-bit has no extremes
            continue
        # The extremes, because a NaN is one, and no mask of a weight's size is made.
        if not all(bool(extreme.isfinite()) for extreme in weight.aminmax()):
            raise UserError(
                f"{who} weights that are not finite numbers (NaN or infinity), first in {name}: training diverged; "
                "train with a lower learning rate"
            )


def bfloat16_products(device: torch.device, on: bool = True) -> torch.autocast:
    """A context for `--bf16`: weights stay float32, matrix products inside are computed in bfloat16, as in training.

    Raises:
        UserError: the GPU has no bfloat16.
    """
    if on and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise UserError(f"--bf16: {torch.cuda.get_device_name(device)} has no bfloat16; leave it out")
    return torch.autocast(device.type, torch.bfloat16, enabled=on)


def choose_device(wanted: str) -> torch.device:
    """`auto` is CUDA if there is one.

    Raises:
        UserError: no such device.
    """
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"--device {wanted}: CUDA is not available: this machine or this build of PyTorch has none")
    try:
        device = torch.device(wanted)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {wanted} cannot be used here: {str(error).splitlines()[0]}") from error
    return device
