"""Training data with detected steps: `python figures/detected_steps.py --boundary_model FILE --output_dir data`.

Built-in solutions with their true steps (`true.jsonl`), with those that a boundary model finds once the separators are
gone (`detected.jsonl`), and cut at equal distances of the mean length of a step (`uniform.jsonl`): what
`data/detected-steps.yaml` trains on. How much of the steps and of the pairs of consecutive ones stays the same goes
into `--record`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from stepjepa.analysis.cuts import Cutter, load
from stepjepa.analysis.reader import Reader
from stepjepa.analysis.segmentation import found_steps, read_solutions
from stepjepa.data.examples import make_example
from stepjepa.data.sources import read_examples
from stepjepa.environment import environment
from stepjepa.models.loading import load_model
from stepjepa.records import write_json, write_jsonl


def kept(true: Sequence[list[str]], found: Sequence[list[str]]) -> dict[str, int]:
    """How many solutions and pairs of consecutive steps are those of the true steps."""
    pairs = [[set(pairwise(steps)) for steps in side] for side in (true, found)]
    return {
        "solutions": len(true),
        "same_solutions": sum(one == other for one, other in zip(true, found, strict=True)),
        "pairs": sum(map(len, pairs[0])),
        "found_pairs": sum(map(len, pairs[1])),
        "same_pairs": sum(len(one & other) for one, other in zip(*pairs, strict=True)),
    }


def main() -> None:
    """Write the three files and the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--boundary_model", required=True, help="of the built-in model, fitted to other solutions")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--record", type=Path, default=Path(__file__).parent / "data" / "detected-steps.json")
    parser.add_argument("--problems", type=int, default=512)
    options = parser.parse_args()
    began = environment()
    cutter, about = load(options.boundary_model)
    examples, _ = read_examples("builtin", count=options.problems)
    solutions = read_solutions(Reader(*load_model(about["model_name"]), about["layer"]), examples)
    true = [list(example["steps"]) for example in examples]
    uniform = Cutter("uniform", sum(len(s.known) for s in solutions) / sum(map(len, true)))
    arms: dict[str, Any] = {"true": true}
    arms |= {
        name: [found_steps(solution, own) for solution in solutions]
        for name, own in (("detected", cutter), ("uniform", uniform))
    }
    options.output_dir.mkdir(parents=True, exist_ok=True)
    for name, steps in arms.items():
        rows = [
            make_example(e["question"], s, e["answer"], "builtin", None) for e, s in zip(examples, steps, strict=True)
        ]
        write_jsonl(rows, options.output_dir / f"{name}.jsonl")
    record = {
        "kind": "detected steps",
        "environment": began,
        "arms": {name: kept(true, arms[name]) for name in ("detected", "uniform")},
    }
    write_json(record, options.record)


if __name__ == "__main__":
    main()
