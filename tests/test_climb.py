"""Is a failing cloud left for the next one before its first token, never after it, and each rung paid for by itself?"""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal

import pytest

from hybrid import errors
from hybrid.climb import Climb
from hybrid.clouds import CloudModel, Clouds
from hybrid.journal import Journal
from hybrid.policy.model import Escalate, Reason
from hybrid.pricing import TokenPrice
from hybrid.race import Call
from hybrid.store.ledger import Ledger
from hybrid.types import Cap, ChatRequest, Finished, FinishReason, Message, TextDelta, TextPart, Usage, Window

PRICE = TokenPrice(input_usd_per_mtok=Decimal(0), output_usd_per_mtok=Decimal(1000), source="test")
"""A thousandth of a dollar an answer token, and prompts for nothing: a call of 100 may cost $0.1."""
RESERVE = Decimal("0.1")
USAGE = Usage(prompt_tokens=7, completion_tokens=3)
ANSWER = [TextDelta("Hello"), Finished(FinishReason.STOP, USAGE)]
STALL = "stall"


class Scripted:
    """A provider that says what it is told: events, an exception, or silence. Remembers its calls."""

    capabilities = frozenset()

    def __init__(self, name, *script):
        self.name, self.script, self.calls = name, script, []

    def missing(self, request):
        return frozenset()

    async def stream(self, call):
        self.calls.append(call)
        for item in self.script:
            if isinstance(item, errors.HybridError) and not getattr(item, "may_have_billed", True):
                raise item
            call.on_sent()
            if isinstance(item, Exception):
                raise item
            if item == STALL:
                await asyncio.Event().wait()
            yield item

    async def aclose(self):
        pass


def unsent(error):
    """The same failure before any byte left."""
    error.may_have_billed = False
    return error


class World:
    """Clouds of one model each over a real ledger with a dollar a day, and one request that climbs them."""

    def __init__(self, ledger, *providers, **request):
        now = datetime.now().astimezone()
        cap = Cap("budget.usd_per_day", Window(now - timedelta(days=1), now + timedelta(days=1)), Decimal(1))
        models = [
            CloudModel(provider=one, model=f"m{number}", price=PRICE, max_output_tokens=100)
            for number, one in enumerate(providers)
        ]
        self.ledger, self.window = ledger, cap.window
        self.prices = PRICE
        self.clouds = Clouds(models, ledger, lambda _now, _request: (cap,), prices=self)
        usual = {"model": "cloud", "messages": (Message("user", (TextPart("Hi"),)),), "is_stream": True}
        self.request = ChatRequest(**{**usual, **request})
        self.journal = Journal(id="req_1", dialect="openai", arrived_s=time.monotonic(), requested_model="cloud")

    async def climb(self, until_s=None, *, is_hedged=False):
        """The events, the error it ended with, and the cloud that was last tried.

        is_hedged: the first rung was asked before, beside a local draft.
        """
        options = [self.clouds.option(model, self.request, None) for model in self.clouds.models]
        decision = Escalate(reason=Reason.PINNED, option=options[0], others=tuple(options[1:]))
        running = None
        if is_hedged:
            first = self.clouds.call(self.clouds.models[0], self.request, options[0], self.journal)
            running = Call(first, is_whole=False).events()
            while not self.notes:  # noqa: ASYNC110 - until it has reserved: the ledger's thread comes between
                await asyncio.sleep(0)
        climb, events = Climb(self.clouds, decision, self.request, self.journal, running), []
        try:
            async with aclosing(climb.events(until_s)) as items:
                async for event in items:
                    events.append(event)
        except errors.HybridError as error:
            return events, error, climb.cloud.provider.name
        return events, None, climb.cloud.provider.name

    def price(self, _cloud, _model):
        """What every model costs now."""
        return self.prices

    @property
    def notes(self):
        return [what for _, what in self.journal.events]

    async def money(self):
        """What was spent, and what is still set aside."""
        balance = await self.ledger.balance(self.window)
        return balance.spent_usd, balance.reserved_usd


def climbed(path, *providers, is_hedged=False, **request):
    """Climb once: events, error, the cloud that answered, and (spent, reserved) after it."""

    async def scenario():
        ledger = Ledger(path / "ledger.sqlite3")
        await ledger.start()
        try:
            world = World(ledger, *providers, **request)
            found = await world.climb(is_hedged=is_hedged)
            return *found, await world.money(), world
        finally:
            await ledger.aclose()

    async def bounded():
        async with asyncio.timeout(20):
            return await scenario()

    return asyncio.run(bounded())


SPENT = Decimal("0.003")
"""What three answer tokens cost."""

FALLS = [
    pytest.param(unsent(errors.ProviderUnavailable("a", "refused")), Decimal(0), id="cannot-be-reached"),
    pytest.param(errors.ProviderUnavailable("a", "answered HTTP 500"), RESERVE, id="500-may-have-billed"),
    pytest.param(errors.ProviderTimeout("a", "no token"), RESERVE, id="timeout-may-have-billed"),
    pytest.param(errors.ProviderProtocolError("a", "garbage"), RESERVE, id="garbage-may-have-billed"),
    pytest.param(errors.ProviderThrottled("a", 5.0), Decimal(0), id="429"),
    *(
        pytest.param(errors.ProviderRejected("a", status, "no"), Decimal(0), id=str(status))
        for status in (401, 402, 403, 404, 409, 410, 307)
    ),
    pytest.param(errors.UnsupportedCapability(["n"], where="a"), Decimal(0), id="cannot-after-all"),
]


@pytest.mark.parametrize(("failure", "cost"), FALLS)
def test_a_rung_that_fails_before_its_first_token_is_left_for_the_next(tmp_path, failure, cost):
    """The second answers; the first is settled by what is known of it, and nothing stays set aside."""
    first, second = Scripted("a", failure), Scripted("b", *ANSWER)
    if isinstance(failure, errors.UnsupportedCapability):
        failure.may_have_billed = False
    events, error, by, money, world = climbed(tmp_path, first, second)
    assert (ANSWER, None, "b") == (events, error, by)
    assert (cost + SPENT, Decimal(0)) == money
    assert cost + SPENT == world.journal.cost_usd
    assert any(note.startswith(f"a/m0 left: {failure.code}: ") for note in world.notes)


def test_a_refusal_that_may_be_billed_is_settled_at_its_worst_case(tmp_path):
    """Azure charges for an input that its filter stopped, and does not tell how much."""
    refusal = errors.ProviderRejected("a", 400, "filtered")
    refusal.may_have_billed = True
    second = Scripted("b", *ANSWER)
    events, error, _, money, world = climbed(tmp_path, Scripted("a", refusal), second)
    assert ([], refusal, []) == (events, error, second.calls)
    assert ((RESERVE, Decimal(0)), RESERVE) == (money, world.journal.cost_usd)


@pytest.mark.parametrize("status", [400, 413, 415, 422])
def test_a_request_that_is_wrong_is_not_tried_elsewhere(tmp_path, status):
    """Every other cloud would refuse it as well, and the caller should hear it from the first."""
    second = Scripted("b", *ANSWER)
    events, error, by, money, _ = climbed(tmp_path, Scripted("a", errors.ProviderRejected("a", status, "bad")), second)
    assert ([], status, "a") == (events, error.upstream_status, by)
    assert ([], (Decimal(0), Decimal(0))) == (second.calls, money)


@pytest.mark.parametrize(
    "failure", [errors.ProviderUnavailable("a", "reset"), errors.ProviderRejected("a", 429, "in mid-stream")]
)
def test_after_the_first_token_the_cloud_never_changes(tmp_path, failure):
    """What was said cannot be unsaid: the failure is the answer's end, however well the next one is."""
    second = Scripted("b", *ANSWER)
    failure.may_have_billed = True
    events, error, by, money, _ = climbed(tmp_path, Scripted("a", TextDelta("Hel"), failure), second)
    assert ([TextDelta("Hel")], failure, "a", []) == (events, error, by, second.calls)
    assert (RESERVE, Decimal(0)) == money


def test_when_every_rung_fails_the_last_failure_is_told_with_the_first_moment_to_try_again(tmp_path):
    """Each was tried once, in order, and each is in the notes of `hybrid explain`."""
    clouds = [Scripted(name, errors.ProviderThrottled(name, wait_s)) for name, wait_s in (("a", 9.0), ("b", 30.0))]
    events, error, by, money, world = climbed(tmp_path, *clouds)
    assert ([], "b", 9.0, [1, 1]) == (events, by, error.retry_after_s, [len(one.calls) for one in clouds])
    assert (Decimal(0), Decimal(0)) == money
    assert ["a/m0 left: provider_throttled: a: is rate limiting us (retry after 9 s)"] == [
        note for note in world.notes if " left: " in note
    ]


def test_a_second_model_of_a_provider_that_cannot_be_reached_is_passed_over(tmp_path):
    """Its address is the same; the next provider is asked instead, and the notes say so."""
    down = Scripted("a", unsent(errors.ProviderUnavailable("a", "refused")))
    events, _, by, _, world = climbed(tmp_path, down, down, Scripted("b", *ANSWER))
    assert (ANSWER, "b", 1) == (events, by, len(down.calls))
    assert "a/m1 passed over: a could not be reached a moment ago" in world.notes


def test_only_the_last_rung_waits_for_a_rate_limit(tmp_path):
    """With another cloud at hand nobody waits; on the last one, as long as it is configured to."""
    clouds = Scripted("a", errors.ProviderThrottled("a", 5.0)), Scripted("b", *ANSWER)
    climbed(tmp_path, *clouds)
    assert [0.0, 10.0] == [one.calls[0].max_wait_s for one in clouds]


def test_the_last_rung_waits_no_longer_than_the_deadline(tmp_path):
    """A wait beyond the request's own deadline could only end in its failure."""
    last = Scripted("a", *ANSWER)
    climbed(tmp_path, last, deadline_s=4.0)
    assert 0 < last.calls[0].max_wait_s <= 4.0


def test_a_rung_that_says_nothing_leaves_the_next_its_share_of_the_deadline(tmp_path):
    """A stalled stream is left when half of the time is gone; what it may cost is counted in full."""
    events, error, by, money, world = climbed(tmp_path, Scripted("a", STALL), Scripted("b", *ANSWER), deadline_s=0.2)
    # The first item of a stalled script is never yielded, but its bytes had left.
    assert (ANSWER, None, "b") == (events, error, by)
    assert (RESERVE + SPENT, Decimal(0)) == money
    assert any("no token within 0.1 s, and another cloud can be tried" in note for note in world.notes)


def test_what_failed_rungs_may_have_cost_counts_to_what_the_request_allows(tmp_path):
    """$0.15 hold one worst case of $0.1 and not two: the second is passed over, and the money is the answer."""
    second = Scripted("b", *ANSWER)
    events, error, _, money, _ = climbed(
        tmp_path, Scripted("a", errors.ProviderUnavailable("a", "500")), second, max_cost_usd=Decimal("0.15")
    )
    assert ([], "budget_exhausted", []) == (events, error.code, second.calls)
    assert (RESERVE, Decimal(0)) == money


def test_a_hedge_that_says_nothing_is_settled_before_another_rung_is_paid(tmp_path):
    """A first rung that runs already is ended like any other: what it may have cost counts to what is allowed."""
    first, second = Scripted("a", STALL), Scripted("b", *ANSWER)
    events, error, _, money, world = climbed(
        tmp_path, first, second, is_hedged=True, deadline_s=0.2, max_cost_usd=Decimal("0.15")
    )
    assert ([], "budget_exhausted", 1, []) == (events, error.code, len(first.calls), second.calls)
    assert ((RESERVE, Decimal(0)), RESERVE) == (money, world.journal.cost_usd)


@pytest.mark.parametrize(
    ("price", "most_usd", "reserved_usd"),
    [
        pytest.param(PRICE, None, "0.1", id="as-it-was"),
        pytest.param(replace(PRICE, output_usd_per_mtok=Decimal(3000)), None, "0.3", id="risen"),
        pytest.param(replace(PRICE, output_usd_per_mtok=Decimal(500)), None, "0.1", id="fallen"),
        pytest.param(None, None, None, id="unknown-by-now"),
        pytest.param(replace(PRICE, output_usd_per_mtok=Decimal(3000)), "0.2", None, id="more-than-is-allowed"),
    ],
)
def test_a_call_reserves_by_the_price_it_is_billed_by(tmp_path, price, most_usd, reserved_usd):
    """At midnight the price of a decision may be another by the call: never less is set aside than it may cost."""

    async def scenario():
        ledger = Ledger(tmp_path / "ledger.sqlite3")
        await ledger.start()
        cloud = Scripted("a", errors.ProviderUnavailable("a", "500"))
        world = World(ledger, cloud, max_cost_usd=None if most_usd is None else Decimal(most_usd))
        [before] = world.clouds.models
        option = world.clouds.option(before, world.request, None)
        world.prices = price
        [now] = world.clouds.models
        assert now is world.clouds.find(option)
        with pytest.raises(errors.HybridError) as ended:
            await anext(world.clouds.call(now, world.request, option, world.journal))
        money = await world.money()
        await ledger.aclose()
        return ended.value.code, len(cloud.calls), money

    refused, called = ("budget_exhausted", 0), ("provider_unavailable", 1)
    expected = (*(refused if reserved_usd is None else called), (Decimal(reserved_usd or 0), Decimal(0)))
    assert expected == asyncio.run(scenario())


@pytest.mark.parametrize(("tokenizer", "reserved_usd"), [("known", "12.34"), ("other", "20.53"), (None, "20.53")])
def test_a_prompt_that_was_counted_sets_that_aside(tokenizer, reserved_usd):
    """At a cent a token: by the model's own tokenizer, else by the bytes; a new price alters neither."""
    dear = replace(PRICE, input_usd_per_mtok=Decimal(10_000))
    cloud = CloudModel(
        provider=Scripted("a"), model="m", price=dear, max_output_tokens=0, tokenizer=tokenizer, is_repriced=True
    )
    request = ChatRequest(model="cloud", messages=(Message("user", (TextPart("x" * 1505),)),))
    option = Clouds([cloud], None, None).option(cloud, request, None, {"known": 1234})
    cheaper = replace(option, reserve_usd=option.reserve_usd / 10)
    assert Decimal(reserved_usd) == option.reserve_usd
    assert option == cloud.repriced(cheaper, request, Decimal(0))


def test_the_budget_holds_over_all_rungs(tmp_path):
    """Ten rungs that may each have billed are a dollar; the eleventh is not called."""
    down = [Scripted(f"c{number}", errors.ProviderUnavailable("c", "500")) for number in range(11)]
    _, error, _, money, _ = climbed(tmp_path, *down)
    assert ("budget_exhausted", (Decimal(1), Decimal(0)), 0) == (error.code, money, len(down[-1].calls))


def test_a_rung_whose_circuit_is_open_costs_no_attempt(tmp_path):
    """It opened between the decision and the call: the next rung is tried, and nothing was set aside for the first."""

    async def scenario():
        ledger = Ledger(tmp_path / "ledger.sqlite3")
        await ledger.start()
        resting, well = Scripted("a", *ANSWER), Scripted("b", *ANSWER)
        world = World(ledger, resting, well)
        with pytest.raises(errors.ProviderThrottled), world.clouds.health.admit("a", "m0"):
            raise errors.ProviderThrottled("a", 60.0)
        found = await world.climb()
        await ledger.aclose()
        return found, resting.calls, world.notes

    found, calls, notes = asyncio.run(scenario())
    assert ((ANSWER, None, "b"), []) == (found, calls)
    assert any(note.startswith("a/m0 left: cloud_resting: a: a/m0 rests after provider_throttled") for note in notes)


@pytest.mark.parametrize("is_begun", [False, True], ids=["before-the-first-token", "after-it"])
def test_a_client_that_hangs_up_ends_the_climb(tmp_path, is_begun):
    """Nothing more is tried, the call is settled at its worst case, and the circuit's probe is not kept."""

    async def scenario():
        ledger = Ledger(tmp_path / "ledger.sqlite3")
        await ledger.start()
        script = (TextDelta("Hel"), STALL) if is_begun else (STALL,)
        first, second = Scripted("a", *script), Scripted("b", *ANSWER)
        world = World(ledger, first, second)
        task = asyncio.create_task(world.climb())
        while not first.calls:  # noqa: ASYNC110 - the ledger's thread comes between, there is no event to await
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        money, circuits = await world.money(), world.clouds.health.circuits()
        await ledger.aclose()
        return task.cancelled(), second.calls, money, circuits

    assert (True, [], (RESERVE, Decimal(0)), {}) == asyncio.run(scenario())
