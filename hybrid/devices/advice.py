"""What do a bench's figures mean for its reader? Plain sentences on what to do next. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hybrid.devices.bench import BenchedModel, BenchReport, model_profile
from hybrid.devices.profile import ModelProfile, prefill_speed

LONG_PROMPT_TOKENS = 4_000
"""A prompt with a document or a long conversation in it: what models are judged by."""
WORTH_A_SLOT = 1.10
"""Twice the sequences must give so many times the tokens, or more slots only make each answer slower."""
NEAR_THE_ROOF = 0.6
BUSY_CORES, WIDE_SPREAD = 0.2, 0.15


def advise(report: BenchReport) -> tuple[str, ...]:
    """Say for each model what it is fast enough for, then what would make it faster, then what to doubt."""
    said = [*_fit(report)]
    for model in report.models:
        said += _slots(model)
        if model.speed.others_cores <= BUSY_CORES:  # else the neighbours' work would be taken for the model's
            said += [*_threads(model), *_roof(model)]
    return (
        *said,
        *(f"{failed.name} could not be measured: {failed.problem}" for failed in report.failed),
        *_doubts(report),
    )


def longest_prompt(model: ModelProfile, ttft_s: float, context_tokens: int) -> int | None:
    """The longest prompt whose first token comes within `ttft_s`, up to the context; None where none was measured."""
    if not model.prefill_tok_s:
        return None
    low, high = 0, context_tokens
    while low < high:
        middle = (low + high + 1) // 2
        if (prefill_time_s(model, middle) or 0.0) <= ttft_s:
            low = middle
        else:
            high = middle - 1
    return low


def prefill_time_s(model: ModelProfile, prompt_tokens: int) -> float | None:
    """Seconds until a prompt is taken in, with nobody before it; None where nothing was measured."""
    speed = prefill_speed(model, prompt_tokens)
    return None if speed is None else prompt_tokens / speed


def _fit(report: BenchReport) -> Iterator[str]:
    target = f"your ttft_ms of {report.ttft_s:g} s" if report.is_ttft_configured else f"a target of {report.ttft_s:g} s"
    fitting: list[str] = []
    slow: list[str] = []
    for model in report.models:
        speed = model.speed
        profile = model_profile(speed, report.measured_at)
        longest = longest_prompt(profile, report.ttft_s, speed.context_tokens)
        if longest is None:
            yield f"{speed.name}: no prompt was measured, so nothing can be said of its first token."
            continue
        prompt = min(LONG_PROMPT_TOKENS, speed.context_tokens)
        wait_s = prefill_time_s(profile, prompt) or 0.0
        (fitting if longest >= prompt else slow).append(speed.name)
        verdict = "fits" if longest >= prompt else "is too slow for"
        beyond = " (beyond the lengths measured)" if prompt > max(speed.prefill_tok_s) else ""
        yield (
            f"{speed.name} {verdict} {target} at {prompt:,}-token prompts: their first token comes after about "
            f"{wait_s:.1f} s{beyond}. Within the target it takes prompts of up to {longest:,} tokens."
        )
    if slow and fitting:
        yield f"For long prompts use {_names(fitting)} instead of {_names(slow)}."
    elif slow:
        yield (
            f"Nothing measured here is fast enough for {LONG_PROMPT_TOKENS:,}-token prompts. In this order: "
            "`hybrid models tune` for a format this processor is faster with, a smaller model, or a cloud in "
            "hybrid.toml, which then gets the long prompts (reason `latency`)."
        )
    if report.models and not report.is_ttft_configured:
        yield "policy.ttft_ms is not set, so no request is sent to a cloud for being slow here."


def _threads(model: BenchedModel) -> Iterator[str]:
    speed = model.speed
    if speed.best_threads is not None and speed.best_threads != speed.threads:
        yield (
            f"{speed.name} answers soonest with {speed.best_threads} threads, not with {speed.threads}: set "
            f"local.threads = {speed.best_threads}."
        )


def _slots(model: BenchedModel) -> Iterator[str]:
    measured = {count: figure.median for count, figure in model.speed.decode_tok_s.items()}
    counts = sorted(measured)
    if len(counts) < 2:
        return
    best = counts[0]
    for count in counts[1:]:
        if measured[count] >= WORTH_A_SLOT * measured[best]:
            best = count
    gain = measured[best] / measured[counts[0]]
    if best == counts[0]:
        yield f"{model.speed.name}: decoding several chats together gives no more tokens in all than one alone."
    else:
        yield (
            f"{model.speed.name}: {best} chats together get {gain:.1f} times the tokens of one alone; each then gets "
            f"{measured[best] / best:.0f} a second."
        )


def _roof(model: BenchedModel) -> Iterator[str]:
    roofed = model.decode_roof.get(1)
    if roofed is None:
        return
    share = f"{model.speed.name} decodes one chat at {100 * roofed.share:.0f} % of what {_limit(roofed.limit)} allows"
    if roofed.share >= NEAR_THE_ROOF:
        yield f"{share}: only fewer bytes a token help now, so a smaller format or model, or several chats at once."
    else:
        yield f"{share}: the format, not the machine, holds it back; `hybrid models tune` tries the others."


def _doubts(report: BenchReport) -> Iterator[str]:
    busy = [report.machine.others_cores] if report.machine else []
    busy += [model.speed.others_cores for model in report.models]
    if max(busy, default=0.0) > BUSY_CORES:
        yield (
            f"Other programs kept up to {max(busy):.1f} cores busy meanwhile, so the true speeds are higher. Measure "
            "again when the machine is quiet."
        )
    for model in report.models:
        figures = [*model.speed.prefill_tok_s.values(), *model.speed.decode_tok_s.values()]
        widest = max((one.spread for one in figures), default=0.0)
        if widest > WIDE_SPREAD:
            yield f"{model.speed.name}: a figure varies by up to ±{100 * widest:.0f} %."


def _limit(limit: str) -> str:
    return "memory bandwidth" if limit == "bandwidth" else "the arithmetic units"


def _names(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
