"""Names of arms and models, as options and files spell them → words for a reader: `lbd0.1` → λ = 0.1."""

from __future__ import annotations

import re

ARMS = {
    "plain": "plain fine-tuning",
    "plain_labels": "plain, head on labelled tokens",
    "single_pass_first": "single pass, first pair",
    "single_pass_all": "single pass, all pairs",
    "two_pass_first": "two passes, first pair",
    "two_pass_all": "two passes, all pairs",
    "doubled_batch": "doubled batch, first pair",
    "step": "step isolated",
    "none": "not isolated",
    "sink": "step and first token",
    "first": "first pair",
    "consecutive": "consecutive pairs",
    "horizon 2": "two steps ahead",
    "l2 matched": "L2, λ matched",
    "mse matched": "MSE, λ matched",
    "infonce matched": "InfoNCE, λ matched",
}
"""Arms of the benchmark and of the shipped grids."""
LOSSES = {"l2": "L2", "mse": "MSE", "smooth_l1": "smooth L1", "infonce": "InfoNCE"}
SYMBOLS = {"lbd": "λ", "lambda": "λ", "gamma": "γ"}
SYMBOL = re.compile(r"(lbd|lambda|gamma)[ _=-]?(\d+(?:\.\d+)?(?:e-?\d+)?)")
"""`lbd0.1`, `lambda_0.3`, `gamma=1`."""


def in_words(name: str) -> str:
    """A name that follows options, in words: `problems=64, lbd=0` → 64 problems, λ = 0. Others stay as they are."""
    if match := SYMBOL.fullmatch(name):
        return f"{SYMBOLS[match[1]]} = {float(match[2]):g}"
    parts = [tuple(map(str.strip, part.partition("="))) for part in name.split(", ")]
    if not all(equals for _, equals, _ in parts):
        return name
    return ", ".join(filter(None, (_option(option, value) for option, _, value in parts)))


def in_legend(name: str) -> str:
    """A name for matplotlib's legends, which leave out those that begin with "_"."""
    return f" {name}" if name.startswith("_") else name


def arm_in_words(name: str) -> str:
    """An arm of the benchmark or of a grid, in words."""
    return ARMS.get(name) or in_words(name)


def _option(option: str, value: str) -> str:
    """An option and its value; nothing where the gradient flows into the target, as it does by default."""
    if option == "target_gradient":
        return "" if value == "true" else "target fixed"
    if option == "jepa_loss_type":
        return LOSSES.get(value, value)
    if option == "problems":
        return f"{value} problems"
    return in_words(f"{option}{value}") if option in SYMBOLS else f"{option.replace('_', ' ')} = {value}"
