"""The idea: what a model knows after step k has to predict the meaning of step k + 1 read on its own.

A worked solution is a question, then steps S1 … Sn. The *context view* of a pair is the hidden state at a predictor
token that stands right after step k and has read all before it; the *target view* is the state at the last token of the
next step, which has read nothing but that step. One causal pass gives both, and the language-modelling loss as well:

    trunk     system question S1 S2 … Sn     plain causal, exactly as in ordinary fine-tuning
    branch 1  [PRED]                         sees the trunk up to the end of S1, and itself   → context view
              [copy of S2]                   sees itself alone, causally                      → target view
    branch 2  [PRED] [copy of S3] …          a branch for each view pair; no trunk token ever sees one

    loss = γ · mean over labelled tokens of L_LM  +  λ · mean over view pairs of L_JEPA(context, target)

In reading order, with what to look for:

    pairs.py          which step's end predicts which step: `BranchLayout`, `view_pairs`
    layout.py         tokens with step indices → trunk and branches: `StepJEPACollator`
    candidates.py     one encoded context for many candidate steps: `CandidateCollator`
    masks.py          who sees whom, one predicate: `branch_mask`; `dense` and `block_mask` render it
    views.py          one forward pass → losses of tokens, context and target views: `encode_views`
    losses.py         context, target → a number per pair: `LOSSES`
    heads.py          what predicts from a context view, how a target view is scaled: `HEADS`, `SCALES`
    regularisers.py   what keeps a set of views from becoming all alike: `REGULARISERS`
    objectives.py     these put together, with weights and state: `Objective`, `StepObjective`
    rivals.py         objectives of other papers, over the states of tokens
    registry.py       every objective by name: `OBJECTIVES`
    targets.py        whose target views; the problem that a pair belongs to
    reference.py      the same in two passes, as one would explain it: `two_pass_views`, which tests compare with
    metrics.py        aligned, or merely alike: `METRICS`
    controls.py       wrong targets on purpose, for the control arms: `training_target`
    architectures.py  which models can hold all this, and why others are refused: `check_architecture`
"""
