"""What does `hybrid explain` print: one request's facts, rules, outcome, what would have changed it, and the money?"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from hybrid.cli.explain_why import changes, limits, replayed, words, wrapped
from hybrid.cli.ledger_path import ledger_path
from hybrid.cli.printable import printable
from hybrid.errors import CommandError
from hybrid.explained import explained
from hybrid.store.reports import find_requests, read_request
from hybrid.types import Json

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_NEWEST = "last"
_SPREADS = {"errors"}
_FIRST = ("kind", "confidence", "is_accepted", "reason")
"""Of what was decided, as people read it; a row has the names in the order of the alphabet."""
"""Facts that are rows of numbers: `--json` has them, and what they mean is in the rule that used them."""


@app.command()
def explain(
    request_id: Annotated[
        str, typer.Argument(metavar="REQUEST_ID", help="As in x-hybrid-request-id; a beginning will do, or: last.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,  # noqa: FBT002
    data_dir_option: Annotated[
        Path | None,
        typer.Option(
            "--data-dir", metavar="DIR", help="The folder of the ledger; default: HYBRID_DATA_DIR or your own."
        ),
    ] = None,
) -> None:
    """Replay one decision: the facts, each rule, the outcome, what would have changed it. Works while a server runs."""
    path = ledger_path(data_dir_option)
    request = read_request(path, _resolve(path, request_id))
    if request is None:
        raise CommandError(f"{request_id} vanished from {path} meanwhile")
    request["decision"] = explained(request["decision"])
    if as_json:
        # "number": money keeps its exact digits and is still a number to whoever reads it.
        encoder = msgspec.json.Encoder(decimal_format="number")
        print(msgspec.json.format(encoder.encode(request)).decode())
    else:
        print("\n".join(part for line in _lines(request) for part in wrapped(printable(line))))


def _resolve(path: Path, wanted: str) -> str:
    """The one id that a person means.

    Raises: CommandError if there is none or more than one; it lists ids that would do.
    """
    found = find_requests(path, "" if wanted == _NEWEST else wanted)
    if found is None:
        raise CommandError(f"no ledger at {path} yet: nothing was served")
    if not found:
        recent = find_requests(path, "") or ()
        listed = f"the most recent ones are: {', '.join(recent)}" if recent else "the ledger is empty"
        raise CommandError(f"no request {wanted!r}; {listed}")
    if len(found) > 1 and wanted not in (_NEWEST, found[0]):
        raise CommandError(f"{wanted!r} begins several ids; among them: {', '.join(found)}")
    return found[0]


def _lines(request: Mapping[str, Json]) -> Iterator[str]:
    decision = _mapping(request["decision"])
    yield f"{request['id']}  {request['outcome']}  {request['created_at']}"
    yield from _summary(request)
    yield from _section(
        "facts",
        [
            f"{name:<24} {_clouds(value) if name == 'clouds' else words(value)}"
            for name, value in _mapping(decision.get("facts")).items()
            if name not in _SPREADS
        ],
    )
    yield from _section("limits", limits(_mapping(decision.get("limits"))))
    verdict = _mapping(decision.get("decision"))
    yield from _section(
        "route", [*_checks(decision), *_verdict("decided", verdict, skip=("checks", "hedge", "others"))]
    )
    review = _mapping(decision.get("review"))
    yield from _section("review of the draft", [*_checks(review), *_verdict("verdict", review, skip=("checks",))])
    yield from _section("both sides at once", _hedge(_mapping(decision.get("hedge")), request))
    yield from _section("replayed", replayed(decision))
    yield from _section("what would have changed it", changes(decision))
    yield from _section("what happened", _events(decision))
    yield from _section("money set aside", _reservations(request))


def _summary(request: Mapping[str, Json]) -> Iterator[str]:
    asked = [request["dialect"], "streamed" if request["is_stream"] else "not streamed"]
    asked += [f"{label} {request[name]}" for name, label in (("client_key", "key"), ("tag", "tag")) if request[name]]
    yield f"  asked for    {request['requested_model'] or '-'} ({', '.join(asked)})"
    if request["outcome"] == "open":
        yield "  answered by  nobody yet: it is still running"
    elif request["outcome"] == "lost":
        yield "  answered by  unknown: the process died while it ran"
    elif request["route"] is None:
        yield f"  answered by  nobody: {request['error_code'] or request['outcome']}"
    else:
        provider = f" of {request['provider']}" if request["provider"] else ""
        yield f"  answered by  {request['route']}: {request['model']}{provider}"
    yield from _reasons(request)
    if request["prompt_tokens"] is not None:
        cached = f", {request['cached_tokens']} of the prompt cached" if request["cached_tokens"] else ""
        yield f"  answer       {request['prompt_tokens']} prompt + {request['completion_tokens']} answer tokens{cached}"
    yield (
        f"  all tokens   local {request['local_prompt_tokens']} + {request['local_completion_tokens']}, "
        f"cloud {request['cloud_prompt_tokens']} + {request['cloud_completion_tokens']}"
    )
    yield f"  money        spent {_usd(request['cost_usd'])}, saved {_usd(request['saved_usd'])}"
    times = [("queue_s", "queued"), ("ttft_s", "first token"), ("total_s", "total"), ("overhead_s", "ours")]
    yield "  time         " + ", ".join(f"{label} {_seconds(request[name])}" for name, label in times)


def _reasons(request: Mapping[str, Json]) -> Iterator[str]:
    if request["reason"] is None:
        return
    line = f"  because      {request['reason']}"
    if request["confidence"] is not None:
        kind = "calibrated probability" if request["is_calibrated"] else "an uncalibrated score"
        line += f"; confidence {request['confidence']:.3f} ({kind})"
    if request["degraded"]:
        line += f"; degraded: {request['degraded']}, not what the policy wanted"
    yield line


def _section(title: str, lines: Sequence[str]) -> Iterator[str]:
    if lines:
        yield ""
        yield title
        yield from (f"  {line}" for line in lines)


def _checks(of: Mapping[str, Json]) -> list[str]:
    """One line a rule, in the order they were applied; "fail" is where local stopped being possible."""
    lines = []
    for check in map(_mapping, _list(of.get("checks"))):
        mark = "pass" if check.get("is_passed") else "fail"
        lines.append(f"{mark}  {check.get('rule', '?'):<14} {check.get('detail', '')}".rstrip())
    return lines


def _verdict(title: str, verdict: Mapping[str, Json], *, skip: Sequence[str]) -> list[str]:
    parts = [
        f"{name}={words(value, is_brief=True)}"
        for name, value in [(name, verdict[name]) for name in _in_order(verdict)]
        if name not in skip and value is not None
    ]
    return [f"{title}: {' '.join(parts)}"] if parts else []


def _in_order(names: Collection[str]) -> list[str]:
    return [*(name for name in _FIRST if name in names), *(name for name in names if name not in _FIRST)]


def _named(option: Json) -> str | None:
    """A cloud model by its name; None for anything else."""
    option = _mapping(option)
    return f"{option['provider']}/{option['model']}" if {"provider", "model"} <= set(option) else None


def _clouds(options: Json) -> str:
    """The cloud models with what each may cost, and how long it takes to begin, as far as that was seen."""
    shown = []
    for option in map(_mapping, _list(options)):
        bound = option.get("prompt_tokens_bound")
        prompt = "" if bound is None else f" with at most {bound} prompt tokens"
        about = [f"may cost {_usd(option.get('reserve_usd'))}{prompt}"]
        first = _list(_mapping(_mapping(option.get("latency")).get("ttft")).get("values"))
        if first:
            about.append(f"begins in {first[len(first) // 2 - 1]:.3g} s, one in a hundred after {first[-1]:.3g} s")
        shown.append(f"{_named(option)} ({'; '.join(about)})")
    return ", ".join(shown) or "none"


def _hedge(hedge: Mapping[str, Json], request: Mapping[str, Json]) -> list[str]:
    if not hedge:
        return []
    ended = "" if hedge.get("ended_s") is None else f", first at {_seconds(hedge['ended_s'])}"
    lines = [
        f"asked       {hedge.get('provider')}/{hedge.get('model')} beside local, at {_seconds(hedge.get('started_s'))}",
        f"then late   local with {_share(hedge.get('local_late'))}, the cloud with {_share(hedge.get('cloud_late'))}",
        f"won by      {request.get('hedge') or 'nobody yet'}{ended}",
    ]
    if hedge.get("has_failed"):
        lines.append("the cloud   failed before it gave anything")
    if request.get("double_usd") is not None:
        lines.append(f"paid twice  {_usd(request['double_usd'])} for the cloud, although local answered")
    return lines


def _events(decision: Mapping[str, Json]) -> list[str]:
    lines = []
    for event in map(_mapping, _list(decision.get("events"))):
        at_s = event.get("at_s")
        when = f"+{at_s:.3f} s" if isinstance(at_s, int | float) else "?"
        lines.append(f"{when:>11}  {event.get('what', '')}")
    return lines


def _reservations(request: Mapping[str, Json]) -> list[str]:
    how = {
        "usage": "as the provider reported",
        "estimate": "estimated by us",
        "release": "the call never left",
        "recovery": "at its worst case: the process died",
    }
    lines = []
    for one in request["reservations"]:
        fate = "still open"
        if one["settled_by"] is not None:
            fate = f"settled at {_usd(one['settled_usd'])} ({how.get(one['settled_by'], one['settled_by'])})"
        lines.append(f"{one['id']}  {one['provider']}/{one['model']}  {_usd(one['reserved_usd'])}, {fate}")
    return lines


def _mapping(value: Json) -> Mapping[str, Json]:
    """The value, or nothing where an older or newer version wrote something else there."""
    return value if isinstance(value, Mapping) else {}


def _list(value: Json) -> Sequence[Json]:
    return value if isinstance(value, list) else []


def _usd(amount: Json) -> str:
    return "unknown" if amount is None else f"${amount}" if isinstance(amount, str) else f"${amount:f}"


def _share(share: Json) -> str:
    return "?" if share is None else f"{share:.0%}"


def _seconds(span_s: Json) -> str:
    return "-" if span_s is None else f"{span_s:.3f} s"
