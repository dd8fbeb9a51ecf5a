"""The main job, as its user sees it: the real process, the real client, the real starter model."""

import asyncio
import json

import openai
import pytest

from hybrid.providers.fake import Answer, FakeProvider
from tests.e2e.serving import FAKE_MODEL, Serving, cloud_toml


def test_the_openai_client_is_served_by_the_starter(tmp_path, starter_model):
    """Streamed and not, eight at once: every answer has text, a finish reason, and usage that adds up."""

    async def ask_all(url: str) -> list[tuple[str, str, openai.types.CompletionUsage]]:
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=100) as client:

            async def one(number: int):
                question = [{"role": "user", "content": f"Write one sentence about the number {number}."}]
                common = {"model": "hybrid", "messages": question, "max_tokens": 24, "seed": number}
                if number % 2:
                    whole = await client.chat.completions.create(**common)
                    return whole.choices[0].message.content, whole.choices[0].finish_reason, whole.usage
                text, finish, usage = "", None, None
                stream = await client.chat.completions.create(
                    **common, stream=True, stream_options={"include_usage": True}
                )
                async for chunk in stream:
                    usage = chunk.usage or usage
                    for choice in chunk.choices:
                        text += choice.delta.content or ""
                        finish = choice.finish_reason or finish
                return text, finish, usage

            return await asyncio.gather(*(one(n) for n in range(8)))

    with Serving(tmp_path, "", "--model", str(starter_model)) as server:
        answers = asyncio.run(ask_all(server.url))
        report = server.report()

    for text, finish, usage in answers:
        assert text.strip()
        assert finish in ("stop", "length")
        assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert report["requests"] == 8
    assert report["tokens"]["local_completion"] == sum(usage.completion_tokens for _, _, usage in answers)


def test_doubt_is_escalated_and_headers_ledger_report_and_bill_agree(tmp_path):
    """Sure answers stay, doubtful ones go to the cloud; every place that tells of it tells the same, to the token."""

    async def scenario() -> None:
        async with FakeProvider(Answer(chunks=("from ", "the ", "cloud"), prompt_tokens=11)) as cloud:
            with Serving(tmp_path, FAKE_MODEL + cloud_toml(cloud.base_url)) as server:
                ask = lambda *a, **k: asyncio.to_thread(server.ask, *a, **k)  # noqa: E731
                sure, doubtful, streamed = await asyncio.gather(
                    ask("an easy one"), ask("[doubt] hard"), ask("[doubt] hard and long enough", stream=True)
                )
                report = await asyncio.to_thread(server.report)
                explained = await asyncio.to_thread(server.explain, doubtful.headers["x-hybrid-request-id"])

        assert (sure.headers["x-hybrid-route"], sure.headers["x-hybrid-reason"]) == ("local", "default")
        assert sure.json()["choices"][0]["message"]["content"] == "an easy one"
        for escalated in (doubtful, streamed):
            assert escalated.headers["x-hybrid-route"] == "cloud"
            assert escalated.headers["x-hybrid-reason"] == "confidence"
            assert float(escalated.headers["x-hybrid-confidence"]) < 0.35
            assert escalated.headers["x-hybrid-calibration"] == "uncalibrated"
        assert doubtful.json()["choices"][0]["message"]["content"] == "from the cloud"
        assert '"from "' in streamed.text
        assert report["routes"] == {"local": 1, "cloud": 2, "cache": 0}
        assert report["tokens"]["cloud_prompt"] == cloud.billed.prompt_tokens == 22
        assert report["tokens"]["cloud_completion"] == cloud.billed.completion_tokens == 6
        assert report["spent_usd"] == pytest.approx((22 * 1 + 6 * 2) / 1e6, abs=1e-15)
        assert report["reserved_usd"] == 0
        assert explained["decision"]["review"]["is_accepted"] is False
        assert explained["decision"]["replay"]["is_same"] is True
        assert "draft.confidence" in [change["fact"] for change in explained["decision"]["counterfactuals"]]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("fields", "headers"),
    [
        pytest.param({"model": "local"}, {}, id="model-local"),
        pytest.param({}, {"x-hybrid-policy": "local-only"}, id="header"),
        pytest.param({}, {"x-hybrid-tag": "secret"}, id="private-tag"),
    ],
)
def test_private_requests_never_leave(tmp_path, fields, headers):
    """Doubtful or not, a local-only request is answered here and the cloud never hears of it."""

    async def scenario() -> None:
        async with FakeProvider() as cloud:
            config = FAKE_MODEL + cloud_toml(cloud.base_url) + '[policy]\nprivate_tags = ["secret"]\n'
            with Serving(tmp_path, config) as server:
                answer = await asyncio.to_thread(server.ask, "[doubt] private", headers=headers, **fields)
            assert answer.headers["x-hybrid-route"] == "local"
            assert cloud.requests == []

    asyncio.run(scenario())


@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
def test_without_money_local_answers_and_says_so(tmp_path, is_stream):
    """A doubtful draft that cannot be paid for is returned as `degraded: budget`; cloud only is a 402."""

    async def scenario() -> None:
        async with FakeProvider() as cloud:
            with Serving(tmp_path, FAKE_MODEL + cloud_toml(cloud.base_url, usd_per_day="0.0000001")) as server:
                usage = {"stream_options": {"include_usage": True}} if is_stream else {}
                answer = await asyncio.to_thread(server.ask, "[doubt] hard", stream=is_stream, **usage)
                refused = await asyncio.to_thread(server.ask, "hard", model="cloud")
            if is_stream:
                last = json.loads(answer.text.split("data: ")[-2])
                assert last["hybrid"]["degraded"] == "budget"
            else:
                assert answer.headers["x-hybrid-degraded"] == "budget"
            assert answer.headers["x-hybrid-route"] == "local"
            assert (refused.status_code, refused.json()["error"]["code"]) == (402, "budget_exhausted")
            assert cloud.requests == []

    asyncio.run(scenario())


def test_a_request_the_local_engine_cannot_do_goes_to_a_cloud_that_can(tmp_path):
    """Images are beyond the local engine: with a cloud it is `capability`, without one a 400 that says so."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    messages = [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, image]}]

    async def scenario() -> None:
        async with FakeProvider() as cloud:
            with Serving(tmp_path / "a", FAKE_MODEL + cloud_toml(cloud.base_url)) as server:
                answer = await asyncio.to_thread(server.ask, "", messages=messages)
            assert (answer.status_code, answer.headers["x-hybrid-reason"]) == (200, "capability")
            assert cloud.requests[0].body["messages"] == messages
        with Serving(tmp_path / "b") as server:
            refused = await asyncio.to_thread(server.ask, "", messages=messages)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "unsupported_capability")

    asyncio.run(scenario())


def test_a_second_hybrid_with_a_client_key_is_a_cloud(tmp_path):
    """Two processes: the front escalates to another hybrid under a key of that one, and both ledgers agree."""
    back = Serving(tmp_path / "back")
    key = back.hybrid("keys", "add", "front").split()[-1]
    with back:
        config = FAKE_MODEL + cloud_toml(back.url).replace(
            'models = ["m"]', 'models = ["local"]\napi_key_env = "BIG_KEY"'
        )
        config = config.replace("big/m", "big/local")
        with Serving(tmp_path / "front", config, environ={"BIG_KEY": key}) as front:
            answer = front.ask("[doubt] what?")
            stranger = back.ask("no key")
            fronts, backs = front.report(), back.report()

    assert answer.headers["x-hybrid-route"] == "cloud"
    assert answer.json()["choices"][0]["message"]["content"] == "[doubt] what?"
    assert stranger.status_code == 401
    assert fronts["tokens"]["cloud_completion"] == backs["tokens"]["local_completion"] > 0
