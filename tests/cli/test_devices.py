"""Does `hybrid devices` say what was found, what will be used and why, and loudly what must be mended?"""

from __future__ import annotations

import json
from dataclasses import replace

from hybrid.cli import main
from hybrid.cli.devices import lines, warnings
from hybrid.devices.host import Engine, Memory, Probe
from hybrid.devices.mending import judge
from tests.devices.hosts import host, nvidia


def test_it_tells_of_this_machine(capsys):
    """Processor, memory, engine and use, each on its line; exit code 0."""
    assert 0 == main(["devices"])
    out = capsys.readouterr().out
    for subject in ("cpu ", "memory ", "gpu ", "engine ", "use ", "asked "):
        assert any(line.startswith(subject) for line in out.splitlines())
    assert "llama-cpp-python" in out


def test_json_has_stable_keys(capsys):
    """A program gets the same keys on every machine; unknown is null."""
    assert 0 == main(["devices", "--json"])
    told = json.loads(capsys.readouterr().out)
    expected = {"version", "system", "machine", "board", "cpu", "memory", "gpus", "engine", "probes", "use"}
    assert expected == told.keys()
    assert 1 == told["version"]
    assert {"device", "threads", "gpus", "warnings"} == told["use"].keys()
    assert {"isa", "threads", "quota_cores", "caches", "usable_physical", "model"} <= told["cpu"].keys()
    assert {"usable_bytes", "limit_bytes", "swap_free_bytes", "total_bytes"} <= told["memory"].keys()
    assert {"name", "outcome", "detail", "took_ms"} == told["probes"][0].keys()


def test_who_multiplies_is_told():
    """Ours, or ggml's where ours does not fit the processor or the llama.cpp."""
    for who, words in (("hybrid", "our own matrix multiplication"), ("ggml", "ggml's matrix multiplication")):
        machine = host()
        machine = replace(machine, engine=replace(machine.engine, package_version="0.3.36", multiplier=who))
        assert words in "\n".join(lines(machine, judge(machine)))


def test_a_gpu_that_is_not_used_is_loud():
    """Its line and the warning have the problem and the command that mends it."""
    machine = host(gpus=(nvidia("NVIDIA GeForce RTX 4090", 24, pci="0000:01:00.0"),))
    shown = "\n".join(lines(machine, judge(machine)))
    assert "NOT USED: llama-cpp-python is built for CPU only" in shown
    assert "use      cpu with 8 threads: no GPU that was found can be used" in shown
    (warning,) = warnings(machine, judge(machine))
    assert "RTX 4090 will NOT be used" in warning
    assert "HYBRID_CMAKE_ARGS=-DGGML_CUDA=on scripts/serve" in warning


def test_a_gpu_that_is_used_is_named():
    """Through which backend, with its memory."""
    machine = host(gpus=(nvidia("NVIDIA GeForce RTX 4090", 24, driver="550.54.15"),), backends=("CUDA", "CPU"))
    shown = "\n".join(lines(machine, judge(machine)))
    assert "used through cuda" in shown
    assert "driver 550.54.15" in shown
    assert [] == warnings(machine, judge(machine))


def test_what_is_wrong_with_the_machine_is_told():
    """No engine, half a core, no memory, kernels built for less than the processor has."""
    machine = replace(
        host(quota=0.5),
        engine=Engine(),
        memory=Memory(total_bytes=8, available_bytes=0),
        probes=(Probe("ggml", "failed", "libllama.so: cannot open", 1.0),),
    )
    told = warnings(machine, ())
    assert "llama-cpp-python cannot be used: libllama.so: cannot open" == told[0]
    assert "0.5 of a core" in told[1]
    assert "only 0 MB of memory are free" in told[2]
    assert "         ggml: libllama.so: cannot open" in list(lines(machine, ()))
    plain = replace(host(), engine=Engine(backends=("CPU",), cpu_features=("SSE3", "AVX")))
    assert "was built without AVX2" in warnings(plain, ())[0]
