"""The benchmark: all arms give equal results, do the work they are said to do, and are reported in full."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from importlib.metadata import version

import pytest
import torch
from small_models import PREDICTORS, Tokens, small_model, small_rows
from torch import nn

from stepjepa.commands import main as cli
from stepjepa.commands.bench import main
from stepjepa.data.sources import make_example
from stepjepa.experiments import benchmark
from stepjepa.experiments.benchmark import arm_memory, bench
from stepjepa.experiments.benchmark_arms import ARMS, collate, counting
from stepjepa.experiments.benchmark_parts import timing_parts
from stepjepa.experiments.benchmark_report import format_table, spread
from stepjepa.experiments.benchmark_workload import make_workload, restore_workload, save_workload, train_tokenizer
from stepjepa.experiments.options import BenchOptions
from stepjepa.records import UserError, write_jsonl

FIRST = ("single_pass_first", "two_pass_first", "doubled_batch")
ALL = ("single_pass_all", "two_pass_all")
TINY = {
    "hidden_size": 16,
    "layers": 1,
    "heads": 2,
    "vocab_size": 300,
    "batch_size": 3,
    "rounds": 2,
    "warmup": 1,
    "memory_batches": 0,
    "threads": 1,
}


def paired_rows():
    return small_rows(4, steps=(3, 4, 2, 2))


def losses_and_gradient(name, model, rows, predictors=1):
    batch = collate(ARMS[name].collation, Tokens(), rows, predictors)
    losses = ARMS[name].step(model, batch)
    model.zero_grad()
    losses.total(0.5).backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    return losses, gradient


@pytest.mark.parametrize(
    ("name", "attention", "predictors"),
    [("llama", "sdpa", 1), ("llama", "eager", 2), ("gemma3", "sdpa", 1), ("mistral", "sdpa", 1), ("gpt2", "sdpa", 2)],
)
def test_all_arms_give_equal_results(name, attention, predictors):
    model, rows = small_model(name, attn_implementation=attention), paired_rows()
    results = {arm: losses_and_gradient(arm, model, rows, predictors) for arm in ARMS}
    for losses, _ in results.values():
        assert losses.lm.item() == pytest.approx(results["plain"][0].lm.item(), rel=1e-6)
    for same in (("plain", "plain_labels"), FIRST, ALL):
        reference, expected = results[same[0]]
        for other in same[1:]:
            losses, gradient = results[other]
            if expected_jepa := reference.jepa:
                assert losses.jepa.item() == pytest.approx(expected_jepa.item(), abs=1e-5)
            assert (gradient - expected).norm() <= 1e-5 * expected.norm()
    assert results["plain"][0].jepa is None
    assert abs(results["single_pass_all"][0].jepa - results["single_pass_first"][0].jepa) > 1e-3


def test_the_doubled_batch_really_isolates_step_2():
    model = small_model("llama")
    batch = collate("doubled", Tokens(), paired_rows())
    isolated = ARMS["doubled_batch"].step(model, batch)
    batch["target_start"] = batch["target_end"]  # nothing is isolated then
    assert abs(ARMS["doubled_batch"].step(model, batch).jepa - isolated.jepa) > 1e-3


def one_row():
    """5 prompt tokens, steps of 3, 4 and 2 tokens, an end of turn: 15 tokens, 10 of them labelled."""
    ids = list(range(3, 18))
    step_ids = [-1] * 5 + [0] * 3 + [1] * 4 + [2] * 2 + [-1]
    return {"input_ids": ids, "labels": [-100] * 5 + ids[5:], "step_ids": step_ids}


@pytest.mark.parametrize(
    ("arm", "predictors", "decoder_tokens", "head_rows"),
    [
        ("plain", 1, 15, 15),
        ("plain_labels", 1, 15, 10),
        ("single_pass_first", 1, 15 + 1 + 4, 10),
        ("single_pass_first", 3, 15 + 3 + 4, 10),
        ("single_pass_all", 1, 15 + (1 + 4) + (1 + 2), 10),
        ("single_pass_all", 2, 15 + (2 + 4) + (2 + 2), 10),
        ("two_pass_first", 1, 15 + 16, 15),
        ("two_pass_all", 1, 15 + 2 * 16, 15),
        ("two_pass_all", 3, 15 + 2 * 18, 15),
        ("doubled_batch", 1, 2 * 16, 2 * 16),
        ("doubled_batch", 2, 2 * 17, 2 * 17),
    ],
)
def test_tokens_through_the_decoder_and_rows_through_the_head(arm, predictors, decoder_tokens, head_rows):
    model = small_model("llama")
    with counting(model) as counts:
        ARMS[arm].step(model, collate(ARMS[arm].collation, Tokens(), [one_row()], predictors))
    assert (counts.decoder_tokens, counts.head_rows) == (decoder_tokens, head_rows)
    assert not model.get_decoder()._forward_pre_hooks
    assert not model.get_output_embeddings()._forward_pre_hooks


def test_counts_of_a_batch_include_its_padding():
    model, rows = small_model("llama"), [one_row(), one_row()]
    rows[1] = {name: values[:-3] for name, values in rows[1].items()}  # loses step 3 and the end: 12 tokens, 7 labels
    expected = {
        "plain": (30, 30),
        "plain_labels": (30, 17),
        "single_pass_first": (40, 17),
        "single_pass_all": (46, 17),
        "two_pass_first": (62, 30),
        "two_pass_all": (30 + 3 * 16, 30),
        "doubled_batch": (64, 64),
    }
    for name, wanted in expected.items():
        with counting(model) as counts:
            ARMS[name].step(model, collate(ARMS[name].collation, Tokens(), rows))
        assert (counts.decoder_tokens, counts.head_rows) == wanted, name


# -------- a whole benchmark --------


@pytest.fixture
def data_file(tmp_path):
    """Twelve worked solutions of two to four steps and one of a single step."""
    examples = [
        make_example(
            f"Ann has {i} apples and buys {k} bags of {i + 1}. How many has she?",
            [f"Step {n}: she adds {n} times {i + 1} apples." for n in range(1, k + 1)],
            str(i + k * (i + 1)),
            "toy",
            None,
        )
        for i, k in enumerate([2, 3, 4] * 4 + [1])
    ]
    path = tmp_path / "toy.jsonl"
    write_jsonl(examples, path)
    return path


def test_record_and_table(data_file, tmp_path, capsys):
    out = tmp_path / "records" / "bench.json"
    arguments = [f"--{name}={value}" for name, value in TINY.items() if name != "memory_batches"]
    assert (
        main([*arguments, "--no_memory", "--vocab_rows=350", "--train_file", str(data_file), "--json", str(out)]) == 0
    )
    record = json.loads(out.read_text())
    assert capsys.readouterr().out.strip() == format_table(record)
    assert str(tmp_path) not in out.read_text()
    assert list(out.parent.iterdir()) == [out]

    assert record["configuration"] | TINY | {"train_file": ["toy.jsonl"], "vocab_rows": 350} == record["configuration"]
    assert record["environment"]["packages"]["torch"] == version("torch")
    assert record["environment"]["hardware"]["threads"] == 1
    assert record["wall_seconds"] > 0
    assert record["model"]["vocabulary_rows"] == 350
    data = record["data"]
    assert (data["examples"], data["usable"], data["rows"], data["microbatches"]) == (13, 12, 6, 2)
    assert record["agreement"]["lm_relative_difference"] <= 1e-5
    assert record["agreement"]["jepa_difference"] <= 1e-5

    assert list(record["arms"]) == list(ARMS) == list(record["seconds"])
    for name, arm in record["arms"].items():
        assert len(record["seconds"][name]) == TINY["rounds"]
        for figure in ("seconds", "ratio_to_plain", "ratio_to_plain_labels", "tokens_per_second"):
            assert 0 < arm[figure]["q1"] <= arm[figure]["median"] <= arm[figure]["q3"]
        assert "memory" not in arm
        parts = arm["parts"]
        assert list(parts) == ["attention", "feed_forward", "head", "masks", "rest"]
        assert all(seconds > 0 for part, seconds in parts.items() if part not in ("masks", "rest"))
        assert (parts["masks"] > 0) == name.startswith("single_pass")
        # hidden 16, feed-forward 64: four products of 16 × 16 and three of 16 × 64; a head of 350 rows
        operations = 6 * ((4 * 256 + 3 * 1024) * arm["decoder_tokens"] + 16 * 350 * arm["head_rows"])
        assert arm["flops"]["per_second"] * arm["seconds"]["median"] == pytest.approx(operations)
        assert arm["flops"]["share"] == pytest.approx(
            arm["flops"]["per_second"] / record["products"]["flops_per_second"]
        )
    assert record["products"]["dtype"] == "float32"
    assert record["arms"]["plain"]["ratio_to_plain"]["median"] == 1
    labelled = data["labelled_per_row"] * data["rows"] / data["microbatches"]
    assert record["arms"]["single_pass_first"]["head_rows"] == pytest.approx(labelled, rel=1e-3)
    for layout in record["layout"].values():
        assert 0 < layout["share"]["median"] < 1
    assert list(record["comparisons"]) == [
        "two_pass_first / single_pass_first",
        "two_pass_all / single_pass_all",
        "doubled_batch / single_pass_first",
    ]


def test_ratios_are_taken_within_rounds(data_file, monkeypatch):
    """A machine that slows down tenfold from one round to the next leaves every ratio alone."""
    speed = {"plain": 1.0, "plain_labels": 0.5, "single_pass_first": 1.25}
    pace = {"now": 0, "steps": 0}

    def pretended(arm, _model, _batch, _options):
        pace["now"], pace["steps"] = pace["steps"] // len(ARMS), pace["steps"] + 1
        return 10.0 ** pace["now"] * speed.get(arm.name, 2.0)

    monkeypatch.setattr(benchmark, "_time_step", pretended)
    record = bench(BenchOptions(**{**TINY, "rounds": 3, "warmup": 0}, train_file=[str(data_file)]))
    arm = record["arms"]["single_pass_first"]
    assert arm["ratio_to_plain"] == dict.fromkeys(("median", "q1", "q3"), 1.25)
    assert arm["ratio_to_plain_labels"]["median"] == 2.5
    assert record["comparisons"]["two_pass_first / single_pass_first"]["seconds"]["median"] == 1.6
    assert record["seconds"]["plain"] == [1.0, 10.0, 100.0]


def test_bf16_computes_in_bfloat16_and_keeps_the_weights(data_file):
    options = BenchOptions(**{**TINY, "rounds": 1}, train_file=[str(data_file)], bf16=True)
    record = bench(options)
    assert record["products"]["dtype"] == "bfloat16"
    exact = bench(replace(options, bf16=False))["agreement"]["lm_loss"]
    difference = abs(record["agreement"]["lm_loss"]["plain_labels"] / exact["plain_labels"] - 1)
    assert 1e-8 < difference < 1e-2


class Block(nn.Module):
    """A residual sum of an "attention" that sleeps 20 ms in its backward pass and a "MLP" that sleeps 40 ms."""

    def __init__(self, kind, milliseconds):
        super().__init__()
        self.__class__ = type(kind, (Block,), {})
        self.milliseconds = milliseconds

    def forward(self, hidden_states):
        hidden_states = hidden_states * 2
        hidden_states.register_hook(lambda _: time.sleep(self.milliseconds / 1e3))
        return hidden_states


def test_the_backward_pass_of_a_part_is_between_its_markers():
    model = nn.ModuleDict({"a": Block("TinyAttention", 20), "b": Block("TinyMLP", 40), "head": nn.Linear(4, 4)})
    model.get_output_embeddings = lambda: model["head"]
    states = torch.ones(2, 4, requires_grad=True)
    with timing_parts(model, lambda: None) as seconds:
        inside = states + model["a"](hidden_states=states)
        model["head"](inside + model["b"](inside)).sum().backward()
    assert seconds["attention"] >= 0.02
    assert seconds["feed_forward"] >= 0.04
    assert seconds["head"] < min(seconds["attention"], seconds["feed_forward"])
    assert states.grad.abs().sum() > 0


def test_spread():
    assert spread([4.0, 1.0, 3.0, 2.0, 5.0]) == {"median": 3.0, "q1": 2.0, "q3": 4.0}
    assert spread([2.0]) == {"median": 2.0, "q1": 2.0, "q3": 2.0}


# -------- memory --------


@pytest.mark.slow
def test_memory_of_an_arm_in_a_process_of_its_own(data_file, tmp_path):
    options = BenchOptions(**{**TINY, "memory_batches": 1}, train_file=[str(data_file)])
    workload = make_workload(options)
    save_workload(workload, options, tmp_path)
    again, restored = restore_workload(tmp_path)
    assert restored == options
    assert again.microbatches == workload.microbatches[:1]
    weights = zip(again.model.parameters(), workload.model.parameters(), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in weights)

    measured = benchmark._memory_in_own_process("two_pass_first", str(tmp_path))
    assert measured["arm"] == "two_pass_first"
    assert measured["growth_bytes"] == measured["peak_bytes"] - measured["before_bytes"] > 0
    assert measured["method"]


def test_a_failing_memory_process_is_reported(monkeypatch):
    killed = subprocess.CompletedProcess([], returncode=-9, stdout="", stderr="out of memory")
    monkeypatch.setattr(subprocess, "run", lambda *_args, **_options: killed)
    with pytest.raises(UserError, match=r"memory of plain failed \(exit -9\):\nout of memory"):
        benchmark._memory_in_own_process("plain", "folder")


def test_memory_enters_record_and_table(data_file, monkeypatch):
    sizes = {name: 2**20 * (i + 1) for i, name in enumerate(ARMS)}
    monkeypatch.setattr(
        benchmark, "_memory_in_own_process", lambda arm, _folder: {"arm": arm, "growth_bytes": sizes[arm]}
    )
    record = bench(BenchOptions(**{**TINY, "memory_batches": 1, "rounds": 1}, train_file=[str(data_file)]))
    assert record["arms"]["plain"]["memory"] == {"growth_bytes": 2**20}
    assert record["comparisons"]["two_pass_first / single_pass_first"]["memory_growth"] == 5 / 3
    assert "7 MiB" in format_table(record)


PEAK = """
import json, torch
from stepjepa.experiments.benchmark_arms import peak_memory, peak_resident_bytes

earlier = torch.ones(160 * 2**20 // 4)
del earlier
measured = peak_memory(lambda: torch.ones(96 * 2**20 // 4).sum().item(), "cpu")
print(json.dumps({**measured, "resident": peak_resident_bytes()}))
"""


def test_peak_memory_sees_what_the_work_used_and_no_earlier_peak():
    """In a process of its own: one that has trained keeps the memory that it has freed."""
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    measured = json.loads(done.stdout)
    if measured["method"] == "VmHWM, reset":
        assert 90 * 2**20 <= measured["growth_bytes"] <= 120 * 2**20
    assert measured["resident"] >= measured["before_bytes"] > 0


def test_arm_memory_leaves_gradients_of_the_last_microbatch(data_file):
    options = BenchOptions(**{**TINY, "memory_batches": 1}, train_file=[str(data_file)])
    workload = make_workload(options)
    assert set(arm_memory("plain", workload, options)) >= {"arm", "growth_bytes", "peak_bytes", "before_bytes"}
    assert all(p.grad is not None for p in workload.model.parameters())


# -------- model, tokenizer, refusals --------


def test_tokenizer_trained_on_the_spot():
    tokenizer = train_tokenizer(["two and two is four"] * 20, 300, 2)
    assert tokenizer.chat_template is None
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert len(tokenizer) <= 300
    assert {"<|predictor_1|>", "<|predictor_2|>"} <= set(tokenizer.get_added_vocab()) & {*PREDICTORS}
    text = "«two» + 2 = 4\n\nnever seen ✓"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


@pytest.mark.slow
def test_the_checkpoint_of_a_name_can_be_raced(data_file):
    options = {**TINY, "rounds": 1, "warmup": 0}
    record = bench(BenchOptions(**options, model_name="builtin", train_file=[str(data_file)]))
    assert record["configuration"]["model_name"] == "builtin"
    assert record["agreement"]["lm_relative_difference"] <= 1e-5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train_file", "no_such_file.jsonl"], "no file 'no_such_file.jsonl'"),
        (["--hidden_size", "30"], "must be divisible by heads"),
        (["--vocab_size", "100"], "vocab_size must be at least 259"),
        (["--vocab_rows", "1000"], "vocab_rows (1000) must be at least vocab_size (4096)"),
        (["--rounds", "0"], "rounds must be at least 1"),
        (["--threads", "0"], "threads must be at least 1"),
        (["--attn_implementation", "flex_attention"], "flex_attention needs --device cuda"),
        (["--arm", "plain", "--model_name", "./no_such_folder"], "Could not load './no_such_folder'"),
    ],
)
def test_errors_are_messages(arguments, message, capsys):
    assert cli.main(["bench", *arguments, "--no_memory"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("stepjepa bench: ")
    assert message in error


def test_no_cuda(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cli.main(["bench", "--device", "cuda"]) == 1
    assert "CUDA is not available" in capsys.readouterr().err


def test_too_few_usable_examples(data_file):
    with pytest.raises(UserError, match=r"Only 12 of 13 examples have at least two steps, but a microbatch needs 20"):
        bench(BenchOptions(**{**TINY, "batch_size": 20}, train_file=[str(data_file)]))
    with pytest.raises(UserError, match=r"at least two steps within max_length=60.*smaller batch_size"):
        bench(BenchOptions(**TINY, max_length=60, train_file=[str(data_file)]))
