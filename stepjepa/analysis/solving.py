"""A question answered step by step: every step as it comes, with its surprisal and its energy.

Surprisal is the mean negative log-probability of a step's tokens given all before them, in nats. The energy is that of
`energies.py`, for models whose predictor tokens a JEPA term has trained; the first step follows no step and has none,
unless the run predicted the answer from the question.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from stepjepa.analysis.encode import check_predictors
from stepjepa.analysis.energies import Candidate, encode_candidates, energies
from stepjepa.analysis.trained import predicts_at_predictor, trained_reading
from stepjepa.data.steps import Splitter, split_steps
from stepjepa.data.thoughts import opened_thought
from stepjepa.evaluation.answers import extract_answer
from stepjepa.evaluation.generation import Generation, Sampling, context_length, generate
from stepjepa.evaluation.scoring import encode_prompts, response_text, system_prompt
from stepjepa.jepa.pairs import BranchLayout
from stepjepa.models.checkpoint import BUILTIN, locate_model
from stepjepa.models.loading import choose_device, load_model, read_tokenizer
from stepjepa.records import UserError


@dataclass(frozen=True)
class SolvedStep:
    """A step as the model said it."""

    text: str
    surprisal: float | None
    """Nats a token; None where the step no longer fits into the model's context beside its predictor tokens."""
    energy: float | None
    """None where nothing has been trained to predict the step."""


@dataclass(frozen=True)
class Solution:
    """What a model said to a question."""

    steps: tuple[SolvedStep, ...]
    answer: str | None
    tokens: int
    truncated: bool
    """Cut off before the model ended its turn."""


class Solver:
    """A model that answers questions, with how its steps are read.

    Args:
        model_name: "builtin", a folder (a model or a LoRA adapter), a GGUF file or a Hub id.
        system: "train" for the system message of its training, "none" for none.
        splitter: what a step is in its answers; models of this package end one by a blank line.
        device, dtype, revision, trust_remote_code: as for `load_model`.

    Raises:
        UserError: the model cannot be loaded.
    """

    def __init__(
        self,
        model_name: str = BUILTIN,
        *,
        system: str = "train",
        splitter: Splitter = "paragraph",
        device: str = "auto",
        dtype: str = "float32",
        revision: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        located = locate_model(model_name, revision)
        self.name, self.splitter, self.mode = located.name, splitter, system
        self.system, self.origin = system_prompt(system, located)
        training = located.training() or {}
        own = {one.name: training[one.name] for one in fields(BranchLayout) if one.name in training}
        self.first_has_energy = own.get("pairs") == "question_answer"
        self.layout = BranchLayout(**(own | {"max_length": None})).consecutive()
        remote: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
        known = check_predictors(read_tokenizer(located.path, **remote), self.layout.predictors)
        self.model, self.tokenizer = load_model(model_name, predictors=self.layout.predictors, dtype=dtype, **remote)
        self.model.to(choose_device(device))
        self.predicts = known and predicts_at_predictor(training)
        self.reading = trained_reading(located, self.model)
        self.distance = self.reading.distance if self.predicts else None

    def __call__(
        self,
        question: str,
        sampling: Sampling | None = None,
        on_text: Callable[[str], object] | None = None,
        on_step: Callable[[SolvedStep], object] | None = None,
    ) -> Solution:
        """Answer a question.

        Args:
            question: its text.
            sampling: greedy, up to the default number of tokens, if none is given.
            on_text: told the text of the step under way, as it grows.
            on_step: told every step once it is complete.

        Raises:
            UserError: the question is empty or longer than the model's context, or its text cannot be encoded.
        """
        if not question.strip():
            raise UserError("the question is empty")
        turn = {"role": "user", "content": question}
        asked = {"question": question, "messages": [turn], "place": "the question"}
        [prompt] = encode_prompts([asked], self.mode, self.system, self.tokenizer)
        state = Generation([prompt.ids], sampling or Sampling(), batch_size=1, context=context_length(self.model))
        if state.budget(0) == 0:
            raise UserError(f"the question has {len(prompt.ids):,} tokens and leaves no room in the model's context")
        thought = opened_thought(prompt.text)
        turns = [turn] if self.system is None else [{"role": "system", "content": self.system}, turn]
        told: list[SolvedStep] = []

        def split(tokens: list[int]) -> list[str]:
            text = thought + response_text(tokens, self.tokenizer)
            return split_steps(text.removesuffix("\ufffd"), self.splitter, min_chars=1)  # half of a character

        def tell(texts: list[str], complete: int, said: int) -> None:
            used = len(prompt.ids) + said
            while len(told) < complete:
                told.append(self.measured(question, turns, texts[: len(told) + 1], used))
                if on_step:
                    on_step(told[-1])
            if on_text and len(texts) > complete:
                on_text(texts[complete])

        def hear(tokens: list[int]) -> None:
            texts = split(tokens)
            tell(texts, len(texts) - 1, len(tokens))

        # What `auto` takes for steps changes as the text grows: it is cut once all of it is there.
        listens = (on_text or on_step) and self.splitter != "auto"
        for _ in generate(self.model, self.tokenizer, state, hear if listens else None):
            pass
        answer = state.answers[0]
        texts = split(answer.tokens)
        tell(texts, len(texts), len(answer.tokens))
        said = thought + response_text(answer.tokens, self.tokenizer)
        return Solution(tuple(told), extract_answer(said), len(answer.tokens), answer.end == "truncated")

    def measured(self, question: str, turns: list[dict[str, str]], steps: list[str], used: int) -> SolvedStep:
        """The last of some steps, with its surprisal and its energy.

        Args:
            used: tokens of the prompt and of all that has been said.
        """
        room = context_length(self.model)
        if room is not None and used + self.layout.predictors > room:
            return SolvedStep(steps[-1], None, None)
        answer = {"role": "assistant", "content": "\n\n".join(steps)}
        example = {"question": question, "messages": [*turns, answer], "steps": steps, "total_steps": len(steps)}
        last = len(steps) - 1
        views = encode_candidates(
            self.model,
            self.tokenizer,
            [example],
            [Candidate(0, last)],
            layout=self.layout,
            reading=self.reading,
            at_step_end=not self.predicts,
            progress=False,
        )
        known = self.predicts and (last > 0 or self.first_has_energy)
        energy = float(energies(views, self.distance)[0]) if known and self.distance else None
        return SolvedStep(steps[-1], -float(views.log_probability[0] / views.tokens[0]), energy)
