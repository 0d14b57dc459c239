"""The attention explorer: layer by layer and head by head, where every token of trunk and branches looks.

A thin binding: `attention_pictures.py` has the weights and their words; `attention_explorer.js` and `attention_map.js`
draw them, loaded from the package itself (anywidget; no network, no lab extension). Five numbers say what is looked at,
and are traits, so that other explorers can be linked to them. Where no widget runs, a still appears.

>>> explorer = attention_explorer({"before": before, "after": after}, tokenizer)  # doctest: +SKIP
>>> explorer.layer, explorer.head = 0, 3  # doctest: +SKIP
>>> explorer.choose(example=0, step=1, view="target")  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from stepjepa.analysis.attention import windows_by_layer
from stepjepa.jepa.architectures import base_model
from stepjepa.jepa.pairs import BranchLayout
from stepjepa.records import UserError
from stepjepa.visualization.attention_pictures import MEAN, RAMPS, AttentionStory, head_name, shown_names
from stepjepa.visualization.linking import problems_of
from stepjepa.visualization.mask_explorer import builtin_examples
from stepjepa.visualization.mask_pictures import on_one_line
from stepjepa.visualization.widgets import script

LAYOUT = BranchLayout("consecutive", max_length=512)
"""All steps, and trunks of at most 512 tokens; a longer one loses whole steps."""


class AttentionExplorer(anywidget.AnyWidget):
    """See `attention_explorer`. The traits can be set, observed and linked; a number that there is not is refused."""

    _esm = script("attention_map.js", "attention_explorer.js")
    _css = Path(__file__).with_name("attention_explorer.css")
    choices = traitlets.Dict().tag(sync=True)
    """What there is to choose: names of examples and of what can be shown, numbers of layers and heads, colours."""
    example = traitlets.Int(0).tag(sync=True)
    """Which example, from 0."""
    shown = traitlets.Int(0).tag(sync=True)
    """Which model, from 0; after the models come the differences of each later one to the first."""
    layer = traitlets.Int(0).tag(sync=True)
    head = traitlets.Int(MEAN).tag(sync=True)
    """From 0; −1 is the mean of the heads."""
    position = traitlets.Int(0).tag(sync=True)
    """The token looked at, a row of the layout from 0."""
    chosen = traitlets.Any(None)
    """The view that is read at this token or belongs to it, see `linking.py`."""

    def __init__(
        self, models: Mapping[str, Any], tokenizer: Any, examples: Sequence[Mapping[str, Any]], layout: BranchLayout
    ) -> None:
        self._models, self._tokenizer = dict(models), tokenizer
        self._examples, self._layout = list(examples), layout
        self._story: tuple[int, AttentionStory] | None = None
        config = base_model(next(iter(models.values()))).config.get_text_config()
        choices = {
            "example": [f"{len(e['steps'])} steps: {e['question'][:70]}" for e in self._examples],
            "shown": shown_names(list(models)),
            "layer": config.num_hidden_layers,
            "head": config.num_attention_heads,
            "colours": RAMPS,
        }
        super().__init__(choices=choices, layer=config.num_hidden_layers - 1)
        self.position = max(self.story.picture.reads)
        self.on_msg(lambda _widget, content, _buffers: self._answer(content))

    @traitlets.validate("example", "shown", "layer", "head", "position")
    def _valid(self, proposal: Any) -> int:
        name, value = proposal.trait.name, proposal.value
        there = self.story.texts if name == "position" else self.choices[name]
        first, end = MEAN if name == "head" else 0, there if isinstance(there, int) else len(there)
        if not first <= value < end:
            raise traitlets.TraitError(f"there is no {name} {value}: there are {first} to {end - 1}")
        if name == "example":
            self._story_of(value)  # which raises if it cannot be shown
        return int(value)

    @traitlets.observe("example")
    def _look_at_a_view(self, _change: Any) -> None:
        self.position = max(self.story.picture.reads)

    @traitlets.observe("example", "position")
    def _tell(self, _change: Any) -> None:
        view = self.story.view(self.position)
        self.chosen = view and (self.example, *view)

    # -------- what is shown, for readers and other explorers --------

    @property
    def story(self) -> AttentionStory:
        """The example that is shown; the models run over it when it is first asked for.

        Raises:
            UserError: it cannot be shown.
        """
        return self._story_of(self.example)

    @property
    def words(self) -> str:
        """What the chosen token may attend to, and where its attention goes."""
        sentence = self.story.sentences(self.layer)[self.position]
        return f"{sentence} {self.story.most(self.shown, self.layer, self.head, self.position)}"

    @property
    def summary(self) -> str:
        """The picture in a line."""
        where = f"{self.choices['shown'][self.shown]}, layer {self.layer}, {head_name(self.head)}"
        return f"Attention explorer, {where}: {self.story.summary(self.shown)}"

    @property
    def problems(self) -> list[tuple[str, tuple[str, ...]]]:
        """Question and steps of every example."""
        return problems_of(self._examples)

    def choose(self, example: int, step: int, view: str) -> bool:
        """Look at the token at which a view is read.

        Args:
            example: from 0.
            step: from 0. −1: the question, or as a target the whole answer.
            view: "context" after the step, "target" of it, "state" at its end in the trunk.

        Returns:
            Whether the example has this view; if not, nothing changes.

        Raises:
            UserError: the example cannot be shown.
        """
        position = self._story_of(example).position(step, view)
        if position is None:
            return False
        self.example = example
        self.position = position
        return True

    def _repr_mimebundle_(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        bundle, about = super()._repr_mimebundle_(**options) or ({}, {})
        page = self.story.still(self.shown, self.layer, self.head, self.summary)
        return {**bundle, "text/plain": self.summary, "text/html": page}, about

    # -------- what the canvas asks for --------

    def _story_of(self, example: int) -> AttentionStory:
        if self._story is None or self._story[0] != example:
            models, tokenizer = self._models, self._tokenizer
            story = AttentionStory(models, tokenizer, self._examples[example], self._layout, on_one_line(tokenizer))
            self._story = example, story
        return self._story[1]

    def _answer(self, asked: Mapping[str, int]) -> None:
        """Send the picture of an example, of what is shown, of a layer; or say why it cannot be shown."""
        try:
            content, buffers = self._story_of(asked["example"]).message(asked["shown"], asked["layer"])
        except UserError as error:
            content, buffers = {"error": str(error)}, []
        self.send({**content, "asked": asked}, buffers)


def attention_explorer(
    models: Any, tokenizer: Any, examples: Sequence[Mapping[str, Any]] | None = None, *, layout: BranchLayout = LAYOUT
) -> AttentionExplorer:
    """Explore where a model looks, or how two models differ in it.

    Args:
        models: from `load_model`; or several of one shape by name ("before" and "after", "plain" and "Step-JEPA"), to
            switch between, and with the difference of each later one to the first.
        tokenizer: of all of them.
        examples: prepared examples with at least one view pair; by default built-in test problems, of each number of
            steps the shortest.
        layout: which branches are shown.

    Raises:
        UserError: no model, models of different shapes, or a first example that cannot be shown.
    """
    named = dict(models) if isinstance(models, Mapping) else {"model": models}
    if not named:
        raise UserError("no model to explore: give one, or several by name")
    shapes = {name: _shape(model) for name, model in named.items()}
    if len(set(shapes.values())) > 1:
        said = "; ".join(f"{name}: {layers} layers × {heads} heads" for name, (layers, heads, _) in shapes.items())
        raise UserError(f"these models cannot be compared cell by cell, as layers, heads or windows differ: {said}")
    return AttentionExplorer(named, tokenizer, builtin_examples() if examples is None else examples, layout)


def _shape(model: Any) -> tuple[int, int, tuple[int | None, ...]]:
    config = base_model(model).config
    text = config.get_text_config()
    return text.num_hidden_layers, text.num_attention_heads, tuple(windows_by_layer(config))
