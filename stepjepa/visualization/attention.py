"""Records of `stepjepa attention` → figures: attention maps, the flow between parts, the leakage audit.

Forbidden cells are hatched, never a colour of the map.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import NullLocator
from scipy.optimize import isotonic_regression

from stepjepa.visualization.style import (
    BLUE,
    CONTINUOUS,
    FORBIDDEN,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    ROLES,
    SKY,
    VERMILION,
    legend_columns,
    new_figure,
    small,
    styled,
    text_width,
    wrapped,
)

STEPS = (BLUE, GREEN, PURPLE, SKY, VERMILION)
PROMPT = {"start": "#444444", "system": "#999999", "question": ROLES["trunk"], "prompt": ROLES["trunk"]}
SMALLEST = 6.0  # points: nobody reads smaller type on paper
NARROWEST = 0.02  # share of an axis: a predictor token alone would be thinner than a line
WEIGHTS = LogNorm(0.001, 1, clip=True)  # a token of a hundred gets a hundredth; one scale for all panels and figures
WEIGHT_TICKS = {0.001: "≤ 0.001", 0.01: "0.01", 0.1: "0.1", 1: "1"}
SHARES = PowerNorm(0.5, 0, 1)
MANY_MAPS = 6
LEAST_SIDE = 55.0  # of a panel, in points


@styled
def attention_maps(record: Mapping[str, Any]) -> Figure:
    """Attention weights, a panel for each layer and head: rows look, columns are looked at.

    Axes carry a strip in the colours of the parts (a copy has that of its step), and as much text as can be read: every
    token, or the name of every part, or a legend. Parts narrower than 2% of an axis are drawn that wide. Where a text
    is longer than a panel has pixels, tokens are left out; `segment_flow` counts them all.

    Args:
        record: from `attention_record`.
    """
    maps, tokens, parts = record["maps"], record["tokens"], record["segments"]
    heads = len({entry["head"] for entry in maps})
    columns, words = _columns(len(maps), heads, len(tokens), len(parts))
    rows = -(-len(maps) // columns)
    side, edges = _side(columns), _edges(parts)
    margin = 4.3 * small() + 14 if words != "legend" else 5 * small()
    height = rows * (side + 2.4 * small()) + margin + 2.5 * small()
    figure = new_figure(height / text_width())
    panels = _panels(figure, rows, columns, len(maps))
    for number, (axes, entry) in enumerate(zip(panels, maps, strict=False)):
        see = _booleans(record["masks"][entry["mask"]]["rows"])
        pixels = _pixels(edges, side)
        weights = np.ma.masked_array(entry["weights"], ~see)[np.ix_(pixels, pixels)]
        image = axes.imshow(weights, norm=WEIGHTS, cmap=CONTINUOUS, extent=(0, 1, 1, 0))
        _hatch(axes, (0, 0), 1, 1)
        starts = [edges[part["start"]] for part in parts[1:]]
        if columns <= 2:  # in smaller panels the lines would cover the rows of the predictor tokens
            axes.hlines(starts, 0, 1, color="white", linewidth=0.4)
            axes.vlines(starts, 0, 1, color="white", linewidth=0.4)
        axes.set_title(_title(entry), fontsize=small() if columns > 2 else None)
        below, left = number + columns >= len(maps), number % columns == 0
        _strips(axes, parts, edges, side)
        if words == "tokens":
            _token_labels(axes, tokens, edges, side, below, left)
        elif words == "parts":
            _part_labels(axes, parts, edges, side, below, left)
    colours = figure.colorbar(image, ax=panels, shrink=min(250.0, rows * side) / height, pad=0.02)
    colours.set_ticks(list(WEIGHT_TICKS), labels=list(WEIGHT_TICKS.values()))
    colours.ax.yaxis.set_minor_locator(NullLocator())
    colours.set_label("attention weight")
    _verdict(figure, record["check"])
    if words == "legend":
        names: dict[str, list[str]] = {}
        for part in parts:
            if part["kind"] != "copy":
                names.setdefault(_colour(part), []).append(part["name"])
        handles = [Patch(color=c, label="PRED" if c == ORANGE else ", ".join(own)) for c, own in names.items()]
        figure.legend(
            handles=handles, loc="outside lower center", ncols=min(len(handles), legend_columns(7, 9)), columnspacing=1
        )
    return figure


@styled
def segment_flow(record: Mapping[str, Any]) -> Figure:
    """How much attention the tokens of each part give to each part on average, in percent.

    Args:
        record: from `attention_record`. Each of its maps has a panel; more than six are averaged layer by layer.
    """
    maps, parts = record["maps"], record["segments"]
    if len(maps) > MANY_MAPS:
        maps = _layer_means(maps)
    names, count = [part["name"] for part in parts], len(parts)
    columns = max(1, min(len(maps), int((text_width() - 5 * small()) / (2.1 * small() * count + 15))))
    rows = -(-len(maps) // columns)
    figure = new_figure((rows * (1.7 * count + 2.4) + 10) * small() / text_width())
    panels = _panels(figure, rows, columns, len(maps))
    member = np.repeat(np.arange(count), [part["end"] - part["start"] for part in parts])
    for number, (axes, entry) in enumerate(zip(panels, maps, strict=False)):
        see = np.zeros((count, count), dtype=bool)
        query, key = np.nonzero(_booleans(record["masks"][entry["mask"]]["rows"]))
        see[member[query], member[key]] = True
        _number_map(axes, np.array(entry["flow"]), see, SHARES, lambda share: f"{100 * share:.0f}")
        _hatch(axes, (-0.5, -0.5), count, count)
        axes.set_title(_title(entry))
        axes.set_xticks(range(count), names if number + columns >= len(maps) else [], rotation=90)
        axes.set_yticks(range(count), names if number % columns == 0 else [])
    figure.supylabel("looking", fontsize=small())
    figure.supxlabel("looked at: % of the attention of a token", fontsize=small())
    _verdict(figure, record["check"])
    return figure


@styled
def leakage_map(record: Mapping[str, Any]) -> Figure:
    """How far each view moves (relative L2, the most over the examples) when each part of the text is changed.

    An exact 0 is grey. A red frame marks what should not be; a dashed one what leaks by design (isolation none).

    Args:
        record: from `leakage_audit`.
    """
    segments, views = record["segments"], record["views"]
    figure = new_figure((len(segments) * 2.1 + 9) * small() / text_width())
    axes = figure.subplots()
    narrow = text_width() < (3.1 * len(views) + 15) * small()  # no place for a scale beside the numbers
    values = np.full((len(segments), len(views)), np.nan)
    for cell in record["cells"]:
        values[segments.index(cell["segment"]), views.index(cell["view"])] = cell["relative_max"]
    image = _number_map(axes, values, values > 0, PowerNorm(0.5, 0, max(np.nanmax(values), 1e-30)), _relative(narrow))
    for row, column in np.argwhere(values == 0):
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, color=FORBIDDEN, linewidth=0))
        axes.text(column, row, "0", ha="center", va="center", fontsize=small(), color=GREY)
    axes.hlines(np.arange(len(segments) - 1) + 0.5, -0.5, len(views) - 0.5, color="white", linewidth=1)
    axes.vlines(np.arange(len(views) - 1) + 0.5, -0.5, len(segments) - 0.5, color="white", linewidth=1)
    frames = {}
    for cell in record["cells"]:
        if not cell["ok"] or cell["expected"] == "leaks":
            corner = views.index(cell["view"]) - 0.44, segments.index(cell["segment"]) - 0.44
            what, line = ("leaks by design", "--") if cell["ok"] else ("must not be", "-")
            frame = Rectangle(corner, 0.88, 0.88, fill=False, edgecolor=VERMILION, linewidth=1.5, linestyle=line)
            frames[what] = axes.add_patch(frame)
    contexts = sum(view.startswith("context") for view in views)
    axes.axvline(contexts - 0.5, color="black", linewidth=1)
    axes.set_xticks(range(len(views)), [view.partition(" ")[2] for view in views])
    axes.set_yticks(range(len(segments)), segments)
    below: dict[str, Any] = {"xycoords": axes.get_xaxis_transform(), "textcoords": "offset points", "va": "top"}
    for text, middle in (("context view after", contexts / 2), ("target view of", (contexts + len(views)) / 2)):
        axes.annotate(text, (middle - 0.5, 0), (0, -2.2 * small()), ha="center", annotation_clip=False, **below)
    axes.set_ylabel("changed")
    isolation, many, room = record["layout"]["isolation"], record["examples"], 0.62 * text_width()
    faults = "" if record["passed"] else f": {len(record['faults'])} FAULTS"
    axes.set_title(
        wrapped(f"how far views move, isolation {isolation}, {many} example{'' if many == 1 else 's'}{faults}", room),
        color="black" if record["passed"] else VERMILION,
    )
    if not narrow:
        figure.colorbar(image, ax=axes, label="relative change", pad=0.02)
    if frames:
        figure.legend(frames.values(), frames.keys(), loc="outside lower center", ncols=2)
    return figure


# ---- parts of the figures ------------------------------------------------------------------------------------


def _panels(figure: Figure, rows: int, columns: int, count: int) -> np.ndarray:
    """Axes row by row, of which the first `count` are seen."""
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[count:]:
        axes.set_visible(False)
    return panels


def _side(columns: int) -> float:
    """Side of a panel of attention maps in points: what labels and colour bar leave."""
    return (text_width() - (115 if columns <= 2 else 90) - 12 * (columns - 1)) / columns


def _columns(maps: int, heads: int, tokens: int, parts: int) -> tuple[int, str]:
    """How many panels in a row, and what their axes can say: "tokens", "parts", or nothing but a "legend"."""
    widest = min(heads, 5) if heads > 1 else min(maps, 2)
    while widest > 1 and _side(widest) < LEAST_SIDE:
        widest -= 1
    for columns in (widest, 1) if heads == 1 else (widest,):
        if _side(columns) / tokens >= 1.05 * SMALLEST:
            return columns, "tokens"
    return widest, "parts" if _side(widest) / parts >= 1.3 * SMALLEST else "legend"


def _booleans(rows: Sequence[str]) -> np.ndarray:
    return np.array([[cell == "1" for cell in row] for row in rows])


def _edges(parts: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Where each token begins on an axis from 0 to 1, and where the last one ends."""
    least = NARROWEST * parts[-1]["end"]
    sizes = [part["end"] - part["start"] for part in parts]
    widths = np.repeat([max(size, least) / size for size in sizes], sizes)
    return np.concatenate([[0], np.cumsum(widths)]) / widths.sum()


def _pixels(edges: np.ndarray, side: float) -> np.ndarray:
    """The token at each of the pixels of an axis, about 200 an inch."""
    count = int(3 * side)
    return np.searchsorted(edges, (np.arange(count) + 0.5) / count, side="right") - 1


def _layer_means(maps: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One entry a layer: the mean flow of its heads."""
    layers = list(dict.fromkeys(entry["layer"] for entry in maps))
    own = {layer: [entry for entry in maps if entry["layer"] == layer] for layer in layers}
    return [
        {**own[layer][0], "head": "mean", "flow": np.mean([entry["flow"] for entry in own[layer]], axis=0)}
        for layer in layers
    ]


def _hatch(axes: Axes, corner: tuple[float, float], width: float, height: float) -> None:
    """Hatching behind the image, which covers all that is not forbidden."""
    axes.set_facecolor(FORBIDDEN)
    hatch = Rectangle(corner, width, height, fill=False, hatch="//////", edgecolor="#D0D0D0", linewidth=0, zorder=-1)
    axes.add_patch(hatch)


def _title(entry: Mapping[str, Any]) -> str:
    head = "mean of heads" if entry["head"] == "mean" else f"head {entry['head']}"
    return f"layer {entry['layer']}, {head}"


def _verdict(figure: Figure, check: Mapping[str, Any]) -> None:
    layers = check["layers"]
    where = f"in all {len(layers)} layers × {check['heads']} heads"
    if check["passed"]:
        figure.suptitle(wrapped(f"forbidden mass 0 {where} (hatched: forbidden)"))
    else:
        worst = max(layers, key=lambda layer: layer["max_forbidden_mass"])
        text = f"FORBIDDEN MASS {worst['max_forbidden_mass']:.1e} in layer {worst['layer']}: the mask does not hold"
        figure.suptitle(wrapped(text), color=VERMILION)


def _colour(part: Mapping[str, Any]) -> str:
    if part["kind"] in ("step", "copy"):
        return GREEN if part["step"] is None else STEPS[part["step"] % len(STEPS)]
    return {"predictor": ORANGE, "end": "#444444"}.get(part["kind"]) or PROMPT[part["name"]]


def _strips(axes: Axes, parts: Sequence[Mapping[str, Any]], edges: np.ndarray, side: float) -> None:
    """Colours of the parts along the left and the lower edge of a panel."""
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set(xticks=[], yticks=[])
    thick, away = 4 / side, 1.5 / side
    for part in parts:
        start, size = edges[part["start"]], edges[part["end"]] - edges[part["start"]]
        style: dict[str, Any] = {"color": _colour(part), "linewidth": 0, "clip_on": False}
        axes.add_patch(Rectangle((-away - thick, start), thick, size, **style))
        axes.add_patch(Rectangle((start, 1 + away), size, thick, **style))
    axes.set(xlim=(0, 1), ylim=(1, 0))


def _token_labels(axes: Axes, tokens: Sequence[str], edges: np.ndarray, side: float, below: bool, left: bool) -> None:
    size = min(small(), side / len(tokens) / 1.05)
    names = [token.strip(" ").replace("\n", "↵")[:13] or "␣" for token in tokens]
    text: dict[str, Any] = {"fontsize": size, "parse_math": False}  # a token may well be a dollar sign
    middles = (edges[1:] + edges[:-1]) / 2
    axes.tick_params(pad=7)
    if below:
        axes.set_xticks(middles, names, rotation=90, **text)
    if left:
        axes.set_yticks(middles, names, **text)


def _part_labels(
    axes: Axes, parts: Sequence[Mapping[str, Any]], edges: np.ndarray, side: float, below: bool, left: bool
) -> None:
    """The name of every part at its middle, moved apart as little as it takes, with a line to where it belongs."""
    size = min(small(), max(SMALLEST, 0.75 * side / len(parts)))
    middles = np.array([(edges[part["start"]] + edges[part["end"]]) / 2 for part in parts])
    shift = 1.15 * size / side * np.arange(len(parts))
    places = isotonic_regression(middles - shift).x.clip(0, 1 - shift[-1]) + shift
    near, far = 6 / side, 14 / side
    line = {"arrowstyle": "-", "linewidth": 0.4, "color": GREY, "shrinkA": 0.5, "shrinkB": 0}
    style: dict[str, Any] = {"fontsize": size, "annotation_clip": False}
    across: dict[str, Any] = {**style, "ha": "right", "va": "center", "arrowprops": {**line, "relpos": (1, 0.5)}}
    along: dict[str, Any] = {**style, "ha": "center", "va": "top", "arrowprops": {**line, "relpos": (0.5, 1)}}
    for part, middle, place in zip(parts, middles, places, strict=True):
        if left:
            axes.annotate(part["name"], (-near, middle), (-far, place), **across)
        if below:
            axes.annotate(part["name"], (middle, 1 + near), (place, 1 + far), rotation=90, **along)


def _number_map(axes: Axes, values: np.ndarray, shown: np.ndarray, norm: PowerNorm, text: Any) -> Any:
    """A heat map with a number in every cell that is shown; the others stay as the background is."""
    image = axes.imshow(np.ma.masked_array(values, ~shown), norm=norm, cmap=CONTINUOUS, aspect="auto")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for row, column in np.argwhere(shown):
        value = values[row, column]
        colour = "black" if norm(value) > 0.55 else "white"
        axes.text(column, row, text(value), ha="center", va="center", fontsize=small(), color=colour)
    return image


def _relative(short: bool) -> Callable[[float], str]:
    """How numbers are written: 0.17, 3e-05; `short` ones .17, 1.4."""

    def text(value: float) -> str:
        if value < 0.005:
            return f"{value:.0e}"
        return f"{value:.2f}".removeprefix("0") if short and value < 0.995 else f"{value:.{1 if short else 2}f}"

    return text
