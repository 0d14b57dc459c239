"""The package as a whole: one truth about dependencies, light imports, commands that explain themselves."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_environment_yml_agrees_with_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, nested = environment["dependencies"]
    assert python == f"python{PROJECT['requires-python']}"
    assert pip == "pip"
    assert "-e .[dev]" in nested["pip"]
    assert "-c constraints.txt" in nested["pip"]


def test_constraints_pin_every_dependency_within_its_range():
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, version = line.partition("==")
            assert version, line
            assert "+" not in version, f"{line}: a local version cannot be had everywhere"
            pins[canonicalize_name(name)] = version
    extras = [r for group in PROJECT["optional-dependencies"].values() for r in group]
    for text in [*PROJECT["dependencies"], *extras]:
        requirement = Requirement(text)
        if requirement.name != "stepjepa":
            assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), text


def test_readme_has_the_two_commands():
    readme = (ROOT / "README.md").read_text()
    assert len(re.findall(r"^pip install -c constraints\.txt -e \. && stepjepa train$", readme, re.M)) == 1
    assert len(re.findall(r"^pip install .*&& python -m pytest$", readme, re.M)) == 1


def test_readme_has_no_gaps():
    assert "@@" not in (ROOT / "README.md").read_text()


def test_readme_tables_are_those_of_the_records():
    readme = (ROOT / "README.md").read_text()
    for name in ("train-builtin", "train-builtin-plain"):
        record = json.loads((ROOT / "figures" / "data" / f"{name}.json").read_text())
        low, high = record["after"]["accuracy_interval"]
        assert f"{record['after']['accuracy']:.1%} ({low:.1%}–{high:.1%})" in readme, name
    for name in ("bench-4k", "bench-32k"):
        record = json.loads((ROOT / "figures" / "data" / f"{name}.json").read_text())
        for arm in record["arms"].values():
            ratio = arm["ratio_to_plain"]
            assert f"{ratio['median']:.2f} ({ratio['q1']:.2f}–{ratio['q3']:.2f})" in readme, name


REPRESENTATION_ROWS = {
    "MRR of the true next step among all (chance 0.009)": "reciprocal_rank_all",
    "R@1 among the same problem's steps (chance 0.253)": "recall_own",
    "centred cosine margin": "centered_margin",
    "energy in the mean direction, context views": "mean_energy_context",
    "effective rank of 160, context views": "effective_rank_context",
    "effective rank of 160, target views": "effective_rank_target",
    "operation of the next step, read from context views": "operation_context",
}


def test_readme_comparison_and_representations_are_those_of_the_records():
    readme = (ROOT / "README.md").read_text().replace("−", "-")
    compared = json.loads((ROOT / "figures" / "data" / "compare-builtin.json").read_text())
    for arm in compared["arms"]:
        assert f"{arm['accuracy']:.1%} ({arm['low']:.1%}–{arm['high']:.1%})" in readme, arm["name"]
        if found := arm["difference"]:
            value, low, high = (100 * found[name] for name in ("value", "low", "high"))
            assert f"{value:+.1f} ({low:.1f} to {high:+.1f})" in readme, arm["name"]
            assert f"| {100 * found['detectable']:.1f} |" in readme, arm["name"]
    report = json.loads((ROOT / "figures" / "data" / "representations.json").read_text())
    order = ("random", "untrained", "lbd0", "lbd0.1")
    measures = {file["label"]: file["measures"] for file in report["files"]}
    for row, name in REPRESENTATION_ROWS.items():
        cells = [measures[label][name] for label in order]
        shown = " | ".join(_interval(cell["estimate"], cell["low"], cell["high"]) for cell in cells)
        assert f"{row} | {shown} |" in readme, row


def _interval(*values: float) -> str:
    digits = 3 if abs(values[0]) < 1 else 2 if abs(values[0]) < 10 else 1
    value, low, high = (f"{each:.{digits}f}" for each in values)
    return f"{value} [{low}, {high}]"


GRID_COLUMNS = {
    "lm_loss": ".3f",
    "first_reciprocal_rank_all": ".3f",
    "first_recall_own": ".0%",
    "first_effective_rank_target": ".1f",
    "first_mean_energy_target": ".3f",
}


def grid_rows(found):
    """The rows of a grid's table in the README: accuracy, differences to each baseline, representations."""
    pairs = found["comparisons"]
    single = len({each["arm"] for each in pairs}) == len(pairs)  # each to a baseline of its own: one column does
    bases = [None] if single else list(dict.fromkeys(each["baseline"] for each in pairs))
    for name, arm in found["arms"].items():
        test = arm["test"]
        cells = [name, str(len(arm["seeds"])), f"{test['accuracy']:.1%} ({test['low']:.1%}–{test['high']:.1%})"]
        for base in bases:
            own = [each for each in pairs if each["arm"] == name and base in (None, each["baseline"])]
            cells += [
                f"{_points(each['value'])} ({_points(each['low'])} to {_points(each['high'])})" for each in own
            ] or [""]
        means = [arm["validation"].get(key, {}).get("mean") for key in GRID_COLUMNS]
        cells += [
            "–" if mean is None else format(mean, how) for mean, how in zip(means, GRID_COLUMNS.values(), strict=True)
        ]
        yield f"| {' | '.join(cells)} |".replace("|  |", "| |")


def _points(share):
    return f"{100 * share:+.1f}".replace("-", "−")


@pytest.mark.parametrize("name", ["lambda", "isolation", "losses", "pairs", "lowdata"])
def test_readme_grids_are_those_of_the_records(name):
    from stepjepa.experiments.grid import read_grid
    from stepjepa.experiments.report import report
    from stepjepa.experiments.store import GridFolder

    readme = (ROOT / "README.md").read_text()
    found = report(read_grid(name), GridFolder(ROOT / "figures" / "data" / "ablation"), draws=10)
    for row in grid_rows(found):
        assert row in readme, f"the README lacks {row}"
    if found["unfinished"]:
        assert f"{name}: {len(found['unfinished'])} of" in readme, "cells that are still to run are not named"


def test_import_is_light():
    code = "import sys, stepjepa; print([m for m in ('torch', 'matplotlib', 'ipywidgets', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_nothing_but_plots_pulls_in_matplotlib():
    code = (
        "import sys, stepjepa; [getattr(stepjepa, n) for n in stepjepa.__all__]; import stepjepa.commands.main, stepjepa.training.run;"
        "print([m for m in ('matplotlib', 'ipywidgets', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names():
    import stepjepa

    assert set(stepjepa.__all__) - {"__version__"} == {
        "split_steps",
        "tokenize_example",
        "StepJEPACollator",
        "encode_views",
        "load_model",
        "StepJEPAConfig",
        "StepJEPATrainer",
    }
    for name in stepjepa.__all__:
        assert getattr(stepjepa, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        _ = stepjepa.nothing


def test_doctests():
    import doctest

    import stepjepa.commands.train
    import stepjepa.jepa.pairs
    import stepjepa.jepa.reference

    for module in (stepjepa.jepa.pairs, stepjepa.jepa.reference, stepjepa.commands.train):
        result = doctest.testmod(module)
        assert result.attempted > 0
        assert result.failed == 0
