"""How do messages become the prompt this model was trained on? Its own template, in a sandbox with limits."""

from __future__ import annotations

import datetime as dt
import json
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from hybrid.errors import InvalidRequest, LocalFailure, ModelFileError

RENDER_TIMEOUT_S = 2.0
MAX_RENDERED_CHARS = 16 << 20
MAX_TEMPLATE_CHARS = 1 << 20
FALLBACK_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""ChatML, for a GGUF that carries no template of its own."""


class ChatTemplate:
    """A compiled chat template. A template is code from a stranger: it runs in Jinja2's immutable sandbox.

    Raises: ModelFileError if the template is too large or does not compile.
    """

    def __init__(self, source: str | None, *, bos_text: str, eos_text: str) -> None:
        source = source or FALLBACK_TEMPLATE
        if len(source) > MAX_TEMPLATE_CHARS:
            raise ModelFileError(f"the chat template has {len(source)} characters; {MAX_TEMPLATE_CHARS} are allowed")
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = _strftime_now
        environment.filters["tojson"] = _to_json
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as broken:
            raise ModelFileError(f"the chat template of this model does not compile: {broken}") from broken
        self._specials = {"bos_token": bos_text, "eos_token": eos_text}

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """Render a conversation with the assistant's turn opened.

        Args:
            tools: as in OpenAI's chat completions, for templates that know them. variables: of this template.
        Raises: InvalidRequest if the template refuses the conversation (roles out of order, ...), in its own words.
            LocalFailure if it runs longer than 2 s, makes more than 16 Mi characters, or is broken.
        """
        inputs = {**(variables or {}), **self._specials, "messages": messages, "tools": tools or None}
        inputs["add_generation_prompt"] = True
        pieces: list[str] = []
        size = 0
        try:
            with _time_limit(RENDER_TIMEOUT_S):
                for piece in self._template.generate(**inputs):
                    size += len(piece)
                    if size > MAX_RENDERED_CHARS:
                        raise LocalFailure(f"the chat template makes more than {MAX_RENDERED_CHARS} characters")
                    pieces.append(piece)
        except _Refused as refused:
            raise InvalidRequest(
                f"the model's chat template refuses this conversation: {refused}", param="messages"
            ) from refused
        except (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as broken:
            raise LocalFailure(f"the model's chat template failed: {type(broken).__name__}: {broken}") from broken
        except (TimeoutError, MemoryError, RecursionError) as endless:
            raise LocalFailure(f"the model's chat template did not end within {RENDER_TIMEOUT_S:g} s") from endless
        return "".join(pieces)


class _Refused(Exception):
    """The template called raise_exception."""


def _refuse(message: str) -> NoReturn:
    raise _Refused(message)


def _to_json(value: Any, indent: int | None = None, **options: Any) -> str:
    """Write JSON as the templates were written for: keys in their order, nothing escaped for HTML.

    Source: the filter of the same name in Hugging Face transformers, which every template was tested with.
    """
    options = {name: options[name] for name in ("separators", "sort_keys", "ensure_ascii") if name in options}
    return json.dumps(value, indent=indent, **{"ensure_ascii": False, **options})


def _strftime_now(pattern: str) -> str:
    return dt.datetime.now().astimezone().strftime(pattern)


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Interrupt pure-Python work after `seconds`. Only the main thread can be interrupted by a signal.

    A template can loop for hours without calling anything of ours, so a deadline that is merely looked at
    now and then would not do. The worker renders in its main thread for this reason.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def expire(_signal: int, _frame: FrameType | None) -> NoReturn:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
