"""A small training run that can be told to die: `python resume_worker.py OUTPUT_DIR [never|training|saving]`."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import torch
from small_models import CONFIGS, Tokens, small_rows
from transformers import AutoModelForCausalLM, TrainerCallback

from stepjepa.training.config import StepJEPAConfig
from stepjepa.training.trainer import StepJEPATrainer


class Suicide(TrainerCallback):
    """Kills the process after the seventh optimizer step."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 7:
            os.kill(os.getpid(), signal.SIGKILL)


def make(
    output_dir: str, death: str = "never", rows: Any = None, architecture: str = "llama", **options: Any
) -> StepJEPATrainer:
    """Ten optimizer steps with dropout and JEPA dropout, saved every third; `options` over its own."""
    config = CONFIGS[architecture]()
    config.attention_dropout = 0.2
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    args = StepJEPAConfig(
        **{
            "output_dir": output_dir,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 2,
            "max_steps": 10,
            "learning_rate": 1e-2,
            "save_steps": 3,
            "save_total_limit": 2,
            "logging_steps": 1,
            "disable_tqdm": True,
            "use_cpu": True,
            "pairs": "consecutive",
            "jepa_ratio": 0.7,
            "seed": 5,
            "eval_strategy": "steps",
            "eval_steps": 3,
            "load_best_model_at_end": False,
            "metric_for_best_model": "eval_loss",
            **options,
        }
    )
    trainer = StepJEPATrainer(
        model,
        args,
        train_dataset=small_rows(14) if rows is None else rows,
        eval_dataset=small_rows(3, seed=9),
        processing_class=Tokens(),
        callbacks=[Suicide()] if death == "training" else None,
    )
    if death == "saving":
        save = trainer._save_optimizer_and_scheduler

        def die_at_the_second_checkpoint(folder: str) -> None:
            save(folder)
            if trainer.state.global_step == 6:
                with open(os.path.join(folder, "optimizer.pt"), "r+b") as file:
                    file.truncate(1000)
                os.kill(os.getpid(), signal.SIGKILL)

        trainer._save_optimizer_and_scheduler = die_at_the_second_checkpoint  # type: ignore[method-assign]
    return trainer


if __name__ == "__main__":
    torch.set_num_threads(1)
    make(sys.argv[1], sys.argv[2]).train()
