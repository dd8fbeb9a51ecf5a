"""Does each client key get what its rules give it and no more, over real HTTP, and its place back however it leaves?"""

from __future__ import annotations

import asyncio
import json
import socket

import openai
import pytest

from hybrid.providers.fake import Answer, FakeProvider
from tests.e2e.serving import FAKE_MODEL, Serving, body, cloud_toml


def key(server: Serving, name: str, *rules: str) -> dict[str, str]:
    """Make a key with these rules; the header that shows it."""
    return {"authorization": f"Bearer {server.hybrid('keys', 'add', name, *rules).strip()}"}


def test_requests_a_minute(tmp_path):
    """Each answer tells how the key stands, the one too many is a 429 with Retry-After, and others go on."""
    with Serving(tmp_path) as server:
        phone, laptop = key(server, "phone", "--rpm", "2"), key(server, "laptop")
        first, second, third = (server.ask("hi", headers=phone, stream=stream) for stream in (False, True, False))
        other = server.ask("hi", headers=laptop)
        report = server.report()

    assert [200, 200, 429, 200] == [answer.status_code for answer in (first, second, third, other)]
    remaining = [answer.headers["x-ratelimit-remaining-requests"] for answer in (first, second, third)]
    assert (["1", "0", "0"], {"2"}) == (
        remaining, {answer.headers["x-ratelimit-limit-requests"] for answer in (first, second, third)}
    )  # fmt: skip
    assert first.headers["x-ratelimit-reset-requests"].startswith("1m0.") or first.headers[
        "x-ratelimit-reset-requests"
    ] in ("1m0s", "1m1s")
    error = third.json()["error"]
    assert ("rate_limit_exceeded", "rate_limit_error", "hybrid") == (error["code"], error["type"], error["src"])
    assert "the key 'phone' is over its limit of 2 requests a minute" in error["message"]
    assert 1 <= int(third.headers["retry-after"]) <= 61
    assert "x-ratelimit-limit-tokens" not in first.headers
    assert not [name for name in other.headers if name.startswith("x-ratelimit")]
    assert {"ok": 3, "rejected": 1} == report["outcomes"]


def test_tokens_a_minute(tmp_path):
    """What a request may take is charged when it comes, what it took is counted when it ends."""
    with Serving(tmp_path) as server:
        phone = key(server, "phone", "--tpm", "500")
        first = server.ask("hello there", headers=phone, max_tokens=400)
        second = server.ask("hello there", headers=phone, max_tokens=400)
        third = server.ask("x" * 4_000, headers=phone, max_tokens=100)

    used = first.json()["usage"]["total_tokens"]
    assert ("500", str(500 - 3 - 400)) == (
        first.headers["x-ratelimit-limit-tokens"], first.headers["x-ratelimit-remaining-tokens"]
    )  # fmt: skip
    assert str(500 - used - 403) == second.headers["x-ratelimit-remaining-tokens"]
    assert 429 == third.status_code
    assert "500 tokens a minute" in third.json()["error"]["message"]


def test_a_client_that_hangs_up_gives_its_place_back(tmp_path):
    """With one request at once allowed the next is held while the first runs, and let in when its client has gone."""
    with Serving(tmp_path) as server:
        phone = key(server, "phone", "--concurrency", "1")
        host, port = server.url.removeprefix("http://").removesuffix("/v1").split(":")
        with socket.create_connection((host, int(port))) as connection:
            content = json.dumps(body("[slow][endless]", max_tokens=3000)).encode()
            head = (
                f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}:{port}\r\ncontent-type: application/json\r\n"
                f"authorization: {phone['authorization']}\r\ncontent-length: {len(content)}\r\n\r\n"
            )
            connection.sendall(head.encode() + content)
            server.wait_until(lambda state: state["running"] == 1)
            held = server.ask("hi", headers=phone)
        server.wait_until(lambda state: state["running"] == 0)
        while (let_in := server.ask("hi", headers=phone)).status_code == 429:
            pass
        refused = server.client.post(
            "/chat/completions", content=b"{", headers={**phone, "content-type": "application/json"}
        )
        failed = server.ask("x" * 100_000, headers=phone)
        again = server.ask("hi", headers=phone)

    assert 429 == held.status_code
    assert "its limit of 1 requests at once" in held.json()["error"]["message"]
    assert [200, 400, 400, 200] == [answer.status_code for answer in (let_in, refused, failed, again)]


def test_models_a_key_may_use(tmp_path):
    """Another model is a 403 that names the allowed ones, also behind an alias; embeddings are asked the same."""
    with Serving(tmp_path, FAKE_MODEL + '[aliases]\n"gpt-4o" = "hybrid"\n"gpt-4" = "local"\n') as server:
        phone = key(server, "phone", "--models", "hybrid,local/none")
        allowed = [server.ask("hi", headers=phone, model=model) for model in ("hybrid", "gpt-4o")]
        denied = [server.ask("hi", headers=phone, model=model) for model in ("local", "gpt-4", "nothing")]
        embedded = server.client.post("/embeddings", json={"model": "local", "input": "hi"}, headers=phone)
        listed = {model["id"] for model in server.client.get("/models", headers=phone).json()["data"]}
        unlisted = server.client.get("/models/local", headers=phone)
        server.hybrid("keys", "set", "phone", "--models", "none")
        while (freed := server.ask("hi", headers=phone, model="local")).status_code == 403:
            pass

    assert {200} == {answer.status_code for answer in [*allowed, freed]}
    assert {403} == {answer.status_code for answer in [*denied, embedded]}
    assert ({"hybrid", "gpt-4o"}, 404) == (listed, unlisted.status_code)
    error = denied[0].json()["error"]
    assert ("model_not_found", "invalid_request_error", None) == (error["code"], error["type"], error["param"])
    assert "may use: hybrid, local/none" in error["message"]


def test_a_private_key_never_leaves(tmp_path):
    """Its doubted drafts stay, asking for a cloud is a 403, and no cloud hears of either."""

    async def scenario() -> None:
        async with FakeProvider(Answer(chunks=("cloud",))) as cloud:
            with Serving(tmp_path, FAKE_MODEL + cloud_toml(cloud.base_url)) as server:
                phone = key(server, "phone", "--private")
                doubted = await asyncio.to_thread(server.ask, "[doubt] secret", headers=phone)
                pinned = await asyncio.to_thread(server.ask, "secret", headers=phone, model="cloud")
                asked = await asyncio.to_thread(
                    server.ask, "secret", headers={**phone, "x-hybrid-policy": "cloud-only"}
                )
                listed = await asyncio.to_thread(server.client.get, "/models", headers=phone)
        assert ("local", "privacy") == (doubted.headers["x-hybrid-route"], doubted.headers["x-hybrid-reason"])
        assert (403, 403) == (pinned.status_code, asked.status_code)
        assert [] == cloud.requests
        names = [model["id"] for model in listed.json()["data"]]
        assert "local" in names
        assert not any(name.startswith("cloud") for name in names)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("rules", "tag"),
    [pytest.param(("--usd-per-day", "0.000001"), None, id="a-key"), pytest.param((), "nightly", id="a-tag")],
)
def test_a_budget_of_its_own(tmp_path, rules, tag):
    """A key or tag whose own money is gone gets a 402 from the cloud while others are still paid for."""

    async def scenario() -> None:
        async with FakeProvider(Answer(chunks=("cloud",))) as cloud:
            config = FAKE_MODEL + cloud_toml(cloud.base_url) + "[tags.Nightly]\nusd_per_month = 0.000001\n"
            with Serving(tmp_path, config) as server:
                phone, laptop = key(server, "phone", *rules), key(server, "laptop")
                tagged = {**phone, **({"x-hybrid-tag": tag} if tag else {})}
                poor = await asyncio.to_thread(server.ask, "x", headers=tagged, model="cloud")
                rich = await asyncio.to_thread(server.ask, "x", headers=laptop, model="cloud")
        assert (402, 200) == (poor.status_code, rich.status_code)
        assert 1 == len(cloud.requests)

    asyncio.run(scenario())


def test_the_official_client_understands(tmp_path):
    """OpenAI's own client reads each refusal as its own, with the headers that tell when to come again."""
    with Serving(tmp_path) as server:
        phone = key(server, "phone", "--rpm", "1", "--models", "hybrid")
        client = openai.OpenAI(
            base_url=server.url, api_key=phone["authorization"].removeprefix("Bearer "), max_retries=0
        )
        messages = [{"role": "user", "content": "hi"}]
        with client:
            raw = client.chat.completions.with_raw_response.create(model="hybrid", messages=messages)
            with pytest.raises(openai.PermissionDeniedError, match="may use: hybrid"):
                client.chat.completions.create(model="local", messages=messages)
            with pytest.raises(openai.RateLimitError) as caught:
                client.chat.completions.create(model="hybrid", messages=messages)

    assert ("1", "0") == (
        raw.headers["x-ratelimit-limit-requests"], caught.value.response.headers["x-ratelimit-remaining-requests"]
    )  # fmt: skip
    assert ("rate_limit_exceeded", True) == (caught.value.code, int(caught.value.response.headers["retry-after"]) > 1)
