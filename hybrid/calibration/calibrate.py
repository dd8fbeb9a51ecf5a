"""How does a table of marked answers become a calibration? Fitted, counted out of fold, and told how good it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from hybrid.artefact import Counts, LookAt, Task, weights_of
from hybrid.calibration.certify import regrets, trace
from hybrid.calibration.curves import deferral
from hybrid.calibration.datasets import Dataset, Scorer
from hybrid.calibration.fit import Fit, fit, matrix
from hybrid.calibration.growing import fit_looks
from hybrid.calibration.recipes import KINDS, Recipe
from hybrid.calibration.table import Table, has_gold
from hybrid.errors import CommandError
from hybrid.policy.features import OPTION_FEATURES, PRIOR_FEATURES, SAMPLE_FEATURES, TOKEN_FEATURES
from hybrid.policy.promise import Certified, certify

BARE: Mapping[Scorer, str] = {
    "choice": "option_margin",
    "number": "agreement",
    "python": "weak_quarter_logprob",
    "text": "weak_quarter_logprob",
}
"""The one feature that is kept where nothing beats it."""
MOST_COUNTS = 512
"""Thresholds that an artefact keeps; of more, evenly many rows lie between two."""


@dataclass(frozen=True, slots=True, eq=False)
class Calibrated:
    """What came of one calibration.

    local: the fit of P(local right); cloud: of P(cloud right), where the cloud's labels are known.
    score: by which thresholds are set, out of fold, shape (n,); NaN where there is none. certified: for the promise.
    """

    task: Task
    local: Fit
    cloud: Fit | None
    score: NDArray[np.float64]
    certified: Certified


def calibrate(
    table: Table,
    dataset: Dataset,
    scorer: Scorer,
    recipe: Recipe,
    *,
    task: str,
    samples: int,
    cloud: str | None,
    max_regret: float,
    delta: float,
    seed: int = 0,
) -> Calibrated:
    """Fit, choose the score, count what each threshold would cost, and certify.

    Thresholds are set on the gain, p_local - p_cloud, where that ranks better out of fold by the area under the
    deferral curve, else on p_local: the cloud's own model is worth its noise only if it pays.

    Raises: CommandError if there are too few rows or only one label.
    """
    prior = table.option_prior()
    rows = table.features(prior)
    local = _fit(rows, table.local_right, BARE[scorer], seed)
    cloud_right = table.cloud_right
    cloud_fit = _fit_cloud(rows, cloud_right, BARE[scorer], seed)
    score, ranks_by_gain = _score(table, local, cloud_fit)
    regretted = regrets(table.local_right, cloud_right)
    counts = _counts(score, regretted)
    certified = certify(counts.counted(), max_regret, delta)
    looks = fit_looks(table, prior, np.where(np.isnan(score), -np.inf, score) >= certified.threshold, seed)
    labels = "gold" if all(has_gold(row.question) for row in table.rows) else cloud or "gold"
    made = Task(
        task=task,
        kind=KINDS[scorer],
        dataset=dataset.path.name,
        dataset_digest=dataset.digest,
        recipe_digest=recipe.digest,
        rows=len(table.rows),
        labels=labels,
        cloud_model=cloud,
        local=weights_of(local.model),
        cloud=None if cloud_fit is None else weights_of(cloud_fit.model),
        ranks_by_gain=ranks_by_gain,
        option_prior=prior,
        counts=counts,
        base_rate=float(table.local_right.mean()),
        cloud_rate=None if cloud_right is None else float(cloud_right.mean()),
        is_at_chance=local.report.is_at_chance,
        samples=samples,
        looks=tuple(
            LookAt(tokens=look.tokens, threshold=look.threshold, local=weights_of(look.model)) for look in looks
        ),
        report=asdict(local.report) | {"is_at_chance": local.report.is_at_chance},
    )
    return Calibrated(made, local, cloud_fit, score, certified)


def _fit(rows: Sequence[Mapping[str, float]], right: NDArray[np.bool_], bare: str, seed: int) -> Fit:
    names = sorted({name for row in rows for name in row})
    wanted = {
        "tokens": TOKEN_FEATURES,
        "options": OPTION_FEATURES + PRIOR_FEATURES,
        "samples": (*SAMPLE_FEATURES, "is_cut", "log_tokens"),
        "samples and tokens": SAMPLE_FEATURES + TOKEN_FEATURES,
    }
    groups = {name: [one for one in group if one in names] for name, group in wanted.items()}
    groups = {name: group for name, group in groups.items() if len(group) > 1}
    return fit(names, matrix(rows, names), right, groups=groups, bare=bare if bare in names else None, seed=seed)


def _fit_cloud(
    rows: Sequence[Mapping[str, float]], right: NDArray[np.bool_] | None, bare: str, seed: int
) -> Fit | None:
    """Fit P(cloud right); None without labels, or with too few mistakes of the cloud to learn from."""
    if right is None:
        return None
    try:
        return _fit(rows, right, bare, seed)
    except CommandError:
        return None


def _score(table: Table, local: Fit, cloud: Fit | None) -> tuple[NDArray[np.float64], bool]:
    cloud_right = table.cloud_right
    if cloud is None or cloud_right is None:
        return local.out_of_fold, False
    gain = local.out_of_fold - np.where(np.isnan(cloud.out_of_fold), cloud_right.mean(), cloud.out_of_fold)

    def area(score: NDArray[np.float64]) -> float:
        ranked = deferral(np.where(np.isnan(score), -np.inf, score), table.local_right, cloud_right)
        return ranked.auc_df()

    return (gain, True) if area(gain) > area(local.out_of_fold) else (local.out_of_fold, False)


def _counts(score: NDArray[np.float64], regretted: NDArray[np.bool_]) -> Counts:
    found = trace(np.where(np.isnan(score), -np.inf, score), regretted)
    places = np.arange(len(found.thresholds))
    if len(places) > MOST_COUNTS:
        places = np.unique(np.linspace(0, len(places) - 1, MOST_COUNTS).round().astype(int))
    return Counts(
        thresholds=tuple(found.thresholds[places].tolist()),
        kept=tuple(found.kept[places].tolist()),
        regretted=tuple(found.errors[places].tolist()),
        n=found.n,
    )
