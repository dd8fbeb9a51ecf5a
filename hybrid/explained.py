"""Does a recorded decision come out the same today, and what would have changed it? As JSON for `hybrid explain`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import zip_longest

import msgspec

from hybrid import __version__
from hybrid.plain import to_json, to_plain
from hybrid.policy.counterfactual import Where, counterfactuals
from hybrid.policy.replay import replay
from hybrid.policy.words import said
from hybrid.record import NotReplayable, Recorded, read_inputs, write_outcome
from hybrid.types import Json

MOST_CHANGES = 5
"""How many changes are told: the nearest. With which nobody would have answered only where there are no others."""
DECIDED = ("decision", "checks", "review")


def explained(record: Json) -> Json:
    """Add to a decision's record what a replay of it gives (`replay`), and what would have changed it.

    Returns: the record with `replay` and `counterfactuals`; what is no record at all comes back as it is.
    """
    if not isinstance(record, Mapping):
        return record
    try:
        recorded = read_inputs(record)
        replayed, changes = _replayed(record, recorded), _changes(recorded)
    except NotReplayable as why:
        replayed, changes = {"is_replayable": False, "is_same": None, "why": str(why)}, []
    except (ArithmeticError, ValueError) as failed:
        why_not = f"the rules of {__version__} fail on its inputs: {failed}"
        replayed, changes = {"is_replayable": False, "is_same": None, "why": why_not}, []
    return {**record, "replay": replayed, "counterfactuals": changes}


def _replayed(record: Mapping[str, Json], recorded: Recorded) -> dict[str, Json]:
    made = replay(recorded.taken)
    # As the row itself: through JSON, so that what differs is not only written in another way.
    again = msgspec.json.decode(to_json(write_outcome(made.decision, made.review)))
    why = None
    if made.review is None and record.get("review") is not None:
        again["review"] = record["review"]
        why = "what the review took was not recorded; only the decision before it was replayed"
    found = [one for name in DECIDED for one in _differences(record.get(name), again[name], name)]
    return {
        "is_replayable": True,
        "is_same": not found,
        "why": why,
        "recorded_by": recorded.program,
        "replayed_by": __version__,
        "differences": [{"what": what, "recorded": was, "replayed": now} for what, was, now in found],
    }


def _differences(was: Json, now: Json, where: str) -> Iterator[tuple[str, Json, Json]]:
    """Name each place in which two JSON values differ. What this version added and leaves unset is no difference."""
    if isinstance(was, dict) and isinstance(now, dict):
        for name in {**was, **now}:
            if name in was or now[name]:
                yield from _differences(was.get(name), now.get(name), f"{where}.{name}")
    elif isinstance(was, list) and isinstance(now, list):
        for place, (one, other) in enumerate(zip_longest(was, now)):
            rule = (one or other).get("rule", place) if isinstance(one or other, dict) else place
            yield from _differences(one, other, f"{where}[{rule}]")
    elif msgspec.json.encode(was) != msgspec.json.encode(now):
        yield where, was, now


def _changes(recorded: Recorded) -> list[dict[str, Json]]:
    found = counterfactuals(recorded.taken)
    wanted = [change for change in found if change.place.where is not Where.NOBODY] or found
    return [{**to_plain(change), "text": said(change)} for change in wanted[:MOST_CHANGES]]
