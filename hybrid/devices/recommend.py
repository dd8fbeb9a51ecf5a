"""Which models suit this machine, the best first? Pure: what fits, how fast it would be, how capable its size is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from hybrid.devices.host import Host
from hybrid.devices.placement import DEFAULTS, Placement, Refusal, Wanted, place
from hybrid.devices.rates import Measured
from hybrid.devices.shape import ModelShape

Tier: TypeAlias = Literal["toy", "basic", "fair", "good", "strong"]

TIERS: tuple[tuple[float, Tier], ...] = (
    (0.3e9, "toy"), (1.2e9, "basic"), (2.5e9, "fair"), (6e9, "good"), (float("inf"), "strong"),
)  # fmt: skip
"""A tier by parameters and nothing else: no benchmark was run. Within one, models made for code come last."""
FLUENT_DECODE_TOK_S = 8.0
"""As fast as people read: slower feels like waiting."""
FLUENT_PROMPT_S = 15.0
"""Longest wait for the first token of an answer to 512 tokens that still counts as usable."""
PROMPT_TOKENS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A model that may be recommended. shape: None where nobody knows its sizes."""

    name: str
    parameters: int
    bytes: int
    is_for_code: bool
    is_installed: bool
    shape: ModelShape | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredSpeed:
    """What a profile says of a model on this machine: a prompt of `PROMPT_TOKENS`, one answer, and what measured."""

    prefill_tok_s: float
    decode_tok_s: float
    measured_by: str = "bench"


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """One model on this machine. Speeds are None where nothing is known; `basis` is None then.

    basis: `measured`, or predicted from `measured` bandwidth, a `nominal` or an `assumed` one (`predicted-measured` and
    so on). measured_by: what measured it; None where it is predicted. why: in words, why it stands where it does.
    """

    name: str
    tier: Tier
    is_installed: bool
    fits: bool
    is_fluent: bool
    device: str | None
    memory_bytes: int | None
    prefill_tok_s: float | None
    decode_tok_s: float | None
    basis: str | None
    measured_by: str | None
    limited_by: str | None
    why: str


def tier_of(parameters: int) -> Tier:
    """Name the quality tier of a size."""
    return next(tier for bound, tier in TIERS if parameters < bound)


def recommend(
    host: Host,
    candidates: Iterable[Candidate],
    speeds: Mapping[str, MeasuredSpeed] | None = None,
    measured: Measured | None = None,
    wanted: Wanted = DEFAULTS,
) -> tuple[Suggestion, ...]:
    """Sort models: those that fit and are fluent by size, then those that fit by speed, then the rest."""
    known = speeds or {}
    pairs = [
        (_suggest(host, candidate, known.get(candidate.name), measured or Measured(), wanted), candidate)
        for candidate in candidates
    ]
    return tuple(suggestion for suggestion, candidate in sorted(pairs, key=lambda pair: _key(*pair)))


def _key(suggestion: Suggestion, candidate: Candidate) -> tuple[object, ...]:
    tiers = [tier for _, tier in TIERS]
    if suggestion.fits and suggestion.is_fluent:
        rank: tuple[float, ...] = (0, -tiers.index(suggestion.tier), candidate.is_for_code, -candidate.parameters)
    elif suggestion.fits:
        rank = (1, -(suggestion.decode_tok_s or 0.0), candidate.is_for_code, candidate.parameters)
    else:
        rank = (2, candidate.bytes)
    return (*rank, suggestion.name)


def _suggest(
    host: Host, candidate: Candidate, speed: MeasuredSpeed | None, measured: Measured, wanted: Wanted
) -> Suggestion:
    decided = None if candidate.shape is None else place(host, candidate.shape, wanted, measured)
    fits = isinstance(decided, Placement)
    placed = decided if isinstance(decided, Placement) else None
    predicted = placed.prediction if placed is not None else None
    prefill = speed.prefill_tok_s if speed else predicted.prefill_tok_s if predicted else None
    decode = speed.decode_tok_s if speed else predicted.decode_tok_s if predicted else None
    is_fluent = (
        prefill is not None
        and decode is not None
        and decode >= FLUENT_DECODE_TOK_S
        and PROMPT_TOKENS / prefill <= FLUENT_PROMPT_S
    )
    needed = placed.host_bytes if placed else decided.needed_bytes if isinstance(decided, Refusal) else None
    return Suggestion(
        name=candidate.name,
        tier=tier_of(candidate.parameters),
        is_installed=candidate.is_installed,
        fits=fits,
        is_fluent=is_fluent,
        device=placed.device if placed else None,
        memory_bytes=needed,
        prefill_tok_s=prefill if fits else None,
        decode_tok_s=decode if fits else None,
        basis=("measured" if speed else f"predicted-{predicted.basis}" if predicted else None) if fits else None,
        measured_by=speed.measured_by if speed and fits else None,
        limited_by=predicted.decode_limit if predicted else None,
        why=_why(decided, is_fluent=is_fluent, is_known=decode is not None),
    )


def _why(decided: Placement | Refusal | None, *, is_fluent: bool, is_known: bool) -> str:
    if decided is None:
        return "its sizes are not known before it is pulled"
    if isinstance(decided, Refusal):
        return decided.message
    if not is_known:
        return "it fits; how fast it would be is not known for this device"
    return "it fits and answers as fast as one reads" if is_fluent else "it fits, but one would wait for it"
