"""Does `parse` take a choice among the tools that were described, and no other?"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from hybrid.errors import InvalidRequest
from hybrid.server.openai_chat import parse
from hybrid.types import Json

FUNCTION = {"name": "now", "description": "the time", "parameters": {"type": "object", "properties": {}}}


def allowing(*tools: Json) -> Json:
    """A choice that demands a call of one of these."""
    return {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": list(tools)}}


def chosen(choice: Json) -> Any:
    """What becomes of a choice in a request with one tool, `now`."""
    tools = [{"type": "function", "function": FUNCTION}]
    fields = {"model": "hybrid", "messages": [{"role": "user", "content": "Hi"}], "tools": tools, "tool_choice": choice}
    return parse(msgspec.json.encode(fields), []).extra["tool_choice"]


@pytest.mark.parametrize(
    "tool",
    [
        pytest.param({"type": "function", "function": {"name": "now"}}, id="name"),
        pytest.param({"type": "function", "function": FUNCTION}, id="whole-description"),
        pytest.param({"type": "function", "name": "now"}, id="flat"),
    ],
)
def test_an_allowed_tool(tool: Json):
    """Tools may be allowed by their name, however it is written."""
    assert allowing(tool) == chosen(allowing(tool))


@pytest.mark.parametrize(
    "choice",
    [
        pytest.param({"type": "function", "function": {"name": "later"}}, id="named"),
        pytest.param(allowing({"type": "function", "function": {"name": "later"}}), id="allowed"),
        pytest.param(
            allowing({"type": "function", "function": FUNCTION}, {"type": "function", "name": "later"}), id="one-of-two"
        ),
        pytest.param(allowing({"type": "function", "function": {"name": ["now"]}}), id="no-text"),
        pytest.param(allowing({"type": "function", "function": "now"}), id="no-object"),
        pytest.param(allowing({}), id="nothing"),
    ],
)
def test_a_tool_that_nobody_described(choice: Json):
    """A choice of a tool that is not among `tools` is a 400 that names the field: nobody could keep to it."""
    with pytest.raises(InvalidRequest) as caught:
        chosen(choice)

    assert ("tool_choice", "invalid_value") == (caught.value.param, caught.value.code)
