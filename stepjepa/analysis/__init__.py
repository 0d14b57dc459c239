"""What embeddings look like: embedding files, metrics with intervals over problems, probes, attention, leakage.

`encode.py` makes the embeddings of `embeddings.py`. `measurements.py` takes every figure of a file with an interval
(`intervals.py`): those of the table `METRICS` in `jepa/metrics.py`, of `similarity.py` and of `probes.py`. `report.py`
sets files side by side and judges; `projections.py` makes what is drawn. `attention.py` shows where a model looks,
`leakage.py` what a view depends on.
"""
