"""What `--push_to_hub` sends to a Hub that is a stand-in, and what is said when the Hub does not want it."""

import fnmatch
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import HfApi
from small_trainer import saving_trainer

from stepjepa.records import UserError, write_jsonl
from stepjepa.training.config import StepJEPAConfig
from stepjepa.training.options import RunOptions
from stepjepa.training.run import run_training

OPTIONS = {"push_to_hub": True, "hub_model_id": "me/steps", "use_cpu": True, "disable_tqdm": True}


class Hub:
    """Keeps, of each upload, its message and the files that it would have sent, as they lay there at the moment."""

    def __init__(self, monkeypatch):
        self.uploads, self.refuses = [], None
        for name in ("create_repo", "upload_folder"):
            monkeypatch.setattr(HfApi, name, getattr(self, name))
            monkeypatch.setattr(f"transformers.trainer.{name}", getattr(self, name), raising=False)  # in older ones
        monkeypatch.setattr(HfApi, "model_info", lambda *_a, **_k: SimpleNamespace(cardData=None, tags=[]))

    def create_repo(self, name, **_options):
        if self.refuses == "create_repo":
            raise OSError("401:\n  who are you?")
        return SimpleNamespace(repo_id=name)

    def upload_folder(self, folder_path, commit_message, ignore_patterns=(), run_as_future=False, **_options):
        if self.refuses == "upload_folder" and not run_as_future:
            raise OSError("no route")
        root = Path(folder_path)
        names = [str(path.relative_to(root)) for path in sorted(root.rglob("*")) if path.is_file()]
        sent = {name for name in names if not any(fnmatch.fnmatch(name, pattern) for pattern in ignore_patterns)}
        self.uploads.append((commit_message, sent))
        done = Future()
        done.set_result(None)
        return done if run_as_future else None


@pytest.fixture
def hub(monkeypatch):
    return Hub(monkeypatch)


def train(folder, **options):
    solution = "There are {0} hens, as was said.\n\nOne more comes, so there are {0} + 1 of them."
    rows = [{"question": f"{n} hens and one?", "solution": solution.format(n)} for n in range(50)]
    write_jsonl(rows, folder.parent / "hens.jsonl")
    args = StepJEPAConfig(output_dir=str(folder), max_steps=1, per_device_train_batch_size=2, **OPTIONS)
    data = {"train_file": [str(folder.parent / "hens.jsonl")], "accuracy_problems": 0}
    return run_training(RunOptions(**data, **options), args)


def test_a_finished_run_is_pushed_with_its_card_and_without_its_data(hub, tmp_path):
    train(tmp_path / "run", lora=True, merge_lora=True)
    message, sent = hub.uploads[-1]
    assert message == "End of training"
    assert {"README.md", "record.json", "adapter_model.safetensors", "merged/model.safetensors"} <= sent
    assert (tmp_path / "run" / "held_out.jsonl").exists()
    assert not any("held_out" in name or name.startswith((".", "checkpoint-")) for name in sent)
    assert len(hub.uploads) == 1


def test_checkpoints_stay_here(hub, tmp_path):
    saving_trainer(tmp_path, **OPTIONS).train()
    assert hub.uploads == []
    with pytest.raises(ValueError, match="cannot honour hub_strategy: checkpoints stay here"):
        StepJEPAConfig(output_dir=str(tmp_path), hub_strategy="every_save", **OPTIONS)


@pytest.mark.parametrize(
    ("refuses", "said"),
    [
        ("create_repo", r"--push_to_hub: the Hub gives no repository 'me/steps': 401: who are you\?; log in"),
        (
            "upload_folder",
            r"the model is in .*run, but it was not pushed: no route; later, `hf upload me/steps .*run --exclude .*held_out.jsonl",
        ),
    ],
)
def test_what_the_hub_refuses_is_one_message(hub, tmp_path, refuses, said):
    hub.refuses = refuses
    with pytest.raises(UserError, match=said):
        train(tmp_path / "run")
    assert (tmp_path / "run" / "record.json").exists() == (refuses == "upload_folder")
    assert (tmp_path / "run").exists() == (refuses == "upload_folder")
