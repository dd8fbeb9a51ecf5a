"""Do the labels of what was served still bear out the calibration? Its error and its regret, weighted and bounded.

A label says whether local and cloud agreed on one request. Escalated drafts all have one and accepted drafts only
where they were audited, so each carries the inverse of its chance. Where they disagree the cloud may be the one that
is wrong: what is known of that (`p_cloud`) is allowed for before anything alarms, and never where something is
certified.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from hybrid.policy.promise import Certified, Counted, certify

BINS = 10
EDGES = 20
"""Thresholds that are tested between the calibration's own and certainty; fixed, whatever the labels say."""
BETS = (2.0, 4.0, 8.0)
"""Multiples of max_regret that the detector bets on; which of them is near decides only how soon it alarms."""
MOST_BET = 0.95
"""Share of its capital that a bet may lose at once."""
HORIZON_ROWS = 1_000
"""Rows without a change in which the detector alarms falsely with at most the chance it is given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """One draft that the cloud answered as well.

    score: what the threshold is compared with. p_local, p_cloud: the chances that either is right, as stated then.
    agrees: whether both said the same. weight: inverse of the chance that it was looked at, >= 1.
    rate: the least chance with which any draft of its time was looked at; 0 where accepted ones were not.
    draw: uniform in [0, 1), of the request and independent of all the rest.
    is_answered: by the cloud; of an audit that was not nothing is known, which counts against what is certified alone.
    """

    score: float
    p_local: float
    p_cloud: float
    agrees: bool
    weight: float = 1.0
    rate: float = 1.0
    draw: float = 0.0
    is_answered: bool = True

    @property
    def is_uniform(self) -> bool:
        """Whether it is kept when those that were surely looked at are thinned to the chance of all others.

        What is kept is a plain sample of all drafts of the time, as a calibration set is: exact bounds hold for it.
        """
        return self.draw < self.rate * self.weight


@dataclass(frozen=True, slots=True, kw_only=True)
class StatedError:
    """How far stated chances are from what was observed.

    ece: weighted over ten bins of equal width. error: its standard error. floor: what chance alone gives a perfect
    model of as many labels. n: labels. n_effective: equally weighted labels that tell as much (Kish).
    """

    ece: float
    error: float
    floor: float
    n: int
    n_effective: float


def stated_error(labels: Collection[Labelled]) -> StatedError | None:
    """The importance-weighted expected calibration error; None without labels.

    Where the cloud may be wrong, agreement as often as anywhere between the least and the most that both chances allow
    is no error: [p_local + p_cloud - 1, 1 - |p_local - p_cloud|], a point where the cloud is right by definition.

    Source: Naeini et al., AAAI 2015; weights: Horvitz and Thompson 1952; n_effective: Kish, Survey Sampling, 1965.
    """
    bins: dict[int, list[Labelled]] = {}
    for label in labels:
        bins.setdefault(min(BINS - 1, int(label.p_local * BINS)), []).append(label)
    whole = math.fsum(label.weight for label in labels)
    if not whole:
        return None
    found = [(math.fsum(label.weight for label in part) / whole, *_gap(part)) for part in bins.values()]
    return StatedError(
        ece=math.fsum(share * gap for share, gap, _ in found),
        error=math.sqrt(math.fsum((share * error) ** 2 for share, _, error in found)),
        floor=math.fsum(share * error for share, _, error in found) * math.sqrt(2 / math.pi),
        n=len(labels),
        n_effective=whole**2 / math.fsum(label.weight**2 for label in labels),
    )


def _gap(part: Sequence[Labelled]) -> tuple[float, float]:
    """The distance of a bin's agreement from what was stated, and the standard error of that agreement.

    The error is of the stated chances' own spread, not the observed one: a bin of equal labels must not look exact.
    """
    whole = math.fsum(label.weight for label in part)
    agrees = math.fsum(label.weight * label.agrees for label in part) / whole
    low = math.fsum(label.weight * max(0.0, label.p_local + label.p_cloud - 1) for label in part) / whole
    high = math.fsum(label.weight * (1 - abs(label.p_local - label.p_cloud)) for label in part) / whole
    squares = math.fsum(label.weight**2 * max(label.p_local * (1 - label.p_local), 0.01) for label in part)
    return max(0.0, low - agrees, agrees - high), math.sqrt(squares) / whole


class Detector:
    """Watches rows one by one for a regret above `max_regret`, and may be asked after each.

    It bets that the next row is regretted, at odds that are fair if the promise holds just so, and begins anew at each
    row (Shiryaev and Roberts): the sum of what all beginnings have won grows by at most 1 a row while the promise
    holds. So the chance that it has reached n / alpha within n rows is at most alpha, whatever the regret's course.

    Source: Shin, Ramdas and Rinaldo, E-detectors, arXiv:2203.03532; bets on bounded means: Waudby-Smith and Ramdas,
    arXiv:2010.09686.

    Args:
        alpha: chance of a false alarm in `HORIZON_ROWS` rows.
    """

    def __init__(self, max_regret: float, alpha: float) -> None:
        self._max_regret = max_regret
        self._limit = HORIZON_ROWS / alpha
        self._won = [0.0 for _ in BETS]

    def is_alarming(self, label: Labelled, threshold: float) -> bool:
        """Take the next row, and tell whether the promise at `threshold` can no longer be believed."""
        is_local = label.score >= threshold
        # A disagreement with a cloud that is wrong is no regret: what is known of it, before the outcome, comes off.
        allowed = 1 - label.p_cloud if is_local else 0.0
        found = float(is_local and not label.agrees) - allowed - self._max_regret
        for place, multiple in enumerate(BETS):
            wished = (multiple - 1) / (1 - self._max_regret)
            stake = min(wished, MOST_BET / (self._max_regret + allowed))
            # Bounded above: what is certain needs no more digits.
            self._won[place] = min((self._won[place] + 1) * (1 + stake * found), 1e300)
        return math.fsum(self._won) / len(BETS) >= self._limit


def certified(labels: Collection[Labelled], threshold: float, max_regret: float, delta: float) -> Certified:
    """Find the loosest threshold, no looser than the calibration's, that a plain sample of drafts certifies.

    Each disagreement counts as a regret, which is never less than there are.
    """
    highest = max(1.0, threshold)
    steps = [threshold + (highest - threshold) * step / EDGES for step in range(EDGES, -1, -1)]
    grid = sorted(set(steps) | {threshold}, reverse=True)
    counted = Counted(
        thresholds=tuple(grid),
        kept=tuple(_count(label.score >= edge for label in labels) for edge in grid),
        regretted=tuple(_count(label.score >= edge and not label.agrees for label in labels) for edge in grid),
        n=len(labels),
    )
    return certify(counted, max_regret, delta)


def spent(delta: float, look: int) -> float:
    """The part of delta that the look of this number, from 1, may use: all of them together use no more than delta."""
    return delta / (look * (look + 1))


def _count(those: Iterable[bool]) -> int:
    return sum(those)
