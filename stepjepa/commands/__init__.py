"""One thin file for each `stepjepa` command: options → call → print, write, draw.

main.py       `stepjepa <command>`: finds the command's module, turns a `UserError` into one line
options.py    dataclasses of options → a command line and back, without torch
output.py     what commands print: control characters written out, the next command to type
prepare.py    solutions of any source → chat JSONL with steps
synthesize.py sample solutions from a teacher
boundaries.py learn where steps begin, and measure it
verify.py     check a model and its data before training
train.py      fine-tune with Step-JEPA
plan.py       what a run will need, before it runs
evaluate.py   answer test problems and check the answers
generate.py   answer a question step by step
compare.py    result files → paired differences
embed.py      a data set → one embedding file
inspect.py    embedding files → metrics and a verdict
report.py     runs as one HTML page
score.py      energies of steps; best of n and error detection by them
attention.py  attention maps; with `--audit`, the leakage audit
ablate.py     run or report a grid
bench.py      what the JEPA term costs; with `--generation`, how fast answers come
"""
