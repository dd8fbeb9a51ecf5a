"""Does `scripts/check_provider` tell a good cloud from a bad one, for under a cent, and through the ledger?"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from hybrid.providers.fake import Answer, FakeProvider, FakeRequest, Fault
from hybrid.providers.fake_anthropic import FakeAnthropic
from hybrid.providers.fake_gemini import FakeGemini
from hybrid.providers.fake_responses import FakeResponses
from hybrid.types import ToolCall
from tests.e2e.forks import run

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "check_provider"
CALL = Answer(chunks=(), tool_calls=(ToolCall("call_1", "weather", '{"city": "Bern"}'),))
KINDS = [
    pytest.param(FakeProvider, 'kind = "openai"', id="openai"),
    pytest.param(FakeResponses, 'kind = "openai"\napi = "responses"', id="responses"),
    pytest.param(FakeAnthropic, 'kind = "anthropic"', id="anthropic"),
    pytest.param(FakeGemini, 'kind = "gemini"', id="gemini"),
]


def obliging(request: FakeRequest) -> Answer:
    """Call the tool where there is one, else say hello."""
    return CALL if request.body.get("tools") else Answer()


def toml(fake: FakeProvider, kind: str, *, input_usd: str = "1", output_usd: str = "2", budget: str = "1") -> str:
    """A configuration with the fake as its cloud."""
    return (
        f'[[cloud]]\nname = "big"\n{kind}\nbase_url = "{fake.base_url}"\nmodels = ["m"]\napi_key_env = "BIG_KEY"\n'
        f'[prices."big/m"]\ninput_usd_per_mtok = {input_usd}\noutput_usd_per_mtok = {output_usd}\n'
        f"[budget]\nusd_per_day = {budget}\n"
    )


def checked(folder: Path, fake: FakeProvider, kind: str, *arguments: str, **prices: str) -> tuple[int, str, str]:
    """Run the script against a fake; its exit code, what it printed and what it complained of."""

    async def scenario() -> tuple[int, str, str]:
        async with fake:
            (folder / "hybrid.toml").write_text(toml(fake, kind, **prices))
            command = [sys.executable, str(SCRIPT), *(arguments or ("big",)), "--config", str(folder / "hybrid.toml")]
            environ = {**os.environ, "HYBRID_DATA_DIR": str(folder), "BIG_KEY": "sk-canary"}
            done = await asyncio.to_thread(run, command, environ)
            return done.returncode, done.stdout, done.stderr

    return asyncio.run(scenario())


@pytest.mark.parametrize(("fake", "kind"), KINDS)
def test_a_good_cloud_passes_for_under_a_cent(tmp_path, fake, kind):
    """All three checks pass in each dialect, and the printed cost is what the fake billed."""
    server = fake(obliging, api_key="sk-canary")
    code, said, complained = checked(tmp_path, server, kind)
    assert (0, "") == (code, complained)
    assert ["plain", "streamed", "tool call"] == re.findall(r"^(\S.*?)\s+ok ", said, re.MULTILINE)
    billed = server.billed
    cost = (billed.prompt_tokens * 1 + billed.completion_tokens * 2) / Decimal(1_000_000)
    printed = re.search(r"^cost\s+\$(\S+)", said, re.MULTILINE)
    assert printed
    assert (cost, True) == (Decimal(printed[1]), cost < Decimal("0.01"))
    assert "sk-canary" not in said


BAD = [
    pytest.param(Answer(chunks=()), r"plain\s+FAILED[^\n]*\n\s+it said nothing", id="silent"),
    pytest.param(Answer(), r"tool call\s+FAILED[^\n]*\n\s+it called nothing", id="no-call"),
    pytest.param(Answer(fault=Fault.NO_FINISH), r"streamed\s+FAILED\s+ProviderProtocolError", id="no-end"),
    pytest.param(Answer(status=503, error={"error": {"message": "down"}}), r"plain\s+FAILED\s+Provider", id="down"),
]


@pytest.mark.parametrize(("answer", "expected"), BAD)
def test_a_bad_cloud_is_told_and_fails(tmp_path, answer, expected):
    """What is wrong is named beside its check, and the exit code is 1."""
    code, said, _ = checked(tmp_path, FakeProvider(answer), 'kind = "openai"')
    assert 1 == code
    assert re.search(expected, said)


def test_what_a_cloud_says_cannot_move_the_cursor(tmp_path):
    """Control characters of an answer are written out, in good answers and in errors."""
    bell = Answer(chunks=("\x1b[2J\x07",))
    _, said, complained = checked(tmp_path, FakeProvider(bell), 'kind = "openai"')
    assert ("\\x1b[2J" in said, False) == (True, "\x1b" in said + complained)


def test_a_model_that_a_cent_does_not_buy_is_not_called(tmp_path):
    """Where even the shortest answer could cost more, nothing is sent."""
    fake = FakeProvider(obliging)
    code, said, _ = checked(tmp_path, fake, 'kind = "openai"', input_usd="1000", output_usd="1000")
    assert (1, []) == (code, fake.requests)
    assert 3 == said.count("costs more than what is left of a cent")


def test_an_unknown_cloud_is_named_with_the_known_ones(tmp_path):
    """Exit 2, and what is configured."""
    code, _, complained = checked(tmp_path, FakeProvider(), 'kind = "openai"', "small")
    assert 2 == code
    assert "no [[cloud]] is called 'small'; configured: big/m" in complained
