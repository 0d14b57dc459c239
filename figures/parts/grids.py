"""Grids of arms and seeds: accuracies with their differences, what each objective aligns, transfer, equal data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from parts.cells import DATA, difference, grid, in_points, mean_of, percent, record_or_none, still_to_run, table

from stepjepa.experiments.benchmark_objectives import FROM_FILE
from stepjepa.experiments.grid_file import read_grid, shipped_grids
from stepjepa.experiments.options import cost_of
from stepjepa.experiments.report import has_finished, to_plain
from stepjepa.experiments.store import GridFolder
from stepjepa.visualization.words import arm_in_words

GRID_COLUMNS = {
    "LM loss": ("lm_loss", ".3f"),
    "MRR, all steps": ("first_reciprocal_rank_all", ".3f"),
    "R@1, own steps": ("first_recall_own", ".0%"),
    "target rank": ("first_effective_rank_target", ".1f"),
    "target energy": ("first_mean_energy_target", ".3f"),
}


def grid_table(name: str, baseline: str = "") -> list[str]:
    """Accuracy, paired differences and representations of every arm; `baseline` names what the last two are to."""
    said = grid(name)
    pairs = said["comparisons"]
    single = len({pair["arm"] for pair in pairs}) == len(pairs)  # each to a baseline of its own: one column does
    bases = [None] if single else list(dict.fromkeys(pair["baseline"] for pair in pairs))
    heads = [f"to {arm_in_words(base or baseline or pairs[0]['baseline'])}, points (95%)" for base in bases]
    rows = [["arm", "seeds", "test accuracy (95%)", *heads, *GRID_COLUMNS]]
    for arm, entry in said["arms"].items():
        if not entry["seeds"]:
            continue
        test, validation = entry["test"], entry["validation"]
        cells = [arm_in_words(arm), str(len(entry["seeds"])), percent(test["accuracy"], test["low"], test["high"])]
        for base in bases:
            own = [pair for pair in pairs if pair["arm"] == arm and base in (None, pair["baseline"])]
            cells += [difference(pair) for pair in own] or [""]
        for key, form in GRID_COLUMNS.values():
            mean = validation.get(key, {}).get("mean")
            cells.append("–" if mean is None else format(mean, form))
        rows.append(cells)
    lines = table(*rows)
    return lines + still_to_run(said)


def transfer() -> list[str]:
    """Every arm on every kind of problem: accuracy with its difference to plain, LM loss, and the true next step."""
    said = grid("transfer")
    paired = {pair["arm"]: pair["by_source"] for pair in said["comparisons"]}
    kinds = {"builtin": "stories", "programs": "programs", "logic": "logic"}
    heads = [f"{kind}: {head}" for kind in kinds.values() for head in ("right (95%)", "to plain, points (95%)")]
    right = [["trained on, objective", *heads]]
    heads = [f"{kind}: {head}" for kind in kinds.values() for head in ("LM loss", "MRR (chance)")]
    found = [["trained on, objective", *heads]]
    for arm, entry in said["arms"].items():
        right.append([arm])
        found.append([arm])
        for source in kinds:
            own = entry["by_source"][source]
            to_plain = difference(paired[arm][source]) if arm in paired else ""
            right[-1] += [percent(own["accuracy"], own["low"], own["high"]), to_plain]
            rank, chance = (own[f"consecutive_reciprocal_rank_all{end}"]["mean"] for end in ("", "_chance"))
            found[-1] += [f"{own['lm_loss']['mean']:.3f}", f"{rank:.3f} ({chance:.3f})"]
    return [*table(*right), "", *table(*found), *still_to_run(said)]


def equal_data() -> list[str]:
    """Each objective after every number of epochs, and those that the validation split chooses set against plain."""
    if not known("equal-data"):
        return ["Not measured yet: `stepjepa ablate equal-data`."]
    said = grid("equal-data")
    arms, after_as_many = said["arms"], to_plain(said)
    heads = ["objective", "seeds", "validation: LM loss", "validation: right", "test: right (95%)"]
    rows = [[*heads, "to plain after as many epochs, points (95%)", "test: LM loss", "test: R@1, all steps"]]
    for arm, entry in arms.items():
        test, validation = entry["test"], entry["validation"]
        cells = [arm, str(len(entry["seeds"])), mean_of(validation, "lm_loss", ".4f"), f"{validation['accuracy']:.1%}"]
        cells.append(percent(test["accuracy"], test["low"], test["high"]))
        cells.append("" if arm.startswith("plain") else difference(after_as_many[arm]))
        rows.append([*cells, mean_of(test, "lm_loss", ".4f"), mean_of(test, "consecutive_recall_all", ".1%")])
    best = best_epochs(said)
    paired = {(pair["arm"], pair["baseline"]): pair for pair in said["comparisons"]}
    found = []
    for kind in best:
        if pair := paired.get((best[kind], best["plain"])):
            found.append(f"{kind} {in_points(pair)}, smallest detectable difference {100 * pair['detectable']:.1f}")
    chosen = f"Lowest LM loss on the validation split: {'; '.join(best.values())}."
    lines = [chosen, f"To plain at its best, on the test split: {'; '.join(found)}."]
    return [*table(*rows), "", " ".join(lines), *still_to_run(said)]


def best_epochs(said: Mapping[str, Any]) -> dict[str, str]:
    """Of each objective of `equal-data` the arm with the lowest LM loss on the validation split."""
    losses = {arm: entry["validation"]["lm_loss"]["mean"] for arm, entry in said["arms"].items()}
    kinds = dict.fromkeys(arm.split(",")[0] for arm in losses)
    return {kind: min((arm for arm in losses if arm.startswith(kind)), key=lambda arm: losses[arm]) for kind in kinds}


OBJECTIVE_GRIDS = ("objectives-screen", "rivals-screen", "objectives", "replication", "pretrained", "pretrained-gsm8k")
"""Screenings of one seed, what is replicated with several, on other problems too, and somebody else's model."""


def known(name: str) -> bool:
    """Whether a shipped grid of that name has a finished cell."""
    return name in shipped_grids() and has_finished(read_grid(name), GridFolder(DATA / "ablation"))


def objectives_table(name: str) -> list[str]:
    """Objectives side by side: what they align, what they cost, what they find. One line while nothing has been run.

    Of one seed the validation split and no test of accuracy, as it is there to choose by; of several the test split.
    """
    if not known(name):
        return [f"Not measured yet: `stepjepa ablate {name}`."]
    return objective_rows(grid(name), record_or_none("bench-objectives"))


def objective_rows(said: Mapping[str, Any], bench: Mapping[str, Any] | None) -> list[str]:
    """The table of `objectives_table`, from the report of a grid and the record of `stepjepa bench --objectives`."""
    screening = max(len(entry["seeds"]) for entry in said["arms"].values()) == 1
    split = "validation" if screening else "test"
    pairs = to_plain(said)
    compared = ["seeds", "accuracy (95%)", "to plain, points (95%)", "detectable", "not worse by 1 point"]
    heads = ["objective", *(["accuracy"] if screening else compared)]
    figures = [
        *("LM loss", "R@1, all steps", "MRR, all steps", "R@1, own steps"),
        *("rank: context, target", "energy in the mean direction: context, target"),
    ]
    detects = any(entry["detection"] for entry in said["arms"].values())
    rows = [[*heads, *figures, *(["AUC: energy, −log-probability"] if detects else []), "time, × plain"]]
    for arm, entry in said["arms"].items():
        own = entry[split]
        cells = [arm_in_words(arm)]
        if screening:
            cells.append(f"{own['accuracy']:.1%}")
        else:
            cells += [str(len(entry["seeds"])), percent(own["accuracy"], own["low"], own["high"]), "", "", ""]
            if pair := pairs.get(arm):
                detectable, shown = pair["detectable"], pair["not_worse"]
                cells[-3:] = [difference(pair), "–" if detectable is None else f"{100 * detectable:.1f}", "–"]
                if shown:
                    cells[-1] = f"{'yes' if shown['shown'] else 'not shown'}, p = {shown['p']:.3f}"
        cells.append(mean_of(own, "lm_loss", ".4f"))
        for figure, form in (("recall_all", ".1%"), ("reciprocal_rank_all", ".3f"), ("recall_own", ".0%")):
            cells.append(mean_of(own, f"consecutive_{figure}", form))
        for figure, form in (("effective_rank", ".0f"), ("mean_energy", ".2f")):
            views = (mean_of(own, f"consecutive_{figure}_{view}", form) for view in ("context", "target"))
            cells.append(", ".join(views))
        if detects:
            found = entry["detection"]
            areas = (mean_of(found.get(score, {}), "mean", ".2f") for score in ("energy", "log_probability"))
            cells.append(", ".join(areas))
        rows.append([*cells, cost(said, arm, bench)])
    first = next(iter(said["arms"].values()))[split]
    steps = mean_of(first, "consecutive_pairs", ",.0f")
    chance = mean_of(first, "consecutive_recall_all_chance", ".2%")
    return [
        *table(*rows),
        "",
        f"The {split} split; all steps: the {steps} consecutive pairs held out, R@1 by chance {chance}."
        + (" One seed: accuracies within several points of each other are alike." if screening else ""),
        *([] if screening else to_controls(said)),
        *still_to_run(said),
    ]


def to_controls(said: Mapping[str, Any]) -> list[str]:
    """Differences to those baselines of a report that have a JEPA term, a line each."""
    lines = []
    for base in dict.fromkeys(pair["baseline"] for pair in said["comparisons"]):
        if said["arms"][base]["options"].get("lbd") != 0:
            pairs = [pair for pair in said["comparisons"] if pair["baseline"] == base]
            found = "; ".join(f"{arm_in_words(pair['arm'])} {difference(pair)}" for pair in pairs)
            lines += ["", f"To {arm_in_words(base)}, points (95%): {found}."]
    return lines


def cost(said: Mapping[str, Any], arm: str, bench: Mapping[str, Any] | None) -> str:
    """What an arm's training takes, as a multiple of plain fine-tuning's: time of a step by the bench × steps."""
    options = {name: said["arms"][name]["options"] for name in said["arms"]}
    plain = next((own for own in options.values() if own.get("lbd") == 0), {})
    lines = {} if bench is None else bench["arms"]
    first_pass = {name: entry for name, entry in lines.items() if FROM_FILE not in name}
    timed = {entry["cost"]: entry["ratio"]["median"] for entry in first_pass.values()}
    ratio = 1.0 if options[arm].get("lbd") == 0 else timed.get(cost_of(options[arm]))
    if ratio is None:
        return "–"
    return f"{ratio * options[arm].get('max_steps', 1) / plain.get('max_steps', 1):.2f}"
