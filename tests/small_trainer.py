"""A trainer on a small model, and what one optimizer step of it changes."""

import torch
from small_models import CONFIGS, Tokens, small_model, small_rows
from transformers import AutoModelForCausalLM

from stepjepa.training.config import StepJEPAConfig
from stepjepa.training.trainer import StepJEPATrainer

NAMES = ("activation_checkpointing", "gradient_checkpointing")  # since transformers 5.23, and before
CHECKPOINTING = next(name for name in NAMES if name in StepJEPAConfig.__dataclass_fields__)


def make_trainer(tmp_path, model=None, rows=None, eval_rows=None, trainer_options=None, **options):
    options = {
        "output_dir": str(tmp_path),
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 1,
        "max_steps": 1,
        "learning_rate": 0.1,
        "optim": "sgd",
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "max_grad_norm": 0,
        "save_strategy": "no",
        "disable_tqdm": True,
        "logging_steps": 1,
        "use_cpu": True,
        "seed": 3,
        **options,
    }
    return StepJEPATrainer(
        model=small_model("llama") if model is None else model,
        args=StepJEPAConfig(**options),
        train_dataset=small_rows(8) if rows is None else rows,
        eval_dataset=eval_rows,
        processing_class=Tokens(),
        **(trainer_options or {}),
    )


def saving_trainer(folder, **options):
    """With a checkpoint every three steps, to be resumed from: dropout, moments, and microbatches of two."""
    config = CONFIGS["llama"]()
    config.attention_dropout = 0.2
    torch.manual_seed(0)
    settings = {
        "model": AutoModelForCausalLM.from_config(config),
        "rows": small_rows(14),
        "max_steps": 6,
        "optim": "adamw_torch",
        "learning_rate": 1e-2,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "save_strategy": "steps",
        "save_steps": 3,
    }
    return make_trainer(folder, **{**settings, **options})


def flat_weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()]).double()


def step_of(tmp_path, **options):
    """The change of all weights in one optimizer step of plain gradient descent."""
    trainer = make_trainer(tmp_path, **options)
    before = flat_weights(trainer.model)
    trainer.train()
    return flat_weights(trainer.model) - before, trainer


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
