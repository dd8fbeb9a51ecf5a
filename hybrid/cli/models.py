"""What do `hybrid models list|pull|recommend|show|rm|tune` print? Data on stdout, progress and notes on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import msgspec
import typer
from rich.console import Console
from rich.progress import DownloadColumn, TaskProgressColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as ProgressBar

from hybrid.catalog import (
    Card,
    HuggingFaceSource,
    Installed,
    Progress,
    find_card,
    human_bytes,
    installed,
    load_cards,
    partial_bytes,
    remove,
    resolve,
    sha256_file,
)
from hybrid.catalog import pull as pull_model
from hybrid.cli import INTERRUPTED
from hybrid.cli.models_tune import models_folder, tune_model, tuned_facts, tuned_lines, tuned_words
from hybrid.cli.printable import printable
from hybrid.cli.recommend import offered, suggestions, this_profile
from hybrid.cli.recommend import show as show_suggestions
from hybrid.cli.watching import bar, can_redraw, progress_lines, words
from hybrid.gguf import GgufHeader, read_header

app = typer.Typer(
    help="List, recommend, pull, tune, show and remove local models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
DirOption = Annotated[
    Path | None,
    typer.Option("--models-dir", metavar="DIR", help="Where models lie, instead of models/ in your data folder."),
]
Facts: TypeAlias = dict[str, Any]

_STEPS = {"fetch": "fetching", "unpack": "unpacking", "verify": "verifying"}
_PLAIN_STEP_PERCENT = 25


@app.command("list")
def list_models(models_dir: DirOption = None, as_json: JsonOption = False) -> None:  # noqa: FBT002 - typer reads it
    """List the catalogue, the smallest first, and what is here of it."""
    folder = models_folder(models_dir)
    facts = _all_facts(folder)
    if as_json:
        _print_json({"models_dir": str(folder), "models": facts})
        return
    rows = [("NAME", "SIZE", "FORMAT", "CONTEXT", "LICENCE", "STATE"), *map(_row, facts)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print(printable("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()))


@app.command()
def pull(
    name: Annotated[
        str | None, typer.Argument(help="A name of `hybrid models list`; without, what suits this machine.")
    ] = None,
    models_dir: DirOption = None,
    offline: Annotated[bool, typer.Option("--offline", help="Fetch nothing; fail if the model is not here.")] = False,  # noqa: FBT002
    yes: Annotated[bool, typer.Option("--yes", help="Pull what is recommended without asking.")] = False,  # noqa: FBT002
    as_json: JsonOption = False,  # noqa: FBT002 - typer reads the default
) -> None:
    """Fetch a model, check it, and print where it is. Interrupted, it goes on the next time."""
    folder = models_folder(models_dir)
    card = find_card(offered(folder, is_agreed=yes) if name is None else name)
    try:
        with shown(card.name) as (on_progress, on_note):
            path = pull_model(card, folder, is_offline=offline, on_progress=on_progress, on_note=on_note)
    except KeyboardInterrupt:
        # What is kept has been said by then.
        raise typer.Exit(INTERRUPTED) from None
    here = _here(card.name, folder)
    facts = {"name": card.name, "path": str(path), **_installed_facts(here)}
    _print_json(facts) if as_json else print(path)


@app.command()
def recommend(models_dir: DirOption = None, as_json: JsonOption = False) -> None:  # noqa: FBT002 - typer reads it
    """Say which models suit this machine: what fits, how fast it would be, how capable its size is; the best first."""
    show_suggestions(suggestions(models_folder(models_dir), profile=this_profile()), as_json=as_json)


@app.command()
def show(
    model: Annotated[str, typer.Argument(help="A name of `hybrid models list`, or a .gguf file.")],
    models_dir: DirOption = None,
    as_json: JsonOption = False,  # noqa: FBT002 - typer reads the default
) -> None:
    """Say what is known of a model: its card, whether it is here and unchanged, and what its file says."""
    folder = models_folder(models_dir)
    card, here = load_cards().get(model), _here(model, folder)
    facts: Facts = _card_facts(card) if card else {"name": model}
    left_bytes = partial_bytes(folder).get(model, 0) if card else 0
    facts |= {"is_installed": here is not None, "partial_bytes": left_bytes, **_installed_facts(here)}
    if here is not None or card is None:
        path = resolve(model, folder)
        facts |= tuned_facts(path)
        facts |= {"path": str(path), "installed_bytes": path.stat().st_size, "installed_sha256": sha256_file(path)}
        facts["header"] = _header_facts(read_header(path))
    if as_json:
        _print_json(facts)
    else:
        _print_lines(facts, card)


@app.command()
def rm(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Models, or leftovers of interrupted pulls.")],
    models_dir: DirOption = None,
    as_json: JsonOption = False,  # noqa: FBT002 - typer reads the default
) -> None:
    """Delete models, and what interrupted pulls of them have left."""
    folder = models_folder(models_dir)
    removed = []
    for name in names:
        freed_bytes = remove(name, folder)
        removed.append({"name": name, "freed_bytes": freed_bytes})
        print(f"removed {name}, {human_bytes(freed_bytes)} freed", file=sys.stderr)
    if as_json:
        _print_json({"removed": removed})


app.command("tune")(tune_model)


def _here(name: str, folder: Path) -> Installed | None:
    return next((model for model in installed(folder) if model.name == name), None)


def _all_facts(folder: Path) -> list[Facts]:
    """Join the catalogue with the folder; files that no card describes come last."""
    cards, here, left = load_cards(), {model.name: model for model in installed(folder)}, partial_bytes(folder)
    facts = []
    for name in [*cards, *sorted((here.keys() | left.keys()) - cards.keys())]:
        described = _card_facts(cards[name]) if name in cards else {"name": name}
        state = {"is_installed": name in here, "partial_bytes": left.get(name, 0), **_installed_facts(here.get(name))}
        facts.append(described | state)
    return facts


def _card_facts(card: Card) -> Facts:
    facts: Facts = msgspec.to_builtins(card)
    is_pinned = not isinstance(card.source, HuggingFaceSource) or card.source.is_pinned
    return facts | {"is_pinned": is_pinned}


def _installed_facts(here: Installed | None) -> Facts:
    return {
        "path": str(here.path) if here else None,
        "installed_bytes": here.bytes if here else None,
        "installed_sha256": here.sha256 if here else None,
        "pulled_from": here.source if here else None,
        "pulled_revision": here.revision if here else None,
        "pulled_unix_s": here.pulled_unix_s if here else None,
        "tuned_to": tuned_words(here.path) if here else None,
    }


def _header_facts(header: GgufHeader) -> Facts:
    names = (
        "name architecture quantisation parameters context_tokens n_vocab block_count embedding_length head_count "
        "head_count_kv key_length value_length bos_id eos_id has_chat_template"
    )
    return {name: getattr(header, name) for name in names.split()}


def _row(facts: Facts) -> tuple[str, ...]:
    size = facts.get("bytes") or facts["installed_bytes"]
    context = facts.get("context_tokens")
    return (
        facts["name"],
        human_bytes(size) if size else "-",
        facts.get("quantisation", "-"),
        f"{context:,}" if context else "-",
        facts.get("licence", "-"),
        _state(facts),
    )


def _state(facts: Facts) -> str:
    if facts["is_installed"]:
        state = "pulled" if facts["pulled_from"] else "here"
        return f"{state}, tuned: {facts['tuned_to']}" if facts["tuned_to"] else state
    return f"{human_bytes(facts['partial_bytes'])} of it" if facts["partial_bytes"] else ""


def _print_lines(facts: Facts, card: Card | None) -> None:
    """Print one fact a line, in words."""
    lines: list[tuple[str, object]] = [("name", facts["name"])]
    if card is not None:
        about = "" if card.is_bytes_exact else "about "
        licence = f"{card.licence} ({card.licence_url})" if card.licence_url else card.licence
        lines += [
            ("title", card.title),
            ("about", card.description),
            ("licence", licence),
            ("size", f"{about}{human_bytes(card.bytes)}, {card.quantisation}, {card.parameters / 1e9:g} B parameters"),
            ("context", f"{card.context_tokens:,} tokens"),
            ("source", _source_line(card)),
            ("sha256", card.sha256 or "not known beforehand: the first pull records what it got"),
        ]
    lines += [("state", _state(facts) or ("used where it lies" if facts["path"] else "not pulled"))]
    if facts["path"]:
        lines += [("file", facts["path"]), ("its sha256", facts["installed_sha256"])]
    if facts["pulled_revision"]:
        lines += [("its commit", facts["pulled_revision"])]
    lines += tuned_lines(facts)
    header = facts.get("header", {})
    names = {"name": "maker's name"}
    lines += [(names.get(key, key.replace("_", " ")), value) for key, value in header.items() if value is not None]
    for key, value in lines:
        print(f"{key + ':':<18} {printable(str(value))}")


def _source_line(card: Card) -> str:
    if not isinstance(card.source, HuggingFaceSource):
        return str(card.source)
    pinned = card.source.revision if card.source.is_pinned else f"{card.source.revision}, which can change"
    return f"{card.source}, {card.source.file} at {pinned}"


def _print_json(value: object) -> None:
    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


@contextmanager
def shown(name: str) -> Iterator[tuple[Callable[[Progress], None], Callable[[str], None]]]:
    """Show progress: a bar where somebody watches, otherwise a line each quarter of a step."""
    if can_redraw(sys.stderr, os.environ):
        with byte_lines() as lines:
            tasks: dict[str, Any] = {}
            yield (
                (lambda progress: _move(lines, tasks, name, progress)),
                (lambda note: lines.console.print(note, markup=False)),
            )
    else:
        said: set[tuple[str, int]] = set()
        yield (lambda progress: _say(said, name, progress)), (lambda note: print(note, file=sys.stderr, flush=True))


def byte_lines(console: Console | None = None) -> ProgressBar:
    """Give the lines that tell how much of each step is done."""
    name = words("{task.description}", ratio=2)
    wide = (name, bar(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    return progress_lines(wide, (name, TaskProgressColumn(), TimeRemainingColumn()), console)


def _move(lines: ProgressBar, tasks: dict[str, Any], name: str, progress: Progress) -> None:
    if progress.step not in tasks:
        # Speed and time left count from where an interrupted pull goes on, not from zero.
        tasks[progress.step] = lines.add_task(f"{_STEPS[progress.step]} {name}", completed=progress.done_bytes)
    lines.update(tasks[progress.step], completed=progress.done_bytes, total=progress.total_bytes)


def _say(said: set[tuple[str, int]], name: str, progress: Progress) -> None:
    percent = 100 * progress.done_bytes // progress.total_bytes if progress.total_bytes else 0
    mark = (progress.step, percent // _PLAIN_STEP_PERCENT)
    if mark in said:
        return
    said.add(mark)
    total = f" of {human_bytes(progress.total_bytes)} ({percent} %)" if progress.total_bytes else ""
    print(f"{_STEPS[progress.step]} {name}: {human_bytes(progress.done_bytes)}{total}", file=sys.stderr, flush=True)
