"""The mask explorer: choose an example, view pairs, isolation and form, and see who may attend to whom.

A thin binding: `mask_pictures.py` makes the labelled masks and their words, `masks.py` colours them, and a canvas in
`mask_explorer.js` draws them, loaded from the package itself (anywidget; no network, no lab extension). Where no widget
runs, as in an exported page, the same picture appears as a still.

>>> explorer = mask_explorer()  # doctest: +SKIP
>>> explorer.view.value = "two-pass"  # doctest: +SKIP
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import anywidget
import traitlets
from ipywidgets import HTML, Dropdown, Textarea, ToggleButtons, VBox
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from stepjepa.data.examples import make_example
from stepjepa.data.sources import read_examples
from stepjepa.data.steps import split_steps
from stepjepa.data.tokens import tokenize_example
from stepjepa.jepa.layout import StepJEPACollator
from stepjepa.jepa.pairs import ISOLATIONS, BranchLayout
from stepjepa.models.checkpoint import BUILTIN_PATH
from stepjepa.models.vocabulary import add_pad_token, add_predictor_tokens
from stepjepa.records import UserError
from stepjepa.visualization.linking import problems_of
from stepjepa.visualization.mask_pictures import VIEWS, MaskPicture, MaskStory, on_one_line
from stepjepa.visualization.masks import paint, parts, still
from stepjepa.visualization.widgets import Selecting, alert, script, side_by_side, sized

PAIR_CHOICES = {
    "first": BranchLayout("first"),
    "consecutive": BranchLayout("consecutive"),
    "horizon 2": BranchLayout("horizon", horizon=2),
    "question_answer": BranchLayout("question_answer"),
    "none": BranchLayout("none"),
}
PREDICTOR_CHOICES = (1, 2, 3)
OWN = -1
OWN_QUESTION = "Tom has 3 pens and buys 2 more. How many pens?"
OWN_STEPS = "3 + 2 = 5 pens.\n\nThe answer is \\boxed{5}."


class MaskCanvas(anywidget.AnyWidget):
    """The drawing; `picture` is sent whole, so that no half-changed picture is ever drawn."""

    _esm = script("mask_explorer.js")
    _css = Path(__file__).with_name("mask_explorer.css")
    picture = traitlets.Dict().tag(sync=True)
    selected = traitlets.Int(0).tag(sync=True)
    """The row looked at, from 0: the one state of keys, pointer and slider, which the page holds, so that they agree
    while the kernel is busy."""


class MaskExplorer(Selecting, VBox):
    """See `mask_explorer`. Every control is an attribute: `example`, `pairs`, `isolation`, `predictors`, `view`,
    `pair`, `question`, `steps`; `selected` is the row looked at, from 0, `canvas` the drawing."""

    chosen = traitlets.Any(None)
    """What is looked at, see `linking.py`; None where that is no view."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Mapping[str, Any]]) -> None:
        self._examples = list(examples)
        self._tokenizer = copy.deepcopy(tokenizer)  # the caller's does not grow
        add_pad_token(self._tokenizer)
        for count in PREDICTOR_CHOICES:
            add_predictor_tokens(self._tokenizer, count)
        self._busy = False
        self._story_of: tuple[Any, ...] = ()

        short, wide = sized("225px"), sized("450px")
        text: dict[str, Any] = {"continuous_update": False, "rows": 4, **wide}
        named = [(f"{len(e['steps'])} steps: {e['question'][:70]}", i) for i, e in enumerate(self._examples)]
        self.example = Dropdown(options=[*named, ("write your own", OWN)], description="Example", **wide)
        self.question = Textarea(OWN_QUESTION, description="Question", **text)
        hint = "steps, with a blank line between them"
        self.steps = Textarea(OWN_STEPS, description="Steps", placeholder=hint, **text)
        self.view = ToggleButtons(options=VIEWS, value="single-pass", style={"button_width": "105px"})
        self.pairs = Dropdown(options=list(PAIR_CHOICES), description="View pairs", **short)
        self.isolation = Dropdown(options=ISOLATIONS, description="Isolation", **short)
        self.predictors = Dropdown(options=PREDICTOR_CHOICES, description="Predictors", **short)
        self.pair = Dropdown(description="Pair", **short)
        self.message = HTML()
        self.canvas = MaskCanvas()
        self._own = side_by_side(self.question, self.steps)
        choice = side_by_side(self.example, self.view)
        layout = side_by_side(self.pairs, self.isolation, self.predictors, self.pair)
        super().__init__([choice, self._own, layout, self.message, self.canvas])
        for control in (*choice.children, *self._own.children, *layout.children):
            control.observe(lambda _change: self._refresh(), "value")
        self._draw()
        self.canvas.observe(lambda _change: self._tell(), "selected")

    # -------- what is shown, for readers and tests --------

    @property
    def picture(self) -> MaskPicture:
        """The picture that is shown."""
        return self._picture

    @property
    def words(self) -> str:
        """The words of the chosen token."""
        return str(self.canvas.picture["sentences"][self.selected])

    # -------- for `link` --------

    @property
    def problems(self) -> list[tuple[str, tuple[str, ...]]]:
        """Question and steps of every example."""
        return problems_of(self._examples)

    def choose(self, example: int, step: int, view: str) -> None:
        """Look at the row in which a view is read, see `linking.py`; at other view pairs, if only they hold it."""
        self.example.value = example
        if view == "state":
            rows = [t for t, token in enumerate(self._picture.tokens) if token.part == f"S{step + 1}"]
        else:
            if self._pair(step, view) is None:
                self.pairs.value = "question_answer" if step < 0 else "consecutive"
            if self.view.value == "plain causal":
                self.view.value = "single-pass"
            if self._pair(step, view) is not None:
                self.pair.value = self._pair(step, view)
            rows = [row for row, about in self._picture.views.items() if about == (self._pair(step, view), view)]
        if rows:
            self.selected = max(rows)

    def _pair(self, step: int, view: str) -> int | None:
        """Which view pair has this view."""
        return next((pair for pair, steps in enumerate(self._story.steps) if steps[view == "target"] == step), None)

    def _tell(self) -> None:
        self.selected = min(self.selected, len(self._picture.tokens) - 1)  # a key may have crossed a change on its way
        by_name = None if self.pair.disabled else (self.pair.value, "context")
        about = self._picture.views.get(self.selected, by_name)
        if about is None or self.example.value == OWN:
            self.chosen = None
        else:
            self.chosen = (self.example.value, self._story.steps[about[0]][about[1] == "target"], about[1])

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        bundle: dict[str, Any] = super()._repr_mimebundle_(**options)
        pairs = f"{self.pairs.value} pairs, isolation {self.isolation.value}, predictors {self.predictors.value}"
        return bundle | {
            "text/plain": f"Mask explorer, {self.view.value}, {pairs}. {self._picture.summary}",
            "text/html": still(self._picture),
        }

    # -------- from the controls to the picture --------

    def _refresh(self) -> None:
        if self._busy:  # a change that drawing itself made
            return
        try:
            self._draw()
            self.message.value = ""
        except UserError as error:  # what was typed or chosen cannot be shown: say why, keep the last picture
            self.message.value = alert(error)

    def _draw(self) -> None:
        self._busy = True
        try:
            self._own.layout.display = None if self.example.value == OWN else "none"
            self._update_story()
            self._show()
        finally:
            self._busy = False

    def _update_story(self) -> None:
        own = (self.question.value, self.steps.value) if self.example.value == OWN else ()
        chosen = (self.example.value, own, self.pairs.value, self.isolation.value, self.predictors.value)
        if chosen == self._story_of:
            return
        example = self._chosen_example()
        try:
            row = tokenize_example(example, self._tokenizer)
        except ValueError as error:
            raise UserError(f"This example cannot be tokenized: {error}") from error
        layout = replace(
            PAIR_CHOICES[self.pairs.value], isolation=self.isolation.value, predictors=self.predictors.value
        )
        batch = StepJEPACollator(self._tokenizer, layout)([row])
        self._story = MaskStory(batch, on_one_line(self._tokenizer))
        self._story_of = chosen
        before = self.pair.index or 0
        self.pair.options = [(name, i) for i, name in enumerate(self._story.pairs)]
        if self._story.pairs:
            self.pair.index = min(before, len(self._story.pairs) - 1)

    def _chosen_example(self) -> Mapping[str, Any]:
        if self.example.value != OWN:
            return self._examples[self.example.value]
        steps = split_steps(self.steps.value, "paragraph", min_chars=0)
        if not self.question.value.strip() or not steps:
            raise UserError("Write a question and at least one step (steps stand apart by blank lines).")
        return make_example(self.question.value.strip(), steps, None, "own", system_prompt=None)

    def _show(self) -> None:
        self.pair.disabled = not (self.view.value in ("two-pass", "difference") and self._story.pairs)
        picture = self._story.picture(self.view.value, self.pair.value or 0)
        chosen = self._same_token(picture)
        cells, legend = paint(picture)
        self._picture = picture
        with self.canvas.hold_sync():
            self.canvas.picture = {
                "summary": picture.summary,
                "cells": cells.tobytes(),
                "legend": legend,
                "tokens": [{"text": token.text, "name": token.name} for token in picture.tokens],
                "sentences": [picture.sentence(t) for t in range(len(picture.tokens))],
                "parts": [dict(zip(("name", "colour", "start", "end"), part, strict=True)) for part in parts(picture)],
                "reads": [{"row": row, "view": view.split()[0]} for row, view in sorted(picture.reads.items())],
            }
            self.selected = chosen
        self._tell()

    def _same_token(self, picture: MaskPicture) -> int:
        """Where the token looked at stands in the next picture; at the start, where a target view is read."""
        if not self.canvas.picture:
            return max(picture.reads, default=len(picture.tokens) - 1)
        before, why = self._picture.tokens[self.selected], self._picture.why[self.selected]
        names = [before.part, before.part.removesuffix(" copy"), before.group]
        if "in isolation" in why:  # what the second pass isolates is a copy in the single pass
            names.insert(0, f"{before.group} copy")
        for name in names:
            for t, token in enumerate(picture.tokens):
                if (token.part, token.number) == (name, before.number):
                    return t
        return min(self.selected, len(picture.tokens) - 1)


def mask_explorer(
    tokenizer: PreTrainedTokenizerBase | None = None, examples: Sequence[Mapping[str, Any]] | None = None
) -> MaskExplorer:
    """Explore who may attend to whom; what a model makes of it shows the attention explorer.

    Args:
        tokenizer: a fast tokenizer; by default the built-in one. It is not changed.
        examples: prepared examples (`stepjepa.data.sources.read_examples`); by default built-in test problems, of each
            number of steps the shortest.

    Raises:
        UserError: the first example cannot be tokenized.
    """
    tokenizer = tokenizer or AutoTokenizer.from_pretrained(BUILTIN_PATH)
    return MaskExplorer(tokenizer, builtin_examples() if examples is None else examples)


def builtin_examples() -> list[Mapping[str, Any]]:
    """Of 200 test problems the one with the fewest characters, for each number of steps."""
    examples, _ = read_examples("builtin", split="test", count=200, seed=1)
    longest_first = sorted(examples, key=lambda e: len(e["question"]) + sum(map(len, e["steps"])), reverse=True)
    return [example for _, example in sorted({len(e["steps"]): e for e in longest_first}.items())]
