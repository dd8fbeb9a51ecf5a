"""Which models can be had, which are here, and how does one get here? The package's public face."""

from hybrid.catalog.cards import Card, HuggingFaceSource, Shape, WheelSource, find_card, load_cards
from hybrid.catalog.progress import Progress, human_bytes
from hybrid.catalog.pull import pull
from hybrid.catalog.shelf import Installed, installed, partial_bytes, remove, resolve, sha256_file

STARTER = "smollm2-135m"
"""The model that answers when none is chosen."""

__all__ = [
    "STARTER",
    "Card",
    "HuggingFaceSource",
    "Installed",
    "Progress",
    "Shape",
    "WheelSource",
    "find_card",
    "human_bytes",
    "installed",
    "load_cards",
    "partial_bytes",
    "pull",
    "remove",
    "resolve",
    "sha256_file",
]
