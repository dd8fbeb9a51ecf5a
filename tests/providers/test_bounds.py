"""Does the stated bound on prompt tokens hold for whatever a byte-level tokenizer sees?"""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jinja2 import Environment

from hybrid.providers.bounds import IMAGE_TOKENS, upper_bound_prompt_tokens
from hybrid.types import ImagePart, Message, OtherPart, TextPart, ToolCall

from .calls import call, user

# Qwen2.5's template in its essentials: a default system prompt, tools as JSON, tool calls as objects.
# Its preamble for tools is among the longest of the open models.
TEMPLATE = """
{%- if tools %}<|im_start|>system
You are Qwen, created by Alibaba Cloud. You are a helpful assistant.

# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>{% for tool in tools %}
{{ tool | tojson(indent=4) }}{% endfor %}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call><|im_end|>
{% else %}<|im_start|>system
You are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.text }}{% for call in message.tool_calls %}
<tool_call>
{"name": "{{ call.name }}", "arguments": {{ call.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}<|im_start|>assistant
"""


def bytes_in_template(request):
    """What a byte-level tokenizer at its very worst makes of the request: one token for each byte, composed or not."""
    environment = Environment(autoescape=False)  # noqa: S701 - a prompt is no web page
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, indent=indent)
    text = environment.from_string(TEMPLATE).render(messages=request.messages, tools=request.extra.get("tools"))
    return max(len(form.encode()) for form in (text, unicodedata.normalize("NFC", text)))


texts = st.text(st.characters(exclude_categories=["Cs"]))
messages = st.builds(
    Message,
    st.sampled_from(["system", "user", "assistant", "tool"]),
    st.lists(texts.map(TextPart)).map(tuple),
    tool_calls=st.lists(st.builds(ToolCall, texts, texts, texts)).map(tuple),
)
schemas = st.recursive(
    texts, lambda inner: st.dictionaries(texts, inner, max_size=3) | st.lists(inner, max_size=3), max_leaves=8
)


@settings(deadline=None)
@example(messages=(Message("assistant", (), tool_calls=(ToolCall("", "", ""),) * 100),), tools=[])
@example(messages=(Message("assistant", ()),) * 500, tools=[])
@given(messages=st.lists(messages, max_size=5).map(tuple), tools=st.lists(schemas, max_size=3))
def test_the_bound_is_never_below_the_bytes_a_template_prints(messages, tools):
    """Any texts, tool calls and tools: the bound is at least one token for every byte of the rendered prompt."""
    request = call(messages=messages, extra={"tools": tools} if tools else {}).request
    assert bytes_in_template(request) <= upper_bound_prompt_tokens(request)


def test_a_character_that_grows_when_composed_is_counted_at_its_longest():
    """NFC turns U+1D160 from 4 bytes into 12; a tokenizer that normalises sees the 12."""
    short, grown = call("x" * 4).request, call("\U0001d160").request
    assert 8 == upper_bound_prompt_tokens(grown) - upper_bound_prompt_tokens(short)


def test_json_arguments_count_as_text_or_as_object_whichever_is_longer():
    """A template prints arguments as a string with its quotes escaped, or parsed and indented."""
    object_like = Message("assistant", (), tool_calls=(ToolCall("i", "f", '{"a":[1,2,3]}'),))
    request = call(messages=(object_like,)).request
    assert upper_bound_prompt_tokens(request) >= len(json.dumps({"a": [1, 2, 3]}, indent=4))


@pytest.mark.parametrize("detail", [None, "low", "high"])
def test_an_image_counts_as_the_dearest_known(detail):
    """Servers may ignore `detail`, so it does not lower the bound."""
    plain, shown = Message("user", ()), Message("user", (ImagePart("data:image/png;base64,AA", detail),))
    difference = upper_bound_prompt_tokens(call(messages=(shown,)).request) - upper_bound_prompt_tokens(
        call(messages=(plain,)).request
    )
    assert IMAGE_TOKENS == difference


@pytest.mark.parametrize("kind", ["input_audio", "file"])
def test_what_has_no_bound_has_none(kind):
    """A file of a hundred bytes may be a hundred pages: no number would be honest."""
    part = OtherPart(kind, {"type": kind})
    assert upper_bound_prompt_tokens(call(messages=(user("hi"), Message("user", (part,)))).request) is None


def test_arguments_that_are_no_json_or_too_deep_are_still_bounded():
    """A model's broken arguments in the history do not break the estimate."""
    for arguments in ("{", "[" * 100_000):
        request = call(messages=(Message("assistant", (), tool_calls=(ToolCall("i", "f", arguments),)),)).request
        assert upper_bound_prompt_tokens(request) >= len(arguments)
