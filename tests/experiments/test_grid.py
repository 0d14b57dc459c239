"""Grids: what a file means, which mistakes are named, and addresses that change with the result alone."""

import copy
from argparse import ArgumentTypeError

import pytest
from transformers import HfArgumentParser

from stepjepa.experiments.grid import CellOptions, canonical, defaults
from stepjepa.experiments.grid_file import read_grid, shipped_grids
from stepjepa.records import UserError
from stepjepa.training.config import StepJEPAConfig
from stepjepa.training.configurations import names, options_of, trainer_options
from stepjepa.training.options import JEPAOptions

BASE = "base: {use_cpu: true}\n"


def grid_of(tmp_path, text, name="g.yaml"):
    file = tmp_path / name
    file.write_text(text)
    return read_grid(str(file))


def test_axes_multiply_and_arms_are_added(tmp_path):
    grid = grid_of(
        tmp_path,
        BASE + "axes: {lambda: [0.1, 1], pairs: [first, consecutive]}\narms: [{name: plain, lbd: 0}]\nseeds: [3, 5]\n"
        "baseline: plain\n",
    )
    assert list(grid.arms) == [
        "lbd=0.1, pairs=first",
        "lbd=0.1, pairs=consecutive",
        "lbd=1, pairs=first",
        "lbd=1, pairs=consecutive",
        "plain",
    ]
    assert [cell.seed for cell in grid.cells] == [3] * 5 + [5] * 5  # seed by seed
    assert grid.comparisons() == [(arm, "plain") for arm in list(grid.arms)[:4]]
    options, args = grid.cells[1].configure(output_dir=str(tmp_path))
    assert (args.lbd, args.pairs, args.seed, options.problem_seed) == (0.1, "consecutive", 3, 3)
    assert (args.learning_rate, options.max_new_tokens) == (2e-3, 256)  # the built-in model's own configuration


def test_a_baseline_may_be_each_arm_with_something_changed(tmp_path):
    grid = grid_of(tmp_path, BASE + "axes: {problems: [8, 16], lbd: [0, 0.1, 1]}\nbaseline: {lambda: 0}\n")
    assert grid.comparisons() == [
        (f"problems={n}, lbd={lbd}", f"problems={n}, lbd=0") for n in (8, 16) for lbd in ("0.1", "1")
    ]


def test_arms_that_are_one_under_several_names_are_not_compared(tmp_path):
    """At λ = 0 the options of the JEPA term are idle; a pair of twins would only make Holm's correction harsher."""
    text = "axes: {lbd: [0, 1], isolation: [step, none]}\nbaseline: {lbd: 0}"
    (tmp_path / "g.yaml").write_text(text)
    found = read_grid(str(tmp_path / "g.yaml")).comparisons()
    assert [arm for arm, _ in found] == ["lbd=1, isolation=step", "lbd=1, isolation=none"]


def test_a_model_of_ones_own_does_not_inherit_the_builtin_configuration(tmp_path):
    grid = grid_of(tmp_path, BASE + "arms: [{model_name: mine}, {lora: true}, {lora: true, learning_rate: 1e-4}]\n")
    rates = [grid.cell(arm, 0).configure(output_dir=str(tmp_path))[1].learning_rate for arm in grid.arms]
    assert rates == [None, None, 1e-4]


def test_numbers_are_one_value_however_written(tmp_path):
    addresses = {
        grid_of(tmp_path, BASE + f"axes: {{learning_rate: [{rate}], lbd: [{lbd}]}}\n").cells[0].address
        for rate, lbd in (("0.001", "1"), ("1e-3", "1.0"), ("1.0e-3", '"1"'))
    }
    assert len(addresses) == 1


def read_or_refused(read, value):
    try:
        return read(value)
    except (ValueError, TypeError, ArgumentTypeError):
        return "refused"


class PlainParser(HfArgumentParser):
    """The parser of transformers, for fields with metadata that are no words of `argparse`."""

    @staticmethod
    def _parse_dataclass_field(parser, field):
        field = copy.copy(field)
        field.metadata = {name: field.metadata[name] for name in ("help", "choices") if name in field.metadata}
        if isinstance(field.metadata.get("choices"), str):
            field.metadata["choices"] = names(field.metadata["choices"])
        HfArgumentParser._parse_dataclass_field(parser, field)


def test_values_are_read_as_the_command_line_reads_them():
    options = trainer_options() | options_of(CellOptions, JEPAOptions)
    actions = {}
    for action in PlainParser((CellOptions, StepJEPAConfig))._actions:
        actions.setdefault(action.dest, action)  # of a flag and its negation the first has the type
    assert set(options) == set(actions) - {"help"}
    no_text = {"liger_kernel_config", "parallelism_config"}
    computed_choices = {"log_level", "log_level_replica", "fsdp"}  # the last with older transformers, from its type
    for name in options.keys() - no_text - computed_choices:
        option = options[name]
        choices = actions[name].choices
        for text in ("1", "0.5", "true", "no", "line", "cosine", "adamw_torch", "nccl", "group_by_length", "words"):
            expected = read_or_refused(actions[name].type, text)
            if choices and expected not in choices:
                expected = "refused"
            found = read_or_refused(option.read, text)
            assert found == ([expected] if option.many and expected != "refused" else expected), (name, text)


def test_the_address_is_stable():
    """A literal: records in the repository are found by it. A change here orphans them."""
    grid = read_grid("lambda")
    assert grid.cell("lbd=0.1", 0).options == {
        "accuracy_problems": 300,
        "eval_problems": 100,
        "learning_rate": 0.002,
        "max_new_tokens": 256,
        "max_steps": 64,
        "problem_seed": 0,
        "problems": 1024,
        "seed": 0,
        "warmup_steps": 0.05,
    }
    assert grid.cell("lbd=0.1", 0).address == "fd001a1b9457"


CHANGES = [
    {"lbd": 0.2},
    {"gamma": 2.0},
    {"jepa_loss_type": "mse"},
    {"isolation": "none"},
    {"pairs": "consecutive"},
    {"predictors": 2},
    {"target_gradient": False},
    {"pooling": "mean"},
    {"pooling": "content"},
    {"target_layer": -2},
    {"target_top": 2},
    {"target_scale": "zscore"},
    {"head": "linear"},
    {"kl": 1.0},
    {"regularisers": ["variance=1"]},
    {"regularisers": ["variance=2"]},
    {"jepa_loss_type": "infonce", "own_negatives": False},
    {"jepa_loss_type": "infonce", "queue": 64},
    {"target_model": "frozen"},
    {"target_model": "ema"},
    {"target_model": "ema", "ema_decay": 0.5},
    {"whole_step": True},
    {"lbd_schedule": "decay"},
    {"lbd_schedule": "decay", "lbd_share": 0.2},
    {"target": "shuffled"},
    {"jepa_ratio": 0.5},
    {"lora": True},
    {"learning_rate": 1e-3},
    {"problems": 10},
    {"problem_seed": 9},
    {"train_examples": 4},
    {"detect_problems": 60},
    {"max_steps": 3},
    {"weight_decay": 0.1},
    {"per_device_train_batch_size": 2},
    {"accuracy_problems": 7},
    {"use_cpu": True},
    {"pairs": "horizon", "horizon": 2},
    {"pairs": "horizon", "horizon": 3},
    {"pairs": "horizons", "horizon": 3},
    {"pairs": "horizons", "horizon": 3, "pair_weights": [1.0, 0.5, 0.25]},
    {"pairs": "hierarchy"},
    {"jepa_loss_type": "nextlat"},
    {"jepa_loss_type": "mtp"},
    {"jepa_loss_type": "mtp", "future_tokens": 1},
    {"jepa_loss_type": "stp"},
    {"jepa_loss_type": "ssp"},
    {"jepa_loss_type": "infonce"},
    {"jepa_loss_type": "infonce", "temperature": 0.5},
    {"lora": True, "lora_rank": 4},
]


def test_whatever_changes_the_result_changes_the_configuration():
    found = [canonical(change, 0) for change in ({}, *CHANGES)] + [canonical({}, 1)]
    assert all(a != b for i, a in enumerate(found) for b in found[:i])


def test_what_others_make_idle_does_not():
    plain = canonical({"lbd": 0.0}, 0)
    for idle in (
        {"jepa_loss_type": "mse"},
        {"isolation": "sink"},
        {"pairs": "consecutive"},
        {"target": "random"},
        {"target_gradient": False},
        {"jepa_ratio": 0.5},
    ):
        assert canonical({"lbd": 0.0, **idle}, 0) == plain
        assert canonical(idle, 0) != canonical({}, 0)
    for idle in (
        {"horizon": 2},
        {"temperature": 1.0},
        {"lora_rank": 3},
        {"output_dir": "elsewhere"},
        {"logging_steps": 1.0},
        {"save_steps": 7.0},
        {"collapse_threshold": 0.5},
    ):
        assert canonical(idle, 0) == canonical({}, 0)
    assert canonical({"max_steps": 5, "num_train_epochs": 9.0}, 0) == canonical({"max_steps": 5}, 0)
    assert canonical({"predictors": 2, "lbd": 0.0}, 0) != plain  # it adds rows to the embedding


def test_looking_for_mistakes_is_refused_where_a_place_may_have_a_single_step(tmp_path):
    with pytest.raises(UserError, match="arm lbd=0: detect_problems=10 must be 0 or at least 30"):
        grid_of(tmp_path, "base: {detect_problems: 10}\naxes: {lbd: [0, 0.1]}\n")


def test_every_option_of_step_jepa_is_part_of_the_address():
    own = set(StepJEPAConfig.__annotations__) | {"seed", "weight_decay", "optim", "max_steps", "problems", "dtype"}
    assert own <= set(defaults())


def test_one_run_asked_for_twice_is_one_cell(tmp_path):
    text = BASE + "axes: {lbd: [0, 0.1], jepa_loss_type: [cosine, mse]}\nseeds: 2\n"
    grid = grid_of(tmp_path, text)
    assert len(grid.arms) == 4
    assert len(grid.cells) == 3 * 2
    assert grid.cell("lbd=0, jepa_loss_type=cosine", 1) in grid.cells


def test_shipped_grids_share_what_they_share():
    grids = {name: read_grid(name) for name in shipped_grids()}
    ablations = {"lambda", "losses", "isolation", "pairs", "lowdata"}
    assert set(grids) == ablations | {
        "equal-data",
        "objectives-screen",
        "objectives",
        "pretrained",
        "pretrained-gsm8k",
        "replication",
        "rivals-screen",
        "transfer",
    }
    plain, classic = (grids["lambda"].cell(arm, 0).address for arm in ("lbd=0", "lbd=0.1"))
    for name, arms in {
        "losses": ("plain", "jepa_loss_type=cosine, target_gradient=true"),
        "isolation": ("plain", "step"),
        "pairs": ("plain", "first"),
        "lowdata": ("problems=1024, lbd=0", "problems=1024, lbd=0.1"),
    }.items():
        assert [grids[name].cell(arm, 0).address for arm in arms] == [plain, classic]
    for grid in grids.values():
        assert grid.question
        assert grid.comparisons()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("axes: {lbd: [0}", "g.yaml: not YAML"),
        ("question: 2020-13-45", "g.yaml: not YAML: month must be in 1..12"),
        ("[" * 5000, "g.yaml: not YAML"),
        ("- 1", "g.yaml: the file: a mapping of option to value is needed, not a list"),
        ("axis: {lbd: [0]}", "g.yaml: axis: unknown key; did you mean 'axes'"),
        ("seeds: 3", "g.yaml: axes: neither axes nor arms"),
        ("base: {lbd: 1, lambda: 2}\naxes: {seeds: [1]}", "g.yaml: base: lbd: given twice"),
        ("axes: {lbdd: [0]}", "g.yaml: axes: lbdd: unknown option; did you mean 'lbd'"),
        ("axes: {lbd: 0}", "g.yaml: axes: lbd: a list of values is needed"),
        ("axes: {lbd: []}", "g.yaml: axes: lbd: a list of values is needed"),
        ("axes: {lbd: [big]}", "g.yaml: axes: lbd: 'big' cannot be used"),
        ("axes: {lbd: [-1]}", "g.yaml: arm lbd=-1: lbd=-1.0 must be"),
        ("axes: {pairs: [frist]}", "g.yaml: axes: pairs: 'frist' cannot be used: choose one of first"),
        ("axes: {target: [noise]}", "g.yaml: axes: target: 'noise' cannot be used: choose one of step"),
        ("axes: {splitter: [frist]}", "g.yaml: axes: splitter: 'frist' cannot be used"),
        ("axes: {problems: [1.5]}", "g.yaml: axes: problems: 1.5 cannot be used"),
        ("axes: {seed: [1]}", "g.yaml: axes: seed: give `seeds`"),
        ("axes: {output_dir: [a]}", "g.yaml: axes: output_dir: set by the runner"),
        ("axes: {lbd: [0], lambda: [1]}", "g.yaml: axes: lbd, lbd: an option and its alias"),
        ("axes: {lbd: [1, 1.0]}", "g.yaml: axes: two arms are called 'lbd=1'"),
        (
            "axes: {lbd: [1]}\narms: [{name: lbd=1, isolation: none}]",
            "g.yaml: arms: 'lbd=1' is the name of an arm of the",
        ),
        ("arms: {lbd: 0}", "g.yaml: arms: a list of mappings"),
        ("arms: [3]", "g.yaml: arms: 1: a mapping of option to value"),
        ("arms: [{lbd: 0}]\nbase: nothing", "g.yaml: base: config: nothing: no such file"),
        ("arms: [{lbd: 0}]\nbase: {lbdd: 1}", "g.yaml: base: lbdd: unknown option"),
        ("arms: [{lbd: 0}]\nseeds: 0", "g.yaml: seeds: 0: how many"),
        ("arms: [{lbd: 0}]\nseeds: [1, 1]", "g.yaml: seeds: [1, 1]: how many"),
        ("arms: [{lbd: 0}]\nseeds: [-1]", "g.yaml: seeds: [-1]: how many"),
        ("arms: [{lbd: 0}]\nbaseline: plain", "g.yaml: baseline: 'plain' is not an arm; the arms are lbd=0"),
        ("arms: [{lbd: 0.1}]\nbaseline: {lbd: 0}", "g.yaml: baseline: {'lbd': 0.0} matches no arm"),
        ("arms: [{train_file: x.jsonl}]", "g.yaml: arm train_file=['x.jsonl']: train_file is not the built-in"),
    ],
)
def test_mistakes_are_named_by_file_and_key(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "g.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        read_grid("g.yaml")
    assert str(caught.value).startswith(message)


def test_arms_that_no_report_could_compare_are_refused_before_they_run(tmp_path):
    for text, said in (
        ('axes: {train_file: [builtin, "builtin:easy"], lbd: [0, 0.1]}', r"eval_file and eval_problems"),
        ("axes: {accuracy_problems: [10, 20]}", r"20 of builtin; 10 of builtin\): give all arms the same test_file"),
        ("axes: {eval_problems: [0]}", r"eval_problems has to be at least 1"),
    ):
        with pytest.raises(UserError, match=said):
            grid_of(tmp_path, BASE + text)
    same = "base: {use_cpu: true, eval_file: builtin, test_file: builtin}\n"
    assert grid_of(tmp_path, same + 'axes: {train_file: [builtin, "builtin:easy"]}').arms


def test_a_grid_that_is_not_there():
    with pytest.raises(
        UserError, match=r"missing\.yaml: no such grid file, and not one of equal-data, isolation, lambda"
    ):
        read_grid("missing.yaml")
