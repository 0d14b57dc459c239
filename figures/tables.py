"""Write the generated parts of the Markdown files again: `python figures/tables.py`.

A part stands between `<!-- begin: NAME -->` and `<!-- end: NAME -->` and is a function of the records in `data/`, or of
the docstrings and tables of the package. Nothing is trained or measured here; a test compares the files with this one.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable

from parts.cells import ROOT
from parts.costs import drills, growth, plans, price, price_objectives, price_real, streaming
from parts.findings import findings, objectives_found
from parts.grids import OBJECTIVE_GRIDS, equal_data, grid_table, objectives_table, transfer
from parts.models import compare, gsm8k, gsm8k_epoch, other_tests, representations, second_family, train
from parts.package import files, formats, options, rooms
from parts.steps import best_of, detected_steps, detections, next_steps, segmentation

from stepjepa.records import written_whole

BLOCKS: dict[str, dict[str, Callable[[], Iterable[str]]]] = {
    "README.md": {"objectives-found": objectives_found, "findings": findings, "rooms": rooms},
    "stepjepa/README.md": {"files": files},
    "notebooks/README.md": {"options": options, "formats": formats},
    "figures/README.md": {
        "train": train,
        "compare": compare,
        "representations": representations,
        "gsm8k": gsm8k,
        "gsm8k-epoch": gsm8k_epoch,
        "second-family": second_family,
        "lambda": functools.partial(grid_table, "lambda", "λ = 0"),
        "isolation": functools.partial(grid_table, "isolation"),
        "pairs": functools.partial(grid_table, "pairs"),
        "lowdata": functools.partial(grid_table, "lowdata", "λ = 0"),
        "losses": functools.partial(grid_table, "losses"),
        "transfer": transfer,
        "equal-data": equal_data,
        **{name: functools.partial(objectives_table, name) for name in OBJECTIVE_GRIDS},
        "price-objectives": price_objectives,
        "streaming": streaming,
        "detections": detections,
        "next-steps": next_steps,
        "segmentation": segmentation,
        "detected-steps": detected_steps,
        "best-of": best_of,
        "other-tests": other_tests,
        "price": price,
        "price-real": price_real,
        "drills": drills,
        "growth": growth,
        "plans": plans,
    },
}
"""File → name of a block → its lines."""


def current(file: str) -> str:
    """The text of a file with each of its blocks as it should be.

    Raises:
        ValueError: a block has no place in the file, or more than one.
    """
    text = (ROOT / file).read_text(encoding="utf-8")
    for name, lines in BLOCKS[file].items():
        begin, end = f"<!-- begin: {name} -->", f"<!-- end: {name} -->"
        block = "\n".join([begin, *lines(), end])
        # `<!-- begin: train -->…<!-- end: train -->`, whatever stands between
        text, count = re.subn(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: block, text, flags=re.S)  # noqa: B023
        if count != 1:
            raise ValueError(f"{file} has {count} blocks {name}, not one")
    return text


def main() -> None:
    """Rewrite the blocks of all files, and print the files that changed."""
    for file in BLOCKS:
        text = current(file)
        if text != (ROOT / file).read_text(encoding="utf-8"):
            with written_whole(ROOT / file) as temporary:
                temporary.write_text(text, encoding="utf-8")
            print(file)


if __name__ == "__main__":
    main()
