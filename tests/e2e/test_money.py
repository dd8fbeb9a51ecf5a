"""Over real HTTP and with a real ledger: is no cap ever passed, and what does a client get when the money is gone?"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from decimal import Decimal

import httpx2
import pytest

from hybrid.providers.fake import Answer, FakeProvider, Fault
from tests.e2e.serving import FAKE_MODEL, Serving, body, cloud_toml

DOUBT = "[doubt] a question"


WORST_USD = Decimal("0.000766")
"""What DOUBT with 100 answer tokens sets aside: (512 + 32 + 22 bytes) at 1 USD and 100 at 2 USD a million."""


def _for_ten(cloud: FakeProvider) -> str:
    """A cloud with a budget for ten calls at their worst case and not one more."""
    return cloud_toml(cloud.base_url, usd_per_day=str(WORST_USD * 10 + WORST_USD / 2))


async def _ask_all(server: Serving, count: int, **fields: object) -> list[httpx2.Response]:
    """Ask so often at once, each on a connection of its own."""
    limits = httpx2.Limits(max_connections=count)
    async with httpx2.AsyncClient(base_url=server.url, timeout=60, limits=limits) as client:
        asked = (client.post("/chat/completions", json=body(DOUBT, max_tokens=100, **fields)) for _ in range(count))
        return list(await asyncio.gather(*asked))


@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
def test_a_client_without_money_gets_a_local_answer_that_says_so(tmp_path, is_stream):
    """A doubted draft that nobody may pay for is given all the same, marked degraded by the budget."""

    async def scenario() -> None:
        async with FakeProvider(Answer(chunks=("cloud",))) as cloud:
            with Serving(tmp_path, FAKE_MODEL + cloud_toml(cloud.base_url, usd_per_day="0.000001")) as server:
                answer = await asyncio.to_thread(server.ask, DOUBT, stream=is_stream)
                report = await asyncio.to_thread(server.report)
        assert (200, "local") == (answer.status_code, answer.headers["x-hybrid-route"])
        if not is_stream:
            assert DOUBT == answer.json()["choices"][0]["message"]["content"]
            assert "budget" == answer.headers["x-hybrid-degraded"]
        assert (0, 0, []) == (report["spent_usd"], report["reserved_usd"], cloud.requests)

    asyncio.run(scenario())


@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    "wish",
    [
        pytest.param({"model": "cloud"}, id="by-model"),
        pytest.param({"headers": {"x-hybrid-policy": "cloud-only"}}, id="by-header"),
    ],
)
def test_cloud_only_without_money_is_a_402(tmp_path, wish, is_stream):
    """Who wants the cloud and nothing else is told that the money is gone, before anything is sent."""

    async def scenario() -> None:
        async with FakeProvider(Answer(chunks=("cloud",))) as cloud:
            with Serving(tmp_path, FAKE_MODEL + cloud_toml(cloud.base_url, usd_per_day="0.000001")) as server:
                answer = await asyncio.to_thread(server.ask, "x", stream=is_stream, **wish)
        error = answer.json()["error"]
        assert (402, "budget_exhausted", "insufficient_quota") == (answer.status_code, error["code"], error["type"])
        assert "are left" in error["message"]
        assert [] == cloud.requests

    asyncio.run(scenario())


def test_without_a_local_model_no_money_is_a_402(tmp_path):
    """Where only clouds could answer, the missing money is what is told, and not the missing model."""

    async def scenario() -> None:
        async with FakeProvider() as cloud:
            config = '[local]\nmodel = ""\n' + cloud_toml(cloud.base_url, usd_per_day="0.000001")
            with Serving(tmp_path, config) as server:
                answer = await asyncio.to_thread(server.ask, "x")
        assert (402, "budget_exhausted") == (answer.status_code, answer.json()["error"]["code"])

    asyncio.run(scenario())


@pytest.mark.parametrize("model", ["cloud", "hybrid"])
def test_sixty_four_at_once_against_a_budget_for_ten(tmp_path, model):
    """Of calls that each cost all that was set aside just ten are paid, and the others have a 402 or a local answer."""

    async def scenario() -> None:
        async with FakeProvider(Answer(chunks=("cloud",), cost_usd=WORST_USD)) as cloud:
            config = FAKE_MODEL.replace("slots = 2", "slots = 64") + _for_ten(cloud) + 'pace = "off"\n'
            with Serving(tmp_path, config) as server:
                answers = await _ask_all(server, 64, model=model)
                report = await asyncio.to_thread(server.report)
        paid = [answer for answer in answers if answer.headers.get("x-hybrid-route") == "cloud"]
        others = [answer for answer in answers if answer not in paid]
        assert (10, 10, 54) == (len(cloud.requests), len(paid), len(others))
        if model == "cloud":
            assert {402} == {answer.status_code for answer in others}
        else:
            assert {(200, "local", "budget")} == {
                (a.status_code, a.headers["x-hybrid-route"], a.headers["x-hybrid-degraded"]) for a in others
            }
        assert (64, 0) == (report["requests"], report["reserved_usd"])
        assert 10 * WORST_USD == Decimal(str(report["spent_usd"]))

    asyncio.run(scenario())


def test_at_most_ten_are_out_at_once(tmp_path):
    """While the cloud is silent just ten of sixty-four calls have left, and no more than their worst case is open."""

    async def scenario() -> None:
        cloud = await FakeProvider(Answer(fault=Fault.STALL, after_chunks=0)).__aenter__()
        config = FAKE_MODEL + _for_ten(cloud).replace("[prices", "between_tokens_timeout_s = 600\n[prices", 1)
        with Serving(tmp_path, config) as server:
            asked = asyncio.create_task(_ask_all(server, 64, model="cloud"))
            await cloud.request(9)
            report = await asyncio.to_thread(server.report)
            await cloud.__aexit__()  # the cloud goes, and so the ten end
            answers = await asked
            after = await asyncio.to_thread(server.report)
        assert 10 == len(cloud.requests)
        assert 10 * WORST_USD == Decimal(str(report["reserved_usd"]))
        assert 54 == [answer.status_code for answer in answers].count(402)
        # What was broken off counts in full: nobody knows what it will be billed at.
        assert (0, 10 * WORST_USD) == (after["reserved_usd"], Decimal(str(after["spent_usd"])))

    asyncio.run(scenario())


def zone_of_noon(now: datetime) -> str:
    """A time zone where it is between noon and one o'clock now. The names count westward."""
    ahead_hours = 12 - now.hour
    return "Etc/GMT" if ahead_hours == 0 else f"Etc/GMT{-ahead_hours:+d}"


def test_escalations_thin_out_before_the_money_is_gone(tmp_path):
    """As the day's money goes within seconds the price rises, and the less doubted stay local though some is left."""

    async def scenario() -> None:
        async with FakeProvider(Answer(chunks=("cloud",) * 50)) as cloud:
            config = FAKE_MODEL + "[policy]\nmin_confidence = 0.09\n" + cloud_toml(cloud.base_url, usd_per_day="0.02")
            # Late in a day little demand is left, and money may go as fast: at noon half of it is.
            config += f'timezone = "{zone_of_noon(datetime.now(UTC))}"\n'
            with Serving(tmp_path, config) as server:
                answers = [await asyncio.to_thread(server.ask, f"{DOUBT} {n}", max_tokens=500) for n in range(100)]
                kept = next(answer for answer in answers if answer.headers["x-hybrid-route"] == "local")
                first, last = [
                    await asyncio.to_thread(server.explain, answer.headers["x-hybrid-request-id"])
                    for answer in (answers[0], kept)
                ]
        assert "cloud" == answers[0].headers["x-hybrid-route"]
        assert ("budget", "budget") == (kept.headers["x-hybrid-reason"], kept.headers["x-hybrid-degraded"])
        assert 0 == first["decision"]["facts"]["budget_lambda"]
        facts = last["decision"]["facts"]
        assert facts["budget_lambda"] > 0.2
        assert Decimal(facts["budget_left_usd"]) > Decimal(facts["clouds"][0]["reserve_usd"])
        assert "worth" == last["decision"]["review"]["checks"][-1]["rule"]

    asyncio.run(scenario())
