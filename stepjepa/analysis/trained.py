"""How the views of a trained model are read: as its objective compared them, or as its states are.

A run may have a head that predicts from the context view, a scale of the target view, target layers, and targets that
are another model's: of a running mean of its weights, or of the model before training. What is measured of it
afterwards without them is not what was trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from stepjepa.analysis.options import ShownLayout
from stepjepa.jepa.architectures import base_model
from stepjepa.jepa.losses import LOSSES, at_least_float32, wide
from stepjepa.jepa.objectives import Objective, StepObjective
from stepjepa.jepa.pairs import BranchLayout
from stepjepa.jepa.views import Views, encode_views
from stepjepa.models.checkpoint import Checkpoint
from stepjepa.models.loading import load_model
from stepjepa.records import UserError
from stepjepa.training.checkpoints import OBJECTIVE_FILE
from stepjepa.training.options import JEPAOptions
from stepjepa.training.targets import exchanged

ADVICE = "`stepjepa embed` and `score` take the model's own states with --no_as_trained"
TARGETS = {
    "own": "the model's own",
    "ema": "those of the running mean of its weights",
    "frozen": "those of the model before training",
}


@dataclass(frozen=True)
class Reading:
    """How views are read; as they are by default."""

    objective: Objective | None = None
    """What predicts from the context view and scales the target view, in evaluation mode."""
    target_layer: int = -1
    target_top: int = 1
    """Of `encode_views`."""
    targets_by: Callable[[], AbstractContextManager[Any]] | None = None
    """Inside, the model has the weights that target views come from; its own by default."""
    targets: str = "own"
    """Of `TARGETS`: whose they are."""

    @torch.no_grad()
    def __call__(self, model: nn.Module, batch: dict[str, Tensor], **options: Any) -> Views:
        """`encode_views` so.

        Args:
            batch: with copies, unless targets are read in context.
        """
        options |= {"target_layer": self.target_layer, "target_top": self.target_top}
        views = encode_views(model, batch, **options)
        if self.targets_by is not None:
            with self.targets_by():
                others = encode_views(model, batch, **options)
            views = replace(views, target=others.target, target_layers=others.target_layers)
        if self.objective is None:
            return views
        context, target = at_least_float32(views.context), at_least_float32(views.target)
        return replace(views, context=self.objective.predict(context), target=self.objective.scaled(target))

    def of_itself(self) -> Reading:
        """The same with targets of the model that is read: for one that the other weights are not of."""
        return replace(self, targets_by=None, targets="own")

    def words(self) -> str:
        """What is compared, for a user."""
        layers = "" if (self.target_layer, self.target_top) == (-1, 1) else " from other layers"
        how = "after the run's head, targets scaled as in training" if self.objective else "states as they are"
        return f"views: {how}; targets: {TARGETS[self.targets]}{layers}"

    @property
    def distance(self) -> str:
        """The loss whose distance is the energy: that of the training, and the cosine for InfoNCE."""
        return distance_of(self.objective.kind) if isinstance(self.objective, StepObjective) else "cosine"


AS_IT_IS = Reading()


def distance_of(kind: str) -> str:
    """The loss whose distance is the energy after training with a loss: its own, and the cosine for InfoNCE."""
    return "cosine" if kind == "infonce" else kind


def predicts_at_predictor(training: Mapping[str, Any]) -> bool:
    """Whether a run with these options trains context views at predictor tokens; else they are read at a step's end."""
    return training.get("lbd", 0) > 0 and training.get("jepa_loss_type", "cosine") in LOSSES


def shown_layout(run: Checkpoint) -> ShownLayout:
    """The branches that are shown of a model by default: all consecutive pairs, as its run trained them."""
    training = run.training()
    if training is None or not predicts_at_predictor(training):
        return ShownLayout(predictors=run.predictors)
    names = ("pairs", "isolation", "pooling", "predictors")
    own = BranchLayout(**{name: training[name] for name in names if name in training}).consecutive()
    return ShownLayout(**{name: getattr(own, name) for name in names})


def trained_reading(run: Checkpoint, model: Any, random: bool = False) -> Reading:
    """How a run compares its views; of a model without a record, or without views that are compared, as they are.

    Args:
        model: of the run, from `load_model`.
        random: it has random weights in their place; its targets are then its own.

    Raises:
        UserError: weights of its objective or of its target model are missing.
    """
    training = run.training()
    if training is None or not predicts_at_predictor(training):
        return AS_IT_IS
    inner = base_model(model)
    objective = run_objective(run, inner.config.get_text_config().hidden_size)
    targets = "own" if random else training.get("target_model", "own")
    return Reading(
        None if objective is None else objective.to(inner.device, wide(inner.dtype)),
        training.get("target_layer", -1),
        training.get("target_top", 1),
        None if targets == "own" else _targets_by(run, model, targets),
        targets,
    )


def run_objective(run: Checkpoint, size: int) -> StepObjective | None:
    """The objective of a model's training with its weights, in evaluation mode; None if its record names none.

    Args:
        size: D.

    Raises:
        UserError: its weights are missing.
    """
    training = run.training()
    if training is None or not predicts_at_predictor(training):
        return None
    known = {one.name: training[one.name] for one in fields(JEPAOptions) if one.name in training}
    options = JEPAOptions(**known)
    objective = StepObjective.of(options.jepa_loss_type, options, size).eval()
    if objective.state_dict():
        saved = _saved(run)
        objective.load_state_dict({name: saved[name] for name in objective.state_dict() if name in saved})
    return objective


def _saved(run: Checkpoint) -> dict[str, Tensor]:
    path = run.folder / OBJECTIVE_FILE
    if not path.is_file():
        raise UserError(
            f"{path} is missing: the training of {run.given} had an objective with weights; copy it there. {ADVICE}"
        )
    return load_file(path)


def _targets_by(run: Checkpoint, model: Any, targets: str) -> Callable[[], AbstractContextManager[Any]]:
    """What puts the weights in place that the targets of a run came from."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]  # those that were trained
    if targets == "ema":
        saved = _saved(run)
        others = [saved[name] for name in sorted(saved, key=_number) if name.startswith("target_weights.")]
        where = f"the running mean in {run.folder / OBJECTIVE_FILE}"
    else:
        assert run.record is not None
        settings = run.record["settings"]
        if settings["lora"] and hasattr(model, "disable_adapter"):  # the run made the adapter, which did nothing then
            return model.disable_adapter
        where = f"the model before training, {settings['model_name']},"
        try:
            before, _ = load_model(
                settings["model_name"],
                predictors=settings["predictors"],
                revision=settings["revision"],
                trust_remote_code=settings["trust_remote_code"],
                dtype=settings["dtype"],
            )
        except UserError as error:
            raise UserError(
                f"the targets of {run.given} were those of the model before training: {error}\n{ADVICE}"
            ) from error
        if hasattr(before, "merge_and_unload") and not hasattr(model, "merge_and_unload"):
            before = before.merge_and_unload().requires_grad_()
        others = [weight.detach() for weight in before.parameters() if weight.requires_grad]
    if [weight.shape for weight in weights] != [other.shape for other in others]:
        raise UserError(f"{where} has weights of other shapes than {run.given}. {ADVICE}")
    return partial(exchanged, weights, others)


def _number(name: str) -> int:
    """`target_weights.weight_12` → 12."""
    number = name.rpartition("_")[2]
    return int(number) if number.isdigit() else -1
