"""What happened to the representations? Metrics of embedding files, side by side.

Files are compared only if they embed the same steps, so every difference is the model's. A file made with
`stepjepa embed --random_weights` is the control: what an untrained network of the same architecture makes of the same
text. A verdict needs more than one figure, because a low alignment loss, or a high rank, alone says neither
"aligned" nor "collapsed".
"""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from stepjepa.analysis.embeddings import Embeddings
from stepjepa.analysis.intervals import Measure, bootstrap_mean, cluster_jackknife
from stepjepa.analysis.measurements import BLOCKS, DRAWS, measure, pair_views, true_ranks
from stepjepa.analysis.projections import VIEWS, view_rows
from stepjepa.analysis.similarity import linear_cka
from stepjepa.jepa.metrics import NARROW, centered_margin, metrics_of, reciprocal_rank
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
        `cka` for each two of them; `data` and `rule` as text.

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
        control = next((name for name in controls if _same_architecture(files[name], embeddings)), None)
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
    kinds = ", ".join(f"{name} {layout[name]}" for name in ("pairs", "isolation") if name in layout)
    return {
        "files": reported,
        "cka": cka,
        "rule": RULE,
        "data": f"{len(first.questions):,} problems, {len(first.context):,} view pairs ({kinds}), "
        f"{len(first.states):,} steps",
    }


def is_control(embeddings: Embeddings) -> bool:
    """Whether the embeddings come from random weights."""
    return embeddings.info.get("model", {}).get("random_weights") is not None


def _same_architecture(one: Embeddings, other: Embeddings) -> bool:
    models = [embeddings.info.get("model", {}) for embeddings in (one, other)]
    return all(models[0].get(name) == models[1].get(name) for name in ("architecture", "layers", "hidden_size"))


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
    return {
        name: bootstrap_mean((own[name] - other[name]).numpy(), embeddings.pair_example, DRAWS, seed).beside(chance=0.0)
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

        similar[view] = cluster_jackknife(cka, x.example, BLOCKS, seed)
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


# ---- as text: one column a file, sections of figures, verdicts with their rule -------------------------------

LABEL, COLUMN, WIDTH = 24, 24, 120
PER_TABLE = (WIDTH - LABEL) // COLUMN

Rows = dict[str, str]
"""Label → name of a figure."""
VIEW_TITLES = {"context": "context views", "target": "target views", "state": "step ends in context"}
COHERENCE: Rows = {
    "consecutive steps": "consecutive",
    "non-consecutive steps": "distant",
    "other problems' steps": "across",
    "correct − wrong": "consecutive_correct_minus_wrong",
    "… less non-consecutive": "coherence_correct_minus_wrong",
}
PROBED: Rows = {"context → next step": "context", "target view": "target", "step end in context": "state"}


def sections() -> dict[str, Rows]:
    """Title of each section of the report and its rows."""
    pairs = {metric.label: name for name, metric in metrics_of("pairs", "inspect").items()}
    for where, words in (("all", "all steps"), ("own", "same problem")):
        pairs |= {f"{m.label}, {words}": f"{name}_{where}" for name, m in metrics_of("ranks", "inspect").items()}
    views = {metric.label: name for name, metric in metrics_of("view", "inspect").items()}
    coherence = "centred cosine with (correct − wrong: among solutions of equal length)"
    return {
        "view pairs: does the context view find its target view?": pairs,
        **{title: _of_view(views, view) for view, title in VIEW_TITLES.items()},
        f"coherence of {VIEW_TITLES['state']}: {coherence}": _of_view(COHERENCE, "state"),
        f"coherence of {VIEW_TITLES['target']}: {coherence}": _of_view(COHERENCE, "target"),
        "order of the steps: share of step pairs in the right order": {
            "step ends in context": "order_state",
            "… without last step": "order_state_without_last",
            "target views": "order_target",
        },
        "operation of the step: accuracy of a linear probe": {k: f"operation_{view}" for k, view in PROBED.items()},
        "running value after the step: R² of a linear probe": {k: f"value_{view}" for k, view in PROBED.items()},
    }


def _of_view(rows: Rows, view: str) -> Rows:
    return {label: f"{name}_{view}" for label, name in rows.items()}


_BELOW = {
    "chance": "by chance",
    "control": "control task",
    "lookup": "by the wording alone",
    "null_high": "shuffled, 97.5%",
}


def report_text(report: Mapping[str, Any]) -> str:
    """The whole report, at most 120 characters wide; more than four files take several tables."""
    files = report["files"]
    lines: list[str] = [f"{report['data']}; 95% intervals over problems in brackets"]
    for start in range(0, len(files), PER_TABLE):
        lines += ["", *_table(files[start : start + PER_TABLE])]
    if report["cka"]:
        lines += ["", *_cka(report["cka"])]
    lines.append("")
    for file in files:
        lines += textwrap.wrap(f"{file['label']}: {file['verdict']['text']}", WIDTH, subsequent_indent="  ")
    return "\n".join([*lines, "", *textwrap.wrap(report["rule"], WIDTH)])


def _table(files: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield " " * LABEL + "".join(f"{file['label'][: COLUMN - 1]:>{COLUMN}}" for file in files)
    if any(file["control"] for file in files):
        yield " " * LABEL + "".join(f"{'random weights' if file['control'] else '':>{COLUMN}}" for file in files)
    measures = [file["measures"] for file in files]
    for title, rows in sections().items():
        known = [(label, name) for label, name in rows.items() if any(name in file for file in measures)]
        if not known:
            continue
        yield title
        for i, (label, name) in enumerate(known):
            entries = [file.get(name) for file in measures]
            yield _line(f"  {label}", [_interval(entry) for entry in entries])
            following = _column(measures, known[i + 1][1], "chance") if i + 1 < len(known) else []
            for key, text in _BELOW.items():
                values = _column(measures, name, key)
                same_below = key == "chance" and values == following  # one line of chance serves both figures
                if set(values) - {0.0, None} and not same_below:
                    yield _line(f"    {text}", [_number(value) for value in values])


def _column(measures: Sequence[Mapping[str, Any]], name: str, key: str) -> list[float | None]:
    """The chance level, or another figure beside the estimate, of every file."""
    entries = [file.get(name, {}) for file in measures]
    return [entry.get("chance") if key == "chance" else (entry.get("extra") or {}).get(key) for entry in entries]


def _line(label: str, cells: Sequence[str]) -> str:
    return f"{label:{LABEL}}" + "".join(f"{cell:>{COLUMN}}" for cell in cells)


def _interval(entry: Mapping[str, Any] | None) -> str:
    if entry is None or entry["estimate"] is None:
        return "–"
    places = _places(entry["estimate"])
    if entry["low"] is None:
        return f"{entry['estimate']:.{places}f}"
    return f"{entry['estimate']:.{places}f} [{entry['low']:.{places}f}, {entry['high']:.{places}f}]"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.{_places(value)}f}"


def _places(value: float) -> int:
    return 3 if abs(value) < 1 else max(0, 2 - math.floor(math.log10(abs(value))))


def _cka(entries: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield f"{'linear CKA (1: same up to rotation)':48}" + "".join(
        f"{title:>{COLUMN}}" for title in VIEW_TITLES.values()
    )
    for entry in entries:
        pair = " – ".join(label[:22] for label in entry["files"])
        yield f"  {pair:46}" + "".join(f"{_interval(entry[view]):>{COLUMN}}" for view in VIEW_TITLES)
