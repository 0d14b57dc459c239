"""`stepjepa boundaries` and `prepare --splitter learned`: from solutions whose steps are known to cuts of those of a line."""

import json

import pytest

from stepjepa.commands.boundaries import BoundariesOptions, main, measured_methods
from stepjepa.commands.prepare import main as prepare
from stepjepa.data.sources import read_examples
from stepjepa.records import UserError, write_jsonl


def test_what_is_learned_cuts_solutions_without_separators(tmp_path, capsys):
    model, record = tmp_path / "separator.safetensors", tmp_path / "measured.json"
    words = ["--source", "builtin", "--training_solutions", "10", "--test_solutions", "4", "--problems", "20"]
    words += ["--method", "separator", "--methods", "uniform", "--output_file", str(model), "--json", str(record)]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "F1, ±1 token" in shown
    assert f"--boundary_model {model}" in shown
    written = json.loads(record.read_text())
    assert written["sources"]["builtin"]["test"] == 4
    found = written["results"]["builtin"]
    assert list(found) == ["sentence", "uniform", "separator"]
    assert found["sentence"]["none"]["f1"] == [1, 1, 1]  # the built-in steps are sentences
    assert found["separator"]["builtin"]["f1"][0] > 0.9 > found["uniform"]["builtin"]["f1"][0]
    assert written["levels"]["builtin"]["uniform"] > 5
    assert written["configuration"]["training_solutions"] == 10

    examples, _ = read_examples("builtin", split="test", count=6, seed=1)
    rows = [{"question": e["question"], "solution": " ".join(e["steps"])} for e in examples]
    write_jsonl(rows, tmp_path / "lines.jsonl")
    output = tmp_path / "prepared.jsonl"
    words = ["--source", str(tmp_path / "lines.jsonl"), "--output_file", str(output), "--splitter", "learned"]
    assert prepare([*words, "--boundary_model", str(model)]) == 0
    prepared = [json.loads(line) for line in output.read_text().splitlines()]
    right = sum(row["steps"] == example["steps"] for row, example in zip(prepared, examples, strict=True))
    assert right >= 5
    assert all(" ".join(row["steps"]) == " ".join(e["steps"]) for row, e in zip(prepared, examples, strict=True))


def test_what_cannot_be_asked_is_refused(tmp_path):
    with pytest.raises(UserError, match="give both, or neither"):
        prepare(["--source", "builtin", "--output_file", str(tmp_path / "a"), "--splitter", "learned"])
    with pytest.raises(UserError, match="give both, or neither"):
        prepare(["--source", "builtin", "--output_file", str(tmp_path / "a"), "--boundary_model", "b"])
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_jsonl([{"question": "q", "solution": "s"}], tmp_path / folder / "train.jsonl")
    with pytest.raises(UserError, match="the same name"):
        main(["--source", str(tmp_path / "a" / "train.jsonl"), str(tmp_path / "b" / "train.jsonl")])
    with pytest.raises(UserError, match="10 to train and 4 to test on are asked for"):
        main(["--source", "builtin", "--problems", "5", "--training_solutions", "10", "--test_solutions", "4"])
    both = ["--output_file", str(tmp_path / "m.safetensors"), "--json", str(tmp_path / "m.safetensors")]
    with pytest.raises(UserError, match="two outputs would be written to it"):
        main(["--source", "builtin", *both])


def test_change_points_are_left_out_where_they_are_not_installed(monkeypatch, capsys):
    monkeypatch.setattr("stepjepa.commands.boundaries.find_spec", lambda _name: None)
    options = {"source": ["builtin"]}
    assert "change_points" not in measured_methods(BoundariesOptions(**options))
    assert "change points are left out: they need ruptures" in capsys.readouterr().out
    assert measured_methods(BoundariesOptions(methods=["head"], **options)) == ["head"]
    for asked in ({"methods": ["change_points"]}, {"method": "change_points"}):
        with pytest.raises(UserError, match="leave change_points out of --methods"):
            measured_methods(BoundariesOptions(**asked, **options))
