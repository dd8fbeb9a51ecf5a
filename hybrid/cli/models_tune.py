"""What does `hybrid models tune` do and print, and what do list and show tell of it? Progress goes to stderr."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, TimeElapsedColumn
from rich.progress import Progress as ProgressBar

from hybrid.catalog import human_bytes, resolve
from hybrid.catalog.tuned import Candidate, Tuning, read_tuning
from hybrid.cli import INTERRUPTED
from hybrid.cli.watching import bar, can_redraw, progress_lines, words
from hybrid.config import at_home, data_dir
from hybrid.errors import CatalogError
from hybrid.gguf_format import FILE_TYPES
from hybrid.placing import free_bytes
from hybrid.tuning.apply import mismatch
from hybrid.tuning.choose import DEFAULT_MAX_KL_NATS, OTHERS_CORES, describe, is_near
from hybrid.tuning.jobs import run_job
from hybrid.tuning.machine import these_versions, this_machine
from hybrid.tuning.speeds import keep_speeds
from hybrid.tuning.tune import Room, TuneOptions, quick, tune
from hybrid.wiring import BARRIER_SPINS


def tune_model(
    model: Annotated[str, typer.Argument(help="A model that is here, or a .gguf file.")],
    max_kl: Annotated[
        float,
        typer.Option(metavar="NATS", min=0.0, help="How far, in nats a token, answers may diverge from the source's."),
    ] = DEFAULT_MAX_KL_NATS,
    formats: Annotated[
        str | None, typer.Option(metavar="A,B", help="Try only these formats, such as Q8_0,Q4_0.")
    ] = None,
    is_quick: Annotated[bool, typer.Option("--quick", help="Three formats and short runs: a first look.")] = False,  # noqa: FBT002
    models_dir: Annotated[
        Path | None,
        typer.Option("--models-dir", metavar="DIR", help="Where models lie, instead of models/ in your data folder."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON for programs.")] = False,  # noqa: FBT002
) -> None:
    """Find the fastest form of a model on this machine that still answers like it; `hybrid serve` then uses it."""
    options = TuneOptions(max_kl_nats=max_kl, formats=_formats(formats))
    options = quick(options) if is_quick else options
    source = resolve(model, models_folder(models_dir))
    tuning = _tune(source, options)
    keep_speeds(data_dir(), source, tuning, prompt_tokens=options.prompt_tokens, on_note=_say)
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(tuning), indent=2).decode())
    else:
        print("\n".join(table(tuning)))
    for line in notes(tuning):
        _say(line)


def models_folder(models_dir: Path | None) -> Path:
    """Give the folder of `--models-dir`, else of the data folder; it need not be there yet.

    Raises: CatalogError if something else is in its place, where every model would seem not to be here.
    """
    folder = data_dir() / "models" if models_dir is None else at_home(models_dir).absolute()
    if folder.exists() and not folder.is_dir():
        raise CatalogError(f"{folder} is no folder; name the folder of the models with --models-dir")
    return folder


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _tune(source: Path, options: TuneOptions) -> Tuning:
    environment = {"GOMP_SPINCOUNT": BARRIER_SPINS, **os.environ}
    room = Room(
        disk_free_bytes=lambda folder: shutil.disk_usage(folder).free,
        memory_free_bytes=free_bytes,
    )
    try:
        with _shown() as on_step:
            return tune(source, options, run=lambda job: run_job(job, environment), room=room, on_step=on_step)
    except KeyboardInterrupt:
        print(f"interrupted; {source.name} is as it was, and nothing is kept", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None


def _formats(given: str | None) -> tuple[str, ...] | None:
    if given is None:
        return None
    names = tuple(dict.fromkeys(name.strip().upper() for name in given.split(",") if name.strip()))
    unknown = [name for name in names if name not in FILE_TYPES.values()]
    if unknown or not names:
        raise CatalogError(f"--formats {given!r}: no format {', '.join(unknown) or 'is named'}; such as Q8_0,Q4_0")
    return names


def table(tuning: Tuning) -> list[str]:
    """Give what was tried, one candidate a line, the chosen one marked."""
    head = ("", "CANDIDATE", "SIZE", "8 CHATS", "PREFILL", "DECODE 1", "DECODE 8", "NATS A TOKEN (95 %)", "TOP-1")
    rows = [head, *(_row(candidate, tuning) for candidate in tuning.candidates)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [*lines, "", tuning.why]


def _row(candidate: Candidate, tuning: Tuning) -> tuple[str, ...]:
    mark = "*" if candidate == tuning.chosen else " "
    size = human_bytes(candidate.file_bytes)
    speed, divergence = candidate.speed, candidate.divergence
    if candidate.problem is not None or speed is None:
        return (mark, describe(candidate), size, candidate.problem or "not measured", "", "", "", "", "")
    nats, top1 = "the source", ""
    if divergence is not None:
        over = "" if is_near(candidate, tuning.max_kl_nats) else " over the bound"
        nats = f"{divergence.mean_nats:.4f} ({divergence.low_nats:.4f} to {divergence.high_nats:.4f}){over}"
        top1 = f"{divergence.top1_agreement:.1%}"
    rates = (speed.prefill_8_tok_s, speed.decode_1_tok_s, speed.decode_8_tok_s)
    return (
        mark,
        describe(candidate),
        size,
        f"{speed.chats_s:.2f} s",
        *(f"{rate:.0f} tok/s" for rate in rates),
        nats,
        top1,
    )


def notes(tuning: Tuning) -> list[str]:
    """Give what a person should know beside the table."""
    lines = [
        "Divergence is from the file as it was shipped: a larger format runs faster or slower, and cannot regain what "
        "the file's own quantisation has lost."
    ]
    busy = max((c.speed.others_cores for c in tuning.candidates if c.speed), default=0.0)
    if busy > OTHERS_CORES:
        lines.append(
            f"Other processes kept up to {busy:.1f} cores busy meanwhile: speeds are too low and may be compared "
            "wrongly. Tune again when the machine is quiet."
        )
    if tuning.file is not None:
        lines.append(f"`hybrid serve` uses {tuning.file.name} from now on; local.tuned = false turns that off.")
    return lines


def tuned_words(source: Path) -> str | None:
    """Name what tuning chose for a model; None where it was not tuned. Whether that holds here is not asked."""
    try:
        tuning = read_tuning(source)
    except CatalogError:
        return "unreadable"
    return None if tuning is None else describe(tuning.chosen)


def tuned_facts(source: Path) -> dict[str, Any]:
    """Give the record of a model's tuning, and why it is not used where it is not."""
    try:
        tuning = read_tuning(source)
        problem = None if tuning is None else mismatch(tuning, source, this_machine(), these_versions())
    except CatalogError as unreadable:
        tuning, problem = None, str(unreadable)
    return {
        "tuned_to": None if tuning is None else describe(tuning.chosen),
        "tuning": None if tuning is None else msgspec.to_builtins(tuning),
        "tuning_problem": problem,
    }


def tuned_lines(facts: dict[str, Any]) -> list[tuple[str, object]]:
    """Say the same in words."""
    lines: list[tuple[str, object]] = []
    if facts.get("tuning"):
        tuning = msgspec.convert(facts["tuning"], Tuning)
        lines += [("tuned to", facts["tuned_to"]), ("tuned at", tuning.tuned_at), ("because", tuning.why)]
        if tuning.file is not None:
            lines.append(("tuned file", f"{tuning.file.name}, {human_bytes(tuning.file.bytes)}"))
    if facts.get("tuning_problem"):
        lines.append(("tuning ignored", facts["tuning_problem"]))
    return lines


@contextmanager
def _shown() -> Iterator[Callable[[int, int, str], None]]:
    """Show progress: a bar where somebody watches, otherwise a line for each step."""
    if not can_redraw(sys.stderr, os.environ):
        yield lambda done, total, doing: print(f"{done}/{total} {doing}", file=sys.stderr, flush=True)
        return
    with step_lines() as lines:
        task = lines.add_task("starting")
        yield lambda done, total, doing: lines.update(task, completed=done, total=total, description=doing)


def step_lines(console: Console | None = None) -> ProgressBar:
    """Give the line that counts the steps."""
    counts = (MofNCompleteColumn(), TimeElapsedColumn(), words("{task.description}", ratio=3))
    return progress_lines((bar(), *counts), counts, console)
