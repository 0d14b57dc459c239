"""Every objective takes its steps in turns with plain fine-tuning; frozen targets come from their file or anew."""

import json

import pytest

from stepjepa.commands.bench import main
from stepjepa.experiments import benchmark_objectives
from stepjepa.experiments.benchmark_objectives import LINES, WITH_PAIRS, WITH_THEIR_OWN, bench_objectives
from stepjepa.experiments.options import BenchOptions, cost_of
from stepjepa.records import UserError, write_jsonl
from stepjepa.training import targets
from stepjepa.training.configurations import options_of, read_configuration
from stepjepa.training.options import JEPAOptions

SMALL = {"hidden_size": 16, "layers": 1, "heads": 2, "vocab_size": 300, "batch_size": 3, "warmup": 0}


def small(rounds, **options):
    return BenchOptions(rounds=rounds, **SMALL, **options)


def test_every_objective_is_timed_on_the_same_rounds(tmp_path, capsys):
    words = [f"--{name}={value}" for name, value in SMALL.items()]
    assert main(["--objectives", *words, "--rounds", "1", "--output_file", str(tmp_path / "bench.json")]) == 0
    shown, record = capsys.readouterr().out, json.loads((tmp_path / "bench.json").read_text())
    assert list(record["arms"]) == list(LINES)
    assert len(LINES) == 1 + 2 * len(WITH_PAIRS) + len(WITH_THEIR_OWN)
    for name, arm in record["arms"].items():
        assert len(record["seconds"][name]) == 1
        assert arm["ratio"]["median"] == pytest.approx(record["seconds"][name][0] / record["seconds"]["plain"][0])
        assert name in shown
    costs = {name: arm["cost"] for name, arm in record["arms"].items()}
    assert costs["plain"] == "plain"
    assert costs["cosine; first pairs"] == cost_of({})  # the classic objective: all options at their defaults
    options = read_configuration("frozen", options_of(JEPAOptions))
    assert costs["configuration frozen, recomputed"] == cost_of(options)
    assert [name for name, cost in costs.items() if cost == cost_of(options)] == ["configuration frozen, recomputed"]
    assert record["arms"]["configuration frozen, from its file"]["options"].items() <= options.items()
    assert costs["InfoNCE; all pairs"] == cost_of({"jepa_loss_type": "infonce", "pairs": "consecutive"})


def test_targets_from_the_file_are_not_computed_in_a_step(monkeypatch):
    calls = []
    encode = targets.encode_targets
    monkeypatch.setattr(targets, "encode_targets", lambda *args, **more: (calls.append(1), encode(*args, **more))[1])
    counts = []
    step = benchmark_objectives.Line.step

    def counted(line, number):
        before = len(calls)
        seconds = step(line, number)
        counts.append((line.name, len(calls) - before))
        return seconds

    monkeypatch.setattr(benchmark_objectives.Line, "step", counted)
    names = ["frozen target, recomputed; first pairs", "frozen target, from its file; first pairs"]
    record = bench_objectives(small(2), names)
    assert list(record["arms"]) == ["plain", *names]
    assert sorted(set(counts)) == [(names[1], 0), (names[0], 2), ("plain", 0)]  # two microbatches
    assert len(counts) == 6


def test_an_objective_that_is_not_there_is_named():
    with pytest.raises(UserError, match="--lines 'hinge': the objectives are cosine, InfoNCE"):
        bench_objectives(small(1), ["hinge"])


def test_too_few_rows_and_predictors_are_refused(tmp_path):
    """A step of this race takes two microbatches, and each line has predictor tokens of its own."""
    rows = [
        {
            "question": f"{n} + 1 + 1?",
            "solution": f"First {n} + 1 = {n + 1}, as said.\n\nAnd then {n + 1} + 1 = {n + 2}, the end.",
            "answer": str(n + 2),
        }
        for n in range(3)
    ]
    write_jsonl(rows, tmp_path / "three.jsonl")
    with pytest.raises(UserError, match="a step takes 6 rows, and there are 3"):
        bench_objectives(small(1, train_file=str(tmp_path / "three.jsonl")), ["cosine"])
    with pytest.raises(UserError, match="--predictors"):
        bench_objectives(small(1, predictors=3), ["cosine"])
