"""Does `hybrid report` say where the next dollar goes, what the month will cost, and the same to a spreadsheet?"""

from __future__ import annotations

import asyncio
import csv
import io
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from hybrid.cli import main
from hybrid.store.keys import ClientKeys
from hybrid.store.ledger import Ledger, RequestClosed, RequestOpened, Reservation
from hybrid.types import Cap, KeyRules, Outcome, Route, Window

NOW = datetime.now(UTC)
CAP = Cap("usd_per_day", Window(NOW - timedelta(days=99), NOW + timedelta(days=1)), Decimal(500))


async def escalate(ledger: Ledger, name: str, *, tag: str | None, usd: str, confidence: float, days_ago: float) -> None:
    """A doubted draft; what costs something was paid for, what costs nothing stayed for want of money."""
    at, cost_usd = NOW - timedelta(days=days_ago), Decimal(usd)
    ledger.open_request(RequestOpened(id=name, created_at=at, dialect="openai", requested_model="hybrid", tag=tag))
    if cost_usd:
        await ledger.reserve(
            Reservation(
                id=f"rsv_{name}",
                request_id=name,
                provider="big",
                model="m",
                amount_usd=cost_usd,
                now=at,
                caps=(CAP,),
                tag=None if tag is None else tag.casefold(),
            )
        )
        await ledger.settle(f"rsv_{name}", cost_usd, is_estimated=False)
    ledger.close_request(
        RequestClosed(
            id=name, outcome=Outcome.OK, route=Route.CLOUD if cost_usd else Route.LOCAL, model="m",
            reason="confidence" if cost_usd else "budget", degraded=None if cost_usd else "budget",
            confidence=confidence, decision_json=json.dumps({"facts": {"budget_lambda": confidence}}),
        )
    )  # fmt: skip


@pytest.fixture
def report(tmp_path, capsys):
    """Run `hybrid report` on ten days of escalations of three tags, one of which is written in two ways."""

    async def fill() -> None:
        ledger = Ledger(tmp_path / "hybrid.sqlite3")
        await ledger.start()
        for number in range(10):
            for tag, usd, confidence in (
                (("easy", "Easy")[number % 2], "0.02", 0.3),
                ("hard", "0.03", 0.1),
                (None, "0", 0.2),
                ("=2+5", "0", 0.05),
            ):
                await escalate(
                    ledger, f"r{number}{tag}{usd}", tag=tag, usd=usd, confidence=confidence, days_ago=10 - number
                )
        await escalate(ledger, "few", tag="few", usd="0.01", confidence=0.34, days_ago=0.5)
        await escalate(ledger, "last", tag="few", usd="0.01", confidence=0.25, days_ago=0)
        await ledger.aclose()

    asyncio.run(fill())

    def run(*args: str) -> tuple[int, str, str]:
        code = main(["report", "--since", "all", *args, "--data-dir", str(tmp_path)])
        return code, *capsys.readouterr()

    return run


def test_where_the_next_dollar_goes(report):
    """The costliest reason first, the tag nearest to good to save on, the worst unpaid one to spend on."""
    facts = json.loads(report("--json")[1])
    assert [("confidence", 22, 0.52)] == [
        (one["reason"], one["requests"], one["spent_usd"]) for one in facts["next_dollar"]["costliest_reasons"]
    ]
    assert [("easy", 10, 0.3), ("hard", 10, 0.1)] == [
        (one["tag"], one["requests"], one["confidence"]) for one in facts["next_dollar"]["save_on_tags"]
    ]
    assert [("=2+5", 10, 0.05), (None, 10, 0.2)] == [
        (one["tag"], one["requests"], one["confidence"]) for one in facts["next_dollar"]["spend_on_tags"]
    ]


def test_the_price_of_the_last_decision(report):
    """lambda is that of the newest request that has one."""
    assert 0.25 == json.loads(report("--json")[1])["lambda"]


def test_the_months_end(report):
    """Nine whole days of five cents give a forecast of the calendar month; a tag's is of its own money."""
    ahead = json.loads(report("--json")[1])["forecast"]
    assert (f"{NOW.astimezone():%Y-%m}", 9, 0.8) == (ahead["month"], ahead["from_days"], ahead["interval"])
    assert ahead["spent_usd"] <= ahead["low_usd"] <= ahead["expected_usd"] <= ahead["high_usd"] + 1e-6
    assert None is json.loads(report("--json", "--tag", "few")[1])["forecast"]


def test_money_whose_request_is_lost_is_its_tags(report, tmp_path):
    """A call outlives its request's row where the backlog was full; the tag's forecast and open money know of it."""

    async def call(name: str, *, is_settled: bool) -> None:
        await ledger.reserve(
            Reservation(
                id=name, request_id="lost", provider="big", model="m", amount_usd=Decimal("7.5"),
                now=NOW - timedelta(days=0 if is_settled else 1), caps=(CAP,), tag="hard",
            )
        )  # fmt: skip
        if is_settled:
            await ledger.settle(name, Decimal(7), is_estimated=False)

    async def lose() -> None:
        await ledger.start()
        await call("settled", is_settled=True)
        await call("open", is_settled=False)

    before = json.loads(report("--json", "--tag", "Hard")[1])
    ledger = Ledger(tmp_path / "hybrid.sqlite3")
    asyncio.run(lose())
    after = json.loads(report("--json", "--tag", "Hard")[1])
    asyncio.run(ledger.aclose())
    assert 7.0 == pytest.approx(after["forecast"]["spent_usd"] - before["forecast"]["spent_usd"])
    assert (0, 7.5) == (before["reserved_usd"], after["reserved_usd"])


def test_by_tag(report):
    """--by tag groups by x-hybrid-tag, those without one under null."""
    groups = json.loads(report("--json", "--by", "tag")[1])["groups"]
    assert {None: 10, "=2+5": 10, "easy": 10, "hard": 10, "few": 2} == {g["key"]: g["requests"] for g in groups}


@pytest.mark.parametrize("by", ["day", "tag"])
def test_a_tag_is_one_in_any_case(report, by):
    """As budgets and private tags have it: --tag finds both, and --by tag is one row of both."""
    facts = json.loads(report("--json", "--by", by, "--tag", "EASY")[1])
    assert (10, 0.2) == (facts["requests"], facts["spent_usd"])
    assert by == "day" or ["easy"] == [group["key"] for group in facts["groups"]]
    assert [("easy", 10)] == [(one["tag"], one["requests"]) for one in facts["next_dollar"]["save_on_tags"]]


def test_csv(report):
    """--csv is the groups with a heading, money to its last digit, and no text a spreadsheet would run."""
    code, out, _ = report("--csv", "--by", "tag")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert 0 == code
    assert {"", "'=2+5", "easy", "few", "hard"} == {row["tag"] for row in rows}
    assert Decimal("0.52") == sum(Decimal(row["spent_usd"]) for row in rows)
    assert 42 == sum(int(row["requests"]) for row in rows)


def test_people_read_sentences(report):
    """Without --json each is one line, none longer than a terminal is wide."""
    _, out, _ = report("--by", "tag")
    said = out.splitlines()
    for start in ("forecast", "lambda", "costliest", "to save    tag easy: 10 paid", "to spend   tag =2+5: 10 unpaid"):
        [line] = [line for line in said if line.startswith(f"  {start}")]
        assert len(line) <= 80


def test_the_costliest_reason_is_a_share_of_all_spend(report, tmp_path):
    """Money that no request's row stands for is of it all too: of a call whose row was lost, or after a power cut."""

    async def lose_a_row() -> None:
        ledger = Ledger(tmp_path / "hybrid.sqlite3")
        await ledger.start()
        await ledger.reserve(
            Reservation(
                id="rsv_lost", request_id="lost", provider="big", model="m", amount_usd=Decimal("0.52"), now=NOW,
                caps=(CAP,),
            )
        )  # fmt: skip
        await ledger.settle("rsv_lost", Decimal("0.52"), is_estimated=False)
        await ledger.aclose()

    assert "costliest  confidence: $0.520000 in 22 requests, 100% of it all" in report()[1]
    asyncio.run(lose_a_row())
    assert "costliest  confidence: $0.520000 in 22 requests, 50% of it all" in report()[1]


def test_how_the_budgets_stand(report, tmp_path):
    """Each cap of the configuration and of client keys is told with what its window counts, to programs and people."""
    secret = ClientKeys(tmp_path / "hybrid.sqlite3").add("phone", KeyRules(usd_per_month=Decimal(3)))
    config = tmp_path / "hybrid.toml"
    config.write_text(
        '[budget]\nusd_per_window = 1\nwindow_hours = 960\ntimezone = "UTC"\n[tags.Easy]\nusd_per_window = 0.5\n'
        "window_hours = 960\n"
    )
    budgets = json.loads(report("--json", "--config", str(config))[1])["budgets"]
    assert secret
    assert [
        ("budget.usd_per_window", 1, 0.52),
        ("tag Easy.usd_per_window", 0.5, 0.2),
        ("key phone.usd_per_month", 3, 0),
    ] == [(one["name"], one["limit_usd"], one["spent_usd"]) for one in budgets]
    assert (
        "  cap        budget.usd_per_window: $0.520000 of $1 (52%)" in report("--config", str(config))[1].splitlines()
    )


def test_a_configuration_that_is_wrong(report, tmp_path):
    """Named here it is an error; found by itself it costs the budgets and not the report."""
    (tmp_path / "wrong.toml").write_text("nonsense = 1")
    code, out, err = report("--config", str(tmp_path / "wrong.toml"))
    assert (2, "") == (code, out)
    assert "unknown key nonsense" in err


def test_one_form_at_a_time(report):
    """Both forms at once are bad usage."""
    code, out, err = report("--csv", "--json")
    assert (2, "") == (code, out)
    assert "--json and --csv" in err
