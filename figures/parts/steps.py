"""Steps: mistakes found by energy, the next step retrieved, the best of samples, boundaries without separators."""

from __future__ import annotations

from parts.cells import DATA, difference, percent, record, table
from parts.grids import grid_table

from stepjepa.analysis.cuts import METHODS
from stepjepa.analysis.detection import SCORES

DETECTIONS = ("detect-untrained", "detect-infonce", "detect-smollm2")


def detections() -> list[str]:
    """AUC of wrong against right steps of equal length and position, and what a reader must see beside it."""
    kinds = list(record(DETECTIONS[0])["kinds"])
    rows = [["model", "score", *kinds, "mean of the four"]]
    for name in DETECTIONS:
        entries = record(name)["kinds"]
        for score, words in SCORES.items():
            if score in ("raw", "length", "position"):
                continue
            areas = [entries[kind]["scores"][score]["controlled"] for kind in kinds]
            cells = [f"{a['estimate']:.2f} ({a['low']:.2f}–{a['high']:.2f})" for a in areas]
            mean = sum(a["estimate"] for a in areas) / len(areas)
            shown = f"**{words}**" if score == "energy" else words
            rows.append([record(name)["label"] if score == "energy" else "", shown, *cells, f"{mean:.2f}"])
    entries = record(DETECTIONS[0])["kinds"]
    for score in ("length", "position"):
        areas = [entries[kind]["scores"][score]["pooled"] for kind in kinds]
        cells = [f"{a['estimate']:.2f} ({a['low']:.2f}–{a['high']:.2f})" for a in areas]
        rows.append(["built-in", f"{score}, not controlled", *cells, ""])
    return table(*rows)


def next_steps() -> list[str]:
    """R@1 of the true next step among the right steps of the problems that detection is measured on."""
    rows = [["model", "z-scored", "raw states", "random weights, z-scored", "random weights, raw", "chance"]]
    for name in DETECTIONS:
        found = record(name)["retrieval"]
        cells = [percent(*(max(found[of][key], 0) for key in ("estimate", "low", "high"))) for of in found]
        rows.append([record(name)["label"], *cells, f"{found['raw']['chance']:.2%}"])
    return table(*rows)


def best_of() -> list[str]:
    """What is chosen among eight samples, by energy and otherwise."""
    names = {
        "energy": "lowest energy",
        "greedy": "greedy answer, no sample",
        "first": "first sample",
        "majority": "majority",
        "log_probability": "highest mean log-probability",
        "any": "some sample is right: the bound",
    }
    rows = [["chosen", "accuracy (95% interval)", "energy − it, points", "exact McNemar, Holm", "smallest detectable"]]
    for name, arm in record("best-of-8")["arms"].items():
        cells = ["", "", ""]
        if pair := record("best-of-8")["differences"].get(name):
            least = "–" if pair["detectable"] is None else f"{100 * pair['detectable']:.1f}"
            cells = [difference(pair), f"p = {pair['p_holm']:.3f}", least]
        rows.append([names[name], percent(arm["accuracy"], arm["low"], arm["high"]), *cells])
    return table(*rows)


SEGMENTATIONS = {"boundaries-builtin": "built-in", "boundaries-smollm2": "SmolLM2-135M-Instruct"}
SOURCES = {"builtin": "built-in", "gsm8k": "GSM8K", "math": "MATH"}


def segmentation() -> list[str]:
    """How well boundaries are found without separators, fitted to the same source, and F1 fitted to each other one."""
    heads = ["F1", "F1, ±1 token", "P_k", "WindowDiff"]
    rows = [["model", "tested on", "cut by", *heads, "F1, fitted to another source"]]
    for name in SEGMENTATIONS:
        for source, methods in record(name)["results"].items():
            for method, fitted in methods.items():
                own = fitted.get(source) or fitted["none"]
                cells = [
                    f"{v:.2f} ({a:.2f}–{b:.2f})" for v, a, b in map(own.get, ("f1", "near_f1", "p_k", "window_diff"))
                ]
                others = [
                    f"{SOURCES[of]} {m['f1'][0]:.2f}" for of, m in fitted.items() if of in SOURCES and of != source
                ]
                shown = [SEGMENTATIONS[name], SOURCES[source]] if method == "sentence" else ["", ""]
                rows.append([*shown, METHODS.get(method, f"splitter `{method}`"), *cells, ", ".join(others)])
    return table(*rows)


def detected_steps() -> list[str]:
    """Training on detected steps and on uniform cuts: what stays of the true steps, and the grid."""
    said = []
    for name, words in (("detected", "Detected steps"), ("uniform", "Uniform cuts")):
        kept = record("detected-steps")["arms"][name]
        said.append(
            f"{words} are all the true ones in {kept['same_solutions'] / kept['solutions']:.0%} of the solutions; "
            f"{kept['same_pairs'] / kept['pairs']:.0%} of the true pairs of consecutive steps are among theirs."
        )
    return [*grid_table(str(DATA / "detected-steps.yaml")), "", " ".join(said)]
