"""Are the processor's measurements sound: arguments checked, units right, plausible, and interruptible?"""

from __future__ import annotations

import os
import resource
import signal
import threading

import pytest

from hybrid.native import machine

CPU = sorted(os.sched_getaffinity(0))[0]
QUICK = {"repeats": 2, "repeat_s": 0.001}
MIB = 1 << 20


@pytest.mark.parametrize("kind", ["read", "copy", "triad"])
def test_bandwidth_is_plausible(kind):
    """One item a repeat, between 10 MB/s and 100 TB/s: a mistaken unit is off by more."""
    samples = machine.bandwidth(kind, cpus=[CPU], array_bytes=4 * MIB, **QUICK)
    assert 2 == len(samples)
    assert all(1e7 < sample < 1e14 for sample in samples)


@pytest.mark.parametrize("number", ["fp32", "int8"])
def test_every_version_runs(number):
    """Each instruction set that is named runs here, and does 10 million to 10^14 operations a second."""
    for version in machine.versions(number):
        [sample] = machine.peak(number, version, cpus=[CPU], repeats=1, repeat_s=0.001)
        assert 1e7 < sample < 1e14, version


def test_a_version_the_processor_lacks_is_refused():
    """Not an illegal instruction: an error that names it."""
    with pytest.raises(ValueError, match="this processor cannot do fp32 with avx4096"):
        machine.peak("fp32", "avx4096", cpus=[CPU], **QUICK)


def test_a_load_from_far_takes_longer():
    """What fits into the first cache is loaded in under 100 ns, and 64 MiB take longer than it."""
    near = min(machine.latency(cpu=CPU, working_set_bytes=4096, **QUICK))
    far = min(machine.latency(cpu=CPU, working_set_bytes=64 * MIB, **QUICK))
    assert 0.05 < near < 100
    assert near < far


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param({"cpus": []}, "need 1 to 4096 cores; got 0", id="no-core"),
        pytest.param({"cpus": [CPU, CPU]}, "named twice", id="same-core-twice"),
        pytest.param({"cpus": [1_000_000]}, "no core 1000000", id="core-beyond-all"),
        pytest.param({"cpus": [-1]}, "no core -1", id="negative-core"),
        pytest.param({"cpus": [1023]}, "may not run on core 1023", id="core-not-here"),
        pytest.param({"repeats": 0}, r"repeats must be in \[1, 1000\]; got 0", id="no-repeat"),
        pytest.param({"repeat_s": -1.0}, r"repeat_s must be in \[0, 10\]", id="negative-time"),
        pytest.param({"repeat_s": float("nan")}, r"repeat_s must be in \[0, 10\]", id="no-time"),
        pytest.param({"array_bytes": 0}, "less than 256 bytes a thread", id="no-array"),
        pytest.param({"array_bytes": 1 << 41}, "more than a tebibyte", id="array-too-large"),
        pytest.param({"kind": "write"}, "kind must be read, copy or triad; got write", id="kind"),
    ],
)
def test_wrong_arguments_are_refused(change, expected):
    """Each is a ValueError that says what would be right."""
    arguments = {"cpus": [CPU], "array_bytes": MIB, **QUICK, **change}
    with pytest.raises(ValueError, match=expected):
        machine.bandwidth(arguments.pop("kind", "read"), **arguments)


def test_a_working_set_out_of_range_is_refused():
    """Too small for a cycle, or more lines than can be numbered."""
    for working_set_bytes in (0, 1023, (1 << 36) + 1):
        with pytest.raises(ValueError, match=r"working_set_bytes must be in \[1024, 2\^36\]"):
            machine.latency(cpu=CPU, working_set_bytes=working_set_bytes, **QUICK)


def test_more_memory_than_there_is_is_a_memory_error():
    """A tebibyte cannot be had; that is said, and the process lives."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, before[1]))
    try:
        with pytest.raises(MemoryError):
            machine.bandwidth("read", cpus=[CPU], array_bytes=1 << 40, **QUICK)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_ctrl_c_ends_a_measurement():
    """A signal during a run of 10 s x 1,000 ends it with KeyboardInterrupt, not after it."""

    def interrupted():
        # Started in here: on a busy machine the signal may come before the call does.
        threading.Timer(0.05, signal.raise_signal, [signal.SIGINT]).start()
        machine.peak("fp32", machine.versions("fp32")[0], cpus=[CPU], repeats=1000, repeat_s=10.0)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
