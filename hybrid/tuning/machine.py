"""Is this still the machine, and the llama.cpp, that a tuning was measured with?"""

from __future__ import annotations

import hashlib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from hybrid import __version__
from hybrid.backends.matmul import multiplier_version
from hybrid.catalog.tuned import Machine, Versions
from hybrid.devices.fingerprint import hardware_facts, hardware_fingerprint

_LIBRARY_ENDINGS = (".so", ".dylib", ".dll")


def this_machine(root: Path = Path("/")) -> Machine:
    """Name this machine as a stored profile does: processor, usable cores, memory, graphics devices."""
    facts = hardware_facts(root)
    cores = facts["cores"]
    name = facts.get("cpu") or facts["machine"]
    graphics = f", graphics {facts['graphics']}" if "graphics" in facts else ""
    words = f"{name}, {cores} core{'s' if cores != '1' else ''}, {facts['memory_gib']} GiB{graphics}"
    return Machine(fingerprint=hardware_fingerprint(facts), words=words)


def these_versions() -> Versions:
    """Name the llama.cpp that is installed: its version, and its libraries, for a build for a GPU has the same."""
    multiplier = multiplier_version()
    try:
        package = distribution("llama_cpp_python")
    except PackageNotFoundError:
        return Versions(hybrid=__version__, llama_cpp_python="none", llama_build=None, multiplier=multiplier)
    libraries = sorted(
        f"{file} {file.hash.value if file.hash else file.size}"
        for file in package.files or ()
        if file.name.endswith(_LIBRARY_ENDINGS)
    )
    build = hashlib.sha256("\n".join(libraries).encode()).hexdigest() if libraries else None
    return Versions(hybrid=__version__, llama_cpp_python=package.version, llama_build=build, multiplier=multiplier)
