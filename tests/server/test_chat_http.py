"""Does a chat completion work over real HTTP, with OpenAI's own client and without?"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import openai
import pytest

from hybrid.errors import (
    BudgetExhausted,
    ContextLengthExceeded,
    DeadlineExceeded,
    HybridError,
    ModelNotFound,
    ProviderRejected,
    QueueFull,
    StoreError,
    WorkerDied,
)
from hybrid.server.gateway import ServerOptions
from hybrid.types import Finished, FinishReason, Message, Tail, TextDelta, TextPart, ToolCallDelta

from .scripted import (
    FINISHED,
    HEAD,
    TAIL,
    ScriptedGateway,
    chat,
    error_of,
    http,
    send_raw,
    served,
    status_of,
)

MESSAGES: list[Any] = [{"role": "user", "content": "Hi"}]


def ask(gateway: ScriptedGateway, question: Callable[[openai.AsyncOpenAI], Awaitable[Any]], **client: Any) -> Any:
    """Serve the gateway and ask it one thing through OpenAI's client."""

    async def main() -> Any:
        async with (
            served(gateway) as port,
            openai.AsyncOpenAI(
                base_url=f"http://127.0.0.1:{port}/v1", **{"api_key": "sk-any", "max_retries": 0, **client}
            ) as sdk,
        ):
            return await question(sdk)

    return asyncio.run(main())


def send(gateway: ScriptedGateway, data: bytes, options: ServerOptions | None = None) -> bytes:
    """Serve the gateway and send it one raw request."""

    async def main() -> bytes:
        async with served(gateway, options) as port:
            return await send_raw(port, data)

    return asyncio.run(main())


def test_a_plain_question():
    """OpenAI's client gets the text, the usage and our headers; the gateway gets the parsed request."""
    gateway = ScriptedGateway()
    raw = ask(gateway, lambda sdk: sdk.chat.completions.with_raw_response.create(model="hybrid", messages=MESSAGES))
    answer = raw.parse()
    assert ("Hello", "stop") == (answer.choices[0].message.content, answer.choices[0].finish_reason)
    assert (7, 2, 3) == (
        answer.usage.prompt_tokens,
        answer.usage.completion_tokens,
        answer.usage.prompt_tokens_details.cached_tokens,
    )
    assert ("r-1", "local") == (raw.headers["x-hybrid-request-id"], raw.headers["x-hybrid-route"])
    assert (Message("user", (TextPart("Hi"),)),) == gateway.requests[0].messages


def test_a_streamed_question():
    """Streamed, the pieces arrive in order, the usage comes last, and the status line carries the head's headers."""

    async def question(sdk: openai.AsyncOpenAI) -> tuple[str, int, Any]:
        stream = await sdk.chat.completions.create(
            model="hybrid", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
        return text, chunks[-1].usage.total_tokens, stream.response.headers["x-hybrid-confidence"]

    assert ("Hello", 9, "0.7322") == ask(ScriptedGateway(), question)


def test_eight_at_once():
    """Eight streams at once each get their own whole answer."""

    async def question(sdk: openai.AsyncOpenAI) -> list[str]:
        async def one() -> str:
            stream = await sdk.chat.completions.create(model="hybrid", messages=MESSAGES, stream=True)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        return await asyncio.gather(*(one() for _ in range(8)))

    assert ["Hello"] * 8 == ask(ScriptedGateway(), question)


def test_tools_through_the_client():
    """A streamed tool call is assembled by OpenAI's own accumulator."""
    call = (ToolCallDelta(0, "call_1", "now", ""), ToolCallDelta(0, arguments='{"tz":1}'))
    gateway = ScriptedGateway(HEAD, *call, Finished(FinishReason.TOOL_CALLS, None), TAIL)

    async def question(sdk: openai.AsyncOpenAI) -> Any:
        tool: Any = {"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}
        async with sdk.chat.completions.stream(model="hybrid", messages=MESSAGES, tools=[tool]) as stream:
            return (await stream.get_final_completion()).choices[0].message.tool_calls

    calls = ask(gateway, question)
    assert [("call_1", "now", '{"tz":1}')] == [(c.id, c.function.name, c.function.arguments) for c in calls]


def test_models_through_the_client():
    """The client lists the models, and fetches one whose id has a slash."""

    async def question(sdk: openai.AsyncOpenAI) -> Any:
        listed = [model.id async for model in sdk.models.list()]
        one = await sdk.models.retrieve("local/smollm2")
        with pytest.raises(openai.NotFoundError):
            await sdk.models.retrieve("gpt-9")
        return listed, one.owned_by

    assert (["hybrid", "local/smollm2"], "local") == ask(ScriptedGateway(), question)


@pytest.mark.parametrize("is_stream", [pytest.param(False, id="whole"), pytest.param(True, id="stream")])
@pytest.mark.parametrize(
    ("error", "expected"),
    [
        pytest.param(ContextLengthExceeded(9000, 8192), openai.BadRequestError, id="context"),
        pytest.param(ModelNotFound("x", ["hybrid"]), openai.NotFoundError, id="model"),
        pytest.param(QueueFull(9, 2.0), openai.RateLimitError, id="queue"),
        pytest.param(BudgetExhausted("no money left today"), openai.APIStatusError, id="budget"),
        pytest.param(WorkerDied("it died"), openai.InternalServerError, id="worker"),
        pytest.param(ProviderRejected("openai", 401, "bad key"), openai.InternalServerError, id="provider"),
        pytest.param(DeadlineExceeded("too late"), openai.InternalServerError, id="deadline"),
    ],
)
def test_refusals_are_the_clients_own_exceptions(
    error: HybridError, expected: type[openai.APIStatusError], *, is_stream: bool
):
    """What the gateway refuses before its head is a real HTTP error, streamed or not, with the row's id."""
    error.request_id = "r-9"
    gateway = ScriptedGateway(error)
    with pytest.raises(expected) as caught:
        ask(gateway, lambda sdk: sdk.chat.completions.create(model="hybrid", messages=MESSAGES, stream=is_stream))
    assert (error.status, error.code, "r-9") == (
        caught.value.status_code,
        caught.value.code,
        caught.value.response.headers["x-hybrid-request-id"],
    )


def test_a_client_key_reaches_the_request():
    """The key's name travels with the request; a wrong key is the client's AuthenticationError."""
    gateway = ScriptedGateway(key="sk-right")
    ask(gateway, lambda sdk: sdk.chat.completions.create(model="hybrid", messages=MESSAGES), api_key="sk-right")
    assert gateway.requests[0].client_key == "alice"
    with pytest.raises(openai.AuthenticationError):
        ask(gateway, lambda sdk: sdk.chat.completions.create(model="hybrid", messages=MESSAGES), api_key="sk-wrong")


def test_what_must_not_be_retried_is_not():
    """A refusal by the provider costs one try, though OpenAI's client would make three of a 502."""
    gateway = ScriptedGateway(ProviderRejected("openai", 400, "no"))
    with pytest.raises(openai.InternalServerError):
        ask(gateway, lambda sdk: sdk.chat.completions.create(model="hybrid", messages=MESSAGES), max_retries=2)
    assert len(gateway.requests) == 1


def test_a_failure_in_mid_stream():
    """After the first token a failure is an error event: the text so far stays, and no terminator pretends success."""
    gateway = ScriptedGateway(HEAD, TextDelta("Hel"), WorkerDied("the worker died"))
    response = send(gateway, chat(stream=True))
    assert status_of(response) == 200
    assert b'"content":"Hel"' in response
    assert b'data: {"error":{"message":"the worker died"' in response
    assert b"[DONE]" not in response
    assert response.endswith(b"0\r\n\r\n")


def test_openais_client_raises_on_a_failure_in_mid_stream():
    """OpenAI's client turns that event into an APIError after the text it already gave out."""
    gateway = ScriptedGateway(HEAD, TextDelta("Hel"), WorkerDied("the worker died"))

    async def question(sdk: openai.AsyncOpenAI) -> list[str | None]:
        seen: list[str | None] = []
        stream = await sdk.chat.completions.create(model="hybrid", messages=MESSAGES, stream=True)
        with pytest.raises(openai.APIError, match="the worker died"):  # noqa: PT012 (raised by the loop itself)
            async for chunk in stream:
                seen.append(chunk.choices[0].delta.content)
        return seen

    assert ["Hel"] == ask(gateway, question)


def test_a_failure_after_the_head_of_a_whole_answer():
    """Not streamed, nothing was sent yet, so it is a real HTTP error and names its row."""
    response = send(ScriptedGateway(HEAD, TextDelta("Hel"), WorkerDied("gone")), chat())
    assert (503, "worker_died") == (status_of(response), error_of(response)["code"])
    assert b"x-hybrid-request-id: r-1\r\n" in response


@pytest.mark.parametrize(
    ("script", "is_stream"),
    [
        pytest.param((ZeroDivisionError("secret"),), False, id="before-head"),
        pytest.param((ZeroDivisionError("secret"),), True, id="stream-before-head"),
        pytest.param((HEAD, ZeroDivisionError("secret")), False, id="after-head"),
        pytest.param((HEAD, ZeroDivisionError("secret")), True, id="mid-stream"),
        pytest.param((HEAD, TextDelta("x")), False, id="no-tail"),
        pytest.param((HEAD, TextDelta("x")), True, id="stream-no-tail"),
        pytest.param((HEAD, TAIL), False, id="tail-without-finish"),
        pytest.param((TextDelta("x"),), True, id="no-head"),
    ],
)
def test_a_bug_of_ours(script: tuple[object, ...], caplog: pytest.LogCaptureFixture, *, is_stream: bool):
    """An unexpected exception is logged with its traceback; the client learns that, and nothing of its inside."""
    with caplog.at_level(logging.ERROR):
        response = send(ScriptedGateway(*script), chat(stream=is_stream))
    assert b"something broke inside hybrid" in response
    assert b"[DONE]" not in response
    assert b"secret" not in response
    assert any(record.exc_info for record in caplog.records)


def test_a_refused_body_is_recorded_and_named():
    """A body that does not parse gets a ledger row, with the model it asked for, and the response names it."""
    gateway = ScriptedGateway()
    response = send(gateway, chat(temperature=9))
    assert (400, "temperature") == (status_of(response), error_of(response)["param"])
    assert b"x-hybrid-request-id: refused-1\r\n" in response
    assert [("temperature", "hybrid")] == [(error.param, model) for error, model in gateway.refused]


def test_a_broken_ledger_does_not_hide_the_callers_error():
    """If even the refusal cannot be recorded, the client still gets its own 400."""

    class Broken(ScriptedGateway):
        def refuse(self, error: HybridError, **_: Any) -> str:
            raise StoreError("disk full")

    response = send(Broken(), chat(temperature=9))
    assert (400, "temperature") == (status_of(response), error_of(response)["param"])


def test_the_server_goes_on_after_bad_input():
    """On one connection, a bad request is answered and the next one served."""

    async def main() -> tuple[bytes, bytes]:
        async with served(ScriptedGateway()) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(chat(n=-1).replace(b"connection: close\r\n", b""))
            bad = await reader.readuntil(b'"src":"hybrid"}}')
            writer.write(chat())
            good = await reader.read()
            writer.close()
            return bad, good

    bad, good = asyncio.run(main())
    assert (400, 200) == (status_of(bad), status_of(good))


@pytest.mark.parametrize("is_stream", [pytest.param(False, id="whole"), pytest.param(True, id="stream")])
def test_the_books_are_closed_first(*, is_stream: bool):
    """Who has the end of an answer finds its row closed: the gateway's generator ended before it was sent."""

    async def main() -> bool:
        gateway = ScriptedGateway()
        async with served(gateway) as port:
            await send_raw(port, chat(stream=is_stream))
            return gateway.closed.is_set()

    assert asyncio.run(main())


def test_a_quiet_stream_is_kept_alive():
    """While the model thinks, comments are sent; when it goes on they stop counting."""

    async def main() -> bytes:
        gate = asyncio.Event()
        gateway = ScriptedGateway(HEAD, TextDelta("Hel"), gate, TextDelta("lo"), FINISHED, TAIL)
        async with served(gateway, ServerOptions(ping_s=0.01)) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(chat(stream=True))
            seen = await reader.readuntil(b": ping\n\n")
            gate.set()
            seen += await reader.read()
            writer.close()
            return seen

    response = asyncio.run(main())
    assert b'"content":"Hel"' in response.partition(b": ping")[0]
    assert b'"content":"lo"' in response.partition(b": ping")[2]
    assert b"data: [DONE]\n\n" in response


def test_no_status_before_the_head():
    """Nothing of a stream is sent before the gateway's head is there, so that a refusal can still have its status."""

    async def main() -> bytes:
        gate = asyncio.Event()
        gateway = ScriptedGateway(gate, QueueFull(3, 1.0))
        async with served(gateway, ServerOptions(ping_s=0.001)) as port:
            sending = asyncio.ensure_future(send_raw(port, chat(stream=True)))
            await gateway.started.wait()
            gate.set()
            return await sending

    response = asyncio.run(main())
    assert (429, "queue_full") == (status_of(response), error_of(response)["code"])
    assert b"retry-after: 1\r\n" in response


def test_hostile_names_add_no_header():
    """A model name with a line break cannot add a header or break the response."""
    head = replace(HEAD, request_id="r\r\nx: 1", model="é\r\nset-cookie: a=b\r\n\r\n<x>")
    response = send(ScriptedGateway(head, FINISHED, Tail(head=head, usage=None)), chat())
    assert status_of(response) == 200
    assert b"\r\nset-cookie" not in response.partition(b"\r\n\r\n")[0]
    assert b"x-hybrid-model: ???set-cookie: a=b????<x>\r\n" in response


def test_probes_and_models():
    """Alive is always 200; ready follows the gateway and says why not."""
    assert b'{"status":"ok"}' in send(ScriptedGateway(is_ready=False), http("GET", "/healthz"))
    ready = send(ScriptedGateway(), http("GET", "/readyz"))
    assert (200, True) == (status_of(ready), b'"status":"ready"' in ready)
    loading = send(ScriptedGateway(is_ready=False), http("GET", "/readyz"))
    assert (503, True) == (status_of(loading), b'"local":"loading"' in loading)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        pytest.param("GET", "/", 404, "path_not_found", id="root"),
        pytest.param("GET", "/v1/models/none", 404, "model_not_found", id="model"),
        pytest.param("GET", "/v1/models/", 404, "model_not_found", id="no-redirect"),
        pytest.param("GET", "/healthz/", 404, "path_not_found", id="probe-slash"),
        pytest.param("GET", "/v1/chat/completions", 405, "method_not_allowed", id="get-chat"),
        pytest.param("OPTIONS", "/v1/chat/completions", 405, "method_not_allowed", id="preflight"),
        pytest.param("DELETE", "/v1/models", 405, "method_not_allowed", id="delete"),
        pytest.param("POST", "/nowhere", 404, "path_not_found", id="post"),
    ],
)
def test_wrong_turns(method: str, path: str, status: int, code: str):
    """Unknown paths and wrong methods get the envelope, and no header opens us to other origins."""
    response = send(ScriptedGateway(), http(method, path, "origin: http://evil.example"))
    assert (status, code) == (status_of(response), error_of(response)["code"])
    assert b"access-control" not in response.lower()


def test_java_offers_an_upgrade():
    """An offer to upgrade to HTTP/2 is ignored and the body is read; Java's HttpClient makes it by default."""
    offer = ("connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAMAAABkAAQAAP__")
    data = chat(*offer).replace(b"connection: close\r\n", b"", 1)

    async def main() -> bytes:
        async with served(ScriptedGateway()) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(data)
            head = await reader.readuntil(b"\r\n\r\n")
            writer.write(chat())
            rest = await reader.read()
            writer.close()
            return head + rest

    assert asyncio.run(main()).count(b"HTTP/1.1 200 OK") == 2
