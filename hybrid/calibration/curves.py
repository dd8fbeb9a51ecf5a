"""What does each share of cloud calls buy? The deferral curve of a score, and the one-number summaries of it.

A score ranks requests: the higher, the rather an answer stays local. Escalating from the lowest score upwards gives,
for every share of cloud calls, the share of right answers. Definitions as in the papers named at each function.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats: TypeAlias = NDArray[np.float64]
Bools: TypeAlias = NDArray[np.bool_]

QUANTILE_BINS = 10
"""RouteLLM's number of thresholds, less one."""


@dataclass(frozen=True, slots=True, eq=False)
class Deferral:
    """Quality at each share of cloud calls, from nothing escalated to everything.

    calls: share of requests that go to the cloud, ascending from 0 to 1, shape (points,).
    quality: expected share of right answers at it, shape (points,); linear between the points.
    """

    calls: Floats
    quality: Floats

    @property
    def local(self) -> float:
        """Quality of always-local."""
        return float(self.quality[0])

    @property
    def cloud(self) -> float:
        """Quality of always-cloud."""
        return float(self.quality[-1])

    def at(self, calls: float) -> float:
        """Quality when the share `calls` of the requests goes to the cloud."""
        return float(np.interp(calls, self.calls, self.quality))

    def pgr(self) -> Floats | None:
        """Performance gap recovered at each of `calls`: 0 is local's quality, 1 the cloud's; None if there is no gap.

        Source: Ong et al., RouteLLM, arXiv:2406.18665.
        """
        gap = self.cloud - self.local
        return None if gap <= 0 else (self.quality - self.local) / gap

    def apgr(self) -> float | None:
        """Area under PGR over all shares of cloud calls; a random choice has 0.5. None where cloud <= local.

        Above 1 is possible: an oracle keeps what only local has right.
        """
        recovered = self.pgr()
        return None if recovered is None else float(np.trapezoid(recovered, self.calls))

    def cpt(self, recovered: float) -> float | None:
        """The least share of cloud calls that recovers `recovered` of the gap; a random choice needs just that share.

        Linear between the points. The first crossing counts, so the noise of a small sample makes it look
        somewhat too good. None where cloud <= local.

        Raises: ValueError if `recovered` is outside [0, 1], since 1 is reached at the latest with everything escalated.
        """
        if not 0 <= recovered <= 1:
            raise ValueError(f"recovered is a share of the gap, in [0, 1]; got {recovered:g}")
        pgr = self.pgr()
        if pgr is None:
            return None
        first = int(np.argmax(pgr >= recovered - 1e-12))
        if first == 0:
            return 0.0
        step = (recovered - pgr[first - 1]) / (pgr[first] - pgr[first - 1])
        return float(self.calls[first - 1] + min(1.0, step) * (self.calls[first] - self.calls[first - 1]))

    def auc_df(self) -> float:
        """Area under quality over deferral rate, in shares of right answers.

        Source: Gupta et al., ICLR 2024, arXiv:2404.10136.
        """
        return float(np.trapezoid(self.quality, self.calls))

    def auc_df_over_random(self) -> float | None:
        """How much larger that area is than a random choice's, as a share of the latter; None if that is 0."""
        random = (self.local + self.cloud) / 2
        return None if random == 0 else self.auc_df() / random - 1


def deferral(score: ArrayLike, local_correct: ArrayLike, cloud_correct: ArrayLike) -> Deferral:
    """Escalate in order of lowest score, one request after the other.

    Requests of equal score stand in no order: each point inside such a group is the expected value over all orders,
    which is a straight line across the group. A constant score is thus a random choice, exactly.

    Args:
        score: the higher, the rather local; shape (n,); infinite is fine, NaN is not.
        local_correct, cloud_correct: shape (n,).
    Returns: n + 1 points.
    Raises: ValueError if there are no rows, the lengths differ, or a score is NaN.
    """
    ranks, local, cloud = _checked(score, local_correct, cloud_correct)
    _, group, sizes = np.unique(ranks, return_inverse=True, return_counts=True)
    gain = cloud.astype(np.float64) - local
    each = (np.bincount(group, weights=gain) / sizes).repeat(sizes)
    n = len(ranks)
    quality = local.mean() + np.concatenate([[0.0], np.cumsum(each)]) / n
    quality[-1] = cloud.mean()
    return Deferral(np.arange(n + 1) / n, quality)


def oracle(local_correct: ArrayLike, cloud_correct: ArrayLike) -> Deferral:
    """What no score can beat: first escalated is what only the cloud has right, last what only local has right."""
    local, cloud = np.asarray(local_correct, dtype=np.float64), np.asarray(cloud_correct, dtype=np.float64)
    return deferral(local - cloud, local_correct, cloud_correct)


def random_choice(local_correct: ArrayLike, cloud_correct: ArrayLike) -> Deferral:
    """What a coin would reach, in expectation: the straight line between the two points below."""
    return Deferral(np.array([0.0, 1.0]), np.array([always_local(local_correct)[1], always_cloud(cloud_correct)[1]]))


def always_local(local_correct: ArrayLike) -> tuple[float, float]:
    """Share of cloud calls and quality with nothing escalated."""
    return 0.0, float(np.mean(np.asarray(local_correct, dtype=np.float64)))


def always_cloud(cloud_correct: ArrayLike) -> tuple[float, float]:
    """Share of cloud calls and quality with everything escalated."""
    return 1.0, float(np.mean(np.asarray(cloud_correct, dtype=np.float64)))


def deferral_at_quantiles(
    score: ArrayLike, local_correct: ArrayLike, cloud_correct: ArrayLike, bins: int = QUANTILE_BINS
) -> Deferral:
    """The curve as RouteLLM's code draws it: only at the thresholds that cut the scores into `bins` equal parts.

    What shares a score shares its side of a threshold there, and the points are joined by straight lines. Its APGR is
    for comparison with published ones; over a steep curve it differs from `deferral`'s in the second decimal.

    Source: lm-sys/RouteLLM, routellm/evals (thresholds by quantile cut, area by the trapezoidal rule).
    Raises: as `deferral`; ValueError if bins < 1.
    """
    if bins < 1:
        raise ValueError(f"a curve needs at least one bin; got {bins}")
    ranks, local, cloud = _checked(score, local_correct, cloud_correct)
    # "Inverted": a quantile that lies between two scores would be NaN between infinite ones.
    cuts = np.quantile(ranks, np.linspace(0, 1, bins + 1), method="inverted_cdf")
    escalated = [ranks <= cut if at else ranks < cut for at, cut in enumerate(cuts)]
    points = {float(chosen.mean()): float(np.where(chosen, cloud, local).mean()) for chosen in escalated}
    return Deferral(np.array(list(points)), np.array(list(points.values())))


def _checked(score: ArrayLike, local_correct: ArrayLike, cloud_correct: ArrayLike) -> tuple[Floats, Bools, Bools]:
    ranks = np.asarray(score, dtype=np.float64)
    local, cloud = np.asarray(local_correct), np.asarray(cloud_correct)
    if ranks.ndim != 1 or not len(ranks) or not ranks.shape == local.shape == cloud.shape:
        raise ValueError(
            "a curve needs one score and two labels for each of at least one request; got shapes "
            f"{ranks.shape}, {local.shape} and {cloud.shape}"
        )
    if broken := int(np.isnan(ranks).sum()):
        raise ValueError(f"{broken} of {len(ranks)} scores are NaN; a request without a score has no rank")
    for name, labels in (("local_correct", local), ("cloud_correct", cloud)):
        if labels.dtype != np.bool_ and not np.isin(labels, (0, 1)).all():
            raise ValueError(f"{name} must hold only true and false")
    return ranks, local.astype(np.bool_), cloud.astype(np.bool_)
