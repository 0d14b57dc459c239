"""Where third-party test data lie; tests that read them are skipped where they are not at hand.

The folder named by STEPJEPA_TEST_DATA, else `shared/data` beside the project, with GSM8K in `gsm8k/train.jsonl` and
`gsm8k/test.jsonl` (github.com/openai/grade-school-math), MATH in `math/test.jsonl` (github.com/hendrycks/math) and
OCWCourses of the Minerva paper (Lewkowycz et al. 2022) in `minerva_ocw/test.jsonl`, as published, an object a line.
"""

import os
from pathlib import Path

DATA = Path(os.environ.get("STEPJEPA_TEST_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
