"""Do a local and a cloud answer to one request say the same? What each said, and a verdict where there can be one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hybrid.calibration.agreement import Kind, agreement
from hybrid.calibration.answers import choice, number
from hybrid.policy.tasks import ENDS_WITH_ITS_ANSWER, TaskKind, options_in
from hybrid.types import Event, Finished, FinishReason, Json, TextDelta, ToolCall, ToolCallDelta

COMPARABLE = frozenset({TaskKind.CHOICE, TaskKind.NUMBER, TaskKind.STRUCTURED, TaskKind.CALL, TaskKind.TEXT})
"""Kinds whose answers can be compared: two programs that differ may both be right, and nothing is run here."""
MOST_CHARS = 100_000
"""Of a longer answer nothing is made."""


@dataclass(frozen=True, slots=True)
class Said:
    """A whole answer: its text without any thinking, its tool calls, and whether a limit cut it off."""

    text: str
    calls: tuple[ToolCall, ...] = ()
    is_cut: bool = False


def said(events: Iterable[Event]) -> Said | None:
    """Put an answer together from its events; None if its end is missing, or there are several answers."""
    text: list[str] = []
    calls: dict[int, ToolCall] = {}
    ends: list[FinishReason] = []
    for event in events:
        if isinstance(event, TextDelta):
            text.append(event.text)
        elif isinstance(event, ToolCallDelta):
            before = calls.get(event.index, ToolCall("", "", ""))
            calls[event.index] = ToolCall(
                event.id or before.id, event.name or before.name, before.arguments + event.arguments
            )
        elif isinstance(event, Finished):
            ends.append(event.reason)
    if len(ends) != 1:
        return None
    return Said("".join(text), tuple(calls[index] for index in sorted(calls)), ends[0] is FinishReason.LENGTH)


def is_whole(cloud: Said, options: Sequence[str] = ()) -> bool:
    """Whether a cloud's answer is all there, so that something may be held against it.

    One that a limit cut off is not, unless it is the one letter of a choice; nor is one that says nothing.

    Args:
        options: of a choice.
    """
    if cloud.is_cut:
        return len(cloud.text.strip()) == 1 and choice(cloud.text, options) is not None
    return bool(cloud.text.strip() or cloud.calls)


def agree(kind: TaskKind, question: str, local: Said, cloud: Said) -> bool | None:
    """Say whether local answered as the cloud did; None where the cloud's answer says nothing to compare with.

    Equal letters, equal numbers, equal JSON, equal calls, or texts of which at most a fifth must be changed. A local
    answer that cannot be read, or lacks its end where the answer stands there, does not agree with one that can.
    """
    if kind not in COMPARABLE or len(local.text) > MOST_CHARS or len(cloud.text) > MOST_CHARS:
        return None
    options = options_in(question) if kind is TaskKind.CHOICE else ()
    if not is_whole(cloud, options):
        return None
    if cloud.calls or (local.calls and kind is TaskKind.CALL):
        return not local.is_cut and _same_calls(local.calls, cloud.calls)
    if local.is_cut and kind in ENDS_WITH_ITS_ANSWER:
        return False
    if kind is TaskKind.STRUCTURED:
        return _same_json(local.text, cloud.text)
    if kind is TaskKind.CHOICE:
        return None if choice(cloud.text, options) is None else _say_the_same(local, cloud, "choice", options)
    if kind is TaskKind.NUMBER:
        return None if number(cloud.text) is None else _say_the_same(local, cloud, "number")
    return _say_the_same(local, cloud, "text")


def _say_the_same(local: Said, cloud: Said, kind: Kind, options: Sequence[str] = ()) -> bool:
    return agreement((local.text, cloud.text), kind, options).share == 1.0


def _same_calls(local: Sequence[ToolCall], cloud: Sequence[ToolCall]) -> bool | None:
    """Whether the same tools are called with the same arguments, in any order; None where the cloud's are no JSON."""
    wanted = [(call.name, _parsed(call.arguments or "{}")) for call in cloud]
    if any(arguments is None for _, arguments in wanted):
        return None
    made = [(call.name, _parsed(call.arguments or "{}")) for call in local]
    return sorted(map(repr, wanted)) == sorted(map(repr, made))


def _same_json(local: str, cloud: str) -> bool | None:
    wanted = _parsed(cloud)
    return None if wanted is None else wanted == _parsed(local)


def _parsed(text: str) -> str | None:
    """JSON in one spelling, so that 1 is not true and the order of keys does not matter; None where it is none."""
    try:
        return json.dumps(_plain(json.loads(text)), sort_keys=True)
    except (ValueError, RecursionError):
        return None


def _plain(value: Json) -> Json:
    """Write 2.0 as 2: JSON knows one kind of number."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value
