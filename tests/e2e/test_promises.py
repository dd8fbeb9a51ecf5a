"""A calibrated promise as a client meets it: kept, refused before a draft, given up early, judged over samples."""

import asyncio

import msgspec
import pytest

from hybrid.artefact import Artefact, Counts, LookAt, Sigmoid, Task, Weights, write_artefact
from hybrid.calibration.recipes import REASONED
from hybrid.fingerprints import template_fingerprint
from hybrid.policy.tasks import TaskKind
from hybrid.providers.fake import Answer, FakeProvider
from tests.e2e.serving import FAKE_MODEL, Serving, cloud_toml

BY_MEAN = Weights(
    features=("mean_logprob",),
    means=(0.0,),
    scales=(1.0,),
    coefficients=(2.0,),
    intercept=3.0,
    calibration=Sigmoid(1.0, 0.0),
)
"""A sure echo gets 0.95; one that doubts every token, at about -2.5 each, next to nothing."""
TASK = Task(
    task="echoes",
    kind=TaskKind.TEXT,
    dataset="d.jsonl",
    dataset_digest="d",
    recipe_digest="r",
    rows=400,
    labels="gold",
    local=BY_MEAN,
    counts=Counts(thresholds=(0.6,), kept=(200,), regretted=(3,), n=400),
    base_rate=0.6,
)
LONG_DOUBT = "[doubt] " + "a very long tale of which every word is in doubt " * 4


def _run(folder, task: Task, scenario, more: str = "") -> None:
    artefact = Artefact(
        model="fake",
        format="none",
        fingerprint="fake",
        template_fingerprint=template_fingerprint(None),
        made_at="2026-01-01",
        version="0",
        tasks=(task,),
    )
    write_artefact(folder / "calibration", artefact)

    async def main() -> None:
        async with FakeProvider(Answer(chunks=("from ", "the ", "cloud"))) as cloud:
            with Serving(folder, FAKE_MODEL + cloud_toml(cloud.base_url) + more) as server:
                await asyncio.to_thread(scenario, server)

    asyncio.run(main())


def _events(server: Serving, answer) -> str:
    told = server.explain(answer.headers["x-hybrid-request-id"])
    return "\n".join(event["what"] for event in told["decision"]["events"])


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_drafts_are_judged_by_the_calibrated_chance(tmp_path, stream):
    """A sure one stays with its chance in the header, a doubtful one goes; a stream is judged at its end."""

    def scenario(server: Serving) -> None:
        sure, doubtful = server.ask("an easy one", stream=stream), server.ask("[doubt] hard", stream=stream)

        assert ("local", "cloud") == (sure.headers["x-hybrid-route"], doubtful.headers["x-hybrid-route"])
        assert "calibrated" == sure.headers["x-hybrid-calibration"]
        assert float(sure.headers["x-hybrid-confidence"]) == pytest.approx(0.95, abs=0.01)
        assert "confidence" == doubtful.headers["x-hybrid-reason"]
        assert "calibrated probability" in _events(server, sure)
        [promise] = server.local_state()["promises"]
        assert ("echoes", True, 0.5) == (promise["task"], promise["is_kept"], promise["local_share"])
        told = server.explain(doubtful.headers["x-hybrid-request-id"])["decision"]
        assert told["replay"]["is_same"]
        assert "fake" == told["limits"]["promise"]["origin"]["fingerprint"]

    _run(tmp_path, TASK, scenario)


def test_what_was_calibrated_is_drawn_as_it_was(tmp_path):
    """Greedily where the client leaves it open; one that wants a temperature gets it, and no promise."""

    def scenario(server: Serving) -> None:
        local = {"x-hybrid-policy": "local-only"}
        text = "[doubt] which of these tokens is drawn?"
        drawn = server.ask(text, headers=local)
        hot = server.ask("an easy one", temperature=0.7)

        # At the server's own temperature a token of these would be another one in most draws.
        assert text == drawn.json()["choices"][0]["message"]["content"]
        assert "uncalibrated" == hot.headers["x-hybrid-calibration"]
        limits = server.explain(hot.headers["x-hybrid-request-id"])["decision"]["limits"]
        assert "drawn at temperature 0.7" in limits["no_promise"]

    _run(tmp_path, TASK, scenario)


def test_no_price_keeps_a_draft_that_the_promise_sends_away(tmp_path):
    """A value that pays for no call: the calibrated kind is escalated all the same, and `explain` says why."""

    def scenario(server: Serving) -> None:
        doubtful = server.ask("[doubt] hard")
        told = server.explain(doubtful.headers["x-hybrid-request-id"])["decision"]

        assert ("cloud", "confidence") == (doubtful.headers["x-hybrid-route"], doubtful.headers["x-hybrid-reason"])
        assert "regret <= 0.05 goes before the price" in told["review"]["checks"][-1]["detail"]
        assert told["replay"]["is_same"]
        assert any("keeps regret <= 0.05, at any price within the cap" in line for line in server.said)
        assert any("where that is worth its price" in line for line in server.said)

    _run(tmp_path, TASK, scenario, "[policy]\nvalue_usd = 0.000001\n")


def test_what_stays_for_want_of_money_is_told_to_be_outside_the_promise(tmp_path):
    """The answer says so in its header, and the report counts it."""

    def scenario(server: Serving) -> None:
        stayed = server.ask("[doubt] hard", headers={"x-hybrid-max-cost-usd": "0.000001"})

        assert ("local", "budget") == (stayed.headers["x-hybrid-route"], stayed.headers["x-hybrid-degraded"])
        assert {"budget": 1} == server.report()["promise_uncovered"]
        assert "uncovered  doubted drafts that no promise holds for stayed local: budget 1" in server.hybrid("report")

    _run(tmp_path, TASK, scenario)


def test_where_local_is_at_chance_no_draft_is_made(tmp_path):
    """The cloud answers at once, though some rows would certify a threshold; the reason names the kind and how often
    local is right.
    """
    hopeless = msgspec.structs.replace(TASK, is_at_chance=True)

    def scenario(server: Serving) -> None:
        answer = server.ask("an easy one")
        told = server.explain(answer.headers["x-hybrid-request-id"])

        assert ("cloud", "confidence") == (answer.headers["x-hybrid-route"], answer.headers["x-hybrid-reason"])
        assert 0 == told["local_completion_tokens"]
        [check] = [check for check in told["decision"]["checks"] if check["rule"] == "promise"]
        assert "local is right in 60% and its drafts do not tell right from wrong" in check["detail"]

    _run(tmp_path, hopeless, scenario)


def test_a_hopeless_draft_is_given_up_at_its_look(tmp_path):
    """After 16 tokens and not at its end; a sure one of the same length is not."""
    looked = msgspec.structs.replace(TASK, looks=(LookAt(tokens=16, threshold=0.3, local=BY_MEAN),))

    def scenario(server: Serving) -> None:
        doubtful, sure = server.ask(LONG_DOUBT), server.ask(LONG_DOUBT.replace("[doubt]", "no"))
        told = server.explain(doubtful.headers["x-hybrid-request-id"])

        assert ("cloud", "local") == (doubtful.headers["x-hybrid-route"], sure.headers["x-hybrid-route"])
        assert "given up after" in _events(server, doubtful)
        assert 16 <= told["local_completion_tokens"] < len(LONG_DOUBT) / 2
        assert told["decision"]["replay"]["is_same"]
        assert 16 == told["decision"]["reviewed"]["look"]["tokens"]

    _run(tmp_path, looked, scenario)


def test_samples_are_drawn_where_the_calibration_compared_them(tmp_path):
    """Three echoes agree; all their tokens are counted as local work, the client gets one answer."""
    sampled = msgspec.structs.replace(TASK, samples=3)

    def scenario(server: Serving) -> None:
        answer = server.ask("an easy one")
        told = server.explain(answer.headers["x-hybrid-request-id"])

        assert "an easy one" == answer.json()["choices"][0]["message"]["content"]
        assert "100% of 3 samples agree" in _events(server, answer)
        # Eleven letters and the end, three times.
        assert 36 == told["local_completion_tokens"]
        assert 12 == answer.json()["usage"]["completion_tokens"]

    _run(tmp_path, sampled, scenario)


VOTED = msgspec.structs.replace(
    TASK,
    kind=TaskKind.CHOICE,
    samples=4,
    votes=REASONED.digest,
    local=msgspec.structs.replace(BY_MEAN, features=("vote_share",), coefficients=(10.0,), intercept=-5.0),
)


@pytest.mark.parametrize(
    ("asked", "route", "note"),
    [
        pytest.param("B\nA. x\nB. y", "local", "100% of 3 votes are for B", id="they-agree"),
        pytest.param("B\nThe answer is A.\nA. x\nB. y", "cloud", "0% of 3 votes are for B", id="they-do-not"),
    ],
)
def test_a_choice_is_voted_on_where_the_calibration_counted_votes(tmp_path, asked, route, note):
    """The echo's first byte is the letter at once, all of it the votes for reasons. The client has a letter."""

    def scenario(server: Serving) -> None:
        answer = server.ask(asked, max_tokens=1)
        told = server.explain(answer.headers["x-hybrid-request-id"])

        assert route == answer.headers["x-hybrid-route"]
        if route == "local":
            assert "B" == answer.json()["choices"][0]["message"]["content"]
            assert 1 == answer.json()["usage"]["completion_tokens"]
            assert "calibrated" == answer.headers["x-hybrid-calibration"]
        assert note in _events(server, answer)
        assert told["decision"]["replay"]["is_same"]
        assert told["local_completion_tokens"] > 3 * len(asked)

    _run(tmp_path, VOTED, scenario)


def test_no_votes_are_asked_for_where_they_cannot_decide(tmp_path):
    """The letter goes to the cloud at once: one token of local work; the reason is told."""

    def scenario(server: Serving) -> None:
        answer = server.ask("B\nA. x\nB. y", max_tokens=1)
        told = server.explain(answer.headers["x-hybrid-request-id"])

        assert ("cloud", "confidence") == (answer.headers["x-hybrid-route"], answer.headers["x-hybrid-reason"])
        assert "all votes would not lift it over the threshold" in _events(server, answer)
        assert 1 == told["local_completion_tokens"]
        assert told["decision"]["replay"]["is_same"]

    _run(tmp_path, msgspec.structs.replace(VOTED, vote_floor=0.999), scenario)


def test_a_stream_does_not_wait_for_votes_beyond_its_first_token(tmp_path):
    """The letter is there at once, its votes take longer than it may: it is released when due, without a promise."""

    def scenario(server: Serving) -> None:
        answer = server.ask("B\n[slow] A vote takes its time.\nA. x\nB. y", max_tokens=1, stream=True)

        assert ("local", "uncalibrated") == (answer.headers["x-hybrid-route"], answer.headers["x-hybrid-calibration"])
        assert "judged early: the first token is due" in _events(server, answer)

    _run(tmp_path, VOTED, scenario, "[policy]\nttft_ms = 100\n")


def test_votes_in_words_that_are_not_ours_promise_nothing(tmp_path):
    """An artefact of another version of the recipe: no promise, and the log says what to do."""

    def scenario(server: Serving) -> None:
        answer = server.ask("B\nA. x\nB. y", max_tokens=1)

        assert "uncalibrated" == answer.headers["x-hybrid-calibration"]
        assert any("votes that are asked for in other words" in line for line in server.said)

    _run(tmp_path, msgspec.structs.replace(VOTED, votes="0" * 64), scenario)


def test_an_answer_that_our_limit_cut_off_is_escalated(tmp_path):
    """The reason is the verifier's, whatever the chance."""

    def scenario(server: Serving) -> None:
        answer = server.ask("Tom has 12 apples and 3 pears. How many pieces of fruit has he?", max_tokens=8)

        assert ("cloud", "verifier") == (answer.headers["x-hybrid-route"], answer.headers["x-hybrid-reason"])
        assert "cut off by its limit of 8 tokens" in _events(server, answer)

    _run(tmp_path, TASK, scenario)
