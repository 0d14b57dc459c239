"""The embedding explorer as a reader meets it: in JupyterLab, and in a page exported from the notebook."""

import json
from pathlib import Path

import nbformat
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
from small_embeddings import make_embeddings

from stepjepa.analysis.embeddings import save

CANVAS = ".stepjepa-map canvas"
CELLS = (
    """
from stepjepa import load_model
from stepjepa.visualization.embedding_explorer import embedding_explorer
from stepjepa.analysis.embeddings import load
from stepjepa.analysis.encode import encode_examples, random_weights
from stepjepa.data.sources import read_examples

model, tokenizer = load_model()
examples, _ = read_examples("builtin", split="test", count=40, seed=1)
sets = {
    "built-in model": encode_examples(model, tokenizer, examples, progress=False),
    "random weights": encode_examples(random_weights(model, 0), tokenizer, examples, progress=False),
}""",
    "embedding_explorer(sets)",
    'embedding_explorer(load("many.npz"), "constructed", seeds=(), examples=None)',
)

pytestmark = needs_browser


def write_notebook(path: Path, *sources: str) -> None:
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    cells = [nbformat.v4.new_code_cell(source.strip()) for source in sources]
    nbformat.write(nbformat.v4.new_notebook(metadata=kernel, cells=cells), path)


def test_the_explorer_in_jupyterlab(tmp_path):
    folder, home = tmp_path / "notebooks", tmp_path / "home"
    folder.mkdir()
    home.mkdir()
    save(make_embeddings(250, size=64), folder / "many.npz")
    write_notebook(folder / "explorer.ipynb", *CELLS)
    with jupyter_lab(folder, home) as url, chromium(1500, 1500) as watched:
        page = watched.page
        open_notebook(page, url, "explorer.ipynb")
        run_all(page)
        page.wait_for_function(f"document.querySelectorAll('{CANVAS}').length === 2")
        explore(page, tmp_path)
        many_points_stay_responsive(page, tmp_path)
        assert watched.errors == []
        assert watched.refused == [], "the explorer needs the network"


def explore(page, tmp_path):
    look = Looking(page, CANVAS, ".stepjepa-map [aria-live]")
    look.canvas.scroll_into_view_if_needed()
    assert look.canvas.get_attribute("role") == "img"
    assert "Problem 1: context view after step 1" in look.words
    assert "Problem 1: context view after step 1" in look.canvas.get_attribute("aria-label")
    assert "Nearest target views by cosine in all 160 dimensions:" in look.words

    # The controls: point slider, problem, colour, map, set.
    page.locator(".widget-hslider .noUi-handle").first.focus()
    look.after(lambda: page.keyboard.press("ArrowRight"))
    assert "Problem 1: context view after step 2" in look.words
    look.choose("Colour", "operation", words=False)
    assert page.locator(".stepjepa-map .legend").nth(1).inner_text().split()[:2] == ["add", "divide"]
    look.choose("Nearest in", "own view")
    assert "Nearest context views" in look.words
    look.choose("Nearest in", "partner's view")
    look.choose("Map", "PCA", words=False)
    assert "% of the squared length" in page.locator(".stepjepa-map .drawing .summary").first.inner_text()
    said = look.words
    look.choose("Set", "random weights")
    assert look.words.splitlines()[0] == said.splitlines()[0]  # the same point
    look.choose("Set", "built-in model")
    assert look.words == said

    # The canvas by keyboard: the notebook must not take the keys for itself.
    look.choose("Map", "t-SNE, seed 0", words=False)
    look.canvas.focus()
    look.after(lambda: page.keyboard.press("ArrowDown"))
    assert "Problem 2: context view after step 2" in look.words
    look.after(lambda: page.keyboard.press("Space"))
    assert "Problem 2: target view of step 3" in look.words
    look.after(lambda: page.keyboard.press("ArrowLeft"))
    assert "Problem 2: target view of step 2" in look.words
    first = page.locator(".stepjepa-map .nearest li").first.inner_text()
    look.after(lambda: page.keyboard.press("a"))
    assert first.split("«")[1] in look.words
    assert look.canvas.evaluate("canvas => canvas === document.activeElement")
    chosen = look.words
    problem = int(chosen.split(":")[0].removeprefix("Problem "))
    page.wait_for_function(  # the dropdown follows the canvas
        f"[...document.querySelectorAll('.widget-dropdown select')].some(s => s.value.startsWith('{problem}: '))"
    )

    # By pointer: pointing tells of a point, leaving goes back, a click stays; so does a click on a nearest step.
    box = look.canvas.bounding_box()
    spots = [(box["x"] + 8 + i % 26 * 20, box["y"] + 8 + i // 26 * 20) for i in range(26 * 26)]
    spot = next(spot for spot in spots if page.mouse.move(*spot) or look.words != chosen)
    pointed = look.words
    page.mouse.move(5, 5)
    assert look.words == chosen
    page.mouse.click(*spot)
    page.mouse.move(5, 5)
    assert look.words == pointed
    look.after(lambda: page.locator(".stepjepa-map .nearest li").nth(1).click())
    look.after(lambda: page.get_by_role("button", name="zoom in").first.click(), words=False)
    look.after(lambda: page.get_by_role("button", name="whole map").first.click(), words=False)

    output = page.locator(".jp-OutputArea-child", has=look.canvas).first
    output.screenshot(path=artifacts(tmp_path) / "embedding-explorer.png")
    look.after(lambda: change_theme(page, "JupyterLab Dark"), words=False)
    output.screenshot(path=artifacts(tmp_path) / "embedding-explorer-dark.png")


def many_points_stay_responsive(page, tmp_path):
    look = Looking(page, f"{CANVAS} >> nth=1", ".stepjepa-map [aria-live] >> nth=1")
    look.canvas.scroll_into_view_if_needed()
    press = "canvas.dispatchEvent(new KeyboardEvent('keydown', {key: '%s', bubbles: true}))"
    times = {
        "another point (ms)": sorted(look.milliseconds(press % "ArrowDown") for _ in range(9))[4],
        "all points again (ms)": sorted(look.milliseconds(press % key) for key in "+-" * 4 + "+")[4],
    }
    (artifacts(tmp_path) / "embedding-explorer.json").write_text(json.dumps({"points": 1498} | times))
    print(times)
    assert max(times.values()) < 200


def test_an_exported_page_shows_the_still(tmp_path):
    save(make_embeddings(), tmp_path / "some.npz")
    write_notebook(
        tmp_path / "explorer.ipynb",
        "from stepjepa.visualization.embedding_explorer import embedding_explorer\nfrom stepjepa.analysis.embeddings import load",
        'embedding_explorer(load("some.npz"), "constructed", seeds=(0,))',
    )
    page = exported(tmp_path / "explorer.ipynb", tmp_path)
    with chromium(height=1000) as watched:
        watched.page.goto(page.as_uri())
        still, titles = still_of(watched.page, "map-", 500)
        assert len(titles) == 2 * len(make_embeddings().target)
        assert titles[0].startswith("Problem 1, context view after step 1, which has to predict step 2: «")
        under_pointer = still.evaluate(
            """image => {
                const box = image.getBoundingClientRect();
                const [x, y] = image.ownerDocument.querySelector('area').coords.split(',').map(Number);
                return document.elementFromPoint(box.x + x, box.y + y).title;
            }"""
        )
        assert under_pointer == titles[0]
        watched.page.screenshot(path=artifacts(tmp_path) / "embedding-explorer-exported.png")
