"""Step-JEPA: align consecutive reasoning steps while fine-tuning a language model.

The public names below are imported on first use, so that `import stepjepa` is quick and pulls in neither torch nor
matplotlib nor ipywidgets.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "BranchLayout": "jepa.pairs",
    "StepJEPACollator": "jepa.layout",
    "encode_views": "jepa.views",
    "Objective": "jepa.objectives",
    "two_pass_views": "jepa.reference",
    "split_steps": "data.steps",
    "read_examples": "data.sources",
    "tokenize_example": "data.tokens",
    "load_model": "models.loading",
    "NoGoldError": "evaluation.questions",
    "read_question": "evaluation.questions",
    "answers_match": "evaluation.answers",
    "extract_answer": "evaluation.answers",
    "StepJEPAConfig": "training.config",
    "StepJEPATrainer": "training.trainer",
    "attention_explorer": "visualization.attention_explorer",
    "embedding_explorer": "visualization.embedding_explorer",
    "link": "visualization.linking",
    "mask_explorer": "visualization.mask_explorer",
    "solving_form": "visualization.solving_form",
}
"""Public name → the module that it lives in."""
__all__ = ["__version__", *_HOMES]

if TYPE_CHECKING:
    from stepjepa.data.sources import read_examples as read_examples
    from stepjepa.data.steps import split_steps as split_steps
    from stepjepa.data.tokens import tokenize_example as tokenize_example
    from stepjepa.evaluation.answers import answers_match as answers_match
    from stepjepa.evaluation.answers import extract_answer as extract_answer
    from stepjepa.evaluation.questions import NoGoldError as NoGoldError
    from stepjepa.evaluation.questions import read_question as read_question
    from stepjepa.jepa.layout import StepJEPACollator as StepJEPACollator
    from stepjepa.jepa.objectives import Objective as Objective
    from stepjepa.jepa.pairs import BranchLayout as BranchLayout
    from stepjepa.jepa.reference import two_pass_views as two_pass_views
    from stepjepa.jepa.views import encode_views as encode_views
    from stepjepa.models.loading import load_model as load_model
    from stepjepa.training.config import StepJEPAConfig as StepJEPAConfig
    from stepjepa.training.trainer import StepJEPATrainer as StepJEPATrainer
    from stepjepa.visualization.attention_explorer import attention_explorer as attention_explorer
    from stepjepa.visualization.embedding_explorer import embedding_explorer as embedding_explorer
    from stepjepa.visualization.linking import link as link
    from stepjepa.visualization.mask_explorer import mask_explorer as mask_explorer
    from stepjepa.visualization.solving_form import solving_form as solving_form


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"stepjepa.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'stepjepa' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
