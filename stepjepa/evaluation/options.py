"""What an evaluation can be told; nothing here imports torch, so that a wrong option is refused at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from stepjepa.models.checkpoint import BUILTIN, DTYPES

MAX_NEW_TOKENS = 768
"""The longest of the 8,792 GSM8K solutions has 544 tokens of the built-in tokenizer, whose vocabulary of 1,000 makes
more of them than others do; 664 with GSM8K's calculator marks."""
SAMPLING_TEMPERATURE = 0.7  # Wang et al. 2022, for majority votes
SYSTEM_PROMPTS = ("train", "file", "none")


@dataclass(frozen=True)
class EvaluateOptions:
    """Everything that decides the answers, as given to `stepjepa evaluate`."""

    model_name: str = field(
        metadata={
            "help": f"'{BUILTIN}', a folder (a model, a LoRA adapter, a checkpoint-N), a Hub id",
            "aliases": ["--model_path"],
            "group": "what",
        }
    )
    test_file: Sequence[str] = field(
        metadata={
            "help": f"test data: '{BUILTIN}', JSONL files (any form that prepare reads), Hub data set ids",
            "aliases": ["--train_file", "--eval_file"],
            "metavar": "FILE",
            "group": "what",
        }
    )
    output_file: str = field(
        metadata={"help": "result rows; the summary is R.summary.json", "metavar": "R.jsonl", "group": "what"}
    )
    system_prompt: str = field(
        default="train",
        metadata={
            "help": "the system message: that of the model's training, that of each test row, or none",
            "choices": SYSTEM_PROMPTS,
            "group": "questions",
        },
    )
    max_new_tokens: int = field(
        default=MAX_NEW_TOKENS,
        metadata={"help": "where a response is cut off; no GSM8K solution is as long", "group": "answers"},
    )
    batch_size: int = field(
        default=64, metadata={"help": "prompts answered together; speed only, in float32", "group": "answers"}
    )
    samples: int = field(
        default=1, metadata={"help": "samples a question: majority vote and pass@k", "metavar": "K", "group": "answers"}
    )
    temperature: float | None = field(
        default=None,
        metadata={
            "help": f"0 is greedy, the default for one sample; {SAMPLING_TEMPERATURE} for several",
            "group": "answers",
        },
    )
    top_p: float = field(
        default=1.0, metadata={"help": "sample from the most likely tokens with this share only", "group": "answers"}
    )
    seed: int = field(default=0, metadata={"help": "of the sampling", "group": "answers"})
    split: str = field(
        default="test", metadata={"help": "split of a Hub data set or of the built-in problems", "group": "questions"}
    )
    hub_config: str | None = field(
        default=None, metadata={"help": "configuration of a Hub data set", "group": "questions"}
    )
    problems: int = field(default=1000, metadata={"help": "how many built-in problems", "group": "questions"})
    problem_seed: int = field(  # the test problems of seed 0 were looked at when settings were chosen
        default=1, metadata={"help": "which built-in problems are drawn", "group": "questions"}
    )
    dtype: str = field(
        default="float32",
        metadata={"help": "of the weights; auto is the checkpoint's own", "choices": DTYPES, "group": "model"},
    )
    device: str = field(
        default="auto", metadata={"help": "auto (CUDA if there is one), cpu, cuda, cuda:1, …", "group": "model"}
    )
    attn_implementation: str | None = field(
        default=None, metadata={"help": "sdpa, eager, …; the library's choice by default", "group": "model"}
    )
    revision: str | None = field(
        default=None, metadata={"help": "branch, tag or commit of a Hub model", "group": "model"}
    )
    trust_remote_code: bool = field(
        default=False, metadata={"help": "run Python code that comes with the model", "group": "model"}
    )
    pad_token: str | None = field(
        default=None, metadata={"help": "the token that pads, for a tokenizer that names none", "group": "model"}
    )
    overwrite: bool = field(
        default=False,
        metadata={"help": "replace results of another evaluation, once the new ones are whole", "group": "what"},
    )

    def __post_init__(self) -> None:
        if self.temperature is None:
            object.__setattr__(self, "temperature", SAMPLING_TEMPERATURE if self.samples > 1 else 0.0)
