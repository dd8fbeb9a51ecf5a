"""Which devices does the installed ggml see? Runs in a process of its own, and prints JSON.

`python -m hybrid.devices.ggml_child LIBRARY_FOLDER`. It loads native code and starts GPU drivers, so that what hangs or
crashes there ends this process and no other. llama_cpp itself is not imported: that would take ten times as long.
Source: ggml/include/ggml-backend.h of llama.cpp.
"""

from __future__ import annotations

import ctypes
import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

KINDS = ("cpu", "gpu", "igpu", "accel", "meta")
LIBRARIES = ("ggml-base", "ggml", "llama")
ENDINGS = (".so", ".dylib")
MAX_FEATURES = 256


class Caps(ctypes.Structure):
    """`ggml_backend_dev_caps`, which lies at the end of the properties."""

    _fields_ = [(name, ctypes.c_bool) for name in ("asynchronous", "host_buffer", "host_pointer", "events", "mmap")]


class Properties(ctypes.Structure):
    """`ggml_backend_dev_props`; the padding is room for fields that a later version adds at its end."""

    _fields_ = [
        ("name", ctypes.c_char_p),
        ("description", ctypes.c_char_p),
        ("memory_free", ctypes.c_size_t),
        ("memory_total", ctypes.c_size_t),
        ("kind", ctypes.c_int),
        ("device_id", ctypes.c_char_p),
        ("caps", Caps),
        ("room", ctypes.c_byte * 256),
    ]


class Feature(ctypes.Structure):
    """`ggml_backend_feature`."""

    _fields_ = [("name", ctypes.c_char_p), ("value", ctypes.c_char_p)]


def load(folder: Path) -> Any:
    """Load the libraries in the order they need each other; the symbols of all are then found through the last."""
    found = None
    for name in LIBRARIES:
        for ending in ENDINGS:
            path = folder / f"lib{name}{ending}"
            if path.exists():
                found = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    if found is None:
        raise OSError(f"there is no libllama in {folder.name}")
    return ctypes.CDLL(None)


def describe(ggml: Any, folder: Path) -> dict[str, Any]:
    """List backends, devices and the CPU kernels' features."""
    for name in ("dev_get", "reg_get", "dev_backend_reg", "reg_get_proc_address"):
        getattr(ggml, f"ggml_backend_{name}").restype = ctypes.c_void_p
    for name in ("dev_count", "reg_count"):
        getattr(ggml, f"ggml_backend_{name}").restype = ctypes.c_size_t
    ggml.ggml_backend_reg_name.restype = ctypes.c_char_p
    with suppress(AttributeError):
        ggml.ggml_backend_load_all_from_path(str(folder).encode())  # builds with one library a backend
    registries = [ctypes.c_void_p(ggml.ggml_backend_reg_get(i)) for i in _indexes(ggml.ggml_backend_reg_count())]
    return {
        "version": _version(ggml, "ggml_version"),
        "commit": _version(ggml, "ggml_commit"),
        "backends": [ggml.ggml_backend_reg_name(registry).decode() for registry in registries],
        "devices": [_device(ggml, i) for i in _indexes(ggml.ggml_backend_dev_count())],
        "cpu_features": [feature for registry in registries for feature in _features(ggml, registry)],
    }


def _indexes(count: int) -> list[Any]:
    return [ctypes.c_size_t(index) for index in range(count)]


def _version(ggml: Any, name: str) -> str | None:
    try:
        function = getattr(ggml, name)
    except AttributeError:
        return None
    function.restype = ctypes.c_char_p
    return _text(function())


def _device(ggml: Any, index: Any) -> dict[str, Any]:
    device = ctypes.c_void_p(ggml.ggml_backend_dev_get(index))
    props = Properties()
    ggml.ggml_backend_dev_get_props(device, ctypes.byref(props))
    registry = ctypes.c_void_p(ggml.ggml_backend_dev_backend_reg(device))
    return {
        "name": _text(props.name) or "",
        "description": _text(props.description) or "",
        "backend": ggml.ggml_backend_reg_name(registry).decode(),
        "kind": KINDS[props.kind] if 0 <= props.kind < len(KINDS) else "gpu",
        "memory_free_bytes": props.memory_free or None,
        "memory_total_bytes": props.memory_total or None,
        "pci": _text(props.device_id),
    }


def _features(ggml: Any, registry: Any) -> list[str]:
    """Give the names of what a CPU registry's kernels use; others have no such list."""
    if ggml.ggml_backend_reg_name(registry) != b"CPU":
        return []
    address = ggml.ggml_backend_reg_get_proc_address(registry, b"ggml_backend_get_features")
    if not address:
        return []
    listed = ctypes.CFUNCTYPE(ctypes.POINTER(Feature), ctypes.c_void_p)(address)(registry)
    features = []
    for index in range(MAX_FEATURES):
        if not listed[index].name:
            break
        if listed[index].value != b"0":
            features.append(listed[index].name.decode())
    return features


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "replace")


if __name__ == "__main__":
    _folder = Path(sys.argv[1])
    print(json.dumps(describe(load(_folder), _folder)))
