"""Are the answers of tools and kernel files read right, and is what they do not say left unknown?"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hybrid.devices.cgroup import Limits, parse_bytes, parse_cpu_max, read_limits
from hybrid.devices.cpu import parse_cpu_list, parse_cpuinfo, parse_size, parse_sysctl, physical_cores, read_cpu
from hybrid.devices.cuda import parse_nvml, parse_smi, pci_address
from hybrid.devices.ggml import gpus_of, parse_devices
from hybrid.devices.host import Cpu, Engine, EngineDevice
from hybrid.devices.memory import memory_of
from hybrid.devices.metal import gpu_cores, parse_profiler
from hybrid.devices.nvml_child import describe
from hybrid.devices.pci import node_problem, parse_lspci, read_sysfs
from hybrid.devices.probe import Absent, Failed
from hybrid.devices.rocm import ask_amdgpu, parse_rocm_smi
from hybrid.devices.snapshot import merge_gpus
from hybrid.devices.vulkan import parse_summary

CAPTURED = Path(__file__).parent.parent / "captured" / "devices"
GIB = 1 << 30


def captured(name: str) -> str:
    """Give a captured answer."""
    return (CAPTURED / name).read_text(encoding="utf-8")


def write(root: Path, files: dict[str, str]) -> Path:
    """Lay out system files below a folder."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("name", "model", "cores", "has", "lacks"),
    [
        ("zen4", "AMD Ryzen 9 7950X 16-Core Processor", 2, {"avx2", "avx512", "avx512_vnni", "avx512_bf16"}, {"amx"}),
        ("sapphire-rapids", "Intel(R) Xeon(R) Platinum 8488C", 1, {"amx", "amx_int8", "avx_vnni"}, {"neon"}),
        ("raspberry-pi-5", "Cortex-A76", 4, {"neon", "dotprod", "fp16"}, {"i8mm", "sve"}),
        ("graviton3", "Neoverse-V1", 1, {"neon", "dotprod", "i8mm", "sve", "bf16"}, {"sve2", "avx2"}),
    ],
)
def test_cpuinfo_is_read(name, model, cores, has, lacks):
    """Model, logical cores and instruction sets, of x86 by its flags and of Arm by its features and part number."""
    cpu = parse_cpuinfo(captured(f"{name}.cpuinfo"))
    assert (model, cores) == (cpu.model, cpu.logical_cores)
    assert has <= set(cpu.isa)
    assert not lacks & set(cpu.isa)


@pytest.mark.parametrize("text", ["", "garbage", "processor: x\nCPU part: zz\nCPU implementer: 1"])
def test_an_odd_cpuinfo_leaves_everything_unknown(text):
    """What cannot be read is None or nothing."""
    cpu = parse_cpuinfo(text)
    assert (None, None, ()) == (cpu.model, cpu.logical_cores, cpu.isa)


def test_apple_silicon_computes_on_its_fast_cores():
    """sysctl tells performance cores apart; threads are one each of those."""
    cpu = parse_sysctl(captured("m2.sysctl"))
    assert ("Apple M2", 8, 4, 4) == (cpu.model, cpu.usable_physical, cpu.performance_cores, cpu.threads)
    assert {"neon", "dotprod", "i8mm"} <= set(cpu.isa)
    assert "sme" not in cpu.isa
    assert [(1, 131_072), (2, 16_777_216)] == [(cache.level, cache.instance_bytes) for cache in cpu.caches]


def test_siblings_and_affinity_decide_the_cores(tmp_path):
    """Four processors on two cores, of which three may be used, are two threads; caches are counted once."""
    files = {"proc/cpuinfo": captured("zen4.cpuinfo")}
    for number, siblings in ((0, "0,2"), (1, "1,3"), (2, "0,2"), (3, "1,3")):
        base = f"sys/devices/system/cpu/cpu{number}"
        files |= {
            f"{base}/topology/thread_siblings_list": siblings,
            f"{base}/cache/index0/level": "1",
            f"{base}/cache/index0/type": "Data",
            f"{base}/cache/index0/size": "32K",
            f"{base}/cache/index0/shared_cpu_list": siblings,
            f"{base}/cache/index1/level": "1",
            f"{base}/cache/index1/type": "Instruction",
            f"{base}/cache/index1/size": "32K",
            f"{base}/cpufreq/cpuinfo_max_freq": "5881000",
        }
    cpu = read_cpu(None, write(tmp_path, files), frozenset({0, 1, 2}))
    assert (3, 2, 2, 5881.0) == (cpu.usable_logical, cpu.usable_physical, cpu.threads, cpu.max_mhz)
    assert [(1, 32_768, 2)] == [(cache.level, cache.instance_bytes, cache.instances) for cache in cpu.caches]


def test_small_cores_are_left_out(tmp_path):
    """Where the kernel tells capacities, threads are one a big core."""
    base = "sys/devices/system/cpu/cpu"
    files = {f"{base}{number}/cpu_capacity": "1024" if number < 2 else "400" for number in range(6)}
    cpu = read_cpu(None, write(tmp_path, files), frozenset(range(6)))
    assert (6, 2, 2) == (cpu.usable_physical, cpu.performance_cores, cpu.threads)


@pytest.mark.parametrize(("quota", "threads"), [(0.5, 1), (1.5, 1), (2.0, 2), (None, 8), (64.0, 8)])
def test_a_quota_bounds_the_threads(quota, threads):
    """Half a core is one thread; a quota above the cores changes nothing."""
    assert threads == Cpu(usable_physical=8, quota_cores=quota).threads


def test_small_helpers_read_the_kernels_ways_of_writing():
    """Lists, sizes, quotas and limits, and what is none of them."""
    assert frozenset({0, 1, 2, 3, 8}) == parse_cpu_list("0-3,8")
    assert frozenset() == parse_cpu_list("none")
    assert (32 << 10, 1 << 30, None) == (parse_size("32K"), parse_size("1G"), parse_size("big"))
    assert (None, 0.5, None) == (parse_cpu_max("max 100000"), parse_cpu_max("50000 100000"), parse_cpu_max("x 1"))
    assert (None, None, 1024) == (parse_bytes("max"), parse_bytes("9223372036854771712"), parse_bytes("1024"))
    pairs = {0: frozenset({0, 4}), 1: frozenset({1, 5}), 5: frozenset({1, 5})}
    assert (2, 3) == (physical_cores(frozenset(pairs), pairs), physical_cores(frozenset(pairs), {}))


def test_version_2_groups_limit_from_the_inside_out(tmp_path):
    """The tightest of the groups on the way up holds; cached files do not count as used, read once or often."""
    files = {
        "proc/self/cgroup": "0::/user/box",
        "sys/fs/cgroup/cgroup.controllers": "cpu memory",
        "sys/fs/cgroup/user/cpu.max": "150000 100000",
        "sys/fs/cgroup/user/memory.max": "max",
        "sys/fs/cgroup/user/box/cpu.max": "max 100000",
        "sys/fs/cgroup/user/box/memory.max": str(4 * GIB),
        "sys/fs/cgroup/user/box/memory.current": str(3 * GIB),
        "sys/fs/cgroup/user/box/memory.stat": f"anon 1\ninactive_file {GIB}\nactive_file {GIB // 2}\n",
    }
    assert Limits(1.5, 4 * GIB, 3 * GIB // 2) == read_limits(write(tmp_path, files))


def test_version_1_groups_limit_too(tmp_path):
    """Half a core by quota and period, memory by its own files; the huge number is no limit."""
    files = {
        "proc/self/cgroup": "4:memory:/docker/ab\n1:cpu,cpuacct:/docker/ab\n",
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000",
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
        "sys/fs/cgroup/memory/docker/ab/memory.limit_in_bytes": str(GIB),
        "sys/fs/cgroup/memory/docker/ab/memory.usage_in_bytes": str(GIB),
        "sys/fs/cgroup/memory/docker/ab/memory.stat": f"total_inactive_file {GIB // 4}\ntotal_active_file {GIB // 4}\n",
    }
    assert Limits(0.5, GIB, GIB // 2) == read_limits(write(tmp_path, files))


def test_no_groups_are_no_limits(tmp_path):
    """A machine without control groups has none, and that is no error."""
    assert Limits() == read_limits(tmp_path)


def test_memory_is_what_a_process_may_still_take():
    """The group's limit bounds the free memory; swap and pressure are told."""
    memory = memory_of(captured("laptop.meminfo"), captured("busy.pressure"), Limits(None, 4 * GIB, GIB))
    assert (16_123_456 * 1024, 3 * GIB, 4 * GIB) == (memory.total_bytes, memory.usable_bytes, memory.most_bytes)
    assert (1_048_574 * 1024, 0.3452) == (memory.swap_free_bytes, memory.pressure_stalled)


def test_memory_without_files_is_unknown():
    """Nothing to read is nothing known; a group that is full leaves 0 bytes."""
    assert memory_of("", None, Limits()).usable_bytes is None
    assert 0 == memory_of("", None, Limits(None, GIB, 2 * GIB)).usable_bytes


def test_nvidia_smi_is_read():
    """Name, memory, driver, CUDA and compute capability of a desktop's card."""
    (gpu,) = parse_smi(captured("rtx-4090.smi.csv"), captured("rtx-4090.smi.txt"))
    assert ("NVIDIA GeForce RTX 4090", "0000:01:00.0", "8.9") == (gpu.name, gpu.pci, gpu.compute)
    assert (24_564 << 20, 23_028 << 20) == (gpu.memory_total_bytes, gpu.memory_free_bytes)
    assert ("550.54.15", "CUDA 12.4", 450.0) == (gpu.driver, gpu.runtime, gpu.power_limit_w)


@pytest.mark.parametrize(
    ("name", "free"), [("2xa100", [81_037, 12_034]), ("h100", [81_004]), ("orin", [None]), ("forbidden", [None])]
)
def test_nvidia_smi_tells_what_it_may(name, free):
    """Several cards are several; what is not available or not permitted is unknown."""
    gpus = parse_smi(captured(f"{name}.smi.csv"))
    assert free == [None if gpu.memory_free_bytes is None else gpu.memory_free_bytes >> 20 for gpu in gpus]
    assert (name == "orin") is all(gpu.shares_memory for gpu in gpus)


@pytest.mark.parametrize("text", ["", "No devices were found", "NVIDIA-SMI has failed because it couldn't communicate"])
def test_nvidia_smi_without_a_gpu_is_none(text):
    """Sentences are no table."""
    assert () == parse_smi(text)


class FakeNvml:
    """A module as nvidia-ml-py is, with one card whose power limit is not supported."""

    NVML_ERROR_LIBRARY_NOT_FOUND, NVML_ERROR_DRIVER_NOT_LOADED = 12, 9

    class NVMLError(Exception):
        """Carries NVML's number."""

        def __init__(self, value: int) -> None:
            super().__init__(f"error {value}")
            self.value = value

    class Memory:
        """Bytes of a card."""

        total, free = 25_757_220_864, 24_146_608_128

    class Pci:
        """Its address."""

        busId = b"00000000:01:00.0"  # noqa: N815 - NVML's name

    def __init__(self, fails: int | None = None) -> None:
        self.fails = fails

    def nvmlInit(self):  # noqa: N802 - NVML's names, here and below
        if self.fails is not None:
            raise self.NVMLError(self.fails)

    def nvmlDeviceGetEnforcedPowerLimit(self, _handle):  # noqa: N802
        raise self.NVMLError(3)

    def __getattr__(self, name):
        answers = {
            "nvmlDeviceGetCount": 1,
            "nvmlDeviceGetName": b"NVIDIA GeForce RTX 4090",
            "nvmlDeviceGetMemoryInfo": self.Memory,
            "nvmlDeviceGetPciInfo": self.Pci,
            "nvmlDeviceGetCudaComputeCapability": (8, 9),
            "nvmlSystemGetDriverVersion": "550.54.15",
            "nvmlSystemGetCudaDriverVersion_v2": 12_040,
        }
        return lambda *_: answers.get(name)


def test_nvml_is_read():
    """What the child prints becomes a GPU; what a card does not support is unknown."""
    (gpu,) = parse_nvml(json.dumps(describe(FakeNvml())))
    assert ("0000:01:00.0", "8.9", "CUDA 12.4", None) == (gpu.pci, gpu.compute, gpu.runtime, gpu.power_limit_w)
    assert 24_146_608_128 == gpu.memory_free_bytes


@pytest.mark.parametrize(
    ("nvml", "error", "said"),
    [
        (None, Absent, "nvidia-ml-py is not installed"),
        (FakeNvml(fails=12), Absent, "no NVIDIA driver is loaded"),
        (FakeNvml(fails=4), Failed, "NVML: error 4"),
    ],
)
def test_nvml_that_cannot_answer_says_why(nvml, error, said):
    """No binding and no driver are absent; anything else failed."""
    with pytest.raises(error, match=said):
        parse_nvml(json.dumps(describe(nvml)))


def test_rocm_smi_is_read_in_both_spellings():
    """ROCm 6 and 5: names, memory, generation; a warning above the JSON is skipped."""
    new, old = (
        parse_rocm_smi(captured("mi300x.rocm-smi.json"), "6.1.0-82"),
        parse_rocm_smi(captured("7900xtx.rocm-smi.json")),
    )
    assert ("AMD Instinct MI300X OAM", "gfx942", "ROCm 6.1.0", "6.7.0") == (
        new[0].name, new[0].compute, new[0].runtime, new[0].driver,
    )  # fmt: skip
    assert ["0000:0c:00.0", "0000:22:00.0"] == [gpu.pci for gpu in new]
    assert ("Radeon RX 7900 XTX", 25_753_026_560 - 1_462_714_368) == (old[0].name, old[0].memory_free_bytes)
    with pytest.raises(Failed, match="no JSON"):
        parse_rocm_smi("{broken")


def test_amdgpu_tells_cards_from_parts_of_the_processor(tmp_path):
    """A card has its memory; a processor's graphics shares the main one."""
    files = {}
    for card, total, gtt in (("card0", 24 * GIB, 32 * GIB), ("card1", GIB // 2, 16 * GIB)):
        base = f"sys/class/drm/{card}/device"
        files |= {f"{base}/vendor": "0x1002", f"{base}/mem_info_vram_total": str(total)}
        files |= {f"{base}/mem_info_vram_used": "1000", f"{base}/mem_info_gtt_total": str(gtt)}
    gpus, _ = ask_amdgpu(write(tmp_path, files))
    assert [(False, 24 * GIB - 1000), (True, None)] == [(gpu.shares_memory, gpu.memory_free_bytes) for gpu in gpus]


def test_a_mac_is_read():
    """The GPU shares memory and has its cores told."""
    (gpu,) = parse_profiler(captured("m2.system_profiler.json"))
    assert ("Apple M2", "apple", True, "Metal 3", 10) == (
        gpu.name, gpu.vendor, gpu.shares_memory, gpu.runtime, gpu_cores(gpu),
    )  # fmt: skip


def test_makers_of_a_macs_gpus_are_known_in_any_spelling():
    """macOS writes sppci_vendor_amd in small letters and sppci_vendor_Apple with a capital."""
    names = ("sppci_vendor_Apple", "sppci_vendor_amd", "Intel", "sppci_vendor_AMD")
    told = [{"sppci_model": "x", "spdisplays_vendor": name, "spdisplays_vram": "8 GB"} for name in names]
    gpus = parse_profiler(json.dumps({"SPDisplaysDataType": told}))
    assert ["apple", "amd", "intel", "amd"] == [gpu.vendor for gpu in gpus]


def test_vulkan_lists_gpus_and_no_software_renderer():
    """llvmpipe is a CPU; the others keep whether they share memory."""
    gpus = parse_summary(captured("desktop.vulkaninfo"))
    assert [("intel", False), ("intel", True)] == [(gpu.vendor, gpu.shares_memory) for gpu in gpus]
    assert "Vulkan 1.3.274" == gpus[0].runtime
    assert () == parse_summary("Cannot create Vulkan instance")


def test_lspci_finds_what_computes():
    """Graphics and accelerators of the three makers; a service processor's display is none."""
    found = [(gpu.vendor, gpu.pci) for gpu in parse_lspci(captured("workstation.lspci"))]
    assert [("intel", "0000:00:02.0"), ("nvidia", "0000:01:00.0"), ("amd", "0000:03:00.0")] == found


def test_the_bus_is_read_without_any_tool(tmp_path):
    """Class and vendor decide; a network card is no GPU."""
    base = "sys/bus/pci/devices/0000:0"
    files = {f"{base}1:00.0/class": "0x030000", f"{base}1:00.0/vendor": "0x10de", f"{base}1:00.0/device": "0x2684"}
    files |= {f"{base}2:00.0/class": "0x020000", f"{base}2:00.0/vendor": "0x8086", f"{base}2:00.0/device": "0x1"}
    assert [("NVIDIA GPU 0x2684", "0000:01:00.0")] == [(g.name, g.pci) for g in read_sysfs(write(tmp_path, files))]


def test_a_node_that_may_not_be_opened_is_told(tmp_path):
    """No permission, a missing node and all well are three answers."""
    assert "/dev/kfd is missing" == node_problem("amd", tmp_path)
    write(tmp_path, {"dev/kfd": "", "dev/dri/renderD128": ""})
    assert "no permission to read and write /dev/kfd" == node_problem("amd", tmp_path, lambda _: False)
    assert node_problem("amd", tmp_path, lambda _: True) is None
    assert node_problem("apple", tmp_path) is None


def test_ggmls_own_list_is_read():
    """Backends, devices and kernels' features; what a driver printed before it is skipped."""
    engine = parse_devices(captured("rtx-4090.ggml.json"), "0.3.36")
    assert (("CUDA", "CPU"), "0.3.36") == (engine.backends, engine.package_version)
    (gpu,) = gpus_of(engine)
    assert ("nvidia", "0000:01:00.0", 24_146_608_128) == (gpu.vendor, gpu.pci, gpu.memory_free_bytes)
    assert () == gpus_of(parse_devices(captured("epyc-vm.ggml.json")))
    with pytest.raises(Failed, match="can be read"):
        parse_devices("Segmentation fault")


def test_a_gpu_of_two_backends_is_one_gpu():
    """Built for CUDA and Vulkan, ggml lists a card twice by one address; its memory counts once."""
    engine = parse_devices(captured("rtx-4090.ggml.json"))
    twice = (engine.devices[0], replace(engine.devices[0], name="Vulkan0", backend="Vulkan"))
    assert ["0000:01:00.0"] == [gpu.pci for gpu in gpus_of(replace(engine, devices=twice))]
    apart = tuple(replace(device, pci=None) for device in twice)
    assert 2 == len(gpus_of(replace(engine, devices=apart)))


def test_metals_limit_is_the_gpus():
    """What ggml tells of Metal's memory is the share of the main memory that the system lets it take."""
    device = EngineDevice(
        name="MTL0",
        description="Apple M2",
        backend="MTL",
        kind="gpu",
        memory_free_bytes=11 * GIB,
        memory_total_bytes=12 * GIB,
    )
    (listed,) = gpus_of(Engine(devices=(device,)))
    assert (True, 12 * GIB) == (listed.shares_memory, listed.limit_bytes)
    (told,) = parse_profiler(captured("m2.system_profiler.json"))
    (joined,) = merge_gpus([(told,), (listed,)])
    assert ("system_profiler", 12 * GIB, None) == (joined.source, joined.limit_bytes, joined.memory_total_bytes)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("00000000:0A:00.0", "0000:0a:00.0"),
        ("0a:00.0", "0000:0a:00.0"),
        ("00010000:01:00.0", "10000:01:00.0"),
        ("N/A", None),
        ("", None),
    ],
)
def test_pci_addresses_are_written_one_way(text, expected):
    """Eight digits of domain, none, and no address."""
    assert expected == pci_address(text)
