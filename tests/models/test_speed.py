"""What makes training quicker changes no result: rows of the embedding as PEFT trains them, dropout as torch's."""

import copy
import platform
import subprocess
import sys

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.trainable_tokens.layer import TrainableTokensLayer
from small_models import CONFIGS
from torch import nn
from transformers import AutoModelForCausalLM

from stepjepa import load_model
from stepjepa.models.speed import BitsDropout, TrainedRows, faster_adapter


@pytest.mark.parametrize("family", ["llama", "gemma3"])
@pytest.mark.parametrize("tied", [True, False])
def test_trained_rows_are_those_of_peft(family, tied):
    """Losses and gradients; Gemma's embedding scales what it gives."""
    config = CONFIGS[family]()
    config.tie_word_embeddings = tied
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(config).double()
    options = LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", trainable_token_indices=[3, 7])
    theirs = get_peft_model(base, options).double()
    for parameter in theirs.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.1)
    ours = faster_adapter(copy.deepcopy(theirs))
    assert {type(m) for m in theirs.modules()} & {TrainableTokensLayer, TrainedRows} == {TrainableTokensLayer}
    assert {type(m) for m in ours.modules()} & {TrainableTokensLayer, TrainedRows} == {TrainedRows}
    ids = torch.tensor([[3, 5, 7, 3, 1, 2], [7, 7, 4, 9, 3, 8]])
    for model in (theirs, ours):
        model(input_ids=ids, labels=ids).loss.backward()
    expected = {name: parameter.grad for name, parameter in theirs.named_parameters() if parameter.requires_grad}
    found = {name: parameter.grad for name, parameter in ours.named_parameters() if parameter.requires_grad}
    rows = [gradient for name, gradient in found.items() if "token" in name]
    assert rows
    assert all(gradient.abs().max() > 0 for gradient in rows)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8)
    with torch.no_grad(), ours.disable_adapter(), theirs.disable_adapter():
        torch.testing.assert_close(ours(input_ids=ids).logits, theirs(input_ids=ids).logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_drops_its_share_scales_the_rest_and_depends_on_the_seed_alone(dtype):
    dropout, ones = BitsDropout(0.25), torch.ones(1001, 301, dtype=dtype, requires_grad=True)
    torch.manual_seed(1)
    one = dropout(ones)
    one.sum().backward()
    assert one.dtype == dtype
    assert ones.grad.equal(one)  # what is dropped gets no gradient, what is kept is scaled
    assert set(one.detach().unique().tolist()) == {0.0, torch.tensor(4 / 3, dtype=dtype).item()}
    share = (one == 0).float().mean().item()
    assert share == pytest.approx(0.25, abs=5 * (0.25 * 0.75 / one.numel()) ** 0.5)
    assert (one == 0).float().mean(dim=0).std() < 0.02  # independent: binomial with 1,001 draws a column, 0.0137
    assert not dropout(ones).equal(one)
    torch.manual_seed(1)
    assert dropout(ones).equal(one)
    assert dropout.eval()(ones).equal(ones)


def test_lora_is_loaded_with_both():
    model, _ = load_model("builtin", lora=True)
    kinds = {type(module) for module in model.modules()}
    assert {BitsDropout, TrainedRows} <= kinds
    assert not {nn.Dropout, TrainableTokensLayer} & kinds


FAULTS = """
import resource, torch
from stepjepa.models.speed import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = min(faults() for _ in range(5))
keep_freed_memory()
print(before, min(faults() for _ in range(5)))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_memory_is_taken_again_without_page_faults():
    """64 MiB are 16,384 pages of 4 KiB or 32 of 2 MiB; in a process whose heap has no holes yet."""
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert before >= 32
    assert after < 10
