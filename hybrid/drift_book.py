"""What do labels say of each promise that is made? One watch a calibration, filled from the ledger and kept there."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import msgspec

from hybrid.errors import StoreError
from hybrid.policy.drift import Labelled
from hybrid.policy.model import Draft
from hybrid.policy.promise import Promise, given_up_at
from hybrid.policy.watch import Watch
from hybrid.store.labels import KeptStanding, Label, read_labels, read_standings
from hybrid.types import Json

log = logging.getLogger(__name__)

MOST_LABELS = 2_000
"""Of one calibration that are read at its first request: an alarm and its end are among them."""


class Keeper(Protocol):
    """Who writes standings down: the ledger."""

    def keep_standing(self, standing: KeptStanding) -> None:
        """Write it, soon and in order."""


def draw(request_id: str, purpose: str) -> float:
    """A number in [0, 1) that a request's id fixes, and another purpose's does not tell: drawn again, it is the same.

    Ids are random, so over requests it is uniform.
    """
    return int.from_bytes(hashlib.sha256(f"{purpose}:{request_id}".encode()).digest()[:7]) / 2**56


class DriftBook:
    """Watches every promise that requests were judged by. What was known is read from the ledger at its first use.

    Args:
        path: of the ledger's file. keeper: writes down what is known, after each label and change.
    """

    def __init__(self, path: Path, keeper: Keeper, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._path, self._keeper, self._now = path, keeper, now
        self._watches: dict[str, Watch] = {}
        self._told: dict[str, tuple[str, ...]] = {}

    def in_force(self, promise: Promise) -> Promise:
        """The promise as it stands now."""
        return self._watch(promise).in_force()

    def saw(self, promise: Promise, draft: Draft, features: Mapping[str, float], p_local: float) -> None:
        """Take the numbers of a whole draft that was judged.

        One that the calibration's looks would have given up is left out, as it was of what drift is told against:
        it is whole only where nobody looked, for no cloud may be asked or the promise is withdrawn.
        """
        watch = self._watch(promise)
        if given_up_at(draft, watch.promise.looks, watch.promise.option_prior) is not None:
            return
        before = watch.is_alarmed
        watch.saw(features, p_local)
        if before or watch.is_alarmed:
            self._tell(watch, is_due=False)

    def take(self, label: Label) -> None:
        """Take a label, if its promise was judged by here."""
        watch = self._watches.get(label.calibration or "")
        labelled = labelled_of(label)
        if watch is not None and labelled is not None:
            watch.take(labelled)
            self._tell(watch, is_due=True)

    def facts(self) -> list[dict[str, Json]]:
        """What is known of each promise, for /readyz."""
        return [{"task": watch.promise.task, **facts_of(watch)} for watch in self._watches.values()]

    def _watch(self, promise: Promise) -> Watch:
        watch = self._watches.get(promise.id)
        if watch is None:
            # A promise in force says which calibration it is of, and that one is watched since its first request.
            watch = self._watches[promise.id] = Watch(promise)
            self._fill(watch)
        return watch

    def _fill(self, watch: Watch) -> None:
        """Replay what the ledger has. Recent drafts are not kept, so an alarm about them holds until labels end it."""
        calibration = watch.promise.id
        try:
            for label in read_labels(self._path, calibration=calibration, most=MOST_LABELS):
                if (labelled := labelled_of(label)) is not None:
                    watch.take(labelled)
            for kept in read_standings(self._path):
                if kept.calibration == calibration and (what := kept.facts.get("drafts_alarm")):
                    watch.resume(str(what))
        except (StoreError, msgspec.MsgspecError) as unreadable:
            log.warning("what labels said of %s before cannot be read: %s", watch.promise.task, unreadable)
        self._told[calibration] = watch.standing.alarms

    def _tell(self, watch: Watch, *, is_due: bool) -> None:
        """Keep what is known, and log each change of the alarms once."""
        promise, alarms = watch.promise, watch.alarms
        if alarms != self._told[promise.id]:
            self._told[promise.id] = alarms
            is_due = True
            if alarms:
                log.warning("%s: %s", promise.task, watch.in_force().alarm)
            else:
                log.warning("%s: the alarm is over, and the calibration's threshold holds again", promise.task)
        if is_due:
            kept = KeptStanding(calibration=promise.id, task=promise.task, at=self._now(), facts=facts_of(watch))
            try:
                self._keeper.keep_standing(kept)
            except StoreError as closed:
                log.warning("the state of %s was not kept: %s", promise.task, closed)


def facts_of(watch: Watch) -> dict[str, Json]:
    """A watch's standing as plain values, thresholds of no promise as None."""
    standing, promise = watch.standing, watch.promise
    finite = standing.threshold < float("inf")
    return {
        "is_certified": standing.is_certified,
        "alarms": list(standing.alarms),
        "drafts_alarm": watch.drafts_alarm,
        "why": standing.why,
        "threshold": standing.threshold if finite else None,
        "calibrated_threshold": promise.threshold if promise.is_feasible else None,
        "max_regret": promise.max_regret,
        "labels": standing.labels,
        "rows": standing.rows,
        "regretted": standing.regretted,
        "regret_low": standing.regret_low,
        "regret_high": standing.regret_high,
        "stated": None if standing.stated is None else asdict(standing.stated),
        "psi": standing.psi,
        "psi_of": standing.psi_of,
    }


def labelled_of(label: Label) -> Labelled | None:
    """A label as statistics take it; None where no promise was in force.

    What a verifier found flawed could not have stayed local, so its score is below all thresholds.
    """
    if label.p_local is None or label.score is None:
        return None
    return Labelled(
        score=float("-inf") if label.is_flawed else label.score,
        p_local=label.p_local,
        p_cloud=1.0 if label.p_cloud is None else label.p_cloud,
        agrees=label.agrees,
        weight=label.weight,
        rate=label.rate,
        draw=draw(label.request_id, "thin"),
        is_answered=label.is_answered,
    )
