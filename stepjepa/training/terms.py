"""The terms of an objective in a trainer: what contexts predict, what is averaged over what, what is warned of once."""

from __future__ import annotations

import torch
from torch import Tensor

from stepjepa.jepa.controls import training_target
from stepjepa.jepa.losses import at_least_float32
from stepjepa.jepa.rivals import Terms, TokenObjective
from stepjepa.jepa.targets import PairKeys, pair_keys_of, pair_shares
from stepjepa.jepa.views import Views
from stepjepa.training.whole_step import ALONE, WholeSteps


class ObjectiveTerms(WholeSteps):
    """`WholeSteps` that knows how much there is in its optimizer step."""

    _pairs_in_step: Tensor
    """View pairs by weight, or what an objective over tokens counts, on all processes."""
    _microbatches_in_step: Tensor | int
    _microbatch: int

    def means(self, views: Views, inputs: dict[str, Tensor], training: bool, weight: float) -> dict[str, Tensor]:
        """The share of a microbatch in each mean over the optimizer step, by term, scalars.

        Its sum over microbatches and processes is the mean. Outside training the microbatch is its own step.

        Args:
            weight: λ; where it is 0, an objective over tokens is not computed.
        """
        self.objective.train(training)
        counted = self._pairs_in_step, self._microbatches_in_step
        many, microbatches = counted if training else (self.count(inputs), 1)
        many, microbatches = many.where(many > 0, 1.0), at_least_one(microbatches)
        if isinstance(self.objective, TokenObjective):
            if training and weight == 0:
                return {"jepa": views.token_losses.sum() * 0}
            return {name: value.sum() / many for name, value in self.token_terms(views, inputs).values.items()}
        share = pair_shares(inputs, self.args.pair_weights)
        given = self.target(views, inputs) if training else (views.target, pair_keys_of(inputs))
        found = self.terms(views, given)
        return {name: (term * share).sum() / many if term.ndim else term / microbatches for name, term in found.items()}

    def target(self, views: Views, inputs: dict[str, Tensor]) -> tuple[Tensor, PairKeys] | None:
        """What contexts predict in training, `[P, D]`, and its keys; None where a single pair has no control target."""
        moment = f"{self.state.global_step}-{self._microbatch}-{self.accelerator.process_index}"
        self._microbatch += 1
        given = training_target(self.args.target, views.target, inputs, self.args.seed, moment, self.objective)
        if given is None:
            self.warn_once(ALONE)
        return given

    def count(self, inputs: dict[str, Tensor]) -> Tensor:
        """How many the terms of a microbatch are a mean over: view pairs by weight, or what the objective counts."""
        if isinstance(self.objective, TokenObjective):
            return torch.tensor(float(self.objective.count(inputs)))
        return pair_shares(inputs, self.args.pair_weights).sum()

    def token_terms(self, views: Views, inputs: dict[str, Tensor]) -> Terms:
        """The terms of an objective over tokens."""
        assert isinstance(self.objective, TokenObjective)
        assert views.states is not None
        with torch.autocast(self.args.device.type, enabled=False):
            return self.objective.of_tokens(views.states, inputs)

    def terms(self, views: Views, given: tuple[Tensor, PairKeys] | None) -> dict[str, Tensor]:
        """The objective's terms by name, `[P]` or `[]`, with the targets given; a 0 of each pair without one."""
        if self.objective.few_pairs is not None and len(views.context) == 1:
            self.warn_once(self.objective.few_pairs)
        if self.objective.of_the_microbatch is not None and self.is_in_train and self.shares > 1:
            self.warn_once(
                f"{self.objective.of_the_microbatch} compares the view pairs of one microbatch, of {self.shares} "
                "in an optimizer step: accumulation and processes add no others, and other sizes of them give other "
                "gradients. whole_step=true compares those of the whole step."
            )
        if given is None:
            return {"jepa": at_least_float32(views.context).sum(dim=-1) * 0}
        with torch.autocast(self.args.device.type, enabled=False):  # views as they are; losses in float32 or wider
            return self.objective(views.context, *given)


def at_least_one(count: Tensor | int) -> Tensor | int:
    """A count to divide by."""
    return count.clamp(min=1) if isinstance(count, Tensor) else max(count, 1)
