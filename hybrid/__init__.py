"""hybrid: a local LLM runtime that pays a cloud only for the hard requests."""

__version__ = "0.1.0"
