"""Splitting solutions into steps: each splitter, thoughts, fragments, and that no content is ever lost."""

from __future__ import annotations

import json
import random
import re
import unicodedata
from collections import Counter

import pytest
from real_data import DATA

from stepjepa.data.converters import strip_calculator_marks
from stepjepa.data.examples import final_answer_step
from stepjepa.data.steps import split_steps

FIRST = "First, add the two numbers: 48 + 24 = 72."
SECOND = "Then double the sum, which gives 144."
THIRD = "So the answer is \\boxed{144}."


def without_space(text: str) -> str:
    return "".join(text.split())


def test_paragraph() -> None:
    text = f"{FIRST}\n\n{SECOND}\nIt is even.\n \t\n\n{THIRD}\n"
    assert split_steps(text, "paragraph") == [FIRST, f"{SECOND}\nIt is even.", THIRD]


def test_line() -> None:
    assert split_steps(f"{FIRST}\n{SECOND}\r\n\r\n{THIRD}", "line") == [FIRST, SECOND, THIRD]


@pytest.mark.parametrize(
    "marker",
    ["**Step {}:** ", "Step {}: ", "{}. ", "## Step {}\n", "### Step {}: Add\n\n", "**{}.** ", "({}) ", "Step {} - "],
)
def test_numbered_keeps_sub_paragraphs(marker: str) -> None:
    texts = [FIRST, f"{SECOND}\n\nThis is a sub-paragraph.", THIRD]
    joined = "\n\n".join(marker.format(i) + text for i, text in enumerate(texts, 1))
    steps = split_steps(joined)
    assert steps == split_steps(joined, "numbered")
    assert len(steps) == 3
    assert steps[1].startswith(marker.format(2).split("\n")[0].strip())
    assert steps[1].endswith(f"{SECOND}\nThis is a sub-paragraph.")


def test_numbered_details() -> None:
    text = (
        "We solve the problem in two steps.\n\n"
        "**Step 1: Collect**\n\nThese are the parts:\n1. the first part of it\n2. the second part of it\n\n"
        "**Step 2: Add**\n\n" + FIRST + "\n\n**Final Answer:**\n\n\\boxed{72} clips in all."
    )
    assert split_steps(text) == [
        "We solve the problem in two steps.",
        "**Step 1: Collect**\nThese are the parts:\n1. the first part of it\n2. the second part of it",
        f"**Step 2: Add**\n{FIRST}",
        "**Final Answer:**\n\\boxed{72} clips in all.",
    ]
    # 1.5 is a number and 12. begins a sentence: neither counts up from 1.
    assert split_steps(f"1.5 hours are 90 minutes.\n\n12. of May is the day.\n\n{FIRST}") == [
        "1.5 hours are 90 minutes.",
        "12. of May is the day.",
        FIRST,
    ]
    assert split_steps(f"{FIRST}\n\n{SECOND}", "numbered") == [f"{FIRST}\n{SECOND}"]


@pytest.mark.parametrize("bullet", ["- ", "* ", "• "])
def test_auto_cuts_at_bullets(bullet: str) -> None:
    items = [f"{bullet}**Adding**: 48 + 24 = 72 clips.\n  {bullet}so many", f"{bullet}{SECOND}", f"{bullet}{THIRD}"]
    listed = "\n".join(items)
    assert split_steps(listed) == split_steps(listed, "line", min_chars=30)  # lines are enough where no blank line is
    assert split_steps(f"**Solution**\n\n{listed}") == [f"**Solution**\n{items[0]}", *items[1:]]
    assert split_steps(f"{FIRST}\n\n{listed}") == [FIRST, *items]
    # a heading between two lists opens the second
    between = f"{listed}\n\n### Once more\n\n{listed}"
    assert split_steps(between) == [*items, f"### Once more\n{items[0]}", *items[1:]]
    # but a short list in prose is a part of a step, and mathematics is no list
    prose = f"{FIRST}\n\n{items[1]}\n{items[2]}\n\n{SECOND}\n\n{THIRD}"
    assert split_steps(prose) == [FIRST, f"{items[1]}\n{items[2]}", SECOND, THIRD]
    display = "$$x = 5\n- y\n- z + 3 - 2 + 11 + 12$$"
    assert split_steps(f"{FIRST}\n\n{display}") == [FIRST, display]


def test_sentence() -> None:
    text = "Mr. Smith pays $3.50 for 1.5 pounds, i.e. a lot. He then pays $40 more. Is that a lot of money? Yes."
    assert split_steps(text, "sentence") == [
        "Mr. Smith pays $3.50 for 1.5 pounds, i.e. a lot.",
        "He then pays $40 more.",
        "Is that a lot of money? Yes.",
    ]


@pytest.mark.parametrize(
    "formula",
    [
        r"$f(x) = 5. \text{ Hence } y. Also$",
        "\\[ x = 1. \\\\[2pt]\n\n Then. Y \\]",
        "\\boxed{ \\text{Yes. No. \\{ {Maybe. So} } }",
        "\\begin{cases} a. A \\\\\n\n b. B \\begin{cases} c. C \\end{cases} D. E \\end{cases}",
        '[asy]\ndraw(A--B); label("$A$", A. X);\n\n// Now. The end\n[/asy]',
        "```\nprint(1). Y\n\nprint(2). Z\n```",
        "$$ x = 1. Y = 2. $$",
        r"\( a. B \)",
    ],
)
@pytest.mark.parametrize("splitter", ["auto", "paragraph", "line", "sentence", "numbered"])
def test_never_inside_mathematics(formula: str, splitter: str) -> None:
    text = f"{FIRST} Next we look at {formula} and go on from there.\n\n{SECOND} And so on it goes, further."
    steps = split_steps(text, splitter)  # type: ignore[arg-type]
    assert sum(without_space(formula) in without_space(step) for step in steps) == 1
    assert not any("\n\n" in step for step in steps)


def test_unclosed_mathematics_protects_nothing() -> None:
    assert split_steps(f"We get \\[ x = 1 and more.\n\n{FIRST}\n\n\\[ y = 2 \\] {SECOND}", "paragraph") == [
        "We get \\[ x = 1 and more.",
        FIRST,
        f"\\[ y = 2 \\] {SECOND}",
    ]


def test_money_is_not_mathematics() -> None:
    text = "The first ticket costs $40 on Monday. The second ticket costs $2 on Friday. Together they cost $42."
    assert len(split_steps(text)) == 3
    text = "The stop is inside the formula $x = 5.$ Then we go on with $y = 6.$ Thus we are done with it."
    assert split_steps(text) == [
        "The stop is inside the formula $x = 5.$",
        "Then we go on with $y = 6.$",
        "Thus we are done with it.",
    ]


def test_auto_prefers_markers_then_blank_lines_then_lines_then_sentences() -> None:
    a, b = f"{FIRST} It is even and positive.", f"{SECOND} It is even and positive."
    assert split_steps(f"1. {a}\n2. {b}\n\nMore of it.") == [f"1. {a}", f"2. {b}\nMore of it."]
    assert split_steps(f"{a}\nand on\n\n{b}") == [f"{a}\nand on", b]
    assert split_steps(f"{a}\n{b}") == [a, b]
    assert split_steps(f"{FIRST} {SECOND}") == [FIRST, SECOND]


LONG = [
    "一箱有3公斤和4公斤的两袋，一共是7公斤。",
    "两箱就是7公斤的两倍，那就是14公斤。",
    "所以答案是14公斤，不用再减去别的。",
]


def test_chinese_and_japanese() -> None:
    assert split_steps("".join(LONG)) == LONG
    assert len(split_steps("पहले हम दोनों को जोड़ते हैं, यह 7 है। फिर हम इसे दोगुना करते हैं, यह 14 है।")) == 2
    quoted = [
        "先生は「全部で何個ありますか？」",
        "花子さんは「３個と４個だから７個です。」",
        "だから答えは７個になるのです！",
    ]
    assert split_steps("".join(quoted)) == quoted
    assert split_steps(f"{LONG[0]}\n\n所以，\n\n{LONG[1]}\n\n好。") == [LONG[0], f"所以，\n{LONG[1]}\n好。"]
    assert split_steps("".join([LONG[0], r"$x=1。y$是", LONG[1]]), "sentence") == [LONG[0], rf"$x=1。y$是{LONG[1]}"]


@pytest.mark.parametrize(
    "marker", ["步骤{}：", "**步骤 {}**\n", "第{}步，", "## 第{}步 计算\n", "{}、", "（{}）", "ステップ{}：", "{}．"]
)
@pytest.mark.parametrize("numbers", ["123", "一二三", "１２３"])
def test_markers_of_other_scripts(marker: str, numbers: str) -> None:
    items = [marker.format(number) + text for number, text in zip(numbers, LONG, strict=True)]
    text = "\n\n".join(
        [items[0], "这里两袋都是满的，所以不用再减去别的什么东西。", *items[1:], "答案：14公斤，也就是两箱一共的重量。"]
    )
    assert len(split_steps(text)) == 4
    assert split_steps(text)[1].startswith(items[1].split("\n")[0])


def test_schritt_and_huge_numbers() -> None:
    assert split_steps(f"Schritt 1: {FIRST}\nmore\n\nSchritt 2: {SECOND}") == [
        f"Schritt 1: {FIRST}\nmore",
        f"Schritt 2: {SECOND}",
    ]
    assert len(split_steps(f"Step {'1' * 5000}: {FIRST}\n\nStep {'2' * 5000}: {SECOND}")) == 2


def test_a_list_in_prose_is_no_steps() -> None:
    prose = ["We sort them by what is left.", "There are two cases, and we count each of them:"]
    items = ["1. x is even, which gives 4 ways.", "2. x is odd, which gives 5 ways."]
    after = ["Adding both we get 9 ways in all.", "Each can be turned, so there are 18.", THIRD]
    tight = "\n".join(items)
    assert split_steps("\n\n".join([*prose, tight, *after])) == [*prose, tight, *after]
    assert split_steps("\n\n".join([*prose, *items, *after])) == [*prose, *items, *after]
    assert split_steps("\n".join([*prose, *items, *after])) == [*prose, *items, *after]
    assert split_steps("\n\n".join([*prose, tight, *after]), "numbered") != [*prose, tight, *after]
    # An introduction and an answer make no prose of a list of steps, nor do paragraphs of its items.
    three = [*items, "3. x is zero, which gives 1 way."]
    assert split_steps("\n\n".join([prose[0], "\n".join(three), THIRD])) == [prose[0], *items, f"{three[2]}\n{THIRD}"]
    deep = [prose[0], items[0], *after[:2], items[1], *after[:2]]
    assert len(split_steps("\n\n".join(deep))) == 3
    assert len(split_steps("\n\n".join([*deep, "**Final Answer:**", THIRD]))) == 4
    assert (
        len(
            split_steps(
                "\n\n".join(f"**{i}.** {text}" for i, text in enumerate(after[:2], 1)) + "\n\n" + "\n\n".join(after)
            )
        )
        == 2
    )


@pytest.mark.parametrize("fence", ["~~~", "```", "~~~~python", "````", "  ~~~"])
def test_fences(fence: str) -> None:
    code = f"{fence}\na = 3 + 4. Then\n\n1. b\n\n{'~~~' if '`' in fence else '```'}\n\nprint(a)\n{fence.replace('python', '')}"
    text = f"{FIRST}\n\n{code}\n\n{SECOND}"
    assert split_steps(text) == [FIRST, code.replace("\n\n", "\n").strip(), SECOND]
    assert (
        split_steps("We use $a~~~b$ here.\n\nAnd then $c~~~d$ there, as before.")[-1]
        == "And then $c~~~d$ there, as before."
    )


def test_changes_are_counted() -> None:
    changes: Counter[str] = Counter()
    split_steps(f"<think>Hm.</think>So:\n\n{FIRST}\n\nx = 3.\n\n{SECOND}", changes=changes)
    assert changes == {"thoughts dropped": 1, "fragments merged into a neighbour": 2}
    split_steps(f"<think>{FIRST}</think>{SECOND}\n\nx", think="steps", short="drop", changes=changes)
    assert changes["solutions dropped for their thoughts"] == 1
    assert changes["fragments dropped"] == 0


def test_display_stays_with_its_line() -> None:
    text = "We compute the value as\n\\[ x = 1 + 1 = 2 + 0 + 0 \\]\nand we see that the value is 2."
    assert split_steps(text, "line") == [
        "We compute the value as\n\\[ x = 1 + 1 = 2 + 0 + 0 \\]",
        "and we see that the value is 2.",
    ]


def test_think_blocks() -> None:
    solution, thoughts = f"{FIRST}\n\n{SECOND}", f"Hm, let me think about it.\n\n{THIRD}"
    for text in (
        f"<think>{thoughts}</think>{solution}",
        f"<think>\n{thoughts}\n</think>\n\n{solution}",
        f"{thoughts}\n</think>\n\n{solution}",  # the template opened the thought
        f"{solution}\n<think>\n{thoughts}",  # cut off while thinking
    ):
        assert split_steps(text) == [FIRST, SECOND]
        assert split_steps(text, think="steps") == ["Hm, let me think about it.", THIRD]
    assert split_steps(f"{FIRST}\n<think>{thoughts}</think>\n{SECOND}") == [FIRST, SECOND]
    assert split_steps(f"<think>{thoughts}") == []
    assert split_steps(solution, think="steps") == [FIRST, SECOND]


def test_fragments_go_to_a_neighbour() -> None:
    assert split_steps(f"{FIRST}\n\n\\boxed{{540}}") == [f"{FIRST}\n\\boxed{{540}}"]
    assert split_steps(f"{FIRST}\n\n\\boxed{{540}}", short="drop") == [FIRST]
    assert split_steps(f"Solution:\n\n{FIRST}\n\nSo:\n\n{SECOND}") == [f"Solution:\n{FIRST}", f"So:\n{SECOND}"]
    assert split_steps(f"{FIRST}\n\nx = 3.\n\n{SECOND}") == [f"{FIRST}\nx = 3.", SECOND]
    heading = "## How we add the two numbers"
    assert split_steps(f"{FIRST}\n\n{heading}\n\n{SECOND}") == [FIRST, f"{heading}\n{SECOND}"]
    assert split_steps("\\boxed{5}") == ["\\boxed{5}"]
    assert split_steps("a\n\nb\n\nc", min_chars=0) == ["a", "b", "c"]
    assert split_steps(" \n\n\t") == []


@pytest.mark.parametrize("bad", [{"splitter": "words"}, {"think": "keep"}, {"short": "lose"}])
def test_unknown_choices_are_errors(bad: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="choose one of"):
        split_steps(FIRST, **bad)  # type: ignore[arg-type]


def width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def check(text: str, splitter: str, min_chars: int = 20) -> None:
    steps = split_steps(text, splitter, min_chars=min_chars)  # type: ignore[arg-type]
    assert without_space("".join(steps)) == without_space(text)
    assert all(step and step == step.strip() and not re.search(r"\n\s*\n", step) for step in steps)
    assert len(steps) < 2 or all(width(step) >= min_chars for step in steps)
    assert split_steps("\n\n".join(steps), "paragraph", min_chars=min_chars) == steps


@pytest.mark.parametrize("splitter", ["auto", "paragraph", "line", "numbered", "sentence"])
def test_random_texts_lose_nothing(splitter: str) -> None:
    rng = random.Random(7)
    atoms = [
        *["\n", "\n\n", " \n\t\n", " ", " ", "\r\n", "\u2003", "\x0b"],
        *["$", "$$", "\\[", "\\]", "\\\\[2pt]", "\\begin{a}", "\\end{a}", "[asy]", "[/asy]", "```", "\\boxed{", "}"],
        *["Step 1: ", "**Step 2:** ", "1. ", "2) ", "## Step 3", "# Title", "**Bold:**", "Answer:", "-"],
        *[
            "~~~",
            "\n~~~\n",
            "````",
            "\n```python\n",
            "\u00a0",
            "...",
            "\\(",
            "\\)",
            "\\framebox{",
            "{",
            "\\",
            "\\end{b}",
        ],
        *[
            "。",
            "？」",
            "一箱一共重14公斤",
            "\n第一步：",
            "\n步骤2：",
            "\n1、",
            "\n\n2. ",
            "（二）",
            "\n答案：",
            "所以，",
        ],
        *["word", "So x is 5.", "Mr. A", "3.14", "Zoë", "\U0001f600", "e\u0301", "So", "the sum of all of them is"],
    ]
    for _ in range(1500):
        check("".join(rng.choice(atoms) for _ in range(rng.randrange(1, 30))), splitter, rng.choice([0, 1, 20, 40]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "field"),
    [("gsm8k/train.jsonl", "answer"), ("math/test.jsonl", "solution"), ("minerva_ocw/test.jsonl", "solution")],
)
def test_real_solutions_lose_nothing(file: str, field: str) -> None:
    path = DATA / file
    if not path.exists():
        pytest.skip(f"{file} is absent")
    with path.open(encoding="utf-8") as lines:
        solutions = [json.loads(line)[field] for line in lines]
    for solution in solutions:
        check(solution, "auto")
        for step in split_steps(solution):
            assert step.count("[asy]") == step.count("[/asy]")
    for solution in solutions[::10]:
        for splitter in ("paragraph", "line", "numbered", "sentence"):
            check(solution, splitter)


def test_answer_helpers() -> None:
    assert strip_calculator_marks("48/2 = <<48/2=24>>24 clips") == "48/2 = 24 clips"
    assert final_answer_step(" 72 ") == "The answer is \\boxed{72}."
