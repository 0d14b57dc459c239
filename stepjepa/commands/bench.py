"""`stepjepa bench`: what the JEPA term costs; with `--generation`, how fast answers are generated."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from stepjepa.evaluation.generation import MAX_NEW_TOKENS
from stepjepa.experiments.benchmark import arm_memory, bench, format_table, use_device
from stepjepa.experiments.benchmark_arms import ARMS
from stepjepa.experiments.benchmark_generation import bench_generation, table
from stepjepa.experiments.benchmark_workload import ATTENTION, DTYPES, BenchOptions, make_workload, restore_workload
from stepjepa.models.checkpoint import BUILTIN
from stepjepa.records import write_json


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="stepjepa bench",
        description="Time forward and backward of Step-JEPA beside plain fine-tuning, two passes and a doubled batch, "
        "interleaved in one run; measure peak memory with each arm in a process of its own.",
        epilog="The price of the JEPA term is quoted against both plain arms: with the head on every position, as "
        "transformers.Trainer runs it, and with the head on labelled positions only. `stepjepa bench --generation` "
        "races batched generation against one problem at a time instead.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    default = BenchOptions()
    model = parser.add_argument_group("model")
    model.add_argument("--model_name", metavar="NAME", help="'builtin', a Hub id or a folder; else a random Llama")
    model.add_argument("--hidden_size", type=int, default=default.hidden_size, help="of the random Llama")
    model.add_argument("--layers", type=int, default=default.layers, help="of the random Llama")
    model.add_argument("--heads", type=int, default=default.heads, help="of the random Llama")
    model.add_argument("--vocab_size", type=int, default=default.vocab_size, help="of its tokenizer, trained here")
    model.add_argument(
        "--vocab_rows", type=int, help="rows of its embedding and head: a larger vocabulary's cost on the same tokens"
    )
    model.add_argument("--predictors", type=int, default=default.predictors, help="predictor tokens before a view")
    model.add_argument("--dtype", choices=DTYPES, default=default.dtype, help="of weights and activations")
    model.add_argument(
        "--attn_implementation",
        choices=ATTENTION,
        default=default.attn_implementation,
        help="flex_attention leaves out the arms that need dense masks",
    )
    data = parser.add_argument_group("data")
    data.add_argument(
        "--train_file",
        nargs="+",
        default=default.train_file,
        metavar="SOURCE",
        help="'builtin', JSONL files (any form that prepare reads) or Hub data set ids",
    )
    data.add_argument("--max_length", type=int, help="longest example in tokens; longer ones are cut at a step")
    data.add_argument("--batch_size", type=int, default=default.batch_size, help="rows in a microbatch")
    data.add_argument("--seed", type=int, default=default.seed, help="of weights and choice of rows")
    race = parser.add_argument_group("measuring")
    race.add_argument("--device", choices=("cpu", "cuda"), default=default.device, help="where to run")
    race.add_argument("--threads", type=int, help="CPU threads of PyTorch; its own choice if not given")
    race.add_argument("--rounds", type=int, default=default.rounds, help="counted rounds, each arm once in each")
    race.add_argument("--warmup", type=int, default=default.warmup, help="rounds before that, not counted")
    race.add_argument(
        "--memory_batches",
        type=int,
        default=default.memory_batches,
        help="microbatches that each arm's own process runs",
    )
    race.add_argument(
        "--lbd", type=float, default=default.lbd, help="weight λ of the JEPA term; does not change the cost"
    )
    race.add_argument("--no_memory", action="store_true", help="do not measure peak memory")
    race.add_argument("--json", metavar="FILE", help="write the record there")
    race.add_argument("--arm", choices=tuple(ARMS), help="measure the peak memory of this arm only, print it as JSON")
    parser.add_argument("--prepared", help=argparse.SUPPRESS)  # the folder that a parent process wrote
    return parser


def main(argv: list[str] | None = None) -> int:
    """`stepjepa bench`; returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if "--generation" in words:
        return generation([word for word in words if word != "--generation"])
    arguments = _parser().parse_args(words)
    values = {option.name: getattr(arguments, option.name) for option in fields(BenchOptions)}
    if arguments.arm:
        return _arm_only(arguments, values)
    if arguments.no_memory:
        values["memory_batches"] = 0
    result = bench(BenchOptions(**values))
    print(format_table(result))
    if arguments.json:
        write_json(result, arguments.json)
    return 0


def _arm_only(arguments: argparse.Namespace, values: dict[str, Any]) -> int:
    if arguments.prepared:
        workload, options = restore_workload(Path(arguments.prepared))
        use_device(options)
    else:
        options = BenchOptions(**values)
        use_device(options)
        workload = make_workload(options)
    print(json.dumps(arm_memory(arguments.arm, workload, options)))
    return 0


def generation(argv: Sequence[str]) -> int:
    """`stepjepa bench --generation`."""
    parser = argparse.ArgumentParser(
        prog="stepjepa bench --generation",
        description="Time batched answering against one question at a time, in turns.",
    )
    add = parser.add_argument
    add("--model_path", default=BUILTIN, help="'builtin', a folder, a Hub id")
    add("--problems", type=int, default=1000, help="built-in test problems to answer (1000)")
    add("--single", type=int, default=200, help="how many of them one at a time too (200)")
    add("--batch_size", type=int, default=64, help="prompts answered together (64)")
    add("--max_new_tokens", type=int, default=MAX_NEW_TOKENS, help=f"where a response is cut off ({MAX_NEW_TOKENS})")
    add("--device", default="auto", help="auto (CUDA if there is one), cpu, cuda:1, …")
    add("--output_file", help="JSON record to write")
    options = vars(parser.parse_args(argv))
    output = options.pop("output_file")
    record = bench_generation(**options)
    print(table(record))
    if output is not None:
        write_json(record, output)
        print(f"written: {output}")
    return 0
