"""A step as an energy: how far the step, read on its own, lies from what the steps before it let the model expect.

Low is expected. The context view after a step is the prediction, the isolated next step the outcome, the objective's
own distance the energy; every view comes from `encode_views`, in one pass for a context and all candidates for its next
step. Raw states lie close to one direction, in which every step is near every other: `ZScore` brings each dimension to
mean 0 and variance 1, fitted on problems that are not scored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from stepjepa.analysis.trained import AS_IT_IS, Reading
from stepjepa.data.tokens import tokenize_dataset
from stepjepa.jepa.architectures import evaluating, longest_trunk
from stepjepa.jepa.candidates import CandidateCollator, Place
from stepjepa.jepa.losses import LOSSES, at_least_float32
from stepjepa.jepa.pairs import CONSECUTIVE, BranchLayout, step_spans
from stepjepa.records import UserError


@dataclass(frozen=True)
class Candidate:
    """A step at a place of a solution: read after the example's steps 0 … `step` − 1."""

    example: int
    step: int
    text: str | None = None
    """What stands there; None: the example's own step."""


@dataclass
class StepViews:
    """What `encode_candidates` gives for C candidates."""

    context: Tensor
    """`[C, D]`: the context view before each."""
    target: Tensor
    """`[C, D]`: the target view of each."""
    log_probability: Tensor
    """`[C]`: of its tokens after the steps before it, summed, in nats."""
    tokens: Tensor
    """`[C]`: how many it has, with the separator that ends it, should something follow; 0 if it was cut off by the
    length limit. Its views are then 0."""

    def __getitem__(self, rows: Any) -> StepViews:
        return StepViews(self.context[rows], self.target[rows], self.log_probability[rows], self.tokens[rows])


def own_steps(examples: Sequence[Mapping[str, Any]], first: int = 0) -> list[Candidate]:
    """Every step of every example from step `first` on."""
    return [Candidate(e, k) for e, example in enumerate(examples) for k in range(first, len(example["steps"]))]


def own_and_further(examples: Sequence[Mapping[str, Any]]) -> list[Candidate]:
    """Every step of every example, and the texts in its `candidates`, each as the step after its last.

    Raises:
        UserError: `candidates` is not a list of texts.
    """
    found = own_steps(examples)
    for e, example in enumerate(examples):
        further = example.get("candidates", [])
        if not isinstance(further, list) or not all(isinstance(text, str) and text.strip() for text in further):
            raise UserError(f"«{example['question'][:60]}»: candidates is not a list of texts")
        found += [Candidate(e, len(example["steps"]), text.strip()) for text in further]
    return found


@torch.no_grad()
def encode_candidates(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Mapping[str, Any]],
    candidates: Sequence[Candidate],
    *,
    layout: BranchLayout = CONSECUTIVE,
    reading: Reading = AS_IT_IS,
    at_step_end: bool = False,
    likelihood: bool = True,
    batch_size: int = 16,
    progress: bool = True,
) -> StepViews:
    """Views and log-probability of candidate steps, in their order.

    A candidate has the tokens that it has in its solution, with the steps that follow its place. The first step is read
    after the question, which only `pairs=question_answer` trains a context view for.

    Args:
        model: as for `encode_views`; its training mode is restored afterwards.
        tokenizer: its tokenizer, with pad and predictor tokens.
        examples: of `read_examples`.
        candidates: all those of one example share its encoded context.
        layout: predictors, isolation, pooling, longest row; never longer than the model's positions hold.
        reading: as its training compared the views, see `trained_reading`; as they are by default.
        likelihood: also the log-probabilities, for a third more tokens; else they are 0.
        at_step_end: read context views at the end of the step before, for a model without trained predictor tokens.
        batch_size: contexts encoded together; it changes the speed, not the result.
        progress: show a progress bar.

    Raises:
        UserError: an example is malformed, or the tokenizer lacks the predictor tokens or offsets.
        UnsupportedArchitectureError: see `encode_views`.
    """
    try:
        rows = _rows(tokenizer, examples, candidates, replace(layout, max_length=longest_trunk(model, layout)))
        collate = CandidateCollator(tokenizer, layout, likelihood=likelihood, at_step_end=at_step_end)
    except ValueError as error:
        raise UserError(str(error)) from error
    rows.sort(key=lambda row: -len(row["input_ids"]))
    parts: list[StepViews] = []
    with evaluating(model), tqdm(total=len(rows), desc="scoring", unit="context", disable=not progress) as bar:
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            views = reading(model, collate(batch))
            count = len(views.context)
            # Summed in float64, so that the order of the tokens of a batch does not matter.
            sums = torch.zeros(count, dtype=torch.float64, device=views.token_losses.device)
            sums.index_add_(0, views.token_examples, -views.token_losses.double())
            lengths = [len(c["input_ids"]) for row in batch for place in row["places"] for c in place.candidates]
            found = (at_least_float32(views.context), at_least_float32(views.target), sums, torch.tensor(lengths))
            parts.append(StepViews(*(each.cpu() for each in found)))
            bar.update(len(batch))
    order = [number for row in rows for numbers in row["numbers"] for number in numbers]
    return _placed(parts, torch.tensor(order, dtype=torch.long), len(candidates))


def _placed(parts: Sequence[StepViews], order: Tensor, count: int) -> StepViews:
    """The parts as one, row i at `order[i]` of `count`; zeros where there is none."""

    def joined(name: str) -> Tensor:
        values = torch.cat([getattr(part, name) for part in parts])
        return values.new_zeros((count, *values.shape[1:])).index_copy_(0, order, values)

    if not parts:
        raise UserError("no step to score: every example has lost all of its steps to the length limit")
    return StepViews(*map(joined, ("context", "target", "log_probability", "tokens")))


def _rows(
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Mapping[str, Any]],
    candidates: Sequence[Candidate],
    layout: BranchLayout,
) -> list[dict[str, Any]]:
    """Trunks with their places: `input_ids`, `places`, and beside each place the `numbers` of its candidates.

    A solution with another step in a place is tokenized as a whole, because what follows a step decides its last token.
    Where even the tokens before the place change by that, the candidate gets a trunk of its own.
    """
    variants: dict[tuple[int, int, str] | tuple[int], int] = {}
    texts: list[dict[str, Any]] = []
    keys: list[tuple[int, int, str] | tuple[int]] = []
    for candidate in candidates:
        example = examples[candidate.example]
        own = candidate.text is None or example["steps"][candidate.step : candidate.step + 1] == [candidate.text]
        keys.append((candidate.example,) if own else (candidate.example, candidate.step, str(candidate.text)))
        if keys[-1] not in variants:
            variants[keys[-1]] = len(texts)
            texts.append(dict(example) if own else with_step(example, candidate.step, str(candidate.text)))
    tokenized, report = tokenize_dataset(texts, tokenizer, layout)
    skipped = set(report.skipped_indices)
    row_of = dict(zip((i for i in range(len(texts)) if i not in skipped), tokenized, strict=True))
    spans = {i: {span.step: span for span in step_spans(row["step_ids"])} for i, row in row_of.items()}

    trunks: dict[int, list[dict[str, Any]]] = {}
    by_place = sorted(range(len(candidates)), key=lambda n: (candidates[n].example, -candidates[n].step, n))
    for number in by_place:  # the longest trunk of an example first
        candidate, variant = candidates[number], variants[keys[number]]
        span = spans.get(variant, {}).get(candidate.step)
        if span is None:
            continue  # cut off
        ids = row_of[variant]["input_ids"]
        before = ids[: span.start]
        tokens = {name: row_of[variant][name][span.start : span.end] for name in ("input_ids", "separator")}
        shared = trunks.setdefault(candidate.example, [])
        trunk = next((row for row in shared if row["input_ids"][: len(before)] == before), None)
        if trunk is None:
            shared.append(trunk := {"input_ids": before, "found": {}})
        trunk["found"].setdefault((candidate.step, span.start), []).append((number, tokens))
    return [
        {
            "input_ids": trunk["input_ids"],
            "places": [
                Place(step, end, [tokens for _, tokens in found]) for (step, end), found in trunk["found"].items()
            ],
            "numbers": [[number for number, _ in found] for found in trunk["found"].values()],
        }
        for shared in trunks.values()
        for trunk in shared
    ]


def with_step(example: Mapping[str, Any], step: int, text: str) -> dict[str, Any]:
    """An example with another text as its step `step`, which may be the one after its last."""
    steps = [*example["steps"][:step], text, *example["steps"][step + 1 :]]
    turns = example["messages"]
    answer = {**turns[-1], "content": "\n\n".join(steps)}
    return {**example, "steps": steps, "total_steps": len(steps), "messages": [*turns[:-1], answer]}


# ---- from views to energies ----------------------------------------------------------------------------------


def energies(views: StepViews, distance: str = "cosine") -> Tensor:
    """The distance of each prediction to its step, `[C]` float32; NaN for steps that were cut off.

    Args:
        distance: one of `LOSSES` that is a distance of a single pair, so not "infonce".
    """
    values = LOSSES[distance](views.context, views.target)
    return torch.where(views.tokens > 0, values, torch.nan)


def scored_rows(
    examples: Sequence[Mapping[str, Any]],
    ids: Sequence[str],
    candidates: Sequence[Candidate],
    views: StepViews,
    distance: str = "cosine",
) -> list[dict[str, Any]]:
    """A row for each example, with what is known of its steps.

    Args:
        candidates: of `own_and_further`.
        views: of the candidates, scaled or not.

    Returns:
        Rows with `id`, the example's own fields but its messages, `energies`, `log_probabilities` (sums over tokens, in
        nats) and `tokens` of its steps, `energy` (the mean from the second step on, since the first follows no step;
        None for a single one), and for its `candidates` `candidate_energies`, `candidate_log_probabilities`.
        What was cut off by the length limit is None.
    """
    rows = [
        {"id": name, **{key: value for key, value in example.items() if key != "messages"}}
        | {"energy": None, "energies": [], "log_probabilities": [], "tokens": []}
        for name, example in zip(ids, examples, strict=True)
    ]
    for candidate, energy, likely, tokens in zip(
        candidates,
        energies(views, distance).tolist(),
        views.log_probability.tolist(),
        views.tokens.tolist(),
        strict=True,
    ):
        row = rows[candidate.example]
        further = "candidate_" if candidate.text is not None else ""
        row.setdefault(f"{further}energies", []).append(energy if tokens else None)
        row.setdefault(f"{further}log_probabilities", []).append(likely if tokens else None)
        if not further:
            row["tokens"].append(tokens)
    for row in rows:
        later = row["energies"][1:]
        row["energy"] = sum(later) / len(later) if later and None not in later else None
    return rows


@dataclass(frozen=True)
class ZScore:
    """Mean and standard deviation of each dimension, `[D]`, of context views and of target views apart."""

    context_mean: Tensor
    context_deviation: Tensor
    target_mean: Tensor
    target_deviation: Tensor

    @classmethod
    def fit(cls, views: StepViews) -> ZScore:
        """Of the views of right steps of problems that are not scored."""
        kept = views[views.tokens > 0]
        if len(kept.tokens) < 2:
            raise UserError("scaling needs at least two steps of other problems")
        moments = []
        for each in (kept.context, kept.target):
            # A dimension that never changes says nothing; divided by 1 it stays 0.
            deviation = each.std(dim=0)
            moments += [each.mean(dim=0), torch.where(deviation > 0, deviation, 1.0)]
        return cls(*moments)

    def __call__(self, views: StepViews) -> StepViews:
        """The views in units of these deviations from these means."""
        context = (views.context - self.context_mean) / self.context_deviation
        return replace(views, context=context, target=(views.target - self.target_mean) / self.target_deviation)
