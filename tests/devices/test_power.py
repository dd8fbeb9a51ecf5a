"""Is energy read right where a counter is, and is the reason told where none can be read?"""

from __future__ import annotations

from pathlib import Path

import pytest

from hybrid.devices.power import EnergyMeter, RaplCounter, find_power
from tests.refusals import as_nobody, open_folder


def domain(folder: Path, number: str, name: str, energy_uj: int) -> Path:
    """Write what the kernel shows of one RAPL domain."""
    path = folder / f"intel-rapl:{number}"
    path.mkdir(parents=True)
    (path / "name").write_text(f"{name}\n")
    (path / "energy_uj").write_text(f"{energy_uj}\n")
    (path / "max_energy_range_uj").write_text("262143328850\n")
    return path


def test_packages_are_counted_and_parts_of_them_are_not(tmp_path):
    """Two packages count, the core domain inside one does not, and the start is zero."""
    first = domain(tmp_path, "0", "package-0", 5_000_000)
    domain(tmp_path, "0:0", "core", 1)
    second = domain(tmp_path, "1", "package-1", 7_000_000)
    power = find_power(wants_gpu=False, powercap=tmp_path)
    assert "RAPL, 2 packages: the whole CPU, without DRAM" == power.told
    assert power.counter is not None
    assert 0 == power.counter.joules()
    (first / "energy_uj").write_text("6500000\n")
    (second / "energy_uj").write_text("7250000\n")
    assert 1.75 == power.counter.joules()


def test_a_counter_that_wraps_goes_on(tmp_path):
    """After the largest value comes zero, and nothing is lost."""
    path = domain(tmp_path, "0", "package-0", 262_143_328_850 - 1_000_000)
    counter = RaplCounter([path])
    counter.joules()
    (path / "energy_uj").write_text("2000000\n")
    assert 3.0 == counter.joules()


@pytest.mark.parametrize(
    ("energy", "expected"),
    [(None, "no RAPL counter under"), ("", "cannot be read: invalid literal"), ("x", "cannot be read")],
    ids=["no-counter", "empty", "no-number"],
)
def test_without_a_counter_the_reason_is_told(tmp_path, energy, expected):
    """Nothing there, or nothing that can be understood."""
    if energy is not None:
        (domain(tmp_path, "0", "package-0", 0) / "energy_uj").write_text(energy)
    power = find_power(wants_gpu=False, powercap=tmp_path)
    assert power.counter is None
    assert expected in power.told


def test_a_counter_that_only_root_may_read_is_told():
    """As Linux ships it: there is no energy then, and the sentence says how to allow it."""
    with open_folder() as folder:
        (domain(folder, "0", "package-0", 1) / "energy_uj").chmod(0)
        with as_nobody():
            power = find_power(wants_gpu=False, powercap=folder)
    assert power.counter is None
    assert "only root may read" in power.told
    assert "chmod a+r" in power.told


class Scripted:
    """A counter that gives prepared values."""

    def __init__(self, *values: float) -> None:
        self._values = iter(values)

    def joules(self) -> float:
        """The next one."""
        return next(self._values)


def test_a_meter_adds_stretches():
    """What lies between two stretches is not counted."""
    meter = EnergyMeter(Scripted(1.0, 3.0, 10.0, 10.5))
    for _ in range(2):
        meter.start()
        meter.stop()
    assert 2.5 == meter.used_j


@pytest.mark.parametrize("content", [None, "", "x", b"\xff"], ids=["gone", "empty", "no-number", "no-text"])
def test_a_counter_that_fails_on_the_way_is_unknown_and_no_error(tmp_path, content):
    """Its module is unloaded, or it tells no number any more: the joules are None, and the work goes on."""
    energy = domain(tmp_path, "0", "package-0", 5) / "energy_uj"
    meter = EnergyMeter(find_power(wants_gpu=False, powercap=tmp_path).counter)
    for told in ("10", content):
        meter.start()
        energy.unlink()
        if told is not None:
            energy.write_bytes(told.encode() if isinstance(told, str) else told)
        meter.stop()
    assert meter.used_j is None


def test_a_domain_whose_name_is_no_text_is_none(tmp_path):
    """It is passed over, as one that cannot be read is."""
    (domain(tmp_path, "0", "package-0", 5) / "name").write_bytes(b"\xff")
    assert find_power(wants_gpu=False, powercap=tmp_path).counter is None


@pytest.mark.parametrize("counter", [None, Scripted(1.0, 1.0)], ids=["none", "did-not-move"])
def test_a_meter_that_saw_nothing_gives_nothing(counter):
    """Unknown is None, not zero joules."""
    meter = EnergyMeter(counter)
    meter.start()
    meter.stop()
    assert meter.used_j is None
