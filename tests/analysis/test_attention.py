"""Attention maps show what the model does: no weight on a forbidden cell, parts and flow as counted by hand."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from small_models import CONFIGS, WINDOW, collator, small_model, small_rows
from small_tokenizers import gemma_style, gpt2_style, llama3_style, sentencepiece_style

from stepjepa.analysis import attention
from stepjepa.analysis.attention import (
    attention_record,
    check_forbidden,
    flow,
    prompt_parts,
    read_attention,
    segments,
    visible_cells,
    windows_by_layer,
)
from stepjepa.commands.attention import main
from stepjepa.data.sources import make_example, read_examples
from stepjepa.data.tokens import tokenize_example
from stepjepa.jepa import masks
from stepjepa.jepa.pairs import CONSECUTIVE, ISOLATIONS, BranchLayout
from stepjepa.models.loading import load_model
from stepjepa.records import UserError, write_jsonl

SHORT = make_example(
    "Ann has 4 pens and buys 3 at $2. How many?",
    ["She has 4 + 3 = 7 pens.", "The answer is \\boxed{7}."],
    "7",
    "t",
    None,
)


@pytest.fixture(scope="module")
def builtin() -> tuple[Any, Any]:
    return load_model()


@pytest.fixture(scope="module")
def examples() -> list[dict[str, Any]]:
    return read_examples("builtin", split="test", count=4, seed=1)[0]


# ---- the check -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGS)
def test_no_architecture_puts_weight_on_a_forbidden_cell(name):
    model = small_model(name).train()
    before = model.config._attn_implementation
    batch = collator(pairs="consecutive", predictors=2)(small_rows())
    weights = read_attention(model, batch)
    assert model.training
    assert model.config._attn_implementation == before
    assert len(weights) == 3
    checks = check_forbidden(weights, visible_cells(model.config, batch))
    assert [check["max_forbidden_mass"] for check in checks] == [0.0] * 3
    sums = [check[name] for check in checks for name in ("row_sum_min", "row_sum_max")]
    if name == "gpt-oss":  # learned sinks take their share
        assert max(sums) < 1
    else:
        assert sums == pytest.approx([1] * 6)
    length = batch["input_ids"].shape[1]
    assert all(0 < check["forbidden_cells"] < batch["input_ids"].shape[0] * length**2 for check in checks)


@pytest.mark.parametrize("isolation", ISOLATIONS)
@pytest.mark.parametrize("name", ["llama", "qwen2-windowed", "mistral", "gemma3"])
def test_forbidden_cells_are_those_of_the_idea(name, isolation):
    """Against the definition in words, cell by cell, with no code of the layout or the masks."""
    model, [row] = small_model(name), small_rows(1)
    batch = collator(pairs="consecutive", isolation=isolation)([row])
    steps, positions = np.array(row["step_ids"]), batch["position_ids"][0].tolist()
    trunk = len(steps)
    kinds: list[tuple[str, int]] = [("trunk", -1)] * trunk
    for step in (1, 2):
        kinds.append(("predictor", step - 1))
        if isolation != "none":
            kinds += [("copy", step)] * int((steps == step).sum())
    ends = {step: int(np.flatnonzero(steps == step)[-1]) for step in range(3)}

    def sees(q: int, k: int) -> bool:
        (kind, step), key = kinds[q], kinds[k]
        if kind == "trunk":
            return k <= q
        if kind == "predictor":
            return k == q or (k < trunk and k <= ends[step])
        return (key == (kind, step) and k <= q) or (isolation == "sink" and k == 0)

    windows = windows_by_layer(model.config)
    assert (WINDOW in windows) == (name != "llama")
    for window, see in zip(windows, visible_cells(model.config, batch), strict=True):
        for q in range(len(kinds)):
            for k in range(len(kinds)):
                near = window is None or positions[q] - positions[k] < window
                assert bool(see[0, q, k]) == (sees(q, k) and near), (q, k)


def test_a_leaking_mask_and_a_broken_model_are_found(monkeypatch, builtin, examples):
    model, tokenizer = builtin
    real = masks.dense_mask

    def leaky(allow: torch.Tensor, *how: Any) -> torch.Tensor:
        allow = allow.clone()
        allow[:, -1, 0] = True  # the last target view sees the first token
        return real(allow, *how)

    monkeypatch.setattr(masks, "dense_mask", leaky)
    check = attention_record(model, tokenizer, examples[0])["check"]
    assert not check["passed"]
    assert all(0 < layer["max_forbidden_mass"] < 1 for layer in check["layers"])
    monkeypatch.undo()
    assert attention_record(model, tokenizer, examples[0])["check"]["passed"]
    broken = small_model("llama", attn_implementation="eager")
    with torch.no_grad():
        broken.model.layers[1].self_attn.q_proj.weight[0, 0] = torch.nan
    batch = collator()(small_rows())
    with pytest.raises(UserError, match="layer 1 are not finite"):
        check_forbidden(read_attention(broken, batch), visible_cells(broken.config, batch))


# ---- parts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", [llama3_style, gpt2_style, sentencepiece_style, gemma_style])
@pytest.mark.parametrize("system", [None, "Think first."])
def test_parts_of_the_prompt_are_its_messages(style, system):
    tokenizer = style()
    example = make_example("How many pens has Ann? Think first.", ["She has 7 pens.", "So 7."], "7", "t", system)
    parts = prompt_parts(example["messages"], tokenizer)
    names = [name for name, _ in parts]
    assert names == [*(["start"] if names[0] == "start" else []), *(["system"] if system else []), "question"]
    ids = tokenize_example(example, tokenizer)["input_ids"]
    ends = [*(first for _, first in parts[1:]), len(ids)]
    text = {name: tokenizer.decode(ids[first:end]) for (name, first), end in zip(parts, ends, strict=True)}
    assert text["question"].lstrip().startswith("How many")
    if system:
        assert text["system"].lstrip().startswith("Think first.")


def test_a_prompt_that_the_template_changes_is_one_part():
    shouting = gpt2_style()
    shouting.chat_template = "{% for m in messages %}{{ m['content'] | upper if m['role'] == 'user' else m['content'] + eos_token }}{% endfor %}"
    assert prompt_parts(SHORT["messages"], shouting) == [("prompt", 0)]


def test_segments_cover_the_row_and_carry_their_text(builtin, examples):
    tokenizer = builtin[1]
    record = attention_record(*builtin, examples[0], layout=CONSECUTIVE)
    steps = examples[0]["steps"]
    names = [part["name"] for part in record["segments"]]
    branches = [name for k in range(1, len(steps)) for name in (f"PRED {k}", f"S{k + 1} copy")]
    assert names == ["start", "question", *(f"S{k + 1}" for k in range(len(steps))), "end", *branches]
    parts = {part["name"]: part for part in record["segments"]}
    assert [part["start"] for part in record["segments"][1:]] == [part["end"] for part in record["segments"][:-1]]
    assert record["segments"][-1]["end"] == len(record["tokens"])
    text = {name: "".join(record["tokens"][part["start"] : part["end"]]) for name, part in parts.items()}
    assert text["question"].startswith(examples[0]["question"])
    assert text["PRED 2"] == "<|predictor|>"
    for k, step in enumerate(steps):
        assert text[f"S{k + 1}"].strip() == step
    assert text["S3 copy"] == text["S3"]
    assert (parts["S3 copy"]["kind"], parts["S3 copy"]["step"]) == ("copy", 2)
    assert text["end"] == tokenizer.decode(tokenize_example(examples[0], tokenizer)["input_ids"][-1:])


@pytest.mark.parametrize(
    ("options", "branches"),
    [
        ({"predictors": 3}, [("PRED 1", 3), ("S2 copy", None)]),
        ({"isolation": "none"}, [("PRED 1", 1)]),
        ({"pairs": "question_answer"}, [("PRED", 1), ("answer copy", None)]),
        ({"pairs": "horizon", "horizon": 2}, [("PRED 1", 1), ("S3 copy", None)]),
        ({"pairs": "horizons", "predictors": 2}, [("PRED 1", 2), ("S2 copy", None), ("PRED 2", 2), ("S3 copy", None)]),
    ],
)
def test_branches_by_layout(options, branches):
    [row] = small_rows(1)
    batch = collator(**options)([row])
    parts = segments([("prompt", 0)], row["step_ids"], batch, BranchLayout(**options))
    ends = [0, *(part["end"] for part in parts)]
    assert [*(part["start"] for part in parts), batch["input_ids"].shape[1]] == ends  # in order and without gaps
    own = [(part["name"], part["end"] - part["start"]) for part in parts if part["kind"] in ("predictor", "copy")]
    assert [name for name, _ in own] == [name for name, _ in branches]
    assert all(size is None or size == found for (_, size), (_, found) in zip(branches, own, strict=True))


def test_a_copy_is_whole_whatever_of_it_is_pooled(builtin, examples):
    parts = [
        attention_record(*builtin, examples[0], layers=[0], layout=BranchLayout(pooling=pooling))["segments"]
        for pooling in ("last", "content", "mean")
    ]
    assert parts[0] == parts[1] == parts[2]


def test_flow_is_the_mean_over_queries_of_the_sum_over_keys():
    weights = torch.tensor([[1.0, 0, 0], [0.25, 0.75, 0], [0.2, 0.3, 0.5]])
    parts = [{"start": 0, "end": 2}, {"start": 2, "end": 3}]
    torch.testing.assert_close(flow(weights, parts), torch.tensor([[1.0, 0], [0.5, 0.5]]))


# ---- the record ----------------------------------------------------------------------------------------------


def test_record_holds_the_weights_of_the_model(builtin, examples):
    model, tokenizer = builtin
    record = attention_record(model, tokenizer, examples[1], layers=[1, -1, 4], heads=[2, 0])
    assert [(entry["layer"], entry["head"]) for entry in record["maps"]] == [(1, 2), (1, 0), (4, 2), (4, 0)]
    row = tokenize_example(examples[1], tokenizer)
    batch = attention.StepJEPACollator(tokenizer)([row])
    own = load_model(attn_implementation="eager")[0].eval()
    weights = read_attention(own, batch)
    see = np.array([[cell == "1" for cell in line] for line in record["masks"][0]["rows"]])
    for entry in record["maps"]:
        np.testing.assert_allclose(entry["weights"], weights[entry["layer"]][0, entry["head"]], atol=5.1e-5)
        assert (np.array(entry["weights"])[~see] == 0).all()
        np.testing.assert_allclose(np.sum(entry["flow"], axis=1), 1, atol=1e-3)
    everything = attention_record(model, tokenizer, examples[1], layers=[3], heads="all")
    mean = attention_record(model, tokenizer, examples[1], layers=[3])
    np.testing.assert_allclose(
        np.mean([entry["weights"] for entry in everything["maps"]], axis=0), mean["maps"][0]["weights"], atol=1e-4
    )
    assert record["check"]["passed"]
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert not record["cut"]


def test_windowed_layers_have_their_own_mask(examples):
    tokenizer = llama3_style()
    torch.manual_seed(0)
    model = small_model("gemma3")
    model.resize_token_embeddings(len(tokenizer) + 1)
    tokenizer.add_tokens(["<|predictor|>"], special_tokens=True)
    record = attention_record(model, tokenizer, SHORT, layers=[0, 1])
    assert [record["masks"][entry["mask"]]["window"] for entry in record["maps"]] == [WINDOW, None]
    near, far = (sum(line.count("1") for line in mask["rows"]) for mask in record["masks"])
    assert near < far


def test_what_cannot_be_shown_is_named(builtin, examples, monkeypatch):
    model, tokenizer = builtin
    one = make_example("Why?", ["Because it is so."], None, "t", None)
    for options, message in (
        ({"layers": [5]}, "no layer 5: the model has 5, 0 to 4"),
        ({"heads": [-6]}, "no head -6"),
        ({"layers": list(range(5)) * 3, "heads": "all", "example": examples[0]}, None),
        ({"example": one}, "no view pair .* Why"),
        ({"layout": BranchLayout(max_length=12)}, "first step ends at token"),
    ):
        arguments = {"example": examples[0], **options}
        if message is None:
            assert len(attention_record(model, tokenizer, **arguments)["maps"]) == 25
            continue
        with pytest.raises(UserError, match=message):
            attention_record(model, tokenizer, **arguments)
    monkeypatch.setattr(attention, "MAX_MAPS", 3)
    with pytest.raises(UserError, match="more than 3 maps"):
        attention_record(model, tokenizer, examples[0], heads="all")


def test_an_example_longer_than_the_positions_loses_steps(builtin, examples, monkeypatch):
    model, tokenizer = builtin
    steps = tokenize_example(examples[0], tokenizer)["step_ids"]
    monkeypatch.setattr(model.config, "max_position_embeddings", steps.index(2) + 1)
    record = attention_record(model, tokenizer, examples[0])
    assert record["cut"]
    assert [part["name"] for part in record["segments"]] == ["start", "question", "S1", "S2", "PRED 1", "S2 copy"]


# ---- the command ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_writes_record_and_figures(tmp_path, capsys, monkeypatch):
    file, output = tmp_path / "test.jsonl", tmp_path / "new" / "folder"
    write_jsonl([SHORT], file)
    words = ["--test_file", str(file), "--output", str(output), "--pairs", "first"]
    assert main([*words, "--heads", "0", "3", "--layers", "-1"]) == 0
    assert {path.name for path in output.iterdir()} == {
        "attention.json",
        "attention.png",
        "attention.pdf",
        "flow.png",
        "flow.pdf",
    }
    record = json.loads((output / "attention.json").read_text())
    assert record["check"]["passed"] is True
    assert record["options"]["heads"] == ["0", "3"]
    assert record["environment"]["packages"]["torch"]
    assert "forbidden cells 0; rows sum to 1.000000" in capsys.readouterr().out

    before = {path: path.read_bytes() for path in output.iterdir()}
    for wrong in (["--heads", "some"], ["--heads", "9"], ["--example", "1"], ["--layers", "8"], ["--max_length", "5"]):
        with pytest.raises(UserError):
            main([*words, *wrong])
    with pytest.raises(SystemExit):
        main([*words, "--audit", "0"])
    with pytest.raises(SystemExit):  # they say which maps are drawn
        main([*words, "--audit", "2", "--layers", "1"])
    assert {path: path.read_bytes() for path in output.iterdir()} == before

    real = masks.dense_mask
    monkeypatch.setattr(
        masks, "dense_mask", lambda allow, *how: real(allow.index_fill(2, torch.tensor([0]), True), *how)
    )
    assert main([*words, "--layers", "0"]) == 1
    assert "FORBIDDEN MASS" in capsys.readouterr().out
    assert json.loads((output / "attention.json").read_text())["check"]["passed"] is False
    assert main([*words, "--audit"]) == 1
    assert "! a change of prompt moves target S2" in capsys.readouterr().out
