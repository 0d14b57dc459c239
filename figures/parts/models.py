"""Single models: the main job and its plain arm, the comparison, representations, GSM8K and other test files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from parts.cells import difference, in_points, measure, percent, record, table, two_samples
from scipy.stats import fisher_exact

from stepjepa.visualization.words import in_words


def train() -> list[str]:
    """The main job and its plain arm."""
    rows = [["run", "LM loss", "JEPA loss", "retrieval (chance 12.5%)", "held-out accuracy (95% interval)"]]
    for name, command in (
        ("train-builtin", "`stepjepa train` (λ = 0.1)"),
        ("train-builtin-plain", "`stepjepa train --lbd 0`"),
    ):
        moments = record(name)["before"], record(name)["after"]
        row = [command]
        for key, form in (("lm_loss", ".3f"), ("jepa_loss", ".3f"), ("retrieval", ".1%")):
            row.append(" → ".join(format(moment[f"eval_{key}"], form) for moment in moments))
        row.append(" → ".join(percent(moment["accuracy"], *moment["accuracy_interval"]) for moment in moments))
        rows.append(row)
    return table(*rows)


VIEWS = {
    "recall_all": "R@1, all steps",
    "recall_own": "R@1, own steps",
    "effective_rank_context": "rank: context",
    "effective_rank_target": "target",
    "mean_energy_context": "energy in the mean direction: context",
    "mean_energy_target": "target",
}
"""What `stepjepa inspect` says of a pretrained model's views → its column."""


def second_family() -> list[str]:
    """Short runs of another pretrained model, with the term and without."""
    views = {file["label"].removeprefix("gemma-"): file["measures"] for file in record("inspect-gemma")["files"]}
    rows = [["objective", "LM loss", *VIEWS.values()]]
    for name, measures in views.items():
        run = record(f"train-gemma-{name}")
        losses = " → ".join(f"{run[when]['eval_lm_loss']:.3f}" for when in ("before", "after"))
        rows.append([name, losses, *(measure(measures[key]) for key in VIEWS)])
    return table(*rows)


EPOCH = {
    "untrained": ("train-gsm8k-plain", "before"),
    "plain": ("train-gsm8k-plain", "after"),
    "classic": ("train-gsm8k-classic", "after"),
    "classic, two threads": ("train-gsm8k-classic-two-threads", "after"),
}
"""Models of the epoch of GSM8K → the run and the moment that say their loss."""
ANSWERED = {"untrained": "untrained", "plain": "plain", "classic, two threads": "classic-two-threads"}
"""Those of them that answered the test questions → the end of the name of the summary."""


def gsm8k_epoch() -> list[str]:
    """A pretrained model before and after an epoch of GSM8K: answers by three readings, LM loss, views."""
    files = [file for name in ("inspect-gsm8k", "inspect-gsm8k-two-threads") for file in record(name)["files"]]
    views = {file["label"]: file["measures"] for file in files}
    rows = [["model", "right: ours", "strict", "flexible", "cut off", "LM loss", *VIEWS.values()]]
    for name, (run, when) in EPOCH.items():
        loss = f"{record(run)[when]['eval_lm_loss']:.3f}"
        rows.append([name, *_answers(name), loss, *(measure(views[name][key]) for key in VIEWS)])
    return [*table(*rows), "", f"Classic, two threads, to plain: {_unpaired('classic, two threads', 'plain')}."]


def _answers(name: str) -> list[str]:
    """Accuracy by each reading, and the share cut off; – where no question was asked."""
    if name not in ANSWERED:
        return ["–"] * 4
    summary = record(f"evaluate-gsm8k-{ANSWERED[name]}")
    read = (summary["accuracy"][reading] for reading in ("ours", "strict", "flexible"))
    shares = [percent(reading["accuracy"], *reading["interval"]) for reading in read]
    return [*shares, f"{summary['truncated']['share']:.0%}"]


def _unpaired(name: str, baseline: str) -> str:
    """The difference of two accuracies as of two samples (Newcombe's interval, Fisher's exact test)."""
    arm, other = (record(f"evaluate-gsm8k-{ANSWERED[each]}")["accuracy"]["ours"] for each in (name, baseline))
    apart = in_points(two_samples(arm, other))
    p = fisher_exact([[each["correct"], each["n"] - each["correct"]] for each in (arm, other)]).pvalue
    return f"{arm['correct']} questions right and {other['correct']}, {apart}, Fisher's exact p = {p:.2f}"


def compare() -> list[str]:
    """Three models on 1,000 problems."""
    head = ["model", "accuracy (95% interval)", "difference to λ = 0, points", "exact McNemar", "smallest detectable"]
    rows = [head]
    for arm in record("compare-builtin")["arms"]:
        paired = arm.get("difference")
        rest = ["", "", ""]
        if paired:
            p = "p < 0.001" if paired["p"] < 0.001 else f"p = {paired['p']:.2f}"
            rest = [difference(paired), p, f"{100 * paired['detectable']:.1f}"]
        rows.append([in_words(arm["name"]), percent(arm["accuracy"], arm["low"], arm["high"]), *rest])
    return table(*rows)


REPRESENTATIONS = {
    "reciprocal_rank_all": "MRR of the true next step among all (chance {:.3f})",
    "recall_own": "R@1 among the same problem's steps (chance {:.3f})",
    "centered_margin": "centred cosine margin",
    "mean_energy_context": "energy in the mean direction, context views",
    "effective_rank_context": "effective rank of 160, context views",
    "effective_rank_target": "effective rank of 160, target views",
    "operation_context": "operation of the next step, read from context views",
}


def representations() -> list[str]:
    """What `stepjepa inspect` says of four models."""
    names = {"random": "random weights", "untrained": "untrained", "lbd0": "λ = 0", "lbd0.1": "λ = 0.1"}
    files = {file["label"]: file for file in record("representations")["files"]}
    rows = [["", *names.values()]]
    for key, label in REPRESENTATIONS.items():
        entries = [files[name]["measures"][key] for name in names]
        rows.append([label.format(entries[0]["chance"] or 0), *map(measure, entries)])
    words = [files[name]["verdict"]["word"] for name in names]
    rows.append(["verdict", *("the control" if word == "control" else word for word in words)])
    return table(*rows)


def gsm8k() -> list[str]:
    """The built-in model on GSM8K."""
    run = record("train-gsm8k")
    log = [entry for entry in run["log_history"] if "lm_loss" in entry]
    training, tested = (log[0], log[-1]), (run["before"], run["after"])

    def losses(entry: Mapping[str, float], prefix: str = "") -> str:
        return f"{entry[f'{prefix}lm_loss']:.3f}, {entry[f'{prefix}jepa_loss']:.3f}"

    def accuracy(entry: Mapping[str, Any]) -> str:
        low, high = entry["accuracy_interval"]
        return f"{entry['accuracy']:.0%} ({low:.1%}–{high:.1%})"

    return table(
        ["", "first", "last"],
        ["training: LM loss, JEPA loss", *map(losses, training)],
        [
            f"training: retrieval in the microbatch (chance {log[-1]['retrieval_chance']:.0%})",
            *(f"{entry['retrieval']:.1%}" for entry in training),
        ],
        ["200 test problems: LM loss, JEPA loss", *(losses(entry, "eval_") for entry in tested)],
        [
            f"200 test problems: retrieval (chance {tested[1]['eval_retrieval_chance']:.1%})",
            *(f"{entry['eval_retrieval']:.1%}" for entry in tested),
        ],
        [f"accuracy on {tested[1]['accuracy_problems']} test problems (95% interval)", *map(accuracy, tested)],
    )


def other_tests() -> list[str]:
    """GSM8K, MATH and OCW courses."""
    names = {"gsm8k_test": "GSM8K test", "math_test": "MATH test", "ocw_test": "OCW courses (Minerva)"}
    sources = record("evaluate-real")["by_source"]
    rows = [["file", "right"]]
    for source, name in names.items():
        entry = sources[source]
        rows.append([name, f"{entry['correct']} of {entry['n']:,}, {percent(entry['accuracy'], *entry['interval'])}"])
    levels = record("evaluate-real")["by_level"].items()
    by_level = "; ".join(f"{level.lower()}: {entry['accuracy']:.1%}" for level, entry in levels)
    return [*table(*rows), "", f"MATH by level: {by_level}."]
