"""A still picture with hover texts, for pages that run no code: exported notebooks, and the page about a run.

The still is SVG inside a `data:` address, so nothing is loaded from elsewhere. Exported pages show picture and hover
texts, a notebook that is not trusted the picture alone (it drops inline SVG and the names of maps).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import quote

from stepjepa.visualization.page import shown

_SAFE = " ='/:;,.()+-!*~"


class Area(NamedTuple):
    """A part of a still that has a hover text: an HTML `shape` and its `coords`, in pixels."""

    shape: str
    coords: tuple[int, ...]
    alt: str
    title: str


def still_picture(
    kind: str, size: tuple[int, int], marks: Iterable[str], areas: Iterable[Area], summary: str, how: str
) -> str:
    """HTML of a still. The same arguments give the same text, to the character.

    Args:
        kind: begins the name of the hover map, which holds a hash of the picture.
        size: width and height in pixels.
        marks: SVG elements, drawn on white.
        areas: where two overlap, the first one is shown.
        summary: the picture in words, which stand above it and in its place where images are not shown.
        how: what a reader can do here, after the summary.
    """
    svg = (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{size[0]}' height='{size[1]}' font-family='sans-serif' "
        f"font-size='11'><rect width='100%' height='100%' fill='white'/>{''.join(marks)}</svg>"
    )
    name = f"{kind}-{hashlib.sha256(svg.encode()).hexdigest()[:10]}"
    spots = "".join(
        f'<area shape="{area.shape}" coords="{",".join(map(str, area.coords))}" '
        f'alt="{shown(area.alt)}" title="{shown(area.title)}">'
        for area in areas
    )
    source, alt = f"data:image/svg+xml,{quote(svg, safe=_SAFE)}", shown(summary)
    # A page that shrinks the image would leave the map behind.
    image = f'<img src="{source}" usemap="#{name}" alt="{alt}" style="max-width: none">'
    return f'<div style="overflow-x: auto"><p>{alt} {how}</p>{image}<map name="{name}">{spots}</map></div>'
