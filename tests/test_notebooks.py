"""The notebooks hold what nbval can compare, and a changed result makes it fail.

That their stored outputs are those of the code is checked by nbval itself, which collects `notebooks/` in the default
test command.
"""

import re
import statistics
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def code_cells(path: Path) -> list:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def test_they_are_in_order():
    assert [path.name[:3] for path in NOTEBOOKS] == [f"{n:02}_" for n in range(1, 11)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_there_to_be_compared(path):
    """A cell without execution count and output would pass nbval without being checked."""
    cells = code_cells(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    compared = [cell for cell in cells if "nbval-ignore-output" not in cell.metadata.get("tags", [])]
    printed = [output for cell in compared for output in cell.outputs if output.get("text")]
    assert len(printed) >= 3
    assert not any(output.output_type == "error" for cell in cells for output in cell.outputs)
    assert path.stat().st_size < 600_000  # no megabyte blobs


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_thin(path):
    sources = [cell.source for cell in code_cells(path)]
    assert not any(re.search(r"^\s*(def|class) ", source, re.M) for source in sources)
    assert statistics.median(len(source.splitlines()) for source in sources) <= 7
    first = nbformat.read(path, as_version=4).cells[0].source
    assert "**Question.**" in first
    assert "**Out:**" in first


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_nothing_of_the_machine_is_stored(path):
    text = path.read_text()
    assert "vnd.jupyter.widget-view" not in text
    assert not re.search(r"(/root/|/home/|/Users/|/tmp/)\w", text)


def test_an_altered_output_fails(tmp_path):
    """Of two cells with stored outputs, nbval passes the one whose code gives its output, and not the other."""
    steps = "from stepjepa import split_steps\n\nprint(len(split_steps('She sold half of 48 in May, 24.\\n\\nTogether that is 48 + 24 = 72.')), 'steps')"
    cells = [
        nbformat.v4.new_code_cell(
            steps, execution_count=n, outputs=[nbformat.v4.new_output("stream", name="stdout", text=text)]
        )
        for n, text in ((1, "2 steps\n"), (2, "3 steps\n"))
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(metadata=kernel, cells=cells), tmp_path / "altered.ipynb")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval", "--nbval-current-env"]
    done = subprocess.run([*command, "altered.ipynb"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout
    assert "FAILED altered.ipynb::Cell 1" in done.stdout
    assert "1 failed, 1 passed" in done.stdout
