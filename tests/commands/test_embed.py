"""Embeddings are the states of `encode_views`, each with the labels of its own step."""

import json

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from stepjepa.analysis.embeddings import load
from stepjepa.analysis.encode import (
    check_predictors,
    encode_examples,
    joined,
    random_weights,
    with_responses,
    with_system_prompt,
)
from stepjepa.commands.embed import main
from stepjepa.commands.score import main as score
from stepjepa.data.sources import make_example, read_examples
from stepjepa.data.tokens import tokenize_example
from stepjepa.evaluation.results import Results, question_ids
from stepjepa.jepa.layout import StepJEPACollator
from stepjepa.jepa.pairs import BranchLayout
from stepjepa.jepa.views import encode_views
from stepjepa.models.checkpoint import BUILTIN_PATH
from stepjepa.models.loading import load_model
from stepjepa.records import UserError, write_jsonl


@pytest.fixture(scope="module")
def loaded():
    return load_model()


@pytest.fixture(scope="module")
def examples():
    return read_examples("builtin", split="test", count=7, seed=1)[0]


@pytest.fixture(scope="module")
def embeddings(loaded, examples):
    correct = dict(zip(question_ids(examples)[:3], (True, False, True), strict=True))
    return encode_examples(*loaded, examples, correct=correct, layers=[0, 2, 5], batch_size=3, progress=False)


@torch.no_grad()
def direct(loaded, example, **layout):
    model, tokenizer = loaded
    collate = StepJEPACollator(tokenizer, BranchLayout(**{"pairs": "consecutive"} | layout))
    return encode_views(model, collate([tokenize_example(example, tokenizer)]), layers=[0, 2, 5], step_states=True)


def close(array, tensor):
    np.testing.assert_allclose(array, tensor.numpy(), atol=1e-5, rtol=0)


def test_states_are_those_of_encode_views(loaded, examples, embeddings):
    """Example by example, without padding, with labels: batching, sorting and missing labels changed nothing."""
    for i, example in enumerate(examples):
        views = direct(loaded, example)
        pairs, states = embeddings.pair_example == i, embeddings.state_example == i
        close(embeddings.context[pairs], views.context)
        close(embeddings.target[pairs], views.target)
        close(embeddings.states[states], views.step_states)
        assert embeddings.context_step[pairs].tolist() == views.steps[:, 0].tolist()
        assert embeddings.target_step[pairs].tolist() == views.steps[:, 1].tolist()
        assert embeddings.state_step[states].tolist() == views.step_index[:, 1].tolist()
        for layer in (0, 2, 5):
            close(embeddings.context_layers[layer][pairs], views.context_layers[layer])
            close(embeddings.target_layers[layer][pairs], views.target_layers[layer])
            close(embeddings.state_layers[layer][states], views.step_layers[layer])
    assert (np.diff(embeddings.pair_example) >= 0).all()
    np.testing.assert_array_equal(embeddings.context_layers[5], embeddings.context)
    assert embeddings.info["counts"]["pairs"] == sum(example["total_steps"] - 1 for example in examples)


def test_labels_are_those_of_the_problems(examples, embeddings):
    assert embeddings.questions == [example["question"] for example in examples]
    assert embeddings.steps == [example["steps"] for example in examples]
    assert embeddings.ids == question_ids(examples)
    assert embeddings.correct.tolist() == [1, 0, 1, -1, -1, -1, -1]
    closing = 0
    for e, k, code, value in zip(
        embeddings.state_example, embeddings.state_step, embeddings.operation, embeddings.value, strict=True
    ):
        latents = examples[e]["latents"]
        if k == len(latents):  # the step that states the answer
            closing += 1
            assert code == -1
            assert np.isnan(value)
        else:
            assert embeddings.operation_names[code] == latents[k]["operation"]
            assert value == latents[k]["value"]
            assert f"{value:.0f}" in examples[e]["steps"][k]
    assert closing == len(examples)


def test_batch_size_and_order_change_nothing(loaded, examples, embeddings):
    one = encode_examples(*loaded, examples, batch_size=1, progress=False)
    np.testing.assert_allclose(one.context, embeddings.context, atol=1e-5, rtol=0)
    np.testing.assert_allclose(one.states, embeddings.states, atol=1e-5, rtol=0)
    again = encode_examples(*loaded, examples, layers=[0, 2, 5], batch_size=3, progress=False)
    np.testing.assert_array_equal(again.target, embeddings.target)
    turned = encode_examples(*loaded, examples[::-1], batch_size=3, progress=False)
    for i in range(len(examples)):
        there = turned.pair_example == len(examples) - 1 - i
        np.testing.assert_allclose(turned.target[there], embeddings.target[embeddings.pair_example == i], atol=1e-5)


def test_a_target_sees_its_own_step_only(loaded, examples):
    """Another digit in the first step (a token each): later targets stay to the bit, contexts do not."""
    example = examples[0]
    first = example["steps"][0].translate(str.maketrans("0123456789", "1234567890"))
    steps = [first, *example["steps"][1:]]
    changed = {
        **example,
        "steps": steps,
        "messages": [*example["messages"][:-1], {"role": "assistant", "content": "\n\n".join(steps)}],
    }
    assert first != example["steps"][0]
    assert len(tokenize_example(changed, loaded[1])["input_ids"]) == len(
        tokenize_example(example, loaded[1])["input_ids"]
    )
    before, after = (encode_examples(*loaded, [each], progress=False) for each in (example, changed))
    np.testing.assert_array_equal(after.target, before.target)
    assert (np.abs(after.context - before.context).max(axis=1) > 1e-4).all()
    trunk = encode_examples(*loaded, [changed], layout=BranchLayout("consecutive", isolation="none"), progress=False)
    np.testing.assert_allclose(trunk.target, trunk.states[1:], atol=1e-6)
    assert not np.allclose(trunk.target, after.target, atol=1e-3)


def test_layouts_and_length_limits(loaded, examples):
    whole = encode_examples(*loaded, examples, layout=BranchLayout("question_answer"), progress=False)
    assert whole.target_step.tolist() == [-1] * len(examples)
    ahead = encode_examples(*loaded, examples, layout=BranchLayout("horizon", horizon=2), progress=False)
    assert (ahead.target_step - ahead.context_step == 2).all()
    rows = [tokenize_example(example, loaded[1]) for example in examples]
    ends = [len(row["step_ids"]) - row["step_ids"][::-1].index(0) for row in rows]  # where the first step ends
    longest, limit = int(np.argmax(ends)), max(ends) - 1
    cut = encode_examples(
        *loaded, examples, layout=BranchLayout("consecutive", max_length=limit), correct={"?": True}, progress=False
    )
    counts = cut.info["counts"]
    assert cut.ids == question_ids(examples)[:longest] + question_ids(examples)[longest + 1 :]
    assert (counts["examples"], counts["embedded"], counts["too_long"]) == (7, 6, 1)
    assert counts["cut"] == sum(len(row["input_ids"]) > limit for row in rows) - 1
    assert counts["without_pair"] == 6 - len(set(cut.pair_example))
    for i, name in enumerate(cut.ids):
        row = rows[question_ids(examples).index(name)]
        whole_steps = len({step for step in row["step_ids"] if step >= 0} - set(row["step_ids"][limit:]))
        assert (cut.state_example == i).sum() == whole_steps


def test_what_cannot_be_embedded_is_refused(loaded, examples):
    model, tokenizer = loaded
    with pytest.raises(UserError, match=r"lacks <\|predictor\|>"):
        encode_examples(model, AutoTokenizer.from_pretrained(BUILTIN_PATH), examples, progress=False)
    with pytest.raises(UserError, match=r"layer 6: the model has layers 0 \(embedding output\) to 5"):
        encode_examples(model, tokenizer, examples, layers=[1, 6], progress=False)
    single = [make_example("What is 1 + 1?", ["The answer is \\boxed{2}."], "2", "mine", None)]
    broken = [{**single[0], "steps": ["Other text."]}]
    with pytest.raises(UserError, match=r"example 0 \(«What is 1 \+ 1\?»\): the steps joined"):
        encode_examples(model, tokenizer, broken, progress=False)
    with pytest.raises(UserError, match="none of the 1 examples has a view pair"):
        encode_examples(model, tokenizer, single, progress=False)


def test_the_training_mode_is_restored(loaded, examples):
    model, tokenizer = loaded
    model.train()
    trained = encode_examples(model, tokenizer, examples[:1], progress=False)
    assert model.training
    model.eval()
    np.testing.assert_array_equal(
        encode_examples(model, tokenizer, examples[:1], progress=False).context, trained.context
    )
    assert not model.training


def test_random_weights_are_seeded_and_of_the_same_architecture(loaded):
    model, _ = loaded
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    one, same, other = (random_weights(model, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.rand(1), expected)  # the caller's random numbers are as without
    shapes = {name: each.shape for name, each in model.state_dict().items()}
    assert {name: each.shape for name, each in one.state_dict().items()} == shapes
    for (_, a), (_, b), (_, c), (name, own) in zip(
        *(each.named_parameters() for each in (one, same, other, model)), strict=True
    ):
        assert torch.equal(a, b)
        if a.ndim > 1:  # norms start at one whatever the seed
            assert not torch.equal(a, c), name
            assert not torch.allclose(a, own, atol=1e-3), name
    lora = get_peft_model(load_model()[0], LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear"))
    bare = random_weights(lora, 0)
    assert {name: each.shape for name, each in bare.state_dict().items()} == shapes
    assert all(torch.equal(a, b) for a, b in zip(bare.parameters(), one.parameters(), strict=True))


class Vocabulary:
    def __init__(self, *tokens):
        self.tokens = tokens

    def get_added_vocab(self):
        return dict.fromkeys(self.tokens, 0)


def test_another_number_of_predictor_tokens_is_refused():
    assert check_predictors(Vocabulary("<|predictor|>", "<pad>"), 1)
    assert check_predictors(Vocabulary("<|predictor_1|>", "<|predictor_2|>"), 2)
    assert not check_predictors(Vocabulary("<pad>"), 3)
    first_one_then_two = Vocabulary("<|predictor|>", "<|predictor_1|>", "<|predictor_2|>")
    assert check_predictors(first_one_then_two, 1)
    assert check_predictors(first_one_then_two, 2)
    with pytest.raises(UserError, match="--predictors 3: the model was trained with 2"):
        check_predictors(first_one_then_two, 3)
    with pytest.raises(UserError, match="trained with 2; give --predictors 2"):
        check_predictors(Vocabulary("<|predictor_1|>", "<|predictor_2|>"), 3)
    with pytest.raises(UserError, match="--predictors 2: the model was trained with 1"):
        check_predictors(Vocabulary("<|predictor|>"), 2)


# ---- results and responses -----------------------------------------------------------------------------------


def result_rows(examples, tokenizer=None):
    """Every second question answered correctly, in a response of one step more than the gold solution."""
    from stepjepa.data.encoding import prompt_of

    rows = []
    for i, (name, example) in enumerate(zip(question_ids(examples), examples, strict=True)):
        response = "\n\n".join(["Let us think about it first.", *example["steps"]])
        row = {"id": name, "index": i, "question": example["question"], "response": response}
        row |= {"extracted": "1", "gold": example["answer"], "correct": i % 2 == 0}
        if tokenizer is not None:
            row["prompt"] = prompt_of(example, tokenizer).text
        rows.append(row)
    return rows


def write_results(rows, path):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    path.with_suffix(".summary.json").write_text('{"complete": true}')
    return path


def test_results_are_joined_by_id(examples):
    rows = result_rows(examples)[::-1][:4]
    ids = question_ids(examples)
    assert joined(ids, Results("r.jsonl", rows, {})) == {name: i % 2 == 0 for i, name in enumerate(ids) if i >= 3}
    others = read_examples("builtin", split="validation", count=3)[0]
    with pytest.raises(UserError, match=r"r\.jsonl: these are results of other questions"):
        joined(question_ids(others), Results("r.jsonl", rows, {}))


def test_responses_take_the_place_of_solutions(examples):
    rows, ids = result_rows(examples), question_ids(examples)
    rows[2]["response"] = " \n\n "
    rows[3]["response"] = "7"
    replaced, names = with_responses(examples, ids, Results("r.jsonl", rows, {}))
    assert names == ids[:2] + ids[3:]
    assert replaced[0]["steps"] == ["Let us think about it first.", *examples[0]["steps"]]
    assert replaced[0]["messages"][-1]["content"] == rows[0]["response"]
    assert replaced[0]["messages"][:-1] == examples[0]["messages"][:-1]
    assert "latents" not in replaced[0]  # they describe other steps
    assert replaced[2]["steps"] == ["7"]
    with pytest.raises(UserError, match="no response to 5 of the 7 questions"):
        with_responses(examples, ids, Results("r.jsonl", rows[:2], {}))


# ---- the command ---------------------------------------------------------------------------------------------


def run(*words):
    return main([*map(str, words)])


def test_the_command_writes_views_labels_and_configuration(tmp_path, capsys, examples, embeddings):
    path = tmp_path / "e.npz"
    assert run("--problems", 7, "--layers", "all", "--batch_size", 3, "--output_file", path) == 0
    written = load(path)
    np.testing.assert_array_equal(written.context, embeddings.context)
    assert sorted(written.state_layers) == [0, 1, 2, 3, 4, 5]
    assert written.info["model"]["name"] == "builtin"
    assert written.info["model"]["random_weights"] is None
    assert not written.info["model"]["predictor_in_checkpoint"]
    assert len(written.info["model"]["weights"]["model.safetensors"]) == 64
    assert written.info["environment"]["packages"]["torch"]
    assert "no predictor token was trained" in capsys.readouterr().out


def test_bf16_rounds_and_the_file_says_so(tmp_path, embeddings):
    path = tmp_path / "e.safetensors"
    assert run("--problems", 7, "--bf16", "--output_file", path) == 0
    written = load(path)
    apart = np.linalg.norm(written.context - embeddings.context) / np.linalg.norm(embeddings.context)
    assert 1e-3 < apart < 0.05  # a rounding unit of bfloat16 is 0.4%
    assert written.info["model"]["bf16"] is True
    assert written.info["model"]["dtype"] == "float32"


def test_the_random_control_of_the_command(tmp_path, embeddings):
    paths = [tmp_path / f"{i}.safetensors" for i in range(3)]
    for path, seed in zip(paths, (0, 0, 1), strict=True):
        assert run("--problems", 7, "--random_weights", seed, "--output_file", path) == 0
    one, same, other = map(load, paths)
    np.testing.assert_array_equal(one.context, same.context)
    assert not np.allclose(one.target, other.target, atol=1e-2)
    assert not np.allclose(one.target, embeddings.target, atol=1e-2)
    assert one.info["model"]["random_weights"] == 0
    assert one.ids == embeddings.ids


def test_results_and_responses_of_the_command(tmp_path, loaded, examples, capsys):
    data = tmp_path / "mine.jsonl"
    write_jsonl(examples, data)
    results = write_results(result_rows(examples, loaded[1])[1:], tmp_path / "r.jsonl")
    path = tmp_path / "e.safetensors"
    assert run("--test_file", data, "--results", results, "--output_file", path) == 0
    gold = load(path)
    assert gold.correct.tolist() == [-1, 0, 1, 0, 1, 0, 1]
    assert gold.operation_names  # prepared rows carry their latents
    assert str(tmp_path) not in json.dumps(gold.info)
    assert gold.info["data"]["files"] == ["mine.jsonl"]
    assert "correctness known: 6" in capsys.readouterr().out

    write_results(result_rows(examples, loaded[1]), tmp_path / "r.jsonl")
    assert run("--test_file", data, "--results", results, "--use_responses", "--output_file", path) == 0
    own = load(path)
    assert own.correct.tolist() == [1, 0, 1, 0, 1, 0, 1]
    assert [len(steps) for steps in own.steps] == [example["total_steps"] + 1 for example in examples]
    assert own.operation_names == []
    assert own.info["data"]["solutions"] == "responses"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--use_responses"], "give a result file with --results"),
        (["--layers", "0", "9"], "layer 9: the model has"),
        (["--layers", "-1"], "numbers from 0"),
        (["--results", "RESULTS"], "results of other questions"),
        (["--results", "absent.jsonl"], "no such result file"),
        (["--results", "RESULTS", "--use_responses"], "results of other questions"),
    ],
)
def test_mistakes_leave_the_earlier_file(tmp_path, examples, words, message):
    results = write_results(result_rows(examples), tmp_path / "r.jsonl")
    path = tmp_path / "e.npz"
    path.write_text("earlier")
    words = [str(results) if word == "RESULTS" else word for word in words]
    if words[:2] == ["--layers", "-1"]:
        words = ["--layers=-1"]
    with pytest.raises(UserError, match=message):
        run("--problems", 3, "--split", "validation", "--output_file", path, *words)
    assert path.read_text() == "earlier"


def test_responses_to_another_prompt_are_refused(tmp_path, loaded, examples):
    data = tmp_path / "mine.jsonl"
    write_jsonl(with_system_prompt(examples, "Be brief."), data)
    results = write_results(result_rows(examples, loaded[1]), tmp_path / "r.jsonl")
    words = ("--test_file", data, "--results", results, "--use_responses", "--output_file", tmp_path / "e.npz")
    with pytest.raises(UserError, match="answered under another prompt"):
        run(*words, "--system_prompt", "file")
    assert run(*words, "--system_prompt", "none") == 0


def test_the_system_prompt_is_that_of_the_training(tmp_path, capsys, examples):
    """The built-in model was trained without one; rows that bring their own are embedded as it was trained."""
    data = tmp_path / "mine.jsonl"
    write_jsonl(with_system_prompt(examples, "Be brief."), data)
    contexts = []
    for mode in ("train", "none", "file"):
        path = tmp_path / f"{mode}.npz"
        assert run("--test_file", data, "--system_prompt", mode, "--output_file", path) == 0
        contexts.append(load(path).context)
    assert "system prompt: none, as in the training of the built-in model" in capsys.readouterr().out
    np.testing.assert_array_equal(contexts[0], contexts[1])
    assert not np.allclose(contexts[0], contexts[2], atol=1e-3)
    both = with_system_prompt(with_system_prompt(examples, "One."), "Two.")
    assert [turn["content"] for turn in both[0]["messages"][:2]] == ["Two.", examples[0]["question"]]
    assert with_system_prompt(both, None)[0]["messages"] == examples[0]["messages"]


def test_texts_longer_than_the_positions_of_a_model_lose_steps(tmp_path):
    """Learned positions have no more rows than they have."""

    def with_positions(count):
        folder, sizes = tmp_path / f"gpt2-{count}", {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": count}
        GPT2LMHeadModel(GPT2Config(vocab_size=1024, bos_token_id=1, eos_token_id=2, **sizes)).save_pretrained(folder)
        load_model()[1].save_pretrained(folder)
        return ["--model_name", str(folder), "--problems", "12", "--device", "cpu", "--output_file"]

    words = with_positions(200)
    assert main([*words, str(tmp_path / "e.npz")]) == 0
    counts = load(tmp_path / "e.npz").info["counts"]
    assert counts["cut"] + counts["too_long"] > 0
    assert score([*words, str(tmp_path / "s.jsonl")]) == 0
    rows = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    energies = [energy for row in rows for energy in row["energies"]]
    assert None in energies
    assert set(map(type, energies)) == {float, type(None)}
    with pytest.raises(UserError, match="none of the 12 examples can be embedded"):
        main([*with_positions(40), str(tmp_path / "e.npz")])
