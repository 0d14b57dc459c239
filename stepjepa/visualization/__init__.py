"""Records and arrays → figures, and the two explorers. Nothing here trains, prints or reads global state.

Figures: `style.py` holds the look, `training.py` data and curves, `masks.py` masks, `comparison.py` arms against a
baseline, `grids.py` arms and seeds of a grid, `embeddings.py` maps and spectra, `attention.py` attention and leakage.
Explorers: `mask_explorer.py` (with `mask_pictures.py`: the masks in words) and `embedding_explorer.py` (with
`embedding_points.py`: the points in words, `embedding_drawing.py`: their colours); `widgets.py` is what both share.
"""
