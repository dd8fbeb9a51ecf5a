"""Do the circuits of providers and models open for the right failures, and are lengths of answers remembered?"""

from __future__ import annotations

import pytest

from hybrid import errors
from hybrid.cloud_health import CloudHealth, ModelHealth
from hybrid.providers.breaker import BreakerRules

RULES = BreakerRules(failures_in_row=2, rest_s=10)
GOOD, OTHER = ("p", "m"), ("p", "other")


class World:
    """A clock that moves when it is told to, and the health that reads it."""

    def __init__(self):
        self.now_s = 0.0
        self.health = CloudHealth(RULES, now_s=lambda: self.now_s)

    def call(self, error=None, *, tokens=None, of=GOOD):
        """One call: it ends well, or with this error."""
        try:
            with self.health.admit(*of) as trial:
                if error is not None:
                    raise error
                trial.heard()
                trial.ended(tokens)
        except type(error) as seen:
            if seen is not error:
                raise

    def rests(self, of=GOOD):
        """How long a model rests from now on, None if it may be called."""
        return self.health.look_up(*of).rest_s


def unsent(error):
    """The same failure before any byte left."""
    error.may_have_billed = False
    return error


def unavailable():
    return errors.ProviderUnavailable("p", "answered HTTP 500")


MODEL_FAILURES = [
    pytest.param(unavailable, id="server-error"),
    pytest.param(lambda: errors.ProviderTimeout("p", "no token"), id="timeout"),
    pytest.param(lambda: errors.ProviderProtocolError("p", "garbage"), id="protocol"),
    pytest.param(lambda: errors.ProviderRejected("p", 404, "no such model"), id="unknown-model"),
]


@pytest.mark.parametrize("failure", MODEL_FAILURES)
def test_a_model_that_fails_rests_alone(failure):
    """Two in a row open its circuit; the other model of the provider is not concerned."""
    world = World()
    for _ in range(2):
        world.call(failure())
    assert (10.0, None) == (world.rests(), world.rests(OTHER))
    with pytest.raises(errors.CloudResting, match=r"p/m rests after .*10.0 s more; it may be tried in 10 s") as caught:
        world.health.admit(*GOOD)
    assert (503, 10.0, False) == (caught.value.status, caught.value.retry_after_s, caught.value.may_have_billed)


PROVIDER_FAILURES = [
    pytest.param(lambda: unsent(unavailable()), id="cannot-be-reached"),
    pytest.param(lambda: unsent(errors.ProviderTimeout("p", "no connection")), id="connects-too-slowly"),
]


@pytest.mark.parametrize("failure", PROVIDER_FAILURES)
def test_a_provider_that_fails_rests_with_all_its_models(failure):
    """What says nothing of a model is the provider's: all its models rest, and those of others do not."""
    world = World()
    for _ in range(2):
        world.call(failure())
    assert (10.0, 10.0, None) == (world.rests(), world.rests(OTHER), world.rests(("q", "m")))


def test_a_provider_that_takes_no_key_rests_at_once():
    """There is no use in a second try: for an hour, or until the first key is to be tried again."""
    world = World()
    world.call(errors.ProviderRejected("p", 401, "bad key", is_key_fault=True))
    assert (3600.0, 3600.0) == (world.rests(), world.rests(OTHER))


def test_the_first_word_of_a_probe_closes_the_circuit():
    """Others need not wait for the end of its answer; that it breaks off later is one failure of many to come."""
    world = World()
    for _ in range(2):
        world.call(unavailable())
    world.now_s = 10.0
    with world.health.admit(*GOOD) as probe:
        probe.heard()
        assert None is world.rests()
    assert {} == world.health.circuits()


def test_a_request_that_is_wrong_says_that_the_provider_is_well():
    """Any number of 400s opens nothing; between failures one counts as life."""
    world = World()
    for error in [unavailable(), errors.ProviderRejected("p", 400, "bad"), unavailable(), errors.InvalidRequest("x")]:
        world.call(error)
    assert None is world.rests()


def test_a_rate_limit_rests_as_long_as_it_asks():
    """One is enough, for its own time."""
    world = World()
    world.call(errors.ProviderThrottled("p", 33.0))
    assert (33.0, None) == (world.rests(), world.rests(OTHER))


def test_a_rest_that_was_asked_for_does_not_lengthen_the_next_one():
    """Many short rate limits, then a fault: it rests as after the first. A wait of nothing was not asked for."""
    world = World()
    for _ in range(5):
        world.call(errors.ProviderThrottled("p", 1.0))
        world.now_s += 1.0
    world.call(errors.ProviderThrottled("p", 0.0))
    assert 10.0 == world.rests()


def test_a_success_after_the_rest_opens_the_way_again():
    """One probe; while it is out, others are told that it may be over at any moment."""
    world = World()
    for _ in range(2):
        world.call(unavailable())
    world.now_s = 10.0
    with world.health.admit(*GOOD) as probe:
        assert 1.0 == world.rests()
        probe.ended(None)
    assert ({}, None) == (world.health.circuits(), world.rests())


def test_the_open_circuits_are_listed():
    """By provider or provider/model, with their state."""
    world = World()
    world.call(errors.ProviderThrottled("p", 5.0))
    world.call(errors.ProviderThrottled("q", 1.0), of=("q", "m"))
    world.now_s = 2.0
    assert {"p/m": "open", "q/m": "half_open"} == world.health.circuits()


def test_how_long_answers_are_is_learned_over_all_models():
    """The first answer is all that is known; later ones move it by a fifth; failures teach nothing."""
    world = World()
    assert ModelHealth() == world.health.look_up(*GOOD)
    world.call(tokens=100)
    world.call(tokens=200, of=OTHER)
    world.call(errors.ProviderUnavailable("p", "x"))
    assert [ModelHealth(answer_tokens=120)] * 2 == [world.health.look_up(*of) for of in (GOOD, OTHER)]


def test_a_call_that_is_left_is_no_failure():
    """A client that hangs up, or has no more time, says nothing of the provider."""
    world = World()
    for _ in range(5):
        world.call(TimeoutError())
    assert None is world.rests()
