"""One optimizer step in several settings, under torchrun or alone; process 0 writes what came out.

Arguments: FILE to write. The global batch is always eight examples in the same order.
"""

from __future__ import annotations

import sys
import tempfile

import torch
from accelerate.utils import broadcast_object_list
from peft import LoraConfig, get_peft_model
from resume_worker import make
from small_models import Tokens, small_model, small_rows
from small_objective import Distance
from small_trainer import CHECKPOINTING

from stepjepa.training.config import StepJEPAConfig
from stepjepa.training.trainer import StepJEPATrainer

SETTINGS = {
    "full": {},
    "lora": {"lora": True},
    "checkpointing": {CHECKPOINTING: True},
    # steps alternate so that in the order of two processes one of them has no pair at all
    "no_pairs_on_one": {"steps": (3, 1)},
    "objective_with_weights": {"steps": (3, 1), "weights": True},
    "frozen": {"target_model": "frozen", "target_scale": "zscore", "head": "linear"},
    "ema": {"target_model": "ema", "lora": True, "pooling": "mean"},
    "whole_step": {
        "steps": (3, 1),
        "jepa_loss_type": "infonce",
        "whole_step": True,
        "queue": 8,
        "regularisers": ["variance=1"],
    },
    # no view pair anywhere
    "whole_step_without_pairs": {
        "steps": (1,),
        "jepa_loss_type": "infonce",
        "whole_step": True,
        "queue": 8,
        "target_model": "ema",
    },
}
OWN_DRAWS = {"control": {"target": "shuffled", "kl": 1.0, "steps": (2, 2, 2, 3)}}
"""Settings that each process draws for by itself; here a microbatch often has a single pair, and then no other term."""


STRATEGIES = ("random", "group_by_length")


class InOrder(StepJEPATrainer):
    """Examples in the order given, so that any number of processes sees the same eight."""

    def _get_train_sampler(self, train_dataset: object = None) -> torch.utils.data.Sampler:
        return torch.utils.data.SequentialSampler(self.train_dataset)


def run(
    lora: bool = False, weights: bool = False, steps: tuple[int, ...] = (3, 4, 1, 2), **options: object
) -> dict[str, object]:
    """Gradient step of all weights, logged losses, and evaluation of seven examples."""
    model = small_model("llama")
    if lora:
        torch.manual_seed(1)
        config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", trainable_token_indices=[150])
        model = get_peft_model(model, config)
    world = int(torch.distributed.get_world_size()) if torch.distributed.is_initialized() else 1
    args = StepJEPAConfig(
        output_dir=broadcast_object_list([tempfile.mkdtemp()])[0],
        per_device_train_batch_size=1,
        gradient_accumulation_steps=8 // world,
        per_device_eval_batch_size=2,
        max_steps=2,
        learning_rate=0.1,
        optim="sgd",
        lr_scheduler_type="constant",
        warmup_steps=0,
        max_grad_norm=0,
        save_strategy="no",
        disable_tqdm=True,
        logging_steps=1,
        use_cpu=True,
        lbd=0.7,
        pairs="consecutive",
        **options,
    )
    trainer = InOrder(
        model,
        args,
        train_dataset=small_rows(16, steps=steps),
        eval_dataset=small_rows(7, seed=9),
        processing_class=Tokens(),
        objective=Distance() if weights else None,
    )
    trainer.train()
    trained = [*trainer.model.parameters(), *trainer.objective.parameters()]
    logs = [entry for entry in trainer.state.log_history if "lm_loss" in entry]
    return {
        "weights": torch.cat([p.detach().double().flatten() for p in trained if p.requires_grad]),
        "logs": [[entry[name] for name in ("loss", "lm_loss", "jepa_loss", "without_pair")] for entry in logs],
        "eval": {k: v for k, v in trainer.evaluate().items() if k.endswith(("loss", "without_pair"))},
    }


def resumed(strategy: str) -> bool:
    """Whether a run that goes on in the middle of its second epoch ends with the weights of one that never stopped."""
    folder = broadcast_object_list([tempfile.mkdtemp()])[0]
    options = {"train_sampling_strategy": strategy, "eval_strategy": "no", "save_total_limit": None, "max_steps": 6}
    whole, again = (make(f"{folder}/{name}", **options) for name in ("whole", "again"))
    whole.train()
    again.train(resume_from_checkpoint=f"{folder}/whole/checkpoint-3")
    pairs = zip(whole.model.parameters(), again.model.parameters(), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


if __name__ == "__main__":
    torch.set_num_threads(1)
    StepJEPAConfig(output_dir=tempfile.mkdtemp(), use_cpu=True).device  # noqa: B018  (starts the process group)
    results = {name: run(**setting) for name, setting in (SETTINGS | OWN_DRAWS).items()}  # type: ignore[arg-type]
    results["resumed"] = {strategy: resumed(strategy) for strategy in STRATEGIES}
    if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
        torch.save(results, sys.argv[1])
    if torch.distributed.is_initialized():  # left open, its threads may abort the process on the way out
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
