"""What the options of a training say of themselves."""

import pytest

from stepjepa.jepa.pairs import BranchLayout
from stepjepa.models.checkpoint import TRAINING
from stepjepa.training.config import RUNNER, StepJEPAConfig, idle_options
from stepjepa.training.options import JEPAOptions

FIELDS = StepJEPAConfig.__dataclass_fields__
VALUES = {
    "lbd": 0.1,
    "pairs": "first",
    "jepa_loss_type": "cosine",
    "target": "step",
    "max_steps": -1,
}  # what other options are idle by


def idle(**changes):
    return idle_options(VALUES | changes, FIELDS.values()) - set(RUNNER)


def test_an_option_is_idle_where_another_leaves_it_without_effect():
    always = {"collapse_threshold"}
    assert idle() == always | {"horizon", "temperature"}
    assert idle(pairs="horizon", jepa_loss_type="infonce") == always
    assert idle(pairs="horizon", jepa_loss_type="infonce", target="random") == always | {"target_gradient"}
    assert idle(pairs="horizon", jepa_loss_type="infonce", max_steps=5) == always | {"num_train_epochs"}
    of_the_jepa_term = idle(lbd=0) - always
    assert of_the_jepa_term == {name for name, field in FIELDS.items() if field.metadata.get("jepa_only")}
    assert "predictors" not in of_the_jepa_term  # it adds rows to the embedding


def test_where_things_are_written_never_changes_the_result():
    named = [name for name in RUNNER if name in FIELDS]
    assert all(FIELDS[name].metadata["runner"] for name in named)
    assert {"output_dir", "seed", "save_steps", "logging_steps"} <= set(named)
    from transformers import TrainingArguments

    assert "runner" not in TrainingArguments.__dataclass_fields__["output_dir"].metadata  # the parent's are its own


def test_a_summary_names_every_option_of_ours_that_changes_what_is_trained():
    ours = {name for name in JEPAOptions.__annotations__} - set(RUNNER)
    assert ours - {"collapse_threshold", "remove_unused_columns"} <= set(TRAINING)


def test_the_layout_is_that_of_the_options(tmp_path):
    args = StepJEPAConfig(output_dir=str(tmp_path), pairs="horizon", horizon=2, predictors=3, isolation="sink")
    assert args.layout == BranchLayout("horizon", 2, 3, "sink", 2048)
    with pytest.raises(ValueError, match="horizon"):
        StepJEPAConfig(output_dir=str(tmp_path), horizon=0)
