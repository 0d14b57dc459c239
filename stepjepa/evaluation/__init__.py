"""Does the model solve the problems? Questions → answers → verdicts → result files → comparison.

In the order in which a question passes through them:

- `questions.py`: test data of any source → questions with gold answers, and an account of every other row;
- `scoring.py`: the prompt of a question, and the verdict on a response;
- `generation.py`: prompts → responses, in batches, with the key-value cache of `cache.py`;
- `answers.py`: the final answer of a response, and whether it is right; `equivalence.py` asks math-verify where
  numbers and text do not settle it;
- `options.py`: what `evaluate` and `synthesize` can be asked, without torch;
- `run.py`: one model on test files, through all of these, going on where a run was stopped;
- `results.py`: result files, the figures of a summary; `journal.py`: what a run has answered so far, on disk;
- `arms.py`, `statistics.py`, `compare.py`: result files of several models and seeds → paired differences with
  intervals, and what can be read from them;
- `synthesis.py`: a teacher's samples → training data; `teachers.py` draws them, `servers.py` asks an OpenAI-compatible
  server, `solutions.py` keeps and chooses;
- `lm_eval_task.py`, `lm_eval_tasks/`: the same questions as a task of lm-evaluation-harness.
"""
