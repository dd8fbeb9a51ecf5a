"""What comes of a tool's answer that is cut off, or has something else where a fact should be? No surprise."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from hybrid.devices.cuda import parse_nvml, parse_smi
from hybrid.devices.ggml import gpus_of, parse_devices
from hybrid.devices.metal import parse_profiler
from hybrid.devices.pci import parse_lspci
from hybrid.devices.probe import Absent, Failed
from hybrid.devices.rocm import parse_rocm_smi
from hybrid.devices.vulkan import parse_summary

CAPTURED = Path(__file__).parent.parent / "captured" / "devices"
NVML = {
    "driver": "550.54.15",
    "cuda_version": 12_040,
    "gpus": [
        {
            "name": "NVIDIA GeForce RTX 4090",
            "pci": "00000000:01:00.0",
            "memory_total_bytes": 25_757_220_864,
            "memory_free_bytes": 24_146_608_128,
            "compute": [8, 9],
            "power_limit_w": 450.0,
        }
    ],
}
ODD = (None, True, -1, 1.5, "", "x", "\u00b2", [], {}, [1], {"a": 1})
PARSERS = {
    "2xa100.smi.csv": parse_smi,
    "7900xtx.rocm-smi.json": parse_rocm_smi,
    "mi300x.rocm-smi.json": parse_rocm_smi,
    "m2.system_profiler.json": parse_profiler,
    "desktop.vulkaninfo": parse_summary,
    "workstation.lspci": parse_lspci,
    "rtx-4090.ggml.json": lambda text: gpus_of(parse_devices(text)),
    "nvml": parse_nvml,
}


def answer_of(name: str) -> str:
    """Give a captured answer; our own child's, which asks NVML, is written here."""
    return json.dumps(NVML) if name == "nvml" else (CAPTURED / name).read_text(encoding="utf-8")


def odd_values(told: object) -> Iterator[object]:
    """Give copies of parsed JSON, each with one part replaced by something else, or left out."""
    yield from ODD
    if not isinstance(told, dict | list):
        return
    for key in list(told) if isinstance(told, dict) else range(len(told)):
        if isinstance(told, dict):
            yield {other: value for other, value in told.items() if other != key}
        for odd in odd_values(told[key]):
            changed = told.copy()
            changed[key] = odd
            yield changed


def odd_answers(name: str) -> Iterator[str]:
    """Give an answer cut off anywhere, with each character in turn become another, and its JSON with odd parts."""
    text = answer_of(name)
    for at in range(0, len(text), 5):
        yield text[:at]
        yield f"{text[:at]}\u00b2{text[at + 1 :]}"
    yield '{"a":' * 100_000
    if name.endswith((".json", "nvml")):
        yield from map(json.dumps, odd_values(json.loads(text[text.find("{") :])))


@pytest.mark.parametrize("name", PARSERS)
def test_an_odd_answer_fails_as_probes_do_or_leaves_it_unknown(name):
    """What a tool prints cut off, or otherwise than it did, is Absent, Failed or facts of the kinds they should be."""
    for text in odd_answers(name):
        try:
            gpus = PARSERS[name](text)
        except (Absent, Failed):
            continue
        for gpu in gpus:
            assert {str} == {type(word) for word in (gpu.name, gpu.pci or "", gpu.driver or "", gpu.compute or "")}, (
                text
            )
            assert {int} == {type(count or 0) for count in (gpu.memory_total_bytes, gpu.memory_free_bytes)}, text


def test_one_odd_card_hides_no_other():
    """A card that rocm-smi tells nothing of is left out; a name that is no text, or no number of watts, is unknown."""
    text = answer_of("mi300x.rocm-smi.json")
    told = json.loads(text[text.find("{") :])
    assert ["0000:22:00.0"] == [gpu.pci for gpu in parse_rocm_smi(json.dumps(told | {"card0": None}))]
    (gpu,) = parse_smi(", N/A, 1\u00b2, -5, 550.54.15, 8.9, 1e999")
    assert ("NVIDIA GPU", None, None, None) == (
        gpu.name, gpu.memory_total_bytes, gpu.memory_free_bytes, gpu.power_limit_w,
    )  # fmt: skip
