"""What happened to the representations? Metrics of embedding files, side by side.

Files are compared only if they embed the same steps, and what was read otherwise in one than in another (pooling, say,
as each run was trained) is named, so that every other difference is the model's. A file made with
`stepjepa embed --random_weights` is the control: what an untrained network of the same architecture makes of the same
text, for files that were read alike. A verdict needs more than one figure, because a low alignment loss, or a high
rank, alone says neither "aligned" nor "collapsed".
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from stepjepa.analysis.embeddings import Embeddings
from stepjepa.analysis.intervals import Measure, bootstrap_mean, cluster_jackknife
from stepjepa.analysis.measurements import BLOCKS, DRAWS, measure, pair_views, true_ranks
from stepjepa.analysis.projections import VIEWS, view_rows
from stepjepa.analysis.similarity import linear_cka
from stepjepa.analysis.trained import predicts_at_predictor
from stepjepa.jepa.metrics import NARROW, centered_margin, reciprocal_rank
from stepjepa.records import UserError

RULE = (
    "Rule: FOUND when the interval of MRR among all steps lies above chance and that of the centred margin above 0. "
    f"NARROW when at least {NARROW:.0%} of the energy of context or target views lies in their mean direction. "
    "Collapsed: narrow and not found. Narrow: narrow, yet found in the little that is left. Aligned: found, not narrow "
    "and, where a control of the same architecture is given, beyond it in both figures (intervals of the paired "
    "differences above 0). Not aligned: anything else."
)
SAME = {
    "questions": ("ids",),
    "solutions": ("steps",),
    "view pairs": ("pair_example", "context_step", "target_step"),
    "steps": ("state_example", "state_step"),
}
"""What files must have in common to be compared."""
READ = ("isolation", "pooling", "predictors")
"""What of a layout files need not have in common."""
TRAINED = {"head": "none", "target_scale": "none", "target_layer": -1, "target_top": 1}
"""What of a training changes how its views are read, and what each is where nothing is changed."""


def inspect(
    files: Mapping[str, Embeddings], seed: int = 0, progress: Callable[[str], None] = lambda _text: None
) -> dict[str, Any]:
    """The report on one or several sets of embeddings.

    Args:
        files: label → embeddings, all of the same steps; those with random weights are controls.
        seed: of resampling, folds and control tasks.
        progress: called with what comes next.

    Returns:
        `files` (controls last), each with `label`, `control`, `info`, `measures`, `against_control` and `verdict`;
        `read_differently`, what was not the same for all; `cka` for each two of them; `data` and `rule` as text.

    Raises:
        UserError: files of other questions, solutions or pairs, or too few problems.
    """
    check_same_steps(files)
    ordered = sorted(files, key=lambda label: is_control(files[label]))
    controls = [label for label in ordered if is_control(files[label])]
    reported = []
    for label in ordered:
        embeddings = files[label]
        measures = measure(embeddings, lambda part, label=label: progress(f"{label}: {part}"), seed)  # type: ignore[misc]
        control = next((name for name in controls if _is_control_of(files[name], embeddings)), None)
        against = None
        if control is not None and label not in controls:
            against = against_control(embeddings, files[control], seed)
        reported.append(
            {
                "label": label,
                "control": label in controls,
                "info": embeddings.info,
                "measures": measures,
                "control_label": control if against else None,
                "against_control": against,
                "verdict": verdict(measures, against, label in controls),
            }
        )
    cka = []
    for one, other in itertools.combinations(ordered, 2):
        progress(f"linear CKA: {one} – {other}")
        cka.append({"files": [one, other], **similarity_of(files[one], files[other], seed)})
    first = files[ordered[0]]
    layout = first.info.get("layout", {})
    count = len(np.unique(first.problem))
    problems = f"{count:,} problems"
    if count < len(first.questions):
        problems += f" ({len(first.questions):,} solutions)"
    kinds = ", ".join(f"{name} {layout[name]}" for name in ("pairs", "isolation") if name in layout)
    return {
        "files": reported,
        "read_differently": read_differently(files),
        "cka": cka,
        "rule": RULE,
        "data": f"{problems}, {len(first.context):,} view pairs ({kinds}), {len(first.states):,} steps",
    }


def is_control(embeddings: Embeddings) -> bool:
    """Whether the embeddings come from random weights."""
    return embeddings.info.get("model", {}).get("random_weights") is not None


def how_read(embeddings: Embeddings) -> dict[str, Any]:
    """What decides a view beside the model and the text, by name."""
    layout, data, model = (embeddings.info.get(part, {}) for part in ("layout", "data", "model"))
    read = {name: layout[name] for name in READ if name in layout}
    read |= {name: data[name] for name in ("system_prompt",) if name in data}
    read |= {name: model[name] for name in ("as_trained", "dtype", "bf16", "targets") if name in model}
    if "as_trained" in model:
        training = model.get("training") or {}
        own = model["as_trained"] and predicts_at_predictor(training)
        read |= {name: training.get(name, usual) if own else usual for name, usual in TRAINED.items()}
    return read


def read_differently(files: Mapping[str, Embeddings]) -> list[str]:
    """What was not the same for all files, each as a line: no difference between those is the model's alone.

    Random weights have no targets but their own.
    """
    read = {label: how_read(embeddings) for label, embeddings in files.items()}
    for label, embeddings in files.items():
        if is_control(embeddings):
            read[label].pop("targets", None)
    lines = []
    for name in dict.fromkeys(name for own in read.values() for name in own):
        labels: dict[str, list[str]] = {}
        for label, own in read.items():
            if name in own:
                labels.setdefault(str(own[name]), []).append(label)
        if len(labels) > 1:
            said = "; ".join(f"{value} in {', '.join(those)}" for value, those in labels.items())
            lines.append(f"{name.replace('_', ' ')}: {said}")
    return lines


def _is_control_of(control: Embeddings, other: Embeddings) -> bool:
    """Whether one is what random weights make of the same: architecture and reading."""
    models = [embeddings.info.get("model", {}) for embeddings in (control, other)]
    same = all(models[0].get(name) == models[1].get(name) for name in ("architecture", "layers", "hidden_size"))
    return same and not read_differently({"control": control, "other": other})


def check_same_steps(files: Mapping[str, Embeddings]) -> None:
    """Raise `UserError` unless all files embed the same questions, solutions and view pairs."""
    (first, base), *others = files.items()
    for label, other in others:
        for what, names in SAME.items():
            for name in names:
                one, two = getattr(base, name), getattr(other, name)
                if not (np.array_equal(one, two) if isinstance(one, np.ndarray) else one == two):
                    raise UserError(
                        f"{label}: other {what} than {first}, so no figure would be the model's alone; embed the same "
                        "data with the same options, or inspect each file by itself"
                    )


def against_control(embeddings: Embeddings, control: Embeddings, seed: int = 0) -> dict[str, Measure]:
    """Differences to the control over the same pairs: centred margin and reciprocal rank among all steps."""
    own, other = _pair_scores(embeddings), _pair_scores(control)
    problems = embeddings.problem[embeddings.pair_example]
    return {
        name: bootstrap_mean((own[name] - other[name]).numpy(), problems, DRAWS, seed).beside(chance=0.0)
        for name in own
    }


def _pair_scores(embeddings: Embeddings) -> dict[str, torch.Tensor]:
    """The figures of each pair, `[P]`, by which it is judged whether context views find their target views."""
    return {
        "centered_margin": centered_margin(*pair_views(embeddings)),
        "reciprocal_rank_all": reciprocal_rank(true_ranks(embeddings)["all"].ranks),
    }


def similarity_of(one: Embeddings, other: Embeddings, seed: int = 0) -> dict[str, Measure]:
    """Linear CKA of each view of two models."""
    similar = {}
    for view in VIEWS:
        x, y = view_rows(one, view), view_rows(other, view)

        def cka(at: np.ndarray, x: Any = x.vectors, y: Any = y.vectors) -> float:
            rows = torch.from_numpy(at)
            return float(linear_cka(x[rows], y[rows]))

        similar[view] = cluster_jackknife(cka, one.problem[x.example], BLOCKS, seed)
    return similar


def verdict(
    measures: Mapping[str, Measure], against: Mapping[str, Measure] | None, control: bool = False
) -> dict[str, Any]:
    """A word and a sentence by `RULE`, from several figures at once."""
    margin, rank = measures["centered_margin"], measures["reciprocal_rank_all"]
    energy = {view: measures[f"mean_energy_{view}"].estimate for view in ("context", "target")}
    beyond_chance = above(margin, 0) and above(rank, rank.chance or 0)
    beyond_control = None if against is None else all(above(figure, 0) for figure in against.values())
    narrow = max(energy.values()) >= NARROW
    if narrow:
        word = "narrow" if beyond_chance else "collapsed"
    else:
        word = "aligned" if beyond_chance and beyond_control is not False else "not aligned"
    if not beyond_chance:
        finding = "Context views do not find their target views beyond chance"
    elif beyond_control is None:
        finding = "Context views find their target views beyond chance (no random-weights control to compare with)"
    elif beyond_control:
        finding = "Context views find their target views beyond chance and beyond random weights"
    else:
        finding = "Context views find their target views beyond chance, but not beyond random weights"
    start = "the control, what random weights make of the text" if control else f"{word}. {finding}"
    shares = ", ".join(f"{view} {share:.0%}" for view, share in energy.items())
    text = (
        f"{start}: MRR {rank.estimate:.3f} (chance {rank.chance or 0:.3f}), centred margin {margin.estimate:.3f}. "
        f"Energy in the mean direction: {shares}."
    )
    own = measures.get("reciprocal_rank_own")
    if own is not None and not above(own, own.chance or 0):
        text += " Within a problem the next step is not told from its other steps."
    return {
        "word": "control" if control else word,
        "found": beyond_chance,
        "beyond_control": beyond_control,
        "narrow": narrow,
        "text": text,
    }


def above(figure: Measure, level: float) -> bool:
    """Whether the whole interval lies above a level; never for figures that are not finite."""
    return figure.low is not None and math.isfinite(figure.low) and figure.low > level
