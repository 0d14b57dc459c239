"""The engine's invariants: single pass = two passes, isolation, padding and packing, refusals."""

import pytest
import torch
import transformers as tf
from small_models import CONFIGS, EAGER_ONLY, SIZES, WINDOW, collator, small_model, small_rows

from stepjepa.jepa.architectures import UnsupportedArchitectureError, check_architecture, check_isolation
from stepjepa.jepa.layout import FLEX_BLOCK
from stepjepa.jepa.losses import jepa_losses
from stepjepa.jepa.reference import two_pass_views
from stepjepa.jepa.views import encode_views
from stepjepa.models.loading import checkpoint_activations

LAYOUTS = [
    {"pairs": "first"},
    {"pairs": "consecutive", "predictors": 2},
    {"pairs": "horizon", "horizon": 2, "isolation": "sink"},
    {"pairs": "question_answer"},
    {"pairs": "consecutive", "isolation": "none"},
    {"pairs": "consecutive", "pooling": "mean", "predictors": 2},
    {"pairs": "horizons", "horizon": 3, "predictors": 3},
]
POOLED = [
    {"pairs": "consecutive", "pooling": "content"},
    {"pairs": "horizon", "horizon": 2, "isolation": "sink", "pooling": "mean"},
    {"pairs": "consecutive", "isolation": "none", "pooling": "mean"},
    {"pairs": "question_answer", "isolation": "none", "pooling": "content"},
    {"pairs": "hierarchy", "pooling": "mean"},
    {"pairs": "hierarchy", "isolation": "sink", "predictors": 2},
    {"pairs": "horizons", "horizon": 2, "pooling": "content"},
]
LAYERS = [{}, {"target_layer": 1}, {"target_layer": -2, "target_top": 2}, {"target_top": 3}]


def gradients(model, views):
    model.zero_grad()
    (views.lm_loss + 0.5 * jepa_losses(views.context, views.target).mean()).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def differences(model, batch, **layers):
    """Relative difference of LM loss and gradients, largest difference of the views, single vs two pass."""
    one = encode_views(model, batch, **layers)
    grad_one = gradients(model, one)
    two = two_pass_views(model, batch, **layers)
    grad_two = gradients(model, two)
    assert torch.equal(one.steps, two.steps)
    assert torch.equal(one.example, two.example)
    assert torch.equal(one.token_examples, two.token_examples)
    assert len(one.context) > 0
    return {
        "lm": abs(one.lm_loss.item() / two.lm_loss.item() - 1),
        "views": max((one.context - two.context).abs().max(), (one.target - two.target).abs().max()).item(),
        "gradient": ((grad_one - grad_two).norm() / grad_two.norm()).item(),
    }


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: "-".join(map(str, layout.values())))
@pytest.mark.parametrize("name", CONFIGS)
def test_single_pass_equals_two_passes(name, layout):
    difference = differences(small_model(name), collator(**layout)(small_rows()))
    assert difference["lm"] <= 1e-6
    assert difference["views"] <= 1e-5
    assert difference["gradient"] <= 1e-5


@pytest.mark.parametrize("layers", LAYERS, ids=str)
@pytest.mark.parametrize("layout", POOLED, ids=lambda layout: "-".join(map(str, layout.values())))
def test_single_pass_equals_two_passes_whatever_a_target_is_read_from(layout, layers):
    rows = [
        {**row, "separator": [int(i % 3 == 0) for i in range(size)], "part_ids": [i // 2 % 2 for i in range(size)]}
        for row in small_rows()
        for size in [len(row["input_ids"])]
    ]
    for name in ("llama", "gpt2"):
        difference = differences(small_model(name), collator(**layout)(rows), **layers)
        assert max(difference.values()) <= 1e-5


def test_a_pooled_target_is_the_mean_of_the_steps_own_states():
    """The step encoded alone, all of its states averaged; of its content, the last that is no separator."""
    model, rows = small_model("llama"), small_rows()
    rows = [
        {**row, "separator": [int(row["step_ids"][i : i + 2] in ([0, 1], [1, 2])) for i in range(len(row["labels"]))]}
        for row in rows
    ]
    for pooling, of in (("mean", lambda states, content: states.mean(0)), ("content", lambda s, c: s[c[-1]])):
        views = encode_views(model, collator(pairs="consecutive", pooling=pooling)(rows))
        for i in range(len(views.target)):
            row = rows[int(views.example[i])]
            at = [t for t, s in enumerate(row["step_ids"]) if s == int(views.steps[i, 1])]
            alone = model.get_decoder()(
                input_ids=torch.tensor([[row["input_ids"][t] for t in at]]), position_ids=torch.tensor([at]) + 1
            ).last_hidden_state[0]
            content = [k for k, t in enumerate(at) if not row["separator"][t]]
            torch.testing.assert_close(views.target[i], of(alone, content), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="`separator` column"):
        collator(pairs="consecutive", pooling="content")(small_rows())


@pytest.mark.parametrize("name", ["llama", "qwen2-windowed", "gemma3", "gpt2"])
def test_single_pass_equals_two_passes_in_eager_attention(name):
    difference = differences(small_model(name, attn_implementation="eager"), collator()(small_rows()))
    assert max(difference.values()) <= 1e-5


@pytest.mark.parametrize(("name", "gradient"), [("llama", 1e-6), ("gpt2", 1e-10)])
def test_in_float64_only_rounding_is_left(name, gradient):
    """A bug keeps its size in float64, rounding does not. RMSNorm stays in float32, which bounds Llama."""
    model = small_model(name).double()
    for layout in LAYOUTS:
        difference = differences(model, collator(**layout)(small_rows()))
        assert difference["lm"] <= 1e-10
        assert difference["views"] <= 1e-10
        assert difference["gradient"] <= gradient


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "mistral"])
def test_lm_loss_is_that_of_the_model_itself(name):
    model, rows = small_model(name), small_rows()
    views = encode_views(model, collator(pairs="consecutive")(rows))
    plain = collator(pairs="none")(rows)
    own = model(input_ids=plain["input_ids"], attention_mask=plain["attention_mask"], labels=plain["labels"]).loss
    assert views.lm_loss.item() == pytest.approx(own.item(), rel=1e-6)
    assert views.lm_tokens == sum(label != -100 for row in rows for label in row["labels"])


@pytest.mark.parametrize("name", ["llama", "qwen2-windowed", "gemma2", "gpt2", "gpt-oss"])
def test_an_isolated_step_is_that_step_encoded_alone(name):
    """The model's own causal mask over the step by itself, at the same positions."""
    model, rows = small_model(name), small_rows()
    batch = collator(pairs="consecutive")(rows)
    views = encode_views(model, batch)
    for i in range(len(views.target)):
        step = int(views.steps[i, 1])
        row = rows[int(views.example[i])]
        at = [t for t, s in enumerate(row["step_ids"]) if s == step]
        alone = model.get_decoder()(
            input_ids=torch.tensor([[row["input_ids"][t] for t in at]]),
            attention_mask=torch.ones(1, len(at), dtype=torch.long),
            position_ids=torch.tensor([at]) + 1,  # as if after one predictor token
        ).last_hidden_state[0, -1]
        torch.testing.assert_close(views.target[i], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2"])
def test_isolation_to_the_bit(name):
    """A target view ignores prompt, earlier and later steps; a context view ignores the future."""
    model, rows = small_model(name), small_rows(1)
    row = rows[0]
    before = encode_views(model, collator(pairs="consecutive")(rows))
    start, end = (row["step_ids"].index(1), len(row["step_ids"]) - 1 - row["step_ids"][::-1].index(1))

    def changed(at):
        ids = list(row["input_ids"])
        ids[at] = 3 + (ids[at] + 1) % 100
        return encode_views(model, collator(pairs="consecutive")([{**row, "input_ids": ids}]))

    for at in (0, row["step_ids"].index(0), end + 1):  # prompt, step 1, step 3
        assert torch.equal(changed(at).target[0], before.target[0])
    for at in (start, end + 1):  # step 2 and step 3 are the future of the context after step 1
        assert torch.equal(changed(at).context[0], before.context[0])
    assert not torch.equal(changed(start).target[0], before.target[0])
    assert not torch.equal(changed(0).context[0], before.context[0])


@pytest.mark.parametrize(
    "options",
    [
        {"padding_side": "left"},
        {"pad_to_multiple_of": 64},
        {"packing_length": 120},
        {"packing_length": 120, "padding_side": "left"},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["llama", "qwen2-windowed", "gpt2"])
@pytest.mark.parametrize("isolation", ["step", "sink", "none"])
@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_padding_and_packing_change_nothing(name, options, isolation, pooling):
    model, rows = small_model(name), small_rows(5)
    layout = {"pairs": "consecutive", "isolation": isolation, "pooling": pooling}
    plain = encode_views(model, collator(**layout)(rows))
    other = encode_views(model, collator(**layout, **options)(rows))
    assert torch.equal(plain.steps, other.steps)
    assert torch.equal(plain.example, other.example)
    for field in ("token_losses", "context", "target"):
        torch.testing.assert_close(getattr(other, field), getattr(plain, field), atol=1e-5, rtol=0)


def test_batch_composition_changes_nothing():
    model, rows = small_model("llama"), small_rows(4)
    together = encode_views(model, collator(pairs="consecutive")(rows))
    apart = [encode_views(model, collator(pairs="consecutive")([row])) for row in rows]
    torch.testing.assert_close(together.context, torch.cat([v.context for v in apart]), atol=1e-5, rtol=0)
    torch.testing.assert_close(together.target, torch.cat([v.target for v in apart]), atol=1e-5, rtol=0)
    torch.testing.assert_close(together.token_losses, torch.cat([v.token_losses for v in apart]), atol=1e-5, rtol=0)


def test_a_packed_batch_without_pairs_does_not_leak_between_examples():
    model, rows = small_model("llama"), small_rows(4)
    plain = encode_views(model, collator(pairs="none")(rows))
    packed = encode_views(model, collator(pairs="none", packing_length=200)(rows))
    torch.testing.assert_close(packed.token_losses, plain.token_losses, atol=1e-5, rtol=0)


def test_only_labelled_positions_reach_the_head():
    model, rows = small_model("llama"), small_rows()
    shapes = []
    model.lm_head.register_forward_hook(lambda _m, inputs, _o: shapes.append(inputs[0].shape))
    views = encode_views(model, collator(pairs="consecutive")(rows))
    assert shapes == [(views.lm_tokens, 32)]


def test_first_pair_adds_only_the_predictor_and_one_step():
    rows = small_rows(1)
    step2 = rows[0]["step_ids"].count(1)
    assert collator()(rows)["input_ids"].numel() == len(rows[0]["input_ids"]) + 1 + step2


def test_layers_step_states_and_attentions_on_request():
    model, rows = small_model("llama", attn_implementation="eager"), small_rows()
    batch = collator(pairs="consecutive")(rows)
    views = encode_views(model, batch, layers=[0, 2, 3], step_states=True, attentions=True)
    assert set(views.context_layers) == {0, 2, 3}
    torch.testing.assert_close(views.context_layers[3], views.context)
    torch.testing.assert_close(views.target_layers[3], views.target)
    assert not torch.allclose(views.context_layers[2], views.context)
    assert views.step_index.tolist() == [[e, s] for e, n in enumerate((3, 4, 1, 2)) for s in range(n)]
    control = encode_views(model, collator(pairs="consecutive", isolation="none")(rows))
    later = views.step_index[:, 1] > 0  # the control arm's targets are the trunk's step-end states
    torch.testing.assert_close(views.step_states[later], control.target)
    assert set(views.step_layers) == {0, 2, 3}
    torch.testing.assert_close(views.step_layers[3], views.step_states)
    early = encode_views(model, collator(pairs="consecutive", isolation="none")(rows), layers=[2])
    torch.testing.assert_close(views.step_layers[2][later], early.target_layers[2])
    assert not encode_views(model, batch, layers=[2]).step_layers
    forbidden = ~torch.isfinite(views.attentions[0]).all() | (views.attentions[0][0, :, 0, 1:] != 0).any()
    assert not forbidden
    assert len(views.attentions) == 3
    with pytest.raises(ValueError, match="eager"):
        encode_views(small_model("llama"), batch, attentions=True)


def test_gradient_checkpointing_changes_nothing():
    batch = collator(pairs="consecutive")(small_rows())
    model = small_model("llama").train()
    plain = gradients(model, encode_views(model, batch))
    checkpoint_activations(model)
    assert torch.equal(gradients(model, encode_views(model, batch)), plain)


def test_flex_attention_gives_the_same_views():
    """Whatever memory held before: on rows that are no whole blocks the CPU kernel made NaN of what lay behind them."""
    batch = collator(pairs="consecutive")(small_rows())
    assert batch["input_ids"].shape[1] % FLEX_BLOCK
    model = small_model("mistral", attn_implementation="flex_attention")
    with torch.no_grad():  # on CPU, FlexAttention has no backward
        dense = encode_views(small_model("mistral"), batch, step_states=True)
        for _ in range(10):
            junk = [torch.full((size,), torch.nan) for size in (100, 1_000, 10_000, 100_000) for _ in range(5)]
            del junk
            flex = encode_views(model, batch, step_states=True)
            for name in ("context", "target", "token_losses", "step_states"):
                torch.testing.assert_close(getattr(flex, name), getattr(dense, name), atol=1e-5, rtol=0)
            assert torch.equal(flex.step_index, dense.step_index)


def test_examples_without_a_pair_train_the_language_model_only():
    model = small_model("llama")
    views = encode_views(model, collator()(small_rows(2, steps=(1,))))
    assert views.context.shape == (0, 32)
    assert views.lm_tokens > 0
    assert torch.isfinite(gradients(model, encode_views(model, collator()(small_rows(4))))).all()


REFUSED = [
    (
        "linear_attention",
        lambda: tf.Qwen3NextConfig(
            **SIZES,
            num_experts=4,
            linear_num_key_heads=2,
            linear_num_value_heads=4,
            linear_key_head_dim=8,
            linear_value_head_dim=8,
        ),
    ),
    ("conv", lambda: tf.Lfm2Config(**SIZES, layer_types=["conv", "full_attention", "conv"])),
    ("(linear_attention|recurr)", lambda: tf.MambaConfig(vocab_size=160, hidden_size=32, num_hidden_layers=2)),
    ("ALiBi", lambda: tf.BloomConfig(vocab_size=160, hidden_size=32, n_layer=2, n_head=4)),
]


@pytest.mark.parametrize(("reason", "config"), REFUSED, ids=["qwen3-next", "lfm2", "mamba", "bloom"])
def test_architectures_that_leak_are_refused_by_name(reason, config):
    model = tf.AutoModelForCausalLM.from_config(config())
    with pytest.raises(UnsupportedArchitectureError, match=rf"{type(model).__name__} is not supported.*{reason}"):
        encode_views(model, collator()(small_rows()))


def test_a_convolution_inside_an_otherwise_plain_decoder_is_refused():
    model = small_model("llama")
    model.model.layers[1].mixer = torch.nn.Conv1d(32, 32, 3)
    with pytest.raises(UnsupportedArchitectureError, match=r"layers\.1\.mixer \(Conv1d\)"):
        check_architecture(model)


def test_falcon_is_refused_only_with_alibi():
    sizes = {"vocab_size": 160, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    check_architecture(tf.AutoModelForCausalLM.from_config(tf.FalconConfig(**sizes, alibi=False)))
    with pytest.raises(UnsupportedArchitectureError, match="ALiBi"):
        check_architecture(tf.AutoModelForCausalLM.from_config(tf.FalconConfig(**sizes, alibi=True)))


def test_encoder_decoders_and_flash_attention_are_refused():
    t5 = tf.T5ForConditionalGeneration(
        tf.T5Config(vocab_size=160, d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4)
    )
    with pytest.raises(UnsupportedArchitectureError, match="encoder-decoder"):
        check_architecture(t5)
    model = small_model("llama")
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(UnsupportedArchitectureError, match="flash_attention_2"):
        check_architecture(model)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_leak_check_passes_good_models(name):
    check_isolation(small_model(name))


def test_the_leak_check_catches_a_side_door():
    model = small_model("llama")
    layer = model.model.layers[0].mlp
    layer.register_forward_hook(lambda _m, _i, out: out + out.cumsum(dim=1) * 1e-3)  # a hidden recurrence
    with pytest.raises(UnsupportedArchitectureError, match="changes by"):
        check_isolation(model)


def test_windows_are_narrow_enough_to_matter():
    """The windowed test models would not test much if their window covered every sequence."""
    assert max(len(row["input_ids"]) for row in small_rows()) > WINDOW
    assert set(EAGER_ONLY) <= set(CONFIGS)
