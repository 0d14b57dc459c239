"""`stepjepa score` on the built-in model: rows, records and a figure; what cannot be asked is refused in a sentence."""

import json

import pytest
import torch

from stepjepa.commands.evaluate import main as evaluate
from stepjepa.commands.score import main
from stepjepa.data.mistakes import MISTAKES
from stepjepa.data.sources import read_examples
from stepjepa.models.loading import load_model
from stepjepa.records import UserError, write_jsonl


def test_rows_of_given_solutions(tmp_path, capsys):
    source, output = tmp_path / "solutions.jsonl", tmp_path / "scores.jsonl"
    examples, _ = read_examples("builtin", split="test", count=4, seed=1, mistake="foreign")
    examples[0]["candidates"] = ["So it is 9.", examples[0]["steps"][-1]]
    write_jsonl(examples, source)
    words = ["--test_file", str(source), "--output_file", str(output)]
    assert main(words) == 0
    assert "4 solutions" in capsys.readouterr().out
    raw = [json.loads(line) for line in output.read_text().splitlines()]
    for row, example in zip(raw, examples, strict=True):
        for name in ("question", "steps", "wrong_step", "mistake", "right_step"):
            assert row[name] == example[name]
        assert len(row["energies"]) == len(row["log_probabilities"]) == len(row["tokens"]) == len(row["steps"])
        assert all(0 <= energy <= 2 for energy in row["energies"])
    assert len(raw[0]["candidate_energies"]) == 2
    assert main([*words, "--scale_file", "builtin", "--scale_problems", "5"]) == 0
    scaled = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["log_probabilities"] for row in scaled] == [row["log_probabilities"] for row in raw]
    assert scaled[0]["energies"] != raw[0]["energies"]
    assert main([*words, "--random_weights", "0"]) == 0
    assert json.loads(output.read_text().splitlines()[0])["energies"] != raw[0]["energies"]


def test_detection_writes_record_and_figure(tmp_path, capsys):
    record, figure = tmp_path / "detect.json", tmp_path / "detect.png"
    words = ["--detect", "--problems", "40", "--scale_problems", "8", "--label", "untrained"]
    assert main([*words, "--json", str(record), "--plot_file", str(figure)]) == 0
    shown = capsys.readouterr().out
    assert "predicted at the end of the step before" in shown
    assert "random weights" in shown
    written = json.loads(record.read_text())
    assert list(written["kinds"]) == list(MISTAKES)
    assert (written["label"], written["configuration"]["context"]) == ("untrained", "step_end")
    assert set(written["retrieval"]) == {"scaled", "raw", "random, scaled", "random, raw"}
    for entry in written["kinds"].values():
        length = entry["scores"]["length"]["controlled"]
        assert (length["estimate"], length["low"], length["high"]) == (0.5, 0.5, 0.5)
        assert entry["scores"]["log_probability"]["controlled"]["estimate"] > 0.7
    assert figure.stat().st_size > 10_000


def test_best_of_n_on_the_same_samples(tmp_path, capsys):
    paths = {name: tmp_path / f"{name}.jsonl" for name in ("sampled", "greedy")}
    data = ["--model_name", "builtin", "--test_file", "builtin", "--problems", "5", "--max_new_tokens", "90"]
    assert evaluate([*data, "--samples", "3", "--output_file", str(paths["sampled"])]) == 0
    assert evaluate([*data, "--output_file", str(paths["greedy"])]) == 0
    record = tmp_path / "choice.json"
    words = ["--results", str(paths["sampled"]), "--greedy", str(paths["greedy"]), "--problems", "5"]
    assert main([*words, "--scale_file", "builtin", "--scale_problems", "5", "--json", str(record)]) == 0
    assert "highest mean log-probability" in capsys.readouterr().out
    written = json.loads(record.read_text())
    assert (written["questions"], written["samples"]) == (5, 3)
    assert list(written["arms"]) == ["energy", "greedy", "first", "majority", "log_probability", "any"]
    best = written["arms"]["any"]["accuracy"]
    assert all(arm["accuracy"] <= best for name, arm in written["arms"].items() if name != "greedy")
    assert main(["--results", str(paths["sampled"]), "--problems", "4"]) == 0
    shown = capsys.readouterr().out
    assert "1 of the 5 questions of" in shown
    assert "--test_file builtin --split test --problems 4 --problem_seed 1 --output_file greedy.jsonl" in shown
    with pytest.raises(UserError, match="results of other questions"):
        main(["--results", str(paths["sampled"]), "--problems", "3", "--problem_seed", "9"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "say what to do"),
        (["--detect", "--results", "a.jsonl"], "it takes no --test_file and no --results"),
        (["--output_file", "a.jsonl", "--greedy", "b.jsonl"], "--greedy is compared with the samples"),
        (["--detect", "--output_file", "a.jsonl"], "--output_file takes energies of solutions"),
        (["--output_file", "a.jsonl", "--record_file", "b.json"], "--record_file takes the figures of --detect"),
        (["--output_file", "a.jsonl", "--plot_file", "b.png"], "--plot_file draws the figure of --detect"),
        (["--detect", "--plot_file", "b.gif"], r"--plot_file b\.gif: a figure ends in \.pdf, \.svg, \.png"),
        (
            ["--output_file", "a.jsonl", "--split", "dev"],
            "unknown split 'dev' of built-in problems: choose one of train",
        ),
    ],
)
def test_what_cannot_be_asked(words, message):
    with pytest.raises(UserError, match=message):
        main(words)


def test_nothing_that_is_read_is_written_over(tmp_path):
    source = tmp_path / "rows.jsonl"
    write_jsonl(read_examples("builtin", count=2)[0], source)
    earlier, name = source.read_text(), str(source)
    for words in (
        ["--test_file", name, "--output_file", str(tmp_path / "." / "rows.jsonl")],
        ["--test_file", str(tmp_path / "*.jsonl"), "--output_file", name],
        ["--output_file", name, "--scale_file", name],
        ["--results", name, "--json", name],
        ["--results", str(tmp_path / "r.jsonl"), "--greedy", name, "--json", name],
    ):
        with pytest.raises(UserError, match=r"rows\.jsonl would be written over .*, which is read"):
            main(words)
        assert source.read_text() == earlier
    with pytest.raises(UserError, match=r"x\.png: two outputs would be written to it"):
        main(["--detect", "--json", str(tmp_path / "x.png"), "--plot_file", str(tmp_path / "x.png")])


def test_solutions_with_a_wrong_step_are_scored_too(tmp_path):
    source, output = tmp_path / "labelled.jsonl", tmp_path / "scores.jsonl"
    row = {"problem": "3 pens and 4?", "steps": ["There are 3 pens and 4.", "3 + 4 = 8 pens are there."]}
    write_jsonl([row | {"label": label} for label in (1, -1)], source)
    assert main(["--test_file", str(source), "--output_file", str(output)]) == 0
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [entry.get("wrong_step") for entry in rows] == [1, None]
    assert rows[0]["energies"] == rows[1]["energies"]


def test_the_scale_is_of_problems_that_are_not_scored(tmp_path, capsys):
    words = ["--split", "train", "--problems", "4", "--output_file", str(tmp_path / "s.jsonl")]
    assert main([*words, "--scale_file", "builtin", "--scale_problems", "4"]) == 0  # four others
    assert "are of problems that are scored" not in capsys.readouterr().out
    examples, _ = read_examples("builtin", split="train", count=4, seed=1)
    others, _ = read_examples("builtin", split="train", count=2, seed=5)
    write_jsonl([*examples, *others], tmp_path / "mixed.jsonl")
    assert main([*words, "--scale_file", str(tmp_path / "mixed.jsonl")]) == 0
    assert "4 of 6 solutions are of problems that are scored" in capsys.readouterr().out
    write_jsonl([{"question": "One?", "solution": "It is 1."}], tmp_path / "short.jsonl")
    with pytest.raises(UserError, match="no solution in it has a second step"):
        main([*words, "--scale_file", str(tmp_path / "short.jsonl")])


def test_views_that_are_no_numbers_are_no_energies(tmp_path):
    model, tokenizer = load_model()
    with torch.no_grad():
        model.get_input_embeddings().weight.fill_(float("inf"))
    model.save_pretrained(tmp_path / "broken")
    tokenizer.save_pretrained(tmp_path / "broken")
    words = ["--model_name", str(tmp_path / "broken"), "--problems", "2", "--output_file", str(tmp_path / "s.jsonl")]
    with pytest.raises(UserError, match=r"context views hold NaN or infinity|not finite"):
        main(words)
    assert not (tmp_path / "s.jsonl").exists()
