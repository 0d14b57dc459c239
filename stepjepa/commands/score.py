"""`stepjepa score`: the energy of every step of given solutions; best of n by it; planted mistakes found by it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stepjepa.analysis.options import ScoreOptions
from stepjepa.commands.options import Parser, parse
from stepjepa.commands.output import say, say_next
from stepjepa.environment import environment
from stepjepa.models.checkpoint import BUILTIN
from stepjepa.records import UserError, as_json, one_writer, text_table, write_json, write_jsonl

if TYPE_CHECKING:
    from stepjepa.analysis.scorer import Scorer


def main(argv: Sequence[str] | None = None) -> int:
    """`stepjepa score`; returns the exit status."""
    parser = Parser(
        "score",
        "How far does each step lie from what the steps before it let the model expect? Energies of given solutions, "
        "the best of several by energy, planted mistakes found by it.",
    )
    words = list(sys.argv[1:] if argv is None else argv)
    options: ScoreOptions = parse(parser, words, ScoreOptions)
    began = environment()
    from stepjepa.analysis.scorer import Scorer
    from stepjepa.data.origins import check_not_read

    read = [*options.test_file, *options.scale_file, options.results, options.greedy]
    check_not_read((options.output_file, options.record_file, options.plot_file), read)
    scorer = Scorer(options, say)
    if options.detect:
        record = find_mistakes(scorer)
    elif options.results:
        record = best_of(scorer)
    else:
        score_solutions(scorer)
        return 0
    if options.record_file:
        write_json(
            as_json({"command": "score", **scorer.description(), **record, "environment": began}), options.record_file
        )
        say(f"written: {options.record_file}")
    if options.plot_file:
        from stepjepa.visualization.detection import error_detection
        from stepjepa.visualization.style import save_figure

        save_figure(error_detection(as_json(record) | {"label": scorer.description()["label"]}), options.plot_file)
        say(f"written: {options.plot_file}")
    return 0


# ---- energies of given solutions -----------------------------------------------------------------------------


def score_solutions(scorer: Scorer) -> None:
    """One row a solution, see `analysis.energies.scored_rows`."""
    from stepjepa.analysis.energies import own_and_further, scored_rows
    from stepjepa.evaluation.results import question_ids

    options = scorer.options
    assert options.output_file is not None
    with one_writer(options.output_file):
        examples = scorer.read(options.test_file, options.split, options.problems, options.problem_seed)
        candidates = own_and_further(examples)
        views = scorer.views(examples, candidates, likelihood=True)
        if options.scale_file:
            views = scorer.scale(examples, options.scale_file)(views)
        rows = scored_rows(examples, question_ids(examples), candidates, views, scorer.distance)
        write_jsonl(rows, options.output_file)
    say(f"{len(rows):,} solutions, {len(candidates):,} steps; written: {options.output_file}")


# ---- planted mistakes ----------------------------------------------------------------------------------------


def find_mistakes(scorer: Scorer) -> dict[str, Any]:
    """Areas of every score for every kind, as a record; printed, and drawn where asked for."""
    from stepjepa.analysis.detection import detect, retrieval, right_and_wrong
    from stepjepa.analysis.encode import random_weights
    from stepjepa.analysis.energies import energies
    from stepjepa.data.stories import generate_stories

    options = scorer.options
    examples = scorer.read([BUILTIN], options.split, options.problems, options.problem_seed)
    problems = generate_stories(options.problems, options.problem_seed, options.split)
    steps = right_and_wrong(problems)
    source = options.scale_file or [BUILTIN]
    texts = [c.text or examples[c.example]["steps"][c.step] for c in steps.candidates]
    views = scorer.views(examples, steps.candidates, likelihood=True)
    scale = scorer.scale(examples, source)
    control = random_weights(scorer.model, 0)
    blind = scorer.views(examples, steps.candidates, control)
    blind_scaled = scorer.scale(examples, source, control)(blind)
    found = detect(
        views, scale, steps, distance=scorer.distance, random=energies(blind_scaled, scorer.distance).double().numpy()
    )
    retrieved = {"scaled": scale(views), "raw": views, "random, scaled": blind_scaled, "random, raw": blind}
    record = as_json(found | {"retrieval": {name: retrieval(each, steps, texts) for name, each in retrieved.items()}})
    say(detection_text(record))
    return record


def detection_text(record: Mapping[str, Any], of: str = "controlled") -> str:
    """The areas of a record as lines of text."""
    from stepjepa.analysis.detection import SCORES

    kinds = record["kinds"]
    rows = [["", *(f"{kind} ({entry['steps']})" for kind, entry in kinds.items())]]
    for name, words in SCORES.items():
        cells = (entry["scores"].get(name, {}).get(of) for entry in kinds.values())
        rows.append([words, *(f"{c['estimate']:.2f} [{c['low']:.2f}, {c['high']:.2f}]" if c else "" for c in cells)])
    best = record["retrieval"]["scaled"]
    return "\n".join(
        [
            f"AUC of wrong against right steps ({record['right_steps']:,}) of equal length and position, 95% intervals "
            "over problems; 0.5 is chance",
            *text_table(rows),
            f"the true next step among all right ones, R@1: {best['estimate']:.1%} [{best['low']:.1%}, "
            f"{best['high']:.1%}], random weights {record['retrieval']['random, scaled']['estimate']:.1%}, chance "
            f"{best['chance']:.2%}",
        ]
    )


# ---- best of n -----------------------------------------------------------------------------------------------


def best_of(scorer: Scorer) -> dict[str, Any]:
    """What is chosen among sampled solutions, and whether it is right, as a record; printed."""
    from stepjepa.analysis.choice import choose, sample_scores, sampled_solutions
    from stepjepa.analysis.encode import check_prompts
    from stepjepa.analysis.energies import own_steps
    from stepjepa.evaluation.questions import shown_path
    from stepjepa.evaluation.results import question_ids, read_results

    options = scorer.options
    results = read_results(str(options.results))
    greedy = read_results(options.greedy) if options.greedy else None
    asked = {row["id"] for row in results.rows}
    examples = scorer.read(options.test_file, options.split, options.problems, options.problem_seed)
    kept = [(e, name) for e, name in zip(examples, question_ids(examples), strict=True) if name in asked]
    if not kept:
        raise UserError(f"{options.results}: these are results of other questions; name the data that was evaluated")
    if missing := len(asked) - len(kept):
        say(
            f"{missing:,} of the {len(asked):,} questions of {options.results} are left out: they are not among the "
            "data read (--test_file, --problems, --split, --problem_seed)"
        )
    examples, ids = [example for example, _ in kept], [name for _, name in kept]
    check_prompts(scorer.tokenizer, examples, ids, results)
    solutions, index = sampled_solutions(examples, ids, results, options.splitter or "auto")
    candidates = own_steps(solutions)
    views = scorer.views(solutions, candidates, likelihood=True)
    scaled = scorer.scale(examples, options.scale_file)(views) if options.scale_file else views
    energy, likely = sample_scores(candidates, views, scaled, index, scorer.distance)
    found = choose(results, ids, energy, likely, greedy)
    say(choice_text(found))
    if not greedy:
        words = ["--model_name", options.model_name, "--test_file", *options.test_file, "--split", options.split]
        words += ["--problems", str(options.problems), "--problem_seed", str(options.problem_seed)]
        say_next("evaluate", *words, "--output_file", "greedy.jsonl", note="for --greedy")
    return found | {"results": shown_path(str(options.results)), "scaled_on": options.scale_file}


def choice_text(record: Mapping[str, Any]) -> str:
    """The record of `choose` as lines of text."""
    names = {
        "energy": "lowest energy",
        "greedy": "greedy, no sample",
        "first": "first sample",
        "majority": "majority",
        "log_probability": "highest mean log-probability",
        "any": "any sample right (bound)",
    }
    rows = [["chosen by", "accuracy (95%)", "energy − it, points (95%)", "p (Holm)"]]
    for name, arm in record["arms"].items():
        row = [names[name], f"{arm['accuracy']:.1%} ({arm['low']:.1%} – {arm['high']:.1%})", "", ""]
        if pair := record["differences"].get(name):
            low, high = 100 * pair["low"], 100 * pair["high"]
            row[2:] = [f"{100 * pair['value']:+.1f} ({low:+.1f} to {high:+.1f})", f"{pair['p_holm']:.3f}"]
        rows.append(row)
    return "\n".join([f"{record['questions']:,} questions, {record['samples']} samples each", *text_table(rows)])
