"""`stepjepa compare`: from result files to arms, tests, words and a forest plot."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from stepjepa.commands.compare import main
from stepjepa.evaluation import statistics
from stepjepa.evaluation.arms import _told_apart, split_word
from stepjepa.evaluation.compare import compare, format_report, sentence
from stepjepa.evaluation.options import EvaluateOptions
from stepjepa.evaluation.results import question_ids, read_results, summary_path, write_results
from stepjepa.evaluation.run import evaluate
from stepjepa.records import UserError, write_json
from stepjepa.visualization.comparison import accuracies, forest

TRAINING = {"lbd": 0.1, "jepa_loss_type": "cosine", "pairs": "first", "isolation": "step", "seed": 1}
SETTINGS = {
    "system_prompt": "train",
    "max_new_tokens": 512,
    "samples": 1,
    "temperature": 0.0,
    "top_p": 1.0,
    "dtype": "float32",
}


def write_verdicts(path, correct, training=None, settings=None, model="runs/a", sources=("gsm8k",), data="ab" * 32):
    """A result file as `stepjepa evaluate` writes it, with these verdicts; returns its name."""
    questions = [{"question": f"What is {i} + {i}?", "answer": str(2 * i)} for i in range(len(correct))]
    rows = [
        {
            "id": name,
            "index": i,
            "question": each["question"],
            "source": sources[i % len(sources)],
            "prompt": "",
            "response": each["answer"] if right else "no idea",
            "extracted": each["answer"] if right else None,
            "gold": each["answer"],
            "correct": bool(right),
            "strict_correct": False,
            "flexible_correct": bool(right),
            "tokens": 3,
            "stopped": True,
            "truncated": False,
        }
        for i, (name, each, right) in enumerate(zip(question_ids(questions), questions, correct, strict=True))
    ]
    summary = {
        "configuration": {"model_path": model, **SETTINGS, **(settings or {})},
        "generation": {"system_prompt": "Solve."},
        "test_files": [{"name": "test.jsonl", "sha256": data}],
        "training": training,
        "environment": {"packages": {}},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_results(rows, summary, path)
    return str(path)


@pytest.fixture
def grid(tmp_path):
    """Files of two arms with three seeds and of the untrained model; arm λ = 0.1 solves more."""
    random = np.random.default_rng(0)
    difficulty = random.normal(size=200)
    files = {}
    for lbd, seed in itertools.product((0, 0.1), (1, 2, 3)):
        right = difficulty + random.normal(size=200) < (1.0 if lbd else 0.0)
        files[lbd, seed] = write_verdicts(
            tmp_path / f"l{lbd}s{seed}.jsonl", right, {**TRAINING, "lbd": lbd, "seed": seed}
        )
    files["untrained"] = write_verdicts(tmp_path / "u.jsonl", difficulty < -2, model="builtin")
    return files


# ---- files → arms --------------------------------------------------------------------------------------------


def named(grid, *keys):
    """`NAME=FILE` for files of the grid: the untrained model, or (λ, seed)."""
    return [f"untrained={grid[key]}" if key == "untrained" else f"lbd={key[0]}={grid[key]}" for key in keys]


def test_seeds_and_baseline_come_from_the_training_records(grid):
    record = compare(named(grid, "untrained", *((lbd, seed) for lbd in (0.1, 0) for seed in (3, 1, 2))))
    assert [arm["name"] for arm in record["arms"]] == ["untrained", "lbd=0.1", "lbd=0"]
    assert (record["baseline"], record["baseline_because"]) == ("lbd=0", "the only arm with λ = 0")
    assert record["pairing"] == "runs paired by training seed"
    assert [[run["seed"] for run in arm["runs"]] for arm in record["arms"]] == [[None], [1, 2, 3], [1, 2, 3]]
    assert record["arms"][1]["settings"] == {"lbd": "0.1"}
    assert [run["file"] for run in record["arms"][1]["runs"]] == ["l0.1s1.jsonl", "l0.1s2.jsonl", "l0.1s3.jsonl"]


def test_a_bare_file_is_the_arm_of_its_name(grid, tmp_path):
    assert [arm["name"] for arm in compare([grid["untrained"], grid[0, 1], "x=" + grid[0.1, 1]])["arms"]] == [
        "u",
        "l0s1",
        "x",
    ]
    seeds = [
        write_verdicts(tmp_path / str(seed) / "plain.jsonl", np.arange(200) % 3 == seed, {**TRAINING, "seed": seed})
        for seed in (1, 2)
    ]
    record = compare([*seeds, *named(grid, (0.1, 1), (0.1, 2))])
    assert [(arm["name"], len(arm["runs"])) for arm in record["arms"]] == [("plain", 2), ("lbd=0.1", 2)]


def test_names_given_on_the_command_line(grid, tmp_path):
    assert split_word("ours=" + grid[0.1, 1]) == ("ours", tmp_path / "l0.1s1.jsonl")
    odd = tmp_path / "lbd=0.1.jsonl"
    write_verdicts(odd, np.ones(200), TRAINING)
    assert split_word(str(odd)) == (None, odd)
    assert split_word(f"lbd=0.1={odd}") == ("lbd=0.1", odd)
    assert split_word(f"{tmp_path}/lbd=7.jsonl") == (None, tmp_path / "lbd=7.jsonl")  # missing, and named in full
    record = compare(["a=" + grid[0.1, 1], "b=" + grid[0, 1], "a=" + grid[0.1, 2], "b=" + grid[0, 2]], baseline="a")
    assert [(arm["name"], len(arm["runs"])) for arm in record["arms"]] == [("a", 2), ("b", 2)]
    assert record["baseline"] == "a"


def test_seeds_pair_up_by_number_not_by_order(grid):
    """Each run answers as its baseline of the same seed, so every paired difference is exactly 0."""
    pairs = [("new=" + grid[0, seed], "old=" + grid[0, seed]) for seed in (1, 2, 3)]
    record = compare([*(old for _, old in pairs), *(new for new, _ in reversed(pairs))])
    found = record["arms"][1]["difference"]
    assert (found["gained"], found["lost"], found["value"], found["p"]) == (0, 0, 0.0, 1.0)


def test_unknown_or_unshared_seeds_pair_up_in_order_and_it_is_said(tmp_path):
    def files(seeds, name):
        return [
            f"{name}="
            + write_verdicts(tmp_path / f"{name}{i}.jsonl", np.arange(40) % (i + 2) == 0, {**TRAINING, "seed": seed})
            for i, seed in enumerate(seeds)
        ]

    assert "no training seed is shared" in compare(files((1, 2), "a") + files((3, 4), "b"))["pairing"]
    assert "not all training seeds are known" in compare(files((1, 2), "a") + files((None, None), "b"))["pairing"]
    with pytest.raises(UserError, match=r"different training seeds \(a: 1, 2; b: 2, 3\)"):
        compare(files((1, 2), "a") + files((2, 3), "b"))
    with pytest.raises(UserError, match=r"different training seeds \(a: 1, 2; b: 1\)"):
        compare(files((1, 2), "a") + files((1,), "b"))


@pytest.mark.parametrize(
    ("choose", "message"),
    [
        (lambda g: ["a=" + g[0, 1], "a=" + g[0, 2]], r"one arm only \(a\)"),
        (
            lambda g: [g[0, 1], g[0, 1], g[0.1, 1]],
            "l0s1.jsonl and .*l0s1.jsonl are both of arm l0s1 and have the training seed 1",
        ),
        (
            lambda g: ["a=" + g["untrained"], "a=" + g["untrained"], g[0.1, 1]],
            "both of arm a and have the same answers",
        ),
        (lambda g: [g[0, 1], g[0.1, 1], "--baseline", "x"], "--baseline x: the arms are l0s1, l0.1s1"),
        (lambda g: [g[0, 1], "gone.jsonl"], "gone.jsonl: no such result file"),
        (lambda g: [g[0, 1], g[0.1, 1], "--draws", "10"], "--draws 10: at least 100"),
        (lambda g: [g[0, 1], g[0.1, 1], "--plot", "forest.bmp"], "forest.bmp"),
        (lambda g: [g[0, 1], g[0.1, 1], "--json", g[0, 1]], "would overwrite a result file"),
        (lambda g: [g[0, 1], g[0.1, 1], "--plot", str(summary_path(g[0, 1]))], "would overwrite a result file"),
    ],
)
def test_mistakes_get_one_message_and_leave_earlier_files(grid, tmp_path, choose, message):
    record, plot = tmp_path / "out.json", tmp_path / "out.png"
    record.write_text("earlier")
    plot.write_text("earlier")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UserError, match=message):
        main(["--json", str(record), "--plot", str(plot), *choose(grid)])
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_different_questions_name_both_files_and_an_example(grid, tmp_path):
    other = write_verdicts(tmp_path / "short.jsonl", np.ones(150), {**TRAINING, "seed": 9})
    with pytest.raises(UserError) as error:
        compare(["a=" + grid[0, 1], "b=" + other])
    assert str(error.value) == (
        f"{grid[0, 1]} and {other} hold different questions: 50 of 200 in the first are not in the second, 0 of 150 in "
        "the second are not in the first; for example 'What is 150 + 150?'. Evaluate both on the same test files"
    )


def test_an_unfinished_file_or_a_row_without_verdict_is_refused(grid, tmp_path):
    unfinished = write_verdicts(tmp_path / "half.jsonl", np.ones(200), TRAINING)
    summary = json.loads(summary_path(unfinished).read_text())
    write_json({**summary, "complete": False}, summary_path(unfinished))
    with pytest.raises(UserError, match=r"half\.jsonl: unfinished"):
        compare([grid[0, 1], unfinished])
    rows = read_results(grid[0.1, 1]).rows
    blank = tmp_path / "blank.jsonl"
    write_results([{**row, "strict_correct": None} for row in rows], {**summary, "training": None}, blank)
    assert compare([grid[0, 1], str(blank)])["questions"] == 200
    with pytest.raises(UserError, match=r"blank\.jsonl: question \w+ has no strict_correct"):
        compare([grid[0, 1], str(blank)], metric="strict_correct")
    for broken in ({"training": [1]}, {"environment": {}}, {"configuration": {}}, {"generation": []}):
        write_results(rows, {**summary, **broken}, blank)
        with pytest.raises(UserError, match=r"blank\.jsonl: its summary is not one of `stepjepa evaluate`"):
            compare([grid[0, 1], str(blank)])
    write_results(rows, {"training": TRAINING}, blank)
    with pytest.raises(UserError, match="its summary lacks configuration, generation, test_files, environment"):
        compare([grid[0, 1], str(blank)])


def test_different_evaluations_are_said(grid, tmp_path):
    def unlike(**changed):
        other = write_verdicts(tmp_path / "o.jsonl", np.ones(200), TRAINING, **changed)
        return [text for text in compare([*named(grid, (0, 1)), f"lbd=0.1={other}"])["warnings"] if "alike" in text]

    assert unlike(settings={"batch_size": 3, "device": "cuda", "seed": 7}) == []
    said = "the files were not evaluated alike: "
    assert unlike(settings={"max_new_tokens": 64}) == [said + "max_new_tokens: 512 for lbd=0; 64 for lbd=0.1"]
    assert unlike(settings={"system_prompt": "file"}) == [
        said + "system prompt: Solve. for lbd=0; that of each test row for lbd=0.1"
    ]
    assert "test files (SHA-256)" in unlike(data="cd" * 32)[0]


def test_settings_that_differ_late_are_told_apart():
    start = "Please solve the problem step by step, and take your time with every one of them, "
    told = _told_apart([f"{start}but briefly.", f"{start}and at length."])
    assert told[0] != told[1]
    assert told[0].endswith("but briefly.")
    assert _told_apart(["4", "8"]) == ["4", "8"]


def test_files_of_the_evaluation_itself(tmp_path):
    """What `stepjepa evaluate` writes is what is read here."""
    for limit in (4, 8):
        options = EvaluateOptions(
            "builtin",
            ["builtin"],
            str(tmp_path / f"{limit}" / "r.jsonl"),
            problems=6,
            max_new_tokens=limit,
            device="cpu",
        )
        evaluate(options, progress=False)
    short, long = (tmp_path / limit / "r.jsonl" for limit in ("4", "8"))
    with pytest.raises(UserError, match="both of arm r and have no training seed"):
        compare([str(short), str(long)])
    record = compare([f"short={short}", f"long={long}"])
    assert (record["baseline"], record["questions"]) == ("short", 6)
    assert record["warnings"] == ["the files were not evaluated alike: max_new_tokens: 4 for short; 8 for long"]


def test_runs_of_an_arm_that_differ_in_more_than_the_seed_are_said(grid):
    mixed = ["x=" + grid[0, 1], "x=" + grid[0.1, 2], "y=" + grid[0, 2], "y=" + grid[0, 1]]
    assert "the runs of x differ in more than the training seed: lbd" in compare(mixed)["warnings"]


# ---- arms → figures ------------------------------------------------------------------------------------------


def verdicts(files):
    """Correctness `[S, Q]` read straight from the files, questions in the order of the test data."""
    rows = [[json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines()] for file in files]
    return np.array([[row["correct"] for row in sorted(each, key=lambda row: row["index"])] for each in rows])


def test_one_seed_is_judged_by_mcnemar(grid):
    record = compare([grid[0, 1], grid[0.1, 1], grid["untrained"]])
    base, arm, untrained = (verdicts([grid[key]])[0] for key in ((0, 1), (0.1, 1), "untrained"))
    found = record["arms"][1]["difference"]
    gained, lost = int((arm & ~base).sum()), int((base & ~arm).sum())
    assert (found["gained"], found["lost"], found["test"]) == (gained, lost, "exact McNemar")
    assert found["value"] == pytest.approx((gained - lost) / 200)
    assert found["p"] == pytest.approx(stats.binomtest(gained, gained + lost).pvalue)
    worst = stats.binomtest(int((untrained & ~base).sum()), int((untrained != base).sum())).pvalue
    assert record["arms"][2]["difference"]["p_holm"] == pytest.approx(min(2 * worst, max(2 * worst, found["p"])))
    interval = stats.binomtest(int(arm.sum()), 200).proportion_ci(method="wilson")
    assert (record["arms"][1]["low"], record["arms"][1]["high"]) == pytest.approx((interval.low, interval.high))
    assert any("one training run an arm" in text for text in record["warnings"])


def test_several_seeds_are_crossed_with_questions(grid):
    record = compare(named(grid, "untrained", *((lbd, seed) for lbd in (0, 0.1) for seed in (1, 2, 3))))
    untrained, base, arm = (
        verdicts(files) for files in ([grid["untrained"]], *([grid[lbd, s] for s in (1, 2, 3)] for lbd in (0, 0.1)))
    )
    for each, expected in ((record["arms"][2], arm), (record["arms"][0], untrained)):
        found, estimate = each["difference"], statistics.difference(expected, base)
        assert (found["p"], found["low"], found["high"]) == (estimate.p, estimate.low, estimate.high)
        assert found["value"] == pytest.approx(expected.mean() - base.mean())
        assert found["detectable"] == statistics.detectable_difference(estimate)
        assert found["bootstrap"]["low"] < found["value"] < found["bootstrap"]["high"]
        assert found["test"] == "t over seeds and questions"
    assert any("untrained is one model" in text for text in record["warnings"])
    assert record["arms"][0]["high"] == pytest.approx(statistics.wilson(int(untrained.sum()), 200)[1])


def test_two_fixed_models_are_one_pair_beside_arms_of_several_seeds(grid, tmp_path):
    other = write_verdicts(tmp_path / "v.jsonl", verdicts([grid["untrained"]])[0] | (np.arange(200) < 9), model="other")
    words = [*named(grid, "untrained"), f"other={other}", *("trained=" + grid[0.1, seed] for seed in (1, 2, 3))]
    record = compare(words, baseline="untrained")
    assert [arm["name"] for arm in record["arms"]] == ["untrained", "other", "trained"]
    assert [arm["difference"]["test"] for arm in record["arms"][1:]] == ["exact McNemar", "t over seeds and questions"]


def test_sources_are_broken_down(tmp_path):
    right = np.arange(60) % 2 == 0
    files = [
        f"lbd={lbd}="
        + write_verdicts(
            tmp_path / f"{lbd}.jsonl", right if lbd else ~right, {**TRAINING, "lbd": lbd}, sources=("even", "odd")
        )
        for lbd in (0, 0.1)
    ]
    record = compare(files)
    assert {name: part["questions"] for name, part in record["by_source"].items()} == {"even": 30, "odd": 30}
    assert record["by_source"]["even"]["arms"]["lbd=0.1"]["difference"]["value"] == 1
    assert record["by_source"]["odd"]["arms"]["lbd=0.1"]["accuracy"] == 0
    assert record["arms"][1]["difference"]["value"] == 0


def test_too_few_questions_to_find_anything(tmp_path):
    files = [
        write_verdicts(tmp_path / f"{lbd}.jsonl", np.full(4, lbd > 0), {**TRAINING, "lbd": lbd}) for lbd in (0, 0.1)
    ]
    record = compare(files)
    assert record["arms"][1]["difference"]["detectable"] is None
    assert "with so few questions no difference could have been found" in " ".join(format_report(record).split())


# ---- words, files, figure ------------------------------------------------------------------------------------


def test_the_command_prints_and_writes_everything(grid, tmp_path, capsys):
    files = named(grid, "untrained", *((lbd, seed) for lbd in (0, 0.1) for seed in (1, 2, 3)))
    out = tmp_path / "new" / "out.json"
    assert main([*files, "--json", str(out), "--plot", str(tmp_path / "f.pdf"), "--draws", "500"]) == 0
    printed = capsys.readouterr().out
    record = json.loads(out.read_text(), parse_constant=pytest.fail)  # no NaN
    assert printed.startswith(format_report(record))
    assert str(tmp_path) not in out.read_text()
    assert (tmp_path / "f.pdf").read_bytes().startswith(b"%PDF")
    assert record["environment"]["packages"]["stepjepa"]
    assert record["configuration"] == {"baseline": None, "metric": "correct", "draws": 500, "seed": 0}
    row = next(line for line in printed.splitlines() if line.startswith("lbd=0.1 "))
    found = record["arms"][2]["difference"]
    assert f"+{100 * found['value']:.1f} (+{100 * found['low']:.1f} to +{100 * found['high']:.1f})" in row
    assert f"{found['gained']}/{found['lost']}" in row
    assert "lbd=0.1: better than lbd=0 by" in printed
    assert "untrained: worse than lbd=0 by" in printed
    assert compare(files, draws=500) == record


def test_words_for_what_is_not_shown(grid):
    record = compare(["a=" + grid[0, 1], "b=" + grid[0, 2], "c=" + grid[0, 3]], baseline="a")
    found = record["arms"][1]["difference"]
    said = sentence(record["arms"][1], "a", 2)
    assert said.startswith("b: no difference to a can be read from these data (p = ")
    assert said.endswith(
        f"a true difference under {100 * found['detectable']:.1f} points is missed more than one time in five."
    )
    alone = {**record["arms"][1], "difference": {**found, "p": 0.03, "p_holm": 0.06}}
    assert "p = 0.030 by itself, 0.060 corrected for 2 arms" in sentence(alone, "a", 2)


@pytest.mark.parametrize("size", ["notebook", "paper"])
def test_forest_shows_what_the_record_says(grid, size):
    record = compare(named(grid, "untrained", *((lbd, seed) for lbd in (0, 0.1) for seed in (1, 2, 3))), draws=200)
    figure = forest(record, size=size)
    left, right = figure.axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["untrained", "λ = 0\n3 seeds", "λ = 0.1\n3 seeds"]
    dots = [line.get_xdata().tolist() for line in left.lines if line.get_markersize() == 3]
    assert dots == [[100 * run["accuracy"] for run in arm["runs"]] for arm in record["arms"][1:]]
    squares = [line.get_xdata()[0] for line in right.lines if line.get_marker() == "s"]
    assert squares == [100 * record["arms"][i]["difference"]["value"] for i in (0, 2)]
    spans = [bar.get_x() for bar in right.patches]
    assert spans == [-100 * record["arms"][i]["difference"]["detectable"] for i in (0, 2)]
    edges = figure.get_window_extent()
    labels = [axes.xaxis.label for axes in (left, right)]
    for artist in (*left.get_yticklabels(), *labels, *right.texts, *figure.legends):
        box = artist.get_window_extent()
        assert edges.x0 <= box.x0 < box.x1 <= edges.x1, artist  # nothing is cut off
        assert edges.y0 <= box.y0 < box.y1 <= edges.y1, artist
    assert labels[0].get_window_extent().x1 < labels[1].get_window_extent().x0


@pytest.mark.parametrize("size", ["notebook", "column"])
def test_accuracies_stand_in_figures_beside_their_intervals(size):
    arms = {"before": {"accuracy": 0.085, "low": 0.05, "high": 0.13}, "lbd0": {"accuracy": 1, "low": 0.98, "high": 1}}
    figure = accuracies(arms, size=size)
    [axes] = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["before", "λ = 0"]
    assert [line.get_xdata().tolist() for line in axes.lines] == [[5, 13], [8.5], [98, 100], [100]]
    assert [text.get_text() for text in axes.texts] == ["8.5%", "100.0%"]
    edges = figure.get_window_extent()
    for artist in (*axes.get_yticklabels(), *axes.texts, axes.xaxis.label):
        box = artist.get_window_extent()
        assert edges.x0 <= box.x0 < box.x1 <= edges.x1, artist
