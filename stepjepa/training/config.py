"""`StepJEPAConfig`: what Step-JEPA adds to `transformers.TrainingArguments`, and what it cannot honour."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import Field, dataclass, field
from typing import Any

import torch
from transformers import HfArgumentParser, TrainingArguments

from stepjepa.jepa.controls import TARGETS
from stepjepa.jepa.losses import OBJECTIVES
from stepjepa.jepa.pairs import ISOLATIONS, PAIR_SETS, BranchLayout

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

    Besides help and aliases, a field's metadata says whether the option changes what is trained (`idle_options`):
    `jepa_only`, not where λ is 0; `idle_if`, not where this function of all options is true; `runner`, never: it says
    where things are written, what is logged and saved.

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
    jepa_loss_type: str = field(
        default="cosine", metadata={"help": f"JEPA loss: {', '.join(OBJECTIVES)}.", "jepa_only": True}
    )
    pairs: str = field(
        default="first", metadata={"help": f"Which view pairs: {', '.join(PAIR_SETS)}.", "jepa_only": True}
    )
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
        metadata={"help": f"What a target view sees besides itself: {', '.join(ISOLATIONS)}.", "jepa_only": True},
    )
    target: str = field(
        default="step",
        metadata={
            "help": f"What a context view predicts in training: {', '.join(TARGETS)}. The last two are control arms: "
            "another pair's target view, and a random vector of the same length.",
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
    learning_rate: float | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "Peak learning rate; 2e-5 for all weights, 2e-4 under LoRA by default."}
    )
    warmup_steps: float = 0.03
    logging_steps: float = 10
    logging_first_step: bool = True
    logging_nan_inf_filter: bool = False
    remove_unused_columns: bool = False

    @property
    def layout(self) -> BranchLayout:
        """The branches of this run."""
        return BranchLayout(self.pairs, self.horizon, self.predictors, self.isolation, self.max_length)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not torch.accelerator.is_available():
            self.dataloader_pin_memory = False  # there is nothing to pin for; torch would warn at every loader
        for name, value, choices in (
            ("jepa_loss_type", self.jepa_loss_type, tuple(OBJECTIVES)),
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


METADATA = ("jepa_only", "idle_if", "runner")
RUNNER = (
    "output_dir",
    "resume_from_checkpoint",
    "run_name",
    "project",
    "report_to",
    "disable_tqdm",
    "debug",
    "log_level",
    "log_level_replica",
    "log_on_each_node",
    "logging_strategy",
    "logging_steps",
    "logging_first_step",
    "logging_nan_inf_filter",
    "eval_strategy",
    "eval_steps",
    "eval_delay",
    "eval_on_start",
    "save_strategy",
    "save_steps",
    "save_total_limit",
    "save_only_model",
    "save_on_each_node",
    "load_best_model_at_end",
    "metric_for_best_model",
    "greater_is_better",
    "push_to_hub",
    "hub_token",
    "hub_private_repo",
    "hub_model_id",
    "hub_strategy",
    "hub_always_push",
    "hub_revision",
    "do_train",
    "do_eval",
    "do_predict",
    "local_rank",
    "seed",
)
"""Options that say where things are written, what is logged and saved; and the seed, which is a run's own."""

for _name in StepJEPAConfig.__dataclass_fields__.keys() & set(
    RUNNER
):  # fields are shared with the parent's class, so they are copied before they are marked
    _field = copy.copy(StepJEPAConfig.__dataclass_fields__[_name])
    _field.metadata = {**_field.metadata, "runner": True}  # type: ignore[assignment]
    StepJEPAConfig.__dataclass_fields__[_name] = _field


class OptionParser(HfArgumentParser):
    """`HfArgumentParser` for options whose metadata says more than `argparse` takes."""

    @staticmethod
    def _parse_dataclass_field(parser: Any, field: Field[Any]) -> None:
        field = copy.copy(field)
        field.metadata = {k: v for k, v in field.metadata.items() if k not in METADATA}  # type: ignore[assignment]
        HfArgumentParser._parse_dataclass_field(parser, field)


def idle_options(options: Mapping[str, Any], fields: Iterable[Field[Any]]) -> set[str]:
    """Names of the options that do not change what is trained, given the values of all.

    Args:
        options: a value for every option.
        fields: the options to judge, by their metadata.
    """
    return {
        field.name
        for field in fields
        if field.metadata.get("runner")
        or (field.metadata.get("jepa_only") and options["lbd"] == 0)
        or field.metadata.get("idle_if", lambda _: False)(options)
    }
