"""What the options of a training say of themselves."""

import pytest

from stepjepa.jepa.losses import LOSSES
from stepjepa.jepa.pairs import BranchLayout
from stepjepa.jepa.registry import OBJECTIVES
from stepjepa.training.config import RUNNER, StepJEPAConfig, idle_options, settings
from stepjepa.training.configurations import options_of, read_configuration
from stepjepa.training.options import OVER_TOKENS, JEPAOptions, RunOptions

FIELDS = StepJEPAConfig.__dataclass_fields__
VALUES = {
    "lbd": 0.1,
    "pairs": "first",
    "jepa_loss_type": "cosine",
    "target": "step",
    "target_model": "own",
    "lbd_schedule": "constant",
    "max_steps": -1,
}  # what other options are idle by


def idle(**changes):
    return idle_options(VALUES | changes, FIELDS.values()) - set(RUNNER)


def test_an_option_is_idle_where_another_leaves_it_without_effect():
    always = {"collapse_threshold"}
    always |= {"ema_decay", "lbd_share", "pair_weights", "future_tokens"}
    assert idle() == always | {"horizon", "temperature", "own_negatives", "queue"}
    assert idle(pairs="horizons", jepa_loss_type="infonce") == always - {"pair_weights"}
    assert idle(pairs="horizon", jepa_loss_type="infonce") == always
    assert idle(pairs="horizon", jepa_loss_type="infonce", target="random") == always | {"target_gradient"}
    assert idle(pairs="horizon", jepa_loss_type="infonce", max_steps=5) == always | {"num_train_epochs"}
    assert idle(target_model="ema", lbd_schedule="decay") == {
        "collapse_threshold",
        "horizon",
        "temperature",
        "own_negatives",
        "queue",
        "pair_weights",
        "future_tokens",
        "target_gradient",
    }
    of_the_jepa_term = idle(lbd=0) - {"collapse_threshold"}
    assert of_the_jepa_term == {name for name, field in FIELDS.items() if field.metadata.get("jepa_only")}
    assert "predictors" not in of_the_jepa_term  # it adds rows to the embedding


def test_options_over_pairs_are_idle_or_refused_where_tokens_are_compared(tmp_path):
    """A control arm that is the same run as its own treatment would show no difference by construction."""
    assert {*OVER_TOKENS} == {*OBJECTIVES} - {*LOSSES}
    idle = idle_options({**VALUES, "lora": False, "jepa_loss_type": "stp"}, FIELDS.values())
    assert {"pairs", "pooling", "target", "head", "target_model", "target_layer", "target_scale", "queue"} <= idle
    assert "future_tokens" in idle
    assert not {"lbd", "jepa_ratio", "predictors", "lbd_schedule"} & idle
    for name, value in (
        ("target", "random"),
        ("target_model", "frozen"),
        ("head", "mlp"),
        ("kl", 0.1),
        ("regularisers", ["sigreg"]),
        ("whole_step", True),
    ):
        StepJEPAConfig(output_dir=str(tmp_path), jepa_loss_type="cosine", **{name: value})
        with pytest.raises(ValueError, match=f"^{name}=.* must be .*: ssp compares no pairs"):
            StepJEPAConfig(output_dir=str(tmp_path), jepa_loss_type="ssp", **{name: value})


@pytest.mark.parametrize("option", ["bf16_full_eval", "fp16_full_eval"])
def test_evaluation_that_would_cast_the_weights_is_refused(tmp_path, option):
    with pytest.raises(ValueError, match=f"cannot honour {option}: the parent would cast the weights in training too"):
        StepJEPAConfig(output_dir=str(tmp_path), **{option: True})


@pytest.mark.parametrize("options", [{"target_layer": 0}, {"target_top": 2}])
def test_the_head_reads_states_of_the_last_layer_alone(tmp_path, options):
    with pytest.raises(ValueError, match=r"kl=0\.5 must be 0 with target_layer and target_top"):
        StepJEPAConfig(output_dir=str(tmp_path), kl=0.5, **options)


def test_where_things_are_written_never_changes_the_result():
    named = [name for name in RUNNER if name in FIELDS]
    assert all(FIELDS[name].metadata["runner"] for name in named)
    assert {"output_dir", "seed", "save_steps", "logging_steps"} <= set(named)
    from transformers import TrainingArguments

    assert "runner" not in TrainingArguments.__dataclass_fields__["output_dir"].metadata  # the parent's are its own


def test_settings_are_what_tells_arms_and_seeds_apart(tmp_path):
    args = StepJEPAConfig(output_dir=str(tmp_path), lbd=0.3, seed=7, logging_steps=3)
    found = settings(RunOptions(lora=True, eval_problems=5), args)
    assert found.items() >= {"lbd": 0.3, "seed": 7, "lora": True, "lora_rank": 16, "model_name": "builtin"}.items()
    assert not found.keys() & {
        "output_dir",
        "logging_steps",
        "eval_problems",
        "accuracy_problems",
        "merge_lora",
        "collapse_threshold",
    }
    ours = JEPAOptions.__annotations__.keys() - set(RUNNER) - {"collapse_threshold"}
    assert ours <= found.keys()


def test_the_layout_is_that_of_the_options(tmp_path):
    args = StepJEPAConfig(output_dir=str(tmp_path), pairs="horizon", horizon=2, predictors=3, isolation="sink")
    assert args.layout == BranchLayout("horizon", 2, 3, "sink", 2048)
    with pytest.raises(ValueError, match="horizon"):
        StepJEPAConfig(output_dir=str(tmp_path), horizon=0)


def test_rivals_are_named_configurations(tmp_path):
    known = options_of(JEPAOptions, RunOptions)
    kinds = {}
    for name in ("classic", "plain", "llm-jepa", "stp", "ssp", "nextlat", "mtp", "aligned", "frozen"):
        args = StepJEPAConfig(output_dir=str(tmp_path), **read_configuration(name, known))
        kinds[name] = (args.jepa_loss_type, args.pairs, args.lbd)
    assert kinds["classic"] == ("cosine", "first", 0.1)
    assert kinds["plain"][2] == 0
    assert kinds["frozen"] == ("infonce", "consecutive", 0.02)
    assert kinds["llm-jepa"] == ("cosine", "question_answer", 1.0)
    assert [kinds[name][0] for name in ("stp", "ssp", "nextlat", "mtp")] == ["stp", "ssp", "nextlat", "mtp"]
    with pytest.raises(ValueError, match="whole_step"):
        StepJEPAConfig(output_dir=str(tmp_path), jepa_loss_type="stp", whole_step=True)
