"""Every figure from its record: `stepjepa figures` draws all of `figures/` again from `figures/data/`.

A figure is a function of records; nothing is trained or measured here. Figures of a grid are drawn from the records of
its cells, all in one folder. The mask record alone is computed, from a literal example, by `mask_record`.
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from stepjepa.experiments.grid_file import read_grid
from stepjepa.experiments.report import report
from stepjepa.experiments.store import GridFolder
from stepjepa.jepa.layout import StepJEPACollator
from stepjepa.jepa.masks import allowed
from stepjepa.jepa.reference import build_step2_isolation_mask
from stepjepa.records import UserError, write_json
from stepjepa.visualization.attention import attention_maps
from stepjepa.visualization.comparison import forest
from stepjepa.visualization.embeddings import embedding_map, similarity_map, spectrum
from stepjepa.visualization.grids import arms_forest, lambda_accuracy, lambda_representations, low_data
from stepjepa.visualization.leakage import leakage_map
from stepjepa.visualization.plots import loss_curves, mask_panels, price_bars
from stepjepa.visualization.style import save_figure

TOKENS = ["system", "question", "S1", "S1", "S2", "S2", "S3"]
STEP_IDS = [-1, -1, 0, 0, 1, 1, 2]


def mask_record() -> dict[str, Any]:
    """Both forms of the classic mask for a sequence of seven tokens."""

    class Tokens:
        pad_token_id = 0

        @staticmethod
        def get_added_vocab() -> dict[str, int]:
            return {"<|predictor|>": 1}

    row = {"input_ids": [2] * len(TOKENS), "labels": [-100] * len(TOKENS), "step_ids": STEP_IDS}
    batch = StepJEPACollator(Tokens())([row])
    single = allowed(batch["segment_ids"], batch["prefix_segment"], batch["prefix_end"])[0]
    double = build_step2_isolation_mask(8, 5, 7)
    return {
        "panels": [
            {
                "title": "two passes: the second of them",
                "tokens": [*TOKENS[:4], "PRED", *TOKENS[4:]],
                "roles": ["trunk"] * 4 + ["predictor"] + ["isolated"] * 2 + ["trunk"],
                "rows": _strings(double),
            },
            {
                "title": "one pass: trunk and branch",
                "tokens": [*TOKENS, "PRED", "S2 copy", "S2 copy"],
                "roles": ["trunk"] * 7 + ["predictor"] + ["copy"] * 2,
                "rows": _strings(single),
            },
        ]
    }


def _strings(mask: Any) -> list[str]:
    return ["".join(str(int(cell)) for cell in row) for row in mask.tolist()]


def _curves(record: Mapping[str, Any]) -> Figure:
    run, training = record["configuration"]["run"], record["configuration"]["training"]
    data = ", ".join(Path(name).stem for name in run["train_file"])
    return loss_curves(
        record["log_history"],
        title=f"{run['model_name']} model on {data}: λ = {training['lbd']:g}, γ = {training['gamma']:g}, "
        f"{training['jepa_loss_type']}, {training['pairs']} pairs, isolation {training['isolation']}, "
        f"seed {training['seed']}",
    )


def _embedding_map(record: Mapping[str, Any]) -> Figure:
    return embedding_map(*record["records"], color="view")


def _spectrum(record: Mapping[str, Any]) -> Figure:
    return spectrum(*record["records"])


FIGURES: dict[str, tuple[Callable[..., Figure], tuple[str, ...]]] = {
    "masks": (mask_panels, ("masks",)),
    "train-builtin": (_curves, ("train-builtin",)),
    "train-gsm8k": (_curves, ("train-gsm8k",)),
    "price": (price_bars, ("bench-4k", "bench-32k")),
    "compare-builtin": (forest, ("compare-builtin",)),
    "embedding-map": (_embedding_map, ("embedding-map",)),
    "spectrum": (_spectrum, ("spectrum",)),
    "similarity": (similarity_map, ("similarity",)),
    "attention": (attention_maps, ("attention",)),
    "leakage": (leakage_map, ("leakage",)),
    "lambda-accuracy": (lambda_accuracy, ("ablation/lambda",)),
    "lambda-representations": (lambda_representations, ("ablation/lambda",)),
    "isolation": (arms_forest, ("ablation/isolation",)),
    "losses": (arms_forest, ("ablation/losses",)),
    "pairs": (arms_forest, ("ablation/pairs",)),
    "lowdata": (low_data, ("ablation/lowdata",)),
}
"""Name of the figure → how it is drawn, and from which records: `NAME.json`, or `ablation/GRID` for a shipped grid."""


def draw_all(data: Path, output: Path) -> list[Path]:
    """Draw every figure of `FIGURES` from the records in `data` as PNG and PDF; returns the files.

    Raises:
        UserError: names the record that is missing.
    """
    written = []
    read = functools.cache(functools.partial(read_source, data))
    for name, (draw, sources) in FIGURES.items():
        records = [read(source) for source in sources]
        figure = draw(*records)
        for suffix in ("png", "pdf"):
            path = output / f"{name}.{suffix}"
            save_figure(figure, path)
            written.append(path)
    return written


def read_source(data: Path, source: str) -> dict[str, Any]:
    """A record, or what the records of a grid's cells say.

    Raises:
        UserError: there is no such record, or no cell of the grid has one.
    """
    folder, _, grid = source.rpartition("/")
    return report(read_grid(grid), GridFolder(data / folder)) if folder else read_record(data / f"{source}.json")


def read_record(path: Path) -> dict[str, Any]:
    """A record by its file.

    Raises:
        UserError: there is no such file.
    """
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"there is no record {path}; `--data` names the folder of the records") from error
    return record


def main(argv: Sequence[str] | None = None) -> int:
    """`stepjepa figures`."""
    parser = argparse.ArgumentParser(prog="stepjepa figures", description="draw every figure from its record")
    parser.add_argument("--data", type=Path, default=Path("figures/data"), help="folder of the records")
    parser.add_argument("--output", type=Path, default=Path("figures"), help="folder for the figures")
    parser.add_argument("--masks", action="store_true", help="compute the mask record first")
    options = parser.parse_args(argv)
    if options.masks:
        write_json(mask_record(), options.data / "masks.json")
    for path in draw_all(options.data, options.output):
        print(path)
    return 0
