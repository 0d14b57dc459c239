"""What was found, in sentences for the README: claims that are checked and numbers that are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from parts.cells import between, grid, in_points, quartiles, record

from stepjepa.records import points


def findings() -> list[str]:
    """What was found, for the README: six sentences, each a claim that is checked and numbers that are read.

    Raises:
        ValueError: the records no longer say what a sentence says.
    """
    arms, weights = validation("lambda"), grid("lambda")["comparisons"]
    values = [pair["value"] for pair in weights]
    detectable = [100 * pair["detectable"] for pair in weights]
    widest = max(weights, key=lambda pair: pair["high"] - pair["low"])
    mrr = {name: arm["first_reciprocal_rank_all"]["mean"] for name, arm in arms.items()}
    plain, others = mrr["lbd=0"], [value for name, value in mrr.items() if name != "lbd=0"]
    energy = {name: arm["first_mean_energy_target"]["mean"] for name, arm in arms.items()}
    chance = arms["lbd=0"]["first_reciprocal_rank_all_chance"]["mean"]

    controls = [pair for pair in grid("isolation")["comparisons"] if pair["baseline"] == "plain"]
    largest = max(controls, key=lambda pair: abs(pair["value"]))
    wrong = validation("isolation")["shuffled target"]["first_reciprocal_rank_all"]["mean"]
    few = {pair["arm"]: pair for pair in grid("lowdata")["comparisons"]}
    models = next(arm for arm in record("compare-builtin")["arms"] if arm["name"] == "lbd0.1")["difference"]
    price = {name: arm["ratio_to_plain"] for name, arm in record("bench-4k")["arms"].items()}
    to_labels = record("bench-4k")["arms"]["single_pass_first"]["ratio_to_plain_labels"]["median"]

    shown = [pair for name in ("lambda", "isolation", "pairs", "lowdata") for pair in grid(name)["comparisons"]]
    for claim, holds in {
        "no difference in accuracy is shown": all(pair["low"] <= 0 <= pair["high"] for pair in [*shown, models]),
        "the true next step is found better with the term": min(others) > plain > chance,
        "the targets narrow": energy["lbd=0"] == min(energy.values()),
        "the largest difference is that of longer training": largest["arm"] == "plain, 1.125 × the steps",
        "a wrong target finds no next step": abs(wrong - plain) < 0.1 * (max(others) - plain),
    }.items():
        if not holds:
            raise ValueError(f"the records no longer say that {claim}: write the findings anew")
    sentences = (
        f"No effect of λ on accuracy is shown: over {len(arms)} values with {len(weights[0]['seeds'])} seeds each, "
        f"differences to λ = 0 lie between {points(min(values))} and {points(max(values))} points and every interval "
        f"holds 0 (the widest: {between(widest)}); true differences of {min(detectable):.1f} to {max(detectable):.1f} "
        "points would have been found four times out of five, smaller ones remain possible "
        "([table](figures/README.md#how-much-of-it)).",
        f"The representations change: the true next step is found {min(others) / plain:.0f} to "
        f"{max(others) / plain:.0f} times as well (MRR {min(others):.3f} to {max(others):.3f}; without the term "
        f"{plain:.3f}, by chance {chance:.3f}), and the targets narrow from {min(energy.values()):.0%} to "
        f"{max(energy.values()):.1%} of their energy in one direction ([table](figures/README.md#how-much-of-it)).",
        "No control arm differs from plain fine-tuning in accuracy; the largest difference is for spending the time on "
        f"longer plain training, {in_points(largest)}, and a wrong target finds the next step no better than none "
        f"does (MRR {wrong:.3f}) ([table](figures/README.md#is-it-the-isolated-next-step-that-matters)).",
        f"No gain is shown where data are few: {in_points(few['problems=64, lbd=0.1'])} with 64 problems, "
        f"{in_points(few['problems=256, lbd=0.1'])} with 256 ([table](figures/README.md#few-data)).",
        f"Two models of one seed, on 1,000 questions, differ by {in_points(models)}, p = {models['p']:.2f}: a "
        "statement about two models, not about the method ([table](figures/README.md#did-it-help)).",
        f"One pass takes {quartiles(price['single_pass_first'])} times as long as plain fine-tuning for the first pair "
        f"and {quartiles(price['single_pass_all'])} times for all, two passes {quartiles(price['two_pass_first'])} and "
        f"{quartiles(price['two_pass_all'])} (medians and quartiles); against plain fine-tuning with the head on "
        f"labelled positions only, the first pair takes {to_labels:.2f} times ([table](figures/README.md#the-price)).",
    )
    return [f"{number}. {sentence}" for number, sentence in enumerate(sentences, 1)]


def validation(name: str) -> dict[str, Mapping[str, Any]]:
    """Figures on the validation split of every arm of a grid."""
    return {arm: entry["validation"] for arm, entry in grid(name)["arms"].items()}
