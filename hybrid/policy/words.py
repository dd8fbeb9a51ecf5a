"""How is it told to a person what would have changed a decision? One line for each change of one fact."""

from __future__ import annotations

from decimal import Decimal

from hybrid.policy.counterfactual import Bound, Counterfactual, Place, Value, Where
from hybrid.types import PolicyChoice

SETTINGS = {
    "limits.ttft_s": ("policy.ttft_ms", 1000),
    "limits.total_s": ("policy.total_ms", 1000),
    "limits.min_confidence": ("policy.min_confidence", 1),
    "limits.local_context_tokens": ("local.context_tokens", 1),
}
"""The key of `hybrid.toml` that a limit is set by, and how many of its units are one of the limit's."""
NUMBERS = {
    "draft.confidence": "a confidence of {}",
    "signals.prompt_tokens": "a prompt of {}",
    "signals.max_output_tokens": "an answer limited to {}",
    "signals.queue_wait_s": "a wait in the queue of {}",
    "signals.prefill_tok_s": "a local prefill of {}",
    "signals.decode_tok_s": "a local decode of {}",
    "signals.deadline_s": "a deadline in {}",
    "signals.max_cost_usd": "an allowed cost of {}",
    "signals.min_quality": "a least quality of {}",
    "quality": "a quality of {} of {cloud}",
    "signals.budget_left_usd": "a budget left of {}",
    "reserve_usd": "a price of {} for {cloud}",
    "expected_usd": "an expected price of {} for {cloud}",
    "context_tokens": "a context of {} in {cloud}",
    "ttft_s": "a first token of {cloud} in {}",
    "total_s": "an answer of {cloud} in {}",
}
FLAGS = {
    ("draft.flaw", None): "had no verifier found a fault",
    ("draft.finish_reason", "stop"): "had the draft come to its own end",
    ("draft.finish_reason", "length"): "had the draft been cut off by its limit",
    ("signals.is_private", True): "with a private tag",
    ("signals.is_private", False): "without its private tag",
    ("signals.is_local_configured", True): "with a local model",
    ("signals.is_local_configured", False): "without a local model",
    ("signals.is_local_ready", True): "with the local model ready",
    ("signals.is_local_ready", False): "with the local model not ready",
    ("signals.local_refusal", None): "had the local model not refused the request",
    ("limits.promise", None): "without a promise for this kind of task",
    ("limits.is_limit_own", True): "had the answer's limit been ours and not the client's",
    ("limits.is_limit_own", False): "had the answer's limit been the client's wish",
    ("is_healthy", True): "with {cloud} not resting",
    ("is_healthy", False): "with {cloud} resting",
}
"""By the fact and its needed value."""


def said(change: Counterfactual) -> str:
    """Say a change, and where the request would have gone with it."""
    return f"{_condition(change)}, {_consequence(change.place)}"


def _consequence(place: Place) -> str:
    return {
        Where.LOCAL: "it would have been answered locally",
        Where.DRAFT: "it would have been drafted locally, and judged then",
        Where.CLOUD: f"{place.cloud} would have answered",
        Where.NOBODY: "nobody would have answered",
    }[place.where]


def _condition(change: Counterfactual) -> str:
    return _flag(change) if change.bound is Bound.IS else _number(change)


def _number(change: Counterfactual) -> str:
    if change.fact in SETTINGS:
        key, factor = SETTINGS[change.fact]
        was = (
            ""
            if change.actual is None
            else f" instead of {_actual(change.actual * factor, '', change.needed * factor)}"
        )
        return f"with {key} = {_exact(change.needed * factor)}{was}"
    if change.fact == "signals.budget_left_usd" and change.actual is not None:
        gap = change.needed - change.actual
        return f"with {_exact(abs(gap), '_usd')} {'more' if gap > 0 else 'less'} budget left"
    name = _last(change.fact)
    least = "at least" if change.bound is Bound.AT_LEAST else "at most"
    amount = f"{least} {_exact(change.needed, name)}"
    told = NUMBERS.get(change.fact) or NUMBERS.get(name) or f"{_plainly(name)} of {{}}"
    if change.cloud is not None and "{cloud}" not in told:
        told += " at {cloud}"
    was = "" if change.actual is None else f" instead of {_actual(change.actual, name, change.needed)}"
    return f"with {told.format(amount, cloud=change.cloud)}{was}"


def _flag(change: Counterfactual) -> str:
    actual, needed, name = change.actual, change.needed, _last(change.fact)
    if isinstance(needed, PolicyChoice):
        is_free = needed is PolicyChoice.AUTO
        return f"without {actual.value}" if is_free else f"with {needed.value}"
    if isinstance(actual, frozenset):
        gone = ", ".join(sorted(str(one) for one in actual - (needed or frozenset())))
        return f"had {change.cloud or 'it'} not {'lacked' if name == 'missing' else 'needed'} {gone}"
    told = FLAGS.get((change.fact, needed)) or FLAGS.get((name, needed))
    if told is None:
        told = f"without {_plainly(name)}" if needed is None else f"with {_plainly(name)} = {_word(needed)}"
        told += "" if change.cloud is None else " at {cloud}"
    return told.format(cloud=change.cloud)


def _exact(value: Value, name: str = "") -> str:
    """A needed value with all its digits, for with fewer it might not suffice."""
    if isinstance(value, Decimal):
        text = f"{value.normalize():f}"
    elif isinstance(value, int):
        text = f"{value:,}" if name else str(value)
    else:
        # A factor may have left digits that mean nothing.
        text = f"{value:.10g}"
    if name.endswith("_usd"):
        return f"${text}"
    units = {"_tokens": " tokens", "_tok_s": " tok/s", "_s": " s"}
    return text + next((unit for suffix, unit in units.items() if name.endswith(suffix)), "")


def _actual(value: Value, name: str, needed: Value) -> str:
    """An actual value, without its unit, and shortened where that still tells it from the needed one."""
    if isinstance(value, float):
        short = f"{value:.4g}"
        return f"{value:.10g}" if "e" in short or short == f"{needed:.4g}" else short
    return _exact(value, name if name.endswith("_usd") else "count" if name else "")


def _plainly(name: str) -> str:
    """A fact without words of its own, by its name."""
    bare = next((name.removesuffix(unit) for unit in ("_tok_s", "_usd", "_s") if name.endswith(unit)), name)
    return bare.removeprefix("is_").replace("_", " ")


def _last(fact: str) -> str:
    return fact.rpartition(".")[2]


def _word(value: Value) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
