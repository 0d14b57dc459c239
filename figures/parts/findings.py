"""What was found, in sentences for the README: claims that are checked and numbers that are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from parts.cells import between, difference, grid, in_points, mean_of, percent, quartiles, record, table, two_samples
from parts.grids import best_epochs

from stepjepa.experiments.report import to_plain
from stepjepa.records import points


def objectives_found() -> list[str]:
    """How many objectives were screened; accuracy and retrieval of those that were replicated with several seeds."""
    said = grid("objectives")
    pairs = to_plain(said)
    plain = said["arms"]["plain"]
    screened = {
        address
        for name in ("objectives-screen", "rivals-screen")
        for arm in grid(name)["arms"].values()
        for address in arm["addresses"]
        if arm["options"].get("lbd") != 0
    }
    introduction = (
        f"All results are from a CPU; intervals are 95%. Of {len(screened)} objectives and rivals that were screened, "
        "two were chosen and run with "
        f"{len(plain['seeds'])} new seeds beside plain fine-tuning and controls: built-in model (1.75 million "
        f"parameters), {plain['options']['problems']:,} story problems seen once, {plain['options']['max_steps']} "
        f"optimizer steps, {plain['test']['questions']} test questions, the true next step among "
        f"{plain['test']['consecutive_pairs']['mean']:,.0f} ([all figures](figures/README.md#which-objective)):"
    )
    rows = [["objective", "right (95%)", "to plain, points (95%)", "true next step first"]]
    for arm, entry in said["arms"].items():
        test = entry["test"]
        cells = [arm, percent(test["accuracy"], test["low"], test["high"])]
        cells.append(difference(pairs[arm]) if arm in pairs else "")
        rows.append([*cells, mean_of(test, "consecutive_recall_all", ".1%")])
    return [introduction, "", *table(*rows)]


def findings() -> list[str]:
    """What was found, for the README: sentences, each a claim that is checked and numbers that are read.

    Raises:
        ValueError: the records no longer say what a sentence says.
    """
    sentences = [*_objectives(), _pretrained(), *_classic(), _price()]
    return [f"{number}. {sentence}" for number, sentence in enumerate(sentences, 1)]


def _check(claims: Mapping[str, bool]) -> None:
    for claim, holds in claims.items():
        if not holds:
            raise ValueError(f"the records no longer say that {claim}: write the findings anew")


def _paired(name: str) -> dict[tuple[str, str], Mapping[str, Any]]:
    """Comparisons of a grid, by arm and baseline."""
    return {(pair["arm"], pair["baseline"]): pair for pair in grid(name)["comparisons"]}


def _objectives() -> list[str]:
    """Those that were replicated: against their controls, on other problems, over several passes."""
    first, again, several = _paired("objectives"), _paired("replication"), _paired("equal-data")
    best = best_epochs(grid("equal-data"))
    gain, to_control = first["frozen", "plain"], first["frozen", "frozen, shuffled"]
    elsewhere, passes = again["frozen", "plain"], several[best["frozen"], best["plain"]]
    more, aligned = first["plain, 1.45 × the steps", "plain"], several[best["aligned"], best["plain"]]
    arms = grid("objectives")["arms"]
    found = {arm: entry["test"]["consecutive_recall_all"]["mean"] for arm, entry in arms.items()}
    among = arms["plain"]["test"]["consecutive_pairs"]["mean"]
    _check(
        {
            "frozen targets gain over plain fine-tuning": gain["low"] > 0,
            "frozen targets gain over shuffled ones": to_control["low"] > 0,
            "the gain is not seen on other problems": elsewhere["low"] <= 0 <= elsewhere["high"],
            "nor over several passes": passes["low"] <= 0 <= passes["high"],
            "aligned neither gains nor loses there": aligned["low"] <= 0 <= aligned["high"],
            "more problems bring most": more["value"] == max(pair["value"] for pair in first.values()),
        }
    )
    return [
        f"Targets of the model before training (`frozen`) gain {in_points(gain)} on these stories, and "
        f"{in_points(to_control)} over shuffled ones ([table](figures/README.md#which-objective)). The gain did not "
        f"come again: on logic, another kind of problems, it is {in_points(elsewhere)}, where "
        f"{100 * elsewhere['detectable']:.1f} would have been found four times out of five "
        f"([table](figures/README.md#other-problems)), and with 256 stories seen several times, each objective at its "
        f"best number of epochs, {in_points(passes)} ([table](figures/README.md#equal-data)). So no objective is "
        "recommended for accuracy; more problems bring more than any: 1.45 times as many plain optimizer steps on "
        f"fresh ones, {in_points(more)}.",
        f"`aligned` is the one that aligns: the true next step comes first among {among:,.0f} in "
        f"{found['aligned']:.0%} of the cases (plain {found['plain']:.1%}), without narrowing, and with no difference "
        f"in accuracy shown; over several passes {in_points(aligned)}.",
    ]


def _pretrained() -> str:
    (pair,) = grid("pretrained")["comparisons"]
    _check({"no difference of the pretrained model is shown": pair["low"] <= 0 <= pair["high"]})

    def found(name: str) -> dict[str, float]:
        arms = grid(name)["arms"].items()
        return {arm: entry["test"]["consecutive_recall_all"]["mean"] for arm, entry in arms}

    stories, gsm8k = found("pretrained"), found("pretrained-gsm8k")
    gemma = {file["label"]: file["measures"]["recall_all"]["estimate"] for file in record("inspect-gemma")["files"]}
    of_epoch = {file["label"]: file["measures"] for file in record("inspect-gsm8k")["files"]}
    epoch = {name: own["mean_energy_target"]["estimate"] for name, own in of_epoch.items()}
    ranks = {name: own["reciprocal_rank_all"] for name, own in of_epoch.items()}
    losses = [record(f"train-gsm8k-{name}")["after"]["eval_lm_loss"] for name in ("plain", "classic")]
    plain, classic = (record(f"evaluate-gsm8k-{name}")["accuracy"]["ours"] for name in ("plain", "classic-two-threads"))
    apart = two_samples(classic, plain)
    _check(
        {
            "an epoch of classic finds the next step no better": ranks["classic"]["high"] < ranks["plain"]["high"],
            "an epoch of classic costs no LM loss": abs(losses[0] - losses[1]) < 0.002,
            "no difference in accuracy is shown after an epoch": apart["low"] < 0 < apart["high"],
        }
    )
    return (
        "In pretrained models, 32 optimizer steps of `aligned` under LoRA bring the true next step to the first place "
        f"in {stories['aligned']:.1%} of the cases with SmolLM2-135M-Instruct on easy stories (plain "
        f"{stories['plain']:.1%}), in {gsm8k['aligned']:.0%} on GSM8K ({gsm8k['plain']:.0%}), and in "
        f"{gemma['gemma-aligned']:.0%} with Gemma 3 270M on the stories ({gemma['gemma-plain']:.1%}). Accuracy, "
        f"measured of the first with {len(pair['seeds'])} seeds, differs by {in_points(pair)}. "
        f"Over a whole epoch of GSM8K, `classic` brings the targets of SmolLM2 to {epoch['classic']:.0%} in one "
        f"direction (plain {epoch['plain']:.0%}) at the same LM loss, finds the next step no better, and answers "
        f"{classic['accuracy']:.1%} of {classic['n']:,} questions (plain {plain['accuracy']:.1%}) "
        "([tables](figures/README.md#a-pretrained-model))."
    )


def _classic() -> list[str]:
    """The original objective: over λ, against its controls, with few data."""
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

    shown = [pair for name in ("lambda", "isolation", "pairs", "lowdata") for pair in grid(name)["comparisons"]]
    _check(
        {
            "no difference in accuracy is shown": all(pair["low"] <= 0 <= pair["high"] for pair in shown),
            "the true next step is found better with the term": min(others) > plain > chance,
            "the targets narrow": energy["lbd=0"] == min(energy.values()),
            "the largest difference is that of longer training": largest["arm"] == "plain, 1.125 × the steps",
            "another problem's step as the target finds no next step": abs(wrong - plain) < 0.1 * (max(others) - plain),
        }
    )
    return [
        f"The classic objective shows no effect of λ on accuracy: over {len(arms)} values with "
        f"{len(weights[0]['seeds'])} seeds each, differences to λ = 0 lie between {points(min(values))} and "
        f"{points(max(values))} points and every interval holds 0 (the widest: {between(widest)}); true differences of "
        f"{min(detectable):.1f} to {max(detectable):.1f} points would have been found four times out of five, smaller "
        "ones remain possible ([table](figures/README.md#how-much-of-it)).",
        f"It changes the representations: the true next step is found {min(others) / plain:.0f} to "
        f"{max(others) / plain:.0f} times as well (MRR {min(others):.3f} to {max(others):.3f}; without the term "
        f"{plain:.3f}, by chance {chance:.3f}), and the targets narrow from {min(energy.values()):.0%} to "
        f"{max(energy.values()):.1%} of their squared length in one direction "
        "([table](figures/README.md#how-much-of-it)).",
        "None of its control arms differs from plain fine-tuning in accuracy; the largest difference is for 1.125 "
        f"times as many plain optimizer steps, the time that the term costs, {in_points(largest)}, and a "
        f"step of another problem as the target finds the next step no better than none does (MRR {wrong:.3f}) "
        "([table](figures/README.md#is-it-the-isolated-next-step-that-matters)). Nor is a gain shown where data are "
        f"few: {in_points(few['problems=64, lbd=0.1'])} with 64 problems, {in_points(few['problems=256, lbd=0.1'])} "
        "with 256 ([table](figures/README.md#few-data)).",
    ]


def _price() -> str:
    price = {name: arm["ratio_to_plain"] for name, arm in record("bench-4k")["arms"].items()}
    to_labels = record("bench-4k")["arms"]["single_pass_first"]["ratio_to_plain_labels"]["median"]
    return (
        f"One pass takes {quartiles(price['single_pass_first'])} times as long as plain fine-tuning for the first pair "
        f"and {quartiles(price['single_pass_all'])} times for all, two passes {quartiles(price['two_pass_first'])} and "
        f"{quartiles(price['two_pass_all'])} (medians and quartiles); against plain fine-tuning with the head on "
        f"labelled positions only, the first pair takes {to_labels:.2f} times ([table](figures/README.md#the-price))."
    )


def validation(name: str) -> dict[str, Mapping[str, Any]]:
    """Figures on the validation split of every arm of a grid."""
    return {arm: entry["validation"] for arm, entry in grid(name)["arms"].items()}
