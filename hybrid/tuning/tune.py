"""How is a model tuned? Make, measure, choose, confirm; and only then put the file and, last of all, the record."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from msgspec.structs import replace

from hybrid.catalog import human_bytes, sha256_file
from hybrid.catalog.lock import hold
from hybrid.catalog.shelf import record_path
from hybrid.catalog.tuned import (
    SCHEMA,
    Candidate,
    Settings,
    TunedFile,
    TunedFrom,
    Tuning,
    is_tuned,
    lock_path,
    sync_folder,
    tuned_files,
    tuned_path,
    tuning_path,
    workshop_path,
    write_tuning,
)
from hybrid.devices.snapshot import usable_threads
from hybrid.errors import CatalogError, LocalFailure
from hybrid.gguf import GgufHeader, read_header
from hybrid.tuning.choose import (
    AXES,
    DEFAULT_MAX_KL_NATS,
    MIN_GAIN,
    NUMERIC_AXES,
    Choice,
    choose,
    describe,
    formats_to_try,
    settings_to_try,
)
from hybrid.tuning.jobs import ANSWER_TOKENS, PROMPT_TOKENS, Job, Measure, Outcome, Quantise, Reference
from hybrid.tuning.machine import these_versions, this_machine
from hybrid.tuning.room import disk_bytes, file_bytes, memory_bytes, quantiser_bytes
from hybrid.tuning.text import text_sha256

Runner = Callable[[Job], Outcome]
"""Does a job in a process of its own; replaced in tests."""
OnStep = Callable[[int, int, str], None]
"""Takes the steps done, how many there are, and what is done now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneOptions:
    """What to try and how long to measure.

    formats: None takes the usual ones. axes: of the settings, tried on the best format. chunks: of the text.
    prompt_tokens, answer_tokens, runs: of the chats that are timed; shorter ones are stretched.
    """

    max_kl_nats: float = DEFAULT_MAX_KL_NATS
    formats: tuple[str, ...] | None = None
    axes: tuple[str, ...] = AXES
    is_quick: bool = False
    chunks: int = 5
    prompt_tokens: int = PROMPT_TOKENS
    answer_tokens: int = ANSWER_TOKENS
    runs: int = 2


def quick(options: TuneOptions) -> TuneOptions:
    """Three formats, no settings, less text and shorter chats: a first look."""
    return TuneOptions(
        max_kl_nats=options.max_kl_nats,
        formats=options.formats,
        axes=(),
        is_quick=True,
        chunks=2,
        prompt_tokens=64,
        answer_tokens=16,
        runs=1,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What the machine has left; replaced in tests."""

    disk_free_bytes: Callable[[Path], int]
    memory_free_bytes: Callable[[], int]


def tune(source: Path, options: TuneOptions, *, run: Runner, room: Room, on_step: OnStep) -> Tuning:
    """Find the fastest form of a model that answers like it, put its file beside the model, and record everything.

    The source is only read. Interrupted at any point, also by kill -9 or a full disk, nothing half-made is ever
    used: candidates are made in a folder nothing is loaded from, and a tuned file without a record that names its
    hash is no tuning. What an interrupted run has left is removed by the next one.

    Raises: CatalogError if there is no room, the folder cannot be written, or another process tunes this model.
        LocalFailure if the source itself cannot be measured.
    """
    if is_tuned(source):
        raise CatalogError(f"{source.name} was made by tuning; tune the model it was made from")
    if tuning_path(source).is_dir():
        raise CatalogError(f"{tuning_path(source)} is a folder, where the record of the tuning goes; move it away")
    header = read_header(source)
    with hold(lock_path(source), busy=f"another process is tuning {source.name} right now; wait for it or end it"):
        try:
            with _workshop(source) as workshop:
                return _Tune(source, header, options, workshop, run, room, on_step).run()
        except OSError as failed:
            raise CatalogError(
                f"cannot tune {source.name}: {failed.strerror or failed} ({failed.filename or source.parent}); "
                "what was made so far is removed"
            ) from failed


@contextmanager
def _workshop(source: Path) -> Iterator[Path]:
    """Give an empty folder to make candidates in, and leave nothing of it; first remove what earlier runs have left."""
    folder = workshop_path(source)
    _sweep(source)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sweep(source: Path) -> None:
    if workshop_path(source).exists():
        shutil.rmtree(workshop_path(source))
    record = tuning_path(source)
    for path in record.parent.iterdir():
        if path.name.startswith(f".{record.name}."):
            path.unlink(missing_ok=True)
    if not record.exists():
        drop_tuned_files(source)


def drop_tuned_files(source: Path, *, but: Path | None = None) -> None:
    """Delete the tuned files beside a model, and their hashes' records."""
    for path in tuned_files(source):
        if path != but:
            path.unlink(missing_ok=True)
            record_path(path).unlink(missing_ok=True)


@dataclass(slots=True)
class _Tune:
    """One tuning in progress."""

    source: Path
    header: GgufHeader
    options: TuneOptions
    workshop: Path
    run_job: Runner
    room: Room
    on_step: OnStep
    candidates: list[Candidate] = field(default_factory=list)
    formats: tuple[str, ...] = ()
    done: int = 0

    def run(self) -> Tuning:
        self.formats = self._affordable()
        self._step("reading the source")
        sha256 = sha256_file(self.source)
        self._keep_reference()
        self._step(f"timing the source ({self._source_format})")
        self.candidates.append(self._measure(self._source_format, self.source, Settings(), reference=None))
        if self.candidates[0].problem is not None:
            raise LocalFailure(f"{self.source.name} cannot be measured: {self.candidates[0].problem}")
        for name in self.formats:
            self._try_format(name)
        for axis in self.options.axes:
            self._try_axis(axis)
        choice, speedup = self._confirm(self._choose())
        return self._keep(choice, speedup, sha256)

    # ---- room

    def _affordable(self) -> tuple[str, ...]:
        """Give the formats to try: F16 only where there is disk for it, or it was asked for.

        Raises: CatalogError before anything is made, with how much is missing.
        """
        header, formats = self.header, self.options.formats
        free = self.room.disk_free_bytes(self.workshop)
        if formats is None:
            f16_bytes = file_bytes(header, "F16")
            formats = formats_to_try(header.quantisation, is_quick=self.options.is_quick, f16_bytes=f16_bytes)
            if free < disk_bytes(header, formats, self.options.chunks):
                formats = tuple(name for name in formats if name != "F16")
        needed = disk_bytes(header, formats, self.options.chunks)
        if free < needed:
            raise CatalogError(
                f"tuning {self.source.name} needs {human_bytes(needed)} in {self.source.parent} for a while, "
                f"and {human_bytes(free)} are free; free {human_bytes(needed - free)}, or try fewer --formats"
            )
        problem = self._memory_problem(self.header.file_bytes)
        if problem is not None:
            raise CatalogError(f"tuning {self.source.name} {problem}; close something, or take a smaller model")
        return formats

    def _memory_problem(self, size_bytes: int) -> str | None:
        needed, free = memory_bytes(self.header, size_bytes), self.room.memory_free_bytes()
        if free >= needed:
            return None
        return f"needs {human_bytes(needed)} of memory and {human_bytes(free)} are free"

    # ---- candidates

    @property
    def _source_format(self) -> str:
        return self.header.quantisation or "source"

    @property
    def _reference(self) -> Path:
        return self.workshop / "reference.f32"

    def _path_of(self, format_name: str) -> Path:
        return self.source if format_name == self._source_format else self.workshop / f"{format_name}.gguf"

    def _keep_reference(self) -> None:
        self._step("reading the text with the source")
        job = Reference(model=str(self.source), target=str(self._reference), chunks=self.options.chunks)
        problem = self.run_job(job).problem
        if problem is not None:
            raise LocalFailure(f"{self.source.name} cannot be measured: {problem}")

    def _try_format(self, name: str) -> None:
        """Make a candidate, measure it, and keep its file only while it is the best."""
        path = self._path_of(name)
        if path == self.source:
            return
        size = file_bytes(self.header, name)
        problem = self._memory_problem(size) or self._quantiser_problem()
        if problem is None:
            self._step(f"writing {name}")
            job = Quantise(source=str(self.source), target=str(path), format=name)
            problem = self.run_job(job).problem
        if problem is None:
            self._step(f"measuring {name}")
            self.candidates.append(self._measure(name, path, Settings(), reference=self._reference))
        else:
            self.candidates.append(Candidate(format=name, settings=Settings(), file_bytes=size, problem=problem))
        best = self._path_of(self._choose().candidate.format)
        for made in self.workshop.glob("*.gguf"):
            if made != best:
                made.unlink()

    def _quantiser_problem(self) -> str | None:
        needed, free = quantiser_bytes(self.header), self.room.memory_free_bytes()
        return None if free >= needed else f"needs {human_bytes(needed)} to be written and {human_bytes(free)} are free"

    def _try_axis(self, axis: str) -> None:
        """Vary one setting of the best so far."""
        best = self._choose().candidate
        for settings in settings_to_try(axis, best.settings, cores=usable_threads()):
            tried = replace(best, settings=settings, speed=None)
            self._step(f"measuring {describe(tried)}")
            is_numeric = axis in NUMERIC_AXES
            reference = self._reference if is_numeric else None
            measured = self._measure(best.format, self._path_of(best.format), settings, reference=reference)
            # Where the same numbers are computed in other portions, the divergence is that of the best so far.
            self.candidates.append(measured if is_numeric else replace(measured, divergence=best.divergence))

    def _measure(self, format_name: str, path: Path, settings: Settings, *, reference: Path | None) -> Candidate:
        outcome = self.run_job(
            Measure(
                model=str(path),
                settings=settings,
                reference=None if reference is None else str(reference),
                chunks=self.options.chunks,
                prompt_tokens=self.options.prompt_tokens,
                answer_tokens=self.options.answer_tokens,
                runs=self.options.runs,
            )
        )
        return Candidate(
            format=format_name,
            settings=settings,
            file_bytes=path.stat().st_size,
            speed=outcome.speed,
            divergence=outcome.divergence,
            problem=outcome.problem,
        )

    # ---- the end

    def _choose(self) -> Choice:
        return choose(self.candidates, max_kl_nats=self.options.max_kl_nats)

    def _confirm(self, choice: Choice) -> tuple[Choice, float | None]:
        """Time source and choice once more in turns: a machine that was busy for one of them only is found out."""
        source, best = self.candidates[0], choice.candidate
        if best is source:
            return choice, None
        times_s: dict[str, list[float]] = {"source": [], "best": []}
        for number in range(self.options.runs):
            for name, candidate in (("source", source), ("best", best)):
                self._step(f"confirming {describe(candidate)} ({number + 1} of {self.options.runs})")
                path = self._path_of(candidate.format)
                again = self._measure(candidate.format, path, candidate.settings, reference=None)
                times_s[name] += [] if again.speed is None else [again.speed.chats_s]
        if not all(times_s.values()):
            return Choice(source, f"{describe(best)} failed when it was timed once more, so the source is kept"), None
        speedup = min(times_s["source"]) / min(times_s["best"])
        if speedup < 1 + MIN_GAIN:
            why = f"{describe(best)} was faster at first, but {speedup:.2f} times as fast in turns with the source"
            return Choice(source, f"{why}, so the source is kept"), None
        return Choice(best, f"{choice.why}; in turns at the end it was {speedup:.2f} times as fast"), speedup

    def _keep(self, choice: Choice, speedup: float | None, source_sha256: str) -> Tuning:
        """Put the file, then the record that makes it count, and only then take away what was there before."""
        self._step("keeping the best")
        best, made, file = choice.candidate, None, None
        if best.format != self._source_format:
            made = tuned_path(self.source, best.format)
            self._path_of(best.format).replace(made)
            sync_folder(made.parent)
            file = TunedFile(name=made.name, bytes=made.stat().st_size, sha256=sha256_file(made))
        tuning = Tuning(
            schema=SCHEMA,
            tuned_at=datetime.now(UTC).isoformat(timespec="seconds"),
            source=TunedFrom(
                name=self.source.name,
                bytes=self.header.file_bytes,
                sha256=source_sha256,
                format=self._source_format,
            ),
            machine=this_machine(),
            versions=these_versions(),
            max_kl_nats=self.options.max_kl_nats,
            text_sha256=text_sha256(),
            candidates=tuple(self.candidates),
            chosen=best,
            why=choice.why,
            speedup=speedup,
            file=file,
        )
        write_tuning(self.source, tuning)
        drop_tuned_files(self.source, but=made)
        self._step("done")
        return tuning

    def _step(self, words: str) -> None:
        cores = usable_threads()
        variants = sum(len(settings_to_try(axis, Settings(), cores=cores)) for axis in self.options.axes)
        total = 4 + 2 * len(self.formats) + variants + 2 * self.options.runs
        self.on_step(min(self.done, total - 1) if words != "done" else total, total, words)
        self.done += 1
