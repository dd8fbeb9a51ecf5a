"""What does `hybrid eval` do and print? Local, cloud and hybrid on a dataset, with intervals, and as a picture."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from hybrid.calibration.calibrate import BARE
from hybrid.calibration.datasets import Dataset, Scorer
from hybrid.calibration.evaluate import Evaluated, Limits, Prices, evaluate
from hybrid.calibration.plots import Picture, draw
from hybrid.calibration.recipes import KINDS, RECIPES
from hybrid.calibration.session import SAMPLES, Asked, Model, Samples, fixed
from hybrid.calibration.table import Table, tabulate
from hybrid.cli.calibration import (
    CloudOption,
    ConfigOption,
    DatasetOption,
    LimitOption,
    ModelOption,
    SamplesOption,
    SeedOption,
    answered,
    configured,
    recorded_name,
    shown,
)
from hybrid.cli.cloud_answers import with_cloud
from hybrid.config import Config
from hybrid.errors import CommandError
from hybrid.promise_book import Found, PromiseBook
from hybrid.providers.prices import lookup
from hybrid.types import Json
from hybrid.wiring import calibration_dir, shipped_calibrations

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

SHOWN_SIGNALS = 8
WAYS = {"certified": "certified", "certified_true_regret": "for the true regret", "plug_in": "plug-in"}


@app.command("eval")
def evaluate_model(
    dataset: DatasetOption,
    model: ModelOption = None,
    cloud: CloudOption = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write all figures there.")] = None,
    plot_file: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE.png", help="Draw the deferral curve and the reliability.")
    ] = None,
    limit: LimitOption = None,
    samples: SamplesOption = None,
    calibration: Annotated[
        Path | None, typer.Option("--calibration", metavar="DIR", help="Look for the calibration there first.")
    ] = None,
    bare: Annotated[bool, typer.Option("--bare", help="Use no calibration: rank by the kind's bare signal.")] = False,  # noqa: FBT002
    seed: SeedOption = 0,
    config_path: ConfigOption = None,
) -> None:
    """Measure on a dataset what answering locally, in the cloud, and hybrid by confidence each come to."""
    for path in (json_file, plot_file):
        _check_writable(path)
    config, path = configured(config_path, model)
    book = _book(config, calibration, is_bare=bare)
    as_wanted = fixed(samples) if samples is not None else _as_served(book)
    found, questions, asked = answered(config, path, dataset, limit=limit, seed=seed, samples=as_wanted)
    name, asked = with_cloud(cloud, recorded_name(cloud, questions), config, questions, asked)
    reports: dict[Scorer, Json] = {}
    for one in asked:
        table, promise = _table(one, name), _promise(book, found, one)
        limits = Limits(BARE[one.scorer], config.policy.max_regret, config.policy.delta, _prices(name), seed)
        made = evaluate(table, promise.promise, limits, promise.of, table.texts(RECIPES[one.scorer]))
        reports[one.scorer] = made.report
        print("\n".join(_lines(one.scorer, table, made, found, name, promise)))
        if plot_file is not None:
            _draw(_place(plot_file, one.scorer, len(asked)), table, made, found, name)
    if json_file is not None:
        _write(json_file, reports, found, dataset, name)


def _book(config: Config, first: Path | None, *, is_bare: bool) -> PromiseBook:
    """Where calibrations are looked for: the given folder, the user's own, those that ship."""
    if is_bare:
        return PromiseBook()
    policy, folders = config.policy, (*((first,) if first else ()), calibration_dir(os.environ))
    return PromiseBook(folders, shipped=shipped_calibrations(), max_regret=policy.max_regret, delta=policy.delta)


def _table(asked: Asked, cloud: str | None) -> Table:
    is_code = asked.scorer == "python"
    with shown("marking", len(asked.questions)) as on_row:
        return tabulate(
            asked.questions,
            asked.file,
            samples=asked.samples,
            votes=asked.votes,
            cloud=cloud,
            verifies=is_code,
            on_row=lambda: on_row(1),
        )


def _as_served(book: PromiseBook) -> Samples:
    """As many answers as the calibration draws, where there is one: they are what `serve` draws."""

    def samples(model: Model, dataset: Dataset, scorer: Scorer) -> int:
        task = next(question.task for question in dataset.questions if question.scorer == scorer)
        promise = book.find(model, KINDS[scorer], task or None).promise
        return SAMPLES[scorer] if promise is None else promise.samples

    return samples


def _promise(book: PromiseBook, model: Model, asked: Asked) -> Found:
    found = book.find(model, KINDS[asked.scorer], asked.questions[0].task or None)
    if found.promise is not None and found.promise.samples != asked.samples:
        what = f"the calibration is of {found.promise.samples} answers to each question, not of {asked.samples}"
        found = Found(None, what)
    if found.why is not None:
        print(f"not calibrated ({found.why}): ranked by the bare {BARE[asked.scorer]}", file=sys.stderr)
    return found


def _prices(cloud: str | None) -> Prices | None:
    """The list price of a model that is called as OpenAI's is; None where it is not known."""
    listed = None if cloud is None else lookup("openai", None, cloud)
    return None if listed is None else Prices(float(listed.input_usd_per_mtok), float(listed.output_usd_per_mtok))


def _write(path: Path, reports: Mapping[Scorer, Json], model: Model, dataset: Path, cloud: str | None) -> None:
    """All figures: those of the first kind of question at the top, of the others under their names."""
    first, *others = reports
    body = {
        "dataset": dataset.name,
        "model": model.name,
        "format": model.format,
        "fingerprint": model.fingerprint,
        "cloud": cloud,
        "scorer": first,
        **reports[first],
        **({"others": {name: reports[name] for name in others}} if others else {}),
    }
    try:
        path.write_text(json.dumps(body, indent=2, allow_nan=False) + "\n")
    except OSError as failed:
        raise CommandError(f"{path}: {failed.strerror or failed}") from failed


def _draw(path: Path, table: Table, made: Evaluated, model: Model, cloud: str | None) -> None:
    marks = table.cloud_right
    if marks is None:
        print("no picture: there is no cloud to compare with (--cloud)", file=sys.stderr)
        return
    best = sorted(made.signals, key=lambda name: -(made.report["auroc"].get(name) or 0.0))[:3]
    draw(
        Picture(
            title=f"{model.name} and {cloud}: {len(table.rows)} questions",
            score=made.score,
            local_correct=table.local_right,
            cloud_correct=marks,
            p=made.p,
            others={name: made.signals[name] for name in best},
            threshold_calls=made.threshold_calls,
            cloud_name=cloud or "cloud",
        ),
        path,
    )
    print(f"drawn: {path}", file=sys.stderr)


def _place(path: Path, scorer: Scorer, count: int) -> Path:
    return path if count == 1 else path.with_name(f"{path.stem}-{scorer}{path.suffix}")


def _check_writable(path: Path | None) -> None:
    """Raises: CommandError before the work, not after it, where a file cannot be written."""
    if path is not None and not path.absolute().parent.is_dir():
        raise CommandError(f"{path}: there is no folder {path.absolute().parent}")


def _lines(
    scorer: Scorer, table: Table, made: Evaluated, model: Model, cloud: str | None, calibrated: Found
) -> Iterator[str]:
    report = made.report
    promise = calibrated.promise
    by = f"calibration of {promise.task}" if promise is not None else f"bare {report['ranked_by']}"
    yield f"{len(table.rows)} questions ({scorer}), {model.name} {model.format}, ranked by {by}"
    for why, count in report["skipped"].items():
        yield f"  left out: {count} {why}"
    other = "" if report["accuracy_cloud"] is None else f"   {cloud} {report['accuracy_cloud']:.1%}"
    yield f"  right       local {report['accuracy_local']:.1%}{other}"
    if report["apgr"] is not None:
        yield from _curve_lines(report)
    yield f"  AUROC       {_signals_line(report['auroc'])}"
    if report["ece"] is not None:
        yield (
            f"  stated p    ECE {report['ece']:.3f} (chance alone {report['ece_floor']:.3f}), Brier "
            f"{report['brier']:.4f}, of the base rate {report['brier_base_rate']:.4f}"
        )
    yield from _promise_lines(report)
    yield from _other_lines(report)


def _curve_lines(report: Mapping[str, Json]) -> Iterator[str]:
    yield f"  APGR        {_with_interval(report, 'apgr')}; oracle {report['apgr_oracle']:.3f}, random 0.500"
    shares = [f"{name[3:]} %: {_with_interval(report, name)}" for name in ("cpt50", "cpt80", "cpt95")]
    yield f"  cloud calls to recover {'; '.join(shares)}"
    yield f"  AUC-DF      {_with_interval(report, 'auc_df')}"
    yield "  cloud share " + " ".join(f"{line['cloud_share']:>6.0%}" for line in report["sweep"])
    yield "  right       " + " ".join(f"{line['accuracy']:>6.1%}" for line in report["sweep"])
    if report["sweep"][-1]["usd"] is not None:
        prices = (line["usd_per_right_answer"] for line in report["sweep"])
        yield "  $/1k right  " + " ".join("     -" if usd is None else f"{1000 * usd:>6.2f}" for usd in prices)
    for name, one in report["one_model"].items():
        match = one["cloud_share_to_match"]
        yield f"  {name} alone: {one['accuracy']:.1%}" + (
            "" if match is None else f", matched with {match:.1%} of calls"
        )


def _promise_lines(report: Mapping[str, Json]) -> Iterator[str]:
    promise = report["promise"]
    if promise is not None:
        name = f"regret <= {promise['max_regret']:g} with confidence {1 - promise['delta']:g}"
        if promise["is_feasible"] and not promise["is_at_chance"]:
            right = "" if promise["accuracy"] is None else f", {promise['accuracy']:.1%} right"
            yield f"  promise     {name}: {promise['local_share']:.1%} local, regret {promise['regret']:.1%}{right}"
        else:
            why = "local is at chance" if promise["is_at_chance"] else "no threshold keeps it"
            yield f"  promise     {name}: nothing is answered locally, {why}"
    if report["violations"] is None:
        return
    ways = report["violations_by_method"]
    shown_ways = [
        f"{label} {ways[key]['broken']:.1%} (cloud {ways[key]['cloud_share']:.0%})"
        for key, label in (
            ("certified", "certified"),
            ("certified_true_regret", "for the true regret"),
            ("plug_in", "plug-in"),
        )
    ]
    yield f"  broken in {ways['splits']} splits: {'; '.join(shown_ways)}"


def _other_lines(report: Mapping[str, Json]) -> Iterator[str]:
    cut = report["cut_off"]
    if cut["share"]:
        yield f"  cut off     {cut['share']:.1%} of the answers, {cut['accuracy']:.1%} of them right"
    early = report["given_up"]
    if early is not None:
        yield (
            f"  given up    {early['share']:.1%} of the drafts as they grew: saves {early['saved_share']:.1%} of the "
            f"tokens of those not accepted, loses {early['lost_share']:.1%} of the accepted to the cloud"
        )
    if report["votes_asked"] is not None:
        share = f"{report['votes_asked']:.1%}"
        yield f"  votes       asked for in {share} of the questions; of the others they could not lift the letter"
    verifier = report["verifier"]
    if verifier is not None:
        counts = ", ".join(f"{name} {count}" for name, count in verifier["counts"].items())
        right = f"; with the cloud's {verifier['accuracy']:.1%} right" if verifier["accuracy"] is not None else ""
        kept = f"{verifier['local_accepted_right']:.1%} of the rest right"
        yield f"  verifier    {counts}; {verifier['cloud_share']:.1%} escalated, {kept}{right}"
    times = report["local_latency_s"]
    yield f"  local took  p50 {times['p50']:.2f} s, p95 {times['p95']:.2f} s, p99 {times['p99']:.2f} s, several at once"


def _signals_line(found: Mapping[str, float | None]) -> str:
    ranked: Sequence[tuple[str, float]] = sorted(
        ((name, value) for name, value in found.items() if value is not None), key=lambda pair: -pair[1]
    )
    return ", ".join(f"{name} {value:.3f}" for name, value in ranked[:SHOWN_SIGNALS])


def _with_interval(report: Mapping[str, Json], name: str) -> str:
    value, interval = report[name], report[f"{name}_ci95"]
    if value is None:
        return "-"
    return f"{value:.3f}" + ("" if interval is None else f" ({interval[0]:.3f} to {interval[1]:.3f})")
