"""`StepJEPAConfig`: what Step-JEPA adds to `transformers.TrainingArguments`, and what it cannot honour."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Iterable, Mapping
from dataclasses import Field, dataclass, fields, replace
from typing import Any

import torch
from transformers import TrainingArguments

from stepjepa.jepa.controls import TARGETS
from stepjepa.jepa.heads import HEADS, SCALES
from stepjepa.jepa.losses import LOSSES
from stepjepa.jepa.pairs import ISOLATIONS, PAIR_SETS, POOLINGS, BranchLayout
from stepjepa.jepa.registry import OBJECTIVES
from stepjepa.jepa.regularisers import weights_of
from stepjepa.jepa.targets import TARGET_MODELS
from stepjepa.training.options import LBD_SCHEDULES, JEPAOptions, RunOptions

LEARNING_RATE_FULL = 2e-5
LEARNING_RATE_LORA = 2e-4


@dataclass
class StepJEPAConfig(JEPAOptions, TrainingArguments):  # type: ignore[misc]  # the learning rate may be None
    """Training arguments of Step-JEPA: L = γ · L_LM + λ · L_JEPA. Only what differs from the parent is listed.

    Parent defaults that differ: `per_device_train_batch_size` 4, `gradient_accumulation_steps` 4,
    `learning_rate` 2e-5 for all weights and 2e-4 under LoRA (filled in by the trainer while it is None),
    `warmup_steps` 0.03 (a share of all steps), `logging_steps` 10, `logging_first_step` True,
    `logging_nan_inf_filter` False (a diverging run should show it), `remove_unused_columns` False (the collator
    needs the step indices), `hub_strategy` "end".

    Besides help and aliases, a field's metadata says whether the option changes what is trained (`idle_options`):
    `jepa_only`, not where λ is 0; `idle_if`, not where this function of all options is true; `runner`, never: it says
    where things are written, what is logged and saved. `measures` and `monitors` say that only what is measured or
    warned of changes.

    Raises:
        ValueError: for values out of range, and for parent options that the loss cannot honour: label smoothing,
            half-precision evaluation, fused-loss (Liger) kernels, context, sequence and tensor parallelism, per-device
            token averaging, `torch_compile`.
    """

    @property
    def trained_layout(self) -> BranchLayout:
        """That of training rows: no branches where no term compares views, no copies where another model reads."""
        branches = self.lbd > 0 and self.jepa_loss_type in LOSSES
        kept = self.layout if branches else replace(self.layout, pairs="none")
        return kept if self.target_model == "own" else replace(kept, isolation="none")

    @property
    def layout(self) -> BranchLayout:
        """The branches of this run."""
        return BranchLayout(**{part.name: getattr(self, part.name) for part in fields(BranchLayout)})

    def jepa_weight(self, step: int, steps: int) -> float:
        """λ in optimizer step `step`, from 0, of `steps`: on its schedule, and 0 where the JEPA term is dropped.

        "warmup" rises in a straight line over the first `lbd_share` of the steps, "decay" falls so over the last ones,
        to what would be 0 one step after the end. Dropping is a draw from (seed, step) only.
        """
        lbd = self.lbd
        if self.lbd_schedule != "constant":
            done = step + 1 if self.lbd_schedule == "warmup" else steps - step
            lbd *= min(1.0, done / max(1.0, self.lbd_share * steps))
        kept = self.jepa_ratio >= 1 or random.Random(f"jepa-{self.seed}-{step}").random() < self.jepa_ratio
        return lbd if kept else 0.0

    def __post_init__(self) -> None:
        for part in fields(self):
            value = getattr(self, part.name, None)
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{part.name}={value} must be a finite number.")
        for name in ("bf16_full_eval", "fp16_full_eval"):
            if getattr(self, name):
                raise ValueError(
                    f"Step-JEPA cannot honour {name}: the parent would cast the weights in training too. With bf16, "
                    "evaluation computes in bfloat16 as it is."
                )
        if self.bf16 and not torch.accelerator.is_available():
            self.use_cpu = True  # which has bfloat16; the parent would ask to be told so
        super().__post_init__()
        if not torch.accelerator.is_available():
            self.dataloader_pin_memory = False  # there is nothing to pin for; torch would warn at every loader
        for name, value, choices in (
            ("jepa_loss_type", self.jepa_loss_type, tuple(OBJECTIVES)),
            ("pairs", self.pairs, PAIR_SETS),
            ("isolation", self.isolation, ISOLATIONS),
            ("target", self.target, TARGETS),
            ("pooling", self.pooling, POOLINGS),
            ("target_scale", self.target_scale, SCALES),
            ("head", self.head, tuple(HEADS)),
            ("target_model", self.target_model, TARGET_MODELS),
            ("lbd_schedule", self.lbd_schedule, LBD_SCHEDULES),
        ):
            if value not in choices:
                raise ValueError(f"{name}={value!r} is unknown; choose one of {', '.join(choices)}.")
        levels = {"horizons": self.horizon, "hierarchy": 3}.get(self.pairs, 1)  # of `ViewPair`
        for name, good, rule in (
            ("per_device_train_batch_size", self.per_device_train_batch_size >= 1, "≥ 1"),
            ("per_device_eval_batch_size", self.per_device_eval_batch_size >= 1, "≥ 1"),
            ("gradient_accumulation_steps", self.gradient_accumulation_steps >= 1, "≥ 1"),
            ("lbd", self.lbd >= 0, "≥ 0"),
            ("gamma", self.gamma >= 0, "≥ 0"),
            ("pairs", self.pairs != "none" or self.lbd == 0, "a set of pairs, unless lbd is 0"),
            ("max_length", self.max_length is None or self.max_length >= 1, "≥ 1, or None for no limit"),
            ("packing_length", self.packing_length is None or self.packing_length >= 1, "≥ 1, or None"),
            ("max_steps", self.max_steps == -1 or self.max_steps >= 1, "≥ 1, or -1 for num_train_epochs"),
            ("num_train_epochs", self.max_steps > 0 or self.num_train_epochs > 0, "> 0"),
            ("learning_rate", (self.learning_rate or 0) >= 0, "≥ 0"),
            ("weight_decay", self.weight_decay >= 0, "≥ 0"),
            ("adam_beta1", 0 <= self.adam_beta1 < 1, "in [0, 1)"),
            ("adam_beta2", 0 <= self.adam_beta2 < 1, "in [0, 1)"),
            ("adam_epsilon", self.adam_epsilon >= 0, "≥ 0"),
            ("dataloader_num_workers", self.dataloader_num_workers >= 0, "≥ 0"),
            ("seed", 0 <= self.seed < 2**32, "in [0, 2**32)"),
            ("data_seed", self.data_seed is None or 0 <= self.data_seed < 2**32, "in [0, 2**32)"),
            ("horizon", self.horizon >= 1, "≥ 1"),
            ("predictors", self.predictors >= 1, "≥ 1"),
            (
                "predictors",
                self.pairs != "horizons" or self.predictors == 1 or self.predictors >= self.horizon,
                "1, or at least the horizon",
            ),
            ("temperature", self.temperature > 0, "> 0"),
            ("target_top", self.target_top >= 1, "≥ 1"),
            ("queue", self.queue >= 0, "≥ 0"),
            (
                "pair_weights",
                not self.pair_weights or (len(self.pair_weights) == levels and min(self.pair_weights) >= 0),
                f"a weight ≥ 0 for each of {levels} kinds of pairs, or empty",
            ),
            ("pair_weights", not self.pair_weights or sum(self.pair_weights) > 0, "more than 0 in sum"),
            ("ema_decay", 0 <= self.ema_decay < 1, "in [0, 1)"),
            ("lbd_share", 0 < self.lbd_share <= 1, "in (0, 1]"),
            ("future_tokens", self.future_tokens >= 1, "≥ 1"),
            *(
                (
                    name,
                    not asked or self.jepa_loss_type in LOSSES,
                    f"{default}: {self.jepa_loss_type} compares no pairs",
                )
                for name, asked, default in (
                    ("whole_step", self.whole_step, "false"),
                    ("target", self.target != "step", "step"),
                    ("target_model", self.target_model != "own", "own"),
                    ("head", self.head != "none", "none"),
                    ("kl", self.kl, "0"),
                    ("regularisers", self.regularisers, "empty"),
                )
            ),
            ("fp16", not (self.fp16 and self.whole_step), "false with whole_step: its gradients are not scaled"),
            ("kl", self.kl >= 0, "≥ 0"),
            (
                "kl",
                not self.kl or self.target_scale == "none",
                "0 with target_scale: the head reads states as they are",
            ),
            (
                "kl",
                not self.kl or (self.target_layer == -1 and self.target_top == 1),
                "0 with target_layer and target_top: the head reads states of the last layer",
            ),
            ("jepa_ratio", 0 < self.jepa_ratio <= 1, "in (0, 1]; for none at all set lbd=0"),
        ):
            if not good:
                raise ValueError(f"{name}={getattr(self, name)} must be {rule}.")
        weights_of(self.regularisers)
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
            (
                self.push_to_hub and self.hub_strategy != "end",
                "hub_strategy",
                "checkpoints stay here, and the finished folder is pushed; leave it out",
            ),
        ):
            if bad:
                raise ValueError(f"Step-JEPA cannot honour {option}: {reason}.")


RUNNER = """
    output_dir resume_from_checkpoint run_name project report_to disable_tqdm debug log_level log_level_replica
    log_on_each_node logging_strategy logging_steps logging_first_step logging_nan_inf_filter eval_strategy
    eval_steps eval_delay eval_on_start save_strategy save_steps save_total_limit save_only_model save_on_each_node
    load_best_model_at_end metric_for_best_model greater_is_better push_to_hub hub_token hub_private_repo
    hub_model_id hub_strategy hub_always_push hub_revision do_train do_eval do_predict local_rank seed
""".split()
"""Options that say where things are written, what is logged and saved; and the seed, which is a run's own."""

CHOOSES = """
    seed load_best_model_at_end metric_for_best_model greater_is_better eval_strategy eval_steps eval_delay
    eval_on_start
""".split()
"""Those of them that change what comes out all the same: the seed; which checkpoint is the result; and when it is
evaluated, which draws from the random numbers of dropout."""

MAY_CHANGE = frozenset(RUNNER) - set(CHOOSES) | set(
    """
    use_cpu dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor
    torch_empty_cache_steps skip_memory_metrics ddp_timeout include_num_input_tokens_seen collapse_threshold
    per_device_eval_batch_size eval_accumulation_steps eval_use_gather_object
    """.split()
)
"""Options that may differ where a run is resumed: they change no weight. (So may the length of a run whose learning
rate is constant, see `identity.py`.)"""

for _name in StepJEPAConfig.__dataclass_fields__.keys() & set(RUNNER):
    # The fields are the parent class's own: a copy is marked.
    _field = copy.copy(StepJEPAConfig.__dataclass_fields__[_name])
    _field.metadata = {**_field.metadata, "runner": True}  # type: ignore[assignment]
    StepJEPAConfig.__dataclass_fields__[_name] = _field


def settings(options: RunOptions, args: StepJEPAConfig) -> dict[str, Any]:
    """What tells arms and seeds apart: every option of ours that changes what is trained, and the seed."""
    return {
        part.name: getattr(source, part.name)
        for source, described in ((options, RunOptions), (args, JEPAOptions))
        for part in fields(described)
        if part.name == "seed" or not (part.name in RUNNER or {"runner", "measures", "monitors"} & part.metadata.keys())
    }


def plain_arguments(args: StepJEPAConfig) -> dict[str, Any]:
    """The training configuration as JSON values, without secrets."""
    return {name: value for name, value in args.to_dict().items() if "token" not in name or name.endswith("tokens")}


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
        or field.metadata.get("monitors")
        or (field.metadata.get("jepa_only") and options["lbd"] == 0)
        or field.metadata.get("idle_if", lambda _: False)(options)
    }
