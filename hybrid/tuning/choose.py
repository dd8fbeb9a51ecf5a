"""What is tried, and which of it is kept? Pure: figures in, a choice and its reason out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from hybrid.catalog.tuned import Candidate, Settings
from hybrid.tuning.jobs import ANSWER_TOKENS, PROMPT_TOKENS

DEFAULT_MAX_KL_NATS = 0.02
"""Nats a token, to be kept with 95 % confidence. The README of this package has the levels it is set between."""
MIN_GAIN = 0.03
"""Candidates whose times differ by less are alike; then the one nearest to the source is taken."""
MOST_ALONE = 1.15
"""So many times as long as with the source a chat alone may take: eight at once are not all that is asked of a machine,
and a larger file, read whole for each token, can be faster for eight and slower for one."""
QUICK_FORMATS = ("F16", "Q8_0", "Q4_0")
FORMATS = ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_1", "Q4_0", "IQ4_NL")
"""The usual ones that need no importance matrix, the nearest to the source first. F16 is among them for processors
that multiply floats faster than they unpack blocks of integers, as those with AVX2 and no VNNI do."""
MOST_F16_BYTES = 4 << 30
"""A larger F16 file is not made by itself: it takes minutes, and decodes alone at the memory's speed, so too slowly."""
BATCHES_TOKENS = (256, 1024, 2048)
OTHERS_CORES = 0.3
"""Where other processes keep more cores busy, figures are worth little, and it is said."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The candidate to use, and why, in words."""

    candidate: Candidate
    why: str


def formats_to_try(source_format: str | None, *, is_quick: bool, f16_bytes: int) -> tuple[str, ...]:
    """Give the formats to make from a file; its own is the baseline.

    Args:
        f16_bytes: the size of its file as F16.
    """
    left_out = {source_format} | ({"F16"} if f16_bytes > MOST_F16_BYTES else set())
    return tuple(name for name in (QUICK_FORMATS if is_quick else FORMATS) if name not in left_out)


def settings_to_try(axis: str, best: Settings, *, cores: int) -> tuple[Settings, ...]:
    """Give the settings that differ from the best so far along one of `AXES`.

    Flash attention is on by itself wherever llama.cpp can; a quantised cache needs it.
    """
    if axis == "flash attention":
        return (replace(best, flash_attention=False),)
    if axis == "KV cache":
        return () if best.flash_attention is False else (replace(best, kv_type="q8_0"),)
    if axis == "batch":
        return tuple(replace(best, batch_tokens=tokens) for tokens in BATCHES_TOKENS if tokens != best.batch_tokens)
    if axis == "threads":
        fewer = {max(1, cores // 2), max(1, cores * 3 // 4)} - {cores}
        return tuple(replace(best, threads=threads) for threads in sorted(fewer, reverse=True))
    raise ValueError(f"no axis {axis!r}; there is: {', '.join(AXES)}")


AXES = ("flash attention", "KV cache", "batch", "threads")
NUMERIC_AXES = ("flash attention", "KV cache")
"""Those that change what is computed, so that divergence is measured again."""


def choose(candidates: Sequence[Candidate], *, max_kl_nats: float) -> Choice:
    """Keep the fastest candidate that is near enough to the source; of equally fast ones the nearest.

    Near enough is one whose whole interval is under the bound. The source as it is always is near enough. One with
    which a chat alone takes more than `MOST_ALONE` times as long as with the source is not kept.

    Args:
        candidates: the source as it is first. max_kl_nats: nats a token.
    Raises: ValueError if the source was not timed: without it nothing can be called faster.
    """
    source = candidates[0]
    if source.divergence is not None or source.speed is None:
        raise ValueError("the first candidate must be the source as it is, with its speed")
    timed = [c for c in candidates if c.problem is None and c.speed]
    allowed = [c for c in timed if is_near(c, max_kl_nats) and _is_quick_alone(c, source)]
    fastest_s = min(chats_s(candidate) for candidate in allowed)
    alike = [candidate for candidate in allowed if chats_s(candidate) <= fastest_s * (1 + MIN_GAIN)]
    best = min(alike, key=_distance)
    return Choice(best, _why(best, source, [c for c in timed if _beats(c, best)], max_kl_nats))


def is_near(candidate: Candidate, max_kl_nats: float) -> bool:
    """Whether a candidate answers like the source: the upper end of its interval is under the bound."""
    return candidate.divergence is None or candidate.divergence.high_nats <= max_kl_nats


def chats_s(candidate: Candidate) -> float:
    """What candidates are compared by. Raises: ValueError for one that was not timed."""
    if candidate.speed is None:
        raise ValueError("it was not timed")
    return candidate.speed.chats_s


def alone_s(candidate: Candidate) -> float:
    """How long a chat takes with nobody beside it. Raises: ValueError for one that was not timed."""
    speed = candidate.speed
    if speed is None:
        raise ValueError("it was not timed")
    return PROMPT_TOKENS / speed.prefill_1_tok_s + ANSWER_TOKENS / speed.decode_1_tok_s


def _is_quick_alone(candidate: Candidate, source: Candidate) -> bool:
    return alone_s(candidate) <= MOST_ALONE * alone_s(source)


def _distance(candidate: Candidate) -> tuple[float, int, int, float]:
    """What decides among equally fast ones: divergence, then the usual settings, then size."""
    nats = candidate.divergence.mean_nats if candidate.divergence else 0.0
    default = Settings()
    unusual = sum(getattr(candidate.settings, name) != getattr(default, name) for name in default.__struct_fields__)
    return nats, unusual, candidate.file_bytes, chats_s(candidate)


def _why(best: Candidate, source: Candidate, faster: Sequence[Candidate], max_kl_nats: float) -> str:
    """Say why. faster: what eight chats are faster with than with the best, and was not kept all the same."""
    too_far = [candidate for candidate in faster if not is_near(candidate, max_kl_nats)]
    too_slow = [candidate for candidate in faster if is_near(candidate, max_kl_nats)]
    if best is source:
        words = [f"nothing within {max_kl_nats:g} nats a token is more than {MIN_GAIN:.0%} faster than the source"]
    else:
        nats = best.divergence.mean_nats if best.divergence else 0.0
        words = [
            f"{describe(best)} does eight chats in {chats_s(best):.3g} s, {chats_s(source) / chats_s(best):.2f} times "
            f"as fast as the source, and diverges by {nats:.4f} nats a token"
        ]
    if too_far:
        rival = min(too_far, key=chats_s)
        assert rival.divergence is not None
        words.append(
            f"{describe(rival)} would take {chats_s(rival):.3g} s, but its {rival.divergence.mean_nats:.4f} nats (up "
            f"to {rival.divergence.high_nats:.4f}) are over the bound of {max_kl_nats:g}"
        )
    if too_slow:
        rival = min(too_slow, key=chats_s)
        words.append(
            f"{describe(rival)} would take {chats_s(rival):.3g} s, but a chat alone {alone_s(rival):.3g} s, where the "
            f"source takes {alone_s(source):.3g} s"
        )
    return "; ".join(words)


def _beats(candidate: Candidate, other: Candidate) -> bool:
    return chats_s(candidate) * (1 + MIN_GAIN) < chats_s(other)


def describe(candidate: Candidate) -> str:
    """Name a candidate: its format and the settings that are not the usual ones."""
    return f"{candidate.format}{describe_settings(candidate.settings)}"


def describe_settings(settings: Settings) -> str:
    """Name the settings that are not the usual ones, each after a comma; empty where all are."""
    default = Settings()
    words = []
    if settings.flash_attention is not None:
        words.append(f"flash attention {'on' if settings.flash_attention else 'off'}")
    if settings.kv_type != default.kv_type:
        words.append(f"{settings.kv_type} cache")
    if settings.batch_tokens != default.batch_tokens:
        words.append(f"batches of {settings.batch_tokens}")
    if settings.threads:
        words.append(f"{settings.threads} thread{'s' if settings.threads > 1 else ''}")
    return "".join(f", {word}" for word in words)
