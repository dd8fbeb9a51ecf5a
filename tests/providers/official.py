"""What do the official clients make of an answer? Each client's own reading, in the words of `dialects.Meaning`."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack, asynccontextmanager

import anthropic
import openai
from google import genai
from google.genai import types as google_types

from hybrid.providers.fake import FakeProvider
from hybrid.types import Usage

from .calls import KEY
from .dialects import Meaning

MODEL, LIMIT = "gpt-test", 100
"""What `calls.call` asks for."""

PROMPT = "Say hello"


@asynccontextmanager
async def anthropic_client(fake: FakeProvider):
    """The official client of Anthropic, without retries of its own."""
    async with anthropic.AsyncAnthropic(base_url=fake.origin, api_key=KEY, max_retries=0) as client:
        yield client


@asynccontextmanager
async def openai_client(fake: FakeProvider):
    """The official client of OpenAI, without retries of its own."""
    async with openai.AsyncOpenAI(base_url=fake.base_url, api_key=KEY, max_retries=0) as client:
        yield client


@asynccontextmanager
async def google_client(fake: FakeProvider):
    """The official client of Google."""
    async with AsyncExitStack() as stack:
        client = genai.Client(api_key=KEY, http_options=google_types.HttpOptions(base_url=fake.origin))
        stack.callback(client.close)
        stack.push_async_callback(client.aio.aclose)
        yield client.aio


async def read_anthropic(fake: FakeProvider, *, is_stream: bool) -> Meaning:
    """A message as Anthropic's client reads it."""
    wanted = {"model": MODEL, "max_tokens": LIMIT, "messages": [{"role": "user", "content": PROMPT}]}
    async with anthropic_client(fake) as client:
        if is_stream:
            async with client.messages.stream(**wanted) as stream:
                message = await stream.get_final_message()
        else:
            message = await client.messages.create(**wanted)
    reasons = {"end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length", "tool_use": "tool_calls"}
    used = message.usage
    return Meaning(
        "".join(block.text for block in message.content if block.type == "text"),
        "".join(block.thinking for block in message.content if block.type == "thinking"),
        tuple((block.id, block.name, compact(block.input)) for block in message.content if block.type == "tool_use"),
        reasons.get(message.stop_reason, "content_filter"),
        Usage(
            prompt_tokens=used.input_tokens + used.cache_creation_input_tokens + used.cache_read_input_tokens,
            completion_tokens=used.output_tokens,
            cached_tokens=used.cache_read_input_tokens,
            cache_write_tokens=used.cache_creation_input_tokens,
            reasoning_tokens=used.output_tokens_details.thinking_tokens,
        ),
        message.stop_sequence,
    )


async def read_responses(fake: FakeProvider, *, is_stream: bool) -> Meaning:
    """A response as OpenAI's client reads it."""
    wanted = {"model": MODEL, "max_output_tokens": LIMIT, "input": PROMPT}
    async with openai_client(fake) as client:
        if is_stream:
            async with client.responses.stream(**wanted) as stream:
                async for event in stream:
                    if event.type in ("response.completed", "response.incomplete"):
                        response = event.response
        else:
            response = await client.responses.create(**wanted)
    calls = [item for item in response.output if item.type == "function_call"]
    refusals = [
        part.refusal
        for item in response.output
        if item.type == "message"
        for part in item.content
        if part.type == "refusal"
    ]
    reason = "tool_calls" if calls else "content_filter" if refusals else "stop"
    if response.status == "incomplete":
        reason = {"max_output_tokens": "length"}.get(response.incomplete_details.reason, "content_filter")
    used = response.usage
    thoughts = [part.text for item in response.output if item.type == "reasoning" for part in item.content]
    return Meaning(
        response.output_text + "".join(refusals),
        "".join(thoughts),
        tuple((item.call_id, item.name, compact(json.loads(item.arguments))) for item in calls),
        reason,
        Usage(
            prompt_tokens=used.input_tokens,
            completion_tokens=used.output_tokens,
            cached_tokens=used.input_tokens_details.cached_tokens,
            cache_write_tokens=used.input_tokens_details.cache_write_tokens,
            reasoning_tokens=used.output_tokens_details.reasoning_tokens,
        ),
    )


async def read_gemini(fake: FakeProvider, *, is_stream: bool) -> Meaning:
    """Generated content as Google's client reads it."""
    wanted = {
        "model": MODEL,
        "contents": PROMPT,
        "config": google_types.GenerateContentConfig(max_output_tokens=LIMIT),
    }
    async with google_client(fake) as client:
        if is_stream:
            chunks = [chunk async for chunk in await client.models.generate_content_stream(**wanted)]
        else:
            chunks = [await client.models.generate_content(**wanted)]
    parts = [part for chunk in chunks for part in chunk.candidates[0].content.parts or []]
    calls = [part.function_call for part in parts if part.function_call]
    words = {"STOP": "tool_calls" if calls else "stop", "MAX_TOKENS": "length"}
    used = chunks[-1].usage_metadata
    thoughts = used.thoughts_token_count or 0
    return Meaning(
        "".join(part.text for part in parts if part.text and not part.thought),
        "".join(part.text for part in parts if part.text and part.thought),
        tuple((call.id, call.name, compact(call.args)) for call in calls),
        words.get(chunks[-1].candidates[0].finish_reason.value, "content_filter"),
        Usage(
            prompt_tokens=used.prompt_token_count,
            completion_tokens=used.candidates_token_count + thoughts,
            cached_tokens=used.cached_content_token_count or 0,
            cache_write_tokens=0,
            reasoning_tokens=thoughts,
        ),
    )


READERS = {"anthropic": read_anthropic, "responses": read_responses, "gemini": read_gemini}
"""By the name of the dialect; that of chat completions is in test_fake.py."""


def compact(value: object) -> str:
    """JSON without blanks, to compare arguments by what they say."""
    return json.dumps(value, separators=(",", ":"))
