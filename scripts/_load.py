"""What do clients of a chat server see, and when? Streams over bare sockets, read cheaply and parsed afterwards.

The load generator shares the machine with what it measures, so while a stream runs it only notes the time and the
bytes of each chunk.
"""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import llama_cpp as llama

from hybrid.engine.chat_template import ChatTemplate
from hybrid.gguf import read_header

Messages: TypeAlias = list[dict[str, str]]
ANSWER_LIMIT_S = 600.0

# Frequent words; those that are one token each after a space are used, so that lengths come out exact.
WORDS = """
time year people way day man thing woman life child world school state family student group country problem hand
part place case week company system program question work government number night point home water room mother area
money story fact month lot right study book eye job word business issue side kind head house service friend father
power hour game line end member law car city community name president team minute idea body information back parent
face others level office door health person art war history party result change morning reason research girl guy
moment air teacher force education foot boy age policy music market sense nation plan college interest death
experience effect use class control field development role effort rate heart drug show leader light voice wife
police mind price report decision son view relationship town road arm difference value building action season
society tax director position player record paper space ground form event official matter center couple site project
activity star table need court oil situation cost industry figure street image phone data picture practice piece
land product doctor wall patient worker news test movie north love support technology
"""


@dataclass(frozen=True, slots=True)
class Target:
    """A chat server: its name in tables, where it listens, what model it is asked for, its process if we started it."""

    name: str
    host: str
    port: int
    model: str
    pid: int | None = None


@dataclass(slots=True)
class Stream:
    """One answer as its bytes came in. Times are of `time.perf_counter`, in seconds."""

    sent_s: float = 0.0
    ended_s: float | None = None
    chunks: list[tuple[float, bytes]] = field(default_factory=list)
    _watched_chunks: int = 0
    _reached: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, data: bytes) -> None:
        """Note a chunk and when it came."""
        self.chunks.append((time.perf_counter(), data))
        if len(self.chunks) == self._watched_chunks:
            self._reached.set()

    def end(self) -> None:
        """Note that no more comes."""
        self.ended_s = time.perf_counter()
        self._reached.set()

    async def reached(self, chunks: int) -> None:
        """Wait until so many chunks are there, or the end is. One watcher a stream."""
        self._watched_chunks = chunks
        if len(self.chunks) < chunks and self.ended_s is None:
            await self._reached.wait()

    def read(self) -> Answer:
        """Parse what came in, after the clock has stopped."""
        answer = Answer(self.sent_s, self.ended_s)
        for arrived_s, event in _events(self.chunks):
            if "error" in event:
                raise RuntimeError(f"the stream broke: {event['error']}")
            delta = event["choices"][0]["delta"] if event.get("choices") else {}
            text = delta.get("content") or delta.get("reasoning_content")
            if text:
                answer.token_times_s.append(arrived_s)
                answer.text += text
            if usage := event.get("usage"):
                answer.prompt_tokens = usage["prompt_tokens"]
                answer.completion_tokens = usage["completion_tokens"]
                answer.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        return answer


@dataclass(slots=True)
class Answer:
    """One answer as a client sees it. Token counts are the server's; None while it has not told, as when cut off."""

    sent_s: float
    ended_s: float | None
    token_times_s: list[float] = field(default_factory=list)
    text: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int = 0

    @property
    def ttft_s(self) -> float:
        """Seconds from sending to the first text; infinite if there was none."""
        return self.token_times_s[0] - self.sent_s if self.token_times_s else float("inf")

    @property
    def gaps_s(self) -> list[float]:
        """Seconds between pieces of text."""
        return [later - earlier for earlier, later in itertools.pairwise(self.token_times_s)]


async def chat(target: Target, messages: Messages, max_tokens: int, stream: Stream | None = None) -> Stream:
    """Ask and read to the end. `stream`, if given, is filled while it runs, for a watcher.

    Raises: RuntimeError if the server refuses; TimeoutError after ten minutes.
    """
    stream = stream or Stream()
    reader, writer = await asyncio.open_connection(target.host, target.port)
    try:
        async with asyncio.timeout(ANSWER_LIMIT_S):
            stream.sent_s = time.perf_counter()
            writer.write(_request(target, messages, max_tokens))
            status = await reader.readline()
            while (await reader.readline()).strip():
                pass
            if b" 200 " not in status:
                raise RuntimeError(f"{target.name} refused: {status!r} {await reader.read(2000)!r}")
            while size := int(await reader.readline(), 16):
                stream.add(await reader.readexactly(size + 2))
    finally:
        stream.end()
        writer.close()
    return stream


async def closed_loop(
    target: Target, clients: int, jobs: Iterator[Messages], max_tokens: int, *, until_s: float | None = None
) -> list[Stream]:
    """Let `clients` ask one after the other until the jobs run out, or hang up at `until_s` (perf_counter)."""
    streams: list[Stream] = []

    async def client() -> None:
        for messages in jobs:
            streams.append(Stream())
            await chat(target, messages, max_tokens, streams[-1])

    work = asyncio.gather(*(client() for _ in range(clients)))
    try:
        async with asyncio.timeout(None if until_s is None else max(0.0, until_s - time.perf_counter())):
            await work
    except TimeoutError:
        if until_s is None or time.perf_counter() < until_s:
            raise
    return streams


def _request(target: Target, messages: Messages, max_tokens: int) -> bytes:
    body = {
        "model": target.model,
        "messages": messages,
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    content = json.dumps(body).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: {target.host}:{target.port}\r\nconnection: close\r\n"
        f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


def _events(chunks: Sequence[tuple[float, bytes]]) -> Iterator[tuple[float, dict[str, Any]]]:
    """Cut the chunks into server-sent events; each belongs to the chunk that completed it."""
    rest = b""
    for arrived_s, data in chunks:
        *whole, rest = (rest + data[:-2]).split(b"\n\n")
        for event in whole:
            if event.startswith(b"data: {"):
                yield arrived_s, json.loads(event[6:])


class Prompts:
    """Makes prompts of an exact number of tokens for one model, counted as the server will count them."""

    def __init__(self, model: Path) -> None:
        llama.llama_log_set(_silence, ctypes.c_void_p(0))
        llama.llama_backend_init()
        params = llama.llama_model_default_params()
        params.vocab_only = True
        self._model = llama.llama_model_load_from_file(str(model).encode(), params)
        self._vocab = llama.llama_model_get_vocab(self._model)
        bos, eos = (self._special(find(self._vocab)) for find in (llama.llama_vocab_bos, llama.llama_vocab_eos))
        self._template = ChatTemplate(read_header(model).chat_template, bos_text=bos, eos_text=eos)
        self._words = [word for word in WORDS.split() if len(self._tokens(f" {word}")) == 1]

    def tokens(self, messages: Messages) -> list[int]:
        """Render and tokenize as the engine does."""
        return self._tokens(self._template.render(messages))

    def story(self, tokens: int, key: str) -> Messages:
        """One user message whose whole prompt has `tokens` tokens. Prompts of other keys differ from the first word."""
        return self._fit(tokens, key, lambda words: [{"role": "user", "content": f"{words}.\n{_TASK}"}])

    def shared(self, system_tokens: int, key: str, chats: int) -> list[Messages]:
        """Chats of one system prompt of `system_tokens` tokens, made for `key`, with different short questions."""
        bare = [{"role": "user", "content": "x"}]
        empty = len(self.tokens([{"role": "system", "content": ""}, *bare]))

        def make(words: str) -> Messages:
            return [{"role": "system", "content": f"{_ROLE} {words}."}, *bare]

        system = self._fit(system_tokens + empty, key, make)[0]
        questions = (self._some(2, f"{key}-{number}") for number in range(chats))
        return [[system, {"role": "user", "content": f"Write a long essay about {topic}."}] for topic in questions]

    def _fit(self, tokens: int, key: str, make: Callable[[str], Messages]) -> Messages:
        """Fill `make` with as many words as make the whole `tokens` long."""
        count = tokens
        for _ in range(8):
            messages = make(self._some(count, key))
            missing = tokens - len(self.tokens(messages))
            if missing == 0 or count + missing < 1:
                break
            count += missing
        return messages

    def _some(self, count: int, key: str) -> str:
        return " ".join(random.Random(key).choices(self._words, k=max(count, 1)))  # noqa: S311 - text, not a secret

    def _tokens(self, text: str) -> list[int]:
        data = text.encode()
        ids = (llama.llama_token * (len(data) + 8))()
        return list(ids[: llama.llama_tokenize(self._vocab, data, len(data), ids, len(ids), False, True)])

    def _special(self, token: int) -> str:
        text = llama.llama_vocab_get_text(self._vocab, token) if token >= 0 else b""
        return (text or b"").decode("utf-8", "replace")


# Found by trial: small models answer these at length, also greedily, so that answers do not end before their bound.
_ROLE = "You are a writer who answers at length. Notes to draw on:"
_TASK = "Write a very long story in which all of these words occur. Do not stop early."


def system_info() -> str:
    """What llama.cpp, as hybrid runs it, was built for: the instruction sets it uses."""
    return str(llama.llama_print_system_info().decode())


@llama.llama_log_callback
def _silence(_level: int, _text: bytes, _data: Any) -> None:
    """Keep llama.cpp's loading chatter off stderr."""
