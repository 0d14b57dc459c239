"""What is trained is what is given: prompts are the beginning of rows, the system message is in both, turns end."""

from __future__ import annotations

import signal
import threading
from typing import Any

import pytest
from small_tokenizers import STYLES, gpt2_style, qwen_style

from stepjepa.data import chat
from stepjepa.data.chat import ChatRenderer
from stepjepa.data.encoding import chat_encoder, end_of_turn_id, prompt_of
from stepjepa.data.examples import make_example
from stepjepa.data.tokens import tokenize_dataset, tokenize_example

EXAMPLE = make_example("How many?", ["Natalia sold 3.", "The answer is \\boxed{3}."], "3", "s", "Be brief.")
# First characters that tokenizers treat in their own way.
ANSWERS = (
    "1",
    '"x"',
    "$5",
    "(a)",
    "\\frac",
    "-3",
    "\u2026",
    "\u0301x",
    "'s",
    "_x",
    "**b**",
    "\u4e2d",
    "\U0001f34e",
    "--",
    "#h",
)

GAPS = {escaped: escaped.replace("\\n", "\n") for escaped in (": ", ":", "", " ", "\\n\\n", "\\n \\n", ":\\n")}


def template(gap: str, end: str = "eos_token + '\\n'") -> str:
    return (
        f"{{% for m in messages %}}{{{{ m['role'] + '{gap}' + m['content'] + {end} }}}}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{{{{ 'assistant{gap}' }}}}{{% endif %}}"
    )


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("gap", GAPS)
def test_a_prompt_is_the_beginning_of_every_row(style: str, gap: str) -> None:
    tokenizer = STYLES[style]()
    tokenizer.chat_template = template(gap)
    prompt = prompt_of(EXAMPLE, tokenizer)
    for answer in ANSWERS:
        row = tokenize_example(make_example("How many?", [answer], None, "s", "Be brief."), tokenizer)
        assert row["input_ids"][: len(prompt.ids)] == prompt.ids
        assert row["labels"][: len(prompt.ids)] == [-100] * len(prompt.ids)
        labelled = [label for label in row["labels"] if label != -100]
        assert row["labels"][len(prompt.ids)] != -100
        assert labelled[-1] == end_of_turn_id(tokenizer)
        if style in ("llama3", "gpt2", "qwen"):
            begun = tokenizer.decode(prompt.ids) + tokenizer.decode(labelled)
            assert begun.endswith(f"assistant{GAPS[gap]}{answer}{tokenizer.eos_token}")


def test_a_template_that_keeps_nothing_apart_is_refused() -> None:
    tokenizer = gpt2_style()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(ValueError, match="merges the question with the answer"):
        prompt_of(EXAMPLE, tokenizer)


LAST_USER = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}"
    "{% set messages = messages[1:] %}{% endif %}{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{ '[INST] ' + (system + '\n\n' if loop.last and system is defined else '') + m['content'] + '[/INST]' }}"
    "{% else %}{{ ' ' + m['content'] | trim + eos_token }}{% endif %}{% endfor %}"
)
FIRST_TURN_ONLY = (
    "{% for m in messages %}{% if m['role'] != 'system' or messages | length < 4 %}"
    "{{ m['role'] + ':\n' + m['content'] + eos_token + '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:\n' }}{% endif %}"
)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("source", [LAST_USER, FIRST_TURN_ONLY], ids=["last user", "first turn"])
@pytest.mark.parametrize("turns", [1, 2, 3])
def test_the_system_message_is_in_prompt_and_row(style: str, source: str, turns: int) -> None:
    tokenizer = STYLES[style]()
    tokenizer.chat_template = source
    system, *turn = EXAMPLE["messages"]
    example = {**EXAMPLE, "messages": [system, *turn * turns]}
    row, prompt = tokenize_example(example, tokenizer), prompt_of(example, tokenizer)
    assert prompt.text.count("Be brief.") == 1
    assert row["input_ids"][: len(prompt.ids)] == prompt.ids


def test_a_template_that_refuses_long_conversations_folds_nothing() -> None:
    tokenizer = gpt2_style()
    refusal = "{% if messages | selectattr('role', 'eq', 'user') | list | length > 1 %}{{ 1 / 0 }}{% endif %}"
    tokenizer.chat_template = refusal + template(":\\n")
    assert not ChatRenderer(tokenizer).folds_system


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("end", ["'\\n###\\n'", "' END '", "''", "'</assistant>\\n\\n'"])
def test_a_turn_that_ends_in_plain_text_gets_the_eos_token(style: str, end: str) -> None:
    tokenizer = STYLES[style]()
    tokenizer.chat_template = template(":\\n", end)
    row = tokenize_example(EXAMPLE, tokenizer)
    assert row["labels"].count(tokenizer.eos_token_id) == 1
    assert row["labels"][-1] == tokenizer.eos_token_id == end_of_turn_id(tokenizer)
    tokenizer.eos_token = None
    if style != "gemma":
        with pytest.raises(ValueError, match="no eos token"):
            prompt_of(EXAMPLE, tokenizer)


def test_nothing_is_trained_after_the_eos_token() -> None:
    tokenizer = qwen_style()
    tokenizer.chat_template = template(":\\n", "'<|im_end|>\\nEND\\n'")
    row = tokenize_example(EXAMPLE, tokenizer)
    assert [label for label in row["labels"] if label != -100][-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("style", STYLES)
def test_a_solutions_own_end_of_turn_is_taken_off_and_counted(style: str) -> None:
    tokenizer = STYLES[style]()
    end = chat_encoder(tokenizer).renderer.end_of_turn
    steps = EXAMPLE["steps"]
    plain = {**tokenize_example(EXAMPLE, tokenizer), "source": "s"}
    endings = (
        [steps[0], steps[1] + end],
        [steps[0], f"{steps[1]} {end}\n{end}"],
        [*steps, end],
        [*steps, end, end + end],
    )
    for given in endings:
        rows, report = tokenize_dataset([make_example("How many?", given, "3", "s", "Be brief.")], tokenizer)
        assert rows == [plain]
        assert report.ended == 1
        assert "end-of-turn string taken off the end: 1" in str(report)
    with pytest.raises(ValueError, match="nothing but the end of a turn"):
        tokenize_example(make_example("How many?", [end], "3", "s"), tokenizer)


# ---- templates that do not end ----

LOOPS = "{% for a in range(99999) %}" * 4 + "{% endfor %}" * 4
CONTENT_LOOPS = "{% for a in m['content'] %}" * 9 + "{% endfor %}" * 9


@pytest.mark.parametrize(
    "loops", [LOOPS, "{% for m in messages %}" + CONTENT_LOOPS + "{% endfor %}"], ids=["range", "text"]
)
def test_a_template_that_does_not_end_is_stopped(loops: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(chat, "TIME_LIMIT", 0.1)
    before = signal.getsignal(signal.SIGVTALRM)
    tokenizer = gpt2_style()
    tokenizer.chat_template = loops + template(":\\n")
    example = make_example("How many? " * 9, EXAMPLE["steps"], None, "s")
    with pytest.raises(ValueError, match=r"the chat template does not end: it was stopped after 0\.1 seconds"):
        prompt_of(example, tokenizer)
    assert signal.getsignal(signal.SIGVTALRM) is before
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)


def test_other_threads_have_no_time_limit() -> None:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(prompt_of(EXAMPLE, gpt2_style()).text))
    thread.start()
    thread.join()
    assert found[0].endswith("Answer:\n")


FAULTS = {
    "{{ 9 ** 9 ** 9 }}": "takes a power",
    "{% for a in range(9999) %}{{ 'x' * 999 }}{% endfor %}": "makes .* characters of a short conversation",
    "{% for %}": "the chat template refuses this conversation: Expected an expression",
    "{{ '": "the chat template is not a template",
    "{{ 1 / 0 }}": "refuses this conversation: ZeroDivisionError",
    "{{ messages + 1 }}": "refuses this conversation: TypeError",
}


@pytest.mark.parametrize("source", FAULTS)
def test_a_template_that_cannot_be_used_is_named(source: str) -> None:
    tokenizer = gpt2_style()
    tokenizer.chat_template = source + template(":\\n")
    with pytest.raises(ValueError, match=FAULTS[source]):
        prompt_of(EXAMPLE, tokenizer)
