"""The report tells alignment from collapse, compares only what can be compared, and says where figures come from."""

import dataclasses
import functools
import json

import numpy as np
import pytest
import torch
from small_embeddings import make_embeddings

from stepjepa.analysis.embeddings import save
from stepjepa.analysis.intervals import Measure
from stepjepa.analysis.measurements import correct_minus_wrong, measure, target_texts, true_ranks
from stepjepa.analysis.report import (
    above,
    against_control,
    check_same_steps,
    inspect,
    is_control,
    read_differently,
    similarity_of,
    verdict,
)
from stepjepa.analysis.report_text import report_text, verdict_text
from stepjepa.commands.inspect import labels_of, main
from stepjepa.jepa.metrics import alignment, centered_margin, effective_rank
from stepjepa.records import UserError, as_json

CONTROL = {"info": {"layout": {"pairs": "consecutive"}, "model": {"random_weights": 0}}}


@functools.cache
def kind(name):
    """Sets of 24 problems whose nature is known from how they were made."""
    generator = np.random.default_rng(7)
    healthy = make_embeddings(problems=24, size=16)
    count, size = healthy.target.shape
    shared = 30 * np.ones(size, dtype=np.float32)
    noise = generator.standard_normal((count, size)).astype(np.float32)
    replaced = {
        "aligned": {},
        "narrow": {"context": healthy.context + shared, "target": healthy.target + shared},
        "collapsed": {"context": noise + shared, "target": healthy.target + shared},
        "constant": {"context": np.ones_like(noise), "target": np.ones_like(noise)},
        "unrelated": {"context": noise},
        "control": {"context": noise, **CONTROL},
        "same control": CONTROL,
    }[name]
    return dataclasses.replace(healthy, **replaced)


@functools.cache
def measured(name):
    return measure(kind(name))


# ---- figures -------------------------------------------------------------------------------------------------


def test_figures_are_those_of_the_metrics():
    embeddings, figures = kind("unrelated"), measured("unrelated")
    context, target = torch.from_numpy(embeddings.context), torch.from_numpy(embeddings.target)
    assert figures["alignment"].estimate == pytest.approx(float(alignment(context, target).mean()))
    assert figures["centered_margin"].estimate == pytest.approx(float(centered_margin(context, target).mean()))
    assert figures["effective_rank_target"].estimate == pytest.approx(float(effective_rank(target)))
    assert figures["effective_rank_target"].extra == {"most": 16}
    for name, figure in figures.items():
        assert np.isfinite([figure.estimate, figure.low, figure.high]).all(), name
        assert figure.low <= figure.estimate <= figure.high, name


def test_chance_levels_are_exact():
    """Unrelated views reach what chance says; among all steps chance is 1/P, within a problem 1/(steps − 1)."""
    embeddings, figures = kind("unrelated"), measured("unrelated")
    pairs = len(embeddings.target)
    assert figures["recall_all"].chance == pytest.approx(1 / pairs)
    assert figures["reciprocal_rank_all"].chance == pytest.approx(sum(1 / k for k in range(1, pairs + 1)) / pairs)
    sizes = np.bincount(embeddings.pair_example)[embeddings.pair_example]
    assert figures["recall_own"].chance == pytest.approx((1 / sizes).mean())
    for name in ("recall_all", "reciprocal_rank_all", "recall_own", "reciprocal_rank_own", "centered_margin"):
        assert figures[name].low <= figures[name].chance <= figures[name].high, name
    for name in ("recall_all", "recall_own"):
        assert measured("aligned")[name].low > 0.9
    assert measured("constant")["recall_all"].estimate == 0


def test_steps_of_the_same_text_do_not_compete():
    """Two problems that close alike have the same target view there; no model could tell them apart."""
    steps = [[*own[:-1], "The answer is 4."] for own in kind("aligned").steps]
    twins = dataclasses.replace(kind("aligned"), steps=steps)
    closing = twins.target_step == np.array([len(steps[e]) - 1 for e in twins.pair_example])
    target = np.where(closing[:, None], np.float32(1), twins.target)
    twins = dataclasses.replace(twins, target=target, context=target.copy())
    true = true_ranks(twins)["all"]
    assert (true.ranks == 1).all()
    assert set(true.sizes[torch.from_numpy(closing)].tolist()) == {len(target) - int(closing.sum()) + 1}
    assert target_texts(twins)[0] == steps[0][1]


def test_whole_answers_are_pairs_without_rivals_in_their_problem():
    base = kind("aligned")
    first = base.context_step == 0
    whole = dataclasses.replace(
        base,
        context=base.context[first],
        target=base.target[first],
        pair_example=base.pair_example[first],
        context_step=np.full(first.sum(), -1),
        target_step=np.full(first.sum(), -1),
    )
    assert target_texts(whole)[2] == "\n\n".join(whole.steps[2])
    figures = measure(whole)
    assert "recall_all" in figures
    assert not {"recall_own", "order_target", "operation_context", "consecutive_target"} & set(figures)
    assert {"order_state", "operation_state", "consecutive_state"} <= set(figures)


def test_probes_find_what_is_there():
    """States that spell out operation, value and position are read; random ones are not."""
    base = kind("aligned")
    operation = np.nan_to_num(base.operation.astype(float))
    columns = [operation, np.log1p(np.nan_to_num(base.value)), base.state_step.astype(float)]
    noise = 0.05 * np.random.default_rng(0).standard_normal((len(operation), 5))
    telling = measure(dataclasses.replace(base, states=np.column_stack([*columns, noise]).astype(np.float32)))
    assert telling["operation_state"].low > 0.9
    assert telling["value_state"].low > 0.8
    assert telling["order_state"].low > 0.95
    assert telling["order_state"].extra["null_high"] < 0.8
    for name in ("order_state", "order_state_without_last", "operation_state"):
        assert not above(measured("aligned")[name], measured("aligned")[name].chance + 0.1), name
    unlabelled = dataclasses.replace(base, operation=np.full(len(operation), -1), value=np.full(len(operation), np.nan))
    assert not [name for name in measure(unlabelled) if name.startswith(("operation", "value"))]


def test_correctness_is_compared_among_equal_lengths():
    """Values that follow from the length alone differ between correct and wrong only because lengths do."""
    lengths = np.repeat([3, 4, 5, 6], 40)
    correct = (np.arange(160) % 40 < np.repeat([36, 28, 12, 4], 40)).astype(int)  # short ones succeed more often
    by_length = 0.1 * lengths + 0.01 * np.random.default_rng(0).standard_normal(160)
    problems = np.arange(160)
    confounded = correct_minus_wrong(by_length, correct, lengths, problems)
    assert confounded.extra["at_any_length"] < -0.1
    assert confounded.low < 0 < confounded.high
    real = correct_minus_wrong(by_length + 0.05 * correct, correct, lengths, problems)
    assert real.low < 0.05 < real.high
    assert real.low > 0.04
    assert real.extra["correct"] + real.extra["wrong"] == 160
    assert correct_minus_wrong(by_length, np.full(160, -1), lengths, problems) is None
    assert correct_minus_wrong(np.full(160, np.nan), correct, lengths, problems) is None
    one = correct_minus_wrong(by_length, np.where(lengths == 6, correct, -1), lengths, problems)
    six = lengths == 6
    assert one.estimate == pytest.approx(
        by_length[six & (correct == 1)].mean() - by_length[six & (correct == 0)].mean()
    )
    assert correct_minus_wrong(by_length, correct, lengths, np.zeros(160)) is None


def test_solutions_of_one_problem_do_not_count_as_many():
    """Eight copies of every solution tell no more than one; where solutions of a problem are alike, intervals still cover."""
    generator = np.random.default_rng(0)
    lengths, correct = generator.integers(3, 6, 60), generator.integers(0, 2, 60)
    values, problems = generator.standard_normal(60), np.arange(60)
    single = correct_minus_wrong(values, correct, lengths, problems)
    copied = correct_minus_wrong(*(np.repeat(each, 8) for each in (values, correct, lengths, problems)))
    assert (copied.estimate, copied.low) == pytest.approx((single.estimate, single.low))
    covered = []
    for _ in range(200):  # six solutions of each of 40 problems, of which half the variance is the problem's
        problems = np.repeat(np.arange(40), 6)
        correct = (generator.random(240) < np.repeat(generator.random(40), 6)).astype(int)
        values = np.repeat(generator.standard_normal(40), 6) + generator.standard_normal(240)
        found = correct_minus_wrong(values, correct, np.full(240, 4), problems)
        covered.append(found.low < 0 < found.high)
    assert 0.9 <= np.mean(covered) <= 0.99


def test_too_few_problems_are_refused():
    with pytest.raises(UserError, match="at least 10 problems with a view pair, and there are 4"):
        measure(make_embeddings(problems=4))


def copied(embeddings, times):
    """The same examples several times, as several solutions of each question have it."""
    count = len(embeddings.questions)
    arrays = {
        "context",
        "target",
        "context_step",
        "target_step",
        "states",
        "state_step",
        "operation",
        "value",
        "correct",
    }
    changed = {name: np.concatenate([getattr(embeddings, name)] * times) for name in arrays}
    for name in ("pair_example", "state_example"):
        changed[name] = np.concatenate([getattr(embeddings, name) + copy * count for copy in range(times)])
    changed["questions"] = [
        f" {question.upper()}" * (copy > 0) or question for copy in range(times) for question in embeddings.questions
    ]
    changed["steps"] = [[f"{step} ({copy})" for step in steps] for copy in range(times) for steps in embeddings.steps]
    changed["ids"] = [f"{name}/{copy}" for copy in range(times) for name in embeddings.ids]
    return dataclasses.replace(embeddings, **changed)


def test_several_solutions_of_a_question_are_one_problem():
    """Copies hold nothing new: no interval is narrower by them, and no probe finds them on its other side."""
    one, four = make_embeddings(problems=30), copied(make_embeddings(problems=30), 4)
    assert len(four.questions) == 120
    assert four.problem.tolist() == [*range(30)] * 4
    found, again = measure(one), measure(four)
    for name in (
        "alignment",
        "operation_state",
        "order_state",
        "value_target",
        "consecutive_state",
        "uniformity_target",
    ):
        own, other = (each[name] for each in (found, again))
        assert other.high - other.low > 0.65 * (own.high - own.low), name  # half as wide if each were a problem
    assert again["operation_state"].estimate == pytest.approx(found["operation_state"].estimate, abs=0.15)
    with pytest.raises(UserError, match="at least 10 problems with a view pair, and there are 3"):
        measure(copied(make_embeddings(problems=3), 4))
    assert inspect({"four": four})["data"].startswith("30 problems (120 solutions), ")


# ---- verdicts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("aligned", "aligned"),
        ("narrow", "narrow"),
        ("collapsed", "collapsed"),
        ("constant", "collapsed"),
        ("unrelated", "not aligned"),
    ],
)
def test_verdicts_on_sets_of_known_nature(name, word):
    found = verdict(measured(name), None)
    assert found["word"] == word
    assert found["text"].startswith(f"{word}. Context views")
    assert "no random-weights control" in found["text"] or not found["found"]


def test_a_low_alignment_loss_alone_is_no_alignment():
    """The collapsed set has the better alignment loss of the two, and the other verdict."""
    assert measured("collapsed")["alignment"].estimate < measured("aligned")["alignment"].estimate
    assert verdict(measured("collapsed"), None)["word"] == "collapsed"
    assert verdict(measured("aligned"), None)["word"] == "aligned"


def test_alignment_must_go_beyond_the_control():
    beyond = against_control(kind("aligned"), kind("control"))
    assert all(above(figure, 0.5) for figure in beyond.values())
    assert verdict(measured("aligned"), beyond)["word"] == "aligned"
    nothing_more = against_control(kind("aligned"), kind("same control"))
    assert {figure.estimate for figure in nothing_more.values()} == {0}
    equal = verdict(measured("aligned"), nothing_more)
    assert equal["word"] == "not aligned"
    assert "but not beyond random weights" in equal["text"]
    narrow = verdict(measured("narrow"), nothing_more)
    assert narrow["word"] == "narrow"  # what is left still tells the steps apart: not all embeddings are alike
    assert "but not beyond random weights" in narrow["text"]


def test_figures_that_are_not_finite_are_never_above():
    assert not above(Measure(np.nan, np.nan, np.nan), -1)
    assert not above(Measure(1.0), 0)
    assert above(Measure(1.0, 0.5, 1.5), 0)
    assert not above(Measure(1.0, 0.5, 1.5), 0.5)


# ---- comparisons ---------------------------------------------------------------------------------------------


def test_similarity_of_representations():
    base = kind("aligned")
    rotation = np.linalg.qr(np.random.default_rng(1).standard_normal((16, 16)))[0].astype(np.float32)
    turned = dataclasses.replace(base, context=3 * base.context @ rotation, states=base.states + 5)
    found = similarity_of(base, turned)
    for view in ("context", "target", "state"):
        assert found[view].estimate == pytest.approx(1, abs=1e-5)
    other = similarity_of(base, kind("unrelated"))["context"]
    assert other.low < 0 < other.high


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"ids": [f"x{i}" for i in range(24)]}, "questions"),
        ({"steps": [["a"] * 5] * 24}, "solutions"),
        ({"context_step": np.zeros(72, dtype=int)}, "view pairs"),
        ({"state_step": np.zeros(96, dtype=int)}, "steps"),
    ],
)
def test_files_of_other_steps_are_not_compared(change, what):
    other = dataclasses.replace(kind("aligned"), **change)
    with pytest.raises(UserError, match=rf"B: other {what} than A, .*embed the same data"):
        check_same_steps({"A": kind("aligned"), "B": other})


@pytest.fixture(scope="module")
def report():
    return inspect({"random": kind("control"), "good": kind("aligned"), "bad": kind("collapsed")})


def test_controls_stand_last_and_serve_the_others(report):
    assert [(file["label"], file["control"]) for file in report["files"]] == [
        ("good", False),
        ("bad", False),
        ("random", True),
    ]
    assert is_control(kind("control"))
    assert not is_control(kind("aligned"))
    assert [file["control_label"] for file in report["files"]] == ["random", "random", None]
    assert [file["verdict"]["word"] for file in report["files"]] == ["aligned", "collapsed", "control"]
    assert [entry["files"] for entry in report["cka"]] == [["good", "bad"], ["good", "random"], ["bad", "random"]]


def test_a_control_of_another_architecture_is_none():
    info = {"model": {"random_weights": 0, "layers": 12}}
    other = dataclasses.replace(kind("control"), info=info)
    report = inspect({"good": kind("aligned"), "random": other})
    assert report["files"][0]["against_control"] is None
    assert "no random-weights control" in report["files"][0]["verdict"]["text"]


def read_as(name, **layout):
    embeddings = kind(name)
    return dataclasses.replace(embeddings, info=embeddings.info | {"layout": {"pairs": "consecutive", **layout}})


def test_what_was_read_differently_is_named_and_no_control():
    last, mean = ({"isolation": "step", "pooling": pooling} for pooling in ("last", "mean"))
    files = {"plain": read_as("aligned", **last), "aligned": read_as("narrow", **mean)}
    report = inspect(files | {"random": read_as("control", **mean)})
    assert report["read_differently"] == ["pooling: last in plain; mean in aligned, random"]
    assert [file["control_label"] for file in report["files"]] == [None, "random", None]
    for text in (report_text(as_json(report)), verdict_text(as_json(report))):
        assert "Not read alike" in text
        assert "pooling: last in plain; mean in aligned, random" in " ".join(text.split())
    trained = {"lbd": 0.1, "jepa_loss_type": "cosine", "head": "linear"}
    model = {"as_trained": True, "training": trained}
    headed = dataclasses.replace(
        read_as("aligned", **last), info={"layout": last, "model": model | {"random_weights": None}}
    )
    bare = dataclasses.replace(
        headed, info={"layout": last, "model": model | {"random_weights": None, "training": None}}
    )
    assert read_differently({"headed": headed, "bare": bare}) == ["head: linear in headed; none in bare"]
    for name, one, other in (("targets", "own", "frozen"), ("dtype", "float32", "bfloat16")):
        own, others = (
            dataclasses.replace(bare, info={"layout": last, "model": {"random_weights": None, name: value}})
            for value in (one, other)
        )
        assert read_differently({"own": own, "others": others}) == [f"{name}: {one} in own; {other} in others"]
    random = dataclasses.replace(bare, info={"layout": last, "model": {"random_weights": 0, "targets": "own"}})
    frozen = dataclasses.replace(bare, info={"layout": last, "model": {"random_weights": None, "targets": "frozen"}})
    assert read_differently({"frozen": frozen, "random": random}) == []  # random weights have no others
    alike = inspect({"plain": read_as("aligned", **last), "random": read_as("control", **last)})
    assert alike["read_differently"] == []
    assert "Not read alike" not in report_text(as_json(alike))
    assert alike["files"][0]["control_label"] == "random"


# ---- the command ---------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / name for name in ("good.safetensors", "bad.npz", "random.npz")]
    for path, name in zip(paths, ("aligned", "collapsed", "control"), strict=True):
        layers = {
            f"{view}_layers": {2: getattr(kind(name), array)}
            for view, array in (("context", "context"), ("target", "target"), ("state", "states"))
        }
        save(dataclasses.replace(kind(name), **layers), path)
    return [str(path) for path in paths]


def test_the_command_prints_and_records(files, tmp_path, capsys):
    record = tmp_path / "r.json"
    assert main([*files, "--json", str(record)]) == 0
    text = capsys.readouterr().out.split("written:")[0]
    assert max(map(len, text.splitlines())) <= 120
    assert "24 problems, 72 view pairs (pairs consecutive, isolation step), 96 steps" in text
    for line in ("good: aligned.", "bad: collapsed.", "random: the control", "Rule: FOUND", "random weights"):
        assert line in text
    entry = json.loads(record.read_text())
    shown = entry["files"][0]["measures"]["centered_margin"]
    assert f"{shown['estimate']:.2f} [{shown['low']:.2f}, {shown['high']:.2f}]" in text
    assert entry["configuration"]["seed"] == 0
    assert str(tmp_path) not in record.read_text()


@pytest.mark.slow
def test_the_command_draws(files, tmp_path):
    folder = tmp_path / "plots"
    assert main([files[0], "--plots", str(folder)]) == 0
    assert sorted(path.name for path in folder.iterdir()) == [
        "map.json",
        "map_correct.png",
        "map_operation.png",
        "map_step.png",
        "map_view.png",
        "similarity_1.json",
        "similarity_1.png",
        "spectrum.json",
        "spectrum.png",
    ]
    assert len(json.loads((folder / "map.json").read_text())["records"]) == 1


def test_the_same_seed_gives_the_same_report(report):
    again = inspect({"random": kind("control"), "good": kind("aligned"), "bad": kind("collapsed")})
    assert report_text(as_json(again)) == report_text(as_json(report))


def test_the_verdict_comes_first_and_details_on_request(report, files, capsys):
    short, whole = verdict_text(as_json(report)), report_text(as_json(report))
    first = as_json(report)["files"][0]
    for text in (short, whole):
        assert text.startswith(f"{first['label']}: {first['verdict']['text']}"[:80])
        assert max(map(len, text.splitlines())) <= 120
    assert len(short.splitlines()) < 30 < len(whole.splitlines())
    assert "MRR among all steps" in short
    assert main([files[0], "--details"]) == 0
    assert "order of the steps" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["context", "target", "states"])
def test_vectors_that_are_not_finite_are_refused(tmp_path, name):
    """Weights that have diverged: no figure of theirs means anything."""
    embeddings = make_embeddings(problems=24, size=16)
    getattr(embeddings, name)[3, 2] = np.nan
    getattr(embeddings, name)[5, 0] = np.inf
    save(embeddings, tmp_path / "bad.npz")
    with pytest.raises(UserError, match=rf"bad.npz: 2 of \d+ vectors of {name} hold NaN or infinity"):
        main([str(tmp_path / "bad.npz")])


def test_many_files_take_several_tables(report):
    files = [{**file, "label": f"model {i}"} for i, file in enumerate(as_json(report)["files"] * 2)]
    text = report_text({**as_json(report), "files": files})
    assert max(map(len, text.splitlines())) <= 120
    assert text.count("view pairs: does the context view") == 2
    assert all(f"model {i}" in text for i in range(6))


def test_one_layer_and_fewer_examples(files, tmp_path):
    record = tmp_path / "r.json"
    assert main([files[0], "--layer", "2", "--examples", "12", "--json", str(record)]) == 0
    entry = json.loads(record.read_text())
    assert entry["data"].startswith("12 problems")
    assert entry["configuration"]["layer"] == 2
    with pytest.raises(UserError, match=r"layer 1 is not in these embeddings \(stored: 2\)"):
        main([files[0], "--layer", "1"])


def test_mistakes_are_named(files, tmp_path):
    with pytest.raises(UserError, match="named twice"):
        main([files[0], files[0]])
    other = tmp_path / "other.npz"
    save(make_embeddings(problems=24, size=16, ids=[f"x{i}" for i in range(24)]), other)
    with pytest.raises(UserError, match="other: other questions than good"):
        main([files[0], str(other)])
    earlier = tmp_path / "r.json"
    earlier.write_text("earlier")
    with pytest.raises(UserError, match="no such embedding file"):
        main([files[0], str(tmp_path / "absent.npz"), "--json", str(earlier)])
    assert earlier.read_text() == "earlier"
    with pytest.raises(UserError, match="which is read"):
        main([files[0], "--json", files[0]])


def test_labels():
    assert labels_of(["runs/a/one.npz", "two.safetensors"]) == ["one", "two"]
    assert labels_of(["a/e.npz", "b/e.npz"]) == ["a/e.npz", "b/e.npz"]
