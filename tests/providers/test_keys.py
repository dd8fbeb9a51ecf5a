"""Which key does a call take, when is another taken, and how long does one that was refused or throttled rest?"""

from __future__ import annotations

import logging

import pytest

from hybrid import errors
from hybrid.providers.base import CloudCall, Timeouts
from hybrid.providers.fake import Answer, FakeProvider
from hybrid.providers.keys import Credential, KeyRing, Keys, ring_of
from hybrid.providers.openai import OpenAIProvider
from hybrid.providers.retries import RetryBudget
from hybrid.providers.transport import Transport
from hybrid.types import Finished, FinishReason, TextDelta

from .calls import call, outcome, run

KEYS = ("sk-canary-one", "sk-canary-two", "sk-canary-three")
GOOD = [TextDelta("Hi"), Finished(FinishReason.STOP, None)]


def throttled(retry_after: str | None = None, **headers: str) -> Answer:
    """A 429, with or without its wait."""
    said = {} if retry_after is None else {"retry-after": retry_after}
    return Answer(status=429, headers={**said, **headers}, error={"error": {"message": "slow down"}})


def refused(status: int, message: str = "no", **more: object) -> Answer:
    """A refusal."""
    return Answer(status=status, error={"error": {"message": message, **more}})


class World:
    """One provider with some keys and a clock that only waiting moves, against a fake that answers by key."""

    def __init__(self, by_key, *, count=2, refused_rest_s=None, now_s=0.0):
        self.by_key, self.now_s, self.waits = dict(by_key), now_s, []
        credentials = [Credential(key) for key in KEYS[:count]]
        self.ring = KeyRing(credentials, refused_rest_s=refused_rest_s, now_s=lambda: self.now_s)
        self.fake = FakeProvider(self._answer)

    def _answer(self, request):
        script = self.by_key.get(self.fake.key_of(request), Answer(chunks=("Hi",), has_usage=False))
        if isinstance(script, list):
            return script.pop(0) if script else Answer(chunks=("Hi",), has_usage=False)
        return script

    async def _sleep(self, seconds):
        self.waits.append(seconds)
        self.now_s += seconds

    async def __aenter__(self):
        await self.fake.__aenter__()
        transport = Transport(
            "cloud",
            base_url=self.fake.base_url,
            credential=self.ring,
            timeouts=Timeouts(first_token_s=30.0, total_s=30.0),
            sleep=self._sleep,
            draw=lambda: 0.0,
        )
        self.provider = OpenAIProvider("cloud", base_url=self.fake.base_url, api_key=None, transport=transport)
        return self

    async def __aexit__(self, *_):
        await self.provider.aclose()
        await self.fake.__aexit__()

    async def call(self, *, model="gpt-test", max_wait_s=0.0):
        """The events, or the error."""
        events, error = await outcome(self.provider, CloudCall(call().request, model, 100, max_wait_s=max_wait_s))
        return error or events

    @property
    def asked(self):
        """The keys that came, in order, by their number."""
        return [KEYS.index(self.fake.key_of(request)) + 1 for request in self.fake.requests]


def played(*calls, **world):
    """Make these calls, each given as options; the outcomes and the world after it."""

    async def scenario():
        async with World(**world) as here:
            return [await here.call(**options) for options in calls], here

    return run(scenario())


REFUSALS = [
    pytest.param(refused(401), id="401"),
    pytest.param(refused(402), id="402"),
    pytest.param(refused(403), id="403"),
    pytest.param(refused(400, code="invalid_api_key"), id="400-that-means-401"),
    pytest.param(refused(429, code="insufficient_quota"), id="429-that-means-402"),
]


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_refused_key_is_left_for_the_next_and_never_asked_again(refusal, caplog):
    """The call is answered by the second key, without a wait; later calls begin with it. Logged once, by number."""
    with caplog.at_level(logging.WARNING):
        answers, world = played({}, {}, {}, by_key={KEYS[0]: refusal})
    assert ([GOOD] * 3, [1, 2, 2, 2], []) == (answers, world.asked, world.waits)
    assert 1 == len(caplog.records)
    assert "cloud cloud: its API key number 1 of 2 is not used until the next start" in caplog.text
    assert "canary" not in caplog.text


def test_when_every_key_is_refused_the_provider_says_so_and_is_asked_no_more():
    """The first call hears the refusal, the second is told without a byte leaving; neither can have been billed."""
    answers, world = played({}, {}, by_key={KEYS[0]: refused(401, "bad"), KEYS[1]: refused(401, "bad")})
    assert [1, 2] == world.asked
    assert [True, True] == [error.is_key_fault and not error.may_have_billed for error in answers]
    assert "took none of our API keys; a new start tries them again, or a new key" in str(answers[1])


def test_a_refused_key_may_be_tried_again_after_a_configured_time():
    """`key_rest_s`: an account that was filled again needs no restart."""

    async def scenario():
        async with World({KEYS[0]: [refused(402)]}, count=1, refused_rest_s=60.0) as world:
            first, second = await world.call(), await world.call()
            world.now_s = 60.0
            return first, second, await world.call(), world.asked

    first, second, third, asked = run(scenario())
    assert (402, 60.0) == (first.upstream_status, first.retry_after_s)
    assert (True, 60.0) == (second.is_key_fault, second.retry_after_s)
    assert "took none of our API keys; the first is tried again in 60 s" in str(second)
    assert (GOOD, [1, 1]) == (third, asked)


def test_an_input_that_was_flagged_costs_no_key():
    """Any client could send one: the 403 is for it alone."""
    flagged = refused(403, "Input was flagged", metadata={"reasons": ["x"], "flagged_input": "..."})
    answers, world = played({}, {}, by_key={KEYS[0]: [flagged]})
    assert ([1, 1], False, GOOD) == (world.asked, answers[0].is_key_fault, answers[1])


def test_a_model_that_a_key_may_not_use_costs_no_key():
    """OpenAI's 403 for a project without access to a model: other models still answer to the key."""
    withheld = refused(403, "Project `proj_x` does not have access to model `m`", code="model_not_found")
    answers, world = played({}, {}, by_key={KEYS[0]: [withheld]})
    assert ([1, 1], False, GOOD) == (world.asked, answers[0].is_key_fault, answers[1])
    assert 404 == answers[0].upstream_status


def test_a_throttled_key_rests_for_its_model_alone_and_as_long_as_it_says():
    """Limits are counted for each model: the other model still gets the first key."""

    async def scenario():
        async with World({KEYS[0]: [throttled("20")]}) as world:
            found = [await world.call(), await world.call(), await world.call(model="other")]
            world.now_s = 20.0
            return [*found, await world.call()], world.asked, world.waits

    assert ([GOOD] * 4, [1, 2, 2, 1, 1], []) == run(scenario())


HINTS = [
    pytest.param({"retry-after": "7"}, 7.0, id="seconds"),
    pytest.param({"retry-after-ms": "2500"}, 2.5, id="milliseconds"),
    pytest.param({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "1m30s"}, 90.0, id="openai-reset"),
    pytest.param({"retry-after": "7", "x-ratelimit-reset-tokens": "1m30s"}, 7.0, id="retry-after-goes-first"),
    pytest.param({}, 1.0, id="no-hint"),
    pytest.param({"retry-after": "0"}, 1.0, id="a-hint-of-nothing"),
]


@pytest.mark.parametrize(("headers", "expected"), HINTS)
def test_what_cannot_be_waited_for_is_told_with_the_time_it_lasts(headers, expected):
    """No second is waited where none may be; whoever goes elsewhere knows when to come back."""
    answers, world = played({}, {}, by_key={KEYS[0]: throttled(**headers)}, count=1)
    assert [(errors.ProviderThrottled, expected)] * 2 == [(type(one), one.retry_after_s) for one in answers]
    assert ([1], [], False) == (world.asked, world.waits, answers[0].may_have_billed)


def test_a_wait_that_fits_is_waited_once_and_the_call_answered():
    """With ten seconds to give, seven are waited and not less; the answer is the second attempt's."""
    answers, world = played({"max_wait_s": 10.0}, by_key={KEYS[0]: [throttled("7")]}, count=1)
    assert ([GOOD], [1, 1], [7.0]) == (answers, world.asked, world.waits)


def test_waits_together_stay_within_what_may_be_waited():
    """Four and four are eight; the third would be twelve, so the refusal is told instead."""
    answers, world = played({"max_wait_s": 10.0}, by_key={KEYS[0]: [throttled("4")] * 3}, count=1)
    assert ([4.0, 4.0], 4.0) == (world.waits, answers[0].retry_after_s)


def test_a_wait_beyond_the_call_s_own_limits_is_not_begun():
    """The first token is due in 30 s: a wait of 40 s could only end in a timeout."""
    answers, world = played({"max_wait_s": 100.0}, by_key={KEYS[0]: [throttled("40")]}, count=1)
    assert (errors.ProviderThrottled, []) == (type(answers[0]), world.waits)


def test_a_key_without_a_hint_backs_off_for_longer_each_time():
    """One, two, four seconds: the provider that says nothing is asked ever more rarely."""
    answers, world = played({"max_wait_s": 20.0}, by_key={KEYS[0]: [throttled()] * 3}, count=1)
    assert ([GOOD], [1.0, 2.0, 4.0]) == (answers, world.waits)


def test_retries_keep_to_their_budget():
    """Everybody is throttled: of thirty calls at most ten and a share are sent again, however many keys there are."""
    answers, world = played(*[{"model": f"m{n}"} for n in range(30)], by_key=dict.fromkeys(KEYS, throttled("60")))
    assert {errors.ProviderThrottled} == {type(one) for one in answers}
    assert 30 < len(world.asked) <= 30 + 10 + 6


def test_a_failure_that_says_nothing_of_the_key_is_not_sent_again():
    """A 500 may have been billed, a 400 would come again: one attempt each, and the key stays in use."""
    answers, world = played({}, {}, {}, by_key={KEYS[0]: [refused(500), refused(400)]})
    assert [errors.ProviderUnavailable, errors.ProviderRejected] == [type(one) for one in answers[:2]]
    assert (GOOD, [1, 1, 1]) == (answers[2], world.asked)


def test_no_key_shows():
    """Neither ring nor keys print one, and all of them are cut out of a text."""
    ring = ring_of(Keys(KEYS), Credential)
    assert ("KeyRing(3 hidden)", "[redacted] and [redacted]") == (repr(ring), ring.redact(f"{KEYS[0]} and {KEYS[2]}"))
    assert "canary" not in repr(Keys(KEYS))


def test_no_keys_are_an_api_that_asks_for_none():
    """No header is sent."""
    lease = ring_of(Keys(()), Credential).take("m")
    assert lease is not None
    assert {} == lease.headers


def test_the_budget_of_retries_fills_with_calls():
    """Ten to begin with, then one for every five calls, and never more than ten."""
    budget = RetryBudget()
    assert [True] * 10 + [False] == [budget.withdraw() for _ in range(11)]
    for _ in range(5):
        budget.deposit()
    assert [True, False] == [budget.withdraw() for _ in range(2)]
    for _ in range(1000):
        budget.deposit()
    assert 10 == sum(budget.withdraw() for _ in range(100))
