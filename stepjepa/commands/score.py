"""`stepjepa score`: the energy of every step of given solutions; best of n by it; planted mistakes found by it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from stepjepa.commands.embed import SolutionOptions, described, load
from stepjepa.commands.options import Parser, parse
from stepjepa.commands.output import say, say_next
from stepjepa.jepa.pairs import ISOLATIONS, BranchLayout
from stepjepa.models.checkpoint import BUILTIN
from stepjepa.records import UserError, as_json, environment, one_writer, option, text_table, write_json, write_jsonl

if TYPE_CHECKING:
    from stepjepa.analysis.energies import StepViews, ZScore

DISTANCES = ("cosine", "l2", "mse", "smooth_l1")
CONTEXTS = ("auto", "predictor", "step_end")


@dataclass(kw_only=True)
class ScoreOptions(SolutionOptions):
    """What is scored, how energies are read, what is written."""

    output_file: str | None = option(None, "write one row a solution: energies of its steps", metavar="R.jsonl")
    detect: bool = option(
        False,
        "find wrong steps planted in built-in solutions; AUCs beside controls, random weights of seed 0 among them",
        group="task",
    )
    results: str | None = option(
        None, "best of n: sampled answers of `stepjepa evaluate --samples N`", metavar="FILE", group="task"
    )
    greedy: str | None = option(
        None, "greedy answers to the same questions, to compare with", metavar="FILE", group="task"
    )
    record_file: str | None = option(None, "write the figures of --detect or --results", aliases=["--json"])
    plot_file: str | None = option(None, "draw the figure of --detect", metavar="FILE")
    label: str | None = option(None, "what the model is called in record and figure; its name by default")
    distance: str | None = option(
        None, "the energy; that of the run's loss by default, else cosine", choices=DISTANCES, group="energy"
    )
    context: str = option(
        "auto",
        "read the context view at the predictor token or at the end of the step before; auto: at the predictor where "
        "a JEPA term has trained it",
        choices=CONTEXTS,
        group="energy",
    )
    predictors: int | None = option(None, "predictor tokens; the run's by default", least=1, group="energy")
    isolation: str | None = option(
        None, "what a step sees besides itself; the run's by default", choices=ISOLATIONS, group="energy"
    )
    scale_file: list[str] = option(
        [],
        "z-score each dimension on these solutions of other problems; built-in training problems for --detect",
        metavar="FILE",
        group="energy",
    )
    scale_problems: int = option(200, "how many built-in problems for that", least=2, group="energy")
    batch_size: int = option(16, "contexts encoded together", least=1, group="model")

    def __post_init__(self) -> None:
        if self.detect and (self.results or self.test_file != [BUILTIN]):
            raise UserError("--detect plants mistakes in built-in problems; it takes no --test_file and no --results")
        if self.greedy and not self.results:
            raise UserError("--greedy is compared with the samples of --results")
        if not (self.detect or self.results or self.output_file):
            raise UserError("say what to do: --output_file for energies, --results for best of n, or --detect")
        if self.plot_file and not self.detect:
            raise UserError("--plot_file draws the figure of --detect")


class Scorer:
    """A model with what its energies are read by."""

    def __init__(self, options: ScoreOptions) -> None:
        from stepjepa.analysis.trained import AS_IT_IS, predicts_at_predictor, trained_reading
        from stepjepa.evaluation.scoring import system_prompt
        from stepjepa.models.checkpoint import locate_model

        self.options = options
        self.located = locate_model(options.model_name, options.revision)
        self.system, origin = system_prompt(options.system_prompt, self.located)
        training = self.located.training() or {}
        # Of the pairs that it trained only how many predictor tokens of which level there are matters here.
        own = {one.name: training[one.name] for one in fields(BranchLayout) if one.name in training}
        given = {name: getattr(options, name) for name in ("predictors", "isolation")}
        own |= {name: value for name, value in given.items() if value is not None}
        try:
            self.layout = BranchLayout(**(own | {"max_length": None}))
        except ValueError as error:
            raise UserError(str(error)) from error
        self.model, self.tokenizer, trained = load(options, self.layout.predictors)
        random = options.random_weights is not None
        self.reading = trained_reading(self.located, self.model, random) if options.as_trained else AS_IT_IS
        self.distance = options.distance or self.reading.distance
        never_trained = not trained or (bool(training) and not predicts_at_predictor(training))
        self.at_step_end = options.context == "step_end" or (options.context == "auto" and never_trained)
        place = "the end of the step before" if self.at_step_end else "the predictor token"
        say(f"system prompt: {origin}; energy: {self.distance}, predicted at {place}; {self.reading.words()}")

    def views(
        self,
        examples: Sequence[Mapping[str, Any]],
        candidates: Sequence[Any],
        model: Any = None,
        likelihood: bool = False,
    ) -> StepViews:
        """Views of candidate steps, by another model if one is given; log-probabilities where they are asked for."""
        from stepjepa.analysis.energies import encode_candidates

        return encode_candidates(
            self.model if model is None else model,
            self.tokenizer,
            examples,
            candidates,
            layout=self.layout,
            reading=self.reading if model is None else self.reading.of_itself(),
            likelihood=likelihood,
            at_step_end=self.at_step_end,
            batch_size=self.options.batch_size,
        )

    def read(self, source: Sequence[str], split: str, count: int, seed: int) -> list[dict[str, Any]]:
        """Solutions under the system prompt of the model."""
        from stepjepa.analysis.encode import with_system_prompt
        from stepjepa.data.sources import read_examples

        options = self.options
        examples, report = read_examples(
            list(source), split=split, count=count, seed=seed, splitter=options.splitter, system_prompt=None
        )
        if source is not self.options.scale_file:
            say(report)
        return examples if options.system_prompt == "file" else with_system_prompt(examples, self.system)

    def scale(self, scored: Sequence[Mapping[str, Any]], source: Sequence[str], model: Any = None) -> ZScore:
        """Fitted on the steps, from the second on, of solutions of problems that are not scored."""
        from stepjepa.analysis.energies import ZScore, own_steps

        questions = {example["question"] for example in scored}
        others = self.read(source, "train", self.options.scale_problems, self.options.problem_seed)
        others = [example for example in others if example["question"] not in questions]
        return ZScore.fit(self.views(others, own_steps(others, first=1), model))

    def description(self) -> dict[str, Any]:
        """For a record."""
        options = self.options
        return {
            "label": options.label or self.located.name,
            "model": {
                **self.located.description(),
                "training": self.located.training(),
                **described(self.model),
                "dtype": options.dtype,
                "random_weights": options.random_weights,
            },
            "configuration": {
                "layout": asdict(self.layout),
                "as_trained": options.as_trained,
                "target_layer": self.reading.target_layer,
                "target_top": self.reading.target_top,
                "targets": self.reading.targets,
                "distance": self.distance,
                "context": "step_end" if self.at_step_end else "predictor",
                "system_prompt": self.system,
                "problems": options.problems,
                "split": options.split,
                "problem_seed": options.problem_seed,
                "scale_problems": options.scale_problems,
            },
        }


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
    scorer = Scorer(options)
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
    from stepjepa.data.problems import generate_problems

    options = scorer.options
    examples = scorer.read([BUILTIN], options.split, options.problems, options.problem_seed)
    problems = generate_problems(options.problems, options.problem_seed, options.split)
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
    if options.plot_file:
        from stepjepa.visualization.detection import error_detection
        from stepjepa.visualization.style import save_figure

        save_figure(error_detection(record | {"label": scorer.description()["label"]}), options.plot_file)
        say(f"written: {options.plot_file}")
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
    from stepjepa.evaluation.results import question_ids, read_results

    options = scorer.options
    results = read_results(str(options.results))
    greedy = read_results(options.greedy) if options.greedy else None
    asked = {row["id"] for row in results.rows}
    examples = scorer.read(options.test_file, options.split, options.problems, options.problem_seed)
    kept = [(e, name) for e, name in zip(examples, question_ids(examples), strict=True) if name in asked]
    if not kept:
        raise UserError(f"{options.results}: these are results of other questions; name the data that was evaluated")
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
        say_next("evaluate", "--model_name", options.model_name, "--output_file", "greedy.jsonl", note="for --greedy")
    return found | {"scaled_on": options.scale_file}


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
