"""Local answers that were given are compared with the cloud's afterwards: within the budget, and never private ones."""

import asyncio
import os
import signal
import sqlite3
from contextlib import closing

import pytest

from hybrid.providers.fake import Answer, FakeProvider, Fault
from hybrid.store.labels import Origin, read_labels
from tests.e2e.serving import FAKE_MODEL, Serving, cloud_toml

AUDITED = '[policy]\naudit_share = 1.0\nprivate_tags = ["hr"]\n'
QUESTION = "the sky is blue today"


def _idle(server: Serving) -> dict:
    """Give what /readyz says of audits when none runs; the test's own time limit bounds it."""
    while (state := server.client.get(server.url.replace("/v1", "/readyz")).json()["audit"])["running"]:
        pass
    return state


def _rows(folder) -> list[tuple[str, str, str]]:
    with closing(sqlite3.connect(folder / "hybrid.sqlite3")) as connection:
        return connection.execute("SELECT dialect, reason, outcome FROM requests ORDER BY rowid").fetchall()


def test_an_accepted_answer_is_audited_after_it_was_given(tmp_path):
    """The client gets local's answer; the cloud is asked, paid and compared, in a row and a line of its own."""

    async def scenario() -> tuple:
        async with FakeProvider(Answer(chunks=(QUESTION,))) as cloud:
            with Serving(tmp_path, FAKE_MODEL + AUDITED + cloud_toml(cloud.base_url)) as server:
                answer = await asyncio.to_thread(server.ask, QUESTION)
                await asyncio.to_thread(_idle, server)
                report = await asyncio.to_thread(server.report)
                text = await asyncio.to_thread(server.hybrid, "report")
        return answer, report, text, len(cloud.requests)

    answer, report, text, asked = asyncio.run(scenario())
    (label,) = read_labels(tmp_path / "hybrid.sqlite3")

    assert ("local", QUESTION) == (answer.headers["x-hybrid-route"], answer.json()["choices"][0]["message"]["content"])
    assert "0" == answer.headers["x-hybrid-cost-usd"]
    assert 1 == asked
    assert (1, {"local": 1, "cloud": 0, "cache": 0}) == (report["requests"], report["routes"])
    assert 1 == report["audits"]["answers"]
    assert report["audits"]["spent_usd"] == report["spent_usd"] > 0
    assert "1 local answers compared" in text
    assert (Origin.AUDIT, True, True, 1.0) == (label.origin, label.is_accepted, label.agrees, label.weight)
    assert label.request_id == answer.headers["x-hybrid-request-id"]
    assert QUESTION.encode() not in (tmp_path / "hybrid.sqlite3").read_bytes()


def test_an_escalated_draft_is_a_label_too(tmp_path):
    """The cloud answered in local's place; what local would have said is compared, and nobody is asked twice."""

    async def scenario() -> int:
        async with FakeProvider(Answer(chunks=("something else",))) as cloud:
            with Serving(tmp_path, FAKE_MODEL + AUDITED + cloud_toml(cloud.base_url)) as server:
                answer = await asyncio.to_thread(server.ask, "[doubt] is it so?")
                assert "cloud" == answer.headers["x-hybrid-route"]
                await asyncio.to_thread(_idle, server)
        return len(cloud.requests)

    assert 1 == asyncio.run(scenario())
    (label,) = read_labels(tmp_path / "hybrid.sqlite3")
    assert (Origin.ESCALATION, False, False, 1.0) == (label.origin, label.is_accepted, label.agrees, label.weight)
    assert label.features["mean_logprob"] < 0


@pytest.mark.parametrize(
    ("fields", "headers"),
    [
        pytest.param({}, {"x-hybrid-tag": "hr"}, id="private-tag"),
        pytest.param({}, {"x-hybrid-policy": "local-only"}, id="local-only"),
        pytest.param({"model": "local"}, {}, id="pinned"),
        pytest.param({"stop": ["zzz"], "n": 2}, {}, id="several-answers"),
    ],
)
def test_what_may_not_leave_is_never_audited(tmp_path, fields, headers):
    """No byte of it reaches the cloud, before or after the answer."""

    async def scenario() -> int:
        async with FakeProvider(Answer(chunks=("x",))) as cloud:
            with Serving(tmp_path, FAKE_MODEL + AUDITED + cloud_toml(cloud.base_url)) as server:
                answer = await asyncio.to_thread(server.ask, QUESTION, headers=headers, **fields)
                assert 200 == answer.status_code
                await asyncio.to_thread(_idle, server)
        return len(cloud.requests)

    assert 0 == asyncio.run(scenario())
    assert () == read_labels(tmp_path / "hybrid.sqlite3")


def test_without_money_there_is_no_audit(tmp_path):
    """A budget that has no room for the worst case asks nobody, and the client notices nothing."""

    async def scenario() -> int:
        async with FakeProvider(Answer(chunks=("x",))) as cloud:
            config = FAKE_MODEL + AUDITED + cloud_toml(cloud.base_url, usd_per_day="0.000001")
            with Serving(tmp_path, config) as server:
                answer = await asyncio.to_thread(server.ask, QUESTION)
                assert (200, "local") == (answer.status_code, answer.headers["x-hybrid-route"])
                await asyncio.to_thread(_idle, server)
                report = await asyncio.to_thread(server.report)
                assert (0, 0) == (report["spent_usd"], report["audits"]["answers"])
        return len(cloud.requests)

    assert 0 == asyncio.run(scenario())


def test_a_share_of_nothing_asks_nobody(tmp_path):
    """By default accepted answers are not audited."""

    async def scenario() -> int:
        async with FakeProvider(Answer(chunks=("x",))) as cloud:
            with Serving(tmp_path, FAKE_MODEL + cloud_toml(cloud.base_url)) as server:
                await asyncio.to_thread(server.ask, QUESTION)
                await asyncio.to_thread(_idle, server)
        return len(cloud.requests)

    assert 0 == asyncio.run(scenario())


def test_a_silent_cloud_keeps_no_server_from_stopping(tmp_path):
    """An audit that hangs is cancelled with its reservation settled at its worst case: it left, so it may be billed."""

    async def scenario() -> int:
        async with FakeProvider(Answer(fault=Fault.STALL)) as cloud:
            with Serving(tmp_path, FAKE_MODEL + AUDITED + cloud_toml(cloud.base_url)) as server:
                answer = await asyncio.to_thread(server.ask, QUESTION)
                assert "local" == answer.headers["x-hybrid-route"]
                await cloud.request(0)
                server.process.send_signal(signal.SIGINT)
                code = await asyncio.to_thread(server.process.wait, 30)
        return code

    asyncio.run(scenario())
    assert ("audit", "audit", "cancelled") == _rows(tmp_path)[-1]
    with closing(sqlite3.connect(tmp_path / "hybrid.sqlite3")) as connection:
        settled = connection.execute("SELECT settled_by, settled_nusd = reserved_nusd FROM reservations").fetchall()
    assert [("estimate", 1)] == settled


def test_a_server_killed_during_an_audit_is_settled_at_the_next_start(tmp_path):
    """kill -9 while the cloud is silent: the next start finds the row lost and the money counted at its worst case."""

    async def scenario() -> dict:
        async with FakeProvider(Answer(fault=Fault.STALL)) as cloud:
            config = FAKE_MODEL + AUDITED + cloud_toml(cloud.base_url)
            with Serving(tmp_path, config) as server:
                await asyncio.to_thread(server.ask, QUESTION)
                await cloud.request(0)
                os.kill(server.process.pid, signal.SIGKILL)
                await asyncio.to_thread(server.process.wait)
            with Serving(tmp_path, config) as server:
                report: dict = await asyncio.to_thread(server.report)
        return report

    report = asyncio.run(scenario())
    assert report["audits"]["spent_usd"] == report["spent_usd"] > 0
    assert 0 == report["reserved_usd"]
    assert ("audit", "lost") == (_rows(tmp_path)[-1][0], _rows(tmp_path)[-1][2])
