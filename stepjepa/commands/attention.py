"""`stepjepa attention`: attention maps of one example, or with `--audit` the leakage audit of several."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepjepa.analysis.options import ModelOptions, ShownLayout
from stepjepa.commands.options import SIZES, Parser, parse
from stepjepa.commands.output import say, say_next
from stepjepa.environment import environment
from stepjepa.models.checkpoint import BUILTIN
from stepjepa.records import UserError, option, write_json

if TYPE_CHECKING:
    from stepjepa.analysis.attention import Heads
    from stepjepa.jepa.pairs import BranchLayout

AUDITED = 16
LAYERS, HEADS = [0, -1], ["mean"]


@dataclass(kw_only=True)
class AttentionOptions(ModelOptions):
    """Which example is shown or audited, what of it, and where the figures go."""

    output_dir: Path = option(help="where record and figures are written", aliases=["--output"], metavar="FOLDER")
    example: int = option(0, "which example, from 0", group="data")
    layers: list[int] = option(LAYERS, "which layers, from 0; negative from the last")
    heads: list[str] = option(HEADS, "'mean' over the heads, 'all', or which, from 0")
    audit: int | None = option(
        None,
        f"instead of maps: audit N examples ({AUDITED} if no number is given), from --example on",
        metavar="N",
        const=AUDITED,
    )
    size: str = option("notebook", "width and type of the figures", choices=SIZES)
    attn_implementation: str | None = option(
        None,
        "what the audit runs (transformers' choice if absent); maps switch to eager",
        choices="jepa.architectures.SUPPORTED_ATTENTION",
        group="model",
    )

    def __post_init__(self) -> None:
        if self.audit is not None and self.audit < 1:
            raise ValueError("--audit must be at least 1")
        if self.audit and (self.layers != LAYERS or self.heads != HEADS):
            raise ValueError("--layers and --heads say which maps are drawn, and --audit draws none; leave them out")


def main(argv: Sequence[str] | None = None) -> int:
    """`stepjepa attention`; the exit status is 0 if nothing leaks, 1 otherwise (record and figures are written)."""
    words = list(sys.argv[1:] if argv is None else argv)
    options, _ = read_options(words, ShownLayout)
    heads = heads_of(options.heads)
    from transformers.utils import logging

    from stepjepa.analysis.attention import attention_record
    from stepjepa.analysis.encode import check_predictors
    from stepjepa.analysis.leakage import leakage_audit
    from stepjepa.analysis.trained import shown_layout
    from stepjepa.data.sources import read_examples
    from stepjepa.models.checkpoint import locate_model
    from stepjepa.models.loading import choose_device, load_model, read_tokenizer

    located = locate_model(options.model_name, options.revision)
    _, layout = read_options(words, shown_layout(located))
    device = choose_device(options.device)
    logging.disable_progress_bar()
    count = options.example + (options.audit or 1)
    examples, _ = read_examples(
        options.test_file,
        split=options.split,
        count=max(options.problems, count),
        seed=options.problem_seed,
        splitter=options.splitter,
    )
    if not 0 <= options.example < len(examples):
        raise UserError(f"--example {options.example}: there are {len(examples)} examples, 0 to {len(examples) - 1}")
    remote: dict[str, Any] = {"revision": options.revision, "trust_remote_code": options.trust_remote_code}
    check_predictors(read_tokenizer(located.path, **remote), layout.predictors)
    model, tokenizer = load_model(
        options.model_name,
        predictors=layout.predictors,
        dtype=options.dtype,
        attn_implementation=options.attn_implementation,
        **remote,
    )
    model.to(device)
    plain = {name: value for name, value in (asdict(options) | asdict(layout)).items() if name != "output_dir"}
    about = {"command": "attention", "options": plain, "environment": environment()}
    if options.audit:
        if options.audit > (there := len(examples) - options.example):
            say(f"{there:,} of the {options.audit:,} examples asked for are there")
        audit = leakage_audit(model, tokenizer, examples[options.example : count], layout=layout, progress=True)
        return show_audit({**about, **audit}, options)
    record = attention_record(model, tokenizer, examples[options.example], options.layers, heads, layout=layout)
    return show_maps({**about, **record}, options)


def read_options(words: Sequence[str], layout: Any) -> tuple[AttentionOptions, BranchLayout]:
    """The command line; `layout` gives the defaults of the branches."""
    parser = Parser(
        "attention",
        "Attention maps of one example over trunk and branches, with the check that forbidden cells have a weight of "
        "exactly 0 in all layers and heads; with --audit, which views move when a part of the text changes. Exit "
        "status 0 only if nothing leaks.",
    )
    options, found = parse(parser, words, AttentionOptions, layout)
    return options, found


def heads_of(words: Sequence[str]) -> Heads:
    """`["mean"]` → "mean", `["0", "3"]` → [0, 3].

    Raises:
        UserError: something else.
    """
    if list(words) == ["mean"]:
        return "mean"
    if list(words) == ["all"]:
        return "all"
    try:
        return [int(word) for word in words]
    except ValueError as error:
        raise UserError(f"--heads {' '.join(words)}: give 'mean', 'all', or numbers from 0") from error


def show_maps(record: Mapping[str, Any], options: AttentionOptions) -> int:
    """Draw and write the maps, and say whether attention falls on forbidden cells."""
    from stepjepa.visualization.attention import attention_maps, segment_flow

    figures = {"attention": attention_maps(record, size=options.size), "flow": segment_flow(record, size=options.size)}
    write("attention", record, figures, options.output_dir)
    check = record["check"]
    worst = max(layer["max_forbidden_mass"] for layer in check["layers"])
    cells = sum(layer["forbidden_cells"] for layer in check["layers"]) * check["heads"]
    sums = [layer[name] for layer in check["layers"] for name in ("row_sum_min", "row_sum_max")]
    say(
        f"{len(record['tokens'])} tokens, {len(check['layers'])} layers × {check['heads']} heads: mass on {cells:,} "
        f"forbidden cells {worst:g}; rows sum to {min(sums):.6f} … {max(sums):.6f}"
    )
    if not check["passed"]:
        say("FORBIDDEN MASS: the mask does not hold in this model; do not train it, report it")
        return 1
    model = [] if options.model_name == BUILTIN else ["--model_name", options.model_name]
    say_next("attention", *model, "--output_dir", str(options.output_dir), "--audit", note="does the text leak")
    return 0


def show_audit(record: Mapping[str, Any], options: AttentionOptions) -> int:
    """Draw and write the audit, and say what moved."""
    from stepjepa.analysis.leakage import format_audit
    from stepjepa.visualization.attention import leakage_map

    write("leakage", record, {"leakage": leakage_map(record, size=options.size)}, options.output_dir)
    for reason, number in record["left_out"].items():
        if number:
            say(f"{number} examples left out: {reason.replace('_', ' ')}")
    say(format_audit(record))
    return 0 if record["passed"] else 1


def write(name: str, record: Mapping[str, Any], figures: Mapping[str, Any], folder: Path) -> None:
    """The record and its figures; all are ready before the first is written."""
    from stepjepa.visualization.style import save_figure

    write_json(record, folder / f"{name}.json")
    paths = [
        save_figure(figure, folder / f"{stem}.{kind}") for stem, figure in figures.items() for kind in ("png", "pdf")
    ]
    say("\n".join(f"written: {path}" for path in (folder / f"{name}.json", *paths)))
