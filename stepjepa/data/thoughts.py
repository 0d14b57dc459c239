"""Thoughts and answer of a response, told apart by the marks that models write around them: one table of them.

Thoughts of GPT-OSS stand in the channels `analysis` and `commentary` of its harmony format, the answer in `final`.
"""

from __future__ import annotations

import re

THOUGHT_MARKS = (
    ("<think>", "</think>"),  # DeepSeek-R1, Qwen3 and most others
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),  # EXAONE Deep, Marco-o1
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),  # Seed-OSS
    ("<longcat_think>", "</longcat_think>"),  # LongCat
    ("[THINK]", "[/THINK]"),  # Magistral
    ("<|begin_of_thought|>", "<|end_of_thought|>"),  # Sky-T1, OpenThinker
    ("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A Reasoning
    ("◁think▷", "◁/think▷"),  # Kimi
    ("<|channel>thought", "<channel|>"),  # Gemma 4
)
"""What opens and what closes a thought, in any case of letters."""

ANSWER_MARKS = (
    *("<answer>", "</answer>", "<|begin_of_solution|>", "<|end_of_solution|>"),
    *("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
)
"""What stands around the answer beside a thought; it is dropped."""

CHANNEL_MARKS = ("<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>", "<|call|>", "<|return|>")
"""The control tokens of the harmony format."""

MARKS = (*(mark for pair in THOUGHT_MARKS for mark in pair), *ANSWER_MARKS, *CHANNEL_MARKS)
"""Every mark: a reader of tokens must leave them in the text for :func:`split_thoughts`."""

_OPENS = {opener.lower(): opener for opener, _ in THOUGHT_MARKS}
_LONGEST = max(map(len, _OPENS))
_CLOSES = {closer.lower(): opener for opener, closer in THOUGHT_MARKS}
# `<|start|>assistant<|channel|>analysis<|message|>`, `<|channel|>commentary to=f <|constrain|>json<|message|>` begin a
# message, `<|end|>`, `<|call|>`, `<|return|>` end one; any mark of the first two tables: `<think>`, `[/THINK]`
_MARK = re.compile(
    r"(?=[<◁[])(?:(?P<message>(?:<\|start\|>[^<]*)?<\|channel\|>\s*(?P<channel>\w*)[^<]*(?:<\|constrain\|>[^<]*)?"
    rf"<\|message\|>|<\|(?:end|call|return)\|>)|{'|'.join(map(re.escape, (*_OPENS, *_CLOSES, *ANSWER_MARKS)))})",
    re.I,
)


def opened_thought(prompt: str) -> str:
    """The mark with which a prompt ends, if it opens a thought that the response goes on with; else nothing."""
    end = prompt.rstrip()[-_LONGEST:].lower()
    return next((opener for mark, opener in _OPENS.items() if end.endswith(mark)), "")


def split_thoughts(text: str) -> tuple[str, str]:
    """``(thoughts, rest)`` of a response, without any mark.

    A thought that is not closed runs to the end of the text. A closing mark without an opening one closes a thought
    that began with the text: templates that open the thought in the prompt leave such responses. Where there are
    channels, only the messages in `final` are no thoughts.
    """
    thoughts: list[str] = []
    rest: list[str] = []
    opened: str | None = None  # what opened the thought that the text is in
    position = 0
    in_channels = "<|channel|>" in text
    for match in _MARK.finditer(text):
        mark = match.group().lower()
        opens, closes = _OPENS.get(mark), _CLOSES.get(mark)
        if match["message"]:
            if not in_channels:
                continue  # some other model's end of turn
            opens, closes = None if match["channel"] in (None, "final") else "channel", "channel"
        is_thought = opened is not None or (position == 0 and closes is not None)
        (thoughts if is_thought else rest).append(text[position : match.start()])
        position = match.end()
        if opened is None or closes == opened:
            if opens or is_thought:
                (thoughts if is_thought else rest).append("\n\n")
            opened = opens
    (rest if opened is None else thoughts).append(text[position:])
    return "".join(thoughts).strip(), "".join(rest).strip()
