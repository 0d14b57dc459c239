"""What a training run says of itself: its first example, a progress bar with losses, a table at the end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers.trainer_callback import ProgressCallback, TrainerCallback

from stepjepa.jepa.layout import IGNORE
from stepjepa.jepa.pairs import step_spans
from stepjepa.training.config import StepJEPAConfig


def describe_row(row: Mapping[str, Any], tokenizer: Any) -> str:
    """The steps of a tokenized row and the tokens they cover, a line each."""
    lines = [f"first example: {len(row['input_ids'])} tokens, {sum(x != IGNORE for x in row['labels'])} labelled"]
    for step, start, end in step_spans(row["step_ids"]):
        lines.append(f"  step {step + 1}: tokens {start}–{end - 1}: {tokenizer.decode(row['input_ids'][start:end])!r}")
    return "\n".join(lines)


def run_title(model_name: str, args: StepJEPAConfig) -> str:
    """What was trained and how, in one line."""
    return (
        f"{Path(model_name).name}, λ = {args.lbd:g}, γ = {args.gamma:g}, {args.jepa_loss_type}, "
        f"{args.pairs} pairs, isolation {args.isolation}, seed {args.seed}"
    )


def summary_table(record: Mapping[str, Any]) -> str:
    """First and last figures of a run as a small text table; of what was measured once there is no first."""
    logs = [entry for entry in record["log_history"] if "lm_loss" in entry]
    rows: list[tuple[str, str, str]] = []

    def add(label: str, first: Any, last: Any, form: str = "{:.4f}") -> None:
        if first is not None or last is not None:
            shown = ["–" if value is None else form.format(value) for value in (first, last)]
            rows.append((label, shown[0], shown[1]))

    sizes = record["configuration"]["training"]
    for name, label in (
        ("lm_loss", "lm_loss"),
        ("jepa_loss", "jepa_loss"),
        ("retrieval", f"retrieval in microbatches of {sizes['per_device_train_batch_size']}"),
        ("retrieval_chance", "  by chance"),
        ("target_spread", "target spread (0: collapse)"),
    ):
        values = [entry[name] for entry in logs if name in entry]
        if values:
            add(f"train {label}", values[0] if len(values) > 1 else None, values[-1])
    for name, label in (
        ("lm_loss", "lm_loss"),
        ("jepa_loss", "jepa_loss"),
        ("retrieval", f"retrieval in batches of {sizes['per_device_eval_batch_size']}"),
        ("retrieval_chance", "  by chance"),
    ):
        add(f"eval {label}", record["before"].get(f"eval_{name}"), record["after"].get(f"eval_{name}"))
    count = record["after"].get("accuracy_problems")
    label = f"accuracy on {count} held-out problems"
    add(label, record["before"].get("accuracy"), record["after"].get("accuracy"), "{:.1%}")
    ends = [record[when].get("accuracy_interval", [None, None]) for when in ("before", "after")]
    for side, name in enumerate(("from", "to")):
        add(f"  95% interval, {name}", ends[0][side], ends[1][side], "{:.1%}")
    width = max((len(label) for label, _, _ in rows), default=0)
    lines = [f"{'':{width}}  {'first':>9}  {'last':>9}"] if rows else []
    lines += [f"{label:{width}}  {first:>9}  {last:>9}" for label, first, last in rows]
    if "eval_lm_loss" not in record["after"]:
        lines.append("no evaluation data: nothing here says how the model does on what it was not trained on")
    lines.append(f"{record['optimizer_steps']} optimizer steps, {record['wall_seconds']:.0f} s in all")
    return "\n".join(["", *lines])


class LastFigure(TrainerCallback):
    """The last optimizer step is logged as the first is, however long the interval: a table names both."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ask for a log at the end."""
        if state.global_step >= state.max_steps and args.logging_strategy == "steps":
            control.should_log = True


class QuietProgress(ProgressCallback):
    """The parent's progress bar, with the latest figures in it instead of a printed line per log."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Show the losses beside the bar."""
        if state.is_world_process_zero and self.training_bar is not None and logs:
            shown = {k: f"{logs[k]:.3f}" for k in ("lm_loss", "jepa_loss", "retrieval") if k in logs}
            if shown:
                self.training_bar.set_postfix(shown)
