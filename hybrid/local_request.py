"""What does a chat request ask of the local model? Its prompt, what it may say, and who listens to it."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from hybrid.engine.checker import Checker
from hybrid.engine.formats.conversation import TemplateMessage, template_messages
from hybrid.engine.formats.grammar import NO_PARAMETERS, ToolGrammar
from hybrid.engine.formats.listen import Listener
from hybrid.engine.formats.speech import SWITCH, Speech
from hybrid.engine.formats.thinking import Thinking
from hybrid.engine.frames import JSON_DOCUMENT, Grammar, Ready, Submit
from hybrid.engine.supervisor import Supervisor
from hybrid.errors import InvalidRequest
from hybrid.ids import new_id
from hybrid.policy.tasks import options_in
from hybrid.structured import AnswerFormat, answer_format
from hybrid.types import Capability, ChatRequest, Json, Priority, Sampling, ToolCall

_T = TypeVar("_T")

GREEDY = Sampling(
    temperature=0.0,
    top_k=0,
    top_p=1.0,
    min_p=0.0,
    seed=1,
    presence_penalty=0.0,
    frequency_penalty=0.0,
    repetition_penalty=1.0,
)
"""The likeliest token each time: how the answers are drawn that calibrations are made of."""
EFFORT_TOKENS: Mapping[str, int] = {"none": 0, "minimal": 128, "low": 512, "medium": 2048}
"""The most thinking an effort allows; a higher effort is bounded by the configuration alone."""
PATIENCE_S: Mapping[Priority, float] = {Priority.HIGH: 10.0, Priority.NORMAL: 60.0, Priority.LOW: 300.0}
"""A request without a deadline is due so long after its arrival: urgent ones pass it, but not for ever."""
ALWAYS = frozenset(
    {
        Capability.TOOLS,
        Capability.STRUCTURED_OUTPUT,
        Capability.LOGPROBS,
        Capability.LOGIT_BIAS,
        Capability.MULTIPLE_CHOICES,
    }
)
"""What any loaded model can do."""
THOUGHTLESS = ("none", "minimal")
"""Efforts at which a model that can answer without thinking does so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalRequest:
    """One request in the terms of the loaded model.

    facts: None while no model is loaded. max_reasoning_tokens: the configured bound on thinking; None is none.
    """

    request: ChatRequest
    facts: Ready | None
    max_reasoning_tokens: int | None = None

    @property
    def _speech(self) -> Speech:
        return self.facts.speech if self.facts is not None else Speech()

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What the loaded model can do besides plain chat. How hard to think can be told only to one that thinks."""
        thinks = self._speech.thinking is not None or self._effort == "none"
        return ALWAYS | {Capability.REASONING_EFFORT} if thinks else ALWAYS

    # ---- the prompt

    @property
    def messages(self) -> list[TemplateMessage]:
        """The conversation as the model's chat template takes it."""
        return template_messages(self.request.messages, self._speech, self._offered, is_single=self._is_single)

    @property
    def tools(self) -> Sequence[Json] | None:
        """The tools for the template to render; None where it knows none, or none may be called."""
        return self._offered or None if self._speech.knows_tools else None

    @property
    def variables(self) -> dict[str, bool | str]:
        """Variables of the template: whether and how hard to think, where the client says so."""
        if self._effort is None:
            return {}
        variables: dict[str, bool | str] = {"reasoning_effort": self._effort}
        if self._speech.can_stop_thinking:
            variables[SWITCH] = self._effort not in THOUGHTLESS
        return variables

    async def prepare(self, local: Supervisor, request_id: str) -> int:
        """Have the worker render and tokenize the prompt; return its tokens.

        Raises: InvalidRequest if the chat template refuses it, LocalError if the worker cannot.
        """
        return await local.prepare(request_id, self.messages, tools=self.tools, variables=self.variables)

    async def check(self, checker: Checker, *, is_thinking: bool) -> None:
        """See that the model can do exactly what is asked, before anything waits for it.

        Raises: InvalidRequest naming the parameter, LocalFailure if it could not be found out.
        """
        self._check_bias()
        wanted = self.answer_format
        if wanted is not None:
            await checker.check(wanted.grammar, param=wanted.param)
            if wanted.schema is None and (self._offered or self._speech.thinking is not None):
                with_what = "tools" if self._offered else "a model that thinks"
                raise InvalidRequest(f"a grammar cannot be combined with {with_what}", param="response_format")
        grammar = self.grammar(is_thinking=is_thinking)
        if grammar is not None:
            await checker.check(grammar, param="tools" if self._offered else "response_format")

    def _check_bias(self) -> None:
        count = self.facts.vocab_tokens if self.facts is not None else 0
        for token in self.logit_bias:
            if token >= count:
                what = f"logit_bias names token {token}; {self._name} has {count} tokens, from 0 to {count - 1}"
                raise InvalidRequest(what, param="logit_bias", code="invalid_value")

    @property
    def _name(self) -> str:
        return self.facts.name if self.facts is not None else "the local model"

    # ---- the answer

    @property
    def choices(self) -> int:
        """How many answers the client wants."""
        count: int = self.request.extra.get("n", 1)
        return count

    @property
    def shown(self) -> list[str]:
        """Control tokens whose text the listener must see."""
        thinking = self._speech.thinking or ()
        return list(self._speech.markers if self._offered else thinking)

    @property
    def answer_format(self) -> AnswerFormat | None:
        """What the answer must be, where the client says so."""
        return answer_format(self.request.extra)

    @property
    def logit_bias(self) -> dict[int, float]:
        """What the client adds to the logits of which tokens, by the local model's numbers for them."""
        by_name: Mapping[str, float] = self.request.extra.get("logit_bias") or {}
        return {int(token): float(bias) for token, bias in by_name.items()}

    @property
    def top_logprobs(self) -> int | None:
        """How many alternatives the client wants told at each token; None if it wants no log-probabilities."""
        count: int | None = self.request.extra.get("top_logprobs", 0) if self.request.extra.get("logprobs") else None
        return count

    @property
    def options(self) -> list[str]:
        """Letters of the options the question ends with, whose likelihoods are wanted; none where it offers none."""
        turns = [message.text for message in self.request.messages if message.role == "user"]
        return list(options_in(turns[-1])) if turns else []

    def submit(
        self,
        request_id: str,
        *,
        defaults: Sampling,
        max_output_tokens: int,
        is_thinking: bool,
        deadline_s: float | None = None,
        adapter: int | None = None,
    ) -> Submit:
        """Write the order to generate.

        defaults: hold where the client gives no sampling; no field of it is None.
        is_thinking: the model thinks first, so that its first token is no answer.
        """
        given = self.request.sampling
        return Submit(
            id=request_id,
            max_output_tokens=max_output_tokens,
            temperature=_either(given.temperature, defaults.temperature),
            top_k=_either(given.top_k, defaults.top_k),
            top_p=_either(given.top_p, defaults.top_p),
            min_p=_either(given.min_p, defaults.min_p),
            presence_penalty=_either(given.presence_penalty, defaults.presence_penalty),
            frequency_penalty=_either(given.frequency_penalty, defaults.frequency_penalty),
            repetition_penalty=_either(given.repetition_penalty, defaults.repetition_penalty),
            seed=given.seed if given.seed is not None else secrets.randbits(64),
            stop=list(self.request.stop),
            shown=self.shown,
            logit_bias=self.logit_bias,
            top_logprobs=self.top_logprobs,
            grammar=self.grammar(is_thinking=is_thinking),
            isolation=self.request.client_key or "",
            deadline_s=deadline_s,
            patience_s=PATIENCE_S[self.request.priority],
            choices=self.choices,
            adapter=adapter,
            options=[] if is_thinking else self.options,
            is_thinking=is_thinking,
        )

    def grammar(self, *, is_thinking: bool) -> Grammar | None:
        """Write what the model may say; None where it may say anything.

        Args:
            is_thinking: the prompt has opened the model's thinking.
        """
        bound, wanted = self._thinking_tokens, self.answer_format
        if not self._offered and bound is None and (wanted is None or self._speech.thinking is None):
            return None if wanted is None else wanted.grammar
        allowed = self._allowed
        grammar = ToolGrammar(
            speech=self._speech,
            tools=[(name, tool["function"].get("parameters") or {}) for name, tool in allowed.items()],
            strict=frozenset(name for name, tool in allowed.items() if tool["function"].get("strict")),
            markers=self.facts.markers if self.facts is not None else {},
            is_required=self._is_required,
            is_single=self._is_single or self._speech.is_single_call,
            is_thinking=is_thinking,
            thinking_tokens=bound,
            answer_schema=None if wanted is None else wanted.schema,
        )
        return Grammar("lark", grammar.lark())

    def listener(self, *, is_thinking: bool) -> Listener:
        """Give who tells thinking, answer and calls apart."""
        speech, names = self._speech, frozenset(self._allowed)
        return Listener(
            thinking=Thinking(*speech.thinking, is_open=is_thinking) if speech.thinking is not None else None,
            scanner=speech.format.scanner(names, _new_call_id) if names else None,
        )

    async def fault_of_calls(self, checker: Checker, calls: Sequence[ToolCall]) -> str | None:
        """Say what is wrong with the arguments of finished calls; None if all keep to the schemas of their tools.

        Most calls are made under a grammar. This finds those that came without the markers that begin it.
        """
        allowed = self._allowed
        for call in calls:
            schema = allowed[call.name]["function"].get("parameters") or NO_PARAMETERS
            fault = await checker.fault_of(call.arguments, Grammar(JSON_DOCUMENT, msgspec.json.encode(schema).decode()))
            if fault is not None:
                return f"the arguments of the call of {call.name}: {fault}"
        return None

    # ---- what the client chose

    @property
    def _effort(self) -> str | None:
        effort: str | None = self.request.extra.get("reasoning_effort")
        return effort

    @property
    def _thinking_tokens(self) -> int | None:
        """The bound on thinking; None for a model that does not think, or may as long as it likes."""
        bounds = [self.max_reasoning_tokens, EFFORT_TOKENS.get(self._effort or "")]
        given = [bound for bound in bounds if bound is not None]
        return max(1, min(given)) if given and self._speech.thinking is not None else None

    @property
    def _offered(self) -> Sequence[Json]:
        """The tools the model is told of: all, unless the client forbids calls."""
        if self.request.extra.get("tool_choice") == "none":
            return ()
        tools: Sequence[Json] = self.request.extra.get("tools") or ()
        return tools

    @property
    def _allowed(self) -> dict[str, Json]:
        """The tools that may be called, by name: a client may tell of more than it allows."""
        tools = {tool["function"]["name"]: tool for tool in self._offered}
        choice = self.request.extra.get("tool_choice")
        if not isinstance(choice, Mapping):
            return tools
        if choice["type"] == "function":
            names = {choice["function"]["name"]}
        else:
            names = {tool.get("function", tool).get("name") for tool in choice["allowed_tools"]["tools"]}
        return {name: tool for name, tool in tools.items() if name in names}

    @property
    def _is_required(self) -> bool:
        choice = self.request.extra.get("tool_choice")
        if isinstance(choice, Mapping):
            return bool(choice["type"] == "function" or choice["allowed_tools"]["mode"] == "required")
        return bool(choice == "required")

    @property
    def _is_single(self) -> bool:
        choice = self.request.extra.get("tool_choice")
        is_named = isinstance(choice, Mapping) and choice["type"] == "function"
        return is_named or self.request.extra.get("parallel_tool_calls") is False


def _new_call_id() -> str:
    return new_id("call_")


def _either(mine: _T | None, fallback: _T | None) -> _T:
    value = fallback if mine is None else mine
    assert value is not None
    return value
