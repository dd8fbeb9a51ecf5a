"""How is one row of logits measured and one token drawn from it? The plain numpy twin of the C++ extension.

The twin is the specification: the extension gives the same token bit for bit, and statistics within 1e-6.
hybrid/native/README.md has the order of the steps and the reasons.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

Float32Row: TypeAlias = NDArray[np.float32]
Float32Rows: TypeAlias = NDArray[np.float32]
Float64Row: TypeAlias = NDArray[np.float64]
TokenArray: TypeAlias = NDArray[np.int32]
Bitmask: TypeAlias = NDArray[np.uint32]
Order: TypeAlias = NDArray[np.intp]

MAX_VOCAB_TOKENS = 1 << 20
"""Longest row taken. It keeps every sum of weights below 2^53 grid steps, hence exact (see `weights_of`)."""

MAX_TOP_LOGPROBS = 1 << 10
"""Most alternatives one token may report; OpenAI's limit is 20."""

_U64 = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15

# Adding and subtracting 1.5 * 2^19 rounds a float64 of [0, 1] to a multiple of 2^-33.
_GRID = np.float64(1.5 * 2.0**19)
# The same trick with 1.5 * 2^23 rounds a float32 to an integer.
_ROUND = np.float32(1.5 * 2.0**23)
_LOG2E = np.float32(1.44269504)
_LN2_HIGH = np.float32(0.693359375)
_LN2_LOW = np.float32(-2.12194440e-4)
_EXP_FLOOR = np.float32(-87.0)
# q in exp(r) = 1 + r + r^2 q(r) on |r| <= ln(2)/2, highest power first; fitted by us for least relative error (3.1e-9
# before the coefficients and operations are rounded).
_EXP_POLYNOMIAL = tuple(
    np.float32(float.fromhex(text))
    for text in (
        "0x1.6a23d00000000p-10",
        "0x1.123a200000000p-7",
        "0x1.5558f20000000p-5",
        "0x1.5554920000000p-3",
        "0x1.fffffc0000000p-2",
    )
)


@dataclass(frozen=True, slots=True)
class RowStatistics:
    """What the model's whole distribution says at one token, before temperature, penalties and filters.

    logprob: natural log-probability of the token, <= 0 (-inf where its logit is).
    entropy: Shannon entropy in nats, >= 0.
    margin: probability of the likeliest token less that of the second, in [0, 1].
    """

    logprob: float
    entropy: float
    margin: float


class Sampled(msgspec.Struct, frozen=True):
    """A drawn token, its statistics as in `RowStatistics`, and the likeliest tokens of the raw row.

    top: (token, natural log-probability), likeliest first, equals by lowest id.
    """

    token: int
    logprob: float
    entropy: float
    margin: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleParams:
    """How to draw. The defaults change nothing: the model's own distribution.

    temperature >= 0 (0: the likeliest token); top_k >= 0 (0: off); top_p and min_p in [0, 1];
    presence_penalty and frequency_penalty finite; repetition_penalty > 0 (1: off).
    Raises: ValueError naming what is out of range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        is_valid = {
            "temperature": 0.0 <= self.temperature < math.inf,
            "top_k": 0 <= self.top_k < 1 << 31,
            "top_p": 0.0 <= self.top_p <= 1.0,
            "min_p": 0.0 <= self.min_p <= 1.0,
            "presence_penalty": math.isfinite(self.presence_penalty),
            "frequency_penalty": math.isfinite(self.frequency_penalty),
            "repetition_penalty": 0.0 < self.repetition_penalty < math.inf,
        }
        if not all(is_valid.values()):
            wrong = ", ".join(f"{name}={getattr(self, name)}" for name, is_ok in is_valid.items() if not is_ok)
            raise ValueError(f"sampling parameters out of range: {wrong}")


class RowDraw(msgspec.Struct, frozen=True, kw_only=True):
    """How to draw from one row of a step: the arguments of `sample_row`, and whether there is anything to choose.

    forced: the token that is taken whatever the row says; None draws one.
    """

    params: SampleParams
    seed: int
    position: int
    prompt_tokens: TokenArray | None = None
    output_tokens: TokenArray | None = None
    allowed: Bitmask | None = None
    bias_tokens: TokenArray | None = None
    bias_values: Float32Row | None = None
    top_logprobs: int = 0
    forced: int | None = None


def abort_callback_address() -> int:
    """Give the address of a `bool (*)(void *flag)` that reads the bool at `flag`; 0 without the extension.

    llama.cpp calls it between two operations from threads of its own, where Python is too slow to be asked.
    """
    return 0


def row_statistics(logits: Float32Row, token: int) -> RowStatistics:
    """Measure a row of logits at `token`.

    Args:
        logits: float32, shape (n_vocab,), -inf allowed.
        token: id in [0, n_vocab).
    Raises: ValueError for NaN, +inf, a row without a finite logit, an empty or oversized row, a token out of range;
        TypeError for another dtype or shape.
    """
    _check_row(logits)
    token = operator.index(token)
    if not 0 <= token < len(logits):
        raise ValueError(f"token {token} is not in [0, {len(logits)})")
    logprobs = _logprobs(logits)
    entropy, margin = _entropy_and_margin(logprobs)
    return RowStatistics(float(logprobs[token]), entropy, margin)


def sample_row(
    logits: Float32Row,
    params: SampleParams,
    *,
    seed: int,
    position: int,
    prompt_tokens: TokenArray | None = None,
    output_tokens: TokenArray | None = None,
    allowed: Bitmask | None = None,
    bias_tokens: TokenArray | None = None,
    bias_values: Float32Row | None = None,
    top_logprobs: int = 0,
) -> Sampled:
    """Draw one token and measure the raw row at it. Stateless: the same arguments give the same token.

    Args:
        logits: float32, shape (n_vocab,), -inf allowed; not changed.
        params: how to draw.
        seed, position: 64-bit unsigned; with both the same, the same point of [0, 1) is drawn (see `uniform`).
        prompt_tokens, output_tokens: int32 ids so far; repetition_penalty sees both, the other penalties only output.
        allowed: uint32 bits, bit `t % 32` of word `t // 32` allows token t; at least ceil(n_vocab / 32) words.
        bias_tokens, bias_values: int32 ids and the float32 added to their logits; -inf bans a token.
        top_logprobs: how many of the likeliest tokens to report.
    Raises: ValueError as `row_statistics`, for ids out of range, and where no token is left to draw;
        TypeError for another dtype or shape.
    """
    _check_row(logits)
    n_vocab = len(logits)
    seed, position, top_logprobs = map(operator.index, (seed, position, top_logprobs))
    if not 0 <= seed <= _U64 or not 0 <= position <= _U64:
        raise ValueError(f"seed and position are 64-bit unsigned; got {seed} and {position}")
    if not 0 <= top_logprobs <= MAX_TOP_LOGPROBS:
        raise ValueError(f"top_logprobs must be in [0, {MAX_TOP_LOGPROBS}]; got {top_logprobs}")
    logprobs = _logprobs(logits)
    edited = logits.copy()
    _add_bias(edited, _tokens(bias_tokens, n_vocab), _values(bias_values))
    _penalise(edited, params, _tokens(prompt_tokens, n_vocab), _tokens(output_tokens, n_vocab))
    _mask(edited, allowed)
    token = _draw(edited, params, uniform(seed, position))
    entropy, margin = _entropy_and_margin(logprobs)
    likeliest = _descending(logits, top_logprobs) if top_logprobs else ()
    top = tuple((int(other), float(logprobs[other])) for other in likeliest)
    return Sampled(token, float(logprobs[token]), entropy, margin, top)


def sample_rows(logits: Float32Rows, draws: Sequence[RowDraw], *, threads: int = 1) -> list[Sampled | ValueError]:
    """Draw one token from each row of a step and measure it there; as `sample_row`, row by row.

    Args:
        logits: float32, shape (n_rows, n_vocab), contiguous; not changed.
        draws: one a row.
        threads: how many may share the rows; each row is one thread's, so the results do not depend on it.
    Returns: one item a row; a row that is no distribution, or leaves no token, has the ValueError in its place.
    Raises: TypeError for another dtype or shape, ValueError for another number of draws than of rows.
    """
    if logits.dtype != np.float32 or logits.ndim != 2 or not logits.flags.c_contiguous:
        raise TypeError(f"logits must be contiguous float32 rows; got {logits.dtype} of shape {logits.shape}")
    if len(draws) != len(logits):
        raise ValueError(f"need one draw a row; got {len(draws)} draws and {len(logits)} rows")
    if operator.index(threads) < 1:
        raise ValueError(f"threads must be at least 1; got {threads}")
    return [_try_row(row, draw) for row, draw in zip(logits, draws, strict=True)]


def _try_row(row: Float32Row, draw: RowDraw) -> Sampled | ValueError:
    edits = {name: getattr(draw, name) for name in draw.__struct_fields__ if name != "forced"}
    try:
        if draw.forced is None:
            return sample_row(row, **edits)
        found = row_statistics(row, draw.forced)
        top = sample_row(row, SampleParams(), seed=0, position=0, top_logprobs=draw.top_logprobs).top
    except ValueError as broken:
        return broken
    return Sampled(operator.index(draw.forced), found.logprob, found.entropy, found.margin, top)


def uniform(seed: int, position: int) -> float:
    """The point of [0, 1) that belongs to `seed` and `position`, on a grid of 2^-53.

    The position-th number of a splitmix64 stream whose start is the mixed seed, so that neighbouring seeds
    (the n answers of one request) do not walk through shifted copies of one stream.
    Source: Steele, Lea, Flood, OOPSLA 2014 (SplitMix); constants of the public-domain splitmix64.c by S. Vigna.
    """
    start = _mix64((seed + _GOLDEN) & _U64)
    return (_mix64((start + (position + 1) * _GOLDEN) & _U64) >> 11) * 2.0**-53


def exp32(values: Float32Row) -> Float32Row:
    """e to the power of float32 values <= 0; below -87 exactly 0, NaN stays. Relative error below 8.3e-8.

    Written out in single float32 operations, each rounded once as IEEE 754 says, so that any processor and
    compiler gives the same bits; the library's exp differs between them. Checked for every float32 of [-87, 0]: the
    error is below the bound, and a larger value never gives a smaller result.
    """
    clamped = np.where(values < _EXP_FLOOR, _EXP_FLOOR, values)
    shifted = clamped * _LOG2E + _ROUND
    whole = shifted - _ROUND
    rest = (clamped - whole * _LN2_HIGH) - whole * _LN2_LOW
    polynomial = np.full_like(rest, _EXP_POLYNOMIAL[0])
    for coefficient in _EXP_POLYNOMIAL[1:]:
        polynomial = polynomial * rest + coefficient
    mantissa = ((polynomial * rest) * rest + rest) + np.float32(1)
    exponent = shifted.view(np.int32) - _ROUND.view(np.int32)
    scaled = mantissa * ((exponent + 127) << 23).view(np.float32)
    return np.where(values < _EXP_FLOOR, np.float32(0), scaled)


def weights_of(ratios: Float32Row) -> Float64Row:
    """Probability ratios of [0, 1] rounded to multiples of 2^-33, so that their sums are exact in any order."""
    return (ratios.astype(np.float64) + _GRID) - _GRID


def _mix64(state: int) -> int:
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _U64
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _U64
    return state ^ (state >> 31)


def _check_row(logits: Float32Row) -> None:
    if logits.dtype != np.float32 or logits.ndim != 1 or not logits.flags.c_contiguous:
        raise TypeError(f"logits must be one contiguous float32 row; got {logits.dtype} of shape {logits.shape}")
    if not 0 < len(logits) <= MAX_VOCAB_TOKENS:
        raise ValueError(f"a row must have 1 to {MAX_VOCAB_TOKENS} logits; got {len(logits)}")
    if np.isnan(logits).any() or np.isposinf(logits).any():
        raise ValueError("logits hold NaN or +inf; the model's output is broken")
    if np.isneginf(logits).all():
        raise ValueError("no logit is finite; the row is no distribution")


def _check_tokens(tokens: TokenArray, n_vocab: int) -> None:
    wrong = tokens[(tokens < 0) | (tokens >= n_vocab)]
    if len(wrong):
        raise ValueError(f"token {wrong[0]} is not in [0, {n_vocab})")


def _tokens(tokens: TokenArray | None, n_vocab: int) -> TokenArray:
    if tokens is None:
        return np.empty(0, dtype=np.int32)
    if tokens.dtype != np.int32 or tokens.ndim != 1:
        raise TypeError(f"token ids must be one int32 row; got {tokens.dtype} of shape {tokens.shape}")
    _check_tokens(tokens, n_vocab)
    return tokens


def _values(values: Float32Row | None) -> Float32Row:
    if values is None:
        return np.empty(0, dtype=np.float32)
    if values.dtype != np.float32 or values.ndim != 1:
        raise TypeError(f"bias values must be one float32 row; got {values.dtype} of shape {values.shape}")
    return values


def _logprobs(logits: Float32Row) -> Float64Row:
    distances = logits.astype(np.float64) - np.float64(logits.max())
    normalised: Float64Row = distances - math.log(np.exp(distances).sum())
    return normalised


def _entropy_and_margin(logprobs: Float64Row) -> tuple[float, float]:
    finite = logprobs[logprobs > -math.inf]
    entropy = max(0.0, -float((np.exp(finite) * finite).sum()))
    if len(finite) == 1:
        return entropy, 1.0
    second, first = np.exp(np.partition(finite, len(finite) - 2)[-2:])
    return entropy, float(first - second)


def _add_bias(row: Float32Row, tokens: TokenArray, values: Float32Row) -> None:
    if len(tokens) != len(values):
        raise ValueError(f"{len(tokens)} bias tokens and {len(values)} bias values; need one value a token")
    if np.isnan(values).any() or np.isposinf(values).any():
        raise ValueError("a bias is NaN or +inf; -inf bans a token")
    with np.errstate(over="ignore"):
        np.add.at(row, tokens, values)


def _penalise(row: Float32Row, params: SampleParams, prompt: TokenArray, output: TokenArray) -> None:
    with np.errstate(over="ignore"):
        if params.repetition_penalty != 1.0:
            seen = np.unique(np.concatenate([prompt, output]))
            held = row[seen].astype(np.float64)
            penalty = params.repetition_penalty
            row[seen] = np.where(held > 0, held / penalty, held * penalty).astype(np.float32)
        if params.presence_penalty != 0.0 or params.frequency_penalty != 0.0:
            seen, counts = np.unique(output, return_counts=True)
            penalties = counts.astype(np.float64) * params.frequency_penalty + params.presence_penalty
            row[seen] = (row[seen].astype(np.float64) - penalties).astype(np.float32)


def _mask(row: Float32Row, allowed: Bitmask | None) -> None:
    if allowed is None:
        return
    if allowed.dtype != np.uint32 or allowed.ndim != 1:
        raise TypeError(f"allowed must be one uint32 row; got {allowed.dtype} of shape {allowed.shape}")
    if len(allowed) * 32 < len(row):
        raise ValueError(f"{len(allowed)} words of 32 bits do not cover {len(row)} tokens")
    ids = np.arange(len(row), dtype=np.uint32)
    row[(allowed[ids >> 5] >> (ids & 31)) & 1 == 0] = -np.inf


def _descending(row: Float32Row, count: int) -> Order:
    """Ids of the `count` largest values that are not -inf, largest first, equals by lowest id."""
    candidates = np.flatnonzero(row > -np.inf)
    if count < len(candidates):
        values = row[candidates]
        candidates = candidates[values >= np.partition(values, len(values) - count)[len(values) - count]]
    order: Order = candidates[np.argsort(-row[candidates], kind="stable")][:count]
    return order


def _draw(row: Float32Row, params: SampleParams, point: float) -> int:
    """Temperature, top_k, top_p, min_p, then the inverse of the cumulative weights at `point`."""
    peak = row.max()
    if not np.isfinite(peak):
        raise ValueError("bias and mask leave no token to draw" if peak < 0 else "an edit made a logit infinite")
    if params.temperature == 0.0:
        return int(row.argmax())
    order = _descending(row, params.top_k or len(row))
    # 1e30 keeps a vanishing temperature from turning 0 * inf into NaN.
    coldness = np.float32(min(1.0 / params.temperature, 1e30)) if params.temperature > 1e-30 else np.float32(1e30)
    with np.errstate(over="ignore"):
        ratios = exp32((row[order] - peak) * coldness)
    sums = np.cumsum(weights_of(ratios))
    kept = len(order)
    if params.top_p < 1.0:
        kept = min(kept, int(np.searchsorted(sums, params.top_p * sums[-1], side="left")) + 1)
    if params.min_p > 0.0:
        too_unlikely = np.flatnonzero(ratios < params.min_p)
        kept = min(kept, int(too_unlikely[0])) if len(too_unlikely) else kept
    sums = sums[:kept]
    index = int(np.searchsorted(sums, point * sums[-1], side="right"))
    # Rounding can lift the target onto the last sum; the token that reached it is then the one meant.
    return int(order[min(index, int(np.searchsorted(sums, sums[-1], side="left")))])
