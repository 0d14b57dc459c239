"""What `verify`, `bench` and `plan` can be told; without torch, so that a wrong option is refused at once."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from stepjepa.data.steps import Splitter
from stepjepa.models import checkpoint
from stepjepa.models.options import LoadedModel
from stepjepa.records import UserError, option

DTYPES = ("float32", "bfloat16", "float16", "float64")
ATTENTION = ("sdpa", "eager", "flex_attention")
BYTES = 256


COSTS = (
    "pairs", "horizon", "predictors", "isolation", "jepa_loss_type", "target_model", "head", "kl", "regularisers",
    "queue", "whole_step",
)  # fmt: skip
"""Options of an objective that change what an optimizer step costs; others (λ, pooling, a temperature) hardly do."""


def cost_of(options: Mapping[str, Any]) -> str:
    """A name for what an objective costs: equal for options, differing from the defaults, that cost the same."""
    if options.get("lbd") == 0:
        return "plain"
    kept = {name: options[name] for name in COSTS if options.get(name)}
    if options.get("gradient_accumulation_steps") == 1:  # a step of one microbatch needs no second pass
        kept.pop("whole_step", None)
    for name in ("queue", "kl", "regularisers"):  # of whatever size or weight
        if name in kept:
            kept[name] = True
    return json.dumps(kept, sort_keys=True)


@dataclass
class VerifyOptions(LoadedModel):
    """What to verify; the defaults are those of `stepjepa train`.

    Raises:
        ValueError: for values out of range.
    """

    train_file: Sequence[str] = option(
        ("builtin",),
        "'builtin', JSONL files (any form that prepare reads), or Hub data set ids",
        aliases=["--eval_file", "--test_file"],
        group="data",
    )
    splitter: Splitter | None = option(
        None, "how to find steps in unprepared data, as in prepare", choices=get_args(Splitter), group="data"
    )
    problems: int = option(2000, "how many built-in problems of each kind", group="data", least=1)
    lora: bool = option(False, "verify with LoRA adapters, as `stepjepa train --lora` would train", group="model")
    examples: int = option(
        4, "how many examples the model is run on; the shortest with a view pair are taken", group="data"
    )
    dtype: str = option(
        "float32",
        "of the weights; other than float32 are checked on a float32 copy, then as they are",
        choices=checkpoint.DTYPES,
        group="model",
    )
    bf16: bool = option(
        False, "check also as `stepjepa train --bf16` computes, against float32 on the same weights", group="model"
    )
    attn_implementation: str | None = option(None, "transformers' choice if absent", choices=ATTENTION, group="model")

    def __post_init__(self) -> None:
        if self.examples < 1:
            raise ValueError(f"examples={self.examples} must be at least 1.")


@dataclass
class BenchOptions:
    """Configuration of a benchmark.

    Model: `model_name` ("builtin", a Hub id, a folder), or None for a random Llama of `hidden_size`, `layers`,
    `heads`, with a tokenizer of `vocab_size` tokens and `vocab_rows` rows of embedding and head (None: as many).
    Data: `train_file` is "builtin", files or Hub ids; `max_length` cuts at a step boundary.
    Race: `batch_size` rows per microbatch, `rounds` counted rounds after `warmup` uncounted ones, a new microbatch
    each round as long as the data last. `memory_batches` microbatches are run for peak memory; 0 measures none.

    Raises:
        UserError: for values out of range.
    """

    model_name: str | None = option(
        None,
        "'builtin', a Hub id, a folder or a GGUF file; else a random Llama",
        aliases=["--model_path"],
        group="model",
    )
    hidden_size: int = option(256, "of the random Llama", group="model")
    layers: int = option(6, "of the random Llama", group="model")
    heads: int = option(4, "of the random Llama", group="model")
    vocab_size: int = option(4096, "of its tokenizer, trained here", group="model")
    vocab_rows: int | None = option(
        None, "rows of its embedding and head: a larger vocabulary's cost on the same tokens", group="model"
    )
    train_file: list[str] = option(
        ["builtin"],
        "'builtin', JSONL files (any form that prepare reads) or Hub data set ids",
        aliases=["--eval_file", "--test_file"],
        group="data",
    )
    max_length: int | None = option(
        None, "longest example in tokens; longer ones are cut at a step", group="data", least=1
    )
    batch_size: int = option(8, "rows in a microbatch", group="data")
    rounds: int = option(20, "counted rounds, each arm once in each", group="measuring")
    warmup: int = option(2, "rounds before that, not counted", group="measuring")
    memory_batches: int = option(3, "microbatches that each arm's own process runs", group="measuring")
    predictors: int = option(1, "predictor tokens before a context view", group="model")
    lbd: float = option(
        0.1, "weight λ of the JEPA term; does not change the cost", aliases=["--lambda"], group="measuring"
    )
    device: str = option("cpu", "auto (CUDA if there is one), cpu, cuda, cuda:1, …", group="measuring")
    dtype: str = option("float32", "of weights and activations", choices=DTYPES, group="model")
    bf16: bool = option(False, "compute as `stepjepa train --bf16` does, the weights as they are", group="model")
    attn_implementation: str = option(
        "sdpa", "flex_attention leaves out the arms that need dense masks", choices=ATTENTION, group="model"
    )
    threads: int | None = option(None, "CPU threads of PyTorch; its own choice if not given", group="measuring")
    seed: int = option(0, "of weights and choice of rows", group="data", least=0)

    def __post_init__(self) -> None:
        smallest = {
            "hidden_size": 1,
            "layers": 1,
            "heads": 1,
            "batch_size": 1,
            "rounds": 1,
            "warmup": 0,
            "memory_batches": 0,
            "predictors": 1,
        }
        for name, least in smallest.items():
            if getattr(self, name) < least:
                raise UserError(f"{name} must be at least {least}, not {getattr(self, name)}.")
        for name, choices in (("dtype", DTYPES), ("attn_implementation", ATTENTION)):
            if getattr(self, name) not in choices:
                raise UserError(f"Unknown {name} {getattr(self, name)!r}; choose one of {', '.join(choices)}.")
        if self.threads is not None and self.threads < 1:
            raise UserError(f"threads must be at least 1, not {self.threads}.")
        if self.attn_implementation == "flex_attention" and self.device == "cpu":
            raise UserError("flex_attention needs --device cuda: on the CPU it has no backward.")
        if self.model_name is None:
            self._check_random_model()

    def _check_random_model(self) -> None:
        if self.hidden_size % self.heads or self.hidden_size // self.heads % 2:
            raise UserError(
                f"hidden_size {self.hidden_size} must be divisible by heads {self.heads} into an even head size "
                "(rotary positions turn pairs of values)."
            )
        least = BYTES + 2 + self.predictors
        if self.vocab_size < least:
            raise UserError(f"vocab_size must be at least {least}: 256 bytes, pad, end and predictor tokens.")
        if self.vocab_rows is not None and self.vocab_rows < self.vocab_size:
            raise UserError(f"vocab_rows ({self.vocab_rows}) must be at least vocab_size ({self.vocab_size}).")

    def public(self) -> dict[str, Any]:
        """The options as JSON values, without the folders that files lie in."""
        shown = {**asdict(self), "train_file": [without_folder(name) for name in self.train_file]}
        if self.model_name is not None:
            shown["model_name"] = without_folder(self.model_name)
        return shown


CARDS = {
    "a10": (125, 31, 24),
    "l4": (121, 30, 24),
    "rtx3090": (71, 36, 24),
    "rtx4090": (165, 83, 24),
    "l40s": (362, 92, 48),
    "a100": (312, 19.5, 80),
    "h100": (989, 67, 80),
    "h200": (989, 67, 141),
    "b200": (2250, 75, 180),
    "mi300x": (1307, 163, 192),
}
"""Card → peak TFLOP/s of matrix products in bfloat16 (dense) and in float32, and memory in GB, from data sheets."""


@dataclass(frozen=True)
class PlanOptions:
    """Where a planned run would run.

    Raises:
        UserError: a device without figures.
    """

    device: str = option(
        "here",
        "this machine, whose speed is measured on a few microbatches; a card; or other",
        choices=("here", *CARDS, "other"),
    )
    devices: int = option(1, "how many of them, each with a microbatch of its own", least=1)
    tflops: float | None = option(
        None, "of --device other: peak TFLOP/s of matrix products in the precision of the run"
    )
    memory: float | None = option(None, "of --device other: its memory in GB")
    utilisation: float = option(0.4, "share of a card's peak that a run is assumed to reach", least=0.001)
    tokenizer: str | None = option(None, "the model whose tokenizer to take, where the planned one has none here")
    output_file: str | None = option(None, "write the plan as JSON", aliases=["--json"], metavar="FILE")

    def __post_init__(self) -> None:
        if (self.device == "other") != (self.tflops is not None) or (self.tflops is None) != (self.memory is None):
            raise UserError("--tflops and --memory say what --device other is: give all three or none")
        for name, value in (("tflops", self.tflops), ("memory", self.memory)):
            if value is not None and not 0 < value < math.inf:
                raise UserError(f"--{name} {value:g} has to be above 0")
        if not 0 < self.utilisation <= 1:
            raise UserError(f"--utilisation {self.utilisation}: a share, more than 0 and at most 1")


@dataclass
class GpuSuiteOptions:
    """What `stepjepa bench --gpu_suite` can be told.

    Raises:
        UserError: no time at all.
    """

    minutes: float = option(8.5, "no case is begun for which less time is left than the longest has taken")
    device: str = option("cuda", "cuda, cuda:1, …; cpu with --small")
    small: bool = option(False, "rehearse with a small model and short rows")

    def __post_init__(self) -> None:
        if self.minutes <= 0:
            raise UserError(f"minutes must be above 0, not {self.minutes}.")


def without_folder(name: str) -> str:
    """The last part of a path that exists here; any other name (a Hub id) as it is."""
    path = Path(name).expanduser()
    return path.resolve().name if path.exists() else name
