"""What `stepjepa train` can be told besides the options of transformers' Trainer; nothing here imports torch.

A field's metadata says what the option is for (see `configurations.py`) and whether it changes what is trained (see
`idle_options` in `config.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from stepjepa.data.steps import Splitter
from stepjepa.jepa.pairs import ISOLATIONS, PAIR_SETS
from stepjepa.models.checkpoint import BUILTIN, DTYPES


def _without_lora(options: Mapping[str, Any]) -> bool:
    return not options["lora"]


@dataclass
class RunOptions:
    """What a training run needs besides `StepJEPAConfig`: model, LoRA, data, accuracy."""

    model_name: str = field(
        default=BUILTIN, metadata={"help": "'builtin', a folder, or a Hub id.", "aliases": ["--model_path"]}
    )
    train_file: list[str] = field(
        default_factory=lambda: ["builtin"],
        metadata={"help": "Training data: 'builtin', JSONL files (any form that prepare reads), or Hub data set ids."},
    )
    eval_file: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Evaluation data, likewise; of built-in problems and Hub data sets the test split. "
            "Built-in training data have some of their own."
        },
    )
    lora: bool = field(default=False, metadata={"help": "Train LoRA adapters instead of all weights."})
    lora_rank: int = field(default=16, metadata={"help": "Rank of the LoRA adapters.", "idle_if": _without_lora})
    lora_alpha: int | None = field(
        default=None, metadata={"idle_if": _without_lora, "help": "LoRA alpha; twice the rank by default."}
    )
    lora_dropout: float = field(
        default=0.05, metadata={"help": "Dropout inside the LoRA adapters.", "idle_if": _without_lora}
    )
    dtype: str = field(default="float32", metadata={"help": "dtype of the weights.", "choices": DTYPES})
    attn_implementation: str | None = field(
        default=None, metadata={"help": "sdpa, eager or flex_attention; the library's choice by default."}
    )
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a Hub model."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run Python code that comes with the model."})
    splitter: Splitter | None = field(
        default=None,
        metadata={"help": "How to find steps in unprepared data, as in prepare.", "choices": get_args(Splitter)},
    )
    problems: int = field(default=2000, metadata={"help": "How many built-in problems to train on."})
    problem_seed: int = field(default=0, metadata={"help": "Which built-in problems are drawn."})
    eval_problems: int = field(default=200, metadata={"help": "How many built-in problems to evaluate losses on."})
    accuracy_problems: int = field(
        default=200,
        metadata={"help": "Held-out problems to answer before and after training; needs evaluation data. 0: none."},
    )
    max_new_tokens: int = field(default=768, metadata={"help": "Longest response when measuring accuracy."})
    merge_lora: bool = field(
        default=False, metadata={"help": "Save a merged full model besides the adapter.", "runner": True}
    )


@dataclass
class JEPAOptions:
    """What Step-JEPA adds to `transformers.TrainingArguments`, and the options of it that have another default here."""

    lbd: float = field(
        default=0.1,
        metadata={"help": "λ, the weight of the JEPA loss. 0 is plain fine-tuning.", "aliases": ["--lambda"]},
    )
    gamma: float = field(default=1.0, metadata={"help": "γ, the weight of the language-modelling loss."})
    jepa_loss_type: str = field(
        default="cosine", metadata={"help": "The JEPA loss.", "choices": "jepa.losses.OBJECTIVES", "jepa_only": True}
    )
    pairs: str = field(default="first", metadata={"help": "Which view pairs.", "choices": PAIR_SETS, "jepa_only": True})
    horizon: int = field(
        default=1,
        metadata={
            "help": "Steps ahead, for pairs=horizon.",
            "jepa_only": True,
            "idle_if": lambda options: options["pairs"] != "horizon",
        },
    )
    isolation: str = field(
        default="step",
        metadata={"help": "What a target view sees besides itself.", "choices": ISOLATIONS, "jepa_only": True},
    )
    target: str = field(
        default="step",
        metadata={
            "help": "What a context view predicts in training. The last two are control arms: another pair's target "
            "view, and a random vector of the same length.",
            "choices": "jepa.controls.TARGETS",
            "jepa_only": True,
        },
    )
    predictors: int = field(default=1, metadata={"help": "K, predictor tokens before a context view is read."})
    target_gradient: bool = field(
        default=True,
        metadata={
            "help": "Let the JEPA gradient flow into the target view, as in the original.",
            "jepa_only": True,
            "idle_if": lambda options: options["target"] == "random",
        },
    )
    temperature: float = field(
        default=0.07,
        metadata={
            "help": "Temperature of InfoNCE.",
            "jepa_only": True,
            "idle_if": lambda options: options["jepa_loss_type"] != "infonce",
        },
    )
    jepa_ratio: float = field(
        default=1.0,
        metadata={
            "help": "Share of optimizer steps with a JEPA term, drawn from (seed, global_step).",
            "jepa_only": True,
        },
    )
    max_length: int | None = field(
        default=2048,
        metadata={"help": "Longest example in tokens; longer ones are cut at a step boundary and counted."},
    )
    packing_length: int | None = field(
        default=None, metadata={"help": "Pack several examples into training rows of up to this many tokens."}
    )
    collapse_threshold: float = field(
        default=0.01,
        metadata={
            "help": "Warn when the mean cosine distance between different targets falls below this.",
            "idle_if": lambda options: True,
        },
    )

    per_device_train_batch_size: int = field(
        default=4, metadata={"help": "Examples in a microbatch of one device.", "aliases": ["--batch_size"]}
    )
    gradient_accumulation_steps: int = field(
        default=4, metadata={"help": "Microbatches in an optimizer step.", "aliases": ["--grad_accum"]}
    )
    num_train_epochs: float = field(
        default=3.0,
        metadata={
            "help": "Passes over the training data.",
            "aliases": ["--num_epochs"],
            "idle_if": lambda options: options["max_steps"] > 0,
        },
    )
    learning_rate: float | None = field(
        default=None, metadata={"help": "Peak learning rate; 2e-5 for all weights, 2e-4 under LoRA by default."}
    )
    warmup_steps: float = 0.03
    logging_steps: float = 10
    logging_first_step: bool = True
    logging_nan_inf_filter: bool = False
    remove_unused_columns: bool = False
    output_dir: str | None = field(
        default=None, metadata={"help": "Where model, checkpoints and record go; without it the next runs/train-NNN."}
    )
    resume_from_checkpoint: str | None = field(
        default=None,
        metadata={"help": "true: go on from the newest complete checkpoint in --output_dir; or the path of one."},
    )
    seed: int = field(default=42, metadata={"help": "Of order, initialisation and dropout."})
