"""Do the micro-benchmarks keep to their bounds, and is a cache's size read right off a latency curve?"""

from __future__ import annotations

import pytest

from hybrid.devices.machine import (
    MIB,
    LatencyPoint,
    allowed_cpus,
    array_size,
    cache_edges,
    last_cache_bytes,
    measure_machine,
    thread_counts,
    working_sets,
)
from hybrid.devices.speed import Progressed

GIB = 1 << 30


@pytest.mark.parametrize(
    ("available_bytes", "cache_bytes", "expected_mib", "expected_note"),
    [
        pytest.param(16 * GIB, 32 * MIB, 128, None, id="four-times-the-cache"),
        pytest.param(16 * GIB, 1 * MIB, 8, None, id="a-small-cache"),
        pytest.param(256 * GIB, 768 * MIB, 2048, None, id="a-huge-cache"),
        pytest.param(600 * MIB, 8 * MIB, 32, None, id="just-enough"),
        pytest.param(300 * MIB, 8 * MIB, 25, "only 300 MiB are free, so arrays have 25 MiB", id="less"),
        pytest.param(0, 8 * MIB, 1, "they may lie in the last cache (8 MiB)", id="nothing-free"),
    ],
)
def test_arrays_exceed_the_cache_but_not_the_memory(available_bytes, cache_bytes, expected_mib, expected_note):
    """Three arrays take at most a quarter of what is free; smaller ones than meant are told of."""
    array_bytes, notes = array_size(available_bytes, cache_bytes)
    assert expected_mib == array_bytes // MIB
    assert (expected_note is not None) == bool(notes)
    assert expected_note is None or expected_note in notes[0]


@pytest.mark.parametrize(
    ("cores", "expected", "quick"),
    [(1, (1,), (1,)), (2, (1, 2), (1, 2)), (6, (1, 2, 4, 6), (1, 6)), (64, (1, 2, 4, 8, 16, 32, 64), (1, 64))],
)
def test_thread_counts(cores, expected, quick):
    """Powers of two and all cores; only the ends where it must be quick."""
    assert (expected, quick) == (thread_counts(cores), thread_counts(cores, is_quick=True))


def test_working_sets_rise_in_whole_lines():
    """From 4 KiB up to the bound, each larger than the one before and a multiple of 64."""
    sizes = working_sets(128 * MIB, steps_per_octave=2)
    assert (4096, 128 * MIB, 31) == (sizes[0], sizes[-1], len(sizes))
    assert list(sizes) == sorted(set(sizes))
    assert {0} == {size % 64 for size in sizes}


# Measured on a Zen 4 EPYC (32 KiB, 1 MiB, 32 MiB shared with other virtual machines), 2026-11-25, ns by KiB.
ZEN4 = {
    4: 1.09, 8: 1.09, 16: 1.09, 32: 1.2, 64: 3.85, 128: 3.85, 256: 3.86, 512: 5.64, 1024: 8.57, 2048: 13.67,
    4096: 15.1, 8192: 16.8, 16384: 25.2, 32768: 116.5, 65536: 133.0, 131072: 157.3, 262144: 156.0,
}  # fmt: skip


def curve(by_kib: dict[int, float]) -> list[LatencyPoint]:
    """Points of a curve."""
    return [LatencyPoint(kib * 1024, ns) for kib, ns in by_kib.items()]


def test_cache_edges_of_a_real_machine():
    """Three edges within a factor of two of the real sizes, which one core of many does not get whole."""
    edges = cache_edges(curve(ZEN4))
    assert 3 == len(edges)
    for edge, kib in zip(edges, (32, 1024, 32768), strict=True):
        assert 0.5 <= edge / 1024 / kib <= 2, edges


@pytest.mark.parametrize(
    ("by_kib", "expected"),
    [
        pytest.param({}, 0, id="nothing"),
        pytest.param({4: 1.0}, 0, id="one-point"),
        pytest.param({4: 1.0, 8: 1.0, 16: 1.1}, 0, id="flat"),
        pytest.param({4: 1.0, 8: 2.0, 16: 4.0, 32: 8.0}, 0, id="only-slope"),
        pytest.param({4: 1.0, 8: 1.0, 16: 9.0, 32: 9.0}, 1, id="one-step"),
        pytest.param({4: 9.0, 8: 9.0, 16: 1.0, 32: 1.0}, 0, id="falling"),
    ],
)
def test_cache_edges_of_odd_curves(by_kib, expected):
    """A curve without steps has no edges, and none is invented."""
    assert expected == len(cache_edges(curve(by_kib)))


def test_the_last_cache_is_read(tmp_path):
    """The highest level counts, whatever the order; a folder that cannot be read is passed over; none is None."""
    for index, (level, size) in enumerate([(1, "32K"), (3, "32768K"), (2, "1M"), (4, "x")]):
        cache = tmp_path / f"cpu2/cache/index{index}"
        cache.mkdir(parents=True)
        (cache / "level").write_text(f"{level}\n")
        (cache / "size").write_text(f"{size}\n")
    assert (32 * MIB, None) == (last_cache_bytes(2, tmp_path), last_cache_bytes(3, tmp_path))


def test_the_whole_machine_is_measured_with_nothing_free():
    """With no memory to spare it measures small arrays, says so, and every figure is there and positive."""
    told: list[Progressed] = []
    cpus = allowed_cpus()[:2]
    speed = measure_machine(cpus, is_quick=True, on_progress=told.append, available_bytes=0, cache_bytes=8 * MIB)
    assert (cpus, MIB, 1) == (speed.cpus, speed.array_bytes, len(speed.notes))
    assert not speed.is_beyond_cache
    assert [one.threads for one in speed.bandwidth] == sorted({1, len(cpus)})
    assert 0 < min(one.read_bytes_s.low for one in speed.bandwidth) <= speed.read_bytes_s
    assert speed.fp32_ops_s is not None
    assert all(0 < peak.one_core_ops_s.median for peak in (*speed.fp32, *speed.int8))
    assert [one.share for one in told] == sorted(one.share for one in told)


def test_no_core_is_refused():
    """There must be something to measure on."""
    with pytest.raises(ValueError, match="no core to measure on"):
        measure_machine([])
