"""`StepJEPAConfig`: what Step-JEPA adds to `transformers.TrainingArguments`, and what it cannot honour."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments

from stepjepa.jepa.controls import TARGETS
from stepjepa.jepa.layout import ISOLATIONS
from stepjepa.jepa.losses import LOSSES
from stepjepa.jepa.pairs import PAIR_SETS

LEARNING_RATE_FULL = 2e-5
LEARNING_RATE_LORA = 2e-4


@dataclass
class StepJEPAConfig(TrainingArguments):
    """Training arguments of Step-JEPA: L = γ · L_LM + λ · L_JEPA. Only what differs from the parent is listed.

    Parent defaults that differ: `per_device_train_batch_size` 4, `gradient_accumulation_steps` 4,
    `learning_rate` 2e-5 for all weights and 2e-4 under LoRA (filled in by the trainer while it is None),
    `warmup_steps` 0.03 (a share of all steps), `logging_steps` 10, `logging_first_step` True,
    `logging_nan_inf_filter` False (a diverging run should show it), `remove_unused_columns` False (the collator
    needs the step indices).

    Raises:
        ValueError: for values out of range, and for parent options that the loss cannot honour: label
            smoothing, fused-loss (Liger) kernels, context, sequence and tensor parallelism, per-device token
            averaging, `torch_compile`.
    """

    lbd: float = field(
        default=0.1,
        metadata={"help": "λ, the weight of the JEPA loss. 0 is plain fine-tuning.", "aliases": ["--lambda"]},
    )
    gamma: float = field(default=1.0, metadata={"help": "γ, the weight of the language-modelling loss."})
    jepa_loss_type: str = field(default="cosine", metadata={"help": f"JEPA loss: {', '.join(LOSSES)}."})
    pairs: str = field(default="first", metadata={"help": f"Which view pairs: {', '.join(PAIR_SETS)}."})
    horizon: int = field(default=1, metadata={"help": "Steps ahead, for pairs=horizon."})
    isolation: str = field(
        default="step", metadata={"help": f"What a target view sees besides itself: {', '.join(ISOLATIONS)}."}
    )
    target: str = field(
        default="step",
        metadata={
            "help": f"What a context view predicts in training: {', '.join(TARGETS)}. The last two are control arms: "
            "another pair's target view, and a random vector of the same length."
        },
    )
    predictors: int = field(default=1, metadata={"help": "K, predictor tokens before a context view is read."})
    target_gradient: bool = field(
        default=True, metadata={"help": "Let the JEPA gradient flow into the target view, as in the original."}
    )
    temperature: float = field(default=0.07, metadata={"help": "Temperature of InfoNCE."})
    jepa_ratio: float = field(
        default=1.0, metadata={"help": "Share of optimizer steps with a JEPA term, drawn from (seed, global_step)."}
    )
    jepa_ratio_rescale: bool = field(
        default=False, metadata={"help": "Divide λ by jepa_ratio, so that its mean over steps stays λ."}
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
        metadata={"help": "Warn when the mean cosine distance between different targets falls below this."},
    )

    per_device_train_batch_size: int = field(
        default=4, metadata={"help": "Examples in a microbatch of one device.", "aliases": ["--batch_size"]}
    )
    gradient_accumulation_steps: int = field(
        default=4, metadata={"help": "Microbatches in an optimizer step.", "aliases": ["--grad_accum"]}
    )
    num_train_epochs: float = field(
        default=3.0, metadata={"help": "Passes over the training data.", "aliases": ["--num_epochs"]}
    )
    learning_rate: float | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "Peak learning rate; 2e-5 for all weights, 2e-4 under LoRA by default."}
    )
    warmup_steps: float = 0.03
    logging_steps: float = 10
    logging_first_step: bool = True
    logging_nan_inf_filter: bool = False
    remove_unused_columns: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not torch.accelerator.is_available():
            self.dataloader_pin_memory = False  # there is nothing to pin for; torch would warn at every loader
        for name, value, choices in (
            ("jepa_loss_type", self.jepa_loss_type, tuple(LOSSES)),
            ("pairs", self.pairs, PAIR_SETS),
            ("isolation", self.isolation, ISOLATIONS),
            ("target", self.target, TARGETS),
        ):
            if value not in choices:
                raise ValueError(f"{name}={value!r} is unknown; choose one of {', '.join(choices)}.")
        for name, good, rule in (
            ("per_device_train_batch_size", self.per_device_train_batch_size >= 1, "≥ 1"),
            ("per_device_eval_batch_size", self.per_device_eval_batch_size >= 1, "≥ 1"),
            ("gradient_accumulation_steps", self.gradient_accumulation_steps >= 1, "≥ 1"),
            ("lbd", 0 <= self.lbd < math.inf, "≥ 0 and finite"),
            ("gamma", 0 <= self.gamma < math.inf, "≥ 0 and finite"),
            ("pairs", self.pairs != "none" or self.lbd == 0, "a set of pairs, unless lbd is 0"),
            ("max_length", self.max_length is None or self.max_length >= 1, "≥ 1, or None for no limit"),
            ("packing_length", self.packing_length is None or self.packing_length >= 1, "≥ 1, or None"),
            ("horizon", self.horizon >= 1, "≥ 1"),
            ("predictors", self.predictors >= 1, "≥ 1"),
            ("temperature", self.temperature > 0, "> 0"),
            ("jepa_ratio", 0 < self.jepa_ratio <= 1, "in (0, 1]; for none at all set lbd=0"),
        ):
            if not good:
                raise ValueError(f"{name}={getattr(self, name)} must be {rule}.")
        for bad, option, reason in (
            (self.label_smoothing_factor, "label_smoothing_factor", "the loss is plain cross-entropy"),
            (self.use_liger_kernel, "use_liger_kernel", "fused kernels compute the loss before views are read"),
            (self.torch_compile, "torch_compile", "views are read by a hook that a compiled graph may skip"),
            (self.parallelism_config, "parallelism_config", "splitting a sequence over devices tears its mask"),
            (
                not self.average_tokens_across_devices,
                "average_tokens_across_devices=False",
                "both loss terms are normalised over the whole optimizer step on all processes",
            ),
            (not self.eval_do_concat_batches, "eval_do_concat_batches=False", "evaluation sums over all examples"),
            (self.batch_eval_metrics, "batch_eval_metrics", "evaluation sums over all examples"),
            (self.remove_unused_columns, "remove_unused_columns", "the collator needs the step indices"),
        ):
            if bad:
                raise ValueError(f"Step-JEPA cannot honour {option}: {reason}.")
