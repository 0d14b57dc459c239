"""A model and its tokenizer: found, described, loaded; the built-in checkpoint beside what makes it.

checkpoint.py  a checkpoint by its name, and what identifies it, without torch
options.py     what a command can be told of its model, without torch
gguf.py        a model in one GGUF file, dequantised into weights that can be trained
vocabulary.py  pad, end of turn and predictor tokens, and their embedding rows
loading.py     model and tokenizer, ready for Step-JEPA or just as the checkpoint has them
speed.py       what makes a model quicker and changes no result
shape.py       a model as its configuration describes it, before its weights are here
pretrain.py    makes the checkpoint in `builtin/` again
"""
