"""The page about runs: it stands alone, obeys no text that it shows, and says what the records say."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from browser import artifacts, chromium, needs_browser
from small_embeddings import make_embeddings

from stepjepa.analysis.embeddings import save
from stepjepa.analysis.report import inspect
from stepjepa.commands.report import main
from stepjepa.data.sources import make_example
from stepjepa.environment import environment
from stepjepa.evaluation.compare import compare
from stepjepa.evaluation.results import figures, question_ids, read_results, write_results
from stepjepa.experiments.run_report import CONTROL, Gathered, RunFacts, _check_is_of, gather
from stepjepa.jepa.pairs import BranchLayout
from stepjepa.models.checkpoint import locate_model
from stepjepa.models.loading import load_model
from stepjepa.records import UserError, as_json, write_jsonl
from stepjepa.visualization.page import Html, element, folded, page, shown, table
from stepjepa.visualization.run_page import run_page
from stepjepa.visualization.stills import Area, still_picture

HOSTILE = "<script>document.title='obeyed'</script><img src=x onerror=\"document.title='obeyed'\">'\"</td>&amp;\x1b[2J"
NAME = "<b onclick=alert(1)>&\"'"
PROBLEMS = 12
SETTINGS = {
    "system_prompt": "train",
    "max_new_tokens": 9,
    "samples": 1,
    "temperature": 0,
    "top_p": 1,
    "dtype": "float32",
}


def result_file(path, right, text="so it is {}", lbd=0.1):
    questions = [{"question": f"{text} What is {i}?", "answer": str(i)} for i in range(PROBLEMS)]
    rows = [
        {
            "id": name,
            "index": i,
            "source": text if i % 2 else "other",
            "question": asked["question"],
            "prompt": "",
            "response": f"{text}\n\nThe answer is {i}.",
            "extracted": text if i >= right else str(i),
            "gold": asked["answer"],
            "correct": i < right,
            "strict": None,
            "strict_correct": False,
            "flexible": None,
            "flexible_correct": i < right,
            "tokens": 5,
            "stopped": True,
            "truncated": False,
        }
        for i, (name, asked) in enumerate(zip(question_ids(questions), questions, strict=True))
    ]
    summary = figures(rows) | {
        "configuration": {"model_path": "runs/a", **SETTINGS},
        "generation": {"system_prompt": None},
        "test_files": [{"name": text, "sha256": "ab"}],
        "training": {"lbd": lbd, "seed": 1},
        "environment": {"packages": {}},
    }
    write_results(rows, summary, path)
    return str(path)


def record(lbd=0.1, text="builtin"):
    log = [{"step": i, "lm_loss": 1.0 / i, "jepa_loss": 0.5, "target_spread": 0.1} for i in range(1, 5)]
    moment = {"eval_lm_loss": 0.25, "accuracy": 0.5, "accuracy_interval": [0.25, 0.75], "accuracy_problems": 8}
    return {
        "settings": {"model_name": text, "train_file": [text], "lbd": lbd, "note": text, "lora": False},
        "system_prompt": None,
        "environment": environment(),
        "before": moment,
        "after": moment | {"accuracy": 0.625},
        "optimizer_steps": 1234,
        "train_seconds": 5.0,
        "log_history": log,
    }


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """Two runs in which every text is hostile."""
    folder = tmp_path_factory.mktemp("results")
    _, tokenizer = load_model()
    steps = [[f"{HOSTILE} {k} of {i}" for k in range(3 + i % 3)] for i in range(PROBLEMS)]
    runs, words = [], []
    for name, right, seed in ((NAME, 9, 0), ("plain", 4, 1)):
        views = make_embeddings(PROBLEMS, seed=seed, steps=steps, questions=[f"{HOSTILE} {i}" for i in range(PROBLEMS)])
        file = result_file(folder / f"{seed}.jsonl", right, HOSTILE, lbd=0.1 * seed)
        words.append(f"{name}={file}")
        example = make_example(HOSTILE, ["One <b>step</b>.", "Two."], "1", "test", None)
        facts = RunFacts(name, record(text=HOSTILE), read_results(file), views, tokenizer, BranchLayout(), example)
        runs.append(facts)
    control = make_embeddings(PROBLEMS, seed=2, steps=steps, questions=[f"{HOSTILE} {i}" for i in range(PROBLEMS)])
    control.info = {**control.info, "model": {"random_weights": 0}}
    report = as_json(inspect({run.name: run.embeddings for run in runs} | {CONTROL: control}))
    return Gathered(runs, report, as_json(compare(words)), [HOSTILE], environment())


class Reader(HTMLParser):
    """Every tag with its attributes, and all text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_no_text_is_obeyed_and_nothing_is_loaded(hostile):
    html = run_page(hostile)
    read = Reader(html)
    names = {tag for tag, _ in read.tags}
    assert not names & {"script", "iframe", "link", "object", "embed", "form", "base", "svg"}
    for tag, attributes in read.tags:
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        assert attributes.get("src", "data:image/svg+xml").startswith("data:image/svg+xml")
        assert attributes.get("href", "#").startswith("#")
    assert "\x1b" not in html
    assert read.text.count(HOSTILE.replace("\x1b", "\\x1b")) > 30  # it is shown, as it is
    assert (
        "meta",
        {
            "http-equiv": "Content-Security-Policy",
            "content": "default-src 'none'; img-src data:; style-src 'unsafe-inline'",
        },
    ) in read.tags
    assert not re.search(r"url\(|@import", html)


def test_the_page_says_what_the_records_say(hostile):
    clean = replace(hostile, runs=[replace(hostile.runs[1], record=record())], comparison=None)
    clean.report = {**hostile.report, "files": hostile.report["files"][1:]}
    read = Reader(run_page(clean, examples=2))
    for words in (
        "33.3%",  # 4 of 12 right
        "of 12 questions right (95%: 13.8%–60.9%)",
        "1,234",
        "50.0% (25.0%–75.0%)",
        "62.5% (25.0%–75.0%)",
        "4 right; 2 of them:",
        "8 wrong; 2 of them:",
        hostile.report["files"][1]["verdict"]["text"],
    ):
        assert words in read.text, words
    titles = [attributes["title"] for tag, attributes in read.tags if tag == "area"]
    assert any(" sees " in title for title in titles)
    assert sum(title.startswith("Problem ") for title in titles) == 2 * len(hostile.runs[1].embeddings.context)
    assert "Did it help?" not in read.text
    several = Reader(run_page(hostile, examples=1)).text
    assert "Did it help?" in several
    assert "5 of 12 questions; 1 of them:" in several  # 9 against 4 right


def test_html_is_made_of_text():
    assert shown("a<b") == "a&lt;b"
    assert shown(element("b", "<")) == "<b>&lt;</b>"
    assert element("a", "x", href='"><script>') == '<a href="&quot;&gt;&lt;script&gt;">x</a>'
    assert "<td>&lt;i&gt;</td>" in table(["<"], [["<i>"]])
    assert folded("more", Html("<p>x</p>")) == "<details><summary>more</summary><p>x</p></details>"
    assert "<title>a&amp;b</title>" in page("a&b", [("one", Html("x"))], Html(""))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two folders as `stepjepa train` leaves them."""
    folder = tmp_path_factory.mktemp("runs")
    model, tokenizer = load_model()
    for name, lbd in (("lbd0", 0.0), ("lbd0.1", 0.1)):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        (folder / name / "record.json").write_text(json.dumps(as_json(record(lbd))))
    return folder


def test_a_run_is_measured_and_written(runs, tmp_path, capsys):
    output = tmp_path / "report.html"
    assert main([str(runs / "lbd0.1"), "--output_file", str(output), "--problems", "12"]) == 0
    assert "written" in capsys.readouterr().out
    read = Reader(output.read_text())
    assert "of 12 questions right" in read.text
    assert "random weights" in read.text
    assert sum(tag == "img" for tag, _ in read.tags) == 6


def test_files_take_the_place_of_measuring(runs, tmp_path, monkeypatch):
    monkeypatch.setattr("stepjepa.experiments.run_report.evaluate", None)
    monkeypatch.setattr("stepjepa.experiments.run_report.encode_examples", None)
    files = [result_file(tmp_path / f"{i}.jsonl", 3 + i, lbd=0.1 * i) for i in (0, 1)]
    for i in (0, 1):
        save(make_embeddings(PROBLEMS, seed=i), tmp_path / f"{i}.npz")
    found = gather(
        [str(runs / "lbd0"), str(runs / "lbd0.1")],
        results=files,
        embeddings=[str(tmp_path / f"{i}.npz") for i in (0, 1)],
    )
    assert [run.name for run in found.runs] == ["lbd0", "lbd0.1"]
    assert [arm["name"] for arm in found.comparison["arms"]] == ["lbd0", "lbd0.1"]
    assert [file["label"] for file in found.report["files"]] == ["lbd0", "lbd0.1"]
    with pytest.raises(UserError, match="--results: 1 files for 2 runs"):
        gather([str(runs / "lbd0"), str(runs / "lbd0.1")], results=files[:1])


def test_what_is_no_run_is_refused(runs, tmp_path):
    with pytest.raises(UserError, match=r"no record\.json"):
        gather(["builtin"])
    few = tmp_path / "few.jsonl"
    write_jsonl([{"question": f"{n // 2} + 1?", "answer": f"One more.\n#### {n // 2 + 1}"} for n in range(14)], few)
    with pytest.raises(UserError, match=r"few\.jsonl: 7 questions, and intervals .* --test_file"):
        gather([str(runs / "lbd0")], test_file=[str(few)])
    with pytest.raises(UserError, match="named twice"):
        gather([str(runs / "lbd0")] * 2)
    with pytest.raises(UserError, match=r"ends in \.html"):
        main([str(runs / "lbd0"), "--output_file", str(tmp_path / "report.txt")])


@needs_browser
@pytest.mark.slow
def test_the_page_opens_from_disk_without_a_network(hostile, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(run_page(hostile), encoding="utf-8")
    with chromium(1440, 900) as watched:
        page = watched.page
        page.context.set_offline(True)
        page.goto(path.as_uri())
        images = page.locator("img").evaluate_all("all => all.map(i => i.complete && i.naturalWidth > 100)")
        assert images
        assert all(images)
        assert "obeyed" not in page.title()
        assert not watched.errors
        assert not watched.refused
        inks = []
        for theme in ("light", "dark"):
            page.emulate_media(color_scheme=theme)
            inks.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
            page.screenshot(path=artifacts(tmp_path) / f"report-{theme}.png", full_page=True)
        assert inks == ["rgb(255, 255, 255)", "rgb(20, 24, 29)"]
        assert page.evaluate("document.documentElement.scrollWidth") <= 1440
        assert page.locator("details tr").first.is_visible() is False
        page.emulate_media(media="print", color_scheme="dark")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert page.locator("details tr").first.is_visible()
        assert page.pdf()[:4] == b"%PDF"


def test_files_of_another_run_are_told_by_its_weights():
    """They are given in the order of the runs, and two in the wrong order would stand under each other's names."""
    model = locate_model("builtin")
    _check_is_of(model, "mine.jsonl", json.loads(json.dumps(model.description())))
    _check_is_of(model, "old.jsonl", None)
    other = model.description() | {"name": "other", "weights": dict.fromkeys(model.weights(), "0")}
    with pytest.raises(UserError, match=r"swapped.jsonl was made by other weights than those in builtin \(by other\)"):
        _check_is_of(model, "swapped.jsonl", other)


def test_control_characters_of_a_still_are_written_out():
    area = Area("rect", (0, 0, 1, 1), "alt", "a\u202eb\x1bc\x00d <i>")
    html = still_picture("kind", (1, 1), [], [area], "summary \u202e", "how")
    assert not set(html) & {"\u202e", "\x1b", "\x00"}
    assert "&lt;i&gt;" in html
