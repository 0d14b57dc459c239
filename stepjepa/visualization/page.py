"""HTML of a page that stands alone: text, tables, figures, stills. It loads nothing, runs nothing, and can be printed.

Whatever is given as text is escaped; its control characters are written out. A content security policy forbids
scripts and requests, so that not even a mistake here could make a browser obey a text.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from importlib.resources import files

import matplotlib as mpl
from matplotlib.figure import Figure

from stepjepa.records import printable

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


class Html(str):
    """Text that is HTML already."""


def shown(text: object) -> Html:
    """A text as HTML; what is HTML already stays."""
    return text if isinstance(text, Html) else Html(escape(printable(str(text))))


def element(tag: str, *inside: object, **attributes: object) -> Html:
    """`<tag …>inside</tag>`; a trailing underscore of an attribute's name is dropped (`class_`)."""
    named = "".join(f' {name.rstrip("_")}="{escape(printable(str(value)))}"' for name, value in attributes.items())
    return Html(f"<{tag}{named}>{''.join(map(shown, inside))}</{tag}>")


def table(head: Sequence[object], rows: Sequence[Sequence[object]]) -> Html:
    """A table; wider ones are scrolled."""
    top = element("thead", element("tr", *(element("th", cell) for cell in head))) if head else ""
    body = element("tbody", *(element("tr", *(element("td", cell) for cell in row)) for row in rows))
    return element("div", element("table", top, body), class_="wide")


def cards(*figures: tuple[object, object]) -> Html:
    """Large numbers, each with what it is."""
    return element(
        "div", *(element("div", element("b", value), what, class_="card") for what, value in figures), class_="cards"
    )


def picture(figure: Figure, words: str) -> Html:
    """A figure as SVG within the page, with a caption that is also read where it is not seen."""
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.fonttype": "path", "svg.hashsalt": "stepjepa"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    source = f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return element(
        "figure", Html(f'<img src="{source}" alt="{escape(printable(words))}">'), element("figcaption", words)
    )


def folded(summary: str, *inside: object) -> Html:
    """A part that is opened by a click, and printed in full."""
    return element("details", element("summary", summary), *inside)


def page(title: str, sections: Sequence[tuple[str, Html]], head: Html) -> str:
    """The whole page.

    Args:
        title: said at its top.
        sections: title and content of each; the page begins with links to them.
        head: between title and links.
    """
    style = (files("stepjepa.visualization") / "page.css").read_text(encoding="utf-8")
    links = element("nav", *(element("a", name, href=f"#part{i}") for i, (name, _) in enumerate(sections)))
    parts = (element("h2", name, id=f"part{i}") + content for i, (name, content) in enumerate(sections))
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{shown(title)}</title><style>{style}</style></head><body>"
        f"{element('h1', title)}{head}{links}{''.join(parts)}</body></html>\n"
    )
