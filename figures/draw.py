"""Draw every figure of this folder again from its record: `python figures/draw.py`.

A figure is a function of records in `data/`; nothing is trained or measured here. Figures of a grid are drawn from the
records of its cells, all in one folder, once every cell has one. The mask record alone is computed, from a literal
example. `NAME.png` is for the screen; for a paper `NAME.pdf` is two columns wide, `NAME-column.pdf` one.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from stepjepa.experiments.grid_file import read_grid
from stepjepa.experiments.report import has_finished, report
from stepjepa.experiments.store import GridFolder
from stepjepa.records import read_json, write_json
from stepjepa.visualization.attention import attention_maps, leakage_map
from stepjepa.visualization.comparison import forest, price_bars
from stepjepa.visualization.detection import error_detection
from stepjepa.visualization.embeddings import embedding_map, similarity_map, spectrum
from stepjepa.visualization.grids import arms_forest, lambda_accuracy, lambda_representations, low_data
from stepjepa.visualization.masks import mask_panels, mask_record
from stepjepa.visualization.objectives import objectives_map
from stepjepa.visualization.style import Size, save_figure
from stepjepa.visualization.training import loss_curves

HERE = Path(__file__).parent


DATA_NAMES = {"builtin": "built-in problems", "gsm8k_train": "GSM8K"}


def _curves(record: Mapping[str, Any], size: Size) -> Figure:
    run, training = record["configuration"]["run"], record["configuration"]["training"]
    data = ", ".join(DATA_NAMES[Path(name).stem] for name in run["train_file"])
    return loss_curves(
        record["log_history"],
        title=f"built-in model on {data}: λ = {training['lbd']:g}, γ = {training['gamma']:g}, "
        f"{training['jepa_loss_type']} loss, {training['pairs']} pairs, isolation {training['isolation']}, "
        f"seed {training['seed']}",
        size=size,
    )


def _spectrum(record: Mapping[str, Any], size: Size) -> Figure:
    records = [
        each | {"label": {"random": "random weights"}.get(each["label"], each["label"])} for each in record["records"]
    ]
    return spectrum(*records, size=size)


FIGURES: dict[str, tuple[Callable[..., Figure], tuple[str, ...]]] = {
    "masks": (mask_panels, ("masks",)),
    "train-builtin": (_curves, ("train-builtin",)),
    "train-gsm8k": (_curves, ("train-gsm8k",)),
    "price": (price_bars, ("bench-4k", "bench-32k")),
    "compare-builtin": (forest, ("compare-builtin",)),
    "embedding-map": (
        lambda record, size: embedding_map(*record["records"], color="view", size=size),
        ("embedding-map",),
    ),
    "detection": (error_detection, ("detect-untrained", "detect-infonce")),
    "detection-real": (error_detection, ("detect-smollm2",)),
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
    "pretrained": (arms_forest, ("ablation/pretrained",)),
    "pretrained-gsm8k": (arms_forest, ("ablation/pretrained-gsm8k",)),
    "objectives-screen": (objectives_map, ("ablation/objectives-screen",)),
    "rivals-screen": (objectives_map, ("ablation/rivals-screen",)),
    "objectives": (objectives_map, ("ablation/objectives",)),
    "replication": (arms_forest, ("ablation/replication",)),
    "equal-data": (arms_forest, ("ablation/equal-data",)),
}
"""Name of the figure → how it is drawn, and from which records: `NAME.json`, or `ablation/GRID` for a shipped grid."""


FILES: dict[str, Size] = {".png": "notebook", ".pdf": "paper", "-column.pdf": "column"}
"""Ends of the names of a figure's files, and the size of each."""


def draw_all(data: Path, output: Path) -> list[Path]:
    """Draw every figure of `FIGURES` from the records in `data`, but those of unfinished grids; returns the files.

    Raises:
        UserError: names the record that is missing.
    """
    written = []
    read = functools.cache(functools.partial(read_source, data))
    for name, (draw, sources) in FIGURES.items():
        records = [read(source) for source in sources]
        if any(record.get("unfinished") for record in records):
            continue
        for ending, size in FILES.items():
            written.append(save_figure(draw(*records, size=size), output / f"{name}{ending}"))
    return written


def read_source(data: Path, source: str) -> dict[str, Any]:
    """A record, or what the records of a grid's cells say; of one that nothing has been run of, that it is unfinished.

    Raises:
        UserError: there is no such record.
    """
    folder, _, name = source.rpartition("/")
    if not folder:
        return read_json(data / f"{source}.json")
    if not has_finished(read_grid(name), GridFolder(data / folder)):
        return {"unfinished": [name]}
    return report(read_grid(name), GridFolder(data / folder))


def main(argv: Sequence[str] | None = None) -> None:
    """Draw, and print the files that were written."""
    parser = argparse.ArgumentParser(description="draw every figure from its record")
    parser.add_argument("--data", type=Path, default=HERE / "data", help="folder of the records")
    parser.add_argument("--output", type=Path, default=HERE, help="folder for the figures")
    parser.add_argument("--masks", action="store_true", help="compute the mask record first")
    options = parser.parse_args(argv)
    if options.masks:
        write_json(mask_record(), options.data / "masks.json")
    print(*draw_all(options.data, options.output), sep="\n")


if __name__ == "__main__":
    main()
