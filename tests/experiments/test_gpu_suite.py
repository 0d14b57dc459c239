"""The suite for a GPU, rehearsed on the CPU at small size: all cases are named, measured or skipped with a reason."""

import json

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from stepjepa.commands.bench import main
from stepjepa.experiments.gpu_suite import ARMS, LLAMA_1B, cases
from stepjepa.experiments.options import GpuSuiteOptions
from stepjepa.records import UserError


def test_rehearsal(tmp_path, capsys):
    out = tmp_path / "suite.json"
    assert main(["--gpu_suite", "--small", "--device", "cpu", "--output_file", str(out)]) == 0
    record = json.loads(out.read_text())
    assert "of products" in capsys.readouterr().out
    exact, rough = record["invariants"][:2], record["invariants"][2:]
    assert [entry["attention"] for entry in record["invariants"]] == ["sdpa", "flex_attention"] * 2
    assert {entry["dtype"] for entry in exact} == {"float32"}
    assert max(entry[name] for entry in exact for name in ("lm_loss", "views")) < 1e-5
    assert exact[0]["gradient"] < 1e-5
    assert "gradient" not in exact[1]  # FlexAttention has no backward on a CPU
    assert max(entry[name] for entry in rough for name in ("lm_loss", "views")) < 0.1
    measured = [case for case in record["cases"] if "skipped" not in case]
    assert {case["arm"] for case in measured} == set(ARMS)
    assert {(case["lora"], case["packing"]) for case in measured} == {
        (a, b) for a in (True, False) for b in (None, 256)
    }
    assert len(record["cases"]) == len(cases(small=True))
    for case in measured:
        assert case["rounds"] >= 3
        assert case["epoch_seconds"] == pytest.approx(6862 / case["solutions"] * case["seconds"])
        assert case["tokens"] / 2 < case["tokens_per_second"] * case["seconds"] <= case["tokens"]
        assert case["peak_bytes"] is None
    flex = [case for case in record["cases"] if case["attention"] == "flex_attention"]
    assert {case["skipped"] for case in flex} == {"FlexAttention has no backward on a CPU"}


def test_without_time_every_case_is_skipped_and_says_so(tmp_path):
    out = tmp_path / "suite.json"
    assert main(["--gpu_suite", "--small", "--device", "cpu", "--minutes", "0.001", "--output_file", str(out)]) == 0
    assert all("s left" in case["skipped"] for case in json.loads(out.read_text())["cases"])
    with pytest.raises(UserError, match="minutes"):
        GpuSuiteOptions(minutes=0)


def test_what_is_measured_on_a_gpu():
    listed = cases(small=False)
    assert {case.packing for case in listed} == {None, 512, 1024, 2048, 4096, 8192}
    assert {(case.attention, case.lora) for case in listed} == {
        (attention, lora) for attention in ("sdpa", "flex_attention") for lora in (True, False)
    }
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**LLAMA_1B))
    assert sum(p.numel() for p in model.parameters()) == 1_235_814_400  # as published
