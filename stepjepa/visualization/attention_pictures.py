"""Attention of one or several models over an example, in bytes: all heads of a layer, every row in words.

A cell that the mask allows is one byte; one that it forbids is not there at all. That its weight is exactly 0 is
checked in every layer and head, before anything is rounded.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from stepjepa.analysis.attention import check_forbidden, laid_out, read_attention, visible_cells, windows_by_layer
from stepjepa.jepa.architectures import base_model
from stepjepa.jepa.pairs import BranchLayout
from stepjepa.visualization.mask_pictures import MaskPicture, MaskStory
from stepjepa.visualization.masks import LEFT, TOP, part_marks, parts
from stepjepa.visualization.stills import Area, still_picture
from stepjepa.visualization.style import BLUE, ORANGE, SKY

MEAN = -1
"""The mean of the heads, in the place of a head's number."""
LEAST = 0.001
"""Weights up to here have no colour; from here to 1 the colour grows with the logarithm, as in the figures."""
RAMPS = {
    "light": {"more": ("#FFFFFF", SKY, BLUE, "#00263D"), "less": ("#FFFFFF", "#F5CE78", "#B87A00", "#3D2900")},
    "dark": {"more": ("#111111", "#0B4F7A", SKY, "#F2FAFF"), "less": ("#111111", "#7A5400", ORANGE, "#FFF8E8")},
}
"""Colours of weights from `LEAST` to 1, at even distances: of what is there or grows, and of what shrinks."""


def to_bytes(values: np.ndarray, signed: bool = False) -> np.ndarray:
    """Square roots in 255 parts (`signed`: in 127, with their sign), for values from −1 to 1.

    The root keeps small weights apart. What comes back is wrong by at most √w / 255 + 1 / 510², of differences by
    √|d| / 127 + 1 / 254²; 0 stays 0.
    """
    roots = np.sign(values) * np.rint((127 if signed else 255) * np.sqrt(np.abs(values)))
    return roots.astype(np.int8 if signed else np.uint8)


def from_bytes(codes: np.ndarray) -> np.ndarray:
    """The values that `to_bytes` was given, as far as bytes can say."""
    roots = codes.astype(np.float32) / (127 if codes.dtype == np.int8 else 255)
    return roots * np.abs(roots)


class AttentionStory:
    """Attention of models of one shape over one example.

    `shown` names what can be shown: the models, then the difference of each later one to the first. `picture` has the
    tokens; `checks` holds `check_forbidden` of every model.

    Args:
        models: by name.
        layout: which branches; a trunk longer than its `max_length` loses whole steps.
        decode: token id → its text on one line.

    Raises:
        UserError: an example without a view pair or too long for a single step, or weights that are no numbers.
    """

    def __init__(
        self,
        models: Mapping[str, Any],
        tokenizer: Any,
        example: Mapping[str, Any],
        layout: BranchLayout,
        decode: Callable[[int], str],
    ) -> None:
        config = base_model(next(iter(models.values()))).config
        _, batch = laid_out(next(iter(models.values())), tokenizer, example, layout)
        visible = visible_cells(config, batch)
        self.shown = shown_names(list(models))
        self.layers, self.heads = len(visible), config.get_text_config().num_attention_heads
        self.picture: MaskPicture = MaskStory(batch, decode).picture("single-pass")
        self.texts = [str(tokenizer.decode([token])) for token in batch["input_ids"][0].tolist()]
        self.masks = [see[0].numpy() for see in visible]
        self.checks: dict[str, list[dict[str, Any]]] = {}
        self._windows = windows_by_layer(config)
        self._sentences: dict[int | None, list[str]] = {}
        self._weights: dict[str, list[np.ndarray]] = {}
        self._valued: tuple[Any, np.ndarray] = (None, np.empty(0))
        for name, model in models.items():
            attentions = read_attention(model, batch)
            self.checks[name] = check_forbidden(attentions, visible)
            self._weights[name] = [
                layer[0].float().cpu().numpy()[:, mask].astype(np.float16)
                for layer, mask in zip(attentions, self.masks, strict=True)
            ]
        fields = ("context_index", "target_index", "context_step", "target_step")
        self._pairs = list(zip(*(batch[name][0].tolist() for name in fields), strict=True))

    # -------- numbers --------

    def values(self, shown: int, layer: int) -> np.ndarray:
        """Weights of the allowed cells, `[1 + heads, cells]`, row by row; the mean of the heads comes first."""
        if self._valued[0] != (shown, layer):
            first, *other = (self._weights[name][layer].astype(np.float32) for name in self._used(shown))
            heads = other[0] - first if other else first
            self._valued = (shown, layer), np.concatenate([heads.mean(axis=0, keepdims=True), heads])
        return self._valued[1]

    def weights(self, shown: int, layer: int, head: int) -> np.ndarray:
        """Weights or differences of one head, or of `MEAN`, `[L, L]`; forbidden cells are 0."""
        full = np.zeros(self.masks[layer].shape, dtype=np.float32)
        full[self.masks[layer]] = self.values(shown, layer)[1 + head]
        return full

    def _used(self, shown: int) -> list[str]:
        """The model that is shown, or the two whose difference is."""
        models = list(self._weights)
        return [models[shown]] if shown < len(models) else [models[0], models[shown - len(models) + 1]]

    # -------- words --------

    def sentences(self, layer: int) -> list[str]:
        """What every token may attend to in a layer, and why."""
        window = self._windows[layer]
        if window not in self._sentences:
            why = self.picture.why
            if window is not None:
                why = tuple(f"{reason}, and this layer has a window of {window} positions" for reason in why)
            picture = replace(self.picture, mask=self.masks[layer], why=why)
            self._sentences[window] = [picture.sentence(t) for t in range(len(picture.tokens))]
        return self._sentences[window]

    def most(self, shown: int, layer: int, head: int, position: int, count: int = 3) -> str:
        """Where a token's attention goes, or where its difference is largest."""
        row = self.weights(shown, layer, head)[position]
        order = np.argsort(-np.abs(row), kind="stable")[: min(count, int(self.masks[layer][position].sum()))]
        sign, what = ("+", "Largest differences") if shown >= len(self._weights) else ("", "Most attention")
        return f"{what}: " + ", ".join(f"{self.picture.tokens[k].name} {row[k]:{sign}.2f}" for k in order) + "."

    def summary(self, shown: int) -> str:
        """What is shown, and that forbidden cells weigh nothing, or that they do."""
        branches = sum(part["branch"] * (part["end"] - part["start"]) for part in self.parts())
        size = f"{len(self.texts) - branches} tokens of trunk, {branches} of branches"
        layers = [layer for name in self._used(shown) for layer in self.checks[name]]
        worst = max(layers, key=lambda layer: layer["max_forbidden_mass"])
        if worst["max_forbidden_mass"]:
            mass, where = worst["max_forbidden_mass"], worst["layer"]
            return f"{size}. FORBIDDEN CELLS WEIGH UP TO {mass:.1e} in layer {where}: the mask does not hold."
        cells = self.heads * sum(layer["forbidden_cells"] for layer in layers)
        return f"{size}. Attention on the {cells:,} forbidden cells of all layers and heads: exactly 0."

    # -------- places --------

    def parts(self) -> list[dict[str, Any]]:
        """The runs of tokens of one part, each with the trunk's part that it stands beside: a branch at its target."""
        names = ("name", "colour", "start", "end")
        runs: list[dict[str, Any]] = [dict(zip(names, part, strict=True)) for part in parts(self.picture)]
        first = [self.picture.tokens[run["start"]] for run in runs]
        trunk = [token.part for token in first if token.part == token.group]
        for run, token in zip(runs, first, strict=True):
            run["branch"] = token.part != token.group
            beside = token.group if token.group in trunk else token.part.split("→")[-1]
            run["row"] = trunk.index(beside if beside in trunk else "S1")  # the whole answer begins with step 1
        return runs

    def position(self, step: int, view: str) -> int | None:
        """Where a view is read: "context" after a step, "target" of a step, "state" at its end in the trunk.

        Steps count from 0; −1 is the question, and as a target the whole answer. None: this example has no such view.
        """
        if view == "state":
            ends = [t for t, token in enumerate(self.picture.tokens) if token.part == f"S{step + 1}"]
            return ends[-1] if ends else None
        index = ("context", "target").index(view)
        return next((pair[index] for pair in self._pairs if pair[2 + index] == step), None)

    def view(self, position: int) -> tuple[int, str] | None:
        """Of the tokens of branches step and view, as in `position`."""
        if position not in self.picture.views:
            return None
        pair, view = self.picture.views[position]
        return self._pairs[pair][2 + ("context", "target").index(view)], view

    # -------- what is sent, and the still --------

    def message(self, shown: int, layer: int) -> tuple[dict[str, Any], list[bytes]]:
        """A picture as the canvas takes it: words, and as bytes the mask (a bit for each cell) and the weights."""
        signed = shown >= len(self._weights)
        codes = to_bytes(self.values(shown, layer), signed)
        content = {
            "signed": signed,
            "heads": self.heads,
            "summary": self.summary(shown),
            "tokens": [
                {"text": text, "name": token.name} for text, token in zip(self.texts, self.picture.tokens, strict=True)
            ],
            "sentences": self.sentences(layer),
            "parts": self.parts(),
        }
        return content, [np.packbits(self.masks[layer]).tobytes(), codes.tobytes()]

    def still(self, shown: int, layer: int, head: int, summary: str) -> str:
        """HTML of the picture and of all heads of its layer; the rows of the first have hover texts."""
        count = len(self.texts)
        cell = int(np.clip(560 // count, 1, 14))
        side, small = cell * count, int(np.clip(780 // (self.heads + 1) - 8, 40, 120))
        right, across = LEFT + side, max(1, 780 // (small + 8))
        rows = -(-(1 + self.heads) // across)
        size = max(right + 4, 800), TOP + side + 30 + rows * (small + 22)
        titles = [f"{said} {self.most(shown, layer, head, t)}" for t, said in enumerate(self.sentences(layer))]
        areas = [
            Area("rect", (0, TOP + cell * t, right, TOP + cell * (t + 1)), token.name, title)
            for t, (token, title) in enumerate(zip(self.picture.tokens, titles, strict=True))
        ]
        what = "blue is more, orange less, from ±0.001" if shown >= len(self._weights) else "from 0.001"
        how = f"Colour: {what} (pale) to 1 (dark), logarithmic; hatched is forbidden. Run the cell to explore; in an "
        how += "exported page, point at a row for its words."
        marks = self._marks(shown, layer, head, cell, small, across)
        return still_picture("attention", size, marks, areas, summary, how)

    def _marks(self, shown: int, layer: int, head: int, cell: int, small: int, across: int) -> Iterator[str]:
        side = cell * len(self.texts)
        yield "<pattern id='h' width='5' height='5' patternUnits='userSpaceOnUse' patternTransform='rotate(45)'>"
        yield "<rect width='5' height='5' fill='#F1F1F1'/><rect width='1' height='5' fill='#C4C4C4'/></pattern>"
        yield from self._image(shown, layer, head, LEFT, TOP, side)
        yield from part_marks(self.picture, cell)
        for number, each in enumerate(range(MEAN, self.heads)):
            x, y = (small + 8) * (number % across) + 8, TOP + side + 30 + (number // across) * (small + 22)
            yield from self._image(shown, layer, each, x, y, small)
            yield f"<text x='{x}' y='{y - 4}'>{head_name(each)}</text>"

    def _image(self, shown: int, layer: int, head: int, x: int, y: int, side: int) -> Iterator[str]:
        colours = np.zeros((*self.masks[layer].shape, 4), dtype=np.uint8)
        colours[..., :3] = colour(self.weights(shown, layer, head))
        colours[..., 3] = np.where(self.masks[layer], 255, 0)
        stored = io.BytesIO()
        Image.fromarray(colours).save(stored, "PNG", optimize=True)
        source = base64.b64encode(stored.getvalue()).decode()
        place = f"x='{x}' y='{y}' width='{side}' height='{side}'"
        yield f"<rect {place} fill='url(#h)'/>"
        yield f"<image {place} style='image-rendering: pixelated' href='data:image/png;base64,{source}'/>"


def colour(values: np.ndarray, theme: str = "light") -> np.ndarray:
    """Colours of weights or differences, `[…] → […, 3]` uint8."""
    size = np.abs(values)
    strength = np.clip(1 - np.log(np.maximum(size, LEAST)) / np.log(LEAST), 0, 1)
    drawn = []
    for stops in (RAMPS[theme]["more"], RAMPS[theme]["less"]):
        levels = np.array([[int(stop[at : at + 2], 16) for at in (1, 3, 5)] for stop in stops])
        at = np.linspace(0, 1, len(stops))
        drawn.append(np.stack([np.interp(strength, at, channel) for channel in levels.T], axis=-1))
    return np.rint(np.where((values < 0)[..., None], drawn[1], drawn[0])).astype(np.uint8)


def shown_names(models: Sequence[str]) -> list[str]:
    """What can be shown: every model, and the difference of each later one to the first."""
    return [*models, *(f"{name} − {models[0]}" for name in models[1:])]


def head_name(head: int) -> str:
    """Its number, from 0, or that it is the mean."""
    return "mean of heads" if head == MEAN else f"head {head}"
