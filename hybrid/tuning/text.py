"""On which text are candidates compared? Ours: prose, talk, code, tables and other languages, a few kilobytes."""

from __future__ import annotations

import hashlib
from pathlib import Path

TEXT = Path(__file__).with_name("sample.txt")


def read_text() -> str:
    """Give the text."""
    return TEXT.read_text(encoding="utf-8")


def text_sha256() -> str:
    """Name the text by its content: figures on another text cannot be compared."""
    return hashlib.sha256(TEXT.read_bytes()).hexdigest()
