"""The mask explorer as a reader meets it: in JupyterLab, and in a page exported from the notebook."""

import json
import shutil
from pathlib import Path

import nbformat
import pytest
from browser import (
    Looking,
    artifacts,
    change_theme,
    chromium,
    exported,
    jupyter_lab,
    needs_browser,
    open_notebook,
    run_all,
    still_of,
)

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "02_mask_visualization.ipynb"
CANVAS = ".stepjepa-mask canvas"
CELLS = (
    "from stepjepa.visualization.mask_explorer import mask_explorer",
    'explorer = mask_explorer()\nexplorer.view.value = "two-pass"\nexplorer',
)

pytestmark = needs_browser


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with the notebook to try: notebook 2, or the explorer alone where that is not there yet."""
    folder = tmp_path_factory.mktemp("notebooks")
    if NOTEBOOK.exists():
        shutil.copy(NOTEBOOK, folder / "explorer.ipynb")
        return folder
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS]
    nbformat.write(nbformat.v4.new_notebook(metadata=kernel, cells=cells), folder / "explorer.ipynb")
    return folder


def test_the_explorer_in_jupyterlab(folder, tmp_path):
    with jupyter_lab(folder, tmp_path) as url, chromium() as watched:
        page = watched.page
        open_notebook(page, url, "explorer.ipynb")
        run_all(page)
        page.wait_for_selector(CANVAS)
        look = Looking(page, CANVAS, ".stepjepa-mask [aria-live] p")
        look.canvas.scroll_into_view_if_needed()
        assert look.canvas.get_attribute("role") == "img"
        assert " sees: " in look.words

        if "prompt token 1 sees: " in look.words:  # where notebook 2 ends; go to where a target view is read
            look.canvas.focus()
            look.after(lambda: page.keyboard.press("End"))
            page.wait_for_function(
                "document.querySelector('.widget-hslider .widget-readout').textContent.trim() !== '1'"
            )

        # The token slider, the forms, the dropdowns.
        page.locator(".widget-hslider .noUi-handle").first.focus()
        look.after(lambda: page.keyboard.press("ArrowLeft"))
        look.after(lambda: page.get_by_role("button", name="difference", exact=True).first.click())
        look.after(lambda: page.get_by_role("button", name="single-pass", exact=True).first.click())
        look.choose("Isolation", "sink")
        assert "but for the first token of the sequence, the attention sink" in look.words
        look.choose("View pairs", "question_answer")
        look.choose("View pairs", "consecutive", words=False)

        # The canvas by keyboard: the notebook must not take the arrow keys for itself.
        look.canvas.focus()
        look.after(lambda: page.keyboard.press("Home"))
        assert "prompt token 1 sees: prompt token 1," in look.words
        look.after(lambda: page.keyboard.press("PageDown"))
        assert "S1 token 1 sees: " in look.words
        look.after(lambda: page.keyboard.press("ArrowDown"))
        assert "S1 token 2 sees: " in look.words
        page.wait_for_function(  # the slider follows the canvas
            "document.querySelector('.widget-hslider .widget-readout').textContent.trim() !== '1'"
        )
        before = look.image
        page.keyboard.press("ArrowRight")
        cell = page.locator(".stepjepa-mask .cell").first
        assert look.image != before
        assert "attend to" in cell.inner_text()
        assert look.canvas.evaluate("canvas => canvas === document.activeElement")

        # By pointer: pointing shows a cell, leaving goes back, a click stays.
        box = look.canvas.bounding_box()
        chosen = look.words
        look.after(lambda: page.mouse.move(box["x"] + 300, box["y"] + 400))
        pointed = look.words
        look.after(lambda: page.mouse.move(5, 5))
        assert look.words == chosen
        page.mouse.click(box["x"] + 300, box["y"] + 400)
        page.mouse.move(5, 5)
        page.wait_for_timeout(100)
        assert look.words == pointed

        assert watched.errors == []
        assert watched.refused == [], "the explorer needs the network"
        page.locator(".jp-OutputArea-child", has=page.locator(CANVAS)).first.screenshot(
            path=artifacts(tmp_path) / "mask-explorer.png"
        )
        look.after(lambda: change_theme(page, "JupyterLab Dark"), words=False)
        page.locator(".jp-OutputArea-child", has=page.locator(CANVAS)).first.screenshot(
            path=artifacts(tmp_path) / "mask-explorer-dark.png"
        )

        # Time: the picture of at least 128 × 128 tokens, by a key in the page and by way of the kernel.
        look.choose("Isolation", "step", words=False)
        longest = page.locator(".widget-dropdown select").first
        look.after(lambda: longest.select_option(index=2))
        rows = int(page.locator(".stepjepa-mask .summary").first.inner_text().split(": ")[1].split()[0])
        assert rows >= 128
        key = "canvas.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowUp', bubbles: true}))"
        by_key = sorted(look.milliseconds(key) for _ in range(9))[4]
        press = (
            "[...document.querySelectorAll('.widget-toggle-buttons button')].find(b => b.textContent === '%s').click()"
        )
        by_view = sorted(look.milliseconds(press % v) for v in ["plain causal", "single-pass"] * 4 + ["plain causal"])[
            4
        ]
        times = {
            "rows": rows,
            "key press (ms)": round(by_key),
            "another mask, by way of the kernel (ms)": round(by_view),
        }
        (artifacts(tmp_path) / "mask-explorer.json").write_text(json.dumps(times))
        print(times)
        assert by_key < 200
        assert by_view < 1000
        assert watched.errors == []


def test_an_exported_page_shows_the_still(folder, tmp_path):
    page = exported(folder / "explorer.ipynb", tmp_path)
    with chromium(height=1000) as watched:
        watched.page.goto(page.as_uri())
        still, titles = still_of(watched.page, "mask-", 300)
        assert len(titles) > 20
        assert all(" sees: " in title for title in titles)
        under_pointer = still.evaluate(
            """image => {
                const box = image.getBoundingClientRect();
                return document.elementFromPoint(box.x + 200, box.y + 100).title;
            }"""
        )
        assert under_pointer in titles
        watched.page.screenshot(path=artifacts(tmp_path) / "mask-explorer-exported.png")
