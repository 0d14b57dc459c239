"""What the notebooks show, as pictures for their first cells: `python notebooks/pictures.py [NN ...]`.

Figures are taken out of the executed notebooks as JupyterLab shows them. The explorers (2, 4, 6) are photographed: the
notebook is run as far as their cell in a JupyterLab of its own, in a headless Chromium of 1440 × 900, and they are used
as a reader would. `pictures/NN.png` is written for each notebook, and `pictures/explorers.gif` when all three explorers
are asked for, as they are without arguments. That needs `.[dev]` and a Chromium (`apt-get install -y
--no-install-recommends chromium`), no network, and takes about three minutes on two cores.
"""

import base64
import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
from PIL import Image, ImageChops, ImageDraw

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))
from browser import Looking, chromium, jupyter_lab, open_notebook, run_all  # noqa: E402

OUT = HERE / "pictures"
LARGEST = 120_000
"""Bytes of a picture."""
PATIENCE = 3600
"""Seconds that anything may take; other work may keep the processor."""
FIGURES = {
    "01": ["01-09"],
    "03": ["03-13", "03-20"],
    "05": ["05-06"],
    "07": ["07-13"],
    "08": ["objectives-10"],
    "09": ["energy-11", "energy-17"],
    "10": ["cell-9", "cell-16"],
}
"""The cells, by their ids, whose figures are shown one below the other."""
BANDS = {"08": [(0, 0.195), (0.391, 0.587), (0.981, 1)]}
"""Of a tall figure what is shown, as shares of its height: of five objectives the first and the third; the legend."""
EXPLORERS = {"02": "02-12", "04": "04-16", "06": "06-17"}
"""The cells that open the explorers."""
Pointer = tuple[float, float] | None
Frame = tuple[Image.Image, Pointer]
"""An explorer, and where a pointer is on it."""


# -------- figures --------


def cells_of(number: str) -> list[Any]:
    """The cells of a notebook."""
    [path] = HERE.glob(f"{number}_*.ipynb")
    return list(nbformat.read(path, as_version=4).cells)


def figures(number: str) -> Image.Image:
    """The chosen figures of a notebook, one below the other."""
    parts = []
    stored = {cell.id: cell.get("outputs", []) for cell in cells_of(number)}
    for cell in FIGURES[number]:
        [png] = [output.data["image/png"] for output in stored[cell] if "image/png" in output.get("data", {})]
        figure = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
        for top, bottom in BANDS.get(number, [(0, 1)]):
            band = figure.crop((0, round(top * figure.height), figure.width, round(bottom * figure.height)))
            parts.append(trimmed(band))
    whole = Image.new("RGB", (max(part.width for part in parts), sum(part.height + 16 for part in parts) - 16), "white")
    for n, part in enumerate(parts):
        whole.paste(part, ((whole.width - part.width) // 2, sum(above.height + 16 for above in parts[:n])))
    return whole


def content(picture: Image.Image) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what is not white."""
    box = ImageChops.difference(picture, Image.new("RGB", picture.size, "white")).getbbox()
    return box or (0, 0, *picture.size)


def trimmed(picture: Image.Image, margin: int = 6) -> Image.Image:
    """A picture without the white around it, but for a margin."""
    inside = picture.crop(content(picture))
    framed = Image.new("RGB", (inside.width + 2 * margin, inside.height + 2 * margin), "white")
    framed.paste(inside, (margin, margin))
    return framed


def save(picture: Image.Image, path: Path) -> None:
    """Write a PNG with as many colours, 256 at most, as leave it small enough."""
    for colours in (256, 128, 64, 32):
        stored = io.BytesIO()
        picture.quantize(colours).save(stored, "PNG", optimize=True)
        if len(stored.getvalue()) <= LARGEST:
            break
    path.write_bytes(stored.getvalue())
    print(f"{path.name}: {picture.width} × {picture.height}, {len(stored.getvalue()):,} bytes, {colours} colours")


# -------- explorers --------


class Explorer:
    """An explorer in a page, and what has been photographed of it."""

    def __init__(self, page: Any, root: str, canvas: str, words: str) -> None:
        self.page, self.root = page, page.locator(".jp-OutputArea-output", has=page.locator(root)).last
        self.look = Looking(page, f"{root} >> nth=-1 >> {canvas}", f"{root} >> nth=-1 >> {words}")
        self.frames: list[Frame] = []
        self.pointer: Pointer = None
        self.root.evaluate("root => root.scrollIntoView({block: 'center'})")

    def photograph(self) -> Image.Image:
        """The explorer as it is; a frame of the animation, too."""
        self.page.wait_for_timeout(1500)  # points have arrived, small maps are drawn
        picture = Image.open(io.BytesIO(self.root.screenshot())).convert("RGB")
        _, _, right, bottom = content(picture)
        self.frames.append((picture.crop((0, 0, right, bottom)), self.pointer))
        return trimmed(picture)

    def point(self, right: float, down: float) -> None:
        """Move the pointer to a place on the canvas, in shares of its size."""
        canvas, root = self.look.canvas.bounding_box(), self.root.bounding_box()
        x, y = canvas["x"] + right * canvas["width"], canvas["y"] + down * canvas["height"]
        self.look.after(lambda: self.page.mouse.move(x, y), words=False, seconds=PATIENCE)
        self.pointer = x - root["x"], y - root["y"]

    def choose(self, option: str) -> None:
        """Take an option of the menu that has it."""
        menu = self.root.locator("select").filter(has=self.page.locator(f'option:text-is("{option}")')).first
        self.after(lambda: menu.select_option(label=option))

    def after(self, action: Callable[[], Any]) -> None:
        """Do something that changes the picture, with the pointer elsewhere."""
        self.page.mouse.move(2, 2)
        self.pointer = None
        self.look.after(action, words=False, seconds=PATIENCE)


def masks(page: Any) -> tuple[Image.Image, list[Frame]]:
    """Notebook 2: what a token of the trunk sees, what the copy of a step sees, and the control without isolation."""
    explorer = Explorer(page, ".stepjepa-mask", "canvas", "[aria-live] p")
    explorer.point(0.5, 0.62)
    explorer.photograph()
    explorer.point(0.79, 0.93)
    still = explorer.photograph()
    explorer.after(page.get_by_role("button", name="difference", exact=True).first.click)
    explorer.photograph()
    return still, explorer.frames


def embeddings(page: Any) -> tuple[Image.Image, list[Frame]]:
    """Notebook 4: one problem, the next, where its points are after training, and the operations of all steps."""
    explorer = Explorer(page, ".stepjepa-map", "canvas", "[aria-live]")
    explorer.photograph()
    explorer.look.canvas.focus()
    explorer.after(lambda: page.keyboard.press("ArrowDown"))
    explorer.photograph()
    explorer.choose("after")
    explorer.photograph()
    explorer.choose("operation")
    return explorer.photograph(), explorer.frames


def attention(page: Any) -> tuple[Image.Image, list[Frame]]:
    """Notebook 6: the difference of two models, a head of it, and what a row of one of the models sees."""
    explorer = Explorer(page, ".stepjepa-attention", ".frame canvas", ".words")
    still = explorer.photograph()
    explorer.after(explorer.root.locator(".heads button").nth(2).click)
    explorer.photograph()
    explorer.choose("Step-JEPA")
    explorer.point(0.3, 0.6)
    explorer.photograph()
    return still, explorer.frames


USED = {"02": masks, "04": embeddings, "06": attention}


def begun(number: str, folder: Path) -> str:
    """Copy a notebook as far as its explorer, without outputs, into the folder; its name there."""
    cells = cells_of(number)
    cells = cells[: [cell.id for cell in cells].index(EXPLORERS[number]) + 1]
    for cell in cells:
        if cell.cell_type == "code":
            cell.update(outputs=[], execution_count=None)
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), folder / f"{number}.ipynb")
    return f"{number}.ipynb"


def photographed(numbers: list[str]) -> Iterator[tuple[str, Image.Image, list[Frame]]]:
    """Run the notebooks one after the other, and use and photograph the explorer of each."""
    with TemporaryDirectory() as folder, TemporaryDirectory() as home:
        names = {number: begun(number, Path(folder)) for number in numbers}
        with jupyter_lab(Path(folder), Path(home), PATIENCE) as url, chromium(1440, 900, PATIENCE) as watched:
            for number, name in names.items():
                open_notebook(watched.page, url, name)
                watched.page.evaluate("jupyterapp.commands.execute('application:toggle-left-area')")
                run_all(watched.page, PATIENCE)
                yield number, *USED[number](watched.page)


# -------- the animation --------

ARROW = [(0, 0), (0, 19), (4, 15), (8, 23), (12, 21), (8, 14), (14, 14)]
"""Corners of a pointer, in pixels from its tip."""


def animate(frames: list[Frame], path: Path, colours: int = 48, milliseconds: int = 1800) -> None:
    """Write the frames, pointers drawn in, on one size."""
    size = max(picture.width for picture, _ in frames), max(picture.height for picture, _ in frames)
    shown = []
    for picture, pointer in frames:
        frame = Image.new("RGB", size, "white")
        frame.paste(picture)
        if pointer:
            corners = [(pointer[0] + x, pointer[1] + y) for x, y in ARROW]
            ImageDraw.Draw(frame).polygon(corners, fill="black", outline="white")
        shown.append(frame.quantize(colours, Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE))
    shown[0].save(path, save_all=True, append_images=shown[1:], duration=milliseconds, loop=0, optimize=True)
    print(f"{path.name}: {len(shown)} frames of {shown[0].width} × {shown[0].height}, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    OUT.mkdir(exist_ok=True)
    asked = sys.argv[1:] or sorted(FIGURES | EXPLORERS)
    for number in asked:
        if number in FIGURES:
            save(figures(number), OUT / f"{number}.png")
    frames = []
    for number, still, taken in photographed([number for number in asked if number in EXPLORERS]):
        save(still, OUT / f"{number}.png")
        frames += taken
    if set(EXPLORERS) <= set(asked):
        animate(frames, OUT / "explorers.gif")
