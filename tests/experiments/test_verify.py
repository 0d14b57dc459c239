"""`stepjepa verify` passes on good models, and every check fails when its thing is broken."""

from __future__ import annotations

import copy
import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from small_models import SIZES, Tokens, small_model, small_rows
from small_tokenizers import gpt2_style, llama3_style

from stepjepa.commands import main as cli
from stepjepa.commands import verify as verify_command
from stepjepa.data import tokens as data
from stepjepa.data.encoding import Prompt, chat_encoder
from stepjepa.data.sources import make_example
from stepjepa.data.stories import generate_stories
from stepjepa.experiments import checks_data, verify
from stepjepa.experiments.checks import CannotRun, Check, Outcome, Subject, run_check
from stepjepa.experiments.options import VerifyOptions
from stepjepa.jepa import masks, views
from stepjepa.jepa.pairs import BranchLayout
from stepjepa.models.loading import load_model
from stepjepa.records import write_jsonl

CHECKS = dict(verify.CHECKS)
NAMES = list(CHECKS)


class NamedTokens(Tokens):
    """`Tokens` that can say what its ids mean."""

    @staticmethod
    def convert_ids_to_tokens(ids: list[int]) -> list[str]:
        return [f"<{i}>" for i in ids]


def subject_of(model: Any, **options: Any) -> Subject:
    """A subject over random tokens, ready for the checks that run a model."""
    subject = Subject(VerifyOptions(), BranchLayout(**options), model=model, tokenizer=NamedTokens(), supported=True)
    subject.rows = small_rows()
    subject.chosen = [row for row in subject.rows if subject.has_pair(row)]
    return subject


def check(name: str, subject: Subject) -> Check:
    return run_check(name, CHECKS[name], subject)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of a small random Llama and a small random GPT-2 with byte-level tokenizers."""
    folder = tmp_path_factory.mktemp("models")
    for name, tokenizer in (("llama", llama3_style()), ("gpt2", gpt2_style())):
        ends = {
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        }
        config = (
            tf.LlamaConfig(**SIZES | ends | {"vocab_size": len(tokenizer), "max_position_embeddings": 1024})
            if name == "llama"
            else tf.GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=4, n_positions=1024, **ends)
        )
        torch.manual_seed(0)
        tf.AutoModelForCausalLM.from_config(config).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return {path.name: str(path) for path in folder.iterdir()}


@pytest.fixture(scope="session")
def train_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("data") / "train.jsonl"
    write_jsonl(
        (make_example(p["question"], p["steps"], p["answer"], "problems", None) for p in generate_stories(12)), path
    )
    return str(path)


@pytest.fixture
def prepared(checkpoints: dict[str, str], train_file: str) -> Subject:
    """A subject with model and data read, before boundaries are looked at."""
    subject = Subject(VerifyOptions(model_name=checkpoints["llama"], train_file=train_file))
    for name in ("data format", "model"):
        assert check(name, subject).passed
    return subject


# ---- good models ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("llama", []),
        ("llama", ["--lora", "--pairs", "consecutive", "--predictors", "2", "--isolation", "sink"]),
        ("gpt2", ["--pairs", "question_answer", "--attn_implementation", "eager"]),
        ("llama", ["--bf16", "--lora"]),
        ("gpt2", ["--dtype", "bfloat16"]),
    ],
    ids=["llama", "llama-lora", "gpt2", "llama-bf16", "gpt2-bfloat16"],
)
def test_good_models_pass(model, options, checkpoints, train_file, tmp_path, capsys):
    file = tmp_path / "new folder" / "verify.json"
    words = ["--model_name", checkpoints[model], "--train_file", train_file, "--device", "cpu", *options]
    assert verify_command.main([*words, "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    names = NAMES if {"--bf16", "bfloat16"} & {*options} else [name for name in NAMES if name != "precision"]
    assert f"All {len(names)} checks passed" in printed
    assert "FAIL" not in printed
    assert ("--bf16" in printed.splitlines()[-1]) == ("--bf16" in options)
    record = json.loads(file.read_text())
    assert record["passed"] is True
    assert [entry["name"] for entry in record["checks"]] == names
    assert all(entry["passed"] and entry["status"] == "passed" and entry["figures"] for entry in record["checks"])
    assert record["options"]["model_name"] == checkpoints[model]
    assert list(file.parent.iterdir()) == [file]  # nothing temporary is left
    if "--lora" in options:
        assert "only adapters are trainable" in " ".join(printed.split())


@pytest.mark.parametrize("name", ["qwen2-windowed", "gemma2", "mixtral", "gpt-oss"])
@pytest.mark.parametrize("isolation", ["step", "none"])
def test_good_architectures_pass_the_checks_that_run_the_model(name, isolation):
    subject = subject_of(small_model(name), pairs="consecutive", isolation=isolation)
    results = [check(each, subject) for each in ("architecture", "LM loss", "two passes", "isolation", "predictor")]
    assert [result.status for result in results] == ["passed"] * 5, verify.format_table(results)
    assert ("experts" in results[3].figures) == (name in ("mixtral", "gpt-oss"))


# ---- environment, data, model --------------------------------------------------------------------------------


def test_environment_names_what_is_too_old_or_missing(monkeypatch):
    real = checks_data.version

    def version(name: str) -> str:
        if name == "safetensors":
            raise checks_data.PackageNotFoundError(name)
        return "2.0.1" if name == "torch" else real(name)

    monkeypatch.setattr(checks_data, "version", version)
    result = check("environment", Subject(VerifyOptions()))
    assert result.status == "failed"
    assert "torch 2.0.1 (needs >=2." in result.figures
    assert "safetensors is missing" in result.figures
    assert "pip install" in result.advice
    monkeypatch.setattr(checks_data.platform, "python_version", lambda: "3.8.1")
    assert "Python 3.8.1" in check("environment", Subject(VerifyOptions())).figures


def test_a_mixture_is_verified_with_all_its_rows(train_file, tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text(Path(train_file).read_text().splitlines()[0])
    count = len(Path(train_file).read_text().splitlines())
    result = check("data format", Subject(VerifyOptions(train_file=[f"{train_file}:0.9", f"{other}:0.1"])))
    assert f"{count + 1:,} read" in result.figures


def test_bad_lines_are_named_and_too_many_fail(train_file, tmp_path):
    good = Path(train_file).read_text().splitlines()
    few, many = tmp_path / "few.jsonl", tmp_path / "many.jsonl"
    few.write_text("\n".join([good[0], "{", good[1], '{"question": 3}']))
    many.write_text("\n".join([good[0], "{", "{"]))
    result = check("data format", Subject(VerifyOptions(train_file=[str(few)])))
    assert result.passed
    assert "4 read, 2 kept, 2 skipped" in result.figures
    assert "few.jsonl:2" in result.figures
    result = check("data format", Subject(VerifyOptions(train_file=[str(many)])))
    assert result.status == "failed"
    assert "stepjepa prepare" in result.advice


def test_steps_that_do_not_join_to_the_answer_fail(monkeypatch, train_file):
    examples, report = checks_data.read_examples(train_file)
    broken = [{**example, "steps": example["steps"][:-1]} for example in examples[:5]] + examples[5:]
    monkeypatch.setattr(checks_data, "read_examples", lambda *_, **__: (broken, report))
    result = check("data format", Subject(VerifyOptions()))
    assert result.status == "failed"
    assert "join to the answer in 7" in result.figures


def test_a_missing_file_or_model_is_a_failed_check_and_the_rest_is_skipped(checkpoints, train_file, tmp_path, capsys):
    assert verify_command.main(["--model_name", checkpoints["llama"], "--train_file", str(tmp_path / "no.jsonl")]) == 1
    printed = capsys.readouterr()
    assert "no file" in printed.out
    assert "skipped: there is no data" in printed.out
    assert "Traceback" not in printed.out + printed.err

    checks = verify.verify(VerifyOptions(model_name=str(tmp_path / "nothing"), train_file=train_file))
    status = {result.name: result.status for result in checks}
    assert status == {name: "skipped" for name in NAMES if name != "precision"} | {
        "environment": "passed",
        "data format": "passed",
        "model": "failed",
    }
    table = verify.format_table(checks)
    assert "Could not load" in table
    assert "Not verified: of 12 checks 1 failed (model) and 9 skipped" in table.splitlines()[-2]
    assert not any(result.passed for result in checks if result.status == "skipped")


def test_a_truncated_download_is_a_failed_check(checkpoints, train_file, tmp_path):
    shutil.copytree(checkpoints["llama"], tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    result = check("model", Subject(VerifyOptions(model_name=str(tmp_path / "model"), train_file=train_file)))
    assert result.status == "failed"
    assert result.figures


def test_bugs_of_the_checks_themselves_are_not_hidden():
    def buggy(_subject: Subject) -> Outcome:
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        run_check("buggy", buggy, Subject(VerifyOptions()))


def test_what_is_not_there_cannot_be_required():
    for name, reason in (
        ("data", "no data"),
        ("model", "no model"),
        ("rows", "no tokenized"),
        ("pairs", "no example"),
        ("engine", "not supported"),
    ):
        with pytest.raises(CannotRun, match=reason):
            Subject(VerifyOptions()).require(name)


# ---- boundaries ----------------------------------------------------------------------------------------------


def test_one_step_solutions_fail_with_the_splitter_to_use(prepared, tmp_path):
    solution = "She has 48 / 2 = 24 clips in May.\nShe sold 48 + 24 = 72 clips in all.\nThe answer is \\boxed{72}."
    prepared.examples = [make_example(f"How many clips, {i}?", [solution], "72", "mine", None) for i in range(4)]
    result = check("boundaries", prepared)
    assert result.status == "failed"
    assert "with a view pair: 0" in result.figures
    assert "--splitter line" in result.advice
    assert "stepjepa prepare --source" in result.advice
    assert check("two passes", prepared).status == "skipped"  # labels and the LM term can still be checked
    assert check("labels", prepared).passed
    assert check("architecture", prepared).passed
    assert check("LM loss", prepared).passed
    assert check("isolation", prepared).figures == "no example has a view pair"

    prepared.examples = [make_example("What?", ["Nothing to split"], "72", "mine", None)]
    assert "question_answer" in check("boundaries", prepared).advice


SPLIT_OTHERWISE = "She has 48 / 2 = 24 clips in May.\nShe sold 48 + 24 = 72 clips in all.\nThe answer is \\boxed{72}."
JOINED_AS_FRAGMENTS = "48 / 2 = 24.\n48 + 24 = 72.\nIt is \\boxed{72}."


@pytest.mark.parametrize("solution", [SPLIT_OTHERWISE, JOINED_AS_FRAGMENTS])
@pytest.mark.parametrize("form", ["prepared", "chat"])
def test_the_advice_on_one_step_solutions_works(form, solution, checkpoints, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    examples = [make_example(f"How many clips, {i}?", [solution], "72", "mine", None) for i in range(4)]
    rows = examples if form == "prepared" else [{"messages": example["messages"]} for example in examples]
    write_jsonl(rows, "one step.jsonl")
    common = ["--model_name", checkpoints["llama"], "--device", "cpu", "--splitter", "paragraph"]
    assert verify_command.main([*common, "--train_file", "one step.jsonl"]) == 1
    options = VerifyOptions(model_name=checkpoints["llama"], train_file=["one step.jsonl"], splitter="paragraph")
    advice = next(result.advice for result in verify.verify(options) if result.name == "boundaries")
    command = shlex.split(advice.splitlines()[-1])
    assert cli.main(command[1:]) == 0
    assert verify_command.main([*common, "--train_file", "prepared.jsonl"]) == 0
    capsys.readouterr()


def test_boundaries_off_by_a_token_fail(prepared, monkeypatch):
    def shifted(*args: Any) -> Any:
        rows, report = data.tokenize_dataset(*args)
        for row in rows[:3]:
            row["step_ids"] = [-1, *row["step_ids"][:-1]]
        return rows, report

    monkeypatch.setattr(checks_data, "tokenize_dataset", shifted)
    result = check("boundaries", prepared)
    assert result.status == "failed"
    assert 0 < result.values["exact"] < result.values["steps"]
    assert "first: " in result.figures


def test_a_lost_step_fails(prepared, monkeypatch):
    def lossy(*args: Any) -> Any:
        rows, report = data.tokenize_dataset(*args)
        rows[0]["step_ids"] = [-1 if step == 1 else step for step in rows[0]["step_ids"]]
        return rows, report

    monkeypatch.setattr(checks_data, "tokenize_dataset", lossy)
    result = check("boundaries", prepared)
    assert result.status == "failed"
    assert result.values["exact"] == result.values["steps"] - 1


@pytest.mark.parametrize(
    ("options", "advice"),
    [({"max_length": 10}, "raise --max_length"), ({"pairs": "horizon", "horizon": 20}, "smaller --horizon")],
    ids=["too long", "horizon"],
)
def test_no_view_pair_for_other_reasons(prepared, options, advice):
    prepared.layout = BranchLayout(**options)
    result = check("boundaries", prepared)
    assert result.status == "failed"
    assert advice in result.advice


# ---- labels, resources ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["pad", "prompt", "token", "end", "eos", "text"])
def test_wrong_labels_fail(prepared, monkeypatch, fault):
    assert check("boundaries", prepared).passed
    assert check("labels", prepared).passed
    row = prepared.rows[0]
    if fault == "pad":
        prepared.tokenizer.pad_token = prepared.tokenizer.eos_token
        wanted = "pad token"
    elif fault == "prompt":
        row["labels"] = list(row["input_ids"])
        wanted = "a label on the prompt in 1"
    elif fault == "token":
        row["labels"][-2] += 1
        wanted = "a label that is not its token in 1"
    elif fault == "end":
        row["labels"] = [*row["labels"][:-1], -100]
        wanted = "an end of turn without a label in 1"
    elif fault == "eos":
        prepared.tokenizer.eos_token = "<|begin_of_text|>"
        prepared.model.generation_config.eos_token_id = None
        wanted = "does not end generation in 12"
    else:
        monkeypatch.setattr(checks_data, "prompt_of", lambda *_: Prompt("Something else", [7]))
        wanted = "does not start with its prompt in 12"
    result = check("labels", prepared)
    assert result.status == "failed"
    assert wanted in result.figures
    assert result.advice


def test_text_that_becomes_a_control_token_fails(prepared, monkeypatch):
    result = check("text", prepared)
    assert result.passed
    assert "control tokens as text in question, system message and" in result.figures
    encoder = chat_encoder(prepared.tokenizer)
    monkeypatch.setattr(encoder.renderer.control, "encode", lambda text, _: encoder._plain([text])[0])
    result = check("text", prepared)
    assert result.status == "failed"
    assert "text became a control token, one of ['<|" in result.figures
    assert result.advice


def test_positions_beyond_the_model_fail(prepared):
    assert check("boundaries", prepared).passed
    assert check("resources", prepared).passed
    prepared.model.config.max_position_embeddings = 32
    result = check("resources", prepared)
    assert result.status == "failed"
    assert "of 32" in result.figures
    assert "--max_length 31" in result.advice


# ---- the engine ----------------------------------------------------------------------------------------------


def leak(monkeypatch: pytest.MonkeyPatch, row: int, query: int, key: int) -> None:
    """Open one cell of the mask of one row of every batch."""
    real = masks.dense_mask

    def leaky(allow: torch.Tensor, *how: Any) -> torch.Tensor:
        allow = allow.clone()
        if allow.shape[1] > 10:  # not in the six tokens of the architecture check
            allow[row, query, key] = True
        return real(allow, *how)

    monkeypatch.setattr(masks, "dense_mask", leaky)


@pytest.mark.parametrize("view", ["target", "context"])
def test_one_leaking_cell_fails_two_passes_and_isolation(monkeypatch, view):
    subject = subject_of(small_model("llama"))
    batch = subject.collator()(subject.chosen)
    query = int(batch[f"{view}_index"][1, 0])
    key = int(batch["context_end"][1, 0]) - 1 if view == "target" else int(batch["target_start"][1, 0])
    leak(monkeypatch, 1, query, key)
    assert check("architecture", subject).passed
    assert check("LM loss", subject).passed
    assert check("two passes", subject).status == "failed"
    result = check("isolation", subject)
    assert result.status == "failed"
    wanted = "step 1 changes a target view" if view == "target" else "a future token changes a context view"
    assert wanted in result.figures


def test_a_trunk_that_sees_a_branch_fails_the_lm_loss(monkeypatch):
    subject = subject_of(small_model("llama"))
    batch = subject.collator()(subject.chosen)
    leak(monkeypatch, 0, int(batch["target_end"][0, 0]) - 1, int(batch["context_index"][0, 0]))
    result = check("LM loss", subject)
    assert result.status == "failed"
    assert result.values["difference"] > result.values["tolerance"]


def test_a_hidden_recurrence_fails_architecture_and_isolation():
    model = small_model("llama")
    model.model.layers[0].mlp.register_forward_hook(lambda _m, _i, out: out + out.cumsum(dim=1) * 1e-2)
    subject = subject_of(model)
    result = check("architecture", subject)
    assert result.status == "failed"
    assert "outside the attention mask" in result.figures
    assert check("isolation", subject).status == "failed"


def test_a_target_that_sees_nothing_fails(monkeypatch):
    """Views that no longer depend on their tokens are as wrong as views that depend on too much."""
    model = small_model("llama")
    model.model.norm.register_forward_hook(lambda _m, _i, out: torch.ones_like(out) + 0 * out)
    result = check("isolation", subject_of(model))
    assert result.status == "failed"
    assert "changes no context view" in result.figures
    assert "its own tokens change no target view" in result.figures


def test_refused_architectures_skip_what_needs_the_engine():
    model = tf.AutoModelForCausalLM.from_config(
        tf.BloomConfig(vocab_size=160, hidden_size=32, n_layer=2, n_head=4), attn_implementation="eager"
    )
    subject = subject_of(model)
    subject.supported = False
    assert "ALiBi" in check("architecture", subject).figures
    for name in ("LM loss", "two passes", "isolation", "predictor"):
        assert check(name, subject).status == "skipped"


def test_what_cannot_be_trained_fails_the_architecture():
    flex = check("architecture", subject_of(small_model("llama", attn_implementation="flex_attention")))
    assert flex.status == "failed"
    assert "--attn_implementation sdpa" in flex.advice
    model = small_model("mixtral")
    model.config.output_router_logits = True
    assert "router" in check("architecture", subject_of(model)).figures


def test_not_a_number_is_not_a_pass():
    model = small_model("llama")
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = torch.nan
    subject = subject_of(model)
    for name in ("architecture", "LM loss", "two passes", "isolation"):
        assert check(name, subject).status == "failed"


@pytest.mark.parametrize("how", ["bf16", "bfloat16", "float16"])
@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_in_lower_precision_the_bound_is_what_two_passes_round(name, how):
    subject = subject_of(small_model(name), pairs="consecutive")
    if how == "bf16":
        subject.options = VerifyOptions(bf16=True)
        subject.lower = subject.model
    else:
        subject.lower = small_model(name).to(getattr(torch, how))
        subject.model = copy.deepcopy(subject.lower).float()
    result = check("precision", subject)
    assert result.passed, result.figures
    views = result.values["views"]
    assert views["bound"] == 1.5 * views["two_passes"]
    assert (1e-4 if how == "float16" else 1e-3) < views["two_passes"] < 0.2  # 11 and 8 bits: it was computed in them
    assert result.values["isolation"]["a future token changes a context view"] == 0  # to the bit in every precision


def test_a_fault_in_lower_precision_alone_is_found(monkeypatch):
    def masks_that_hide_one_more(config, batch, dtype):
        mask = masks.attention_masks(config, batch, dtype)
        if torch.is_autocast_enabled("cpu"):
            mask = mask & ~torch.eye(mask.shape[-1], dtype=torch.bool).roll(1, 0)[None, None]
        return mask

    monkeypatch.setattr(views, "attention_masks", masks_that_hide_one_more)
    subject = subject_of(small_model("llama"))
    subject.options, subject.lower = VerifyOptions(bf16=True), subject.model
    assert check("two passes", subject).passed
    result = check("precision", subject)
    assert result.status == "failed"
    assert result.values["views"]["single_pass"] > result.values["views"]["bound"]


# ---- the predictor -------------------------------------------------------------------------------------------


def test_a_frozen_predictor_row_fails():
    model = small_model("llama")
    model.get_input_embeddings().requires_grad_(False)
    result = check("predictor", subject_of(model))
    assert result.status == "failed"
    assert "frozen: <150>" in result.figures
    assert "load_model" in result.advice


def test_an_embedding_cut_off_from_the_loss_fails():
    model = small_model("llama")
    model.get_input_embeddings().register_forward_hook(lambda _m, _i, out: out.detach())
    result = check("predictor", subject_of(model))
    assert result.status == "failed"
    assert "no gradient: <150>" in result.figures


@pytest.mark.parametrize("fault", ["frozen", "not adapted", "too much"])
def test_faults_under_lora_fail(prepared, checkpoints, fault):
    assert check("boundaries", prepared).passed
    prepared.model, prepared.tokenizer = load_model(checkpoints["llama"], lora=True)
    prepared.model.eval()
    assert check("architecture", prepared).passed
    assert check("predictor", prepared).passed
    embedding = prepared.model.get_base_model().get_input_embeddings()
    if fault == "frozen":
        embedding.token_adapter.trainable_tokens_delta["default"].requires_grad_(False)
        wanted = "frozen: <|predictor|>"
    elif fault == "not adapted":
        embedding.token_adapter.token_indices["default"] = [3]
        wanted = "frozen: <|predictor|>"
    else:
        prepared.model.get_base_model().model.norm.weight.requires_grad_(True)
        wanted = "model.norm.weight"
    result = check("predictor", prepared)
    assert result.status == "failed"
    assert wanted in result.figures


# ---- the command ---------------------------------------------------------------------------------------------


def test_wrong_options_are_refused(capsys):
    with pytest.raises(ValueError, match="examples=0"):
        VerifyOptions(examples=0)
    for words in (["--pairs", "none"], ["--examples", "0"], ["--nonsense"]):
        with pytest.raises(SystemExit) as stop:
            verify_command.main(words)
        assert stop.value.code == 2
    capsys.readouterr()


def test_a_json_file_that_cannot_be_written_is_an_error(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(verify, "verify", lambda *_: [Check("all", "passed", "fine", "", {"x": float("inf")}, 0.1)])
    (tmp_path / "file").write_text("")
    assert cli.main(["verify", "--json", str(tmp_path / "file" / "verify.json")]) == 1
    assert "cannot be written" in capsys.readouterr().err
    assert verify_command.main(["--json", str(tmp_path / "verify.json")]) == 0
    assert json.loads((tmp_path / "verify.json").read_text())["checks"][0]["values"] == {"x": "inf"}


def test_the_table_says_what_to_do():
    checks = [
        Check("one", "passed", "all " + "well " * 40, "", {}, 1.0),
        Check("two", "failed", "3 of 5", "Do this.\nstepjepa prepare", {}, 2.0),
        Check("three", "skipped", "there is no data", "", {}, 0.0),
    ]
    table = verify.format_table(checks, 80)
    assert all(len(line) <= 80 for line in table.splitlines())
    assert "→ Do this." in table
    assert "→ stepjepa prepare" in table
    assert "skipped: there is no data" in table
    assert (
        " ".join(table.splitlines()[-2:])
        == "Not verified: of 3 checks 1 failed (two) and 1 skipped (three), 1 passed, in 3 s."
    )
