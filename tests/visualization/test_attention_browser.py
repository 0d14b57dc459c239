"""The attention explorer as a reader meets it: in JupyterLab on a small screen, and as a still on a page."""

import json
from pathlib import Path
from statistics import median

import nbformat
import pytest
from browser import (
    Looking,
    artifacts,
    ask,
    change_theme,
    chromium,
    in_sight,
    jupyter_lab,
    needs_browser,
    open_and_run,
    still_of,
    stopped_kernel,
    title_at,
)

from stepjepa import attention_explorer, load_model

ROOT = ".stepjepa-attention"
MAP, WORDS, HEADS = f"{ROOT} .frame canvas", f"{ROOT} .words", f"{ROOT} .heads button"
CELLS = (
    """
from stepjepa import attention_explorer, load_model
from stepjepa.analysis.encode import random_weights

model, tokenizer = load_model()
explorer = attention_explorer({"before": random_weights(model, 0), "after": model}, tokenizer)
explorer.example, explorer.shown = 1, 1
print(len(explorer.story.texts), "tokens")""",
    "explorer",
)

pytestmark = [needs_browser, pytest.mark.slow]


def value(page, name: str) -> str:
    """What stands beside a slider."""
    return page.locator(f"{ROOT} label.{name} output").inner_text()


def test_the_attention_explorer_in_jupyterlab(tmp_path, tmp_path_factory):
    folder = tmp_path_factory.mktemp("notebooks")
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    cells = [nbformat.v4.new_code_cell(source.strip()) for source in CELLS]
    nbformat.write(nbformat.v4.new_notebook(metadata=kernel, cells=cells), folder / "attention.ipynb")
    with jupyter_lab(folder, tmp_path_factory.mktemp("home")) as url, chromium(1440, 900) as watched:
        page = watched.page
        open_and_run(page, url, "attention.ipynb")
        page.wait_for_selector(f"{HEADS}[aria-pressed=true]")
        # The notebook takes the focus once more when the last cell has ended.
        page.wait_for_function(r"/\| Idle/.test(document.querySelector('#jp-main-statusbar').textContent)")
        page.wait_for_timeout(500)
        page.locator(ROOT).evaluate("root => root.scrollIntoView()")
        look = Looking(page, MAP, WORDS)
        assert in_sight(page, MAP, f"{ROOT} .layer", WORDS, f"{ROOT} .text", f"{ROOT} .heads")
        pointing(page, look)
        keys_and_small_maps(page, look)
        page.screenshot(path=artifacts(tmp_path) / "attention-explorer.png")
        the_kernel_and_the_page_are_one_state(page, look)
        the_difference(page, look)
        page.screenshot(path=artifacts(tmp_path) / "attention-difference.png")
        look.after(lambda: change_theme(page, "JupyterLab Dark"), words=False)
        page.wait_for_timeout(1000)  # until all small maps are drawn
        page.screenshot(path=artifacts(tmp_path) / "attention-dark.png")
        a_busy_kernel(page, look)
        page.locator(f"{ROOT} label.shown select").select_option(index=1)
        page.wait_for_selector(f"{ROOT}:not(.waiting)")
        times = {"tokens": len(page.locator(f"{ROOT} .token").all()), **milliseconds(look)}
        print(times)
        (artifacts(tmp_path) / "attention-explorer.json").write_text(json.dumps(times))
        assert times["tokens"] >= 128
        assert max(times["token (ms)"], times["head (ms)"], times["layer (ms)"]) <= 50
        assert watched.errors == []
        assert watched.refused == [], "the explorer needs the network"


def pointing(page, look):
    chosen = look.words
    box = look.canvas.bounding_box()
    look.after(lambda: page.mouse.move(box["x"] + 40, box["y"] + 470))  # a branch looks at the prompt: forbidden
    assert "must not attend to prompt token " in look.words
    assert "weight exactly 0." in look.words
    assert "copy token" in look.words.split(" sees: ")[0]
    hatched = page.locator(f"{ROOT} .text .forbidden").all_inner_texts()
    assert "<|begin|>" in hatched
    pointed = look.words
    look.after(lambda: page.mouse.move(5, 5))
    assert look.words == chosen
    page.mouse.click(box["x"] + 40, box["y"] + 470)
    page.mouse.move(5, 5)
    page.wait_for_timeout(100)
    assert look.words == pointed
    first = page.locator(f"{ROOT} .text .token").first
    look.after(first.hover)
    assert "prompt token 1 sees: prompt token 1," in look.words
    assert page.locator(f"{ROOT} .text .token:not(.forbidden)").count() == 1
    page.mouse.move(5, 5)


def keys_and_small_maps(page, look):
    look.canvas.focus()
    look.after(lambda: page.keyboard.press("Home"))
    assert "prompt token 1 sees: " in look.words
    look.after(lambda: page.keyboard.press("PageDown"))
    look.after(lambda: page.keyboard.press("ArrowDown"))
    assert "S1 token 2 sees: " in look.words
    look.after(lambda: page.keyboard.press("ArrowRight"))
    position = value(page, "position")
    look.after(lambda: page.keyboard.press("Shift+ArrowRight"))
    assert value(page, "head") == "0"
    look.after(lambda: page.keyboard.press("Shift+ArrowUp"))
    assert value(page, "layer") == "3"
    assert value(page, "position") == position
    assert look.canvas.evaluate("canvas => canvas === document.activeElement")
    assert page.locator(HEADS).count() == 1 + 5
    look.after(lambda: page.locator(HEADS).nth(3).click())
    assert value(page, "head") == "2"
    assert page.locator(f"{HEADS}[aria-pressed=true]").inner_text() == "head 2"
    page.locator(f"{ROOT} label.head input").focus()
    look.after(lambda: page.keyboard.press("ArrowRight"))
    assert value(page, "head") == "3"
    look.after(lambda: page.get_by_role("button", name="zoom in").click(), words=False)
    look.after(lambda: page.get_by_role("button", name="whole map").click(), words=False)


def the_kernel_and_the_page_are_one_state(page, look):
    names = ("shown", "layer", "head", "position")
    said = ask(page, f"print(*(getattr(explorer, name) for name in {names}))")
    assert said.split() == ["1", *(value(page, name) for name in names[1:])]
    look.after(lambda: ask(page, "explorer.choose(1, 1, 'target')"))
    assert "The target view of S1→S2 is read here." in look.words
    look.after(lambda: ask(page, "explorer.layer, explorer.head = 0, -1"))
    assert (value(page, "layer"), value(page, "head")) == ("0", "mean")


def the_difference(page, look):
    look.after(lambda: page.locator(f"{ROOT} label.shown select").select_option(label="after − before"))
    assert "Differs most" in look.words
    assert "+0.01" in page.locator(f"{ROOT} .legend").inner_text()


def a_busy_kernel(page, look):
    """What the page has can be looked at; what it has not is waited for, and nothing jumps back."""
    page.wait_for_selector(f"{ROOT}:not(.waiting)")
    look.canvas.focus()
    with stopped_kernel(page):
        look.after(lambda: page.keyboard.press("Shift+ArrowRight"))
        page.keyboard.press("Shift+ArrowDown")
        page.keyboard.press("Shift+ArrowDown")
        assert page.locator(f"{ROOT}.waiting").count() == 1
        assert value(page, "layer") == "2"
        look.after(lambda: page.keyboard.press("ArrowUp"))
        position = value(page, "position")
    page.wait_for_selector(f"{ROOT}:not(.waiting)")
    page.wait_for_timeout(500)
    assert (value(page, "layer"), value(page, "head"), value(page, "position")) == ("2", "0", position)
    assert ask(page, "print(explorer.layer, explorer.head, explorer.position)").split() == ["2", "0", position]


def milliseconds(look) -> dict[str, int]:
    """Medians from a key press to the frame with another picture."""
    press = "canvas.dispatchEvent(new KeyboardEvent('keydown', {key: '%s', shiftKey: %s, bubbles: true}))"
    moves = {
        "token (ms)": (["ArrowUp"] * 15, "false"),
        "head (ms)": (["ArrowRight", "ArrowLeft"] * 8, "true"),
        "layer (ms)": (["ArrowUp", "ArrowDown"] * 8, "true"),  # the first time by way of the kernel
    }
    return {
        name: round(median(look.milliseconds(press % (key, held)) for key in keys))
        for name, (keys, held) in moves.items()
    }


def test_the_still_has_hover_texts(tmp_path):
    model, tokenizer = load_model()
    explorer = attention_explorer(model, tokenizer)
    page = Path(tmp_path, "still.html")
    page.write_text(f"<!doctype html><meta charset=utf-8>{explorer._repr_mimebundle_()[0]['text/html']}")
    with chromium(1000, 900) as watched:
        watched.page.goto(page.as_uri())
        still, titles = still_of(watched.page, "attention-", 500)
        assert len(titles) == len(explorer.story.texts)
        assert all("Most attention: " in title for title in titles)
        assert title_at(still, 200, 100) in titles
        watched.page.screenshot(path=artifacts(tmp_path) / "attention-still.png")
        assert watched.refused == []
