"""Records and arrays → figures, and the explorers. Nothing here trains, prints or reads global state.

style.py               one look for all figures, at three sizes (`stepjepa.mplstyle`)
words.py               names of arms in words
masks.py               masks as figures and as stills
training.py            steps and tokens of the data; loss curves, also while a model trains
comparison.py          accuracies, forest plots of arms, bars of the benchmark
embeddings.py          maps of views, similarities, spectra
attention.py           attention maps, the flow between parts, the leakage audit
detection.py           how well scores find mistakes; energies along a solution
grid_reports.py        what is in the report of a grid
cuts.py                where methods cut a solution without separators
grids.py               accuracies and representations of every arm, seed by seed
objectives.py          objectives on one map: what is found, what is lost
stills.py              pictures with hover texts for pages that run no code
widgets.py             what the explorers share (`widgets.js`)
mask_pictures.py       a batch → labelled masks, every row in words
mask_explorer.py       point at a token and read what it sees, and why
attention_pictures.py  attention of some models over an example, in bytes, every row in words
attention_explorer.py  point at a token and see where it looks
embedding_points.py    every point of a map in words
embedding_drawing.py   colours of the points, and a still picture
embedding_explorer.py  a live map of step embeddings (`embedding_marks.js`)
linking.py             explorers that follow each other
solving_form.py        type a question, read the answer step by step
page.py                HTML of a page that stands alone (`page.css`)
run_page.py            training runs as one page
"""
