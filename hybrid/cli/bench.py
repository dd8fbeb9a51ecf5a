"""What does `hybrid bench` do and print? A table on stdout, progress on stderr, and what was asked for in files."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskProgressColumn, TimeElapsedColumn

from hybrid.catalog import human_bytes, resolve
from hybrid.cli import INTERRUPTED
from hybrid.cli.local_model import local_model_file
from hybrid.cli.printable import printable
from hybrid.cli.watching import bar, can_redraw, progress_lines, words
from hybrid.config import Config, data_dir, load
from hybrid.devices.advice import advise
from hybrid.devices.bench import (
    BenchedModel,
    BenchReport,
    BenchTask,
    beside_earlier,
    report_schema,
    run_bench,
    to_profile,
)
from hybrid.devices.bench_html import page
from hybrid.devices.fingerprint import hardware_facts, hardware_fingerprint
from hybrid.devices.profile import load_profile, profile_path, update_profile
from hybrid.devices.snapshot import usable_threads
from hybrid.devices.speed import Figure, Progressed
from hybrid.errors import CommandError
from hybrid.wiring import BARRIER_SPINS

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

PLAIN_STEPS = 4
"""Lines a stage where nobody watches a bar."""


@app.command()
def bench(
    quick: Annotated[bool, typer.Option("--quick", help="Measure less: under a minute for a small model.")] = False,  # noqa: FBT002
    models: Annotated[
        list[str] | None,
        typer.Option("--model", metavar="NAME|PATH", help="A model to measure, also several; default: the configured."),
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write all figures there.")] = None,
    html_file: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a page to look at.")] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of --json, and end.")] = False,  # noqa: FBT002
    config_path: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="Instead of hybrid.toml.")
    ] = None,
) -> None:
    """Measure this machine and the models on it; the latency policy then knows both."""
    if schema:
        print(msgspec.json.format(msgspec.json.encode(report_schema()), indent=2).decode())
        return
    for path in (json_file, html_file):
        _check_writable(path)
    _check_profile(profile_path(data_dir(), hardware_fingerprint(hardware_facts())))
    config = load(config_path, os.environ).config
    task = task_of(config, models or [], is_quick=quick)
    try:
        with _shown() as on_stage:
            report = run_bench(task, on_stage)
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    known = load_profile(data_dir(), report.hardware_fingerprint, versions=report.versions)
    report = beside_earlier(report, known)
    report = msgspec.structs.replace(report, advice=advise(report))
    print("\n".join(printable(line) for line in _lines(report)))
    keep(report, json_file, html_file)
    if report.failed:
        raise typer.Exit(1)


def task_of(config: Config, names: list[str], *, is_quick: bool) -> BenchTask:
    """Find the models before anything is measured. Raises: CatalogError or ModelFileError for one that is not there."""
    is_fake = config.local.backend == "fake"
    paths: list[Path | None] = [resolve(name, data_dir() / "models") for name in names]
    if not paths:
        configured = None if is_fake else local_model_file(config, is_offline=False)
        paths = [configured] if configured is not None or is_fake else []
    policy = config.policy
    return BenchTask(
        models=paths,
        is_quick=is_quick,
        context_tokens=config.local.context_tokens,
        threads=config.local.threads or usable_threads(),
        ttft_s=None if policy.ttft_ms is None else policy.ttft_ms / 1000,
        environment={"GOMP_SPINCOUNT": BARRIER_SPINS, **os.environ},
    )


def _check_writable(path: Path | None) -> None:
    """Complain before minutes are spent. Raises: CommandError."""
    if path is None:
        return
    if path.is_dir():
        raise CommandError(f"{path} is a folder; name the file to write")
    if not os.access(path.absolute().parent, os.W_OK):
        raise CommandError(f"cannot write {path}: its folder is not there or not ours to write")


def _check_profile(path: Path) -> None:
    """Complain before minutes are spent. Raises: CommandError."""
    if path.is_dir():
        raise CommandError(f"{path} is a folder, where this machine's profile goes; move it away")


def keep(report: BenchReport, json_file: Path | None, html_file: Path | None) -> None:
    """Write what was asked for, and the profile; each file whole or not at all."""
    if json_file is not None:
        _write(json_file, msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    if html_file is not None:
        _write(html_file, page(report).encode())
    folder = data_dir()
    profile = to_profile(report)
    if not (profile.models or profile.read_bytes_s):
        return
    _say(f"profile: {update_profile(folder, profile, on_note=_say)}")


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as exc:
        temporary.unlink(missing_ok=True)
        raise CommandError(f"cannot write {path}: {exc.strerror}") from exc
    _say(f"written: {path}")


# ---- what is printed


def _lines(report: BenchReport) -> Iterator[str]:
    hardware = report.hardware
    yield f"{hardware.get('cpu', 'unknown processor')}, {hardware['cores']} cores, {hardware['memory_gib']} GiB"
    machine = report.machine
    if machine is not None:
        for one in machine.bandwidth:
            kinds = (("read", one.read_bytes_s), ("copy", one.copy_bytes_s), ("triad", one.triad_bytes_s))
            told = "   ".join(f"{kind} {_figure(value, 1e9)} GB/s" for kind, value in kinds)
            yield f"  memory, {one.threads} thread{'s' if one.threads > 1 else ' '}   {told}"
        for name, peaks in (("fp32", machine.fp32), ("int8", machine.int8)):
            for peak in peaks:
                yield f"  {name} {peak.version:<12} {_figure(peak.all_cores_ops_s, 1e9)} Gop/s"
        edges = ", ".join(f"{size / 1024:,.0f} KiB" for size in machine.cache_bytes)
        yield f"  caches of one core: {edges or 'not told apart'} (where latency rises)"
    for model in report.models:
        yield ""
        yield from _model_lines(model)
    if report.advice or report.notes:
        yield ""
    yield from (f"- {sentence}" for sentence in (*report.notes, *report.advice))


def _model_lines(model: BenchedModel) -> Iterator[str]:
    speed = model.speed
    size = f"{human_bytes(speed.file_bytes)} {model.quantisation or ''}".strip()
    yield f"{speed.name}  {size}, {speed.threads} threads on {speed.device}"
    rows = [("prefill", speed.prefill_tok_s, model.prefill_roof, speed.prefill_tok_j, "tokens")]
    rows += [("decode", speed.decode_tok_s, model.decode_roof, speed.decode_tok_j, "together")]
    for kind, figures, roofs, per_joule, unit in rows:
        for count, figure in figures.items():
            roof = roofs.get(count)
            share = f"   {100 * roof.share:3.0f} % of {roof.roof_tok_s:,.0f} ({roof.limit})" if roof else ""
            share += f", predicted {roof.predicted_tok_s:,.4g}" if roof and roof.predicted_tok_s else ""
            joule = f"   {per_joule[count]:.2f} tok/J" if count in per_joule else ""
            yield f"  {kind:<8}{count:>5} {unit:<9} {_figure(figure)} tok/s{share}{joule}"
    if speed.ttft_s is not None:
        yield f"  first token after 175 tokens: {_figure(speed.ttft_s)} s; load {speed.load_s:.1f} s"
    if speed.rss_bytes is not None:
        yield f"  memory at most {human_bytes(speed.rss_bytes)}"
    for one in speed.by_threads:
        yield (
            f"  {one.threads} thread{'s' if one.threads > 1 else ' '}: prefill {_figure(one.prefill_tok_s)}, "
            f"decode {_figure(one.decode_tok_s)} tok/s{'   <- best' if one.threads == speed.best_threads else ''}"
        )
    if not speed.decode_tok_j:
        yield f"  energy unknown: {speed.power}"
    for what in (*speed.left_out, *([f"no roofline: {model.roof_note}"] if model.roof_note else [])):
        yield f"  left out: {what}"


def _figure(figure: Figure, unit: float = 1.0) -> str:
    """The median with its extremes."""
    median, low, high = (f"{value / unit:,.4g}" for value in (figure.median, figure.low, figure.high))
    return f"{median:>6} ({low} to {high})"


# ---- progress


@contextmanager
def _shown() -> Iterator[Callable[[str, Progressed], None]]:
    """A bar a stage where somebody watches, else a few lines."""
    if not can_redraw(sys.stderr, os.environ):
        said: set[tuple[str, int]] = set()
        yield lambda stage, progress: _say_once(said, stage, progress)
        return
    with stage_lines() as lines:
        tasks: dict[str, Any] = {}
        yield lambda stage, progress: _move(lines, tasks, stage, progress)


def stage_lines(console: Console | None = None) -> Progress:
    """Give the lines that tell how far each stage is."""
    stage, step = words("{task.fields[stage]}"), words("{task.description}")
    wide = (SpinnerColumn(), stage, bar(), step, TimeElapsedColumn())
    return progress_lines(wide, (SpinnerColumn(), stage, TaskProgressColumn(), step), console, is_transient=True)


def _move(lines: Progress, tasks: dict[str, Any], stage: str, progress: Progressed) -> None:
    if stage not in tasks:
        tasks[stage] = lines.add_task("", total=1.0, stage=printable(stage))
    lines.update(tasks[stage], completed=progress.share, description=progress.what)


def _say_once(said: set[tuple[str, int]], stage: str, progress: Progressed) -> None:
    mark = (stage, int(progress.share * PLAIN_STEPS))
    if mark not in said:
        said.add(mark)
        _say(f"{stage}: {progress.what} ({100 * progress.share:.0f} %)")


def _say(line: str) -> None:
    print(printable(line), file=sys.stderr, flush=True)
