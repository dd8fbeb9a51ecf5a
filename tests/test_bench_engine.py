"""Does the load generator count and time what servers really send, and is a ratio what it says?"""

from __future__ import annotations

import asyncio
import json
import math
import time

import pytest

from scripts._load import Stream, Target, chat, closed_loop
from scripts._measure import compare, quantile, ratio, shown_command, spread

MESSAGES = [{"role": "user", "content": "hello"}]


def event(text: str | None = None, **fields: object) -> bytes:
    """One server-sent event of a chat stream."""
    choices = [] if text is None else [{"index": 0, "delta": {"content": text}}]
    return b"data: " + json.dumps({"choices": choices, **fields}).encode() + b"\n\n"


USAGE = event(usage={"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}})


def test_events_are_timed_by_the_chunk_that_completes_them():
    """An event cut in two counts when its second half came; two in one chunk share its time; comments count nothing."""
    cut = event("b")
    chunks = [event("a"), cut[:9], cut[9:], b": ping\n\n" + event("c") + event("d"), USAGE + b"data: [DONE]\n\n"]
    stream = Stream(chunks=[(float(number), chunk + b"\r\n") for number, chunk in enumerate(chunks)])
    answer = stream.read()
    assert "abcd" == answer.text
    assert [0.0, 2.0, 3.0, 3.0] == answer.token_times_s
    assert [2.0, 1.0, 0.0] == answer.gaps_s
    assert (7, 3, 4) == (answer.prompt_tokens, answer.completion_tokens, answer.cached_tokens)


def test_an_error_in_a_stream_is_not_a_short_answer():
    """A stream that breaks with an error event raises, so that it never looks like a fast answer."""
    stream = Stream(chunks=[(0.0, b'data: {"error": {"message": "out of cells"}}\n\n\r\n')])
    with pytest.raises(RuntimeError, match="out of cells"):
        stream.read()


async def scripted_server(reply: bytes, *, is_endless: bool = False) -> tuple[asyncio.Server, Target]:
    """Listen on loopback; send `reply` after each request, and then hold the line if `is_endless`."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]))
        writer.write(reply)
        if is_endless:
            await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    return server, Target("scripted", host, port, "m")


def http(*chunks: bytes, status: str = "200 OK") -> bytes:
    """An HTTP/1.1 response in chunks, without the last one."""
    framed = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return f"HTTP/1.1 {status}\r\ntransfer-encoding: chunked\r\n\r\n".encode() + framed


def test_a_whole_answer_is_read_over_http():
    """A chunked stream gives its text, its counts and an end."""

    async def ask() -> Stream:
        server, target = await scripted_server(http(event("a"), event("b"), USAGE) + b"0\r\n\r\n")
        async with server:
            return await chat(target, MESSAGES, 5)

    stream = asyncio.run(ask())
    assert "ab" == stream.read().text
    assert stream.ended_s is not None


def test_a_refusal_names_the_server_and_its_words():
    """A status that is not 200 is an error that shows what the server said."""

    async def ask() -> None:
        server, target = await scripted_server(http(b"no such model", status="404 Not Found"))
        async with server:
            await chat(target, MESSAGES, 5)

    with pytest.raises(RuntimeError, match=r"scripted refused: .*404.*no such model"):
        asyncio.run(ask())


def test_a_closed_loop_hangs_up_in_time():
    """Clients of a server that never ends its answers leave at the time that was set, with what they got so far."""

    async def ask() -> list[Stream]:
        server, target = await scripted_server(http(event("a")), is_endless=True)
        async with server:
            endless = iter(lambda: MESSAGES, None)
            work = asyncio.create_task(closed_loop(target, 2, endless, 5, until_s=time.perf_counter() + 0.2))
            return await work

    streams = asyncio.run(ask())
    assert ["a", "a"] == [stream.read().text for stream in streams]


@pytest.mark.parametrize(
    ("values", "q", "expected"),
    [
        pytest.param([3.0, 1.0, 2.0], 0.5, 2.0, id="middle"),
        pytest.param([0.0, 10.0], 0.95, 9.5, id="between-two"),
        pytest.param([4.0], 0.95, 4.0, id="one"),
    ],
)
def test_quantile(values, q, expected):
    """quantile() interpolates between the two nearest values."""
    assert expected == pytest.approx(quantile(values, q))


def test_quantile_of_nothing_is_unknown():
    """Where nothing was seen there is no quantile, and the summary says None rather than an invalid JSON number."""
    assert math.isnan(quantile([], 0.5))
    assert {"median": None, "min": None, "max": None, "samples": [None]} == spread([math.nan])


def test_the_ratio_pairs_rounds():
    """A machine that slows down between rounds does not widen the interval, because rounds are compared in pairs."""
    peer = [100.0, 50.0, 25.0]
    assert {"median": 2.0, "low": 2.0, "high": 2.0} == ratio([2 * value for value in peer], peer)
    assert ratio([1.0], [0.0]) is None


def test_compare_adds_ratios_only_where_both_were_measured():
    """Without a peer there are spreads and no ratio."""
    ours = [{"tok_s": 1.0}, {"tok_s": 3.0}]
    assert "ratio" not in compare({"ours": ours})["tok_s"]
    assert 0.5 == compare({"ours": ours, "peer": [{"tok_s": 2.0}, {"tok_s": 6.0}]})["tok_s"]["ratio"]["median"]


def test_a_published_command_names_no_folders():
    """Folders are one machine's own; file names and addresses stay."""
    shown = shown_command(
        ["scripts/bench_engine", "--model", "/home/me/a.gguf", "--peer-url", "http://127.0.0.1:80/v1"]
    )
    assert "bench_engine --model a.gguf --peer-url http://127.0.0.1:80/v1" == shown
