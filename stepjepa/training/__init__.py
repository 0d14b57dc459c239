"""One configuration → one trained model and one record.

options.py         the options of Step-JEPA and of a run, without torch
config.py          `StepJEPAConfig`: what is added to `TrainingArguments`, and what cannot be honoured
configurations.py  named configurations and the user's own YAML → options
objective.py       the weights of an objective: trained, saved and resumed beside those of the model
targets.py         what contexts predict: whose targets, from which layers, how scaled
whole_step.py      objectives over the view pairs of a whole optimizer step
splits.py          the examples of a run: which train, which evaluate; a part is held out where no others are given
disk.py            training data larger than memory: examples and rows in Arrow files
dataset.py         what the trainer is given → rows for the collator
terms.py           the terms of an objective: what they are averaged over, what is warned of
evaluating.py      evaluation losses, as sums of each example
trainer.py         `StepJEPATrainer`: what differs from `transformers.Trainer`
divergence.py      what is said where the loss is no number
monitor.py         what is logged in training and summed up in evaluation
identity.py        what the result of a run follows from; what a resumed one has to have in common with its checkpoint
checkpoints.py     checkpoints on disk that are complete or absent
order.py           the order of rows, from seed and epoch alone
hub.py             `--push_to_hub`: a finished folder goes to the Hub whole
resuming.py        a `Trainer` that writes such checkpoints and goes on from them
folder.py          the output folder of a run: new, or the one that is resumed; locked
run.py             options → model, data, training, accuracy, record
summary.py         what a run says of itself
"""
