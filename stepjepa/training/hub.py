"""`--push_to_hub`: a finished folder goes to the Hub whole, and what the Hub refuses is said in a sentence.

The stock trainer also pushes while it trains (`hub_strategy`): the whole output folder, in the background, with what is
half written and what is made of the data. Here checkpoints stay.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError
from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from stepjepa.records import UserError

STAYS = (".*", "_*", f"{PREFIX_CHECKPOINT_DIR}-*")
"""In an output folder: locks, what is half written, checkpoints."""


class PushedWhole(Trainer):
    """`transformers.Trainer`; only pushing differs."""

    def push(self, folder: Path, stays: Sequence[str] = ()) -> None:
        """Push a finished output folder with a model card, but for what `STAYS`, if anything is to be pushed.

        Args:
            stays: further files that are not pushed.

        Raises:
            UserError: the Hub refuses, or cannot be reached.
        """
        if not self.args.push_to_hub or not self.is_world_process_zero():
            return
        repository, left = str(self.hub_model_id), [*STAYS, *stays]
        later = shlex.join(["hf", "upload", repository, str(folder), "--exclude", *left])
        with _told(f"the model is in {folder}, but it was not pushed", f"later, `{later}`"):
            self.create_model_card(model_name=repository.split("/")[-1])
            HfApi().upload_folder(
                repo_id=repository,
                folder_path=folder,
                commit_message="End of training",
                token=self.args.hub_token,
                revision=self.args.hub_revision,
                ignore_patterns=left,
            )

    def init_hf_repo(self, *args: Any, **kwargs: Any) -> None:
        """As the parent's.

        Raises:
            UserError: the Hub refuses, or cannot be reached.
        """
        name = self.args.hub_model_id or Path(str(self.args.output_dir)).name
        advice = "log in (`hf auth login`, or --hub_token), name one that is yours (--hub_model_id)"
        with _told(f"--push_to_hub: the Hub gives no repository {name!r}", f"{advice}, or leave --push_to_hub out"):
            super().init_hf_repo(*args, **kwargs)


@contextmanager
def _told(what: str, advice: str) -> Iterator[None]:
    try:
        yield
    except (OSError, HTTPError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{what}: {reason}; {advice}") from error
