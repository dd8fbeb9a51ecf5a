"""Which file and which settings does a model run with? The tuned ones, if their record still holds here."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from hybrid.catalog import sha256_file
from hybrid.catalog.tuned import Machine, Settings, Tuning, Versions, read_tuning, tuned_path
from hybrid.errors import CatalogError
from hybrid.tuning.choose import describe_settings
from hybrid.tuning.machine import these_versions, this_machine

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Tuned:
    """What to run instead of a source. path: the source itself where only settings were tuned."""

    path: Path
    settings: Settings
    tuning: Tuning

    @property
    def words(self) -> str:
        """What it is, such as `Q8_0, flash attention off`."""
        return f"{self.tuning.chosen.format}{describe_settings(self.settings)}"


def find_tuned(source: Path, *, machine: Machine | None = None, versions: Versions | None = None) -> Tuned | None:
    """Give what tuning has chosen for a model file; None where it was not tuned, or the record does not hold here.

    A record that does not hold is told of in the log, with what to do; the source runs as if there were none.
    """
    try:
        tuning = read_tuning(source)
        if tuning is None:
            return None
        problem = mismatch(tuning, source, machine or this_machine(), versions or these_versions())
    except CatalogError as unreadable:
        problem = str(unreadable)
    if problem is not None:
        log.warning("%s runs untuned: %s; `hybrid models tune` measures again", source.name, problem)
        return None
    assert tuning is not None
    path = source if tuning.file is None else source.with_name(tuning.file.name)
    tuned = Tuned(path, tuning.chosen.settings, tuning)
    log.info("%s runs as tuned on %s: %s", source.name, tuning.tuned_at, tuned.words)
    return tuned


def mismatch(tuning: Tuning, source: Path, machine: Machine, versions: Versions) -> str | None:
    """Say why a record does not hold; None if it does.

    Hashes are taken again only where a file was touched. Our own version is recorded and not compared: what speed
    depends on is llama.cpp, and a change of what a record means is another schema.

    Raises: CatalogError if a file cannot be read.
    """
    if tuning.machine.fingerprint != machine.fingerprint:
        return f"its tuning is of another machine ({tuning.machine.words}; this is {machine.words})"
    theirs, ours = tuning.versions, versions
    if (theirs.llama_cpp_python, theirs.llama_build) != (ours.llama_cpp_python, ours.llama_build):
        return f"its tuning is of another llama.cpp ({_build(theirs)}; this is {_build(ours)})"
    if theirs.multiplier != ours.multiplier:
        return f"its tuning is of another matrix multiplication ({theirs.multiplier}; this is {ours.multiplier})"
    if sha256_file(source) != tuning.source.sha256:
        return "the file has changed since it was tuned"
    if tuning.file is None:
        return None
    made = tuned_path(source, tuning.chosen.format)
    if made.name != tuning.file.name:
        return f"its record names {tuning.file.name!r}, which is no tuned file of it"
    if not made.is_file():
        return f"the tuned file {made.name} is not there"
    if made.stat().st_size != tuning.file.bytes or sha256_file(made) != tuning.file.sha256:
        return f"the tuned file {made.name} is not the one that was measured"
    return None


def _build(versions: Versions) -> str:
    build = f", build {versions.llama_build[:8]}" if versions.llama_build else ""
    return f"llama-cpp-python {versions.llama_cpp_python}{build}"
