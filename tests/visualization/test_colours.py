"""Colours of the explorers can be told apart, on light and dark pages and by colour-blind readers.

What a colour-blind reader sees is that of Machado, Oliveira & Fernandes (2009) at full severity; two colours are told
apart when they are 10 units of CIELAB from each other (about 2 can just be seen side by side).
"""

import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from small_embeddings import make_embeddings

from stepjepa.visualization import masks
from stepjepa.visualization.embedding_drawing import Palette
from stepjepa.visualization.embedding_points import Points

READERS = {
    "all colours": np.eye(3),
    "no red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "no blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
"""Of light (linear RGB), what reaches them."""
PAGES = "#FFFFFF", "#111111"  # JupyterLab's, light and dark
APART = 10


def lab(colours: list[str], reader: str) -> np.ndarray:
    """CIELAB `[colours, 3]` under D65."""
    shown = np.array([[int(colour[at : at + 2], 16) for at in (1, 3, 5)] for colour in colours]) / 255
    light = np.where(shown <= 0.04045, shown / 12.92, ((shown + 0.055) / 1.055) ** 2.4)
    light = np.clip(light @ np.array(READERS[reader]).T, 0, 1)
    xyz = light @ np.array([[0.4124, 0.2126, 0.0193], [0.3576, 0.7152, 0.1192], [0.1805, 0.0722, 0.9505]])
    part = xyz / [0.9505, 1, 1.089]
    f = np.where(part > 0.008856, np.cbrt(part), 7.787 * part + 16 / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


def ring() -> str:
    """Colour of the nearest steps and of the lasso."""
    code = Path(masks.__file__).with_name("embedding_explorer.js").read_text()
    return re.search(r'const RING = "(#\w+)"', code)[1]


def shown_together() -> dict[str, list[str]]:
    points = Points(make_embeddings(12, noise=1.0), range(12))
    palette, rows = Palette([points]), np.arange(len(points))
    sets = {f"points by {by}": [colour for colour, _ in palette.paint(points, by, rows)[1]] for by in palette.choices}
    groups = [masks.GROUP_COLOURS[name] for name in ("prompt", "predictor", "end of turn")]
    return {name: [*colours, ring()] for name, colours in sets.items()} | {
        "masks of five steps": [*groups, *masks.STEP_COLOURS[:5]],
        "ten steps": [*masks.STEP_COLOURS, masks.GROUP_COLOURS["predictor"], masks.GROUP_COLOURS["prompt"]],
        "one pass": [colour for colour, _ in masks.ONE_PASS_COLOURS.values()],
    }


def test_the_formulas():
    assert np.allclose(lab(["#FFFFFF", "#000000"], "all colours"), [[100, 0, 0], [0, 0, 0]], atol=0.02)
    assert np.allclose(lab(["#FF0000"], "all colours"), [[53.24, 80.09, 67.20]], atol=0.1)
    red, green = lab(["#D55E00", "#7A8000"], "no green")  # confused by those who see no green
    assert np.linalg.norm(red - green) < np.linalg.norm(np.subtract(*lab(["#D55E00", "#7A8000"], "all colours"))) / 2


@pytest.mark.parametrize("reader", READERS)
def test_colours_shown_together_are_told_apart(reader):
    for name, colours in shown_together().items():
        seen = lab(colours, reader)
        for a, b in combinations(range(len(colours)), 2):
            apart = np.linalg.norm(seen[a] - seen[b])
            assert apart > APART, (name, colours[a], colours[b])
        for page in lab(list(PAGES), reader):
            assert np.linalg.norm(seen - page, axis=1).min() > APART, (name, colours)
