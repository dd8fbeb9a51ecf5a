"""How does a conversation look to a chat template? Roles, calls and results in the shapes templates expect."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TypeAlias

from hybrid.engine.formats.formats import MISTRAL, MISTRAL_ARGS, Wording
from hybrid.engine.formats.speech import Speech
from hybrid.types import Json, Message, ToolCall

TemplateMessage: TypeAlias = dict[str, object]
MISTRAL_ID_CHARS = 9
"""Mistral's templates refuse any other length, and characters that are neither letter nor digit."""


def template_messages(
    messages: Sequence[Message], speech: Speech, tools: Sequence[Json] = (), *, is_single: bool = False
) -> list[TemplateMessage]:
    """Give the conversation as this model's chat template takes it; they know `system`, not OpenAI's `developer`.

    A template that knows no tools gets them, the calls and the results as plain text.

    Args:
        tools: those the model may call, as in OpenAI's chat completions. is_single: no more than one call a turn.
    """
    names = {call.id: call.name for message in messages for call in message.tool_calls}
    if speech.knows_tools:
        shown = _one_by_one(messages) if speech.is_single_call else iter(messages)
        return [_native(message, names, speech) for message in shown]
    plain = _plain(messages, names, speech.format.wording)
    if tools:
        _add_system(plain, instruction(tools, speech.format.wording, is_single=is_single or speech.is_single_call))
    return plain


def instruction(tools: Sequence[Json], wording: Wording, *, is_single: bool) -> str:
    """Teach a model, whose template knows no tools, which there are and how to call one."""
    example = wording.opening + wording.call("NAME", "{ARGUMENTS}") + wording.closing
    several = "Call one function at a time." if is_single else "To call several, write one call a line."
    lines = [
        "You can call functions. To call one, answer with nothing but the call, in this form:",
        example,
        f"{several} If no function helps, answer in plain text. These are the functions, with the JSON Schema of "
        "their arguments:",
        *(json.dumps(tool["function"], ensure_ascii=False) for tool in tools),
    ]
    return "\n".join(lines)


def _native(message: Message, names: dict[str, str], speech: Speech) -> TemplateMessage:
    """Give one message for a template that renders tools itself."""
    shown: TemplateMessage = {"role": _role(message), "content": message.text}
    if message.name is not None:
        shown["name"] = message.name
    if message.tool_calls:
        shown["tool_calls"] = [
            {"id": _call_id(call.id, speech), "type": "function", "function": _function(call)}
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        shown["tool_call_id"] = _call_id(message.tool_call_id, speech)
        shown["name"] = names.get(message.tool_call_id, message.name or "")
    return shown


def _role(message: Message) -> str:
    return "system" if message.role == "developer" else message.role


def _function(call: ToolCall) -> dict[str, Json]:
    """Give a call's name and its arguments as an object: templates write them with `tojson`."""
    try:
        arguments = json.loads(call.arguments or "{}")
    except (ValueError, RecursionError):
        arguments = call.arguments
    return {"name": call.name, "arguments": arguments}


def _call_id(call_id: str, speech: Speech) -> str:
    is_short = len(call_id) == MISTRAL_ID_CHARS and call_id.isalnum()
    if is_short or speech.format not in (MISTRAL, MISTRAL_ARGS):
        return call_id
    return hashlib.sha256(call_id.encode("utf-8", "replace")).hexdigest()[:MISTRAL_ID_CHARS]


def _one_by_one(messages: Sequence[Message]) -> Iterator[Message]:
    """Spread parallel calls over turns, each followed by its result, for templates that take one call a turn."""
    given: list[Message] = []  # results that stand behind their calls already
    for at, message in enumerate(messages):
        if any(message is result for result in given):
            continue
        if len(message.tool_calls) < 2:
            yield message
            continue
        following = list(_results(messages[at + 1 :]))
        given = []
        for index, call in enumerate(message.tool_calls):
            yield replace(message, parts=message.parts if index == 0 else (), tool_calls=(call,))
            own = [result for result in following if result.tool_call_id == call.id]
            yield from own
            given += own


def _results(messages: Iterable[Message]) -> Iterator[Message]:
    for message in messages:
        if message.role != "tool":
            return
        yield message


def _plain(messages: Sequence[Message], names: dict[str, str], wording: Wording) -> list[TemplateMessage]:
    """Write calls and results as text: many templates know only system, user and assistant, taking turns."""
    plain: list[TemplateMessage] = []
    is_result = False
    for message in messages:
        content = _plain_text(message, names, wording)
        if message.role == "tool" and is_result:
            plain[-1]["content"] = f"{plain[-1]['content']}\n{content}"
        else:
            plain.append({"role": "user" if message.role == "tool" else _role(message), "content": content})
        is_result = message.role == "tool"
    return plain


def _plain_text(message: Message, names: dict[str, str], wording: Wording) -> str:
    if message.role == "tool":
        return f"Result of {names.get(message.tool_call_id or '', message.name or 'the call')}: {message.text}"
    if not message.tool_calls:
        return message.text
    calls = [wording.call(call.name, call.arguments or "{}") for call in message.tool_calls]
    if wording.is_list:
        said = wording.opening + wording.joint.join(calls) + wording.closing
    else:
        said = wording.joint.join(wording.opening + call + wording.closing for call in calls)
    return f"{message.text}\n{said}" if message.text else said


def _add_system(messages: list[TemplateMessage], text: str) -> None:
    if messages and messages[0]["role"] == "system":
        messages[0]["content"] = f"{messages[0]['content']}\n\n{text}"
    else:
        messages.insert(0, {"role": "system", "content": text})
