"""A client that wants several answers gets them: each its own, in one stream or whole, for one prompt computed once."""

import asyncio

import openai
import pytest

from hybrid.providers.fake import Answer, FakeProvider
from hybrid.providers.fake_anthropic import FakeAnthropic
from tests.e2e.serving import FAKE_MODEL, Serving, cloud_toml

QUESTION = [{"role": "user", "content": "Invent a name for a small sailing boat and say why it fits."}]
COUNT, TOKENS = 4, 16
GGML = '[local]\nmatmul = "ggml"\n'


@pytest.fixture(scope="module")
def starter(tmp_path_factory, starter_model):
    """One server with the real starter for this file.

    ggml multiplies the starter's weights alike for any number of sequences, so that one seed gives one answer to the
    bit; with ours a single sequence is rounded otherwise than several, and a draw may turn.
    """
    with Serving(tmp_path_factory.mktemp("starter"), GGML, "--model", str(starter_model)) as server:
        yield server


def _whole(client: openai.OpenAI, **fields):
    return client.chat.completions.create(model="local", messages=QUESTION, max_tokens=TOKENS, seed=5, **fields)


def test_the_openai_client_gets_several_answers(starter):
    """Whole and streamed give the same texts by index; usage counts the prompt once and every answer's tokens."""
    with openai.OpenAI(base_url=starter.url, api_key="none", max_retries=0) as client:
        whole = _whole(client, n=COUNT)
        one = _whole(client)
        texts, finishes, usage = dict.fromkeys(range(COUNT), ""), {}, None
        for chunk in _whole(client, n=COUNT, stream=True, stream_options={"include_usage": True}):
            usage = chunk.usage or usage
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
                finishes[choice.index] = choice.finish_reason or finishes.get(choice.index)

    assert list(range(COUNT)) == [choice.index for choice in whole.choices]
    assert len({choice.message.content for choice in whole.choices}) > 1
    assert all(choice.finish_reason in ("stop", "length") for choice in whole.choices)
    # The first draws with the request's own seed: it is the one answer of a request for one.
    assert one.choices[0].message.content == whole.choices[0].message.content
    assert all(texts.values())
    assert set(finishes.values()) <= {"stop", "length"}
    assert one.usage.prompt_tokens == whole.usage.prompt_tokens == usage.prompt_tokens
    assert one.usage.completion_tokens <= whole.usage.completion_tokens <= COUNT * TOKENS
    assert 0 == whole.usage.prompt_tokens_details.cached_tokens


def test_the_ledger_counts_all_answers(tmp_path):
    """The row holds what all answers used together, and the prompt once."""
    with Serving(tmp_path) as server:
        answer = server.ask("say it", n=3)
        report = server.report()

    assert ["say it"] * 3 == [choice["message"]["content"] for choice in answer.json()["choices"]]
    assert 3 * len("say it!") == answer.json()["usage"]["completion_tokens"] == report["tokens"]["local_completion"]
    assert answer.json()["usage"]["prompt_tokens"] == report["tokens"]["local_prompt"]
    assert 1 == report["requests"]


@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
def test_doubtful_answers_without_a_cloud_that_can_are_released_as_degraded(tmp_path, is_stream):
    """No cloud here gives several answers, so doubt changes nothing but what the answer says of itself."""

    async def scenario() -> None:
        async with FakeAnthropic() as cloud:
            toml = cloud_toml(cloud.base_url).replace("[[cloud]]", '[[cloud]]\nkind = "anthropic"')
            with Serving(tmp_path, FAKE_MODEL + toml) as server:
                answer = await asyncio.to_thread(server.ask, "[doubt] hm", n=2, temperature=0, stream=is_stream)
            assert "local" == answer.headers["x-hybrid-route"]
            assert [] == cloud.requests
            if not is_stream:
                assert "capability" == answer.headers["x-hybrid-degraded"]

    asyncio.run(scenario())


@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
def test_doubtful_answers_go_to_a_cloud_that_gives_several(tmp_path, is_stream):
    """Both answers are the cloud's, and both are in the cost."""

    async def scenario() -> None:
        async with FakeProvider(Answer(chunks=("from ", "the ", "cloud"), prompt_tokens=11)) as cloud:
            with Serving(tmp_path, FAKE_MODEL + cloud_toml(cloud.base_url)) as server:
                answer = await asyncio.to_thread(server.ask, "[doubt] hm", n=2, stream=is_stream)
                report = await asyncio.to_thread(server.report)
        assert "cloud" == answer.headers["x-hybrid-route"]
        assert (11, 6) == (report["tokens"]["cloud_prompt"], report["tokens"]["cloud_completion"])
        assert pytest.approx((11 * 1 + 6 * 2) / 1e6, abs=1e-15) == report["spent_usd"]
        if is_stream:
            assert 2 == answer.text.count('"finish_reason":"stop"')
        else:
            said = [choice["message"]["content"] for choice in answer.json()["choices"]]
            assert (["from the cloud"] * 2, 6) == (said, answer.json()["usage"]["completion_tokens"])

    asyncio.run(scenario())


def test_a_client_that_leaves_frees_every_slot(tmp_path):
    """Of four endless answers none goes on when the client hangs up."""
    with Serving(tmp_path) as server:
        fields = {"model": "local", "messages": [{"role": "user", "content": "[endless] x"}], "n": 4, "stream": True}
        with server.client.stream("POST", "/chat/completions", json=fields) as response:
            next(response.iter_lines())
        state = server.wait_until(lambda local: local["running"] == 0 and local["waiting"] == 0)

    assert 2 == state["free_slots"]
