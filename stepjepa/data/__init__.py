"""Worked solutions → steps → chat text → tokens with labels and step indices.

origins.py      what a source names: files, folders, patterns, Hub data sets
files.py        a file → raw rows
fields.py       what a raw row holds, whatever a data set calls it
endings.py      end-of-turn strings at the end of a solution, taken off
formats.py      the table of all kinds of rows; one raw row → one example
converters.py   one converter for each kind of row
labelled.py     step-labelled sets: steps as they are given, with their labels
examples.py     an example: messages, steps, answer, source
boxes.py        the boxed answer of a solution
notation.py     what never changes an answer's meaning, taken away
numbers.py      numbers as people write them → exact values
units.py        the units of an answer
readings.py     an answer taken apart, and whether two are the same
golds.py        where an answer stands in a text, and the reference answer of a row
thoughts.py     the thoughts of a response and its answer, told apart by models' marks
mathematics.py  where a solution must not be cut: formulas, drawings, code
steps.py        a solution's text → its steps
mixtures.py     several sources in given shares
sources.py      any sources and the built-in problems → examples, with an account of what was left out
drawing.py      built-in problems of a split, drawn until there are enough, none twice
chains.py       the numbers of a story: operations on a running amount
stories.py      the built-in story problems: chains worded by `stories.yaml`
programs.py     built-in programs, traced line by line
logic.py        built-in problems of implications, sets and orderings
mistakes.py     built-in solutions with one planted wrong step
control.py      strings of control tokens stay text: only the chat template writes control tokens
chat.py         a conversation → training text, through the tokenizer's chat template
encoding.py     a conversation → token ids and offsets, a prompt → the first of them
tokens.py       an example → tokens, labels and step indices, by character offsets
boundaries.py   what a search for the blank line's token would find instead
"""
