"""Does a promise still hold, and what holds in its place? Labels and drafts in, one after the other; a standing out.

Nothing here reads a clock or draws a number, so the same labels in the same order give the same standing again.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace

from hybrid.policy.bounds import lower_bound, rows_needed, upper_bound
from hybrid.policy.drift import Detector, Labelled, StatedError, certified, spent, stated_error
from hybrid.policy.promise import Certified, Promise
from hybrid.policy.reference import psi, psi_by_chance

PSI_ALARM = 0.2
"""By custom a change to look into; from 0.25 on another population (Siddiqi 2006)."""
RECENT_DRAFTS = 400
LEAST_DRAFTS = 200
PSI_EVERY = 50
ECE_ALARM = 0.10
"""Above chance and two standard errors. Calibrations measured on fresh rows had 0.03 to 0.11 after 300 labels."""
RECENT_LABELS = 500
LEAST_EFFECTIVE = 100.0
ECE_EVERY = 25
MOST_ROWS = 1_000
LOOK_GROWTH = 1.5
P_LOCAL = "p_local"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What is known of a promise from what was served since its calibration.

    threshold: in force, never looser than the calibration's; infinite where nothing is certified now.
    alarms: what is wrong, a sentence each; empty where nothing is. why: what is in force because of them.
    labels: all there are; rows: those of them that are a plain sample of all drafts; regretted: of these, local where
    the cloud said otherwise. regret_low, regret_high: 90 % bounds (95 % each) of that share, None without rows.
    psi: the largest index among what is watched, and of what; None before there are drafts enough.
    """

    threshold: float
    alarms: tuple[str, ...] = ()
    why: str = ""
    labels: int = 0
    rows: int = 0
    regretted: int = 0
    regret_low: float | None = None
    regret_high: float | None = None
    stated: StatedError | None = None
    psi: float | None = None
    psi_of: str | None = None

    @property
    def is_certified(self) -> bool:
        """Whether data bear out the threshold in force: the calibration's, or labels since an alarm."""
        return not self.alarms or math.isfinite(self.threshold)


class Watch:
    """Follows one promise. After an alarm every draft goes to the cloud until labels since then certify a threshold.

    That threshold is the loosest one they certify, tested again as they grow: it comes nearer to the calibration's as
    long as they agree, rises again where they do not, and the alarm ends when the calibration's own is certified.
    """

    def __init__(self, promise: Promise) -> None:
        self.promise = promise
        # A decision's record takes it along, and decides nothing by what drift is told against.
        self._plain = replace(promise, reference={})
        self._detector = Detector(promise.max_regret, promise.delta)
        self._labels: deque[Labelled] = deque(maxlen=RECENT_LABELS)
        self._taken = self._rows = self._regretted = 0
        self._drafts: dict[str, deque[float]] = {
            name: deque(maxlen=RECENT_DRAFTS)
            for name in (P_LOCAL, *promise.local.features)
            if name in promise.reference
        }
        self._seen = 0
        self._psi: tuple[float, str] | None = None
        self._alarms: dict[str, str] = {}
        self._since: deque[Labelled] = deque(maxlen=MOST_ROWS)
        self._since_rows = self._looks = 0
        self._next_look = 0
        self._found: Certified | None = None

    def saw(self, features: Mapping[str, float], p_local: float) -> None:
        """Take the numbers of a draft that was judged, wherever its answer came from."""
        for name, recent in self._drafts.items():
            value = p_local if name == P_LOCAL else features.get(name)
            if value is not None and math.isfinite(value):
                recent.append(value)
        self._seen += 1
        if self._seen % PSI_EVERY == 0:
            self._compare()

    def take(self, label: Labelled) -> None:
        """Take a label. What the cloud did not answer raises no alarm, and certifies nothing."""
        if not label.is_answered:
            if self._alarms and label.is_uniform:
                self._count(label)
            return
        self._labels.append(label)
        self._taken += 1
        if self._taken % ECE_EVERY == 0:
            self._check_stated()
        if not label.is_uniform:
            return
        self._rows += 1
        self._regretted += label.score >= self.promise.threshold and not label.agrees
        if self._alarms:
            self._count(label)
        elif self._detector.is_alarming(label, self.promise.threshold):
            self._raise(
                "regret",
                f"local and cloud disagreed in {self._regretted} of {self._rows} sampled requests, "
                f"the last ones too often for regret <= {self.promise.max_regret:g}",
            )

    @property
    def is_alarmed(self) -> bool:
        """Whether anything is wrong now."""
        return bool(self._alarms)

    @property
    def alarms(self) -> tuple[str, ...]:
        """What is wrong, a sentence each."""
        return tuple(self._alarms.values())

    @property
    def drafts_alarm(self) -> str | None:
        """What is wrong with the drafts' numbers, which a later process cannot see again."""
        return self._alarms.get("drafts")

    def resume(self, drafts_alarm: str) -> None:
        """Take over an alarm of an earlier process about its drafts; the next drafts decide whether it goes on."""
        self._raise("drafts", drafts_alarm)

    @property
    def standing(self) -> Standing:
        """What holds now."""
        rows, bad = self._rows, self._regretted
        return Standing(
            threshold=self._threshold(),
            alarms=self.alarms,
            why=self._why(),
            labels=self._taken,
            rows=rows,
            regretted=bad,
            regret_low=lower_bound(bad, rows, 0.05) if rows else None,
            regret_high=upper_bound(bad, rows, 0.05) if rows else None,
            stated=stated_error(self._labels),
            psi=None if self._psi is None else self._psi[0],
            psi_of=None if self._psi is None else self._psi[1],
        )

    def in_force(self) -> Promise:
        """The promise as it stands: tightened or withdrawn after an alarm, and saying so."""
        if not self._alarms or not self.promise.is_feasible:
            return self._plain  # what keeps nothing local cannot be tightened, and no label would ever certify it
        threshold, why = self._threshold(), f"{'; '.join(self.alarms)}; {self._why()}"
        if math.isfinite(threshold):
            return replace(self._plain, threshold=threshold, alarm=why)
        return replace(self._plain, threshold=threshold, looks=(), alarm=why, is_withdrawn=True)

    def _threshold(self) -> float:
        if not self._alarms:
            return self.promise.threshold
        return math.inf if self._found is None else self._found.threshold

    def _why(self) -> str:
        if not self._alarms:
            return ""
        if self._found is None or not math.isfinite(self._found.threshold):
            return f"every draft goes to the cloud until labels certify a threshold ({self._since_rows} rows so far)"
        return f"{len(self._since)} rows since then certify the threshold {self._found.threshold:.4f}"

    def _raise(self, name: str, what: str) -> None:
        if not self._alarms:
            self._since.clear()
            self._since_rows = self._looks = 0
            self._found = None
            self._next_look = rows_needed(self.promise.max_regret, spent(self.promise.delta, 1))
        self._alarms[name] = what

    def _clear(self, name: str) -> None:
        if self._alarms.pop(name, None) is not None and not self._alarms:
            self._detector = Detector(self.promise.max_regret, self.promise.delta)

    def _count(self, label: Labelled) -> None:
        """Take a row since the alarm."""
        self._since.append(label)
        self._since_rows += 1
        self._look()

    def _look(self) -> None:
        """Certify anew, at row counts that are fixed beforehand; each look may use its own part of delta."""
        if self._since_rows < self._next_look or not self.promise.is_feasible:
            return
        self._looks += 1
        self._next_look = min(math.ceil(self._next_look * LOOK_GROWTH), self._next_look + MOST_ROWS // 2)
        promise = self.promise
        self._found = certified(self._since, promise.threshold, promise.max_regret, spent(promise.delta, self._looks))
        if self._found.threshold <= promise.threshold:
            self._clear("regret")

    def _check_stated(self) -> None:
        found = stated_error(self._labels)
        if found is None or found.n_effective < LEAST_EFFECTIVE:
            return
        if found.ece - found.floor - 2 * found.error > ECE_ALARM:
            self._raise(
                "stated", f"stated chances are {found.ece:.2f} from what {found.n} labels show (alarm: {ECE_ALARM:g})"
            )
        else:
            self._clear("stated")

    def _compare(self) -> None:
        """Set each watched number's recent values beside those of the calibration."""
        found = [
            (psi(self.promise.reference[name], tuple(recent)), name, len(recent))
            for name, recent in self._drafts.items()
            if len(recent) >= LEAST_DRAFTS
        ]
        if not found:
            return
        changed = [
            one for one in found if one[0] > max(PSI_ALARM, psi_by_chance(self.promise.reference[one[1]], one[2]))
        ]
        worst = max(changed or found)
        self._psi = worst[0], worst[1]
        if changed:
            value, name, n = worst
            self._raise(
                "drafts", f"{name} of the last {n} drafts is not as calibrated: PSI {value:.2f} (alarm: {PSI_ALARM:g})"
            )
        else:
            self._clear("drafts")
