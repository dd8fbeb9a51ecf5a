"""Does looking at a machine end in time, keep how each look ended, and join what several sources tell?"""

from __future__ import annotations

import sys
import threading

import pytest

from hybrid.devices.ggml import gpus_of
from hybrid.devices.host import Engine, EngineDevice, Gpu, Probe
from hybrid.devices.probe import Absent, Failed, ask_all, read_text, run_tool
from hybrid.devices.snapshot import as_facts, fill, merge_gpus, take_snapshot


def test_a_tool_that_is_missing_fails_or_hangs_says_so():
    """No tool, an error and no answer are told apart."""
    with pytest.raises(Absent, match="not installed"):
        run_tool(("no-such-tool-here",))
    with pytest.raises(Failed, match="exit 3: broken driver"):
        run_tool((sys.executable, "-c", "import sys; print('broken driver', file=sys.stderr); sys.exit(3)"))
    with pytest.raises(Failed, match="signal 9"):
        run_tool((sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"))
    with pytest.raises(Failed, match=r"no answer in 0\.2 s"):
        run_tool((sys.executable, "-c", "import threading; threading.Event().wait()"), limit_s=0.2)
    assert "yes\n" == run_tool((sys.executable, "-c", "print('yes')"))


def test_a_boards_name_ends_where_its_text_does(tmp_path):
    """A device tree's texts end in a zero byte, which is no part of them."""
    (tmp_path / "model").write_bytes(b"Raspberry Pi 5 Model B Rev 1.0\0")
    assert "Raspberry Pi 5 Model B Rev 1.0" == read_text(tmp_path / "model")
    assert read_text(tmp_path / "gone") is None


def test_every_look_has_an_outcome():
    """Found, absent, failed, unreadable and late: none disturbs the others."""
    never = threading.Event()

    def fails(error: Exception):
        def ask():
            raise error

        return ask

    questions = {
        "good": lambda: (7, "seven"),
        "gone": fails(Absent("not here")),
        "bad": fails(Failed("said no")),
        "odd": fails(KeyError("gpus")),
        "hangs": lambda: never.wait() or (1, ""),
    }
    found, probes = ask_all(questions, limit_s=0.3)
    never.set()
    assert {"good": 7} == found
    assert ["found", "absent", "failed", "failed", "failed"] == [probe.outcome for probe in probes]
    assert ["seven", "not here", "said no"] == [probe.detail for probe in probes[:3]]
    assert "KeyError" in probes[3].detail
    assert "no answer in 0.3 s" == probes[4].detail


def gpu(name: str = "RTX", source: str = "nvml", **facts) -> Gpu:
    """A GPU as one source tells of it."""
    return Gpu(name=name, vendor=facts.pop("vendor", "nvidia"), source=source, **facts)


def test_sources_are_joined_by_address():
    """The better source's facts hold, the other's fill the gaps, and another card stays another."""
    nvml = [gpu(pci="0000:01:00.0", memory_total_bytes=24)]
    bus = [
        gpu("AD102", "pci", pci="0000:01:00.0"),
        gpu("AD102", "pci", pci="0000:02:00.0"),
        gpu("UHD", "pci", vendor="intel", pci="0000:00:02.0"),
    ]
    joined = merge_gpus([nvml, bus, [gpu("GeForce", "vulkaninfo", runtime="Vulkan 1.3")]])
    assert [("RTX", 24, "Vulkan 1.3"), ("AD102", None, None), ("UHD", None, None)] == [
        (one.name, one.memory_total_bytes, one.runtime) for one in joined
    ]


def test_equal_cards_without_address_are_counted_in_order():
    """Two cards of a source that tells no address are the two of the other."""
    first = [gpu(pci="0000:01:00.0"), gpu(pci="0000:02:00.0")]
    assert 2 == len(merge_gpus([first, [gpu(source="vulkaninfo"), gpu(source="vulkaninfo")]]))
    assert 3 == len(merge_gpus([first, [gpu(source="vulkaninfo")] * 3]))


def test_shared_memory_is_not_filled_in():
    """What shares main memory gets no memory of its own from another source."""
    assert fill(gpu(shares_memory=True), gpu(memory_total_bytes=5)).memory_total_bytes is None


@pytest.mark.parametrize(
    ("seen", "pci", "expected"),
    [
        pytest.param((10, 9), "0000:01:00.0", (10, 9), id="a-mig-slice"),
        pytest.param((78, 77), "0000:01:00.0", (80, 70), id="the-whole"),
        pytest.param((10, 9), None, (80, 70), id="perhaps-another-card"),
    ],
)
def test_of_a_sliced_gpu_the_slice_counts(seen, pci, expected):
    """NVML tells the whole GPU's memory, and ggml that of the instance which a process may use."""
    whole = gpu(pci="0000:01:00.0", memory_total_bytes=80, memory_free_bytes=70)
    part = gpu(source="ggml", pci=pci, memory_total_bytes=seen[0], memory_free_bytes=seen[1])
    joined = fill(whole, part)
    assert expected == (joined.memory_total_bytes, joined.memory_free_bytes)


@pytest.mark.parametrize(
    ("told", "driven", "expected"),
    [
        pytest.param(("rocm-smi", 2, False), (16, True), (True, None, 16), id="rocm-takes-main-memory"),
        pytest.param(("rocm-smi", 2, False), (2, True), (False, 2, None), id="a-kernel-that-gives-the-carve-out"),
        pytest.param(("rocm-smi", 96, False), (96, True), (False, 96, None), id="a-large-carve-out"),
        pytest.param(("amdgpu", None, True), (16, True), (True, None, 16), id="without-rocm-smi"),
        pytest.param(("amdgpu", None, True), (4, False), (False, 4, None), id="a-small-card-in-a-large-machine"),
        pytest.param(("rocm-smi", 24, False), (24, False), (False, 24, None), id="a-card"),
    ],
)
def test_amds_processors_are_told_from_cards_by_what_drives_them(told, driven, expected):
    """rocm-smi gives a part of the processor its carve-out (512 MB) as memory; half of the machine's may be used."""
    source, own, is_shared = told
    first = gpu(vendor="amd", source=source, pci="0000:c4:00.0", memory_total_bytes=own, shares_memory=is_shared)
    whole, is_part = driven
    device = EngineDevice(
        name="ROCm0",
        description="AMD Radeon 780M Graphics",
        backend="ROCm",
        kind="igpu" if is_part else "gpu",
        memory_free_bytes=whole,
        memory_total_bytes=whole,
        pci="0000:c4:00.0",
    )
    (joined,) = merge_gpus([(first,), gpus_of(Engine(backends=("ROCm", "CPU"), devices=(device,)))])
    assert expected == (joined.shares_memory, joined.memory_total_bytes, joined.limit_bytes)


def test_this_machine_can_be_looked_at():
    """Here, whatever here is: cores, memory and the installed library are known, and each source has an outcome."""
    host = take_snapshot()
    assert host.cpu.threads >= 1
    assert (host.memory.usable_bytes or 0) > 0
    assert "CPU" in host.engine.backends
    assert {"cpu", "memory", "ggml", "nvml", "pci"} <= {probe.name for probe in host.probes}
    assert all(isinstance(probe, Probe) and probe.detail for probe in host.probes)
    assert {"cpu", "memory", "gpus", "engine", "probes", "system"} <= as_facts(host).keys()
