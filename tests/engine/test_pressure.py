"""Do the kernel's counters say what the engine takes them for?"""

from __future__ import annotations

import os
import threading

import pytest

from hybrid.engine.pressure import (
    Pressure,
    PressureReader,
    Reading,
    between,
    busy_s,
    schedstat_ns,
    stalled_s,
)

# Captured on Linux 6.18, 2 cores; of /proc/stat the first lines.
STAT = """cpu  50958 70 7862 30954 225 0 141 320 0 0
cpu0 20122 70 3255 21546 44 0 29 158 0 0
cpu1 30835 0 4607 9407 181 0 111 162 0 0
intr 353364 0 0 0
"""
PSI = """some avg10=83.96 avg60=45.45 avg300=22.15 total=118864853
full avg10=0.00 avg60=0.00 avg300=0.00 total=0
"""
SCHEDSTAT = "627958134 466996724 151\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(SCHEDSTAT, (627_958_134, 466_996_724), id="captured"),
        pytest.param("0 0 0\n", (0, 0), id="a-thread-that-never-ran"),
        pytest.param("", None, id="empty"),
        pytest.param("12 34\n", None, id="cut-off"),
        pytest.param("a b c\n", None, id="something-else"),
    ],
)
def test_schedstat(text, expected):
    """The first two counters are time on a core and time waited for one."""
    assert expected == schedstat_ns(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(STAT, (50_958 + 70 + 7_862 + 0 + 141 + 320) / 100, id="captured"),
        pytest.param("cpu  1 2 3\n", None, id="an-old-kernel"),
        pytest.param("", None, id="empty"),
        pytest.param("cpu0 1 2 3 4 5 6 7 8 9 10\n", None, id="one-core-is-not-the-machine"),
    ],
)
def test_busy_time(text, expected):
    """Everything but idle and waiting for disks is busy, stolen time too."""
    assert expected == busy_s(text, ticks_per_s=100)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(PSI, 118.864853, id="captured"),
        pytest.param("", None, id="empty"),
        pytest.param("full avg10=0.00 avg60=0.00 avg300=0.00 total=7\n", None, id="only-full"),
        pytest.param("some avg10=0.00\n", None, id="without-a-total"),
    ],
)
def test_stalled_time(text, expected):
    """The total of "some" is in microseconds."""
    assert expected == stalled_s(text)


def _reading(at_s: float, **counters: float | int) -> Reading:
    return Reading(at_s=at_s, **counters)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        pytest.param(_reading(0), _reading(2), Pressure(seconds=2), id="nothing-known"),
        pytest.param(
            _reading(0, waited_s=1.0, waiters=5, own_s=10.0, busy_s=100.0, stalled_s=3.0, preempted=7),
            _reading(2, waited_s=1.5, waiters=5, own_s=12.0, busy_s=103.0, stalled_s=4.0, preempted=27),
            Pressure(seconds=2, waiting=0.25, others_cores=0.5, stalled=0.5, preempted_per_s=10.0),
            id="all-known",
        ),
        pytest.param(
            _reading(0, own_s=1.0, busy_s=5.0), _reading(1, own_s=2.0, busy_s=5.9), Pressure(seconds=1, others_cores=0),
            id="ticks-are-coarse",
        ),
        pytest.param(_reading(0, own_s=1.0), _reading(1, own_s=2.0, busy_s=5.9), Pressure(seconds=1), id="came-later"),
    ],
)  # fmt: skip
def test_pressure_between_readings(before, after, expected):
    """Waits count against the time inside steps, of as many threads as compute; what others use against the clock."""
    assert expected == between(before, after, threads=2, computing_s=1.0)


def test_without_computing_nobody_waits():
    """Where nothing was computed, waiting is unknown rather than zero."""
    before, after = _reading(0, waited_s=1.0, waiters=1, preempted=0), _reading(1, waited_s=1.0, waiters=1, preempted=0)
    assert Pressure(seconds=1) == between(before, after, threads=2, computing_s=0.0)


def _fake_proc(folder, threads):
    """A /proc with the threads given as name to schedstat text."""
    (folder / "pressure").mkdir()
    (folder / "stat").write_text(STAT)
    (folder / "pressure" / "cpu").write_text(PSI)
    for name, text in threads.items():
        (folder / "self" / "task" / name).mkdir(parents=True)
        (folder / "self" / "task" / name / "schedstat").write_text(text)
    return folder


def test_waits_of_threads_that_compute_are_summed(tmp_path):
    """What threads waited before they were first seen does not count, nor what Python's other threads wait."""
    python_thread = str(threading.get_native_id())
    proc = _fake_proc(tmp_path, {python_thread: "50 9000000000 1\n", "901": "80 4000000000 1\n"})
    reader = PressureReader(proc)
    first = reader.read()
    (proc / "self" / "task" / "901" / "schedstat").write_text("90 4500000000 2\n")
    (proc / "self" / "task" / python_thread / "schedstat").write_text("60 9250000000 2\n")
    second = reader.read()
    reader.close()

    assert (0.0, 2) == (first.waited_s, first.waiters)
    assert (0.75, 2) == (second.waited_s, second.waiters)
    assert (118.864853, 593.51) == (second.stalled_s, second.busy_s)


def test_who_reads_beside_the_computing_thread_is_not_counted(tmp_path):
    """The thread that read first computes; what another reader waits says nothing of how computing goes."""
    computing = str(threading.get_native_id())
    proc = _fake_proc(tmp_path, {computing: "50 9000000000 1\n"})
    reader = PressureReader(proc)
    reader.read()
    found = []

    def read_beside() -> None:
        listener = proc / "self" / "task" / str(threading.get_native_id())
        listener.mkdir()
        (listener / "schedstat").write_text("90 1000000000 1\n")
        reader.read()  # lists the threads anew
        (listener / "schedstat").write_text("90 5000000000 1\n")
        (proc / "self" / "task" / computing / "schedstat").write_text("60 9250000000 2\n")
        found.append(reader.read())

    listening = threading.Thread(target=read_beside)
    listening.start()
    listening.join()
    reader.close()
    assert [(0.25, 1)] == [(reading.waited_s, reading.waiters) for reading in found]


def test_a_thread_that_ended_is_not_counted(tmp_path):
    """A thread whose counters cannot be read is left out, and what it had waited is not taken back."""
    proc = _fake_proc(tmp_path, {"901": "80 1000000000 1\n", "902": "70 1000000000 1\n"})
    reader = PressureReader(proc)
    reader.read()
    (proc / "self" / "task" / "901" / "schedstat").write_text("90 1500000000 2\n")
    (proc / "self" / "task" / "902" / "schedstat").write_text("")
    readings = [reader.read(), reader.read()]
    reader.close()

    assert [(0.5, 1), (0.5, 1)] == [(reading.waited_s, reading.waiters) for reading in readings]


def test_the_busiest_threads_stand_for_all(tmp_path):
    """Of very many threads those that computed most are read, so that a reading stays cheap."""
    threads = {str(900 + number): f"{number} {number}000000000 1\n" for number in range(40)}
    reader = PressureReader(_fake_proc(tmp_path, threads))
    first = reader.read()
    for name in threads:
        (tmp_path / "self" / "task" / name / "schedstat").write_text("99 100000000000 2\n")
    second = reader.read()
    reader.close()

    assert 16 == first.waiters
    assert sum(100 - number for number in range(24, 40)) == second.waited_s


def test_without_proc_nothing_is_known_but_its_own(tmp_path):
    """Where the system has no /proc, its counters are None, and own CPU time and preemptions are still there."""
    reading = PressureReader(tmp_path).read()
    assert (None, 0, None, None) == (reading.waited_s, reading.waiters, reading.busy_s, reading.stalled_s)
    assert reading.own_s is not None
    assert reading.preempted is not None


@pytest.mark.skipif(not os.path.exists("/proc/self/schedstat"), reason="needs Linux with scheduler statistics")  # noqa: PTH110
def test_this_system_is_read():
    """On a real /proc every counter is there, and none ever shrinks."""
    reader = PressureReader()
    before, after = reader.read(), reader.read()
    reader.close()
    for name in ("waited_s", "own_s", "busy_s", "preempted"):
        assert getattr(before, name) <= getattr(after, name)
