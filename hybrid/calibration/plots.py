"""What do deferral and reliability look like? One PNG, drawn without a display."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hybrid.calibration.curves import Deferral, always_cloud, always_local, deferral, oracle, random_choice
from hybrid.calibration.reliability import brier_skill, ece, reliability
from hybrid.calibration.resample import ROUNDS, TAIL, band
from hybrid.errors import CommandError
from hybrid.policy.bounds import lower_bound, upper_bound

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

SIZE_INCHES = (12.5, 5.6)
DPI = 130
OURS, CLOUD, QUIET = "#1f6f8b", "#b5542c", "#8a8a8a"
OTHERS = ("#c77c11", "#7b4fa3", "#4c9a4c", "#c2447a", "#7a7b00", "#5c5c9e")
GRID = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """What one evaluation draws, each array of shape (n,).

    score: what our curve defers by.
    p: the stated probability that local is right, for the reliability diagram; None draws none, NaN has none.
    others: further signals, by name, drawn thin; NaN counts as the lowest score.
    threshold_calls: share of cloud calls at the threshold in use, marked on the curve.
    """

    title: str
    score: Floats
    local_correct: Bools
    cloud_correct: Bools
    p: Floats | None = None
    others: Mapping[str, Floats] = field(default_factory=dict)
    threshold_calls: float | None = None
    cloud_name: str = "cloud"


def draw(picture: Picture, path: Path, rounds: int = ROUNDS, seed: int = 0) -> None:
    """Write the deferral curve with its bootstrap band, and the reliability diagram beside it, as PNG.

    Raises: CommandError if the file cannot be written; ValueError as `deferral`.
    """
    figure = Figure(figsize=SIZE_INCHES, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(1.35, 1))
    figure.suptitle(picture.title)
    _draw_deferral(left, picture, rounds, seed)
    _draw_reliability(right, picture)
    try:
        figure.savefig(path, format="png")
    except OSError as exc:
        raise CommandError(f"the picture cannot be written to {path}: {exc.strerror or exc}") from exc


def _draw_deferral(axes: Axes, picture: Picture, rounds: int, seed: int) -> None:
    local, cloud = picture.local_correct, picture.cloud_correct
    ours = deferral(picture.score, local, cloud)

    def resampled(rows: NDArray[np.intp]) -> Floats:
        curve = deferral(picture.score[rows], local[rows], cloud[rows])
        return np.interp(GRID, curve.calls, curve.quality)

    low, high = band(resampled, len(local), rounds, seed)
    axes.fill_between(GRID, low, high, color=OURS, alpha=0.15, linewidth=0, label="95 % (bootstrap)")
    _line(axes, oracle(local, cloud), "oracle", color="black", linestyle=":", linewidth=1.2)
    for colour, (name, score) in zip(cycle(OTHERS), picture.others.items(), strict=False):
        lowest = np.where(np.isnan(score), -np.inf, score)
        _line(axes, deferral(lowest, local, cloud), name, color=colour, linewidth=0.9)
    _line(axes, random_choice(local, cloud), "random", color=QUIET, linestyle="--", linewidth=1.2)
    _line(axes, ours, "ours", color=OURS, linewidth=2.2)
    axes.plot(
        *always_local(local), "o", color=OURS, markersize=7, label=f"always local {ours.local:.3f}", clip_on=False
    )
    axes.plot(
        *always_cloud(cloud), "s", color=CLOUD, markersize=7, label=f"always {picture.cloud_name} {ours.cloud:.3f}",
        clip_on=False,
    )  # fmt: skip
    if picture.threshold_calls is not None:
        at = picture.threshold_calls
        axes.plot(at, ours.at(at), "D", color=OURS, markeredgecolor="white", markersize=9, label="threshold in use")
    axes.set(xlim=(0, 1), xlabel="share of cloud calls", ylabel="share of right answers")
    axes.set_title(f"Deferral, n = {len(local):,}", fontsize=11)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, loc="lower right")


def _line(axes: Axes, curve: Deferral, name: str, **style: object) -> None:
    area = curve.apgr()
    label = name if area is None else f"{name}, APGR {area:.3f}"
    axes.plot(curve.calls, curve.quality, label=label, **style)  # type: ignore[arg-type]


def _draw_reliability(axes: Axes, picture: Picture) -> None:
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="stated probability", ylabel="share of right answers", aspect="equal")
    axes.plot([0, 1], [0, 1], color=QUIET, linestyle="--", linewidth=1.2)
    axes.grid(alpha=0.25)
    if picture.p is None:
        axes.set_title("No calibrated probability", fontsize=11)
        return
    told = ~np.isnan(picture.p)
    p, right = picture.p[told], picture.local_correct[told]
    if not len(p):
        axes.set_title("No draft has a probability", fontsize=11)
        return
    table = reliability(p, right)
    shares = np.array([row.share_correct for row in table])
    counts = [(round(row.share_correct * row.n), row.n) for row in table]
    below = shares - [lower_bound(*count, TAIL) for count in counts]
    above = np.array([upper_bound(*count, TAIL) for count in counts]) - shares
    axes.bar(
        [row.low for row in table], [row.n / len(p) for row in table], width=0.1, align="edge", color=QUIET, alpha=0.25,
        label="share of requests",
    )  # fmt: skip
    axes.errorbar(
        [row.mean_p for row in table], shares, yerr=np.maximum(0.0, [below, above]), fmt="o-", color=OURS, capsize=3,
        clip_on=False, label="observed, 95 % (exact)",
    )  # fmt: skip
    skill = brier_skill(p, right)
    told_skill = "" if skill is None else f", Brier skill {skill:.3f}"
    axes.set_title(f"Reliability, ECE {ece(p, right):.3f}{told_skill}", fontsize=11)
    axes.legend(fontsize=8, loc="upper left")
