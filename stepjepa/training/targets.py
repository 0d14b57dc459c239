"""A trainer that knows what its contexts predict: whose target views, from which layers, how scaled.

Other targets than the model's own have no gradient. A running mean of the trained weights is kept with the objective's
state, and saved with it. Of the model before training a copy of the trained weights is in main memory, which under LoRA
are few; its targets of the training data are computed once, before training, and kept in a file of the output folder,
so that training costs next to nothing more.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from stepjepa.jepa.architectures import base_model, evaluating
from stepjepa.jepa.controls import pair_keys
from stepjepa.jepa.layout import IGNORE
from stepjepa.jepa.losses import at_least_float32
from stepjepa.jepa.targets import isolation_of, tokens_read
from stepjepa.jepa.views import Views, encode_targets, encode_views
from stepjepa.records import UserError, read_json, write_json
from stepjepa.training.checkpoints import by_first_process
from stepjepa.training.config import StepJEPAConfig
from stepjepa.training.objective import TrainedObjective

MEASURED = 1024
"""Training examples whose targets give the mean and deviation of each dimension; of frozen ones all do."""
ROWS = 32
FROZEN_FILE = "frozen_targets.npy"
"""In the output folder: the frozen model's target views of the training data."""
ORIGIN = ("_name_or_path", "base_model_name_or_path", "revision", "auto_map", "transformers_version", "peft_version")
"""Of a configuration: what no target follows from."""


class TrainedTargets(TrainedObjective):
    """`TrainedObjective` with the views that its options ask for."""

    args: StepJEPAConfig
    eval_collator: Any
    _frozen: Sequence[Tensor] = ()
    _known: dict[bytes, int] | None = None
    _cache: Any = None
    _measured = False

    def set_up_targets(self) -> None:
        """Take what the model is before training: the frozen weights, or the first running mean.

        Raises:
            ValueError: layers that the model does not have; a model whose weights are spread over processes.
        """
        args, model = self.args, self.model
        depth = base_model(model).config.get_text_config().num_hidden_layers + 1
        highest = args.target_layer + (depth if args.target_layer < 0 else 0)
        if not args.target_top - 1 <= highest < depth:
            raise ValueError(
                f"target_layer={args.target_layer} with target_top={args.target_top}: the model has the layers 0 "
                f"(embedding output) to {depth - 1}."
            )
        if args.target_model == "own":
            return
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise ValueError(f"target_model={args.target_model} needs whole weights in each process, so not FSDP.")
        weights = self.trained_weights()
        if args.target_model == "ema":
            mean = RunningMean(weights, args.ema_decay)
            self.objective.add_module("target_weights", mean.to(args.device))
            self.add_callback(MoveMean(mean, weights))
        else:  # also under LoRA: an adapter that was trained before is part of the model before this training
            self._frozen = [weight.detach().to("cpu", copy=True) for weight in weights]

    def trained_weights(self) -> list[nn.Parameter]:
        """The weights that the optimizer changes, without those of the objective."""
        model: Any = self.model
        return [weight for weight in model.parameters() if weight.requires_grad]

    # ---- views ----

    def views(self, model: Any, inputs: dict[str, Tensor], **options: Any) -> Views:
        """`encode_views` with the targets of this run."""
        args = self.args
        other = None if args.target_model == "own" else self.other_targets(inputs)
        views = encode_views(model, inputs, target_layer=args.target_layer, target_top=args.target_top, **options)
        return views if other is None else dataclasses.replace(views, target=other)

    def other_targets(self, inputs: dict[str, Tensor]) -> Tensor:
        """Target views `[P, D]` of the running mean or of the frozen model, without dropout and gradient."""
        args = self.args
        isolation = isolation_of(inputs) or args.isolation
        if self._known is not None and isolation == args.isolation:
            rows = [self._known.get(key) for key in _digests(inputs)]
            if None not in rows:
                return torch.from_numpy(self._cache[np.array(rows, dtype=np.int64)]).to(args.device)
        model: Any = self.model
        with evaluating(model), self.other_model():
            return encode_targets(
                model,
                inputs,
                predictors=args.predictors,
                isolation=isolation,
                target_layer=args.target_layer,
                target_top=args.target_top,
            )

    @contextmanager
    def other_model(self) -> Iterator[None]:
        """Inside, `self.model` has the weights that targets come from."""
        mean = getattr(self.objective, "target_weights", None)
        with exchanged(self.trained_weights(), self._frozen if mean is None else list(mean.buffers())):
            yield

    def compared(self, views: Views) -> Views:
        """Views as the objective compares them: what its head predicts, and the targets as it scales them."""
        with torch.no_grad(), torch.autocast(self.args.device.type, enabled=False):
            context, target = self.objective.predict(views.context), self.objective.scaled(views.target)
        return dataclasses.replace(views, context=context, target=target)

    def compared_views(self, model: nn.Module, inputs: dict[str, Tensor], **options: Any) -> Views:
        """`views` as the objective compares them; what a model that was trained so is measured by."""
        self.measure_targets()
        self.objective.eval()
        return self.compared(self.views(model, inputs, **options))

    def vocabulary(self, states: Tensor) -> Tensor:
        """The language model's head, without a gradient for its weights, `[P, D] → [P, V]`.

        It is called and not read, as an adapter may wrap it: trained rows of an embedding that it is tied to count.
        Soft-capping and scaling of logits, which some architectures add, are left out.
        """
        head = base_model(self.model).get_output_embeddings()
        weights = {name: weight.detach().to(states) for name, weight in head.named_parameters()}
        return torch.func.functional_call(head, weights, (states,))

    def embedding(self, ids: Tensor) -> Tensor:
        """Input embeddings of token ids, without a gradient, `[N] → [N, D]`."""
        return base_model(self.model).get_input_embeddings()(ids).detach()

    # ---- before training ----

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As the parent's, after `measure_targets`."""
        self.measure_targets()
        return super().train(resume_from_checkpoint, *args, **kwargs)

    @torch.no_grad()
    def measure_targets(self) -> None:
        """Once, before anything is trained or evaluated: the frozen targets of the training data, and mean and
        deviation of the training data's targets for z-scores, by the model as it is.

        Raises:
            UserError: there are no training data to measure, or fewer than two view pairs in them.
        """
        scale: Any = getattr(self.objective, "scale", None)
        zscore = scale is not None and scale.kind == "zscore"
        frozen = self.args.target_model == "frozen" and self.args.lbd > 0 and hasattr(self.train_dataset, "__len__")
        if self._measured or not (zscore or frozen):
            return
        self._measured = True
        if zscore and not hasattr(self.train_dataset, "__len__"):
            raise UserError("target_scale=zscore needs training data with a length: its targets are measured first.")
        if frozen:
            self._compute_frozen()
        if zscore:
            targets = torch.from_numpy(np.array(self._cache)) if frozen else self._measure_first()
            if len(targets) < 2:
                raise UserError("target_scale=zscore: the training data have fewer than two view pairs to measure.")
            scale.measure(targets)

    def _measure_first(self) -> Tensor:
        """Targets of the first training examples; every process does the same."""
        found = []
        for batch in self._batches_of(range(min(len(self.train_dataset), MEASURED))):  # type: ignore[arg-type]
            with evaluating(self.model):
                found.append(self.views(self.model, batch).target)
        return torch.cat(found)

    def _batches_of(self, numbers: Sequence[int]) -> Iterator[dict[str, Tensor]]:
        rows: Any = self.train_dataset
        for start in range(0, len(numbers), ROWS):
            chosen = [rows[i] for i in numbers[start : start + ROWS]]
            batch = self.eval_collator([{**row, "labels": [IGNORE] * len(row["labels"])} for row in chosen])
            yield {name: tensor.to(self.args.device) for name, tensor in batch.items()}

    def _compute_frozen(self) -> None:
        """Fill or find the file of frozen targets; each process computes its share of the examples."""
        args, process = self.args, self.accelerator
        path = Path(str(args.output_dir)) / FROZEN_FILE
        batches = [_digests(batch) for batch in self._batches_of(range(len(self.train_dataset)))]  # type: ignore[arg-type]
        keys = [key for batch in batches for key in batch]
        known: dict[bytes, int] = {}
        for number, key in enumerate(keys):
            known.setdefault(key, number)
        size = base_model(self.model).config.get_text_config().hidden_size
        about = {"targets": self._about_frozen(keys)}
        described = path.with_suffix(".json")
        # The others do not look: the first may be about to remove what they read.
        if not by_first_process(lambda: path.is_file() and described.is_file() and read_json(described) == about):
            if process.is_main_process:
                path.parent.mkdir(parents=True, exist_ok=True)
                described.unlink(missing_ok=True)
                np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(len(keys), size)).flush()
            process.wait_for_everyone()
            self._fill(path, [len(batch) for batch in batches])
            process.wait_for_everyone()
            if process.is_main_process:
                write_json(about, described)
        process.wait_for_everyone()
        self._cache, self._known = np.load(path, mmap_mode="r") if keys else np.zeros((0, size), np.float32), known

    def _fill(self, path: Path, counts: Sequence[int]) -> None:
        if not sum(counts):
            return
        rows, place = np.lib.format.open_memmap(path, mode="r+"), 0
        everything = range(len(self.train_dataset))  # type: ignore[arg-type]
        for number, (batch, count) in enumerate(zip(self._batches_of(everything), counts, strict=True)):
            if number % self.accelerator.num_processes == self.accelerator.process_index:
                rows[place : place + count] = self.other_targets(batch).float().cpu().numpy()
            place += count
        rows.flush()

    def _about_frozen(self, keys: Sequence[bytes]) -> str:
        """A digest of all that frozen targets follow from."""
        args = self.args
        model: Any = self.model
        config = base_model(model).config
        about = [args.isolation, args.pooling, args.target_layer, args.target_top, args.predictors]
        about += [_content(config.to_dict()), config.get_text_config()._attn_implementation]
        about += [_content(adapter.to_dict()) for adapter in getattr(model, "peft_config", {}).values()]
        digest = hashlib.sha256(b"".join(keys))
        digest.update(repr(about).encode())
        with self.other_model():
            for name, weight in model.state_dict().items():
                digest.update(repr([name, weight.dtype, weight.shape]).encode())
                digest.update(weight.cpu().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()


def _content(configuration: Any) -> Any:
    """A configuration in one order, without what says where it is from and what has written it."""
    if isinstance(configuration, dict):
        kept = {str(name): value for name, value in configuration.items() if name not in ORIGIN}
        return {name: _content(kept[name]) for name in sorted(kept)}
    return sorted(configuration) if isinstance(configuration, set) else configuration


def _digests(batch: dict[str, Tensor]) -> list[bytes]:
    """A short name for each view pair of a batch and the tokens its target is read from, whatever the batch."""
    read = torch.stack(tokens_read(batch), dim=1).tolist()
    named = zip(pair_keys(batch, 0), read, strict=True)
    return [hashlib.sha256(f"{key}-{tokens}".encode()).digest()[:16] for key, tokens in named]


@contextmanager
def exchanged(weights: Sequence[nn.Parameter], others: Sequence[Tensor]) -> Iterator[None]:
    """Inside, weights have the values of others, in their own precision and place."""
    own = [weight.data for weight in weights]
    try:
        for weight, other in zip(weights, others, strict=True):
            weight.data = other.to(weight)
        yield
    finally:
        for weight, data in zip(weights, own, strict=True):
            weight.data = data


class RunningMean(nn.Module):
    """An exponential moving average of weights, as buffers in float32 (of float64 weights in that).

    mean ← decay · mean + (1 − decay) · weight after each optimizer step (the targets of Mean Teacher, Tarvainen &
    Valpola 2017, and data2vec, arXiv 2202.03555); it begins as the weights.
    """

    def __init__(self, weights: Sequence[Tensor], decay: float) -> None:
        super().__init__()
        self.decay = decay
        for number, weight in enumerate(weights):
            self.register_buffer(f"weight_{number}", at_least_float32(weight.detach()).clone())

    @torch.no_grad()
    def move(self, weights: Sequence[Tensor]) -> None:
        """Towards the weights as they are now."""
        for mean, weight in zip(self.buffers(), weights, strict=True):
            mean.lerp_(weight.detach().to(mean), 1 - self.decay)


class MoveMean(TrainerCallback):
    """Moves a running mean after each optimizer step."""

    def __init__(self, mean: RunningMean, weights: Sequence[Tensor]) -> None:
        self.mean, self.weights = mean, weights

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Before anything is logged, saved or evaluated."""
        self.mean.move(self.weights)
