"""What an evaluation can be told; nothing here imports torch, so that a wrong option is refused at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stepjepa.models.checkpoint import BUILTIN, DTYPES
from stepjepa.records import option

MAX_NEW_TOKENS = 768
"""The longest of the 8,792 GSM8K solutions has 544 tokens of the built-in tokenizer, whose vocabulary of 1,000 makes
more of them than others do; 664 with GSM8K's calculator marks."""
SAMPLING_TEMPERATURE = 0.7  # Wang et al. 2022, for majority votes
SYSTEM_PROMPTS = ("train", "file", "none")


@dataclass(frozen=True)
class EvaluateOptions:
    """Everything that decides the answers, as given to `stepjepa evaluate`."""

    model_name: str = option(
        help=f"'{BUILTIN}', a folder (a model, a LoRA adapter, a checkpoint-N), a GGUF file, a Hub id",
        aliases=["--model_path"],
        group="what",
    )
    test_file: Sequence[str] = option(
        help=f"test data: '{BUILTIN}', JSONL files (any form that prepare reads), Hub data set ids",
        aliases=["--train_file", "--eval_file"],
        metavar="FILE",
        group="what",
    )
    output_file: str = option(help="result rows; the summary is R.summary.json", metavar="R.jsonl", group="what")
    system_prompt: str = option(
        "train",
        "the system message: that of the model's training, that of each test row, or none",
        choices=SYSTEM_PROMPTS,
        group="questions",
    )
    max_new_tokens: int = option(
        MAX_NEW_TOKENS, "where a response is cut off; no GSM8K solution is as long", group="answers"
    )
    batch_size: int = option(64, "prompts answered together; speed only, in float32", group="answers")
    samples: int = option(1, "samples a question: majority vote and pass@k", metavar="K", group="answers")
    temperature: float | None = option(
        None, f"0 is greedy, the default for one sample; {SAMPLING_TEMPERATURE} for several", group="answers"
    )
    top_p: float = option(1.0, "sample from the most likely tokens with this share only", group="answers")
    seed: int = option(0, "of the sampling", group="answers")
    split: str = option("test", "split of a Hub data set or of the built-in problems", group="questions")
    hub_config: str | None = option(None, "configuration of a Hub data set", group="questions")
    problems: int = option(1000, "how many built-in problems", group="questions", least=1)
    # The test problems of seed 0 were looked at when settings were chosen.
    problem_seed: int = option(1, "which built-in problems are drawn", group="questions")
    dtype: str = option("float32", "of the weights; auto is the checkpoint's own", choices=DTYPES, group="model")
    device: str = option("auto", "auto (CUDA if there is one), cpu, cuda, cuda:1, …", group="model")
    attn_implementation: str | None = option(None, "sdpa, eager, …; the library's choice by default", group="model")
    revision: str | None = option(None, "branch, tag or commit of a Hub model", group="model")
    trust_remote_code: bool = option(False, "run Python code that comes with the model", group="model")
    pad_token: str | None = option(None, "the token that pads, for a tokenizer that names none", group="model")
    overwrite: bool = option(False, "replace results of another evaluation, once the new ones are whole", group="what")

    def __post_init__(self) -> None:
        if self.temperature is None:
            object.__setattr__(self, "temperature", SAMPLING_TEMPERATURE if self.samples > 1 else 0.0)
