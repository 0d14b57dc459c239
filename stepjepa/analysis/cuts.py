r"""Where to cut a solution without separators: a language model reads it, and one of several methods says where.

Every method is a splitter as those of `data/steps.py` are: a text → the offsets at which it is cut, never inside a word
or inside mathematics. What each makes of a token, before which a cut may stand:

- `surprisal`: −log p(token), in nats: a new step begins with what was not foreseen;
- `entropy`: of the distribution that the token is drawn from, high or low as is better where the level is fitted: much
  can follow the end of a step, unless the model is sure of a separator;
- `separator`: log p(a token that begins a new line in its place);
- `change_points`: the hidden states change their mean there (Killick et al. 2012, PELT; `ruptures`);
- `head`: logistic regression on the hidden states of the token and of the one before it;
- `uniform`, `random`: controls that know nothing but the mean length of a step.

All have a level that is fitted to solutions with known boundaries; the head is trained on them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from stepjepa.analysis.reader import Reader, Reading
from stepjepa.models.checkpoint import locate_model
from stepjepa.records import UserError, as_json, written_whole

METHODS = {
    "head": "logistic regression on hidden states",
    "surprisal": "surprisal of the token",
    "entropy": "entropy before the token",
    "separator": "probability of a line end",
    "change_points": "change points of hidden states",
    "uniform": "uniform cuts",
    "random": "random cuts",
}
"""The methods, with what each goes by."""
KIND = "stepjepa boundary model"
PENALTIES = np.geomspace(0.05, 50, 31)  # of a change point, as multiples of the variance of a token's state


@dataclass(frozen=True)
class Cutter:
    """One of `METHODS`, fitted."""

    method: str
    level: float
    """A cut stands where the score is at least this; of `change_points` the penalty, of the controls the mean length of
    a step in tokens."""
    tensors: dict[str, np.ndarray] = field(default_factory=dict)
    """`mean`, `deviation` `[D]` of the states that were fitted to; of the head also `weight` `[2D]` and `bias` `[1]`;
    of `entropy` the `sign` `[1]`."""

    def scores(self, reading: Reading) -> np.ndarray:
        """`[T]`: how much speaks for a cut before each token. For the methods that score tokens one by one."""
        if self.method == "head":
            return _neighbours(self._scaled(reading)) @ self.tensors["weight"] + self.tensors["bias"]
        if self.method == "entropy":
            return self.tensors["sign"] * reading.entropy
        return reading.surprisal if self.method == "surprisal" else reading.separator

    def boundaries(self, reading: Reading) -> np.ndarray:
        """`[T]` booleans: the tokens that a cut stands before."""
        marked = np.zeros(len(reading.starts), dtype=bool)
        places = np.flatnonzero(reading.allowed)
        if not len(places):
            return marked
        if self.method == "change_points":
            cuts = _change_points(self._scaled(reading), self.level)
            marked[_nearest(places, cuts)] = True
        elif self.method == "uniform":
            marked[_nearest(places, np.arange(self.level, len(marked) - self.level / 2, self.level))] = True
        elif self.method == "random":
            count = min(round(len(marked) / self.level) - 1, len(places))
            generator = np.random.default_rng(reading.starts)  # the same for the same text
            marked[generator.choice(places, size=max(count, 0), replace=False)] = True
        else:
            marked = reading.allowed & (self.scores(reading) >= self.level)
        return marked

    def offsets(self, reading: Reading) -> list[int]:
        """The offsets in the text at which it is cut."""
        return [int(start) for start in reading.starts[self.boundaries(reading)]]

    def _scaled(self, reading: Reading) -> np.ndarray:
        return (reading.states - self.tensors["mean"]) / self.tensors["deviation"]


def fit(method: str, readings: Sequence[Reading], known: Sequence[np.ndarray], *, seed: int = 0) -> Cutter:
    """Fit one of `METHODS` to solutions whose boundaries are known.

    Scores are fitted to four fifths of the solutions, the level to the last fifth, which the head has not seen: where
    F1 of the boundaries of all of them together is best.

    Args:
        readings: of solutions without separators.
        known: `[T]` booleans of each, as `Reading.boundaries` gives them.
        seed: of the order in which solutions are dealt.

    Raises:
        UserError: fewer than ten solutions, or none with a boundary.
    """
    if len(readings) < 10 or not any(marked.any() for marked in known):
        raise UserError(f"{len(readings)} solutions with boundaries to learn from; at least ten are needed")
    if method in ("uniform", "random"):
        steps = sum(int(marked.sum()) + 1 for marked in known)
        return Cutter(method, sum(map(len, known)) / steps)
    order = np.random.default_rng(seed).permutation(len(readings))
    held = len(readings) // 5
    held_out = [(readings[i], known[i]) for i in order[:held]]
    fitted = [(readings[i], known[i]) for i in order[held:]]
    tensors = {}
    if method in ("head", "change_points"):
        states = np.concatenate([reading.states for reading, _ in fitted])
        tensors = {"mean": states.mean(axis=0), "deviation": states.std(axis=0) + 1e-6}
    if method == "head":
        tensors |= _logistic(Cutter(method, 0, tensors), fitted)
    tried = [Cutter(method, 0, tensors)]
    if method == "change_points":
        tried = [Cutter(method, float(penalty), tensors) for penalty in PENALTIES]
    elif method == "entropy":
        tried = [Cutter(method, 0, {"sign": np.array([sign], dtype=np.float32)}) for sign in (1, -1)]
    if method != "change_points":
        tried = [replace(cutter, level=_level(cutter, held_out)) for cutter in tried]
    return max(tried, key=lambda cutter: _f1([(cutter.boundaries(reading), marked) for reading, marked in held_out]))


def _level(cutter: Cutter, solutions: Sequence[tuple[Reading, np.ndarray]]) -> float:
    scores = np.concatenate([cutter.scores(reading)[reading.allowed] for reading, _ in solutions])
    labels = np.concatenate([marked[reading.allowed] for reading, marked in solutions])
    return best_level(scores, labels, sum(int(marked.sum()) for _, marked in solutions))


def best_level(scores: np.ndarray, labels: np.ndarray, boundaries: int) -> float:
    """The level at which taking all scores from it on gives the best F1 = 2 · hits / (taken + boundaries)."""
    order = np.argsort(-scores, kind="stable")
    ordered, hits = scores[order], np.cumsum(labels[order])
    quality = 2 * hits / (np.arange(1, len(scores) + 1) + boundaries)
    last = np.append(ordered[1:] < ordered[:-1], True)  # equal scores are taken together
    best = int(np.argmax(np.where(last, quality, -1)))
    return float(ordered[best] if best + 1 == len(ordered) else (ordered[best] + ordered[best + 1]) / 2)


def _neighbours(states: np.ndarray) -> np.ndarray:
    """`[T, 2D]`: the state of the token before, and the token's own; the first has itself before it."""
    return np.concatenate([states[[0, *range(len(states) - 1)]], states], axis=1)


def _logistic(cutter: Cutter, solutions: Sequence[tuple[Reading, np.ndarray]]) -> dict[str, np.ndarray]:
    from sklearn.linear_model import LogisticRegression

    rows = [_neighbours(cutter._scaled(reading))[reading.allowed] for reading, _ in solutions]
    labels = [marked[reading.allowed] for reading, marked in solutions]
    model = LogisticRegression(C=0.01, max_iter=1000).fit(np.concatenate(rows), np.concatenate(labels))
    return {"weight": model.coef_[0].astype(np.float32), "bias": model.intercept_.astype(np.float32)}


def _change_points(states: np.ndarray, penalty: float) -> np.ndarray:
    """Where the mean of the states changes: the partition with the least sum of squares plus penalties."""
    try:
        from ruptures import KernelCPD
    except ImportError as error:
        raise UserError("change points need ruptures: pip install 'stepjepa[boundaries]'") from error
    if len(states) < 4:
        return np.array([])
    found = KernelCPD(kernel="linear", min_size=2).fit(states).predict(pen=penalty * states.shape[1])
    return np.array(found[:-1])


def _nearest(places: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The place nearest to each wanted one; the earlier of two."""
    if not len(wanted):
        return np.array([], dtype=int)
    return places[np.abs(places[None, :] - wanted[:, None]).argmin(axis=1)]


def _f1(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    hits = sum(int((found & known).sum()) for found, known in pairs)
    return 2 * hits / max(1, sum(int(found.sum() + known.sum()) for found, known in pairs))


def splitter(reader: Reader, cutter: Cutter) -> Callable[[str], list[int]]:
    """A splitter for :func:`stepjepa.data.steps.split_steps`: text → cut offsets."""

    def cuts(text: str) -> list[int]:
        return cutter.offsets(reader(text)) if text.strip() else []

    return cuts


# ---- the file ------------------------------------------------------------------------------------------------


def save(
    cutter: Cutter,
    path: str | Path,
    *,
    model_name: str,
    layer: int,
    dtype: str = "float32",
    revision: str | None = None,
) -> None:
    """Write a boundary model: its numbers, and which model has to read for it, down to the weights."""
    about = {
        "kind": KIND,
        "method": cutter.method,
        "level": cutter.level,
        "model_name": model_name,
        "revision": revision,
        "weights": locate_model(model_name, revision).identity(),
        "layer": layer,
        "dtype": dtype,
    }
    tensors = cutter.tensors or {"none": np.zeros(1, dtype=np.float32)}  # a file without a tensor cannot be read
    with written_whole(path) as temporary:
        save_file(tensors, temporary, metadata={"about": json.dumps(as_json(about))})


def load(path: str | Path) -> tuple[Cutter, dict[str, Any]]:
    """Read a boundary model: the cutter, and what `save` was told of the model that reads.

    Raises:
        UserError: it is none, or is damaged.
    """
    try:
        with safe_open(path, framework="np") as file:
            about = json.loads((file.metadata() or {}).get("about", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys() if name != "none"}  # noqa: SIM118
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise UserError(f"{path} cannot be read as a boundary model: {error}") from error
    if about.get("kind") != KIND or about.get("method") not in METHODS:
        raise UserError(f"{path} is no boundary model; `stepjepa boundaries` makes one")
    return Cutter(about["method"], about["level"], tensors), about


def load_splitter(path: str | Path, device: str = "auto") -> Callable[[str], list[int]]:
    """The splitter of a boundary model, with the language model that it was fitted to.

    Raises:
        UserError: it cannot be read, or the language model is not there or has other weights.
    """
    from stepjepa.models.loading import choose_device, load_model

    cutter, about = load(path)
    located = locate_model(about["model_name"], about["revision"])
    if located.identity() != about["weights"]:
        raise UserError(
            f"{path} was fitted to other weights of {about['model_name']!r}; run `stepjepa boundaries` again"
        )
    model, tokenizer = load_model(
        about["model_name"], predictors=located.predictors, revision=about["revision"], dtype=about["dtype"]
    )
    model.to(choose_device(device))
    return splitter(Reader(model, tokenizer, about["layer"]), cutter)
