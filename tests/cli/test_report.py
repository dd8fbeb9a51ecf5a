"""Does `hybrid report` add up what the ledger holds, exactly, and beside a running server?"""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from hybrid.cli import main
from hybrid.store.ledger import Ledger, RequestClosed, RequestOpened, Reservation
from hybrid.types import Cap, Outcome, Route, Window

NOW = datetime.now(UTC)
CAP = Cap("usd_per_day", Window(NOW - timedelta(days=99), NOW + timedelta(days=1)), Decimal(5))


async def fill(ledger: Ledger) -> None:
    """Four requests: local, escalated, refused, and one whose cloud call is out."""
    for name, tag, key, age in (
        ("req_local", "home", "phone", timedelta(days=2)),
        ("req_cloud", "work", "phone", timedelta(hours=1)),
        ("req_refused", "work", None, timedelta(hours=1)),
        ("req_open", "work", None, timedelta(0)),
    ):
        ledger.open_request(
            RequestOpened(
                id=name, created_at=NOW - age, dialect="openai", requested_model="hybrid", tag=tag, client_key=key
            )
        )
    for name in ("req_cloud", "req_open"):
        await ledger.reserve(
            Reservation(
                id=f"rsv_{name}", request_id=name, provider="openai", model="gpt", amount_usd=Decimal("0.1"), now=NOW,
                caps=(CAP,), tag="work",
            )
        )  # fmt: skip
    await ledger.settle("rsv_req_cloud", Decimal("0.0123456789"), is_estimated=False)
    ledger.close_request(
        RequestClosed(
            id="req_local", outcome=Outcome.OK, route=Route.LOCAL, model="smol", reason="default",
            local_prompt_tokens=100, local_completion_tokens=20, cost_usd=Decimal(0), saved_usd=Decimal("0.000123"),
        )
    )  # fmt: skip
    ledger.close_request(
        RequestClosed(
            id="req_cloud", outcome=Outcome.OK, route=Route.CLOUD, model="gpt", provider="openai", reason="confidence",
            local_prompt_tokens=50, local_completion_tokens=10, cloud_prompt_tokens=49, cloud_completion_tokens=30,
            cost_usd=Decimal("0.0123456789"), saved_usd=Decimal(0),
        )
    )  # fmt: skip
    ledger.close_request(
        RequestClosed(
            id="req_refused", outcome=Outcome.REJECTED, reason="budget", hedge="none", double_usd=Decimal("0.002")
        )
    )
    await ledger.flush()


@pytest.fixture
def report(tmp_path, capsys):
    """Run `hybrid report` while a ledger with four requests is open: the exit code, stdout and stderr."""

    async def with_a_server(args: tuple[str, ...]) -> int:
        ledger = Ledger(tmp_path / "hybrid.sqlite3")
        await ledger.start()
        try:
            await fill(ledger)
            return await asyncio.to_thread(main, ["report", *args, "--data-dir", str(tmp_path)])
        finally:
            await ledger.aclose()

    def run(*args: str) -> tuple[int, str, str]:
        code = asyncio.run(with_a_server(args))
        return code, *capsys.readouterr()

    return run


def decoded(text: str) -> dict:
    """JSON with its numbers as the decimals they were written as."""
    return json.loads(text, parse_float=Decimal)


def test_json_adds_up(report):
    """--json holds the promised keys; money is the exact decimal and counts are those of the ledger."""
    code, out, err = report("--json")
    facts = decoded(out)
    assert (0, "") == (code, err)
    assert (4, {"local": 1, "cloud": 1, "cache": 0}) == (facts["requests"], facts["routes"])
    assert {"ok": 2, "open": 1, "rejected": 1} == facts["outcomes"]
    assert {"budget": 1, "confidence": 1, "default": 1} == facts["reasons"]
    assert {"local_prompt": 150, "local_completion": 30, "cloud_prompt": 49, "cloud_completion": 30} == facts["tokens"]
    assert ({"none": 1}, Decimal("0.002")) == (facts["hedges"], facts["double_usd"])
    money = [facts[name] for name in ("spent_usd", "reserved_usd", "saved_usd")]
    assert [Decimal("0.012345679"), Decimal("0.1"), Decimal("0.000123")] == money


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        pytest.param("route", {None: 2, "cloud": 1, "local": 1}, id="route"),
        pytest.param("model", {None: 2, "gpt": 1, "smol": 1}, id="model"),
        pytest.param("key", {None: 2, "phone": 2}, id="key"),
        pytest.param("reason", {None: 1, "budget": 1, "confidence": 1, "default": 1}, id="reason"),
    ],
)
def test_groups(report, by, expected):
    """Each grouping holds every request once, those without the property under null, and adds up to the whole."""
    facts = decoded(report("--json", "--by", by)[1])
    assert expected == {group["key"]: group["requests"] for group in facts["groups"]}
    for name in ("spent_usd", "saved_usd"):
        assert facts[name] == sum(group[name] for group in facts["groups"])


def test_days_are_local(report):
    """A day's group is named by its date in this machine's zone."""
    facts = decoded(report("--json", "--by", "day")[1])
    expected = {f"{(NOW - age).astimezone():%Y-%m-%d}" for age in (timedelta(days=2), timedelta(hours=1), timedelta(0))}
    assert expected == {group["key"] for group in facts["groups"]}


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        pytest.param(("--since", "1d"), 3, id="one-day"),
        pytest.param(("--since", "30m"), 1, id="half-an-hour"),
        pytest.param(("--since", "52w"), 4, id="weeks"),
        pytest.param(("--since", "999999w"), 4, id="longer-than-time"),
        pytest.param(("--since", "all"), 4, id="all"),
        pytest.param(("--since", "2001-01-01"), 4, id="a-date"),
        pytest.param(("--since", "2001-01-01T00:00:00Z"), 4, id="a-time-with-zone"),
        pytest.param(("--tag", "home"), 1, id="a-tag"),
        pytest.param(("--tag", "'; DROP TABLE requests"), 0, id="no-such-tag"),
    ],
)
def test_scope(report, args, expected):
    """--since and --tag narrow what is counted."""
    assert expected == decoded(report("--json", *args)[1])["requests"]


@pytest.mark.parametrize(
    ("tag", "spent_usd", "reserved_usd"),
    [pytest.param("home", "0", "0", id="local"), pytest.param("work", "0.012345679", "0.1", id="escalated")],
)
def test_a_tags_money(report, tag, spent_usd, reserved_usd):
    """With --tag, spent and reserved money are those of its requests alone."""
    facts = decoded(report("--json", "--tag", tag)[1])
    assert (Decimal(spent_usd), Decimal(reserved_usd)) == (facts["spent_usd"], facts["reserved_usd"])


@pytest.mark.parametrize(
    "args",
    [("--since", "soon"), ("--since", "7"), ("--since", "-1d"), ("--since", "2026-13-01"), ("--by", "colour"), ("x",)],
    ids=" ".join,
)
def test_bad_usage(tmp_path, capsys, args):
    """An option that cannot be understood ends with exit code 2, a message and nothing on stdout."""
    assert main(["report", *args, "--data-dir", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert ("", True) == (out, len(err) > 0)


def test_people_see_a_table(report):
    """Without --json the sums are sentences and the groups a table."""
    _, out, _ = report("--by", "route")
    assert "4 requests since" in out
    assert "local 1 (25%), cloud 1 (25%)" in out
    assert "spent $0.012346, saved $0.000123, set aside now $0.100000" in out
    assert [["-", "2"], ["cloud", "1"], ["local", "1"]] == [line.split()[:2] for line in out.splitlines()[-3:]]


def test_control_characters_are_written_out(tmp_path, capsys):
    """A tag with an escape sequence cannot move the reader's cursor."""

    async def write() -> None:
        ledger = Ledger(tmp_path / "hybrid.sqlite3")
        await ledger.start()
        ledger.open_request(
            RequestOpened(id="req_1", created_at=NOW, dialect="openai", requested_model="m", client_key="\x1b[2J[red]")
        )
        await ledger.aclose()

    asyncio.run(write())
    main(["report", "--by", "key", "--data-dir", str(tmp_path)])
    out, _ = capsys.readouterr()
    assert ("\x1b" in out, "\\x1b[2J[red]" in out) == (False, True)


def test_nothing_served_yet(tmp_path, capsys):
    """Without a ledger the report is empty but whole, stderr says why, and no file is made."""
    assert main(["report", "--json", "--data-dir", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    facts = decoded(out)
    assert (0, {"local": 0, "cloud": 0, "cache": 0}, 0, []) == tuple(
        facts[name] for name in ("requests", "routes", "spent_usd", "groups")
    )
    assert "nothing was served" in err
    assert [] == list(tmp_path.iterdir())


def test_a_broken_ledger(tmp_path, capsys):
    """A file that is no ledger ends with exit code 1 and what to do."""
    (tmp_path / "hybrid.sqlite3").write_text("no database " * 100)
    assert main(["report", "--data-dir", str(tmp_path)]) == 1
    assert "not a hybrid ledger" in capsys.readouterr().err


def test_money_without_its_request(report, tmp_path, capsys):
    """A paid call whose request row was lost still counts in the sum."""
    report()
    with closing(sqlite3.connect(tmp_path / "hybrid.sqlite3")) as connection:
        connection.execute("DELETE FROM requests")
        connection.commit()
    main(["report", "--json", "--data-dir", str(tmp_path)])
    # The call that was out when the ledger was closed counts only once the next start has settled it.
    assert Decimal("0.012345679") == decoded(capsys.readouterr().out)["spent_usd"]


@pytest.mark.parametrize("by", ["model", "key", "tag", "route", "reason", "day"])
def test_what_audits_cost_is_seen(report, tmp_path, capsys, by):
    """In a row of its own, or on its day, so that the rows add up to the total though no client waited for them."""
    report()
    with closing(sqlite3.connect(tmp_path / "hybrid.sqlite3")) as connection:
        connection.execute("UPDATE requests SET dialect = 'audit'")
        connection.commit()
    main(["report", "--json", "--by", by, "--data-dir", str(tmp_path)])
    facts = decoded(capsys.readouterr().out)
    assert 0 == facts["requests"]
    assert facts["audits"]["spent_usd"] == facts["spent_usd"] > 0
    assert facts["spent_usd"] == sum(group["spent_usd"] for group in facts["groups"])
    assert by == "day" or ["audits"] == [group["key"] for group in facts["groups"]]


SPENT_FOR_NOTHING = [
    pytest.param("openai", None, None, "-0.004", id="no-answer"),
    pytest.param("audit", Route.CLOUD, None, "-0.004", id="audit"),
    pytest.param("openai", Route.LOCAL, None, "-0.004", id="local-answer-of-unknown-use"),
    pytest.param("openai", Route.CLOUD, None, "0", id="cloud-answer-of-unknown-use"),
    pytest.param("openai", Route.CLOUD, "0.001", "0.001", id="a-cheaper-cloud"),
    pytest.param("openai", Route.LOCAL, "-0.001", "-0.001", id="a-hedge-that-was-lost"),
]


@pytest.mark.parametrize(("dialect", "route", "kept_usd", "expected"), SPENT_FOR_NOTHING)
@pytest.mark.parametrize("by", ["day", "route"])
def test_what_bought_no_answer_is_not_saved(tmp_path, capsys, by, dialect, route, kept_usd, expected):
    """Saved is what the cloud would have cost for the answers less all that was spent, in each row and in all."""
    paid_usd, kept = Decimal("0.004"), None if kept_usd is None else Decimal(kept_usd)

    async def write() -> None:
        ledger = Ledger(tmp_path / "hybrid.sqlite3")
        await ledger.start()
        ledger.open_request(RequestOpened(id="req_1", created_at=NOW, dialect=dialect, requested_model="m"))
        await ledger.reserve(
            Reservation(
                id="rsv_1", request_id="req_1", provider="openai", model="gpt", amount_usd=paid_usd, now=NOW,
                caps=(CAP,),
            )
        )  # fmt: skip
        await ledger.settle("rsv_1", paid_usd, is_estimated=True)
        outcome = Outcome.OK if route else Outcome.FAILED
        ledger.close_request(RequestClosed(id="req_1", outcome=outcome, route=route, cost_usd=paid_usd, saved_usd=kept))
        await ledger.aclose()

    asyncio.run(write())
    main(["report", "--json", "--by", by, "--data-dir", str(tmp_path)])
    facts = decoded(capsys.readouterr().out)
    assert Decimal(expected) == facts["saved_usd"] == sum(group["saved_usd"] for group in facts["groups"])


@pytest.fixture
def after_a_power_cut(tmp_path, capsys):
    """Run `hybrid report` on a ledger that was started after one: a block of its tag `work` is charged, 0.64 USD."""

    async def scenario() -> None:
        path, cap = tmp_path / "hybrid.sqlite3", replace(CAP, tag="work", name="tags.work")
        before = Ledger(path, has_escrow=True, boot_id="before", clock=lambda: NOW)
        await before.start()
        await before.reserve(
            Reservation(
                id="rsv_1", request_id="req_1", provider="openai", model="gpt", amount_usd=Decimal("0.01"), now=NOW,
                caps=(replace(CAP, limit_usd=Decimal(99)), replace(cap, limit_usd=Decimal(99))), tag="work",
            )
        )  # fmt: skip
        (tmp_path / "disk").mkdir()
        for name in (path.name, f"{path.name}-wal"):
            shutil.copy(path.with_name(name), tmp_path / "disk" / name)
        await before.aclose()
        after = Ledger(tmp_path / "disk" / path.name, has_escrow=True, boot_id="after", clock=lambda: NOW)
        await after.start()
        await after.aclose()

    asyncio.run(scenario())

    def run(*args: str) -> str:
        assert 0 == main(["report", "--since", "all", *args, "--data-dir", str(tmp_path / "disk")])
        return capsys.readouterr().out

    return run


CHARGE_USD = Decimal("0.64")


@pytest.mark.parametrize("by", ["model", "key", "tag", "route", "reason", "day"])
def test_the_charge_of_a_power_cut_is_seen(after_a_power_cut, by):
    """In a row of its own, or on its day; so the rows add up to the total, in which it has a line."""
    facts = decoded(after_a_power_cut("--json", "--by", by))
    assert (CHARGE_USD, CHARGE_USD, -CHARGE_USD) == tuple(
        facts[name] for name in ("power_cut_usd", "spent_usd", "saved_usd")
    )
    for name in ("spent_usd", "saved_usd"):
        assert facts[name] == sum(group[name] for group in facts["groups"])
    [row] = [group for group in facts["groups"] if group["spent_usd"]]
    assert 0 == row["requests"]
    assert row["key"] == "power cut" or by == "day"


def test_a_power_cut_in_words_and_of_one_tag(after_a_power_cut):
    """The tag whose block it was has it, another has not."""
    assert "power cut  $0.640000 of the spend" in after_a_power_cut()
    of_tags = [decoded(after_a_power_cut("--json", "--tag", tag))["spent_usd"] for tag in ("Work", "home")]
    assert [CHARGE_USD, 0] == of_tags
