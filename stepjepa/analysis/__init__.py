"""What embeddings look like: embedding files, metrics with intervals over problems, probes, attention, leakage.

options.py           what the commands that look at views can be told; without torch
subject.py           the model that is looked at, loaded or with random weights
embeddings.py        the file of views, states and labels
encode.py            examples and a model → that file's content
intervals.py         intervals over problems: bootstrap and jackknife
measurements.py      every metric of one file, with its interval and its chance
cross_validation.py  predictions of rows by models that never saw the row's problem
probes.py            what a linear reader finds: operation, running value, order of steps
similarity.py        two models' embeddings of the same steps; consecutive steps of a solution
report.py            several files side by side, and a verdict
report_text.py       the report as text
projections.py       t-SNE, PCA, similarities and spectra as records
trained.py           how a run compared its views: head, scale, layers, and whose targets
energies.py          each step's distance from what was expected of it
scorer.py            a model with what its energies are read by
detection.py         planted wrong steps found by energy, beside controls
choice.py            the best of several sampled solutions by energy
solving.py           a question answered step by step, with energy and surprisal
attention.py         attention over trunk and branches; forbidden cells weigh exactly 0
leakage.py           which change of the text moves which view
reader.py            a text as a language model reads it: surprisal, entropy, hidden states
cuts.py              where a solution without separators is cut: methods that go by what a language model reads
segmentation.py      the cuts against known boundaries
"""
