"""`stepjepa bench`: what the JEPA term costs; with `--generation`, how fast answers are generated."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from stepjepa.commands.options import Parser, parse, take_flag
from stepjepa.commands.output import say
from stepjepa.evaluation.options import MAX_NEW_TOKENS
from stepjepa.experiments.options import BenchOptions, GpuSuiteOptions
from stepjepa.models.checkpoint import BUILTIN
from stepjepa.records import option, write_json


@dataclass(kw_only=True)
class MeasureOptions:
    """What of `stepjepa bench` is no part of the benchmark."""

    no_memory: bool = option(False, "do not measure peak memory", group="measuring")
    output_file: str | None = option(
        None, "write the record as JSON", aliases=["--json"], metavar="FILE", group="measuring"
    )
    arm: str | None = option(None, "measure the peak memory of this arm only, print it as JSON", group="measuring")
    generation: bool = option(
        False,
        "race batched generation against one problem at a time instead; `stepjepa bench --generation "
        "--help` lists its options",
        group="measuring",
    )
    gpu_suite: bool = option(
        False,
        "measure one GPU instead, in under nine minutes and with nothing to download; `stepjepa bench --gpu_suite "
        "--help` lists its options",
        group="measuring",
    )
    objectives: bool = option(
        False,
        "time whole optimizer steps under each objective instead, as multiples of plain fine-tuning; takes the options "
        "of model, data and measuring, but those of memory",
        group="measuring",
    )
    lines: list[str] = option([], "of --objectives: only these, by their names", metavar="NAME", group="measuring")
    prepared: str | None = option(None, hidden=True)  # the folder that a parent process wrote


@dataclass(kw_only=True)
class GenerationOptions:
    """What `stepjepa bench --generation` answers, and how."""

    model_name: str = option(BUILTIN, f"'{BUILTIN}', a folder, a GGUF file, a Hub id", aliases=["--model_path"])
    problems: int = option(1000, "how many built-in test problems to answer", least=1)
    single: int = option(200, "how many of them one at a time too", least=1)
    batch_size: int = option(64, "prompts answered together", least=1)
    max_new_tokens: int = option(MAX_NEW_TOKENS, "where a response is cut off", least=1)
    device: str = option("auto", "auto (CUDA if there is one), cpu, cuda, cuda:1, …")


@dataclass(kw_only=True)
class GenerationOutput:
    """Where the record of `stepjepa bench --generation` or `--gpu_suite` goes."""

    output_file: str | None = option(None, "write the record as JSON", aliases=["--json"], metavar="FILE")


def main(argv: Sequence[str] | None = None) -> int:
    """`stepjepa bench`; returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    for name, run in (("generation", generation), ("gpu_suite", suite)):
        given, others = take_flag(words, name)
        if given:
            return run(others)
    parser = Parser(
        "bench",
        "Time forward and backward of Step-JEPA beside plain fine-tuning, two passes and a doubled batch, interleaved "
        "in one run; measure peak memory with each arm in a process of its own.",
        "The price of the JEPA term is quoted against both plain arms: with the head on every position, as "
        "transformers.Trainer runs it, and with the head on labelled positions only.",
    )
    options, asked = parse(parser, words, BenchOptions, MeasureOptions)
    if asked.objectives:
        if options.lbd <= 0:
            parser.error(f"--lbd {options.lbd:g}: without a JEPA term every objective is plain fine-tuning")
        return objectives(options, asked)
    if asked.lines:
        parser.error("--lines names lines of --objectives, which is not given")
    if asked.arm and asked.output_file:
        parser.error("--output_file takes the whole record; --arm prints its own")
    from stepjepa.experiments.benchmark import arm_memory, bench, use_device
    from stepjepa.experiments.benchmark_arms import ARMS
    from stepjepa.experiments.benchmark_report import format_table
    from stepjepa.experiments.benchmark_workload import make_workload, restore_workload

    if asked.arm:
        if asked.arm not in ARMS:
            parser.error(f"--arm {asked.arm}: the arms are {', '.join(ARMS)}")
        if asked.prepared:
            workload, options = restore_workload(Path(asked.prepared))
            use_device(options)
        else:
            use_device(options)
            workload = make_workload(options)
        say(json.dumps(arm_memory(asked.arm, workload, options)))
        return 0
    result = bench(replace(options, memory_batches=0) if asked.no_memory else options)
    say(format_table(result))
    if asked.output_file:
        write_json(result, asked.output_file)
    return 0


def objectives(options: BenchOptions, asked: MeasureOptions) -> int:
    """`stepjepa bench --objectives`."""
    from stepjepa.experiments.benchmark_objectives import bench_objectives, objectives_text

    record = bench_objectives(options, asked.lines)
    say(objectives_text(record))
    if asked.output_file:
        write_json(record, asked.output_file)
        say(f"written: {asked.output_file}")
    return 0


def generation(argv: Sequence[str]) -> int:
    """`stepjepa bench --generation`."""
    parser = Parser("bench --generation", "Time batched answering against one question at a time, in turns.")
    options, output = parse(parser, argv, GenerationOptions, GenerationOutput)
    from stepjepa.experiments.benchmark_generation import bench_generation, table

    record = bench_generation(**asdict(options))
    say(table(record))
    if output.output_file is not None:
        write_json(record, output.output_file)
        say(f"written: {output.output_file}")
    return 0


def suite(argv: Sequence[str]) -> int:
    """`stepjepa bench --gpu_suite`."""
    parser = Parser(
        "bench --gpu_suite",
        "Invariants, speed, memory and time of an epoch on one GPU; random weights of the Llama-3.2-1B architecture.",
    )
    options, output = parse(parser, argv, GpuSuiteOptions, GenerationOutput)
    from stepjepa.experiments.gpu_suite import gpu_suite, suite_table

    record = gpu_suite(options)
    say(suite_table(record))
    if output.output_file is not None:
        write_json(record, output.output_file)
        say(f"written: {output.output_file}")
    return 0
