"""How fast are this processor and its memory? What the C++ extension `_machine` measures, with its units.

There is no numpy twin: an interpreter's speed says nothing about the processor. Every function releases the GIL, puts
one thread on each core it is given, starts them together, and can be interrupted with Ctrl-C at any moment.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from hybrid.errors import LocalFailure

try:
    from hybrid.native import _machine
except ImportError:
    IS_BUILT = False
else:
    IS_BUILT = True

LINE_BYTES = 64


def bandwidth(
    kind: Literal["read", "copy", "triad"],
    *,
    cpus: Sequence[int],
    array_bytes: int,
    repeats: int = 5,
    repeat_s: float = 0.02,
) -> list[float]:
    """Measure memory, or a cache if the arrays fit into it.

    Args:
        kind: read sums one array; copy moves one to another; triad is a = b + s * c, over three.
        cpus: core numbers as the system counts them; the arrays are shared out evenly.
        array_bytes: of one array, over all threads; choose four times the last cache or more.
        repeat_s: seconds a repeat lasts at least.
    Returns: bytes a second, one item a repeat, counting what the program moves (1, 2, 3 arrays); memory may move
        more, because a write first fetches its line.
    Raises: ValueError for a core this process may not use or a value out of range; MemoryError; LocalFailure without
        the extension.
    Source: McCalpin's STREAM, whose way of counting this is.
    """
    _need_extension()
    return _machine.bandwidth(kind, cpus=list(cpus), array_bytes=array_bytes, repeats=repeats, repeat_s=repeat_s)


def peak(
    number: Literal["fp32", "int8"],
    version: str,
    *,
    cpus: Sequence[int],
    repeats: int = 5,
    repeat_s: float = 0.02,
) -> list[float]:
    """Measure arithmetic with nothing read from memory: fp32 multiply-add, or int8 dot product into int32.

    Args:
        version: one of `versions(number)`.
    Returns: operations a second of all cores, one item a repeat; a multiplication and an addition are two.
    Raises: as `bandwidth`.
    """
    _need_extension()
    return _machine.peak(number, version, cpus=list(cpus), repeats=repeats, repeat_s=repeat_s)


def latency(*, cpu: int, working_set_bytes: int, repeats: int = 5, repeat_s: float = 0.005) -> list[float]:
    """Measure a load that must wait for the one before it, at random places in `working_set_bytes`.

    Returns: nanoseconds a load, one item a repeat.
    Raises: as `bandwidth`.
    """
    _need_extension()
    return _machine.latency(cpu=cpu, working_set_bytes=working_set_bytes, repeats=repeats, repeat_s=repeat_s)


def versions(number: Literal["fp32", "int8"]) -> list[str]:
    """Name the instruction sets this processor has a measurement for, the simplest first."""
    _need_extension()
    return _machine.fp32_versions() if number == "fp32" else _machine.int8_versions()


def _need_extension() -> None:
    if not IS_BUILT:
        raise LocalFailure(
            "the C++ extension is not built, so the processor cannot be measured; scripts/prepare.py does"
        )
