r"""An example → the text that the model is trained on, through the tokenizer's chat template.

Templates stamp dates, strip content, put ``<think>`` blocks before the answer, refuse the system role, end
the turn in their own way, or are absent. What matters downstream is only where the prompt ends, where the
answer begins and ends, and where the turn ends, as character offsets, and that the prompt is exactly what
generation is given later. `encoding.py` makes tokens of it.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

from jinja2 import Environment
from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from stepjepa.data.control import ControlTokens, Span

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

TIME_LIMIT = 10.0
"""Seconds of computing after which a template is stopped; an ordinary one takes less than a millisecond."""
_LONGEST = 1_000_000  # characters that a template may add to ten times those of its messages
_FAILURES = (TemplateError, ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError)


class RefusedError(ValueError):
    """The template raises an error over a conversation, as many do over a system message."""


@dataclass(frozen=True)
class Rendering:
    """The training text and the offsets in it: ``prompt_end <= start < end <= turn_end``.

    ``text[:prompt_end]`` is the prompt of generation; what stands between it and ``start`` is put there by
    the template and has to be learnt; ``text[start:end]`` is the answer; ``text[end:turn_end]`` ends the
    turn. ``written`` are the control tokens that the template wrote, where its messages hold strings of
    such tokens, which are text; else None.
    """

    text: str
    prompt_end: int
    start: int
    end: int
    turn_end: int
    written: list[Span] | None = None


class ChatRenderer:
    """A tokenizer's chat template with everything pinned that would make two renderings differ.

    The date is 26 Jul 2024 (Llama 3's own default); thinking is off; a system message is folded into the
    first user message if the template refuses or drops it, in the prompt or in any later form of the
    conversation.

    Attributes:
        control: the control tokens of tokenizer and template.
        end_of_turn: the control token that generation stops at after an answer; the eos token, which is
            added, where the template ends a turn with ordinary text.

    Raises:
        ValueError: for a template that cannot be used, or without anything to end a turn with.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        # `is None` rather than falsy: an empty template is a mistake that jinja should show.
        template = PLAIN_TEMPLATE if tokenizer.chat_template is None else tokenizer.get_chat_template()
        if tokenizer.chat_template is None:
            self._eos_token()  # or an error: the plain template ends turns with it
        self.template = _PINNED_CLOCK + template if "strftime_now" in template else template
        self.control = _control_tokens(tokenizer, template)
        self.folds_system = self._folds_system()
        _, suffix = self._around([{"role": "user", "content": "Question"}])
        self._suffix, self._end = suffix, self._ending(suffix)  # as a rule the same for all: found once
        self.end_of_turn = self._end_of_turn(self._end)

    def _render(self, messages: Sequence[Message], *, generation: bool = False) -> str:
        try:
            with time_limit():
                rendered = self.tokenizer.apply_chat_template(
                    [dict(message) for message in messages],
                    chat_template=self.template,
                    tokenize=False,
                    add_generation_prompt=generation,
                    enable_thinking=False,
                    date_string=_DATE.strftime("%d %b %Y"),
                )
        except TimeoutError as error:
            raise ValueError(f"the chat template does not end: it was stopped after {TIME_LIMIT:g} seconds") from error
        except _FAILURES as error:
            said = f"{error}" if isinstance(error, TemplateError) else f"{type(error).__name__}: {error}"
            raise RefusedError(f"the chat template refuses this conversation: {said}") from error
        assert isinstance(rendered, str)
        if len(rendered) > _LONGEST + 10 * sum(len(message["content"]) for message in messages):
            raise ValueError(f"the chat template makes {len(rendered):,} characters of a short conversation")
        return rendered

    def _eos_token(self) -> str:
        if self.tokenizer.eos_token is None:
            raise ValueError(
                f"{type(self.tokenizer).__name__} has no eos token and no template that ends the turn, so the model "
                "could not learn to stop; set tokenizer.eos_token"
            )
        return str(self.tokenizer.eos_token)

    def _folds_system(self) -> bool:
        """Whether the system message would vanish from a prompt or a training text, of one turn or of two."""
        system = {"role": "system", "content": _SENTINEL}
        turns = [{"role": role, "content": "Text"} for role in ("user", "assistant", "user", "assistant")]
        for count in range(1, len(turns) + 1):
            generation = count % 2 == 1
            try:
                if _SENTINEL in self._render([system, *turns[:count]], generation=generation):
                    continue
            except RefusedError:
                try:
                    self._render(turns[:count], generation=generation)
                except RefusedError:
                    continue  # it refuses such conversations with and without a system message
            return True
        return False

    def _turns(self, messages: Sequence[Message]) -> list[Message]:
        if not (self.folds_system and messages[0]["role"] == "system"):
            return list(messages)
        system, user, *rest = messages
        return [{**user, "content": f"{system['content']}\n\n{user['content']}"}, *rest]

    def holds_control(self, messages: Sequence[Message]) -> bool:
        """Whether a message holds what reads like a control token."""
        return any(self.control.occur_in(message["content"]) for message in messages)

    def render(self, messages: Sequence[Message], *, hide: bool = False) -> Rendering:
        """The training text of a conversation that ends with the assistant's (stripped) answer.

        Args:
            messages: the conversation.
            hide: keep the contents from being read as control tokens, see `control.py`.

        Raises:
            ValueError: if the template refuses the conversation or changes the answer.
        """
        turns = self._turns(messages)
        answer = turns[-1]["content"]
        if hide:
            turns = [{**turn, "content": self.control.hide(turn["content"])} for turn in turns]
        prompt, _ = self._shown(self._render(turns[:-1], generation=True), hide)
        text, contents = self._shown(self._render(turns), hide)
        prefix, suffix = prompt, self._suffix
        if hide and contents:
            prefix, suffix = text[: contents[-1][0]], text[contents[-1][1] :]
        elif text != prefix + answer + suffix:
            prefix, suffix = self._around(turns[:-1])
        if text != prefix + answer + suffix:
            raise ValueError("the chat template changes the text of the answer, so its steps cannot be found")
        if suffix != self._suffix:
            self._suffix, self._end = suffix, self._ending(suffix)
        ending = self._end
        if not suffix.startswith(ending):
            text = prefix + answer + ending
        start = len(prefix)
        end = start + len(answer)
        written = self.control.outside(text, contents) if hide else None
        return Rendering(text, len(_common_prompt(prompt, prefix)), start, end, end + len(ending), written)

    def _shown(self, rendered: str, hide: bool) -> tuple[str, list[Span]]:
        return self.control.show(rendered) if hide else (rendered, [])

    def _ending(self, suffix: str) -> str:
        """How the turn ends after the answer, the token that generation stops at being the last of it."""
        ending, eos = suffix.rstrip(), self.tokenizer.eos_token
        if eos and eos in ending:
            return ending[: ending.index(eos) + len(eos)]
        return ending if self._end_of_turn(ending) else ending + self._eos_token()

    def _end_of_turn(self, ending: str) -> str:
        """The control token that a text ends with, or nothing."""
        return max((token for token in self.control.ids if ending.endswith(token)), key=len, default="")

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


def _control_tokens(tokenizer: PreTrainedTokenizerBase, template: str) -> ControlTokens:
    """The control tokens; raises `ValueError` for a template that is not one, or takes powers.

    A power such as ``9**9**9`` is one operation, which no time limit interrupts. After a bracket or a comma
    ``**`` is none, but passes arguments.
    """
    try:
        signs = [sign for _, kind, sign in Environment().lex(template) if kind != "whitespace"]
        if any(sign == "**" and before not in ("(", ",") for before, sign in pairwise(signs)):
            raise ValueError("the chat template takes a power (**), which may never end")
        return ControlTokens(tokenizer, template)
    except TemplateError as error:
        raise ValueError(f"the chat template is not a template: {error}") from error


def _stop(*_: Any) -> None:
    raise TimeoutError


@contextmanager
def time_limit() -> Iterator[None]:
    """Raise `TimeoutError` after `TIME_LIMIT` seconds of computing; one inside another begins to count anew.

    jinja's sandbox limits the length of a range, but loops in loops can go on for years. The limit holds in
    the main thread of systems with POSIX timers, where commands run; elsewhere there is none.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    if signal.getsignal(signal.SIGVTALRM) is _stop:  # many renderings share one handler, which takes time to set
        signal.setitimer(signal.ITIMER_VIRTUAL, TIME_LIMIT)
        yield
        return
    before = signal.signal(signal.SIGVTALRM, _stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, TIME_LIMIT)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before or signal.SIG_DFL)
