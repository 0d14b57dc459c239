"""A model with what the energies of its steps are read by: branches, head, target layers, distance, scale."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from stepjepa.analysis.encode import with_system_prompt
from stepjepa.analysis.energies import Candidate, StepViews, ZScore, encode_candidates, own_steps
from stepjepa.analysis.options import ScoreOptions
from stepjepa.analysis.subject import described, load
from stepjepa.analysis.trained import AS_IT_IS, predicts_at_predictor, trained_reading
from stepjepa.data.examples import question_key
from stepjepa.data.sources import read_examples
from stepjepa.evaluation.scoring import system_prompt
from stepjepa.jepa.pairs import BranchLayout
from stepjepa.models.checkpoint import locate_model
from stepjepa.records import UserError


class Scorer:
    """A model with what its energies are read by, as `stepjepa score` is told.

    Args:
        say: where the choices made and the data read are reported.

    Raises:
        UserError: the model cannot be loaded, or its run cannot be read as asked.
    """

    def __init__(self, options: ScoreOptions, say: Callable[[object], None]) -> None:
        self.options, self.say = options, say
        self.located = locate_model(options.model_name, options.revision)
        self.system, origin = system_prompt(options.system_prompt, self.located)
        training = self.located.training() or {}
        # Of the pairs that it trained only how many predictor tokens of which level there are matters here.
        own = {one.name: training[one.name] for one in fields(BranchLayout) if one.name in training}
        given = {name: getattr(options, name) for name in ("predictors", "isolation")}
        own |= {name: value for name, value in given.items() if value is not None}
        try:
            self.layout = BranchLayout(**(own | {"max_length": None}))
        except ValueError as error:
            raise UserError(str(error)) from error
        self.model, self.tokenizer, trained = load(options, self.layout.predictors)
        random = options.random_weights is not None
        self.reading = trained_reading(self.located, self.model, random) if options.as_trained else AS_IT_IS
        self.distance = options.distance or self.reading.distance
        never_trained = not trained or (bool(training) and not predicts_at_predictor(training))
        self.at_step_end = options.context == "step_end" or (options.context == "auto" and never_trained)
        place = "the end of the step before" if self.at_step_end else "the predictor token"
        say(f"system prompt: {origin}; energy: {self.distance}, predicted at {place}; {self.reading.words()}")

    def views(
        self,
        examples: Sequence[Mapping[str, Any]],
        candidates: Sequence[Candidate],
        model: Any = None,
        likelihood: bool = False,
    ) -> StepViews:
        """Views of candidate steps, by another model if one is given; log-probabilities where they are asked for.

        Raises:
            UserError: a view is not finite.
        """
        views = encode_candidates(
            self.model if model is None else model,
            self.tokenizer,
            examples,
            candidates,
            layout=self.layout,
            reading=self.reading if model is None else self.reading.of_itself(),
            likelihood=likelihood,
            at_step_end=self.at_step_end,
            batch_size=self.options.batch_size,
        )
        read = views.tokens > 0
        for name, vectors in (("context", views.context), ("target", views.target)):
            if bad := int((~vectors[read].isfinite()).any(dim=-1).sum()):
                raise UserError(
                    f"--model_name {self.options.model_name}: {bad:,} of {int(read.sum()):,} {name} views hold NaN or "
                    "infinity. The weights of the model have diverged, or overflow in their dtype (--dtype float32)"
                )
        return views

    def read(self, source: Sequence[str], split: str, count: int, seed: int) -> list[dict[str, Any]]:
        """Solutions under the system prompt of the model."""
        options = self.options
        examples, report = read_examples(
            list(source),
            split=split,
            count=count,
            seed=seed,
            splitter=options.splitter,
            wrong_steps="keep" if source is not options.scale_file else "skip",
            system_prompt=None,
        )
        if source is not self.options.scale_file:
            self.say(report)
        return examples if options.system_prompt == "file" else with_system_prompt(examples, self.system)

    def scale(self, scored: Sequence[Mapping[str, Any]], source: Sequence[str], model: Any = None) -> ZScore:
        """Fitted on the steps, from the second on, of solutions of problems that are not scored."""
        questions = {question_key(example) for example in scored}
        seed = self.options.problem_seed + (self.options.split == "train")  # other problems than those that are scored
        read = self.read(source, "train", self.options.scale_problems, seed)
        others = [example for example in read if question_key(example) not in questions]
        where = f"--scale_file {' '.join(source)}"
        if not others:
            raise UserError(f"{where}: every problem in it is one that is scored; name others")
        if len(others) < len(read):
            self.say(f"{where}: {len(read) - len(others):,} of {len(read):,} solutions are of problems that are scored")
        if not (later := own_steps(others, first=1)):
            raise UserError(f"{where}: no solution in it has a second step; name others")
        return ZScore.fit(self.views(others, later, model))

    def description(self) -> dict[str, Any]:
        """For a record."""
        options = self.options
        return {
            "label": options.label or self.located.name,
            "model": {
                **self.located.description(),
                "training": self.located.training(),
                **described(self.model),
                "dtype": options.dtype,
                "random_weights": options.random_weights,
            },
            "configuration": {
                "layout": asdict(self.layout),
                "as_trained": options.as_trained,
                "target_layer": self.reading.target_layer,
                "target_top": self.reading.target_top,
                "targets": self.reading.targets,
                "distance": self.distance,
                "context": "step_end" if self.at_step_end else "predictor",
                "system_prompt": self.system,
                "problems": options.problems,
                "split": options.split,
                "problem_seed": options.problem_seed,
                "scale_problems": options.scale_problems,
            },
        }
