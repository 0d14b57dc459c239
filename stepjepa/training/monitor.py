"""What the trainer logs in training and sums up in evaluation.

Training figures accumulate in one small tensor on the device and are read only when the trainer logs.
Evaluation keeps sums per example, so that losses depend neither on the batch size nor on the processes.
Retrieval, and InfoNCE, compare the pairs of one batch and do depend on it; compare runs at equal batch size.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.trainer_callback import TrainerCallback

from stepjepa.jepa.metrics import retrieval_hits, spread
from stepjepa.jepa.views import Views

FIELDS = (
    "lm",
    "jepa",
    "jepa_steps",
    "hits",
    "chance",
    "retrieved",
    "spread",
    "spread_batches",
    "examples",
    "without_pair",
    "tokens",
)


EXAMPLE_SUMS = ("lm", "tokens", "jepa", "pairs", "ranked", "hits", "chance")


def example_sums(views: Views, losses: Tensor, examples: int, shares: Tensor, example: Tensor) -> Tensor:
    """Sums of each example of a batch, `[B, 7]` in the order of `EXAMPLE_SUMS`.

    Args:
        views: of an unpacked batch.
        losses: JEPA losses, `[N]`, of its pairs or of what the objective counts.
        examples: B, the number of examples.
        shares, example: the weight and the example of each of them, `[N]`.
    """

    def per_example(values: Tensor, index: Tensor) -> Tensor:
        sums = torch.zeros(examples, dtype=torch.float32, device=values.device)
        return sums.index_add_(0, index, values.float())

    pairs = len(views.context)
    rival = losses.new_full((pairs,), float(pairs > 1))  # a single pair has nothing to be told apart from
    hits = retrieval_hits(views.context, views.target)
    columns = [
        per_example(views.token_losses, views.token_examples),
        per_example(torch.ones_like(views.token_losses), views.token_examples),
        per_example(losses * shares, example),
        per_example(shares, example),
        per_example(rival, views.example),
        per_example(rival * hits, views.example),
        per_example(rival / max(pairs, 1), views.example),
    ]
    return torch.stack(columns, dim=1)


def summarise(sums: Tensor, gamma: float, lbd: float) -> dict[str, float]:
    """Losses over all labelled tokens and all pairs of a set, from `example_sums` of its examples `[N, 7]`."""
    lm, tokens, jepa, pairs, ranked, hits, chance = sums.double().sum(dim=0).tolist()
    metrics = {"lm_loss": lm / max(tokens, 1), "without_pair": float((sums[:, 3] == 0).double().mean())}
    if pairs:
        metrics["jepa_loss"] = jepa / pairs
    if ranked:
        metrics |= {"retrieval": hits / ranked, "retrieval_chance": chance / ranked}
    metrics["loss"] = gamma * metrics["lm_loss"] + lbd * metrics.get("jepa_loss", 0.0)
    return metrics


def collapse_message(logs: Mapping[str, float], history: Sequence[Mapping[str, Any]], threshold: float) -> str | None:
    """What a `target_spread` near 0 means, and what to try; None if it is not near 0.

    The first figure of a run never is one: of a single step, and before training could have changed anything.

    Args:
        logs: as `Monitor.read` gives them.
        history: the logs before these.
        threshold: what is near 0.
    """
    first = next((entry["target_spread"] for entry in history if "target_spread" in entry), None)
    if first is None or logs.get("target_spread", threshold) >= threshold:
        return None
    spread = logs["target_spread"]
    from_the_start = "Targets were nearly one vector from the start, and still are"
    what = "Targets are collapsing" if spread < first else from_the_start
    return (
        f"{what}: the mean cosine distance between different steps' embeddings is {spread:.1e}, at first {first:.1e} "
        f"(0 means all are the same vector), while the true next step is found in {logs['retrieval']:.0%} of cases by "
        f"{logs['retrieval_chance']:.0%} chance. A small JEPA loss means nothing then. Try a smaller lbd, "
        "target_gradient=False, target_model=frozen, jepa_loss_type=infonce (with pairs=consecutive and pooling=mean), "
        "or a lower learning rate."
    )


class Monitor(TrainerCallback):
    """Running sums of one logging interval. Time spent evaluating and saving is not counted."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(len(FIELDS), device=device)
        self.restart()

    def restart(self) -> None:
        """Begin a new interval."""
        self.sums.zero_()
        self.terms: dict[str, Tensor] = {}
        self.steps = 0
        self.since = self.last_step = time.perf_counter()

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Speed is measured from the first step, not from when the trainer was made."""
        self.restart()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Remember when training was last at work."""
        self.last_step = time.perf_counter()

    def on_evaluate(self, *args: Any, **kwargs: Any) -> None:
        """Take out the time since the last step."""
        now = time.perf_counter()
        self.since += now - self.last_step
        self.last_step = now

    on_save = on_evaluate

    def start_step(self, jepa: bool) -> None:
        """Begin an optimizer step, with or without a JEPA term."""
        self.steps += 1
        self.add(jepa_steps=float(jepa))

    def add(self, **values: Tensor | float) -> None:
        """Add to named sums."""
        for name, value in values.items():
            self.sums[FIELDS.index(name)] += value.detach() if isinstance(value, Tensor) else value

    def add_terms(self, means: Mapping[str, Tensor]) -> None:
        """Add the terms of an objective that has several."""
        for name, value in means.items():
            self.terms[name] = self.terms.get(name, 0) + value.detach().to(self.sums)

    @torch.no_grad()
    def add_views(self, views: Views, batch: dict[str, Tensor], jepa: bool) -> None:
        """Count tokens and, if the step has a JEPA term, examples without a pair; with two pairs or more,
        retrieval and spread of the microbatch."""
        self.add(tokens=(batch["example_ids"] >= 0).sum())
        if jepa:
            examples = batch["example_ids"].amax() + 1
            self.add(examples=examples, without_pair=examples - len(views.example.unique()))
        if len(views.context) > 1:
            self.add(hits=retrieval_hits(views.context, views.target).sum(), chance=1.0, retrieved=len(views.context))
            self.add(spread=spread(views.target), spread_batches=1.0)

    def progress(self, reduce: Callable[[Tensor], Tensor], names: Sequence[str]) -> dict[str, Any]:
        """The sums so far over all processes, ready for JSON; `reduce` and `names` as for `read`."""
        terms = {name: reduce(self._term(name)).item() for name in names}
        return {"sums": reduce(self.sums.clone()).tolist(), "terms": terms, "steps": self.steps}

    def restore(self, progress: Mapping[str, Any], first: bool) -> None:
        """Go on from `progress`; the first process has the sums of all."""
        self.steps = progress["steps"]
        if first:
            self.sums += torch.tensor(progress["sums"], device=self.sums.device)
            self.terms = {name: self.sums.new_tensor(total) for name, total in progress["terms"].items()}

    def _term(self, name: str) -> Tensor:
        """The sum of a term on this process, which may have had none of it."""
        return self.terms.get(name, self.sums.new_zeros(())).clone()

    def read(self, processes: int, reduce: Callable[[Tensor], Tensor], names: Sequence[str]) -> dict[str, float]:
        """The interval's figures over all processes; empties the sums.

        Args:
            processes: number of processes (a per-process count of steps is divided by it).
            reduce: function that sums a tensor over processes.
            names: of the terms that any process has, in the same order for each, so that all sum alike.
        """
        sums = dict(zip(FIELDS, reduce(self.sums).tolist(), strict=True))
        elapsed = time.perf_counter() - self.since
        steps = max(self.steps, 1)
        logs = {"lm_loss": sums["lm"] / steps}
        jepa_steps = sums["jepa_steps"] / processes
        if jepa_steps:
            logs["jepa_loss"] = sums["jepa"] / jepa_steps
            logs |= {f"jepa_{name}": reduce(self._term(name)).item() / jepa_steps for name in names}
            logs["without_pair"] = sums["without_pair"] / max(sums["examples"], 1)
        if sums["retrieved"]:
            logs["retrieval"] = sums["hits"] / sums["retrieved"]
            logs["retrieval_chance"] = sums["chance"] / sums["retrieved"]
            logs["target_spread"] = sums["spread"] / sums["spread_batches"]
        logs["tokens_per_second"] = sums["tokens"] / max(elapsed, 1e-9)
        self.restart()
        return logs
