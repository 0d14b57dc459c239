"""Run the notebooks and keep their outputs: `python notebooks/execute.py [NAME.ipynb ...]`.

What differs from run to run (widget ids, temporary folders, kernel versions) is left out, and pictures are stored with
128 colours, which is a third of their size. `STEPJEPA_SCALE` chooses `smoke` (default) or `full`.
"""

import base64
import io
import os
import re
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

WIDGET = "application/vnd.jupyter.widget-view+json"  # its random id says "model not found" in a notebook not yet run
TEMPORARY = re.compile(re.escape(tempfile.gettempdir()) + r"/\w+")


def smaller(png: str) -> str:
    """A base64 PNG with a palette of 128 colours instead of all."""
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB").quantize(128)
    stored = io.BytesIO()
    picture.save(stored, "PNG", optimize=True)
    return base64.b64encode(stored.getvalue()).decode()


def execute(path: Path) -> None:
    """Run one notebook in its folder and write it back with its outputs.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed; the file is left as it was.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=600, kernel_name="python3", record_timing=False, store_widget_state=False,
        resources={"metadata": {"path": str(path.parent)}},
    )  # fmt: skip
    client.execute()
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(WIDGET, None)
            output.get("metadata", {}).pop(WIDGET, None)
            if "text" in output:  # nbval does not compare the cells that name temporary folders
                output["text"] = TEMPORARY.sub("FOLDER", output["text"])
            if "image/png" in output.get("data", {}):
                output["data"]["image/png"] = smaller(output["data"]["image/png"])
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    nbformat.validate(notebook)
    nbformat.write(notebook, path)


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    here = Path(__file__).resolve().parent
    for name in sys.argv[1:] or sorted(path.name for path in here.glob("[0-9]*.ipynb")):
        print(name, flush=True)
        execute(here / Path(name).name)
