"""Step-JEPA: align consecutive reasoning steps while fine-tuning a language model.

The public names below are imported on first use, so that `import stepjepa` is quick and pulls in neither
matplotlib nor ipywidgets.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "split_steps": "data.steps",
    "tokenize_example": "data.tokens",
    "StepJEPACollator": "jepa.layout",
    "encode_views": "jepa.views",
    "load_model": "models.loading",
    "StepJEPAConfig": "training.config",
    "StepJEPATrainer": "training.trainer",
}
__all__ = ["__version__", *_HOMES]

if TYPE_CHECKING:
    from stepjepa.data.steps import split_steps as split_steps
    from stepjepa.data.tokens import tokenize_example as tokenize_example
    from stepjepa.jepa.layout import StepJEPACollator as StepJEPACollator
    from stepjepa.jepa.views import encode_views as encode_views
    from stepjepa.models.loading import load_model as load_model
    from stepjepa.training.config import StepJEPAConfig as StepJEPAConfig
    from stepjepa.training.trainer import StepJEPATrainer as StepJEPATrainer


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"stepjepa.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'stepjepa' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
