"""Does a provider's own tokenizer bound its prompts, and what happens where it is not there, or breaks?"""

from __future__ import annotations

import asyncio
import logging
import threading

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.providers import tokenizers
from hybrid.providers.bounds import text_bytes, upper_bound_prompt_tokens
from hybrid.providers.tokenizers import PIECE_CHARS, Tokenizers, check, count, load, published
from hybrid.types import ChatRequest, Message, TextPart

from .calls import call, user

WORDS = "the quick brown fox jumps over the lazy dog and thinks about it for a while"


def small_encoding():
    """A real tiktoken encoding with a vocabulary of ours: all bytes, and the beginnings of some words."""
    ranks = {bytes([value]): value for value in range(256)}
    for word in [*WORDS.split(), *[" " + word for word in WORDS.split()]]:
        for end in range(2, len(word) + 1):
            ranks.setdefault(word[:end].encode(), len(ranks))
    return tiktoken.Encoding("small", pat_str=r"\s?\w+|\s+|[^\s\w]+", mergeable_ranks=ranks, special_tokens={})


SMALL = small_encoding()
LONG = " ".join([WORDS] * 60)


def request_of(text):
    """A question of this text."""
    return call(messages=(user(text),)).request


async def bounds_when_ready(counter, request, names):
    """Ask again when all is there that is loaded behind the first request."""
    await counter.bounds(request, names)
    await asyncio.to_thread(wait_for_loader)
    return await counter.bounds(request, names)


def wait_for_loader():
    """Until its thread has ended."""
    for thread in threading.enumerate():
        if thread.name == "hybrid-tokenizers":
            thread.join(10)


@pytest.mark.parametrize(
    ("base_url", "model", "expected"),
    [
        ("https://api.openai.com/v1", "gpt-4o", "gpt-4o"),
        ("https://eu.api.openai.com/v1", "gpt-5-mini", "gpt-5-mini"),
        ("https://me.openai.azure.com/openai/deployments/gpt-4o", "gpt-4o", "gpt-4o"),
        ("https://openrouter.ai/api/v1", "openai/gpt-4o:nitro", "gpt-4o"),
        ("https://openrouter.ai/api/v1", "meta-llama/llama-3", None),
        ("https://api.openai.com.evil.example/v1", "gpt-4o", None),
        ("https://api.groq.com/openai/v1", "gpt-4o", None),
        ("http://127.0.0.1:8000/v1", "gpt-4o", None),
    ],
)
def test_only_the_models_of_those_who_published_theirs_have_one(base_url, model, expected):
    """Another host may serve anything under the name of an OpenAI model."""
    assert expected == published(base_url, model)


def test_the_texts_are_counted_and_nothing_else():
    """Marks, roles and JSON stay bounded by their bytes, for nobody says which form they have in the prompt."""
    request = request_of(LONG)
    found = asyncio.run(bounds_when_ready(Tokenizers(loader=lambda _: SMALL), request, ["m"]))
    by_bytes = upper_bound_prompt_tokens(request)
    assert {"m": by_bytes - len(LONG) + len(SMALL.encode_ordinary(LONG))} == found
    assert found["m"] < by_bytes / 2


def test_models_that_share_an_encoding_have_it_count_once(monkeypatch):
    """Five models of OpenAI's cost one pass over the text."""
    asked, counter, request, names = [], Tokenizers(loader=lambda _: SMALL), request_of(LONG), ["a", "b", None]
    assert {"a", "b"} == set(asyncio.run(bounds_when_ready(counter, request, names)))
    monkeypatch.setattr(tokenizers, "count", lambda text, encoding: asked.append(text) or len(text))
    assert {"a", "b"} == set(asyncio.run(counter.bounds(request, names)))
    assert [LONG] == asked


@pytest.mark.parametrize("text", ["short", "x" * 2_000_001])
def test_the_short_and_the_huge_are_bounded_by_their_bytes(text):
    """For one it gains nothing, the other would take seconds; nothing is loaded for them."""
    loaded = []
    assert {} == asyncio.run(Tokenizers(loader=loaded.append).bounds(request_of(text), ["m"]))
    assert [] == loaded


def test_the_first_request_does_not_wait_for_the_vocabulary():
    """It may have to be fetched; bytes bound the prompt until it is there."""
    go = threading.Event()

    def slow(_):
        go.wait(10)
        return SMALL

    async def asked():
        counter, request = Tokenizers(loader=slow), request_of(LONG)
        first = await counter.bounds(request, ["m"])
        go.set()
        return first, await bounds_when_ready(counter, request, ["m"])

    first, later = asyncio.run(asked())
    assert ({}, {"m"}) == (first, set(later))


@pytest.mark.parametrize("failure", [ImportError("needs tiktoken"), OSError("no network"), ValueError("hash"), None])
def test_what_cannot_be_loaded_is_tried_once_and_told(failure, caplog):
    """Bytes bound its prompts."""
    asked = []

    def loader(name):
        asked.append(name)
        if failure is not None:
            raise failure

    async def twice():
        counter = Tokenizers(loader=loader)
        for _ in range(2):
            assert {} == await counter.bounds(request_of(LONG), ["m"])
            await asyncio.to_thread(wait_for_loader)

    with caplog.at_level(logging.INFO):
        asyncio.run(twice())
    assert ["m"] == asked
    assert (failure is not None) == any("bounded by their bytes" in line for line in caplog.messages)


def test_who_waits_for_a_slow_count_waits_for_the_limit_alone(monkeypatch):
    """Then bytes bound the prompt; what waits in line behind is withdrawn, and the next count goes on."""
    monkeypatch.setattr(tokenizers, "COUNT_LIMIT_S", 0.05)
    go = threading.Event()
    started = []

    class Slow:
        name = "slow"

        def encode_ordinary(self, text):
            started.append(text)
            go.wait(10)
            return [1]

    async def asked():
        counter, request = Tokenizers(loader=lambda _: Slow()), request_of(LONG)
        await counter.bounds(request, ["m"])
        await asyncio.to_thread(wait_for_loader)
        late = await asyncio.gather(*(counter.bounds(request, ["m"]) for _ in range(5)))
        monkeypatch.setattr(tokenizers, "COUNT_LIMIT_S", 10)
        go.set()
        return late, await counter.bounds(request, ["m"])

    late, after = asyncio.run(asked())
    assert ([{}] * 5, {"m"}) == (late, set(after))
    assert tokenizers.THREADS + 1 == len(started)


class Panic(BaseException):
    """As pyo3 raises where Rust panics."""


@pytest.mark.parametrize("broken", [Panic("stack overflow"), RuntimeError("no")])
def test_a_tokenizer_that_breaks_at_a_text_leaves_its_bytes(broken, caplog):
    """A panic in Rust is no Exception, and must not take the thread or the request with it."""

    class Breaking:
        name = "breaking"

        def encode_ordinary(self, text):
            raise broken

    assert {} == asyncio.run(bounds_when_ready(Tokenizers(loader=lambda _: Breaking()), request_of(LONG), ["m"]))
    assert "bounded by its bytes" in caplog.text
    assert LONG[:30] not in caplog.text


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=300), st.integers(1, 50))
def test_a_text_that_is_cut_counts_at_least_as_much(text, piece_chars):
    """Whatever the text and wherever the seams: never below the whole, never above the bytes."""
    whole = len(SMALL.encode_ordinary(text))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizers, "PIECE_CHARS", piece_chars)
        counted = count(text, SMALL)
    assert counted <= text_bytes(text)
    assert counted >= min(whole, text_bytes(text))


@pytest.mark.parametrize("letter", [" ", "a", ".", "\n", "日", "\ud800", "e\u0301"])
def test_hostile_texts_are_counted(letter):
    """A million spaces in one piece end tiktoken by a stack overflow."""
    text = letter * (3 * PIECE_CHARS)
    assert 0 < count(text, SMALL) <= text_bytes(text)


def test_names_that_no_tokenizer_has_are_told_with_those_there_are():
    """For whoever writes `tokenizer` into a configuration."""
    check("gpt-4o")
    check("o200k_base")
    with pytest.raises(ValueError, match=r"no tokenizer 'llama'.*o200k_base"):
        check("llama")
    assert load("llama-3") is None


def test_without_tiktoken_it_is_said_what_to_install(monkeypatch):
    """At the start, where a configuration wants it."""
    monkeypatch.setitem(__import__("sys").modules, "tiktoken", None)
    with pytest.raises(ValueError, match=r"hybrid-runtime\[tokenizers\]"):
        check("gpt-4o")
    with pytest.raises(ImportError, match=r"hybrid-runtime\[tokenizers\]"):
        load("gpt-4o")


def test_only_texts_of_messages_are_handed_over():
    """Not the arguments of calls."""
    seen = []
    request = ChatRequest(model="m", messages=(Message("user", (TextPart("one"), TextPart("two"))),))
    upper_bound_prompt_tokens(request, lambda text: seen.append(text) or 1)
    assert ["one", "two"] == seen
