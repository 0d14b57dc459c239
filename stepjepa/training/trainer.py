"""`StepJEPATrainer`: a Hugging Face `Trainer` whose loss is γ · L_LM + λ · L_JEPA, read from one forward pass.

Both terms are normalised over the whole optimizer step and all processes: the language-modelling term by
labelled tokens, the JEPA term by view pairs. How examples are spread over microbatches, accumulation and
processes therefore does not change the gradient (InfoNCE and shuffled targets aside: they draw on the other pairs of
the microbatch).
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from transformers.utils import logging

from stepjepa.jepa.architectures import base_model, check_trainable, max_positions
from stepjepa.jepa.layout import IGNORE, StepJEPACollator, without_branches
from stepjepa.jepa.losses import wide
from stepjepa.jepa.objectives import Objective
from stepjepa.jepa.registry import OBJECTIVES
from stepjepa.jepa.rivals import TokenObjective
from stepjepa.jepa.views import next_labels
from stepjepa.records import UserError
from stepjepa.training.config import LEARNING_RATE_FULL, LEARNING_RATE_LORA, StepJEPAConfig
from stepjepa.training.dataset import TrainingRows
from stepjepa.training.divergence import divergence_message
from stepjepa.training.evaluating import EvaluatedWhole
from stepjepa.training.monitor import Monitor, collapse_message
from stepjepa.training.terms import at_least_one

logger = logging.get_logger(__name__)


class StepJEPATrainer(EvaluatedWhole):
    """`transformers.Trainer` with the Step-JEPA loss; everything not named here is the parent's.

    Args:
        model: a causal language model, bare or PEFT, from `stepjepa.load_model`.
        args: a `StepJEPAConfig`.
        train_dataset, eval_dataset: rows of `tokenize_example`, or chat examples (`messages` and `steps`), which
            are tokenized here; `eval_dataset` may be a dictionary of several. A `source` column of a dataset with a
            length gives the evaluation losses of each source as well.
        processing_class: the tokenizer from `stepjepa.load_model`.
        objective: what the JEPA term is made of; the one of `args.jepa_loss_type` by default. Its weights are trained,
            and saved in every checkpoint and beside the model as `objective.safetensors`.
        Others as in the parent, except `compute_loss_func` and `compute_metrics`, which are refused: the loss is
        this class's own and full logits are never made.

    Logged besides the parent's: `lm_loss`, `jepa_loss`, `retrieval` (is a context nearest to its own target in
    the microbatch?) and `retrieval_chance`, `target_spread` (mean cosine distance between targets; 0 is
    collapse), `without_pair` (share of examples without a view pair), `tokens_per_second`. With λ = 0 no branch
    is built in training and only `lm_loss` and speed are logged; evaluation measures both losses either way. Under a
    control target (`target="shuffled"` or `"random"`, see `controls`) `jepa_loss` is the loss that is trained, while
    retrieval, spread and everything in evaluation are about the true next step, so that arms compare.

    >>> model, tokenizer = load_model("builtin")  # doctest: +SKIP
    >>> args = StepJEPAConfig(output_dir="out")  # doctest: +SKIP
    >>> trainer = StepJEPATrainer(model, args, train_dataset=examples, processing_class=tokenizer)  # doctest: +SKIP
    >>> trainer.train()  # doctest: +SKIP

    Raises:
        UnsupportedArchitectureError: for models that cannot hold the single-pass invariants.
        ValueError: for what the loss cannot honour.
    """

    args: StepJEPAConfig

    def __init__(
        self,
        model: Any = None,
        args: StepJEPAConfig | None = None,
        data_collator: StepJEPACollator | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        objective: Objective | None = None,
        **kwargs: Any,
    ) -> None:
        for option in ("compute_loss_func", "compute_metrics"):
            if kwargs.pop(option, None) is not None:
                raise ValueError(f"StepJEPATrainer has its own loss and evaluation; {option} is not supported.")
        args = StepJEPAConfig(output_dir="tmp_trainer") if args is None else args
        if not isinstance(args, StepJEPAConfig):
            raise TypeError(f"args has to be a StepJEPAConfig, which is a {type(args).__name__} with further fields")
        if data_collator is not None and not isinstance(data_collator, StepJEPACollator):
            raise TypeError(
                f"data_collator has to be a StepJEPACollator or of a subclass, which lays the branches out, not "
                f"{getattr(data_collator, '__name__', type(data_collator).__name__)}"
            )
        if args.n_gpu > 1:
            raise ValueError(
                f"{args.n_gpu} GPUs in one process would run DataParallel, which cannot normalise the loss over "
                "devices. Start one process per GPU: torchrun --nproc_per_node "
                f"{args.n_gpu} …, or choose one with CUDA_VISIBLE_DEVICES=0."
            )
        if processing_class is None:
            raise ValueError("processing_class is missing: pass the tokenizer from stepjepa.load_model.")
        if model is not None:
            check_trainable(model)
            if args.learning_rate is None:
                args = copy.copy(args)  # the caller may use the same for another model
                args.learning_rate = LEARNING_RATE_LORA if hasattr(model, "peft_config") else LEARNING_RATE_FULL
        if args.learning_rate is None:
            raise ValueError("Give learning_rate in StepJEPAConfig when the trainer makes the model (model_init).")
        rows = TrainingRows(processing_class, args.layout, max_positions(model) if model else None)
        self._make_rows, self.token_reports, self.sources = rows, rows.reports, rows.sources
        train_dataset = rows(train_dataset, "train")
        if args.trained_layout.pairs != "none":
            rows.check_pairs("train")
        if isinstance(eval_dataset, Mapping):
            eval_dataset = {name: rows(dataset, name) for name, dataset in eval_dataset.items()}
        else:
            eval_dataset = rows(eval_dataset, "eval")

        if data_collator is None:
            own_objective = objective is not None and args.lbd > 0  # it compares views, whatever the loss is called
            trained = args.layout if own_objective else args.trained_layout
            data_collator = StepJEPACollator(processing_class, trained, packing_length=args.packing_length)
            evaluated = args.layout
        else:
            evaluated = data_collator.layout
        if args.target_model != "own":  # another model reads the steps: no copies in this one's pass
            evaluated = dataclasses.replace(evaluated, isolation="none")
            without = dataclasses.replace(data_collator.layout, isolation="none")
            data_collator = dataclasses.replace(data_collator, layout=without)
        self.eval_collator = dataclasses.replace(data_collator, layout=evaluated, packing_length=None)
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            compute_metrics=self._eval_metrics,
            **kwargs,
        )
        self.model_accepts_loss_kwargs = True  # this loss is divided by the counts of the optimizer step already
        self.monitor = Monitor(self.args.device)
        inner = base_model(self.model)
        if objective is None:
            objective = OBJECTIVES[args.jepa_loss_type](args, inner.config.get_text_config().hidden_size)
        self.objective = objective.to(self.args.device, wide(inner.dtype))
        self.objective.vocabulary = self.vocabulary
        if isinstance(self.objective, TokenObjective):
            self.objective.embedding = self.embedding
        self.set_up_targets()
        self._pairs_in_step = torch.zeros(())
        self._microbatches_in_step = 0
        self._microbatch = 0
        self._batches = []
        self._losses: list[Tensor] = []
        self._warned = set()
        self.add_callback(self.monitor)

    # ---- the loss ----------------------------------------------------------------------------------------

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list, Tensor | int | None]:
        """The microbatches of one optimizer step, and how many labelled tokens they hold on all processes."""
        if self.state.global_step >= self.state.max_steps:
            return [], None  # the parent would train one step too many when it resumes a finished run
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        weight = self._jepa_weight()
        if self.args.lbd > 0 and weight == 0:  # dropped in this step: do not compute what does not count
            batches = [without_branches(batch) if self.args.packing_length is None else batch for batch in batches]
        counts = torch.zeros(2, dtype=torch.long, device=device)
        exact = torch.float32 if device.type == "mps" else torch.float64  # which Apple's GPUs lack
        shares = torch.zeros((), dtype=exact, device=device)
        for batch in batches:
            counts[0] += (next_labels(batch["labels"]) != IGNORE).sum().to(device)
            counts[1] += (batch["context_index"] >= 0).any().to(device)
            shares += self.count(batch).to(shares)
        tokens, self._microbatches_in_step = self.accelerator.reduce(counts, reduction="sum").unbind()
        self._pairs_in_step = self.accelerator.reduce(shares, reduction="sum")
        self.monitor.start_step(jepa=weight > 0)
        self.objective.moment = self.state.global_step
        if self.objective.unsound is not None:
            self.warn_once(self.objective.unsound)
        self._batches, self._losses = batches, []
        self._microbatch = 0
        self._whole = None
        return batches, tokens

    def _jepa_weight(self) -> float:
        """λ in the current optimizer step."""
        return self.args.jepa_weight(self.state.global_step, self.state.max_steps)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """γ · (LM sum / tokens of the step) + λ · (sum of the objective's terms), times the number of processes.

        A term is its sum over pairs / pairs of the step, or its value / microbatches of the step. The factor undoes
        the mean that data parallelism takes over processes. Outside training (no `num_items_in_batch`) the microbatch
        is its own step.
        """
        training = num_items_in_batch is not None
        weight = self._jepa_weight() if training else self.args.lbd
        whole = training and weight > 0 and self.in_two_passes
        if whole and self._whole is None:
            self._whole = self.over_whole_step(model, weight)
        views = self.views(model, inputs)
        tokens = views.lm_tokens if num_items_in_batch is None else num_items_in_batch
        lm = views.token_losses.sum() / at_least_one(tokens)
        if whole and self._whole is not None:
            means = {name: mean / self.shares for name, mean in self._whole.means.items()}
            jepa = torch.stack(list(means.values())).sum()
            gradient = self._whole.of_microbatch(self._microbatch, views.context, views.target)
            term = weight * jepa + gradient - gradient.detach()
            self._microbatch += 1
        else:
            means = self.means(views, inputs, training, weight)
            jepa = torch.stack(list(means.values())).sum()
            term = weight * jepa
        loss = self.args.gamma * lm + term
        if training:
            self.monitor.add(lm=lm, jepa=jepa)
            if len(means) > 1:
                self.monitor.add_terms(means)
            has_pairs = weight > 0 and not isinstance(self.objective, TokenObjective)
            self.monitor.add_views(self.compared(views), inputs, jepa=has_pairs)
            self._losses.append(loss.detach())
            loss = loss * self.accelerator.num_processes
        return (loss, views) if return_outputs else loss

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """As the parent's; here, before the weights change, training stops at what is no number.

        Looked at once an optimizer step, so a GPU is not waited for at each microbatch.

        Raises:
            UserError: loss or gradients are not finite; the optimizer step, the examples, and what to try.
        """
        grad_norm = super()._get_grad_norm(model, grad_norm)
        losses = torch.stack(self._losses).tolist()
        # Loss scaling of float16 meets overflowing gradients: it skips the step and scales less.
        if not all(map(math.isfinite, losses)) or (self.accelerator.scaler is None and not math.isfinite(grad_norm)):
            raise UserError(divergence_message(self, self._batches, losses, float(grad_norm)))
        return grad_norm

    # ---- what is reported --------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As the parent's; training logs gain both losses and the collapse monitors."""
        if "loss" in logs and self.is_in_train:
            extra = self.monitor.read(self.accelerator.num_processes, self._sum_of_processes, self._term_names())
            logs.update({name: round(value, 6) for name, value in extra.items()})
            if message := collapse_message(extra, self.state.log_history, self.args.collapse_threshold):
                self.warn_once(message)
        super().log(logs, start_time)

    def progress(self) -> dict[str, Any]:
        """As the parent's, with the monitor's sums of the interval under way."""
        return super().progress() | {"monitor": self.monitor.progress(self._sum_of_processes, self._term_names())}

    def restore(self, progress: Mapping[str, Any]) -> None:
        """As the parent's."""
        super().restore(progress)
        self.monitor.restore(progress["monitor"], first=self.accelerator.is_main_process)

    def _term_names(self) -> list[str]:
        """Terms of the objective that were logged on any process: which those are depends on its pairs."""
        mine = list(self.monitor.terms)
        return mine if self.accelerator.num_processes == 1 else sorted(set(gather_object(mine)))

    def _sum_of_processes(self, sums: Tensor) -> Tensor:
        return self.accelerator.reduce(sums, reduction="sum")
