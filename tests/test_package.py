"""The package as a whole: one truth about dependencies, light imports, commands that explain themselves."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_environment_yml_agrees_with_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, nested = environment["dependencies"]
    name, _, oldest = python.partition(">=")  # that of the versions in constraints.txt, which may want a later one
    assert name == "python"
    assert SpecifierSet(PROJECT["requires-python"]).contains(oldest)
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


def lowest(requirements):
    """The lower bound of each range, by name; there is one."""
    bounds = {}
    for requirement in map(Requirement, requirements):
        (bounds[requirement.name],) = [part.version for part in requirement.specifier if part.operator == ">="]
    return bounds


def test_the_oldest_versions_that_are_tested_are_the_bounds_of_pyproject(monkeypatch, capsys):
    (code,) = re.findall(r"<<'END'\n(.*?)^END$", (ROOT / ".ci" / "lowest").read_text(), re.M | re.S)
    extras = PROJECT["optional-dependencies"]
    bounds = lowest([*PROJECT["dependencies"], *extras["notebooks"], *extras["tests"]])
    monkeypatch.chdir(ROOT)
    for chosen in ([], ["torch==2.11.0"]):
        monkeypatch.setattr(sys, "argv", ["-", *chosen])
        exec(code, {})
        expected = bounds | dict(pin.split("==") for pin in chosen)
        assert sorted(capsys.readouterr().out.split()) == sorted(
            f"{name}=={version}" for name, version in expected.items()
        )


def test_the_documents_name_the_oldest_versions():
    bounds, python = lowest(PROJECT["dependencies"]), PROJECT["requires-python"].removeprefix(">=")
    oldest = f"Python {python}, PyTorch {bounds['torch']} and transformers {bounds['transformers']}"
    for document in ("README.md", "CONTRIBUTING.md"):
        assert oldest in (ROOT / document).read_text(), document
    named = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if c.startswith("Programming Language")]
    assert named[0] == python
    assert all(SpecifierSet(PROJECT["requires-python"]).contains(version) for version in named)
    ruff = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]
    assert ruff["target-version"] == "py" + python.replace(".", "")


def test_import_is_light():
    code = "import sys, stepjepa; print([m for m in ('torch', 'matplotlib', 'ipywidgets', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_nothing_but_plots_pulls_in_matplotlib():
    code = (
        "import sys, stepjepa; [getattr(stepjepa, n) for n in stepjepa.__all__ if not n.endswith(('_explorer', '_form'))]; import stepjepa.commands.main, stepjepa.training.run;"
        "print([m for m in ('matplotlib', 'ipywidgets', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


PUBLIC = {
    "BranchLayout",
    "split_steps",
    "read_examples",
    "NoGoldError",
    "read_question",
    "answers_match",
    "extract_answer",
    "link",
}  # without torch
PUBLIC_WITH_TORCH = {
    "StepJEPACollator",
    "encode_views",
    "Objective",
    "two_pass_views",
    "tokenize_example",
    "load_model",
    "StepJEPAConfig",
    "StepJEPATrainer",
    "attention_explorer",
    "embedding_explorer",
    "mask_explorer",
    "solving_form",
}


def test_public_names():
    import stepjepa

    assert set(stepjepa.__all__) - {"__version__"} == PUBLIC | PUBLIC_WITH_TORCH
    assert set(stepjepa.__all__) <= set(dir(stepjepa))
    for name in stepjepa.__all__:
        assert getattr(stepjepa, name) is not None
    for name, home in stepjepa._HOMES.items():
        assert getattr(stepjepa, name).__module__ == f"stepjepa.{home}"
    with pytest.raises(AttributeError, match="nothing"):
        _ = stepjepa.nothing


def test_names_that_need_no_torch_do_not_import_it():
    code = (
        "import sys, stepjepa\n"
        f"for name in {sorted(PUBLIC)}:\n"
        "    getattr(stepjepa, name)\n"
        "    heavy = [m for m in ('torch', 'transformers', 'datasets', 'matplotlib', 'ipywidgets') if m in sys.modules]\n"
        "    assert not heavy, (name, heavy)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_type_checkers_see_the_same_names():
    source = (ROOT / "stepjepa" / "__init__.py").read_text()
    # `    from stepjepa.jepa.views import encode_views as encode_views`
    declared = re.findall(r"^    from stepjepa\.([\w.]+) import (\w+) as (\w+)$", source, re.M)
    import stepjepa

    assert {name: home for home, name, shown in declared if name == shown} == stepjepa._HOMES


def test_doctests():
    import doctest

    import stepjepa.jepa.pairs
    import stepjepa.jepa.reference
    import stepjepa.training.configurations

    for module in (stepjepa.jepa.pairs, stepjepa.jepa.reference, stepjepa.training.configurations):
        result = doctest.testmod(module)
        assert result.attempted > 0
        assert result.failed == 0
