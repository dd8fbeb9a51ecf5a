"""Does the load on a gateway count what comes back, and does the bench say what it measured and what it lacks?"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from hybrid.providers.fake import Answer, FakeProvider, Fault
from scripts._relay_load import Endpoint, LoadError, run_load
from scripts._relays import prepare_litellm

ROOT = Path(__file__).resolve().parent.parent


def loaded(answer: Answer, *, connections: int, requests: int, is_stream: bool = False):
    """Load a fake cloud; give the figures and what it saw."""

    async def scenario():
        async with FakeProvider(answer) as fake:
            endpoint = Endpoint(fake.base_url, "m", "sk-any")
            figures = await run_load(endpoint, connections=connections, requests=requests, is_stream=is_stream)
            return figures, fake.requests

    return asyncio.run(scenario())


@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "streamed"])
def test_every_answer_is_awaited_to_its_end_on_a_connection_that_stays(is_stream):
    """Sixty chats over four connections: each is answered, none before its end, and no connection is made anew."""
    figures, requests = loaded(Answer(), connections=4, requests=60, is_stream=is_stream)
    assert (60, 60.0) == (len(requests), figures["requests"])
    assert set(range(4)) == {request.connection for request in requests}
    assert {is_stream} == {request.body["stream"] for request in requests}
    assert 0 < figures["p50_ms"] <= figures["p99_ms"]


@pytest.mark.parametrize(
    "answer", [Answer(status=500, error={"error": "no"}), Answer(fault=Fault.CUT)], ids=["refused", "broken-off"]
)
def test_what_is_no_answer_is_no_fast_answer(answer):
    """A gateway that refuses or breaks off ends the measurement instead of improving it."""
    with pytest.raises(LoadError):
        loaded(answer, connections=2, requests=10)


def test_an_environment_that_cannot_be_made_is_told_with_the_way_on(tmp_path):
    """Where pip or the environment fails, its last words are there, and how to measure without."""
    (tmp_path / "taken").write_text("a file where the folder should be")
    with pytest.raises(
        SystemExit, match="cannot make an environment for LiteLLM; measure without it by --without-lite"
    ):
        prepare_litellm(tmp_path / "taken")


def test_a_short_run_writes_what_it_found(tmp_path):
    """One round without the peer: a table with our row, each bar judged, and a record with machine and versions."""
    record = tmp_path / "record.json"
    command = [sys.executable, str(ROOT / "scripts" / "bench_passthrough"), "--without-litellm", "--rounds", "1"]
    done = subprocess.run(
        [*command, "--requests", "64", "--json", str(record)], capture_output=True, text=True, check=True
    )
    found = json.loads(record.read_text())
    assert "hybrid at 64" in done.stdout
    assert {"direct at 1", "hybrid at 1", "direct at 64", "hybrid at 64"} == set(found["results"])
    assert {"added_p50_ms", "requests_s", "cpu_us", "rss_mb"} <= set(found["results"]["hybrid at 1"])
    assert 4 == len(found["bars"])
    assert str(tmp_path) not in json.dumps(found)
