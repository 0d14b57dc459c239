"""Worked solutions → steps → chat text → tokens with labels and step indices.

formats.py      one row of GSM8K, MATH, teacher or chat form → one example, with its reference answer
boxes.py        the boxed answer of a solution
golds.py        where an answer stands in a text, and the reference answer of a row
thoughts.py     the thoughts of a response and its answer, told apart by models' marks
mathematics.py  where a solution must not be cut: formulas, drawings, code
steps.py        a solution's text → its steps
sources.py      files, Hub data sets and the built-in problems → examples, with an account of what was left out
problems.py     the built-in story problems, worded by `stories.yaml`
chat.py         an example → training text, through the tokenizer's chat template
tokens.py       text → tokens, labels and step indices, by character offsets
boundaries.py   what a search for the blank line's token would find instead
"""
