"""Does a new process keep to what the one before it learned? Over real HTTP, after an end by Ctrl-C and by kill -9."""

from __future__ import annotations

import asyncio

import pytest

from hybrid.providers.fake import Answer, FakeProvider
from tests.e2e.serving import FAKE_MODEL, Serving, cloud_toml
from tests.e2e.test_keys import key

BUSY = Answer(status=429, headers={"retry-after": "120"}, error={"error": {"message": "slow down"}})
REFUSED = Answer(status=401, error={"error": {"message": "Incorrect API key", "code": "invalid_api_key"}})


def end(server: Serving, *, is_killed: bool) -> None:
    """Wait until the last row is on disk, then end the process as it is to end."""
    server.report()
    if is_killed:
        server.process.kill()
        server.process.wait()


@pytest.mark.parametrize("is_killed", [False, True], ids=["ctrl-c", "kill-9"])
def test_a_restart_hands_out_no_fresh_minute(tmp_path, is_killed):
    """Two requests a minute are two, whoever serves the third."""
    with Serving(tmp_path) as server:
        phone, laptop = key(server, "phone", "--rpm", "2"), key(server, "laptop", "--rpm", "2")
        before = [server.ask("hi", headers=phone).status_code for _ in range(3)]
        end(server, is_killed=is_killed)
    with Serving(tmp_path) as server:
        held, other = server.ask("hi", headers=phone), server.ask("hi", headers=laptop)
    assert ([200, 200, 429], 429, 200) == (before, held.status_code, other.status_code)
    assert ("0", "1") == tuple(one.headers["x-ratelimit-remaining-requests"] for one in (held, other))
    assert 1 <= int(held.headers["retry-after"]) <= 61


def asked_twice(tmp_path, answer: Answer, **second: str):
    """Ask the cloud once, start anew, and ask again; the answers and how often the cloud was called."""

    async def scenario():
        async with FakeProvider(answer) as cloud:
            config = cloud_toml(cloud.base_url).replace("models", 'api_key_env = "BIG_KEY"\nmodels', 1)
            given, answers = {"BIG_KEY": "sk-canary-one"}, []
            for environ in (given, given | second):
                with Serving(tmp_path, FAKE_MODEL + config, environ=environ) as server:
                    answers.append(await asyncio.to_thread(server.ask, "x", model="cloud"))
                    await asyncio.to_thread(end, server, is_killed=True)
            return answers, len(cloud.requests)

    return asyncio.run(scenario())


def test_a_cloud_that_asked_for_quiet_gets_it(tmp_path):
    """Two minutes are two minutes: the next process sends nothing, and tells its client when to come back."""
    (_, second), calls = asked_twice(tmp_path, BUSY)
    assert (1, 503, "cloud_resting") == (calls, second.status_code, second.json()["error"]["code"])
    assert 60 < int(second.headers["retry-after"]) <= 120


def test_a_key_that_was_refused_is_not_shown_again(tmp_path):
    """No second call with the same value, which lies nowhere in the data folder; another value is tried at once."""
    _, calls = asked_twice(tmp_path / "same", REFUSED)
    _, more = asked_twice(tmp_path / "other", REFUSED, BIG_KEY="sk-canary-two")
    assert (1, 2) == (calls, more)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"sk-canary" in path.read_bytes()]
