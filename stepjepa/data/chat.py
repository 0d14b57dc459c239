r"""An example → the text that the model is trained on, through the tokenizer's chat template.

Templates stamp dates, strip content, put ``<think>`` blocks before the answer, refuse the system role, end
the turn in their own way, or are absent. What matters downstream is only where the prompt ends, where the
answer begins and ends, and where the turn ends, as character offsets, and that the prompt is exactly what
generation is given later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

Message = Mapping[str, Any]

PLAIN_TEMPLATE = (
    "{% if bos_token is defined and bos_token and bos_token != eos_token %}{{ bos_token }}{% endif %}"
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ 'Question:\n' + message['content'] + '\n\n' }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ 'Answer:\n' + message['content'] + eos_token }}{% if not loop.last %}{{ '\n\n' }}{% endif %}"
    "{% else %}{{ message['content'] + '\n\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Answer:\n' }}{% endif %}"
)
r"""The template of tokenizers that have none: ``Question:\n…\n\nAnswer:\n…`` closed by the eos token.

It ends the prompt with a line end, which no tokenizer merges with the first word of the answer, and begins
with the bos token where that is not the eos token as well (as it is in GPT-2).
"""

_DATE = datetime(2024, 7, 26)
# A macro hides the template environment's clock. Passing a function does not: transformers turns what is not
# plain data into a string. The empty expression keeps jinja from eating a line end at the template's start.
_PINNED_CLOCK = (
    "{% macro strftime_now(format) %}{{ format"
    + "".join(
        f" | replace('%{code}', '{_DATE.strftime('%' + code.removeprefix('-'))}')"
        for code in ("-d", "-m", *"aAbBdHIjmMpSyYFT")
    )
    + " }}{% endmacro %}{{ '' }}"
)
_SENTINEL = "STEPJEPASOLUTIONGOESHERE"


@dataclass(frozen=True)
class Rendering:
    """The training text and the offsets in it: ``prompt_end <= start < end <= turn_end``.

    ``text[:prompt_end]`` is the prompt of generation; what stands between it and ``start`` is put there by
    the template and has to be learnt; ``text[start:end]`` is the answer; ``text[end:turn_end]`` ends the
    turn.
    """

    text: str
    prompt_end: int
    start: int
    end: int
    turn_end: int


class ChatRenderer:
    """A tokenizer's chat template with everything pinned that would make two renderings differ.

    The date is 26 Jul 2024 (Llama 3's own default); thinking is off; a system message is folded into the
    first user message if the template refuses or ignores the system role.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        # `is None` rather than falsy: an empty template is a mistake that jinja should show.
        plain = tokenizer.chat_template is None
        template = PLAIN_TEMPLATE if plain else tokenizer.get_chat_template()
        self.template = _PINNED_CLOCK + template if "strftime_now" in template else template
        if plain:
            self._eos_token()  # or an error: the plain template ends turns with it
        self.folds_system = self._folds_system()
        self._suffix: str | None = None

    def _render(self, messages: Sequence[Message], *, generation: bool = False) -> str:
        rendered = self.tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            chat_template=self.template,
            tokenize=False,
            add_generation_prompt=generation,
            enable_thinking=False,
            date_string=_DATE.strftime("%d %b %Y"),
        )
        assert isinstance(rendered, str)
        return rendered

    def _eos_token(self) -> str:
        if self.tokenizer.eos_token is None:
            raise ValueError(
                f"{type(self.tokenizer).__name__} has no eos token and no template that ends the turn, so the model "
                "could not learn to stop; set tokenizer.eos_token"
            )
        return str(self.tokenizer.eos_token)

    def _folds_system(self) -> bool:
        probe = [{"role": "system", "content": _SENTINEL}, {"role": "user", "content": "Question"}]
        try:
            return _SENTINEL not in self._render(probe)  # dropped without a word
        except TemplateError:
            return True

    def _messages(self, messages: Sequence[Message]) -> list[Message]:
        if not (self.folds_system and messages[0]["role"] == "system"):
            return list(messages)
        system, user, *rest = messages
        return [{**user, "content": f"{system['content']}\n\n{user['content']}"}, *rest]

    def prompt(self, messages: Sequence[Message]) -> str:
        """What generation is given: the conversation up to where the answer begins, which it may contain."""
        turns = self._messages(messages)
        if turns[-1]["role"] == "assistant":
            turns.pop()
        prompt = self._render(turns, generation=True)
        return _common_prompt(prompt, self._around(turns)[0])

    def render(self, messages: Sequence[Message]) -> Rendering:
        """The training text of a conversation that ends with the assistant's (stripped) answer.

        Raises:
            ValueError: if the template changes the answer, or nothing ends the turn.
        """
        turns = self._messages(messages)
        answer = turns[-1]["content"]
        prompt = self._render(turns[:-1], generation=True)
        text = self._render(turns)
        prefix, suffix = prompt, self._suffix
        if suffix is None or text != prefix + answer + suffix:
            prefix, suffix = self._around(turns[:-1])
            self._suffix = suffix  # as a rule the same for all: most examples are spared this rendering
        if text != prefix + answer + suffix:
            raise ValueError("the chat template changes the text of the answer, so its steps cannot be found")
        ending = suffix.rstrip()
        if not ending:
            ending = self._eos_token()
            text = prefix + answer + ending
        start = len(prefix)
        end = start + len(answer)
        return Rendering(text, len(_common_prompt(prompt, prefix)), start, end, end + len(ending))

    def _around(self, turns: Sequence[Message]) -> tuple[str, str]:
        """What training puts before the answer to ``turns``, and what it puts after it.

        A stand-in marks the place: searching for the answer itself would find it in a question that
        quotes it, or find the answer ``e`` in ``<|eot_id|>``.
        """
        marked = self._render([*turns, {"role": "assistant", "content": _SENTINEL}])
        prefix, mark, suffix = marked.rpartition(_SENTINEL)
        if not mark:
            raise ValueError("the chat template does not show the assistant's message")
        return prefix, suffix


def _common_prompt(prompt: str, trained_prefix: str) -> str:
    """The generation prompt if training begins with it, else all that training puts before the answer.

    The second case is a template that opens a thought only when it generates (``…<think>\\n``), which the
    answers here do not have: generation is then given what was trained, not what was never seen.
    """
    return prompt if trained_prefix.startswith(prompt) else trained_prefix


def render_prompt(example: Mapping[str, Any] | Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> str:
    """The text to generate from, for an example or a list of messages (a final answer in it is left out).

    It is the beginning of the training text to the character. Tokenize it with ``add_special_tokens=False``:
    the template has written the bos token already.
    """
    messages = example["messages"] if isinstance(example, Mapping) else example
    return ChatRenderer(tokenizer).prompt(messages)


def end_of_turn_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token that the template ends an assistant turn with, or None if that is ordinary text.

    It may differ from the eos token (Gemma, Qwen base models); generation has to stop at it all the same.
    """
    text = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}]
    rendering = ChatRenderer(tokenizer).render(text)
    ids = tokenizer(rendering.text[rendering.end : rendering.turn_end], add_special_tokens=False)["input_ids"]
    return ids[-1] if ids and ids[-1] in tokenizer.added_tokens_decoder else None
