"""What the Markdown files say is so: numbers come from records, links lead somewhere, named tests and options exist."""

import json
import re
from pathlib import Path

import pytest
import tables
from parts import grids, models
from parts.costs import price
from parts.package import named_modules

from stepjepa.commands.main import COMMANDS, main
from stepjepa.data.sources import prepare, read_examples

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "stepjepa/README.md", "figures/README.md", "notebooks/README.md")
PACKAGE = ROOT / "stepjepa"
ROOMS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))


def text_of(document):
    return (ROOT / document).read_text(encoding="utf-8")


# -------- the door --------


def test_readme_has_the_two_commands():
    readme = text_of("README.md")
    assert len(re.findall(r"^pip install -c constraints\.txt -e \. && stepjepa train$", readme, re.M)) == 1
    assert len(re.findall(r"^pip install .*&& python -m pytest$", readme, re.M)) == 1


def test_readme_has_no_gaps():
    assert "@@" not in text_of("README.md")


def test_the_readme_is_a_door():
    assert len(text_of("README.md").splitlines()) <= 150


def test_the_row_of_the_readme_has_the_steps_that_it_shows(tmp_path):
    """Three pieces, none of which is taken for a fragment."""
    (row,) = re.findall(r'`(\{"question".*?\})`', text_of("README.md"))
    assert json.loads(row)["solution"].count("\n\n") == 2
    (tmp_path / "row.jsonl").write_text(row.replace("…", "How many pens are left?") + "\n", encoding="utf-8")
    (example,), _ = read_examples(str(tmp_path / "row.jsonl"))
    assert len(example["steps"]) == 3


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch):
    """As it stands there, with the built-in model in place of one from the Hub."""
    monkeypatch.chdir(tmp_path)
    prepare("builtin", "train.jsonl", count=4)
    (code,) = re.findall(r"^```python\n(.*?)^```$", text_of("README.md"), re.M | re.S)
    names: dict[str, object] = {}
    exec(code.replace("meta-llama/Llama-3.2-1B-Instruct", "builtin"), names)
    assert names["trainer"].state.global_step == 3  # epochs of one optimizer step
    assert {"adapter_model.safetensors", "tokenizer.json"} <= {path.name for path in Path("out").iterdir()}


# -------- generated parts --------


@pytest.mark.parametrize("document", ["README.md", "stepjepa/README.md", "figures/README.md", "notebooks/README.md"])
def test_generated_parts_are_those_of_records_and_modules(document):
    assert text_of(document) == tables.current(document), "run `python figures/tables.py`"


def test_every_block_of_a_document_is_generated():
    for document in DOCUMENTS:
        blocks = re.findall(r"<!-- begin: (\S+) -->", text_of(document))
        assert blocks == list(dict.fromkeys(blocks))
        assert set(blocks) == set(tables.BLOCKS.get(document, {}))


def test_a_changed_number_is_noticed(tmp_path, monkeypatch):
    (tmp_path / "figures").mkdir()
    text = text_of("figures/README.md")
    (tmp_path / "figures" / "README.md").write_text(text.replace("47.1% (44.0%–50.2%)", "47.2% (44.0%–50.2%)", 1))
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    assert tables.current("figures/README.md") == text
    assert (tmp_path / "figures" / "README.md").read_text() != text


def test_literal_rows():
    """Numbers as they were read off the records by hand."""
    lines = [*models.train(), *models.compare(), *models.representations(), *price(), *models.gsm8k()]
    lines += [*grids.grid_table("lambda", "λ = 0"), *grids.grid_table("losses"), *models.other_tests()]
    for row in (
        "| `stepjepa train` (λ = 0.1) | 0.689 → 0.112 | 1.075 → 0.005 | 13.5% → 52.0% | 8.5% (5.4%–13.2%) → 52.0% (45.1%–58.8%) |",
        "| untrained | 12.4% (10.5%–14.6%) | −34.7 (−37.8 to −31.5) | p < 0.001 | 5.6 |",
        "| λ = 0 | 47.1% (44.0%–50.2%) | | | |",
        "| λ = 0.1 | 49.2% (46.1%–52.3%) | +2.1 (−0.2 to +4.4) | p = 0.09 | 3.4 |",
        "| centred cosine margin | 0.064 [0.052, 0.075] | −0.005 [−0.012, 0.003] | 0.070 [0.063, 0.076] | 0.150 [0.143, 0.157] |",
        "| λ = 0 | 5 | 18.5% (14.8%–23.1%) | | 0.186 | 0.023 | 13% | 27.3 | 0.747 |",
        "| λ = 3 | 5 | 16.4% (12.9%–20.8%) | −2.1 (−5.0 to +0.7) | 0.194 | 0.107 | 52% | 3.7 | 0.995 |",
        "| **single pass**, first pair | 1.03 (0.99–1.07) | 1.12 | 627 MiB | 0.62 (0.59–0.66) | 1.08 | 799 MiB |",
        "| accuracy on 100 test problems (95% interval) | 4% (1.6%–9.8%) | 1% (0.2%–5.4%) |",
        "| OCW courses (Minerva) | 1 of 272, 0.4% (0.1%–2.1%) |",
        "| L2, target fixed | 1 | 11.7% (8.5%–15.8%) | −5.0 (−8.9 to −1.0) | 0.213 | 0.159 | 47% | 18.6 | 0.830 |",
    ):
        assert row in lines, row


# -------- links and names --------


def anchors(document):
    """The anchors of a document's headings, as GitHub makes them: `## How much of it?` → `how-much-of-it`."""
    headings = re.findall(r"^#+ (.+)$", text_of(document), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_relative_link_leads_somewhere(document):
    # `](figures/masks.png)`, `](#what-was-found)`, `](../README.md#start)`; not `](https://…)`
    links = re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)", text_of(document))
    assert links
    for path, anchor in links:
        target = ((ROOT / document).parent / path).resolve() if path else ROOT / document
        assert target.exists(), f"{document} links to {path}"
        assert target.is_relative_to(ROOT), f"{document} links out of the repository: {path}"
        if anchor:
            assert anchor in anchors(target.relative_to(ROOT)), f"{document} links to #{anchor}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_tests_that_are_named_exist(document):
    defined = {
        name
        for path in ROOT.glob("tests/**/test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.M)
    }
    # `test_isolation_to_the_bit`; not `tests/test_imports.py`
    assert set(re.findall(r"`(test_\w+)`", text_of(document))) <= defined


@pytest.mark.parametrize("room", ROOMS)
def test_the_door_of_a_room_names_its_modules(room):
    modules = [path.name for path in (PACKAGE / room).glob("*.py") if path.name != "__init__.py"]
    assert sorted(named_modules(PACKAGE / room)) == sorted(modules)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_options_of_commands_exist(document, capsys):
    # `stepjepa train --config llama-3.2-1b`, on a line of its own or in a sentence: to the end of the line or the code
    for command, rest in re.findall(r"\bstepjepa (\w+)([^`\n|&]*)", text_of(document)):
        if command not in COMMANDS:
            continue
        words = [command, *(["--generation"] if "--generation" in rest else [])]
        with pytest.raises(SystemExit) as stop:
            main([*words, "--help_all" if command in ("train", "plan") else "--help"])
        assert stop.value.code in (0, None)
        shown = set(re.findall(r"--\w+", capsys.readouterr().out))
        assert set(re.findall(r"--\w+", rest)) <= shown | {"--generation"}, f"{document}: stepjepa {command}{rest}"
