"""The model that is looked at, loaded as options say or with random weights as a control; described for records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stepjepa.analysis.encode import check_predictors, random_weights
from stepjepa.analysis.options import SolutionOptions
from stepjepa.jepa.architectures import base_model
from stepjepa.models.checkpoint import model_path
from stepjepa.models.loading import choose_device, load_model, read_tokenizer
from stepjepa.models.speed import keep_freed_memory

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load(options: SolutionOptions, predictors: int) -> tuple[Any, PreTrainedTokenizerBase, bool]:
    """Model, tokenizer, and whether the checkpoint brought its predictor tokens.

    Args:
        options: which model, its `dtype`, and a seed of `random_weights`.

    Raises:
        UserError: the model cannot be loaded, or was trained with another number of predictor tokens.
    """
    remote: dict[str, Any] = {"revision": options.revision, "trust_remote_code": options.trust_remote_code}
    model, tokenizer = load_model(options.model_name, predictors=predictors, dtype=options.dtype, **remote)
    trained = check_predictors(read_tokenizer(model_path(options.model_name), **remote), predictors)
    device = choose_device(options.device)
    model.to(device)
    if device.type == "cpu":
        keep_freed_memory()
    if options.random_weights is not None:
        model = random_weights(model, options.random_weights)
    return model, tokenizer, trained


def described(model: Any) -> dict[str, Any]:
    """Architecture, depth and width of a model."""
    config = base_model(model).config.get_text_config()
    return {
        "architecture": type(base_model(model)).__name__,
        "layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
    }
