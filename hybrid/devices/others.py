"""How much of the machine did other processes use while we measured?"""

from __future__ import annotations

import time

import psutil

_BUSY = ("user", "nice", "system", "irq", "softirq", "steal")
_OWN = ("user", "system", "children_user", "children_system")


class OthersWatch:
    """Counts from when it was made. Ours are this process and what it started; time a hypervisor stole is others'."""

    def __init__(self) -> None:
        self._started_s, self._busy_s, self._own_s = time.monotonic(), _busy_s(), _own_s()

    def cores(self) -> float:
        """Cores that others kept busy, on average."""
        elapsed_s = max(time.monotonic() - self._started_s, 1e-3)
        others_s = (_busy_s() - self._busy_s) - (_own_s() - self._own_s)
        return max(0.0, others_s) / elapsed_s


def _busy_s() -> float:
    times = psutil.cpu_times()
    return float(sum(getattr(times, name, 0.0) for name in _BUSY))


def _own_s() -> float:
    """CPU seconds of ours: who ended already was counted by whoever waited for it."""
    root = psutil.Process()
    total_s = 0.0
    for process in (root, *root.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue  # it ended between the list and the look
        total_s += sum(getattr(times, name, 0.0) for name in _OWN)
    return total_s
