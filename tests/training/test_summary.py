"""What a run says of itself: a first figure only where there is a later one, a collapse is not seen in the first."""

import math

import pytest

from stepjepa.training.config import StepJEPAConfig
from stepjepa.training.monitor import collapse_message
from stepjepa.training.summary import summary_table


def record(*losses, **after):
    logs = [{"step": n, "lm_loss": loss} for n, loss in enumerate(losses, 1)]
    sizes = {"per_device_train_batch_size": 4, "per_device_eval_batch_size": 8}
    about = {"configuration": {"training": sizes}, "optimizer_steps": 3, "wall_seconds": 1.0}
    return {"log_history": logs, "before": {}, "after": after, **about}


def test_one_log_entry_is_not_compared_with_itself():
    (row,) = (line for line in summary_table(record(2.0)).splitlines() if "lm_loss" in line)
    assert row.split()[-2:] == ["–", "2.0000"]
    (row,) = (line for line in summary_table(record(2.0, 1.5)).splitlines() if "lm_loss" in line)
    assert row.split()[-2:] == ["2.0000", "1.5000"]


def test_missing_evaluation_data_are_named_and_no_log_is_no_error():
    assert "no evaluation data" in summary_table(record(2.0, 1.0))
    assert "no evaluation data" not in summary_table(record(2.0, 1.0, eval_lm_loss=1.0))
    assert "3 optimizer steps" in summary_table(record())


@pytest.mark.parametrize(
    ("before", "now", "warns"),
    [
        ([], 0.0001, False),  # the first figure: nothing to compare it with
        ([0.004], 0.011, False),  # alike before training, no longer now
        ([0.004], 0.003, True),
        ([0.3, 0.2], 0.009, True),
        ([0.3], 0.02, False),
    ],
)
def test_a_collapse_is_not_seen_in_the_first_figure(before, now, warns):
    logs = {"target_spread": now, "retrieval": 0.1, "retrieval_chance": 0.1}
    history = [{"step": 0, "eval_loss": 1.0}, *({"target_spread": spread} for spread in before)]
    assert (collapse_message(logs, history, threshold=0.01) is not None) == warns
    assert collapse_message({}, history, threshold=0.01) is None


@pytest.mark.parametrize(
    ("before", "said"), [(0.3, "Targets are collapsing"), (0.002, "Targets were nearly one vector")]
)
def test_targets_that_were_alike_from_the_start_have_not_collapsed(before, said):
    message = collapse_message(
        {"target_spread": 0.004, "retrieval": 0.1, "retrieval_chance": 0.1}, [{"target_spread": before}], 0.01
    )
    assert message.startswith(said)


def test_retrieval_is_said_with_the_size_of_its_batches():
    """Training and evaluation have other sizes, and so other levels of chance."""
    logs = [{"lm_loss": 1.0, "retrieval": 0.3, "retrieval_chance": 0.25}]
    table = summary_table(
        record(eval_lm_loss=1.0, eval_retrieval=0.2, eval_retrieval_chance=0.125) | {"log_history": logs}
    )
    assert "train retrieval in microbatches of 4" in table
    assert "eval retrieval in batches of 8" in table
    assert table.count("by chance") == 2


NUMBERS = ("learning_rate", "temperature", "collapse_threshold", "weight_decay", "max_grad_norm", "num_train_epochs")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", NUMBERS)
def test_no_option_is_a_number_that_is_none(name, value):
    with pytest.raises(ValueError, match=f"{name}=.* finite"):
        StepJEPAConfig(output_dir="x", **{name: value})


@pytest.mark.parametrize(
    "options",
    [{"num_train_epochs": 0}, {"num_train_epochs": -1}, {"max_steps": 0}, {"learning_rate": -1.0}, {"adam_beta2": 1.0}],
)
def test_no_steps_and_no_optimizer_are_refused_before_training(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        StepJEPAConfig(output_dir="x", **options)


def test_bfloat16_on_a_processor_needs_no_other_option():
    assert StepJEPAConfig(output_dir="x", bf16=True).bf16
