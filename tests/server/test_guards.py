"""Do the guards keep out what must not come in: hosts, keys, content types, bodies?"""

from __future__ import annotations

import asyncio

import pytest
from starlette.routing import Route

from hybrid.server.app import make_app
from hybrid.server.gateway import ServerOptions
from hybrid.server.middleware import OPEN_PATHS
from hybrid.server.protocol import ConnectionLimits

from .scripted import ScriptedGateway, chat, error_of, http, send_raw, served, status_of


def send(data: bytes, options: ServerOptions | None = None, gateway: ScriptedGateway | None = None) -> bytes:
    """Serve and send one raw request."""

    async def main() -> bytes:
        async with served(gateway or ScriptedGateway(), options, ConnectionLimits(linger_s=0.05)) as port:
            return await send_raw(port, data)

    return asyncio.run(main())


ANY_ADDRESS = ServerOptions(bound_host="0.0.0.0", allowed_hosts=("box.example",))  # noqa: S104 (never bound here)


@pytest.mark.parametrize(
    ("options", "host", "status"),
    [
        pytest.param(ServerOptions(), "localhost", 200, id="localhost"),
        pytest.param(ServerOptions(), "LOCALHOST.:8484", 200, id="case-dot-and-port"),
        pytest.param(ServerOptions(), "[::1]:8484", 200, id="ipv6"),
        pytest.param(ServerOptions(), "evil.example", 403, id="rebound-name"),
        pytest.param(ServerOptions(), "localhost.evil.example", 403, id="prefix"),
        pytest.param(ServerOptions(), "192.168.1.5", 403, id="other-address"),
        pytest.param(ServerOptions(), "localhost/x", 400, id="slash"),
        pytest.param(ServerOptions(), "localhost?x", 400, id="question"),
        pytest.param(ServerOptions(), "localhost#x", 400, id="fragment"),
        pytest.param(ServerOptions(), "user@localhost", 400, id="user"),
        pytest.param(ServerOptions(), "", 400, id="empty"),
        pytest.param(ServerOptions(), "localhost\r\nhost: evil.example", 400, id="two"),
        pytest.param(ServerOptions(allowed_hosts=("box.example",)), "box.example:80", 200, id="configured"),
        pytest.param(ServerOptions(allowed_hosts=("*",)), "any.example", 200, id="star"),
        pytest.param(ServerOptions(bound_host="192.168.1.5"), "192.168.1.5", 200, id="bound"),
        pytest.param(ANY_ADDRESS, "192.168.1.5:8484", 200, id="wildcard-takes-addresses"),
        pytest.param(ANY_ADDRESS, "evil.example", 403, id="wildcard-takes-no-name"),
    ],
)
def test_host(options: ServerOptions, host: str, status: int):
    """The server answers to its own names only, so that a web page cannot reach it by rebinding its DNS."""
    response = send(http("GET", "/healthz", host=host), options)
    assert status == status_of(response)
    if status != 200:
        assert error_of(response)["code"] in ("forbidden", "invalid_host")


def test_no_host():
    """HTTP/1.0 without a Host is refused, not guessed at."""
    assert status_of(send(b"GET /healthz HTTP/1.0\r\n\r\n")) == 400


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        pytest.param("/v1/models", ("authorization: Bearer right",), 200, id="right"),
        pytest.param("/v1/models", ("authorization: bEaReR  right ",), 200, id="scheme-case"),
        pytest.param("/v1/models", (), 401, id="none"),
        pytest.param("/v1/models", ("authorization: Bearer wrong",), 401, id="wrong"),
        pytest.param("/v1/models", ("authorization: Basic right",), 401, id="basic"),
        pytest.param("/v1/models", ("authorization: Bearer right", "authorization: Bearer right"), 401, id="twice"),
        pytest.param("/nowhere", (), 401, id="unknown-path"),
        pytest.param("//healthz", (), 401, id="double-slash"),
        pytest.param("/healthz/../v1/models", (), 401, id="dots"),
        pytest.param("/v1%2fmodels", (), 401, id="escaped-slash"),
        pytest.param("/healthz", (), 200, id="alive-is-open"),
        pytest.param("/readyz", (), 200, id="ready-is-open"),
    ],
)
def test_key(path: str, headers: tuple[str, ...], status: int):
    """With keys configured everything but the two probes needs one, known path or not."""
    assert status == status_of(send(http("GET", path, *headers), gateway=ScriptedGateway(key="right")))


def test_every_route_is_behind_the_key():
    """A route added later is closed by default: only the probes are listed as open."""

    async def main() -> list[tuple[str, int]]:
        gateway = ScriptedGateway(key="right")
        routes = [route for route in make_app(gateway, ServerOptions()).routes if isinstance(route, Route)]
        async with served(gateway) as port:
            seen = []
            for route in routes:
                for method in route.methods or ():
                    raw = http(method, route.path.replace("{id:path}", "x"))
                    seen.append((route.path, status_of(await send_raw(port, raw))))
            return seen

    assert all(status == (200 if path in OPEN_PATHS else 401) for path, status in asyncio.run(main()))


def test_every_post_wants_json():
    """A route added later refuses what a foreign web page could send without asking."""

    async def main() -> list[int]:
        gateway = ScriptedGateway()
        routes = [route for route in make_app(gateway, ServerOptions()).routes if isinstance(route, Route)]
        posts = [route.path for route in routes if "POST" in (route.methods or ())]
        async with served(gateway) as port:
            raws = [http("POST", path, "content-type: text/plain", body=b"{}") for path in posts]
            return [status_of(await send_raw(port, raw)) for raw in raws]

    assert {415} == set(asyncio.run(main()))


JSON_TYPE = "content-type: application/json"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        pytest.param((JSON_TYPE,), 400, id="json"),
        pytest.param(("content-type: Application/JSON; charset=UTF-8",), 400, id="charset"),
        pytest.param(("content-type: application/json; charset=latin-1",), 415, id="other-charset"),
        pytest.param(("content-type: application/x-www-form-urlencoded",), 415, id="form"),
        pytest.param((), 415, id="none"),
        pytest.param((JSON_TYPE, "content-type: text/plain"), 415, id="two"),
        pytest.param((JSON_TYPE, "content-encoding: gzip"), 415, id="gzip"),
        pytest.param((JSON_TYPE, "content-encoding: identity"), 400, id="identity"),
    ],
)
def test_content_type(headers: tuple[str, ...], status: int):
    """Only plain UTF-8 JSON is read (400: it was, and lacks the model)."""
    assert status == status_of(send(http("POST", "/v1/chat/completions", *headers, body=b"{}")))


SMALL = ServerOptions(max_body_bytes=1000)


def test_an_announced_body_is_refused_unread():
    """A Content-Length over the limit gets its 413 although not one byte of the body was sent."""
    response = send(http("POST", "/v1/chat/completions", JSON_TYPE).replace(b"length: 0", b"length: 1001"), SMALL)
    assert (413, "request_too_large") == (status_of(response), error_of(response)["code"])


def test_a_chunked_body_is_cut_off():
    """Without a length the bytes are counted as they come."""
    chunk = b"200\r\n" + b" " * 512 + b"\r\n"
    head = http("POST", "/v1/chat/completions", JSON_TYPE, "transfer-encoding: chunked")
    response = send(head.replace(b"content-length: 0\r\n", b"") + 2 * chunk, SMALL)
    assert status_of(response) == 413


def test_a_refused_sender_still_hears_why():
    """A client that sends ten megabytes before it reads gets the 413, not a broken pipe."""

    async def main() -> bytes:
        async with served(ScriptedGateway()) as port:
            return await send_raw(port, http("POST", "/v1/chat/completions", JSON_TYPE, body=b" " * 10_000_000))

    response = asyncio.run(main())
    assert (413, "request_too_large") == (status_of(response), error_of(response)["code"])


def test_a_body_at_the_limit_is_read():
    """The limit itself is allowed."""
    raw = chat()
    size = len(raw.partition(b"\r\n\r\n")[2])
    assert status_of(send(raw, ServerOptions(max_body_bytes=size))) == 200


def test_a_dripping_body_times_out():
    """A body that does not arrive in time gets a 408."""
    raw = http("POST", "/v1/chat/completions", JSON_TYPE, body=b"{}")[:-1]
    response = send(raw, ServerOptions(body_deadline_s=0.02))
    assert (408, "body_timeout") == (status_of(response), error_of(response)["code"])


def test_a_hang_up_inside_the_body():
    """A client that leaves half-way never made a request: nothing is recorded, nothing breaks."""

    async def main() -> ScriptedGateway:
        gateway = ScriptedGateway()
        async with served(gateway) as port:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(chat()[:-5])
            await writer.drain()
            writer.close()
            assert status_of(await send_raw(port, http("GET", "/healthz"))) == 200
        return gateway

    gateway = asyncio.run(main())
    assert ([], []) == (gateway.refused, gateway.requests)


def test_a_stream_to_a_client_of_http_1_0_has_no_chunks():
    """HTTP/1.0 knows no chunked encoding: such a client would read the chunks' sizes as text."""
    head, _, body = send(chat(stream=True).replace(b"HTTP/1.1", b"HTTP/1.0")).partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head
    assert b"connection: close" in head
    assert body.startswith(b"data: {")
    assert body.endswith(b"\n\ndata: [DONE]\n\n")
    assert status_of(send(http("GET", "/healthz").replace(b"HTTP/1.1", b"HTTP/1.0"))) == 200
    assert status_of(send(http("HEAD", "/healthz").replace(b"HTTP/1.1", b"HTTP/1.0"))) == 200
