"""Does `/v1/embeddings` take what OpenAI's takes, answer in its shape, and stop when the client does?"""

from __future__ import annotations

import asyncio
import struct

import msgspec
import openai
import pytest

from hybrid.errors import HybridError, InvalidRequest, ModelNotReady
from hybrid.server.openai_embeddings import parse, render
from hybrid.types import EmbeddingRequest, Embeddings, Head, Json, PolicyChoice, Route, Usage

from .scripted import ScriptedGateway, error_of, http, send_raw, served, status_of

VECTORS = ((0.6, 0.8, 0.0), (0.0, -1.0, 0.1))
ANSWER = Embeddings(
    head=Head(request_id="r-1", route=Route.LOCAL, model="bge", reason="pinned", overhead_s=0.001),
    usage=Usage(prompt_tokens=9, completion_tokens=0),
    vectors=tuple(struct.pack("<3f", *vector) for vector in VECTORS),
)
AS_FLOATS = [list(struct.unpack("<3f", vector)) for vector in ANSWER.vectors]
PROMPT_S = 0.5


def _body(**fields: Json) -> bytes:
    return msgspec.json.encode({"model": "local", "input": "text", **fields})


def _http(body: bytes, *headers: str) -> bytes:
    return http("POST", "/v1/embeddings", "content-type: application/json", *headers, body=body)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param("text", ("text",), id="text"),
        pytest.param(["a", "b"], ("a", "b"), id="texts"),
        pytest.param([1, 2, 3], ((1, 2, 3),), id="tokens-are-one-input"),
        pytest.param([[1], [2, 3]], ((1,), (2, 3)), id="token-lists"),
        pytest.param(["x"] * 2048, ("x",) * 2048, id="as-many-as-are-taken"),
        pytest.param(list(range(3000)), (tuple(range(3000)),), id="many-tokens-of-one-input"),
    ],
)
def test_the_four_forms_of_input(given, expected):
    """A text, texts, tokens, or lists of tokens become the inputs, in their order."""
    request, form = parse(_body(input=given), ())
    assert (expected, "float") == (request.inputs, form)


@pytest.mark.parametrize(
    ("fields", "param", "what"),
    [
        pytest.param({"input": ""}, "input", "input is empty", id="empty-text"),
        pytest.param({"input": []}, "input", "input is empty", id="nothing"),
        pytest.param({"input": ["a", ""]}, "input", r"input\[1\] is empty", id="one-empty-text"),
        pytest.param({"input": [[1], []]}, "input", r"input\[1\] is empty", id="one-without-tokens"),
        pytest.param({"input": ["a", 1]}, "input", "mixes", id="texts-and-tokens"),
        pytest.param({"input": [1, [2]]}, "input", "mixes", id="tokens-and-lists"),
        pytest.param({"input": [-1]}, "input[0]", "expected", id="negative-token"),
        pytest.param({"input": [2**31]}, "input[0]", "expected", id="token-out-of-range"),
        pytest.param({"input": [1.5]}, "input[0]", "expected", id="token-with-a-fraction"),
        pytest.param({"input": [True]}, "input[0]", "expected", id="truth-value"),
        pytest.param({"input": None}, "input", "expected", id="null"),
        pytest.param({"input": {"text": "a"}}, "input", "expected", id="object"),
        pytest.param({"input": ["a"] * 2049}, "input", "2049 items; at most 2048", id="too-many"),
        pytest.param({"encoding_format": "int8"}, "encoding_format", "invalid", id="unknown-format"),
        pytest.param({"dimensions": 0}, "dimensions", "expected", id="no-dimensions"),
        pytest.param({"inputs": "a"}, "inputs", "did you mean input", id="misspelt"),
        pytest.param({"model": ""}, "model", "expected", id="no-model"),
    ],
)
def test_wrong_bodies_are_refused(fields, param, what):
    """Each mistake is a 400 that names the parameter."""
    with pytest.raises(InvalidRequest, match=what) as caught:
        parse(_body(**fields), ())
    assert param == caught.value.param


def test_all_fields_are_read():
    """What OpenAI's schema has, our headers and the client's key become the request."""
    body = _body(dimensions=64, encoding_format="base64", user="u")
    headers = [(b"x-hybrid-tag", b"docs"), (b"x-hybrid-deadline-ms", b"1500"), (b"x-hybrid-policy", b"local-only")]
    expected = EmbeddingRequest(
        model="local",
        inputs=("text",),
        dimensions=64,
        policy=PolicyChoice.LOCAL_ONLY,
        deadline_s=1.5,
        tag="docs",
        client_key="alice",
    )
    assert (expected, "base64") == parse(body, headers, client_key="alice")


def test_both_forms_hold_the_same_numbers():
    """base64 is the little-endian floats that the list shows."""
    floats, packed = (msgspec.json.decode(render(ANSWER, form)) for form in ("float", "base64"))
    assert AS_FLOATS == [one["embedding"] for one in floats["data"]]
    assert ["mpkZP83MTD8AAAAA", "AAAAAAAAgL/NzMw9"] == [one["embedding"] for one in packed["data"]]
    assert {"prompt_tokens": 9, "total_tokens": 9} == floats["usage"]
    assert [("embedding", 0), ("embedding", 1)] == [(one["object"], one["index"]) for one in floats["data"]]


def test_the_official_client_reads_the_answer():
    """`openai` asks in base64 by default and gets the vectors, the usage and our headers."""

    async def main() -> None:
        gateway = ScriptedGateway(ANSWER)
        async with (
            served(gateway) as port,
            openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0) as client,
        ):
            raw = await client.embeddings.with_raw_response.create(model="local", input=["a", "b"])
            answer = raw.parse()
        assert AS_FLOATS == [pytest.approx(one.embedding) for one in answer.data]
        assert ("list", "bge", 9, 9) == (
            answer.object,
            answer.model,
            answer.usage.prompt_tokens,
            answer.usage.total_tokens,
        )
        sent = {name: raw.headers[f"x-hybrid-{name}"] for name in ("request-id", "route", "model", "reason")}
        assert {"request-id": "r-1", "route": "local", "model": "bge", "reason": "pinned"} == sent
        assert [("a", "b")] == [request.inputs for request in gateway.embedding_requests]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("error", "status"),
    [
        pytest.param(InvalidRequest("too long", param="input", code="context_length_exceeded"), 400, id="caller"),
        pytest.param(ModelNotReady("it is loading"), 503, id="local"),
    ],
)
def test_a_failure_has_its_status(error: HybridError, status: int):
    """What the gateway raises is told in the envelope."""

    async def main() -> None:
        async with served(ScriptedGateway(error)) as port:
            answer = await send_raw(port, _http(_body()))
        assert (status, error.code) == (status_of(answer), error_of(answer)["code"])

    asyncio.run(main())


def test_a_refused_body_is_recorded():
    """A request that never parsed is in the ledger with the model it named."""

    async def main() -> None:
        gateway = ScriptedGateway(ANSWER)
        async with served(gateway) as port:
            answer = await send_raw(port, _http(_body(input="")))
        assert (400, "input") == (status_of(answer), error_of(answer)["param"])
        assert ["local"] == [model for _, model in gateway.refused]

    asyncio.run(main())


def test_a_hang_up_stops_the_work():
    """The gateway's call is cancelled at once when the client goes."""

    async def main() -> None:
        gateway = ScriptedGateway(asyncio.Event())
        async with served(gateway) as port:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(_http(_body()))
            await gateway.started.wait()
            writer.close()
            await asyncio.wait_for(gateway.closed.wait(), PROMPT_S)

    asyncio.run(main())
