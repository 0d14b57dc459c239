"""Options of `evaluate` and `synthesize`; nothing here imports torch, so that a wrong one is refused at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields

from stepjepa.models.checkpoint import BUILTIN
from stepjepa.models.options import LoadedModel
from stepjepa.records import option

MAX_NEW_TOKENS = 768
"""The longest of the 8,792 GSM8K solutions has 544 tokens of the built-in tokenizer, whose vocabulary of 1,000 makes
more of them than others do; 664 with GSM8K's calculator marks."""
SAMPLING_TEMPERATURE = 0.7  # Wang et al. 2022, for majority votes
CHOICES = ("first", "shortest", "diverse")
SYSTEM_PROMPTS = ("train", "file", "none")


@dataclass(kw_only=True)
class Answering(LoadedModel):
    """A model that answers questions, and how many."""

    attn_implementation: str | None = option(None, "sdpa, eager, …; the library's choice by default", group="model")
    pad_token: str | None = option(None, "the token that pads, for a tokenizer that names none", group="model")
    hub_config: str | None = option(None, "configuration of a Hub data set", group="questions")
    problems: int = option(1000, "how many built-in problems of each kind", group="questions", least=1)


@dataclass
class EvaluateOptions(Answering):
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
    # The test problems of seed 0 were looked at when settings were chosen.
    problem_seed: int = option(1, "which built-in problems are drawn", group="questions")
    bf16: bool = option(False, "matrix products in bfloat16, as `stepjepa train --bf16` computes", group="model")
    overwrite: bool = option(False, "replace results of another evaluation, once the new ones are whole", group="what")

    def __post_init__(self) -> None:
        if self.temperature is None:
            self.temperature = SAMPLING_TEMPERATURE if self.samples > 1 else 0.0


@dataclass
class SynthesizeOptions(Answering):
    """Everything that decides which solutions are written, as given to `stepjepa synthesize`."""

    model_name: str = option(
        help=f"the teacher: '{BUILTIN}', a folder, a Hub id; with --base_url the server's name for it",
        aliases=["--model_path"],
        group="what",
    )
    source: Sequence[str] = option(
        help=f"questions with their answers: '{BUILTIN}', files (any form that prepare reads), Hub data set ids",
        aliases=["--train_file"],
        metavar="FILE",
        group="what",
    )
    output_file: str = option(
        help="solutions for prepare and train; all samples are in T.samples.jsonl, the account in T.summary.json",
        metavar="T.jsonl",
        group="what",
    )
    overwrite: bool = option(False, "begin anew where another run has written", group="what")
    samples: int = option(4, "solutions asked for, a question; more may be asked for later", metavar="N", least=1)
    keep: int = option(1, "right solutions written at most, a question", metavar="K", least=1)
    choose: str = option(
        "first",
        "which of the right ones: in the order of the samples, the shortest, or those least like each other",
        choices=CHOICES,
    )
    system_prompt: str | None = option(
        None, "system message; 'none' for none. Default: that of the model's training, else the package's"
    )
    max_new_tokens: int = option(2048, "where a solution is cut off, and then not kept", group="sampling")
    temperature: float = option(SAMPLING_TEMPERATURE, "0 is greedy", group="sampling")
    top_p: float = option(1.0, "sample from the most likely tokens with this share only", group="sampling")
    seed: int = option(0, "of the sampling; a server is sent one made of it for each sample", group="sampling")
    split: str = option("train", "split of a Hub data set or of the built-in problems", group="questions")
    problem_seed: int = option(0, "which built-in problems are drawn", group="questions")
    base_url: str | None = option(
        None, "an OpenAI-compatible server, such as http://127.0.0.1:8000/v1", metavar="URL", group="server"
    )
    key_variable: str | None = option(
        None, "environment variable with the server's key, such as OPENAI_API_KEY", metavar="NAME", group="server"
    )
    concurrency: int = option(8, "requests under way at the same time", group="server", least=1)
    requests_per_minute: float | None = option(None, "begun at most", group="server")
    timeout: float = option(600.0, "seconds without an answer after which it is asked again", group="server")
    retries: int = option(6, "how often a request without an answer is asked again", group="server", least=0)
    request: str | None = option(
        None,
        """more fields of each request, as JSON; null takes one out: '{"top_k": 20, "seed": null}'""",
        metavar="JSON",
        group="server",
    )
    batch_size: int = option(64, "prompts answered together", group="model", least=1)

    def __post_init__(self) -> None:
        if self.choose == "diverse" and self.keep == 1:
            raise ValueError("--choose diverse chooses several: give --keep 2 or more")
        if self.keep > self.samples:
            raise ValueError(f"--keep {self.keep} of --samples {self.samples}: there are not as many")
        if (self.requests_per_minute or 1) <= 0 or self.timeout <= 0:
            raise ValueError("--requests_per_minute and --timeout have to be above 0")
        idle = "server" if self.base_url is None else "model"
        for one in fields(self):
            is_given = one.default is not MISSING and getattr(self, one.name) != one.default
            if is_given and one.metadata.get("group") == idle:
                why = "no server is asked" if idle == "server" else "the model is the server's"
                raise ValueError(f"--{one.name} does nothing here: {why}; leave it out")
