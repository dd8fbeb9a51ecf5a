"""Which speeds of a model are measured, and in which words are they asked for and told?"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta, Struct

from hybrid.backends.matmul import Matmul

Count = Annotated[int, Meta(ge=1, le=1 << 20)]


class Figure(Struct, frozen=True, forbid_unknown_fields=True):
    """A measured number: the median of `n` samples taken in rounds over the whole run, and the extremes seen.

    runs: how many runs the extremes are of: this one's samples, and the medians of earlier ones on the same machine.
    """

    median: float
    low: float
    high: float
    n: int
    runs: int = 1

    @property
    def spread(self) -> float:
        """Half the distance of the extremes as a share of the median."""
        return (self.high - self.low) / 2 / self.median if self.median else 0.0


def figure(samples: Sequence[float], digits: int = 4) -> Figure:
    """Summarise samples, to `digits` significant ones. Raises: ValueError of nothing."""
    if not samples:
        raise ValueError("no sample, no figure")
    median, low, high = (float(f"{x:.{digits}g}") for x in (statistics.median(samples), min(samples), max(samples)))
    return Figure(median, low, high, len(samples))


class SpeedPlan(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to measure of one model file, and how it is loaded.

    prefill_tokens: prompt lengths, each taken in alone by an empty cache. decode_sequences: how many sequences are
    decoded together. depth_tokens: what each holds in its cache when that begins. decode_steps: steps in one sample.
    first_token_prompt: tokens of the prompt whose first token is waited for; None measures none.
    thread_counts: numbers of threads to compare. rounds: samples of each figure. budget_s: what does not fit into
    this time is left out, and told; the load is not counted.
    threads, batch_tokens, flash_attention, key_cache, value_cache, matmul: as in `backends.base.BackendOptions`.
    """

    model_path: str
    backend: str = "llama_cpp"
    context_tokens: Count = 8192
    prefill_tokens: tuple[Count, ...] = (32, 128, 512, 2048)
    decode_sequences: tuple[Annotated[int, Meta(ge=1, le=256)], ...] = (1, 2, 4, 8, 16)
    depth_tokens: Count = 64
    decode_steps: Count = 16
    first_token_prompt: Count | None = 175
    thread_counts: tuple[Annotated[int, Meta(ge=1, le=4096)], ...] = ()
    rounds: Annotated[int, Meta(ge=1, le=1000)] = 3
    budget_s: Annotated[float, Meta(gt=0)] = 300.0
    threads: Annotated[int, Meta(ge=0, le=4096)] = 0
    batch_tokens: Annotated[int, Meta(ge=16, le=1 << 16)] = 512
    flash_attention: bool | None = None
    key_cache: str = "f16"
    value_cache: str = "f16"
    matmul: Matmul = "auto"


class ThreadSpeed(Struct, frozen=True):
    """What a number of threads gives: a 128-token prompt's prefill, and one sequence's decode."""

    threads: int
    prefill_tok_s: Figure
    decode_tok_s: Figure


class ModelSpeed(Struct, frozen=True, kw_only=True):
    """What was measured of one model file.

    prefill_tok_s: by prompt tokens. decode_tok_s: of all sequences together, by their number.
    prefill_tok_j, decode_tok_j: tokens a joule, the same keys; empty where no power counter can be read, and
    `power` says why not, or which counter was read.
    load_s: from the file in the page cache to ready. rss_bytes: the process's largest resident memory, weights that
    are mapped from the file included; rss_before_bytes: before the load. None where the system does not tell.
    best_threads: by measurement; None where only one number was tried. left_out: what was not measured, and why.
    others_cores: cores that other processes kept busy meanwhile, on average.
    """

    name: str
    fingerprint: str
    file_bytes: int
    context_tokens: int
    threads: int
    batch_tokens: int
    depth_tokens: int
    device: str
    prefill_tok_s: dict[int, Figure]
    decode_tok_s: dict[int, Figure]
    prefill_tok_j: dict[int, float]
    decode_tok_j: dict[int, float]
    power: str
    ttft_s: Figure | None
    load_s: float
    rss_bytes: int | None
    rss_before_bytes: int | None
    by_threads: tuple[ThreadSpeed, ...]
    best_threads: int | None
    left_out: tuple[str, ...]
    others_cores: float
    measured_s: float


class Progressed(Struct, frozen=True, tag="progress"):
    """How far the run is, in [0, 1], and what it does now."""

    share: float
    what: str


class Measured(Struct, frozen=True, tag="measured"):
    """The end of a run."""

    speed: ModelSpeed


class Failed(Struct, frozen=True, tag="failed"):
    """The model cannot be loaded or run; the message is for people."""

    message: str


Line = Progressed | Measured | Failed


CHAT_PROMPT_TOKENS, CHAT_ANSWER_TOKENS = 175, 64
THREADS_TIE = 0.03
"""Two numbers of threads whose times differ by less are alike, and the smaller one leaves a core to others."""


def best_threads(tried: Sequence[ThreadSpeed]) -> int | None:
    """Choose the threads that answer a chat of 175 + 64 tokens soonest; None where there was no choice."""
    if len(tried) < 2:
        return None
    times_s = {
        speed.threads: CHAT_PROMPT_TOKENS / speed.prefill_tok_s.median + CHAT_ANSWER_TOKENS / speed.decode_tok_s.median
        for speed in tried
    }
    soonest_s = min(times_s.values())
    return min(threads for threads, time_s in times_s.items() if time_s <= soonest_s * (1 + THREADS_TIE))
