"""How is a replay shown: the limits, whether it comes out the same, and what would have changed where it went?"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping

import msgspec

from hybrid.types import Json

WIDTH = 100
"""Columns that a line may take."""
MOST_DIFFERENCES = 5


def wrapped(line: str, *, hanging: int = 6) -> list[str]:
    """Break a line that is too wide at its spaces, so that what follows stands to the right of its beginning."""
    if len(line) <= WIDTH:
        return [line]
    indent = " " * (len(line) - len(line.lstrip()) + hanging)
    return textwrap.wrap(line, WIDTH, subsequent_indent=indent, break_on_hyphens=False, drop_whitespace=True) or [line]


def limits(values: Mapping[str, Json]) -> list[str]:
    """One line a limit; what is promised is told in short."""
    return [
        f"{name:<24} {'none' if value is None else _promise(value) if name == 'promise' else words(value)}"
        for name, value in values.items()
    ]


def words(value: Json, *, is_brief: bool = False) -> str:
    """A recorded value for people: a cloud model by its name, numbers to six digits, nothing in quotes.

    Args:
        is_brief: say nothing of a cloud model but its name.
    """
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return ", ".join(words(one, is_brief=is_brief) for one in value) or "none"
    if isinstance(value, Mapping):
        return _mapping(value, is_brief=is_brief)
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def replayed(decision: Mapping[str, Json]) -> list[str]:
    """Whether the recorded inputs give the recorded decision again; what differs if not."""
    replay = decision.get("replay")
    if not isinstance(replay, Mapping):
        return []
    if not replay.get("is_replayable"):
        return [f"not possible: {replay.get('why')}"]
    was, now = replay.get("recorded_by"), replay.get("replayed_by")
    by = f"version {now}" if was == now else f"recorded by version {was}, replayed by {now}"
    note = f" ({replay['why']})" if replay.get("why") else ""
    if replay.get("is_same"):
        return [f"same: the recorded inputs give this again, to the last bit ({by}){note}"]
    found = replay.get("differences") or []
    lines = [f"differs: {len(found)} of its values come out otherwise ({by}){note}"]
    lines += [
        f"{one['what']}: was {words(one['recorded'])}, now {words(one['replayed'])}" for one in found[:MOST_DIFFERENCES]
    ]
    return lines


def changes(decision: Mapping[str, Json]) -> list[str]:
    """What would have changed where the request went, the nearest first."""
    return [str(change["text"]) for change in decision.get("counterfactuals") or ()]


def _mapping(value: Mapping[str, Json], *, is_brief: bool) -> str:
    told = [f"{name} {words(item)}" for name, item in _told(value)]
    if {"provider", "model"} <= set(value):
        about = f" ({', '.join(told)})" if told and not is_brief else ""
        return f"{value['provider']}/{value['model']}{about}"
    return ", ".join(told) or "none"


def _told(value: Mapping[str, Json]) -> Iterator[tuple[str, Json]]:
    """What a nested value has to tell: not its name, and nothing that is not set."""
    for name, item in value.items():
        if name not in ("provider", "model") and item is not None and item != []:
            yield name, item


def _promise(promise: Json) -> str:
    if not isinstance(promise, Mapping):
        return words(promise)
    origin, made = promise.get("origin"), ""
    if isinstance(origin, Mapping):
        made = (
            f"; calibrated on {origin.get('dataset')} at {origin.get('made_at')} for {origin.get('model')} "
            f"(file {str(origin.get('fingerprint'))[:16]})"
        )
    delta = promise.get("delta")
    sure = words(1 - delta) if isinstance(delta, float) else "?"
    return (
        f"{promise.get('task')}: regret <= {words(promise.get('max_regret'))} with confidence {sure}, "
        f"threshold {words(promise.get('threshold'))}{made}"
    )
