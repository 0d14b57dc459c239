"""What `stepjepa train` can be told besides the options of transformers' Trainer; nothing here imports torch.

A field's metadata says what the option is for (see `configurations.py`) and whether it changes what is trained (see
`idle_options` and `settings` in `config.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from stepjepa.data.steps import Splitter
from stepjepa.jepa.pairs import ISOLATIONS, PAIR_SETS, POOLINGS
from stepjepa.models.checkpoint import BUILTIN, DTYPES
from stepjepa.records import option

LBD_SCHEDULES = ("constant", "warmup", "decay")
OVER_TOKENS = ("nextlat", "mtp", "stp", "ssp")
"""Objectives that look at no view pair, so that all options over pairs are idle."""


def _without_lora(options: Mapping[str, Any]) -> bool:
    return not options["lora"]


def _without_infonce(options: Mapping[str, Any]) -> bool:
    return options["jepa_loss_type"] != "infonce"


def over_tokens(options: Mapping[str, Any]) -> bool:
    """Whether the objective looks at no view pair."""
    return options["jepa_loss_type"] in OVER_TOKENS


@dataclass
class RunOptions:
    """What a training run needs besides `StepJEPAConfig`: model, LoRA, data, accuracy."""

    model_name: str = option(BUILTIN, "'builtin', a folder, a GGUF file, or a Hub id.", aliases=["--model_path"])
    train_file: list[str] = option(
        ["builtin"],
        "Training data: 'builtin' (stories), 'builtin:easy' (short ones), 'builtin:programs', 'builtin:logic', files, "
        "folders, patterns (any form that prepare reads), or Hub data set ids; several may have weights, as in "
        "a.jsonl:0.7 b.jsonl:0.3.",
    )
    mixing_temperature: float | None = option(
        None, "Mix several sources by their sizes to the power 1/T: 1 as they are, a large T makes them equal."
    )
    mixed_rows: int | None = option(None, "Rows of a mixture; as many as there are by default.", least=1)
    eval_file: list[str] = option(
        [],
        "Evaluation data, likewise; of built-in problems and Hub data sets the test split. 'none' for none. By "
        "default built-in training data have some of their own, and of others a tenth of the questions is held out.",
        measures=True,
    )
    lora: bool = option(False, "Train LoRA adapters instead of all weights.")
    lora_rank: int = option(16, "Rank of the LoRA adapters.", aliases=["--lora_r"], idle_if=_without_lora)
    lora_alpha: int | None = option(None, "LoRA alpha; twice the rank by default.", idle_if=_without_lora)
    lora_dropout: float = option(0.05, "Dropout inside the LoRA adapters.", idle_if=_without_lora)
    lora_target_modules: list[str] = option(
        ["all-linear"], "Modules that get LoRA adapters, as in q_proj v_proj; all-linear: all.", idle_if=_without_lora
    )
    dtype: str = option("float32", "dtype of the weights.", choices=DTYPES)
    attn_implementation: str | None = option(None, "sdpa, eager or flex_attention; the library's choice by default.")
    revision: str | None = option(None, "Branch, tag or commit of a Hub model.")
    trust_remote_code: bool = option(False, "Run Python code that comes with the model.")
    splitter: Splitter | None = option(
        None, "How to find steps in unprepared data, as in prepare.", choices=get_args(Splitter)
    )
    problems: int = option(2000, "How many built-in problems of each kind to train on.", least=1)
    problem_seed: int = option(0, "Which built-in problems are drawn.")
    eval_problems: int = option(
        200,
        "How many problems to evaluate losses on: built-in ones of each kind, or, at most, training data held out.",
        measures=True,
        least=0,
    )
    accuracy_problems: int = option(
        200,
        "Held-out problems to answer before and after training; needs evaluation data. 0: none.",
        measures=True,
        least=0,
    )
    max_new_tokens: int = option(768, "Longest response when measuring accuracy.", measures=True, least=1)
    cache_dir: str | None = option(
        None,
        "Keep the training data, tokenized, in Arrow files in this folder and read them row by row, for data larger "
        "than memory. The same data and tokenizer find their files again.",
        runner=True,
    )
    cache_processes: int = option(1, "Processes that tokenize for --cache_dir.", runner=True, least=1)
    merge_lora: bool = option(False, "Save a merged full model besides the adapter.", runner=True)


@dataclass
class JEPAOptions:
    """What Step-JEPA adds to `transformers.TrainingArguments`, and the options of it that have another default here."""

    lbd: float = option(0.1, "λ, the weight of the JEPA loss. 0 is plain fine-tuning.", aliases=["--lambda"])
    gamma: float = option(1.0, "γ, the weight of the language-modelling loss.")
    jepa_loss_type: str = option("cosine", "The JEPA loss.", choices="jepa.registry.OBJECTIVES", jepa_only=True)
    pairs: str = option("first", "Which view pairs.", choices=PAIR_SETS, jepa_only=True, idle_if=over_tokens)
    horizon: int = option(
        1,
        "Steps ahead, for pairs=horizon, or how many at most, for pairs=horizons.",
        jepa_only=True,
        idle_if=lambda options: over_tokens(options) or not options["pairs"].startswith("horizon"),
    )
    pair_weights: list[float] = option(
        [],
        "Weights, all 1 by default: of 1, 2, … steps ahead for pairs=horizons; of question to answer, step to step, "
        "part to part of a step for pairs=hierarchy.",
        jepa_only=True,
        idle_if=lambda options: over_tokens(options) or options["pairs"] not in ("horizons", "hierarchy"),
    )
    isolation: str = option(
        "step", "What a target view sees besides itself.", choices=ISOLATIONS, jepa_only=True, idle_if=over_tokens
    )
    pooling: str = option(
        "last",
        "How the states of a step's tokens become its target view: the state of the last one, of the last one before "
        "the separator, or the mean of all.",
        choices=POOLINGS,
        jepa_only=True,
        idle_if=over_tokens,
    )
    target_model: str = option(
        "own",
        "Whose target views: those of the model itself, of a running mean of its trained weights (ema), or of the "
        "model before training (frozen).",
        choices="jepa.targets.TARGET_MODELS",
        jepa_only=True,
        idle_if=over_tokens,
    )
    ema_decay: float = option(
        0.99,
        "Share of the running mean that each optimizer step keeps, for target_model=ema.",
        jepa_only=True,
        idle_if=lambda options: over_tokens(options) or options["target_model"] != "ema",
    )
    target_layer: int = option(
        -1, "Layer of the target view: -1 the last, 0 the embedding output.", jepa_only=True, idle_if=over_tokens
    )
    target_top: int = option(
        1,
        "Mean over so many layers up to that one, each layer-normalised.",
        jepa_only=True,
        idle_if=over_tokens,
        least=1,
    )
    target_scale: str = option(
        "none",
        "How target views are scaled: each by its own mean and deviation (layer), or each dimension by those of the "
        "training data (zscore).",
        choices="jepa.heads.SCALES",
        jepa_only=True,
        idle_if=over_tokens,
    )
    head: str = option(
        "none",
        "What predicts the target from the context view: nothing more, a linear map or a small MLP, both the identity "
        "at first.",
        choices="jepa.heads.HEADS",
        jepa_only=True,
        idle_if=over_tokens,
    )
    target: str = option(
        "step",
        "What a context view predicts in training. The last two are control arms: another pair's target "
        "view, and a random vector of the same length.",
        choices="jepa.controls.TARGETS",
        jepa_only=True,
        idle_if=over_tokens,
    )
    predictors: int = option(1, "K, predictor tokens before a context view is read.")
    target_gradient: bool = option(
        True,
        "Let the JEPA gradient flow into the target view, as in the original.",
        jepa_only=True,
        idle_if=lambda options: (
            over_tokens(options) or options["target"] == "random" or options["target_model"] != "own"
        ),
    )
    temperature: float = option(0.07, "Temperature of InfoNCE.", jepa_only=True, idle_if=_without_infonce)
    own_negatives: bool = option(
        True,
        "Whether the other steps of a pair's own problem are negatives of InfoNCE.",
        jepa_only=True,
        idle_if=_without_infonce,
    )
    queue: int = option(
        0,
        "Targets of earlier optimizer steps that are further negatives of InfoNCE; for target_model ema or frozen.",
        jepa_only=True,
        idle_if=_without_infonce,
        least=0,
    )
    kl: float = option(
        0.0,
        "Weight, within the JEPA loss, of the divergence of what the language model's head makes of target and "
        "prediction.",
        jepa_only=True,
        idle_if=over_tokens,
        least=0,
    )
    future_tokens: int = option(
        3,
        "How many tokens after the next one jepa_loss_type=mtp predicts.",
        jepa_only=True,
        idle_if=lambda options: options["jepa_loss_type"] != "mtp",
        least=1,
    )
    regularisers: list[str] = option(
        [],
        "Terms of the JEPA loss that keep views from becoming alike: NAME or NAME=WEIGHT of variance, covariance, "
        "sigreg.",
        jepa_only=True,
        idle_if=over_tokens,
    )
    whole_step: bool = option(
        False,
        "Compare the view pairs of the whole optimizer step, on all processes, with each other, not those of a "
        "microbatch: matters for InfoNCE and regularisers, and costs a second forward pass where a step has several "
        "microbatches.",
        jepa_only=True,
    )
    lbd_schedule: str = option(
        "constant",
        "λ over time: constant, rising from 0 (warmup) or falling to 0 at the end (decay).",
        choices=LBD_SCHEDULES,
        jepa_only=True,
    )
    lbd_share: float = option(
        0.5,
        "Share of the optimizer steps over which λ rises or falls.",
        jepa_only=True,
        idle_if=lambda options: options["lbd_schedule"] == "constant",
    )
    jepa_ratio: float = option(
        1.0, "Share of optimizer steps with a JEPA term, drawn from (seed, global_step).", jepa_only=True
    )
    max_length: int | None = option(
        2048, "Longest example in tokens; longer ones are cut at a step boundary and counted."
    )
    packing_length: int | None = option(None, "Pack several examples into training rows of up to this many tokens.")
    collapse_threshold: float = option(
        0.01, "Warn when the mean cosine distance between different targets falls below this.", monitors=True
    )

    per_device_train_batch_size: int = option(4, "Examples in a microbatch of one device.", aliases=["--batch_size"])
    gradient_accumulation_steps: int = option(4, "Microbatches in an optimizer step.", aliases=["--grad_accum"])
    num_train_epochs: float = option(
        3.0,
        "Passes over the training data.",
        aliases=["--num_epochs"],
        idle_if=lambda options: options["max_steps"] > 0,
    )
    max_steps: int = option(-1, "Optimizer steps in all, in the place of num_train_epochs.")
    weight_decay: float = option(0.0, "Weight decay of the optimizer.")
    learning_rate: float | None = option(None, "Peak learning rate; 2e-5 for all weights, 2e-4 under LoRA by default.")
    warmup_steps: float = 0.03
    logging_steps: float = 10
    logging_first_step: bool = True
    logging_nan_inf_filter: bool = False
    remove_unused_columns: bool = False
    hub_strategy: str = "end"
    output_dir: str | None = option(None, "Where model, checkpoints and record go; without it the next runs/train-NNN.")
    resume_from_checkpoint: str | None = option(
        None, "true: go on from the newest complete checkpoint in --output_dir; or the path of one."
    )
    seed: int = option(42, "Of order, initialisation and dropout.")
