"""What the commands that look at a model's views can be told, as dataclasses; without torch.

`embed` and `score` show what a run trained; `attention` and `verify` any branches of any model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from stepjepa.data.steps import Splitter
from stepjepa.evaluation.options import SYSTEM_PROMPTS
from stepjepa.jepa.pairs import ISOLATIONS, ONE_LEVEL, BranchLayout
from stepjepa.models.checkpoint import BUILTIN
from stepjepa.models.options import LoadedModel
from stepjepa.records import UserError, option

DISTANCES = ("cosine", "l2", "mse", "smooth_l1")
CONTEXTS = ("auto", "predictor", "step_end")
FIGURES = (".pdf", ".svg", ".png")


@dataclass(kw_only=True)
class ModelOptions(LoadedModel):
    """Also the data that a command looks at its model with."""

    test_file: list[str] = option(
        [BUILTIN],
        "'builtin', JSONL files (any form that prepare reads), or Hub data set ids",
        aliases=["--train_file", "--eval_file"],
        group="data",
    )
    splitter: Splitter | None = option(
        None,
        "how to find steps in unprepared data and in responses, as in prepare",
        choices=get_args(Splitter),
        group="data",
    )
    problems: int = option(200, "how many built-in problems of each kind", group="data", least=1)
    split: str = option("test", "split of the built-in problems or of a Hub data set", group="data")
    problem_seed: int = option(1, "which built-in problems are drawn", group="data")


@dataclass(frozen=True)
class ShownLayout(BranchLayout):
    """The branches of a command that looks at views: with no pair there is none."""

    pairs: str = option("consecutive", "which view pairs", choices=tuple(name for name in ONE_LEVEL if name != "none"))


@dataclass(kw_only=True)
class SolutionOptions(ModelOptions):
    """Of `embed` and `score`: what stands before the solutions, how views are read, and the control."""

    as_trained: bool = option(
        True,
        "views as the run compared them: after its head, its targets scaled and from its layers, and of its running "
        "mean or of the model before training where those gave the targets; else the model's own last states",
        group="model",
    )
    system_prompt: str = option(
        "train",
        "the system message: that of the model's training, that of each row, or none",
        choices=SYSTEM_PROMPTS,
        group="data",
    )
    random_weights: int | None = option(
        None,
        "control: the same architecture and tokenizer with weights drawn from this seed",
        metavar="SEED",
        group="model",
        least=0,
    )


@dataclass(kw_only=True)
class EmbedOptions(SolutionOptions):
    """What is embedded, and what is known of it."""

    output_file: str = option(help="the file to write, .safetensors or .npz", metavar="FILE")
    layers: list[str] = option([], "also keep these layers: numbers from 0 (embedding output), or 'all'")
    results: str | None = option(
        None, "a result file of `stepjepa evaluate`: which questions were answered correctly", metavar="FILE"
    )
    use_responses: bool = option(False, "embed the responses in --results instead of the gold solutions")
    batch_size: int = option(32, "examples encoded together", group="model", least=1)
    bf16: bool = option(False, "matrix products in bfloat16, as `stepjepa train --bf16` computes", group="model")

    def __post_init__(self) -> None:
        if self.use_responses and not self.results:
            raise UserError("--use_responses needs the responses: give a result file with --results")


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
        if self.output_file and (self.detect or self.results):
            raise UserError("--output_file takes energies of solutions; --detect and --results have --record_file")
        if self.record_file and not (self.detect or self.results):
            raise UserError("--record_file takes the figures of --detect or --results; energies go to --output_file")
        if self.plot_file and not self.detect:
            raise UserError("--plot_file draws the figure of --detect")
        if self.plot_file and not self.plot_file.endswith(FIGURES):
            raise UserError(f"--plot_file {self.plot_file}: a figure ends in {', '.join(FIGURES)}")
