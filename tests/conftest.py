"""Settings of every test."""

import logging
import os

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test reaches a hub
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
torch.set_num_threads(1)  # the models are tiny; more threads only wait for each other


@pytest.fixture
def warnings_of_transformers(caplog):
    """Let caplog see what transformers logs, which keeps its records to itself."""
    logger = logging.getLogger("transformers")
    before = logger.propagate
    logger.propagate = True
    with caplog.at_level(logging.WARNING):
        yield caplog
    logger.propagate = before
