"""How much energy did this machine use? From RAPL's counters, or an NVIDIA GPU's; where neither can be read, why."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

POWERCAP = Path("/sys/class/powercap")
_PACKAGE = "package"


class EnergyCounter(Protocol):
    """Joules since some moment; only differences mean anything."""

    def joules(self) -> float:
        """Read it. Raises: OSError or ValueError if it cannot be read any more."""


@dataclass(frozen=True, slots=True)
class Power:
    """What can be read. counter: None where nothing can be. told: which counter it is, or why there is none."""

    counter: EnergyCounter | None
    told: str


@dataclass(slots=True)
class RaplCounter:
    """The sum of the CPU packages' counters in microjoules, which wrap around at `max_energy_range_uj`.

    Source: the Linux kernel's Documentation/power/powercap/powercap.rst.
    """

    domains: Sequence[Path]
    _last_uj: dict[Path, int] = field(default_factory=dict)
    _total_uj: int = 0

    def joules(self) -> float:
        """Add what each package used since the last look; one wrap between two looks is seen, two are not."""
        for domain in self.domains:
            now_uj = _read_uj(domain / "energy_uj")
            used_uj = now_uj - self._last_uj.get(domain, now_uj)
            if used_uj < 0:
                used_uj += _read_uj(domain / "max_energy_range_uj")
            self._total_uj += used_uj
            self._last_uj[domain] = now_uj
        return self._total_uj / 1e6


@dataclass(slots=True)
class NvidiaCounter:
    """One GPU's energy counter in millijoules, kept by its driver since it was loaded (Volta and newer)."""

    nvml: Any
    handle: Any

    def joules(self) -> float:
        """Ask the driver."""
        try:
            return float(self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.handle)) / 1e3
        except self.nvml.NVMLError as failed:
            raise OSError(f"NVML gives no energy counter: {failed}") from failed


def find_power(*, wants_gpu: bool, powercap: Path = POWERCAP) -> Power:
    """Find the counter of what computes: the GPU's where the model lies there, else the CPU packages'."""
    return _find_nvidia() if wants_gpu else _find_rapl(powercap)


def _find_rapl(powercap: Path) -> Power:
    domains = []
    for domain in sorted(powercap.glob("intel-rapl:*")):
        with suppress(OSError, UnicodeDecodeError):
            if (domain / "name").read_text().startswith(_PACKAGE):
                domains.append(domain)
    if not domains:
        return Power(None, f"no RAPL counter under {powercap}: a virtual machine, another kind of CPU or no module")
    try:
        counter = RaplCounter(domains)
        counter.joules()
    except PermissionError:
        return Power(
            None, f"RAPL counters are there, but only root may read {domains[0] / 'energy_uj'} (chmod a+r allows all)"
        )
    except (OSError, ValueError) as exc:
        return Power(None, f"RAPL counters cannot be read: {exc}")
    return Power(counter, f"RAPL, {len(domains)} package{'s' if len(domains) > 1 else ''}: the whole CPU, without DRAM")


def _find_nvidia() -> Power:
    try:
        import pynvml
    except ImportError:
        return Power(None, "the GPU's power needs the package nvidia-ml-py")
    try:
        pynvml.nvmlInit()
        counter = NvidiaCounter(pynvml, pynvml.nvmlDeviceGetHandleByIndex(0))
        counter.joules()
    except OSError as exc:
        return Power(None, str(exc))
    except pynvml.NVMLError as exc:
        return Power(None, f"NVML gives no energy counter: {exc}")
    return Power(counter, "NVML, the first GPU: the whole board")


def _read_uj(path: Path) -> int:
    return int(path.read_text())


@dataclass(slots=True)
class EnergyMeter:
    """Joules and seconds of several stretches of work, added up. With no counter it stays at None.

    So it does with one that fails on the way: what a stretch took is then unknown, and the work goes on.
    """

    counter: EnergyCounter | None
    _used_j: float = 0.0
    _from_j: float = 0.0
    _started_s: float = 0.0
    seconds: float = 0.0

    def start(self) -> None:
        """Begin a stretch."""
        self._from_j = self._read_j()
        self._started_s = time.perf_counter()

    def stop(self) -> None:
        """End the stretch."""
        self.seconds += time.perf_counter() - self._started_s
        self._used_j += self._read_j() - self._from_j

    def _read_j(self) -> float:
        try:
            return self.counter.joules() if self.counter else 0.0
        except (OSError, ValueError):
            self.counter = None
            return 0.0

    @property
    def used_j(self) -> float | None:
        """What the stretches took; None where no counter is, or it did not move: then it is too coarse."""
        return self._used_j if self.counter and self._used_j > 0 else None
