"""Do secrets stay out of everything that is kept or shown? Planted in every place that holds one, then searched for.

Each canary is a secret of its own, so that whatever is found names where it came from.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from hybrid.providers.fake import Answer, FakeProvider, Fault
from hybrid.providers.fake_anthropic import FakeAnthropic
from hybrid.providers.fake_gemini import FakeGemini
from hybrid.providers.fake_responses import FakeResponses
from tests.e2e.forks import run
from tests.e2e.serving import FAKE_MODEL, HYBRID, Serving, body

CANARIES = {
    "the first key, from the environment": "sk-canary-environ-1f2e3d4c",
    "the second key, from the environment": "sk-canary-second-5b6a7988",
    "the key of the file": "sk-canary-file-8c9d0e1f",
    "another variable of the environment": "canary-unrelated-77a1b2c3",
    "a proxy's password": "canary-proxy-pw-5d5e5f60",
    "a query parameter": "canary-query-27182818",
    "a cookie": "canary-cookie-16180339",
    "a foreign credential header": "canary-header-14142135",
}
ENVIRON_KEY, SECOND_KEY, FILE_KEY, UNRELATED, PROXY, QUERY, COOKIE, HEADER = CANARIES.values()

KINDS = [
    pytest.param(FakeProvider, 'kind = "openai"', id="openai"),
    pytest.param(FakeResponses, 'kind = "openai"\napi = "responses"', id="responses"),
    pytest.param(FakeAnthropic, 'kind = "anthropic"', id="anthropic"),
    pytest.param(FakeGemini, 'kind = "gemini"', id="gemini"),
]

CLOUD = """
[[cloud]]
name = "{name}"
base_url = "{url}"
{kind}
{keys}
models = [{models}]
max_wait_s = 0
connect_timeout_s = 2
"""
PRICE = """
[prices."{name}/{model}"]
input_usd_per_mtok = 1
output_usd_per_mtok = 2
"""


def parrot(request) -> Answer:
    """Answer by what the message asks for, quoting all that came with the request, as careless servers do."""
    said = {"error": {"message": f"you sent {dict(request.headers)} to {request.path}", "code": "odd"}}
    words, headers = json.dumps(request.body), request.headers
    key = headers.get("authorization") or headers.get("x-api-key") or headers.get("x-goog-api-key", "")
    key = key.removeprefix("Bearer ")
    for status in (400, 401, 402, 403, 404, 429, 500, 503):
        if f"[{status}]" in words:
            return Answer(status=status, headers={"x-echo": key, "retry-after": "0"}, error=said)
    if "[redirect]" in words:
        return Answer(status=307, headers={"location": f"https://{key}.example/{key}"})
    if "[inside]" in words:
        return Answer(fault=Fault.ERROR_OBJECT, after_chunks=1, error=said)
    if "[garbage]" in words:
        return Answer(raw=f'data: {{"choices": "{key}"}}\n\n'.encode())
    if "[type]" in words:
        return Answer(raw=b"", content_type=f"text/{key}")
    faults = {"[reset]": Fault.RESET, "[cut]": Fault.CUT, "[half]": Fault.HALF_CHARACTER}
    fault = next((fault for mark, fault in faults.items() if mark in words), None)
    return Answer(chunks=("fine", " answer"), fault=fault, after_chunks=None if fault is None else 1)


ASKED = (
    *("plain", "[400]", "[404]", "[500]", "[503]", "[429]", "[redirect]", "[inside]", "[garbage]", "[type]", "[reset]"),
    *("[cut]", "[half]", "[403]", "[402]", "[401]", "again"),
)
"""Refusals of the key last: after them no key is left. Each has a model of its own, lest an open circuit hide it."""


def configuration(folder: Path, url: str, kind: str) -> str:
    """The fake local model, a cloud with two keys, one with the key of a file, one that is down."""
    key = folder / "cloud.key"
    key.write_text(FILE_KEY)
    key.chmod(0o600)
    clouds = {
        "big": (url, 'api_key_env = "BIG_KEY"\napi_keys_env = ["BIG_KEY_2"]'),
        "filed": (url, f'api_key_file = "{key}"'),
        "down": ("http://127.0.0.1:9", 'api_key_env = "BIG_KEY"'),
    }
    models = [f"m{number}" for number in range(len(ASKED))]
    listed = ", ".join(f'"{model}"' for model in models)
    text = FAKE_MODEL
    for name, (address, keys) in clouds.items():
        text += CLOUD.format(name=name, url=address, kind=kind, keys=keys, models=listed)
    text += "".join(PRICE.format(name=name, model=model) for name in clouds for model in models)
    return f"{text}[budget]\nusd_per_day = 10\n"


ENVIRON = {
    "BIG_KEY": ENVIRON_KEY,
    "BIG_KEY_2": SECOND_KEY,
    "SOME_TOKEN": UNRELATED,
    "HTTPS_PROXY": f"http://user:{PROXY}@127.0.0.1:9",
    "NO_PROXY": "127.0.0.1",
}


class Watched(Serving):
    """A server whose folder and environment can be looked at."""

    def __init__(self, folder: Path, config: str) -> None:
        super().__init__(folder, config, "--verbose", environ=ENVIRON)
        self.folder = folder
        self.environ = {**os.environ, "HYBRID_DATA_DIR": str(folder), **ENVIRON}
        made = run([*HYBRID, "keys", "add", "canary"], self.environ)
        self.client_key = made.stdout.strip()


def talk(server: Watched) -> Iterator[str]:
    """Ask for all that goes wrong, streamed and whole, with secrets in the wrong places; yield what came back."""
    headers = {
        "authorization": f"Bearer {server.client_key}",
        "cookie": f"session={COOKIE}",
        "x-api-key": HEADER,
        "proxy-authorization": f"Basic {HEADER}",
    }
    asked = [(f"[doubt] {ASKED[0]}", model, False) for model in ("hybrid", "cloud/down", "cloud/down")]
    for number, text in enumerate(ASKED):
        asked += [(text, f"cloud/big/m{number}", is_stream) for is_stream in (False, True)]
        asked.append((text, f"cloud/filed/m{number}", True))
    for text, model, is_stream in asked:
        content = body(text, model=model, stream=is_stream)
        answer = server.client.post(f"/chat/completions?key={QUERY}", json=content, headers=headers)
        yield answer.text + repr(answer.headers)
    # Bodies and paths that never become a request, and the pages that tell of the server.
    for path in (f"/v1/nothing?key={QUERY}", f"/{QUERY}", f"/v1/models?key={QUERY}", "/healthz", "/readyz", "/metrics"):
        answer = httpx2.get(server.url.removesuffix("/v1") + path, headers=headers)
        yield repr(answer.headers) + (answer.text if QUERY not in path.partition("?")[0] else "")
    broken = server.client.post(f"/chat/completions?key={QUERY}", content=b"{", headers=headers)
    yield broken.text + repr(broken.headers)


def told_of(server: Watched) -> Iterator[str]:
    """What the commands print of it afterwards. What they read, the database, is searched as a file."""
    yield server.hybrid("explain", "last")
    yield server.hybrid("report", "--json")
    for arguments in (("config", "show"), ("config", "check")):
        done = run([*HYBRID, *arguments, "--config", str(server.folder / "hybrid.toml")], server.environ)
        yield done.stdout + done.stderr


def files_of(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every file that the server keeps, but for those we planted a canary in."""
    for path in folder.rglob("*"):
        if path.is_file() and path.name != "cloud.key":
            yield path.name, path.read_bytes()


@pytest.mark.parametrize(("fake", "kind"), KINDS)
def test_no_secret_is_in_a_log_a_file_an_answer_or_a_report(tmp_path, fake, kind):
    """Whatever fails, however a cloud quotes them: no canary outside of the one header that carries it."""

    async def scenario():
        async with fake(parrot) as cloud:
            with Watched(tmp_path, configuration(tmp_path, cloud.base_url, kind)) as server:
                answers = await asyncio.to_thread(lambda: list(talk(server)))
                printed = await asyncio.to_thread(lambda: list(told_of(server)))
            return answers, printed, server, cloud.requests, {cloud.key_of(request) for request in cloud.requests}

    answers, printed, server, requests, sent = asyncio.run(scenario())
    log, secrets = server.said, {**CANARIES, "the client's key": server.client_key}
    places = {
        **{f"answer {number}": text for number, text in enumerate(answers)},
        **{f"command {number}": text for number, text in enumerate(printed)},
        "the log": "\n".join(log),
        **{f"the file {name}": content.decode("latin-1") for name, content in files_of(tmp_path)},
    }
    leaks = [
        f"{what} is in {where}" for what, canary in secrets.items() for where, text in places.items() if canary in text
    ]
    assert [] == leaks
    # The search would find nothing in a server that did nothing: each key was used, and its refusals were quoted.
    assert {ENVIRON_KEY, SECOND_KEY, FILE_KEY} == sent
    assert "[redacted]" in "".join(answers)
    assert any("is not used until the next start" in line for line in log)
    # What a client sends beside its request goes to no cloud.
    upstream = "".join(f"{request.path} {request.headers} {request.body}" for request in requests)
    assert [] == [what for what, canary in secrets.items() if canary in upstream and canary not in sent]
