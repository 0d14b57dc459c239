"""Parity with lm-evaluation-harness: its GSM8K readings, and its own evaluation of a checkpoint of ours."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest
import yaml
from real_data import DATA

from stepjepa.data.sources import read_examples
from stepjepa.evaluation.answers import answers_match, exact_match, extract_answer, flexible_extract, strict_match
from stepjepa.evaluation.lm_eval_task import load_rows, score_response
from stepjepa.records import UserError, write_jsonl

lm_eval = pytest.importorskip("lm_eval")

BUILTIN = Path(str(files("stepjepa.models") / "builtin"))
TASKS = Path(str(files("stepjepa.evaluation") / "lm_eval_tasks"))
GSM8K = DATA / "gsm8k" / "test.jsonl"
FILTERS = ("strict-match", "flexible-extract")


def gsm8k_solution(gold: str) -> str:
    """A reference as GSM8K has it: the harness compares with what follows the mark."""
    return f"It is 2 * 3 = <<2*3=6>>6, and $1,000.\n#### {gold}"


def read_by_the_harness(texts: list[str], solutions: list[str]) -> list[dict[str, tuple[str, bool]]]:
    """`{filter: (what it read, whether that is right)}` for each text, by the harness's own GSM8K task.

    Only the task's data are replaced: filters, metric and their settings come from the harness's YAML file.
    """
    from datasets import Dataset
    from lm_eval.api.instance import Instance
    from lm_eval.api.task import ConfigurableTask

    config = yaml.safe_load((Path(lm_eval.__file__).parent / "tasks" / "gsm8k" / "gsm8k.yaml").read_text())
    rows = Dataset.from_list([{"question": "?", "answer": solution} for solution in solutions])
    config["custom_dataset"] = lambda **_: {"train": rows, "test": rows}
    task = ConfigurableTask(config=config)
    instances = [
        Instance("generate_until", row, ("", {}), 0, metadata=("gsm8k", number, 1), resps=[text])
        for number, (row, text) in enumerate(zip(rows, texts, strict=True))
    ]
    task._instances = instances
    task.apply_filters()
    return [
        {
            name: (
                instance.filtered_resps[name],
                bool(task.process_results(instance.doc, [instance.filtered_resps[name]])["exact_match"]),
            )
            for name in FILTERS
        }
        for instance in instances
    ]


def read_by_us(text: str, gold: str) -> dict[str, tuple[str, bool]]:
    found = {"strict-match": strict_match(text), "flexible-extract": flexible_extract(text)}
    return {name: ("[invalid]" if each is None else each, exact_match(each, gold)) for name, each in found.items()}


LITERALS = [
    "",
    " ",
    "no number",
    "72",
    "72.",
    "72..",
    "$72",
    "$72.00",
    "1,450,000",
    "1,450,000.",
    "-3",
    "- 3",
    "−3",
    "−31",
    "--3",
    ".5",
    "0.5",
    "5",
    "5.",
    "5...",
    "...",
    "$",
    "$$",
    "$$72$$",
    "$.",
    "3/4",
    "\\frac{3}{4}",
    "\\boxed{72}",
    "\\boxed{7}.",
    "\\boxed{\\$18}",
    "\\boxed{1{,}234}",
    "\\boxed{18\\%}",
    "\\boxed{x}",
    "####72",
    "#### 72",
    "####  72",
    "#### 72.",
    "#### $72",
    "#### 72 and #### 73",
    "x\n#### 72\nI checked 3 ways.",
    "#### -5",
    "#### - 5",
    "#### x",
    "##### 72",
    "#### 1,450,000",
    "#### 72,",
    "#### .",
    "#### ,",
    "#### 7.0",
    "#### 72\n",
    "3-5 days",
    "10-4",
    "2 + 2 = 4, 5",
    "1e5",
    "٧",
    "Question: 5",
    "a\n\nb 12\n\nc",
    "12\u00a0000",
    "12 000",
    "５",
    "#### ５",
    "A 7 B",
    "so ANSWER IS 7X",
    "\x0012",
    "12\x00",
]
GOLDS = ["72", "7", "5", "-5", "-3", "1450000", "1,450,000", "18", "0.5", "7.0"]


def assert_parity(texts: list[str], golds: list[str], solutions: list[str]) -> list[dict[str, tuple[str, bool]]]:
    theirs = read_by_the_harness(texts, solutions)
    for text, gold, solution, their in zip(texts, golds, solutions, theirs, strict=True):
        assert read_by_us(text, gold) == their, (text, gold)
        assert read_by_us(text, solution) == their, (text, solution)  # the whole solution may be given as well
    return theirs


def test_hard_texts_are_read_as_the_harness_reads_them() -> None:
    pairs = [(text, gold) for text in LITERALS for gold in GOLDS]
    texts, golds = (list(each) for each in zip(*pairs, strict=True))
    theirs = assert_parity(texts, golds, [gsm8k_solution(gold) for gold in golds])
    for name in FILTERS:  # both outcomes are seen, or the test would show nothing
        assert {right for reading in theirs for right in [reading[name][1]]} == {True, False}


def written_variants(steps: list[str], gold: str) -> list[str]:
    *work, last = steps
    text = "\n\n".join(work)
    return [
        f"{text}\n\n{last}",
        f"{text}\n\nThe answer is {gold}.",
        f"{text}\n#### {gold}",
        f"{text}\n#### {gold}\nDone in 2 ways.",
        f"{text}\n#### ${gold}.00",
        f"#### {gold}\n{text}",
        text,
    ]


def test_solutions_are_read_as_the_harness_reads_them() -> None:
    """Built-in solutions in seven spellings: boxed as trained, in a sentence, marked, priced, marked first, cut off."""
    examples, _ = read_examples("builtin", split="test", count=60, seed=1)
    texts, golds = [], []
    for example in examples:
        variants = written_variants(example["steps"], example["answer"])
        texts += variants
        golds += [example["answer"]] * len(variants)
    theirs = assert_parity(texts, golds, [gsm8k_solution(gold) for gold in golds])
    ours = [answers_match(extract_answer(text), gold) for text, gold in zip(texts, golds, strict=True)]
    right = {name: [reading[name][1] for reading in theirs] for name in FILTERS} | {"ours": ours}
    by_variant = {name: [sum(each[variant::7]) for variant in range(6)] for name, each in right.items()}
    assert by_variant == {
        #                   boxed  sentence  marked  marked, 2  priced  marked first
        "strict-match": [0, 0, 60, 60, 0, 60],
        "flexible-extract": [60, 60, 60, 0, 0, 60],
        "ours": [60, 60, 60, 60, 60, 60],
    }


@pytest.mark.slow
def test_all_gsm8k_gold_solutions_are_read_as_the_harness_reads_them() -> None:
    if not GSM8K.exists():
        pytest.skip("gsm8k is absent")
    import json

    rows = [json.loads(line) for line in GSM8K.read_text().splitlines()]
    solutions = [row["answer"] for row in rows]
    examples, _ = read_examples(GSM8K, strict=True)
    golds = [example["answer"] for example in examples]
    boxed = [example["messages"][-1]["content"] for example in examples]
    shifted = [*solutions[1:], solutions[0]]
    theirs = assert_parity(solutions + boxed + shifted, golds * 3, solutions * 3)
    raw, ours_boxed, neighbours = (theirs[start : start + 1319] for start in (0, 1319, 2638))
    assert all(right for reading in raw for _, right in reading.values())
    assert all(reading["flexible-extract"][1] for reading in ours_boxed)
    assert not any(reading["strict-match"][1] for reading in ours_boxed)
    same = [gold == following for gold, following in zip(golds, [*golds[1:], golds[0]], strict=True)]
    assert [reading["strict-match"][1] for reading in neighbours] == same


# Every kind of text on which the readings part: which of them count it as right, and why.
DISAGREEMENTS = [
    # text, gold, strict, flexible, ours, why
    ("The answer is \\boxed{72}.", "72", False, True, True, "strict knows no box: 0 for models that were taught one"),
    ("#### 72", "72", True, True, True, "all agree on GSM8K's own form"),
    ("It is 72.", "72", False, True, True, "strict needs the mark"),
    ("####72", "72", False, True, True, "strict needs exactly one space"),
    ("#### $72", "72", False, True, True, "strict's number may not begin with a currency sign"),
    ("#### 7\nNo: #### 72", "72", False, True, True, "strict takes the first mark, the others the last"),
    ("#### 72\nNo: #### 7", "72", True, False, False, "the same, where the first was right"),
    ("#### 72\nI checked 3 ways.", "72", True, False, True, "flexible takes the last number, after the mark or not"),
    ("\\boxed{72} in 3 ways", "72", False, False, True, "the same with a box"),
    ("\\boxed{7}, not 72", "72", False, True, False, "the same, where the box is wrong"),
    ("<think>\\boxed{72}", "72", False, True, False, "ours takes no answer from a thought"),
    ("It is 72...", "72", False, False, True, "flexible reads `72...` and removes one dot"),
    ("72 it is...", "72", False, False, True, "flexible reads the three dots, as a number of at least two characters"),
    ("\\boxed{72.00}", "72", False, False, True, "exact_match compares texts: zeros count"),
    ("#### 72.0", "72", False, False, True, "the same under the mark"),
    ("\\boxed{\\$18}", "18", False, True, True, "both drop a currency sign"),
    ("\\boxed{1{,}234}", "1234", False, False, True, "flexible reads `234` after the LaTeX separator `{,}`"),
    ("\\boxed{\\frac{1}{2}}", "0.5", False, False, True, "flexible reads 2"),
    ("It is 1/2.", "0.5", False, False, True, "flexible reads 2"),
    ("\\boxed{\\frac{1}{2}}", "2", False, True, False, "flexible reads 2, rightly by accident"),
    ("It is 3-5", "-5", False, True, False, "ours takes a hyphen after a digit for a range or a difference"),
    ("It is −5", "-5", False, False, True, "flexible overlooks the typographic minus sign"),
    ("#### - 5", "-5", False, False, True, "a space after the sign"),
    ("\\boxed{5 \\text{ million}}", "5", False, True, False, "flexible overlooks magnitude words"),
    ("\\boxed{5 \\text{ million}}", "5000000", False, False, True, "the same"),
    ("\\boxed{2+3}", "5", False, False, True, "only ours knows arithmetic"),
    ("\\boxed{x = 5}", "5", False, True, True, "a bare gold answer is matched by an equation for it"),
    ("\\boxed{5, 7}", "7", False, True, False, "ours: two answers are not one of them"),
    ("\\boxed{12,7}", "127", False, True, False, "exact_match removes every comma: a list becomes a number"),
    ("\\boxed{5\\%}", "0.05", False, False, True, "a percentage equals its value"),
    ("I give up", "72", False, False, False, "no answer"),
]


def test_every_disagreement_is_as_explained() -> None:
    texts, golds = [row[0] for row in DISAGREEMENTS], [row[1] for row in DISAGREEMENTS]
    theirs = assert_parity(texts, golds, [gsm8k_solution(gold) for gold in golds])
    found = [
        (text, gold, *(their[name][1] for name in FILTERS), answers_match(extract_answer(text), gold))
        for text, gold, their in zip(texts, golds, theirs, strict=True)
    ]
    assert found == [row[:5] for row in DISAGREEMENTS]


# -------- a checkpoint evaluated by the harness --------


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    """Twelve built-in problems, every other one with a system message."""
    examples, _ = read_examples("builtin", split="test", count=12, seed=1)
    for example in examples[::2]:
        example["messages"].insert(0, {"role": "system", "content": "Solve it {{ step by step }}."})
    path = tmp_path / "problems.jsonl"
    write_jsonl(examples, path)
    return path


def test_the_harness_gives_the_same_answers_as_our_evaluation(problems: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval.tasks import TaskManager
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from stepjepa.evaluation.scoring import generate_answers

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    theirs = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(BUILTIN), "dtype": "float32"},
        tasks=["stepjepa"],
        task_manager=TaskManager(
            include_path=str(TASKS), include_defaults=False, metadata={"test_file": str(problems)}
        ),
        apply_chat_template=True,
        gen_kwargs={"max_gen_toks": 200},
        device="cpu",
        batch_size=6,
        bootstrap_iters=0,
    )
    samples = sorted(theirs["samples"]["stepjepa"], key=lambda sample: sample["doc_id"])

    examples, _ = read_examples(problems, strict=True)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(BUILTIN), AutoTokenizer.from_pretrained(BUILTIN)
    ours = generate_answers(model, tokenizer, examples, batch_size=6, max_new_tokens=200, progress=False)

    assert [sample["arguments"][0][0] for sample in samples] == [each["prompt"] for each in ours]
    assert [sample["resps"][0][0] for sample in samples] == [each["response"] for each in ours]
    assert any("\n\n" in each["response"] for each in ours)
    assert [sample["accuracy"] == 1 for sample in samples] == [each["correct"] for each in ours]
    flexible = [exact_match(flexible_extract(each["response"]), each["gold"]) for each in ours]
    assert [sample["flexible_extract"] == 1 for sample in samples] == flexible
    assert theirs["results"]["stepjepa"]["accuracy,none"] == sum(each["correct"] for each in ours) / 12
    assert theirs["results"]["stepjepa"]["strict_match,none"] == 0


def test_responses_are_scored_three_ways() -> None:
    row = {"answer": "72"}
    assert score_response(row, ["\\boxed{72}"]) == {"accuracy": 1, "strict_match": 0, "flexible_extract": 1}
    assert score_response(row, ["#### 72\nin 2 ways"]) == {"accuracy": 1, "strict_match": 1, "flexible_extract": 0}


def test_rows_of_the_task(problems: Path, tmp_path: Path) -> None:
    rows = load_rows(str(problems), pretrained="a model")["test"]
    assert rows.column_names == ["question", "system", "answer"]
    assert rows["system"][:2] == ["Solve it {{ step by step }}.", ""]
    assert len(load_rows(count=3)["test"]) == 3

    examples, _ = read_examples(problems, strict=True)
    turns = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]
    for name, change, message in (
        ("turns", {"messages": turns + examples[1]["messages"]}, "row 2 has earlier turns"),
        ("gold", {"answer": None}, "row 2 has no answer"),
    ):
        path = tmp_path / f"{name}.jsonl"
        write_jsonl([examples[0], examples[1] | change], path)
        with pytest.raises(UserError, match=message):
            load_rows(str(path))
