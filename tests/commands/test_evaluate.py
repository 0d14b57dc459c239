"""`stepjepa evaluate`: from test files to result rows and a summary, through stops, mistakes and earlier results."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from real_data import DATA
from safetensors.torch import load_file
from small_tokenizers import llama3_style
from transformers import LlamaConfig, LlamaForCausalLM

from stepjepa.commands.evaluate import main
from stepjepa.data.examples import DEFAULT_SYSTEM_PROMPT
from stepjepa.data.sources import read_examples
from stepjepa.evaluation.results import question_ids, read_results
from stepjepa.models.checkpoint import BUILTIN_PATH, locate_model
from stepjepa.models.loading import load_model, load_tokenizer, load_weights
from stepjepa.records import UserError

SHORT = ("--problems", "6", "--max_new_tokens", "40", "--batch_size", "2")


def evaluate(output: Path, *words: Any, model: Any = "builtin", test: Any = "builtin") -> int:
    words = ("--model_path", model, "--test_file", test, "--output_file", output, *words)
    return main([str(word) for word in words])


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("finished") / "r.jsonl"
    assert evaluate(output, *SHORT) == 0
    return output


# ---- what is written -----------------------------------------------------------------------------------------


def test_one_row_a_question_and_a_summary_that_tells_it_all(finished):
    results = read_results(finished)
    examples, _ = read_examples("builtin", split="test", count=6, seed=1)
    assert [row["id"] for row in results.rows] == question_ids(examples)
    assert [row["question"] for row in results.rows] == [example["question"] for example in examples]
    assert [row["gold"] for row in results.rows] == [example["answer"] for example in examples]
    assert set(results.rows[0]) == {
        "id",
        "index",
        "question",
        "source",
        "prompt",
        "response",
        "extracted",
        "gold",
        "correct",
        "strict",
        "strict_correct",
        "flexible",
        "flexible_correct",
        "truncated",
        "stopped",
        "tokens",
    }
    summary = results.summary
    assert summary["n"] == summary["by_source"]["builtin"]["n"] == 6
    assert summary["accuracy"]["ours"]["correct"] == sum(row["correct"] for row in results.rows)
    weights = hashlib.sha256((BUILTIN_PATH / "model.safetensors").read_bytes()).hexdigest()
    assert summary["model"]["weights"] == {"model.safetensors": weights}
    assert summary["configuration"]["max_new_tokens"] == 40
    assert summary["configuration"]["model_path"] == summary["model"]["name"] == "builtin"
    assert summary["test_files"][0]["count"] == 6
    assert summary["training"] is None
    assert summary["generation"]["system_prompt"] is None
    assert summary["generation"]["end_tokens"] == ["<|end_of_turn|>"]
    assert summary["environment"]["packages"]["torch"] == version("torch")
    assert summary["tokens_per_second"] > 0
    assert str(finished.parent) not in json.dumps(summary)
    assert sorted(path.name for path in finished.parent.iterdir()) == ["r.jsonl", "r.summary.json"]


def test_several_files_levels_and_types(tmp_path, capsys):
    mine = jsonl(
        tmp_path / "mine.jsonl",
        {"problem": "What is 1 + 1?", "solution": "\\boxed{2}", "level": "Level 1", "type": "Algebra"},
        {"problem": "What is 1 + 2?", "answer": "3", "level": "Level 2", "subject": "Algebra"},
        {"text": "no question"},
    )
    output = tmp_path / "r.jsonl"
    words = ["--model_path", "builtin", "--test_file", str(mine), "builtin", "--output_file", str(output)]
    assert main([*words, "--problems", "2", "--max_new_tokens", "4"]) == 0
    results = read_results(output)
    assert [row["source"] for row in results.rows] == ["mine", "mine", "builtin", "builtin"]
    assert [row.get("level") for row in results.rows] == ["Level 1", "Level 2", None, None]
    assert results.summary["by_source"]["mine"]["n"] == 2
    assert results.summary["by_level"]["Level 2"]["n"] == 1
    assert results.summary["by_type"]["Algebra"]["n"] == 2
    assert results.summary["unreadable"][0]["place"] == "mine.jsonl:3"
    assert results.summary["truncated"] == results.summary["no_stop"] == {"count": 4, "share": 1.0}
    shown = capsys.readouterr().out
    assert "NOT COUNTED: 1 rows" in shown
    assert "by level" in shown


@pytest.mark.slow
def test_several_samples_vote(tmp_path, capsys):
    output = tmp_path / "r.jsonl"
    assert evaluate(output, *SHORT, "--samples", "4", "--seed", "3") == 0
    results = read_results(output)
    assert results.summary["configuration"]["temperature"] == 0.7
    assert results.summary["sampled"]["pass_at"].keys() == {"1", "2", "4"}
    for row in results.rows:
        assert len(row["samples"]) == 4
        assert {name: row[name] for name in row["samples"][0]} in row["samples"]
    assert "majority of 4" in capsys.readouterr().out
    again = tmp_path / "again.jsonl"
    assert evaluate(again, *SHORT, "--samples", "4", "--seed", "3") == 0
    assert again.read_bytes() == output.read_bytes()


# ---- system prompts ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """The folder of a training run that trained nothing: model, checkpoint, LoRA adapter, record."""
    folder = tmp_path_factory.mktemp("runs") / "train-001"
    model, tokenizer = load_model("builtin")
    for each in (folder, folder / "checkpoint-5"):
        model.save_pretrained(each)
        tokenizer.save_pretrained(each)
    adapter, _ = load_model("builtin", lora=True, seed=1)
    with torch.no_grad():
        for name, parameter in adapter.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    adapter.save_pretrained(folder / "adapter")
    tokenizer.save_pretrained(folder / "adapter")
    settings = {
        "lbd": 0.1,
        "seed": 7,
        "model_name": str(BUILTIN_PATH),
        "lora": False,
        "train_file": ["/data/mine.jsonl"],
    }
    (folder / "record.json").write_text(json.dumps({"settings": settings, "system_prompt": "Think in steps."}))
    return folder


@pytest.mark.parametrize("inner", [".", "checkpoint-5"])
def test_the_system_prompt_is_that_of_the_training(run, inner, tmp_path, capsys):
    output = tmp_path / "r.jsonl"
    assert evaluate(output, "--problems", "2", "--max_new_tokens", "2", model=run / inner) == 0
    results = read_results(output)
    assert all("Think in steps." in row["prompt"] for row in results.rows)
    assert results.summary["model"]["name"] == ("train-001" if inner == "." else "train-001/checkpoint-5")
    assert results.summary["training"] == {
        "lbd": 0.1,
        "seed": 7,
        "model_name": "builtin",
        "lora": False,
        "train_file": ["mine.jsonl"],
    }
    assert "system prompt: that of its training: «Think in steps.»" in capsys.readouterr().out
    assert str(run) not in json.dumps(results.summary)


def test_a_system_prompt_of_none_file_and_default(run, tmp_path, capsys):
    test = jsonl(
        tmp_path / "t.jsonl",
        {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1 + 1?"}], "answer": 2},
        {"question": "1 + 2?", "answer": 3},
    )
    prompts = {}
    for mode in ("none", "file", "train"):
        # The adapter lies beside no record of its own.
        words = ("--max_new_tokens", "2", "--system_prompt", mode)
        assert evaluate(tmp_path / f"{mode}.jsonl", *words, model=run / "adapter", test=test) == 0
        prompts[mode] = [row["prompt"] for row in read_results(tmp_path / f"{mode}.jsonl").rows]
    assert all("<|system|>" not in prompt for prompt in prompts["none"])
    assert "Be brief." in prompts["file"][0]
    assert "<|system|>" not in prompts["file"][1]
    assert all(DEFAULT_SYSTEM_PROMPT in prompt and "Be brief." not in prompt for prompt in prompts["train"])
    assert "no training record beside the model" in capsys.readouterr().out


# ---- models --------------------------------------------------------------------------------------------------


def test_an_adapter_answers_as_its_merged_model(run, tmp_path):
    assert evaluate(tmp_path / "adapter.jsonl", *SHORT, "--system_prompt", "none", model=run / "adapter") == 0
    results = read_results(tmp_path / "adapter.jsonl")
    assert set(results.summary["model"]["weights"]) == {"adapter_model.safetensors"}
    assert results.summary["model"]["base"]["name"] == "builtin"
    model, tokenizer = load_model(str(run / "adapter"))
    merged = model.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    tokenizer.save_pretrained(tmp_path / "merged")
    assert evaluate(tmp_path / "merged.jsonl", *SHORT, "--system_prompt", "none", model=tmp_path / "merged") == 0
    assert read_results(tmp_path / "merged.jsonl").rows == results.rows
    assert evaluate(tmp_path / "plain.jsonl", *SHORT, "--system_prompt", "none") == 0
    assert read_results(tmp_path / "plain.jsonl").rows != results.rows  # the adapter does something


def test_a_model_is_evaluated_as_it_is():
    source = locate_model("builtin")
    tokenizer = load_tokenizer(source)
    model = load_weights(source, tokenizer)
    stored = load_file(BUILTIN_PATH / "model.safetensors")
    assert "<|predictor|>" not in tokenizer.get_vocab()
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in stored.items())
    assert load_weights(source, tokenizer, dtype="bfloat16").dtype == torch.bfloat16


@pytest.fixture
def bare(tmp_path) -> Path:
    """A model of another family with a tokenizer that names no pad token."""
    folder = tmp_path / "bare"
    tokenizer = llama3_style()
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=200,
            bos_token_id=0,
            eos_token_id=1,
        )
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("pad_token")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def test_a_tokenizer_without_pad_token_is_refused_with_a_way_out(bare, tmp_path, capsys):
    output = tmp_path / "r.jsonl"
    with pytest.raises(UserError, match=r"no pad token.*--pad_token '<\|eot_id\|>'"):
        evaluate(output, *SHORT, model=bare)
    assert not output.exists()
    with pytest.raises(UserError, match="no such token"):
        evaluate(output, *SHORT, "--pad_token", "<|none|>", model=bare)
    long = jsonl(tmp_path / "t.jsonl", *({"question": "word " * n, "answer": "1"} for n in (3, 50, 600)))
    words = ("--max_new_tokens", "150", "--system_prompt", "none", "--pad_token", "<|eot_id|>")
    assert evaluate(output, *words, model=bare, test=long) == 0
    assert "1 prompts leave no room in the context of 200 tokens" in capsys.readouterr().out
    results = read_results(output)
    # The last prompt does not fit into 200 tokens, the others leave less room than 150.
    assert [row["truncated"] for row in results.rows] == [True] * 3
    assert 0 == results.rows[2]["tokens"] < results.rows[1]["tokens"] < results.rows[0]["tokens"] < 150
    assert results.summary["generation"]["prompts_without_room"] == 1
    assert results.summary["model"]["parameters"] > 0


def test_a_model_that_never_ends_a_turn_is_refused(bare, tmp_path):
    settings = json.loads((bare / "tokenizer_config.json").read_text())
    settings.pop("eos_token")
    (bare / "tokenizer_config.json").write_text(json.dumps({**settings, "pad_token": "<|pad|>"}))
    (bare / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="could not learn to stop"):
        evaluate(tmp_path / "r.jsonl", *SHORT, model=bare)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: "/nowhere/model", "no such folder"),
        (lambda folder: folder.mkdir() or folder, r"no config\.json"),
        (lambda folder: (folder / "checkpoint-3").mkdir(parents=True) or folder, "it has the folders checkpoint-3"),
    ],
)
def test_what_is_no_model_is_refused(make, words, tmp_path):
    with pytest.raises(UserError, match=words):
        evaluate(tmp_path / "r.jsonl", *SHORT, model=make(tmp_path / "model"))
    assert not list(tmp_path.glob("r.*"))


def test_a_model_that_cannot_be_loaded_leaves_nothing_behind(bare, tmp_path):
    (bare / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match="Could not load"):
        evaluate(tmp_path / "r.jsonl", *SHORT, "--pad_token", "<|pad|>", model=bare)
    assert [path.name for path in tmp_path.iterdir()] == ["bare"]


def test_hub_models_are_named_by_id_and_commit(run, tmp_path, monkeypatch):
    import huggingface_hub.constants

    cache = tmp_path / "models--someone--model"
    commit = "ab" * 20
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text(commit)
    (cache / "snapshots").mkdir()
    (cache / "snapshots" / commit).symlink_to(run)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    model = locate_model("someone/model")
    assert (model.name, model.path, model.commit) == ("someone/model", "someone/model", commit)
    assert model.record is not None
    assert model.record["system_prompt"] == "Think in steps."
    assert set(model.weights()) == {"model.safetensors"}
    assert model.description()["commit"] == commit


# ---- mistakes ------------------------------------------------------------------------------------------------


def test_the_output_cannot_be_the_test_file_or_a_folder(tmp_path):
    test = jsonl(tmp_path / "t.jsonl", {"question": "1 + 1?", "answer": 2})
    before = test.read_bytes()
    for words in ((), ("--overwrite",)):
        with pytest.raises(UserError, match="would overwrite the test file"):
            evaluate(test, *words, test=test)
    for source in (tmp_path, tmp_path / "*.jsonl"):
        with pytest.raises(UserError, match="would overwrite the test file"):
            evaluate(test, "--overwrite", test=source)
    assert test.read_bytes() == before
    with pytest.raises(UserError, match="is a folder"):
        evaluate(tmp_path, test=test)
    with pytest.raises(UserError, match="cannot be written"):
        evaluate(test / "r.jsonl", test=test)
    assert test.read_bytes() == before
    for name in ("lbd0.1", "lbd0.5"):  # both would have the summary lbd0.summary.json
        with pytest.raises(UserError, match=rf"{name}: a result file ends in \.jsonl"):
            evaluate(tmp_path / name, test=test)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--batch_size", "0"), "--batch_size 0"),
        (("--max_new_tokens", "0"), "max_new_tokens"),
        (("--samples", "2", "--temperature", "0"), "all the same"),
        (("--device", "cuda:99"), "--device cuda:99"),
        (("--device", "warp"), "--device warp"),
        (("--seed", "-1"), "the seed has to be at least 0, not -1"),
    ],
)
def test_impossible_options_are_named(words, said, tmp_path):
    with pytest.raises(UserError, match=said):
        evaluate(tmp_path / "r.jsonl", *SHORT, *words)
    assert not list(tmp_path.iterdir())


def test_bad_test_data_leaves_results_alone(tmp_path, finished):
    before = snapshot(finished.parent)
    for rows, said in (((), "it is empty"), (({"question": "1 + 1?"},), r"no gold answer: .*t\.jsonl:1")):
        with pytest.raises(UserError, match=said):
            evaluate(finished, *SHORT, "--overwrite", test=jsonl(tmp_path / "t.jsonl", *rows))
    assert snapshot(finished.parent) == before


# ---- the usual test sets -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("name", "level"), [("gsm8k", False), ("math", True), ("minerva_ocw", False)])
def test_the_usual_test_sets_run_end_to_end(name, level, tmp_path):
    source = DATA / name / "test.jsonl"
    if not source.is_file():
        pytest.skip(f"no {name} here")
    (tmp_path / name).mkdir()
    test = tmp_path / name / "test.jsonl"
    test.write_text("".join(source.read_text(encoding="utf-8").splitlines(keepends=True)[:4]), encoding="utf-8")
    assert evaluate(tmp_path / "r.jsonl", "--max_new_tokens", "20", test=test) == 0
    results = read_results(tmp_path / "r.jsonl")
    assert [row["source"] for row in results.rows] == [name] * 4
    assert bool(results.summary["by_level"]) is level
