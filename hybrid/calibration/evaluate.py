"""How good are local, cloud and the two together on a dataset? Every figure of an evaluation, from marked answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from hybrid.calibration.certify import regrets, violations
from hybrid.calibration.curves import Deferral, deferral, deferral_at_quantiles, oracle
from hybrid.calibration.examples import Opinion
from hybrid.calibration.growing import give_up, given_up
from hybrid.calibration.reliability import auroc, base_rate_brier, brier, ece, ece_floor
from hybrid.calibration.resample import Interval, bootstrap_together
from hybrid.calibration.table import Row, Table
from hybrid.policy.promise import Judgement, Promise, is_worth_votes, judge_by
from hybrid.types import FinishReason, Json

SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Shares of cloud calls of the sweep."""
CHARS_PER_TOKEN = 3.0
"""For the cost of recorded answers, of which only the text is known: fewer characters than a token usually has."""
TIE_SHARE = 0.01
"""Less than one answer more or less that agrees, of any number of samples."""
FLIPPED = frozenset({"mean_entropy", "max_entropy", "option_entropy", "log_tokens", "is_cut"})
"""Features of which less is better."""

Floats = NDArray[np.float64]
Marks = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Prices:
    """What the compared cloud costs, in USD a million tokens."""

    input_usd_per_mtok: float
    output_usd_per_mtok: float


@dataclass(frozen=True, slots=True, eq=False)
class Evaluated:
    """The report, and what a picture needs. p: the stated chance that local is right; NaN: none is stated."""

    report: dict[str, Json]
    score: Floats
    p: Floats | None
    signals: Mapping[str, Floats]
    threshold_calls: float | None


@dataclass(frozen=True, slots=True)
class Limits:
    """What an evaluation is made by. bare: the feature that ranks where nothing is calibrated."""

    bare: str
    max_regret: float = 0.05
    delta: float = 0.1
    prices: Prices | None = None
    seed: int = 0


def evaluate(
    table: Table,
    promise: Promise | None,
    limits: Limits,
    of: Callable[[str], Promise | None] | None = None,
    texts: Sequence[str] = (),
) -> Evaluated:
    """Compute everything `hybrid eval` tells.

    Args:
        promise: the calibration to judge by; without one the bare feature ranks, and nothing is stated.
        of: it as it speaks of a question in these words; the same of all without. texts: the rows' questions.
    """
    rows = table.features(promise.option_prior if promise else ())
    promises = [promise] * len(rows) if of is None else [of(text) for text in texts]
    judged = [None if one is None else judge_by(one, row) for one, row in zip(promises, rows, strict=True)]
    score, p = _scores(judged, rows, limits.bare)
    signals = _signals(rows)
    stays = score >= promise.threshold if promise is not None and promise.is_feasible else None
    ended = np.zeros(len(score), dtype=np.bool_)
    report = _alone(table, score, p, signals)
    report["ranked_by"] = "calibration" if promise is not None else limits.bare
    report["given_up"] = None
    if promise is not None and promise.looks and stays is not None:
        drafts = [row.draft for row in table.rows]
        report["given_up"] = asdict(give_up(drafts, promise.looks, promise.option_prior, stays))
        ended = given_up(drafts, promise.looks, promise.option_prior)
        stays = stays & ~ended
    report["votes_asked"] = None if promise is None or not promise.votes else _votes_asked(promise, table)
    report["promise"] = None if promise is None else _promise(promise, stays, table)
    cloud = table.cloud_right
    if cloud is None:
        report |= dict.fromkeys(("apgr", "apgr_ci95", "cpt50", "cpt80", "cpt95", "violations"))
    else:
        report |= _against_cloud(table, score, cloud, limits)
        report["signals"] = {name: _of_signal(values, table.local_right, cloud) for name, values in signals.items()}
        is_at_chance = promise is not None and promise.is_at_chance
        report |= _violations(score, table.local_right, cloud, limits, ended, is_at_chance=is_at_chance)
    calls = None if stays is None else float(1 - stays.mean())
    return Evaluated(report, score, p, signals, calls)


def _alone(table: Table, score: Floats, p: Floats | None, signals: Mapping[str, Floats]) -> dict[str, Json]:
    """What is known without a threshold."""
    local, cloud = table.local_right, table.cloud_right
    areas = {name: auroc(values, local) for name, values in signals.items()}
    areas["score"] = auroc(score, local)
    if p is not None:
        areas["p_local"] = auroc(np.where(np.isnan(p), -1.0, p), local)
    return {
        "n": len(table.rows),
        "skipped": dict(table.skipped),
        "accuracy_local": float(local.mean()),
        "accuracy_cloud": None if cloud is None else float(cloud.mean()),
        "auroc": areas,
        **_reliability(p, local),
        "verifier": _verifier(table.rows),
        "cut_off": _cut_off(table.rows),
        "local_latency_s": _percentiles([row.answer.total_s for row in table.rows]),
    }


def _scores(
    judged: Sequence[Judgement | None], rows: Sequence[Mapping[str, float]], bare: str
) -> tuple[Floats, Floats | None]:
    """The score that ranks, minus infinity where there is none, and the stated probability."""
    if all(one is None for one in judged):
        return np.array([_bare(row, bare) for row in rows], dtype=np.float64), None
    score = np.array([-math.inf if one is None else one.score for one in judged])
    return score, np.array([math.nan if one is None else one.p_local for one in judged])


def _bare(row: Mapping[str, float], bare: str) -> float:
    """The bare feature. Agreement takes few values: of drafts that agree alike, the surer tokens go first."""
    value = row.get(bare, row["weak_quarter_logprob"])
    return value + TIE_SHARE * math.exp(row["median_logprob"]) if bare == "agreement" and bare in row else value


def _signals(rows: Sequence[Mapping[str, float]]) -> dict[str, Floats]:
    """Each feature by itself, turned so that more is better; the worst where it is missing."""
    names = sorted({name for row in rows for name in row})
    found = {}
    for name in names:
        sign = -1.0 if name in FLIPPED else 1.0
        values = np.array([sign * row[name] if name in row else math.nan for row in rows])
        if not np.isnan(values).all() and np.nanmin(values) < np.nanmax(values):
            found[name] = np.where(np.isnan(values), np.nanmin(values) - 1, values)
    return found


def _reliability(p: Floats | None, right: NDArray[np.bool_]) -> dict[str, Json]:
    """ECE and Brier of what is stated, beside the Brier of always stating the mean."""
    if p is None:
        return {"ece": None, "ece_floor": None, "brier": None, "brier_base_rate": base_rate_brier(right)}
    is_stated = ~np.isnan(p)
    stated, marks = p[is_stated], right[is_stated]
    if not len(stated):
        return {"ece": None, "ece_floor": None, "brier": None, "brier_base_rate": base_rate_brier(right)}
    return {
        "ece": ece(stated, marks),
        "ece_mass": ece(stated, marks, binning="mass"),
        "ece_floor": ece_floor(stated),
        "brier": brier(stated, marks),
        "brier_base_rate": base_rate_brier(marks),
    }


def _promise(promise: Promise, stays: NDArray[np.bool_] | None, table: Table) -> dict[str, Json]:
    """What was promised, and what it came to here."""
    local, cloud = table.local_right, table.cloud_right
    regretted = regrets(local, cloud)
    kept = np.zeros(len(local), dtype=np.bool_) if stays is None else stays
    answered = local if cloud is None else np.where(kept, local, cloud)
    return {
        "task": promise.task,
        "max_regret": promise.max_regret,
        "delta": promise.delta,
        "is_feasible": promise.is_feasible,
        "is_at_chance": promise.is_at_chance,
        "threshold": promise.threshold if promise.is_feasible else None,
        "local_share": float(kept.mean()),
        "regret": float((regretted & kept).mean()),
        "accuracy": None if cloud is None else float(answered.mean()),
    }


def _votes_asked(promise: Promise, table: Table) -> float:
    """The share of questions for which `serve` would ask for votes: of the others they could not lift the letter."""
    return float(np.mean([is_worth_votes(promise, row.draft) for row in table.rows]))


def _against_cloud(table: Table, score: Floats, cloud: NDArray[np.bool_], limits: Limits) -> dict[str, Json]:
    local = table.local_right
    curve = deferral(score, local, cloud)
    figures: dict[str, Callable[[Deferral], float | None]] = {
        "apgr": Deferral.apgr,
        "cpt50": lambda one: one.cpt(0.5),
        "cpt80": lambda one: one.cpt(0.8),
        "cpt95": lambda one: one.cpt(0.95),
        "auc_df": Deferral.auc_df,
    }

    def of(rows: NDArray[np.intp]) -> list[float | None]:
        drawn = deferral(score[rows], local[rows], cloud[rows])
        return [figure(drawn) for figure in figures.values()]

    intervals = dict(zip(figures, bootstrap_together(of, len(local), seed=limits.seed), strict=True))
    found: dict[str, Json] = {name: figure(curve) for name, figure in figures.items()}
    found |= {f"{name}_ci95": _pair(interval) for name, interval in intervals.items()}
    found["auc_df_over_random"] = curve.auc_df_over_random()
    found["apgr_oracle"] = oracle(local, cloud).apgr()
    found["apgr_random"] = 0.5
    found["apgr_routellm_bins"] = deferral_at_quantiles(score, local, cloud).apgr()
    found["only_cloud_right"] = float((cloud & ~local).mean())
    found["only_local_right"] = float((local & ~cloud).mean())
    found["both_wrong"] = float((~local & ~cloud).mean())
    found["sweep"] = _sweep(table, curve, score, limits.prices)
    found["one_model"] = _one_model(table.rows, curve)
    return found


def _pair(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [interval.low, interval.high]


def _sweep(
    table: Table,
    curve: Deferral,
    score: Floats,
    prices: Prices | None,
) -> list[dict[str, Json]]:
    """Quality, and money where a price is known, at each share of cloud calls."""
    order = np.argsort(score, kind="stable")
    costs = None if prices is None else np.array([_cost_usd(row, prices) for row in table.rows])[order]
    lines = []
    for share in SHARES:
        calls = round(share * len(order))
        quality = curve.at(share)
        usd = None if costs is None else float(costs[:calls].sum())
        line: dict[str, Json] = {"cloud_share": share, "accuracy": quality, "usd": usd}
        right = quality * len(order)
        line["usd_per_right_answer"] = None if usd is None or not right else usd / right
        lines.append(line)
    return lines


def _cost_usd(row: Row, prices: Prices) -> float:
    """What the cloud would have billed, estimated: the prompt by the local tokenizer, the answer by its length."""
    answer_tokens = 1.0 if row.cloud_text is None else max(1.0, len(row.cloud_text) / CHARS_PER_TOKEN)
    spent = row.answer.prompt_tokens * prices.input_usd_per_mtok + answer_tokens * prices.output_usd_per_mtok
    return spent / 1e6


def _one_model(rows: Sequence[Row], curve: Deferral) -> dict[str, Json]:
    """The other recorded models, each alone: what a single one of middling size would do, and what matches it here."""
    names = set.intersection(*(set(row.question.recorded) for row in rows))
    found: dict[str, Json] = {}
    for name in sorted(names):
        marks = [row.question.recorded[name].correct for row in rows]
        if any(mark is None for mark in marks):
            continue
        accuracy = float(np.mean([bool(mark) for mark in marks]))
        reached = np.flatnonzero(curve.quality >= accuracy - 1e-12)
        found[name] = {
            "accuracy": accuracy,
            "cloud_share_to_match": float(curve.calls[reached[0]]) if len(reached) else None,
        }
    return found


def _of_signal(values: Floats, local: NDArray[np.bool_], cloud: NDArray[np.bool_]) -> dict[str, Json]:
    curve = deferral(values, local, cloud)
    return {"apgr": curve.apgr(), "cpt50": curve.cpt(0.5), "cpt80": curve.cpt(0.8)}


def _violations(
    score: Floats, local: Marks, cloud: Marks, limits: Limits, ended: Marks, *, is_at_chance: bool
) -> dict[str, Json]:
    """How often the promise would have been broken, certified on one half of the rows and served on the other.

    `certified` goes by the rule that `hybrid calibrate` writes and the policy keeps to, its looks included.
    """
    found = violations(
        score,
        local,
        cloud,
        limits.max_regret,
        limits.delta,
        seed=limits.seed,
        given_up=ended,
        is_at_chance=is_at_chance,
    )
    ways = {"certified": found.deployed, "certified_true_regret": found.true_regret, "plug_in": found.plug_in}
    table: dict[str, Json] = {
        name: {"broken": way.broken, "cloud_share": way.escalation, "refused": way.refused}
        for name, way in ways.items()
    }
    table |= {"splits": found.splits, "max_regret": limits.max_regret, "delta": limits.delta}
    return {"violations": found.deployed.broken, "violations_by_method": table}


def _verifier(rows: Sequence[Row]) -> dict[str, Json] | None:
    """What a verifier without labels said, and what routing by it alone would give."""
    judged = [row for row in rows if row.opinion is not None]
    if not judged:
        return None
    counts = {opinion.value: sum(row.opinion is opinion for row in judged) for opinion in Opinion}
    right = {
        opinion.value: sum(row.opinion is opinion and row.is_right for row in judged) / max(1, counts[opinion.value])
        for opinion in Opinion
    }
    local = [row.opinion is Opinion.AGREE for row in judged]
    passed = [row.is_right if stays else bool(row.cloud_right) for row, stays in zip(judged, local, strict=True)]
    has_cloud = all(row.cloud_right is not None for row in judged)
    return {
        "counts": counts,
        "right_by_opinion": right,
        "cloud_share": 1 - sum(local) / len(judged),
        "local_accepted_right": sum(row.is_right for row, stays in zip(judged, local, strict=True) if stays)
        / max(1, sum(local)),
        "accuracy": sum(passed) / len(judged) if has_cloud else None,
    }


def _cut_off(rows: Sequence[Row]) -> dict[str, Json]:
    cut = [row for row in rows if row.draft.finish_reason is FinishReason.LENGTH and len(row.draft.logprobs) > 1]
    right = sum(row.is_right for row in cut) / len(cut) if cut else None
    return {"share": len(cut) / len(rows), "accuracy": right}


def _percentiles(seconds: Sequence[float]) -> dict[str, Json]:
    low, middle, high = np.percentile(np.array(seconds), (50, 95, 99)).tolist()
    return {"p50": low, "p95": middle, "p99": high}
