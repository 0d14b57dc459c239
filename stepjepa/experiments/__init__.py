"""Is the method right on your model, what does it cost, does it help? `verify`, the benchmark, grids of runs.

grid.py                  arms and seeds → cells, one configuration and seed each, and their addresses
grid_file.py             a YAML file → a grid
store.py                 the folder of a grid: records, locks, work under way
cell.py                  one cell → one record
runner.py                runs what has no record yet, here or in several processes
report.py                records → arms, differences, representations
report_warnings.py       what a reader of the report is warned of
run_report.py            runs → what a page about them shows
options.py               what `verify`, `bench` and `plan` can be asked, without torch
verify.py                the checks of a model and its data, as a table and a record
checks.py                what a check is
checks_data.py           packages, files, boundaries, labels
checks_model.py          losses, single pass against two passes, gradients, isolation
checks_precision.py      bfloat16 against float32 on the same weights
plan.py                  tokens, memory and time of a run before it runs
plan_trial.py            a few of its microbatches, timed
plan_memory.py           the memory, traced from shapes
benchmark.py             the race: time and memory of each way to compute the losses
benchmark_arms.py        the ways that are raced
benchmark_parts.py       where the time of a step goes, and how fast matrix products alone run
benchmark_report.py      what the race says, as medians and as text
benchmark_objectives.py  optimizer steps under each objective, beside plain fine-tuning
benchmark_workload.py    the model and the microbatches that they are raced on
gpu_suite.py             what one GPU makes of it, in under nine minutes
benchmark_generation.py  batched answering against one question at a time
"""
