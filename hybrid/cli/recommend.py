"""What does `hybrid models recommend` know, and how is it shown? Joins cards, files, snapshot and what was measured."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import msgspec
import typer

from hybrid.catalog import Card, installed, load_cards
from hybrid.cli import INTERRUPTED
from hybrid.cli.printable import printable
from hybrid.config import data_dir
from hybrid.devices.host import Host
from hybrid.devices.placement import Wanted
from hybrid.devices.profile import Profile
from hybrid.devices.recommend import Candidate, MeasuredSpeed, Suggestion, recommend
from hybrid.devices.shape import CardFacts, ModelShape, shape_of_card, shape_of_header
from hybrid.devices.snapshot import take_snapshot
from hybrid.errors import CatalogError, CommandError, ModelFileError
from hybrid.gguf import read_header
from hybrid.speeds import measured_speed, open_profile, roofs
from hybrid.tuning.apply import find_tuned

VERSION = 1
"""Of the JSON's form."""


def suggestions(
    folder: Path,
    *,
    host: Host | None = None,
    profile: Profile | None = None,
    context_tokens: int = 0,
) -> tuple[Suggestion, ...]:
    """Sort the catalogue for this machine, the recommendation first.

    profile: what was measured here: of models, whose figures replace predictions, and of the machine, which
    predictions for the others start from.
    """
    files = {model.name: model.path for model in installed(folder)}
    candidates = [_candidate(card, files.get(card.name)) for card in load_cards().values()]
    speeds = {name: speed for name, path in files.items() if (speed := _measured(path, profile)) is not None}
    wanted = Wanted(context_tokens=context_tokens)
    return recommend(host or take_snapshot(), candidates, speeds, roofs(profile), wanted)


def this_profile() -> Profile | None:
    """Read what was measured on this machine; why it does not hold is told on stderr."""
    return open_profile(data_dir(), on_note=lambda note: print(f"note: {printable(note)}", file=sys.stderr))


def _measured(path: Path, profile: Profile | None) -> MeasuredSpeed | None:
    """Take the figures of what `serve` would run: the tuned file, or the source where that was not measured."""
    if profile is None:
        return None
    tuned = find_tuned(path)
    found = None if tuned is None else measured_speed(profile, tuned.path, kv_type=tuned.settings.kv_type)
    return found or measured_speed(profile, path)


def _candidate(card: Card, path: Path | None) -> Candidate:
    return Candidate(
        name=card.name,
        parameters=card.parameters,
        bytes=card.bytes,
        is_for_code="code" in card.family.lower() or "coder" in card.name,
        is_installed=path is not None,
        shape=_shape(card, path),
    )


def _shape(card: Card, path: Path | None) -> ModelShape | None:
    """Take the sizes from the file where it is here and sound, else from its card."""
    if path is not None:
        try:
            return shape_of_header(read_header(path), card.name)
        except ModelFileError as damaged:
            print(f"warning: {printable(str(damaged))}", file=sys.stderr)
    if card.shape is None:
        return None
    facts = {name: getattr(card, name) for name in ("name", "bytes", "parameters", "quantisation", "context_tokens")}
    return shape_of_card(CardFacts(**facts, **msgspec.structs.asdict(card.shape)))


def show(found: tuple[Suggestion, ...], *, as_json: bool) -> None:
    """Print the table, the recommendation first; or all of it as JSON."""
    if as_json:
        best = found[0].name if found and found[0].fits else None
        told = {"version": VERSION, "recommended": best, "models": [asdict(one) for one in found]}
        print(msgspec.json.format(msgspec.json.encode(told), indent=2).decode())
        return
    rows = [("NAME", "TIER", "MEMORY", "PREFILL", "DECODE", "SPEED IS", "DEVICE", "STATE"), *map(_row, found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
    print(_advice(found), file=sys.stderr)


def _row(one: Suggestion) -> tuple[str, ...]:
    state = "pulled" if one.is_installed else ""
    if not one.fits:
        state = "too large" if one.memory_bytes is not None else "unknown"
    return (
        one.name,
        one.tier,
        "-" if one.memory_bytes is None else f"{one.memory_bytes / 1e9:.1f} GB",
        "-" if one.prefill_tok_s is None else f"{one.prefill_tok_s:.0f} tok/s",
        "-" if one.decode_tok_s is None else f"{one.decode_tok_s:.1f} tok/s",
        _basis(one),
        one.device or "-",
        state,
    )


_BASES = {
    "predicted-measured": "predicted, bandwidth measured",
    "predicted-nominal": "predicted, data sheet",
    "predicted-assumed": "predicted, assumed",
}


def _basis(one: Suggestion) -> str:
    return f"measured ({one.measured_by})" if one.measured_by else _BASES.get(one.basis or "", "-")


def _advice(found: tuple[Suggestion, ...]) -> str:
    best = found[0] if found else None
    if best is None or not best.fits:
        return "no model of the catalogue fits into the memory that is free"
    is_measured = best.basis == "measured"
    how = "its speed was measured here" if is_measured else "its speed is predicted; hybrid bench measures it"
    where = "it is here already" if best.is_installed else f"`hybrid models pull {best.name}` fetches it"
    return f"recommended: {best.name} ({best.why}); {where}. Tiers go by size alone; {how}."


def offered(folder: Path, *, is_agreed: bool) -> str:
    """Give the name of the recommended model, once somebody agreed to pull it.

    Raises: CatalogError if nothing fits, CommandError where nobody can be asked or the answer is no.
    """
    found = suggestions(folder, profile=this_profile())
    if not found or not found[0].fits:
        raise CatalogError("no model of the catalogue fits into the memory that is free; name one to pull it anyway")
    best = found[0]
    size = next((card.bytes for card in load_cards().values() if card.name == best.name), 0)
    offer = f"{best.name}, {size / 1e6:.0f} MB: {best.why}"
    if is_agreed:
        print(f"pulling {offer}", file=sys.stderr)
        return best.name
    if not sys.stdin.isatty():
        hint = f"name a model, or agree with --yes: hybrid models pull {best.name}"
        raise NotAgreed(f"which model? recommended for this machine is {offer}; {hint}")
    try:
        is_agreed = typer.confirm(f"Pull {offer}?", err=True)
    except typer.Abort:
        print("\ninterrupted: nothing was pulled", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    if not is_agreed:
        raise NotAgreed("nothing was pulled; hybrid models recommend lists what fits")
    return best.name


class NotAgreed(CommandError):
    """A model was offered and nobody said yes."""

    exit_code = 2
