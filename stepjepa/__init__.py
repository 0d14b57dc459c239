"""Step-JEPA: align consecutive reasoning steps while fine-tuning a language model."""

__version__ = "0.1.0"
