"""How does a long fetch tell what it is doing? Values and callbacks; whoever shows them decides how."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

Step: TypeAlias = Literal["fetch", "unpack", "verify"]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a step has come, in bytes; the total is None where nobody said."""

    done_bytes: int
    total_bytes: int | None
    step: Step = "fetch"


OnProgress: TypeAlias = Callable[[Progress], None]
OnNote: TypeAlias = Callable[[str], None]
"""Takes one sentence for a person: what is waited for, what is kept, what cannot be resumed."""


def ignore(_: object) -> None:
    """Show nothing."""


def human_bytes(count: int) -> str:
    """Write a size as people do, in powers of 1000: 98 MB."""
    size = float(count)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.2f} GB"
