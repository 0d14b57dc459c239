"""The leakage audit finds nothing in good models, and every leak that is planted."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
import transformers
from small_models import CONFIGS, collator, small_model, small_rows

from stepjepa.analysis import leakage
from stepjepa.analysis.leakage import (
    Reach,
    audit_rows,
    expected,
    format_audit,
    leakage_audit,
    perturb,
    text_segments,
    verdict,
    view_name,
)
from stepjepa.data.sources import make_example, read_examples
from stepjepa.jepa import masks
from stepjepa.jepa.pairs import view_pairs
from stepjepa.models.loading import load_model
from stepjepa.records import UserError


def rows() -> list[dict[str, Any]]:
    return [row for row in small_rows() if view_pairs(row["step_ids"], "first")]


def table(record: dict[str, Any], value: str = "expected") -> dict[str, list[str]]:
    found = {(cell["segment"], cell["view"]): cell[value] for cell in record["cells"]}
    return {name: [found.get((name, view), "") for view in record["views"]] for name in record["segments"]}


@pytest.mark.parametrize("isolation", ["step", "sink", "none"])
@pytest.mark.parametrize("name", CONFIGS)
def test_good_architectures_pass(name, isolation):
    record = audit_rows(small_model(name), rows(), collator(pairs="consecutive", isolation=isolation))
    assert record["passed"], format_audit(record)
    assert not record["faults"]
    assert record["tolerance"] == (1e-4 if name in ("mixtral", "gpt-oss") else 0)
    quiet = [cell for cell in record["cells"] if cell["expected"] == "zero"]
    assert max(cell["relative_max"] for cell in quiet) <= record["tolerance"]
    assert min(cell["relative_min"] for cell in record["cells"] if cell["expected"] != "zero") > 0
    assert ("leaks" in {cell["expected"] for cell in record["cells"]}) == (isolation == "none")
    assert json.loads(json.dumps(record, allow_nan=False)) == record


def test_what_is_expected_of_each_view():
    """Literally, for the first two rows: three steps, and four."""
    options = {"pairs": "consecutive"}
    record = audit_rows(small_model("llama"), small_rows(2), collator(**options))
    assert record["views"] == ["context S1", "context S2", "context S3", "target S2", "target S3", "target S4"]
    assert table(record) == {
        "prompt": ["moves", "moves", "moves", "zero", "zero", "zero"],
        "S1": ["moves", "moves", "moves", "zero", "zero", "zero"],
        "S2": ["zero", "moves", "moves", "moves", "zero", "zero"],
        "S3": ["zero", "zero", "moves", "zero", "moves", "zero"],
        "S4": ["zero", "zero", "zero", "zero", "zero", "moves"],
        "end": ["zero", "zero", "zero", "zero", "zero", "zero"],
    }
    assert table(record, "count")["S3"] == [2, 2, 1, 2, 2, 1]
    assert table(record, "count")["S4"] == [1] * 6
    sink = audit_rows(small_model("llama"), small_rows(2), collator(**options, isolation="sink"))
    assert table(sink)["first token"] == ["moves"] * 6
    assert table(sink)["prompt"] == table(record)["prompt"]
    none = table(audit_rows(small_model("llama"), small_rows(2), collator(**options, isolation="none")))
    assert none["S2"] == ["zero", "moves", "moves", "moves", "leaks", "leaks"]
    assert none["S4"] == table(record)["S4"]


def test_whole_answers_and_horizons():
    answers = audit_rows(small_model("llama"), rows(), collator(pairs="question_answer", predictors=2))
    assert answers["views"] == ["context question", "target answer"]
    assert table(answers)["prompt"] == ["moves", "zero"]
    assert table(answers)["S1"] == table(answers)["S4"] == ["zero", "moves"]
    assert table(answers)["end"] == ["zero", "zero"]
    far = audit_rows(small_model("llama"), small_rows(2), collator(pairs="horizon", horizon=2))
    assert far["views"] == ["context S1", "context S2", "target S3", "target S4"]
    assert table(far)["S2"] == ["zero", "moves", "zero", "zero"]
    assert answers["passed"]
    assert far["passed"]


def test_a_windowed_model_is_not_asked_for_what_lies_out_of_reach():
    """Three layers that look six positions back reach eighteen; a question of forty tokens begins beyond."""
    model, [row] = small_model("mistral"), small_rows(1)
    step = row["step_ids"].index(0)
    end = row["step_ids"].index(1)
    pause = [9] * 40  # between question and step 1, belonging to neither
    long = {
        "input_ids": [*row["input_ids"][:step], *pause, *row["input_ids"][step:]],
        "labels": [*row["labels"][:step], *[-100] * 40, *row["labels"][step:]],
        "step_ids": [*row["step_ids"][:step], *[-1] * 40, *row["step_ids"][step:]],
    }
    reach = Reach.of(model)
    assert reach == (7, 3)
    assert Reach.of(small_model("gemma3")).window is None
    [pair] = view_pairs(long["step_ids"], "first")
    assert pair.context_end == end + 40
    chosen = collator()
    for last, wanted in ((pair.context_end - 18, "moves"), (pair.context_end - 19, "zero")):
        assert expected("context", (last, last + 1), pair, chosen, reach) == wanted
        batch = [chosen([long]), chosen([perturb(long, last, last + 1)])]
        one, two = (leakage.encode_views(model, each).context for each in batch)
        assert torch.equal(one, two) == (wanted == "zero")


def test_a_windowed_model_sees_the_sink_only_from_the_first_window():
    """The copy stands at 5 … 8 behind one predictor token: window 6 reaches back to 0 from there, window 5 does not."""
    row = {"input_ids": list(range(10, 18)), "step_ids": [-1, -1, 0, 0, 1, 1, 1, 1], "labels": [-100] * 8}
    chosen = collator(isolation="sink")
    [pair] = view_pairs(row["step_ids"], "first")
    for window, wanted in ((6, "moves"), (5, "zero")):
        config = CONFIGS["mistral"]()
        config.sliding_window = window
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
        assert expected("target", (0, 1), pair, chosen, Reach.of(model)) == wanted
        with torch.no_grad():
            one, two = (leakage.encode_views(model, chosen([each])).target for each in (row, perturb(row, 0, 1)))
        assert torch.equal(one, two) == (wanted == "zero")


# ---- planted leaks -------------------------------------------------------------------------------------------


def plant(monkeypatch: pytest.MonkeyPatch, row: int, query: int, key: int) -> None:
    """Open one cell of the mask of one row of every batch."""
    real = masks.dense_mask

    def leaky(allow: torch.Tensor, *how: Any) -> torch.Tensor:
        allow = allow.clone()
        allow[row, query, key] = True
        return real(allow, *how)

    monkeypatch.setattr(masks, "dense_mask", leaky)


@pytest.mark.parametrize("view", ["target", "context"])
def test_one_open_cell_is_found_and_named(monkeypatch, view):
    chosen = collator(pairs="consecutive")
    batch = chosen(rows())
    query = int(batch[f"{view}_index"][1, 0])
    key = int(batch["context_end"][1, 0]) - 1 if view == "target" else int(batch["target_start"][1, 0])
    plant(monkeypatch, 1, query, key)
    record = audit_rows(small_model("llama"), rows(), chosen)
    assert not record["passed"]
    leak = "a change of S1 moves target S2 by" if view == "target" else "a change of S2 moves context S1 by"
    assert any(fault.startswith(leak) for fault in record["faults"])
    bad = {(cell["segment"], cell["view"]) for cell in record["cells"] if not cell["ok"]}
    # The open key has itself seen the prompt, which so reaches the target as well.
    assert bad == ({("prompt", "target S2"), ("S1", "target S2")} if view == "target" else {("S2", "context S1")})
    leaking = next(cell for cell in record["cells"] if not cell["ok"])
    assert leaking["relative_max"] > leaking["relative_min"] == 0  # one of the three examples leaks
    assert "!" in format_audit(record)
    assert "must not" in verdict(record)


def test_a_hidden_recurrence_is_found():
    model = small_model("llama")
    model.model.layers[0].mlp.register_forward_hook(lambda _m, _i, out: out + out.cumsum(dim=1) * 1e-2)
    record = audit_rows(model, rows(), collator(pairs="consecutive"))
    assert len(record["faults"]) > 10
    assert any("a change of prompt moves target S2" in fault for fault in record["faults"])


def test_views_that_see_nothing_are_found():
    model = small_model("llama")
    model.model.norm.register_forward_hook(lambda _m, _i, out: torch.ones_like(out) + 0 * out)
    record = audit_rows(model, rows(), collator())
    assert "a change of prompt does not move context S1" in record["faults"]
    assert "a change of S2 does not move target S2" in record["faults"]


def test_not_a_number_is_no_audit():
    model = small_model("llama").train()
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = torch.nan
    with pytest.raises(UserError, match="not finite"):
        audit_rows(model, rows(), collator())
    assert model.training


# ---- parts and words -----------------------------------------------------------------------------------------


def test_perturb_changes_every_token_of_the_range_and_no_other():
    row = {"input_ids": [7, 8, 1, 2, 3, 9], "step_ids": [-1, -1, 0, 0, 1, -1], "labels": [0] * 6}
    changed = perturb(row, 1, 5)
    assert changed["input_ids"] == [7, 1, 2, 3, 1, 9]
    assert row["input_ids"] == [7, 8, 1, 2, 3, 9]
    assert {name: changed[name] for name in ("step_ids", "labels")} == {"step_ids": row["step_ids"], "labels": [0] * 6}


def test_segments_cover_the_text():
    row = {"input_ids": list(range(7)), "step_ids": [-1, -1, 0, 0, 1, -1, -1]}
    assert text_segments(row) == {"prompt": (0, 2), "S1": (2, 4), "S2": (4, 5), "end": (5, 7)}
    assert text_segments(row, "sink")["first token"] == (0, 1)
    assert text_segments(row, "sink")["prompt"] == (1, 2)
    assert "end" not in text_segments({"input_ids": [1, 2], "step_ids": [-1, 0]})
    [pair] = view_pairs(row["step_ids"], "first")
    assert (view_name("context", pair), view_name("target", pair)) == ("context S1", "target S2")


def test_the_built_in_model_on_built_in_problems():
    model, tokenizer = load_model()
    examples, _ = read_examples("builtin", split="test", count=3, seed=1)
    single = make_example("Why?", ["Because it is so."], None, "t", None)
    record = leakage_audit(model, tokenizer, [*examples, single], batch_size=2)
    assert record["passed"], format_audit(record)
    assert record["tolerance"] == 0
    assert record["examples"] == 3
    assert record["left_out"] == {"too_long": 0, "without_pair": 1}
    assert "no leak in 3 examples" in format_audit(record)
    alone = leakage_audit(model, tokenizer, examples[:1], batch_size=1)
    cell = next(cell for cell in alone["cells"] if (cell["segment"], cell["view"]) == ("S2", "target S2"))
    assert cell["relative_min"] == cell["relative_max"] > 0
    assert cell["count"] == 1
    with pytest.raises(UserError, match="none of the 1 examples has a view pair"):
        leakage_audit(model, tokenizer, [single])


def test_the_reported_change_is_the_distance_of_the_views():
    model, chosen, [row] = small_model("llama"), collator(), small_rows(1)
    record = audit_rows(model, [row], chosen)
    start, end = text_segments(row)["S2"]
    with torch.no_grad():
        old = leakage.encode_views(model, chosen([row])).target[0].double()
        new = leakage.encode_views(model, chosen([perturb(row, start, end)])).target[0].double()
    cell = next(cell for cell in record["cells"] if (cell["segment"], cell["view"]) == ("S2", "target S2"))
    assert cell["relative_max"] == pytest.approx(((new - old).norm() / old.norm()).item())
    assert cell["absolute_max"] == pytest.approx((new - old).abs().max().item())
