"""Training runs as one page: configuration, curves, tables with intervals, verdict, maps, stills, answers.

The explorers' stills carry a hover text for every point and every row of the mask.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from stepjepa.analysis.embeddings import evenly_spaced
from stepjepa.analysis.projections import map_record, similarity_record, spectrum_record
from stepjepa.analysis.report_text import DECIDING, READ_DIFFERENTLY, interval_text, sections
from stepjepa.data.tokens import tokenize_example
from stepjepa.evaluation.compare import accuracy_cell, difference_cells, sentence
from stepjepa.experiments.run_report import Gathered, RunFacts
from stepjepa.jepa.layout import StepJEPACollator
from stepjepa.visualization.comparison import forest
from stepjepa.visualization.embedding_drawing import Palette
from stepjepa.visualization.embedding_drawing import still as embedding_still
from stepjepa.visualization.embedding_points import Points, make_maps
from stepjepa.visualization.embeddings import embedding_map, similarity_map, spectrum
from stepjepa.visualization.mask_pictures import MaskStory
from stepjepa.visualization.masks import still as mask_still
from stepjepa.visualization.page import Html, cards, element, folded, page, picture, shown, table
from stepjepa.visualization.training import loss_curves
from stepjepa.visualization.words import in_words

MAIN = {
    "model_name": "model",
    "train_file": "training data",
    "lbd": "λ",
    "gamma": "γ",
    "jepa_loss_type": "loss",
    "pairs": "view pairs",
    "isolation": "isolation",
    "predictors": "predictor tokens",
    "lora": "LoRA",
    "learning_rate": "learning rate",
    "per_device_train_batch_size": "microbatch",
    "gradient_accumulation_steps": "microbatches an optimizer step",
    "num_train_epochs": "epochs",
    "seed": "seed",
}
MEASURED = {
    "eval_lm_loss": ("LM loss (nats)", ".4f"),
    "eval_jepa_loss": ("JEPA loss", ".4f"),
    "eval_retrieval": ("retrieval of the next step", ".1%"),
    "eval_retrieval_chance": ("… by chance", ".1%"),
    "truncated": ("answers cut off", ".1%"),
}
STILL_PROBLEMS, STILL_VIEWS = 40, ("context", "target")
LONGEST_MASK = 400
"""Tokens of a row that is still drawn."""


def run_page(gathered: Gathered, examples: int = 5) -> str:
    """The page as HTML.

    Args:
        gathered: of `run_report.gather`.
        examples: how many right and how many wrong answers of each run are shown.
    """
    runs = gathered.runs
    title = f"stepjepa: {', '.join(run.name for run in runs)}"
    parts: list[tuple[str, Html]] = []
    if gathered.comparison:
        parts.append(("Did it help?", _comparison(gathered.comparison)))
    parts += [
        ("Configuration", _configuration(runs, gathered.environment)),
        ("Training", Html("".join(map(_training, runs)))),
        ("Answers", _answers(gathered)),
        ("Aligned or collapsed?", _verdicts(gathered.report)),
        ("Maps of the views", _maps(runs)),
        ("Point by point", Html("".join(map(_points, runs)))),
        ("Who may attend to whom", Html("".join(_masks(runs)))),
        ("Examples", Html("".join(_examples(run, examples) for run in runs))),
    ]
    if len(runs) > 1:
        parts.append(("Where the runs differ", _differing(runs, examples)))
    return page(title, parts, _head(gathered))


def _head(gathered: Gathered) -> Html:
    verdicts = {file["label"]: file["verdict"] for file in gathered.report["files"]}
    out = []
    for run in gathered.runs:
        right = run.results.summary["accuracy"]["ours"]
        low, high = right["interval"]
        out.append(element("h3", in_words(run.name)) if len(gathered.runs) > 1 else "")
        out.append(
            cards(
                (f"of {right['n']:,} questions right (95%: {low:.1%}–{high:.1%})", f"{right['accuracy']:.1%}"),
                ("views of consecutive steps", verdicts[run.name]["word"]),
                ("optimizer steps", f"{run.record['optimizer_steps']:,}"),
            )
        )
    return Html("".join(map(shown, out)))


def _comparison(record: Mapping[str, Any]) -> Html:
    heads = ["run", "accuracy % (95%)", "difference (95%)", "bootstrap", "+/−", "p", "p, corrected", "detectable"]
    rows = [[in_words(arm["name"]), accuracy_cell(arm), *_padded(arm["difference"])] for arm in record["arms"]]
    said = [
        sentence({**arm, "name": in_words(arm["name"])}, in_words(record["baseline"]), len(record["arms"]))
        for arm in record["arms"]
        if arm["difference"]
    ]
    return Html(
        element("p", f"{record['questions']:,} questions; differences in points to {in_words(record['baseline'])}.")
        + picture(forest(record), "Accuracy of every run, and its paired difference to the baseline; 95% intervals.")
        + table(heads, rows)
        + "".join(element("p", line) for line in [*said, *(f"Note: {each}" for each in record["warnings"])])
    )


def _padded(difference: Mapping[str, Any] | None) -> list[str]:
    cells = difference_cells(difference)
    return [*cells, *[""] * (6 - len(cells))]


def _configuration(runs: Sequence[RunFacts], environment: Mapping[str, Any]) -> Html:
    settings = [run.record["settings"] for run in runs]
    rows = [[words, *(_value(own.get(name)) for own in settings)] for name, words in MAIN.items()]
    rows.append(["optimizer steps", *(f"{run.record['optimizer_steps']:,}" for run in runs)])
    rows.append(["seconds of training", *(f"{run.record['train_seconds']:,.0f}" for run in runs)])
    names = sorted(set().union(*settings) - set(MAIN))
    rest = [[name, *(_value(own.get(name)) for own in settings)] for name in names]
    head = ["", *(in_words(run.name) for run in runs)]
    about = [("this page", environment), *((run.name, run.record["environment"]) for run in runs)]
    versions = [
        [name, _git(own["git"]), _value(own["hardware"].get("processor")), _packages(own["packages"])]
        for name, own in about
    ]
    return Html(
        table(head, rows)
        + folded("all other settings", table(["setting", *head[1:]], rest))
        + folded("versions and hardware", table(["of", "commit", "processor", "packages"], versions))
    )


def _git(git: Mapping[str, Any] | None) -> str:
    return "–" if git is None else f"{git['commit'][:12]}{' with changes' if git['dirty'] else ''}"


def _packages(packages: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in packages.items())


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "–"
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _training(run: RunFacts) -> Html:
    before, after = run.record["before"], run.record["after"]
    rows = [
        [words, *("–" if moment.get(name) is None else format(moment[name], form) for moment in (before, after))]
        for name, (words, form) in MEASURED.items()
        if name in before or name in after
    ]
    if "accuracy" in after:
        label = f"accuracy on {after['accuracy_problems']} held-out problems (95%)"
        rows.append(
            [label, *(_share(moment.get("accuracy"), moment.get("accuracy_interval")) for moment in (before, after))]
        )
    drawn = ""
    if any("lm_loss" in entry for entry in run.record["log_history"]):
        words = "Losses, retrieval of the next step and target spread over optimizer steps; dots: evaluation data."
        drawn = picture(loss_curves(run.record["log_history"]), f"{in_words(run.name)}. {words}")
    return Html(element("h3", in_words(run.name)) + drawn + table(["", "before", "after"], rows))


def _share(share: float | None, interval: Sequence[float] | None) -> str:
    return "–" if share is None or interval is None else f"{share:.1%} ({interval[0]:.1%}–{interval[1]:.1%})"


def _answers(gathered: Gathered) -> Html:
    rows = []
    for run in gathered.runs:
        summary = run.results.summary
        for reader, found in summary["accuracy"].items():
            words = {"ours": "right", "strict": "strict match", "flexible": "flexible extract"}.get(reader, reader)
            rows.append(
                [
                    in_words(run.name),
                    words,
                    f"{found['correct']:,} of {found['n']:,}",
                    _share(found["accuracy"], found["interval"]),
                ]
            )
        for group in ("by_source", "by_level", "by_type"):
            if len(summary[group]) > 1:
                for value, found in summary[group].items():
                    counted = f"{found['correct']:,} of {found['n']:,}"
                    rows.append(
                        [in_words(run.name), f"right, {value}", counted, _share(found["accuracy"], found["interval"])]
                    )
        cut = summary["truncated"]["share"]
        rows.append([in_words(run.name), "cut off", f"{summary['truncated']['count']:,}", f"{cut:.1%}"])
    where = ", ".join(file["name"] for file in gathered.runs[0].results.summary["test_files"])
    return Html(
        element("p", f"Questions: {where}. Intervals are over questions.")
        + table(["run", "answers", "", "share (95%)"], rows)
    )


def _verdicts(report: Mapping[str, Any]) -> Html:
    files = report["files"]
    lines = [element("p", element("b", in_words(file["label"])), f": {file['verdict']['text']}") for file in files]
    head = ["", *(in_words(file["label"]) for file in files), "chance"]

    def rows(shown_rows: Mapping[str, str]) -> list[list[str]]:
        known = {label: [file["measures"].get(name) for file in files] for label, name in shown_rows.items()}
        return [
            [label, *map(interval_text, entries), _chance(entries)] for label, entries in known.items() if any(entries)
        ]

    every = [element("h3", title) + table(head, rows(own)) for title, own in sections().items() if rows(own)]
    return Html(
        "".join(lines)
        + element("p", f"{report['data']}; 95% intervals over problems.", class_="quiet")
        + "".join(element("p", f"{READ_DIFFERENTLY}: {line}") for line in report["read_differently"])
        + table(head, rows(DECIDING))
        + element("p", report["rule"], class_="quiet")
        + folded("every figure", *every)
    )


def _chance(entries: Sequence[Mapping[str, Any] | None]) -> str:
    levels = [entry["chance"] for entry in entries if entry and entry.get("chance") is not None]
    return f"{levels[0]:.3g}" if levels else ""


def _maps(runs: Sequence[RunFacts]) -> Html:
    maps = [map_record(run.embeddings, run.name, seeds=(0, 1)) for run in runs]
    drawn: str = picture(
        embedding_map(*maps, color="view"), "Context and target views: PCA in the unit circle, and t-SNE of two seeds."
    )
    drawn += picture(
        spectrum(*(spectrum_record(run.embeddings, run.name) for run in runs)), "Singular values of the views."
    )
    for run in runs:
        first = np.unique(run.embeddings.pair_example)[:3].tolist()
        record = {"label": run.name, **similarity_record(run.embeddings, first, "context", "target")}
        drawn += picture(similarity_map(record), f"{in_words(run.name)}: cosines between the steps of three problems.")
    return Html(drawn)


def _points(run: RunFacts) -> Html:
    places = evenly_spaced(len(run.embeddings.questions), STILL_PROBLEMS)
    points = Points(run.embeddings.take(places), (np.asarray(places) + 1).tolist())
    [drawn] = make_maps([points], STILL_VIEWS, 0, 30)
    rows = np.flatnonzero(~np.isnan(drawn.xy[:, 0]))
    codes, legend = Palette([points]).paint(points, "step", rows)
    line = f"{in_words(run.name)}: views of {len(points.numbers)} problems; point at one for its words."
    still = embedding_still(points, drawn, codes, legend, int(rows[0]), line, how="")
    return element("div", Html(still), class_="still")


def _masks(runs: Sequence[RunFacts]) -> Iterator[Html]:
    """One mask for each way of reading views among the runs."""
    drawn = []
    for run in runs:
        if run.layout in drawn:
            continue
        drawn.append(run.layout)
        row = tokenize_example(run.example, run.tokenizer)
        story = MaskStory(StepJEPACollator(run.tokenizer, run.layout)([row]), partial(_token, run.tokenizer))
        mask = story.picture("single-pass")
        names = ", ".join(in_words(each.name) for each in runs if each.layout == run.layout)
        yield element("h3", names)
        if len(mask.tokens) > LONGEST_MASK:
            yield element("p", f"The example has {len(mask.tokens):,} tokens in branch layout, too many to draw.")
        else:
            yield element("div", Html(mask_still(mask, how="Point at a row for its words.")), class_="still")


def _token(tokenizer: Any, token_id: int) -> str:
    """A token's text on one line; a space alone is a dot."""
    text = str(tokenizer.decode([token_id]))
    return (text.strip(" ") or "·").replace("\n", "\\n").replace("\t", "\\t")


def _examples(run: RunFacts, count: int) -> Html:
    out = [element("h3", in_words(run.name))]
    for right in (True, False):
        rows = [row for row in run.results.rows if bool(row["correct"]) is right]
        words = "right" if right else "wrong"
        out.append(element("p", f"{len(rows):,} {words}; {min(count, len(rows))} of them:", class_="quiet"))
        out += [_answer(rows[place]) for place in (evenly_spaced(len(rows), count) if rows else ())]
    return Html("".join(out))


def _answer(row: Mapping[str, Any]) -> Html:
    words = "right" if row["correct"] else "wrong"
    cut = ", cut off" if row.get("truncated") else ""
    return element(
        "article",
        element(
            "p",
            element("b", words, class_="mark"),
            f" — read: {row['extracted'] or 'no answer'}; wanted: {row['gold']}{cut}",
        ),
        element("div", row["question"], class_="said quiet"),
        element("div", row["response"], class_="said"),
        class_=words,
    )


def _differing(runs: Sequence[RunFacts], count: int) -> Html:
    """Questions that one run answers rightly and another one wrongly."""
    by_id = [{row["id"]: row for row in run.results.rows} for run in runs]
    shared = [name for name in by_id[0] if all(name in own for own in by_id)]
    split = [name for name in shared if len({bool(own[name]["correct"]) for own in by_id}) > 1]
    out = [
        element("p", f"{len(split):,} of {len(shared):,} questions; {min(count, len(split))} of them:", class_="quiet")
    ]
    for place in evenly_spaced(len(split), count) if split else ():
        for run, own in zip(runs, by_id, strict=True):
            out += [element("h3", in_words(run.name)), _answer(own[split[place]])]
    return Html("".join(out))
