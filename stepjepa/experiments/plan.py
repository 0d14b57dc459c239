"""What a training run will need, before it runs: parameters, memory, tokens, time.

Tokens are counted on the rows themselves, collated as in training. Memory is traced from shapes (`plan_memory.py`).
Time is the work of every microbatch, in floating-point operations, at the speed of the device: of this machine measured
on a few microbatches (`plan_trial.py`), of a card named assumed to be a share of its peak. Weights are not needed. Not
counted: loading and saving, evaluation and answers, communication between devices, heads and queues of objectives that
have some, and what `not_counted` names.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import psutil
import torch
from transformers import Trainer

from stepjepa.environment import environment
from stepjepa.experiments.benchmark_arms import peak_memory, resident_bytes
from stepjepa.experiments.options import CARDS, PlanOptions, without_folder
from stepjepa.experiments.plan_memory import checkpointed, footprint, optimizer_bytes
from stepjepa.experiments.plan_trial import Rows, Shape, Trial
from stepjepa.models.loading import choose_device
from stepjepa.models.shape import make_model, read_shape
from stepjepa.records import text_table
from stepjepa.training.config import StepJEPAConfig
from stepjepa.training.options import OVER_TOKENS, RunOptions
from stepjepa.training.splits import read_data


def plan(
    options: RunOptions, args: StepJEPAConfig, wanted: PlanOptions, say: Callable[[str], None] = lambda _line: None
) -> dict[str, Any]:
    """Plan the run that `stepjepa train` would make of these options.

    Returns:
        A record of JSON values; memory in bytes, of one device; time in seconds.

    Raises:
        UserError: data or configuration cannot be read, or the model has experts.
    """
    args = dataclasses.replace(args) if args.learning_rate is None else args
    args.learning_rate = args.learning_rate or 1e-5
    data = read_data(options, say)
    remote = {"revision": options.revision, "trust_remote_code": options.trust_remote_code}
    config, tokenizer = read_shape(options.model_name, predictors=args.predictors, tokenizer=wanted.tokenizer, **remote)
    make = partial(
        make_model,
        config,
        tokenizer,
        predictors=args.predictors,
        lora=options.lora,
        lora_rank=options.lora_rank,
        lora_dropout=options.lora_dropout,
        lora_target_modules=options.lora_target_modules,
        dtype=options.dtype,
        attn_implementation=options.attn_implementation,
        trust_remote_code=options.trust_remote_code,
        seed=args.seed,
    )
    text = config.get_text_config()
    rows = Rows(data.train, tokenizer, args, getattr(text, "max_position_embeddings", None))
    device = choose_device("auto") if wanted.device == "here" else None
    program = resident_bytes() if device is not None and device.type == "cpu" else 0

    most = max(rows.shapes, key=lambda shape: (shape.rows * shape.length, shape.labelled))
    needs = footprint(
        make, args, most.rows, most.length, most.labelled, optimizer_bytes(*Trainer.get_optimizer_cls_and_kwargs(args))
    )
    width = text.num_attention_heads * (getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)
    head = text.vocab_size * text.hidden_size

    def forward(shape: Shape) -> int:
        tokens = shape.rows * shape.length
        pairs = text.num_hidden_layers * width * tokens * shape.length
        return 2 * (needs.products * tokens + 2 * pairs + head * shape.labelled)

    work = [needs.flops / forward(most) * forward(shape) for shape in rows.shapes]
    buckets = needs.gradients if wanted.devices > 1 else 0  # of DistributedDataParallel
    memory: dict[str, Any] = {
        **{name: getattr(needs, name) for name in ("weights", "gradients", "optimizer", "activations", "microbatch")},
        "program": program,
        "buckets": buckets,
        "traced": needs.peak + program + buckets,
        "measured": None,
        "peak": needs.peak + program + buckets,
        "available": _available(device, wanted),
    }
    steps, microbatches = _length_of_run(args, len(rows.microbatches), wanted.devices)
    trial: Trial | None = None
    if device is None:
        speed, update = _peak_flops(options, args, wanted) * wanted.utilisation, 0.0
    elif memory["peak"] > memory["available"]:
        speed, update = math.nan, math.nan
    else:
        trial = Trial(make, rows, work, args, device)
        measured = peak_memory(trial.run, str(device))
        memory["measured"] = measured["peak_bytes"]
        memory["peak"] = max(memory["peak"], memory["measured"] + buckets)
        speed, update = trial.speed, trial.update
    seconds = sum(work) / len(work) * microbatches / speed + steps * update
    tokens = {
        name: sum(getattr(shape, name) for shape in rows.shapes)
        for name in ("trunk", "branches", "padding", "labelled")
    }
    trunk = tokens["trunk"] / len(rows.shapes) * microbatches * wanted.devices
    return {
        "kind": "plan",
        "configuration": {
            "run": asdict(options)
            | {
                "model_name": without_folder(options.model_name),
                "train_file": [*map(without_folder, options.train_file)],
            },
            "plan": asdict(wanted) | {"output_file": None},
            "bf16": args.bf16,
            "activation_checkpointing": checkpointed(args),
            "rows_of_a_microbatch": args.per_device_train_batch_size,
            "gradient_accumulation_steps": args.gradient_accumulation_steps,
        },
        "environment": environment(),
        "parameters": {
            "all": needs.parameters,
            "trainable": needs.trainable,
            "frozen": needs.parameters - needs.trainable,
        },
        "memory": memory,
        "data": {"rows": len(rows.rows), "of_an_epoch": tokens, "largest": asdict(most)},
        "not_counted": not_counted(args),
        "time": {
            "optimizer_steps": steps,
            "microbatches": microbatches * wanted.devices,
            "flops": sum(work) / len(work) * microbatches * wanted.devices,
            "flops_per_second": speed,
            "optimizer_step_seconds": update,
            "timed": trial and trial.timed,
            "tokens_per_second": trunk / seconds,
            "seconds": seconds,
        },
    }


def not_counted(args: StepJEPAConfig) -> list[str]:
    """What a run has, or spares, beside one pass over microbatches drawn at random, in words."""
    found = []
    if getattr(args, "train_sampling_strategy", "random") != "random":
        found.append(f"that {args.train_sampling_strategy} pads less: rows are drawn at random here")
    if args.lbd <= 0:
        return found
    if args.target_model == "ema":
        found.append("the running mean of the trained weights, in float32, and the pass through it")
    if args.target_model == "frozen":
        found.append("the model before training, and the pass through it, once for each example")
    if args.whole_step and (args.gradient_accumulation_steps > 1 or args.target == "shuffled"):
        found.append("the second forward pass that --whole_step makes where a step has several microbatches")
    if args.jepa_loss_type in OVER_TOKENS:
        found.append(f"what {args.jepa_loss_type} computes from the states of the tokens")
    return found


def _length_of_run(args: StepJEPAConfig, microbatches: int, devices: int) -> tuple[int, float]:
    """Optimizer steps of the run, and microbatches of one device."""
    each = math.ceil(microbatches / devices)
    an_epoch = math.ceil(each / args.gradient_accumulation_steps)
    if args.max_steps > 0:
        return args.max_steps, args.max_steps * each / an_epoch
    return math.ceil(an_epoch * args.num_train_epochs), each * args.num_train_epochs


def _peak_flops(options: RunOptions, args: StepJEPAConfig, wanted: PlanOptions) -> float:
    if wanted.tflops is not None:
        return wanted.tflops * 1e12
    bfloat16, float32, _ = CARDS[wanted.device]
    return (bfloat16 if args.bf16 or args.fp16 or options.dtype != "float32" else float32) * 1e12


def _available(device: torch.device | None, wanted: PlanOptions) -> int:
    if device is None:
        return round((wanted.memory or CARDS[wanted.device][2]) * 1e9)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    return psutil.virtual_memory().total if device.type == "cpu" else torch.accelerator.get_memory_info()[1]


# -------- as text --------


def format_plan(record: dict[str, Any]) -> str:
    """The record of `plan` as lines of text."""
    parameters, memory, data, clock = (record[name] for name in ("parameters", "memory", "data", "time"))
    wanted, largest, tokens = record["configuration"]["plan"], data["largest"], data["of_an_epoch"]
    every = sum(tokens[name] for name in ("trunk", "branches", "padding"))
    hours = clock["seconds"] / 3600
    rows = [
        ["parameters", f"{parameters['all']:,}"],
        ["  trained", f"{parameters['trainable']:,}"],
        ["memory of a device", _gb(memory["peak"]), f"of {_gb(memory['available'])}"],
        ["  weights", _gb(memory["weights"])],
        ["  optimizer state", _gb(memory["optimizer"])],
        ["  gradients", _gb(memory["gradients"])],
        ["  kept for the backward", _gb(memory["activations"]), f"{largest['rows']} rows × {largest['length']} tokens"],
        ["  most of forward and backward", _gb(memory["microbatch"]), "gradients included"],
    ]
    rows += [["  the program itself", _gb(memory["program"])]] if memory["program"] else []
    rows += [["  buckets of gradients", _gb(memory["buckets"])]] if memory["buckets"] else []
    rows += [
        ["tokens of an epoch", f"{every:,}", f"{data['rows']:,} rows"],
        *(
            ["  " + name, f"{tokens[name]:,}", f"{tokens[name] / every:.0%}"]
            for name in ("trunk", "branches", "padding")
        ),
        ["optimizer steps", f"{clock['optimizer_steps']:,}"],
    ]
    if math.isfinite(hours):
        rows += [
            ["speed", f"{clock['flops_per_second'] / 1e12:,.3g} TFLOP/s"],
            ["trunk tokens a second", f"{clock['tokens_per_second']:,.0f}"],
            ["time of training", f"{hours:,.1f} h" if hours >= 1 else f"{60 * hours:,.1f} min"],
        ]
    lines = text_table([[*row, ""][:3] for row in rows])
    lines.append("")
    if memory["peak"] > memory["available"]:
        lines.append(
            "It does not fit. Smaller: --batch_size with more --grad_accum, --activation_checkpointing, --lora."
        )
    if clock["timed"]:
        lines.append(
            f"Speed and most memory measured here on {len(clock['timed'])} microbatches and the optimizer, with drawn "
            f"weights; traced from shapes, without what kernels and allocator take: {_gb(memory['traced'])}."
        )
    elif wanted["device"] != "here":
        lines.append(
            f"Speed assumed: {wanted['utilisation']:.0%} of the peak of {wanted['device']} (--utilisation); small "
            "models and microbatches reach less. Memory is that of tensors: what the driver takes, about 1 GB, and the "
            "gaps of the card's allocator are not counted."
        )
    rest = [*record["not_counted"], "loading and saving", "evaluation and answers", "communication between devices"]
    lines.append(f"Not counted: {', '.join(rest)}.")
    return "\n".join(lines)


def _gb(count: float) -> str:
    return f"{count / 1e9:,.2f} GB"
