"""The form in a real JupyterLab: the answer grows while the kernel is busy, and stays."""

import nbformat
import pytest
from browser import artifacts, chromium, jupyter_lab, needs_browser, open_notebook, run_all

CELLS = ("from stepjepa import solving_form", "solving_form()")


@needs_browser
@pytest.mark.slow
def test_the_answer_appears_step_by_step(tmp_path):
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS]
    (tmp_path / "notebooks").mkdir()
    nbformat.write(nbformat.v4.new_notebook(metadata=kernel, cells=cells), tmp_path / "notebooks" / "form.ipynb")
    with jupyter_lab(tmp_path / "notebooks", tmp_path / "home") as url, chromium(1440, 900) as watched:
        page = watched.page
        open_notebook(page, url, "form.ipynb")
        run_all(page)
        page.evaluate(
            """() => {
                window.seen = new Set();
                new MutationObserver(() => document.querySelectorAll('.jp-OutputArea-output table').forEach(
                    (table) => window.seen.add(table.textContent)
                )).observe(document.body, {childList: true, subtree: true, characterData: true});
            }"""
        )
        page.get_by_role("button", name="answer", exact=True).click()
        page.wait_for_selector("text=/answer: |no answer found/", timeout=60_000)
        seen = page.evaluate("[...window.seen]")
        assert len(seen) > 3
        assert len(seen[-1]) > len(seen[0])
        assert not watched.errors
        page.screenshot(path=artifacts(tmp_path) / "form.png")
