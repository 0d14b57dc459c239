"""Both explorers as a reader meets them: in JupyterLab, and in a page exported from a notebook."""

import json
import shutil
from pathlib import Path

import nbformat
import pytest
from browser import (
    Looking,
    artifacts,
    ask,
    change_theme,
    chromium,
    exported,
    in_sight,
    jupyter_lab,
    needs_browser,
    open_and_run,
    still_of,
    stopped_kernel,
    title_at,
)
from small_embeddings import make_embeddings

from stepjepa.analysis.embeddings import save

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "02_mask_visualization.ipynb"
MASK, MAP = ".stepjepa-mask canvas", ".stepjepa-map canvas"
SLIDER = ".stepjepa-mask .slider"
LAPTOP = 1440, 900
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
    "explorer = embedding_explorer(sets)\nexplorer",
    'embedding_explorer(load("many.npz"), "constructed", seeds=(), examples=None)',
)
LINKED = (
    """
from stepjepa import embedding_explorer, load_model, mask_explorer, read_examples
from stepjepa.analysis.encode import encode_examples
from stepjepa.visualization.linking import link

model, tokenizer = load_model()
examples, _ = read_examples("builtin", split="test", count=8, seed=1)
masks = mask_explorer(tokenizer, examples)
points = embedding_explorer(encode_examples(model, tokenizer, examples, progress=False), seeds=())
end = link(masks, points)""",
    "masks",
    "points",
)

pytestmark = [needs_browser, pytest.mark.slow]


def code_cells(*sources: str) -> list:
    return [nbformat.v4.new_code_cell(source.strip()) for source in sources]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with the notebooks to try: notebook 2 for masks, and one of our own for embeddings."""
    folder = tmp_path_factory.mktemp("notebooks")
    shutil.copy(NOTEBOOK, folder / "masks.ipynb")
    shutil.copytree(NOTEBOOK.parent / "pictures", folder / "pictures")  # it opens with one
    save(make_embeddings(834, size=64), folder / "many.npz")
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    for name, cells in (("embeddings", CELLS), ("linked", LINKED)):
        notebook = nbformat.v4.new_notebook(metadata=kernel, cells=code_cells(*cells))
        nbformat.write(notebook, folder / f"{name}.ipynb")
    return folder


@pytest.fixture(scope="module")
def lab(folder, tmp_path_factory):
    """The address of a JupyterLab that serves the folder."""
    with jupyter_lab(folder, tmp_path_factory.mktemp("home")) as url:
        yield url


@pytest.fixture(scope="module")
def exported_page(folder) -> Path:
    """Notebook 2 with an embedding explorer at its end, run and exported as one page."""
    save(make_embeddings(), folder / "some.npz")
    notebook = nbformat.read(folder / "masks.ipynb", as_version=4)
    notebook.cells += code_cells(
        "from stepjepa.visualization.embedding_explorer import embedding_explorer\nfrom stepjepa.analysis.embeddings import load",
        'embedding_explorer(load("some.npz"), "constructed", seeds=(0,))',
    )
    nbformat.write(notebook, folder / "both.ipynb")
    return exported(folder / "both.ipynb", folder)


def test_the_mask_explorer_in_jupyterlab(lab, tmp_path):
    with chromium(*LAPTOP) as watched:
        page = watched.page
        open_and_run(page, lab, "masks.ipynb")
        page.wait_for_selector(MASK)
        look = Looking(page, MASK, ".stepjepa-mask [aria-live] p")
        look.canvas.scroll_into_view_if_needed()
        assert look.canvas.get_attribute("role") == "img"
        assert " sees: " in look.words

        if "prompt token 1 sees: " in look.words:  # where notebook 2 ends; go to where a target view is read
            look.canvas.focus()
            look.after(lambda: page.keyboard.press("End"))

        # The token slider, the forms, the dropdowns.
        page.locator(f"{SLIDER} input").first.focus()
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
        assert page.locator(f"{SLIDER} output").first.inner_text().split()[0] != "1"  # the slider follows the canvas
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
        picture_and_words(page, ".stepjepa-mask", tmp_path, "mask-explorer", look)

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
        assert by_key < 50
        assert by_view < 1000
        assert watched.errors == []


def picture_and_words(page, root, tmp_path, name, look):
    """Both are in sight at once in both themes, and the picture follows the theme; keeps what a reader sees."""
    for theme in ("Light", "Dark"):
        if theme == "Dark":
            look.after(lambda: change_theme(page, "JupyterLab Dark"), words=False)
        assert in_sight(page, f"{root} canvas", f"{root} .words")
        page.screenshot(path=artifacts(tmp_path) / f"{name}-{theme.lower()}.png")


def test_an_exported_page_shows_the_still_of_the_masks(exported_page, tmp_path):
    with chromium(height=1000) as watched:
        watched.page.goto(exported_page.as_uri())
        still, titles = still_of(watched.page, "mask-", 300)
        assert len(titles) > 20
        assert all(" sees: " in title for title in titles)
        assert title_at(still, 200, 100) in titles
        watched.page.screenshot(path=artifacts(tmp_path) / "mask-explorer-exported.png")


def test_the_embedding_explorer_in_jupyterlab(lab, tmp_path):
    with chromium(*LAPTOP) as watched:
        page = watched.page
        open_and_run(page, lab, "embeddings.ipynb")
        page.wait_for_function(f"document.querySelectorAll('{MAP}').length === 2")
        look = Looking(page, MAP, ".stepjepa-map [aria-live]")
        look.canvas.scroll_into_view_if_needed()
        menus_and_keys(page, look)
        pointer_search_and_lasso(page, look)
        points_move_from_set_to_set(page, look)
        one_state_while_the_kernel_is_busy(page, look)
        picture_and_words(page, ".stepjepa-map", tmp_path, "embedding-explorer", look)
        many_points_stay_responsive(page, tmp_path)
        assert watched.errors == []
        assert watched.refused == [], "the explorer needs the network"


def menus_and_keys(page, look):
    assert look.canvas.get_attribute("role") == "img"
    assert "Problem 1: context view after step 1" in look.words
    assert "Problem 1: context view after step 1" in look.canvas.get_attribute("aria-label")
    assert "Nearest target views by cosine in all 160 dimensions:" in look.words

    # Slider, problem, colour, map, set.
    page.locator(".stepjepa-map .slider input").first.focus()
    look.after(lambda: page.keyboard.press("ArrowRight"))
    assert "Problem 1: context view after step 2" in look.words
    look.after(lambda: page.locator(".stepjepa-map select").first.select_option(index=2))
    assert "Problem 3: context view after step 2" in look.words
    look.after(lambda: page.locator(".stepjepa-map select").first.select_option(index=0))
    look.choose("Colour", "operation", words=False)
    assert page.locator(".stepjepa-map .legend").nth(1).inner_text().split()[:2] == ["add", "divide"]
    look.choose("Colour", "error of the pair (1 − cos)", words=False)
    look.choose("Nearest in", "own view")
    assert "Nearest context views" in look.words
    look.choose("Nearest in", "partner's view")
    look.choose("Map", "PCA", words=False)
    assert "% of the squared length" in page.locator(".stepjepa-map .drawing .summary").first.inner_text()

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
    assert the_state(page)[0] == look.words.split(":")[0].removeprefix("Problem ")  # the menu follows the canvas


def pointer_search_and_lasso(page, look):
    # Pointing tells of a point, leaving goes back, a click stays; so does a click on a nearest step.
    chosen = look.words
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

    # Search: every point whose step holds the text, in the picture, in the list, and in Python.
    look.canvas.focus()
    page.keyboard.press("/")
    look.after(lambda: page.keyboard.type("answer is"), words=False)
    expected = ask(page, "print([i for i in range(len(explorer.points)) if explorer.points.view[i] != 'state'"
                         " and 'answer is' in explorer.points.text(i)])")  # fmt: skip
    assert ask(page, "print(explorer.canvas.found)") == expected
    found = page.locator(".stepjepa-map .found").first
    assert f"{expected.count(',') + 1} points of 40 problems found" in found.inner_text()
    look.after(lambda: page.keyboard.press("Enter"))
    assert "«The answer is" in look.words
    look.after(lambda: page.keyboard.press("Enter"))
    look.after(lambda: page.keyboard.press("Escape"), words=False)
    assert not found.is_visible()

    # Lasso: the points inside the line, no others.
    left, top, right, bottom = (round(share * box["width"]) for share in (0.15, 0.2, 0.6, 0.7))
    page.mouse.move(box["x"] + left, box["y"] + top)
    page.mouse.down()
    for x, y in ((right, top), (right, bottom), (left, bottom), (left, top)):
        page.mouse.move(box["x"] + x, box["y"] + y, steps=4)
    look.after(page.mouse.up, words=False)
    inside = (
        f"side = {box['width']}; xy = (explorer.map.xy * [1, -1] / 1.06 + 1) / 2 * side\n"
        f"print([i for i, (x, y) in enumerate(xy) if {left} < x < {right} and {top} < y < {bottom}])"
    )
    expected = ask(page, inside)
    assert expected.count(",") > 10
    assert ask(page, "print(explorer.canvas.found)") == expected
    steps = ask(page, "print(*(step['text'] for step in explorer.found[:9]), sep='\\n')").splitlines()
    assert all(step in found.inner_text() for step in steps)
    look.after(lambda: page.locator(".stepjepa-map .found li").last.click())


def points_move_from_set_to_set(page, look):
    """The same point stays chosen, and the picture goes through others on its way."""
    said = look.words
    page.evaluate(
        """canvas => {
            window.pictures = new Set();
            const look = () => { pictures.add(document.querySelector(canvas).toDataURL()); requestAnimationFrame(look); };
            look();
        }""",
        MAP,
    )
    look.choose("Set", "random weights")
    page.wait_for_timeout(1500)
    assert look.words.splitlines()[0] == said.splitlines()[0]
    assert page.evaluate("pictures.size") > 4
    arrived = look.image
    page.wait_for_timeout(200)
    assert look.image == arrived
    look.choose("Set", "built-in model")
    assert look.words == said
    page.wait_for_timeout(1500)


def the_state(page) -> list[str]:
    """Problem of the menu and point of the slider; whether they are those of the words is told by the caller."""
    menu = page.locator(".stepjepa-map select").first
    return [
        menu.evaluate("menu => menu.selectedOptions[0].text.split(':')[0]"),
        page.locator(".stepjepa-map output").first.inner_text().split()[0],
    ]


def one_state_while_the_kernel_is_busy(page, look):
    """Keys, menu and slider agree at once, and afterwards with Python; nothing jumps back."""
    look.after(lambda: page.locator(".stepjepa-map select").first.select_option(index=4))
    look.canvas.focus()
    with stopped_kernel(page):
        for _ in range(5):
            look.after(lambda: page.keyboard.press("ArrowDown"))
        assert look.words.startswith("Problem 10: ")
        assert the_state(page)[0] == "10"
        page.keyboard.press("Home")
        look.after(lambda: page.keyboard.press("ArrowRight"))
        assert the_state(page) == ["10", "2"]
        page.locator(".stepjepa-map .slider input").first.focus()
        look.after(lambda: page.keyboard.press("ArrowRight"))
        assert the_state(page) == ["10", "3"]
        said = look.words
    seen = set()
    for _ in range(40):
        page.wait_for_timeout(50)
        seen |= {look.words, *the_state(page)}
    assert seen == {said, "10", "3"}
    head = said.splitlines()[0]  # Problem 10: target view of step 2
    assert ask(page, "print(explorer.words)").startswith(f"{head}: ")


def many_points_stay_responsive(page, tmp_path):
    look = Looking(page, f"{MAP} >> nth=1", ".stepjepa-map [aria-live] >> nth=1")
    look.canvas.scroll_into_view_if_needed()
    press = "canvas.dispatchEvent(new KeyboardEvent('keydown', {key: '%s', bubbles: true}))"
    times = {
        "another point (ms)": sorted(look.milliseconds(press % "ArrowDown") for _ in range(9))[4],
        "all points again (ms)": sorted(look.milliseconds(press % key) for key in "+-" * 4 + "+")[4],
    }
    shown = page.locator(".stepjepa-map .summary").nth(3).inner_text()
    (artifacts(tmp_path) / "embedding-explorer.json").write_text(json.dumps({"shown": shown} | times))
    print(shown, times)
    assert "2,502 context views, 2,502 target views" in shown
    assert times["another point (ms)"] < 50
    assert times["all points again (ms)"] < 100


def test_linked_explorers_in_jupyterlab(lab, tmp_path):
    with chromium(*LAPTOP) as watched:
        page = watched.page
        open_and_run(page, lab, "linked.ipynb")
        for canvas in (MASK, MAP):
            page.wait_for_selector(canvas)
        masks = Looking(page, MASK, ".stepjepa-mask [aria-live] p")
        points = Looking(page, MAP, ".stepjepa-map [aria-live]")
        points.canvas.focus()
        masks.after(lambda: page.keyboard.press("ArrowDown"))
        assert points.words.startswith("Problem 2: context view after step 1")
        assert "The context view of S1→S2 is read here." in masks.words
        assert ask(page, "print(masks.example.value)") == "1\n"
        masks.after(lambda: page.keyboard.press("Space"))
        assert "The target view of S1→S2 is read here." in masks.words
        masks.canvas.focus()
        page.keyboard.press("PageUp")  # from the copy's end to its start, still the same view
        points.after(lambda: page.keyboard.press("PageUp"))
        assert points.words.startswith("Problem 2: context view after step 1")
        assert watched.errors == []


def test_an_exported_page_shows_the_still_of_the_embeddings(exported_page, tmp_path):
    with chromium(height=1000) as watched:
        watched.page.goto(exported_page.as_uri())
        still, titles = still_of(watched.page, "map-", 500)
        assert len(titles) == 2 * len(make_embeddings().target)
        assert titles[0].startswith("Problem 1, context view after step 1, which has to predict step 2: «")
        under_pointer = still.evaluate(
            """image => {
                const box = image.getBoundingClientRect();
                const area = document.querySelector(`map[name="${image.useMap.slice(1)}"] area`);
                const [x, y] = area.coords.split(',').map(Number);
                return document.elementFromPoint(box.x + x, box.y + y).title;
            }"""
        )
        assert under_pointer == titles[0]
        watched.page.screenshot(path=artifacts(tmp_path) / "embedding-explorer-exported.png")
