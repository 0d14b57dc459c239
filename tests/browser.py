"""JupyterLab in a headless Chromium, for tests that look at what a reader sees.

Nothing outside this machine is reached: every other request is refused and remembered.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium found: apt-get install -y --no-install-recommends chromium"
)
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def artifacts(folder: Path) -> Path:
    """Where screenshots are kept: the folder named by STEPJEPA_ARTIFACTS, else `folder`."""
    kept = Path(os.environ.get("STEPJEPA_ARTIFACTS") or folder)
    kept.mkdir(parents=True, exist_ok=True)
    return kept


@contextmanager
def jupyter_lab(folder: Path, home: Path, seconds: float = 120) -> Iterator[str]:
    """Serve `folder` with a JupyterLab of its own, whose files go into `home`; yields its address.

    It may take so many seconds to start: other work may keep the processor.
    """
    settings = home / "settings" / "@jupyterlab"
    for plugin, value in (
        # Cells out of sight must be drawn too, and no request may go out for news.
        ("notebook-extension/tracker", {"windowingMode": "none"}),
        ("apputils-extension/notification", {"fetchNews": "false", "checkForUpdates": False}),
    ):
        (settings / plugin).parent.mkdir(parents=True, exist_ok=True)
        (settings / f"{plugin}.jupyterlab-settings").write_text(json.dumps(value))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "IPYTHONDIR": "ipython",
    }
    log = home / "jupyterlab.log"
    with log.open("w") as output:
        server = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "jupyterlab",
                "--no-browser",
                "--allow-root",
                "--ip=127.0.0.1",
                f"--port={port}",
                "--ServerApp.port_retries=0",
                "--IdentityProvider.token=",
                f"--ServerApp.root_dir={folder}",
                "--LabApp.news_url=",
                "--LabApp.collaborative=False",
                "--LabApp.expose_app_in_browser=True",
            ],
            env={**os.environ, **{name: str(home / place) for name, place in places.items()}},
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_for(url, server, log, seconds)
        yield url
    finally:
        server.send_signal(signal.SIGTERM)  # it shuts its kernels down
        server.wait(timeout=60)


def _wait_for(url: str, server: subprocess.Popen[bytes], log: Path, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/api/status", timeout=2):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"JupyterLab did not start:\n{log.read_text()[-3000:]}")


@dataclass
class Watched:
    """A page, with what went wrong on it."""

    page: Any
    errors: list[str] = field(default_factory=list)
    """Console errors and uncaught exceptions."""
    refused: list[str] = field(default_factory=list)
    """Requests to another machine, none of which was let through."""


@contextmanager
def chromium(width: int = 1400, height: int = 1500, seconds: float = 120) -> Iterator[Watched]:
    """A page of a headless Chromium without network, but for this machine; each thing may take so many seconds."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, headless=True, args=list(FLAGS), timeout=1000 * seconds
        )
        page = browser.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(1000 * seconds)
        watched = Watched(page)

        def check(route: Any) -> None:
            if route.request.url.startswith(("http://127.0.0.1:", "file:", "data:", "blob:")):
                route.continue_()
            else:
                watched.refused.append(route.request.url)
                route.abort()

        page.route("**/*", check)
        page.on("pageerror", lambda error: watched.errors.append(str(error)))
        page.on("console", lambda m: watched.errors.append(m.text) if m.type == "error" else None)
        try:
            yield watched
        finally:
            browser.close()


def open_notebook(page: Any, url: str, name: str) -> None:
    """Open a notebook of the server's folder and wait until its kernel can be given work."""
    page.goto(f"{url}/lab/tree/{name}?reset")
    page.wait_for_selector(".jp-NotebookPanel .jp-CodeCell")
    page.wait_for_selector(".jp-Spinner", state="detached")
    # Run All is silently dropped while the kernel is still connecting.
    page.wait_for_function(r"/\| Idle/.test(document.querySelector('#jp-main-statusbar')?.textContent ?? '')")


def run_all(page: Any, seconds: float = 300) -> None:
    """Run every cell and wait until each has its number."""
    page.click('.lm-MenuBar-itemLabel:text-is("Run")')
    page.click('.lm-Menu-item[data-command="runmenu:run-all"]')
    page.wait_for_function(
        r"""[...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')]
            .every((prompt) => /\[\d+\]/.test(prompt.textContent))""",
        timeout=1000 * seconds,
    )


def change_theme(page: Any, name: str) -> None:
    """Change JupyterLab's theme, as its Settings menu does (whose submenus close under a pointer that jumps)."""
    page.evaluate("name => window.jupyterapp.commands.execute('apputils:change-theme', {theme: name})", name)


def open_and_run(page: Any, url: str, name: str) -> None:
    """Open a notebook in the light theme (the server remembers the last one) and run every cell."""
    open_notebook(page, url, name)
    change_theme(page, "JupyterLab Light")
    run_all(page)


def ask(page: Any, code: str) -> str:
    """Run code in the kernel of the notebook that is open, and wait for what it prints."""
    return str(
        page.evaluate(
            """async (code) => {
                const future = jupyterapp.shell.currentWidget.sessionContext.session.kernel.requestExecute({code});
                let printed = '';
                future.onIOPub = (message) => {
                    printed += message.content.text ?? (message.content.traceback ?? []).join('\\n');
                };
                await future.done;
                return printed;
            }""",
            code,
        )
    )


@contextmanager
def stopped_kernel(page: Any) -> Iterator[None]:
    """The kernel of the notebook that is open answers nothing meanwhile, whatever it is asked.

    A cell that runs long would not do: JupyterLab has a second thread of the kernel answer widgets beside it.
    """
    kernel = int(ask(page, "import os; print(os.getpid())"))
    os.kill(kernel, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(kernel, signal.SIGCONT)


def in_sight(page: Any, *selectors: str) -> bool:
    """Whether all of these can be seen at once, when the first is scrolled into view."""
    page.locator(selectors[0]).first.scroll_into_view_if_needed()
    return bool(
        page.evaluate(
            """selectors => {
                const panel = document.querySelector('.jp-WindowedPanel-outer, .jp-Notebook').getBoundingClientRect();
                const boxes = selectors.map((selector) => document.querySelector(selector).getBoundingClientRect());
                const pixel = 1; // boxes lie at fractions of one
                return boxes.every((box) => box.height > 0
                    && box.top >= panel.top - pixel && box.bottom <= panel.bottom + pixel
                    && box.left >= panel.left - pixel && box.right <= panel.right + pixel);
            }""",
            list(selectors),
        )
    )


def exported(notebook: Path, folder: Path) -> Path:
    """The notebook, run and exported as an HTML page into `folder`, without the state of its widgets."""
    subprocess.run(
        [
            sys.executable,
            "-m",
            "jupyter",
            "nbconvert",
            "--to",
            "html",
            "--execute",
            "--output-dir",
            str(folder),
            "--ExecutePreprocessor.store_widget_state=False",
            str(notebook),
        ],
        check=True,
        capture_output=True,
    )
    return folder / notebook.with_suffix(".html").name


def still_of(page: Any, prefix: str, width: int) -> tuple[Any, list[str]]:
    """The still picture whose map of areas is named `prefix…`, wider than `width`, and the titles of its areas."""
    still = page.locator(f'img[usemap^="#{prefix}"]').first
    still.scroll_into_view_if_needed()
    assert still.evaluate(
        f"image => image.complete && image.naturalWidth > {width} && image.width === image.naturalWidth"
    )
    name = still.get_attribute("usemap").removeprefix("#")
    return still, page.locator(f'map[name="{name}"] area').evaluate_all("areas => areas.map(a => a.title)")


def title_at(still: Any, x: int, y: int) -> str:
    """What a pointer over a still picture is told there, in CSS pixels from its corner."""
    return str(
        still.evaluate(
            """(image, [x, y]) => {
                const box = image.getBoundingClientRect();
                return document.elementFromPoint(box.x + x, box.y + y).title;
            }""",
            [x, y],
        )
    )


class Looking:
    """What a reader sees of the explorer, and how long a change takes to reach the eye."""

    def __init__(self, page: Any, canvas: str, words: str) -> None:
        self.page = page
        self.canvas, self._words = page.locator(canvas).first, page.locator(words).first

    @property
    def image(self) -> str:
        return str(self.canvas.evaluate("canvas => canvas.toDataURL()"))

    @property
    def words(self) -> str:
        return str(self._words.inner_text())

    def after(self, action: Callable[[], Any], words: bool = True, seconds: float = 30) -> None:
        """Wait until the picture, and with it the words, differ from what they were before `action`.

        `words=False` for a change that means nothing to the chosen token: its words rightly stay.
        """
        image, said = self.image, self.words
        action()
        for _ in range(int(seconds * 20)):
            if self.image != image and (self.words != said or not words):
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"nothing changed; the words are still {self.words!r}")

    def choose(self, label: str, option: str, words: bool = True) -> None:
        """Take an option of a dropdown, by the words on both."""
        box = self.page.locator(".widget-dropdown", has=self.page.get_by_text(label, exact=True)).first
        self.after(lambda: box.locator("select").select_option(label=option), words)

    def milliseconds(self, action: str) -> float:
        """From an event in the page to the frame that shows another picture (JavaScript; `canvas` is given)."""
        return float(
            self.canvas.evaluate(
                """async (canvas, action) => {
                const pixels = () => new Uint32Array(
                    canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.buffer
                ).reduce((sum, pixel, i) => (sum + pixel * (i % 9973)) % 4294967291, 0);
                const before = pixels();
                const start = performance.now();
                new Function('canvas', action)(canvas);
                for (;;) {
                    await new Promise(requestAnimationFrame);
                    canvas.getContext('2d').getImageData(0, 0, 1, 1); // wait until it is drawn, not only asked for
                    const shown = performance.now() - start;
                    if (pixels() !== before) return shown;
                    if (shown > 5000) throw new Error('the picture did not change');
                }
            }""",
                action,
            )
        )
