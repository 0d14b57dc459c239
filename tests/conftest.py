"""Settings of every test."""

import logging
import os
import signal

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test reaches a hub
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
for library in ("OMP", "OPENBLAS", "MKL"):  # before they are loaded, and for processes and notebooks that tests start
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")  # all is tiny; more threads only wait for each other

import pytest  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(1)
# A shell's background jobs ignore Ctrl-C, and so would the commands that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def warnings_of_transformers(caplog):
    """Let caplog see what transformers logs, which keeps its records to itself."""
    logger = logging.getLogger("transformers")
    before = logger.propagate
    logger.propagate = True
    with caplog.at_level(logging.WARNING):
        yield caplog
    logger.propagate = before
