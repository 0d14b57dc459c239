"""Is the method right on your model, what does it cost, does it help? `verify`, the benchmark, grids of runs.

A grid (`grid.py`) is a set of cells, one configuration with one seed each. `runner.py` goes through them, `cell.py`
trains and measures one, `store.py` keeps the records and lets no two runners take the same cell, `report.py` compares.
`verify.py` runs the checks: `checks.py` says what a check is, `checks_data.py` and `checks_model.py` have them. The
benchmark races arms (`benchmark_arms.py`) over a workload (`benchmark_workload.py`), or ways to generate.
"""
