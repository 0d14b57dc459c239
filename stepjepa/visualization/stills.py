"""A still picture for pages that run no code: an image with hover texts, and a line above it.

The image is SVG inside a `data:` address, so nothing is loaded from elsewhere. Exported pages show picture and hover
texts, a notebook that is not trusted the picture alone (it drops inline SVG and the names of maps).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from html import escape
from typing import NamedTuple
from urllib.parse import quote

_SAFE = " ='/:;,.()+-!*~"


class Area(NamedTuple):
    """A part of the picture that has a hover text: an HTML `shape` and its `coords`, in pixels."""

    shape: str
    coords: tuple[int, ...]
    alt: str
    title: str


def still_picture(kind: str, svg: str, areas: Iterable[Area], summary: str, how: str) -> str:
    """HTML of a still. The same arguments give the same text, to the character.

    Args:
        kind: begins the name of the hover map, which holds a hash of the picture.
        svg: the picture, with its width and height.
        areas: where two overlap, the first one is shown.
        summary: the picture in words, which stand above it and in its place where images are not shown.
        how: what a reader can do here, after the summary.
    """
    name = f"{kind}-{hashlib.sha256(svg.encode()).hexdigest()[:10]}"
    spots = "".join(
        f'<area shape="{area.shape}" coords="{",".join(map(str, area.coords))}" '
        f'alt="{escape(area.alt)}" title="{escape(area.title)}">'
        for area in areas
    )
    source, alt = f"data:image/svg+xml,{quote(svg, safe=_SAFE)}", escape(summary)
    # A page that shrinks the image would leave the map behind.
    image = f'<img src="{source}" usemap="#{name}" alt="{alt}" style="max-width: none">'
    return f'<div style="overflow-x: auto"><p>{alt} {how}</p>{image}<map name="{name}">{spots}</map></div>'
