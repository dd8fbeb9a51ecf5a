"""A user's client calls tools and reads thinking, through `hybrid serve` and the official client."""

import asyncio
import json
from pathlib import Path

import openai
import pytest

from hybrid.providers.fake import FakeProvider
from tests.e2e.serving import FAKE_MODEL, Serving, cloud_toml
from tests.engine.formats import templates

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
TIME = {"type": "function", "function": {"name": "time"}}
TOOLS = [WEATHER, TIME]
HERMES_CALLS = (
    '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln", "days": 2}}\n</tool_call>\n'
    '<tool_call>\n{"name": "time", "arguments": {}}\n</tool_call>'
)
GENERIC_CALLS = '{"name": "weather", "arguments": {"city": "Köln", "days": 2}}\n{"name": "time", "arguments": {}}'


def speaking(folder: Path, template: str | None) -> str:
    """Give the configuration of the fake model, which repeats what the user says, with a chat template."""
    if template is None:
        return FAKE_MODEL
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "template.jinja").write_text(template)
    return FAKE_MODEL.replace('model = ""', f"model = {json.dumps(str(folder / 'template.jinja'))}")


def client(server: Serving) -> openai.OpenAI:
    """Give the official client."""
    return openai.OpenAI(base_url=server.url, api_key="none", max_retries=0, timeout=30)


def streamed(sdk: openai.OpenAI, text: str, **fields: object) -> openai.types.chat.ChatCompletion:
    """Ask for a stream, and let the client's own helper put it together."""
    with sdk.chat.completions.stream(model="hybrid", messages=[{"role": "user", "content": text}], **fields) as stream:
        return stream.get_final_completion()


def whole(sdk: openai.OpenAI, text: str, **fields: object) -> openai.types.chat.ChatCompletion:
    """Ask for a whole answer."""
    return sdk.chat.completions.create(model="hybrid", messages=[{"role": "user", "content": text}], **fields)


def said(completion: openai.types.chat.ChatCompletion) -> tuple[str | None, list[tuple[str, str]], str]:
    """Give content, calls and finish reason."""
    choice = completion.choices[0]
    calls = [(call.function.name, call.function.arguments) for call in choice.message.tool_calls or []]
    return choice.message.content, calls, choice.finish_reason


BOTH = [("weather", '{"city": "Köln", "days": 2}'), ("time", "{}")]


@pytest.mark.parametrize(
    ("template", "calls"),
    [
        pytest.param(templates.CHATML_THINKING, HERMES_CALLS, id="hermes"),
        pytest.param(None, GENERIC_CALLS, id="no-template-for-tools"),
    ],
)
def test_parallel_calls_streamed_and_whole(tmp_path, template, calls):
    """Two calls come back as two calls, streamed or not, with ids of their own and the end that says so."""
    with Serving(tmp_path, speaking(tmp_path, template)) as server, client(server) as sdk:
        answers = [ask(sdk, calls, tools=TOOLS) for ask in (whole, streamed)]
        text = whole(sdk, "Just text.", tools=TOOLS)
        forbidden = whole(sdk, calls, tools=TOOLS, tool_choice="none")

    assert [(None, BOTH, "tool_calls")] * 2 == [said(answer) for answer in answers]
    ids = [call.id for answer in answers for call in answer.choices[0].message.tool_calls]
    assert len(set(ids)) == 4
    assert all(call_id.startswith("call_") for call_id in ids)
    assert ("Just text.", [], "stop") == said(text)
    assert (calls, [], "stop") == said(forbidden)


def test_the_deltas_of_a_stream(tmp_path):
    """Each call has its index, its id and name come first and once, and its arguments in fragments of text."""
    with Serving(tmp_path, speaking(tmp_path, templates.CHATML_THINKING)) as server, client(server) as sdk:
        stream = sdk.chat.completions.create(
            model="hybrid", messages=[{"role": "user", "content": "Look: " + HERMES_CALLS}], tools=TOOLS, stream=True
        )
        deltas = [chunk.choices[0].delta for chunk in stream if chunk.choices]

    pieces = [piece for delta in deltas for piece in delta.tool_calls or []]
    first = [piece for piece in pieces if piece.id is not None]
    assert [(0, "weather", "function"), (1, "time", "function")] == [
        (piece.index, piece.function.name, piece.type) for piece in first
    ]
    assert "Look:" == "".join(delta.content or "" for delta in deltas)
    arguments = ["".join(piece.function.arguments or "" for piece in pieces if piece.index == at) for at in (0, 1)]
    assert [call[1] for call in BOTH] == arguments
    assert len(pieces) > 10


def test_a_conversation_with_results_goes_on(tmp_path):
    """Calls and results that come back to us are rendered, and the model answers the last message."""
    messages = [
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "time", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "noon"},
        {"role": "user", "content": "Thanks."},
    ]
    for template in (templates.QWEN25, None):
        with Serving(tmp_path, speaking(tmp_path, template)) as server, client(server) as sdk:
            answer = sdk.chat.completions.create(model="hybrid", messages=messages, tools=TOOLS)
        assert ("Thanks.", [], "stop") == said(answer)


def test_thinking_is_reasoning_content(tmp_path):
    """Thinking is shown apart from the answer, streamed or not, and its tokens are counted."""
    with Serving(tmp_path, speaking(tmp_path, templates.CHATML_THINKING)) as server, client(server) as sdk:
        answers = [ask(sdk, "<think>hm\n</think>\n\nYes.") for ask in (whole, streamed)]
        closed = whole(sdk, "<think>\n\n</think>\n\nYes.", reasoning_effort="none")

    for answer in answers:
        message = answer.choices[0].message
        assert ("hm", "Yes.") == (message.reasoning_content, message.content)
    assert len("<think>hm\n</think>") == answers[0].usage.completion_tokens_details.reasoning_tokens
    assert ("Yes.", [], "stop") == said(closed)


def test_a_prompt_that_opens_thinking(tmp_path):
    """Where the template opens the thinking itself, the answer begins inside it."""
    with Serving(tmp_path, speaking(tmp_path, templates.CHATML_ALWAYS_THINKING)) as server, client(server) as sdk:
        # What the prompt holds of its answer already, the fake does not say again.
        message = whole(sdk, "<think>\nhm\n</think>\nYes.").choices[0].message

    assert ("hm", "Yes.") == (message.reasoning_content, message.content)


@pytest.mark.parametrize("template", [templates.CHATML_THINKING, templates.CHATML_ALWAYS_THINKING], ids=["own", "open"])
def test_a_stop_string_ends_the_answer_and_not_the_thinking(tmp_path, template):
    """A client that stops at a full stop still gets an answer of a model that thinks in sentences."""
    with Serving(tmp_path, speaking(tmp_path, template)) as server, client(server) as sdk:
        answers = [ask(sdk, "<think>\nOne. Two.\n</think>\nYes. No.", stop=["."]) for ask in (whole, streamed)]

    for answer in answers:
        message = answer.choices[0].message
        assert ("One. Two.", "Yes") == (message.reasoning_content, message.content)


def test_thinking_is_bounded(tmp_path):
    """At the configured bound the thinking is closed for the model, and it goes on with its answer."""
    config = speaking(tmp_path, templates.CHATML_THINKING) + "max_reasoning_tokens = 4\n"
    with Serving(tmp_path, config) as server, client(server) as sdk:
        message = whole(sdk, "<think>abcdefgh</think>Yes, that is so.").choices[0].message

    assert "abcd" == message.reasoning_content
    assert "that is so." in message.content


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "time"}}], ids=str)
@pytest.mark.parametrize("template", [templates.QWEN25, None], ids=["hermes", "generic"])
def test_a_call_can_be_forced(tmp_path, template, choice):
    """A model that would rather chat calls the function it is made to call, in every format."""
    with Serving(tmp_path, speaking(tmp_path, template)) as server, client(server) as sdk:
        answer = whole(sdk, "Hello", tools=[TIME], tool_choice=choice, parallel_tool_calls=False)

    assert (None, [("time", "{}")], "tool_calls") == said(answer)


def test_a_tool_choice_nobody_described_is_refused(tmp_path):
    """A call of a function that is not among the tools cannot be forced."""
    with Serving(tmp_path) as server, client(server) as sdk, pytest.raises(openai.BadRequestError) as caught:
        whole(sdk, "hi", tools=TOOLS, tool_choice={"type": "function", "function": {"name": "nobody"}})

    assert ("tool_choice", "invalid_value") == (caught.value.param, caught.value.code)


@pytest.mark.parametrize(
    ("broken", "limit"),
    [
        pytest.param('<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}', 40, id="cut-off"),
        pytest.param('```json\n{"name": "weather", "arguments": {"town": "Köln"}}\n```', 100, id="against-the-schema"),
    ],
)
def test_a_broken_call_goes_to_the_cloud(tmp_path, broken, limit):
    """A draft whose call cannot be followed is escalated by the verifier."""
    config = speaking(tmp_path, templates.CHATML_THINKING)

    async def scenario() -> None:
        async with FakeProvider() as cloud:
            with Serving(tmp_path / "a", config + cloud_toml(cloud.base_url)) as server:
                answer = await asyncio.to_thread(server.ask, broken, tools=TOOLS, max_tokens=limit)
            assert (200, "verifier") == (answer.status_code, answer.headers["x-hybrid-reason"])
            assert TOOLS == cloud.requests[0].body["tools"]

    asyncio.run(scenario())


def test_a_call_that_is_judged_before_it_shows(tmp_path):
    """When the first token is due and all there is is half a marker, the draft is judged by its tokens and goes on."""
    slow = HERMES_CALLS.replace("Köln", "[slow]")
    config = speaking(tmp_path, templates.QWEN25) + "[policy]\nttft_ms = 60\nhold_tokens = 500\n"

    async def scenario() -> None:
        async with FakeProvider() as cloud:
            with Serving(tmp_path / "a", config + cloud_toml(cloud.base_url)) as server, client(server) as sdk:
                answer = await asyncio.to_thread(streamed, sdk, slow, tools=TOOLS)
                explained = await asyncio.to_thread(server.explain, answer.id.removeprefix("chatcmpl-"))

        calls = [("weather", '{"city": "[slow]", "days": 2}'), ("time", "{}")]
        assert (None, calls, "tool_calls") == said(answer)
        assert "judged early: the first token is due" in json.dumps(explained)

    asyncio.run(scenario())
