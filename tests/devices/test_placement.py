"""Is a model placed well on each kind of machine, with what it takes, how fast it will be, and why?"""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from hybrid.devices.host import Gpu, Memory
from hybrid.devices.needs import predict
from hybrid.devices.placement import Placement, Refusal, Wanted, place
from hybrid.devices.rates import Measured
from tests.devices.hosts import ARM, B1_5, B8, B14, B70, B135, GB, GIB, VNNI, host, nvidia

CUDA = ("CUDA", "CPU")
M2 = Gpu(name="Apple M2", vendor="apple", source="system_profiler", shares_memory=True)
M2_HOST = host(memory=16 * GB, free=11 * GB, isa=(*ARM, "i8mm"), gpus=(M2,), backends=("MTL", "CPU"), model="Apple M2")
XTX = Gpu(
    name="Radeon RX 7900 XTX", vendor="amd", source="rocm-smi", memory_total_bytes=24 * GIB, memory_free_bytes=23 * GIB
)
ARC = Gpu(
    name="Intel(R) Arc(tm) A770 Graphics",
    vendor="intel",
    source="ggml",
    memory_total_bytes=16 * GIB,
    memory_free_bytes=15 * GIB,
)
ORIN = Gpu(name="Orin (nvgpu)", vendor="nvidia", source="nvidia-smi", shares_memory=True)
PI5 = host(cores=4, memory=8 * GB, isa=ARM, board="Raspberry Pi 5 Model B Rev 1.0")
EDGE = host(cores=4, memory=4 * GB, free=3 * GB, isa=ARM)
SERVER = host(cores=64, memory=512 * GB, isa=VNNI)


@pytest.mark.parametrize(
    ("machine", "shape", "device", "layers", "threads", "slots"),
    [
        pytest.param(EDGE, B135, "cpu", 0, 4, 8, id="edge-4gb"),
        pytest.param(PI5, B1_5, "cpu", 0, 4, 8, id="raspberry-pi-5"),
        pytest.param(host(cores=2, memory=24 * GB, isa=VNNI), B1_5, "cpu", 0, 2, 8, id="two-core-vm"),
        pytest.param(host(cores=8, quota=0.5), B135, "cpu", 0, 1, 8, id="half-a-core"),
        pytest.param(SERVER, B70, "cpu", 0, 64, 8, id="server-without-gpu"),
        pytest.param(M2_HOST, B8, "metal", 33, 8, 16, id="macbook-m2-16gb"),
        pytest.param(host(gpus=(nvidia("RTX 4090", 24),), backends=CUDA), B14, "cuda", 41, 8, 16, id="rtx-4090-14b"),
        pytest.param(host(gpus=(nvidia("RTX 3060", 12),), backends=CUDA), B8, "cuda", 33, 8, 16, id="rtx-3060-8b"),
        pytest.param(host(gpus=(nvidia("H100 80GB HBM3", 80),), backends=CUDA), B70, "cuda", 81, 8, 16, id="h100-70b"),
        pytest.param(
            host(memory=256 * GB, gpus=(nvidia("A100-SXM4-80GB", 80),) * 2, backends=CUDA), B70, "cuda", 81, 8, 16,
            id="2x80gb",
        ),
        pytest.param(host(gpus=(XTX,), backends=("ROCm", "CPU")), B8, "rocm", 33, 8, 16, id="7900-xtx"),
        pytest.param(host(gpus=(ARC,), backends=("Vulkan", "CPU")), B8, "vulkan", 33, 8, 16, id="arc-by-vulkan"),
        pytest.param(
            host(cores=8, memory=32 * GB, isa=ARM, gpus=(ORIN,), backends=CUDA), B8, "cuda", 33, 8, 16, id="jetson-orin"
        ),
        pytest.param(host(gpus=(nvidia("RTX 4090", 24),)), B8, "cpu", 0, 8, 8, id="gpu-but-cpu-build"),
        pytest.param(
            host(gpus=(nvidia("T4", 16, free=300_000_000),), backends=CUDA), B8, "cpu", 0, 8, 8, id="gpu-full"
        ),
    ],
)  # fmt: skip
def test_each_kind_of_machine(machine, shape, device, layers, threads, slots):
    """Backend, layers, threads and slots of a dozen machines; memory and speed are predicted for all of them."""
    placed = place(machine, shape)
    assert isinstance(placed, Placement)
    assert (device, layers, threads, slots) == (placed.device, placed.gpu_layers, placed.threads, placed.slots)
    assert placed.prediction is not None
    assert placed.prediction.decode_tok_s > 0
    assert placed.host_bytes <= (machine.memory.usable_bytes or 0)
    assert 3 == len(placed.reasons)


def test_a_mac_keeps_to_what_metal_may_take():
    """What the system does not let a GPU take stays on the CPU, and it is said how to raise that."""
    mac = host(memory=64 * GB, free=58 * GB, isa=ARM, gpus=(replace(M2, limit_bytes=40 * GB),), backends=("MTL", "CPU"))
    placed = place(mac, B70)
    assert isinstance(placed, Placement)
    assert "metal" == placed.device
    assert 60 < placed.gpu_layers < B70.block_count
    assert placed.needs.gpu.total_bytes <= 40 * GB
    assert re.search(r"`sudo sysctl iogpu.wired_limit_mb=5\d{4}` raises it", placed.reasons[1])
    small = place(mac, B8)
    assert isinstance(small, Placement)
    assert "every layer on Apple M2, where 40.0 GB may be used" == small.reasons[1]
    unlimited = place(replace(mac, gpus=(M2,)), B70)
    assert isinstance(unlimited, Placement)
    assert B70.block_count + 1 == unlimited.gpu_layers


def test_what_amdgpu_maps_binds_its_processors_graphics():
    """Of 32 GB of main memory an AMD processor's graphics takes no more than the GTT, and macOS is not spoken of."""
    radeon = Gpu(name="Radeon 780M", vendor="amd", source="rocm-smi", shares_memory=True, limit_bytes=6 * GIB)
    placed = place(host(memory=32 * GB, free=28 * GB, gpus=(radeon,), backends=("ROCm", "CPU")), B14)
    assert isinstance(placed, Placement)
    assert 0 < placed.gpu_layers < B14.block_count
    assert "amdgpu's GTT, which ttm.pages_limit" in placed.reasons[1]
    assert "macOS" not in placed.reasons[1]


def test_what_does_not_fit_on_a_gpu_is_shared_out():
    """Of a model larger than the card, as many layers as fit go there with their cache, the rest stay."""
    machine = host(memory=64 * GB, gpus=(nvidia("RTX 3060", 12),), backends=CUDA)
    placed = place(machine, B70)
    assert isinstance(placed, Placement)
    assert 0 < placed.gpu_layers < B70.block_count
    assert placed.needs.gpu.total_bytes <= 11.5 * GIB
    assert placed.needs.host.weights_bytes + placed.needs.gpu.weights_bytes == pytest.approx(B70.file_bytes, rel=0.01)
    whole = place(host(memory=64 * GB, gpus=(nvidia("A100-SXM4-80GB", 80),), backends=CUDA), B70)
    assert isinstance(whole, Placement)
    assert whole.prediction is not None
    assert placed.prediction is not None
    assert whole.prediction.decode_tok_s > 5 * placed.prediction.decode_tok_s


def test_a_gpu_that_lies_idle_is_said_loudly():
    """The warning names the card, what is wrong, and the build or permission that mends it."""
    cpu_build = place(host(gpus=(nvidia("RTX 4090", 24),)), B8)
    locked = place(host(gpus=(replace(XTX, problem="no permission to read and write /dev/kfd"),)), B8)
    absent = place(host(gpus=(nvidia("RTX 4090", 24, problem="/dev/nvidiactl is missing"),)), B8)
    warnings = [placed.warnings[0] for placed in (cpu_build, locked, absent) if isinstance(placed, Placement)]
    assert "HYBRID_CMAKE_ARGS=-DGGML_CUDA=on scripts/serve" in warnings[0]
    assert "RTX 4090 is not used" in warnings[0]
    assert "usermod -aG render,video" in warnings[1]
    assert "--gpus all" in warnings[2]


def test_a_gpu_that_ggml_was_told_to_leave_out_holds_nothing():
    """NVML lists every card; with CUDA_VISIBLE_DEVICES ggml sees one, and memory of the others is not counted."""
    first, second = (nvidia("RTX 3060", 12, pci=f"0000:0{bus}:00.0") for bus in (1, 2))
    machine = host(memory=64 * GB, gpus=(first, second), backends=CUDA)
    seen = tuple(replace(device, pci="0000:02:00.0") for device in machine.engine.devices[1:])
    placed = place(replace(machine, engine=replace(machine.engine, devices=seen)), B70)
    alone = place(host(memory=64 * GB, gpus=(second,), backends=CUDA), B70)
    assert isinstance(placed, Placement)
    assert isinstance(alone, Placement)
    assert ((second,), alone.gpu_layers) == (placed.gpus, placed.gpu_layers)
    assert "CUDA_VISIBLE_DEVICES" in placed.warnings[0]


def test_another_backends_devices_are_no_help():
    """A build for CUDA and Vulkan whose CUDA finds nothing computes on no NVIDIA card through CUDA."""
    machine = host(gpus=(nvidia("RTX 3060", 12),), backends=("CUDA", "Vulkan", "CPU"))
    devices = tuple(device for device in machine.engine.devices if device.backend == "Vulkan")
    placed = place(replace(machine, engine=replace(machine.engine, devices=devices)), B8)
    assert isinstance(placed, Placement)
    assert "cpu" == placed.device
    assert "built for cuda, but finds no device" in placed.warnings[0]


def test_a_card_goes_before_a_part_of_the_processor():
    """A GPU with memory of its own is chosen before one that shares it; kinds are not mixed."""
    shared = Gpu(name="Radeon 780M", vendor="amd", source="amdgpu", shares_memory=True)
    placed = place(host(gpus=(shared, nvidia("RTX 4060", 8)), backends=("CUDA", "ROCm", "CPU")), B1_5)
    assert isinstance(placed, Placement)
    assert (("RTX 4060",), "cuda") == (tuple(gpu.name for gpu in placed.gpus), placed.device)


def test_a_model_larger_than_memory_is_refused():
    """The refusal has both numbers, what would fit, and whether it ever could."""
    never = place(EDGE, B8)
    assert isinstance(never, Refusal)
    assert never.is_for_good
    assert never.largest_context_tokens is None
    assert "8b needs about 6.2 GB with a context of 8192, and this machine has 4.0 GB; take a smaller" in never.message
    later = place(host(memory=32 * GB, free=5 * GB), B8)
    assert isinstance(later, Refusal)
    assert not later.is_for_good
    assert "5.0 GB are free; close other programs, or take a smaller model" in later.message


@pytest.mark.parametrize(("shape", "free"), [(B1_5, 1_800_000_000), (B1_5, 2_000_000_000), (B135, 800_000_000)])
def test_what_only_the_cpu_can_hold_stays_there(shape, free):
    """On 4 GB that a GPU shares, its driver and buffers must not make a model too large that fits without them."""
    machine = host(cores=6, memory=4 * GB, free=free, isa=ARM, gpus=(ORIN,), backends=CUDA)
    placed = place(machine, shape)
    assert isinstance(placed, Placement)
    assert placed.host_bytes <= free
    assert isinstance(place(replace(machine, gpus=()), shape), Placement)


def test_a_shorter_context_is_offered_where_it_would_fit():
    """The largest halving that fits is named; nothing is shortened unasked."""
    refused = place(host(memory=32 * GB, free=9 * GB), B8, Wanted(context_tokens=131_072))
    assert isinstance(refused, Refusal)
    assert "it fits with local.context_tokens = 16384" in refused.message
    fits = place(host(memory=32 * GB, free=9 * GB), B8, Wanted(context_tokens=refused.largest_context_tokens or 0))
    assert isinstance(fits, Placement)


@pytest.mark.parametrize(
    "memory", [Memory(total_bytes=8 * GB, available_bytes=0), Memory(limit_bytes=GB, limit_used_bytes=GB)]
)
def test_nothing_free_is_refused(memory):
    """0 bytes free, or a group that is full, is a clear no."""
    refused = place(replace(host(), memory=memory), B135)
    assert isinstance(refused, Refusal)
    assert 0 == refused.usable_bytes
    assert "0.0 GB are free" in refused.message


def test_unknown_memory_is_said_and_not_refused():
    """Where free memory is not told, nothing is checked, and that is said."""
    placed = place(replace(host(), memory=Memory()), B135)
    assert isinstance(placed, Placement)
    assert "free memory is not known" in placed.warnings[0]


def test_what_is_configured_holds():
    """Slots, threads, layers and cache type of the configuration are taken as they are."""
    machine = host(gpus=(nvidia("RTX 4090", 24),), backends=CUDA)
    wanted = Wanted(context_tokens=2048, slots=3, threads=5, gpu_layers=10, kv_type="q8_0")
    placed = place(machine, B8, wanted)
    assert isinstance(placed, Placement)
    assert (2048, 3, 5, 10) == (placed.context_tokens, placed.slots, placed.threads, placed.gpu_layers)
    half = place(machine, B8, replace(wanted, kv_type="f16"))
    assert isinstance(half, Placement)
    assert placed.needs.gpu.kv_bytes / half.needs.gpu.kv_bytes == pytest.approx(34 / 64)


def test_the_trained_context_bounds_it():
    """A model trained for less gets less, and the reason says so."""
    placed = place(host(), replace(B135, trained_context_tokens=2048))
    assert isinstance(placed, Placement)
    assert (2048, "context 2048: the model was trained for no more") == (placed.context_tokens, placed.reasons[0])


def test_measurements_override_data_sheets():
    """Decoding follows the measured bandwidth, prompts the measured peak; the basis says which was used."""
    slow = place(PI5, B1_5, measured=Measured(cpu_read_bytes_s=5e9, cpu_int8_ops_s=1e11))
    fast = place(PI5, B1_5, measured=Measured(cpu_read_bytes_s=10e9, cpu_int8_ops_s=2e11))
    nominal = place(PI5, B1_5)
    both = [
        placed.prediction for placed in (slow, fast, nominal) if isinstance(placed, Placement) and placed.prediction
    ]
    assert ["measured", "measured", "nominal"] == [prediction.basis for prediction in both]
    assert 2.0 == pytest.approx(both[1].decode_tok_s / both[0].decode_tok_s, rel=0.05)  # layers wait all the same
    assert 2.0 == pytest.approx(both[1].prefill_tok_s / both[0].prefill_tok_s, rel=0.05)
    assert ("arithmetic", "bandwidth") == (both[0].prefill_limit, both[0].decode_limit)


def test_decoding_is_never_faster_than_its_bytes():
    """A token reads every weight once, whatever the machine."""
    placed = place(SERVER, B8, measured=Measured(cpu_read_bytes_s=200e9))
    assert isinstance(placed, Placement)
    assert placed.prediction is not None
    assert placed.prediction.decode_tok_s < 200e9 / B8.read_bytes


def test_an_unknown_gpu_has_no_speed():
    """Without a data sheet and a measurement the speed is None, not a guess; memory is predicted all the same."""
    placed = place(host(gpus=(nvidia("Some Future Card", 32),), backends=CUDA), B8)
    assert isinstance(placed, Placement)
    assert placed.prediction is None
    assert placed.needs.gpu.total_bytes > B8.layer_bytes


def test_a_hugging_face_folder_goes_to_torch():
    """Its own build decides there, and where it is missing that is said."""
    folder = replace(B8, format="huggingface")
    machine = host(gpus=(nvidia("RTX 4090", 24),))
    without = place(machine, folder)
    built = place(replace(machine, engine=replace(machine.engine, torch_version="2.9.0+cu128")), folder)
    assert isinstance(without, Placement)
    assert isinstance(built, Placement)
    assert ("torch", "cpu", "torch", "cuda") == (without.backend, without.device, built.backend, built.device)
    assert "needs torch" in without.warnings[-1]
    assert () == built.warnings


def test_mixtures_read_only_the_experts_in_use():
    """Of 8 experts 2 are read for a token, which makes decoding that much cheaper; memory holds all."""
    mixture = replace(B8, expert_bytes=B8.layer_bytes * 9 // 10, experts=8, experts_used=2)
    assert mixture.read_bytes < 0.45 * B8.read_bytes
    assert predict(mixture, context_tokens=512).host.weights_bytes == predict(B8, context_tokens=512).host.weights_bytes
