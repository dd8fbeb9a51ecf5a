"""Does `hybrid explain` show a whole decision, find a request by what people type, and survive odd records?"""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from hybrid.cli import main
from hybrid.plain import to_plain
from hybrid.policy.model import CloudOption, Draft, Limits, Review, Signals
from hybrid.policy.replay import weighed
from hybrid.policy.review import review
from hybrid.policy.route import route
from hybrid.record import write_inputs, write_outcome
from hybrid.store.ledger import Ledger, RequestClosed, RequestOpened, Reservation
from hybrid.types import Cap, Json, Outcome, Route, Window

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
CAP = Cap("usd_per_day", Window(NOW - timedelta(days=1), NOW + timedelta(days=1)), Decimal(5))
DECISION = {
    "facts": {"policy": "auto", "prompt_tokens": 120, "deadline_s": None},
    "decision": {"kind": "run_local", "reason": "default", "may_escalate": True},
    "checks": [
        {"rule": "context", "is_passed": True, "detail": "120 + 256 <= 8192 tokens"},
        {"rule": "latency", "is_passed": True, "detail": "0.3 s <= 1.5 s"},
    ],
    "review": {
        "confidence": 0.25,
        "is_accepted": False,
        "reason": "confidence",
        "checks": [{"rule": "confidence", "is_passed": False, "detail": "0.25 < 0.5"}],
    },
    "events": [{"at_s": 0.001, "what": "decided: run_local (default)"}, {"at_s": 0.25, "what": "released"}],
}


def closed(name: str, decision_json: str | None) -> RequestClosed:
    """An escalated request that ended well."""
    return RequestClosed(
        id=name, outcome=Outcome.OK, route=Route.CLOUD, model="gpt", provider="openai", reason="confidence",
        confidence=0.25, prompt_tokens=118, completion_tokens=44, cached_tokens=64, local_prompt_tokens=120,
        local_completion_tokens=16, cloud_prompt_tokens=118, cloud_completion_tokens=44,
        cost_usd=Decimal("0.0000123456"), saved_usd=Decimal(0), queue_s=0.001, ttft_s=0.25, total_s=1.5,
        overhead_s=0.0009, decision_json=decision_json,
    )  # fmt: skip


@pytest.fixture
def explain(tmp_path, capsys):
    """Write requests that ended with these decisions, in order; then run `hybrid explain` on the ledger."""

    async def write(decisions: dict[str, str | None]) -> None:
        ledger = Ledger(tmp_path / "hybrid.sqlite3", clock=lambda: NOW)
        await ledger.start()
        for number, (name, decision_json) in enumerate(decisions.items()):
            ledger.open_request(
                RequestOpened(
                    id=name, created_at=NOW + timedelta(seconds=number), dialect="openai", requested_model="hybrid",
                    tag="\x1b[2J", client_key="phone", is_stream=True,
                )
            )  # fmt: skip
            await ledger.reserve(
                Reservation(
                    id=f"rsv_{name}", request_id=name, provider="openai", model="gpt", amount_usd=Decimal("0.01"),
                    now=NOW, caps=(CAP,),
                )
            )  # fmt: skip
            ledger.settle_soon(f"rsv_{name}", Decimal("0.0000123456"), is_estimated=False)
            ledger.close_request(closed(name, decision_json))
        await ledger.aclose()

    def run(decisions: dict[str, str | None], *args: str) -> tuple[int, str, str]:
        asyncio.run(write(decisions))
        code = main(["explain", *args, "--data-dir", str(tmp_path)])
        return code, *capsys.readouterr()

    return run


def test_the_whole_decision(explain):
    """The text holds facts, each check in order with its numbers, the verdicts, what happened, times and money."""
    code, out, _ = explain({"req_1": json.dumps(DECISION)}, "req_1")
    in_order = [
        "req_1  ok  2026-06-01T12:00:00+00:00",
        "asked for    hybrid (openai, streamed, key phone, tag \\x1b[2J)",
        "answered by  cloud: gpt of openai",
        "because      confidence; confidence 0.250 (an uncalibrated score)",
        "answer       118 prompt + 44 answer tokens, 64 of the prompt cached",
        "all tokens   local 120 + 16, cloud 118 + 44",
        "money        spent $0.000012346, saved $0",
        "time         queued 0.001 s, first token 0.250 s, total 1.500 s, ours 0.001 s",
        "facts",
        "prompt_tokens            120",
        "deadline_s               unknown",
        "pass  context        120 + 256 <= 8192 tokens",
        "pass  latency        0.3 s <= 1.5 s",
        "decided: kind=run_local reason=default may_escalate=true",
        "fail  confidence     0.25 < 0.5",
        "verdict: confidence=0.25 is_accepted=false reason=confidence",
        "+0.001 s  decided: run_local (default)",
        "+0.250 s  released",
        "rsv_req_1  openai/gpt  $0.01, settled at $0.000012346 (as the provider reported)",
    ]
    at = [out.find(text) for text in in_order]
    assert (0, []) == (code, [text for text, position in zip(in_order, at, strict=True) if position < 0])
    assert sorted(at) == at


def test_json(explain):
    """--json is the row, its decision and its reservations, money exact."""
    _, out, _ = explain({"req_1": json.dumps(DECISION)}, "req_1", "--json")
    facts = json.loads(out, parse_float=Decimal)
    assert ("req_1", "ok", "cloud", True, False) == tuple(
        facts[name] for name in ("id", "outcome", "route", "is_stream", "is_calibrated")
    )
    assert Decimal("0.000012346") == facts["cost_usd"]
    recorded = json.loads(json.dumps(DECISION), parse_float=Decimal)
    assert recorded == {name: facts["decision"][name] for name in recorded}
    (reservation,) = facts["reservations"]
    assert ("rsv_req_1", Decimal("0.01"), Decimal("0.000012346"), "usage") == tuple(
        reservation[name] for name in ("id", "reserved_usd", "settled_usd", "settled_by")
    )


FACTS = Signals(
    prompt_tokens=120,
    max_output_tokens=64,
    prefill_tok_s=400.0,
    decode_tok_s=20.0,
    budget_left_usd=Decimal(1),
    clouds=tuple(
        CloudOption(provider="openai", model=f"a-model-with-quite-a-long-name-{place}", reserve_usd=Decimal("0.0123"))
        for place in range(3)
    ),
)
DOUBTED: Review = review(Draft(logprobs=(-0.5, -1.9)), Limits(ttft_s=1.5))


def recorded() -> dict[str, Json]:
    """A decision as this version writes it: a local draft that was doubted."""
    signals, limits = FACTS, Limits(ttft_s=1.5)
    decision = route(signals, limits)
    verdict = weighed(DOUBTED, decision, signals)
    body = to_plain(write_inputs(signals, limits, verdict) | write_outcome(decision, verdict))
    return {**body, "events": [{"at_s": 0.5, "what": "a note of many words, " * 9}]}


def test_it_is_decided_again(explain):
    """What the row recorded is replayed, and what would have changed it is told, within 100 columns."""
    _, out, _ = explain({"req_1": json.dumps(recorded())}, "req_1")
    in_order = [
        "limits",
        "min_confidence           0.35",
        "decided: kind=run_local reason=default fallback=openai/a-model-with-quite-a-long-name-0",
        "replayed",
        "same: the recorded inputs give this again, to the last bit",
        "what would have changed it",
        "with a confidence of at least 0.35 instead of 0.1496, it would have been answered locally",
        "with policy.min_confidence = 0.14 instead of 0.35, it would have been answered locally",
        "what happened",
    ]
    at = [out.find(text) for text in in_order]
    assert [] == [text for text, position in zip(in_order, at, strict=True) if position < 0]
    assert sorted(at) == at
    assert [] == [line for line in out.splitlines() if len(line) > 100]


def test_json_of_a_replay(explain):
    """--json has the inputs, the outcome, the replay and the changes, each change with its numbers and its words."""
    _, out, _ = explain({"req_1": json.dumps(recorded())}, "req_1", "--json")
    decision = json.loads(out)["decision"]

    wanted = {"facts", "limits", "reviewed", "checks", "decision", "review", "replay", "counterfactuals", "events"}
    assert set() == wanted - set(decision)
    assert (True, True, []) == tuple(decision["replay"][name] for name in ("is_replayable", "is_same", "differences"))
    nearest = {change["fact"]: change for change in decision["counterfactuals"]}["draft.confidence"]
    assert (0.35, "at_least", "local") == (nearest["needed"], nearest["bound"], nearest["place"]["where"])
    assert len(decision["counterfactuals"]) <= 5


def test_a_rule_that_changed_is_named(explain):
    """Where this version decides otherwise than the one that wrote the row, each value that differs is told."""
    row = recorded()
    row["program"] = "0.0.9"
    row["review"]["is_accepted"] = True
    row["checks"][0]["detail"] = "it was said otherwise"
    _, out, _ = explain({"req_1": json.dumps(row)}, "req_1")

    assert "differs: 2 of its values come out otherwise (recorded by version 0.0.9, replayed by" in out
    assert "review.is_accepted: was true, now false" in out
    assert "checks[local_capability].detail: was it was said otherwise, now local can do all it needs" in out


@pytest.mark.parametrize(
    ("decision_json", "expected"),
    [
        pytest.param(json.dumps(DECISION), "not possible: it was recorded by a version that did not", id="older"),
        pytest.param(
            json.dumps({**recorded(), "format": 99}), "not possible: it was recorded in format 99", id="newer"
        ),
        pytest.param(
            json.dumps({**recorded(), "limits": {"ttft_s": "soon"}}), 'Limits.ttft_s is "soon", not float', id="broken"
        ),
        pytest.param(json.dumps({"facts": {}}), "not possible: nothing was decided", id="undecided"),
    ],
)
def test_what_cannot_be_replayed(explain, decision_json, expected):
    """A row of another version is explained as far as it goes, and says why it cannot be decided again."""
    code, out, _ = explain({"req_1": decision_json}, "req_1")
    assert (0, True) == (code, expected in out)


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        pytest.param("req_abc", "req_abc", id="whole"),
        pytest.param("req_b", "req_bcd", id="beginning"),
        pytest.param("last", "req_bcd", id="last"),
        pytest.param("req_ab", "req_ab", id="whole-though-others-begin-so"),
    ],
)
def test_what_people_type(explain, typed, expected):
    """A whole id, an unambiguous beginning, or "last" finds the request."""
    code, out, err = explain({"req_ab": None, "req_abc": None, "req_bcd": None}, typed)
    assert (0, "") == (code, err)
    assert expected == out.split()[0]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        pytest.param("req_a", "begins several ids; among them: req_abd, req_abc", id="ambiguous"),
        pytest.param("nope", "no request 'nope'; the most recent ones are: req_abd, req_abc", id="unknown"),
        pytest.param("req_%", "no request 'req_%'", id="no-pattern"),
    ],
)
def test_what_is_not_found(explain, typed, expected):
    """Anything else ends with exit code 1 and lists the requests there are, newest first."""
    code, out, err = explain({"req_abc": None, "req_abd": None}, typed)
    assert (1, "") == (code, out)
    assert expected in err


@pytest.mark.parametrize(
    "decision_json",
    [
        pytest.param(None, id="none"),
        pytest.param("", id="empty"),
        pytest.param("{", id="broken"),
        pytest.param("[]", id="not-an-object"),
        pytest.param("{}", id="no-keys"),
        pytest.param('{"facts": 1, "checks": {}, "decision": [], "review": null, "events": "x"}', id="other-types"),
        pytest.param('{"checks": [{}, 1], "review": {"checks": [{}]}, "events": [{}, 2]}', id="empty-entries"),
    ],
)
def test_odd_records(explain, decision_json):
    """A record of an older or newer version is shown as far as it goes, as text and as JSON."""
    code, out, _ = explain({"req_1": decision_json}, "req_1")
    assert (0, True) == (code, "answered by  cloud: gpt of openai" in out)


def test_no_ledger_yet(tmp_path, capsys):
    """Before anything was served there is nothing to explain, and that is said."""
    assert main(["explain", "last", "--data-dir", str(tmp_path)]) == 1
    assert "nothing was served" in capsys.readouterr().err


def test_an_empty_ledger(explain):
    """With a ledger that holds no request, "last" says so."""
    code, _, err = explain({}, "last")
    assert (1, True) == (code, "the ledger is empty" in err)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        pytest.param(None, "nobody yet: it is still running", id="open"),
        pytest.param(
            RequestClosed(id="req_1", outcome=Outcome.REJECTED, error_code="budget_exhausted"),
            "nobody: budget_exhausted",
            id="refused",
        ),
        pytest.param(RequestClosed(id="req_1", outcome=Outcome.CANCELLED), "nobody: cancelled", id="cancelled"),
        pytest.param(
            RequestClosed(
                id="req_1",
                outcome=Outcome.OK,
                route=Route.LOCAL,
                model="smol",
                reason="cloud_failure",
                degraded="budget",
            ),
            "degraded: budget, not what the policy wanted",
            id="degraded",
        ),
    ],
)
def test_ends(tmp_path, capsys, row, expected):
    """However a request ended, or did not, the text says who answered it."""

    async def write() -> None:
        ledger = Ledger(tmp_path / "hybrid.sqlite3", clock=lambda: NOW)
        await ledger.start()
        ledger.open_request(RequestOpened(id="req_1", created_at=NOW, dialect="openai", requested_model="hybrid"))
        if row is not None:
            ledger.close_request(row)
        await ledger.aclose()

    asyncio.run(write())
    assert main(["explain", "last", "--data-dir", str(tmp_path)]) == 0
    assert expected in capsys.readouterr().out
